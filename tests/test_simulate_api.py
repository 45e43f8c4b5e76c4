"""The simulated universe with units: what is chosen is seen, and what is seen is where the sky says."""

import dataclasses
import functools

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.cosmology import units as cu
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from specutils import Spectrum

from fiberifu.cube import spaxel_positions
from fiberifu.image import prepare_image
from fiberifu.lines import LineMaps, read_dap_maps, write_dap_maps
from fiberifu.provenance import Provenance, is_predicted
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
from fiberifu.simulate.chosen import choose
from fiberifu.simulate.files import write_coadd, write_cutout, write_logcube, write_psf, write_truth_maps
from fiberifu.simulate.files.from_api import band_images
from fiberifu.simulate.gas import LINES
from fiberifu.simulate.recipe import Draws
from fiberifu.simulate.survey import STRATA
from fiberifu.surveys import read_legacysurvey, read_manga_cube

SMALL = IFU.manga(fibers=19)
RATE = {"log_mass": 10.0, "redshift": 0.03, "star_formation_rate": 5 * u.Msun / u.yr}


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
        ({"labels": ["agn"]}, r"labels: got \['agn'\]; a dict"),
        ({"labels": {"agn": "no"}}, "labels: got {'agn': 'no'}; a dict"),
        ({"labels": {"quenched": True, "green": True}}, "quenched=True goes with green=False"),
        ({"labels": {"spheroid": True, "edge_on": True}}, "spheroid=True goes with edge_on=False"),
        ({"labels": {"outflow": True, "quenched": True, "agn": False}}, "outflow=True goes with"),
        ({"labels": {"edge_on": True}, "inclination": 60 * u.deg}, "edge_on=True and inclination=60 deg"),
        ({"labels": {"edge_on": False, "spheroid": False}, "inclination": 80 * u.deg}, "edge_on=False and incl"),
        (RATE | {"labels": {"quenched": True}}, "a quenched galaxy, of log_mass 10.00, has at most 0.02 Msun"),
        (RATE | {"labels": {"green": True}}, "a green galaxy, of log_mass 10.00, has 0.02 to"),
        (RATE | {"star_formation_rate": 1e-4 * u.Msun / u.yr, "labels": {"quenched": False}}, "that is not quenched"),
        ({"star_formation_rate": 5}, "star_formation_rate: got 5.0; one finite quantity in solMass / yr"),
        ({"position_angle": np.nan * u.deg}, "position_angle: got nan deg"),
        ({"effective_radius": "wide"}, "effective_radius: got wide"),
        ({"redshift": 3 * u.km}, "redshift: got 3.0 km; a number without a unit"),
        ({"log_mass": 1e10 * u.Msun}, "log_mass: got 10000000000.0 solMass; log10 of solar masses"),
        ({"seed": -1}, "seed: got -1"),
        ({"index": -3}, "index: got -3"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"galactic_ebv": -1}, "galactic_ebv: got -1"),
    ],
)
def test_bad_choices(simulator, choice, message):
    with pytest.raises(ValueError, match=message):
        Galaxy(**{"seed": 1, "index": 2} | choice, simulator=simulator)


def test_numbers_with_and_without_units(simulator):
    for redshift in (0.05 * u.one, 5 * u.percent, 0.05 * cu.redshift):
        assert Galaxy(1, 2, redshift=redshift, simulator=simulator).redshift == 0.05
    assert Galaxy(1, 2, galactic_ebv=0.1 * u.mag, simulator=simulator).galactic_ebv == 0.1


def seen(galaxy):
    """Total H-alpha of a galaxy, and in a fibre on its centre its equivalent width and the break at 4000 A."""
    spectrum = FibreSpectrograph.desi().observe(galaxy, noise=False)
    rest, flux = spectrum.spectral_axis.value / (1 + galaxy.redshift), spectrum.flux.value

    def mean(low, high):
        return flux[(rest > low) & (rest < high)].mean()

    return {
        "ha": galaxy.line_maps(spaxel=1 * u.arcsec, psf=1.5 * u.arcsec).flux["Ha"].data.sum(),
        "ew": spectrum.meta["truth"]["line_ew"][0, LINES.index("Ha")],
        "break": mean(4000, 4100) / mean(3850, 3950),
    }


ALL_LABELS = (*STRATA, "flocculent", "neighbour_is_star", "decoupled_ring")


@pytest.mark.parametrize("index", [0, 2])  # a quenched spheroid, an edge-on disc
@pytest.mark.parametrize("label", ALL_LABELS)
def test_labels_are_realised(simulator, label, index):
    """Every label can be had and refused, is true of the galaxy, and a galaxy that has another one looks different."""
    drawn = Galaxy(1, index, simulator=simulator)
    yes, no = (Galaxy(1, index, labels={label: value}, simulator=simulator) for value in (True, False))
    assert yes._parameters[label] is True and no._parameters[label] is False
    if label not in ("neighbour_is_star", "decoupled_ring"):
        assert label in yes.labels and label not in no.labels
        same = yes if drawn._parameters[label] else no
        assert same._parameters == drawn._parameters
    assert yes.redshift == no.redshift == drawn.redshift
    if label == "neighbour_is_star":
        assert "neighbour" in yes.labels
    if label == "decoupled_ring":
        assert "decoupled" in yes.labels
    maps = [galaxy.line_maps(spaxel=1 * u.arcsec).flux["Ha"].data for galaxy in (yes, no)]
    images = [galaxy.photometry.sharp[0, 1].numpy() for galaxy in (yes, no)]
    lines, light = (np.abs(a - b).sum() / b.sum() for a, b in (maps, images))
    if label.startswith("neighbour"):
        assert light > 5e-4
    else:
        assert lines > 0.01


@pytest.mark.parametrize("index", [0, 2, 4])
def test_states_of_star_formation(simulator, index):
    """From a star-forming galaxy to a green and a quenched one: stars form more slowly, spectra age, dust goes."""
    choices = [{}, {"green": True}, {"quenched": True}, {"post_starburst": True}]
    none = dict.fromkeys(("quenched", "green", "post_starburst", "agn", "spheroid"), False)
    forming, green, quenched, post = galaxies = [
        Galaxy(1, index, log_mass=10.3, labels=none | c, simulator=simulator) for c in choices
    ]
    rate = [np.log10(g.star_formation_rate.value) for g in galaxies]
    assert rate[1] < rate[0] - 0.4 and rate[2] < rate[1] - 0.5 > rate[3]
    assert quenched._parameters["ebv"] < 0.2 * forming._parameters["ebv"]
    assert post._parameters["recent"] == pytest.approx(quenched._parameters["recent"] + 1.5, abs=1e-5)
    young, middle, old, after = (seen(g) for g in galaxies)
    assert young["ew"] > 1.5 * middle["ew"] > 1.5 * after["ew"]
    assert young["ha"] > 3 * middle["ha"] > 3 * max(old["ha"], after["ha"])
    assert young["break"] < middle["break"] < old["break"] > after["break"] > young["break"]


def test_star_formation_rate_decides_the_state(simulator):
    """A galaxy drawn as quenched is no longer so with the rate of the main sequence, nor the other way round."""
    drawn = Galaxy(1, 0, simulator=simulator)
    assert "quenched" in drawn.labels
    busy = Galaxy(1, 0, star_formation_rate=5 * u.Msun / u.yr, simulator=simulator)
    assert not {"quenched", "green", "post_starburst", "spheroid"} & set(busy.labels)
    assert u.isclose(busy.star_formation_rate, 5 * u.Msun / u.yr, rtol=1e-5)
    assert busy._parameters["ebv"] > 5 * drawn._parameters["ebv"]
    kept = Galaxy(1, 0, star_formation_rate=drawn.star_formation_rate / 2, simulator=simulator)
    assert kept.labels == drawn.labels
    for rate, label in ((1e-3, "quenched"), (0.2, "green")):
        slow = Galaxy(1, 2, log_mass=10.2, redshift=0.03, star_formation_rate=rate * u.Msun / u.yr, simulator=simulator)
        assert label in slow.labels


def test_merger_has_a_companion(simulator):
    """Light and stars at its place, which were not there before."""
    alone, pair = (Galaxy(1, 2, labels={"merger": value}, simulator=simulator) for value in (False, True))
    p = pair._parameters
    x, y, cos, sin = p["companion_x"] * p["re"], p["companion_y"] * p["re"], np.cos(p["pa"]), np.sin(p["pa"])
    column, row = (round((a / 0.262) + 79.5) for a in (x * cos - y * sin, x * sin + y * cos))
    light = [g.photometry.sharp[0, 1, row - 1 : row + 2, column - 1 : column + 2].sum() for g in (alone, pair)]
    assert light[1] > 3 * light[0]
    assert p["companion_ratio"] >= 0.1 and p["debris"] >= 0.06
    assert pair.star_formation_rate != alone.star_formation_rate


@pytest.mark.parametrize("index", range(4))
def test_edge_on_and_clumps(simulator, index):
    side = Galaxy(1, index, labels={"edge_on": True}, simulator=simulator)
    assert side.inclination >= 80 * u.deg and side._parameters["axis_ratio"] < 0.4
    other = Galaxy(1, index, labels={"edge_on": False, "spheroid": False}, simulator=simulator)
    assert other.inclination <= 75 * u.deg and "edge_on" not in other.labels
    assert "edge_on" in Galaxy(1, index, labels={"edge_on": True}, inclination=77 * u.deg, simulator=simulator).labels
    clumpy = Galaxy(1, index, labels={"off_centre_hii": True}, simulator=simulator)._parameters
    assert 0.3 < clumpy["clump_fraction"] <= 0.45 and 10 <= clumpy["clumps"] < 30 and not clumpy["quenched"]


def test_inclined_as_the_recipe_inclines(simulator):
    """A galaxy turned to the inclination of another has what the recipe makes of it: axis ratios, dust."""
    drawn, turned = Galaxy(1, 3, simulator=simulator), Galaxy(1, 3, inclination=10 * u.deg, simulator=simulator)
    back = dict(turned._simulator._draw(Draws(1, [3])))
    back = {key: a[0].item() for key, a in choose(back, inclination=drawn.inclination.value).items()}
    for name in ("axis_ratio", "thin_ratio", "bulge_q", "ebv", "inclination"):
        assert back[name] == pytest.approx(drawn._parameters[name], rel=1e-3)
    assert turned._parameters["ebv"] < drawn._parameters["ebv"]


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


def test_fibres_in_any_frame_within_the_field(galaxy):
    desi = FibreSpectrograph.desi()
    there = galaxy.center.directional_offset_by(40 * u.deg, 4 * u.arcsec)
    icrs, fk5, galactic = (
        desi.observe(galaxy, p, noise=False) for p in (there, there.transform_to(FK5(equinox="J1975")), there.galactic)
    )
    for other in (fk5, galactic):
        np.testing.assert_allclose(other.flux.value, icrs.flux.value, rtol=1e-4)
        assert other.meta["positions"].separation(there) < 1 * u.mas
    edge = galaxy.center.directional_offset_by([0, 90] * u.deg, [19.6, 19.6] * u.arcsec)
    assert np.all(desi.observe(galaxy, edge, noise=False).flux.value.mean(1) > 0)
    beyond = galaxy.center.directional_offset_by(90 * u.deg, [1, 25] * u.arcsec)
    with pytest.raises(ValueError, match=r"positions: got 25.0 arcsec .* the simulated field reaches to 19.7 arcsec"):
        desi.observe(galaxy, beyond)
    with pytest.raises(ValueError, match="simulated field"):
        desi.observe(galaxy, SkyCoord(10 * u.deg, 10 * u.deg))
    with pytest.raises(ValueError, match="positions: got NaN"):
        desi.observe(galaxy, SkyCoord(np.nan * u.deg, 10 * u.deg))
    with pytest.raises(ValueError, match="positions: got 'there'"):
        desi.observe(galaxy, "there")
    with pytest.raises(ValueError, match="positions: got 17; 1 to 16"):
        desi.observe(galaxy, galaxy.center.directional_offset_by(np.arange(17) * u.deg, 3 * u.arcsec))


def test_telescopes_check_what_they_get(galaxy):
    desi, manga = FibreSpectrograph.desi(), IFU.manga(fibers=19)
    for telescope in (Imager.decals(), desi, manga):
        with pytest.raises(ValueError, match="galaxy: got 'x'"):
            telescope.observe("x")
    for telescope in (desi, manga):
        with pytest.raises(ValueError, match="seeing: got 10 arcsec"):
            telescope.observe(galaxy, seeing=10 * u.arcsec)
        with pytest.raises(ValueError, match="exposure: got -1.0 s"):
            telescope.observe(galaxy, exposure=-1 * u.s)
    with pytest.raises(ValueError, match="psf: got 40 arcsec"):
        galaxy.line_maps(psf=40 * u.arcsec)
    with pytest.raises(ValueError, match="spaxel, size: got 0.0 arcsec"):
        galaxy.line_maps(spaxel=0 * u.arcsec)


def test_ifu_keeps_its_exposure_time(galaxy):
    """Noise goes on growing below one visit of three times 900 s: photons first, then read noise."""
    manga = IFU.manga(fibers=19)
    hour, minute, second = (
        manga.observe(galaxy, exposure=t, seeing=1.3 * u.arcsec, noise=False)[0].uncertainty.array[2000, 17, 17] ** -0.5
        for t in (0.75 * u.h, 45 * u.s, 1 * u.s)
    )
    assert 60**0.5 < minute / hour < 60
    assert 45**0.5 < second / minute < 45.1


def test_truth_is_without_the_milky_way(galaxy, simulator, tmp_path):
    """The cube has its dust and says so; the truth has not, says that, and keeps it in files."""
    dusty = Galaxy(1, 2, galactic_ebv=0.1, redshift=0.04, simulator=simulator)
    clear = Galaxy(1, 2, redshift=0.04, simulator=simulator)
    manga = IFU.manga(fibers=19)
    (cube, truth), (_, bare) = (manga.observe(g, noise=False, seeing=1.3 * u.arcsec) for g in (dusty, clear))
    np.testing.assert_allclose(truth.flux["Ha"].data, bare.flux["Ha"].data)
    assert cube.meta["provenance"].extinction_corrected is False and cube.meta["provenance"].ebv == 0.1
    write_dap_maps(truth, tmp_path / "sim_maps.fits")
    for maps in (truth, dusty.line_maps(), read_dap_maps(tmp_path / "sim_maps.fits")):
        assert maps.extinction_corrected is True and maps.ebv == 0.1
        assert maps.provenance.extinction_corrected is True and maps.provenance.ebv == 0.1
    assert bare.extinction_corrected is True and bare.ebv == 0


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


def test_all_products_tell_the_same(galaxy):
    """Image, spectrum, cube and truth carry one provenance, the number of the galaxy with it."""
    desi, (cube, truth) = FibreSpectrograph.desi().observe(galaxy, noise=False), SMALL.observe(galaxy, noise=False)
    expected = galaxy.provenance()
    assert (expected.seed, expected.extra["GALAXY"], expected.redshift_source) == (1, 2, "simulation")
    for ccd in Imager.decals().observe(galaxy, size=10 * u.arcsec).values():
        assert Provenance.from_header(ccd.meta) == expected and ccd.meta["OBJECT"] == "SIM 1-2"
        assert ccd.to_hdu()[0].header["SEED"] == 1
    for spectrum in (desi, cube):
        assert spectrum.meta["provenance"] == expected and spectrum.meta["object"] == "SIM 1-2"
        assert (spectrum.meta["redshift"], spectrum.meta["ebv"]) == (0.04, 0.0)
    assert truth.provenance == expected.replace(extinction_corrected=True)
    assert "true redshift" in expected.to_header().comments["REDSHIFT"]
    assert "redshift used" == expected.replace(redshift_source="user").to_header().comments["REDSHIFT"]
    assert galaxy.position_angle == 30 * u.deg


def test_products_as_files(galaxy, tmp_path):
    """From scripts to files: what is written of the products of a telescope is what readers give back."""
    dusty = Galaxy(1, 2, galactic_ebv=0.05, redshift=0.04, simulator=galaxy._simulator)
    image = Imager.des().observe(dusty, size=20 * u.arcsec)
    write_cutout(image, tmp_path / "cutout_sim.fits")
    write_psf(image, tmp_path / "copsf_sim.fits")
    back = read_legacysurvey(tmp_path / "cutout_sim.fits", psf=tmp_path / "copsf_sim.fits")
    for band, ccd in image.items():
        np.testing.assert_array_equal(back[band].data, ccd.data)
        np.testing.assert_array_equal(back[band].uncertainty.array, ccd.uncertainty.array)
        assert not np.any(back[band].mask & ~ccd.mask) and not np.any(ccd.mask & ~back[band].mask & ~back[band].flags)
        assert {back[band].meta[key] for key in ("REDSHIFT", "EBV")} == {0.04, 0.05} and back[band].meta["SEED"] == 1
        corner = [a.wcs.pixel_to_world(0, 75) for a in (ccd, back[band])]
        assert corner[0].separation(corner[1]) < 1 * u.mas
    cube, truth = SMALL.observe(dusty)
    path = tmp_path / "manga-sim-LOGCUBE.fits"
    write_logcube(cube, path)
    for write, product, there in (
        (write_cutout, image, tmp_path / "cutout_sim.fits"),
        (write_psf, image, tmp_path / "copsf_sim.fits"),
        (write_logcube, cube, path),
    ):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write(product, there)
    write_cutout(image, tmp_path / "cutout_sim.fits", overwrite=True)
    again = read_manga_cube(path)
    np.testing.assert_array_equal(again.flux.value, cube.flux.value)
    np.testing.assert_array_equal(again.uncertainty.array, cube.uncertainty.array)
    np.testing.assert_array_equal(fits.getdata(path, "MASK"), cube.meta["drp_mask"])
    assert again.meta["redshift"] == pytest.approx(0.04, abs=1e-6) and again.meta["ebv"] == 0.05
    assert again.meta["psf_fwhm"]["r"] == cube.meta["psf_fwhm"]["r"] * u.arcsec
    for write, given, message in (
        (write_cutout, image["r"], "images: got CCDData; the dict of CCDData by band"),
        (write_cutout, {"u": image["r"]}, r"images\['u'\]: got a CCDData in nmgy"),
        (write_cutout, {"r": CCDData(image["r"].data, unit="adu")}, "in adu that lacks REDSHIFT, EBV, PSF_FWHM"),
        (write_logcube, (cube, truth), "cube: got two things"),
        (write_logcube, cube[:, 2:, 2:], "got a part of"),
        (write_logcube, image, "cube: got dict; the cube of"),
        (write_logcube, FibreSpectrograph.desi().observe(dusty, noise=False), "cube: got a Spectrum of 1 axes"),
        (functools.partial(write_truth_maps, seed=1), cube, "cube: got one without its truth"),
        (functools.partial(write_coadd, seed=1, pixel=1), cube, "spectra: got Spectrum; FiberSpectra"),
    ):
        with pytest.raises(ValueError, match=message):
            write(given, tmp_path / "more_sim.fits")
    bare = dataclasses.replace(band_images(image), meta={})
    with pytest.raises(ValueError, match="seed: got None, and images does not say"):
        write_cutout(bare, tmp_path / "more_sim.fits")
    assert len(list(tmp_path.iterdir())) == 3


def test_true_line_maps(galaxy):
    """A wide PSF moves light about and keeps it; the cube's own truth has less of it at its ragged edge."""
    sharp, wide = (galaxy.line_maps(size=30 * u.arcsec, psf=p * u.arcsec).flux["Ha"].data for p in (1.0, 2.5))
    assert wide.max() < sharp.max()
    assert wide.sum() == pytest.approx(sharp.sum(), rel=0.02)


def test_true_continuum(galaxy):
    """That of the equivalent widths: there in every spaxel with light, and what the cube has beside the line."""
    cube, truth = IFU.manga(fibers=19).observe(galaxy, seeing=1.3 * u.arcsec, noise=False)
    wave = cube.spectral_axis.value / (1 + galaxy.redshift)
    beside = (np.abs(wave - 6564.6) > 35) & (np.abs(wave - 6564.6) < 60)
    inside = ~cube.mask[beside].any(0)
    continuum = truth.continuum["Ha"]
    assert not continuum.mask[inside].any()
    ratio = continuum.data[inside] / cube.flux.value[beside].mean(0)[inside]
    assert 0.97 < np.percentile(ratio, 1) < np.percentile(ratio, 99) < 1.03
    np.testing.assert_allclose(
        *(truth.flux["Ha"].data[inside], (truth.ew["Ha"].data * continuum.data * (1 + galaxy.redshift))[inside]),
        rtol=1e-5,
    )


def test_survey_galaxies_are_those_of_the_api(simulator):
    """`observe_manga` and `Galaxy` show the same galaxy."""
    cube = next(iter(observe_manga(simulator, 2, 0, 1, noise=False)))
    galaxy = Galaxy(2, cube.table["galaxy"], simulator=simulator)
    assert galaxy.redshift == pytest.approx(cube.table["redshift"], abs=1e-6)
    assert SkyCoord(*cube.center, unit="deg").separation(galaxy.center) < 0.01 * u.arcsec
