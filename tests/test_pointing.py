# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions, apertures and redshifts: what is taken, and what is refused in which words."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.uncertainty import normal

from fiberifu.flags import Flag
from fiberifu.pointing import Fiber, Gaussian, Spaxel, resolve_aperture, resolve_positions
from fiberifu.redshift import resolve_redshift

CENTER = SkyCoord(150.1, 33.0, unit="deg")


def test_positions_of_any_frame_and_shape():
    sky = SkyCoord([[10, 11, 12], [13, 14, 15]], [[1, 2, 3], [4, 5, 6]], unit="deg")
    positions = resolve_positions(sky.galactic)
    assert positions.shape == (2, 3) and len(positions) == 6 and positions.sky.frame.name == "icrs"
    assert positions.sky.separation(sky.ravel()).arcsec.max() < 1e-6
    single = resolve_positions(SkyCoord(10 * u.deg, 1 * u.deg, distance=3 * u.Mpc))
    assert single.shape == () and len(single) == 1


def test_regions():
    regions = pytest.importorskip("regions")
    assert resolve_positions(regions.PointSkyRegion(CENTER)).shape == ()
    circle = resolve_positions(regions.CircleSkyRegion(CENTER, 3 * u.arcsec), spaxel=0.5 * u.arcsec)
    np.testing.assert_allclose(len(circle), np.pi * 9 / 0.25, rtol=0.05)
    assert circle.sky.separation(CENTER).arcsec.max() <= 3.0
    box = resolve_positions(regions.RectangleSkyRegion(CENTER, 4 * u.arcsec, 2 * u.arcsec), spaxel=0.5 * u.arcsec)
    east, north = CENTER.spherical_offsets_to(box.sky)
    assert np.ptp(east.arcsec) > 2.9 > 2.1 > np.ptp(north.arcsec)
    corners = CENTER.spherical_offsets_by([-2, 2, 0] * u.arcsec, [-2, -2, 2] * u.arcsec)
    triangle = resolve_positions(regions.PolygonSkyRegion(corners), spaxel=0.25 * u.arcsec)
    np.testing.assert_allclose(len(triangle), 8 / 0.0625, rtol=0.1)
    annulus = regions.CircleAnnulusSkyRegion(CENTER, 1 * u.arcsec, 2 * u.arcsec)
    with pytest.raises(ValueError, match="no grid point of 9 arcsec"):
        resolve_positions(annulus, spaxel=9 * u.arcsec)
    with pytest.raises(ValueError, match="give a sky region"):
        resolve_positions(regions.CirclePixelRegion(regions.PixCoord(1, 1), 3))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (SkyCoord([], [], unit="deg"), "empty SkyCoord"),
        ((10, 20), "must be a SkyCoord or a regions sky region, got tuple; for example"),
        (SkyCoord([10, np.nan], [1, 2], unit="deg"), "not finite"),
    ],
)
def test_bad_positions(positions, message):
    with pytest.raises(ValueError, match=message):
        resolve_positions(positions)


def test_apertures():
    assert resolve_aperture() == Fiber(1.5 * u.arcsec)
    assert resolve_aperture(2 * u.arcsec).diameter == 2 * u.arcsec
    np.testing.assert_allclose(resolve_aperture(1 * u.arcmin).area.value, np.pi * 900)
    assert Spaxel(0.5 * u.arcsec).area == 0.25 * u.arcsec**2
    np.testing.assert_allclose(Gaussian(2 * u.arcsec).area.value, 2 * np.pi * (2 / 2.35482) ** 2, rtol=1e-5)
    assert resolve_aperture(Spaxel(1 * u.arcsec)) == Spaxel(1 * u.arcsec)
    for wrong in (1.5, "fibre", -1 * u.arcsec, 3 * u.m, [1, 2] * u.arcsec):
        with pytest.raises(ValueError, match="aperture"):
            resolve_aperture(wrong)
    with pytest.raises(ValueError, match="side must be"):
        Spaxel(0.5)


def test_redshift_nodes():
    one = resolve_redshift(0.03)
    assert one.z.tolist() == [0.03] and one.weights.tolist() == [1] and one.sigma == 0 and one.flags == 0
    assert one.source == "argument" and len(one) == 1 and one.mean == 0.03
    narrow = resolve_redshift((0.1, 5e-4))
    assert len(narrow) == 1 and narrow.sigma == 5e-4
    wide = resolve_redshift((0.1, 0.01))
    assert len(wide) == 7 and (wide.sigma > 0).all()
    assert wide.mean == pytest.approx(0.1, abs=1e-5)
    assert wide.spread == pytest.approx(0.01, rel=0.2)
    # one smooth bump, not a comb: neighbouring nodes overlap
    assert (np.diff(wide.z) <= 2.001 * np.minimum(wide.sigma[1:], wide.sigma[:-1])).all()
    near = resolve_redshift((0.01, 0.01))
    assert (near.z > 0).all() and near.weights.sum() == pytest.approx(1)
    samples = normal(0.2, std=0.02, n_samples=2000)
    spread = resolve_redshift(samples)
    assert len(spread) == 7 and spread.mean == pytest.approx(0.2, abs=2e-3)
    assert len(resolve_redshift(normal(0.2, std=1e-5, n_samples=100))) == 1


def test_redshift_from_the_header():
    assert resolve_redshift(None, {}) is None and resolve_redshift() is None
    got = resolve_redshift(None, {"REDSHIFT": "0.05"})
    assert got.mean == 0.05 and "REDSHIFT" in got.source
    with pytest.raises(ValueError, match=r"redshift \(from image.meta\['REDSHIFT'\]\) must be finite"):
        resolve_redshift(None, {"REDSHIFT": np.nan})


@pytest.mark.parametrize("z", [0.001, 0.7])
def test_redshift_outside_the_training_range(z):
    assert resolve_redshift(z).flags == Flag.REDSHIFT_RANGE


@pytest.mark.parametrize(
    ("redshift", "message"),
    [
        (np.nan, "redshift must be finite"),
        (np.inf, "redshift must be finite"),
        (0.0, "redshift must be positive"),
        (-0.1, "redshift must be positive"),
        (3.0, "cannot be rendered"),
        ("near", "must be a number"),
        (True, "must be one number"),
        (np.array([0.1, 0.2]), "must be one number"),
        ((0.1, 0.01, 0.02), "got 3 values"),
        ((0.1, -1.0), "sigma must be finite and not negative"),
        (normal([0.1, 0.2], std=0.01, n_samples=10), "one Distribution"),
    ],
)
def test_bad_redshift(redshift, message):
    with pytest.raises(ValueError, match=message):
        resolve_redshift(redshift)
