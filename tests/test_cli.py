# Licensed under a 3-clause BSD style license - see LICENSE.rst
import hashlib
import json
import re
import subprocess
import sys
import types

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from fakes import CENTER, FakePrediction, image_of, prepared_image
from specutils import Spectrum

import fiberifu
from fiberifu import cli, jobs
from fiberifu.bands import read_bands
from fiberifu.flags import Flag
from fiberifu.lines import LineMaps
from fiberifu.surveys import read_legacysurvey


class FakeIFU:
    """Records what it is asked for."""

    calls = []

    @classmethod
    def from_pretrained(cls, source=None):
        if source == "nowhere":
            raise FileNotFoundError("source='nowhere': no such folder")
        return cls()

    def predict(self, image, positions, **keywords):
        self.calls.append((image, {"positions": positions, **keywords}))
        return FakePrediction(positions)

    def predict_cube(self, image, **keywords):
        if keywords.get("redshift") == -0.1:
            raise ValueError("redshift must be positive")
        self.calls.append((image, keywords))
        return FakePrediction.cube_of(6, 2.0)


@pytest.fixture
def ifu(request, monkeypatch):
    def no_summary(prediction, path, title):
        path.write_bytes(b"a figure")
        return plt.figure()

    if request.node.name != "test_cube":  # drawing the page is what takes time
        monkeypatch.setattr(jobs, "plot_summary", no_summary)
    monkeypatch.setattr(jobs, "VirtualIFU", FakeIFU)
    monkeypatch.setattr(FakeIFU, "calls", [])
    return FakeIFU


@pytest.fixture
def cutout(tmp_path):
    """A cutout as the Legacy Surveys' viewer makes them."""
    image = prepared_image(32, 1.0)
    header = image.wcs.to_header()
    header["BANDS"], header["SURVEY"] = "grz", "DECaLS"
    path = tmp_path / "cutout_1.5_-2.fits"
    fits.PrimaryHDU(image.sb.astype(np.float32), header).writeto(path)
    return path


@pytest.fixture
def observe(cutout, tmp_path, ifu):
    """``fiberifu observe`` with further arguments; gives the exit status."""

    def run(*args, image=None, redshift="0.03"):
        return cli.main(["observe", str(image or cutout), "--redshift", redshift, "-o", str(tmp_path / "out"), *args])

    run.folder = tmp_path / "out"
    return run


def fresh(*args):
    """Run code in a new interpreter."""
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60)


# ---------------------------------------------------------------- help
def test_help_is_light():
    """Neither astropy nor torch: help must be quick."""
    heavy = ["torch", "astropy", "numpy", "specutils", "matplotlib", "scipy"]
    done = fresh(
        "-c",
        "import sys; from fiberifu.cli import main\n"
        "try: main(['observe', '--help'])\n"
        f"finally: print('loaded:', *sorted(set({heavy}) & set(sys.modules)))",
    )
    assert done.returncode == 0 and done.stdout.endswith("loaded:\n"), done.stdout[-300:] + done.stderr


def test_module_runs():
    done = fresh("-m", "fiberifu", "--version")
    assert done.stdout == f"fiberifu {fiberifu.__version__}\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["observe"], ["info"], ["train"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "usage: fiberifu" in out
    if command in ([], ["observe"], ["info"]):
        assert "  fiberifu " in out, "it teaches by examples"


def test_no_command(capsys):
    assert cli.main([]) == 2
    assert "fiberifu demo -o demo" in capsys.readouterr().out


# ---------------------------------------------------------------- observe
def test_cube(observe, ifu, capsys):
    assert observe("--size", "12", "--spaxel", "2", "--ebv", "0.1", "--seed", "7") == 0
    image, keywords = ifu.calls[0]
    assert sorted(image) == ["g", "r", "z"] and image["r"].unit == u.nmgy
    assert keywords == {"redshift": 0.03, "ebv": 0.1, "deredden": False, "size": 12 * u.arcsec, "progress": True,
                        "spaxel": 2 * u.arcsec, "center": None, "seed": 7}  # fmt: skip
    names = [f"cutout_1.5_-2_predicted_{end}" for end in ("cube.fits", "maps.fits", "summary.png")]
    assert sorted(path.name for path in observe.folder.iterdir()) == sorted([*names, "manifest.json"])
    assert Spectrum.read(observe.folder / names[0]).shape[1:] == (6, 6)
    assert LineMaps.read(observe.folder / names[1]).shape == (6, 6)
    out = capsys.readouterr().out
    for words in (*names, " MB", "Self-check", "g -0.011", "velocity prior", "not an observation"):
        assert words in out, words
    manifest = json.loads((observe.folder / "manifest.json").read_text())
    assert hashlib.sha256(observe.folder.parent.joinpath("cutout_1.5_-2.fits").read_bytes()).hexdigest() in str(
        manifest
    )


def test_positions(observe, ifu):
    dec = CENTER.dec.to_string(sep=":")
    assert observe("--position", "150.0", str(CENTER.dec.deg), "--position", "150.001", "2.0", "--aperture", "2") == 0
    _, keywords = ifu.calls[0]
    assert keywords["positions"].shape == (2,) and keywords["aperture"] == 2 * u.arcsec
    names = sorted(path.name for path in observe.folder.glob("cut*"))
    assert [name.split("predicted_")[1] for name in names] == ["lines.ecsv", "spectra.fits", "summary.png"]
    assert Spectrum.read(observe.folder / names[1]).shape[0] == 2
    table = QTable.read(observe.folder / names[0])
    assert table.meta["DATATYPE"] == "PREDICTED" and len(table) == 2 and "Ha_flux" in table.colnames
    assert observe("--position", "10:00:00", f"-{dec}", "--overwrite") == 0
    assert ifu.calls[1][1]["positions"][0].dec.deg == pytest.approx(-CENTER.dec.deg)
    assert ifu.calls[1][1]["positions"][0].ra.deg == pytest.approx(CENTER.ra.deg)


def test_center_and_redshift_sigma(observe, ifu):
    assert observe("--center", "150.0", "-2.5", redshift="0.03,0.001") == 0
    assert ifu.calls[0][1]["center"].dec.deg == -2.5 and ifu.calls[0][1]["redshift"] == (0.03, 0.001)


def test_no_redshift_is_left_to_the_library(cutout, tmp_path, ifu):
    assert cli.main(["observe", str(cutout), "-o", str(tmp_path / "out"), "--quiet", "--name", "x"]) == 0
    assert ifu.calls[0][1]["redshift"] is None
    assert (tmp_path / "out" / "x_predicted_cube.fits").is_file()


def test_quiet(observe, capsys):
    assert observe("--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_folder_is_not_overwritten(observe, ifu, capsys):
    assert observe() == 0
    assert observe() == 2
    assert "--overwrite" in capsys.readouterr().err
    assert observe("--overwrite") == 0
    assert len(ifu.calls) == 2


def test_resume(observe, ifu, capsys):
    assert observe() == 0
    summary, cube = (next(observe.folder.glob(f"*{end}")) for end in ("summary.png", "cube.fits"))
    assert observe("--resume") == 0
    assert len(ifu.calls) == 1 and "there already" in capsys.readouterr().out
    summary.unlink()
    before = cube.stat().st_mtime_ns
    assert observe("--resume") == 0
    assert summary.is_file() and cube.stat().st_mtime_ns == before
    assert observe("--resume", redshift="0.04") == 2
    assert "other settings" in capsys.readouterr().err


# ---------------------------------------------------------------- images
def test_one_file_per_band(tmp_path, ifu):
    items = []
    for band, ccd in image_of(prepared_image(16, 2.0)).items():
        ccd = CCDData(ccd.data * 3631, unit=u.nJy, wcs=ccd.wcs)
        ccd.write(tmp_path / f"NGC0_{band}.fits")
        items.append(f"{band}={tmp_path / f'NGC0_{band}.fits'}")
    assert cli.main(["observe", *items, "--redshift", "0.03", "-o", str(tmp_path / "out")]) == 0
    image, _ = ifu.calls[0]
    assert list(image) == ["g", "r", "z"] and image["g"].unit == u.nJy and image["g"].wcs.has_celestial
    assert (tmp_path / "out" / "NGC0_predicted_cube.fits").is_file()


def test_dark_energy_survey(data_dir):
    named = [f"{band}={data_dir / 'decam' / f'DES_{band}.fits'}" for band in "grz"]
    image, files = jobs.read_image(named)
    assert list(image) == ["g", "r", "z"] and image["g"].unit == u.nmgy and image["g"].meta["SURVEY"] == "DES"
    assert jobs.name_of(files) == "DES"
    by_header, _ = jobs.read_image([str(file) for file in files])
    assert np.array_equal(by_header["z"].data, image["z"].data)


def counts(path, band, scale=1.0, **cards):
    """A plain image in counts: no unit, a WCS, the galaxy of the fakes."""
    ccd = image_of(prepared_image(16, 2.0))[band]
    header = ccd.wcs.to_header()
    header.update(cards)
    fits.PrimaryHDU((ccd.data * scale).astype(np.float32), header).writeto(path)
    return path


def test_any_image_with_a_zero_point(tmp_path, ifu):
    """Counts of zero point 25 are a tenth of a nanomaggy; by band; and the header's filter tells the band."""
    files = {band: counts(tmp_path / f"my_{band}.fits", band, FILTER=band, INSTRUME="DECam") for band in "gr"}
    out = ["--psf-fwhm", "1.1", "--redshift", "0.03", "-o"]
    one = ["observe", str(files["r"]), "--zero-point", "25", *out, str(tmp_path / "one")]
    assert cli.main(one) == 0
    named = [f"{band}={path}" for band, path in files.items()]
    assert cli.main(["observe", *named, "--zero-point", "g=22.5,r=25", *out, str(tmp_path / "two")]) == 0
    truth = image_of(prepared_image(16, 2.0))
    for (image, _), factors in zip(ifu.calls, ({"r": 0.1}, {"g": 1.0, "r": 0.1}), strict=True):
        assert list(image) == list(factors)
        for band, factor in factors.items():
            np.testing.assert_allclose(image[band].data, truth[band].data * factor, rtol=1e-5)
            assert image[band].unit == u.nmgy and image[band].meta["PSF_FWHM"] == 1.1
            assert read_bands({band: image[band]}, "griz")[band].flags & Flag.FILTER_ASSUMED == 0
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert "25" in json.dumps(manifest)
    assert cli.main([*one[:3], "26", *one[4:], "--resume"]) == 2, "another zero point is another image"


@pytest.mark.parametrize(
    ("cards", "options", "match"),
    [
        ({"FILTER": "r"}, [], "--zero-point, the AB magnitude"),
        ({}, ["--zero-point", "25"], "does not tell the band"),
        ({"FILTER": "r", "BUNIT": "nJy"}, ["--zero-point", "25"], "needs no --zero-point"),
        ({"FILTER": "r"}, ["--zero-point", "99"], "AB magnitude"),
        ({"FILTER": "r"}, ["--zero-point", "g=25"], "--zero-point"),
        ({"FILTER": "r"}, ["--zero-point", "r=25,g=25"], "--zero-point: given for g"),
        ({"FILTER": "r"}, ["--zero-point", "25", "--psf-fwhm", "-1"], "--psf-fwhm"),
        ({"FILTER": "r"}, ["--zero-point", "25", "--psf", "psf.fits"], "goes with a cutout"),
        ({"FILTER": "r"}, ["--psf-fwhm", "1", "--psf", "psf.fits"], "both given"),
        (
            {"DES_EXT": "IMAGE", "BAND": "r"},
            ["--zero-point", "25"],
            "--zero-point: .*Dark Energy.*needs none",
        ),
        ({"BANDS": "r"}, ["--zero-point", "25"], "--zero-point: .*nanomaggy, and needs none"),
    ],
)
def test_options_of_images_that_make_no_sense(tmp_path, ifu, capsys, cards, options, match):
    path = counts(tmp_path / "my.fits", "r", **cards)
    assert cli.main(["observe", str(path), *options, "--redshift", "0.03", "-o", str(tmp_path / "out")]) == 2
    assert re.search(match, errors(capsys)) and not (tmp_path / "out").exists()


def test_files_that_tell_their_survey(tmp_path):
    """A stack of Pan-STARRS1 is asinh, whatever it is called; a cutout is one file of many bands."""
    cards = {"HIERARCH FPA.FILTERID": "r.00000", "EXPTIME": 100.0, "BSOFTEN": 1.0, "BOFFSET": 0.0}
    image, _ = jobs.read_image([f"r={counts(tmp_path / 'ps1.fits', 'r', **cards)}"], psf_fwhm=1.2 * u.arcsec)
    assert image["r"].meta["SURVEY"] == "PS1" and image["r"].meta["PSF_FWHM"] == 1.2
    with pytest.raises(ValueError, match="given as band 'g', but its FILTER is 'r'"):
        jobs.read_image([f"g={counts(tmp_path / 'r.fits', 'r', FILTER='r', BUNIT='nJy')}"])
    with pytest.raises(ValueError, match="second file of band 'r'"):
        jobs.read_image([str(counts(tmp_path / f"{i}.fits", "r", FILTER="r", BUNIT="nJy")) for i in (1, 2)])


# ---------------------------------------------------------------- errors
def errors(capsys):
    err = capsys.readouterr().err
    assert err.startswith("fiberifu: error: ") and "Traceback" not in err and err.count("\n") == 1, err
    return err


def test_library_errors_become_one_line(observe, capsys):
    assert observe(redshift="-0.1") == 2
    assert "redshift must be positive" in errors(capsys)
    assert not observe.folder.exists()
    assert observe() == 0, "what was tried before is not in the way"
    assert observe("--overwrite", redshift="-0.1") == 2
    assert "redshift must be positive" in errors(capsys)
    assert len(list(observe.folder.glob("*_predicted_*"))) == 3, "nor is anything lost"
    assert observe("--resume") == 2, "but what is left is not taken for the new run"
    assert "manifest" in errors(capsys)


def test_image_errors(observe, tmp_path, cutout, capsys):
    assert observe(image=tmp_path / "absent.fits") == 2
    assert "absent.fits" in errors(capsys)
    text = tmp_path / "text.fits"
    text.write_text("not FITS at all")
    assert observe(image=text) == 2
    assert "text.fits" in errors(capsys)
    for arguments in ([f"g={text}"], [f"g={tmp_path / 'absent.fits'}"]):
        assert observe(image=arguments[0]) == 2
        assert ".fits" in errors(capsys)
    short = tmp_path / "short.fits"
    short.write_bytes(cutout.read_bytes()[:8000])
    assert observe(image=short) == 2
    assert "short.fits" in errors(capsys)
    no_unit = tmp_path / "no_unit.fits"
    fits.PrimaryHDU(np.ones((4, 4))).writeto(no_unit)
    assert observe(image=f"r={no_unit}") == 2
    assert "BUNIT" in errors(capsys)
    assert not observe.folder.exists(), "nothing is made for nothing"


def test_band_errors(cutout, tmp_path):
    with pytest.raises(ValueError, match="BAND=FILE for every band"):
        jobs.read_image([f"g={cutout}", str(cutout)])
    with pytest.raises(ValueError, match="psf goes with"):
        jobs.read_image([f"g={cutout}"], psf="x.fits")
    with pytest.raises(ValueError, match="named twice"):
        jobs.read_image([f"g={cutout}", f"g={cutout}"])


def test_other_errors(observe, tmp_path, capsys):
    assert observe("--position", "here", "there") == 2
    assert "give degrees" in errors(capsys)
    fibre = ["--position", "1.5", "-2"]
    for options in (["--aperture", "2"], ["--size", "9", *fibre], ["--spaxel", "1", *fibre],
                    ["--center", "1.5", "-2", *fibre]):  # fmt: skip
        assert observe(*options) == 2
        assert f"{options[0]}: has no meaning for" in errors(capsys)
    assert observe("--model", "nowhere") == 2
    assert "no such folder" in errors(capsys)
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["observe", str(tmp_path / "cutout_1.5_-2.fits"), "-o", str(file / "below")]) == 2
    errors(capsys)


@pytest.mark.parametrize("wrong", [["--size", "-3"], ["--redshift", "a"], ["--redshift", "1,2,3"], ["--spaxel", "nan"]])
def test_usage_errors(observe, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        observe(*wrong)
    assert stop.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_interrupt(observe, monkeypatch, capsys):
    def interrupt(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "observe_to_folder", interrupt)
    assert observe() == 130
    assert "interrupted" in capsys.readouterr().err


def test_warnings_are_short(observe, ifu, monkeypatch, capsys):
    import warnings

    def warn(self, image, **keywords):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("something to know", UserWarning, stacklevel=1)
        return FakePrediction.cube_of(4, 2.0)

    monkeypatch.setattr(ifu, "predict_cube", warn)
    assert observe() == 0
    assert capsys.readouterr().err == "fiberifu: warning: something to know\n"


# ---------------------------------------------------------------- demo, info, train
def test_demo(tmp_path, ifu, monkeypatch, capsys):
    datasets = types.SimpleNamespace(example_image=lambda: image_of(prepared_image()))
    monkeypatch.setitem(sys.modules, "fiberifu.datasets", datasets)
    assert cli.main(["demo", "-o", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*predicted*"))
    assert names == [f"example_sim_predicted_{end}" for end in ("cube.fits", "maps.fits", "summary.png")]
    assert ifu.calls[0][1]["size"] == 24 * u.arcsec


def test_demo_for_real(tmp_path):
    """The whole way on the bundled model, on a small field."""
    prediction, paths = jobs.run_demo(tmp_path / "out", size=6 * u.arcsec, spaxel=1.5 * u.arcsec)
    assert prediction.shape == (4, 4) and all(path.stat().st_size > 1e4 for path in paths)
    flux = LineMaps.read(paths[1]).flux["Ha"]
    assert np.isfinite(flux.data).all() and flux.wcs.has_celestial
    assert fits.getheader(paths[0])["DATATYPE"] == "PREDICTED"


def test_observe_for_real(tmp_path, data_dir, capsys):
    """A real cutout at two positions, degrees and sexagesimal mixed, on the bundled model."""
    cutout = data_dir / "legacysurvey" / "cutout_59.1067_-30.4848.fits"
    where = ["--position", "59.1067", "-30.4848", "--position", "3:56:25.7", "-30:29:04"]
    assert cli.main(["observe", str(cutout), "--redshift", "0.1", *where, "-o", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*_predicted_*"))
    assert [name.split("_predicted_")[1] for name in names] == ["lines.ecsv", "spectra.fits", "summary.png"]
    with fits.open(tmp_path / "out" / names[1]) as hdus:
        assert hdus["FLUX"].shape == (2, 7781) and (hdus["IVAR"].data > 0).all()
        assert np.ptp(hdus["POSITIONS"].data["ra"]) < 0.01
    assert "not an observation" in capsys.readouterr().out
    assert cli.main(["info", str(tmp_path / "out" / names[1])]) == 0
    assert re.search(r"POSITIONS +2 rows x \d+ columns", capsys.readouterr().out)


def test_one_des_coadd_is_not_read_as_a_cutout(data_dir):
    """Its weight plane is not the image."""
    path = data_dir / "decam" / "DES_g.fits"
    image, _ = jobs.read_image([str(path)])
    same, _ = jobs.read_image([f"g={path}"])
    np.testing.assert_array_equal(image["g"].data, same["g"].data)
    with pytest.raises(ValueError, match="use read_des"):
        read_legacysurvey(path)


def test_info_of_a_file(tmp_path, cutout, capsys):
    path = tmp_path / "x_predicted.fits"
    FakePrediction.cube_of(4, 1.0).write(path)
    assert cli.main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "PREDICTED" in out and "fake" in out and "FLUX" in out and "x 4 x 4" in out
    assert cli.main(["info", str(cutout)]) == 2
    assert "did not write it" in errors(capsys)
    text = tmp_path / "text.fits"
    text.write_text("not FITS at all")
    assert cli.main(["info", str(text)]) == 2
    assert "no readable FITS" in errors(capsys)


def test_info_of_a_model(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    stored = {"model": {"name": "tiny", "bands": ["g", "r"]}, "passport": {"training_data": "simulated", "range": {}}}
    (folder / "config.json").write_text(json.dumps(stored))
    assert cli.main(["info", str(folder)]) == 2
    assert "no model.safetensors" in errors(capsys)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# The card\n")
    assert cli.main(["info", str(folder)]) == 0
    out = capsys.readouterr().out
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert all(words in out for words in ("tiny", "g r", "simulated", "# The card", sha256))
    assert cli.main(["info", str(tmp_path / "a" / "b")]) == 2
    errors(capsys)


def test_train(monkeypatch, capsys):
    calls = []

    def main(recipe, output, **keywords):
        calls.append((recipe, output, keywords))
        return "5 of 9 steps"

    monkeypatch.setitem(sys.modules, "fiberifu.train", types.SimpleNamespace(main=main))
    assert cli.main(["train", "nano.toml", "-o", "RUN", "--stop-after", "60"]) == 0
    keywords = dict(data=None, weights=None, stop_after=60.0, device=None, tensorboard=False, progress=True)
    assert calls == [("nano.toml", "RUN", keywords)]
    assert "5 of 9 steps" in capsys.readouterr().out
