# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of image surveys, on files of the same layout made here and on real ones."""

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.wcs import WCS

from fiberifu.flags import Flag
from fiberifu.surveys import read_des, read_legacysurvey
from fiberifu.surveys.legacysurvey.cutout import is_north


def header(dec=-30.0, **cards):
    out = fits.Header()
    out.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 200.0, "CRVAL2": dec})
    out.update({"CRPIX1": 8.5, "CRPIX2": 6.5, "CD1_1": -0.262 / 3600, "CD1_2": 0.0, "CD2_1": 0.0})
    out.update({"CD2_2": 0.262 / 3600, **cards})
    return out


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(1, 0.1, (3, 12, 16)).astype(np.float32)


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return path


def viewer_hdus(cube, dec=-30.0):
    maskbits = np.zeros(cube.shape[1:], np.int16)
    maskbits[3, 4] = 1 << 3  # saturated in r
    maskbits[5, 6] = 1 << 7  # masked in all exposures of z
    ivar = np.full_like(cube, 25)
    ivar[0, 1, 1] = 0
    return (
        fits.PrimaryHDU(cube, header(dec, BANDS="grz", SURVEY="LegacySurvey", VERSION="DR9", IMAGETYP="IMAGE")),
        fits.ImageHDU(ivar, header(dec, BANDS="grz", IMAGETYP="INVVAR")),
        fits.ImageHDU(maskbits, header(dec, BANDS="grz", IMAGETYP="MASKBITS")),
    )


def test_viewer_cutout_with_everything(tmp_path, cube):
    images = read_legacysurvey(write(tmp_path / "cutout.fits", *viewer_hdus(cube)))
    assert list(images) == ["g", "r", "z"]
    for i, (band, image) in enumerate(images.items()):
        np.testing.assert_array_equal(image.data, cube[i])
        assert image.unit == u.nmgy and image.data.dtype.isnative and image.wcs.has_celestial
        assert isinstance(image.uncertainty, InverseVariance) and image.uncertainty.unit == u.nmgy**-2
        assert image.meta["FILTER"] == f"DECam {band}" and image.meta["SURVEY"] == "DECaLS"
    assert np.argwhere(images["g"].mask).tolist() == [[1, 1]]
    assert np.argwhere(images["z"].mask).tolist() == [[5, 6]]
    assert np.argwhere(images["r"].flags).tolist() == [[3, 4]] and images["r"].flags.max() == Flag.SATURATED
    from fiberifu.image import prepare_image

    prepared = prepare_image(images)
    assert prepared.saturated.sum() == 1 and prepared.bad.sum() == 2


def test_cutout_without_inverse_variance(tmp_path, cube):
    images = read_legacysurvey(write(tmp_path / "cutout.fits", viewer_hdus(cube)[0]))
    assert all(image.uncertainty is None for image in images.values())


def test_single_band_cutout(tmp_path, cube):
    images = read_legacysurvey(write(tmp_path / "c.fits", fits.PrimaryHDU(cube[0], header(BANDS="r"))))
    assert list(images) == ["r"]


@pytest.mark.parametrize(
    "release, dec, north", [("9011", -30, True), ("9010", 60, False), ("", 60, True), ("", -30, False)]
)
def test_a_card_that_names_all_surveys_names_none(release, dec, north):
    """legacypipe writes one SURVEY into all files: the release's number tells, or the border of the surveys."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [180, dec], [-1e-4, 1e-4]
    header = {"SURVEY": "DECaLS+BASS+MzLS", "DRVERSIO": release}
    assert is_north(header, header, wcs, (10, 10)) is north


def test_north_is_bass_and_mzls(tmp_path, cube):
    images = read_legacysurvey(write(tmp_path / "cutout.fits", *viewer_hdus(cube, dec=50.0)))
    assert [image.meta["FILTER"] for image in images.values()] == ["BASS g", "BASS r", "MzLS z"]


def test_extinction_in_the_header_dereddens(tmp_path, cube):
    """Cutouts of the simulator tell E(B-V); the network has to see them without it."""
    from fiberifu.image import prepare_image

    hdus = viewer_hdus(cube)
    hdus[0].header["EBVGAL"] = 0.1
    images = read_legacysurvey(write(tmp_path / "cutout.fits", *hdus))
    assert images["r"].meta["EBV"] == 0.1
    assert not any("no E(B-V)" in note for note in prepare_image(images).notes)


def test_psf_from_file_or_mapping(tmp_path, cube):
    path = write(tmp_path / "cutout.fits", viewer_hdus(cube)[0])
    planes = [np.full((5, 5), i + 1, np.float32) for i in range(3)]
    hdus = [fits.PrimaryHDU(planes[0])] + [fits.ImageHDU(p) for p in planes[1:]]
    for hdu, band in zip(hdus, "grz", strict=True):
        hdu.header["BAND"] = band
    hdus[0].header["BANDS"] = "grz"
    images = read_legacysurvey(path, psf=write(tmp_path / "psf.fits", *hdus))
    assert [image.psf[0, 0] for image in images.values()] == [1, 2, 3]
    images = read_legacysurvey(path, psf={"r": planes[0]})
    assert images["g"].psf is None and images["r"].psf is not None
    with pytest.raises(ValueError, match="no PSF image"):
        read_legacysurvey(path, psf=write(tmp_path / "no.fits", fits.PrimaryHDU(planes[0])))


def test_des(tmp_path, cube):
    paths = {}
    for band, plane in zip("gr", cube, strict=False):
        paths[band] = write(
            tmp_path / f"{band}.fits",
            fits.PrimaryHDU(plane, header(BAND=band, MAGZERO=30.0, EXTNAME="SCI", SATURATE=1e4)),
            fits.ImageHDU(np.full_like(plane, 4.0), header(BAND=band, EXTNAME="WGT")),
        )
    images = read_des(paths)
    np.testing.assert_allclose(images["g"].data, cube[0] * 1e-3, rtol=1e-6)
    np.testing.assert_allclose(images["g"].uncertainty.array, 4e6, rtol=1e-6)
    assert images["r"].meta["SATURATE"] == pytest.approx(10) and images["r"].meta["SURVEY"] == "DES"
    assert list(read_des(paths.values())) == ["g", "r"] and list(read_des(paths["g"])) == ["g"]
    with pytest.raises(ValueError, match="given as band 'z' but its header says 'g'"):
        read_des({"z": paths["g"]})
    with pytest.raises(ValueError, match="second file of band 'g'"):
        read_des([paths["g"], paths["g"]])
    with pytest.raises(ValueError, match="paths is empty"):
        read_des({})


@pytest.mark.parametrize("read", [read_legacysurvey, read_des])
def test_bad_files(tmp_path, cube, read):
    with pytest.raises(FileNotFoundError, match="absent.fits: no such file"):
        read(tmp_path / "absent.fits")
    text = tmp_path / "text.fits"
    text.write_text("<html>404 not found</html>" * 200)
    with pytest.raises(ValueError, match="text.fits: not a FITS file"):
        read(text)
    whole = write(tmp_path / "whole.fits", fits.PrimaryHDU(np.zeros((100, 100)), header(BAND="g")))
    cut = tmp_path / "cut.fits"
    for size in (20000, 3000, 100):
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(ValueError, match="cut.fits: truncated or damaged FITS"):
            read(cut)
    (tmp_path / "empty.fits").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.fits: not a FITS file"):
        read(tmp_path / "empty.fits")
    with pytest.raises(ValueError, match="no image"):
        read(write(tmp_path / "table.fits", fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])))
    bare = write(tmp_path / "bare.fits", fits.PrimaryHDU(cube[0]))
    with pytest.raises(ValueError, match="BAND"):
        read(bare)
    flat = write(tmp_path / "flat.fits", fits.PrimaryHDU(cube[0], fits.Header({"BAND": "g"})))
    with pytest.raises(ValueError, match="flat.fits: no celestial WCS"):
        read(flat)


def test_real_cutouts(data_dir):
    folder = data_dir / "legacysurvey"
    images = read_legacysurvey(folder / "cutout_59.1067_-30.4848.fits", psf=folder / "copsf_59.1067_-30.4848.fits")
    assert list(images) == ["g", "r", "z"] and all(image.psf.shape == (63, 63) for image in images.values())
    assert all((image.uncertainty.array > 0).all() for image in images.values())
    assert images["g"].meta["BRICK"] == "0591m305"
    images = read_legacysurvey(folder / "test_image.fits")
    assert list(images) == ["g", "r", "z"] and images["z"].shape == (256, 256)


def test_real_des(data_dir):
    images = read_des([data_dir / "decam" / f"DES_{band}.fits" for band in "griz"])
    assert list(images) == ["g", "r", "i", "z"]
    sigma = images["r"].uncertainty.array ** -0.5
    assert 0.002 < np.median(sigma) < 0.01
