# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The line engine against truth, against scipy, and against its own promises."""

import astropy.units as u
import numpy as np
import pytest
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from scipy.optimize import least_squares
from scipy.special import erf
from specutils import Spectrum

from fiberifu.lines import DAPMask, fit_line_maps, line_table, vacuum_to_air
from fiberifu.lines.engine import LineProblem, fit_lines, line_spectra, polynomial_spectra
from fiberifu.lines.table import observed_lines
from fiberifu.provenance import Provenance

C = 299792.458
Z = 0.03
KEYS = ["Hb", "O3_4959", "O3_5007", "N2_6548", "Ha", "N2_6583", "S2_6716", "S2_6731"]
RATIOS = [0.35, 0.3356, 1.0, 0.1, 1.0, 0.305, 0.2, 0.15]  # flux over that of H-alpha; [O III] and [N II] as tied
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
POWER = 2000.0  # lambda / FWHM
WAVE = np.arange(4900.0, 7060.0)


def mock(n=60, seed=1, noise=0.1, reach=150.0, ha=None):
    """Spectra (n, P) without noise, their error, and the truth."""
    rng = np.random.default_rng(seed)
    rest = line_table(KEYS)["wavelength"].to_value(u.AA)
    v, s = rng.uniform(-reach, reach, n), rng.uniform(60, 120, n)
    drawn = 10 ** rng.uniform(1.0, 2.5, n)
    ha = drawn if ha is None else np.full(n, ha)
    flux = np.outer(ha, RATIOS)
    x = (WAVE - 6000) / 1100
    data = (1 + 0.3 * x - 0.1 * x**2) * rng.uniform(0.5, 2, n)[:, None]
    edges = np.append(WAVE - 0.5, WAVE[-1] + 0.5)
    for j, wave in enumerate(rest):
        centre = wave * (1 + Z) * (1 + v / C)
        sigma = np.hypot(centre * s / C, wave * (1 + Z) / POWER / 2.3548)
        data += flux[:, j, None] * np.diff(erf((edges - centre[:, None]) / sigma[:, None] / np.sqrt(2)) / 2, axis=1)
    error = np.full(data.shape, noise)
    return data, data + error * rng.standard_normal(data.shape), error, {"flux": flux, "v": v, "s": s}


def cube(data, error, shape=None, **keywords):
    shape = (len(data),) if shape is None else shape
    full = lambda x: x.reshape(*shape, -1)  # noqa: E731
    axis = keywords.pop("axis", len(shape))
    arrays = [np.moveaxis(full(x), -1, axis) for x in (data, error)]
    return Spectrum(flux=arrays[0] * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=axis,
                    uncertainty=StdDevUncertainty(arrays[1]), **keywords)  # fmt: skip


def fit(spectrum, **keywords):
    return fit_line_maps(spectrum, KEYS, redshift=Z, **{"lsf": POWER, **keywords})


def values(maps, name="flux"):
    return np.array([getattr(maps, name)[key].data for key in KEYS])


@pytest.fixture(scope="module")
def fitted():
    _, data, error, truth = mock(n=400)
    return fit(cube(data, error)), truth


def test_pulls(fitted):
    """Errors are true: pulls of fluxes, velocities and widths have unit width and no bias."""
    maps, truth = fitted
    for j, key in enumerate(KEYS):
        pull = (maps.flux[key].data - truth["flux"][:, j]) / maps.flux[key].uncertainty.array
        assert abs(pull.mean()) < 0.2 and 0.88 < pull.std() < 1.12, key
    v, width = maps.velocity["Ha"], maps.dispersion["Ha"]
    pull = (v.data - truth["v"]) / v.uncertainty.array
    assert abs(pull.mean()) < 0.2 and 0.88 < pull.std() < 1.12
    instrument = maps.instrumental_dispersion["Ha"].data
    np.testing.assert_allclose(instrument, C / POWER / 2.3548, rtol=1e-3)
    pull = (width.data - np.hypot(truth["s"], instrument)) / width.uncertainty.array
    assert abs(pull.mean()) < 0.2 and 0.88 < pull.std() < 1.12
    dof = maps.meta["degrees_of_freedom"]
    assert np.mean(maps.meta["chi2"] / dof) == pytest.approx(1, abs=0.02)
    assert not maps.flux["Ha"].mask.any()


def test_without_noise_truth_comes_back():
    clean, _, error, truth = mock(n=20)
    maps = fit(cube(clean, error))
    np.testing.assert_allclose(values(maps), truth["flux"].T, rtol=2e-3)
    np.testing.assert_allclose(maps.velocity["Ha"].data, truth["v"], atol=0.1)


def test_velocities_are_caught_far_out():
    _, data, error, truth = mock(n=200, reach=600, ha=60)
    maps = fit(cube(data, error))
    assert (abs(maps.velocity["Ha"].data - truth["v"]) < 30).all()


def test_ties_and_covariance(fitted):
    maps, _ = fitted
    np.testing.assert_allclose(maps.flux["O3_5007"].data / maps.flux["O3_4959"].data, 2.98, rtol=0.01)
    a, b = (maps.flux[key].uncertainty.array for key in ("N2_6583", "N2_6548"))
    joint = maps.covariance("N2_6583", "N2_6548").value
    np.testing.assert_allclose(joint, a * b, rtol=1e-6)  # one free flux
    assert (maps.covariance("Ha", "N2_6583").value > 0).any()  # a common width moves them together


def test_agrees_with_scipy():
    """The same minimum as a general least-squares solver of the full problem."""
    _, data, error, _ = mock(n=6, ha=20)
    low, high = np.searchsorted(WAVE, [6480 * (1 + Z), 6650 * (1 + Z)])
    wave, centres = WAVE[low:high], line_table(KEYS[3:6])["wavelength"].to_value(u.AA) * (1 + Z)
    lsf, tie = centres / POWER / 2.3548, np.array([[0, 1 / 3.0], [1, 0], [0, 1.0]])
    problem = LineProblem(wave, np.ones(len(wave)), centres, lsf, tie, np.zeros(3, int), ((0, len(wave)),), degree=2)
    ours = fit_lines(problem, data[:, low:high], error[:, low:high] ** -2.0)
    spectra = line_spectra(problem, ours)
    smooth = polynomial_spectra(problem, data[:, low:high] - spectra, error[:, low:high] ** -2.0)
    for i in range(6):

        def residual(p, y=data[i, low:high]):
            centre = centres * (1 + p[0] / C)
            sigma = np.sqrt((centre / C) ** 2 * p[1] + lsf**2 + 1 / 12)
            shape = (
                np.exp(-0.5 * ((wave - centre[:, None]) / sigma[:, None]) ** 2) / sigma[:, None] / np.sqrt(2 * np.pi)
            )
            x = np.linspace(-1, 1, len(wave))
            return (y - (tie @ p[2:4]) @ shape - np.polynomial.legendre.legval(x, p[4:])) / 0.1

        start = [ours.velocity[i, 0] + 30, 8000.0, 15, 5, 1, 0, 0]
        theirs = least_squares(residual, start, method="lm", x_scale=[30, 3000, 1, 1, 1, 1, 1])
        sigma = np.sqrt(np.diag(np.linalg.inv(theirs.jac.T @ theirs.jac)))
        mine = np.array([ours.velocity[i, 0], ours.variance[i, 0], *ours.flux[i]])
        assert np.all(abs(mine - theirs.x[:4]) < 0.03 * sigma[:4])
        np.testing.assert_allclose(np.sqrt(np.diag(ours.covariance[i]))[[2, 3, 0, 1]], sigma[:4], rtol=0.05)
        assert ours.chi2[i] == pytest.approx(2 * theirs.cost, rel=1e-4)
        np.testing.assert_allclose((data[i, low:high] - spectra[i] - smooth[i]) / 0.1, theirs.fun, atol=0.02)


def test_scaling_and_shifting():
    _, data, error, _ = mock(n=10)
    maps, scaled = fit(cube(data, error)), fit(cube(data * 1e3, error * 1e3))
    np.testing.assert_allclose(values(scaled), 1e3 * values(maps), rtol=1e-6)
    np.testing.assert_allclose(values(scaled, "ew"), values(maps, "ew"), rtol=1e-6)
    np.testing.assert_allclose(values(scaled, "velocity"), values(maps, "velocity"), atol=1e-3)
    shifted = fit_line_maps(cube(data, error), KEYS, redshift=(1 + Z) * (1 + 100 / C) - 1, lsf=POWER)
    np.testing.assert_allclose(values(shifted, "velocity"), values(maps, "velocity") - 100, atol=0.5)


def test_units(fitted):
    _, data, error, _ = mock(n=400)
    other = Spectrum(flux=data / 10 * u.Unit("1e-16 erg / (s cm2 AA)"), spectral_axis=WAVE / 10 * u.nm,
                     spectral_axis_index=1, uncertainty=VarianceUncertainty((error / 10) ** 2))  # fmt: skip
    np.testing.assert_allclose(values(fit(other)), values(fitted[0]), rtol=1e-6)
    wrong = Spectrum(flux=data * u.ct, spectral_axis=WAVE * u.AA, uncertainty=StdDevUncertainty(error),
                     spectral_axis_index=1)  # fmt: skip
    with pytest.raises(ValueError, match="cube has the unit ct"):
        fit(wrong)


def test_company_order_and_axes_do_not_matter(fitted):
    maps, _ = fitted
    _, data, error, _ = mock(n=400)
    alone = fit(cube(data[7:8], error[7:8]))
    np.testing.assert_allclose(values(alone)[:, 0], values(maps)[:, 7], rtol=1e-6)
    np.testing.assert_allclose(values(fit(cube(data, error), chunk=37, threads=2)), values(maps), rtol=1e-6)
    image = fit(cube(data, error, shape=(20, 20), axis=0))
    np.testing.assert_allclose(values(image).reshape(8, -1), values(maps), rtol=1e-10)
    assert image.shape == (20, 20) and image.wcs is None


def test_falling_wavelengths(fitted):
    _, data, error, _ = mock(n=400)
    flipped = Spectrum(flux=data[:, ::-1] * UNIT, spectral_axis=WAVE[::-1] * u.AA, spectral_axis_index=1,
                       uncertainty=StdDevUncertainty(error))  # fmt: skip
    np.testing.assert_allclose(values(fit(flipped)), values(fitted[0]), rtol=1e-6)


def test_bad_spaxels_are_flagged_and_the_rest_goes_on(fitted):
    _, data, error, _ = mock(n=400)
    data, error = data[:8].copy(), error[:8].copy()
    data[0] = np.nan
    error[1] = np.inf
    data[2] = 1.0
    data[3, 1000:1100] = 1e9  # a cosmic ray, masked
    at = WAVE > 6700  # H-alpha and what is redder
    data[4, at] = np.nan
    data[5, 1900] = np.inf
    mask = np.zeros(data.shape, bool)
    mask[3, 1000:1100] = True
    maps = fit(cube(data, error, mask=mask))
    flux = maps.flux["Ha"]
    assert flux.mask[[0, 1, 4]].all() and not flux.mask[[2, 3, 5, 6, 7]].any()
    assert (flux.flags[[0, 1]] & (DAPMask.NOCOV | DAPMask.FITFAILED) != 0).all()
    assert not maps.flux["Hb"].mask[4]
    assert abs(flux.data[2]) < 3 * flux.uncertainty.array[2]
    assert maps.velocity["Ha"].flags[2] & DAPMask.UNRELIABLE and maps.velocity["Ha"].mask[2]
    np.testing.assert_allclose(values(maps)[:, 6:], values(fitted[0])[:, 6:8], rtol=1e-6)


def test_masked_pixels_change_nothing(fitted):
    _, data, error, _ = mock(n=400)
    wild = data.copy()
    mask = np.zeros(data.shape, bool)
    mask[:, 40:60] = mask[:, 1740] = True
    wild[mask] = 1e8
    np.testing.assert_allclose(values(fit(cube(wild, error), mask=mask)), values(fit(cube(data, error, mask=mask))))


def test_lines_outside_are_nocov():
    _, data, error, _ = mock(n=3)
    maps = fit_line_maps(cube(data, error), ["O2_3726", "Ha", "S3_9531"], redshift=Z, lsf=POWER)
    for key in ("O2_3726", "S3_9531"):
        assert (maps.flux[key].flags & DAPMask.NOCOV != 0).all() and maps.flux[key].mask.all()
    assert not maps.flux["Ha"].mask.any()
    with pytest.raises(ValueError, match="no line of the table falls on"):
        fit_line_maps(cube(data, error), ["O2_3726"], redshift=Z)


def test_resolution_in_every_form(fitted):
    _, data, error, _ = mock(n=400)
    spectrum, expected = cube(data, error), values(fitted[0], "dispersion")
    sigma = WAVE / POWER / 2.3548
    full = np.broadcast_to(sigma, data.shape)
    for lsf in (POWER * u.one, np.full(len(WAVE), POWER) * u.one, sigma * u.AA, (full / 10) * u.nm,
                lambda wave: wave / POWER / 2.3548):  # fmt: skip
        np.testing.assert_allclose(values(fit(spectrum, lsf=lsf), "dispersion"), expected, rtol=1e-4)
    observed = fit(spectrum, lsf=None)
    np.testing.assert_allclose(values(observed, "dispersion")[4], expected[4], rtol=0.05)
    assert (observed.instrumental_dispersion["Ha"].data == 0).all()
    with pytest.raises(ValueError, match="lsf has the shape"):
        fit(spectrum, lsf=np.ones(5) * u.AA)
    with pytest.raises(ValueError, match="lsf is in s"):
        fit(spectrum, lsf=1 * u.s)


def test_air_and_vacuum_agree(fitted):
    maps, _ = fitted
    _, data, error, _ = mock(n=400)
    air = Spectrum(flux=data * UNIT, spectral_axis=vacuum_to_air(WAVE * u.AA), spectral_axis_index=1,
                   uncertainty=StdDevUncertainty(error))  # fmt: skip
    found = fit(air, medium="air")
    # observed wavelengths are those in air of the shifted lines, not shifted air wavelengths: 0.1 km/s
    np.testing.assert_allclose(values(found, "velocity"), values(maps, "velocity"), atol=1.0)
    np.testing.assert_allclose(values(found), values(maps), rtol=2e-3, atol=0.05)


def test_given_continuum():
    clean, data, error, truth = mock(n=30)
    lines = mock(n=30)[0] - mock(n=30, ha=0)[0]
    smooth = clean - lines
    for model in (cube(smooth, error), smooth * UNIT, smooth, lambda cube: smooth * UNIT):
        maps = fit(cube(data, error), continuum=model)
        pull = (maps.flux["Ha"].data - truth["flux"][:, 4]) / maps.flux["Ha"].uncertainty.array
        assert abs(pull.mean()) < 0.6 and pull.std() < 1.4
    # the equivalent width is over the light, not over what is left of it
    np.testing.assert_allclose(maps.ew["Ha"].data, fit(cube(data, error)).ew["Ha"].data, rtol=0.05)
    with pytest.raises(ValueError, match="continuum has the shape"):
        fit(cube(data, error), continuum=smooth[:3])


def test_groups_move_apart():
    """Forbidden lines 150 km/s from the hydrogen lines are followed when they may move by themselves."""
    table = line_table(KEYS)
    data = np.ones((4, len(WAVE)))
    for wave, group, ratio in zip(table["wavelength"].to_value(u.AA), table["group"], RATIOS, strict=True):
        centre = wave * (1 + Z) * (1 + (0 if group == "balmer" else 150) / C)
        sigma = np.sqrt((centre * 90 / C) ** 2 + (wave * (1 + Z) / POWER / 2.3548) ** 2 + 1 / 12)
        data += 100 * ratio * np.exp(-0.5 * ((WAVE - centre) / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)
    maps = fit(cube(data, np.full(data.shape, 0.1)), kinematics="balmer+forbidden")
    np.testing.assert_allclose(maps.velocity["Ha"].data, 0, atol=0.5)
    np.testing.assert_allclose(maps.velocity["O3_5007"].data, 150, atol=0.5)
    np.testing.assert_allclose(maps.flux["N2_6583"].data, 30.5, rtol=0.01)


def test_a_fit_to_a_prediction_flags_its_errors():
    _, data, error, _ = mock(n=4)
    predicted = cube(data, error, shape=(2, 2))
    predicted.meta |= {"provenance": Provenance(model_id="test"), "flags": np.array([[0, 1], [0, 0]], np.int32)}
    with pytest.warns(AstropyUserWarning, match="Prediction.line_maps"):
        maps = fit(predicted)
    np.testing.assert_array_equal(maps.flags, [[1 << 20, 1 | 1 << 20], [1 << 20, 1 << 20]])
    assert maps.provenance.datatype == "PREDICTED"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kinematics": "none"}, "kinematics is 'none'"),
        ({"continuum": -1}, "continuum is -1"),
        ({"mask": np.zeros(7, bool)}, "mask has the shape"),
        ({"table": "weak"}, "name is 'weak'"),
        ({"redshift": np.nan}, "redshift is nan"),
        ({"redshift": [0.1, 0.2]}, "redshift is"),
    ],
)
def test_bad_arguments(keywords, message):
    _, data, error, _ = mock(n=2)
    with pytest.raises(ValueError, match=message):
        fit_line_maps(cube(data, error), **{"table": KEYS, "redshift": Z, **keywords})


def test_bad_cubes():
    _, data, error, _ = mock(n=2)
    with pytest.raises(ValueError, match="cube is a ndarray"):
        fit_line_maps(data, KEYS, redshift=Z)
    bare = Spectrum(flux=data * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=1)
    with pytest.raises(ValueError, match="cube has no uncertainty"):
        fit_line_maps(bare, KEYS, redshift=Z)
    ivar = Spectrum(flux=data * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=1,
                    uncertainty=InverseVariance(error**-2.0))  # fmt: skip
    np.testing.assert_allclose(values(fit(ivar)), values(fit(cube(data, error))), rtol=1e-6)


def outflows(n, seed=4):
    """Data and errors of ``n`` spectra, every other one with a broad blueshifted base; which, and the velocities."""
    clean, _, error, truth = mock(n, seed=seed, ha=60.0)
    base = np.arange(n) % 2 == 0
    rest = line_table(KEYS)["wavelength"].to_value(u.AA) * (1 + Z)
    for wave, ratio in zip(rest, RATIOS, strict=True):
        centre = wave * (1 + (truth["v"] - 150) / C)
        width = np.hypot(centre * 400 / C, wave / POWER / 2.3548)[:, None]
        profile = np.exp(-0.5 * ((WAVE - centre[:, None]) / width) ** 2) / width / np.sqrt(2 * np.pi)
        clean += 60 * ratio * profile * base[:, None]
    return clean + error * np.random.default_rng(2).standard_normal(clean.shape), error, base, truth["v"]


def test_two_components_where_there_are_two():
    """A broad blueshifted base is found where it is, and nowhere else; fluxes add up to the truth."""
    data, error, base, velocity = outflows(40)
    maps = fit(cube(data, error), components=2)
    found = (maps.flux["Ha"].flags & DAPMask.MULTICOMP) != 0
    assert found[base].mean() > 0.9 and not found[~base].any()
    narrow, broad = maps.components
    for flux, part in ((60.0, narrow), (60.0, broad), (120.0, maps)):
        pull = (part.flux["Ha"].data - flux)[found] / part.flux["Ha"].uncertainty.array[found]
        assert abs(pull.mean()) < 1.2 and pull.std() < 1.6
    assert np.abs(broad.velocity["Ha"].data - velocity + 150)[found].mean() < 40
    squares = (m["Ha"].data[found] ** 2 for m in (broad.dispersion, broad.instrumental_dispersion))
    assert abs(np.median(np.sqrt(next(squares) - next(squares))) - 400) < 30
    assert broad.flux["Ha"].mask[~found].all() and not narrow.flux["Ha"].mask.any()
    one = fit(cube(data, error))
    np.testing.assert_allclose(narrow.flux["Ha"].data[~found], one.flux["Ha"].data[~found], rtol=1e-10)
    assert (maps.meta["chi2"] <= one.meta["chi2"] + 1e-6).all()
    assert np.nanstd(maps.residual().flux.value[base]) < 1.05 * 0.1


def test_monte_carlo_errors_agree_with_formal_ones(fitted):
    _, data, error, _ = mock(n=12, seed=7)
    formal = fit(cube(data, error))
    drawn = fit(cube(data, error), errors="mc", samples=150, seed=3)
    for name in ("flux", "velocity", "dispersion", "ew"):
        a, b = (np.array([getattr(m, name)[key].uncertainty.array for key in KEYS]) for m in (formal, drawn))
        # the formal error of a width leaves out that flux and continuum share their noise
        assert 0.9 < np.median(b / a) < (1.3 if name == "ew" else 1.1), name
    np.testing.assert_array_equal(values(drawn), values(formal))
    joint = drawn.covariance("Ha", "N2_6583").value / np.sqrt(
        drawn.covariance("Ha", "Ha").value * drawn.covariance("N2_6583", "N2_6583").value
    )
    assert (np.abs(joint) < 0.6).all()
    part = fit(cube(data[:1], error[:1]), errors="mc", samples=5, seed=3)
    whole = fit(cube(data[:2], error[:2]), errors="mc", samples=5, seed=3, chunk=1)
    np.testing.assert_allclose(part.flux["Ha"].uncertainty.array[0], whole.flux["Ha"].uncertainty.array[0], rtol=1e-6)


def test_monte_carlo_errors_of_two_components():
    """Errors of each component and of their sum are those of the curvature, about; fluxes stay."""
    data, error, base, _ = outflows(10)
    formal = fit(cube(data, error), components=2)
    drawn = fit(cube(data, error), components=2, errors="mc", samples=80, seed=1)
    found = (formal.flux["Ha"].flags & DAPMask.MULTICOMP) != 0
    assert found.sum() >= 4 and not found[~base].any()
    np.testing.assert_array_equal(values(drawn), values(formal))
    for a, b in zip((formal, *formal.components), (drawn, *drawn.components), strict=True):
        for key in ("Ha", "N2_6583"):
            ratio = b.flux[key].uncertainty.array[found] / a.flux[key].uncertainty.array[found]
            assert 0.85 < np.median(ratio) < 1.25
        ratio = b.velocity["Ha"].uncertainty.array[found] / a.velocity["Ha"].uncertainty.array[found]
        assert 0.85 < np.median(ratio) < 1.3 or a is formal  # of the sum: those of one component, which does not fit
    # what one component loses the other gains: the sum is known better than both
    total, *parts = (m.flux["Ha"].uncertainty.array[found] for m in (drawn, *drawn.components))
    assert (total < np.hypot(*parts)).all()


def test_errors_from_samples_know_of_correlated_pixels():
    """A common factor of a whole spectrum is an error of all its lines, which its pixels do not tell."""
    clean, _, error, truth = mock(n=5, seed=9)
    rng = np.random.default_rng(1)
    samples = clean * (1 + 0.1 * rng.standard_normal((60, 5, 1)))
    maps = fit(cube(clean, error), errors="samples", samples=samples)
    relative = maps.flux["Ha"].uncertainty.array / maps.flux["Ha"].data
    assert np.all(np.abs(relative / 0.1 - 1) < 0.3)
    assert maps.ratio("N2_6583", "Ha").uncertainty.array.max() < 0.01  # but not of their ratios
    with pytest.raises(ValueError, match=r"samples has the shape \(3, 2\); it must be"):
        fit(cube(clean, error), errors="samples", samples=np.ones((3, 2)))
    with pytest.raises(ValueError, match="no prediction to draw from"):
        fit(cube(clean, error), errors="samples", samples=20)


def test_model_and_residual(fitted):
    clean, data, error, _ = mock(n=6, seed=2)
    spectra = cube(data, error, shape=(2, 3), axis=0)
    maps = fit(spectra)
    model, lines = maps.model(), maps.model("lines")
    assert model.shape == spectra.shape and model.spectral_axis_index == 0
    inside = np.isfinite(model.flux.value)
    assert 0.2 < inside.mean() < 0.5
    truth = np.moveaxis(clean.reshape(2, 3, -1), -1, 0)
    assert np.std((model.flux.value - truth)[inside]) < 0.3 * 0.1
    np.testing.assert_allclose((lines.flux + maps.model("continuum").flux).value[inside], model.flux.value[inside],
                               rtol=1e-5)  # fmt: skip
    assert abs(np.std(maps.residual().flux.value[inside]) / 0.1 - 1) < 0.1
    with pytest.raises(ValueError, match="what is 'sky'"):
        maps.model("sky")
    from fiberifu.lines import LineMaps

    with pytest.raises(ValueError, match="hold no spectra"):
        LineMaps(["Ha"], np.ones((1, 2)), np.ones((1, 2)), redshift=0.1).model()


def test_two_arms_with_a_gap(fitted):
    """A line in the gap is NOCOV; those beside it are as they are without it, and no window reaches across."""
    _, data, error, _ = mock(n=30, seed=11)
    gap = (WAVE > 5200) & (WAVE < 6700)  # [O III] 5007 at 5158 is just inside, H-alpha at 6761 too
    spectra = cube(data, error)
    arms = Spectrum(flux=spectra.flux[:, ~gap], spectral_axis=spectra.spectral_axis[~gap], spectral_axis_index=1,
                    uncertainty=StdDevUncertainty(error[:, ~gap]))  # fmt: skip
    lines = [*KEYS, "O1_6300"]
    maps = fit_line_maps(arms, lines, redshift=Z, lsf=POWER)
    assert (maps.flux["O1_6300"].flags & DAPMask.NOCOV).all()
    whole = fit(spectra)
    for key in KEYS:
        difference = (maps.flux[key].data - whole.flux[key].data) / whole.flux[key].uncertainty.array
        assert np.abs(difference).max() < 3 and np.abs(difference).mean() < 0.5, key


def test_one_pixel_with_an_absurd_error_does_not_rule(fitted):
    _, data, error, _ = mock(n=4, seed=12)
    maps = fit(cube(data, error))
    wrong, tiny = data.copy(), error.copy()
    pixel = np.searchsorted(WAVE, 6800.0)
    wrong[:, pixel], tiny[:, pixel] = 0.0, 1e-5
    again = fit(cube(wrong, tiny))
    assert np.abs((values(again) - values(maps)) / 0.5).max() < 1
    assert not again.flux["Ha"].mask.any()


@pytest.mark.parametrize("device", ["torch:cpu", "torch:cuda"])
def test_torch_gives_the_same(device):
    """The engine on torch tensors: the same numbers to rounding, bad spaxels and two components included."""
    import torch

    if device == "torch:cuda" and not torch.cuda.is_available():
        pytest.skip("no graphics card")
    _, data, error, _ = mock(n=50, seed=21, reach=500.0)
    error[3] = np.inf
    data[4, 100:300] = np.nan
    spectra = cube(data, error)
    for keywords in ({}, {"kinematics": "balmer+forbidden"}, {"components": 2}):
        here, there = fit(spectra, **keywords), fit(spectra, backend=device, **keywords)
        for name in ("flux", "velocity", "dispersion", "ew"):
            a, b = values(here, name), values(there, name)
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(there.flux["Ha"].flags, here.flux["Ha"].flags)
    for backend, message in (("fortran", "backend is 'fortran'; use"), ("torch:tpu9", "backend is 'torch:tpu9'")):
        with pytest.raises(ValueError, match=message):
            fit(spectra, backend=backend)


def test_blank_sky_adds_up_to_nothing():
    """Fluxes where there is no line scatter around zero: their sum is no detection."""
    rng = np.random.default_rng(31)
    data = 1 + 0.1 * rng.standard_normal((600, len(WAVE)))
    spectra = cube(data, np.full(data.shape, 0.1))
    for lines, kinematics in ((["Ha"], "all"), (KEYS, "all"), (KEYS, "balmer+forbidden")):
        maps = fit_line_maps(spectra, lines, redshift=Z, lsf=POWER, kinematics=kinematics)
        ha = maps.flux["Ha"]
        pull = ha.data / ha.uncertainty.array
        assert not ha.mask.any() and ((ha.flags & DAPMask.UNRELIABLE) != 0).mean() > 0.97
        assert abs(pull.mean()) < 0.15 and 0.9 < pull.std() < 1.15, (lines, pull.mean(), pull.std())
        total, error = maps.total()["Ha"]
        assert abs(total / error) < 4
        assert maps.velocity["Ha"].mask.mean() > 0.97


def test_a_group_without_lines_does_not_spoil_the_other():
    """Bright H-alpha, no forbidden lines, kinematics of their own: all is measured, and right."""
    rng = np.random.default_rng(32)
    v = rng.uniform(-150, 150, 200)
    data = 1 + 0.1 * rng.standard_normal((200, len(WAVE)))
    for wave, flux in ((6564.632, 60.0), (4862.691, 20.0)):
        centre = wave * (1 + Z) * (1 + v[:, None] / C)
        width = np.hypot(centre * 90 / C, wave * (1 + Z) / POWER / 2.3548)
        data += flux * np.exp(-0.5 * ((WAVE - centre) / width) ** 2) / width / np.sqrt(2 * np.pi)
    maps = fit(cube(data, np.full(data.shape, 0.1)), kinematics="balmer+forbidden")
    assert maps.flux["Ha"].mask.mean() < 0.01 and maps.velocity["Ha"].mask.mean() < 0.01
    assert abs(maps.total()["Ha"][0].value / (200 * 60) - 1) < 0.01


def test_two_streams_far_apart():
    """Two narrow components 600 km/s apart are found as what they are."""
    rng = np.random.default_rng(33)
    rest = line_table(KEYS)["wavelength"].to_value(u.AA) * (1 + Z)
    data = 1 + 0.1 * rng.standard_normal((20, len(WAVE)))
    for velocity, scale in ((-300, 100.0), (300, 80.0)):
        for wave, ratio in zip(rest, RATIOS, strict=True):
            centre = wave * (1 + velocity / C)
            width = np.hypot(centre * 50 / C, wave / POWER / 2.3548)
            data += scale * ratio * np.exp(-0.5 * ((WAVE - centre) / width) ** 2) / width / np.sqrt(2 * np.pi)
    maps = fit(cube(data, np.full(data.shape, 0.1)), components=2)
    assert abs(np.median(maps.flux["Ha"].data) / 180 - 1) < 0.02
    assert np.median(maps.chi2.data) < 1.2
    places = np.sort([part.velocity["Ha"].data for part in maps.components], axis=0)
    assert np.abs(places[0] + 300).max() < 15 and np.abs(places[1] - 300).max() < 15


def test_absorption_is_no_component():
    """Balmer absorption under a polynomial is not taken for a broad component of gas."""
    rng = np.random.default_rng(34)
    clean, _, error, _ = mock(60, seed=34, ha=30.0)
    for wave in (6564.632, 4862.691):
        centre = wave * (1 + Z)
        clean -= 0.25 * np.exp(-0.5 * ((WAVE - centre) / 9) ** 2)
    maps = fit(cube(clean + error * rng.standard_normal(clean.shape), error), components=2)
    broad = maps.components[1]
    for key in ("Ha", "Hb"):
        found = ~broad.flux[key].mask
        assert not (broad.snr[key].data[found] < -3).any() and found.mean() < 0.1


def test_a_line_on_masked_pixels_has_no_value():
    """What is masked is not measured: it is said, and other lines are not disturbed."""
    _, data, error, truth = mock(n=30, seed=35, ha=50.0)
    centre = 6564.632 * (1 + Z)
    mask = np.broadcast_to(np.abs(WAVE - centre) < centre * 350 / C, data.shape)
    alone = fit_line_maps(cube(data, error), ["Ha"], redshift=Z, lsf=POWER, mask=mask)
    assert alone.flux["Ha"].mask.all() and ((alone.flux["Ha"].flags & DAPMask.LOWCOV) != 0).all()
    maps = fit(cube(data, error), mask=mask)
    assert maps.flux["Ha"].mask.all() and not maps.flux["O3_5007"].mask.any()
    pull = (maps.flux["O3_5007"].data - 50) / maps.flux["O3_5007"].uncertainty.array
    assert abs(pull.mean()) < 0.8
    half = fit(cube(data, error), mask=np.broadcast_to((WAVE > centre + 2) & (WAVE < centre + 5), data.shape))
    flags = half.flux["Ha"].flags
    assert ((flags & DAPMask.LOWCOV) != 0).any() and not half.flux["Ha"].mask.any()


def test_errors_of_faint_kinematics_are_true():
    """At S/N 3 to 10 the formal errors of velocity and width are inflated to what they are."""
    clean, _, _, truth = mock(n=1500, seed=36)
    data = clean + 1.2 * np.random.default_rng(3).standard_normal(clean.shape)
    maps = fit(cube(data, np.full(data.shape, 1.2)))
    snr = maps.snr["Ha"].data
    use = (snr > 4) & (snr < 9) & ~maps.velocity["Ha"].mask
    assert use.sum() > 150
    pull = (maps.velocity["Ha"].data - truth["v"])[use] / maps.velocity["Ha"].uncertainty.array[use]
    assert 0.8 < pull.std() < 1.25


def test_the_medium_is_the_cubes(fitted):
    """Taken from the cube, not contradicted in silence; air wavelengths are those that arrive, not (1 + z) rest."""
    _, data, error, truth = mock(n=20, seed=41, ha=100.0)
    air = vacuum_to_air(WAVE * u.AA)
    spectra = Spectrum(flux=data * UNIT, spectral_axis=air, spectral_axis_index=1,
                       uncertainty=StdDevUncertainty(error), meta={"medium": "air"})  # fmt: skip
    maps = fit(spectra)
    assert abs(np.median(maps.velocity["Ha"].data - truth["v"])) < 0.3
    by_table = fit_line_maps(spectra, line_table(KEYS, "air"), redshift=Z, lsf=POWER)
    np.testing.assert_allclose(by_table.velocity["Ha"].data, maps.velocity["Ha"].data, atol=0.01)
    with pytest.raises(ValueError, match="medium is 'vacuum', and the cube's metadata say 'air'"):
        fit(spectra, medium="vacuum")
    lines, z, medium = observed_lines(["O2_3729"], 0.9, spectra)
    vacuum = line_table(["O2_3729"])["wavelength"][0]
    assert medium == "air" and z == 0.9
    assert (lines["wavelength"][0] * 1.9 - vacuum_to_air(vacuum * 1.9)).to_value(u.AA) == pytest.approx(0, abs=1e-9)
    wrong = vacuum_to_air(vacuum) / lines["wavelength"][0] - 1
    assert abs(wrong * C) > 2  # km/s


def test_redshifts_of_all_kinds(fitted):
    _, data, error, _ = mock(n=2, seed=42)
    expected = fit(cube(data, error)).flux["Ha"].data
    for redshift in (np.array(Z), np.float32(Z), Z * u.one):
        np.testing.assert_allclose(fit_line_maps(cube(data, error), KEYS, redshift=redshift, lsf=POWER).flux["Ha"].data,
                                   expected, rtol=1e-4)  # fmt: skip
    for wrong in ("0.03", [0.03, 0.04], 9000 * u.km / u.s, np.nan, 8890):
        with pytest.raises(ValueError, match="redshift is"):
            fit_line_maps(cube(data, error), KEYS, redshift=wrong, lsf=POWER)


def test_resolution_that_was_meant_as_something_else(fitted):
    _, data, error, _ = mock(n=2, seed=43)
    spectra = cube(data, error)
    with pytest.raises(ValueError, match="resolving power lambda/FWHM below 50; give sigma with its unit"):
        fit(spectra, lsf=1.2)
    with pytest.raises(ValueError, match="lsf is 'cube'.*which is None"):
        fit(spectra, lsf="cube")
    spectra.meta["lsf"] = np.full(len(WAVE), 1.2) * u.AA
    assert fit(spectra, lsf="cube").instrumental_dispersion["Ha"].data[0] == pytest.approx(1.2 / 6761.6 * C, rel=2e-3)
    with pytest.raises(ValueError, match="window is 3"):
        fit(spectra, window=3 * u.s)


def test_empty_spaxels_hold_no_numbers(fitted):
    """Whoever forgets the mask sees NaN, not a plausible velocity."""
    _, data, error, _ = mock(n=4, seed=44)
    data[1] = np.nan
    maps = fit(cube(data, error))
    for name in ("flux", "velocity", "dispersion", "ew"):
        values_ = getattr(maps, name)["Ha"]
        assert np.isnan(values_.data[1]) and values_.mask[1] and np.isfinite(values_.data[[0, 2, 3]]).all(), name
        if values_.uncertainty is not None:
            assert np.isnan(values_.uncertainty.array[1]), name


def spectra_of(lines, velocity, sigma=60.0, flux=40.0, error=0.1, n=16, seed=3, level=1.0):
    """Data and errors of ``n`` spectra of lines (key: flux ratio), each at its velocity (a number or by key)."""
    rng = np.random.default_rng(seed)
    data = np.full((n, len(WAVE)), level)
    for key, ratio in lines.items():
        rest = line_table([key])["wavelength"].to_value(u.AA)[0] * (1 + Z)
        centre = rest * (1 + (velocity[key] if isinstance(velocity, dict) else velocity) / C)
        width = np.hypot(centre * sigma / C, rest / POWER / 2.3548)
        data += flux * ratio * np.exp(-0.5 * ((WAVE - centre) / width) ** 2) / width / np.sqrt(2 * np.pi)
    return data + error * rng.standard_normal(data.shape), np.full(data.shape, error)


GAS = dict(zip(KEYS, RATIOS, strict=True))


@pytest.mark.parametrize("apart", [300, 500])
def test_groups_are_found_where_each_of_them_is(apart):
    """Hydrogen and the rest need not be near each other."""
    where = {key: (-0.5 if key in ("Ha", "Hb") else 0.5) * apart for key in KEYS}
    maps = fit(cube(*spectra_of(GAS, where, sigma=30.0)), kinematics="balmer+forbidden")
    for key in ("Ha", "O3_5007"):
        v = maps.velocity[key]
        assert np.abs((v.data - where[key]) / v.uncertainty.array).max() < 5


def test_groups_do_not_depend_on_company():
    data, error = spectra_of(GAS, {key: (-150 if key in ("Ha", "Hb") else 150) for key in KEYS})
    data[3:] += spectra_of(GAS, 400.0, n=13, seed=5)[0]
    whole = fit(cube(data, error), kinematics="table")
    single = fit(cube(data, error), kinematics="table", chunk=1)
    difference = np.abs(values(whole) - values(single)) / [whole.flux[key].uncertainty.array for key in KEYS]
    assert difference.max() < 1e-6


def test_doublets_are_whole():
    """Asked for one line of a doublet the other is fitted with it: its light is no misfit."""
    maps = fit_line_maps(cube(*spectra_of(GAS, 0.0)), ["Ha", "N2", "O3"], redshift=Z, lsf=POWER)
    assert maps.lines == ("O3_4959", "O3_5007", "N2_6548", "Ha", "N2_6583")
    np.testing.assert_allclose(maps.flux["N2_6583"].data / maps.flux["N2_6548"].data, 3.05, rtol=0.01)
    assert np.median(maps.chi2.data) < 1.1
    far = fit_line_maps(cube(*spectra_of(GAS, 0.0)), ["N2_6548"], redshift=Z, lsf=POWER, window=20 * u.AA)
    assert far.lines == ("N2_6548",)  # the other is not in the window


def test_monte_carlo_errors_of_widths_where_side_bands_lie_outside_the_windows():
    data, error = spectra_of(GAS, 0.0, n=200)
    keywords = {"window": 30 * u.AA, "redshift": Z, "lsf": POWER}
    maps = fit_line_maps(cube(data, error), KEYS, **keywords)
    drawn = fit_line_maps(cube(data[:8], error[:8]), KEYS, errors="mc", samples=80, **keywords)
    for key in ("Ha", "Hb", "O3_5007"):
        true = maps.ew[key].data.std()
        assert 0.8 < np.median(drawn.ew[key].uncertainty.array) / true < 1.25


def test_errors_from_samples_of_forced_fluxes():
    """Where no line is found the flux is measured at one place, and so it is in the samples."""
    rng = np.random.default_rng(2)
    error = np.full((12, len(WAVE)), 0.1)
    blank = 1 + error * rng.standard_normal(error.shape)
    samples = 1 + error * rng.standard_normal((60, *error.shape))
    formal = fit(cube(blank, error))
    drawn = fit(cube(blank, error), errors="samples", samples=samples)
    for key in ("Ha", "N2_6583"):
        ratio = drawn.flux[key].uncertainty.array / formal.flux[key].uncertainty.array
        assert 0.9 < np.median(ratio) < 1.1


def test_one_spectrum():
    data, error = spectra_of(GAS, 50.0)
    one = Spectrum(flux=data[0] * UNIT, spectral_axis=WAVE * u.AA, uncertainty=StdDevUncertainty(error[0]))
    maps = fit(one)
    assert maps.shape == () and abs(maps.flux["Ha"].data - 40) < 3


def test_a_resolution_that_is_too_low_is_told():
    data, error = spectra_of(GAS, 0.0, sigma=40.0)
    with pytest.warns(AstropyUserWarning, match="narrower than it says"):
        fit(cube(data, error), lsf=800.0)


def test_resolution_of_the_metadata_is_taken():
    spectrum = cube(*spectra_of(GAS, 0.0))
    bare = fit_line_maps(spectrum, KEYS, redshift=Z)
    assert bare.meta["fit"]["lsf"] == "none"
    spectrum.meta["lsf"] = np.where(WAVE < 6000, 1.4, 1.0) * u.AA  # two arms
    given, known = fit(spectrum, lsf=spectrum.meta["lsf"]), fit_line_maps(spectrum, KEYS, redshift=Z)
    assert known.meta["fit"]["lsf"] == "cube"
    np.testing.assert_allclose(values(known), values(given), rtol=1e-6)
    assert not np.allclose(values(bare), values(given), rtol=1e-3)


def test_maps_without_any_value_keep_their_errors():
    data, error = spectra_of(GAS, 0.0, n=4)
    maps = fit(cube(data * np.nan, error))
    assert np.isnan(maps.flux["Ha"].uncertainty.array).all() and maps.flux["Ha"].mask.all()


def test_two_components_of_one_width_are_ordered_by_velocity():
    data, error = spectra_of(GAS, -175.0, n=24)
    data += spectra_of(GAS, 175.0, n=24, seed=4)[0] - 1
    maps = fit(cube(data, np.hypot(error, error)), components=2)
    found = (maps.flux["Ha"].flags & DAPMask.MULTICOMP) != 0
    assert found.sum() > 20
    assert np.abs(maps.components[0].velocity["Ha"].data[found] + 175).max() < 60


def test_solver_of_starlight_needs_templates():
    with pytest.raises(ValueError, match="starlight is 'ppxf' with a polynomial"):
        fit(cube(*spectra_of(GAS, 0.0, n=2)), starlight="ppxf")
