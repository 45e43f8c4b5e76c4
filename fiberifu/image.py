# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images in: any CCDData -> calibrated, dereddened, PSF-matched bands on one canonical grid.

Below this module there are no units, no WCS and no header dialects: only float32 arrays
``[band, row, column]`` with row to the North and column to the East, and offsets in arcsec.
"""

import hashlib
import warnings
from dataclasses import replace

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyUserWarning

from fiberifu.bands import read_bands, split_bands, unused_bands
from fiberifu.extinction import BAND_EXTINCTION
from fiberifu.flags import Flag
from fiberifu.prepared import PreparedImage
from fiberifu.provenance import is_predicted
from fiberifu.psf import SURVEY_FWHM, convolve, matching_kernel, measure_fwhm, moffat_psf, psf_on_grid
from fiberifu.resample import canonical_grid, pixel_map, resample, same_wcs

__all__ = ["PreparedImage", "prepare_image"]

#: Bands that the training images always have: one of them missing is worth a flag.
CORE_BANDS = ("g", "r", "z")


def prepare_image(
    image,
    center=None,
    *,
    bands=("g", "r", "i", "z"),
    planes=None,
    pixel_scale=0.262,
    stamp=128,
    ebv=None,
    seeing=None,
):
    """Check an image and bring it to the form in which the network was trained.

    Parameters
    ----------
    image : mapping of str to CCDData, or CCDData
        Mapping from band to image; one CCDData with the bands on its first axis (named by
        ``meta["BANDS"]``, such as ``"grz"``); or a single-band CCDData (``meta["BAND"]``).
        Bands that surveys have and the model does not use (u, y, W1, W2 ...) are left out, with a note. Each has a
        celestial WCS (any rotation, flip, scale) and a unit: nanomaggy, a flux
        density or surface brightness, or counts with an AB zero point (``meta["MAGZERO"]``).
        Mask (True = bad), any NDUncertainty, ``psf`` (image on the same pixels) or
        ``meta["PSF_FWHM"]`` (arcsec), ``meta["FILTER"]`` and ``meta["SATURATE"]`` are used if
        there. Negative pixels are normal; nan is bad.
    center : SkyCoord, optional
        Where offset (0, 0) is, normally the galaxy; None is the centre of the image.
    bands : sequence of str
        Bands of the model, in its order.
    planes : sequence of str, optional
        Names of the planes of a stacked image, instead of ``meta["BANDS"]``.
    pixel_scale : float
        Of the canonical grid, arcsec.
    stamp : int
        Side of a stamp in pixels.
    ebv : float, optional
        Galactic E(B-V) on the SFD scale; None takes ``meta["EBV"]``, else 0.
    seeing : Quantity, optional
        FWHM of the common PSF wanted; None is that of the broadest band, and so is, with the
        flag PSF_ATTAINABLE, anything sharper.

    Returns
    -------
    PreparedImage

    Raises
    ------
    ValueError
        Naming what is wrong with the image, and what would do.

    Warns
    -----
    AstropyUserWarning
        If a band holds no valid pixel and is left out.
    """
    bands = tuple(bands)
    for name, ccd in split_bands(image, bands, planes).items():
        if is_predicted(ccd.meta):
            raise ValueError(f"image, band {name}: DATATYPE='PREDICTED', made by fiberifu; give an observed image")
    found = read_bands(image, bands, planes)
    sha256 = _hash(found)
    flags, notes = Flag(0), []
    if unused := unused_bands(image, bands, planes):
        notes.append(f"band {', '.join(unused)} left out: this model does not use it")
    empty = [name for name, band in found.items() if band.bad.all()]
    found = {name: band for name, band in found.items() if name not in empty}
    if not found:
        raise ValueError(f"image has no valid pixel in any band ({', '.join(empty)}); check mask and ivar")
    if empty:
        flags |= Flag.BAND_MISSING
        text = f"band {', '.join(empty)} has no valid pixel and is treated as missing"
        notes.append(text)
        warnings.warn(f"image: {text}", AstropyUserWarning, stacklevel=2)
    if any(name in bands and name not in found for name in CORE_BANDS):
        flags |= Flag.BAND_MISSING
    reference = "r" if "r" in found else next(iter(found))
    meta = {**_shared_meta(found), **found[reference].meta}
    ebv = _resolve_ebv(ebv, meta, notes)
    for band in found.values():
        flags |= band.flags
    _say_flags(found, notes)

    grid = canonical_grid(found, reference, pixel_scale)
    stacks, psfs, fwhms = {}, {}, {}
    maps = []
    for name, band in found.items():
        mapping = next((m for wcs, m in maps if same_wcs(wcs, band.wcs)), None)
        if mapping is None:
            mapping = pixel_map(grid, band.wcs)
            maps.append((band.wcs, mapping))
        stacks[name] = resample(band.sb, band.variance, band.bad, band.saturated, mapping)
        psfs[name], fwhms[name], assumed = _resolve_psf(band, mapping.jacobian, pixel_scale)
        if assumed:
            flags |= Flag.PSF_ASSUMED
            notes.append(f"PSF of band {name} assumed: FWHM {fwhms[name]:.2f} arcsec, median of {assumed}")
        if not mapping.is_copy:
            notes.append(f"band {name} resampled to {pixel_scale} arcsec pixels, North up")
    _check_overlap(stacks, reference)

    broadest = max(fwhms, key=fwhms.get)
    target, target_fwhm = psfs[broadest], fwhms[broadest]
    if seeing is not None and (wanted := _resolve_seeing(seeing)) != target_fwhm:
        if wanted > target_fwhm:
            target, target_fwhm, broadest = moffat_psf(wanted, pixel_scale), wanted, None
        else:
            flags |= Flag.PSF_ATTAINABLE
            notes.append(f"PSF {wanted:.2f} arcsec asked for, {target_fwhm:.2f} arcsec attainable")
    shape = (len(bands), *grid.shape)
    sb, sigma = np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32)
    present = np.array([name in found for name in bands])
    covered, bad, saturated = (np.zeros(grid.shape, bool) for _ in range(3))
    for name, (plane, variance, plane_bad, plane_saturated, plane_covered) in stacks.items():
        i = bands.index(name)
        kernel = None if name == broadest else matching_kernel(psfs[name], target, pixel_scale)
        if kernel is not None:
            plane = convolve(plane, plane_bad, kernel)
            notes.append(f"band {name} matched from {fwhms[name]:.2f} to {target_fwhm:.2f} arcsec")
        clear = 10 ** (0.4 * BAND_EXTINCTION[name] * ebv)
        sb[i] = np.where(plane_bad, 0, plane * clear)
        sigma[i] = np.where(plane_bad, np.inf, np.sqrt(variance) * clear)
        covered |= plane_covered
        bad |= plane_bad
        saturated |= plane_saturated

    prepared = PreparedImage(
        sb=sb,
        sigma=sigma,
        present=present,
        bands=bands,
        psf_fwhm=target_fwhm,
        wcs=grid.wcs,
        center=_grid_center(grid),
        pixel_scale=pixel_scale,
        stamp_size=int(stamp),
        flags=flags,
        filters={name: band.filter for name, band in found.items()},
        ebv=ebv,
        covered=covered,
        bad=bad,
        saturated=saturated,
        sha256=sha256,
        meta=meta,
        notes=notes,
    )
    return prepared if center is None else _recentre(prepared, center)


# ---------------------------------------------------------------- parts of it
def _hash(found):
    """sha256 of all that a result depends on: bands, calibrated pixels and errors, masks, places on the sky, PSFs."""
    digest = hashlib.sha256()
    for name, band in found.items():
        ny, nx = band.shape
        corners = np.round(band.wcs.pixel_to_world_values([0, nx, 0], [0, 0, ny]), 9)
        digest.update(f"{name} {band.shape} {band.filter} {band.fwhm} {band.meta.get('SURVEY')}".encode())
        for array in (corners, band.sb, band.variance, band.psf):
            if array is not None:
                digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        for bits in (band.bad, band.saturated):
            digest.update(np.packbits(bits).tobytes())
    return digest.hexdigest()


def _shared_meta(found):
    """REDSHIFT and EBV of any band: they belong to the galaxy, not to the band."""
    return {
        key: band.meta[key] for band in found.values() for key in ("REDSHIFT", "EBV") if band.meta.get(key) is not None
    }


def _resolve_ebv(ebv, meta, notes):
    name = "ebv"
    if ebv is None:
        ebv, name = meta.get("EBV"), "image.meta['EBV']"
        if ebv is None:
            notes.append("no E(B-V) given: not corrected for Galactic extinction")
            return 0.0
    try:
        value = float(u.Quantity(ebv).value)
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and 0 <= value < 10):
        raise ValueError(f"{name} must be one E(B-V) in magnitudes on the SFD scale (0 to 10), got {ebv!r}")
    return value


def _say_flags(found, notes):
    for flag, text in (
        (Flag.FILTER_ASSUMED, "filter is none that the model was trained with: taken as DECam (Legacy Surveys South)"),
        (Flag.NO_UNCERTAINTY, "no uncertainty, noise estimated from the background"),
    ):
        names = [name for name, band in found.items() if band.flags & flag]
        if names:
            notes.append(f"band {', '.join(names)}: {text}")


def _resolve_psf(band, jacobian, scale):
    """PSF image on the grid, its FWHM, and the survey whose median was taken (or None)."""
    if band.psf is not None:
        psf = psf_on_grid(band.psf, jacobian)
        return psf, measure_fwhm(psf, scale), None
    if band.fwhm is not None:
        return moffat_psf(band.fwhm, scale), band.fwhm, None
    survey = str(band.meta.get("SURVEY", "")).strip()
    survey = survey if survey in SURVEY_FWHM else "DECaLS"
    fwhm = SURVEY_FWHM[survey][band.name]
    return moffat_psf(fwhm, scale), fwhm, survey


def _resolve_seeing(seeing):
    try:
        fwhm = float(u.Quantity(seeing).to_value(u.arcsec))
    except (TypeError, u.UnitConversionError):
        raise ValueError(f"seeing={seeing!r}: give a FWHM as an angle, such as 1.3 * u.arcsec") from None
    if not 0.3 <= fwhm <= 10:
        raise ValueError(f"seeing={seeing}: must lie within 0.3 and 10 arcsec")
    return fwhm


def _check_overlap(stacks, reference):
    covered = stacks[reference][4]
    for name, stack in stacks.items():
        if not np.any(covered & stack[4]):
            raise ValueError(
                f"image: bands {reference!r} and {name!r} do not overlap on the sky; "
                "check their WCS or pass them one at a time"
            )


def _grid_center(grid):
    ny, nx = grid.shape
    return grid.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs


def _recentre(prepared, center):
    if not isinstance(center, SkyCoord) or center.size != 1:
        raise ValueError(f"center must be one SkyCoord, got {type(center).__name__}")
    center = center.icrs.reshape(())
    center = SkyCoord(center.ra, center.dec, frame="icrs")
    if not prepared.contains(prepared.offsets(center))[0]:
        raise ValueError(
            f"center {center.to_string('decimal')} lies outside the image, "
            f"which is centred on {prepared.center.to_string('decimal')}"
        )
    return replace(prepared, center=center)
