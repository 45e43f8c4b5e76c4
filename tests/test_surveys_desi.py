# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of fibre spectra: real files of DESI, files of known content, a simulated release, and damaged files."""

import gzip

import astropy.units as u
import numpy as np
import pytest
import simulated_surveys
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from damage import to_bytes
from fiber_files import (
    ARMS,
    FLUX_UNIT,
    IDS,
    IVAR_UNIT,
    check_spectra,
    desi_hdus,
    redrock_hdus,
    sdss_hdus,
)

from fiberifu import VirtualIFU
from fiberifu.datasets import example_image
from fiberifu.simulate import analytic_template_pack
from fiberifu.simulate_job import simulate_to_folder
from fiberifu.surveys import (
    FiberFlag,
    fiber_context,
    fiber_spectrum,
    find_desi,
    is_good_galaxy,
    list_desi,
    read_desi,
    read_desi_targets,
    read_sdss_fiber,
    select_galaxies,
    take_fibers,
)

NAME = "coadd-main-bright-27247.fits"


@pytest.fixture
def coadd(tmp_path):
    """A coadd of four fibres with its redshifts beside it."""
    desi_hdus().writeto(tmp_path / NAME)
    redrock_hdus().writeto(tmp_path / NAME.replace("coadd", "redrock"))
    return tmp_path / NAME


def status(spectra):
    return [set(text.split(",")) for text in spectra.meta["fibers"]["status"]]


# ---------------------------------------------------------------- real files of DESI
def test_real_galaxy(data_dir):
    spectra = read_desi(data_dir / "desi" / "coadd-4-80613-thru20210324.fits")
    check_spectra(spectra)
    (fiber,) = spectra.meta["fibers"]
    assert spectra.shape == (1, 7781) and fiber["status"] == "good" and fiber["targetid"] == 39633345008634465
    # z of the redrock file beside it
    assert fiber["z"] == pytest.approx(0.36874, abs=1e-5) and fiber["healpix"] == -1
    assert fiber["position"].separation(fiber["target"]) < 0.1 * u.arcsec
    # [O III] 5007 stands out where it must be
    wave, flux = spectra.spectral_axis.to_value(u.AA), spectra.flux.value[0]
    line = abs(wave - 5008.24 * (1 + fiber["z"])) < 4
    around = abs(wave - 5008.24 * (1 + fiber["z"])) < 60
    assert wave[around][np.argmax(flux[around])] == pytest.approx(wave[line].mean(), abs=2)
    # DESI's resolution is 1.2 to 2 Angstrom FWHM: Abareshi et al. 2022, section 7
    fwhm = 2.355 * spectra.meta["lsf"].to_value(u.AA)[0]
    assert (fwhm[300:-300] > 0.9).all() and (fwhm[300:-300] < 2.2).all()
    one = fiber_spectrum(spectra)
    assert one.shape == (7781,) and one.redshift.value == pytest.approx(fiber["z"])


def test_real_low_redshift(data_dir):
    """Redrock, program and HEALPix pixel of a healpix coadd; no photometry, so that the factor is nominal."""
    spectra = read_desi(data_dir / "desi" / "coadd-special-dark-27247.fits")
    (fiber,) = spectra.meta["fibers"]
    assert (fiber["survey"], fiber["program"], fiber["healpix"]) == ("special", "dark", 27247)
    assert fiber["status"] == "NO_PHOTOMETRY" and 0.78 < fiber["psf_to_fiber_specflux"] < 0.8
    assert np.isnan(fiber["flux_r"]) and fiber["z"] == pytest.approx(0.00727, abs=1e-5)
    assert is_good_galaxy(spectra.meta["fibers"]).tolist() == [True]


@pytest.mark.parametrize("name", ["coadd-5-169-thru20210419", "spectra-5-169-thru20210419", "coadd-sv3-dark-26065"])
def test_real_fibers_without_a_galaxy(data_dir, name):
    """Two of five rows are targets; failed, sky and blank fibres are recognised, and nothing is multiplied by 0."""
    path = data_dir / "desi" / f"{name}.fits"
    spectra = read_desi(path)
    check_spectra(spectra)
    fibers = spectra.meta["fibers"]
    empty = spectra.mask.all(1)
    assert [("NO_SIGNAL" in s) for s in status(spectra)] == empty.tolist()
    targets = (fibers["targetid"] > 0) & (fibers["objtype"] == "TGT")
    assert targets.sum() == 2 and (targets[~empty]).all()
    factor = fibers["psf_to_fiber_specflux"]
    assert (np.isnan(factor) | (factor > 0.5)).all() and np.isnan(factor).any()
    assert (np.isnan(factor) == [("APERTURE_UNDEFINED" in s) for s in status(spectra)]).all()
    assert not select_galaxies(spectra).shape[0], "no redshifts beside it"
    assert np.isnan(fibers["flux_r"][~targets]).all(), "0 stands for not measured"
    if "sv3" in name:  # one exposure of this target failed
        assert "EXPOSURES_EXCLUDED" in status(spectra)[4]
        assert (fibers["position"][4].separation(fibers["target"][4])) < 1 * u.arcsec
        assert "SKY" in status(spectra)[3]
    some = read_desi(path, targetids=fibers["targetid"][[4, 1]], resolution=False)
    assert some.meta["lsf"] is None and (some.flux == spectra.flux[[4, 1]]).all()


def test_real_redrock_alone(data_dir):
    with pytest.raises(ValueError, match="redrock-special.*no arm"):
        read_desi(data_dir / "desi" / "redrock-special-dark-27247.fits")


# ---------------------------------------------------------------- files of known content
def test_arms_are_joined_by_weight(coadd):
    with fits.open(coadd) as hdus:
        for arm, value in (("B", 10.0), ("R", 14.0), ("Z", 20.0)):
            hdus[f"{arm}_FLUX"].data[:] = value
        hdus["B_MASK"].data[1, 52] = 4
        hdus["R_IVAR"].data[1, 4] = 0
        hdus["R_FLUX"].data[1, 5] = np.nan
        hdus["R_MASK"].data[1, 20] = 1
        hdus.writeto(coadd, overwrite=True)
    spectra = read_desi(coadd)
    flux, ivar = spectra.flux.value[1], spectra.uncertainty.array[1]
    # B 0-60, R 50-110, Z 100-160 with ivar 1, 3, 2
    np.testing.assert_allclose(flux[[0, 51, 80, 105, 120]], [10, (10 + 3 * 14) / 4, 14, (3 * 14 + 2 * 20) / 5, 20])
    np.testing.assert_allclose(ivar[[0, 51, 80, 105, 120]], [1, 4, 3, 5, 2])
    # where one of two is bad the other is left; where the only one is, nothing
    np.testing.assert_allclose(flux[[52, 54, 55, 70]], [14, 10, 10, 0])
    np.testing.assert_allclose(ivar[[52, 54, 55, 70]], [3, 1, 1, 0])
    assert np.flatnonzero(spectra.mask[1, :160]).tolist() == [70] and spectra.mask[1, 160:].all()
    assert spectra.spectral_axis[[0, -1]].to_value(u.AA) == pytest.approx([3600, 9824])
    assert spectra.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")


def test_table_of_fibers(coadd):
    spectra = read_desi(coadd)
    fibers = spectra.meta["fibers"]
    assert fibers["targetid"].tolist() == IDS.tolist() and fibers["z"].tolist() == [0.03, 0.05, 1.5, 0.2]
    assert status(spectra)[0] == {"good"} and status(spectra)[1] == {"EXPOSURES_EXCLUDED"}
    assert {"SKY", "APERTURE_UNDEFINED", "NO_PHOTOMETRY", "REDSHIFT_WARNING"} <= status(spectra)[2]
    assert {"FIBER_FAILED", "NO_SIGNAL", "APERTURE_UNDEFINED"} <= status(spectra)[3]
    # a factor of 0 is none
    np.testing.assert_allclose(fibers["psf_to_fiber_specflux"], [0.7, 0.75, np.nan, np.nan], rtol=1e-6)
    # the failed exposure, 10 arcsec off, moves nothing
    assert fibers["position"][1].separation(fibers["target"][1]) < 0.1 * u.arcsec
    assert fibers["position_scatter"][1] < 0.01 * u.arcsec
    assert fibers["flux_r"].unit == u.nmgy and np.isnan(fibers["flux_r"][2])
    # deltachi2 of the second is below 40
    assert is_good_galaxy(fibers).tolist() == [True, False, False, False]
    assert is_good_galaxy(fibers, deltachi2=9).tolist() == [True, True, False, False]
    best = select_galaxies(spectra)
    assert best.shape == (1, 7781) and len(best.meta["lsf"]) == len(best.meta["fibermap"]) == 1
    assert take_fibers(spectra, [3, 0]).meta["fibers"]["targetid"].tolist() == IDS[[3, 0]].tolist()
    assert (read_desi(coadd, redrock=False).meta["fibers"]["zwarn"] == -1).all()


def test_lsf(tmp_path):
    """The sigma that the resolution matrix was made of, without the pixels' own integration."""
    desi_hdus(sigma=0.72).writeto(tmp_path / NAME)
    lsf = read_desi(tmp_path / NAME).meta["lsf"]
    assert lsf.unit == u.AA and np.isnan(lsf[:, 160:]).all()
    np.testing.assert_allclose(lsf[:3, :160].value, 0.72, rtol=0.01)


def test_exposures_gzip_and_units(tmp_path):
    """A target's exposures are no duplicates; a gzipped file, and one in other units, are the same."""
    hdus = desi_hdus(exposures=True)
    hdus["FIBERMAP"].data["TARGETID"][1] = IDS[0]
    hdus.writeto(tmp_path / "spectra-a.fits")
    spectra = read_desi(tmp_path / "spectra-a.fits")
    assert not any("DUPLICATE" in s for s in status(spectra))
    assert read_desi(tmp_path / "spectra-a.fits", targetids=[IDS[0]]).shape == (2, 7781)
    for arm in ARMS:
        hdus[f"{arm}_FLUX"].data *= 0.1
        hdus[f"{arm}_IVAR"].data *= 100
        hdus[f"{arm}_FLUX"].header["BUNIT"] = FLUX_UNIT.replace("-17", "-16")
        hdus[f"{arm}_IVAR"].header["BUNIT"] = IVAR_UNIT.replace("34", "32")
        hdus[f"{arm}_WAVELENGTH"].data /= 10
        hdus[f"{arm}_WAVELENGTH"].header["BUNIT"] = "nm"
    (tmp_path / "b.fits.gz").write_bytes(gzip.compress(to_bytes(hdus)))
    other = read_desi(tmp_path / "b.fits.gz")
    np.testing.assert_allclose(other.flux.value, spectra.flux.value, rtol=1e-6)
    np.testing.assert_allclose(other.uncertainty.array, spectra.uncertainty.array, rtol=1e-6)


def test_duplicates_and_missing_arm(coadd):
    with fits.open(coadd) as hdus:
        hdus["FIBERMAP"].data["TARGETID"][1] = IDS[0]
        hdus["Z_IVAR"].data[0] = 0
        hdus.writeto(coadd, overwrite=True)
    found = status(read_desi(coadd))
    assert {"DUPLICATE", "ARM_MISSING"} <= found[0] and "DUPLICATE" in found[1] and "DUPLICATE" not in found[2]
    assert read_desi(coadd, targetids=[IDS[0]]).shape == (2, 7781)


# ---------------------------------------------------------------- SDSS
@pytest.mark.parametrize(
    ("keywords", "survey", "diameter", "guessed"),
    [
        ({}, "SDSS", 3, False),
        ({"plate": 7000, "instrument": "BOSS"}, "BOSS", 2, False),
        ({"plate": 7000, "instrument": None}, "BOSS", 2, True),
    ],
)
def test_sdss(tmp_path, keywords, survey, diameter, guessed):
    path = tmp_path / "spec-0585-52027-0012.fits"
    hdus = sdss_hdus(**keywords)
    hdus.writeto(path)
    spectrum = read_sdss_fiber(path)
    check_spectra(spectrum)
    (fiber,) = spectrum.meta["fibers"]
    assert (spectrum.meta["survey"], spectrum.meta["fiber_diameter"]) == (survey, diameter * u.arcsec)
    assert bool(fiber["flags"] & FiberFlag.DIAMETER_GUESSED) == guessed
    assert spectrum.redshift.value == pytest.approx(0.05) and fiber["deltachi2"] == pytest.approx(0.4 * 280)
    assert fiber["position"].ra.deg == 150 and fiber["flux_r"] == 3 * u.nmgy
    # no weight, bright sky; but not scattered light
    assert np.flatnonzero(spectrum.mask).tolist() == [3, 7]
    np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.AA), 10 ** hdus["COADD"].data["loglam"], rtol=1e-6)
    pixel = np.gradient(spectrum.spectral_axis.to_value(u.AA))
    np.testing.assert_allclose(spectrum.meta["lsf"].value, np.sqrt(1.1**2 - 1 / 12) * pixel, rtol=1e-3)
    assert is_good_galaxy(spectrum.meta["fibers"]).all() and len(fiber_context(spectrum)) == 1


# ---------------------------------------------------------------- use as context
def test_context(coadd):
    """A fibre on the galaxy of the image changes what is predicted elsewhere; a sky fibre does not serve."""
    spectra = read_desi(coadd)
    for row, why in ((2, "SKY"), (3, "FIBER_FAILED")):
        with pytest.raises(ValueError, match=f"row {row} is of no use as context: .*{why}"):
            fiber_context(spectra, [row])
    assert len(fiber_context(spectra)) == 2
    ((spectrum, position),) = context = fiber_context(spectra, [0])
    assert spectrum.redshift.value == pytest.approx(0.03) and position.ra.deg == pytest.approx(150.00002)
    image = example_image()
    for band in image.values():
        del band.meta["REDSHIFT"]
    ifu, where = VirtualIFU.from_pretrained(), position.directional_offset_by(0 * u.deg, 3 * u.arcsec)
    with pytest.warns(AstropyUserWarning, match="unlike what the image predicts"):  # it is of no galaxy at all
        helped = ifu.predict(image, where, context=context)
    assert helped.redshift == pytest.approx(0.03) and helped.provenance.redshift_source == "context"
    plain = ifu.predict(image, where, redshift=0.03).spectrum().flux
    assert np.isfinite(helped.spectrum().flux).all() and not np.allclose(helped.spectrum().flux, plain, rtol=1e-6)


# ---------------------------------------------------------------- a simulated release
@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    np.savez(folder / "pack.npz", **analytic_template_pack())
    keywords = {"templates": folder / "pack.npz", "instruments": {"desi": simulated_surveys.observe_desi}}
    simulate_to_folder("desi", folder / "dr", n=2, seed=3, **keywords)
    return folder / "dr"


def test_release(release):
    found = list_desi(release)
    assert (found["survey"] == "sim").all() and (found["program"] == "bright").all()
    everything = [read_desi(path) for path in found["path"]]
    ids = np.concatenate([part.meta["fibers"]["targetid"] for part in everything])
    wanted = ids[[-1, 0]]
    table = find_desi(release, wanted)
    assert table["targetid"].tolist() == wanted.tolist() and table["primary"].all()
    spectra = read_desi_targets(release, wanted)
    check_spectra(spectra)
    fibers = spectra.meta["fibers"]
    assert fibers["targetid"].tolist() == wanted.tolist() and fibers["path"].tolist() == table["path"].tolist()
    assert spectra.meta["provenance"].datatype == "SIMULATED" and not spectra.meta["errors"]
    assert (spectra.flux[0] == everything[-1].flux[-1]).all()
    # what the simulator put in
    zcat = Table.read(next(release.rglob("zall-pix-sim.fits")), hdu=1)
    truth = zcat[[list(zcat["TARGETID"]).index(t) for t in wanted]]
    np.testing.assert_allclose(fibers["z"], truth["Z"])
    np.testing.assert_allclose(fibers["position"].ra.deg, truth["MEAN_FIBER_RA"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(fibers["psf_to_fiber_specflux"], 0.7, rtol=1e-6)
    assert (find_desi(release, wanted, catalog=zcat)["path"] == table["path"]).all()


def test_release_with_a_damaged_file(release, tmp_path):
    table = find_desi(
        release, [int(t) for t in Table.read(next(release.rglob("zall-pix-sim.fits")), hdu=1)["TARGETID"]]
    )
    bad = tmp_path / table["path"][0].rsplit("/", 1)[1]
    bad.write_bytes(b"")
    moved = table.copy()
    moved["path"] = np.where(table["path"] == table["path"][0], str(bad), table["path"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fiberifu.surveys.desi_tree.find_desi", lambda *args, **keywords: moved)
        with pytest.warns(AstropyUserWarning, match="1 files cannot be read"):
            spectra = read_desi_targets(release, table["targetid"])
    assert list(spectra.meta["errors"]) == [str(bad)]
    assert spectra.meta["fibers"]["targetid"].tolist() == moved["targetid"][moved["path"] != str(bad)].tolist()


def test_release_errors(release, tmp_path):
    with pytest.raises(ValueError, match="targetids: 5 not in"):
        find_desi(release, [5])
    with pytest.raises(ValueError, match="give one or more integers"):
        find_desi(release, [])
    with pytest.raises(ValueError, match="no folder healpix"):
        list_desi(tmp_path)
    with pytest.raises(ValueError, match="no healpix/main"):
        list_desi(release, survey="main")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        list_desi(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="catalog: "):
        find_desi(release, [5], catalog=tmp_path / "none.fits")
    (tmp_path / "bad.fits").write_bytes(b"no catalogue")
    with pytest.raises(ValueError, match="bad.fits"):
        find_desi(release, [5], catalog=tmp_path / "bad.fits")


def test_remote(coadd):
    """A URL of fsspec: a file with its redshifts, the rows that are wanted, and a tree; without a network."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    folder = "/desi/spectro/redux/iron/healpix/main/bright/272/27247"
    for path in coadd.parent.glob("*.fits"):
        memory.pipe(f"{folder}/{path.name}", path.read_bytes())
    try:
        (row,) = list_desi("memory://desi")
        assert row["healpix"] == 27247 and row["path"].startswith("memory://")
        catalog = Table(
            {"TARGETID": IDS[:2], "SURVEY": ["main"] * 2, "PROGRAM": ["bright"] * 2, "HEALPIX": [27247] * 2}
        )
        for spectra in (
            read_desi(row["path"], targetids=IDS[[1, 0]]),
            read_desi_targets("memory://desi", IDS[[1, 0]], catalog=catalog),
        ):
            assert spectra.meta["fibers"]["z"].tolist() == [0.05, 0.03]
            assert (spectra.flux == read_desi(coadd).flux[[1, 0]]).all()
        with pytest.raises(FileNotFoundError, match="none.fits"):
            read_desi(f"memory:/{folder}/none.fits")
    finally:
        memory.rm("/desi", recursive=True)


# ---------------------------------------------------------------- bad files
def drop(name):
    def change(hdus):
        del hdus[name]

    return change


def put(name, key, value):
    def change(hdus):
        hdus[name].header[key] = value

    return change


def fill(name, value):
    def change(hdus):
        hdus[name].data[...] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("FIBERMAP"), "no extension FIBERMAP"),
        (drop("R_IVAR"), "no extension R_IVAR"),
        (put("B_FLUX", "BUNIT", "Jy"), "B_FLUX has BUNIT 'Jy'"),
        (put("B_IVAR", "BUNIT", "10**+32 (s2 cm4 Angstrom2) / erg2"), "units of B_FLUX and B_IVAR"),
        (fill("Z_WAVELENGTH", np.nan), "Z_WAVELENGTH is not in steps of 0.8"),
        (put("PRIMARY", "DATATYPE", "PREDICTED"), "made by fiberifu"),
    ],
)
def test_bad_content(tmp_path, change, message):
    hdus = desi_hdus()
    change(hdus)
    hdus.writeto(tmp_path / NAME)
    with pytest.raises(ValueError, match=message) as error:
        read_desi(tmp_path / NAME)
    assert NAME in str(error.value)


def test_bad_pixels(tmp_path):
    """Not a number, no weight: masked and flagged, and the other rows go on."""
    for value, part in ((np.nan, "FLUX"), (0, "IVAR"), (-1, "IVAR"), (np.inf, "IVAR")):
        hdus = desi_hdus()
        for arm in ARMS:
            hdus[f"{arm}_{part}"].data[0] = value
        hdus.writeto(tmp_path / NAME, overwrite=True)
        spectra = read_desi(tmp_path / NAME)
        check_spectra(spectra)
        assert "NO_SIGNAL" in status(spectra)[0] and "NO_SIGNAL" not in status(spectra)[1]


def test_bad_files_and_arguments(coadd, tmp_path):
    for reader in (read_desi, read_sdss_fiber):
        with pytest.raises(FileNotFoundError, match="none.fits: no such file"):
            reader(tmp_path / "none.fits")
        for data in (b"", b"<html>404</html>", coadd.read_bytes()[:9000], gzip.compress(coadd.read_bytes())[:-900]):
            (tmp_path / "bad.fits").write_bytes(data)
            with pytest.raises(ValueError, match=r"bad.fits: .*(not a FITS file|truncated or damaged)"):
                reader(tmp_path / "bad.fits")
    with pytest.raises(ValueError, match="no table with flux"):
        read_sdss_fiber(coadd)
    with pytest.raises(ValueError, match="no TARGETID 7 in it"):
        read_desi(coadd, targetids=[7])
    with pytest.raises(ValueError, match="give one or more integers"):
        read_desi(coadd, targetids=["a"])
    with pytest.raises(ValueError, match="no extension REDSHIFTS"):
        read_desi(coadd, redrock=coadd)
    with pytest.raises(ValueError, match="row is 9; there are 4"):
        fiber_spectrum(read_desi(coadd), 9)
