# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What comes in, checked: CCDData in any accepted arrangement -> one plain `Band` per filter.

Here end units, masks, uncertainties and header dialects. A `Band` holds float64 surface
brightness in nanomaggy / arcsec2 on the input's own pixels.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

import numpy as np
from astropy.nddata import CCDData
from astropy.wcs import WCS

from fiberifu.flags import Flag
from fiberifu.photometry import (
    background_variance,
    check_psf,
    header_fwhm,
    pixel_area,
    read_saturated,
    read_variance,
    surface_brightness_factor,
)

__all__ = ["OTHER_BANDS", "Band", "filter_letter", "read_bands", "split_bands", "unused_bands"]

#: Filters whose curves the models know.
KNOWN_FILTERS = ("DECam g", "DECam r", "DECam i", "DECam z")

#: Bands that surveys deliver and no model here uses: left out of an image, with a note.
OTHER_BANDS = ("FUV", "NUV", "u", "y", "Y", "J", "H", "K", "Ks", "W1", "W2", "W3", "W4")

_HOW = "for example {'g': CCDData(data, unit=u.nmgy, wcs=wcs), 'r': ...}"


@dataclass
class Band:
    """One filter's image on its own pixels.

    Attributes
    ----------
    name : str
        Band of the model: g, r, i or z.
    sb : ndarray of float64, (ny, nx)
        Surface brightness, nanomaggy / arcsec2; 0 where ``bad``.
    variance : ndarray of float64, (ny, nx)
        Of ``sb``; 0 where ``bad``.
    bad, saturated : ndarray of bool, (ny, nx)
        True = bad (the convention of astropy).
    wcs : WCS
        Celestial, two axes.
    psf : ndarray or None
        PSF image on the same pixels.
    fwhm : float or None
        FWHM of the PSF from the header, arcsec.
    filter : str
        Name of the filter curve.
    meta : dict
    flags : Flag
    """

    name: str
    sb: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    saturated: np.ndarray
    wcs: WCS
    psf: np.ndarray | None
    fwhm: float | None
    filter: str
    meta: dict
    flags: Flag

    @property
    def shape(self):
        """(ny, nx)."""
        return self.sb.shape


# ---------------------------------------------------------------- arrangement
def split_bands(image, bands, planes=None):
    """Give every accepted arrangement the form {band: single-band CCDData}.

    Parameters
    ----------
    image : mapping or CCDData
        Mapping band -> CCDData; CCDData with the bands on the first axis; or a
        single-band CCDData.
    bands : sequence of str
        Bands of the model.
    planes : sequence of str, optional
        Names of the planes of a stacked image; None reads ``meta["BANDS"]``.

    Returns
    -------
    dict of str to CCDData
        In the order of ``bands``; without `OTHER_BANDS` that the model does not use.
    """
    found = _arranged(image, bands, planes)
    wrong = [str(name) for name in found if name not in bands and name not in OTHER_BANDS]
    if wrong:
        raise ValueError(f"image has unknown bands {wrong}; the model knows {list(bands)}: rename or drop the others")
    for name, ccd in found.items():
        if not isinstance(ccd, CCDData):
            raise ValueError(f"image[{name!r}] must be a CCDData, got {type(ccd).__name__}; {_HOW}")
        if ccd.ndim != 2:
            raise ValueError(f"image[{name!r}] must have two axes (y, x), got shape {ccd.shape}")
    if not any(name in bands for name in found):
        raise ValueError(f"image has bands {list(found)}; the model uses none of them but {list(bands)}")
    return {name: found[name] for name in bands if name in found}


def unused_bands(image, bands, planes=None):
    """Names of the bands of an image that `split_bands`, with the same arguments, leaves out."""
    return [str(name) for name in _arranged(image, bands, planes) if name not in bands and name in OTHER_BANDS]


def _arranged(image, bands, planes):
    """All bands of an image, checked no further than that there are some."""
    if isinstance(image, CCDData):
        found = _split_stack(image, planes) if image.ndim == 3 else {_band_of(image, bands): image}
    elif isinstance(image, Mapping):
        found = dict(image)
    elif isinstance(image, str | PathLike):
        raise ValueError(
            f"image is {str(image)!r}, a file name; read it first, for example with fiberifu.surveys.read_legacysurvey"
        )
    else:
        raise ValueError(
            f"image must be a CCDData or a mapping from band to CCDData, got {type(image).__name__}; {_HOW}"
        )
    if not found:
        raise ValueError(f"image holds no band; {_HOW}")
    return found


def _split_stack(image, planes):
    names = planes if planes is not None else image.meta.get("BANDS", image.meta.get("BAND"))
    if names is None:
        numbered = [image.meta.get(f"BAND{i}") for i in range(len(image.data))]
        names = None if None in numbered else numbered
    if names is None:
        raise ValueError(
            f"image has {len(image.data)} planes without names; set image.meta['BANDS'], for example 'grz'"
        )
    names = [str(name).strip() for name in (names.strip() if isinstance(names, str) else names)]
    if len(names) != len(image.data) or len(set(names)) != len(names):
        raise ValueError(
            f"image.meta['BANDS'] names {names} but the image has {len(image.data)} planes; "
            "one distinct name per plane of the first axis is needed"
        )
    wcs = _celestial(image.wcs, "image")
    psf = None if image.psf is None else np.asarray(image.psf)
    out = {}
    for i, name in enumerate(names):
        # Rebuilt by hand: slicing a CCDData drops its PSF.
        meta = {k: v for k, v in dict(image.meta).items() if k not in ("BANDS", "BAND")}
        out[name] = CCDData(
            image.data[i],
            unit=image.unit,
            wcs=wcs,
            mask=None if image.mask is None else np.broadcast_to(image.mask, image.shape)[i],
            uncertainty=None if image.uncertainty is None else _plane_uncertainty(image, i),
            flags=None if image.flags is None else np.broadcast_to(image.flags, image.shape)[i],
            psf=None if psf is None else (psf[i] if psf.ndim == 3 else psf),
            meta=_plane_meta(meta, name, i, len(names)),
        )
    return out


def _plane_uncertainty(image, i):
    array = np.broadcast_to(image.uncertainty.array, image.shape)[i]
    return type(image.uncertainty)(array, unit=image.uncertainty.unit)


def _plane_meta(meta, name, i, n):
    """Pick the i-th of values that are given per plane; a filter for all planes names none."""
    meta = {k: v[i] if isinstance(v, (list, tuple)) and len(v) == n else v for k, v in meta.items()}
    if filter_letter(meta.get("FILTER")) not in (None, name):
        meta.pop("FILTER")
    meta["BAND"] = name
    return meta


def _band_of(ccd, bands):
    for key in ("BAND", "BANDS", "FILTER"):
        value = ccd.meta.get(key)
        if isinstance(value, str) and value.strip() in bands:
            return value.strip()
        letter = filter_letter(value) if key == "FILTER" else None
        if letter:
            return letter
    raise ValueError(
        "image is a single band without a name; set image.meta['BAND'] (one of "
        f"{list(bands)}) or pass a mapping, for example {{'r': image}}"
    )


def filter_letter(value):
    """Band letter of a filter name: 'DECam g', 'g DECam SDSS c0001', 'g'; None if unclear."""
    match = re.match(r"^(?:(\w{2,})[\s._-]+)?([ugrizyY])(?:$|[\s._-])", str(value or "").strip())
    return match.group(2) if match else None


def _filter_name(meta, band):
    """Name of the filter curve, and whether the models know it."""
    text = str(meta.get("FILTER", "") or "").strip()
    letter = filter_letter(text)
    if letter and letter != band:
        raise ValueError(
            f"image[{band!r}] has meta['FILTER']={text!r}: that is band {letter!r}; correct one of the two"
        )
    known = f"DECam {band}"
    camera = text if text and text != band else str(meta.get("INSTRUME", ""))
    if "decam" in camera.lower() and known in KNOWN_FILTERS:
        return known, True
    return text or known, False


# ---------------------------------------------------------------- one band
def read_bands(image, bands, planes=None):
    """Check and calibrate an image: units, masks, uncertainties, PSF, filter names.

    Parameters
    ----------
    image, bands, planes
        As `split_bands`.

    Returns
    -------
    dict of str to Band
    """
    return {name: _read_band(name, ccd) for name, ccd in split_bands(image, bands, planes).items()}


def _read_band(name, ccd):
    label = f"image[{name!r}]"
    wcs = _celestial(ccd.wcs, label)
    meta = dict(ccd.meta)
    area = pixel_area(wcs, ccd.shape, label)
    scale = surface_brightness_factor(ccd.unit, meta, area, label)
    # astype also turns the big-endian arrays of FITS files into native ones.
    data = np.ma.getdata(ccd.data).astype(np.float64)
    bad = ~np.isfinite(data)
    if ccd.mask is not None:
        bad = bad | (np.broadcast_to(ccd.mask, ccd.shape) != 0)
    saturated = read_saturated(ccd, data, meta)
    flags = Flag(0)
    variance = read_variance(ccd, label)
    if variance is None:
        flags |= Flag.NO_UNCERTAINTY
        variance = background_variance(data, bad)
    bad = bad | ~(np.isfinite(variance) & (variance > 0))
    filter_name, known = _filter_name(meta, name)
    if not known:
        flags |= Flag.FILTER_ASSUMED
    psf = None if ccd.psf is None else check_psf(ccd.psf, label)
    return Band(
        name=name,
        sb=np.where(bad, 0.0, data * scale),
        variance=np.where(bad, 0.0, variance * scale**2),
        bad=bad,
        saturated=saturated,
        wcs=wcs,
        psf=psf,
        fwhm=header_fwhm(meta, name, label) if psf is None else None,
        filter=filter_name,
        meta=meta,
        flags=flags,
    )


def _celestial(wcs, label):
    if wcs is None:
        raise ValueError(f"{label} has no WCS; set ccd.wcs = astropy.wcs.WCS(header)")
    celestial = getattr(wcs, "celestial", None)
    if celestial is None or celestial.naxis != 2 or not celestial.has_celestial:
        raise ValueError(
            f"{label} has a WCS without sky coordinates ({wcs.world_axis_physical_types}); "
            "a celestial WCS such as RA---TAN, DEC--TAN is needed"
        )
    return celestial
