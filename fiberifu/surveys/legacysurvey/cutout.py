# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cutouts of the Legacy Surveys' sky viewer: all bands in one file.

Formats: https://www.legacysurvey.org/viewer (``cutout.fits``, ``fits-cutout``) and
``viewer/coadd-psf``. Pixels are nanomaggy, AB zero point 22.5.
"""

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, InverseVariance

from fiberifu.flags import Flag
from fiberifu.surveys._checks import load_hdus, of_one_shape, reading, sky_wcs

__all__ = ["band_ccd", "read_legacysurvey"]

# Bits of the MASKBITS image (legacysurvey.org/dr9/bitmasks): saturated, and masked in all exposures.
_SATURATED_BIT = {"g": 2, "r": 3, "z": 4, "i": 14}
_ALLMASK_BIT = {"g": 5, "r": 6, "z": 7, "i": 15}
# North of this declination, in the northern Galactic cap beyond b = 17 deg, images are BASS and MzLS.
_NORTH_DEC, _NORTH_B = 32.375, 17.0
_NORTH_FILTER = {"g": "BASS g", "r": "BASS r", "z": "MzLS z"}


def read_legacysurvey(path, *, psf=None):
    """Read a cutout of the Legacy Surveys' sky viewer.

    Parameters
    ----------
    path : path-like
        A cutout with all bands in one HDU (named by ``BANDS``) or one HDU per band
        (``BAND``), with or without inverse variance (``IMAGETYP`` invvar) and mask bits.
    psf : path-like, mapping of str to ndarray, or None
        A coadd PSF file of the same viewer, or one PSF image per band.

    Returns
    -------
    dict of str to CCDData
        One per band: nanomaggy, celestial WCS, `InverseVariance` and mask where given, PSF,
        ``meta["FILTER"]`` ("DECam g" ..., or BASS / MzLS in the north), ``meta["SURVEY"]``;
        of simulated images also ``meta["DATATYPE"]`` (SIMULATED), ``"SEED"``, ``"REDSHIFT"``.
        Pixels that the mask bits call saturated are marked in ``flags``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, or holds no image with named bands.
    """
    with reading(path, "a cutout of the Legacy Surveys' viewer"):
        header, images, ivars, maskbits = _planes(path, load_hdus(path, "a cutout of the Legacy Surveys' viewer"))
    psfs = _read_psf(psf)
    with reading(path, "a cutout of the Legacy Surveys' viewer"):
        return {
            name: band_ccd(name, path, *image, header, ivars.get(name), maskbits, psfs.get(name))
            for name, image in images.items()
        }


def _planes(path, hdus):
    """First header, {band: (plane, header)}, {band: inverse variance}, mask bits."""
    first, images, ivars, maskbits = {}, {}, {}, None
    for header, data in hdus:
        first = first or header
        if data is None or data.ndim not in (2, 3):
            continue
        kind = str(header.get("IMAGETYP", "image")).strip().lower()
        if kind == "maskbits":
            maskbits = data.astype(np.int32)
        elif kind in ("image", "invvar"):
            planes = data if data.ndim == 3 else data[np.newaxis]
            for name, plane in zip(_band_names(header, data, first), planes, strict=False):  # without names: not used
                if kind == "image":
                    images[name] = plane, header
                else:
                    ivars[name] = plane
    if any(header.get("EXTNAME") == "SCI" for header, _ in hdus):  # else the weight plane would pass for an image
        raise ValueError(f"{path}: planes SCI and WGT, a coadd of the Dark Energy Survey; use read_des")
    if not images:
        raise ValueError(f"{path}: no image with BANDS or BAND in its header; is it a viewer cutout?")
    return first, images, ivars, maskbits


def _band_names(header, data, primary):
    """Names of the planes; empty if the header does not tell."""
    names = header.get("BAND") if data.ndim == 2 else None
    names = names or header.get("BANDS") or primary.get("BANDS") or ""
    names = str(names).strip()
    n = 1 if data.ndim == 2 else len(data)
    if data.ndim == 2 and len(names) > 1 and not header.get("BAND"):
        return []
    return list(names) if len(names) == n else []


def band_ccd(name, path, plane, header, primary, ivar, maskbits, psf=None, *, wcs=None):
    """One band as `~astropy.nddata.CCDData`, of a cutout or a brick.

    Parameters
    ----------
    name : str
        Of the band.
    path : path-like
        Of the file, for errors.
    plane : ndarray (ny, nx)
        Nanomaggy.
    header, primary : Header
        Of the plane, and of the file, for what the first lacks.
    ivar : ndarray (ny, nx), or None
        nanomaggy^-2.
    maskbits : ndarray (ny, nx) of int, or None
    psf : ndarray, optional
    wcs : WCS, optional
        That of ``header`` by default.
    """
    unit = str(header.get("BUNIT", primary.get("BUNIT", "nanomaggy"))).strip().lower()
    if not unit.startswith(("nanomagg", "nmgy")):
        raise ValueError(f"{path}: BUNIT is {unit!r}; images of the Legacy Surveys are in nanomaggy")
    of_one_shape(path, plane.shape, **{f"the inverse variance of {name}": ivar, "the mask": maskbits})
    wcs = sky_wcs(header, path) if wcs is None else wcs
    north = is_north(primary, header, wcs, plane.shape)
    filter_name = _NORTH_FILTER.get(name, f"DECam {name}") if north else f"DECam {name}"
    meta = {"SURVEY": "BASS+MzLS" if north else "DECaLS", "BAND": name, "FILTER": filter_name}
    # of simulated images: what they are, and what is known of them
    for key in ("VERSION", "BRICK", "DATATYPE", "ORIGIN", "SEED", "REDSHIFT", "EBVGAL"):
        value = header.get(key, primary.get(key))
        if value is not None:
            meta[key] = value
    if "EBVGAL" in meta:  # under the name by which images are dereddened
        meta["EBV"] = meta["EBVGAL"]
    data = _native(plane)
    mask, flags, uncertainty = ~np.isfinite(data), None, None
    if ivar is not None:
        weight = _native(ivar)
        mask |= ~(np.isfinite(weight) & (weight > 0))
        uncertainty = InverseVariance(weight, unit=u.nmgy**-2)
    if maskbits is not None and name in _SATURATED_BIT:
        saturated = (maskbits & (1 << _SATURATED_BIT[name])) != 0
        mask |= (maskbits & (1 << _ALLMASK_BIT[name])) != 0
        flags = np.where(saturated, int(Flag.SATURATED), 0)
    return CCDData(data, unit=u.nmgy, wcs=wcs, uncertainty=uncertainty, mask=mask, flags=flags, psf=psf, meta=meta)


def _native(array):
    return np.ascontiguousarray(array, dtype=np.float32)


def is_north(primary, header, wcs, shape):
    """Whether the image is from BASS and MzLS: the file's word, else the surveys' border."""
    for source in (header, primary):
        # legacypipe names all three surveys in every file ("DECaLS+BASS+MzLS"), and numbers the halves (9010, 9011)
        release = str(source.get("DRVERSIO", ""))
        if release[-1:] in ("0", "1") and release[-2:-1] == "1":
            return release[-1] == "1"
        text = f"{source.get('SURVEY', '')} {source.get('VERSION', '')}".lower()
        if "decals" in text and "bass" in text:
            continue
        if "south" in text or "decals" in text:
            return False
        if "north" in text or "bass" in text or "mzls" in text:
            return True
    center = SkyCoord(wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2)).icrs
    return bool(center.dec.deg > _NORTH_DEC and center.galactic.b.deg > _NORTH_B)


def _read_psf(psf):
    if psf is None:
        return {}
    if isinstance(psf, Mapping):
        return {name: np.asarray(image, dtype=float) for name, image in psf.items()}
    out = {}
    with reading(psf, "a PSF of the Legacy Surveys' viewer"):
        for header, data in load_hdus(psf, "a PSF of the Legacy Surveys' viewer"):
            if data is None or data.ndim not in (2, 3):
                continue
            names = _band_names(header, data, header)
            out.update(zip(names, map(_native, data if data.ndim == 3 else [data]), strict=False))
    if not out:
        raise ValueError(f"{psf}: no PSF image with BAND or BANDS in its header")
    return out
