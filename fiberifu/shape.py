# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Size, shape and neighbours of the galaxy in an image.

Used to flag contaminated positions and, through radius and inclination, by the velocity prior.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.stats import sigma_clipped_stats
from scipy.ndimage import gaussian_filter

from fiberifu.resample import fill_bad

__all__ = ["GalaxyShape", "galaxy_shape"]

_HALF_BOX = 90.0  # arcsec: the largest field around the centre that is searched
_SEARCH = 10.0  # arcsec: how far from the centre the galaxy may be
_SMOOTH = 1.5  # pixels
_MIN_PIXELS = 20


@dataclass(frozen=True)
class GalaxyShape:
    """The galaxy at the centre of an image, as an ellipse.

    Attributes
    ----------
    center : SkyCoord
        Flux-weighted centre, ICRS.
    offset : tuple of float
        The same as (east, north) arcsec from the image's `center`.
    half_light_radius : float
        Along the major axis, arcsec, at the common PSF.
    axis_ratio : float
        Minor over major axis, corrected for the PSF, 0.05 to 1.
    position_angle : float
        Of the major axis, degrees East of North, 0 to 180.
    flux : float
        Within twice the size of the segment, nanomaggy.
    segment, contaminated : ndarray of bool, (ny, nx)
        Pixels of the galaxy; pixels of all other sources.
    """

    center: SkyCoord
    offset: tuple
    half_light_radius: float
    axis_ratio: float
    position_angle: float
    flux: float
    segment: np.ndarray
    contaminated: np.ndarray


def galaxy_shape(prepared):
    """Find the galaxy at the centre of an image and measure it.

    Sources are connected regions 2 sigma above the background of the smoothed r band (or
    the first band present), by photutils. The galaxy is the one on the centre, else the
    brightest within 10 arcsec. At most 180 arcsec a side are searched.

    Parameters
    ----------
    prepared : PreparedImage

    Returns
    -------
    GalaxyShape or None
        None where there is no source near the centre. Never raises on a featureless image.
    """
    from photutils.segmentation import detect_sources
    from photutils.utils.exceptions import NoDetectionsWarning

    box, band = _box(prepared), _detection_band(prepared)
    sb, sigma = prepared.sb[band][box].astype(float), prepared.sigma[band][box]
    good = np.isfinite(sigma)
    if good.sum() < 4 * _MIN_PIXELS:
        return None
    smooth = gaussian_filter(fill_bad(sb, ~good), _SMOOTH)
    background, noise = _background(smooth, good, float(np.median(sigma[good])))
    with warnings.catch_warnings():
        # "No sources were found": that is what None says.
        warnings.simplefilter("ignore", NoDetectionsWarning)
        segments = detect_sources(np.where(good, smooth - background, 0), 2 * noise, _MIN_PIXELS)
    if segments is None:
        return None
    labels = segments.data
    # Offsets of the box's pixels from the image centre, arcsec.
    rows, columns = np.indices(labels.shape)
    east = (columns + box[1].start - prepared._origin[0]) * prepared.pixel_scale
    north = (rows + box[0].start - prepared._origin[1]) * prepared.pixel_scale
    light = np.where(good, smooth - background, 0)
    label = _central_label(labels, light, np.hypot(east, north))
    if label is None:
        return None
    segment, others = labels == label, (labels > 0) & (labels != label)
    weights = np.where(segment, np.clip(light, 0, None), 0)
    x, y, moments = _moments(weights, east, north)
    # Smoothing and PSF broaden both axes alike: take them off in quadrature.
    blur = (prepared.psf_fwhm / 2.3548) ** 2 + (_SMOOTH * prepared.pixel_scale) ** 2
    values, vectors = np.linalg.eigh(moments)
    sharp = np.clip(values - blur, 0.05**2 * values[1], None)
    ratio = float(np.clip(np.sqrt(sharp[0] / sharp[1]), 0.05, 1))
    major = vectors[:, 1]
    angle = float(np.degrees(np.arctan2(major[0], major[1])) % 180)
    # Measured, not PSF-corrected, ellipses enclose the light.
    seen = float(np.sqrt(values[0] / values[1]))
    along = (east - x) * major[0] + (north - y) * major[1]
    across = (east - x) * major[1] - (north - y) * major[0]
    radius = np.hypot(along, across / seen)
    limit = 1.3 * radius[segment].max()
    use = good & ~others & (radius < limit)
    half, flux = _half_light(radius[use], (sb - background)[use])
    if not (flux > 0 and half > 0):
        return None
    full = np.zeros(prepared.shape, bool)
    segment_map, contaminated = full.copy(), full.copy()
    segment_map[box], contaminated[box] = segment, others
    return GalaxyShape(
        center=prepared.skycoord([[x, y]])[0],
        offset=(float(x), float(y)),
        half_light_radius=half,
        axis_ratio=ratio,
        position_angle=angle,
        flux=flux * prepared.pixel_scale**2,
        segment=segment_map,
        contaminated=contaminated,
    )


def _detection_band(prepared):
    names = [name for name, there in zip(prepared.bands, prepared.present, strict=True) if there]
    return prepared.bands.index("r" if "r" in names else names[0])


def _box(prepared):
    half = int(_HALF_BOX / prepared.pixel_scale)
    x, y = np.rint(prepared._origin).astype(int)
    ny, nx = prepared.shape
    return slice(max(y - half, 0), min(y + half + 1, ny)), slice(max(x - half, 0), min(x + half + 1, nx))


def _background(smooth, good, sigma):
    """Sky level and noise of the smoothed image, also where a galaxy fills most of it."""
    # White noise of unit sigma has this scatter after Gaussian smoothing.
    white = sigma / (2 * np.sqrt(np.pi) * _SMOOTH)
    _, _, clipped = sigma_clipped_stats(smooth[good], sigma=3, maxiters=10, stdfunc="mad_std")
    # A galaxy inflates the scatter; correlated noise of coadds at most a few times.
    noise = float(np.clip(clipped, white, 4 * white))
    # The tenth percentile of pure noise is 1.28 sigma below the mean.
    return float(np.percentile(smooth[good], 10)) + 1.28 * noise, noise


def _central_label(labels, light, distance):
    central = labels[np.unravel_index(np.argmin(distance), labels.shape)]
    if central:
        return central
    near = labels[(distance < _SEARCH) & (labels > 0)]
    if near.size == 0:
        return None
    return max(np.unique(near), key=lambda label: light[labels == label].sum())


def _moments(weights, east, north):
    total = weights.sum()
    x, y = (weights * east).sum() / total, (weights * north).sum() / total
    dx, dy = east - x, north - y
    xx, yy, xy = ((weights * q).sum() / total for q in (dx * dx, dy * dy, dx * dy))
    return x, y, np.array([[xx, xy], [xy, yy]])


def _half_light(radius, sb):
    order = np.argsort(radius)
    growth = np.cumsum(sb[order])
    if not growth[-1] > 0:
        return 0.0, 0.0
    inside = np.searchsorted(np.maximum.accumulate(growth), growth[-1] / 2)
    return float(radius[order][min(inside, len(order) - 1)]), float(growth[-1])
