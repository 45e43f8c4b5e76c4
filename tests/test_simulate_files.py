# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated files: what is written is what the readers of real files give back."""

import dataclasses
import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from scipy.sparse import dia_matrix
from scipy.stats import norm
from simulated_surveys import SCALE, make_simulator, observe_desi, observe_images, observe_manga
from specutils import Spectrum, SpectrumList

from fiberifu.extinction import mw_transmission
from fiberifu.lines import LineMaps, line_table
from fiberifu.provenance import is_predicted
from fiberifu.simulate.delta_chi2 import delta_chi2
from fiberifu.simulate.fiber import observe_fibers
from fiberifu.simulate.files import (
    desi,
    healpix_nested,
    is_simulated_targetid,
    legacysurvey,
    manga,
    simulated_targetid,
    tree,
    write_brick,
    write_cutout,
    write_fitted_maps,
    write_logcube,
    write_psf,
    write_tractor,
    write_truth_maps,
)
from fiberifu.simulate.files.common import provenance, table_hdu, write_hdus
from fiberifu.simulate.files.truth_table import DESCRIPTIONS, WISHES, truth_hdu
from fiberifu.simulate.gas import LINES
from fiberifu.simulate.identifiers import RELEASE, brick_name, brick_number
from fiberifu.simulate.products import IFUCube
from fiberifu.simulate.selection import CANDIDATES
from fiberifu.surveys import read_legacysurvey, read_manga_cube

SEED = 5


@pytest.fixture(scope="module")
def simulator():
    return make_simulator()


@pytest.fixture(scope="module")
def spectra(simulator):
    spectra, _ = observe_desi(simulator, SEED, 0, 5)
    return desi.identified(spectra, seed=SEED)


@pytest.fixture(scope="module")
def images(simulator):
    return observe_images(simulator, SEED, [2])[0]


@pytest.fixture(scope="module")
def cube(simulator):
    return next(observe_manga(simulator, SEED, 3, 1))


@pytest.fixture(scope="module")
def logcube(cube, tmp_path_factory):
    path = tmp_path_factory.mktemp("manga") / "manga-sim900005-000003-LOGCUBE.fits.gz"
    write_logcube(cube, path, seed=SEED)
    return path


def check_marks(path):
    """Every HDU says what it is, and none poses as an observation."""
    assert "sim" in path.name and not is_predicted(path)
    with fits.open(path) as hdus:
        for hdu in hdus:
            assert (hdu.header["DATATYPE"], hdu.header["ORIGIN"]) == ("SIMULATED", "fiberifu"), hdu.name
            assert hdu.header["SEED"] == SEED and "FIBIFUV" in hdu.header and "TORCHV" in hdu.header
            assert not {"MANGAID", "PLATEIFU", "VERSDAP"} & set(hdu.header)


# ---------------------------------------------------------------- what is shared
def test_targetid():
    """Decoded as desitarget does: the mock bit, a release and a brick that the surveys have not."""
    ids = simulated_targetid(1, [0, 7, 300_000], [0, 3, 1], sky=[False, False, True])
    assert (ids >> 58 & 1 == 1).all() and (ids >> 59 & 1).tolist() == [0, 0, 1] and (ids >> 60 == 0).all()
    assert (ids >> 42 & 0xFFFF == RELEASE).all()
    assert (
        (ids >> 22 & 0xFFFFF).tolist() == [1_000_064, 1_000_064, 1_000_065] == brick_number(1, [0, 7, 300_000]).tolist()
    )
    assert (ids & 0x3FFFFF).tolist() == [0, 16 * 7 + 3, 16 * (300_000 - 2**18) + 1]
    assert is_simulated_targetid(ids).all()
    # of a DESI target, a sky position, and a fibre without target
    assert not is_simulated_targetid([39633345008634465, 616088619186127404, -1695072]).any()
    for galaxy, number in ((1 << 24, 0), (-1, 0), (0, 16)):
        with pytest.raises(ValueError, match="there are identifiers for"):
            simulated_targetid(0, galaxy, number)
    assert brick_name(0) == "sim00000" and brick_name(36) == "sim00010"
    with pytest.raises(ValueError, match="galaxy is 60466176"):
        brick_name(36**5)


def test_real_targetids_are_others(data_dir):
    for path in (data_dir / "desi").glob("coadd-*.fits"):
        assert not is_simulated_targetid(fits.getdata(path, "FIBERMAP")["TARGETID"]).any()


def test_healpix(data_dir):
    """Against DESI's own."""
    for name in ("coadd-sv3-dark-26065.fits", "coadd-special-dark-27247.fits"):
        with fits.open(data_dir / "desi" / name) as hdus:
            table, pixel = hdus["FIBERMAP"].data, hdus[0].header["HPXPIXEL"]
            assert (healpix_nested(table["TARGET_RA"], table["TARGET_DEC"]) == pixel).all()


def test_healpix_everywhere():
    """All pixels are hit, each with its area; neighbours on the sky share the coarser pixel above them."""
    n = 400_000
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    count = np.bincount(healpix_nested(ra, dec, 16), minlength=12 * 16**2)
    assert len(count) == 12 * 16**2
    assert abs(count.std() / np.sqrt(n / len(count)) - 1) < 0.1, "equal areas: a Poisson distribution"
    fine, coarse = healpix_nested(ra, dec, 64), healpix_nested(ra, dec, 16)
    assert (fine // 16 == coarse).all()
    # Gorski et al. 2005, figure 4: base pixel 4 is at (0, 0), 0 to 3 in the North
    assert healpix_nested([0, 45, 315, 45, 0], [0, 80, 80, -80, -1e-9], 1).tolist() == [4, 0, 3, 8, 4]


def test_names_and_tables(tmp_path):
    with pytest.raises(ValueError, match="'sim'"):
        write_hdus([fits.PrimaryHDU()], tmp_path / "cutout.fits", provenance(0))
    with pytest.raises(ValueError, match="values has B"):
        table_hdu("A:E", {"A": [1.0], "B": [2.0]}, 1, "X")
    hdu = table_hdu("A:E N:3A V:2D F:L", {"A": [1.5, 2], "N": ["abcd", "e"], "V": [[1, 2], [3, 4]]}, 2, "X")
    assert hdu.data["N"].tolist() == ["abc", "e"] and hdu.data["V"].sum() == 10 and not hdu.data["F"].any()


# ---------------------------------------------------------------- Legacy Surveys
def test_cutout(images, tmp_path):
    path, psf = tmp_path / "cutout_sim.fits", tmp_path / "copsf_sim.fits"
    write_cutout(images, path, seed=SEED)
    write_psf(images, psf, seed=SEED)
    check_marks(path)
    check_marks(psf)
    back = read_legacysurvey(path, psf=psf)
    assert list(back) == list(images.flux)
    for band, ccd in back.items():
        np.testing.assert_allclose(ccd.data, images.flux[band], rtol=1e-6)
        np.testing.assert_allclose(ccd.uncertainty.array, images.ivar[band], rtol=1e-6)
        assert (
            ccd.mask == ((images.maskbits & {"g": 32, "r": 64, "z": 128}.get(band, 0)) != 0) | (images.ivar[band] == 0)
        ).all()
        assert ccd.meta["FILTER"] == f"DECam {band}" and ccd.meta["DATATYPE"] == "SIMULATED"
        assert ccd.meta["REDSHIFT"] == pytest.approx(images.meta["redshift"])
        sky = ccd.wcs.pixel_to_world([63.5, 64.5], [63.5, 63.5])
        assert sky[0].ra.deg == pytest.approx(images.center[0]) and sky[0].dec.deg == pytest.approx(images.center[1])
        assert sky[1].ra < sky[0].ra, "East is left"
        # FWHM of the PSF image: half the peak at half of it
        profile = ccd.psf[31] / ccd.psf[31, 31]
        half = np.interp(-0.5, -profile[31:], np.arange(32)) * SCALE
        assert 2 * half == pytest.approx(images.psf_fwhm[band], rel=0.05) and ccd.psf.sum() == pytest.approx(1)


def test_cutout_like_the_viewers(images, tmp_path, data_dir):
    """All cards of the real cutouts, with values of the same type."""
    write_cutout(images, tmp_path / "cutout_sim.fits", seed=SEED)
    write_psf(images, tmp_path / "copsf_sim.fits", seed=SEED)
    real = data_dir / "legacysurvey"
    for ours, theirs in (("cutout_sim.fits", "test_image.fits"), ("copsf_sim.fits", "copsf_59.1067_-30.4848.fits")):
        with fits.open(tmp_path / ours) as a, fits.open(real / theirs) as b:
            for x, y in zip(a, b, strict=False):
                for key in set(y.header) - {"COMMENT", ""}:
                    assert isinstance(x.header[key], type(y.header[key])), key
                assert x.data.dtype == y.data.dtype and x.data.ndim == y.data.ndim
    with fits.open(real / "cutout_59.1067_-30.4848.fits") as hdus, fits.open(tmp_path / "cutout_sim.fits") as ours:
        extra = {"BRICK", "BRICK_X0", "BRICK_Y0", "BAND", "XTENSION", "PCOUNT", "GCOUNT"}  # one band and brick per HDU
        assert set(hdus[1].header) - extra <= set(ours[0].header)


def test_northern_catalogue(spectra, images, tmp_path):
    """It says so, and that the true fluxes are in DECam's bands."""
    rows = spectra.table["galaxy"] == 2
    table = {key: np.asarray(value)[rows] for key, value in spectra.table.items()}
    for side, survey in (("S", "simulated DECaLS"), ("N", "simulated BASS MzLS")):
        made = legacysurvey.tractor_rows(table | {"photsys": np.full(rows.sum(), side)}, images, seed=SEED)
        write_tractor(made, tmp_path / "tractor-sim.fits", seed=SEED)
        header = fits.getheader(tmp_path / "tractor-sim.fits", 1)
        assert header["SURVEY"] == survey and ("DECam" in str(header.get("COMMENT"))) == (side == "N")


def test_truth_tells_wishes(simulator):
    """Slot and wish of a survey's galaxies, with units and words; none where the instrument has no slots."""
    wish = {"slot": 3, "wish_logm": 10.5, "wish_re": 4.25, "sample": "primary"}
    galaxy = 3 * CANDIDATES + 7
    hdu = truth_hdu("GALAXIES", tree._galaxies(simulator, SEED, [galaxy], {galaxy: wish | {"seed": SEED}}))
    assert {key: hdu.data[key][0] for key in wish} == wish and hdu.columns["wish_re"].unit == "arcsec"
    assert f"{CANDIDATES} slot to" in DESCRIPTIONS["GALAXIES"]["slot"][1]
    assert all(hdu.header[f"TCOMM{1 + hdu.columns.names.index(key)}"] for key in wish)
    assert not set(WISHES) & set(tree._galaxies(simulator, SEED, [galaxy], {galaxy: {}}))


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_truth_has_units(name, tmp_path):
    """Astropy understands all of them, also nanomaggies, which FITS has not, and warns of none."""
    known = DESCRIPTIONS[name]
    write_hdus([fits.PrimaryHDU(), truth_hdu(name, {key: np.ones(2) for key in known})], tmp_path / "sim.fits",
               provenance(SEED))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (Table, QTable):
            back = kind.read(tmp_path / "sim.fits", hdu=name)
            assert back.colnames == list(known)
            for key, (unit, _) in known.items():
                assert getattr(back[key], "unit", None) == (unit and u.Unit(unit)), key
    if name == "FIBERS":
        assert back["flux_r"].to_value(u.AB, u.zero_point_flux(3631 * u.Jy)) == pytest.approx(1e-9)
        assert back["flux_ivar_r"].unit == u.nmgy**-2


def test_northern_cutout(images, tmp_path):
    north = dataclasses.replace(images, meta=images.meta | {"layer": "north"})
    write_cutout(north, tmp_path / "cutout-sim.fits", seed=SEED)
    image = read_legacysurvey(tmp_path / "cutout-sim.fits")
    assert {band: ccd.meta["FILTER"] for band, ccd in image.items()}["g"] == "BASS g"
    assert all(ccd.meta["SURVEY"] == "BASS+MzLS" for ccd in image.values())


def test_brick(images, tmp_path):
    """Compressed as the survey's: images to steps of 1e-4 nanomaggies, masks exactly."""
    paths = write_brick(images, tmp_path, seed=SEED, galaxy=40)
    brick = "sim00014"
    assert {path.parent for path in paths} == {tmp_path / "coadd" / "sim" / brick}
    names = [f"{kind}-{band}" for band in images.flux for kind in ("image", "invvar", "psfsize")] + ["maskbits"]
    assert [path.name for path in paths] == [f"legacysurvey-{brick}-{name}.fits.fz" for name in names]
    kinds = {"image": "RICE_1", "invvar": "RICE_1", "psfsize": "GZIP_1", "maskbits": "HCOMPRESS_1"}
    for path, name in zip(paths, names, strict=True):
        check_marks(path)
        kind, _, band = name.partition("-")
        with fits.open(path, disable_image_compression=True) as hdus:
            assert hdus[1].header["ZCMPTYPE"] == kinds[kind] and hdus[1].header["ZTILE1"] == 100
        data, header = fits.getdata(path, 1, header=True)
        assert header["BRICK"] == brick and header["CTYPE1"] == "RA---TAN"
        if kind == "image":
            assert np.abs(data - images.flux[band]).max() <= 0.6e-4
            assert (data[images.flux[band] == 0] == 0).all(), "zeros stay"
        elif kind == "invvar":
            np.testing.assert_allclose(data, images.ivar[band], rtol=0, atol=0.02 * images.ivar[band].max())
        elif kind == "psfsize":
            np.testing.assert_array_equal(data, np.float32(images.psf_fwhm[band]))
        else:
            np.testing.assert_array_equal(data, images.maskbits)


@pytest.fixture
def catalogue(spectra, images, tmp_path):
    rows = spectra.table["galaxy"] == 2
    table = {key: np.asarray(value)[rows] for key, value in spectra.table.items()}
    write_tractor(legacysurvey.tractor_rows(table, images, seed=SEED), tmp_path / "tractor-sim.fits", seed=SEED)
    return table, tmp_path / "tractor-sim.fits"


def test_tractor(catalogue, images):
    table, path = catalogue
    check_marks(path)
    back = Table.read(path)
    assert (back["release"] == RELEASE).all() and (back["brickname"] == brick_name(2)).all()
    np.testing.assert_allclose(back["flux_r"], table["flux_r"], rtol=1e-6)
    np.testing.assert_allclose(back["mw_transmission_r"], 10 ** (-0.4 * 2.165 * 0.03), rtol=1e-6)
    x, y = back["bx"][0], back["by"][0]
    yy, xx = np.indices(images.maskbits.shape)
    inside = np.hypot(xx - x, yy - y) * SCALE < 5
    flux = images.flux["r"]
    assert back["apflux_r"][0, 6] == pytest.approx(flux[inside].sum(), rel=0.02)
    assert (np.diff(1 / back["apflux_ivar_r"][0]) > 0).all(), "larger apertures are noisier"
    # a point source: variance of the pixels times the noise-equivalent area, in pixels
    area = 4 * np.pi * (images.psf_fwhm["r"] / 2.3548) ** 2 / SCALE**2
    assert back["psfdepth_r"][0] == pytest.approx(np.median(images.ivar["r"]) / area, rel=0.05)
    assert (back["galdepth_r"] < back["psfdepth_r"]).all()


def test_tractor_columns(catalogue, data_dir):
    """Those of DR9, in their order and formats."""
    real = data_dir / "legacysurvey" / "tractor-1054p567.fits"
    with fits.open(catalogue[1]) as ours, fits.open(real) as theirs:
        ours, theirs = ([(c.name.lower(), c.format) for c in hdus[1].columns] for hdus in (ours, theirs))
    assert ours == theirs


# ---------------------------------------------------------------- DESI
@pytest.fixture(scope="module")
def pixel(spectra, tmp_path_factory):
    """Files of one HEALPix pixel, and the spectra in it."""
    number, rows = next(iter(desi.pixels_of(spectra).items()))
    part = desi.select(spectra, rows)
    folder = tmp_path_factory.mktemp("desi")
    paths = {kind: folder / f"{kind}-sim-bright-{number}.fits" for kind in ("coadd", "redrock")}
    desi.write_coadd(part, paths["coadd"], seed=SEED, pixel=number)
    desi.write_redrock(part, paths["redrock"], seed=SEED, pixel=number)
    return number, part, paths


def test_pixels_share_out_the_spectra(spectra):
    pixels = desi.pixels_of(spectra)
    assert len(pixels) > 1
    np.testing.assert_array_equal(np.sort(np.concatenate(list(pixels.values()))), np.arange(len(spectra.table["z"])))
    assert str(desi.pixel_folder("x", 27247)).endswith("x/spectro/redux/sim/healpix/sim/bright/272/27247")
    again = desi.concatenate([desi.select(spectra, rows) for rows in pixels.values()])
    order = np.argsort(np.concatenate(list(pixels.values())))
    np.testing.assert_array_equal(again.flux["r"][order], spectra.flux["r"])


def test_identifiers(spectra):
    ids = spectra.table["targetid"]
    assert len(np.unique(ids)) == len(ids) and is_simulated_targetid(ids).all()
    again = desi.identified(spectra, seed=SEED + 1)
    np.testing.assert_array_equal(again.table["targetid"], ids)


@pytest.mark.parametrize("named", [True, False])
def test_coadd(pixel, named):
    """By specutils' loader, by name and by what the file looks like."""
    _, spectra, paths = pixel
    check_marks(paths["coadd"])
    arms = SpectrumList.read(paths["coadd"], **({"format": "DESI coadd"} if named else {}))
    assert [arm.meta["band"] for arm in arms] == ["b", "r", "z"]
    for arm in arms:
        name = arm.meta["band"]
        np.testing.assert_array_equal(arm.spectral_axis.value, spectra.wave[name])
        np.testing.assert_allclose(arm.flux.value, spectra.flux[name], rtol=1e-6)
        np.testing.assert_allclose(arm.uncertainty.array, spectra.ivar[name], rtol=1e-6)
        np.testing.assert_array_equal(arm.meta["int_mask"], spectra.mask[name])
        np.testing.assert_array_equal(arm.mask, spectra.mask[name] != 0)
        # the layout of the resolution: rows of diagonals, the first the uppermost
        data = arm.meta["resolution_data"][0]
        matrix = dia_matrix((data, data.shape[0] // 2 - np.arange(data.shape[0])), (data.shape[1],) * 2)
        one = np.ones(data.shape[1])
        np.testing.assert_allclose((matrix @ one)[20:-20], 1, rtol=1e-5)
    meta = arms[0].meta
    assert meta["header"]["DATATYPE"] == "SIMULATED" and meta["single"]
    np.testing.assert_array_equal(meta["fibermap"]["TARGETID"], spectra.table["targetid"])
    np.testing.assert_allclose(meta["fibermap"]["MEAN_PSF_TO_FIBER_SPECFLUX"], spectra.table["psf_to_fiber_specflux"])
    assert len(meta["exp_fibermap"]) == spectra.table["n_exposures"].sum()
    total = [
        meta["exp_fibermap"]["EXPTIME"][meta["exp_fibermap"]["TARGETID"] == t].sum() for t in spectra.table["targetid"]
    ]
    np.testing.assert_allclose(total, spectra.table["exptime"])
    good = spectra.mask["r"] == 0
    snr = np.median((spectra.flux["r"] * np.sqrt(spectra.ivar["r"]))[good].reshape(len(good), -1), 1)
    np.testing.assert_allclose(meta["scores"]["MEDIAN_COADD_SNR_R"], snr, rtol=1e-4)


def test_desi_like_real(pixel, data_dir):
    """Names, types, units and columns of the HDUs are those of a real file."""
    number, _, paths = pixel
    computed = {"SCORES", "TSNR2"}  # only the template S/N that follow from the exposure time
    for kind in ("coadd", "redrock"):
        with fits.open(paths[kind]) as a, fits.open(data_dir / "desi" / f"{kind}-special-dark-27247.fits") as b:
            assert [hdu.name for hdu in a] == [hdu.name for hdu in b]
            assert {"SPGRP", "SPGRPVAL", "HPXPIXEL", "HPXNSIDE", "HPXNEST", "SURVEY", "PROGRAM"} <= set(a[0].header)
            assert a[0].header["HPXPIXEL"] == number
            for x, y in zip(a[1:], b[1:], strict=True):
                if isinstance(x, fits.BinTableHDU):
                    ours, theirs = ([(c.name, c.format) for c in hdu.columns] for hdu in (x, y))
                    assert set(ours) <= set(theirs)
                    if x.name not in computed:
                        assert ours == theirs
                    continue
                assert x.header.get("BUNIT") == y.header.get("BUNIT")
                if not x.name.endswith("MASK"):  # uint32 in DR1, int32 in that file
                    assert x.data.dtype == y.data.dtype
                assert x.data.ndim == y.data.ndim
    with fits.open(paths["coadd"]) as a, fits.open(data_dir / "desi" / "coadd-sv3-dark-26065.fits") as b:
        assert a["R_MASK"].data.dtype == b["R_MASK"].data.dtype == np.uint32


def test_redrock(pixel):
    _, spectra, paths = pixel
    check_marks(paths["redrock"])
    back = Table.read(paths["redrock"], hdu="REDSHIFTS")
    np.testing.assert_array_equal(back["TARGETID"], spectra.table["targetid"])
    np.testing.assert_allclose(back["Z"], spectra.table["z"])
    assert (back["SPECTYPE"] == "GALAXY").all()
    np.testing.assert_allclose(back["DELTACHI2"], spectra.table["deltachi2"])


def test_targeting_columns(spectra, tmp_path):
    """Magnitudes without the Milky Way's dust decide; no column that is known is 0."""
    spectra = desi.select(spectra, np.arange(4))
    table = dict(spectra.table)
    # r = 19.4, 19.6 before 0.2 mag of dust, and without; the last is sky
    table["flux_r"] = 10 ** (0.4 * (22.5 - np.array([19.4 + 0.2, 19.6 + 0.2, 19.4, 19.4])))
    table["ebv"] = np.array([0.2 / 2.165, 0.2 / 2.165, 0, 0])
    table["objtype"] = np.array(["TGT", "TGT", "TGT", "SKY"])
    table |= {f"flux_ivar_{band}": np.full(4, 30.0) for band in "grz"} | {"photsys": np.array(["S", "N", "N", "S"])}
    spectra.table = table
    desi.write_coadd(spectra, tmp_path / "coadd-sim-bright-1.fits", seed=SEED, pixel=1)
    back = Table.read(tmp_path / "coadd-sim-bright-1.fits", hdu="FIBERMAP")
    assert back["BGS_TARGET"].tolist() == [desi.BGS_BRIGHT, desi.BGS_FAINT, desi.BGS_BRIGHT, 0]
    assert back["PRIORITY_INIT"].tolist() == [102100, 102000, 102100, -1]
    assert back["PHOTSYS"].tolist() == ["S", "N", "N", "S"]
    assert len(set(back["SUBPRIORITY"])) == 4 and 0 < back["SUBPRIORITY"].min() and back["SUBPRIORITY"].max() < 1
    for name in ("FLUX", "FLUX_IVAR", "FIBERFLUX", "FIBERTOTFLUX"):
        for band in "grz":
            expected = table[f"{name.lower().replace('tot', '')}_{band}"]
            np.testing.assert_allclose(back[f"{name}_{band.upper()}"], expected, rtol=1e-6)
    np.testing.assert_allclose(back["SHAPE_E1"], 0.2, rtol=1e-6)


def test_shapes_are_the_tractors(simulator):
    """Ellipticities give back axis ratio and position angle, as the survey's documentation has them."""
    scene = simulator.scene(SEED, range(12))
    g = {key: np.asarray(scene["g"][key]) for key in ("axis_ratio", "pa", "east", "north")}
    targets = {"owner": np.arange(12), "east": g["east"], "north": g["north"], "kind": np.full(12, "central")}
    table = observe_fibers(simulator, scene, SEED, targets).table
    e = np.hypot(table["shape_e1"], table["shape_e2"])
    long = np.isin(table["morphtype"], ("EXP", "DEV"))
    assert (e[~long] == 0).all() and long.sum() > 4
    np.testing.assert_allclose(((1 - e) / (1 + e))[long], g["axis_ratio"][long], rtol=1e-5)
    angle = np.degrees(np.arctan2(table["shape_e2"], table["shape_e1"]) / 2)  # from North through East
    difference = (angle - (90 - np.degrees(g["pa"])) + 90) % 180 - 90
    np.testing.assert_allclose(difference[long], 0, atol=1e-3)
    assert all((table[f"fiberflux_{band}"] > 0).all() for band in "grz")
    assert (table["fiberflux_g"] != table["fiberflux_r"]).all()


def test_delta_chi2():
    """Nothing is gained on a polynomial with noise, and the square of the S/N on a line; arms share the amplitude."""
    wave = {"b": np.linspace(3600, 5800, 2751), "r": np.linspace(5700, 7600, 2326)}
    rng = np.random.default_rng(3)
    noise = {arm: rng.standard_normal((400, len(x))) / 2 for arm, x in wave.items()}
    smooth = {arm: 3 + 1e-3 * (x - 4700) - 2e-7 * (x - 5000) ** 2 + 0 * noise[arm] for arm, x in wave.items()}
    line = {
        "b": 1 * np.exp(-0.5 * ((wave["b"] - 4700) / 3) ** 2),
        "r": 2 * np.exp(-0.5 * ((wave["r"] - 6500) / 3) ** 2),
    }
    ivar = {arm: np.full(x.shape, 4.0) for arm, x in noise.items()}
    template = {arm: smooth[arm] + line[arm] for arm in wave}
    none = delta_chi2(wave, {arm: smooth[arm] + noise[arm] for arm in wave}, ivar, template)
    # chi2 of one degree of freedom, of positive amplitudes only: mean 1/2, never above 9 but for 0.13 %
    assert (none >= 0).all() and none.mean() == pytest.approx(0.5, abs=0.2) and np.mean(none > 9) < 0.01
    found = delta_chi2(wave, {arm: template[arm] + noise[arm] for arm in wave}, ivar, template)
    expected = sum((4 * value**2).sum() for value in line.values())
    assert found.mean() == pytest.approx(expected + 1, rel=0.03)
    # by the definition: chi2 of the polynomials less that of template and polynomials
    design, data = [], []
    for k, (arm, x) in enumerate(wave.items()):
        u = (x - x.mean()) / np.ptp(x)
        blank = np.zeros((len(x), 4))
        design.append(np.hstack([template[arm][:1].T, *(np.vander(u, 4) if k == j else blank for j in (0, 1))]))
        data.append(template[arm][0] + noise[arm][0])
    design, data = np.vstack(design) * 2, np.concatenate(data) * 2
    chi2 = [((data - part @ np.linalg.lstsq(part, data)[0]) ** 2).sum() for part in (design[:, 1:], design)]
    assert found[0] == pytest.approx(chi2[0] - chi2[1], rel=1e-6)
    zero = {arm: 0 * x for arm, x in ivar.items()}
    assert (delta_chi2(wave, template, zero, template) == 0).all()
    assert (delta_chi2(wave, template, ivar, zero) == 0).all()
    one = dict(ivar, b=zero["b"])  # an arm without data
    assert delta_chi2(wave, template, one, template)[0] == pytest.approx((4 * line["r"] ** 2).sum(), rel=0.03)


def test_small_delta_chi2_is_flagged():
    """Faint fibres in bad conditions: ZWARN has redrock's bit where DELTACHI2 is below its limit, and only there."""
    simulator = make_simulator()
    scene = simulator.scene(7, range(10))
    east, north = (np.where(np.arange(10) < 5, 12.0, np.asarray(scene["g"][key])) for key in ("east", "north"))
    targets = {"owner": np.arange(10), "east": east, "north": north,
               "kind": np.full(10, "central"), "objtype": np.array(["SKY", *["TGT"] * 9])}  # fmt: skip
    made = observe_fibers(simulator, scene, 7, targets, seconds=1000)
    table = made.table
    assert table["deltachi2"].min() == 0 == table["deltachi2"][0] and table["zwarn"][0] == 4
    np.testing.assert_array_equal(table["zwarn"] == 4, table["deltachi2"] < 9)
    assert 1 < np.sum(table["zwarn"] == 4) and 0 < np.sum(table["zwarn"] == 0)
    wrong = np.abs(table["z"] - table["z_true"]) > 0.003
    assert (wrong[table["zwarn"] == 0]).mean() < 0.3


def test_zcatalog(spectra, tmp_path):
    """The best spectrum of each target is the primary one."""
    spectra = desi.select(spectra, np.r_[0:4, 0, 0])
    table = dict(spectra.table)
    table["exptime"], table["zwarn"] = np.array([200.0, 1, 1, 1, 300, 900]), np.array([0, 0, 4, 0, 0, 4])
    spectra.table = table
    parts = [desi.zcatalog_rows(desi.select(spectra, rows), 100 + i) for i, rows in enumerate((np.r_[0:4], np.r_[4:6]))]
    desi.write_zcatalog(parts, tmp_path / "zall-pix-sim.fits", seed=SEED)
    check_marks(tmp_path / "zall-pix-sim.fits")
    back = Table.read(tmp_path / "zall-pix-sim.fits", hdu="ZCATALOG")
    assert back["ZCAT_PRIMARY"].tolist() == [False, True, True, True, True, False]
    assert back["ZCAT_NSPEC"].tolist() == [3, 1, 1, 1, 3, 3]
    assert (back["SURVEY"] == "sim").all() and back["HEALPIX"].tolist() == [100] * 4 + [101] * 2
    np.testing.assert_allclose(back["FLUX_R"], table["flux_r"], rtol=1e-6)


def test_truth_spectra(spectra, tmp_path):
    flux = np.random.default_rng(1).normal(size=(len(spectra.table["z"]), 7781))
    spectra.meta["truth"] = {"flux": flux, "line_flux": flux[:, :15]}
    with_truth = desi.with_truth(spectra)
    del spectra.meta["truth"]
    assert with_truth.table["true_line_flux"].shape == (len(flux), 15) and "truth" not in with_truth.meta
    desi.write_truth(with_truth, tmp_path / "truth-sim-bright-1.fits", seed=SEED, pixel=1)
    check_marks(tmp_path / "truth-sim-bright-1.fits")
    with fits.open(tmp_path / "truth-sim-bright-1.fits") as hdus:
        np.testing.assert_allclose(hdus["FLUX"].data, flux, rtol=1e-6)
        np.testing.assert_allclose(np.diff(hdus["WAVELENGTH"].data), 0.8)
        np.testing.assert_array_equal(hdus["TRUTH"].data["TARGETID"], spectra.table["targetid"])


# ---------------------------------------------------------------- MaNGA
@pytest.mark.parametrize("named", [True, False])
def test_logcube_in_specutils(logcube, cube, named):
    spectrum = Spectrum.read(logcube, **({"format": "MaNGA cube"} if named else {}))
    assert spectrum.shape == cube.flux.shape
    np.testing.assert_allclose(spectrum.flux.value, cube.flux, rtol=1e-6)
    np.testing.assert_allclose(spectrum.spectral_axis.to_value("AA"), cube.wave, rtol=1e-7)
    np.testing.assert_array_equal(spectrum.mask, cube.mask != 0)
    assert spectrum.meta["header"]["DATATYPE"] == "SIMULATED"


def test_logcube(logcube, cube):
    check_marks(logcube)
    back = read_manga_cube(logcube)
    np.testing.assert_allclose(back.flux.value, cube.flux, rtol=1e-6)
    np.testing.assert_allclose(back.uncertainty.array, cube.ivar, rtol=1e-6)
    assert back.meta["redshift"] == cube.table["redshift"] and back.meta["ebv"] == cube.table["ebv"]
    assert back.meta["lsf_extension"] == "LSFPRE" and back.meta["provenance"].datatype == "SIMULATED"
    np.testing.assert_allclose(back.meta["lsf"].value[:, 3, 4], cube.lsf, rtol=1e-6)
    assert {band: fwhm.value for band, fwhm in back.meta["psf_fwhm"].items()} == cube.fwhm
    middle = back.meta["celestial_wcs"].pixel_to_world(7.5, 7.5)
    assert (middle.ra.deg, middle.dec.deg) == pytest.approx(cube.center)


def test_logcube_extensions(logcube, cube):
    """As of DR17's data model; pre- and post-pixel resolution differ by the pixel."""
    with fits.open(logcube) as hdus:
        names = ["PRIMARY", "FLUX", "IVAR", "MASK", "LSFPOST", "LSFPRE", "WAVE", "SPECRES", "SPECRESD", "PRESPECRES",
                 "PRESPECRESD", *(b + "IMG" for b in "GRIZ"), *(b + "PSF" for b in "GRIZ"),
                 *(b + "CORREL" for b in "GRIZ")]  # fmt: skip
        assert [hdu.name for hdu in hdus] == names
        header = hdus["FLUX"].header
        assert header["BUNIT"] == "1E-17 erg/s/cm^2/Ang/spaxel" and header["CTYPE3"] == "WAVE-LOG"
        assert header["CD3_3"] == pytest.approx(cube.wave[0] * np.log(10) * 1e-4) and header["CRVAL3"] == cube.wave[0]
        assert hdus["MASK"].data.dtype == ">i4" and hdus["FLUX"].data.dtype == ">f4"
        difference = hdus["LSFPOST"].data[:, 0, 0] ** 2 - hdus["LSFPRE"].data[:, 0, 0] ** 2
        np.testing.assert_allclose(difference, np.gradient(cube.wave) ** 2 / 12, rtol=1e-3)
        np.testing.assert_allclose(hdus["SPECRES"].data * hdus["LSFPOST"].data[:, 0, 0] * 2.35482, cube.wave, rtol=1e-5)
        np.testing.assert_allclose(hdus["GIMG"].data, cube.images["g"], rtol=1e-6)
        assert hdus["GPSF"].data.sum() == pytest.approx(1)


def test_correlation(logcube, cube):
    """The sparse table, made whole: symmetric, with ones on its diagonal, and the given values beside it."""
    with fits.open(logcube) as hdus:
        rows, header = hdus["GCORREL"].data, hdus["GCORREL"].header
    assert header["COVSHAPE"] == "(16,16)"
    i = np.ravel_multi_index((rows["INDXI_C2"], rows["INDXI_C1"]), (16, 16))
    j = np.ravel_multi_index((rows["INDXJ_C2"], rows["INDXJ_C1"]), (16, 16))
    assert (j >= i).all() and len(np.unique(i * 256 + j)) == len(i)
    whole = np.zeros((256, 256))
    whole[i, j] = whole[j, i] = rows["RHOIJ"]
    np.testing.assert_allclose(np.diag(whole), 1)
    distance = np.hypot(rows["INDXI_C1"] - rows["INDXJ_C1"], rows["INDXI_C2"] - rows["INDXJ_C2"])
    np.testing.assert_allclose(rows["RHOIJ"], np.interp(distance, np.arange(5), cube.correlation), rtol=1e-6)
    assert np.isclose(distance, 2).sum() == 2 * 16 * 14


def test_wavelengths_must_be_regular(cube):
    wave = cube.wave.copy()
    wave[100] += 1
    with pytest.raises(ValueError, match="steps neither"):
        manga.cube_wcs(IFUCube(**(vars(cube) | {"wave": wave})))
    linear = manga.cube_wcs(IFUCube(**(vars(cube) | {"wave": 3600.0 + np.arange(4563)})))
    assert linear.wcs.ctype[2] == "WAVE"


def test_truth_maps(cube, tmp_path):
    path = tmp_path / "manga-sim-1-MAPS-TRUTH.fits.gz"
    sigma_star = np.linspace(40, 200, cube.truth["sigma"].size).reshape(cube.truth["sigma"].shape)
    truth = cube.truth | {"sigma_star": sigma_star, "stellar_limited": sigma_star < 70}
    cube = dataclasses.replace(cube, truth=truth)
    write_truth_maps(cube, path, seed=SEED)
    check_marks(path)
    back = LineMaps.read(path)
    assert back.lines == LINES and back.provenance.datatype == "SIMULATED" and back.extinction_corrected
    i = LINES.index("Ha")
    np.testing.assert_allclose(back.flux["Ha"].data, cube.truth["line_flux"][i], rtol=1e-5)
    np.testing.assert_allclose(back.ew["Ha"].data, cube.truth["line_ew"][i], rtol=1e-5)
    np.testing.assert_allclose(back.velocity["Hb"].data, cube.truth["velocity"], rtol=1e-5)
    np.testing.assert_allclose(back.intrinsic_dispersion["Ha"].data, cube.truth["sigma"], rtol=1e-3)
    np.testing.assert_allclose(
        back.flux["Ha"].data, back.ew["Ha"].data * back.continuum["Ha"].data * (1 + back.redshift), rtol=1e-5
    )
    seen = (np.asarray(cube.mask) & 1 == 0).any(0)
    np.testing.assert_allclose(fits.getdata(path, "STELLAR_SIGMA")[seen], sigma_star[seen], rtol=1e-6)
    np.testing.assert_array_equal(fits.getdata(path, "STELLAR_LIMITED"), seen & (sigma_star < 70))
    write_truth_maps(cube, tmp_path / "again-sim.fits.gz", seed=SEED)
    assert (tmp_path / "again-sim.fits.gz").read_bytes() == path.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2, "nothing is left beside them"


LINES_OF_CUBE = {"Ha": 30.0, "Hb": 10.0, "O3_5007": 6.0, "O3_4959": 6.0 / 2.98, "N2_6583": 9.0, "N2_6548": 9.0 / 3.05}


def made_up_cube(cube):
    """A cube whose lines are known to the pixel: Gaussians through the instrument, a rotating disc, Galactic dust."""
    wave, z, ebv = cube.wave, 0.03, 0.1
    table = line_table("all")
    rest = dict(zip(table["key"], table["wavelength"].value, strict=True))
    y, x = np.indices(cube.flux.shape[1:]) - 7.5
    light = np.exp(-np.hypot(x, y) / 5)
    truth = {"velocity": 12 * x, "sigma": 60 + 10 * light, "line_flux": np.zeros((15, 16, 16))}
    edges = np.append(wave * 10**-0.5e-4, wave[-1] * 10**0.5e-4)[:, None, None]
    flux = np.broadcast_to(light, cube.flux.shape) * (wave / 5500)[:, None, None] ** -0.5
    for key, amount in LINES_OF_CUBE.items():
        truth["line_flux"][LINES.index(key)] = amount * light
        middle = rest[key] * (1 + z) * (1 + truth["velocity"] / 299792.458)
        sigma = np.hypot(middle * truth["sigma"] / 299792.458, np.interp(middle, wave, cube.lsf))
        flux = flux + amount * light * np.diff(norm.cdf(edges, middle, sigma), axis=0) / np.diff(edges, axis=0)
    truth["line_ew"] = truth["line_flux"] / light / (1 + z)
    dust, noise = mw_transmission(wave, ebv)[:, None, None], 0.01
    flux = flux * dust + noise * np.random.default_rng(8).standard_normal(flux.shape)
    more = {"wave": wave, "flux": flux, "ivar": np.full(flux.shape, noise**-2), "mask": np.zeros(flux.shape, np.int32),
            "truth": truth, "table": cube.table | {"redshift": z, "ebv": ebv}}  # fmt: skip
    return IFUCube(**(vars(cube) | more))


def test_fit_recovers_truth(cube, tmp_path):
    """Lines of the LOGCUBE are those that were put in, in flux, velocity and width, within their errors."""
    cube = made_up_cube(cube)
    write_logcube(cube, tmp_path / "manga-sim-LOGCUBE.fits.gz", seed=2)
    path, true = tmp_path / "manga-sim-MAPS-FIT.fits", tmp_path / "manga-sim-MAPS-TRUTH.fits"
    write_fitted_maps(tmp_path / "manga-sim-LOGCUBE.fits.gz", path, table=list(LINES_OF_CUBE))
    write_truth_maps(cube, true, seed=2)
    fit, truth = LineMaps.read(path), LineMaps.read(true)
    for name, lines in (("flux", fit.lines), ("velocity", ["Ha"]), ("dispersion", ["Ha"])):
        for line in lines:
            found, expected = getattr(fit, name)[line], getattr(truth, name)[line].data
            pull = (found.data - expected) / found.uncertainty.array
            assert abs(np.median(pull)) < 0.3 and 0.7 < pull.std() < 1.3, (name, line)
    ratio = np.median(fit.flux["Ha"].data / truth.flux["Ha"].data)
    assert ratio == pytest.approx(1, abs=0.005), "Galactic dust is taken off, as in the truth"
    assert fit.provenance.datatype == "SIMULATED" and fit.extinction_corrected


def test_drpall(cube, tmp_path):
    rows = [manga.drpall_rows(cube, seed=SEED, galaxy=g) for g in (3, 4)]
    manga.write_drpall(rows, tmp_path / "drpall-sim.fits", seed=SEED)
    check_marks(tmp_path / "drpall-sim.fits")
    back = Table.read(tmp_path / "drpall-sim.fits", hdu="MANGA")
    assert back["simname"].tolist() == ["sim900005-000003", "sim900005-000004"] and (back["plate"] == 900_005).all()
    np.testing.assert_allclose(back["z"], cube.table["redshift"])
    assert back["ifudesignsize"].tolist() == [127, 127] and not {"mangaid", "plateifu"} & set(back.colnames)
    np.testing.assert_allclose(back["nsa_elpetro_mass"], 10**10.2, rtol=1e-5)
