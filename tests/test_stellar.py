# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Starlight: kinematics and light of known mixtures come back, and lines over absorption are right."""

from importlib import util

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance
from scipy.ndimage import gaussian_filter1d
from specutils import Spectrum

from fiberifu.lines import StellarTemplates, fit_line_maps, fit_starlight

C, Z = 299792.458, 0.03
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
REST = np.exp(np.arange(np.log(4500.0), np.log(7100.0), 1e-4))
WAVE = np.arange(4900.0, 6950.0)


def populations(n=6, seed=3):
    """Templates with absorption lines of random depth, H-alpha and H-beta among them, resolving power 3000."""
    rng = np.random.default_rng(seed)
    lines = np.concatenate([rng.uniform(4550, 7050, 120), [4862.69, 6564.63]])
    depth = rng.uniform(0.05, 0.5, (n, len(lines)))
    depth[:, -2:] = np.linspace(0.1, 0.6, n)[:, None]
    x = np.log(REST / 5500)
    flux = np.exp(x * rng.uniform(-2, 2, (n, 1)))
    pixel = np.searchsorted(REST, lines)
    absorbed = np.zeros((n, len(REST)))
    absorbed[:, pixel] = depth * 8
    return flux * np.exp(-gaussian_filter1d(absorbed, 1 / 3000 / 2.3548 / 1e-4, axis=1))


@pytest.fixture(scope="module")
def templates():
    return StellarTemplates(REST * u.AA, populations(), 3000.0)


def observed(flux, velocity, sigma):
    """A rest-frame spectrum as seen at ``Z``, moved and broadened; without the code under test."""
    broad = gaussian_filter1d(flux, sigma / C / 1e-4)
    return np.interp(WAVE, REST * (1 + Z) * (1 + velocity / C), broad)


@pytest.fixture(scope="module")
def mock(templates):
    rng = np.random.default_rng(5)
    n = 24
    light = rng.dirichlet(np.full(6, 0.5), n)
    velocity, sigma = rng.uniform(-250, 250, n), rng.uniform(50, 200, n)
    shapes = populations() / np.median(populations(), 1, keepdims=True)
    clean = np.stack([observed(w @ shapes, v, s) for w, v, s in zip(light, velocity, sigma, strict=True)])
    clean *= 1 + 0.15 * np.linspace(-1, 1, len(WAVE)) ** 3  # what a multiplicative polynomial is for
    error = 0.02
    data = clean + error * rng.standard_normal(clean.shape)
    fit = fit_starlight(templates, WAVE, data, np.full(data.shape, error**-2), redshift=Z, masked=0.0)
    return fit, clean, data, error, velocity, sigma


def test_kinematics_come_back_within_their_errors(mock):
    fit, _, _, _, velocity, sigma = mock
    pull = (fit.velocity - velocity) / fit.velocity_sigma
    assert np.abs(pull).max() < 4.5 and 0.5 < pull.std() < 1.5
    pull = (fit.dispersion - sigma) / fit.dispersion_sigma
    assert np.abs(pull).max() < 4.5 and 0.5 < pull.std() < 1.6
    assert np.median(fit.velocity_sigma) < 10


def test_models_are_the_starlight(mock):
    fit, clean, _, error, _, _ = mock
    inside = np.isfinite(fit.model[0])
    assert inside.mean() > 0.9
    assert np.std((fit.model - clean)[:, inside]) < 0.4 * error
    assert (fit.weights >= 0).all()
    assert abs(np.median(fit.chi2 / fit.n_pixels) - 1) < 0.06


def test_company_does_not_matter(templates, mock):
    """Only through the co-added spectrum, whose wide prior moves nothing that is measured."""
    fit, _, data, error, _, _ = mock
    few = fit_starlight(templates, WAVE, data[3:6], np.full((3, len(WAVE)), error**-2), redshift=Z, masked=0.0)
    assert np.abs(few.velocity - fit.velocity[3:6]).max() < 0.3 * fit.velocity_sigma[3:6].min()


def test_noise_falls_back_on_the_coadded_spectrum(templates, mock):
    """A spectrum that says nothing takes the velocity of the others, with the prior's error."""
    _, _, data, error, velocity, _ = mock
    weight = np.full(data.shape, error**-2)
    weight[0] = 1e-3 * error**-2 / 1000
    fit = fit_starlight(templates, WAVE, data, weight, redshift=Z, masked=0.0)
    assert fit.velocity_sigma[0] > 100 and fit.dispersion_sigma[0] > 60
    assert abs(fit.velocity[0] - np.median(velocity)) < 150


def test_bad_spectra_are_left_out(templates, mock):
    _, _, data, error, _, _ = mock
    weight = np.full(data.shape, error**-2)
    weight[1] = 0
    bad = data.copy()
    bad[1] = np.nan
    bad[2, 100] = 50.0  # a cosmic ray: clipped
    fit = fit_starlight(templates, WAVE, np.nan_to_num(bad), weight, redshift=Z, masked=0.0)
    assert np.isnan(fit.model[1]).all() and np.isnan(fit.velocity[1]) and fit.n_pixels[1] == 0
    clean = fit_starlight(templates, WAVE, data, weight, redshift=Z, masked=0.0)
    assert abs(fit.velocity[2] - clean.velocity[2]) < fit.velocity_sigma[2]


def test_resolution_of_the_data_is_taken_into_account(templates, mock):
    """Data blurred by an instrument give the same dispersion when the instrument is known."""
    fit, clean, _, error, _, sigma = mock
    blur = 3.0  # Angstrom
    data = gaussian_filter1d(clean, blur, axis=1) + error * np.random.default_rng(1).standard_normal(clean.shape)
    own = 3000.0**-1 / 2.3548 * WAVE
    known = fit_starlight(templates, WAVE, data, np.full(data.shape, error**-2), redshift=Z, masked=0.0,
                          sigma=np.hypot(blur, own))  # fmt: skip
    pull = (known.dispersion - sigma) / known.dispersion_sigma
    assert abs(np.median(pull)) < 1
    unknown = fit_starlight(templates, WAVE, data, np.full(data.shape, error**-2), redshift=Z, masked=0.0)
    assert np.median(unknown.dispersion - sigma) > 30


def test_lines_over_absorption(templates, mock):
    """H-beta and H-alpha in stellar absorption: right with templates, too weak with a polynomial."""
    _, clean, _, error, velocity, _ = mock
    rng = np.random.default_rng(8)
    flux = {"Hb": 5.0, "Ha": 14.0}
    data = clean + error * rng.standard_normal(clean.shape)
    for rest, key in ((4862.691, "Hb"), (6564.632, "Ha")):
        centre = rest * (1 + Z) * (1 + velocity[:, None] / C)
        width = centre * 130 / C
        data += flux[key] * np.exp(-0.5 * ((WAVE - centre) / width) ** 2) / width / np.sqrt(2 * np.pi)
    spectra = Spectrum(flux=data * UNIT, spectral_axis=WAVE * u.AA, spectral_axis_index=1,
                       uncertainty=InverseVariance(np.full(data.shape, error**-2)))  # fmt: skip
    own = lambda wave: wave / 3000 / 2.3548  # noqa: E731
    maps = fit_line_maps(spectra, ["Hb", "Ha"], redshift=Z, lsf=own, continuum=templates)
    plain = fit_line_maps(spectra, ["Hb", "Ha"], redshift=Z, lsf=own)
    for key, truth in flux.items():
        assert abs(np.median(maps.flux[key].data) / truth - 1) < 0.03
        assert np.median(plain.flux[key].data) / truth < 0.94
    assert maps.meta["stellar"].velocity.shape == (len(data),)
    assert np.nanmedian(np.abs(maps.residual().flux.value)) < error
    model = maps.model("continuum").flux.value
    inside = np.isfinite(model)
    assert np.std((model - clean)[inside]) < error


def test_bad_templates(tmp_path):
    with pytest.raises(ValueError, match=r"flux has the shape \(3, 4\) and wave \(5,\)"):
        StellarTemplates(np.arange(5.0) * u.AA, np.ones((3, 4)), 2000)
    with pytest.raises(ValueError, match="medians above zero"):
        StellarTemplates(np.arange(4000.0, 4010) * u.AA, -np.ones((3, 10)), 2000)
    with pytest.raises(ValueError, match="resolving power above zero"):
        StellarTemplates(np.arange(4000.0, 4010) * u.AA, np.ones((3, 10)), 0)
    with pytest.raises(FileNotFoundError, match="no MaStar-SSP"):
        StellarTemplates.read_mastar(tmp_path)


def test_redshift_that_does_not_fit(templates):
    with pytest.raises(ValueError, match="redshift is 3"):
        fit_starlight(templates, WAVE, np.ones((1, len(WAVE))), np.ones((1, len(WAVE))), redshift=3.0)


def test_mastar_files(data_dir):
    """The real library: 54 populations, and a young one is bluer than an old one."""
    templates = StellarTemplates.read_mastar(data_dir / "templates" / "mastar_ssp_v1.0")
    assert len(templates) == 54 and "54 spectra, 3622-103" in repr(templates)
    blue, red = (np.searchsorted(templates.log_wave, np.log(wave)) for wave in (4000, 8000))
    colour = templates.levels[0, blue] / templates.levels[0, red]
    young, old = (templates.names.index(name) for name in ("A00.010-Z+0.00", "A09.000-Z+0.00"))
    assert colour[young] > 2 * colour[old]
    with fits.open(data_dir / "templates" / "mastar_ssp_v1.0" / "MaStar-SSP-A09.000-Z+0.00.fits.gz") as hdus:
        power = hdus["SRES"].data
    sigma = np.sqrt(templates.variance)
    assert C / power.max() / 2.36 < sigma.min() and sigma.max() < C / power.min() / 2.35


def test_real_spaxels_of_manga(data_dir):
    """An early-type and a young spaxel: models follow the spectra, velocities are near the redshifts."""
    from fiberifu.surveys import read_manga_spectra

    whole = read_manga_spectra(data_dir / "manga" / "MaNGA_test_spectra.fits.gz")
    templates = StellarTemplates.read_mastar(data_dir / "templates" / "mastar_ssp_v1.0")
    for i, redshift, dispersion, widest in ((2, 0.0493, 236, 1.9), (7, 0.0182, 30, 1.1), (5, 0.0172, None, None)):
        spectrum = Spectrum(whole.flux[i : i + 1], spectral_axis=whole.spectral_axis, spectral_axis_index=1,
                            uncertainty=InverseVariance(whole.uncertainty.array[i : i + 1]),
                            mask=whole.mask[i : i + 1])  # fmt: skip
        maps = fit_line_maps(spectrum, ["Ha", "N2", "Hb"], redshift=redshift, lsf=whole.meta["lsf"][i],
                             continuum=templates)  # fmt: skip
        stars = maps.meta["stellar"]
        if dispersion is None:  # nothing in it but masked pixels: flagged, not raised
            assert np.isnan(stars.velocity[0]) and maps.flux["Ha"].mask.all()
            continue
        assert abs(stars.velocity[0]) < 40 and stars.velocity_sigma[0] < 6
        assert abs(stars.dispersion[0] - dispersion) < 15
        residual = maps.residual().flux.value * np.sqrt(spectrum.uncertainty.array)
        assert np.sqrt(np.nanmean(residual[~spectrum.mask] ** 2)) < widest


def test_ppxf_answers_the_same(templates, mock):
    """The optional solver: velocities, dispersions and models as ours; where it is absent an error says what to do."""
    fit, clean, data, error, velocity, _ = mock
    keywords = {"redshift": Z, "masked": 0.0, "method": "ppxf"}
    weight = np.full(data.shape, error**-2)
    if util.find_spec("ppxf") is None:
        with pytest.raises(ImportError, match="pip install ppxf"):
            fit_starlight(templates, WAVE, data[:2], weight[:2], **keywords)
        return
    theirs = fit_starlight(templates, WAVE, data[:6], weight[:6], **keywords)
    assert np.abs(theirs.velocity - velocity[:6]).max() < 4.5 * fit.velocity_sigma.max()
    np.testing.assert_allclose(theirs.velocity, fit.velocity[:6], atol=5)
    np.testing.assert_allclose(theirs.dispersion, fit.dispersion[:6], atol=15)
    inside = np.isfinite(theirs.model[0])
    assert np.std((theirs.model - clean[:6])[:, inside]) < 0.5 * error


def test_unknown_solver(templates):
    with pytest.raises(ValueError, match="starlight is 'magic'"):
        fit_starlight(templates, WAVE, np.ones((1, len(WAVE))), np.ones((1, len(WAVE))), redshift=Z, method="magic")


def test_starlight_is_in_the_files(templates, mock, tmp_path):
    """Velocities and dispersions of the stars as the DAP has them, and how the fit was done."""
    from fiberifu.cube import cube_wcs
    from fiberifu.lines import LineMaps

    _, _, data, error, *_ = mock
    shape = (2, 2)
    wcs = cube_wcs(SkyCoord(150, 2, unit="deg"), shape, 0.5 * u.arcsec, WAVE * u.AA)
    flux = np.moveaxis(data[:4].reshape(2, 2, -1), -1, 0)
    spectrum = Spectrum(flux=flux * UNIT, wcs=wcs, uncertainty=InverseVariance(np.full(flux.shape, error**-2)))
    maps = fit_line_maps(spectrum, ["Ha", "N2"], redshift=Z, lsf=3000.0, continuum=templates)
    maps.write(tmp_path / "maps.fits")
    with fits.open(tmp_path / "maps.fits") as hdus:
        np.testing.assert_allclose(hdus["STELLAR_VEL"].data, maps.meta["stellar"].velocity.reshape(shape), rtol=1e-5)
        assert hdus["STELLAR_SIGMA_IVAR"].data.min() > 0 and hdus["STELLAR_VEL"].header["BUNIT"] == "km/s"
        assert hdus[0].header["FITCONT"] == "templates" and hdus[0].header["FITLSF"] == "3000.0"
    again = LineMaps.read(tmp_path / "maps.fits")
    np.testing.assert_allclose(again.meta["stellar_velocity_sigma"], maps.meta["stellar_velocity_sigma"], rtol=1e-4)
    assert again.meta["fit"] == maps.meta["fit"]


def test_a_spectrum_below_zero_costs_no_other(templates):
    rng = np.random.default_rng(2)
    data = observed(populations()[0], 50, 100) + 0.02 * rng.standard_normal((3, len(WAVE)))
    data[1] *= -50
    weight = np.full(data.shape, 0.02**-2)
    cube = Spectrum(
        flux=data.T.reshape(-1, 1, 3) * UNIT,
        spectral_axis=WAVE * u.AA,
        spectral_axis_index=0,
        uncertainty=InverseVariance(weight.T.reshape(-1, 1, 3)),
    )
    maps = fit_line_maps(cube, ["Ha"], redshift=Z, lsf=3000, continuum=templates, threads=1)
    fit = maps.meta["stellar"]
    assert maps.flux["Ha"].mask.tolist() == [[False, True, False]]
    assert np.isnan(fit.model).all(1).tolist() == [False, True, False]
    np.testing.assert_allclose(fit.velocity[[0, 2]], 50, atol=5)
    assert np.isnan(fit_starlight(templates, WAVE, -np.abs(data), weight, redshift=Z, threads=1).model).all()
