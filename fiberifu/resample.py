# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The canonical grid and the way onto it: North up, East with the column index, 0.262 arcsec.

Images that are already North-up at the right scale are copied pixel by pixel (flipped
if need be); everything else is resampled with cubic splines, conserving surface brightness.
"""

from dataclasses import dataclass

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter

__all__ = ["Grid", "canonical_grid", "fill_bad", "pixel_map", "resample", "same_wcs"]

_EXACT = 1e-3  # pixels: below this an offset is rounding
_MAX_SIDE = 16384


@dataclass(frozen=True)
class Grid:
    """The canonical pixel grid.

    Attributes
    ----------
    wcs : WCS
        TAN, positive CDELT1 and CDELT2.
    shape : tuple of int
        (ny, nx).
    scale : float
        Pixel side in arcsec.
    """

    wcs: WCS
    shape: tuple
    scale: float


@dataclass(frozen=True)
class PixelMap:
    """Input pixel coordinates of every canonical pixel.

    Attributes
    ----------
    x, y : ndarray of float64, (ny, nx)
        Zero-based input column and row of the canonical pixel centres.
    jacobian : ndarray, (2, 2)
        d(x, y) / d(column, row) at the grid centre.
    """

    x: np.ndarray
    y: np.ndarray
    jacobian: np.ndarray

    @property
    def is_copy(self):
        """Whether the map is a shift by whole pixels, possibly with flips."""
        flips = np.round(self.jacobian)
        if not (abs(flips[0, 0]) == abs(flips[1, 1]) == 1 and flips[0, 1] == flips[1, 0] == 0):
            return False
        iy, ix = np.indices(self.x.shape)
        return all(
            np.ptp(value - sign * index) < 2 * _EXACT and abs(value[0, 0] - round(value[0, 0])) < _EXACT
            for value, sign, index in ((self.x, flips[0, 0], ix), (self.y, flips[1, 1], iy))
        )


# ---------------------------------------------------------------- the grid
def canonical_grid(bands, reference, scale):
    """Grid that covers all bands.

    Parameters
    ----------
    bands : mapping of str to object
        Values have ``wcs`` and ``shape``.
    reference : str
        Band that decides the tangent point: its own if it is already North-up at this
        scale (so that it can be copied), else its centre.
    scale : float
        Pixel side in arcsec.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If a band does not overlap the reference, or if the grid would be absurdly large.
    """
    ref = bands[reference]
    wcs = _shared_tangent(ref.wcs, ref.shape, scale)
    if wcs is None:
        cy, cx = (ref.shape[0] - 1) / 2, (ref.shape[1] - 1) / 2
        center = ref.wcs.pixel_to_world(cx, cy).icrs
        wcs = _tan_wcs([center.ra.deg, center.dec.deg], [1.0, 1.0], [scale / 3600] * 2)
    boxes = {name: _bounding_box(band, wcs) for name, band in bands.items()}
    for name, box in boxes.items():
        low = np.maximum(box[0], boxes[reference][0])
        high = np.minimum(box[1], boxes[reference][1])
        if not np.all(high - low > 0.5):
            raise ValueError(
                f"image: bands {reference!r} and {name!r} do not overlap on the sky; "
                "check their WCS or pass them one at a time"
            )
    # Pixels whose centre lies within a footprint.
    first = np.ceil(np.min([box[0] for box in boxes.values()], axis=0) - _EXACT).astype(int)
    last = np.floor(np.max([box[1] for box in boxes.values()], axis=0) + _EXACT).astype(int)
    nx, ny = (int(n) for n in last - first + 1)
    if max(nx, ny) > _MAX_SIDE:
        raise ValueError(
            f"image spans {nx} x {ny} pixels of {scale} arcsec, more than {_MAX_SIDE} a side; cut it first"
        )
    wcs.wcs.crpix = wcs.wcs.crpix - first
    wcs.wcs.set()
    wcs.array_shape = (ny, nx)
    return Grid(wcs, (ny, nx), scale)


def _tan_wcs(crval, crpix, cdelt):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = crval, crpix, cdelt
    wcs.wcs.set()
    return wcs


def _shared_tangent(wcs, shape, scale):
    """The canonical WCS on the image's own tangent point, if that makes an exact copy."""
    # Without a projection code the projection is not TAN; SIP and tables bend the grid.
    if list(wcs.wcs.ctype) != ["RA---TAN", "DEC--TAN"] or wcs.sip is not None or wcs.has_distortion:
        return None
    matrix = wcs.pixel_scale_matrix * 3600
    size, sides = max(shape), np.abs(np.diag(matrix))
    off = max(abs(matrix[0, 1]), abs(matrix[1, 0]), *np.abs(sides - scale))
    if off * size / scale > _EXACT:
        return None
    frame = wcs_to_celestial_frame(wcs)
    if frame.name not in ("icrs", "fk5") or getattr(frame, "equinox", "J2000") != "J2000":
        return None
    # Far from the tangent point, near a pole, grid North and local North differ.
    cy, cx = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    here, up = wcs.pixel_to_world([cx, cx], [cy, cy + np.sign(matrix[1, 1])])
    angle = here.position_angle(up).wrap_at("180d").deg
    if abs(angle) > 0.25:
        return None
    # East has to grow with the column, North with the row: an axis that runs the other way is mirrored.
    crpix = [
        n + 1 - crpix if step < 0 else crpix
        for crpix, step, n in zip(wcs.wcs.crpix, np.diag(matrix), shape[::-1], strict=True)
    ]
    out = _tan_wcs(wcs.wcs.crval, crpix, sides / 3600)
    if frame.name == "fk5":
        out.wcs.radesys = "FK5"
        out.wcs.equinox = 2000.0
        out.wcs.set()
    return out


def _bounding_box(band, wcs):
    """Outline of a band in canonical pixels: ((x, y) lowest, (x, y) highest)."""
    ny, nx = band.shape
    t = np.linspace(0, 1, 33)
    edge_x = np.concatenate([t, t, 0 * t, 0 * t + 1]) * nx - 0.5
    edge_y = np.concatenate([0 * t, 0 * t + 1, t, t]) * ny - 0.5
    xy = np.array(wcs.world_to_pixel(band.wcs.pixel_to_world(edge_x, edge_y)))
    if not np.all(np.isfinite(xy)):
        return np.full(2, np.inf), np.full(2, -np.inf)  # the other side of the sky
    return xy.min(axis=1), xy.max(axis=1)


# ---------------------------------------------------------------- the map
def same_wcs(one, two):
    """Whether two WCS are the same, so that a map can be used twice."""
    if one is two:
        return True
    plain = not (one.has_distortion or two.has_distortion)
    return plain and one.wcs.compare(two.wcs)


def pixel_map(grid, wcs, step=16):
    """Input pixel coordinates of the canonical pixels.

    Parameters
    ----------
    grid : Grid
    wcs : WCS
        Of the input.
    step : int
        The WCS is evaluated every ``step`` pixels and interpolated by a bicubic spline:
        exact to about 1e-6 pixel for any camera's distortion, and fast on large images.

    Returns
    -------
    PixelMap
    """
    ny, nx = grid.shape
    nodes_y, nodes_x = (np.linspace(0, n - 1, max(5, n // step + 1)) for n in (max(ny, 2), max(nx, 2)))
    sky = grid.wcs.pixel_to_world(*np.meshgrid(nodes_x, nodes_y))
    x, y = wcs.world_to_pixel(SkyCoord(sky))
    iy, ix = np.arange(ny), np.arange(nx)
    cy, cx = (ny - 1) / 2, (nx - 1) / 2
    maps, rows = [], []
    for value in (x, y):
        spline = RectBivariateSpline(nodes_y, nodes_x, value)
        maps.append(spline(iy, ix))
        rows.append([spline(cy, cx, dy=1)[0, 0], spline(cy, cx, dx=1)[0, 0]])
    return PixelMap(maps[0], maps[1], np.array(rows))


# ---------------------------------------------------------------- resampling
def fill_bad(data, bad):
    """Replace bad pixels by a smooth continuation of the good ones.

    Needed before splines and convolutions, which would spread a hole; the pixels
    stay marked as bad.
    """
    if not bad.any() or bad.all():
        return np.where(bad, 0.0, data)
    out = np.where(bad, 0.0, data)
    values, good, todo = out.copy(), (~bad).astype(float), bad.copy()
    for sigma in (1.0, 2.0, 4.0, 8.0, 16.0):
        weight = gaussian_filter(good, sigma, mode="constant")
        smooth = gaussian_filter(values, sigma, mode="constant")
        ready = todo & (weight > 0.05)
        out[ready] = smooth[ready] / weight[ready]
        todo &= ~ready
        if not todo.any():
            return out
    out[todo] = np.median(data[~bad])
    return out


def resample(sb, variance, bad, saturated, mapping):
    """Put one band on the canonical grid.

    Parameters
    ----------
    sb, variance : ndarray of float64, (ny, nx)
        Surface brightness and its variance on the input pixels.
    bad, saturated : ndarray of bool, (ny, nx)
    mapping : PixelMap

    Returns
    -------
    sb, variance, bad, saturated, covered : ndarray
        On the grid. ``covered`` is the footprint. The variance is that of an
        uncorrelated image with the same noise power at low frequency: it scales with the
        ratio of pixel areas.
    """
    ny, nx = sb.shape
    x, y = mapping.x, mapping.y
    covered = (x > -0.5 - _EXACT) & (x < nx - 0.5 + _EXACT) & (y > -0.5 - _EXACT) & (y < ny - 0.5 + _EXACT)
    near = (np.clip(np.rint(y).astype(int), 0, ny - 1), np.clip(np.rint(x).astype(int), 0, nx - 1))
    if mapping.is_copy:
        out, out_variance, out_bad, out_saturated = sb[near], variance[near], bad[near], saturated[near]
    else:
        jacobian = mapping.jacobian
        out = _sample(spline_filter(fill_bad(sb, bad), order=3, mode="reflect"), x, y, jacobian)
        # det = input pixels per canonical pixel.
        area_ratio = 1 / abs(np.linalg.det(jacobian))
        filled = fill_bad(variance, bad)
        out_variance = map_coordinates(filled, [y, x], order=1, mode="nearest") * area_ratio
        # A pixel is lost if more than a tenth of its weight comes from a bad one.
        out_bad = map_coordinates(bad.astype(np.float32), [y, x], order=1, mode="nearest") > 0.1
        out_saturated = map_coordinates(saturated.astype(np.float32), [y, x], order=1, mode="nearest") > 0
    out_bad = out_bad | ~covered
    return out, out_variance, out_bad, out_saturated & covered, covered


def _sample(coefficients, x, y, jacobian):
    """Evaluate a cubic spline, averaged over the canonical pixel where the input is finer."""
    # Finer input: averaging sub-positions keeps the flux and avoids aliasing.
    finest = np.linalg.svd(jacobian, compute_uv=False).max()
    n = 1 if finest < 1.1 else int(np.ceil(finest))
    steps = (np.arange(n) + 0.5) / n - 0.5
    total = np.zeros(np.shape(x))
    for row in steps:
        for column in steps:
            dx, dy = jacobian @ (column, row)
            total += map_coordinates(coefficients, [y + dy, x + dx], order=3, mode="reflect", prefilter=False)
    return total / n**2
