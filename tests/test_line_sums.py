# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sums over bandpasses against known fluxes, Monte Carlo, Gaussian fits, and real spectra."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf
from specutils import Spectrum

from fiberifu.flags import Flag
from fiberifu.lines import DAPMask, LineMaps, fit_line_maps, line_table, vacuum_to_air
from fiberifu.lines.sums import sum_line_maps
from fiberifu.provenance import Provenance

C = 299792.458
Z = 0.03
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
WAVE = np.arange(4900.0, 7060.0)
KEYS = ["Hb", "O3_5007", "Ha", "N2_6583"]
FLUX = np.array([30.0, 90.0, 100.0, 40.0])


def spectra(velocity=(0.0,), sigma=60.0, wave=WAVE, level=2.0, slope=1e-4):
    """Gaussian lines, integrated over pixels, on a straight continuum: (N, P)."""
    edges = np.concatenate([[1.5 * wave[0] - 0.5 * wave[1]], (wave[1:] + wave[:-1]) / 2,
                            [1.5 * wave[-1] - 0.5 * wave[-2]]])  # fmt: skip
    data = level * (1 + slope * (wave - 6000)) * np.ones((len(velocity), 1))
    for rest, flux in zip(line_table(KEYS)["wavelength"].to_value(u.AA), FLUX, strict=True):
        centre = rest * (1 + Z) * (1 + np.asarray(velocity)[:, None] / C)
        step = np.diff(erf((edges - centre) / (rest * (1 + Z) * sigma / C) / np.sqrt(2)) / 2, axis=1)
        data += flux * step / np.diff(edges)
    return data


def cube(data, error=0.1, wave=WAVE, axis=1, **keywords):
    error = np.broadcast_to(error, data.shape)
    data, error = np.moveaxis(data, -1, axis), np.moveaxis(error, -1, axis)
    return Spectrum(flux=data * UNIT, spectral_axis=wave * u.AA, spectral_axis_index=axis,
                    uncertainty=StdDevUncertainty(error.copy()), **keywords)  # fmt: skip


def sums(data, *arguments, **keywords):
    return sum_line_maps(cube(data, *arguments), KEYS, redshift=Z, **keywords)


def values(maps, name="flux"):
    return np.array([getattr(maps, name)[key].data for key in KEYS])


def test_fluxes_widths_and_equivalent_widths():
    velocity = np.array([-100.0, 0.0, 35.0, 100.0])
    maps = sums(spectra(velocity))
    assert_allclose(values(maps), np.repeat(FLUX[:, None], 4, 1), rtol=1e-3)
    assert_allclose(values(maps, "velocity"), np.repeat(velocity[None], 4, 0), atol=0.5)
    assert_allclose(values(maps, "dispersion"), 60.0, atol=1.5)
    centres = line_table(KEYS)["wavelength"].to_value(u.AA) * (1 + Z)
    level = 2 * (1 + 1e-4 * (centres - 6000))
    assert_allclose(values(maps, "continuum")[:, 1], level, rtol=1e-3)
    assert_allclose(values(maps, "ew")[:, 1], FLUX / level / (1 + Z), rtol=2e-3)
    assert isinstance(maps, LineMaps) and maps.meta["kind"] == "sums" and not maps.flux["Ha"].flags.any()


def test_a_line_cut_by_the_band_loses_what_is_outside():
    """The area of a Gaussian within +-7 Angstrom; the side bands of H-beta are far."""
    sigma = 4862.691 * 250 / C
    maps = sums(spectra(sigma=250.0), window=7 * u.AA)
    assert_allclose(maps.flux["Hb"].data, FLUX[0] * erf(7 / sigma / np.sqrt(2)), rtol=2e-3)
    assert_allclose(sums(spectra(sigma=250.0), window=7 / 4862.691 * C * u.km / u.s).flux["Hb"].data,
                    maps.flux["Hb"].data, rtol=1e-12)  # fmt: skip


def test_errors_are_those_of_monte_carlo():
    """Pulls of everything that is measured, with noise that differs from pixel to pixel."""
    rng = np.random.default_rng(4)
    n = 3000
    clean = spectra(np.full(1, 150.0), level=5.0)
    error = rng.uniform(0.01, 0.03, clean.shape) * np.ones((n, 1))
    maps = sums(clean + error * rng.standard_normal(error.shape), error)
    truth = sums(clean)
    for name in ("flux", "ew", "continuum", "velocity", "dispersion"):
        for key in KEYS:
            got, true = getattr(maps, name)[key], getattr(truth, name)[key].data
            pull = (got.data - true) / got.uncertainty.array
            assert abs(np.mean(pull)) < 0.1 and pull.std() == pytest.approx(1, abs=0.06), (name, key)
    joint = np.cov(maps.flux["Ha"].data, maps.flux["N2_6583"].data)[0, 1]  # they share their side bands
    assert joint == pytest.approx(np.mean(maps.covariance("Ha", "N2_6583").value), rel=0.25) and joint > 0
    assert not maps.covariance("Ha", "Hb").value.any()


def test_edges_count_in_part():
    """A constant above the continuum, of a tenth of a pixel more, is a tenth more flux."""
    data = np.zeros((1, len(WAVE)))
    data[0, np.searchsorted(WAVE, 6564.632 * (1 + Z))] = 1.0
    half = 3 + np.array([0.0, 0.1, 0.2])
    continuum = [sums(data + 1, window=h / (1 + Z) * u.AA).flux["Ha"].data[0] for h in half]
    assert_allclose(continuum, 1.0, rtol=1e-9)
    # Side bands of 0, main band of 1: the flux is the width of the band, whatever the pixels.
    row = line_table(["Ha"])[0]
    low, high = row["main"].value * (1 + Z)
    block = np.where((WAVE > low - 1) & (WAVE < high + 1), 1.0, 0.0)[None]
    assert_allclose(sums(block).flux["Ha"].data, high - low, rtol=1e-9)
    wave = np.concatenate([WAVE[WAVE < low + 5], np.arange(WAVE[WAVE < low + 5][-1] + 2.5, 7060, 2.5)])  # a coarser end
    block = np.where((wave > low - 1) & (wave < high + 2.5), 1.0, 0.0)[None]
    maps = sum_line_maps(cube(block, wave=wave), KEYS, redshift=Z)
    assert_allclose(maps.flux["Ha"].data, high - low, rtol=1e-9)
    assert not maps.flux["Ha"].flags.any()


def test_a_straight_continuum_leaves_nothing():
    """However steep, masked, or cut by fractional pixels."""
    data = (50 - 0.02 * (WAVE - 6000)) * np.ones((30, 1))
    mask = np.random.default_rng(0).random(data.shape) < 0.3
    maps = sums(data, mask=mask, velocity=np.linspace(-300, 300, 30) * u.km / u.s)
    assert_allclose(values(maps), 0, atol=1e-9)
    centres = line_table(KEYS)["wavelength"].to_value(u.AA)[:, None] * (1 + Z) * (1 + np.linspace(-300, 300, 30) / C)
    assert_allclose(values(maps, "continuum"), 50 - 0.02 * (centres - 6000), rtol=1e-12)


def test_velocity_shifts_the_bands():
    velocity = np.array([0.0, 400.0, -400.0, np.nan])
    data = spectra(np.nan_to_num(velocity))
    still = sums(data)
    moved = sums(data, velocity=velocity * u.km / u.s)
    assert still.flux["Ha"].data[1] < 0.7 * FLUX[2]
    assert_allclose(values(moved), np.repeat(FLUX[:, None], 4, 1), rtol=1e-3)
    assert_allclose(moved.velocity["Ha"].data, np.nan_to_num(velocity), atol=0.5)  # relative to the systemic one
    masked = CCDData(np.full(4, 400.0), unit=u.km / u.s, mask=[True, False, True, True])
    assert_allclose(sums(data, velocity=masked).flux["Ha"].data[[0, 1]],
                    [still.flux["Ha"].data[0], moved.flux["Ha"].data[1]], rtol=1e-9)  # fmt: skip
    fitted = fit_line_maps(cube(data), KEYS, redshift=Z)
    assert_allclose(values(sums(data, velocity=fitted.velocity["Ha"])), values(moved), rtol=1e-3)


def test_masked_pixels():
    data = spectra(np.zeros(5), slope=0)
    mask = np.zeros(data.shape, bool)
    ha = 6564.632 * (1 + Z)
    mask[1] = abs(WAVE - 6500 * (1 + Z)) < 3  # in the blue side band
    mask[2] = abs(WAVE - ha) < 1  # in the line
    mask[3] = abs(WAVE - 6500 * (1 + Z)) < 20  # all of the blue side band
    mask[4] = True
    data[mask] = 1e9
    maps = sums(data, mask=mask)
    flux, bits = maps.flux["Ha"], maps.flux["Ha"].flags
    assert bits[0] == 0 and bits[1] == DAPMask.LOWCOV
    assert_allclose(flux.data[:2], FLUX[2], rtol=1e-3)
    assert bits[2] == DAPMask.LOWCOV | DAPMask.DONOTUSE and flux.data[2] < 0.7 * FLUX[2]
    for i in (3, 4):
        assert bits[i] & DAPMask.NOCOV and bits[i] & DAPMask.DONOTUSE and np.isnan(flux.data[i])
    assert not maps.flux["Hb"].flags[:4].any()
    data[:, 100] = np.nan  # not finite is masked by itself
    assert_array_equal(sums(data, mask=mask).flux["Ha"].data, flux.data)


def test_masked_side_band_on_a_slope():
    """The pseudo-continuum follows a slope although one side of a side band is gone."""
    data = spectra(np.zeros(2), slope=1e-3)
    mask = np.zeros(data.shape, bool)
    mask[1] = (WAVE > 6483 * (1 + Z)) & (WAVE < 6505 * (1 + Z))
    maps = sums(data, mask=mask)
    assert_allclose(maps.flux["Ha"].data[1], maps.flux["Ha"].data[0], rtol=1e-4)
    assert maps.flux["Ha"].uncertainty.array[1] > maps.flux["Ha"].uncertainty.array[0]


def test_lines_without_coverage():
    maps = sum_line_maps(cube(spectra()), "all", redshift=Z)
    off = maps.flux["O2_3726"]
    assert (off.flags & DAPMask.NOCOV).all() and off.mask.all() and np.isnan(off.data).all()
    keep = WAVE < 4893 * (1 + Z)  # H-beta, and nearly nothing of its red band
    short = sum_line_maps(cube(spectra()[:, keep], wave=WAVE[keep]), ["Hb", "O3_5007"], redshift=Z)
    assert short.flux["Hb"].flags == DAPMask.LOWCOV
    keep = WAVE < 4880 * (1 + Z)
    none = sum_line_maps(cube(spectra()[:, keep], wave=WAVE[keep]), ["Hb", "O3_5007"], redshift=Z)
    assert none.flux["Hb"].flags & DAPMask.NOCOV and none.flux["O3_5007"].flags & DAPMask.NOCOV
    with pytest.raises(ValueError, match="no line of the table falls on"):
        sum_line_maps(cube(spectra()), ["O2_3726"], redshift=Z)


def test_blends_are_in_their_first_line():
    wave = np.arange(3700.0, 4000.0)
    data = np.ones((2, len(wave)))
    data[:, np.searchsorted(wave, 3728 * (1 + Z))] += 10
    maps = sum_line_maps(cube(data, wave=wave), "strong", redshift=Z)
    assert maps.meta["blends"] == {"O2_3726": ("O2_3726", "O2_3729")}
    assert_allclose(maps.flux["O2_3726"].data, 10, rtol=1e-9)
    assert (maps.flux["O2_3729"].flags & DAPMask.NOVALUE).all() and maps.flux["O2_3729"].mask.all()
    apart = sum_line_maps(cube(data, wave=wave), "strong", redshift=Z, window=300 * u.km / u.s)
    assert np.isfinite(apart.flux["O2_3729"].data).all() and not apart.meta["blends"]


def test_starlight_is_taken_off():
    wave = WAVE / (1 + Z)
    star = 3 - 1.5 * np.exp(-0.5 * ((wave - 4862.691) / 3) ** 2) - 1.0 * np.exp(-0.5 * ((wave - 6564.632) / 3) ** 2)
    data = spectra(np.zeros(2), level=0.0) + star
    model = np.broadcast_to(star, data.shape)
    without, maps = sums(data), sums(data, continuum=model)
    assert (without.flux["Hb"].data < 0.7 * FLUX[0]).all()
    assert_allclose(values(maps), np.repeat(FLUX[:, None], 2, 1), rtol=1e-3)
    assert_allclose(values(maps, "continuum"), values(without, "continuum"))
    assert_allclose(maps.ew["Hb"].data, FLUX[0] / maps.continuum["Hb"].data / (1 + Z), rtol=1e-3)
    for same in (cube(model), lambda x: cube(model), model * UNIT):
        assert_allclose(values(sums(data, continuum=same)), values(maps))
    hole = model.copy()
    hole[1, abs(WAVE - 4862.691 * (1 + Z)) < 2] = np.nan
    assert sums(data, continuum=hole).flux["Hb"].flags[1] & DAPMask.LOWCOV
    with pytest.raises(ValueError, match="continuum has the shape"):
        sums(data, continuum=star)


def test_axes_order_media_and_units():
    """What a cube looks like does not change what is in it."""
    rng = np.random.default_rng(0)
    data = spectra(rng.uniform(-50, 50, 12)) + rng.normal(0, 0.1, (12, len(WAVE)))
    expected = values(sums(data))
    block = data.reshape(3, 4, -1)
    for axis in (0, 1, 2):
        maps = sum_line_maps(cube(block, axis=axis), KEYS, redshift=Z)
        assert maps.shape == (3, 4)
        assert_allclose(values(maps).reshape(4, -1), expected)
    falling = Spectrum(flux=data[:, ::-1] * UNIT, spectral_axis=WAVE[::-1] * u.AA, spectral_axis_index=1,
                       uncertainty=StdDevUncertainty(np.full(data.shape, 0.1)))  # fmt: skip
    assert_allclose(values(sum_line_maps(falling, KEYS, redshift=Z)), expected)
    other = Spectrum(flux=(data * UNIT).to(u.Unit("W / (m2 nm)")), spectral_axis=(WAVE * u.AA).to(u.nm),
                     spectral_axis_index=1, uncertainty=StdDevUncertainty((0.1 * np.ones(data.shape) * UNIT).to(
                         u.Unit("W / (m2 nm)")).value))  # fmt: skip
    assert_allclose(values(sum_line_maps(other, KEYS, redshift=Z)), expected, rtol=1e-6)
    air = vacuum_to_air(WAVE * u.AA).value
    maps = sum_line_maps(cube(data, wave=air), KEYS, redshift=Z, medium="air")
    assert_allclose(values(maps), expected, atol=0.5)
    assert_allclose(values(sums(data[:1])), expected[:, :1])  # company does not matter


def test_faint_lines_have_no_kinematics():
    data = spectra(level=2.0)
    maps = sum_line_maps(cube(data, error=5.0), KEYS, redshift=Z)
    assert not maps.flux["Hb"].mask.any() and maps.velocity["Hb"].mask.all()
    assert (maps.velocity["Hb"].flags & DAPMask.UNRELIABLE).all()


def test_a_prediction_flags_its_errors():
    predicted = cube(spectra(), meta={"provenance": Provenance(redshift=Z)})
    with pytest.warns(AstropyUserWarning, match="correlated"):
        maps = sum_line_maps(predicted, KEYS, redshift=Z)
    assert (maps.flags & Flag.FORMAL_ERRORS).all() and maps.provenance.datatype == "PREDICTED"


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"redshift": np.nan}, "redshift is nan"),
        ({"window": 5.0}, "window is 5.0"),
        ({"window": -5 * u.AA}, "must be positive"),
        ({"window": 5 * u.s}, "window is 5.0 s"),
        ({"velocity": np.zeros(1)}, "velocity is ndarray"),
        ({"velocity": np.zeros(3) * u.km / u.s}, r"shape \(3,\)"),
        ({"medium": "water"}, "medium"),
        ({"mask": np.zeros(3, bool)}, "mask has the shape"),
    ],
)
def test_bad_arguments(keywords, words):
    with pytest.raises(ValueError, match=words):
        sum_line_maps(cube(spectra()), KEYS, **{"redshift": Z, **keywords})


def test_sums_agree_with_gaussians_and_with_published_maps(data_dir):
    """A star-forming ring of SAMI, one spectrum per bin, in air."""
    with fits.open(data_dir / "sami" / "41144_A_sectors_red.fits.gz") as hdus:
        header, bins = hdus[0].header, np.array(hdus["BIN_MASK"].data)
        spaxels = np.array([np.argwhere(bins == i)[0] for i in np.unique(bins[bins > 0])]).T
        data, variance = (np.array(hdus[i].data[:, spaxels[0], spaxels[1]], float).T for i in (0, 1))
    with fits.open(data_dir / "sami" / "41144_A_Halpha_sectors_1-comp.fits") as hdus:
        published = np.array(hdus[0].data[0][tuple(spaxels)], float)
    wave = header["CRVAL3"] + header["CDELT3"] * (np.arange(header["NAXIS3"]) + 1 - header["CRPIX3"])
    bad = ~np.isfinite(data) | ~(variance > 0)
    spectrum = Spectrum(flux=np.where(bad, 0, data) * 10 * UNIT, spectral_axis=wave * u.AA, spectral_axis_index=1,
                        uncertainty=StdDevUncertainty(10 * np.sqrt(np.where(bad, 1, variance))), mask=bad)  # fmt: skip
    keywords = {"redshift": 0.02964, "medium": "air"}
    fitted = fit_line_maps(spectrum, ["Ha", "N2"], continuum=1, **keywords)
    summed = sum_line_maps(spectrum, ["Ha", "N2"], velocity=fitted.velocity["Ha"], **keywords)
    bright = (fitted.snr["Ha"].data > 20) & ~summed.flux["Ha"].mask
    assert bright.sum() > 20
    ratio = (summed.flux["Ha"].data / fitted.flux["Ha"].data)[bright]
    assert np.median(ratio) == pytest.approx(1, abs=0.02) and ratio.std() < 0.03
    difference = (summed.velocity["Ha"].data - fitted.velocity["Ha"].data)[bright]
    assert abs(np.median(difference)) < 1 and np.nanstd(difference) < 5
    # A straight continuum leaves the stellar absorption in, 5 % of this H-alpha; published maps are corrected for it.
    ratio = (summed.flux["Ha"].data / 10 / published)[bright]
    assert np.median(ratio) == pytest.approx(0.945, abs=0.03) and ratio.std() < 0.05
