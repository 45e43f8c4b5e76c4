# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of IFU surveys: on files of the same layout made here, whose lines are known, and on real ones."""

import re
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from ifu_files import FLUXES, FWHM, NX, NY, REDSHIFT, light, manga_hdus, sami_hdus, sami_map_hdus, sky_cards, write
from specutils import Spectrum

from fiberifu.lines import DAPMask, fit_line_maps
from fiberifu.surveys import read_manga_cube, read_manga_spectra, read_sami_cube, read_sami_map

DOCS = Path(__file__).resolve().parents[1] / "docs" / "ifu_surveys.rst"


@pytest.fixture
def manga(tmp_path):
    return write(tmp_path / "manga-0-1902-LOGCUBE.fits.gz", manga_hdus())


# ---------------------------------------------------------------- MaNGA
@pytest.mark.parametrize("linear", [False, True])
def test_manga_cube(tmp_path, linear):
    hdus = manga_hdus(linear=linear)
    cube = read_manga_cube(write(tmp_path / "cube.fits", hdus))
    assert cube.shape == (len(hdus["WAVE"].data), NY, NX) and cube.spectral_axis_index == 0
    assert cube.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)") and cube.flux.dtype == np.float32
    np.testing.assert_allclose(cube.spectral_axis.to_value(u.AA), hdus["WAVE"].data, rtol=1e-7)
    assert isinstance(cube.uncertainty, InverseVariance) and cube.uncertainty.unit == cube.flux.unit**-2
    bad = np.zeros(cube.shape, bool)
    bad[:, 0, :2] = bad[101:103, 2, 2] = True
    np.testing.assert_array_equal(cube.mask, bad)
    assert cube.wcs.has_celestial and cube.meta["celestial_wcs"].naxis == 2
    assert cube.meta["medium"] == "vacuum" and cube.meta["frame"] == "heliocentric"
    assert cube.meta["ebv"] == 0.05 and cube.meta["extinction_corrected"] is False and cube.meta["redshift"] is None
    assert cube.meta["psf_fwhm"]["r"] == 2.5 * u.arcsec and list(cube.meta["psf_fwhm"]) == ["g", "r", "i", "z"]
    assert cube.meta["header"]["PLATEIFU"] == "0-1902"


def test_manga_east_is_left(manga):
    sky = read_manga_cube(manga).meta["celestial_wcs"].pixel_to_world([0, 5], [2, 2])
    assert sky[0].ra > sky[1].ra
    assert sky[0].separation(sky[1]).arcsec == pytest.approx(2.5, rel=1e-3)


@pytest.mark.parametrize("name", ["LSFPRE", "PREDISP", "LSFPOST", "SPECRES"])
def test_manga_resolution(tmp_path, name):
    cube = read_manga_cube(write(tmp_path / "cube.fits", manga_hdus(name)))
    sigma, wave = cube.meta["lsf"], cube.spectral_axis.to_value(u.AA)
    assert cube.meta["lsf_extension"] == name
    assert sigma.shape == ((len(wave),) if name == "SPECRES" else cube.shape)
    expected = (wave / 1900 / FWHM).reshape(-1, *[1] * (sigma.ndim - 1))
    np.testing.assert_allclose(sigma.to_value(u.AA), np.broadcast_to(expected, sigma.shape), rtol=2e-6)  # holes as well


@pytest.mark.parametrize("name", ["LSFPRE", "SPECRES"])
def test_manga_lines(tmp_path, name):
    cube = read_manga_cube(write(tmp_path / "cube.fits", manga_hdus(name)))
    maps = fit_line_maps(cube, redshift=REDSHIFT, lsf=cube.meta["lsf"], threads=1)
    assert maps.wcs.naxis == 2 and maps.ebv == 0.05 and not maps.extinction_corrected
    for key, flux in FLUXES.items():
        found = maps.flux[key]
        np.testing.assert_allclose(found.data[2], flux, rtol=2e-3)
        np.testing.assert_array_equal(np.argwhere(found.mask), [[0, 0], [0, 1]])
    np.testing.assert_allclose(maps.velocity["Ha"].data[2], 0, atol=0.5)
    instrument = maps.instrumental_dispersion["Ha"].data[2]
    np.testing.assert_allclose(np.sqrt(maps.dispersion["Ha"].data[2] ** 2 - instrument**2), 80, atol=0.5)


def test_manga_wavelengths_of_its_own(tmp_path):
    hdus = manga_hdus()
    hdus["WAVE"].data = hdus["WAVE"].data * 1.001  # 300 km/s from what the WCS says
    cube = read_manga_cube(write(tmp_path / "cube.fits", hdus))
    np.testing.assert_allclose(cube.spectral_axis.to_value(u.AA), hdus["WAVE"].data, rtol=1e-12)
    maps = fit_line_maps(cube, ["Ha"], redshift=REDSHIFT, threads=1)
    assert maps.velocity["Ha"].data[2, 2] == pytest.approx(300, abs=3) and maps.wcs.naxis == 2


def test_manga_redshift(tmp_path, manga):
    table = Table(
        {"plateifu": ["0-1901 ", "0-1902 ", "0-1903 "], "nsa_z": [0.01, 0.02, 0.03], "z": [0.01, 0.021, 0.03]}
    )
    table.write(tmp_path / "drpall.fits")
    assert read_manga_cube(manga, drpall=tmp_path / "drpall.fits").meta["redshift"] == 0.021
    table["z"] = -9999.0
    table.write(tmp_path / "drpall-1.fits")
    assert read_manga_cube(manga, drpall=tmp_path / "drpall-1.fits").meta["redshift"] == 0.02
    table[:1].write(tmp_path / "drpall-2.fits")
    with pytest.raises(ValueError, match="0-1902"):
        read_manga_cube(manga, drpall=tmp_path / "drpall-2.fits")
    with pytest.raises(ValueError, match="not a MaNGA drpall"):
        read_manga_cube(manga, drpall=manga)
    with pytest.raises(FileNotFoundError, match=r"none\.fits"):
        read_manga_cube(manga, drpall=tmp_path / "none.fits")
    path = write(tmp_path / "with.fits", manga_hdus(NSA_Z=0.05))
    assert read_manga_cube(path).meta["redshift"] == 0.05


def test_predictions_are_refused(tmp_path):
    path = write(tmp_path / "cube.fits", manga_hdus(DATATYPE="PREDICTED", ORIGIN="fiberifu"))
    with pytest.raises(ValueError, match=r"cube\.fits.*PREDICTED"):
        read_manga_cube(path)
    assert read_manga_cube(path, allow_predicted=True).meta["provenance"].datatype == "PREDICTED"


def test_manga_files_that_are_not(tmp_path, manga):
    with pytest.raises(FileNotFoundError, match=r"none\.fits"):
        read_manga_cube(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no FITS")
    (tmp_path / "half.fits.gz").write_bytes(manga.read_bytes()[:20000])
    whole = write(tmp_path / "whole.fits", manga_hdus()).read_bytes()
    (tmp_path / "half.fits").write_bytes(whole[: len(whole) // 2])
    for name in ("text.fits", "half.fits.gz", "half.fits"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            read_manga_cube(tmp_path / name)
    hdus = manga_hdus()
    del hdus["IVAR"]
    with pytest.raises(ValueError, match="no extension IVAR"):
        read_manga_cube(write(tmp_path / "no-ivar.fits", hdus))
    hdus = manga_hdus()
    hdus["MASK"].data = hdus["MASK"].data[1:]
    with pytest.raises(ValueError, match="shapes"):
        read_manga_cube(write(tmp_path / "short.fits", hdus))
    with pytest.raises(ValueError, match="use read_manga_cube"):
        read_manga_spectra(manga)
    hdus = manga_hdus()
    hdus["LSFPRE"].data[:] = 0
    with pytest.raises(ValueError, match=r"no-lsf\.fits: extension LSFPRE"):
        read_manga_cube(write(tmp_path / "no-lsf.fits", hdus))
    hdus.append(fits.ImageHDU(hdus["FLUX"].data, name="MODEL"))
    with pytest.raises(ValueError, match="model cube of the DAP"):
        read_manga_cube(write(tmp_path / "dap.fits", hdus))


def test_one_bad_spectrum_does_no_harm(tmp_path):
    """A list with a spectrum of no resolution and no weight: it is masked, the other is fitted."""
    cube = manga_hdus("SPECRES")
    wave, flux = cube["WAVE"].data, cube["FLUX"].data[:, 3, :2].T
    power = np.stack([np.full(len(wave), 1900.0), np.full(len(wave), -1.0)])
    ivar = np.full(flux.shape, 1e4) * [[1], [0]]
    arrays = {"WAVE": wave, "FLUX": flux, "IVAR": ivar, "MASK": np.zeros(flux.shape, int), "SRES": power}
    arrays["Z"] = np.array([REDSHIFT, REDSHIFT])
    hdus = fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(array, name=name) for name, array in arrays.items())])
    spectra = read_manga_spectra(write(tmp_path / "list.fits", hdus))
    maps = fit_line_maps(spectra, redshift=REDSHIFT, lsf=spectra.meta["lsf"], threads=1)
    assert maps.flux["Ha"].mask.tolist() == [False, True]
    assert maps.flux["Ha"].data[0] == pytest.approx(FLUXES["Ha"], rel=2e-3)


def test_manga_spectra(data_dir):
    path = data_dir / "manga" / "MaNGA_test_spectra.fits.gz"
    spectra = read_manga_spectra(path)
    assert spectra.shape == spectra.meta["lsf"].shape == (8, 4563) and spectra.meta["redshift"].shape == (8,)
    with fits.open(path) as hdus:
        power, mask, z = (hdus[name].data for name in ("SRES", "MASK", "Z"))
    np.testing.assert_array_equal(spectra.meta["redshift"], z)
    assert spectra.mask[mask & 1024 != 0].all() and 0.05 < spectra.mask.mean() < 0.3
    sigma, wave = spectra.meta["lsf"].to_value(u.AA), spectra.spectral_axis.to_value(u.AA)
    np.testing.assert_allclose((wave / sigma / FWHM)[power > 500], power[power > 500], rtol=1e-9)
    assert (sigma[~spectra.mask] > 0.5).all() and (sigma[~spectra.mask] < 5).all()
    found = [
        fit_line_maps(spectra, ["Ha", "N2_6548", "N2_6583"], redshift=x, lsf=spectra.meta["lsf"]).velocity["Ha"][i]
        for i, x in enumerate(z)
    ]
    good = [x.data for x in found if not x.mask]
    assert len(good) >= 4 and np.abs(good).max() < 300
    with pytest.raises(ValueError, match="use read_manga_spectra"):
        read_manga_cube(path)


# ---------------------------------------------------------------- SAMI
@pytest.fixture
def sami(tmp_path):
    """Paths of the arms; H-beta in the blue, [O III] in the gap, [O I] in the red."""
    fluxes = {"Hb": 5.0, "O1_6300": 3.0, "O3_5007": 50.0}
    return [write(tmp_path / f"{arm}.fits.gz", sami_hdus(arm, redshift=0.17, **fluxes)) for arm in ("blue", "red")]


def test_sami_default_cube(sami):
    cube = read_sami_cube(*sami)
    assert cube.shape == (4096, NY, NX) and cube.flux.unit == u.Unit("1e-16 erg / (s cm2 AA)")
    wave = cube.spectral_axis.to_value(u.AA)
    np.testing.assert_allclose(wave[[0, 2047, 2048, -1]], [3650, 3650 + 1.05 * 2047, 6240, 6240 + 0.596 * 2047])
    np.testing.assert_allclose(cube.meta["lsf"].to_value(u.AA)[[0, 2047, 2048]] * FWHM, [2.65, 2.65, 1.61])
    assert cube.mask[:, 0, 0].all() and cube.mask.sum() == 4096
    assert cube.meta["bins"] is None and cube.meta["weight"].shape == cube.shape
    assert list(cube.meta["covariance"]) == ["blue", "red"]
    covariance = cube.meta["covariance"]["red"]
    assert covariance["values"].shape == (2, 5, 5, NY, NX)
    np.testing.assert_allclose(covariance["wavelength"].to_value(u.AA), 6240 + 0.596 * np.array([10, 2000]))
    assert cube.meta["ebv"] == 0.03 and cube.meta["ebv_planck"] == 0.04 and cube.meta["medium"] == "air"
    assert cube.meta["psf_fwhm"] == {"blue": 2.1 * u.arcsec, "red": 2.1 * u.arcsec} and cube.meta["redshift"] == 0.17


def test_sami_order_of_arms_is_free(sami):
    np.testing.assert_array_equal(read_sami_cube(*sami).flux, read_sami_cube(*sami[::-1]).flux)


def test_sami_dereddened(sami):
    cube, free = read_sami_cube(*sami), read_sami_cube(*sami, deredden=True)
    assert not cube.meta["extinction_corrected"] and free.meta["extinction_corrected"]
    np.testing.assert_allclose((free.flux / cube.flux)[[0, -1], 2, 2], [1.2, 1.1], rtol=1e-6)
    np.testing.assert_allclose(
        (free.uncertainty.array / cube.uncertainty.array)[[0, -1], 2, 2], [1.44, 1.21], rtol=1e-6
    )


def test_sami_lines_beside_the_gap(sami):
    cube = read_sami_cube(*sami)
    maps = fit_line_maps(cube, redshift=0.17, medium="air", lsf=cube.meta["lsf"], threads=1)
    for key, flux in {"Hb": 50.0, "O1_6300": 30.0}.items():  # in 1e-17 erg/s/cm2
        np.testing.assert_allclose(maps.flux[key].data[2], flux, rtol=5e-3)
    assert (maps.flux["O3_5007"].flags & DAPMask.NOCOV != 0).all()  # it lies in the gap
    assert maps.flux["Hb"].mask.sum() == 1
    np.testing.assert_allclose(maps.velocity["Hb"].data[2], 0, atol=2)
    assert maps.wcs.naxis == 2 and maps.ebv == 0.03


def test_sami_one_arm_keeps_its_wcs(sami):
    cube = read_sami_cube(sami[1])
    assert cube.wcs.has_celestial and cube.shape == (2048, NY, NX)
    assert cube.spectral_axis[0].to_value(u.AA) == pytest.approx(6240)
    assert cube.meta["lsf"][0].to_value(u.AA) == pytest.approx(1.61 / FWHM)
    maps = fit_line_maps(cube, ["O1_6300"], redshift=0.17, medium="air", lsf=cube.meta["lsf"], threads=1)
    np.testing.assert_allclose(maps.flux["O1_6300"].data[2], 30, rtol=5e-3)


def test_sami_arms_that_do_not_match(tmp_path, sami):
    with pytest.raises(ValueError, match="both blue"):
        read_sami_cube(sami[0], sami[0])
    with pytest.raises(ValueError, match="'5678'"):
        read_sami_cube(sami[0], write(tmp_path / "other.fits", sami_hdus("red", name="5678")))
    hdus = sami_hdus("red")
    hdus.append(fits.ImageHDU(np.ones((NY, NX), np.int32), name="BIN_MASK"))
    with pytest.raises(ValueError, match="binned otherwise"):
        read_sami_cube(sami[0], write(tmp_path / "bins.fits", hdus))
    hdus = sami_hdus("red")
    del hdus["DUST"]
    path = write(tmp_path / "clean.fits", hdus)
    assert read_sami_cube(path).meta["dust"] is None
    with pytest.raises(ValueError, match="no extension DUST"):
        read_sami_cube(path, deredden=True)


def test_sami_files_that_are_not(tmp_path, sami, manga):
    (tmp_path / "half.fits.gz").write_bytes(sami[0].read_bytes()[:3000])
    for reader in (read_sami_cube, read_sami_map):
        with pytest.raises(FileNotFoundError, match=r"none\.fits"):
            reader(tmp_path / "none.fits")
        with pytest.raises(ValueError, match=r"half\.fits\.gz"):
            reader(tmp_path / "half.fits.gz")
    with pytest.raises(ValueError, match="no SAMI cube"):
        read_sami_cube(manga)
    with pytest.raises(ValueError, match="a SAMI map is"):
        read_sami_map(sami[0])
    hdus = sami_hdus("blue")
    hdus[0].header["CTYPE3"] = "WAVE"
    with pytest.raises(ValueError, match="AWAV"):
        read_sami_cube(write(tmp_path / "vacuum.fits", hdus))


def sami_paths(data_dir, name):
    return [data_dir / "sami" / f"{name}_A_sectors_{arm}.fits.gz" for arm in ("blue", "red")]


@pytest.fixture(scope="module")
def sector_cube(data_dir):
    return read_sami_cube(*sami_paths(data_dir, "209807"), deredden=True)


@pytest.fixture(scope="module")
def sector_maps(sector_cube):
    cube = sector_cube
    return fit_line_maps(cube, redshift=cube.meta["redshift"], medium="air", lsf=cube.meta["lsf"])


def test_sami_sectors(sector_cube):
    cube, bins = sector_cube, sector_cube.meta["bins"]
    assert cube.shape == (4096, 50, 50) and bins.shape == (50, 50) and cube.meta["weight"] is None
    assert cube.meta["redshift"] == pytest.approx(0.05386, abs=1e-5) and cube.meta["covariance"] == {}
    assert cube.mask[:, bins == -1].all() and not cube.mask[:, bins == 1].all()
    for number in np.unique(bins[bins > 0])[:5]:
        spectra = cube.flux.value[:, bins == number]
        np.testing.assert_array_equal(spectra, np.broadcast_to(spectra[:, :1], spectra.shape))
    sky = cube.meta["celestial_wcs"].pixel_to_world([0, 49], [25, 25])
    assert sky[0].ra > sky[1].ra and sky[0].separation(sky[1]).arcsec == pytest.approx(24.5, rel=1e-3)
    north = cube.meta["celestial_wcs"].pixel_to_world([25, 25], [0, 49])
    assert north[1].dec > north[0].dec


def test_sami_dust_is_the_law_of_cardelli(sector_cube):
    """Extinction law of Cardelli, Clayton & Mathis 1989 (ApJ 345, 245), their eq. 3, with Planck's E(B-V)."""
    y = 1e4 / sector_cube.spectral_axis.to_value(u.AA) - 1.82
    a = np.polyval([0.32999, -0.77530, 0.01979, 0.72085, -0.02427, -0.50447, 0.17699, 1], y)
    b = np.polyval([-2.09002, 5.30260, -0.62251, -5.38434, 1.07233, 2.28305, 1.41338, 0], y)
    expected = 10 ** (0.4 * sector_cube.meta["ebv_planck"] * (3.1 * a + b))
    np.testing.assert_allclose(sector_cube.meta["dust"], expected, rtol=2e-3)


def one_each(bins):
    """A spaxel of each bin, as a mask."""
    first = np.unique(bins, return_index=True)[1]
    return np.isin(np.arange(bins.size), first).reshape(bins.shape) & (bins > 0)


PUBLISHED = {"Ha": "Halpha", "Hb": "Hbeta", "O3_5007": "OIII5007", "N2_6583": "NII6583", "S2_6716": "SII6716"}


@pytest.mark.parametrize(("galaxy", "redshift"), [("41144", 0.02964), ("209807", 0.05386)])
def test_lines_over_starlight_are_those_published(data_dir, galaxy, redshift):
    """One spectrum per bin, starlight of MaStar populations: fluxes, errors, kinematics as in the data release."""
    folder = data_dir / "sami"
    whole = read_sami_cube(*(folder / f"{galaxy}_A_sectors_{arm}.fits.gz" for arm in ("blue", "red")))
    inside = one_each(whole.meta["bins"])
    cube = Spectrum(whole.flux[:, inside].T, spectral_axis=whole.spectral_axis, spectral_axis_index=1,
                    uncertainty=type(whole.uncertainty)(whole.uncertainty.array[:, inside].T),
                    mask=whole.mask[:, inside].T)  # fmt: skip
    lines = [*PUBLISHED, "O3_4959", "N2_6548", "S2_6731"]
    maps = fit_line_maps(cube, lines, redshift=redshift, lsf=whole.meta["lsf"], continuum="ssp", medium="air")
    for key, name in PUBLISHED.items():
        published = read_sami_map(folder / f"{galaxy}_A_{name}_sectors_1-comp.fits")
        flux, error = (x[inside] * 10 for x in (published.data, published.uncertainty.array))  # to 1e-17
        found = maps.flux[key]
        used = ~published.mask[inside] & ~found.mask & (flux > 10 * error)
        assert used.sum() > 20, key
        ratio = found.data[used] / flux[used]
        assert np.median(ratio) == pytest.approx(1, abs=0.04), key
        assert np.std(ratio) < (0.03 if key == "Ha" else 0.05), key
        errors = np.median(found.uncertainty.array[used] / error[used])
        assert errors == pytest.approx(1, abs=0.08 if key == "N2_6583" else 0.05), key
    gas = read_sami_map(folder / f"{galaxy}_A_gas-velocity_sectors_1-comp.fits")
    step = maps.velocity["Ha"].data - gas.data[inside] / (1 + redshift)
    used = ~gas.mask[inside] & ~maps.velocity["Ha"].mask
    assert np.std(step[used]) < 5 and abs(np.median(step[used])) < 20  # their zero is another, see the stars
    stars = read_sami_map(folder / f"{galaxy}_A_stellar-velocity_sectors_two-moment.fits")
    step = maps.meta["stellar"].velocity - stars.data[inside] / (1 + redshift)
    assert abs(np.median(step[~stars.mask[inside]])) < 5
    width = read_sami_map(folder / f"{galaxy}_A_gas-vdisp_sectors_1-comp.fits")
    assert abs(np.median((maps.intrinsic_dispersion["Ha"].data - width.data[inside])[used])) < 6


def test_sami_velocities_are_those_published(data_dir, sector_cube, sector_maps):
    published = read_sami_map(data_dir / "sami" / "209807_A_gas-velocity_sectors_1-comp.fits")
    assert published.unit == u.km / u.s and published.meta["component"] == 1
    found = sector_maps.velocity["Ha"]
    used = one_each(sector_cube.meta["bins"]) & ~published.mask & ~found.mask
    step = (found.data - published.data)[used]
    assert used.sum() > 20 and np.ptp(published.data[used]) > 100
    assert np.std(step) < 8 and abs(np.median(step)) < 30  # their zero is another


def test_sami_map_components(data_dir):
    path = data_dir / "sami" / "41144_A_Halpha_default_1-comp.fits"
    total, first = read_sami_map(path), read_sami_map(path, component=1)
    assert (total.meta["component"], first.meta["component"], total.meta["n_components"]) == ("total", 1, 1)
    assert total.shape == (50, 50) and total.wcs.naxis == 2 and 0 < total.mask.mean() < 1
    np.testing.assert_allclose(total.data, first.data)
    assert (total.uncertainty.array[~total.mask] > 0).all() and np.median(
        (total.data / total.uncertainty.array)[~total.mask]
    ) > 5
    with pytest.raises(ValueError, match="component is 2"):
        read_sami_map(path, component=2)


def test_sami_stellar_velocity(data_dir):
    found = read_sami_map(data_dir / "sami" / "41144_A_stellar-velocity_default_two-moment.fits")
    assert found.unit == u.km / u.s and not found.meta["extinction_corrected"] and found.uncertainty is not None
    assert np.abs(np.median(found.data[~found.mask])) < 50


def test_sami_map_total_of_several(tmp_path):
    """A fit of three components: fluxes have the total and three, velocities three."""
    write(tmp_path / "flux.fits", sami_map_hdus())
    write(tmp_path / "v.fits", sami_map_hdus(3, "km/s", "V_ERR"))
    assert [read_sami_map(tmp_path / "flux.fits", component=i).data[0, 0] for i in (None, 1, 3)] == [1, 2, 4]
    assert [read_sami_map(tmp_path / "v.fits", component=i).data[0, 0] for i in (None, 1, 3)] == [1, 1, 3]
    assert read_sami_map(tmp_path / "v.fits").meta["n_components"] == 3


# ---------------------------------------------------------------- MUSE
def test_muse_as_in_the_docs(tmp_path, monkeypatch):
    """The page's own lines, on a file with lines at known places in air."""
    if not DOCS.is_file():
        pytest.skip(f"{DOCS} is not there: this is no checkout")
    wave = 4750 + 1.25 * np.arange(2000)
    sigma = (5.866e-8 * wave**2 - 9.187e-4 * wave + 6.040) / FWHM
    flux = light(wave, sigma, FLUXES, medium="air") * 1e3  # 1e-20
    variance = np.full(flux.shape, 1.0, np.float32)
    flux[:, 0, 0] = variance[:, 0, 0] = np.nan
    header = sky_cards("AWAV", 4750.0, 1.25)
    header["BUNIT"] = "10**(-20)*erg/s/cm**2/Angstrom"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(flux, header, name="DATA"), fits.ImageHDU(variance, header, name="STAT")]
    write(tmp_path / "DATACUBE_FINAL.fits", fits.HDUList(hdus))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|   .*\n|\n)+)", DOCS.read_text())
    (code,) = [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in blocks if "DATACUBE_FINAL" in block]
    space = {"redshift": REDSHIFT}
    exec(compile(code, str(DOCS), "exec"), space)
    maps = space["maps"]
    for key, value in FLUXES.items():
        np.testing.assert_allclose(maps.flux[key].data[2], value, rtol=5e-3)
    np.testing.assert_allclose(maps.velocity["Ha"].data[2], 0, atol=1)
    assert maps.wcs.naxis == 2 and maps.flux["Ha"].mask.sum() == 1


def test_a_spectrum_without_anything_is_flagged(data_dir):
    """Taken one by one, as the documentation has it: the empty one of the list has no resolution either."""
    spectra = read_manga_spectra(data_dir / "manga" / "MaNGA_test_spectra.fits.gz")
    assert spectra.meta["lsf"].max() < 5 * u.AA
    ivar = InverseVariance(spectra.uncertainty.array[5], unit=spectra.uncertainty.unit)
    one = Spectrum(spectra.flux[5], spectral_axis=spectra.spectral_axis, mask=spectra.mask[5], uncertainty=ivar)
    maps = fit_line_maps(one, redshift=spectra.meta["redshift"][5], lsf=spectra.meta["lsf"][5])
    assert maps.shape == () and maps.flux["Ha"].mask.all()
