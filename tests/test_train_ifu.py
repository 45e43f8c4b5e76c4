"""Finite surveys: the same galaxies again and again, one fibre each or a whole field, and training on them."""

import dataclasses
import math
from importlib import resources

import numpy as np
import pytest
import torch

from fiberifu.model import ModelConfig
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack
from fiberifu.simulate.observe import moffat_transfer
from fiberifu.train import FiniteSurvey, Recipe, Survey, simulated_batches, train
from fiberifu.train.cube_noise import aperture_noise, cube_factor

SEED = 70_000_000
CUBES = Survey(galaxies=5, fibers=12, positions=6, field="hexagon", instrument="manga", max_redshift=0.15, min_re=2.0)
FIBERS = dataclasses.replace(CUBES, fibers=1, positions=1, field="disc", instrument="desi", off_centre=0.3)


@pytest.fixture(scope="module")
def simulator():
    return Simulator(analytic_template_pack())


@pytest.fixture(scope="module")
def cubes(simulator):
    return FiniteSurvey(simulator, CUBES, SEED)


@pytest.fixture(scope="module")
def first(cubes):
    return cubes.batch(0, 3)


def offsets(simulator, survey, n):
    """Places of all fibres of the first ``n`` galaxies, relative to their centres, without any light."""
    from fiberifu.simulate.recipe import Draws
    from fiberifu.train.finite_survey import _FiberDraws

    finite = FiniteSurvey(simulator, survey, SEED)
    index = finite.galaxies[:n].tolist()
    g = simulator._draw(Draws(SEED, index))
    owner = torch.arange(n).repeat_interleave(survey.fibers)
    draws = _FiberDraws(SEED, np.repeat(index, survey.fibers), np.tile(np.arange(survey.fibers), n))
    offset, off_centre = finite._offsets(g, owner, draws)
    return g, owner, offset, off_centre


def names(batch):
    """Galaxy and number of every fibre of a batch."""
    return list(zip(batch["galaxy"][batch["fiber_galaxy"]].tolist(), batch["fiber"].tolist(), strict=True))


# --- settings


def test_settings_refuse_what_cannot_be(tmp_path):
    path = tmp_path / "r.toml"
    for text, message in (
        ("survey = 3", "a table .survey. is needed"),
        ("[survey]\ngalaxy = 3", "unknown names ..galaxy"),
        ("[survey]\ngalaxies = 1.5", "survey.galaxies: got 1.5; a int is needed"),
        ("[survey]\ngalaxies = 0", "survey.galaxies: got 0; one or more"),
        ("[survey]\nfibers = 2\npositions = 3", "survey.positions: got 3; a galaxy has 2 fibers"),
        ("[survey]\noff_centre = 1.5", "survey.off_centre: got 1.5"),
        ("[survey]\noff_centre = true", "survey.off_centre: got True; a float is needed"),
        ('[survey]\nfield = "square"', "survey.field: got 'square', use one of"),
        ('[survey]\ninstrument = "sdss"', "survey.instrument: got 'sdss', use one of"),
        ('[survey]\n[simulator]\nplacement = "desi"', "simulator ..placement.. have no effect"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)
    path.write_text("[survey]\ngalaxies = 7\noff_centre = 1\n")
    assert Recipe.read(path).survey == Survey(galaxies=7)


def test_recipes_hash_what_they_hold():
    """Recipes without a survey keep the hash that runs have been resumed and weights been published under."""
    assert Recipe().sha256() == "18ff3c1d40e982f5edcfe63935092d70e24485e61a5619304eda3222141dd00e"
    assert len({Recipe(survey=s).sha256() for s in (None, CUBES, FIBERS)}) == 3


def test_packaged_recipes_differ_in_their_fibres_only():
    with resources.as_file(resources.files("fiberifu.train") / "recipes") as folder:
        cubes, fibers = (Recipe.read(folder / f"nano_{name}.toml") for name in ("ifu", "fibers"))
    assert cubes.model == ModelConfig() and cubes.survey.instrument == "manga" and fibers.survey.fibers == 1
    assert dataclasses.replace(cubes, survey=fibers.survey) == fibers
    alike = ("galaxies", "max_redshift", "min_re")
    assert [getattr(cubes.survey, a) for a in alike] == [getattr(fibers.survey, a) for a in alike]


def test_limits_that_no_galaxy_meets_are_refused(simulator):
    with pytest.raises(ValueError, match="survey: 0 of .* galaxies have redshift <= 0.0 .* widen"):
        FiniteSurvey(simulator, Survey(galaxies=1, max_redshift=0.0), SEED)


# --- visits


def test_epochs_visit_each_galaxy_once(simulator, cubes):
    assert len(set(cubes.galaxies)) == 5
    epochs, index = zip(*(cubes.visits(step, 3) for step in range(10)), strict=True)
    epochs, index = np.concatenate(epochs), np.concatenate(index)
    orders = [tuple(index[epochs == e]) for e in range(6)]
    assert all(sorted(order) == sorted(cubes.galaxies) for order in orders) and len(set(orders)) > 1
    g = simulator.scene(SEED, cubes.galaxies.tolist())["g"]
    assert (g["redshift"] <= 0.15).all() and (g["re"] >= 2).all()
    assert np.array_equal(FiniteSurvey(simulator, FIBERS, SEED).galaxies, cubes.galaxies)


def test_batches_are_reproducible_and_fibres_keep_their_noise(cubes, first):
    """One galaxy in another batch, and in another epoch: the same image, and the same spectra where a fibre recurs."""
    again = cubes.batch(0, 1)
    for name in ("image", "sigma", "psf_fwhm"):
        torch.testing.assert_close(again[name][0], first[name][0], rtol=1e-4, atol=1e-5, msg=name)
    for name in ("flux", "ivar", "fiber_offset", "fiber_redshift", "fiber"):
        torch.testing.assert_close(again[name], first[name][:6], rtol=1e-3, atol=1e-4, msg=name)
    spectra = {}
    for step, batch in enumerate((first, cubes.batch(2, 3))):  # visits 0-2 and 6-8 of 5 galaxies
        for name, flux in zip(names(batch), batch["flux"], strict=True):
            spectra.setdefault(name, {})[step] = flux
    repeated = [s for s in spectra.values() if len(s) == 2]
    assert len(repeated) > 2 and len(spectra) > 24
    for s in repeated:
        torch.testing.assert_close(s[0], s[1], rtol=1e-3, atol=1e-3)


def test_images_are_those_of_the_simulator(simulator, cubes, first):
    maps = simulator.truth_maps(SEED, int(first["galaxy"][1]), spaxel=1.0, size=2.0)
    torch.testing.assert_close(first["image"][1], maps["image"], rtol=1e-4, atol=1e-5)


# --- positions


def test_fibres_are_uniform_over_the_disc(simulator):
    survey = Survey(galaxies=8, fibers=250, positions=1, off_centre=0.8, max_redshift=0.15, min_re=2.0)
    g, owner, offset, off_centre = offsets(simulator, survey, 8)
    radius = simulator._radius(g, owner, offset) / 1.5
    inner = (g["re"] < 5)[owner]  # whose disc is on the stamp
    assert abs(off_centre.float().mean() - 0.8) < 4 * math.sqrt(0.16 / 2000)
    share = radius[inner & off_centre] ** 2  # uniform in area
    assert share.max() < 1.001
    place = np.sort(share.numpy())
    assert abs(place - (np.arange(len(place)) + 0.5) / len(place)).max() < 1.63 / math.sqrt(len(place))  # KS, 1 %
    near = offset[~off_centre] - torch.stack([g["east"], g["north"]], 1)[owner[~off_centre]]
    assert abs(near.std() - 0.14) < 0.02


def test_fibres_fill_the_hexagon(simulator):
    survey = dataclasses.replace(CUBES, galaxies=4, fibers=400, positions=1)
    g, owner, offset, off_centre = offsets(simulator, survey, 4)
    centre = torch.stack([g["east"], g["north"]], 1)
    reach = 59 * simulator.config.pixel_scale
    assert off_centre.all() and (offset.abs() <= reach).all()
    for i in range(4):
        x, y = (offset[owner == i] - centre[i]).T
        # MaNGA's bundles have (rings + 1/2) x 2.5 arcsec
        wanted = min(16.25, 2.5 * (math.ceil(1.5 * float(g["re"][i]) / 2.5 - 0.5) + 0.5))
        wanted = max(wanted, 6.25)
        assert y.abs().max() <= wanted * math.sqrt(0.75) + 1e-4
        assert (y.abs() + math.sqrt(3) * x.abs()).max() <= math.sqrt(3) * wanted + 1e-4
        assert x.abs().max() > 0.8 * min(wanted, reach - 6)
        # as many fibres in the inner half of the hexagon's width as its area has, where all of it is on the stamp
        if (centre[i].abs() + wanted < reach).all():
            assert abs((y.abs() < wanted * math.sqrt(0.75) / 2).float().mean() - 7 / 12) < 4 * 0.5 / 20


# --- light


def test_spectra_agree_with_the_truth_within_their_noise(simulator, first):
    """The truth by another way: maps that are blurred, then summed in the apertures."""
    for i in range(3):
        mine = first["fiber_galaxy"] == i
        scene = simulator.scene(SEED, [int(first["galaxy"][i])])
        east, north = first["fiber_offset"][mine].T
        transfer = moffat_transfer(simulator.k, first["psf_fwhm"][i])
        amount = simulator._under(scene["stack"], transfer, east, north, simulator.config.aperture)
        expected = simulator.spectra(scene, torch.zeros(6, dtype=torch.int64), amount)
        pull = (first["flux"][mine] - expected["flux"]) * first["ivar"][mine].sqrt()
        assert abs(pull.mean()) < 4 / math.sqrt(pull.numel()) and abs(pull.std() - 1) < 0.01
        torch.testing.assert_close(first["truth"]["line_flux"][mine], expected["line_flux"], rtol=1e-3, atol=1e-4)
        shift = (first["fiber_redshift"][mine] - expected["redshift"]) / first["sigma_z"][mine]
        assert shift.abs().max() < 3.01


def test_noise_is_that_of_an_aperture_on_a_cube(simulator):
    """Noise of a real reconstruction, fibres to spaxels to aperture, at places all over a spaxel and a dither."""
    from fiberifu.simulate.ifu import MANGA, bundle_positions, cube_side, fiber_noise, shepard_weights

    side, rng = cube_side(37), np.random.default_rng(0)
    weights = shepard_weights(bundle_positions(37).reshape(-1, 2), side)
    rows = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9) * MANGA.spaxel**2 / math.pi
    fine = np.linspace(-0.74, 0.74, 38)
    x, y = np.meshgrid(fine, fine)
    x, y = x[np.hypot(x, y) < 0.75], y[np.hypot(x, y) < 0.75]
    variance = []
    for east, north in rng.uniform(-1.5, 1.5, (60, 2)):
        place = np.floor(np.stack([y + north, x + east]) / MANGA.spaxel + side / 2).astype(int)
        share = np.bincount(place[0] * side + place[1], minlength=side**2) / len(x) * math.pi / 4 * 1.5**2
        variance.append(((share / MANGA.spaxel**2 @ rows) ** 2).sum())
    assert (
        abs(cube_factor(1.5) / math.sqrt(np.mean(variance)) - 1) < 0.04
    )  # the dithers are not a dense sheet of fibres
    dark = torch.zeros(1, len(simulator.wave))
    fiber = fiber_noise(simulator, simulator.desi, dark, MANGA.seconds) / math.sqrt(MANGA.sets)
    torch.testing.assert_close(aperture_noise(simulator, dark), fiber * cube_factor(1.5), rtol=1e-5, atol=0)


def test_single_fibres_are_observed_as_the_simulator_does(simulator):
    """Without noise, a fibre at a place gives what `Simulator.batch` gives there; the anchor is the image's."""
    quiet = Simulator(analytic_template_pack(), config=SimConfig(noise=False, placement="central"))
    batch = FiniteSurvey(quiet, FIBERS, SEED).batch(0, 4)
    assert batch["flux"].shape == (4, 7781) and (batch["ivar"] > 0).any(1).all()
    band = batch["flux"] @ quiet.curves.T
    torch.testing.assert_close(band[:, 1], batch["truth"]["band"][:, 1], rtol=0.15, atol=1e-3)
    noisy = FiniteSurvey(simulator, FIBERS, SEED).batch(0, 4)
    assert torch.equal(noisy["galaxy"], batch["galaxy"]) and torch.equal(noisy["fiber_offset"], batch["fiber_offset"])


# --- training


def test_training_on_cubes_lowers_the_loss(tmp_path):
    pack = tmp_path / "pack.npz"
    np.savez(pack, **analytic_template_pack())
    small = ModelConfig(width=32, depth=1, heads=2, query_blocks=1, local_width=32, n_continuum=4, rank=1)
    survey = dataclasses.replace(CUBES, galaxies=2, fibers=3, positions=3)
    recipe = Recipe(model=small, survey=survey, steps=6, batch=2, warmup=1, mixtures=60, workers=0, learning_rate=3e-3,
                    band_dropout=0.0)  # fmt: skip
    trained, steps = train(recipe, pack, tmp_path / "run")
    fresh, _ = train(dataclasses.replace(recipe, steps=0), pack, tmp_path / "none")
    _, batch = next(simulated_batches(pack, {}, 2, recipe.seed, 0, 0, survey))
    with torch.no_grad():
        before, after = (float(m(batch, torch.Generator().manual_seed(4)).total) for m in (fresh, trained))
    assert steps == 6 and len(batch["flux"]) == 6 and after < before - 0.05
