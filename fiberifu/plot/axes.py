# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Axes on the sky, North up and East left whatever the WCS of what is drawn in them.

Pixels are drawn through an affine map, not resampled: rotated and mirrored images stay as sharp as they were.
"""

from contextlib import contextmanager
from importlib import resources

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.visualization.wcsaxes import WCSAxes
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2D

__all__ = [
    "PREDICTED",
    "corners",
    "draw_compass",
    "draw_scale_bar",
    "hide_ticks",
    "is_predicted",
    "pixel_side",
    "rim",
    "show_all",
    "sky_axes",
    "style",
    "unit_label",
]

PREDICTED = "predicted from image"


@contextmanager
def style():
    """The look of the package's figures, as a context.

    Yields
    ------
    None

    Examples
    --------
    >>> from fiberifu.plot import style
    >>> import matplotlib.pyplot as plt
    >>> with style():
    ...     figure, ax = plt.subplots()
    """
    with (
        resources.as_file(resources.files("fiberifu") / "fiberifu.mplstyle") as path,
        plt.style.context(path),
    ):
        yield


def sky_axes(ax, wcs, shape):
    """Axes with North up and East left, and the transformation from the pixels of ``wcs`` to the display.

    Axes that hold something keep their frame, so that what is drawn next falls on the same sky.
    """
    if ax is not None and not isinstance(ax, WCSAxes):
        raise ValueError(f"ax is {type(ax).__name__}; WCSAxes are needed: plt.subplot(projection=wcs)")
    if ax is None or not ax.has_data():
        frame = _north_up(wcs, shape)
        ax = plt.figure(figsize=(5.4, 4.4)).add_subplot(projection=frame) if ax is None else ax
        ax.reset_wcs(frame)
        for coordinate, name in zip(ax.coords, ("RA (ICRS)", "Dec (ICRS)"), strict=True):
            coordinate.set_axislabel(name, minpad=0.6)
            coordinate.set_ticks(number=4)
    return ax, _affine(wcs, shape, ax.wcs) + ax.transData


def _north_up(wcs, shape):
    """A TAN WCS about the middle of an image, which is pixel 0: North up, East left, the image's pixel scale."""
    middle = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2).icrs
    side = np.sqrt(proj_plane_pixel_area(wcs))
    frame = WCS(naxis=2)
    frame.wcs.ctype, frame.wcs.cunit, frame.wcs.radesys = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], "ICRS"
    frame.wcs.crval, frame.wcs.crpix, frame.wcs.cdelt = [middle.ra.deg, middle.dec.deg], [1, 1], [-side, side]
    frame.wcs.set()
    return frame


def _affine(wcs, shape, frame):
    """Affine map of pixels to pixels: exact between planes about one tangent point, else nearly so."""
    ny, nx = shape
    x, y = frame.world_to_pixel(wcs.pixel_to_world([0, nx, 0], [0, 0, ny]))
    return Affine2D(
        [
            [(x[1] - x[0]) / nx, (x[2] - x[0]) / ny, x[0]],
            [(y[1] - y[0]) / nx, (y[2] - y[0]) / ny, y[0]],
            [0, 0, 1],
        ]
    )


def corners(shape):
    """Outer corners of an image in its pixels, shape (4, 2)."""
    ny, nx = shape
    return np.array([[0, 0], [nx, 0], [nx, ny], [0, ny]]) - 0.5


def show_all(ax, shape, transform):
    """Set limits that hold the whole image."""
    x, y = (transform - ax.transData).transform(corners(shape)).T
    ax.set_xlim(x.min(), x.max())
    ax.set_ylim(y.min(), y.max())


def pixel_side(ax):
    """Side of a display pixel in arcsec."""
    return np.sqrt(proj_plane_pixel_area(ax.wcs)) * 3600


def draw_scale_bar(ax, redshift=None, color="white", around="0.15"):
    """A bar of a round number of arcsec, with its length in kpc (Planck 2018) if there is a redshift."""
    width = np.ptp(ax.get_xlim()) * pixel_side(ax)
    length = max((s for s in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300) if s < 0.3 * width), default=0.5)
    label = f"{length:g}″"
    if redshift:
        from astropy.cosmology import Planck18

        label += f"  {length / Planck18.arcsec_per_kpc_proper(redshift).value:.2g} kpc"
    both = {"color": color, "transform": ax.transAxes}
    ax.plot([0.05, 0.05 + length / width], [0.05, 0.05], lw=1.6, path_effects=rim(3.2, around), **both)
    ax.text(0.045, 0.07, label, fontsize=7.5, va="bottom", path_effects=rim(1.8, around), **both)


def draw_compass(ax):
    """Arrows to North and East in the upper right corner."""
    for name, (x, y) in {"N": (0, 1), "E": (-1, 0)}.items():
        ax.annotate(
            name,
            (0.93, 0.83),
            (0.93 + 0.13 * x, 0.83 + 0.13 * y),
            xycoords="axes fraction",
            color="white",
            fontsize=8,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "<-", "color": "white", "lw": 1, "shrinkA": 1, "shrinkB": 0},
        )


def hide_ticks(ax):
    """No ticks and no labels: for small panels with a scale bar."""
    for coordinate in ax.coords:
        coordinate.set_ticks_visible(False)
        coordinate.set_ticklabel_visible(False)
        coordinate.set_axislabel("")


def rim(width, color="0.15"):
    """An outline, so that lines and letters are seen on any colour."""
    return [withStroke(linewidth=width, foreground=color)]


def unit_label(unit):
    """A unit as printed beside an axis; empty for pure numbers."""
    if unit in (None, u.dimensionless_unscaled):
        return ""
    return u.Unit(unit).to_string("latex_inline").replace(r"1 \times ", "").replace(r"\mathring{A}", "Å")


def is_predicted(meta):
    """Whether metadata say that the data were predicted."""
    datatype = getattr(meta.get("provenance"), "datatype", meta.get("DATATYPE"))
    return "prediction" in meta or datatype == "PREDICTED"
