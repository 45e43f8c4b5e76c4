"""The simulated universe with units: what is chosen is seen, and what is seen is where the sky says."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import InverseVariance
from specutils import Spectrum

from fiberifu.cube import spaxel_positions
from fiberifu.image import prepare_image
from fiberifu.lines import LineMaps
from fiberifu.provenance import is_predicted
from fiberifu.simulate import (
    IFU,
    FibreSpectrograph,
    Galaxy,
    Imager,
    SimConfig,
    Simulator,
    analytic_template_pack,
    observe_manga,
)


@pytest.fixture(scope="module")
def simulator():
    return Simulator(analytic_template_pack(), SimConfig(jitter=0.0))


@pytest.fixture(scope="module")
def galaxy(simulator):
    labels = {"neighbour": False, "quenched": False, "spheroid": False, "decoupled": False}
    return Galaxy(
        seed=1, index=2, redshift=0.04, log_mass=10.4, inclination=55 * u.deg, position_angle=30 * u.deg,
        effective_radius=4 * u.arcsec, star_formation_rate=3 * u.Msun / u.yr, labels=labels, simulator=simulator,
    )  # fmt: skip


def test_choices_are_kept(galaxy, simulator):
    assert galaxy.redshift == 0.04 and galaxy.log_mass == pytest.approx(10.4)
    assert galaxy.inclination == 55 * u.deg
    assert u.isclose(galaxy.position_angle, 30 * u.deg)
    assert u.isclose(galaxy.effective_radius, 4 * u.arcsec, rtol=1e-5)
    assert u.isclose(galaxy.star_formation_rate, 3 * u.Msun / u.yr, rtol=1e-5)
    assert "neighbour" not in galaxy.labels
    np.testing.assert_allclose(galaxy.scene["g"]["redshift"], 0.04)
    assert Galaxy(1, 2, simulator=simulator, labels={"agn": True}).labels.count("agn") == 1
    # what is not chosen is drawn, the same every time, and the universe is not changed by choices
    plain = Galaxy(1, 2, simulator=simulator)
    assert plain.redshift == Galaxy(1, 2, simulator=simulator).redshift != 0.04
    assert plain.redshift == pytest.approx(float(simulator.scene(1, [2])["g"]["redshift"]), abs=1e-6)
    assert Galaxy(1, 3, simulator=simulator).center.separation(plain.center) > 1 * u.arcmin


def test_farther_is_fainter_and_smaller(simulator):
    near, far = (Galaxy(1, 2, redshift=z, simulator=simulator) for z in (0.05, 0.1))
    assert far.magnitudes["r"].value - near.magnitudes["r"].value == pytest.approx(5 * np.log10(2.07), abs=0.35)
    assert far.effective_radius < 0.65 * near.effective_radius
    heavy = Galaxy(1, 2, redshift=0.05, log_mass=near.log_mass + 0.5, simulator=simulator)
    assert 0.8 < near.magnitudes["r"].value - heavy.magnitudes["r"].value < 1.5
    wide = Galaxy(1, 2, redshift=0.05, effective_radius=5 * u.kpc, simulator=simulator)
    assert u.isclose(wide.effective_radius, 5.113 * u.arcsec, rtol=0.01)  # 0.978 kpc per arcsec


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"redshift": 2.0}, "redshift: got 2.0"),
        ({"log_mass": 3.0}, "log_mass: got 3.0"),
        ({"inclination": 120 * u.deg}, "inclination: got 120"),
        ({"inclination": 3 * u.km}, "inclination: got 3.0 km"),
        ({"effective_radius": 40 * u.arcsec}, "effective_radius: got 40.0 arcsec"),
        ({"effective_radius": 4 * u.s}, "effective_radius: got 4.0 s"),
        ({"star_formation_rate": -1 * u.Msun / u.yr}, "star_formation_rate: got -1"),
        ({"labels": {"blue": True}}, "labels: got 'blue'"),
        ({"galactic_ebv": -1}, "galactic_ebv: got -1"),
    ],
)
def test_bad_choices(simulator, choice, message):
    with pytest.raises(ValueError, match=message):
        Galaxy(1, 2, simulator=simulator, **choice)


def test_images(galaxy):
    image = Imager.decals().observe(galaxy, stars=0)
    assert list(image) == ["g", "r", "z"]
    for band, ccd in image.items():
        assert ccd.unit == u.nmgy and ccd.shape == (128, 128) and isinstance(ccd.uncertainty, InverseVariance)
        assert ccd.meta["FILTER"] == f"DECam {band}" and ccd.meta["REDSHIFT"] == 0.04
        assert ccd.meta["DATATYPE"] == "SIMULATED" and not is_predicted(ccd.meta)
        centre = ccd.wcs.pixel_to_world(63.5, 63.5)
        assert centre.separation(galaxy.center) < 0.01 * u.arcsec
        east = ccd.wcs.world_to_pixel(galaxy.center.directional_offset_by(90 * u.deg, 5 * u.arcsec))
        assert east[0] < 63.5 - 15
    total = 22.5 - 2.5 * np.log10(np.sum(image["r"].data))
    assert total == pytest.approx(galaxy.magnitudes["r"].value, abs=0.1)
    assert Imager.des().observe(galaxy, size=20 * u.arcsec)["z"].shape == (76, 76)
    prepared = prepare_image(image)  # what VirtualIFU makes of it
    assert prepared.meta["REDSHIFT"] == 0.04 and list(prepared.present) == [True, True, False, True]


def test_fibres(galaxy):
    turn = [0, 90, 180, 270] * u.deg
    positions = galaxy.center.directional_offset_by(turn, 3 * u.arcsec).reshape(2, 2)
    spectra = FibreSpectrograph.desi().observe(galaxy, positions, exposure=1 * u.h)
    assert isinstance(spectra, Spectrum) and spectra.shape == (2, 2, 7781)
    assert spectra.meta["provenance"].datatype == "SIMULATED" and spectra.meta["provenance"].seed == 1
    assert spectra.meta["table"]["psf_to_fiber_specflux"].shape == (4,)
    assert spectra.spectral_axis[0] == 3600 * u.AA and spectra.meta["redshift"] == 0.04
    where = SkyCoord(spectra.meta["table"]["fiber_ra"], spectra.meta["table"]["fiber_dec"], unit="deg")
    assert where.separation(positions.ravel()).max() < 0.6 * u.arcsec
    one = FibreSpectrograph.desi().observe(galaxy, noise=False)
    assert one.shape == (7781,)
    longer = FibreSpectrograph.desi().observe(galaxy, exposure=4000 * u.s)
    shorter = FibreSpectrograph.desi().observe(galaxy, exposure=1000 * u.s)
    ratio = np.median(longer.uncertainty.array) / np.median(shorter.uncertainty.array)
    assert 3 < ratio < 6
    with pytest.raises(ValueError, match="exposure: got 3.0 arcsec"):
        FibreSpectrograph.desi().observe(galaxy, exposure=3 * u.arcsec)


def test_cube(galaxy):
    cube, truth = IFU.manga(fibers=37).observe(galaxy, seeing=1.3 * u.arcsec)
    assert isinstance(cube, Spectrum) and cube.shape == (4563, 44, 44) and cube.flux.dtype == np.float32
    assert cube.wcs.naxis == 3 and cube.mask.dtype == bool
    assert cube.meta["provenance"].datatype == "SIMULATED" and cube.meta["redshift"] == 0.04
    np.testing.assert_array_equal(cube.mask, (cube.meta["drp_mask"] & 1 << 10) > 0)
    assert isinstance(truth, LineMaps) and truth.shape == cube.shape[1:]
    middle = spaxel_positions(cube)[21:23, 21:23]
    assert middle.separation(galaxy.center).max() < 0.36 * u.arcsec
    # the receding side is where the position angle says: 30 degrees from North to East, so up and left
    velocity = np.ma.masked_invalid(truth.velocity["Ha"].data)
    sky = spaxel_positions(cube)
    angle, distance = galaxy.center.position_angle(sky), galaxy.center.separation(sky)
    ring = (distance > 3 * u.arcsec) & (distance < 6 * u.arcsec)
    receding = ring & (np.cos((angle - 30 * u.deg).value) > 0.9)
    approaching = ring & (np.cos((angle - 210 * u.deg).value) > 0.9)
    assert velocity[receding].mean() > 30 > -30 > velocity[approaching].mean()
    # the truth lies on what is measured: H-alpha by sums in a box around the line
    longer, _ = IFU.manga(fibers=37).observe(galaxy, exposure=4.5 * u.h)
    assert np.median(longer.uncertainty.array[2000][~longer.mask[2000]]) == pytest.approx(
        2 * np.median(cube.uncertainty.array[2000][~cube.mask[2000]]), rel=0.1
    )
    with pytest.raises(ValueError, match="fibers: got 20"):
        IFU.manga(fibers=20)


def test_true_line_maps(galaxy):
    """A wide PSF moves light about and keeps it; the cube's own truth has less of it at its ragged edge."""
    sharp, wide = (galaxy.line_maps(size=30 * u.arcsec, psf=p * u.arcsec).flux["Ha"].data for p in (1.0, 2.5))
    assert wide.max() < sharp.max()
    assert wide.sum() == pytest.approx(sharp.sum(), rel=0.02)


def test_survey_galaxies_are_those_of_the_api(simulator):
    """`observe_manga` and `Galaxy` show the same galaxy."""
    cube = next(iter(observe_manga(simulator, 2, 0, 1, noise=False)))
    galaxy = Galaxy(2, cube.table["galaxy"], simulator=simulator)
    assert galaxy.redshift == pytest.approx(cube.table["redshift"], abs=1e-6)
    assert SkyCoord(*cube.center, unit="deg").separation(galaxy.center) < 0.01 * u.arcsec
