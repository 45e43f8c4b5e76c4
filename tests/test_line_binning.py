# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spectra of bins, maps from them, and sums over regions: against known answers and Monte Carlo."""

import sys
import types

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from photutils.aperture import CircularAperture, RectangularAperture, SkyCircularAperture
from regions import CirclePixelRegion, PixCoord
from specutils import Spectrum

from fiberifu.flags import Flag
from fiberifu.lines import DAPMask, LineMaps, fit_line_maps
from fiberifu.lines.binning import bin_spectra, spread_bins, voronoi_bins
from fiberifu.provenance import Provenance

UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
WAVE = np.arange(5000.0, 5040.0)
BINS = np.array([[7, 7, -1, 2], [7, 7, 3, 2], [-1, 3, 3, 2]])  # of 4, 3 and 3 spaxels
SHAPE = BINS.shape


def cube(data, error=1.0, axis=2, **keywords):
    error = np.broadcast_to(error, data.shape).copy()
    return Spectrum(flux=np.moveaxis(data, -1, axis) * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=axis,
                    uncertainty=StdDevUncertainty(np.moveaxis(error, -1, axis)), **keywords)  # fmt: skip


@pytest.fixture
def random():
    rng = np.random.default_rng(3)
    return rng.normal(size=SHAPE + WAVE.shape), rng.uniform(0.5, 2, SHAPE + WAVE.shape)


# ---------------------------------------------------------------- spectra
@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bins_are_means_and_sums(random, how, axis):
    data, error = random
    spectra, bin_ids = bin_spectra(cube(data, error, axis), BINS, how=how, covariance=0)
    assert_array_equal(bin_ids, [2, 3, 7])
    assert_array_equal(spectra.meta["n_spaxels"], [3, 3, 4])
    assert spectra.shape == (3, len(WAVE)) and spectra.flux.unit == UNIT and not spectra.mask.any()
    assert_allclose(spectra.spectral_axis.to_value(u.AA), WAVE)
    for i, number in enumerate(bin_ids):
        inside = BINS == number
        expected = getattr(data[inside], how)(axis=0)
        sigma = np.sqrt((error[inside] ** 2).sum(0)) / (inside.sum() if how == "mean" else 1)
        assert_allclose(spectra.flux.value[i], expected)
        assert_allclose(spectra.uncertainty.array[i], sigma)


def test_other_uncertainties_units_and_order(random):
    data, error = random
    expected, _ = bin_spectra(cube(data, error), BINS)
    falling = Spectrum(flux=data[..., ::-1] * 10 * UNIT, spectral_axis=WAVE[::-1] * u.AA, spectral_axis_index=2,
                       uncertainty=InverseVariance(error[..., ::-1] ** -2.0 / 100))  # fmt: skip
    spectra, _ = bin_spectra(falling, BINS)
    assert_allclose(spectra.flux.value[:, ::-1], 10 * expected.flux.value)
    assert_allclose(spectra.uncertainty.array[:, ::-1], 10 * expected.uncertainty.array)
    other = Spectrum(flux=(data * UNIT).to("W / (m2 nm)"), spectral_axis=WAVE * u.AA, spectral_axis_index=2,
                     uncertainty=StdDevUncertainty((error * UNIT).to("W / (m2 nm)").value))  # fmt: skip
    assert_allclose(bin_spectra(other, BINS)[0].flux.to_value(UNIT), expected.flux.value)
    flat, ids = bin_spectra(cube(data.reshape(1, 12, -1), error.reshape(1, 12, -1)), BINS.reshape(1, 12))
    assert_allclose(flat.flux.value, expected.flux.value)


@pytest.mark.parametrize("n, factor", [(1, 1.0), (10, 2.62), (100, 4.24), (400, 4.24)])
def test_covariance_factor(n, factor):
    """1 + 1.62 log10 N, flat beyond 100 spaxels (Law et al. 2016 give 4.2 there)."""
    data = np.ones((1, n, len(WAVE)))
    spectra, _ = bin_spectra(cube(data, 0.3), np.zeros((1, n), int))
    assert_allclose(spectra.uncertainty.array, factor * 0.3 / np.sqrt(n))
    assert_allclose(bin_spectra(cube(data, 0.3), np.zeros((1, n), int), covariance=0)[0].uncertainty.array,
                    0.3 / np.sqrt(n))  # fmt: skip


def test_masked_pixels_and_bad_spaxels_are_left_out(random):
    data, error = random
    level = np.where(BINS == 7, 4.0, 1.0)[..., None] * np.ones(len(WAVE))
    mask = np.zeros(data.shape, bool)
    mask[0, 0, 5] = True  # one of four
    mask[0, 1] = True  # a whole spaxel
    mask[:, 3, 9] = True  # all of bin 2
    dirty = np.where(mask, 1e9, level)
    dirty[1, 0, 6] = np.nan
    flags = np.zeros(SHAPE, int)
    flags[2, 1] = Flag.BAD_SPAXEL
    flags[2, 2] = Flag.CONTAMINATED
    dirty[2, 1] = -1e9
    for how, scale in (("mean", [1, 1, 1]), ("sum", [3, 2, 3])):
        given = cube(dirty, error, mask=mask, meta={"flags": flags})
        spectra, _ = bin_spectra(given, BINS, how=how, covariance=0)
        assert_array_equal(spectra.meta["n_spaxels"], [3, 2, 3])
        expected = np.array([1, 1, 4.0]) * scale
        good = ~spectra.mask
        assert_allclose(spectra.flux.value[good], (expected[:, None] * good)[good])
        assert_array_equal(np.argwhere(spectra.mask), [[0, 9]])
        assert np.isfinite(spectra.uncertainty.array).all()
        assert_array_equal(spectra.meta["flags"], [0, Flag.CONTAMINATED, 0])
    more = bin_spectra(cube(dirty, error, mask=mask), BINS, mask=(WAVE > 5010)[None, None])[0]
    assert more.mask[:, WAVE > 5010].all()


def test_errors_of_bins_are_true():
    rng = np.random.default_rng(8)
    error = rng.uniform(0.5, 2, SHAPE)[..., None] * np.ones(4000)
    wave = np.arange(4000.0) + 4000
    spectrum = Spectrum(flux=error * rng.standard_normal(error.shape) * UNIT, spectral_axis=wave * u.AA,
                        spectral_axis_index=2, uncertainty=StdDevUncertainty(error))  # fmt: skip
    for how in ("mean", "sum"):
        spectra, _ = bin_spectra(spectrum, BINS, how=how, covariance=0)
        pull = spectra.flux.value / spectra.uncertainty.array
        assert_allclose(pull.std(1), 1, atol=0.05)


@pytest.mark.parametrize(
    "bins, keywords, words",
    [
        (BINS.astype(float), {}, "bins is a float64 array"),
        (BINS.T, {}, "it must be integers of shape"),
        (np.full(SHAPE, -1), {}, "no bin"),
        (BINS, {"how": "median"}, "how is 'median'"),
        (BINS, {"covariance": -1}, "covariance is -1"),
        (BINS, {"mask": np.ones(3, bool)}, "mask has the shape"),
    ],
)
def test_bad_arguments(random, bins, keywords, words):
    with pytest.raises(ValueError, match=words):
        bin_spectra(cube(*random), bins, **keywords)


def test_published_bins_of_sami(data_dir):
    """Sector cubes repeat the spectrum of a bin in each of its spaxels: their mean is that spectrum."""
    with fits.open(data_dir / "sami" / "209807_A_sectors_red.fits.gz") as hdus:
        cut = slice(900, 1100)
        data, variance = (np.array(hdus[i].data[cut], float) for i in (0, 1))
        bins = np.array(hdus["BIN_MASK"].data).astype(int)
    bins[bins == 0] = -1
    spectrum = Spectrum(flux=data * 10 * UNIT, spectral_axis=np.arange(6800, 7000) * u.AA, spectral_axis_index=0,
                        uncertainty=StdDevUncertainty(10 * np.sqrt(np.clip(variance, 0, None))))  # fmt: skip
    spectra, bin_ids = bin_spectra(spectrum, bins)
    assert len(bin_ids) > 25
    for row, number in enumerate(bin_ids):
        inside = data[:, bins == number]
        assert (np.isnan(inside) == np.isnan(inside[:, :1])).all() and np.nanmax(np.ptp(inside, axis=1)) == 0
        good = ~spectra.mask[row]
        assert_allclose(spectra.flux.value[row, good], 10 * inside[good, 0], rtol=1e-10)
    back = np.moveaxis(spread_bins(np.where(spectra.mask, np.nan, spectra.flux.value) / 10, bins), -1, 0)
    both = np.isfinite(back) & np.isfinite(data)
    assert both.sum() > 1e5
    assert_allclose(back[both], data[both], rtol=1e-10)


# ---------------------------------------------------------------- maps
def test_values_are_spread():
    values = [1.0, 2.0, 3.0] * u.km / u.s
    spread = spread_bins(values, BINS)
    assert spread.unit == u.km / u.s and spread.shape == SHAPE
    assert_array_equal(spread[BINS == 3].value, 2)
    assert_array_equal(np.isnan(spread), BINS < 0)
    assert_array_equal(spread_bins([1, 2, 3], BINS), [[3, 3, 0, 1], [3, 3, 2, 1], [0, 2, 2, 1]])
    assert_array_equal(spread_bins([3, 9, 1, 2], BINS, bin_ids=[7, 5, 2, 3])[BINS >= 0],
                       spread_bins([1, 2, 3], BINS)[BINS >= 0])  # fmt: skip
    assert spread_bins(np.zeros((3, 5)), BINS).shape == (*SHAPE, 5)
    with pytest.raises(ValueError, match="values has the shape"):
        spread_bins([1, 2], BINS)
    with pytest.raises(ValueError, match="bin_ids is"):
        spread_bins([1, 2], BINS, bin_ids=[7, 2])


def binned_maps(rng, **keywords):
    flux, sigma = rng.uniform(5, 9, (2, 3)), rng.uniform(0.1, 0.5, (2, 3))
    covariance = np.einsum("in,jn->nij", sigma, sigma) * [[1, 0.5], [0.5, 1]]
    return LineMaps(["Ha", "Hb"], flux, sigma, 4 * flux, sigma, flux / 4, sigma, redshift=0.1, velocity=[[10, 20, 30]],
                    mask=np.array([[0, 0, 2], [0, 0, 0]]), flags=[1, 2, 4], covariance=covariance,
                    meta={"chi2": np.array([1.0, 2.0, 3.0]), "errors": "formal"}, **keywords)  # fmt: skip


def test_line_maps_are_spread():
    one = binned_maps(np.random.default_rng(0), ebv=0.1, extinction_corrected=True)
    wcs = WCS(naxis=2)
    for how, n in (("mean", [1, 1, 1]), ("sum", [3, 3, 4])):
        maps = spread_bins(one, BINS, how=how, wcs=wcs)
        assert maps.shape == SHAPE and maps.wcs is wcs and maps.redshift == 0.1 and maps.ebv == 0.1
        assert maps.extinction_corrected and maps.meta["errors"] == "formal"
        for i, number in enumerate([2, 3, 7]):
            inside = BINS == number
            for name, scale in (("flux", n[i]), ("ew", 1), ("continuum", n[i]), ("velocity", 1)):
                got, expected = getattr(maps, name)["Hb"], getattr(one, name)["Hb"]
                assert_allclose(got.data[inside], expected.data[i] / scale)
                if expected.uncertainty is not None:
                    assert_allclose(got.uncertainty.array[inside], expected.uncertainty.array[i] / scale)
            assert_allclose(maps.covariance("Ha", "Hb")[inside], one.covariance("Ha", "Hb")[i] / n[i] ** 2)
            assert (maps.flags[inside] == 2**i).all() and (maps.meta["chi2"][inside] == i + 1).all()
        assert (maps.flux["Ha"].flags[BINS == 7] == DAPMask.LOWCOV).all()
        none = maps.flux["Ha"].flags[BINS < 0]
        assert (none & DAPMask.NOCOV).all() and (none & DAPMask.DONOTUSE).all()
    # The sum over the grid is that over the bins, and so is its error: spaxels of a bin share theirs.
    flux, error = spread_bins(one, BINS, how="sum").total()["Ha"]
    assert_allclose(flux.value, one.flux["Ha"].data.sum())
    assert_allclose(error.value, np.sqrt((one.flux["Ha"].uncertainty.array ** 2).sum()))
    part = BINS == 7
    part[0, 0] = False
    assert_allclose(spread_bins(one, BINS).total(part)["Hb"][1].value, 3 * one.flux["Hb"].uncertainty.array[2])


def test_from_cube_to_maps_of_bins():
    """Co-add, fit, spread: the flux of a line in all spaxels comes back."""
    rng = np.random.default_rng(5)
    wave = np.arange(6600.0, 6900.0)
    line = np.exp(-0.5 * ((wave - 6564.632 * 1.03) / 2.5) ** 2) / 2.5 / np.sqrt(2 * np.pi)
    flux = rng.uniform(50, 90, SHAPE)
    data = 1 + flux[..., None] * line
    error = np.full(data.shape, 0.5)
    spectrum = Spectrum(flux=(data + 0.5 * rng.standard_normal(data.shape)) * UNIT, spectral_axis=wave * u.AA,
                        spectral_axis_index=2, uncertainty=StdDevUncertainty(error))  # fmt: skip
    for how in ("mean", "sum"):
        spectra, bin_ids = bin_spectra(spectrum, BINS, how=how, covariance=0)
        maps = spread_bins(fit_line_maps(spectra, ["Ha"], redshift=0.03), BINS, how=how, bin_ids=bin_ids)
        total, sigma = maps.total()["Ha"]
        assert abs(total.value - flux[BINS >= 0].sum()) < 4 * sigma.value and sigma < 0.05 * total
        assert_array_equal(maps.flux["Ha"].mask, BINS < 0)


def test_spreading_refuses():
    one = binned_maps(np.random.default_rng(0))
    with pytest.raises(ValueError, match="values has the shape"):
        spread_bins(one, BINS, bin_ids=[2, 3, 7, 9])
    with pytest.raises(ValueError, match="how is"):
        spread_bins(one, BINS, how="median")


# ---------------------------------------------------------------- Voronoi
def test_voronoi_without_vorbin(monkeypatch):
    monkeypatch.setitem(sys.modules, "vorbin", None)
    with pytest.raises(ValueError, match="pip install vorbin"):
        voronoi_bins(np.ones((2, 2)), np.ones((2, 2)), 3)


def test_voronoi_calls_vorbin(monkeypatch):
    """What goes in and comes out, with a stand-in for the package."""

    def stand_in(x, y, signal, noise, target, *, pixelsize, plot, sn_func):
        assert target == 5 and pixelsize == 1 and not plot
        assert_allclose(signal, 10 * y + x)
        assert_allclose(noise, 2)
        assert_allclose(sn_func(np.arange(4), signal, noise), signal[:4].sum() / 4 / (1 + 1.62 * np.log10(4)))
        return (np.arange(len(x)) // 2, *[None] * 7)

    module = types.ModuleType("vorbin.voronoi_2d_binning")
    module.voronoi_2d_binning = stand_in
    monkeypatch.setitem(sys.modules, "vorbin", types.ModuleType("vorbin"))
    monkeypatch.setitem(sys.modules, "vorbin.voronoi_2d_binning", module)
    y, x = np.indices((3, 4))
    signal, noise = 10.0 * y + x, np.full((3, 4), 2.0)
    signal[0, 0], noise[2, 3] = np.nan, 0
    bins = voronoi_bins(signal, noise, 5, covariance=1.62)
    assert_array_equal(bins, [[-1, 0, 0, 1], [1, 2, 2, 3], [3, 4, 4, -1]])
    with pytest.raises(ValueError, match="signal has the shape"):
        voronoi_bins(signal, noise[0], 5)
    with pytest.raises(ValueError, match="no spaxel"):
        voronoi_bins(signal, noise, 5, mask=True)


# ---------------------------------------------------------------- sums over regions
@pytest.fixture
def maps():
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ("RA---TAN", "DEC--TAN"), (150, 2), (6, 5)
    wcs.wcs.cdelt = -0.5 / 3600, 0.5 / 3600
    shape = (1, 9, 11)
    return LineMaps(["Ha"], rng.uniform(1, 2, shape), rng.uniform(0.1, 0.3, shape), redshift=0.1, wcs=wcs)


def area_of_circle(shape, x, y, radius, fine=200):
    """Area of each pixel inside a circle, by counting fine points."""
    yy, xx = (((np.arange(size * fine) + 0.5) / fine) - 0.5 for size in shape)
    inside = np.hypot(yy[:, None] - y, xx - x) < radius
    return inside.reshape(shape[0], fine, shape[1], fine).mean((1, 3))


def test_regions_are_masks_and_apertures_are_areas(maps):
    flux, sigma = maps.flux["Ha"].data, maps.flux["Ha"].uncertainty.array
    y, x = np.indices(maps.shape)
    region = CirclePixelRegion(PixCoord(5.2, 4.1), 2.6)
    inside = np.hypot(x - 5.2, y - 4.1) < 2.6
    assert maps.total(region) == maps.total(inside)
    assert_allclose(maps.total(inside)["Ha"][0].value, flux[inside].sum())
    area = area_of_circle(maps.shape, 5.2, 4.1, 2.6)
    total, error = maps.total(CircularAperture((5.2, 4.1), 2.6))["Ha"]
    assert_allclose(total.value, (flux * area).sum(), rtol=1e-3)
    assert_allclose(error.value, np.sqrt(((sigma * area) ** 2).sum()), rtol=1e-3)
    half = maps.total(RectangularAperture((5, 4), 3, 2))["Ha"][0].value  # rows 3 to 5: a half, a whole, a half
    assert_allclose(half, flux[4, 4:7].sum() + (flux[3, 4:7] + flux[5, 4:7]).sum() / 2, rtol=1e-9)
    centre = maps.wcs.pixel_to_world(5.2, 4.1)
    on_sky = maps.total(SkyCircularAperture(SkyCoord(centre), 1.3 * u.arcsec))["Ha"]
    assert_allclose(on_sky[0].value, total.value, rtol=1e-5)
    outside = maps.total(CircularAperture((50, 50), 2))
    assert outside["Ha"][0].value == 0 and np.isnan(outside.used["Ha"])


def test_regions_that_do_not_fit(maps):
    listed = LineMaps(["Ha"], [[1.0, 2.0]], [[1.0, 1.0]], redshift=0)
    for region in (CircularAperture((1, 1), 2), CirclePixelRegion(PixCoord(1, 1), 2)):
        with pytest.raises(ValueError, match="take a bool array"):
            listed.total(region)
    with pytest.raises(ValueError, match="2 positions; give one"):
        maps.total(CircularAperture([(1, 1), (2, 2)], 2))
    assert listed.total(np.array([False, True]))["Ha"][0].value == 2


def test_masked_spaxels_are_told(maps):
    mask = np.zeros((1, 9, 11), int)
    mask[0, 4] = DAPMask.DONOTUSE
    flux, sigma = maps.flux["Ha"].data, maps.flux["Ha"].uncertainty.array
    masked = LineMaps(["Ha"], flux[None], sigma[None], redshift=0.1, mask=mask)
    totals = masked.total()
    assert_allclose(totals.used["Ha"], 8 / 9)
    assert_allclose(totals["Ha"][0].value, flux.sum() - flux[4].sum())
    assert_allclose(masked.total(RectangularAperture((5, 4), 3, 2)).used["Ha"], 0.5)
    assert maps.total().used == {"Ha": 1.0}


@pytest.mark.parametrize("n, factor", [(1, 1.0), (10, 2.62), (99, 1 + 1.62 * np.log10(99))])
def test_correlation_by_number(maps, n, factor):
    inside = np.zeros(99, bool)
    inside[:n] = True
    inside = inside.reshape(9, 11)
    plain, grown = maps.total(inside)["Ha"], maps.total(inside, correlation=1.62)["Ha"]
    assert grown[0] == plain[0]
    assert_allclose(grown[1] / plain[1], factor)


def test_correlation_by_separation_is_that_of_smoothed_noise(maps):
    """A function, the matrix it stands for, and draws from it agree; also in an aperture with masked spaxels."""
    y, x = (index.ravel() for index in np.indices(maps.shape))
    kernel = lambda d: np.exp(-0.5 * (d / 1.92) ** 2)  # noqa: E731
    matrix = kernel(np.hypot(y[:, None] - y, x[:, None] - x))
    sigma = maps.flux["Ha"].uncertainty.array
    flux = maps.flux["Ha"].data.copy()
    flux[4, 4] = np.nan
    holed = LineMaps(["Ha"], flux[None], sigma[None], redshift=0.1, wcs=maps.wcs)
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(99), matrix, 20_000) * sigma.ravel()
    aperture = CircularAperture((5.2, 4.1), 2.6)
    weights = area_of_circle(maps.shape, 5.2, 4.1, 2.6) * np.isfinite(flux)
    for region, weight in ((None, np.isfinite(flux)), (aperture, weights)):
        error = holed.total(region, correlation=kernel)["Ha"][1].value
        assert_allclose(error, holed.total(region, correlation=matrix)["Ha"][1].value, rtol=1e-9)
        assert_allclose(error, (draws @ weight.ravel()).std(), rtol=0.02)
        assert error > 1.5 * holed.total(region)["Ha"][1].value
    assert_allclose(holed.total(correlation=np.eye(99))["Ha"][1], holed.total()["Ha"][1])
    alone = holed.total(correlation=lambda d: np.where(d == 0, 1.0, 0.0))["Ha"][1]
    assert_allclose(alone, holed.total()["Ha"][1])


def test_correlation_of_predictions_and_shared_errors(maps):
    flux, sigma = maps.flux["Ha"].data[None], maps.flux["Ha"].uncertainty.array[None]
    predicted = LineMaps(["Ha"], flux, sigma, redshift=0.1, provenance=Provenance())
    assert_allclose(predicted.total()["Ha"][1].value, sigma.sum())
    assert_allclose(predicted.total(correlation=np.ones((99, 99)))["Ha"][1].value, sigma.sum())
    shared = 0.6 * sigma[None]
    both = LineMaps(["Ha"], flux, sigma, redshift=0.1, shared=shared)
    common, rest = 0.6 * sigma.sum(), 0.8 * np.sqrt((sigma**2).sum())
    assert_allclose(both.total()["Ha"][1].value, np.hypot(common, rest))
    grown = both.total(correlation=1.62)["Ha"][1].value
    assert_allclose(grown, np.hypot(common, rest * (1 + 1.62 * np.log10(99))))


@pytest.mark.parametrize("correlation", [-1.0, np.ones(99), np.ones((3, 3))])
def test_correlation_refuses(maps, correlation):
    with pytest.raises(ValueError, match="correlation is"):
        maps.total(correlation=correlation)
    listed = LineMaps(["Ha"], [[1.0, 2.0]], [[1.0, 1.0]], redshift=0)
    with pytest.raises(ValueError, match="give a matrix"):
        listed.total(correlation=np.exp)
