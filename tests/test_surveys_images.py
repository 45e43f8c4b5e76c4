# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Readers of images and catalogues: what their numbers mean, fields of bricks, cutouts that are fetched, bad files."""

import io
import urllib.error
from email.message import Message

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.wcs import WCS
from image_files import CENTER, DEC, RA, SIDE, cutout, drpall, header, image, sdss_frame, table, write

from fiberifu.flags import Flag
from fiberifu.image import prepare_image
from fiberifu.surveys import (
    BrickIndex,
    DRPQuality,
    cut_image,
    fetch_cutout,
    read_drpall,
    read_image,
    read_legacysurvey,
    read_legacysurvey_brick,
    read_ps1,
    read_sdss_frame,
    read_tractor,
    read_unwise,
)
from fiberifu.surveys.legacysurvey import fetch


# ---------------------------------------------------------------- what the numbers mean
def test_any_image(tmp_path):
    plane = image()
    plane[2, 3] = np.nan
    sigma = fits.ImageHDU(np.full(plane.shape, 0.1, np.float32), header(), name="ERR")
    path = write(tmp_path / "my.fits", fits.PrimaryHDU(plane, header(FILTER="r DECam SDSS c0002")), sigma)
    with pytest.raises(ValueError, match=r"my\.fits.*zero_point"):
        read_image(path, "r")
    ccd = read_image(path, "r", zero_point=25.0, psf_fwhm=1.2 * u.arcsec, ebv=0.03)
    np.testing.assert_allclose(ccd.data, plane * 0.1, rtol=1e-6)  # 2.5 mag are a factor of ten
    np.testing.assert_allclose(ccd.uncertainty.array, 0.01, rtol=1e-6)
    assert ccd.unit == u.nmgy and np.argwhere(ccd.mask).tolist() == [[2, 3]]
    assert ccd.meta["FILTER"] == "DECam r" and ccd.meta["PSF_FWHM"] == 1.2
    assert prepare_image({"r": ccd}).sb.shape[0] == 4
    jansky = read_image(write(tmp_path / "jy.fits", fits.PrimaryHDU(plane, header(BUNIT="uJy"))), "r")
    assert jansky.unit == u.uJy or jansky.unit == u.nmgy
    np.testing.assert_allclose((jansky.data * jansky.unit).to_value(u.uJy), plane, rtol=1e-5)
    kept = read_image(path, "r", zero_point=22.5, uncertainty="ERR", uncertainty_type="ivar")
    np.testing.assert_allclose(kept.uncertainty.array, 0.1)
    for wrong, match in (
        ({"unit": "m"}, "neither a flux density"),
        ({"unit": "nmgy", "zero_point": 25}, "both given"),
        ({"hdu": 7, "zero_point": 25}, "no HDU 7"),
        ({"zero_point": "bright"}, "AB magnitude"),
        ({"zero_point": 25, "uncertainty_type": "rms"}, "uncertainty_type"),
        ({"zero_point": 25, "psf_fwhm": 1.2}, "psf_fwhm"),
    ):
        with pytest.raises(ValueError, match=match):
            read_image(path, "r", **wrong)


@pytest.mark.parametrize(
    ("cards", "known"),
    [
        ({"FILTER": "g"}, False),  # of which camera?
        ({"FILTER": "g", "INSTRUME": "DECam"}, True),
        ({"FILTER": "g DECam SDSS c0001 4720.0 1520.0", "INSTRUME": "DECam"}, True),
        ({"FILTER": "DECam g"}, True),
        ({"FILTER": "g.MP9402", "INSTRUME": "MegaPrime"}, False),
        ({"FILTER": "BASS g"}, False),
        ({}, False),
    ],
)
def test_filter_of_a_header(tmp_path, cards, known):
    """A filter is DECam's if the header says so; else it is taken as that, with a flag and a note."""
    path = write(tmp_path / "g.fits", fits.PrimaryHDU(image(), header(BUNIT="nJy", **cards)))
    prepared = prepare_image({"g": read_image(path, "g")})
    assert (prepared.flags & Flag.FILTER_ASSUMED == 0) is known
    assert any("taken as DECam" in note for note in prepared.notes) is not known


def test_files_of_ccddata(tmp_path):
    """Errors, mask and PSF as `CCDData.write` names them; the header's PSF, reddening and redshift."""
    plane, weight = image(), np.full((SIDE, SIDE), 100.0, np.float32)
    mask, psf = plane > 1.2, np.ones((3, 3))
    meta = {"PSF_FWHM": 1.3, "EBV": 0.05, "REDSHIFT": 0.03}
    ccd = CCDData(
        plane, unit=u.nJy, wcs=WCS(header()), uncertainty=InverseVariance(weight), mask=mask, meta=meta, psf=psf
    )
    ccd.write(tmp_path / "ccd.fits")
    found = read_image(tmp_path / "ccd.fits", "r")
    assert isinstance(found.uncertainty, InverseVariance) and found.unit == u.nJy
    np.testing.assert_array_equal(found.uncertainty.array, weight)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.psf, psf)
    assert {key: found.meta[key] for key in meta} == meta
    with fits.open(tmp_path / "ccd.fits", mode="update") as hdus:
        hdus["MASK"].data = hdus["MASK"].data * 32  # bits, of which nothing is known
        hdus[0].header["PSF_FWHM"] = 40.0  # pixels, for sure
    found = read_image(tmp_path / "ccd.fits", "r")
    assert not found.mask.any() and "PSF_FWHM" not in found.meta


def test_unwise_vega_to_ab(tmp_path):
    path = tmp_path / "unwise-0000p000-w1-img-m.fits"
    write(path, fits.PrimaryHDU(np.ones((SIDE, SIDE), np.float32), header(scale=2.75, MAGZP=22.5)))
    weight = np.full((SIDE, SIDE), 4, np.float32)
    weight[0, 0] = 0
    write(tmp_path / "unwise-0000p000-w1-invvar-m.fits", fits.PrimaryHDU(weight, header(scale=2.75)))
    ccd = read_unwise(path)["W1"]
    vega = -2.5 * np.log10(ccd.data[5, 5]) + 22.5
    assert vega == pytest.approx(22.5 + 2.699, abs=1e-5)  # the AB magnitude of Vega magnitude 22.5
    assert ccd.uncertainty.array[5, 5] == pytest.approx(4 * 10 ** (0.8 * 2.699), rel=1e-5)
    assert np.argwhere(ccd.mask).tolist() == [[0, 0]] and ccd.meta["PSF_FWHM"] == 6.1
    with pytest.raises(ValueError, match="'W2', but it is 'W1'"):
        read_unwise({"W2": path})


@pytest.mark.parametrize("scaled", [True, False])
def test_ps1_scale(tmp_path, scaled):
    """asinh magnitudes of archived skycells, with variances and masks beside them; cutouts are linear."""
    counts = 1000 * image().astype(float)
    soften, offset = 120.0, 7.0
    value = 2.5 * np.log10(np.e) * np.arcsinh((counts - offset) / (2 * soften)) if scaled else counts
    cards = {"BSOFTEN": soften, "BOFFSET": offset} if scaled else {}
    cards = header(scale=0.25, EXPTIME=100.0, **{"HIERARCH FPA.FILTERID": "r.00000"}, **cards)
    name = "rings.v3.skycell.1.2.stk.r.unconv"
    write(tmp_path / f"{name}.fits", fits.PrimaryHDU(), fits.CompImageHDU(value, cards, quantize_level=-1e-6))
    bits = np.zeros(counts.shape, np.int16)
    bits[1, 2], bits[3, 4] = 0x0020, 0x0008
    write(tmp_path / f"{name}.mask.fits", fits.PrimaryHDU(bits, header(scale=0.25)))
    variance = np.full(counts.shape, 25.0)
    write(tmp_path / f"{name}.wt.fits", fits.PrimaryHDU(variance, header(scale=0.25)))
    ccd = read_ps1(tmp_path / f"{name}.fits")["r"]
    factor = 10 ** (-0.4 * (25 + 5 - 22.5))  # 2.5 log10(100 s) = 5
    np.testing.assert_allclose(ccd.data, counts * factor, rtol=1e-4)
    np.testing.assert_allclose(ccd.uncertainty.array[~ccd.mask], 1 / (25 * factor**2), rtol=1e-5)
    assert np.argwhere(ccd.mask).tolist() == [[3, 4]] and np.argwhere(ccd.flags).tolist() == [[1, 2]]
    assert ccd.flags.max() == Flag.SATURATED and ccd.meta["FILTER"] == "PS1 r"


def test_sdss_frame(tmp_path):
    ccd = read_sdss_frame(sdss_frame(tmp_path / "frame.fits"))["r"]
    electrons = 4.72 * (ccd.data.astype(float) / 0.005 + 100)  # gain of camera column 3 in r
    sigma = np.sqrt(electrons / 4.72**2 + 1.3225) * 0.005  # dark variance in counts^2
    np.testing.assert_allclose(ccd.uncertainty.array**-0.5, sigma, rtol=1e-5)
    assert ccd.meta["FILTER"] == "SDSS r" and not ccd.mask.any()
    with pytest.raises(ValueError, match="CAMCOL is 9"):
        read_sdss_frame(sdss_frame(tmp_path / "frame.fits", CAMCOL=9))
    with pytest.raises(ValueError, match="nanomaggy"):
        read_sdss_frame(sdss_frame(tmp_path / "frame.fits", BUNIT="counts"))


# ---------------------------------------------------------------- fields of bricks
@pytest.fixture(scope="module")
def bricks(tmp_path_factory):
    """One sky in two bricks of 40 pixels that overlap by ten."""
    folder = tmp_path_factory.mktemp("coadd")
    sky = 1 + np.add.outer(np.arange(40) / 40, np.arange(70) / 70)
    for name, start in (("0001m030", 0), ("0002m030", 30)):
        (folder / name).mkdir()
        cards = header(40, shift=start - 15, VERSION="DR9")  # the sky's 70 columns have their middle at RA
        for kind, plane in {
            "image": sky,
            "invvar": np.full(sky.shape, 16.0),
            "psfsize": np.full(sky.shape, 1.3),
        }.items():
            part = plane[:, start : start + 40].astype(np.float32)
            hdu = fits.CompImageHDU(part, cards, quantize_level=-1e-7)
            write(folder / name / f"legacysurvey-{name}-{kind}-r.fits.fz", fits.PrimaryHDU(), hdu)
    return folder, sky


def test_field_within_a_brick_is_copied(bricks):
    folder, sky = bricks
    index = BrickIndex(folder)
    assert index.names == ["0001m030", "0002m030"]
    place = CENTER.spherical_offsets_by(20 * 0.262 * u.arcsec, 0 * u.arcsec)  # East: column 14.5 of the sky
    ccd = read_legacysurvey_brick(index, place, 10 * 0.262 * u.arcsec)["r"]
    assert ccd.shape == (10, 10) and ccd.meta["BRICKS"] == ["0001m030"] and ccd.meta["PSF_FWHM"] == pytest.approx(1.3)
    np.testing.assert_allclose(ccd.data, sky[15:25, 10:20], atol=1e-5)
    x, y = ccd.wcs.world_to_pixel(place)
    assert (float(x), float(y)) == pytest.approx((4.5, 4.5), abs=1e-3)
    assert isinstance(ccd.uncertainty, InverseVariance)


def test_field_across_bricks(bricks):
    folder, sky = bricks
    ccd = read_legacysurvey_brick(folder, CENTER, 30 * 0.262 * u.arcsec, bands=["r"])["r"]
    assert len(ccd.meta["BRICKS"]) == 2 and not ccd.mask.any()
    np.testing.assert_allclose(ccd.data, sky[5:35, 20:50], atol=1e-3)
    np.testing.assert_allclose(ccd.uncertainty.array, 16, rtol=1e-3)
    wide = read_legacysurvey_brick(folder, CENTER, 80 * 0.262 * u.arcsec)["r"]
    assert wide.mask.sum() == 80 * 80 - 40 * 70  # what no brick covers
    with pytest.raises(ValueError, match="no brick in"):
        read_legacysurvey_brick(folder, SkyCoord(10, 10, unit="deg"), 5 * u.arcsec)
    with pytest.raises(ValueError, match=r"not \['i'\]"):
        read_legacysurvey_brick(folder, CENTER, 5 * u.arcsec, bands=["i"])
    with pytest.raises(ValueError, match="2 bricks; give position"):
        read_legacysurvey_brick(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        BrickIndex(folder / "none")


HALF = 16  # pixels of half a brick of `corner`
SIGMA = 1.0  # arcsec, of its galaxy


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """A round galaxy where four bricks meet, each with a tangent plane of its own; six pixels of overlap."""
    folder = tmp_path_factory.mktemp("corner")
    y, x = np.indices((2 * HALF, 2 * HALF))
    for name, east, north in (("a", 1, 1), ("b", -1, 1), ("c", 1, -1), ("d", -1, -1)):
        middle = CENTER.spherical_offsets_by(*((HALF - 3) * 0.262 * side * u.arcsec for side in (east, north)))
        cards = header(2 * HALF, VERSION="DR9", CRVAL1=middle.ra.deg, CRVAL2=middle.dec.deg)
        apart = WCS(cards).pixel_to_world(x, y).separation(CENTER).arcsec
        galaxy = np.exp(-0.5 * (apart / SIGMA) ** 2).astype(np.float32)
        planes = {"image-r": galaxy, "invvar-r": np.full_like(galaxy, 16), "psfsize-r": np.full_like(galaxy, 1.3)}
        planes["maskbits"] = np.where(apart < 0.5, 1 << 3, 0).astype(np.int16)  # saturated in r
        if name == "d":
            del planes["invvar-r"]
        for kind, plane in planes.items():
            how = {"compression_type": "GZIP_1", "quantize_level": 0}
            (folder / name).mkdir(exist_ok=True)
            hdu = fits.CompImageHDU(plane, cards, **how)
            write(folder / name / f"legacysurvey-{name}-{kind}.fits.fz", fits.PrimaryHDU(), hdu)
    return folder


def test_galaxy_where_four_bricks_meet(corner):
    """It is whole, where it is, and what one brick lacks is masked where that brick alone has it."""
    ccd = read_legacysurvey_brick(corner, CENTER, 28 * 0.262 * u.arcsec)["r"]
    assert sorted(ccd.meta["BRICKS"]) == ["a", "b", "c", "d"] and ccd.shape == (28, 28)
    y, x = np.indices(ccd.shape)
    sky = ccd.wcs.pixel_to_world(x, y)
    apart = sky.separation(CENTER).arcsec
    np.testing.assert_allclose(ccd.data, np.exp(-0.5 * (apart / SIGMA) ** 2), atol=2e-3)
    assert ccd.data.sum() * 0.262**2 == pytest.approx(2 * np.pi * SIGMA**2, rel=1e-3)
    np.testing.assert_array_equal(ccd.flags != 0, apart < 0.5)
    east, north = (offset.arcsec / 0.262 for offset in CENTER.spherical_offsets_to(sky))
    only_d = (east < -3) & (north < -3)  # South-West beyond the overlap, where it is without weights
    np.testing.assert_array_equal(ccd.mask, only_d)


def test_field_partly_outside_of_all_bricks(corner):
    """What no brick covers is masked, not zero; the rest can be used."""
    edge = CENTER.spherical_offsets_by(-26 * 0.262 * u.arcsec, 12 * 0.262 * u.arcsec)  # three pixels from b's side
    image = read_legacysurvey_brick(corner, edge, 20 * 0.262 * u.arcsec)
    ccd = image["r"]
    outside = np.isnan(ccd.data)
    assert 0.3 < outside.mean() < 0.4 and outside[:, -6:].all() and not outside[:, :12].any()
    assert ccd.mask[outside].all() and (ccd.uncertainty.array[outside] == 0).all()
    prepared = prepare_image(image)
    assert np.isfinite(prepared.sb).all() and 0.3 < prepared.bad.mean() < 0.4
    beyond = CENTER.spherical_offsets_by(-40 * 0.262 * u.arcsec, 12 * 0.262 * u.arcsec)
    with pytest.raises(ValueError, match="no brick in"):
        read_legacysurvey_brick(corner, beyond, 10 * 0.262 * u.arcsec)


def test_table_of_bricks(bricks, tmp_path):
    folder, _ = bricks
    columns = {"BRICKNAME": ["0001m030", "0009m030"], "RA": [RA, 210.0], "DEC": [DEC, DEC]}
    columns = [fits.Column(k, "8A" if k == "BRICKNAME" else "D", array=v) for k, v in columns.items()]
    table = write(tmp_path / "survey-bricks.fits", fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns))
    index = BrickIndex(folder, table=table)
    assert index.find(CENTER) == ["0001m030"] and len(index.files("0001m030")) == 3 and not index.files("0009m030")


def test_cut_image():
    plane = image(40)
    ccd = CCDData(plane, unit=u.nmgy, wcs=WCS(header(40)), mask=plane > 5, psf=np.ones((3, 3)), meta={"BAND": "r"})
    ccd.flags = np.arange(1600).reshape(40, 40)
    cut = cut_image({"r": ccd}, CENTER, 10 * 0.262 * u.arcsec)["r"]
    np.testing.assert_array_equal(cut.data, plane[15:25, 15:25])
    np.testing.assert_array_equal(cut.flags, ccd.flags[15:25, 15:25])
    assert cut.psf.shape == (3, 3) and cut.wcs.pixel_to_world(4.5, 4.5).separation(CENTER) < 1e-3 * u.arcsec
    with pytest.raises(ValueError, match="no image reaches it"):
        cut_image(ccd, SkyCoord(10, 10, unit="deg"), 5 * u.arcsec)
    with pytest.raises(ValueError, match="one SkyCoord"):
        cut_image(ccd, SkyCoord([1, 2], [1, 2], unit="deg"), 5 * u.arcsec)


# ---------------------------------------------------------------- cutouts that are fetched
class Viewer:
    """Stands for the sky viewer: answers one after the other, or raises them."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request, timeout):
        self.asked.append(request.full_url)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        body = io.BytesIO(answer)
        body.headers = {"Content-Length": str(len(answer))}
        return body


@pytest.fixture
def viewer(monkeypatch):
    """Makes the viewer, and counts the seconds that would have been waited."""
    waits = []
    monkeypatch.setattr(fetch, "INTERVAL", 0.0)
    monkeypatch.setattr(fetch.time, "sleep", waits.append)

    def make(*answers):
        out = Viewer(*answers)
        monkeypatch.setattr(fetch.urllib.request, "urlopen", out)
        out.waits = waits
        return out

    return make


def state(code, **headers):
    message = Message()
    for key, value in headers.items():
        message[key.replace("_", "-")] = value
    return urllib.error.HTTPError("address", code, "reason", message, None)


SIZE = SIDE * 0.262 * u.arcsec


def test_fetched_once(viewer, tmp_path):
    seen = viewer(cutout(), cutout())
    path = fetch_cutout(CENTER, SIZE, folder=tmp_path)
    assert list(read_legacysurvey(path)) == ["g", "r", "z"]
    assert fetch_cutout(CENTER, SIZE, folder=tmp_path) == path and len(seen.asked) == 1
    assert f"size={SIDE}" in seen.asked[0] and "layer=ls-dr9" in seen.asked[0] and "&invvar" in seen.asked[0]
    path.write_bytes(path.read_bytes()[:-2880])  # its sha256 is not that of the note any more
    fetch_cutout(CENTER, SIZE, folder=tmp_path)
    assert len(seen.asked) == 2 and len(read_legacysurvey(path)) == 3


def test_fetch_tries_again(viewer, tmp_path):
    seen = viewer(state(503), state(429, Retry_After="7"), cutout()[:-2880], cutout(12), cutout())
    assert fetch_cutout(CENTER, SIZE, folder=tmp_path).is_file()
    assert seen.waits == [5.0, 7.0, 20.0, 40.0]
    seen = viewer(urllib.error.URLError("no network"), ConnectionResetError("reset"))
    with pytest.raises(OSError, match=r"2 attempts.*later"):
        fetch_cutout(CENTER, 2 * SIZE, folder=tmp_path, retries=1)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".fits", ".sha256"]  # nothing half-done
    viewer(state(404))
    with pytest.raises(ValueError, match="answers 404"):
        fetch_cutout(CENTER, 2 * SIZE, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((CENTER, 1 * u.deg), "in the bricks"),
        ((CENTER, 10), "positive angle"),
        ((SkyCoord([1, 2], [1, 2], unit="deg"), SIZE), "one SkyCoord"),
        ((SkyCoord(np.nan, 1, unit="deg"), SIZE), "not finite"),
    ],
)
def test_fetch_asks_nothing_for_wrong_arguments(viewer, tmp_path, arguments, match):
    seen = viewer()
    with pytest.raises(ValueError, match=match):
        fetch_cutout(*arguments, folder=tmp_path)
    assert not seen.asked


# ---------------------------------------------------------------- catalogues
def test_drpall(tmp_path):
    found = read_drpall(drpall(tmp_path / "drpall.fits"))
    assert list(found["name"]) == ["7815-3702", "8000-1901", "8000-1902"]
    np.testing.assert_allclose(found["z"], [0.021, 0.05, 0.03])
    np.testing.assert_allclose(found["r50"].to_value(u.arcsec), [5, 4, np.nan])
    assert found["position_angle"][0] == 10 * u.deg and found["ebvgal"].unit == u.mag
    assert found["critical"].tolist() == [False, True, False] and found["galaxy"].tolist() == [True, False, True]
    assert DRPQuality(int(found["quality"][1])) == DRPQuality.CRITICAL | DRPQuality.BADDEPTH
    with pytest.raises(ValueError, match="without a position"):
        read_drpall(drpall(tmp_path / "bad.fits", objra=[np.nan, 1.0, 2.0]))


def test_tractor_ellipses(tmp_path):
    """An ellipse of b/a = 0.5, 30 degrees from North through East."""
    e, angle = 1 / 3, np.radians(60)
    shapes = {"shape_r": [2.0, 0.0], "shape_e1": [e * np.cos(angle), 0.0], "shape_e2": [e * np.sin(angle), 0.0]}
    path = table(tmp_path / "tractor.fits", RA=[1.0, 2.0], DEC=[3.0, 4.0], FLUX_R=[5.0, 6.0], **shapes)
    found = read_tractor(path)
    np.testing.assert_allclose(found["axis_ratio"], [0.5, 1])
    assert found["position_angle"][0].to_value(u.deg) == pytest.approx(30) and found["flux_r"].unit == u.nmgy
    assert found["r50"][0] == 2 * u.arcsec and "flux_r" not in read_tractor(path, columns=["dec"]).colnames


# ---------------------------------------------------------------- bands of no use, and bad files
def test_bands_that_the_model_does_not_use():
    planes = {
        b: CCDData(image(), unit=u.nmgy, wcs=WCS(header()), meta={"PSF_FWHM": 1.2}) for b in ("g", "r", "W1", "u")
    }
    prepared = prepare_image(planes)
    assert any("W1, u left out" in note for note in prepared.notes)
    only = prepare_image({b: planes[b] for b in "gr"})
    np.testing.assert_array_equal(prepared.sb, only.sb)
    with pytest.raises(ValueError, match="none of them"):
        prepare_image({"W1": planes["W1"]})
