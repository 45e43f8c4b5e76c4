# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Matching on the sky: fibres to galaxies, spaxels to fibres; and the census figure."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import WCS

from fiberifu.surveys import match_fibers, spaxel_weights


def places(east, north, center=(150.0, 2.0)):
    center = SkyCoord(*center, unit="deg")
    return center.spherical_offsets_by(np.asarray(east, float) * u.arcsec, np.asarray(north, float) * u.arcsec)


@pytest.fixture
def galaxies():
    return QTable({"position": places([0, 300], [0, 0]), "z": [0.03, np.nan], "r50": [5, 2] * u.arcsec,
                   "axis_ratio": [0.5, 1.0], "position_angle": [0, 0] * u.deg})  # fmt: skip


@pytest.fixture
def fibers():
    # centre, major axis, beyond the ellipse, a star, the centre again, another galaxy, far
    z = np.array([0.03, 0.0303, 0.03, 0.0, 0.03, 0.1, 0.2])
    position = places([0, 0, 9, 1, 0.1, 300, 900], [0, 7, 0, 1, 0, 0, 0])
    return QTable({"targetid": np.arange(10, 17), "position": position,
                   "z": z, "zerr": np.full(7, 3e-5), "zwarn": np.zeros(7, int)})  # fmt: skip


def test_fibers_and_galaxies(fibers, galaxies):
    found = match_fibers(fibers, galaxies)
    kinds = ["central", "off-centre", "unmatched", "other redshift", "central", "central", "unmatched"]
    assert list(found["kind"]) == kinds
    assert list(found["galaxy"]) == [0, 0, -1, -1, 0, 1, -1]
    assert list(found["n_fibers"]) == [3, 3, 0, 0, 3, 1, 0]
    np.testing.assert_allclose(found["radius"][1], 7 / 5, rtol=1e-4)
    np.testing.assert_allclose(found["velocity"][1].value, 299792.458 * 0.0003 / 1.03, rtol=1e-6)
    assert list(np.flatnonzero(found["moving"])) == [1] and list(np.flatnonzero(found["repeat"])) == [4]
    assert found["major_axis"][1]
    census = found.meta["census"]
    assert census["galaxies with two fibers or more"] == 1 and census["moving and off-centre"] == 1
    with pytest.raises(ValueError, match="fibers has no column zwarn"):
        match_fibers(fibers[["position", "z"]], galaxies)


def test_census_figure(fibers, galaxies):
    import matplotlib.pyplot as plt

    from fiberifu.plot import plot_offset_census

    ax = plt.subplots()[1]
    assert plot_offset_census(match_fibers(fibers, galaxies), ax=ax) is ax and len(ax.patches) > 0
    with pytest.raises(ValueError, match="match_fibers"):
        plot_offset_census(galaxies)


def test_spaxels_in_a_fiber():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150, 2], [10.5, 10.5]
    wcs.wcs.cdelt = np.array([-0.5, 0.5]) / 3600
    weights, covered = spaxel_weights(places([0, 5, 900], [0, 0, 0]), wcs, (20, 20), aperture=2 * u.arcsec)
    np.testing.assert_allclose(weights[0].sum(), np.pi / 0.25, rtol=1e-6)
    np.testing.assert_allclose(covered, [1, 0.5, 0], atol=2e-3)
