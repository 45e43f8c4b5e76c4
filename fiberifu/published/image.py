# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images as the published network was trained on: bands at their own PSF, not corrected for extinction, no holes.

``CCDData -> one grid -> stamp of 128 pixels, East left, South first -> nanomaggies, errors, what may be shown``
"""

import hashlib
import warnings
from collections.abc import Mapping

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from ..bands import read_bands, split_bands, unused_bands
from ..flags import Flag
from ..prepared import PreparedImage
from ..provenance import is_predicted
from ..resample import canonical_grid, pixel_map, resample, same_wcs

__all__ = ["PublishedImage", "fibre_place", "network_image", "prepare", "reddening", "stamps"]

LARGEST, LEAST = 100.0, 1e-5  # nanomaggies and inverse variance: beyond these a pixel is bad, as in the training
PATCH = 16  # pixels
CENTRAL = 56  # pixels from the middle of the image: up to here a position is seen in the stamp centred there
LATTICE = 64  # pixels between stamps for positions further out
#: FWHM in arcsec of the PSF where an image does not tell it: the median of the Legacy Surveys' r band.
PSF_FWHM = 1.18


class PublishedImage(PreparedImage):
    """A `~fiberifu.image.PreparedImage` as the published network wants it, made by `prepare`.

    Its bands are at their own PSFs and not corrected for Galactic extinction, unlike those of
    `~fiberifu.image.prepare_image`: neither network takes what was prepared for the other.
    """


def prepare(image, config=None, *, ebv=None, seeing=None):
    """Check an image and bring its bands to one grid, each at its own PSF and as observed.

    Parameters
    ----------
    image : mapping of str to `~astropy.nddata.CCDData`, or `~astropy.nddata.CCDData`
        As for `fiberifu.image.prepare_image`, in bands g, r, i, z, W1, W2. What is missing is hidden from the network.
        Or what this function made before.
    config : `~fiberifu.model.PublishedConfig`, optional
        That of the released network by default.
    ebv : float, optional
        Galactic E(B-V), only for the correction of spectra: the network sees images as they were observed.
    seeing : None
        The network takes images at their own PSFs.

    Returns
    -------
    PublishedImage
        With ``ebv`` 0, because nothing was corrected; a given one is in ``meta["EBV"]``.

    Raises
    ------
    ValueError
        Naming what is wrong with the image, and what would do; for a `~fiberifu.image.PreparedImage` made otherwise.

    Warns
    -----
    AstropyUserWarning
        For bands, or errors, that are missing.
    """
    if seeing is not None:
        raise ValueError(
            f"seeing={seeing}: the published network was trained on images at their own PSFs; leave it out"
        )
    if config is None:
        from ..model import PublishedConfig

        config = PublishedConfig()
    bands = config.bands
    if isinstance(image, PreparedImage):
        made = image.bands, image.pixel_scale, image.stamp_size
        if not isinstance(image, PublishedImage) or made != (bands, config.pixel_scale, config.stamp):
            raise ValueError(
                f"image was prepared for another network (bands {' '.join(image.bands)}, stamps of {image.stamp_size} "
                f"pixels of {image.pixel_scale} arcsec, E(B-V) {image.ebv:.3g} taken off); the published network sees "
                f"bands {' '.join(bands)} at their own PSFs and as observed: give the image itself, or what "
                "fiberifu.published.prepare makes of it"
            )
        return image
    if isinstance(image, Mapping):
        image = {{"w1": "W1", "w2": "W2"}.get(name, name): ccd for name, ccd in image.items()}
    for name, ccd in split_bands(image, bands).items():
        if is_predicted(ccd.meta):
            raise ValueError(f"image, band {name}: DATATYPE='PREDICTED', made by fiberifu; give an observed image")
    found = {name: band for name, band in read_bands(image, bands).items() if not band.bad.all()}
    if not found:
        raise ValueError("image has no valid pixel in any band; check mask and uncertainty")
    flags, notes = _flags(found, bands, unused_bands(image, bands))
    reference = "r" if "r" in found else next(iter(found))
    shared = {key: band.meta[key] for band in found.values() for key in ("REDSHIFT", "EBV")
              if band.meta.get(key) is not None}  # fmt: skip
    meta = {**shared, **found[reference].meta} | ({} if ebv is None else {"EBV": reddening({}, ebv)})
    reddening(meta)

    grid = canonical_grid(found, reference, config.pixel_scale)
    shape, maps = (len(bands), *grid.shape), []
    sb, sigma = np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32)
    covered, bad, saturated = (np.zeros(grid.shape, bool) for _ in range(3))
    for name, band in found.items():
        mapping = next((m for wcs, m in maps if same_wcs(wcs, band.wcs)), None)
        if mapping is None:
            mapping = pixel_map(grid, band.wcs)
            maps.append((band.wcs, mapping))
        plane, variance, hole, full, inside = resample(band.sb, band.variance, band.bad, band.saturated, mapping)
        i = bands.index(name)
        sb[i], sigma[i] = np.where(hole, 0, plane), np.where(hole, np.inf, np.sqrt(variance))
        covered |= inside
        bad |= hole & inside
        saturated |= full
    ny, nx = grid.shape
    return PublishedImage(
        sb=sb,
        sigma=sigma,
        present=np.array([name in found for name in bands]),
        bands=bands,
        psf_fwhm=found[reference].fwhm or PSF_FWHM,
        wcs=grid.wcs,
        center=grid.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs,
        pixel_scale=config.pixel_scale,
        stamp_size=config.stamp,
        flags=flags,
        filters={name: band.filter for name, band in found.items()},
        ebv=0.0,
        covered=covered,
        bad=bad,
        saturated=saturated,
        sha256=_hash(found),
        meta=meta,
        notes=notes,
    )


def reddening(meta, ebv=None):
    """Galactic E(B-V) as given, or of the image; None if neither tells it. ValueError unless it is from 0 to 10."""
    value = meta.get("EBV") if ebv is None else ebv
    try:
        found = None if value is None else float(value)
    except (TypeError, ValueError):
        found = np.nan
    if found is not None and not 0 <= found < 10:
        raise ValueError(f"ebv is {value}; one E(B-V) in magnitudes (0 to 10) is needed")
    return found


def _flags(found, bands, unused):
    """Flags of the whole image and notes, with a warning for what is missing or not used."""
    flags, notes = Flag(0), []
    if unused:
        notes.append(f"band {', '.join(unused)}: not used, the published network sees {', '.join(bands)}")
    for name, band in found.items():
        # of W1 and W2 no curve is needed
        flags |= band.flags & ~Flag.FILTER_ASSUMED if name.startswith("W") else band.flags
    missing = [name for name in bands if name not in found]
    if missing:
        flags |= Flag.BAND_MISSING
        notes.append(
            f"no band {', '.join(missing)}: the published network sees only {', '.join(found)}; it was trained with "
            "parts of all bands hidden, not with whole bands, and what that costs is not known"
        )
    bare = [name for name, band in found.items() if band.flags & Flag.NO_UNCERTAINTY]
    if bare:
        notes.append(f"band {', '.join(bare)}: no uncertainty; the network needs one, estimated from the background")
    for note in notes:
        warnings.warn(f"image: {note}", AstropyUserWarning, stacklevel=5)
    if found.get("r") is None or found["r"].fwhm is None:
        flags |= Flag.PSF_ASSUMED
    return flags, notes


def _hash(found):
    """sha256 of calibrated pixels, errors and places on the sky."""
    digest = hashlib.sha256(b"published")
    for name, band in found.items():
        ny, nx = band.shape
        corners = np.round(band.wcs.pixel_to_world_values([0, nx, 0], [0, 0, ny]), 9)
        digest.update(f"{name} {band.shape} {band.filter}".encode())
        for array in (corners, band.sb, band.variance, band.bad):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return digest.hexdigest()


# --- what the network sees ------------------------------------------------------------------------------------------
def stamps(offsets, pixel_scale):
    """Where the stamps are in which positions are seen.

    The middle one reaches to 56 pixels, so that a galaxy of normal size is seen as in the paper; beyond, the nearest on
    a lattice of 64 pixels, without blending. A position is seen in the same stamp whatever its company.

    Parameters
    ----------
    offsets : ndarray (N, 2)
        East and North of the image's middle, arcsec.
    pixel_scale : float

    Returns
    -------
    dict
        (east, north) of a stamp's middle [arcsec] -> indices of its positions.
    """
    pixels = np.asarray(offsets, float) / pixel_scale
    place = np.rint(pixels / LATTICE).astype(int) * (np.abs(pixels).max(1, keepdims=True) > CENTRAL)
    found = {}
    for i, key in enumerate(map(tuple, place.tolist())):
        found.setdefault(key, []).append(i)
    step = LATTICE * pixel_scale
    return {(key[0] * step, key[1] * step): np.array(rows) for key, rows in sorted(found.items())}


def network_image(sb, sigma, pixel_scale):
    """A stamp in the network's array: East left, South in the first row, nanomaggies per pixel, holes filled.

    As in the public code, pixels that are not finite, above 100 nanomaggies or of an inverse variance below 1e-5 take
    the mean flux and the mean inverse variance of all others, of all bands together. Patches of 16 pixels in which all
    are bad are hidden: there is nothing to see.

    Parameters
    ----------
    sb, sigma : ndarray (C, ny, nx)
        Of `~fiberifu.image.PreparedImage.stamp`: nanomaggy per arcsec2; rows to the North, columns to the East.
    pixel_scale : float

    Returns
    -------
    image, error : ndarray of float32 (C, ny, nx)
    shown : ndarray of bool (C ny nx / 256,)
        Patches with at least one good pixel, band by band.
    """
    area = pixel_scale**2
    flux, error = (x[..., ::-1].astype(np.float32) * np.float32(area) for x in (sb, sigma))
    with np.errstate(divide="ignore", invalid="ignore"):
        ivar = np.where(np.isfinite(error), 1 / error**2, 0)
    bad = ~np.isfinite(flux) | ~np.isfinite(ivar) | (np.abs(flux) > LARGEST) | (ivar < LEAST)
    if not bad.all():
        flux = np.where(bad, flux[~bad].mean(), flux)
        ivar = np.where(bad, ivar[~bad].mean(), ivar)
    c, ny, nx = flux.shape
    shown = (~bad).reshape(c, ny // PATCH, PATCH, nx // PATCH, PATCH).any((2, 4))
    error = 1 / np.sqrt(ivar + np.float32(1e-6))
    return flux.astype(np.float32), error.astype(np.float32), shown.reshape(-1)


def fibre_place(offsets, pixel_scale):
    """Place of fibres in the network's array: x to the right, y up, pixels from its middle.

    The array has East on the left, so x is West. Its first row, which the network calls the top, is the southern one:
    y is South. That is inferred from how the authors scan a galaxy: both signs are negative in their evaluation against
    MaNGA, and their notebook's picture of an array is upside down beside MaNGA's map. Their training code has the other
    sign for the declination, of offsets mostly below a pixel, and shifts images without flipping them.

    Parameters
    ----------
    offsets : ndarray (N, 2)
        East and North of the stamp's middle, arcsec.
    pixel_scale : float

    Returns
    -------
    ndarray of float64 (N, 2)
    """
    return -np.asarray(offsets, float) / pixel_scale
