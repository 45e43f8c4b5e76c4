# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Bricks of simulated coadds, the archive's asinh scale, WISE's magnitudes, and real catalogues."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from fiberifu.simulate.files.legacysurvey import write_brick
from fiberifu.simulate.products import BandImages
from fiberifu.surveys import (
    read_image,
    read_legacysurvey_brick,
    read_manga_maps,
    read_ps1,
    read_tractor,
    read_unwise,
)


def header(**cards):
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 200.0, "CRVAL2": 2.0, "CRPIX1": 8.5, "CRPIX2": 6.5}
    return fits.Header(wcs | {"CDELT1": -1e-4, "CDELT2": 1e-4} | cards)


def test_brick(tmp_path):
    flux = np.random.default_rng(0).normal(0, 0.01, (60, 60)).astype(np.float32)
    field = BandImages({"r": flux}, {"r": np.full((60, 60), 1e4)}, np.zeros((60, 60), np.int16), {"r": 1.2}, 0.262,
                       (150.0, 2.0), 0.03, {"redshift": 0.1})  # fmt: skip
    write_brick(field, tmp_path, seed=1, galaxy=0)
    center = SkyCoord(150, 2, unit="deg")
    image = read_legacysurvey_brick(tmp_path, center, 20 * 0.262 * u.arcsec)["r"]
    assert image.shape == (20, 20) and image.meta["PSF_FWHM"] == pytest.approx(1.2) and image.meta["EBV"] == 0.03
    np.testing.assert_allclose(image.data, flux[20:40, 20:40], atol=1e-4)
    np.testing.assert_allclose(image.wcs.world_to_pixel(center), 9.5, atol=1e-6)
    assert read_legacysurvey_brick(tmp_path, center, 20 * u.arcsec)["r"].mask.any()  # beyond the brick
    with pytest.raises(ValueError, match="no brick"):
        read_legacysurvey_brick(tmp_path, SkyCoord(10, 2, unit="deg"), 5 * u.arcsec)


def test_ps1_is_asinh_and_unwise_is_vega(tmp_path):
    flux = np.linspace(-5, 500, 192).reshape(12, 16)
    scaled = 2.5 * np.log10(np.e) * np.arcsinh((flux - 3) / 20)
    cards = {"BOFFSET": 3.0, "BSOFTEN": 10.0, "EXPTIME": 100.0, "HIERARCH FPA.FILTERID": "g.00000"}
    fits.PrimaryHDU(scaled, header(**cards)).writeto(tmp_path / "x.unconv.fits")
    np.testing.assert_allclose(read_ps1(tmp_path / "x.unconv.fits")["g"].data, flux * 1e-3, rtol=1e-5, atol=1e-6)
    fits.PrimaryHDU(flux, header(BAND=1, MAGZP=22.5)).writeto(tmp_path / "unwise-0000p000-w1-img-m.fits")
    image = read_unwise(tmp_path / "unwise-0000p000-w1-img-m.fits")["W1"]
    np.testing.assert_allclose(image.data, flux * 10 ** (-0.4 * 2.699), rtol=1e-5)
    image = read_image(tmp_path / "x.unconv.fits", "g", zero_point=25)
    np.testing.assert_allclose(image.data, scaled * 0.1, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="give zero_point"):
        read_image(tmp_path / "x.unconv.fits", "g")


def test_real_catalogues(data_dir):
    row = read_tractor(data_dir / "legacysurvey" / "tractor-1054p567.fits")[0]
    assert row["flux_r"].unit == u.nmgy and 0 < row["axis_ratio"] <= 1
    maps = read_manga_maps(next((data_dir / "manga").glob("manga-*-MAPS-*")))
    assert maps.meta["quality"] == 0 and maps.redshift == pytest.approx(0.0294, abs=1e-4)
