# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where and through what to look: positions and apertures, checked and converted once."""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

__all__ = [
    "Fiber",
    "Gaussian",
    "Positions",
    "Spaxel",
    "resolve_aperture",
    "resolve_positions",
]


# ---------------------------------------------------------------- positions
@dataclass(frozen=True)
class Positions:
    """Sky positions, flattened, with the shape in which they came.

    Attributes
    ----------
    sky : SkyCoord
        ICRS, shape (N,).
    shape : tuple of int
        Shape of the input; ``()`` for a single position. The flattened order is C order.
    """

    sky: SkyCoord
    shape: tuple

    def __len__(self):
        return len(self.sky)


def resolve_positions(positions, *, spaxel=0.5 * u.arcsec):
    """Turn whatever names places on the sky into ICRS positions.

    Parameters
    ----------
    positions : SkyCoord or `regions.SkyRegion`
        Any frame and any shape. A point region gives its centre; a region with an
        area gives the points of a North-up grid inside it.
    spaxel : Quantity
        Step of that grid.

    Returns
    -------
    Positions

    Raises
    ------
    ValueError
        If ``positions`` is neither, is empty, is not finite, or if no grid point
        falls inside the region.
    """
    if isinstance(positions, SkyCoord):
        if positions.size == 0:
            raise ValueError("positions is an empty SkyCoord; give at least one position")
        sky = positions.icrs
        if not (np.all(np.isfinite(sky.ra.deg)) and np.all(np.isfinite(sky.dec.deg))):
            raise ValueError("positions holds coordinates that are not finite; drop them first")
        # Rebuilt without distance and velocity: only the direction matters here.
        return Positions(SkyCoord(sky.ra.ravel(), sky.dec.ravel(), frame="icrs"), sky.shape)
    if _is_region(positions):
        return _region_positions(positions, spaxel)
    raise ValueError(
        f"positions must be a SkyCoord or a regions sky region, got {type(positions).__name__}; "
        "for example SkyCoord([27.95, 27.96], [0.26, 0.27], unit='deg')"
    )


def _is_region(obj):
    # Tested by module name first, so that a plain SkyCoord does not import regions.
    if not type(obj).__module__.startswith("regions"):
        return False
    import regions

    if isinstance(obj, regions.SkyRegion):
        return True
    raise ValueError(f"positions is a {type(obj).__name__}; give a sky region (region.to_sky(wcs) makes one)")


def _region_positions(region, spaxel):
    import regions

    if isinstance(region, regions.PointSkyRegion):
        return resolve_positions(region.center)
    step = _angle(spaxel, "spaxel")
    center = getattr(region, "center", None)
    if center is None:  # polygons have vertices only
        mean = region.vertices.icrs.cartesian.mean()
        center = SkyCoord(mean, frame="icrs", representation_type="cartesian")
        center.representation_type = "unitspherical"
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [center.icrs.ra.deg, center.icrs.dec.deg]
    wcs.wcs.cdelt = [step / 3600, step / 3600]
    wcs.wcs.crpix = [1, 1]
    pixel = region.to_pixel(wcs)
    box = pixel.bounding_box
    iy, ix = np.mgrid[box.iymin : box.iymax, box.ixmin : box.ixmax]
    inside = pixel.contains(regions.PixCoord(ix, iy))
    if not inside.any():
        raise ValueError(
            f"positions: no grid point of {step:.3g} arcsec falls inside the {type(region).__name__}; "
            "use a smaller spaxel or give its centre"
        )
    return resolve_positions(wcs.pixel_to_world(ix[inside], iy[inside]))


# ---------------------------------------------------------------- apertures
def _angle(value, name):
    """Check a positive angle and return it in arcsec."""
    try:
        arcsec = u.Quantity(value).to_value(u.arcsec)
    except (u.UnitConversionError, TypeError):
        raise ValueError(f"{name} must be an angle, got {value!r}; for example 1.5 * u.arcsec") from None
    if np.ndim(arcsec) != 0 or not (np.isfinite(arcsec) and arcsec > 0):
        raise ValueError(f"{name} must be one positive finite angle, got {value!r}")
    return float(arcsec)


@dataclass(frozen=True)
class Fiber:
    """A round fibre.

    Parameters
    ----------
    diameter : Quantity
        1.5 arcsec for DESI, 2 for MaNGA, 3 for SDSS.
    """

    diameter: u.Quantity = 1.5 * u.arcsec

    def __post_init__(self):
        _angle(self.diameter, "diameter")

    @property
    def area(self):
        """Solid angle on the sky, arcsec2."""
        return np.pi / 4 * self.diameter.to(u.arcsec) ** 2


@dataclass(frozen=True)
class Spaxel:
    """A square spaxel, North up.

    Parameters
    ----------
    side : Quantity
        Length of a side.
    """

    side: u.Quantity

    def __post_init__(self):
        _angle(self.side, "side")

    @property
    def area(self):
        """Solid angle on the sky, arcsec2."""
        return self.side.to(u.arcsec) ** 2


@dataclass(frozen=True)
class Gaussian:
    """A round Gaussian weight with peak 1.

    Parameters
    ----------
    fwhm : Quantity
        Full width at half maximum.
    """

    fwhm: u.Quantity

    def __post_init__(self):
        _angle(self.fwhm, "fwhm")

    @property
    def area(self):
        """Integral of the weight, pi fwhm^2 / (4 ln 2), arcsec2."""
        return np.pi / (4 * np.log(2)) * self.fwhm.to(u.arcsec) ** 2


def resolve_aperture(aperture=None):
    """Turn an aperture into one of `Fiber`, `Spaxel`, `Gaussian`.

    Parameters
    ----------
    aperture : Quantity, Fiber, Spaxel, Gaussian or None
        An angle is a fibre's diameter; None is DESI's 1.5 arcsec.

    Raises
    ------
    ValueError
        If it is something else or not positive.
    """
    if aperture is None:
        return Fiber()
    if isinstance(aperture, (Fiber, Spaxel, Gaussian)):
        return aperture
    if not isinstance(aperture, u.Quantity):
        raise ValueError(
            f"aperture must be a fibre diameter such as 1.5 * u.arcsec, or Spaxel(side) or "
            f"Gaussian(fwhm), got {aperture!r}"
        )
    _angle(aperture, "aperture")
    return Fiber(aperture)
