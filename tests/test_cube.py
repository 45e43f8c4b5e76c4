"""Cubes and spectra: orientation, round trips, provenance in every extension."""

import subprocess
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from regions import CircleSkyRegion, PixCoord, RectanglePixelRegion
from specutils import Spectrum

from fiberifu.cube import (
    FLUX_UNIT,
    ErrorFactors,
    cube_wcs,
    inverse_variance,
    make_cube,
    make_spectra,
    read_cube,
    read_spectra,
    spaxel_positions,
    subcube,
    write_cube,
    write_spectra,
)
from fiberifu.provenance import Provenance, is_predicted

CENTER = SkyCoord(27.952 * u.deg, 0.264 * u.deg)
WAVE = 3600 + 0.8 * np.arange(40)
SHAPE = (40, 5, 7)


@pytest.fixture
def provenance():
    return Provenance(model_id="nano", weights_sha256="0" * 64, redshift=0.03, redshift_source="user", seed=1, ebv=0.02)


@pytest.fixture
def cube(provenance):
    rng = np.random.default_rng(0)
    flux = rng.normal(1, 0.1, SHAPE)
    flux[3, 2, 1] = np.nan
    mask = np.zeros(SHAPE, bool)
    mask[:, 0, 0] = True
    factors = ErrorFactors(
        {
            "basis": rng.normal(size=(3, 40)).astype(np.float32),
            "coeff": rng.normal(size=(5, 7, 3)),
            "index": np.arange(4),
        },
        axes={"basis": "k wave", "coeff": "y x k"},
        cards={"NFACT": 3},
    )
    meta = {
        "provenance": provenance,
        "header": {"BEAM": 1.2, "seeing_requested": 1.0, "NONE": np.float32(np.nan)},
        "flags": np.arange(35).reshape(5, 7),
        "factors": factors,
    }
    return make_cube(
        flux, np.full(SHAPE, 100.0), mask, wcs=cube_wcs(CENTER, SHAPE, 0.5 * u.arcsec, WAVE * u.AA), meta=meta
    )


def test_north_is_up_and_east_is_left(cube):
    sky = spaxel_positions(cube)
    assert sky.shape == (5, 7)
    assert sky[2, 3].separation(CENTER) < 1e-6 * u.arcsec
    east, north = (offset.to_value(u.arcsec) for offset in CENTER.spherical_offsets_to(sky))
    assert_allclose(east[2], 0.5 * (3 - np.arange(7)), atol=1e-6)  # East grows to smaller x
    assert_allclose(north[:, 3], 0.5 * (np.arange(5) - 2), atol=1e-6)
    assert_allclose(sky[2, 2].ra.deg - CENTER.ra.deg, 0.5 / 3600, rtol=1e-4)
    assert cube.wcs.celestial.wcs.cdelt[0] < 0
    assert_allclose(spaxel_positions(cube.wcs).ra, sky.ra)


@pytest.mark.parametrize(
    "wave, ctype",
    [
        (WAVE, "WAVE"),
        (WAVE * 1e-4 * u.um, "WAVE"),
        (np.exp(np.log(3600) + 1e-4 * np.arange(4000)), "WAVE-LOG"),
    ],
)
def test_wavelength_axis(wave, ctype):
    wcs = cube_wcs(CENTER, (2, 3), 0.5 * u.arcsec, wave)
    assert wcs.wcs.ctype[2] == ctype and wcs.array_shape == (len(wave), 2, 3)
    shape = wcs.array_shape
    cube = make_cube(np.ones(shape), np.ones(shape), None, wcs=wcs)
    assert cube.spectral_axis.unit == u.AA
    assert_allclose(cube.spectral_axis.value, u.Quantity(wave, u.AA).value, rtol=1e-9)


def test_even_axes_are_centred_between_spaxels():
    sky = spaxel_positions(cube_wcs(CENTER, (4, 6), 1 * u.arcsec, WAVE))
    assert_allclose(sky[1:3, 2:4].ra.deg.mean(), CENTER.ra.deg, atol=1e-9)
    assert_allclose(sky[1:3, 2:4].dec.deg.mean(), CENTER.dec.deg, atol=1e-9)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"shape": (3, 5, 7)}, "shape is"),
        ({"wavelength": [1, 2, 4, 5.0]}, "linear nor logarithmic"),
        ({"wavelength": [3, 2, 1.0]}, "increasing"),
        ({"center": CENTER.reshape(1)}, "one position"),
        ({"spaxel": 0 * u.arcsec}, "positive"),
    ],
)
def test_wrong_grids(change, words):
    good = {"center": CENTER, "shape": (5, 7), "spaxel": 0.5 * u.arcsec, "wavelength": WAVE}
    with pytest.raises(ValueError, match=words):
        cube_wcs(**{**good, **change})


def test_cube_masks_what_is_not_finite(cube):
    assert cube.flux.dtype == np.float32 and cube.unit == FLUX_UNIT
    assert isinstance(cube.uncertainty, InverseVariance) and cube.uncertainty.unit == FLUX_UNIT**-2
    assert cube.mask[3, 2, 1] and cube.mask[:, 0, 0].all() and cube.mask.sum() == 41
    bad = make_cube(np.ones(SHAPE), np.full(SHAPE, -1.0), None, wcs=cube.wcs)
    assert bad.mask.all() and not bad.uncertainty.array.any()
    with pytest.raises(ValueError, match="ivar has the shape"):
        make_cube(np.ones(SHAPE), np.ones(40), None, wcs=cube.wcs)


@pytest.mark.parametrize("read", [Spectrum.read, read_cube])
def test_cube_round_trip(cube, provenance, tmp_path, read):
    path = tmp_path / "predicted.fits"
    cube.write(path, format="fiberifu cube")
    back = read(path)  # no format named
    assert type(back) is Spectrum and back.shape == SHAPE and back.spectral_axis_index == 0
    assert back.flux.dtype == np.float32 and back.flux.dtype.isnative and back.unit == FLUX_UNIT
    assert_array_equal(back.flux.value, cube.flux.value)
    assert_array_equal(back.uncertainty.array, cube.uncertainty.array)
    assert isinstance(back.uncertainty, InverseVariance) and back.uncertainty.unit == FLUX_UNIT**-2
    assert_array_equal(back.mask, cube.mask)
    assert back.spectral_axis.unit == u.AA
    assert_allclose(back.spectral_axis.value, WAVE, rtol=1e-10)
    assert spaxel_positions(back).separation(spaxel_positions(cube)).max() < 1e-6 * u.arcsec
    assert back.meta["provenance"] == provenance
    assert back.meta["header"]["BEAM"] == 1.2 and back.meta["header"]["SEEING_REQUESTED"] == 1
    assert_array_equal(back.meta["flags"], cube.meta["flags"])
    factors = back.meta["factors"]
    assert set(factors) == {"basis", "coeff", "index"} and factors.cards == {"NFACT": 3}
    assert factors.axes == {"basis": "k wave", "coeff": "y x k"}
    for name, array in cube.meta["factors"].items():
        assert_array_equal(factors[name], array)
        assert factors[name].dtype == array.dtype
    back.write(tmp_path / "again_predicted.fits", format="fiberifu cube")
    again = read(tmp_path / "again_predicted.fits")
    assert_array_equal(again.flux.value, cube.flux.value)
    assert repr(again.meta["header"]) == repr(back.meta["header"])


def test_every_extension_says_what_it_is(cube, tmp_path):
    path = tmp_path / "predicted.fits"
    write_cube(cube, path)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == [
            "PRIMARY",
            "FLUX",
            "IVAR",
            "MASK",
            "WAVE",
            "FLAGS",
            "F_BASIS",
            "F_COEFF",
            "F_INDEX",
        ]
        hdus.verify("exception")
        for hdu in hdus:
            header = hdu.header
            assert header["DATATYPE"] == "PREDICTED" and header["ORIGIN"] == "fiberifu"
            assert header["MODELID"] == "nano" and header["WSHA256"] == "0" * 64 and header["SEED"] == 1
            assert header["REDSHIFT"] == 0.03 and header["ZSRC"] == "user" and header["EBVGAL"] == 0.02
            assert "FIBIFUV" in header and not {"MANGAID", "PLATEIFU", "VERSDAP"} & set(header)
        header = hdus["FLUX"].header
        assert header["BUNIT"] == "1e-17 erg/(s cm2 AA)" and "per spaxel" in header.comments["BUNIT"]
        assert u.Unit(hdus["IVAR"].header["BUNIT"]) == FLUX_UNIT**-2
        assert header["CUNIT3"] == "Angstrom" and header["CTYPE3"] == "WAVE" and header["NAXIS3"] == 40
        assert hdus[0].header["FLUXTYPE"] == "per spaxel"
        # plain astropy gives the same coordinates, in its own units
        wcs = WCS(header)
        assert_allclose(wcs.spectral.pixel_to_world(39).to_value(u.AA), WAVE[-1])
    assert is_predicted(path)


def test_plain_dict_of_factors_and_no_factors(cube, tmp_path):
    cube.meta["factors"] = {"a": np.eye(2)}
    write_cube(cube, tmp_path / "predicted.fits")
    assert_array_equal(read_cube(tmp_path / "predicted.fits").meta["factors"]["a"], np.eye(2))
    for name, value in (("a b", np.eye(2)), ("a", np.array(["text"])), ("a", np.array(1.0))):
        cube.meta["factors"] = {name: value}
        with pytest.raises(ValueError, match="factors has"):
            write_cube(cube, tmp_path / "predicted.fits", overwrite=True)
    del cube.meta["factors"]
    write_cube(cube, tmp_path / "predicted.fits", overwrite=True)
    back = read_cube(tmp_path / "predicted.fits")
    assert "factors" not in back.meta and back.meta["header"]["FACTORS"] is False
    with pytest.raises(ValueError, match="axes names 'b'"):
        ErrorFactors({"a": np.eye(2)}, axes={"b": "k k"})


def test_any_uncertainty_is_written(cube, tmp_path):
    sigma = np.full(SHAPE, 0.5)
    sigma[0] = 0
    for uncertainty in (StdDevUncertainty(sigma), VarianceUncertainty(sigma**2)):
        cube.uncertainty = uncertainty
        write_cube(cube, tmp_path / "predicted.fits", overwrite=True)
        ivar = inverse_variance(read_cube(tmp_path / "predicted.fits"))
        assert_allclose(ivar[1:], 4)
        assert not ivar[0].any()
    cube.uncertainty = None
    assert not inverse_variance(cube).any()


def test_writing_refuses(cube, tmp_path):
    with pytest.raises(ValueError, match="cube_predicted.fits"):
        write_cube(cube, tmp_path / "cube.fits")
    path = tmp_path / "predicted.fits"
    write_cube(cube, path)
    with pytest.raises(FileExistsError, match="overwrite"):
        write_cube(cube, path)
    with pytest.raises(ValueError, match="subcube"):
        write_cube(cube[:, 1:3, 1:3], path, overwrite=True)
    del cube.meta["provenance"]
    with pytest.raises(ValueError, match="provenance"):
        write_cube(cube, path, overwrite=True)


def test_bad_files(cube, tmp_path):
    path = tmp_path / "predicted.fits"
    with pytest.raises(FileNotFoundError):
        read_cube(path)
    path.write_text("not FITS")
    with pytest.raises(ValueError, match="predicted.fits is not a whole FITS file"):
        read_cube(path)
    write_cube(cube, path, overwrite=True)
    with pytest.raises(ValueError, match="layout 'CUBE', not 'SPECTRA'"):
        read_spectra(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="predicted.fits is not a whole FITS file"):
        read_cube(path)
    compressed = tmp_path / "predicted.fits.gz"
    write_cube(cube, compressed)
    compressed.write_bytes(compressed.read_bytes()[:5000])
    with pytest.raises(ValueError, match="predicted.fits.gz is not a whole FITS file"):
        read_cube(compressed)


def test_compressed_file(cube, tmp_path):
    path = tmp_path / "predicted.fits.gz"
    write_cube(cube, path)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert_array_equal(Spectrum.read(path).flux.value, cube.flux.value)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_spectra_round_trip(provenance, tmp_path, shape):
    positions = SkyCoord(
        np.full(shape, 10.0) * u.deg,
        np.linspace(0, 1, max(np.prod(shape, dtype=int), 1)).reshape(shape) * u.deg,
        frame="fk5",
    )
    wave = WAVE**1.01  # any grid will do
    flux = np.random.default_rng(0).normal(size=shape + WAVE.shape)
    flags = np.full(shape, 5)
    spectra = make_spectra(
        flux,
        np.ones_like(flux),
        flux < -2,
        wavelength=wave * u.AA,
        positions=positions,
        meta={"provenance": provenance.replace(datatype="SIMULATED"), "flags": flags},
    )
    assert spectra.shape == shape + WAVE.shape and spectra.spectral_axis_index == len(shape)
    path = tmp_path / "sim.fits"
    spectra.write(path, format="fiberifu spectra")
    back = Spectrum.read(path)
    assert back.shape == spectra.shape
    assert_array_equal(back.flux.value, spectra.flux.value)
    assert_array_equal(back.mask, spectra.mask)
    assert_array_equal(back.spectral_axis.to_value(u.AA), wave)
    assert back.meta["positions"].shape == shape
    assert np.all(back.meta["positions"].separation(positions) < 1e-6 * u.arcsec)
    assert back.meta["provenance"].datatype == "SIMULATED"
    assert_array_equal(back.meta["flags"], flags)
    with fits.open(path) as hdus:
        assert hdus["FLUX"].shape == (max(1, np.prod(shape, dtype=int)), 40)
        assert all(hdu.header["DATATYPE"] == "SIMULATED" for hdu in hdus)
        assert hdus[0].header["FLUXTYPE"] == "in the aperture"
    with pytest.raises(ValueError, match="sim"):
        write_spectra(spectra, tmp_path / "spectra.fits")


def test_spectra_need_matching_positions():
    with pytest.raises(ValueError, match=r"ask for \(2, 40\)"):
        make_spectra(np.ones((3, 40)), np.ones((3, 40)), None, wavelength=WAVE, positions=CENTER.reshape(1)[[0, 0]])


def test_subcube(cube):
    part = subcube(cube, wave_range=(3610, 3620) * u.AA, region=CircleSkyRegion(CENTER, 0.9 * u.arcsec))
    assert part.shape == (13, 3, 3) and part.wcs.array_shape == (13, 3, 3)
    assert part.spectral_axis[0] >= 3610 * u.AA and part.spectral_axis[-1] <= 3620 * u.AA
    assert_allclose(part.flux.value, cube.flux.value[13:26, 1:4, 2:5])
    assert_allclose(part.spectral_axis.value, cube.spectral_axis.value[13:26])
    assert spaxel_positions(part).separation(spaxel_positions(cube)[1:4, 2:5]).max() < 1e-6 * u.arcsec
    assert_array_equal(part.meta["flags"], cube.meta["flags"][1:4, 2:5])
    factors = part.meta["factors"]  # those without named axes cannot be cut, and are left out
    assert set(factors) == {"basis", "coeff"}
    assert factors["basis"].shape == (3, 13) and factors["coeff"].shape == (3, 3, 3)
    corner = subcube(cube, region=RectanglePixelRegion(PixCoord(0, 0), 3, 3))
    assert corner.shape == (40, 2, 2) and corner.mask[:, 0, 0].all()
    disc = subcube(cube, region=CircleSkyRegion(CENTER, 0.6 * u.arcsec))
    assert disc.shape == (40, 3, 3) and disc.mask[:, 0, 0].all() and not disc.mask[:, 1, 1].any()
    assert subcube(cube).shape == cube.shape
    with pytest.raises(ValueError, match="wave_range"):
        subcube(cube, wave_range=(5000, 6000))
    with pytest.raises(ValueError, match="region"):
        subcube(cube, region=RectanglePixelRegion(PixCoord(90, 90), 3, 3))


def test_subcube_of_log_grid_writes(provenance, tmp_path):
    wave = np.exp(np.log(3600) + 1e-4 * np.arange(500))
    wcs = cube_wcs(CENTER, (2, 3), 0.5 * u.arcsec, wave)
    cube = make_cube(np.ones(wcs.array_shape), np.ones(wcs.array_shape), None, wcs=wcs, meta={"provenance": provenance})
    part = subcube(cube, wave_range=(3700, 3750))
    write_cube(part, tmp_path / "predicted.fits")
    back = read_cube(tmp_path / "predicted.fits")
    keep = (wave >= 3700) & (wave <= 3750)
    assert_allclose(back.spectral_axis.value, wave[keep], rtol=1e-9)


def test_a_new_session_reads_files_after_one_import(cube, tmp_path):
    """As the documentation says; ``import fiberifu`` alone loads nothing."""
    path = tmp_path / "predicted.fits"
    write_cube(cube, path)
    code = f"import fiberifu.cube\nfrom specutils import Spectrum\nprint(Spectrum.read({str(path)!r}).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(cube.shape)
