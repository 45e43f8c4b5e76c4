# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What all simulated files share: marks of their origin, reserved identifiers, whole files, pixels of the sky."""

import gzip

import numpy as np
from astropy.io import fits

from ...output import atomic_path
from ...provenance import Provenance, check_file_name

__all__ = [
    "BRICKID",
    "MOCK_BIT",
    "RELEASE",
    "brick_name",
    "healpix_nested",
    "is_simulated_targetid",
    "provenance",
    "simulated_targetid",
    "table_hdu",
    "write_hdus",
]

#: DESI's TARGETID has a bit that says "this target is a mock target" (desitarget's ``targetid_mask``: OBJID 0-21,
#: BRICKID 22-41, RELEASE 42-57, MOCK 58, SKY 59, GAIADR 60-61). No released spectrum has it set.
MOCK_BIT, SKY_BIT = 58, 59
#: Data release of simulated objects; those of the Legacy Surveys are 4 to 5 digits from 4000 to about 10,000.
RELEASE = 32000
#: First brick number of simulated objects: the sky has 662,174 bricks, the field in TARGETID ends at 1,048,575.
BRICKID = 1_000_000
BRICKS = 48_576
FIBERS = 8  # of one galaxy that have a number
OBJECTS = 1 << 22


def simulated_targetid(seed, galaxy, number=0, *, sky=False):
    """TARGETID in the range that is reserved for mock targets.

    Decoded as DESI's it gives RELEASE 32000, BRICKID 1,000,000 + seed modulo 48,576 and OBJID 8 galaxy + number.

    Parameters
    ----------
    seed : int
    galaxy, number : array_like of int
        Number of the galaxy within the seed, below 524,288, and of the fibre on that galaxy, below 8.
    sky : array_like of bool
        Sky fibres have a bit of their own, too.

    Returns
    -------
    ndarray of int64
    """
    galaxy, number = np.asarray(galaxy, np.int64), np.asarray(number, np.int64)
    objid = FIBERS * galaxy + number
    if np.any(galaxy < 0) or np.any(number < 0) or np.any(number >= FIBERS) or np.any(objid >= OBJECTS):
        raise ValueError(
            f"galaxy is {galaxy}, number {number}: there are identifiers for galaxies 0 to {OBJECTS // FIBERS - 1}, "
            f"with fibres 0 to {FIBERS - 1} each; take another seed for more"
        )
    brick = BRICKID + int(seed) % BRICKS
    base = (1 << MOCK_BIT) | (RELEASE << 42) | (brick << 22)
    return base + objid + np.where(sky, np.int64(1) << SKY_BIT, np.int64(0))


def is_simulated_targetid(targetid):
    """Whether DESI's mock bit is set (bool, as the shape of ``targetid``); negative ones are fibres without target."""
    targetid = np.asarray(targetid, np.int64)
    return (targetid >= 0) & ((targetid >> MOCK_BIT) & 1 == 1)


def brick_name(galaxy):
    """Name of the brick of one galaxy: "sim" and five digits of base 36; real ones are as "0591m305"."""
    galaxy, digits = int(galaxy), ""
    if not 0 <= galaxy < 36**5:
        raise ValueError(f"galaxy is {galaxy}; a number from 0 to {36**5 - 1} has a brick name")
    for _ in range(5):
        galaxy, digit = divmod(galaxy, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"sim{digits}"


def provenance(seed, **keywords):
    """`~fiberifu.provenance.Provenance` of a simulated file; keywords are its fields."""
    if keywords.get("redshift") is not None:
        keywords.setdefault("redshift_source", "simulation")
    return Provenance(datatype="SIMULATED", model_id="fiberifu.simulate", seed=seed, **keywords)


def write_hdus(hdus, path, marks):
    """Write HDUs, each with its marks of origin, under a name that says ``sim``; the file is whole or absent.

    Parameters
    ----------
    hdus : list of HDU
    path : path-like
        Ending in ``.gz`` for a compressed file.  An existing one is replaced.
    marks : `~fiberifu.provenance.Provenance`
    """
    check_file_name(path, "SIMULATED")
    for hdu in hdus:
        marks.to_header(hdu.header)
    hdus = fits.HDUList(hdus)
    with atomic_path(path) as temporary:
        if temporary.suffix == ".gz":
            # the name and the time inside would make equal data unequal files; noise does not compress further
            with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file:
                hdus.writeto(file, checksum=True)
        else:
            hdus.writeto(temporary, checksum=True)


def table_hdu(layout, values, rows, name, units=None):
    """A binary table in a given layout.

    Parameters
    ----------
    layout : str
        ``"NAME:FORMAT NAME:FORMAT ..."`` with FITS formats, in the order of the survey's file.
    values : dict of str to array_like
        Of some columns; the others are 0, False or blank.
    rows : int
    name : str
    units : dict of str to str, optional

    Returns
    -------
    `~astropy.io.fits.BinTableHDU`
    """
    columns, known = [], set()
    for item in layout.split():
        column, form = item.split(":")
        known.add(column)
        kind = form[-1]
        repeat = int(form[:-1] or 1)
        dtype = {"A": f"U{repeat}", "B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8", "L": "?"}[kind]
        shape = (rows,) if kind == "A" or repeat == 1 else (rows, repeat)
        array = np.zeros(shape, dtype)
        if column in values:
            array[...] = np.asarray(values[column]).astype(dtype)
        columns.append(fits.Column(column, form, array=array, unit=(units or {}).get(column)))
    if extra := set(values) - known:
        raise ValueError(f"values has {', '.join(sorted(extra))}, which the layout of {name} has not")
    return fits.BinTableHDU.from_columns(columns, name=name)


def healpix_nested(ra, dec, nside=64):
    """Number of the HEALPix pixel, nested (Gorski et al. 2005, ApJ 622, 759, sections 4 and 5); DESI's nside is 64.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.
    nside : int
        A power of two.

    Returns
    -------
    ndarray of int64
    """
    z = np.sin(np.radians(np.asarray(dec, float)))
    quarter = np.mod(np.asarray(ra, float), 360.0) / 90.0  # in [0, 4)
    # between the polar caps: counted along lines that rise and that fall
    rising = np.floor(nside * (0.5 + quarter - 0.75 * z)).astype(np.int64)
    falling = np.floor(nside * (0.5 + quarter + 0.75 * z)).astype(np.int64)
    a, b = rising // nside, falling // nside
    face = np.where(a == b, a | 4, np.where(a < b, a, b + 8))
    x, y = falling % nside, nside - 1 - rising % nside
    # in the caps
    sector = np.minimum(quarter.astype(np.int64), 3)
    width = nside * np.sqrt(3 * np.clip(1 - np.abs(z), 0, None))
    u = np.clip(((quarter - sector) * width).astype(np.int64), 0, nside - 1)
    v = np.clip(((1 - quarter + sector) * width).astype(np.int64), 0, nside - 1)
    north, south = z > 2 / 3, z < -2 / 3
    face = np.where(north, sector, np.where(south, sector + 8, face))
    x = np.where(north, nside - 1 - v, np.where(south, u, x))
    y = np.where(north, nside - 1 - u, np.where(south, v, y))
    pixel = face * nside * nside
    for bit in range(nside.bit_length() - 1):
        pixel = pixel + ((x >> bit & 1) << 2 * bit) + ((y >> bit & 1) << 2 * bit + 1)
    return pixel
