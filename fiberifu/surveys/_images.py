# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What readers of images share: a file per band, planes as CCDData in nanomaggy, and a field cut out of them."""

import os
from collections.abc import Mapping
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, InverseVariance

from fiberifu.surveys._checks import of_one_shape, reading
from fiberifu.surveys._sky import one_angle, one_position

__all__ = ["NMGY_ZERO_POINT", "by_band", "cut_image", "nanomaggy_ccd", "read_bands"]

NMGY_ZERO_POINT = 22.5  # AB magnitude of one nanomaggy


def by_band(paths):
    """Pairs (band or None, path) of what readers take: a mapping, a sequence, or one path."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        paths = [paths]
    pairs = list(paths.items()) if isinstance(paths, Mapping) else [(None, path) for path in paths]
    if not pairs:
        raise ValueError("paths is empty; give one file per band")
    return [(name, Path(os.fspath(path))) for name, path in pairs]


def read_bands(paths, what, read, order):
    """Images of files of one band each.

    Parameters
    ----------
    paths : path-like, sequence or mapping
        See `by_band`.
    what : str
        The files are, for errors.
    read : callable
        Path to band and CCDData.
    order : sequence of str
        Of the bands.

    Returns
    -------
    dict of str to CCDData
    """
    out = {}
    for name, path in by_band(paths):
        with reading(path, what):
            band, ccd = read(path)
        if name is not None and band != name:
            raise ValueError(f"{path}: given as band {name!r}, but it is {band!r}")
        if band in out:
            raise ValueError(f"{path}: second file of band {band!r}")
        out[band] = ccd
    return {band: out[band] for band in order if band in out}


def nanomaggy_ccd(path, data, factor, wcs, meta, *, ivar=None, bad=None, flags=None):
    """CCDData in nanomaggy.

    Parameters
    ----------
    path : path-like
        For errors.
    data : ndarray (ny, nx)
    factor : float
        From the file's unit to nanomaggy.
    wcs : WCS
    meta : dict
    ivar : ndarray (ny, nx), optional
        In the file's unit; where it is not positive, pixels are bad.
    bad : ndarray (ny, nx) of bool, optional
    flags : ndarray (ny, nx) of int, optional
        `~fiberifu.flags.Flag` bits.
    """
    if data.ndim != 2:
        raise ValueError(f"{path}: the image has {data.ndim} axes, not (y, x)")
    of_one_shape(path, data.shape, errors=ivar, mask=bad, flags=flags)
    image = (np.asarray(data, np.float64) * factor).astype(np.float32)
    bad = ~np.isfinite(image) | (False if bad is None else bad)
    uncertainty = None
    if ivar is not None:
        with np.errstate(over="ignore"):
            weight = (np.asarray(ivar, np.float64) / factor**2).astype(np.float32)
        good = np.isfinite(weight) & (weight > 0)
        bad = bad | ~good
        uncertainty = InverseVariance(np.where(good, weight, np.float32(0)), unit=u.nmgy**-2)
    return CCDData(image, unit=u.nmgy, wcs=wcs, uncertainty=uncertainty, mask=bad, flags=flags, meta=meta)


def cut_image(image, position, size):
    """Cut a square field out of an image, PSF, flags and all.

    Parameters
    ----------
    image : mapping of str to CCDData, or CCDData
    position : `~astropy.coordinates.SkyCoord`
        One place, the middle of the field.
    size : `~astropy.units.Quantity`
        Side, an angle. What of the field lies beyond the image is left out.

    Returns
    -------
    As given
        Bands that do not reach the field are left out of a mapping.

    Raises
    ------
    ValueError
        If no image reaches the field.
    """
    if isinstance(image, Mapping):
        out = {band: _cut(ccd, position, size) for band, ccd in image.items()}
        out = {band: ccd for band, ccd in out.items() if ccd is not None}
    else:
        out = _cut(image, position, size)
    if not out and not isinstance(out, CCDData):
        raise ValueError(f"position {one_position(position).to_string('decimal')}: no image reaches it")
    return out


def _cut(ccd, position, size):
    position, half = one_position(position), one_angle(size, "size").to(u.deg) / 2
    x, y = ccd.wcs.world_to_pixel(position)
    step = np.sqrt(np.abs(np.linalg.det(ccd.wcs.celestial.pixel_scale_matrix)))  # degrees
    n = half.value / step - 1e-3  # a pixel of which only rounding is in the field is not
    ny, nx = ccd.shape[-2:]
    rows, columns = (
        slice(max(int(np.floor(c - n + 0.5)), 0), min(int(np.ceil(c + n + 0.5)), m)) if np.isfinite(c) else slice(0, 0)
        for c, m in ((y, ny), (x, nx))
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    part = (rows, columns) if ccd.ndim == 2 else (slice(None), rows, columns)
    cut = ccd[part]
    flags = ccd.flags[part] if isinstance(ccd.flags, np.ndarray) else ccd.flags
    return CCDData(
        cut.data.copy(), unit=ccd.unit, wcs=cut.wcs, uncertainty=cut.uncertainty, mask=cut.mask, flags=flags,
        psf=ccd.psf, meta=dict(ccd.meta),
    )  # fmt: skip
