# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The MaNGA harness: a network that is exactly right must come out with residual 0, whatever the conventions."""

import dataclasses
import json
import os
import shutil
import warnings
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import PIL.Image
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from astropy.wcs import WCS
from scipy.stats import norm
from specutils import Spectrum

from fiberifu.extinction import mw_transmission
from fiberifu.lines import DAPMask, LineMaps, line_table
from fiberifu.lines.diagnostics import relative_extinction
from fiberifu.model import LINES
from fiberifu.simulate.files.legacysurvey import write_cutout
from fiberifu.simulate.products import BandImages
from fiberifu.surveys import DRPQuality
from fiberifu.validate import measure_calibration, measure_scores
from fiberifu.validate.manga import (
    Ellipse,
    GalaxyFiles,
    Unusable,
    compare,
    find_galaxies,
    fit_cube,
    galaxy_row,
    predict_spaxels,
    read_comparison,
    read_maps,
    summary_lines,
    validate_manga_to_folder,
)
from fiberifu.validate.manga import galaxy as galaxy_module
from fiberifu.validate.manga.compare import known_errors, mean_of
from fiberifu.validate.manga.job import _done
from fiberifu.validate.manga.store import write_comparison

CENTER = SkyCoord(150.0, 2.0, unit="deg")
Z, EBV, SIDE, SPAXEL, PSF, BEAM = 0.03, 0.3, 20, 0.5, 2.5, 1.8
WAVE = line_table(list(LINES))["wavelength"].to_value(u.AA) * (1 + Z)
STRENGTH = np.linspace(1, 3, len(LINES))[:, None]
for _weak, _strong, _ratio in (("O3_4959", "O3_5007", 0.33557), ("N2_6548", "N2_6583", 0.32787)):
    STRENGTH[LINES.index(_weak)] = _ratio * STRENGTH[LINES.index(_strong)]


def emitted(positions, beam):
    """Line surface brightness (L, n) and continuum (n,) of a galaxy without symmetry, at a beam [arcsec]."""
    # about the same tangent point in all frames
    east, north = (x.to_value(u.arcsec) for x in CENTER.spherical_offsets_to(SkyCoord(positions.ra, positions.dec)))
    variance = (beam / 2.3548) ** 2

    def blob(x, y, fwhm):
        total = (fwhm / 2.3548) ** 2 + variance
        return (fwhm / 2.3548) ** 2 / total * np.exp(-((east - x) ** 2 + (north - y) ** 2) / 2 / total)

    return STRENGTH * 20 * (blob(1.5, 0.5, 3) + 0.4 * blob(-1, 2, 4)), 4 * blob(0.2, -0.3, 5) + 0.05


class ExactIFU:
    """A network that knows the galaxy, seen at ``BEAM``."""

    passport, config, weights_sha256 = {}, SimpleNamespace(name="exact"), "0" * 64

    def predict(self, image, places, *, redshift, deredden, aperture):
        assert deredden and redshift == Z and abs(aperture.side.value - SPAXEL) < 1e-6
        area = SPAXEL**2
        lines, level = emitted(places, BEAM)
        lines, level = lines * area, np.broadcast_to(level * area, lines.shape)
        maps = LineMaps(LINES, lines, 0.1 * lines, lines / level / (1 + Z), 0.1 * lines / level, level, 0.01 * level,
                        redshift=Z, positions=places)  # fmt: skip
        prepared = SimpleNamespace(notes=[], present=np.ones(4, bool), bands=tuple("griz"), center=CENTER, sha256="0",
                                   galaxy=None)  # fmt: skip
        return SimpleNamespace(image=prepared, beam=BEAM * u.arcsec, line_maps=lambda lines: maps,
                               photometry={"flux": np.repeat(level[:1].T, 4, 1)})  # fmt: skip


def spaxel_wcs(angle=0.0, parity=-1):
    """Of the spaxels: East to the left for parity -1, turned by an angle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.radesys = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], "FK5"
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[parity * c, s], [-parity * s, c]]) * SPAXEL / 3600
    wcs.wcs.crval, wcs.wcs.crpix = [CENTER.ra.deg, CENTER.dec.deg], [SIDE / 2 + 0.5] * 2
    wcs.wcs.set()
    return wcs


def spaxels(wcs):
    y, x = np.indices((SIDE, SIDE))
    lines, level = emitted(wcs.pixel_to_world(x.ravel(), y.ravel()).icrs, PSF)
    return (lines * SPAXEL**2).reshape(-1, SIDE, SIDE), (level * SPAXEL**2).reshape(SIDE, SIDE)


def write_maps(path, wcs=None, bits=0, **cards):
    """As the DAP: dereddened by O'Donnell's law with the same E(B-V), which is not ours."""
    flux, level = spaxels(wcs or spaxel_wcs())
    ew = flux / level / (1 + Z)
    theirs = relative_extinction(WAVE * u.AA, "odonnell94")
    law = (mw_transmission(WAVE, EBV) * 10 ** (0.4 * EBV * theirs))[:, None, None]
    flux, level = flux * law, level * law
    mask = np.broadcast_to(bits, flux.shape).astype(np.int32)
    maps = LineMaps(LINES, flux, np.full_like(flux, 0.01), ew, 0.01 * ew, level, 0.1,
                    redshift=Z, wcs=wcs or spaxel_wcs(), mask=mask, ebv=EBV, extinction_corrected=True,
                    velocity=np.zeros_like(flux))  # fmt: skip
    maps.write(path, overwrite=True)
    header = {"EBVGAL": EBV, "GEXTLAW": "ODonnell", "RVGAL": 3.1, "RFWHM": PSF, "DAPTYPE": "HYB10-TEST", "REFF": 2.8,
              "ECOOELL": 0.2, "ECOOPA": 40.0, "OBJRA": CENTER.ra.deg, "OBJDEC": CENTER.dec.deg}  # fmt: skip
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update(header | cards)


def make_cube(wcs):
    """Lines of known flux on a flat continuum, reddened: as a reader gives a LOGCUBE."""
    wave = 10 ** (3.67 + 1e-4 * np.arange(1900))  # 4677 to 7244 Angstrom
    edges = 10 ** (3.67 + 1e-4 * (np.arange(1901) - 0.5))
    flux, level = spaxels(wcs)
    total = level[None] * np.ones(len(wave))[:, None, None]
    for centre, one in zip(WAVE, flux, strict=True):
        sigma = np.hypot(1.0, centre * 80 / 299792.458)  # Angstrom, of the instrument and of the gas
        total += (np.diff(norm.cdf(edges, centre, sigma)) / np.diff(edges))[:, None, None] * one
    total *= mw_transmission(wave, EBV)[:, None, None]
    mask = np.zeros(total.shape, bool)
    mask[:, :, :3] = True
    meta = {"lsf": np.full(len(wave), 1.0) * u.AA, "ebv": EBV, "medium": "vacuum", "redshift": Z, "celestial_wcs": wcs,
            "psf_fwhm": {"r": PSF * u.arcsec}, "quality": DRPQuality(0), "header": fits.Header()}  # fmt: skip
    return Spectrum(total * u.Unit("1e-17 erg / (s cm2 AA)"), spectral_axis=wave * u.AA, spectral_axis_index=0,
                    uncertainty=InverseVariance(np.full(total.shape, 1e4)), mask=mask, meta=meta)  # fmt: skip


def errors_of(observed, angle=40.0):
    """Log predicted / observed flux and EW where they count, and the comparison."""
    wanted = observed.group >= 0
    seen = predict_spaxels(ExactIFU(), {}, observed.wcs, wanted, redshift=Z, ebv=observed.ebv,
                           psf_fwhm=observed.psf_fwhm, spaxel=observed.spaxel)  # fmt: skip
    made = compare("exact", observed, seen, wanted, Ellipse(CENTER, 2.8, 0.8, angle, "test"))
    truth, maps = made.truth, made.answers["model"]
    good = ~made.mask & (truth.radius < 1.6)[:, None]
    assert good.sum() > 900
    return np.log10(maps.flux / truth.flux)[good], np.log10(maps.ew / truth.ew)[good], made


# ---------------------------------------------------------------- a network that is exactly right
@pytest.mark.parametrize(("angle", "parity"), [(0, 1), (35, -1)])
def test_exact_network_against_maps(tmp_path, angle, parity):
    path = tmp_path / "manga-1-1-MAPS-HYB10.fits"
    write_maps(path, spaxel_wcs(angle, parity))
    flux, ew, made = errors_of(read_maps(path))
    assert np.abs(flux).max() < 1e-4  # orientation, units, PSF, Galactic extinction
    assert np.abs(ew).max() < 1e-4
    assert made.continuum_dex == pytest.approx(0, abs=0.002)
    row = galaxy_row(made)
    assert row["Ha R2 log flux"] > 0.999 and row["Ha bias log EW [dex]"] == pytest.approx(0, abs=0.002)
    assert row["Ha R2 log flux, light"] < 0.9 and row["Ha chosen"] > 80
    # the grid has North up and East right
    brightest = np.argmax(made.truth.flux[:, LINES.index("Ha")])
    assert made.truth.east[brightest] > 0.5
    if angle == 0:
        middle = np.argmin(np.hypot(made.truth.east, made.truth.north))
        assert made.truth.column[brightest] > made.truth.column[middle]


def test_bins_are_no_cells_of_a_sum(tmp_path):
    write_maps(tmp_path / "manga-1-1-MAPS-HYB10.fits")
    single = read_maps(tmp_path / "manga-1-1-MAPS-HYB10.fits")
    single = single.within(np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2)) < 7)
    wanted = single.group >= 0
    seen = predict_spaxels(ExactIFU(), {}, single.wcs, wanted, redshift=Z, ebv=EBV, psf_fwhm=PSF, spaxel=SPAXEL)
    y, x = np.indices((SIDE, SIDE))
    blocks = np.where(wanted, np.unique((y // 4 * SIDE + x // 2)[wanted], return_inverse=True)[1][single.group], -1)
    members = blocks[wanted]
    names = ("flux", "flux_sigma", "continuum", "ew", "ew_sigma")
    parts = {name: mean_of(getattr(single, name), members) for name in names}
    n = members.max() + 1
    binned = dataclasses.replace(
        single, group=blocks, bad=np.zeros((n, len(LINES)), bool), velocity=np.zeros(n), **parts
    )
    ellipse = Ellipse(CENTER, 2.8, 0.8, 40.0, "test")
    made = [compare(name, one, seen, wanted, ellipse) for name, one in (("one", single), ("bins", binned))]
    assert len(made[1].truth) == n < len(made[0].truth) / 4 and binned.binned and not single.binned
    answers = {"model": [one.answers["model"] for one in made]}
    truths, keywords = [one.truth for one in made], known_errors(made) | {"draws": 0}
    for rows in (measure_scores(answers, truths, **keywords), measure_calibration(answers, truths, **keywords)[0]):
        galaxies = {row["region"]: row["galaxies"] for row in rows if row["quantity"] == "Ha"}
        assert galaxies["sum"] == 1 and galaxies["whole"] == 2
    rows = measure_scores({"model": answers["model"][1:]}, truths[1:], masks=[made[1].mask], draws=0)
    assert not any(row["region"] == "sum" for row in rows)  # bins alone
    write_comparison(tmp_path / "bins_predicted.npz", made[1], {})
    assert np.isnan(read_comparison(tmp_path / "bins_predicted.npz")[0].truth.spaxel)


def test_exact_network_against_a_fit(tmp_path):
    fits.PrimaryHDU().writeto(tmp_path / "cube.fits")  # of which mask bits would be read
    cube = make_cube(spaxel_wcs(20))
    near = lambda wcs, shape: Ellipse(CENTER, 4.0, 0.8, 40.0, "").offsets(wcs, shape)[2] < 0.6  # noqa: E731
    observed = fit_cube(cube, tmp_path / "cube.fits", near=near, continuum=1)
    assert (observed.group[:, :3] == -1).all() and observed.kind == "fit of the cube (polynomial of degree 1)"
    wanted = observed.group >= 0
    seen = predict_spaxels(ExactIFU(), {}, observed.wcs, wanted, redshift=Z, ebv=EBV, psf_fwhm=PSF, spaxel=SPAXEL)
    made = compare("exact", observed, seen, wanted, Ellipse(CENTER, 4.0, 0.8, 40.0, "test"))
    for line in ("Ha", "O3_5007", "Hb", "S2_6716"):
        i = LINES.index(line)
        assert np.abs(np.log10(made.answers["model"].flux[:, i] / made.truth.flux[:, i])).max() < 0.002, line
        # sidebands are at other wavelengths than the line, and reddened otherwise
        assert np.abs(np.log10(made.answers["model"].ew[:, i] / made.truth.ew[:, i])).max() < 0.002, line


def test_network_of_the_package_is_blurred_as_a_large_aperture():
    from fiberifu import Gaussian, VirtualIFU
    from fiberifu.datasets import example_image

    ifu, image = VirtualIFU.from_pretrained(), example_image()
    wcs = spaxel_wcs()
    wcs.wcs.crval = [image["r"].wcs.wcs.crval[0], image["r"].wcs.wcs.crval[1]]
    wanted = np.zeros((SIDE, SIDE), bool)
    wanted[9:11, 8:12] = True
    seen = predict_spaxels(ifu, image, wcs, wanted, redshift=Z, ebv=0.0, psf_fwhm=2.5, spaxel=SPAXEL)
    rows, columns = np.nonzero(wanted)
    shape = Gaussian(np.sqrt(2.5**2 - ifu._prepare(image, 0.0, None).psf_fwhm ** 2) * u.arcsec)
    large = ifu.predict(image, wcs.pixel_to_world(columns, rows).icrs, aperture=shape, redshift=Z).line_maps(LINES)
    scale = np.pi / 4 * 1.5**2 / shape.area.value
    for line in ("Ha", "O3_5007"):
        i = LINES.index(line)
        np.testing.assert_allclose(seen.lines.flux[:, i], large.flux[line].data * scale, rtol=0.05)
        np.testing.assert_allclose(seen.lines.flux_sigma[:, i], large.flux[line].uncertainty.array * scale, rtol=0.1)
        np.testing.assert_allclose(seen.lines.ew[:, i], large.ew[line].data, rtol=0.05)
    assert seen.lines.quantiles["EW Ha"].shape == (8, 15) and (np.diff(seen.lines.quantiles["Ha"]) >= 0).all()


# ---------------------------------------------------------------- what must not be used
def test_bits_of_spaxels_are_honoured(tmp_path):
    bits = np.zeros((len(LINES), SIDE, SIDE), np.int32)
    bits[:, 12, 10], bits[:, 12, 11] = DAPMask.LOWCOV, DAPMask.FORESTAR
    bits[:, 12, 12], bits[:, 12, 13] = DAPMask.NOCOV, DAPMask.DONOTUSE
    bits[LINES.index("Ha"), 12, 14] = DAPMask.DONOTUSE  # one line alone
    bits[:, 12, 15] = DAPMask.UNRELIABLE  # of a value that may be used
    write_maps(tmp_path / "maps.fits", bits=bits)
    observed = read_maps(tmp_path / "maps.fits")
    assert (observed.group[12, 10:14] == -1).all()
    assert observed.bad[observed.group[12, 14]].nonzero()[0].tolist() == [LINES.index("Ha")]
    assert not observed.bad[observed.group[12, 15]].any()
    assert len(observed.flux) == SIDE**2 - 4
    half = observed.within(np.indices((SIDE, SIDE))[1] < 13)
    assert len(half.flux) == (observed.group[:, :13] >= 0).sum() and (half.group[:, 13:] == -1).all()
    np.testing.assert_array_equal(half.grid(half.flux[:, 0])[:, :13], observed.grid(observed.flux[:, 0])[:, :13])


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"DRP3QUAL": 1 << 30}, "CRITICAL"),
        ({"DAPQUAL": 1 << 29}, "DAPCRIT"),
        ({"DATATYPE": "PREDICTED", "ORIGIN": "fiberifu"}, "predicted|PREDICTED"),
    ],
)
def test_files_that_are_no_truth(tmp_path, cards, reason):
    write_maps(tmp_path / "maps.fits", **cards)
    with pytest.raises(Unusable, match=reason):
        read_maps(tmp_path / "maps.fits")
    quality = DRPQuality(0 if "DATATYPE" in cards else 1 << 30)
    cube = SimpleNamespace(meta={"header": fits.Header(cards), "quality": quality})
    with pytest.raises(Unusable):
        fit_cube(cube, "cube.fits")


# ---------------------------------------------------------------- the whole job
def write_image(path):
    plane = np.full((64, 64), 0.5, np.float32)
    write_cutout(
        BandImages(dict.fromkeys("grz", plane), dict.fromkeys("grz", 400 * plane), np.zeros((64, 64), np.int16),
                   dict.fromkeys("grz", 1.3), 0.262, (150.0, 2.0), EBV, {"redshift": Z, "index": 1}),
        path, seed=5,
    )  # fmt: skip


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """Two good galaxies, one critical, one predicted, one without an image; and a network that is exactly right."""
    tree = tmp_path / "tree"
    tree.mkdir()
    write_maps(tree / "manga-8000-0-MAPS-HYB10-TEST.fits")
    for number in range(5):
        path = tree / f"manga-8000-{number}-MAPS-HYB10-TEST.fits"
        if number:
            shutil.copy(tree / "manga-8000-0-MAPS-HYB10-TEST.fits", path)
        for key, value in {2: {"DRP3QUAL": 1 << 30}, 3: {"DATATYPE": "PREDICTED"}}.get(number, {}).items():
            fits.setval(path, key, value=value)
        if number < 4:
            write_image(tree / f"image_sim-8000-{number}.fits")
    monkeypatch.setattr(galaxy_module, "_load", lambda source: ExactIFU())
    monkeypatch.setattr("fiberifu.validate.manga.figure.DRAWN", {"Ha": "Hα"})
    draw = galaxy_module.draw_galaxy  # slow: of one galaxy is enough
    monkeypatch.setattr(
        galaxy_module, "draw_galaxy", lambda *args: draw(*args) if "-1_" in args[-2].name else args[-2].write_bytes(b"")
    )
    return tree


def test_job_goes_on_where_it_was_killed(survey, tmp_path, monkeypatch):
    out, run = tmp_path / "out", galaxy_module.run_galaxy
    calls = []

    def killed(job, files):
        calls.append(files.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(job, files)

    monkeypatch.setattr("fiberifu.validate.manga.job.run_galaxy", killed)
    with pytest.raises(KeyboardInterrupt):
        validate_manga_to_folder(out, [survey])
    assert calls == ["8000-0", "8000-1"]
    paths = validate_manga_to_folder(out, [survey], resume=True, command="test", draws=10)
    assert calls[2:] == [f"8000-{i}" for i in range(1, 5)]  # the first was there
    assert [path.name for path in paths] == ["scores.json", "scores.ecsv", "galaxies.ecsv", "manga.html"]
    table = Table.read(out / "galaxies.ecsv")
    assert [bool(reason) for reason in table["reason"]] == [False, False, True, True, True]
    for row, words in zip(table[2:], ("CRITICAL", "made by fiberifu", "no image"), strict=True):
        assert words in row["reason"]
    assert np.abs(table["Ha bias log flux [dex]"][:2]).max() < 0.002
    report = json.loads((out / "scores.json").read_text())
    bias = [row for row in report["scores"] if (row["predictor"], row["score"], row["quantity"], row["region"])
            == ("model", "bias log flux [dex]", "Ha", "whole")]  # fmt: skip
    assert bias[0]["galaxies"] == 2 and abs(bias[0]["value"]) < 0.002
    page = (out / "manga.html").read_text()
    assert 'content="PREDICTED"' in page and page.count("data:image/png") == 2 and "<script" not in page
    assert "no image" in page and "8000-4" in page
    assert "galaxies compared: 2, skipped: 3" in list(summary_lines(out))
    made, about = read_comparison(out / "galaxies" / "8000-0_predicted.npz")
    assert made.truth.name == "8000-0" and about["truth"] == "MAPS HYB10-TEST" and about["group"].shape == (SIDE, SIDE)
    row = json.loads((out / "galaxies" / "8000-0_predicted.json").read_text())
    for cards in (
        row["provenance"],
        about["provenance"],
        PIL.Image.open(out / "galaxies" / "8000-1_predicted.png").text,
    ):
        assert (cards["DATATYPE"], cards["ORIGIN"], str(cards["SEED"])) == ("PREDICTED", "fiberifu", "0")
        assert {"MODELID", "TRAINSET", "FIBIFUV", "IMGSHA", "REDSHIFT", "ZSRC"} <= set(cards) and len(
            cards["WSHA256"]
        ) == 64
    assert all("predicted" in path.name for path in (out / "galaxies").iterdir())
    with pytest.raises(ValueError, match="radius"):
        validate_manga_to_folder(out, [survey], resume=True, radius=1.0)


@pytest.mark.parametrize(
    "change",
    [{"redshift": 0.031}, {"r50": 3.0}, {"axis_ratio": 0.5}, {"position_angle": 30.0}, {"critical": True},
     {"position": SkyCoord(150.001, 2.0, unit="deg")}, {"image": ("r=g.fits", "g=r.fits")}, {}],
)  # fmt: skip
def test_result_is_kept_for_the_same_files_and_catalogue_alone(tmp_path, change):
    (tmp_path / "maps.fits").touch()
    files = GalaxyFiles("8000-1", maps=tmp_path / "maps.fits", image=("g=g.fits", "r=r.fits"), redshift=Z,
                        position=CENTER, r50=2.8, axis_ratio=0.8, position_angle=40.0)  # fmt: skip
    (tmp_path / "galaxies").mkdir()
    row = json.dumps({"name": "8000-1", "reason": "", "files": galaxy_module.stamp(files)})
    for end, text in (("json", row), ("npz", ""), ("png", "")):  # its files
        (tmp_path / "galaxies" / f"8000-1_predicted.{end}").write_text(text)
    kept = _done(tmp_path, dataclasses.replace(files, **change))
    assert (kept is None) == bool(change)
    later = (tmp_path / "maps.fits").stat().st_mtime + 5
    os.utime(tmp_path / "maps.fits", (later, later))
    assert _done(tmp_path, files) is None


def test_killed_worker_is_told_in_words(survey, tmp_path, monkeypatch):
    class Broken:
        def submit(self, *args):
            future = Future()
            future.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
            return future

    monkeypatch.setattr("fiberifu.validate.manga.job.open_executor", lambda *args: nullcontext(Broken()))
    with pytest.raises(OSError, match="a worker process has ended.*--resume"):
        validate_manga_to_folder(tmp_path / "out", [survey], workers=2)


def test_no_galaxy_and_wrong_arguments(tmp_path):
    write_maps(tmp_path / "manga-8000-1-MAPS-HYB10-TEST.fits")
    with pytest.raises(ValueError, match="no galaxy could be compared: 8000-1: no image"):
        validate_manga_to_folder(tmp_path / "out", [tmp_path])
    with pytest.raises(ValueError, match="truth is 'fit'"):
        validate_manga_to_folder(tmp_path / "out", [tmp_path], truth="fit")
    with pytest.raises(ValueError, match="continuum is 'flat'"):
        validate_manga_to_folder(tmp_path / "out", [tmp_path], continuum="flat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_galaxies([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no manga-"):
        find_galaxies([tmp_path / "empty"])


def test_files_that_belong_together(tmp_path):
    for name in ("manga-8000-1-LOGCUBE.fits.gz", "manga-8000-1-MAPS-SPX-A.fits.gz", "manga-8000-1-MAPS-HYB10-A.fits.gz",
                 "manga-8000-12-MAPS-HYB10-A.fits", "cutout-8000-1-g.fits", "cutout-8000-1-r.fits", "x-8000-12.fits",
                 "manga-8000-1-LOGCUBE-HYB10-A.fits.gz", "psf-8000-12.fits", "manga-sim900005-000040-LOGCUBE.fits.gz",
                 "cutout_sim-5-000040.fits", "copsf_sim-5-000040.fits", "41144_A_sectors_blue.fits.gz",
                 "41144_A_sectors_red.fits.gz", "41144_A_Halpha_default_1-comp.fits"):  # fmt: skip
        (tmp_path / name).touch()
    found = {one.name: one for one in find_galaxies([tmp_path])}
    assert list(found) == ["41144_A", "8000-1", "8000-12", "sim900005-000040"]
    one = found["8000-1"]
    assert one.maps.name == "manga-8000-1-MAPS-HYB10-A.fits.gz" and len(one.cube) == 1
    assert one.image == (f"g={tmp_path / 'cutout-8000-1-g.fits'}", f"r={tmp_path / 'cutout-8000-1-r.fits'}")
    assert found["8000-12"].image == (str(tmp_path / "x-8000-12.fits"),) and found["8000-12"].psf.name[:3] == "psf"
    assert found["sim900005-000040"].psf.name == "copsf_sim-5-000040.fits"
    assert [path.name[-11:] for path in found["41144_A"].cube] == ["lue.fits.gz", "red.fits.gz"]
    assert not found["41144_A"].image
    (tmp_path / "manga-8000-1-LINCUBE.fits.gz").touch()
    (tmp_path / "manga-8000-12-LINCUBE.fits.gz").touch()
    found = {one.name: one for one in find_galaxies([tmp_path, tmp_path / "manga-8000-1-LOGCUBE.fits.gz"])}
    assert [path.name for path in found["8000-1"].cube] == ["manga-8000-1-LOGCUBE.fits.gz"]
    assert [path.name for path in found["8000-12"].cube] == ["manga-8000-12-LINCUBE.fits.gz"]
    assert find_galaxies([tmp_path], daptype="SPX")[1].maps.name == "manga-8000-1-MAPS-SPX-A.fits.gz"
    table = tmp_path / "table.csv"
    table.write_text("name,cube,maps,image,redshift,ra,dec\na,a.fits,,g=g.fits r=r.fits,0.03,150,2\nb,,b.fits,,,,\n")
    a, b = find_galaxies([table])
    assert a.cube == (tmp_path / "a.fits",) and a.image[1] == f"r={tmp_path / 'r.fits'}" and a.redshift == 0.03
    assert b.maps == tmp_path / "b.fits" and b.position is None and not b.image
    a, b = find_galaxies([table], base="https://example.org/dr17/")
    assert a.cube == ("https://example.org/dr17/a.fits",) and a.image[0] == f"g={tmp_path / 'g.fits'}"
    assert find_galaxies([table], base=str(tmp_path / "else"))[1].maps == tmp_path / "else" / "b.fits"
    table.write_text("name,cube\na/b,a.fits\n")
    with pytest.raises(ValueError, match="name 'a/b'"):
        find_galaxies([table])
    for name, what in (("manga-8000-1-LOGCUBE.fits", "LOGCUBE"), ("manga-8000-1-MAPS-SPX-A.fits", "MAPS SPX-A"),
                       ("41144_A_sectors_red.fits", "cube sectors, arm red")):  # fmt: skip
        (tmp_path / name).touch()
        with pytest.raises(
            ValueError, match=f"^(8000-1|41144_A): both .*{name} and .*{name}.gz could be its {what}; give"
        ):
            find_galaxies([tmp_path])
        (tmp_path / name).unlink()
    table.write_text("name,spectrum\na,a.fits\n")
    with pytest.raises(ValueError, match="columns name, spectrum"):
        find_galaxies([table])


def test_image_is_fetched_where_there_is_no_file(tmp_path, monkeypatch):
    from fiberifu.validate.manga.images import find_image

    asked = []
    write_image(tmp_path / "cutout_sim.fits")
    monkeypatch.setattr(
        "fiberifu.surveys.fetch_cutout", lambda *args: asked.append(args) or tmp_path / "cutout_sim.fits"
    )
    monkeypatch.setattr("fiberifu.surveys.fetch_psf", lambda position: None)
    nothing = GalaxyFiles(name="8000-1")
    assert find_image(nothing, "files", CENTER) is None and not asked
    assert list(find_image(nothing, "fetch", CENTER)) == ["g", "r", "z"] and asked[0][0] is CENTER
    with pytest.raises(ValueError, match="8000-1: where it is is not known"):
        find_image(nothing, "fetch")


def test_real_maps(data_dir):
    path = data_dir / "manga" / "manga-7815-3702-MAPS-HYB10-GAU-MILESHC.fits.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = read_maps(path)
        flux, mask = (fits.getdata(path, f"EMLINE_GFLUX{end}") for end in ("", "_MASK"))
    good = (mask[18] & int(DAPMask.NOCOV | DAPMask.LOWCOV | DAPMask.FORESTAR | DAPMask.DONOTUSE)) == 0
    grid = observed.grid(np.where(observed.bad[:, LINES.index("Ha")], np.nan, observed.flux[:, LINES.index("Ha")]))
    assert np.array_equal(np.isfinite(grid), good)
    ratio = grid[good] / flux[18][good]
    assert np.ptp(ratio) < 1e-5 and ratio[0] == pytest.approx(
        0.9587, abs=1e-3
    )  # another law of extinction, E(B-V) = 0.10
    assert observed.redshift == pytest.approx(0.02938, abs=1e-5) and observed.psf_fwhm == pytest.approx(2.599, abs=1e-3)
