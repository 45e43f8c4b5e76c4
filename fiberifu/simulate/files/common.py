# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What all simulated files share: marks of their origin, whole files, pixels of the sky."""

import gzip
from contextlib import contextmanager

import numpy as np
from astropy.io import fits

from ...output import atomic_path
from ...provenance import Provenance, check_file_name
from ..identifiers import torch_version

__all__ = ["compressed", "healpix_nested", "provenance", "sersic_index", "table_hdu", "write_hdus"]


def provenance(seed, pack_sha256=None, **keywords):
    """`~fiberifu.provenance.Provenance` of a simulated file.

    Parameters
    ----------
    seed : int
    pack_sha256 : str, optional
        Of the template pack, for the card PACKSHA; TORCHV has the version of PyTorch.
    **keywords
        Further fields.
    """
    extra = {"TORCHV": torch_version()} | ({"PACKSHA": str(pack_sha256)} if pack_sha256 else {})
    keywords["extra"] = extra | keywords.get("extra", {})
    if keywords.get("redshift") is not None:
        keywords.setdefault("redshift_source", "simulation")
    return Provenance(datatype="SIMULATED", model_id="fiberifu.simulate", seed=seed, **keywords)


@contextmanager
def compressed(path):
    """A gzip file to write to, without the name and the time inside: equal data give equal files."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file:
        yield file  # level 1: noise does not compress further


def write_hdus(hdus, path, marks, *, overwrite=True):
    """Write HDUs, each with its marks of origin, under a name that says ``sim``; the file is whole or absent.

    Parameters
    ----------
    hdus : list of HDU
    path : path-like
        Ending in ``.gz`` for a compressed file.
    marks : `~fiberifu.provenance.Provenance`
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        Without ``overwrite``.
    """
    check_file_name(path, "SIMULATED")
    for hdu in hdus:
        marks.to_header(hdu.header)
    hdus = fits.HDUList(hdus)
    with atomic_path(path, overwrite=overwrite) as temporary:
        if temporary.suffix == ".gz":
            with compressed(temporary) as file:
                hdus.writeto(file)
        else:
            hdus.writeto(temporary)  # no checksums: their cards hold the time, and a seed should reproduce


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


def sersic_index(morphology):
    """SERSIC (F,) that the Tractor gives to a type: 4 for DEV, 1 for EXP and REX, 0 for point sources and sky."""
    kind = np.char.strip(np.asarray(morphology).astype(str))
    return np.where(kind == "DEV", 4.0, np.where(np.isin(kind, ("EXP", "REX")), 1.0, 0.0))


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
