# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Baselines: what they see of an image, what they learn of noisy fibres, and what the nulls may not know."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from fiberifu.model import LINE_WAVELENGTH, LINES, ModelConfig
from fiberifu.validate import baselines, code_hash, fiber_sample, image_view, nulls
from fiberifu.validate.line_fit import LineFitter
from fiberifu.validate.maps import TruthMaps
from fiberifu.validate.regress import LineRegression, make_trees

HA, N2, N2_WEAK, O3, O3_WEAK = (LINES.index(x) for x in ("Ha", "N2_6583", "N2_6548", "O3_5007", "O3_4959"))
CONFIG = ModelConfig()
SIZE, PIXEL = 64, 0.262


# ------------------------------------------------------------- a small universe with one law: EW follows g - r
def polynomials():
    x = np.linspace(-1, 1, CONFIG.rest_size)
    return np.array([np.polynomial.Legendre.basis(i)(x) for i in range(CONFIG.n_continuum)])


def make_galaxy(number, missing=()):
    """Light falls off from a centre; g - r runs along a random direction; EW(Ha) = 40 A x 10^(-(g - r)), say."""
    rng = np.random.default_rng(number)
    pixels = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
    north, east = np.meshgrid(pixels, pixels, indexing="ij")
    centre, angle, tilt = rng.uniform(-1, 1, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.2)
    middle = rng.uniform(0.4, 0.8)

    def colour(east, north):
        x, y = east - centre[0], north - centre[1]
        return np.clip(middle + tilt * (x * np.cos(angle) + y * np.sin(angle)), 0.1, 1.2)

    def brightness(east, north):
        r = 8 * np.exp(-np.hypot(east - centre[0], north - centre[1]) / 2.5)
        g_r = colour(east, north)
        return np.array([r * 10 ** (-0.4 * g_r), r, r * 1.2, r * 1.3])

    present = np.array([band not in missing for band in "griz"])
    sigma = np.where(present[:, None, None], 0.02, np.inf) * np.ones((4, SIZE, SIZE))
    image = brightness(east, north) + 0.02 * rng.standard_normal((4, SIZE, SIZE))
    steps = np.arange(-4, 5)
    row, column = (x.ravel() for x in np.meshgrid(np.arange(9), np.arange(9), indexing="ij"))
    at = steps[column] * 0.75, steps[row] * 0.75
    ew = np.full((81, len(LINES)), 5.0)
    ew[:, HA] = 40 * 10 ** -colour(*at)
    light = brightness(*at)[1] * np.pi / 4 * 1.5**2 * 0.28  # about r band to 1e-17 erg/s/cm2/A
    band = brightness(*at).T * np.pi / 4 * 1.5**2
    wave = CONFIG.wave_start + CONFIG.wave_step * np.arange(CONFIG.wave_size)
    z = 0.05
    return TruthMaps(
        name=f"SIM 1-{number}", seed=1, index=number, image=np.where(np.isfinite(sigma), image, 0).astype(np.float32),
        sigma=sigma.astype(np.float32), present=present, psf_fwhm=1.2, pixel_scale=PIXEL, redshift=z, spaxel=0.75,
        row=row, column=column, east=at[0], north=at[1], radius=np.hypot(at[0] - centre[0], at[1] - centre[1]) / 2.5,
        flux=ew * light[:, None] * (1 + z), ew=ew, depth=np.full(len(LINES), 0.3), band=band, velocity=np.zeros(81),
        peak_distance=np.zeros(81), strata={}, properties={"re_arcsec": 2.5}, wave=wave, spectrum_at=np.arange(0),
        spectrum=np.zeros((0, len(wave))), central_flux=np.ones(len(wave)), central_ivar=np.ones(len(wave)),
        central_offset=centre,
    )  # fmt: skip


def make_sample(numbers, noise=3.0, per_galaxy=8):
    """Fibres anywhere on such galaxies, with EW errors between a tenth and the whole of ``noise``."""
    parts, rng = [], np.random.default_rng(5)
    for number in numbers:
        galaxy = make_galaxy(number)
        rows = rng.permutation(len(galaxy))[:per_galaxy]
        view = baselines.view_galaxy(galaxy)
        sigma = noise * 10 ** rng.uniform(-1, 0, (len(rows), len(LINES)))
        ew = galaxy.ew[rows] + sigma * rng.standard_normal(sigma.shape)
        light = (galaxy.flux / galaxy.ew)[rows]
        ew[:, O3_WEAK] = np.nan
        one = {
            name: getattr(view, name)[rows] for name in ("flux", "error", "patch", "redshift", "psf_fwhm", "distance")
        }
        parts.append(one | {"line_flux": ew * light, "line_flux_sigma": sigma * light, "ew": ew, "ew_sigma": sigma,
                            "true_flux": galaxy.flux[rows], "true_ew": galaxy.ew[rows],
                            "radius": galaxy.radius[rows], "galaxy": np.full(len(rows), number)})  # fmt: skip
    joined = {name: np.concatenate([p[name] for p in parts]) for name in fiber_sample.ROWS}
    return fiber_sample.LineSample(**joined, continuum=polynomials())


@pytest.fixture(scope="module")
def sample():
    return make_sample(range(100, 150))


@pytest.fixture(scope="module")
def galaxies():
    return [make_galaxy(number) for number in range(8)]


@pytest.fixture(scope="module")
def trees(sample, small_trees):
    return baselines.FiberTrees(sample)


@pytest.fixture(scope="module")
def ridge(sample, small_trees):
    return baselines.PatchRidge(sample)


@pytest.fixture(scope="module")
def position(sample, small_trees):
    return baselines.PositionOnly(sample)


@pytest.fixture(scope="module", autouse=True)
def small_trees():
    """Fewer trees, and two free lines only: these tests are about what is fed to scikit-learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fiberifu.model.lines.AMPLITUDES", ("O3_5007", "Ha"))
        patch.setattr(baselines, "make_trees", lambda: make_trees(60, 8, 8))
        yield


def residuals(predictor, galaxies, line=HA):
    """log EW predicted less true, all positions within 3 arcsec of the centre."""
    out = []
    for galaxy in galaxies:
        near = galaxy.radius < 1.2
        got = predictor.predict(galaxy)
        out.append(np.log10(np.maximum(got.ew[near, line], 0.05) / galaxy.ew[near, line]))
    return np.concatenate(out)


# ------------------------------------------------------------- the image
def test_patch_has_east_at_the_right_and_north_at_the_top():
    image = np.zeros((1, 4, SIZE, SIZE), np.float32)
    image[0, :, SIZE // 2 + 4, SIZE // 2 + 8] = 1.0  # 4.5 pixels north, 8.5 east of the centre
    offset = np.array([[8.5 * PIXEL - 2 * 0.524, 4.5 * PIXEL - 0.524], [8.5 * PIXEL, 4.5 * PIXEL]])
    flux, error, patch = image_view.view_image(CONFIG, image, np.ones_like(image), [0, 0], offset)
    assert np.unravel_index(patch[0, 1].argmax(), (7, 7)) == (4, 5)  # one row up, two columns right
    assert np.unravel_index(patch[1, 1].argmax(), (7, 7)) == (3, 3)
    np.testing.assert_allclose(patch[1].sum((1, 2)) * 0.524**2, PIXEL**2, rtol=0.02)  # nothing is lost
    assert np.all(flux[1] > flux[0])


def test_view_marks_what_is_missing():
    galaxy = make_galaxy(3, missing="i")
    view = baselines.view_galaxy(dataclasses.replace(galaxy, east=galaxy.east + 9.0))  # some positions off the image
    assert np.isnan(view.flux[:, 2]).all() and np.isnan(view.patch[:, 2]).all()
    off = galaxy.east + 9.0 > SIZE / 2 * PIXEL + 0.8
    assert off.any() and np.isnan(view.flux[off]).all() and np.isfinite(view.flux[galaxy.column == 0][:, :2]).all()
    assert image_view.colour_features(view).shape == (81, 13)


@pytest.mark.parametrize("bands", [[0, 1, 2, 3], [0, 3], [1]])
def test_continuum_of_a_power_law(bands):
    """A power law in f_lambda comes back between and beyond the bands; one band alone leaves it flat."""
    slope = -1.3 if len(bands) > 1 else 0.0
    z = np.array([0.02, 0.3])
    density = lambda wave: 4.0 * (wave / 6000.0) ** slope  # noqa: E731
    nanomaggy = density(image_view.BAND_WAVE) * image_view.BAND_WAVE**2 / (3631e-9 * 1e-23 * 2.99792458e18 * 1e17)
    flux = np.where(np.isin(range(4), bands), nanomaggy, np.nan) * np.ones((2, 1))
    view = image_view.ImageView(flux, flux * 0.1, np.zeros((2, 4, 7, 7)), z, np.ones(2), np.ones(2))
    continuum, sigma = image_view.image_continuum(view)
    lines = np.array(list(LINE_WAVELENGTH.values())) * (1 + z[:, None])
    np.testing.assert_allclose(continuum, density(lines), rtol=1e-6)
    assert np.all(sigma > 0.06 * continuum)
    nothing = dataclasses.replace(view, flux=np.full((2, 4), np.nan))
    assert np.isnan(image_view.image_continuum(nothing)[0]).all()


# ------------------------------------------------------------- the spectra
@pytest.mark.parametrize("width", [40.0, 140.0])
def test_line_fit(width):
    """Gaussians on a sloping continuum: flux and EW within their errors, whatever the width; masks and edges too."""
    rng, z = np.random.default_rng(1), np.array([0.05, 0.05, 0.25, 0.56])
    wave = CONFIG.wave_start + CONFIG.wave_step * np.arange(CONFIG.wave_size)
    level, flux = 3.0 + 1e-4 * (wave - 6000), {HA: 200.0, N2: 60.0, N2_WEAK: 60 / 3.05, O3: 100.0, O3_WEAK: 100 / 2.98}
    spectra = np.tile(level, (4, 1))
    lines = np.array(list(LINE_WAVELENGTH.values()))
    for i, total in flux.items():
        centre = lines[i] * (1 + z[:, None])
        sigma = np.hypot(centre * width / 299792.458, 0.66)
        spectra += total / np.sqrt(2 * np.pi) / sigma * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
    ivar = np.full(spectra.shape, 1 / 0.3**2)
    ivar[1, abs(wave - lines[O3] * 1.05) < 15] = 0
    got = LineFitter(CONFIG, polynomials()).fit(spectra + 0.3 * rng.standard_normal(spectra.shape), ivar, z)
    assert not got.measured[3, HA] and not got.measured[1, O3] and np.isnan(got.ew[3, HA])
    assert got.measured[:3, HA].all() and got.measured[3, O3]
    for i, total in flux.items():
        ok = got.measured[:, i]
        truth = total / np.interp(lines[i] * (1 + z), wave, level) / (1 + z)
        assert np.all(abs(got.flux[ok, i] - total) < 4 * got.flux_sigma[ok, i] + 0.05 * total)
        assert np.all(abs(got.ew[ok, i] - truth[ok]) < 4 * got.ew_sigma[ok, i] + 0.05 * truth[ok])
    s2 = got.flux[:3, LINES.index("S2_6716")] / got.flux_sigma[:3, LINES.index("S2_6716")]
    assert np.all(abs(s2) < 4)  # no line, none found


# ------------------------------------------------------------- learning from noise
def test_noise_in_asinh_does_not_bias():
    """EW errors up to 5 A on a truth of 1-10 A: the prediction follows the truth, and the spread is the truth's own."""
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, (2000, 1))
    true = np.sinh(1 + 2 * x[:, 0] + 0.2 * rng.standard_normal(2000))
    sigma = 5 * 10 ** rng.uniform(-2, 0, 2000)
    fit = LineRegression(lambda: make_trees(60, 8), x, true + sigma * rng.standard_normal(2000),
                         sigma, np.arange(2000))  # fmt: skip
    at = np.linspace(0.1, 0.9, 30)[:, None]
    ew, error = fit.predict(at)
    assert abs(np.mean(np.arcsinh(ew) - 1 - 2 * at[:, 0])) < 0.03
    assert np.median(error / np.sqrt(1 + ew**2)) == pytest.approx(0.2, abs=0.06)


def test_few_values():
    with pytest.raises(ValueError, match="60 are needed"):
        LineRegression(make_trees, np.zeros((50, 1)), np.ones(50), np.ones(50), np.arange(50))


# ------------------------------------------------------------- the methods
def test_who_learns_the_law(sample, galaxies, trees, ridge, position):
    """Colour sets the EW: trees and ridge learn it of noisy fibres; position and a constant cannot know it."""
    methods = (baselines.LightTimesEW(sample), trees, ridge, position)
    constant, trees, ridge, position = (residuals(method, galaxies).std() for method in methods)
    assert trees < 0.5 * constant and ridge < 0.5 * constant
    assert position > 0.8 * constant


def test_errors_of_trees_cover(trees, galaxies):
    got = [trees.predict(galaxy) for galaxy in galaxies]
    pull = np.concatenate([(p.ew - g.ew)[:, HA] / p.ew_sigma[:, HA] for p, g in zip(got, galaxies, strict=True)])
    assert 0.4 < pull.std() < 1.3  # of 400 fibres; on the safe side, as two thirds of them predict the others
    assert np.all(got[0].flux_sigma[:, HA] > got[0].ew_sigma[:, HA] / got[0].ew[:, HA] * got[0].flux[:, HA])
    # a tied line follows its partner, an untrained one is not predicted
    np.testing.assert_allclose(got[0].ew[:, O3_WEAK], got[0].ew[:, O3] / 2.98)
    assert np.isnan(got[0].ew[:, N2]).all()


def test_flux_is_ew_times_light(trees, galaxies):
    got, galaxy = trees.predict(galaxies[0]), galaxies[0]
    bright = galaxy.radius < 1
    ratio = (got.flux / got.ew / (galaxy.flux / galaxy.ew))[bright, HA]
    assert abs(np.log10(ratio)).max() < 0.1  # the universe's continuum is that of r


def test_east_is_east(ridge):
    """Redder, hence weaker lines, to the East in the image: so in the map."""
    galaxy = make_galaxy(1)
    x = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL
    image = np.ones((4, SIZE, SIZE), np.float32) * np.array([1, 1, 1.2, 1.3])[:, None, None]
    image[0] *= 10 ** (-0.4 * np.clip(0.6 + 0.1 * x, 0.1, 1.2))
    galaxy = dataclasses.replace(galaxy, image=image)
    ew = galaxy.grid(ridge.predict(galaxy).ew[:, HA])
    assert (
        np.all(ew[:, :2] > ew[:, -2:]) and abs(np.log(ew[0] / ew[-1])).max() < abs(np.log(ew[:, 0] / ew[:, -1])).min()
    )


def test_trees_that_see_the_patch(monkeypatch):
    """A law of the light around a position, which its own colours cannot tell, is learned from patches alone."""
    monkeypatch.setattr("fiberifu.model.lines.AMPLITUDES", ("Ha",))
    monkeypatch.setattr(baselines, "make_trees", lambda: make_trees(50, 8, 8))
    rng = np.random.default_rng(7)
    around = rng.uniform(0.2, 5, 300)  # a disc, whose middle alone the aperture sees
    patch = around[:, None, None, None] * np.ones((1, 4, 7, 7))
    patch[:, :, 2:5, 2:5] = 4.0
    one = np.ones((300, 4))
    view = image_view.ImageView(one, 0.1 * one, patch, np.full(300, 0.05), np.full(300, 1.2), np.ones(300))
    ew = np.tile(4 * around[:, None], len(LINES)) + 0.3 * rng.standard_normal((300, len(LINES)))
    lines = dict.fromkeys(("ew", "line_flux", "true_ew", "true_flux"), ew)
    lines |= dict.fromkeys(("ew_sigma", "line_flux_sigma"), np.full_like(ew, 0.3))
    sample = fiber_sample.LineSample(
        **vars(view), **lines, radius=around, galaxy=np.arange(300), continuum=polynomials()
    )
    for method, error in ((baselines.FiberTrees, (0.2, 2)), (baselines.PatchTrees, (0, 0.05))):
        learned = method(sample[:200])
        got, _ = learned.regress(learned.features(sample[200:].view))
        off = np.log10(got[:, HA] / (4 * around[200:]))
        assert error[0] <= off.std() < error[1]
    # features by hand: a band that is missing, and a gradient
    patch[:, 2], patch[0, 0] = np.nan, np.arange(7)[:, None]
    x = learned.features(view)
    assert x.shape == (300, 24) and np.isnan(x[:, [15, 19]]).all() and np.isfinite(np.delete(x, [15, 19], 1)).all()
    assert x[0, 13] == pytest.approx(np.arcsinh(3 / 0.05)) and x[0, 17] == pytest.approx(0)


@pytest.mark.parametrize("missing", ["i", "grz", "griz"])
def test_missing_bands(sample, trees, ridge, missing):
    galaxy = make_galaxy(2, missing=missing)
    for method in (trees, ridge, baselines.LightTimesEW(sample)):
        got = method.predict(galaxy)
        assert got.flux.shape == (81, 15)
        if missing == "griz":  # nothing seen, nothing said
            assert np.isnan(got.flux).all()
        else:
            assert np.isfinite(got.flux[:, HA]).all() and np.isfinite(got.flux_sigma[:, HA]).all()


def test_keys(sample):
    """A key hangs on the training set and on the method, and comes without training."""
    methods = (baselines.FiberTrees, baselines.PatchTrees, baselines.IFUTrees, baselines.PatchRidge,
               baselines.PositionOnly, baselines.LightTimesEW, baselines.CentralTimesLight)  # fmt: skip
    keys = [method(s).key for s in (sample, sample[:-1]) for method in methods]
    again = [method(sample[slice(None)]).key for method in methods]
    assert len(set(keys)) == len(keys) and again == keys[: len(methods)]
    changed = dataclasses.replace(sample, ew=sample.ew * 1.001)
    assert baselines.FiberTrees(changed).key != keys[0]


def test_central_spectrum(sample):
    galaxy = make_galaxy(4)
    centre, sigma = LINE_WAVELENGTH["Ha"] * 1.05, 2.5
    line = 60 / np.sqrt(2 * np.pi) / sigma * np.exp(-0.5 * ((galaxy.wave - centre) / sigma) ** 2)
    noise = np.random.default_rng(0).standard_normal(len(line))
    galaxy = dataclasses.replace(galaxy, central_flux=2 + line + 0.05 * noise, central_ivar=np.full(len(line), 400.0))
    got = baselines.CentralTimesLight(sample).predict(galaxy)
    np.testing.assert_allclose(got.ew[:, HA], 60 / 2 / 1.05, rtol=0.1)
    assert np.ptp(got.ew[:, HA]) == 0 and got.flux[40, HA] > got.flux[0, HA]
    # an O II line that has left the spectrum is not predicted
    bluer = baselines.CentralTimesLight(sample).predict(dataclasses.replace(galaxy, redshift=0.56))
    assert np.isnan(bluer.ew[:, HA]).all()
    with pytest.raises(ValueError, match="central_flux has 10 pixels"):
        baselines.CentralTimesLight(sample).predict(dataclasses.replace(galaxy, central_flux=np.ones(10)))


def test_without_scikit_learn(sample, galaxies, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [m for m in sys.modules if m.startswith("sklearn.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert np.isfinite(baselines.LightTimesEW(sample).predict(galaxies[0]).flux[:, HA]).all()
    with pytest.raises(ImportError, match=r"pip install 'fiberifu\[validate\]'"):
        baselines.FiberTrees(sample).predict(galaxies[0])


# ------------------------------------------------------------- the nulls
class Seen(baselines.Predictor):
    """Gives back what it is shown."""

    name = key = "seen"

    def of(self, null, galaxy):
        return null(self).predict(galaxy)

    def predict(self, galaxy):
        return galaxy


def test_nulls_know_nothing(trees, position, galaxies):
    assert residuals(nulls.Shuffled(trees, galaxies), galaxies).std() > 0.9 * residuals(position, galaxies).std()
    blank = nulls.Blank(trees).predict(galaxies[0])
    assert np.isfinite(blank.ew[:, HA]).all() and np.all(abs(blank.flux[:, HA]) < 0.2 * galaxies[0].flux[:, HA].max())
    # neither the image nor its errors, which grow with the light, are seen
    seen = []
    first = dataclasses.replace(galaxies[0], sigma=galaxies[0].sigma * np.ones((4, 1, 1)))
    first.sigma[1, :3] = np.inf
    for galaxy in (first, dataclasses.replace(first, image=2 * first.image, sigma=first.sigma.copy())):
        middle = galaxy.sigma.shape[-1] // 2
        galaxy.sigma[:, middle - 9 : middle + 9, middle - 9 : middle + 9] *= 1 + len(seen)
        seen.append(Seen().of(nulls.Blank, galaxy))
    np.testing.assert_array_equal(seen[0].image, seen[1].image)
    np.testing.assert_array_equal(seen[0].sigma, seen[1].sigma)
    assert (np.isinf(seen[0].sigma) == np.isinf(first.sigma)).all()
    assert all(len(np.unique(band[np.isfinite(band)])) == 1 for band in seen[0].sigma)
    good = np.isfinite(seen[0].sigma)
    assert (seen[0].image[good] / seen[0].sigma[good]).std() == pytest.approx(1, abs=0.05)
    assert len({trees.key, nulls.Blank(trees).key, nulls.Shuffled(trees, galaxies).key}) == 3
    with pytest.raises(ValueError, match="at least two galaxies"):
        nulls.Shuffled(trees, galaxies[:1])


def test_shuffled_falls_on_the_other_galaxy(galaxies):
    """Positions keep their place relative to the centre of the light, and the donor does not depend on order."""

    class Echo:
        name = key = "echo"

        def predict(self, galaxy):
            return galaxy

    shuffled = nulls.Shuffled(Echo(), galaxies)
    for galaxy in galaxies:
        donor, seen = shuffled.donor(galaxy), shuffled.predict(galaxy)
        assert donor.name != galaxy.name and seen.image is donor.image and seen.redshift == galaxy.redshift
        np.testing.assert_allclose(seen.east - donor.central_offset[0], galaxy.east - galaxy.central_offset[0])
        np.testing.assert_allclose(seen.north - donor.central_offset[1], galaxy.north - galaxy.central_offset[1])


@pytest.mark.parametrize("instrument", ["MaNGA", "DESI"])
def test_noise_floor(galaxies, instrument):
    got = [nulls.NoiseFloor(instrument).predict(galaxy) for galaxy in galaxies]
    pull = np.concatenate([((p.flux - g.flux) / p.flux_sigma).ravel() for p, g in zip(got, galaxies, strict=True)])
    assert abs(np.nanmean(pull)) < 0.05 and np.nanstd(pull) == pytest.approx(1, abs=0.03)
    same = nulls.NoiseFloor(instrument).predict(galaxies[0])
    np.testing.assert_array_equal(same.flux, got[0].flux)
    assert not np.array_equal(nulls.NoiseFloor(instrument, seed=1).predict(galaxies[0]).flux, got[0].flux)
    if instrument == "DESI":  # a matched filter of sigma s in pixels of 1/A noise n: n sqrt(2 sqrt(pi) s), here in A
        s = np.hypot(LINE_WAVELENGTH["Ha"] * 1.05 * 90 / 299792.458, 0.66)
        assert got[0].flux_sigma[0, HA] == pytest.approx(np.sqrt(2 * np.sqrt(np.pi) * s * 0.8), rel=0.03)
    with pytest.raises(ValueError, match="'MUSE'"):
        nulls.NoiseFloor("MUSE")


# ------------------------------------------------------------- the sample
@pytest.fixture(scope="module")
def training():
    from fiberifu.simulate import analytic_template_pack
    from fiberifu.train import Recipe

    return Recipe(seed=5, batch=3, steps=4, mixtures=40, simulator={"pair_fraction": 0.0}), analytic_template_pack()


def test_fiber_sample_resumes(training, tmp_path, monkeypatch):
    """Killed in the middle, gone on, asked for more: always the very fibres of training."""
    recipe, pack = training
    monkeypatch.setattr(fiber_sample, "SAVE_SECONDS", -1.0)
    path = tmp_path / "fibers.npz"

    def kill(count):
        if count >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fiber_sample.sample_fibers(recipe, pack, 9, path, progress=kill)
    with np.load(path) as stored:
        assert len(stored["redshift"]) == 6 and int(stored["step"]) == 2
    got = fiber_sample.sample_fibers(recipe, pack, 100, path)
    assert len(got) == 12 and [p.name for p in tmp_path.iterdir()] == ["fibers.npz"]  # all that the recipe has
    whole = fiber_sample.sample_fibers(recipe, pack, 10)
    assert whole.sha256() == got[:10].sha256() == fiber_sample.sample_fibers(recipe, pack, 10, path).sha256()

    from fiberifu.simulate import SimConfig, Simulator

    batch = Simulator(pack, SimConfig(pair_fraction=0.0)).batch(3, 5 * 10_000_000 + 1)
    np.testing.assert_allclose(got.redshift[3:6], batch["fiber_redshift"], rtol=1e-6)
    np.testing.assert_allclose(got.true_ew[3:6], batch["truth"]["line_ew"], rtol=1e-4)
    sure = got.measured[:, HA] & (got.true_ew[:, HA] > 5 * got.ew_sigma[:, HA] + 3)
    assert sure.any() and np.all(abs(np.log(got.ew[sure, HA] / got.true_ew[sure, HA])) < 0.5)

    other = dataclasses.replace(recipe, seed=6)
    with pytest.raises(ValueError, match="another recipe"):
        fiber_sample.sample_fibers(other, pack, 3, path)
    path.write_bytes(b"PK half a file")
    with pytest.raises(ValueError, match="no sample"):
        fiber_sample.sample_fibers(recipe, pack, 3, path)


def test_stages_in_turn(training):
    recipe, pack = training
    second = dataclasses.replace(recipe, seed=7, steps=1)
    both = fiber_sample.sample_fibers([recipe, second], pack, 9)
    seeds = both.galaxy // recipe.batch
    assert seeds.tolist() == [50_000_000] * 3 + [70_000_000] * 3 + [50_000_001] * 3
    with pytest.raises(ValueError, match="none"):
        fiber_sample.sample_fibers([], pack, 9)


def test_spaxel_sample(training, tmp_path):
    recipe, pack = training
    path = tmp_path / "spaxels.npz"
    got = fiber_sample.sample_spaxels(recipe, pack, 12, path, per_galaxy=6)
    assert len(got) == 12 and got.radius.max() < 1.5 and np.unique(got.galaxy, return_counts=True)[1].max() <= 6
    more = fiber_sample.sample_spaxels(recipe, pack, 15, path, per_galaxy=6)
    assert more[:12].sha256() == got.sha256()
    pull = (more.line_flux - more.true_flux) / more.line_flux_sigma
    assert np.nanstd(pull) == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="held-out"):
        fiber_sample.sample_spaxels(recipe, pack, 12, seed=77_000_001)


def test_hash_of_what_predicts(tmp_path, monkeypatch):
    """Predictions of other code are not resumed; every module in the list exists."""
    root, prediction_sha256 = Path(code_hash.__file__).parents[1], code_hash.prediction_sha256.__wrapped__
    assert all(list(root.glob(f"{name}.py")) for name in code_hash.PREDICTING)
    monkeypatch.setattr(code_hash, "PREDICTING", ("decode", "model/*"))
    (tmp_path / "model").mkdir()
    keys = []
    for decode, layer in (("x = 1", "y = 2"), ("x = 1  # one", '"""A layer."""\ny = 2'), ("x = 2", "y = 2"),
                          ("x = 1", "y = 3")):  # fmt: skip
        (tmp_path / "decode.py").write_text(decode)
        (tmp_path / "model" / "layer.py").write_text(layer)
        keys.append(prediction_sha256(tmp_path))
    assert keys[0] == keys[1] and len(set(keys)) == 3
    with pytest.raises(FileNotFoundError, match=r"no decode.py"):
        prediction_sha256(tmp_path / "nowhere")


def test_hash_of_the_simulator_ignores_words(tmp_path):
    """Comments and docstrings do not make a sample stale; code does."""
    keys = []
    for number, text in enumerate(('"""Sky."""\ny = 2\n', '"""Of the sky."""\ny = 2  # two\n', "y = 3\n")):
        for name in ("simulate/sky", "model/local", "model/basis"):
            file = tmp_path / str(number) / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text if name == "simulate/sky" else "x = 1\n")
        keys.append(fiber_sample.simulator_sha256(tmp_path / str(number)))
    assert keys[0] == keys[1] != keys[2]
