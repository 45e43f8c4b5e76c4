# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The image in natural colours, with what is observed drawn over it."""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.visualization import make_lupton_rgb
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Polygon

from .axes import corners, draw_compass, draw_scale_bar, pixel_side, rim, show_all, sky_axes, style

__all__ = ["mark_fibers", "plot_pointing"]

# Weights that make a galaxy look natural: those of the Legacy Surveys viewer (legacysurvey/imagine, dr2_rgb).
WEIGHTS = {"g": 6.0, "r": 3.4, "i": 3.0, "z": 2.2}


def plot_pointing(
    image,
    where=None,
    *,
    ax=None,
    aperture=1.5 * u.arcsec,
    shape=None,
    size=None,
    color="white",
    redshift=None,
):
    """The image in natural colours, North up, East left, with a cube's footprint or fibres to scale.

    Parameters
    ----------
    image : mapping of str to `~astropy.nddata.CCDData`, or `~fiberifu.image.PreparedImage`
        The bands of a mapping must share one grid.  Three bands or more make a colour picture (Lupton et al.
        2004, PASP 116, 133), fewer a grey one.
    where : `~astropy.coordinates.SkyCoord` or `~astropy.wcs.WCS`, optional
        Fibre positions, or the WCS of a cube or of its maps.
    ax : `~astropy.visualization.wcsaxes.WCSAxes`, optional
        A new figure by default.
    aperture : `~astropy.units.Quantity`
        Diameter of the fibres.
    shape : (int, int), optional
        ``(ny, nx)`` of the footprint; by default that of ``where.array_shape``.
    size : `~astropy.units.Quantity`, optional
        Side of the field shown, about the middle of ``where``; the whole image by default.
    color : color or sequence of color
        Of the footprint or the fibres.
    redshift : float, optional
        For a scale bar in kpc.

    Returns
    -------
    `~astropy.visualization.wcsaxes.WCSAxes`

    Raises
    ------
    ValueError
        If the image has no known band or bands on different grids, or if the footprint's shape is unknown.
    """
    picture, wcs = _picture(image)
    with style():
        ax, transform = sky_axes(ax, wcs, picture.shape[:2])
        ax.set_facecolor("0.25")
        ax.imshow(picture, transform=transform, interpolation="nearest")
        show_all(ax, picture.shape[:2], transform)
        if where is not None:
            mark = mark_fibers if isinstance(where, SkyCoord) else _mark_footprint
            x, y = mark(ax, where, aperture if isinstance(where, SkyCoord) else shape, color)
            if size is not None:
                _zoom(ax, x, y, size)
        draw_scale_bar(ax, redshift)
        draw_compass(ax)
        for coordinate in ax.coords:
            coordinate.set_ticks(color="white", number=4)
    return ax


def mark_fibers(ax, positions, diameter, color):
    """Circles to scale; returns their places in display pixels."""
    x, y = (np.ravel(c) for c in ax.wcs.world_to_pixel(positions))
    width = np.full(x.size, diameter.to_value(u.arcsec) / pixel_side(ax))
    ax.add_collection(
        EllipseCollection(
            width,
            width,
            0 * width,
            units="xy",
            offsets=np.c_[x, y],
            facecolor="none",
            offset_transform=ax.transData,
            edgecolor=color,
            lw=1.4,
            zorder=3,
            path_effects=rim(2.4),
        )
    )
    return x, y


def _mark_footprint(ax, wcs, shape, color):
    if shape is None and wcs.array_shape is None:
        raise ValueError("where is a WCS without array_shape; give shape=(ny, nx)")
    shape = wcs.array_shape[-2:] if shape is None else shape
    x, y = ax.wcs.world_to_pixel(wcs.celestial.pixel_to_world(*corners(shape).T))
    ax.add_patch(Polygon(np.c_[x, y], facecolor="none", edgecolor=color, lw=1, ls="--", zorder=3))
    return x, y


def _zoom(ax, x, y, size):
    half = size.to_value(u.arcsec) / pixel_side(ax) / 2
    x, y = ((np.nanmax(c) + np.nanmin(c)) / 2 for c in (x, y))
    ax.set_xlim(x - half, x + half)
    ax.set_ylim(y - half, y + half)


def _picture(image):
    """Picture of shape (ny, nx, 3) with values from 0 to 1, and its WCS."""
    if hasattr(image, "sb"):
        planes = {band: image.sb[i] for i, band in enumerate(image.bands) if image.present[i]}
        wcs = image.wcs
    else:
        planes = {band: ccd.data for band, ccd in image.items()}
        wcs = next((ccd.wcs for band, ccd in image.items() if band in WEIGHTS), None)
    planes = {band: np.nan_to_num(np.asarray(planes[band], float) * WEIGHTS[band]) for band in "griz" if band in planes}
    if not planes or len({plane.shape for plane in planes.values()}) > 1:
        found = {band: plane.shape for band, plane in planes.items()} or list(image)
        raise ValueError(
            f"image has {found}; it must have at least one of {', '.join(WEIGHTS)}, all of one shape "
            "(the image of a prediction does)"
        )
    bands = list(planes)
    chosen = [bands[-1], bands[len(bands) // 2], bands[0]] if len(bands) > 2 else bands[-1:] * 3
    red, green, blue = (planes[band] for band in chosen)
    mean = (red + green + blue) / 3
    lit = mean[mean != 0]  # exact zeros are missing
    noise = 1.4826 * np.median(np.abs(lit - np.median(lit))) if lit.size else 0.0
    # At Q = 8 white is at about 100 times the stretch: galaxies bright, the noise of the sky near black.
    stretch = max(np.percentile(mean, 99.8) / 30, 8 * noise, 1e-12)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there is no light at all
        return make_lupton_rgb(red, green, blue, minimum=-noise, stretch=stretch, Q=8) / 255.0, wcs
