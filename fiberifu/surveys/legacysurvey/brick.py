# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Coadds of bricks, ``legacysurvey-BRICK-{image,invvar,psfsize}-BAND.fits.fz`` and ``-maskbits``: a field cut out of
them.

``folder -> BrickIndex -> bricks on a field -> sections of their files -> {band: CCDData}``

A brick has 3600 pixels of 0.262 arcsec on a side and overlaps its neighbours by about 40 arcsec. A field that one brick
holds is copied from it, pixel by pixel; what of a larger one lies beyond is taken from the neighbours, resampled.
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy.ndimage import map_coordinates

from fiberifu.provenance import is_predicted
from fiberifu.surveys._checks import first_image, of_one_shape, reading, sky_wcs
from fiberifu.surveys._sky import one_angle, one_position
from fiberifu.surveys.legacysurvey.cutout import band_ccd

__all__ = ["BrickIndex", "read_legacysurvey_brick"]

_NAME = re.compile(
    r"legacysurvey-(?P<brick>[^-]+)-(?P<kind>image|invvar|psfsize|maskbits)(?:-(?P<band>\w+))?\.fits(?:\.fz|\.gz)?"
)
_HALF = 1800 * 0.262 / 3600  # degrees, half the side of the survey's bricks
_WHAT = "a coadd of the Legacy Surveys"
_LARGEST = 8000  # pixels on a side of a field


class BrickIndex:
    """Which bricks a folder has, and where they are on the sky.

    Parameters
    ----------
    folder : path-like
        A brick's folder, or any above it, such as the ``coadd`` of a data release.
    table : path-like, optional
        The survey's ``survey-bricks.fits.gz``. With it no folder is searched and no header read before a brick is
        wanted, which a whole data release needs; without, every brick in the folder is looked at once.

    Attributes
    ----------
    names : list of str
    centers : `~astropy.coordinates.SkyCoord`
        Of the bricks.

    Raises
    ------
    FileNotFoundError
        If the folder or the table does not exist, or the folder has no brick.
    ValueError
        If a file cannot be read.
    """

    def __init__(self, folder, *, table=None):
        self.folder = Path(os.fspath(folder))
        if not self.folder.is_dir():
            raise FileNotFoundError(f"folder is {str(folder)!r}: there is no such folder")
        self._files = {}
        if table is None:
            self._look()
        else:
            self.names, self.centers = _read_bricks(table)
            self._half = np.full((len(self.names), 2), _HALF)

    def _look(self):
        for path in sorted(self.folder.rglob("legacysurvey-*.fits*")):
            _sort_in(self._files, path)
        self._files = {name: files for name, files in self._files.items() if any(kind == "image" for kind, _ in files)}
        if not self._files:
            raise FileNotFoundError(
                f"{self.folder}: no file such as legacysurvey-BRICK-image-r.fits.fz in it or in its folders"
            )
        self.names = list(self._files)
        centers, half = [], []
        for files in self._files.values():
            path = next(path for (kind, _), path in files.items() if kind == "image")
            with reading(path, _WHAT), fits.open(path, memmap=False) as hdus:
                hdu = first_image(path, hdus)
                wcs = sky_wcs(hdu.header, path)
                ny, nx = hdu.shape
                if min(ny, nx) < 1:
                    raise ValueError(f"{path}: its image has the shape {hdu.shape}; fetch it again")
                centers.append(wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs)
                half.append(proj_plane_pixel_scales(wcs) * [nx, ny] / 2)
        self.centers, self._half = SkyCoord(centers), np.array(half)

    def files(self, name):
        """Files of a brick: dict of (kind, band) to `~pathlib.Path`, band "" for ``maskbits``; empty without any."""
        if name not in self._files:
            self._files[name] = brick_files(self.folder, name)
        return self._files[name]

    def find(self, position, size=0 * u.arcsec):
        """Bricks on a square field, the one that has it deepest inside first.

        Parameters
        ----------
        position : `~astropy.coordinates.SkyCoord`
            One place, the middle of the field.
        size : `~astropy.units.Quantity`
            Side of the field.

        Returns
        -------
        list of str
            Empty where the index has none.
        """
        east, north = one_position(position).spherical_offsets_to(self.centers)
        apart = np.abs(np.stack([east.deg, north.deg], axis=1)) / (self._half + u.Quantity(size).to_value(u.deg) / 2)
        reach = apart.max(axis=1)
        depth = np.max(np.abs(np.stack([east.deg, north.deg], axis=1)) / self._half, axis=1)
        return [self.names[i] for i in np.argsort(depth, kind="stable") if reach[i] < 1]


def brick_files(folder, name):
    """Files of a brick below a folder, as `BrickIndex.files`; without looking at other bricks."""
    found = {}
    for place in (folder / "coadd" / name[:3] / name, folder / name[:3] / name, folder / name):
        for path in sorted(place.glob(f"legacysurvey-{name}-*.fits*")):
            _sort_in(found, path)
    return found.get(name, {})


def _sort_in(files, path):
    """Add a file to ``{brick: {(kind, band): path}}``, if it is one of a brick."""
    match = _NAME.fullmatch(path.name)
    if match:
        files.setdefault(match["brick"], {})[match["kind"], match["band"] or ""] = path


def read_legacysurvey_brick(folder, position=None, size=None, *, bands=None):
    """Read a field, or a whole brick, from coadds of the Legacy Surveys.

    Only the tiles of the compressed files that the field needs are read.

    Parameters
    ----------
    folder : path-like or `BrickIndex`
        Folder of one or more bricks. For many fields make the index once.
    position : `~astropy.coordinates.SkyCoord`, optional
        Middle of the field, to the nearest pixel; by default the whole of the folder's only brick.
    size : `~astropy.units.Quantity`, optional
        Side of the field, an angle.
    bands : sequence of str, optional
        All that the brick has by default.

    Returns
    -------
    dict of str to CCDData
        As by `read_legacysurvey`; ``meta["PSF_FWHM"]`` (arcsec) is the median of the PSF sizes on the field,
        ``meta["BRICKS"]`` the bricks that it is from. Pixels that no brick covers are masked.

    Raises
    ------
    FileNotFoundError
        If the folder has no brick.
    ValueError
        If no brick covers the position, a band is absent, or a file is damaged, predicted, or in another unit.

    Notes
    -----
    Nanomaggy, AB zero point 22.5, not corrected for Galactic extinction. Pixels are those of the brick that has the
    field deepest inside; what it lacks, or has without weight, is from the others. Beyond the first brick images are
    cubic splines and weights those of the nearest pixel: errors of neighbouring pixels are correlated there.
    """
    index = folder if isinstance(folder, BrickIndex) else BrickIndex(folder)
    if (position is None) != (size is None):
        raise ValueError("position and size belong together: give both, or none of them for a whole brick")
    if position is None and len(index.names) != 1:
        raise ValueError(f"{index.folder} has {len(index.names)} bricks; give position and size")
    if position is not None:
        position, size = one_position(position), one_angle(size, "size")
    names = index.names if position is None else [name for name in index.find(position, size) if index.files(name)]
    if not names:
        raise ValueError(f"position {position.to_string('decimal')}: no brick in {index.folder} covers it")
    found = sorted({band for kind, band in index.files(names[0]) if kind == "image"}, key=_order)
    bands = found if bands is None else list(bands)
    if missing := [band for band in bands if band not in found]:
        raise ValueError(f"bands: brick {names[0]} has {found}, not {missing}")
    with ExitStack() as stack:
        bricks = {name: BrickFiles(index.files(name), stack) for name in names}
        return {band: _field(bricks, band, position, size) for band in bands}


class BrickFiles:
    """Files of one brick, each opened when it is first wanted."""

    def __init__(self, files, stack):
        self.files, self._stack, self._open = files, stack, {}

    def path(self, kind, band):
        return self.files.get((kind, "" if kind == "maskbits" else band))

    def hdu(self, kind, band):
        """Primary header and image, or None."""
        path = self.path(kind, band)
        if path is None:
            return None
        if path not in self._open:
            with reading(path, _WHAT):
                hdus = self._stack.enter_context(fits.open(path, memmap=False))
                if any(is_predicted(hdu.header) for hdu in hdus):
                    raise ValueError(f"{path}: DATATYPE='PREDICTED', made by fiberifu; give an observed image")
                self._open[path] = hdus[0].header, first_image(path, hdus)
        return self._open[path]

    def section(self, kind, band, low, high, shape):
        """Part of an image of that shape, or None."""
        found, path = self.hdu(kind, band), self.path(kind, band)
        if found is None:
            return None
        with reading(path, _WHAT):
            of_one_shape(path, shape, **{kind: found[1]})
            return np.asarray(found[1].section[low[0] : high[0], low[1] : high[1]])


# ---------------------------------------------------------------- one band of a field
def _field(bricks, band, position, size):
    """Copy what the first brick has, then fill what is left, or has no weight, from the others."""
    first = next(iter(bricks.values()))
    path, (primary, hdu) = first.path("image", band), first.hdu("image", band)
    wcs = sky_wcs(hdu.header, path)
    with reading(path, _WHAT):
        start, shape = _box(wcs, hdu.shape, position, size, path)
    wcs.wcs.crpix = wcs.wcs.crpix - start[::-1]
    wcs.array_shape = shape
    field = {"image": np.full(shape, np.nan, np.float32)}
    for kind, dtype in (("invvar", np.float32), ("psfsize", np.float32), ("maskbits", np.int32)):
        if first.path(kind, band) is not None:
            field[kind] = np.zeros(shape, dtype)
    empty, used = np.ones(shape, bool), []
    for name, brick in bricks.items():
        rows, columns = np.nonzero(empty)
        if not len(rows) or brick.path("image", band) is None:
            continue
        if brick is first:
            x, y = columns + start[1], rows + start[0]
        else:
            x, y = sky_wcs(brick.hdu("image", band)[1].header, brick.path("image", band)).world_to_pixel(
                wcs.pixel_to_world(columns, rows)
            )
        inside, values = _take(brick, band, x, y, field)
        if inside.any():
            row, column = rows[inside], columns[inside]
            weighed = values["invvar"] > 0 if "invvar" in values else np.full(len(row), "invvar" not in field)
            better = weighed | np.isnan(field["image"][row, column])  # without weight only where there is nothing
            for kind, value in values.items():
                field[kind][row[better], column[better]] = value[better]
            empty[row[weighed], column[weighed]] = False
            if better.any():
                used.append(name)
    with reading(path, _WHAT):
        image, ivar, bits = (field.get(kind) for kind in ("image", "invvar", "maskbits"))
        ccd = band_ccd(band, path, image, hdu.header, primary, ivar, bits, wcs=wcs)
    if "psfsize" in field and (field["psfsize"] > 0).any():
        ccd.meta["PSF_FWHM"] = float(np.median(field["psfsize"][field["psfsize"] > 0]))
    ccd.meta["BRICKS"] = used
    return ccd


def _box(wcs, brick_shape, position, size, path):
    """First row and column of the field in the brick's pixels, which may be outside of it, and (ny, nx)."""
    if position is None:
        return np.zeros(2), brick_shape
    x, y = wcs.world_to_pixel(position)
    n = int(np.ceil(size.to_value(u.deg) / proj_plane_pixel_scales(wcs).mean() - 1e-6))
    if not (np.isfinite(x) and np.isfinite(y) and 1 <= n <= _LARGEST):
        raise ValueError(f"{path}: a field of {size} is {n} pixels; 1 to {_LARGEST} will do")
    return np.rint([y - (n - 1) / 2, x - (n - 1) / 2]), (n, n)


def _take(brick, band, x, y, kinds):
    """Which of the pixels the brick has, and their values of every kind."""
    shape = ny, nx = brick.hdu("image", band)[1].shape
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    if not inside.any():
        return inside, {}
    x, y = x[inside], y[inside]
    low = np.maximum(np.floor([y.min(), x.min()]).astype(int) - 3, 0)  # three more for the splines
    high = np.minimum(np.ceil([y.max(), x.max()]).astype(int) + 4, [ny, nx])
    out = {}
    for kind in kinds:
        section = brick.section(kind, band, low, high, shape)
        if section is None:  # zero weight, no bit
            continue
        row, column = y - low[0], x - low[1]
        if kind == "image":
            out[kind] = _sample(section, row, column)
        else:
            last = np.array(section.shape)[:, None] - 1
            row, column = np.clip(np.rint([row, column]), 0, last).astype(int)
            out[kind] = section[row, column]
    return inside, out


def _sample(section, y, x):
    if np.array_equal(x, np.rint(x)) and np.array_equal(y, np.rint(y)):
        return section[y.astype(int), x.astype(int)]
    return map_coordinates(np.nan_to_num(section.astype(float)), [y, x], order=3, mode="nearest")


def _order(band):
    """u, g, r, i, z, y and then others."""
    return "ugrizy".find(band) % 7, band


def _read_bricks(table):
    """Names and centres of the survey's table of bricks."""
    path = Path(os.fspath(table))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with reading(path, "the survey's table of bricks"):
        rows = fits.getdata(path, 1)
        names = [str(name).strip() for name in rows["BRICKNAME"]]
        return names, SkyCoord(np.asarray(rows["RA"], float), np.asarray(rows["DEC"], float), unit="deg")
