# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The held-out galaxies (split of the sky, truth of one galaxy, the folder of all) and the loop that judges."""

import dataclasses
import json
import logging
import os

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import InverseVariance
from astropy.table import Table
from specutils import Spectrum

from fiberifu.lines import LineMaps
from fiberifu.model import LINES
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack
from fiberifu.simulate.survey import STRATA
from fiberifu.train.split import MARGIN, is_held_out, sky_block
from fiberifu.validate import HeldOutSet, NetworkPredictor, PredictedMaps, Predictor, judge, read_predictions
from fiberifu.validate.depth import aperture_factor, line_depth
from fiberifu.validate.fiber_sample import IFU_SEED
from fiberifu.validate.held_out import SEED
from fiberifu.validate.maps import LEVELS
from fiberifu.validate.predictors import observed_image, sky_positions
from fiberifu.validate.quantiles import KEYS
from fiberifu.validate.spaxels import MEDIAN
from fiberifu.validate.truth import RULE, choose_galaxies, galaxy_truth, sky_position

HA, N2 = LINES.index("Ha"), LINES.index("N2_6583")


@pytest.fixture(scope="module")
def simulator():
    return Simulator(analytic_template_pack())


@pytest.fixture(scope="module")
def made(tmp_path_factory, simulator):
    """Four galaxies in shards of two."""
    folder = tmp_path_factory.mktemp("held") / "truth"
    return HeldOutSet(folder, simulator, 4, per_shard=2).build()


# --- the split of the sky


def random_places(n):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def test_positions_may_have_units():
    ra, dec = random_places(200)
    same = is_held_out((ra * u.deg).to(u.rad), dec * 60 * u.arcmin)
    np.testing.assert_array_equal(is_held_out(ra, dec), same)


def test_cells_are_equal_and_a_tenth_is_held_out():
    ra, dec = random_places(400_000)
    counts = np.bincount(sky_block(ra, dec), minlength=41252)
    assert len(counts) == 41252
    assert counts.var() == pytest.approx(counts.mean(), rel=0.05)  # as of equal cells: Poisson
    assert is_held_out(ra, dec, margin=0).mean() == pytest.approx(0.1, abs=0.005)


def test_split_never_changes():
    # old weights were not trained on these cells: no change of code may move them
    ra, dec = np.arange(0, 360, 15.0), np.linspace(-85, 85, 24)
    assert np.flatnonzero(is_held_out(ra, dec, margin=0)).tolist() == [1, 6, 20, 21, 22]
    assert sky_block([0, 359.999, 12.5], [-90, 90, 0.5]).tolist() == [0, 41251, 20638]


def test_no_galaxy_more_than_asked_for(tmp_path, simulator, made):
    """Shards of a small set are smaller; what is there keeps its own."""
    sizes = {n: HeldOutSet(tmp_path / str(n), simulator, n).per_shard for n in (5, 25, 30, 100, 2000)}
    assert sizes == {5: 5, 25: 25, 30: 15, 100: 25, 2000: 25}
    assert HeldOutSet(made.folder, simulator, 3).per_shard == 2  # no other settings than those of the folder


def test_neighbours_across_an_edge_are_both_held_out():
    ra, dec = random_places(20_000)
    inside = is_held_out(ra, dec, margin=0)
    ra, dec = ra[inside], dec[inside]
    angle = np.random.default_rng(2).uniform(0, 2 * np.pi, len(ra))
    # to the edges of their cells, then across
    dec = np.where(np.arange(len(dec)) % 2, np.floor(dec) + 1e-3, np.ceil(dec) - 1e-3).clip(-89.9, 89.9)
    step = (MARGIN - 0.01) / 3600
    near = ra + step * np.cos(angle) / np.cos(np.radians(dec)), dec + step * np.sin(angle)
    here = is_held_out(ra, dec, margin=0)
    crossed = here & ~is_held_out(*near, margin=0)
    assert crossed.sum() > 50
    assert is_held_out(*near)[here].all()
    assert is_held_out(12.0, 89.9999) == is_held_out(200.0, 89.9999)  # around a pole all cells are near


def test_split_refuses_what_is_not_on_the_sky():
    with pytest.raises(ValueError, match="dec"):
        sky_block(10.0, 91.0)
    with pytest.raises(ValueError, match="margin"):
        is_held_out(10.0, 1.0, margin=-1)


def test_held_out_galaxies_stand_in_held_out_cells():
    places = np.array([sky_position(SEED, i) for i in range(30)])
    assert is_held_out(*places.T, margin=0).all()
    assert len(np.unique(sky_block(*places.T))) > 20
    assert sky_position(SEED, 3) == tuple(places[3])


# --- one galaxy


def test_rule(simulator, made):
    chosen = choose_galaxies(simulator, SEED, 40)
    assert chosen == sorted(set(chosen)) and chosen[:10] == choose_galaxies(simulator, SEED, 10)
    assert [g.index for g in made] == chosen[:4]
    for g in made:
        assert 0.01 < g.redshift < 0.15 and g.properties["re_arcsec"] > 2 and len(g) >= RULE["positions"]
        assert g.radius.max() < 1.6 and np.abs([g.east, g.north]).max() <= 15.5


def test_truth_is_that_of_the_simulator(simulator):
    index = choose_galaxies(simulator, SEED, 1)[0]
    g = galaxy_truth(simulator, SEED, index)
    centred = Simulator(analytic_template_pack(), SimConfig(placement="central"))
    batch = centred.batch(1, SEED, start=index)
    for name, key in (("image", "image"), ("sigma", "sigma"), ("central_flux", "flux"), ("central_ivar", "ivar")):
        np.testing.assert_array_equal(getattr(g, name), batch[key][0].numpy())
    # any placement of fibres has the same image
    np.testing.assert_array_equal(g.image, simulator.batch(1, SEED, start=index)["image"][0].numpy())
    # lines and spectra are those of the simulator's own grids, columns to the East
    maps = simulator.truth_maps(SEED, index, spaxel=1.0, size=9.0)
    cube = simulator.truth_cube(SEED, index, spaxel=1.0, size=9.0, aperture=1.5)
    met = np.zeros(2, int)
    for k, j in np.ndindex(9, 9):
        away = np.hypot(g.east - float(maps["east"][k, j]), g.north - float(maps["north"][k, j]))
        if away.min() > 1e-3:
            continue
        i = away.argmin()
        np.testing.assert_allclose(g.flux[i], maps["line_flux"][k, j], rtol=1e-3)
        np.testing.assert_allclose(g.ew[i], maps["line_ew"][k, j], rtol=1e-3)
        met[0] += 1
        for m in np.flatnonzero(g.spectrum_at == i):
            np.testing.assert_allclose(g.spectrum[m], cube["flux"][k, j], rtol=2e-3, atol=1e-3)
            met[1] += 1
    assert met[0] > 20 and met[1] > 0
    assert len(set(g.spectrum_at)) == RULE["spectra"]
    east, north = g.grid(g.east), g.grid(g.north)
    assert np.nanmin(np.diff(east, axis=1)) > 0.99 and np.nanmin(np.diff(north, axis=0)) > 0.99


def test_peaks_and_strata(made):
    g = made[0]
    assert tuple(g.strata) == STRATA and all(isinstance(v, bool) for v in g.strata.values())
    assert g.peak_distance.min() < 1.0 and g.peak_distance.max() <= 2 * 1.6 * g.properties["re_arcsec"]


def test_depth_is_near_that_of_the_survey(simulator):
    """3 sigma in H-alpha: 5e-18 erg/s/cm2/arcsec2 in spaxels (Belfiore+2019, AJ 158, 160), less in the aperture."""
    depth = line_depth(simulator, 0.03, 60.0)
    assert 0.35 < 3 * depth[HA] / (np.pi / 4 * 1.5**2) < 0.55
    assert np.isinf(line_depth(simulator, 0.7, 60.0)[HA]) and np.isfinite(depth).all()
    assert line_depth(simulator, 0.03, 200.0)[HA] > 1.3 * depth[HA]
    # an aperture sees several fibres: more noise than its share of one, less than their sum
    assert np.sqrt(1.5**2 / 2**2) * 0.2 < aperture_factor(1.5) < 1.5**2 / 2**2
    assert aperture_factor(1.5, 127) == pytest.approx(aperture_factor(1.5), rel=1e-6)


# --- the folder


def same(a, b, half=()):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name in half:
            np.testing.assert_allclose(x, y, rtol=5e-4, atol=1e-6)
        elif isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y, field.name


def test_set_is_read_back_as_simulated(made, simulator):
    assert len(made) == 4 and made.shards == 2 and not made.missing()
    alone = HeldOutSet(made.folder)
    assert alone.key == made.key and len(alone) == 4
    index = made[3].index
    same(alone[3], galaxy_truth(simulator, SEED, index), half=("image", "sigma", "spectrum"))
    same(alone[-1], list(made)[3])
    with pytest.raises(IndexError):
        made[4]
    light = alone.truths()
    assert [g.name for g in light] == [g.name for g in made] and light[2].image.size == 0
    np.testing.assert_array_equal(light[2].flux, made[2].flux)


def test_set_resumes_and_grows(made, simulator, tmp_path):
    first = HeldOutSet(tmp_path / "t", simulator, 2, per_shard=2).build()
    half, young = (first.folder / f".{name}-00001.npz" for name in ("0123abcd", "dcba3210"))
    half.write_bytes(b"half")  # as a killed run leaves it
    young.write_bytes(b"half")  # of another that is alive
    os.utime(half, (1e9, 1e9))
    more = HeldOutSet(tmp_path / "t", simulator, 3, per_shard=2)
    assert more.missing() == [1]
    more.build()
    assert len(more) == 3 and len(list(more)) == 3 and len(more.truths()) == 3
    names = sorted(p.name for p in more.folder.iterdir() if p != young)
    assert young.is_file() and names == ["00000.npz", "00001.npz", "manifest.json"]
    for name in names[:2]:
        assert (more.folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_set_refuses_another_universe(made, simulator, tmp_path):
    with pytest.raises(ValueError, match="seed"):
        HeldOutSet(made.folder, simulator, 4, seed=78_000_001, per_shard=2)
    with pytest.raises(ValueError, match="noise"):
        HeldOutSet(made.folder, Simulator(analytic_template_pack(), SimConfig(noise=False)), 4, per_shard=2)
    with pytest.raises(FileNotFoundError, match="no held-out galaxies"):
        HeldOutSet(tmp_path)
    with pytest.raises(ValueError, match="galaxies"):
        HeldOutSet(tmp_path, simulator, 0)
    with pytest.raises(ValueError, match="that baselines learn from"):
        HeldOutSet(tmp_path, simulator, 4, seed=IFU_SEED)
    with pytest.raises(ValueError, match="may have been trained on"):  # step 5 of a recipe of seed 1
        HeldOutSet(tmp_path, simulator, 4, seed=10_000_005)
    with pytest.raises(FileNotFoundError, match="build"):
        HeldOutSet(tmp_path, simulator, 5)[0]
    with pytest.raises(ValueError, match="simulator"):
        HeldOutSet(made.folder, galaxies=20).build()


# --- the network as a predictor


class FakeIFU:
    """Reads H-alpha off the r image where the sky positions are, by the image's own WCS."""

    weights_sha256 = "fake"
    passport = {"calibration": {"coherence": [0.4, 5.0]}}

    def predict(self, image, positions, *, redshift, wavelength, context=()):
        self.context = context
        prediction = FakeIFU()
        prediction.image, prediction.where, prediction.z, prediction.wave = image, positions, redshift, wavelength
        x, y = image["r"].wcs.world_to_pixel(positions)
        prediction.value = image["r"].data[np.rint(y).astype(int), np.rint(x).astype(int)]
        return prediction

    def line_maps(self, lines):
        flux = np.arange(1, 16)[:, None] * self.value
        order = list(lines)[::-1]  # names decide, not the order
        covariance = np.ones((len(self.value), 15, 15)) + np.diag(np.arange(15.0))
        mask = np.zeros(flux.shape, int)
        mask[:, 0] = 1 << 30  # DONOTUSE
        sigma = np.full(flux.shape, 0.5)
        where = {"redshift": self.z, "positions": self.where}
        covariance = covariance[:, ::-1, ::-1]
        return LineMaps(order, flux[::-1], sigma, 2 * flux[::-1], sigma, mask=mask, covariance=covariance, **where)

    def line_quantiles(self, levels, lines, quantity):
        parts = np.array([sum(LINES.index(line) + 1 for line in one) for one in lines])
        unit = u.Unit("1e-17 erg / (s cm2)") if quantity == "flux" else u.AA
        return (parts[:, None] * self.value + np.array(levels)[:, None, None]) * unit

    def ratio_quantiles(self, numerator, denominator, levels):
        top, bottom = (sum(LINES.index(line) + 1 for line in one) for one in (numerator, denominator))
        return top / bottom + np.array(levels)[:, None] * np.ones(len(self.value))

    def spectrum(self):
        flux = np.repeat(self.value[:, None], len(self.wave), 1)
        ivar, mask = np.full(flux.shape, 4.0), np.zeros(flux.shape, bool)
        mask[:, :5] = True
        unit = u.Unit("1e-17 erg / (s cm2 AA)")
        return Spectrum(flux * unit, spectral_axis=self.wave, uncertainty=InverseVariance(ivar * unit**-2), mask=mask)


def test_east_is_east(made):
    """A galaxy with one bright clump 4 arcsec to the East and 2 to the North."""
    base = made[0]
    axis = (np.arange(128) - 63.5) * base.pixel_scale
    east, north = np.meshgrid(axis, axis)  # columns to the East, rows to the North
    clump = np.exp(-0.5 * ((east - 4) ** 2 + (north - 2) ** 2)).astype(np.float32)
    side = np.arange(-6, 7)
    row, column = (a.ravel() for a in np.meshgrid(side + 6, side + 6, indexing="ij"))
    n = len(row)
    galaxy = dataclasses.replace(base, image=np.stack([clump] * 4), present=np.ones(4, bool), row=row, column=column,
                                 sigma=np.full((4, 128, 128), 0.01, np.float32), east=column - 6.0, north=row - 6.0,
                                 flux=np.zeros((n, 15)), spectrum_at=np.array([3, 100]))  # fmt: skip
    maps = NetworkPredictor(FakeIFU()).predict(galaxy)
    best = np.nanargmax(maps.flux[:, HA])
    assert (galaxy.east[best], galaxy.north[best]) == (4.0, 2.0)
    assert np.unravel_index(np.nanargmax(galaxy.grid(maps.flux[:, HA])), (13, 13)) == (8, 10)  # row, column
    np.testing.assert_allclose(maps.flux[1:, N2] / maps.flux[1:, HA], (N2 + 1) / (HA + 1), rtol=1e-5)
    np.testing.assert_allclose(maps.ew[1:], 2 * maps.flux[1:], rtol=1e-6)
    assert np.isnan(maps.flux[0]).all() and np.isnan(maps.ew_sigma[0]).all() and np.isnan(maps.covariance[0]).all()
    np.testing.assert_allclose(np.diagonal(maps.covariance[1]), 1 + np.arange(15.0))
    assert maps.spectrum.shape == (2, len(galaxy.wave)) and np.isnan(maps.spectrum[:, :5]).all()
    np.testing.assert_allclose(maps.spectrum_sigma[:, 5:], 0.5)
    assert set(maps.quantiles) == set(KEYS) and maps.coherence == (0.4, 5.0)
    s2 = maps.flux[1:, LINES.index("S2_6716")] + maps.flux[1:, LINES.index("S2_6731")]
    np.testing.assert_allclose(maps.quantiles["S2"][1:], s2[:, None] + np.array(LEVELS), rtol=1e-5)
    ratio = maps.quantiles["N2/Ha"]
    assert ratio.shape == (n, len(LEVELS)) and np.isnan(ratio[0]).all()
    np.testing.assert_allclose(ratio[5], (N2 + 1) / (HA + 1) + np.array(LEVELS), rtol=1e-5)
    # on the sky, too
    sky = NetworkPredictor(ifu := FakeIFU(), context=True)
    sky.predict(galaxy)
    _, where = ifu.context[0]
    centre = sky_positions(galaxy, observed_image(galaxy), 0, 0)
    ra, dec = centre.spherical_offsets_to(where)
    np.testing.assert_allclose([ra.arcsec, dec.arcsec], galaxy.central_offset, atol=1e-3)


def test_network_sees_the_light_where_it_is(made):
    """The bundled network's own photometry at the positions is that of the truth: every step of the geometry."""
    from fiberifu import VirtualIFU

    seen = []

    class Spy:
        def __init__(self, ifu):
            self.ifu, self.weights_sha256, self.passport = ifu, ifu.weights_sha256, ifu.passport

        def predict(self, *arguments, **keywords):
            seen.append(self.ifu.predict(*arguments, **keywords))
            return seen[-1]

    galaxy = min(made, key=len)
    maps = NetworkPredictor(Spy(VirtualIFU.from_pretrained())).predict(galaxy)
    band = np.argmax(galaxy.present)
    light, true = seen[0].photometry["flux"][:, band], galaxy.band[:, band]
    assert np.isfinite(maps.flux[:, HA]).all() and maps.spectrum.shape == galaxy.spectrum.shape
    middle, (low, high) = maps.quantiles["Ha"][:, MEDIAN], maps.quantiles["Ha"][:, [0, -1]].T
    assert (np.abs(middle - maps.flux[:, HA]) < maps.flux_sigma[:, HA]).all()  # of any distribution
    assert ((low < middle) & (middle < high)).all()
    error = np.abs(light - true)
    wrong = np.abs(galaxy.grid(light)[:, ::-1] - galaxy.grid(true))  # East and West exchanged
    assert np.median(error) < 0.05 * np.median(true)
    assert np.nanmedian(wrong) > 2 * np.median(error)


# --- the loop


class Perfect(Predictor):
    """Knows the truth; fails where it is told to."""

    name, key = "The truth, exactly!", "1"

    def __init__(self, fails=(), stop_at=None):
        self.fails, self.stop_at, self.asked = fails, stop_at, []

    def predict(self, galaxy):
        if galaxy.index == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(galaxy.index)
        if galaxy.index in self.fails:
            raise ValueError("no light")
        sigma = np.full(galaxy.flux.shape, 0.1)
        covariance = 0.01 * (np.eye(15) + np.arange(15)[:, None] + np.arange(15))[None].repeat(len(galaxy), 0)
        quantiles = {"Ha": galaxy.flux[:, [HA]] + LEVELS, "N2/Ha": np.ones((len(galaxy), 1)) * LEVELS}
        return PredictedMaps(galaxy.flux, sigma, galaxy.ew, sigma, covariance=covariance, spectrum=galaxy.spectrum,
                             spectrum_sigma=0.1 * np.ones_like(galaxy.spectrum), quantiles=quantiles,
                             coherence=(0.3, 4.0 + galaxy.index))  # fmt: skip


class Plain(Predictor):
    name, key = "plain", "2"

    def predict(self, galaxy):
        return PredictedMaps(*[np.ones(galaxy.flux.shape)] * 4)


def scores(predictions, truths, seed, draws):
    return [
        {"predictor": name, "quantity": "Ha", "region": "whole", "stratum": "all", "score": "MAE", "low": np.nan,
         "value": np.mean([np.abs(p.flux - t.flux).mean() for p, t in zip(maps, truths, strict=True)
                           if np.isfinite(p.flux).all()]), "high": None, "galaxies": np.int64(len(truths)),
         "spaxels": sum(map(len, truths))} for name, maps in predictions.items()
    ]  # fmt: skip


def curves(predictions, truths, seed, draws):
    return [], [{"predictor": "plain", "nominal": np.array([0.5]), "covered": [np.inf]}]


def test_judge(made, tmp_path, caplog):
    bad = made[1].index
    with caplog.at_level(logging.WARNING):
        got = judge(made, [Perfect(fails=[bad]), Plain()], tmp_path, meta={"command": "c"}, measures=(scores, curves))
    assert f"SIM {SEED}-{bad}" in caplog.text and "no light" in caplog.text
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert stored == got
    assert [row["predictor"] for row in stored["scores"]] == ["The truth, exactly!", "plain"]
    assert stored["scores"][0]["value"] == pytest.approx(0, abs=1e-6) and stored["scores"][1]["value"] > 0.1
    assert stored["scores"][0]["low"] is None and stored["reliability"][0]["covered"] == [None]
    meta = stored["meta"]
    assert meta["galaxies"] == 4 and meta["command"] == "c" and meta["held_out"]["seed"] == SEED
    first, second = meta["predictors"]
    assert (first["kind"], first["failed"], second["kind"], second["failed"]) == ("judged", 1, "rival", 0)
    table = Table.read(tmp_path / "scores.ecsv")
    assert list(table["galaxies"]) == [4, 4] and table["low"].mask.all() and not np.ma.is_masked(table["value"])
    # what was predicted is read back
    maps = read_predictions(tmp_path, "The truth, exactly!", made)
    assert np.isnan(maps[1].flux).all() and maps[1].covariance is None
    np.testing.assert_array_equal(maps[2].flux, made[2].flux)
    np.testing.assert_allclose(maps[2].spectrum, made[2].spectrum, rtol=1e-3)
    np.testing.assert_allclose(
        maps[3].covariance[0], 0.01 * (np.eye(15) + np.add.outer(range(15), range(15))), rtol=1e-6
    )
    assert maps[1].quantiles is None and maps[1].coherence is None and set(maps[2].quantiles) == {"Ha", "N2/Ha"}
    np.testing.assert_allclose(maps[2].quantiles["Ha"], made[2].flux[:, [HA]] + LEVELS, rtol=1e-6)
    assert maps[3].coherence == (0.3, 4.0 + made[3].index)
    plain = read_predictions(tmp_path, "plain", made)[0]
    assert plain.spectrum is None and plain.quantiles is None and plain.coherence is None


def test_judge_resumes(made, tmp_path):
    first = Perfect(stop_at=made[2].index)
    with pytest.raises(KeyboardInterrupt):
        judge(made, [first], tmp_path, measures=[scores])
    again = Perfect()
    judge(made, [again], tmp_path, measures=[scores])
    assert [*first.asked, *again.asked] == [g.index for g in made]
    changed = Perfect()
    changed.key = "3"
    with pytest.raises(ValueError, match="key"):
        judge(made, [changed], tmp_path, measures=[scores])
    judge(made, [changed], tmp_path, measures=[scores], overwrite=True)
    assert len(changed.asked) == 4


def test_judge_tries_again_what_failed(made, tmp_path):
    """A galaxy that failed once, for want of memory, is not lost for ever; the others are not predicted again."""
    bad = made[1].index
    judge(made, [Perfect(fails=[bad])], tmp_path, measures=[scores])
    good = (tmp_path / "predictions" / "the-truth-exactly" / "00001.npz").stat().st_mtime_ns
    still = Perfect(fails=[bad])
    assert judge(made, [still], tmp_path, measures=[scores])["meta"]["predictors"][0]["failed"] == 1
    again = Perfect()
    again.role = "null"
    got = judge(made, [again], tmp_path, measures=[scores])
    assert got["meta"]["predictors"][0]["role"] == "null"
    chosen = [(t.ew[:, 11] > 1) & (t.flux[:, 11] > 3 * t.depth[11]) & (t.radius < 1.6) for t in made]
    assert 0 < got["meta"]["chosen_spaxels"] == sum(map(np.sum, chosen)) < got["meta"]["positions"]
    assert still.asked == again.asked == [bad] and got["meta"]["predictors"][0]["failed"] == 0
    assert (tmp_path / "predictions" / "the-truth-exactly" / "00001.npz").stat().st_mtime_ns == good
    maps = read_predictions(tmp_path, "The truth, exactly!", made)
    for i in (0, 1):
        np.testing.assert_array_equal(maps[i].flux, made[i].flux.astype(np.float32))
        np.testing.assert_allclose(maps[i].spectrum, made[i].spectrum, rtol=1e-3)
        assert np.isfinite(maps[i].covariance).all()


def test_judge_refuses(made, tmp_path):
    with pytest.raises(ValueError, match="name"):
        judge(made, [Plain(), Plain()], tmp_path, measures=[scores])
    with pytest.raises(RuntimeError, match="every galaxy.*no light"):
        judge(made, [Perfect(fails=[g.index for g in made])], tmp_path, measures=[scores])
    for wrong, message in (
        ({"quantiles": {"Ha": np.zeros((3, 3))}}, "quantiles.*'Ha'.* shape"),
        ({"quantiles": {"Halpha": np.zeros((3, 3))}}, "key 'Halpha'"),
        ({"coherence": (1.2, 3.0)}, "coherence"),
    ):
        predictor = Plain()
        predictor.predict = lambda g, wrong=wrong: PredictedMaps(*[np.ones(g.flux.shape)] * 4, **wrong)
        with pytest.raises(RuntimeError, match=message):
            judge(made, [predictor], tmp_path, measures=[scores], overwrite=True)
    path = tmp_path / "predictions" / "the-truth-exactly" / "00000.npz"
    judge(made, [Perfect()], tmp_path, measures=[scores])
    stored = dict(np.load(path))
    np.savez(path, **stored | {"levels": np.array(LEVELS) / 2})
    with pytest.raises(ValueError, match="quantiles at"):
        read_predictions(tmp_path, "The truth, exactly!", made)
    with pytest.raises(FileNotFoundError, match="judge"):
        read_predictions(tmp_path, "nobody", made)
