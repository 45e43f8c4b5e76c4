# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The held-out galaxies: split of the sky, truth of one galaxy, the folder of all."""

import dataclasses

import numpy as np
import pytest

from fiberifu.model import LINES
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack
from fiberifu.simulate.survey import STRATA
from fiberifu.train.split import MARGIN, is_held_out, sky_block
from fiberifu.validate import HeldOutSet
from fiberifu.validate.depth import aperture_factor, line_depth
from fiberifu.validate.held_out import SEED
from fiberifu.validate.truth import RULE, choose_galaxies, galaxy_truth, sky_position

HA = LINES.index("Ha")


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
    """3 sigma in H-alpha: 5e-18 erg/s/cm2/arcsec2 (Belfiore+2019, AJ 158, 160) for fits with free widths."""
    depth = line_depth(simulator, 0.03, 60.0)
    assert 1.5e-1 < 3 * depth[HA] / (np.pi / 4 * 1.5**2) < 6e-1
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
    (first.folder / ".0123abcd-00001.npz").write_bytes(b"half")  # as a killed run leaves it
    more = HeldOutSet(tmp_path / "t", simulator, 3, per_shard=2)
    assert more.missing() == [1]
    more.build()
    assert len(more) == 3 and len(list(more)) == 3 and len(more.truths()) == 3 and len(more.shard(1)) == 1
    names = sorted(p.name for p in more.folder.iterdir())
    assert names == ["00000.npz", "00001.npz", "manifest.json"]
    for name in names[:2]:
        assert (more.folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_set_refuses_another_universe(made, simulator, tmp_path):
    with pytest.raises(ValueError, match="seed"):
        HeldOutSet(made.folder, simulator, 4, seed=1, per_shard=2)
    with pytest.raises(ValueError, match="noise"):
        HeldOutSet(made.folder, Simulator(analytic_template_pack(), SimConfig(noise=False)), 4, per_shard=2)
    with pytest.raises(FileNotFoundError, match="no held-out galaxies"):
        HeldOutSet(tmp_path)
    with pytest.raises(ValueError, match="galaxies"):
        HeldOutSet(tmp_path, simulator, 0)
    with pytest.raises(FileNotFoundError, match="build"):
        HeldOutSet(tmp_path, simulator, 5)[0]
    with pytest.raises(ValueError, match="simulator"):
        HeldOutSet(made.folder, galaxies=20).build()
