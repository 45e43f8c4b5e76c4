# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Classes from line ratios, dust from the Balmer decrement, and their figures."""

import sys

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

from fiberifu.lines import DAPMask, LineMaps
from fiberifu.lines.diagnostics import (
    BPT_DIAGRAMS,
    CASE_B,
    KAUFFMANN_2003,
    KEWLEY_2001,
    gas_reddening,
    relative_extinction,
)
from fiberifu.plot import plot_bpt, plot_whan
from fiberifu.provenance import Provenance

LINES = ("Hb", "O3_5007", "O1_6300", "Ha", "N2_6583", "S2_6716", "S2_6731")
HB, O3, O1, HA, N2, S2A, S2B = range(7)
RATIO_LINE = {"N2": N2, "O1": O1}


def spectra_of(x, y, kind="N2", snr=50.0, **keywords):
    """Maps of positions at (x, y) of a diagram: H-beta 10, H-alpha 30, errors of flux / ``snr``."""
    x, y = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, float)) for a in (x, y)))
    flux = np.full((len(LINES), *x.shape), 9.0)
    flux[HB], flux[HA] = 10, 30
    flux[O3] = 10 * 10**y
    if kind == "S2":
        flux[S2A], flux[S2B] = 0.6 * 30 * 10**x, 0.4 * 30 * 10**x
    else:
        flux[RATIO_LINE[kind]] = 30 * 10**x
    return LineMaps(LINES, flux, flux / snr, redshift=0.03, **keywords)


def class_names(result):
    return [result.names[i] if i >= 0 else None for i in np.ravel(result.classes.data)]


def sky(shape):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
    wcs.wcs.crpix, wcs.wcs.cdelt = ((shape[1] + 1) / 2, (shape[0] + 1) / 2), (-0.5 / 3600, 0.5 / 3600)
    return wcs


# ---------------------------------------------------------------- BPT
@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (
            "N2",
            {
                (-0.6, -0.2): "star-forming",
                (-0.2, 0.0): "composite",
                (0.1, 0.9): "Seyfert",
                (0.1, 0.2): "LINER",
                # right of an asymptote: 0.05 and 0.47
                (0.2, -1.3): "composite",
                (0.2, -0.9): "LINER",
                (0.2, -3.0): "composite",
                (0.6, -3.0): "LINER",
                (0.6, 1.5): "Seyfert",
                # the second branches of the hyperbolas would put these below
                (0.06, 1.2): "Seyfert",
                (0.48, 1.1): "Seyfert",
                (0.48, 0.0): "LINER",
            },
        ),
        (
            "S2",
            {
                (-0.6, 0.0): "star-forming",
                (-0.2, 0.8): "Seyfert",
                (0.0, 0.3): "LINER",
                (0.4, -3.0): "LINER",
                (0.33, 0.9): "LINER",
            },
        ),
        (
            "O1",
            {
                (-1.6, 0.0): "star-forming",
                (-1.0, 0.8): "Seyfert",
                (-0.8, 0.0): "LINER",
                (-0.5, -3.0): "LINER",
                (-0.58, 0.5): "LINER",
            },
        ),
    ],
)
def test_known_points(kind, points):
    x, y = np.transpose(list(points))
    result = spectra_of(x, y, kind).bpt(kind)
    assert class_names(result) == list(points.values())
    assert_allclose(result.x.data, x, atol=1e-12)
    assert_allclose(result.y.data, y, atol=1e-12)
    assert result.classes.meta["classes"] == dict(enumerate(result.names))
    assert sum(result.counts.values()) == len(x) and result.counts["unclassified"] == 0


@pytest.mark.parametrize("kind", BPT_DIAGRAMS)
def test_classes_change_at_the_curves(kind):
    diagram = BPT_DIAGRAMS[kind]
    for i, curve in enumerate(diagram.curves):
        x = np.linspace(curve.asymptote - 1.1, curve.asymptote - 0.15, 40)
        assert (diagram.classify(x, curve(x) - 1e-9) == i).all()
        assert (diagram.classify(x, curve(x) + 1e-9) > i).all()
    slope, intercept = diagram.seyfert
    x = np.linspace(curve.asymptote, curve.asymptote + 1, 20)
    n = len(diagram.names)
    assert (diagram.classify(x, slope * x + intercept + 1e-9) == n - 2).all()
    assert (diagram.classify(x, slope * x + intercept - 1e-9) == n - 1).all()


def test_values_of_the_curves():
    """Worked out by hand from the formulae of the papers."""
    assert_allclose(KAUFFMANN_2003(-0.95), 1.3 - 0.61)
    assert_allclose(KEWLEY_2001["N2"](-0.53), 1.19 - 0.61)
    assert_allclose(KEWLEY_2001["S2"](-0.68), 1.30 - 0.72)
    assert_allclose(KEWLEY_2001["O1"](-1.59), 1.33 - 0.73)
    for curve in (KAUFFMANN_2003, *KEWLEY_2001.values()):
        assert_array_equal(curve(curve.asymptote + np.array([0, 1e-12, 0.1, np.inf])), -np.inf)


def test_limits_of_faint_lines_are_placed():
    diagram = BPT_DIAGRAMS["N2"]
    inf = np.inf
    places = diagram.classify(np.array([-inf, -inf, inf, inf, np.nan]), np.array([0.5, inf, 0.0, -inf, 0.0]))
    assert_array_equal(places, [0, 2, 3, 3, -1])


def test_half_of_the_probability_lies_on_each_side():
    """On a straight piece of a curve small symmetrical errors go half to each side."""
    x = np.array([-0.8, -0.5, -0.3])
    first = spectra_of(x, KAUFFMANN_2003(x), snr=300).bpt()
    assert_allclose(first.probabilities[:2], 0.5, atol=0.02)
    second = spectra_of(x, KEWLEY_2001["N2"](x), snr=300).bpt()
    assert_allclose(second.probabilities[1:3].sum(0), 1, atol=1e-6)
    assert_allclose(second.probabilities[1], 0.5, atol=0.02)


def test_probabilities_against_a_large_monte_carlo():
    maps = spectra_of(-0.25, 0.2, snr=6)
    # lines that share an error: what comes from the covariance must be seen
    sigma = maps._data["flux"][1][:, 0]
    correlation = np.full((len(LINES),) * 2, 0.6) + 0.4 * np.eye(len(LINES))
    joint = correlation * sigma[:, None] * sigma
    maps = spectra_of(-0.25, 0.2, snr=6, covariance=joint[None])
    flux = maps._data["flux"][0][:, 0]
    draws = np.random.default_rng(5).multivariate_normal(flux, joint, size=400_000)
    draws = draws[(draws[:, [HB, O3, HA, N2]] > 0).all(1)]
    x, y = np.log10(draws[:, N2] / draws[:, HA]), np.log10(draws[:, O3] / draws[:, HB])
    star, composite = y < 0.61 / (x - 0.05) + 1.3, y < 0.61 / (x - 0.47) + 1.19
    star &= x < 0.05
    composite &= (x < 0.47) & ~star
    agn = ~star & ~composite
    seyfert = agn & (y > 1.05 * x + 0.45)
    expected = [star.mean(), composite.mean(), seyfert.mean(), (agn & ~seyfert).mean()]
    result = maps.bpt()
    assert_allclose(result.probabilities[:, 0], expected, atol=0.01)
    # errors of x and y are of first order: logs at a S/N of 6 have 4 % more
    assert_allclose(result.x.uncertainty.array[0], x.std(), rtol=0.06)
    assert_allclose(result.y.uncertainty.array[0], y.std(), rtol=0.06)


def test_probabilities_are_the_same_in_any_company():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-1, 0.6, 700), rng.uniform(-1, 1, 700)  # more than one chunk
    together = spectra_of(x, y, snr=4).bpt().probabilities
    assert_allclose(together.sum(0), 1, atol=1e-12)
    assert (together >= 0).all()
    assert_array_equal(spectra_of(x[690:], y[690:], snr=4).bpt().probabilities, together[:, 690:])
    assert_array_equal(spectra_of(x, y, snr=4).bpt().probabilities, together)


def test_faint_lines_have_probabilities_but_no_class():
    result = spectra_of([-0.6, -0.6], [-0.2, -0.2], snr=[2.0, 40.0]).bpt()
    assert_array_equal(result.classes.data, [-1, 0])
    assert_array_equal(result.classes.mask, [True, False])
    assert result.classes.flags[0] & DAPMask.UNRELIABLE and result.classes.flags[1] == 0
    assert np.isfinite(result.probabilities).all() and 0.3 < result.probabilities[0, 0] < 1
    assert_array_equal(spectra_of(-0.6, -0.2, snr=2).bpt(snr=1).classes.data, [0])


def test_masked_and_negative_fluxes():
    maps = spectra_of(np.full(5, -0.6), -0.2)
    flux, sigma = (np.array(a) for a in maps._data["flux"][:2])
    flux[N2, 0] = np.nan  # no value
    flux[HB, 1] = -1.0  # not measured: [O III]/H-beta is a lower limit
    flux[[HA, N2], 2] = -5 * sigma[[HA, N2], 2]  # x unknown
    mask = np.zeros(flux.shape, int)
    mask[HA, 3] = DAPMask.DONOTUSE | DAPMask.FORESTAR
    result = LineMaps(LINES, flux, sigma, redshift=0.03, mask={"flux": mask}).bpt()
    assert_array_equal(result.classes.data, [-1, -1, -1, -1, 0])
    p = result.probabilities
    assert np.isnan(p[:, [0, 3]]).all()
    assert_allclose(p[:, [1, 2, 4]].sum(0), 1)
    assert p[2, 1] == 1  # Seyfert by the limit
    assert_allclose(p[:, 2], 0.25, atol=1e-3)
    assert result.classes.flags[3] & DAPMask.FORESTAR and result.classes.flags[0] & DAPMask.NOVALUE
    assert result.classes.flags[1] & DAPMask.MATHERROR and np.isnan(result.y.data[1])
    one = result.probability("star-forming")
    assert_array_equal(one.mask, [True, False, False, True, False])
    with pytest.raises(ValueError, match="'Liner'.*LINER"):
        result.probability("Liner")


def test_unknown_kind_and_missing_lines():
    maps = spectra_of(-0.6, -0.2)
    with pytest.raises(ValueError, match="kind is 'R23'.*'N2'"):
        maps.bpt("R23")
    few = LineMaps(["Ha", "N2_6583"], np.ones((2, 3)), np.ones((2, 3)), redshift=0.03)
    with pytest.raises(ValueError, match="O3_5007"):
        few.bpt()


# ---------------------------------------------------------------- WHAN
def widths(log_n2, ew, ew_sigma=0.1, snr=50.0):
    log_n2, ew = (np.asarray(a, float) for a in (log_n2, ew))
    flux = np.stack([5 * ew, 5 * ew * 10**log_n2])
    width = np.stack([ew, ew * 10**log_n2])
    sigma = np.maximum(abs(flux) / snr, 1e-3)
    return LineMaps(["Ha", "N2_6583"], flux, sigma, ew=width, ew_sigma=np.full(width.shape, ew_sigma), redshift=0.03)


def test_whan_classes():
    points = {
        (-0.6, 30): "pure star-forming",
        (-0.6, 3.1): "pure star-forming",
        (-0.2, 30): "strong AGN",
        (-0.2, 6.1): "strong AGN",
        (-0.2, 5.9): "weak AGN",
        (-0.2, 3.1): "weak AGN",
        (-0.2, 2.9): "retired",
        (-0.6, 2.9): "retired",
        (-0.1, 0.4): "passive",
        (0.3, 0.4): "retired",  # [N II] is not below 0.5 Angstrom
    }
    x, y = np.transpose(list(points))
    result = widths(x, y).whan()
    assert class_names(result) == list(points.values())
    assert result.y.unit == u.AA
    assert_allclose(result.x.data, x, atol=1e-12)


def test_whan_probabilities_and_signal():
    # on the limit of 6 Angstrom with an error of 0.3
    edge = widths([-0.1], [6.0], ew_sigma=0.3, snr=20).whan()
    assert_allclose(edge.probabilities[[1, 2], 0], 0.5, atol=0.01)
    # half an error below 3 Angstrom: ndtr(0.5) is retired, with the sigma of the width
    near = widths([-0.1], [2.75], ew_sigma=0.5, snr=5.5).whan()
    assert_allclose(near.probabilities[3, 0], 0.6915, atol=0.01)
    # nothing to see, and negative: passive if the width is known well, else no class
    flux, sigma, width = np.full((2, 2), -0.5), np.full((2, 2), 1.0), np.full((2, 2), -0.1)
    none = LineMaps(["Ha", "N2_6583"], flux, sigma, ew=width, ew_sigma=[[0.2, 2.0], [0.2, 2.0]], redshift=0.03).whan()
    assert class_names(none) == ["passive", None]
    assert none.classes.flags[1] & DAPMask.UNRELIABLE and none.classes.flags[0] == 0
    assert_allclose(none.probabilities.sum(0), 1)
    assert none.probabilities[4, 0] > 0.95 and none.probabilities[4, 1] < 0.6


def test_whan_needs_widths():
    with pytest.raises(ValueError, match="equivalent widths"):
        spectra_of(-0.6, -0.2).whan()


# ---------------------------------------------------------------- dust
def reddened(ebv, snr=40.0, law="cardelli89", **keywords):
    """Case B fluxes and [N II], [O II] behind a screen."""
    from fiberifu.lines import line_table

    lines = ["O2_3729", "Hg", "Hb", "Ha", "N2_6583"]
    true = np.array([150.0, 46.8, 100.0, 286.0, 90.0])
    k = relative_extinction(line_table(lines)["wavelength"], law)
    flux = true[:, None] * 10 ** (-0.4 * k[:, None] * np.atleast_1d(ebv))
    return LineMaps(lines, flux, flux / snr, redshift=0.03, **keywords), true


@pytest.mark.parametrize(
    ("rv", "values"),  # CCM89 as tabulated by the tests of dust_extinction, at 1/micron below
    [(3.1, [1.56880904, 1.32257836, 1.0, 0.75125994, 0.4780346, 0.28206957]),
     (5.0, [1.33480314, 1.19999799, 1.0, 0.79600141, 0.5544017, 0.32717278])],
)  # fmt: skip
def test_cardelli_law(rv, values):
    x = np.array([2.78, 2.27, 1.82, 1.43, 1.11, 0.8]) / u.um
    assert_allclose(relative_extinction(1 / x, rv=rv) / rv, values, rtol=1e-7)


def test_laws_agree_and_say_what_they_cannot():
    wave = [4862.7, 6564.6] * u.AA
    assert_allclose(relative_extinction(wave), [3.61, 2.53], atol=0.01)
    assert_allclose(relative_extinction(wave, "odonnell94"), relative_extinction(wave), rtol=0.02)
    assert_allclose(relative_extinction([0.55] * u.um, "odonnell94"), 3.1, rtol=0.005)
    with pytest.raises(ValueError, match="3030"):
        relative_extinction([2000] * u.AA)

    class Grey:
        Rv = 4.0

        def __call__(self, wavelength):
            return (wavelength.to_value(u.um) / 0.55) ** -1.0

    assert_allclose(relative_extinction([1.1] * u.um, Grey()), 2.0)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dust_extinction", None)
    with pytest.raises(ImportError, match="'F19'.*pip install dust_extinction.*cardelli89"):
        reddened(0.3)[0].deredden(law="F19")


def test_same_as_dust_extinction():
    models = pytest.importorskip("dust_extinction.parameter_averages")
    wave = np.linspace(3700, 9900, 50) * u.AA
    for ours, theirs in (("cardelli89", models.CCM89), ("odonnell94", models.O94)):
        assert_allclose(relative_extinction(wave, theirs(Rv=3.1)), relative_extinction(wave, ours), rtol=1e-6)
    assert_allclose(relative_extinction(wave, "O94"), relative_extinction(wave, "odonnell94"), rtol=1e-6)


@pytest.mark.parametrize("law", ["cardelli89", "odonnell94"])
@pytest.mark.parametrize("decrement", [("Ha", "Hb"), ("Halpha", "Hg"), ("Hb", "Hg")])
def test_known_reddening_comes_back(law, decrement):
    ebv = np.array([0.0, 0.1, 0.5, 1.2])
    maps, true = reddened(ebv, law=law)
    new = maps.deredden(law=law, decrement=decrement)
    record = new.meta["internal_extinction"]
    assert_allclose(record["ebv"].data, ebv, atol=1e-3)  # 2.86 and 0.468 are rounded
    assert record["ebv"].unit == u.mag and record["law"] == law and record["rv"] == 3.1
    assert_allclose(new._data["flux"][0], np.broadcast_to(true[:, None], (5, 4)), rtol=5e-3)
    assert_allclose(new.ratio(*decrement).data, record["intrinsic"], rtol=1e-6)
    assert_allclose(maps.balmer_decrement().data[0], 2.86)
    # what was given is as it was
    assert_array_equal(maps._data["flux"][0][:, 0], true)
    assert "internal_extinction" not in maps.meta


def test_errors_of_dereddened_fluxes_against_monte_carlo():
    maps, _ = reddened(0.5)
    flux, sigma = maps._data["flux"][0][:, 0], maps._data["flux"][1][:, 0]
    correlation = np.full((5, 5), 0.3) + 0.7 * np.eye(5)
    joint = correlation * sigma[:, None] * sigma
    maps, _ = reddened(0.5, covariance=joint[None])
    draws = np.random.default_rng(2).multivariate_normal(flux, joint, size=20_000).T
    many = LineMaps(maps.lines, draws, np.ones_like(draws), redshift=0.03).deredden(snr=0)
    sample = np.cov(many._data["flux"][0])
    new = maps.deredden()
    got = new._line_covariance()[0]
    assert_allclose(np.sqrt(np.diag(got)), np.sqrt(np.diag(sample)), rtol=0.08)
    size = np.sqrt(np.diag(sample))
    assert_allclose(got / np.outer(size, size), sample / np.outer(size, size), atol=0.12)
    assert_allclose(new.flux["Ha"].uncertainty.array[0] ** 2, new.covariance("Ha", "Ha").value[0])
    measured = many.meta["internal_extinction"]["ebv"].data.std()
    assert_allclose(new.meta["internal_extinction"]["ebv"].uncertainty.array[0], measured, rtol=0.03)
    # the decrement is that of case B: no error is left
    decrement = new.balmer_decrement()
    assert_allclose(decrement.data, 2.86) and decrement.uncertainty.array[0] < 1e-4


def test_given_reddening_with_its_error():
    maps, true = reddened(np.array([0.3, 0.3]))
    plain, k = maps.deredden(0.3), relative_extinction([6564.632] * u.AA)[0]
    assert_allclose(plain.flux["Ha"].data, true[3], rtol=1e-9)
    assert_allclose(plain.snr["Ha"].data, 40)
    ebv = CCDData([0.3, 0.3], unit=u.mag, uncertainty=StdDevUncertainty([0.0, 0.1]), mask=[False, False])
    new = maps.deredden(ebv)
    relative = new.flux["Ha"].uncertainty.array / new.flux["Ha"].data
    assert_allclose(relative, [1 / 40, np.hypot(1 / 40, 0.4 * np.log(10) * k * 0.1)], rtol=1e-9)
    assert new.covariance("Ha", "Hb").value[1] > 0 and new.covariance("Ha", "Hb").value[0] == 0
    assert_allclose(maps.deredden([0.3, 0.3] * u.mag).flux["Hb"].data, true[2])
    for bad in ([0.1, 0.2, 0.3], 3 * u.AA):
        with pytest.raises(ValueError, match="ebv has the shape"):
            maps.deredden(bad)
    with pytest.raises(ValueError, match="already"):
        new.deredden()


def test_shared_errors_of_dereddened_fluxes():
    """A grey error common to all lines scales with them and leaves E(B-V) alone."""
    ebv = np.array([0.2, 0.6])
    flux = reddened(ebv)[0]._data["flux"][0]
    maps = LineMaps(reddened(0)[0].lines, flux, 0.1 * flux, redshift=0.03, shared=0.1 * flux[None])
    new = maps.deredden()
    assert_allclose(new.shared[0], 0.1 * new._data["flux"][0], rtol=1e-9)


def test_positions_without_a_correction():
    maps, _ = reddened(np.array([0.3, 0.3, 0.3, 0.3]))
    flux, sigma = (np.array(a) for a in maps._data["flux"][:2])
    flux[3, 0] = 200.0 * flux[2, 0] / 100  # H-alpha/H-beta = 2: less than case B
    flux[2, 1] = -1.0
    sigma[2, 2] = flux[2, 2] / 2
    new = LineMaps([*maps.lines[:-1], "My-line"], flux, sigma, redshift=0.03).deredden()
    ha = new.flux["Ha"]
    assert new.meta["internal_extinction"]["ebv"].data[0] < 0
    assert ha.data[0] == flux[3, 0] and ha.flags[0] == DAPMask.NOCORRECTION and not ha.mask[0]
    assert ha.uncertainty.array[0] > sigma[3, 0]  # that of E(B-V) stays
    assert np.isnan(ha.data[1]) and ha.mask[1] and ha.flags[1] & DAPMask.NOCORRECTION
    assert ha.flags[2] & DAPMask.UNRELIABLE and not ha.mask[2]
    assert ha.flags[3] == 0 and np.isfinite(ha.data[3])
    # a line in no table has no wavelength
    assert new.flux["My-line"].mask.all() and (new.flux["My-line"].flags & DAPMask.NOCORRECTION).all()


def test_decrement_must_make_sense():
    maps, _ = reddened(0.3)
    with pytest.raises(ValueError, match="redder line comes first"):
        maps.deredden(decrement=("Hb", "Ha"))
    with pytest.raises(ValueError, match="give intrinsic="):
        maps.deredden(decrement=("N2", "Hb"))
    assert_allclose(gas_reddening(maps, intrinsic=2.86 * 1.1).data, 0.3 - 2.33 * np.log10(1.1), atol=1e-3)
    assert CASE_B["Hb"] == 1


def test_reduced_chi2():
    flux = np.ones((1, 2, 2))
    meta = {"chi2": np.array([[10.0, 20], [30, 0]]), "degrees_of_freedom": np.array([[10, 10], [10, 0]])}
    chi2 = LineMaps(["Ha"], flux, flux, redshift=0.03, meta=meta).chi2
    assert_allclose(chi2.data, [[1, 2], [3, np.nan]])
    assert_array_equal(chi2.mask, [[False, False], [False, True]])
    assert chi2.unit == u.dimensionless_unscaled
    with pytest.raises(ValueError, match="chi2.*degrees_of_freedom"):
        _ = LineMaps(["Ha"], flux, flux, redshift=0.03).chi2


# ---------------------------------------------------------------- a real galaxy
@pytest.fixture(scope="module")
def manga(data_dir):
    path = data_dir / "manga" / "manga-7815-3702-MAPS-HYB10-GAU-MILESHC.fits.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return LineMaps.read(path)


def test_real_spiral_is_star_forming(manga):
    n2, s2, o1 = (manga.bpt(kind) for kind in ("N2", "S2", "O1"))
    for result in (n2, s2, o1):
        counts = dict(result.counts)
        classified = result.classes.size - counts.pop("unclassified")
        assert classified > 400 and counts["star-forming"] > 0.8 * classified
        assert counts["Seyfert"] == 0
        p = result.probabilities
        some = np.isfinite(p).all(0)
        assert_allclose(p[:, some].sum(0), 1, atol=1e-12)
        assert_array_equal(np.isnan(p).any(0), np.isnan(p).all(0))
        # the class is mostly the likeliest one
        known = result.classes.data >= 0
        agree = p[:, known].argmax(0) == result.classes.data[known]
        assert agree.mean() > 0.97
    # the diagrams agree with each other where both speak
    both = (n2.classes.data >= 0) & (o1.classes.data >= 0)
    assert (o1.classes.data[both] == 0).mean() > 0.95
    # and with the ratios taken by hand
    good = n2.classes.data == 0
    ratio = manga.flux["N2"].data[good] / manga.flux["Ha"].data[good]
    assert_allclose(n2.x.data[good], np.log10(ratio))
    # EW of tens of Angstrom: nothing retired
    whan = manga.whan().counts
    assert whan["retired"] + whan["passive"] < 0.05 * sum(n for name, n in whan.items() if name != "unclassified")


def test_real_spiral_is_dusty(manga):
    assert manga.extinction_corrected
    good = (manga.snr["Hb"].data > 10) & ~manga.flux["Hb"].mask & ~manga.flux["Ha"].mask
    new = manga.deredden()
    record = new.meta["internal_extinction"]
    assert record["galactic_corrected"]
    assert 0.1 < np.median(record["ebv"].data[good]) < 0.5
    assert (new.flux["Ha"].data[good] >= manga.flux["Ha"].data[good]).all()
    corrected = good & (record["ebv"].data > 0)
    assert_allclose(new.balmer_decrement().data[corrected], 2.86)
    # H-gamma, which was not used, tells of dust as well
    bluer = gas_reddening(manga, decrement=("Hb", "Hg"))
    assert 0.05 < np.median(bluer.data[corrected]) < 0.5


# ---------------------------------------------------------------- figures
def grid(predicted=False):
    provenance = Provenance(model_id="nano", redshift=0.03, redshift_source="user", seed=3, ebv=0.05)
    x, y = np.meshgrid(np.linspace(-1.2, 0.4, 9), np.linspace(-0.9, 1, 8))
    maps = spectra_of(x, y, snr=np.where(x > 0.3, 1.0, 30.0), wcs=sky(x.shape))
    flux, sigma, _ = maps._data["flux"]
    return LineMaps(
        LINES, flux, sigma, ew=flux, ew_sigma=sigma, redshift=0.03, wcs=maps.wcs,
        provenance=provenance if predicted else None,
    )  # fmt: skip


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


@pytest.mark.parametrize("predicted", [True, False])
@pytest.mark.parametrize(("plot", "classes"), [(plot_bpt, "bpt"), (plot_whan, "whan")])
def test_figure_shows_the_classes(plot, classes, predicted):
    maps = grid(predicted)
    plane, on_sky = plot(maps, title="a galaxy")
    plane.figure.canvas.draw()
    result = getattr(maps, classes)()
    drawn = on_sky.images[0].get_array()
    assert_array_equal(drawn.filled(-1), result.classes.data)
    assert drawn.mask.any() and not drawn.mask.all()
    # one set of points for each class, of its size, in the colour of the sky
    for i, (name, points) in enumerate(zip(result.names, plane.collections, strict=False)):
        assert len(points.get_offsets()) == result.counts[name]
        if result.counts[name]:
            assert_allclose(on_sky.images[0].cmap(i)[:3], points.get_facecolor()[0][:3])
    written = texts(plane.figure)
    assert ("predicted from image" in written) == predicted
    assert "a galaxy" in written and f"({result.counts[result.names[0]]})" in written and "unclassified" in written


@pytest.mark.parametrize("kind", ["S2", "O1"])
def test_figure_of_a_list_has_the_plane_alone(kind):
    (plane,) = plot_bpt(spectra_of([-1.0, -0.9], [0.0, 0.8], kind), kind)
    assert "[O III]" in plane.get_ylabel() and plane.get_xlim()[0] < -1


def test_figure_in_axes_that_are_given():
    maps = grid()
    figure, ax = plt.subplots()
    assert plot_bpt(maps, axes=ax) == (ax,)
    sky_ax = figure.add_subplot(projection=maps.wcs)
    assert plot_whan(maps, axes=(ax, sky_ax)) == (ax, sky_ax)
    with pytest.raises(ValueError, match="axes are"):
        plot_bpt(maps, axes=[sky_ax, ax])
    with pytest.raises(ValueError, match="no WCS"):
        plot_bpt(spectra_of(-0.6, 0), axes=(ax, sky_ax))


def test_figure_with_nothing_to_show():
    maps = spectra_of(np.full((3, 3), -0.6), 0, snr=0.5, wcs=sky((3, 3)))
    plane, on_sky = plot_bpt(maps)
    plane.figure.canvas.draw()
    assert on_sky.images[0].get_array().mask.all()
