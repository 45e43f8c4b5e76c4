# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Any image in a FITS file, told what its numbers mean.

``file -> plane, WCS, unit or zero point, errors, mask, PSF -> CCDData``
"""

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty

from fiberifu.bands import filter_letter
from fiberifu.photometry import ZERO_POINT_KEYS
from fiberifu.surveys._checks import load_hdus, of_one_shape, reading, sky_wcs
from fiberifu.surveys._images import NMGY_ZERO_POINT
from fiberifu.surveys._sky import one_angle

__all__ = ["read_image"]

_KINDS = {"std": StdDevUncertainty, "var": VarianceUncertainty, "ivar": InverseVariance}
# Names of extensions that say what kind of error they hold.
_NAMES = {
    "std": ("ERR", "ERROR", "SIGMA", "STD", "RMS", "UNCERT", "UNCERTAINTY"),
    "var": ("VAR", "VARIANCE", "STAT"),
    "ivar": ("IVAR", "INVVAR", "WGT"),
}
# In files that CCDData.write made: its card of the kind of error, and the names of its extensions.
_CLASSES = {"StdDevUncertainty": "std", "VarianceUncertainty": "var", "InverseVariance": "ivar"}
_KIND_CARD, _MASK, _PSF = "UTYPE", "MASK", "PSFIMAGE"
# Cards of the FWHM of the PSF that are in arcsec; FWHM alone is in pixels in many files.
_FWHM_KEYS = ("PSF_FWHM", "PSFSIZE", "SEEING")
# Spellings of BUNIT that astropy does not read.
_UNITS = {
    "nanomaggy": u.nmgy, "nanomaggies": u.nmgy, "nanomaggies/pixel": u.nmgy, "maggies": 1e9 * u.nmgy,
    "counts": u.ct, "counts/s": u.ct / u.s, "cps": u.ct / u.s, "dn": u.DN, "dn/s": u.DN / u.s, "adu": u.adu,
    "electrons": u.electron, "electrons/s": u.electron / u.s, "e-": u.electron, "e-/s": u.electron / u.s,
}  # fmt: skip
_COUNTS = (u.ct, u.DN, u.adu, u.electron)


def read_image(
    path,
    band,
    *,
    zero_point=None,
    unit=None,
    hdu=None,
    uncertainty=None,
    uncertainty_type=None,
    mask=None,
    psf=None,
    psf_fwhm=None,
    filter_name=None,
    ebv=None,
    redshift=None,
):
    """Read an image of one band from any FITS file with a celestial WCS.

    Parameters
    ----------
    path : path-like
    band : str
        Under which the network knows it: "g", "r", "i" or "z".
    zero_point : `~astropy.units.Quantity` or float, optional
        AB magnitude of one unit of the file (of one unit per second, if it is per second). By default that of the
        header, one of MAGZERO, ZEROPOINT, MAGZP, MAGZPT, PHOTZP, ZP, if the unit is counts or unknown; **what
        photometric system that is in is not in the header**: add the offset of Vega magnitudes yourself.
    unit : `~astropy.units.Unit` or str, optional
        Instead of the header's BUNIT: nanomaggy, a flux density or a surface brightness.
    hdu : int or str, optional
        Number or name of the image's HDU; the first with two axes by default.
    uncertainty : int, str or path-like, optional
        HDU of the errors, or a file of the same shape; by default one named ERR, SIGMA, VAR, IVAR, WGT or alike, and
        UNCERT of a file that ``CCDData.write`` made.
    uncertainty_type : {'std', 'var', 'ivar'}, optional
        What they are; by default as the name of the HDU says.
    mask : int, str or path-like, optional
        HDU or file, not 0 in bad pixels; by default one named MASK, if it is of zeros and ones alone (of bits, most
        files have harmless ones).
    psf : ndarray or path-like, optional
        Image of the PSF on the same pixels; by default the extension PSFIMAGE, which ``CCDData.write`` makes.
    psf_fwhm : `~astropy.units.Quantity`, optional
        FWHM of the PSF, an angle; by default that of the header, PSF_FWHM, PSFSIZE or SEEING, arcsec.
    filter_name : str, optional
        Such as "DECam g"; by default the header's FILTER and INSTRUME. A FILTER of "g" tells the curve only beside an
        INSTRUME of DECam: without it, or from another camera, the filter is taken as DECam's with the flag
        FILTER_ASSUMED.
    ebv : float, optional
        Galactic E(B-V) on the SFD scale: the image must not be corrected for it. By default the header's EBV or EBVGAL.
    redshift : float, optional

    Returns
    -------
    CCDData
        In nanomaggy where there is a zero point, else in its own unit; celestial WCS, uncertainty, mask (True is bad),
        PSF; ``meta`` with BAND, FILTER, INSTRUME, PSF_FWHM (arcsec), EBV, REDSHIFT, SATURATE as far as known.

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a file is not FITS, is truncated, predicted, has no such HDU, no WCS, another FILTER than the band, or if
        nothing says what its unit is.

    Examples
    --------
    >>> from fiberifu.surveys import read_image
    >>> image = {"r": read_image("my_r.fits", "r", zero_point=27.2)}  # doctest: +SKIP
    """
    band = str(band).strip()
    hdus = load_hdus(path, "an image")
    with reading(path, "an image"):
        header, data = _pick(path, hdus, hdu)
        unit, factor = _unit(path, header, hdus[0][0], unit, zero_point)
        wcs = sky_wcs(header, path)
        data = np.ascontiguousarray(data, dtype=np.float32) * np.float32(factor)
        error = _errors(path, hdus, uncertainty, uncertainty_type, data.shape)
        bad = ~np.isfinite(data)
        plane = _plain_mask(hdus, data.shape) if mask is None else _other(path, hdus, mask)[1]
        if plane is not None:
            of_one_shape(path, data.shape, mask=plane)
            bad |= plane != 0
        if error is not None:
            kind, plane = error
            power = {"std": 1, "var": 2, "ivar": -2}[kind]
            with np.errstate(over="ignore"):
                plane = (np.asarray(plane, np.float64) * factor**power).astype(np.float32)
            bad |= ~(np.isfinite(plane) & (plane > 0))
            error = _KINDS[kind](plane, unit=unit**power)
        meta = {"BAND": band, **_known(header, hdus[0][0], band, factor)}
        if psf is None:
            psf = next((plane for h, plane in hdus[1:] if _name(h) == _PSF and plane is not None), None)
    if filter_name is not None:
        meta["FILTER"] = str(filter_name)
    elif (letter := filter_letter(meta.get("FILTER"))) and letter != band:
        raise ValueError(f"{path}: given as band {band!r}, but its FILTER is {meta['FILTER']!r}; give filter_name")
    if psf_fwhm is not None:
        meta["PSF_FWHM"] = one_angle(psf_fwhm, "psf_fwhm").to_value(u.arcsec)
    if ebv is not None:
        meta["EBV"] = float(ebv)
    if redshift is not None:
        meta["REDSHIFT"] = float(redshift)
    if psf is not None and not isinstance(psf, np.ndarray):
        psf = np.asarray(_pick(psf, load_hdus(psf, "an image"), None)[1], dtype=float)
    return CCDData(data, unit=unit, wcs=wcs, uncertainty=error, mask=bad, psf=psf, meta=meta)


# ---------------------------------------------------------------- parts of read_image
def _pick(path, hdus, which):
    """Header and plane of the HDU of a number or name, or of the first image."""
    for i, (header, data) in enumerate(hdus):
        named = str(header.get("EXTNAME", "PRIMARY" if i == 0 else "")).strip().upper()
        if which is None and data is not None and data.dtype.names is None and data.ndim == 2:
            return header, data
        if which is not None and (i == which or named == str(which).strip().upper()):
            if data is None or data.dtype.names is not None or data.ndim != 2:
                raise ValueError(f"{path}: HDU {which!r} is no image with two axes")
            return header, data
    if which is None:
        raise ValueError(f"{path}: no image with two axes")
    raise ValueError(f"{path}: no HDU {which!r}; it has {len(hdus)}, named {[_name(header) for header, _ in hdus]}")


def _name(header):
    return str(header.get("EXTNAME", "")).strip().upper()


def _other(path, hdus, which):
    """The HDU of a number or name, or the first image of another file."""
    names = {_name(header) for header, _ in hdus}
    if isinstance(which, int) or (isinstance(which, str) and which.strip().upper() in names):
        return _pick(path, hdus, which)
    if isinstance(which, str) and not Path(which).is_file():
        raise ValueError(f"{path}: no HDU {which!r}, nor is there such a file; it has {sorted(names - {''})}")
    return _pick(which, load_hdus(which, "an image"), None)


def _unit(path, header, primary, unit, zero_point):
    """The unit of the result, and the factor to it."""
    if unit is not None and zero_point is not None:
        raise ValueError("unit and zero_point are both given; a zero point is for counts, give one of the two")
    if zero_point is not None:
        stated = _parse_unit(str(header.get("BUNIT", primary.get("BUNIT", ""))))
        if stated is not None and any(
            stated.is_equivalent(t) or stated.is_equivalent(t / u.arcsec**2) for t in (u.nmgy, u.Jy)
        ):
            raise ValueError(
                f"{path}: its unit is {stated} (BUNIT), which needs no zero_point; leave it out, or give unit"
            )
    if zero_point is None:
        text = str(header.get("BUNIT", primary.get("BUNIT", ""))) if unit is None else unit
        found = _parse_unit(text)
        if found is not None and not any(found.is_equivalent(c) or found.is_equivalent(c / u.s) for c in _COUNTS):
            if not any(found.is_equivalent(t) or found.is_equivalent(t / u.arcsec**2) for t in (u.nmgy, u.Jy)):
                raise ValueError(f"{path}: unit {str(text)!r} is neither a flux density nor a surface brightness")
            return (u.nmgy, found.to(u.nmgy)) if found.is_equivalent(u.nmgy) else (found, 1.0)
        cards = (
            (key, card) for key in ZERO_POINT_KEYS for card in (header.get(key), primary.get(key)) if card is not None
        )
        key, zero_point = next(cards, (None, None))
        if key is None:
            told = repr(str(text)) if str(text) else "not given"
            raise ValueError(
                f"{path}: its unit is {told} and no zero point is in its header; give zero_point, the AB magnitude of "
                "one unit, or a unit (BUNIT)"
            )
    try:
        value = float(getattr(zero_point, "value", zero_point))
    except (TypeError, ValueError):
        value = np.nan
    if not -10 < value < 60:
        raise ValueError(f"{path}: the zero point must be an AB magnitude (-10 to 60), got {zero_point!r}")
    return u.nmgy, 10 ** (-0.4 * (value - NMGY_ZERO_POINT))


def _parse_unit(text):
    if isinstance(text, u.UnitBase):
        return text
    known = _UNITS.get(str(text).strip().lower())
    if known is not None:
        return u.Unit(known)
    try:
        unit = u.Unit(str(text).strip())
    except ValueError:
        return None
    return None if unit == u.dimensionless_unscaled else unit


def _errors(path, hdus, which, kind, shape):
    """("std", "var" or "ivar", plane), or None."""
    if kind is not None and kind not in _KINDS:
        raise ValueError(f"uncertainty_type={kind!r}: give one of {list(_KINDS)}")
    if which is None:
        for header, data in hdus[1:]:
            named = _kind(header)
            if named and data is not None and data.dtype.names is None and data.shape == shape:
                return kind or named, data
        return None
    header, data = _other(path, hdus, which)
    kind = kind or _kind(header)
    if kind is None:
        raise ValueError(f"uncertainty={which!r}: say what it is with uncertainty_type, one of {list(_KINDS)}")
    of_one_shape(path, shape, uncertainty=data)
    return kind, data


def _kind(header):
    """What kind of error an HDU says it holds, or None."""
    told = _CLASSES.get(str(header.get(_KIND_CARD, "")).strip())
    return told or next((kind for kind, names in _NAMES.items() if _name(header) in names), None)


def _plain_mask(hdus, shape):
    """The extension MASK, if it is of zeros and ones alone, or None."""
    for header, data in hdus[1:]:
        if _name(header) == _MASK and data is not None and data.dtype.kind in "biu" and data.shape == shape:
            return data if data.max(initial=0) <= 1 else None
    return None


def _known(header, primary, band, factor):
    """What the header tells and the package uses."""
    meta = {}
    text = str(header.get("FILTER", primary.get("FILTER", "")) or "").strip()
    if text:
        # as DECam's headers spell it: "r DECam SDSS c0002 6415.0 1480.0"
        meta["FILTER"] = f"DECam {band}" if text.startswith(f"{band} DECam") else text
    level = header.get("SATURATE", primary.get("SATURATE"))
    if isinstance(level, (int, float)) and level > 0:
        meta["SATURATE"] = float(level) * factor
    for key in ("DATATYPE", "ORIGIN", "SEED", "REDSHIFT", "OBJECT", "INSTRUME"):
        value = header.get(key, primary.get(key))
        if value is not None:
            meta[key] = value
    keys = (*(f"{key}_{band.upper()}" for key in _FWHM_KEYS), *_FWHM_KEYS)
    for name, cards, least in (("EBV", ("EBV", "EBVGAL"), 0), ("PSF_FWHM", keys, 0.05)):
        values = (source.get(key) for key in cards for source in (header, primary))
        found = next((x for x in values if isinstance(x, (int, float)) and least <= x < 10), None)
        if found is not None:
            meta[name] = float(found)
    return meta
