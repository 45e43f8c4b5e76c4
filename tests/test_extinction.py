# Licensed under a 3-clause BSD style license - see LICENSE.rst
import numpy as np
import pytest

from fiberifu.extinction import BAND_EXTINCTION, mw_extinction_curve, mw_transmission


def test_curve_goes_through_the_published_anchors():
    """Fitzpatrick 1999, Table 3 (R_V = 3.1), and A_V / E(B-V) = 3.1 near 5450 A."""
    wave = [26500, 12200, 6000, 5470, 4670, 4110, 2700]
    want = [0.265, 0.829, 2.688, 3.055, 3.806, 4.315, 6.265]
    # E(B-V) / E(B-V)_SFD = 0.86 for the spectra of galaxies, 0.88 for the law itself.
    scale = mw_extinction_curve(12200) / 0.829
    np.testing.assert_allclose(scale, 0.87, atol=0.015)
    np.testing.assert_allclose(mw_extinction_curve(wave) / scale, want, rtol=1e-6)
    np.testing.assert_allclose(mw_extinction_curve(5450) / scale, 3.1, rtol=0.02)


def test_curve_agrees_with_schlafly_and_finkbeiner():
    """ApJ 737, 103, Table 6, R_V = 3.1, at the effective wavelengths of the Landolt and SDSS bands."""
    wave = [4350, 5420, 4690, 6166, 7480, 8932]
    want = [3.626, 2.742, 3.303, 2.285, 1.698, 1.263]
    np.testing.assert_allclose(mw_extinction_curve(wave), want, rtol=0.015)


def test_one_micron_normalisation():
    """A(1 micron) / E(B-V)_SFD = 1.319 x 0.78: the constant of Schlafly & Finkbeiner 2011."""
    np.testing.assert_allclose(mw_extinction_curve(1e4), 1.319 * 0.78)


def test_band_coefficients_are_those_of_the_curve(data_dir):
    """Synthetic photometry of a 7000 K source through the DECam filters."""
    for band, want in BAND_EXTINCTION.items():
        wave, throughput = np.loadtxt(data_dir / "instrument" / "decam" / f"DECam.{band}.dat", unpack=True)
        wave = wave * 10
        photons = throughput * wave**-4 / np.expm1(1.4388e8 / (wave * 7000))
        ratio = np.trapezoid(photons * mw_transmission(wave, 0.1), wave) / np.trapezoid(photons, wave)
        np.testing.assert_allclose(-2.5 * np.log10(ratio) / 0.1, want, rtol=0.01)


def test_round_trip():
    wave = np.linspace(3600, 9824, 50)
    flux = np.linspace(1, 2, 50)
    observed = flux * mw_transmission(wave, 0.3)
    np.testing.assert_allclose(observed / mw_transmission(wave, 0.3), flux)
    np.testing.assert_allclose(mw_transmission(wave, 0.0), 1)


def test_wavelengths_in_other_units_are_refused():
    with pytest.raises(ValueError, match="give wavelengths in angstrom"):
        mw_extinction_curve([0.36, 0.98])
