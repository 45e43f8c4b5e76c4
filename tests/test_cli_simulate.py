# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu simulate``: whole surveys, also when they are killed, and templates fetched by checksum."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import simulated_surveys
import torch
from astropy.io import fits
from specutils import SpectrumList

from fiberifu import cli, simulate_job
from fiberifu.lines import LineMaps
from fiberifu.simulate import analytic_template_pack, load_template_pack, templates_download
from fiberifu.simulate.files import tree
from fiberifu.simulate.files.truth_table import DESCRIPTIONS
from fiberifu.simulate.gas import LINES
from fiberifu.simulate.identifiers import pack_sha256
from fiberifu.simulate_job import find_instruments, read_templates, simulate_to_folder
from fiberifu.surveys import read_legacysurvey, read_manga_cube

INSTRUMENTS = {
    "desi": simulated_surveys.observe_desi,
    "manga": simulated_surveys.observe_manga,
    "images": simulated_surveys.observe_images,
}
N, SEED = 6, 3
UNIT = 4  # galaxies that are simulated together: two units


@pytest.fixture(scope="module", autouse=True)
def small_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(simulate_job.UNIT, "desi", UNIT)
        yield


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    np.savez(path, **analytic_template_pack())
    return path


@pytest.fixture
def instruments(monkeypatch):
    monkeypatch.setattr(simulate_job, "find_instruments", lambda: INSTRUMENTS)


@pytest.fixture
def simulate(templates, tmp_path, instruments):
    """``fiberifu simulate`` with further arguments; gives the exit status."""

    def run(*args, survey="desi", n=N, seed=SEED):
        given = ["--survey", survey, "--n", str(n), "--seed", str(seed), "--templates", str(templates)]
        return cli.main(["simulate", *given, "-o", str(tmp_path / "out"), *args])

    run.folder = tmp_path / "out"
    return run


@pytest.fixture(scope="module")
def whole(templates, tmp_path_factory):
    """A survey of which nothing was interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    simulate_to_folder("desi", folder, n=N, seed=SEED, templates=templates, instruments=INSTRUMENTS)
    return folder


def contents(folder):
    """All files but the manifest, which holds the version, and the checksums: their names and paths."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(folder)): path for path in paths}


def assert_traceable(folder, templates):
    """Every HDU of every file names the template pack, as the manifest does, and the version of PyTorch."""
    expected = json.loads((Path(folder) / "manifest.json").read_text())["settings"]["templates"]
    assert expected == pack_sha256(load_template_pack(templates))
    for name, path in contents(folder).items():
        with fits.open(path) as hdus:
            for hdu in hdus:
                marks = hdu.header.get("PACKSHA"), hdu.header.get("TORCHV")
                assert marks == (expected, torch.__version__), (name, hdu.name)


def assert_same(made, expected):
    """The same files with the same content, to the rounding of single precision: the last bit of a sum may depend on
    where in memory the numbers lie."""
    assert set(made) == set(expected)
    for name, path in made.items():
        if path.read_bytes() != expected[name].read_bytes():
            difference = fits.FITSDiff(str(path), str(expected[name]), rtol=1e-5, atol=1e-5)
            assert difference.identical, difference.report()


# ---------------------------------------------------------------- surveys
@pytest.mark.parametrize(
    ("run", "words"),
    [
        (("desi", 6), "6 galaxies: about 4 s on a free core, and 7 MB of files"),
        (("manga", 100, 2), "100 galaxies: about 10 min on 2 free cores, and 6.0 GB of files"),
    ],
)
def test_estimate(run, words):
    assert simulate_job.estimate(*run) == words


def test_desi(simulate, templates, whole, capsys, caplog):
    assert simulate("--bricks") == 0
    assert simulate_job.estimate("desi", N) in caplog.messages, "told before it starts"
    out = capsys.readouterr().out
    for words in (
        "zall-pix-sim.fits",
        "truth_sim.fits",
        "(settings)",
        f"{N} galaxies",
        "spheroid",
        "not an observation",
    ):
        assert words in out, words
    made = contents(simulate.folder)
    assert all("sim" in Path(name).name for name in made)
    assert set(contents(whole)) < set(made), "the same files, and the bricks"
    assert_same({name: made[name] for name in contents(whole)}, contents(whole))
    assert sum("legacysurvey-sim0000" in name for name in made) >= 7 * N // 2
    assert_traceable(simulate.folder, templates)

    with fits.open(simulate.folder / tree.TRUTH) as hdus:
        galaxies, fibers = hdus["GALAXIES"].data, hdus["FIBERS"].data
        strata = hdus["GALAXIES"].header["STRATA"].split(",")
        assert galaxies["galaxy"].tolist() == list(range(N)) and {"agn", "quenched", "edge_on"} <= set(strata)
        assert all(galaxies[key].dtype == bool for key in strata)
        for name in ("GALAXIES", "FIBERS"):
            header, known = hdus[name].header, DESCRIPTIONS[name]
            for i, column in enumerate(hdus[name].columns.names, start=1):
                unit, words = known[column]
                if unit and "nanomaggy" in unit:  # not of FITS
                    unit, words = None, f"[{unit}] {words}"
                assert header[f"TCOMM{i}"] == words and header.get(f"TUNIT{i}") == unit
        lines = [hdus["FIBERS"].header[f"LINE{i:02d}"] for i in range(1, 16)]
        assert lines == list(LINES) and [hdus["FIBERS"].header[f"BAND{i}"] for i in range(1, 5)] == list("griz")
        assert (fibers["flux_ivar_r"] > 0).mean() > 0.5, "0 where the image lacks the band"
        simulator = simulated_surveys.make_simulator()
        np.testing.assert_allclose(galaxies["redshift"], simulator.batch(N, SEED)["truth"]["redshift"], rtol=1e-5)
        pa = simulator.scene(SEED, [0])["g"]["pa"][0]  # radians from East through North
        assert galaxies["pa"][0] == pytest.approx((90 - np.degrees(float(pa))) % 360, abs=1e-3)
        by_id = {t: z for t, z in zip(fibers["targetid"], fibers["z_true"], strict=True)}
    coadds = sorted(simulate.folder.glob("spectro/redux/sim/healpix/sim/bright/*/*/coadd-sim-bright-*.fits"))
    assert len(coadds) > 1
    ids = [SpectrumList.read(path)[0].meta["fibermap"]["TARGETID"] for path in coadds]
    assert sorted(np.concatenate(ids)) == sorted(by_id) and len(by_id) >= N
    catalogue = fits.getdata(simulate.folder / "spectro/redux/sim/zcatalog/v1/zall-pix-sim.fits")
    assert sorted(catalogue["TARGETID"]) == sorted(by_id)
    np.testing.assert_allclose(catalogue["Z"], [by_id[t] for t in catalogue["TARGETID"]], atol=1e-3)
    tractor = fits.getdata(simulate.folder / f"legacysurvey/tractor/sim/tractor-sim-{SEED}.fits")
    assert len(tractor) == len(by_id)
    image = read_legacysurvey(simulate.folder / "images" / f"cutout_sim-{SEED}-000005.fits",
                              psf=simulate.folder / "images" / f"copsf_sim-{SEED}-000005.fits")  # fmt: skip
    assert next(iter(image.values())).meta["REDSHIFT"] == pytest.approx(galaxies["redshift"][5], rel=1e-6)


def test_manga(simulate, templates, capsys):
    assert simulate("--continuum", "1", survey="manga", n=2) == 0
    name = f"manga-sim90000{SEED}-000001"
    cube = read_manga_cube(next(simulate.folder.rglob(f"{name}-LOGCUBE.fits.gz")))
    truth, fit = (
        LineMaps.read(next(simulate.folder.rglob(f"{name}-MAPS-{kind}.fits.gz"))) for kind in ("TRUTH", "FIT")
    )
    assert cube.shape[1:] == truth.shape == fit.shape
    assert truth.redshift == pytest.approx(cube.meta["redshift"])
    rows = fits.getdata(simulate.folder / "spectro/redux/sim/drpall-sim.fits")
    cubes = fits.getdata(simulate.folder / tree.TRUTH, "CUBES")
    assert cubes["galaxy"].tolist() == [0, 1] and set(cubes.dtype.names) == set(DESCRIPTIONS["CUBES"])
    assert cube.meta["celestial_wcs"].wcs.radesys == truth.wcs.wcs.radesys == fit.wcs.wcs.radesys == "FK5"
    assert rows["simname"].tolist() == [f"sim90000{SEED}-00000{i}" for i in (0, 1)]
    assert len(list((simulate.folder / "images").glob("cutout_sim-*"))) == 2
    assert (rows["exptime"] == 8100).all() and (rows["nexp"] == 9).all()
    assert_traceable(simulate.folder, templates)
    assert "each with a cube" in capsys.readouterr().out


def test_no_fit(simulate):
    assert simulate("--continuum", "none", "--quiet", survey="manga", n=1) == 0
    assert not list(simulate.folder.rglob("*MAPS-FIT*")) and list(simulate.folder.rglob("*MAPS-TRUTH*"))


def test_quiet(simulate, capsys):
    assert simulate("--quiet", n=2) == 0
    assert capsys.readouterr() == ("", "")


# ---------------------------------------------------------------- resume
def test_resume_is_refused_under_other_settings(simulate, capsys, templates):
    assert simulate(n=2) == 0
    assert simulate(n=2) == 2
    assert "not empty" in capsys.readouterr().err
    assert simulate("--resume", n=2) == 0
    for other in ({"n": 3}, {"seed": 4, "n": 2}):
        assert simulate("--resume", **other) == 2
        assert "other settings" in capsys.readouterr().err
    pack = analytic_template_pack()
    pack["ssp"] = pack["ssp"] * np.float32(1.01)
    np.savez(templates.with_name("other.npz"), **pack)
    assert simulate("--resume", "--templates", str(templates.with_name("other.npz")), n=2) == 2
    assert "templates (was" in capsys.readouterr().err


def test_overwrite_leaves_no_old_files(simulate):
    assert simulate("--quiet", n=4) == 0
    foreign = [
        simulate.folder / name
        for name in ("images/cutout_sim-mine.fits", "notes.txt", "spectro/redux/iron/coadd-sim.fits")
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("keep")
    assert simulate("--quiet", "--overwrite", n=2, seed=9) == 0
    assert all(path.read_text() == "keep" for path in foreign)
    names = {path.name for path in (simulate.folder / "images").glob("*sim*")} - {"cutout_sim-mine.fits"}
    assert names == {f"{kind}_sim-9-00000{i}.fits" for kind in ("cutout", "copsf") for i in (0, 1)}
    assert len(fits.getdata(simulate.folder / tree.TRUTH, "GALAXIES")) == 2


def test_overwrite_deletes_nothing_before_it_can_go_on(simulate, capsys):
    assert simulate("--quiet", n=2) == 0
    before = {name: path.read_bytes() for name, path in contents(simulate.folder).items()}
    assert simulate("--overwrite", "--device", "foo", n=2, seed=9) == 2
    error = capsys.readouterr().err
    assert "device is 'foo'" in error and error.count("\n") == 1
    assert simulate("--overwrite", "--templates", __file__, n=2, seed=9) == 2
    assert "not a template pack" in capsys.readouterr().err
    assert {name: path.read_bytes() for name, path in contents(simulate.folder).items()} == before
    assert (simulate.folder / "manifest.json").is_file()


def test_overwrite_after_an_error(templates, tmp_path):
    """Files of a unit that was never finished are ours, too."""

    def broken(simulator, seed, start, n):
        spectra, images = simulated_surveys.observe_desi(simulator, seed, start, n)
        images[-1].flux = {"g": "no image"}
        return spectra, images

    keywords = {"n": 3, "templates": templates}
    with pytest.raises((ValueError, TypeError, AttributeError)):
        simulate_to_folder("desi", tmp_path / "out", instruments={"desi": broken}, seed=8, **keywords)
    assert list((tmp_path / "out" / "images").glob("*_sim-8-*"))
    simulate_to_folder("desi", tmp_path / "out", instruments=INSTRUMENTS, seed=9, overwrite=True, **keywords)
    assert not list((tmp_path / "out" / "images").glob("*_sim-8-*"))


@pytest.mark.parametrize("gathered", [False, True])
def test_resume_mends_a_finished_survey(whole, templates, tmp_path, gathered):
    """A file that was deleted and one that was cut short are made again: a unit's own, or what all units give."""
    folder, starts = shutil.copytree(whole, tmp_path / "out"), []
    image = folder / "images" / f"cutout_sim-{SEED}-000004.fits"
    image.write_bytes(image.read_bytes()[:5000])
    (folder / "images" / f"copsf_sim-{SEED}-000005.fits").unlink()
    if gathered:
        next(folder.rglob("coadd-sim-bright-*.fits")).unlink()
        (folder / tree.TRUTH).unlink()

    def watched(simulator, seed, start, n):
        starts.append(start)
        return simulated_surveys.observe_desi(simulator, seed, start, n)

    keywords = {"n": N, "seed": SEED, "templates": templates, "resume": True}
    simulate_to_folder("desi", folder, instruments={"desi": watched}, **keywords)
    assert starts == ([0, UNIT] if gathered else [UNIT])
    assert_same(contents(folder), contents(whole))
    assert set(tree.listed(folder)) == set(tree.listed(whole)) == set(contents(whole)) and not tree.damaged(folder)
    assert not (folder / tree.PARTS).exists()


def test_error_in_a_unit_leaves_what_is_done(templates, tmp_path, whole):
    """An error passes; with its cause mended the survey goes on from there."""

    def broken(simulator, seed, start, n):
        if start:
            raise ValueError("no more light")
        return simulated_surveys.observe_desi(simulator, seed, start, n)

    keywords = {"n": N, "seed": SEED, "templates": templates}
    with pytest.raises(ValueError, match="no more light"):
        simulate_to_folder("desi", tmp_path / "out", instruments={"desi": broken}, **keywords)
    starts = []

    def watched(simulator, seed, start, n):
        starts.append(start)
        return simulated_surveys.observe_desi(simulator, seed, start, n)

    simulate_to_folder("desi", tmp_path / "out", instruments={"desi": watched}, resume=True, **keywords)
    assert starts == [UNIT]
    assert_same(contents(tmp_path / "out"), contents(whole))


SURVEY = """
import os, signal, sys, time
from pathlib import Path
import simulated_surveys as surveys
from fiberifu.simulate.identifiers import pack_sha256
from fiberifu.simulate_job import UNIT, simulate_to_folder

folder, templates, n, seed, workers, limits, UNIT["desi"] = *sys.argv[1:-1], int(sys.argv[-1])

def survey():
    simulate_to_folder("desi", folder, n=int(n), seed=int(seed), templates=templates, workers=int(workers),
                       resume=True, instruments={"desi": surveys.observe_desi})

def files():
    return sum(path.is_file() for path in Path(folder).rglob("*"))

if __name__ == "__main__":
    if not limits:
        survey()
    killed = 0
    for limit in map(int, limits.split()):  # forks, because the imports take longest
        child = os.fork()
        if not child:
            survey()
            os._exit(0)
        ended = False
        while files() < limit and not ended:
            time.sleep(0.01)
            ended = os.waitpid(child, os.WNOHANG)[0] == child
        if not ended:
            os.kill(child, signal.SIGKILL)
            killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    print("killed", killed)
"""


def run_to_be_killed(folder, templates, workers=1, limits=()):
    """A new interpreter that makes the survey; or forks that do, each killed when there are so many files."""
    script = folder.parent / "run.py"
    script.write_text(SURVEY)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(cli.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    arguments = [folder, templates, N, SEED, workers, " ".join(map(str, limits)), UNIT]
    return subprocess.Popen([sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            env=environment)  # fmt: skip


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_killed_at_any_moment(templates, tmp_path, whole):
    """Killed when it has written a given number of files, again and again; then the files are those of one run."""
    folder, rng = tmp_path / "killed", random.Random(7)
    # among the images of the two units, between units, while gathering, while tidying up
    limits = [rng.randint(2, 9), rng.randint(10, 21), rng.randint(24, 31)]
    process = run_to_be_killed(folder, templates, limits=limits)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and int(out.split()[-1]) >= 2, "most were killed before they had ended"
    simulate_to_folder("desi", folder, n=N, seed=SEED, templates=templates, resume=True, instruments=INSTRUMENTS)
    assert_same(contents(folder), contents(whole))  # nothing is missing, left over, doubled or different
    names = {"images", "legacysurvey", "manifest.json", tree.FILES, "spectro", tree.TRUTH}
    assert {path.name for path in folder.iterdir()} == names


def test_killed_while_tidying(whole, templates, tmp_path):
    """The truth is written, the parts are not yet gone: a resumed run removes them and does nothing else."""
    folder = shutil.copytree(whole, tmp_path / "out")
    (folder / tree.PARTS).mkdir()
    (folder / tree.PARTS / "000000.json").write_text('{"files": {}}')
    (folder / "images" / ".0123abcd-cutout_sim.fits").write_text("half")
    paths = simulate_to_folder("desi", folder, n=N, seed=SEED, templates=templates, resume=True, instruments={
        "desi": lambda *a: pytest.fail("observed again")})  # fmt: skip
    assert_same(contents(folder), contents(whole))
    assert paths[-1].name == tree.TRUTH and len(paths) == 3


def test_workers(templates, tmp_path, whole):
    """Two processes make the same files; when they are killed with their parent, none stays behind."""
    folder = tmp_path / "two"
    process = run_to_be_killed(folder, templates, workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = set()

    def started():
        if children.is_file():
            found.update(children.read_text().split())
        return (folder / "images").is_dir() or process.poll() is not None

    wait_for(started, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_for(lambda: not any(_is_python(pid) for pid in found))
    simulate_to_folder("desi", folder, n=N, seed=SEED, templates=templates, resume=True, instruments=INSTRUMENTS)
    assert_same(contents(folder), contents(whole))


def _is_python(pid):
    try:
        return (
            "run.py" in Path(f"/proc/{pid}/cmdline").read_text() or "spawn" in Path(f"/proc/{pid}/cmdline").read_text()
        )
    except OSError:
        return False


# ---------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--n", "0"], "above zero"),
        (["--workers", "two"], "above zero"),
        (["--survey", "sdss"], "invalid choice"),
        (["--overwrite", "--resume"], "not allowed with"),
    ],
)
def test_wrong_options(simulate, capsys, args, words):
    with pytest.raises(SystemExit) as stop:
        simulate(*args)
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_wrong_arguments(tmp_path, simulate, capsys, templates):
    assert simulate("--continuum", "spline", survey="manga") == 2
    assert "continuum is 'spline'" in capsys.readouterr().err
    assert simulate("--templates", str(tmp_path / "none.npz")) == 2
    assert "--templates: no template pack" in capsys.readouterr().err
    assert not simulate.folder.exists()
    for keywords, words in (({"n": 0}, "n is 0"), ({"seed": -1}, "seed is -1"), ({"workers": 0.5}, "workers is 0.5")):
        with pytest.raises(ValueError, match=words):
            simulate_to_folder("desi", tmp_path / "x", templates=templates, instruments=INSTRUMENTS, **keywords)
    with pytest.raises(ValueError, match="survey is 'sami'"):
        simulate_to_folder("sami", tmp_path / "x")
    with pytest.raises(ValueError, match="no manga and no images"):
        simulate_to_folder("manga", tmp_path / "x", templates=templates, instruments={})


def test_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    assert "fiberifu simulate --survey desi" in capsys.readouterr().out


def test_instruments_are_functions():
    found = find_instruments()
    assert set(found) == {"desi", "manga", "images", "centred"} and all(map(callable, found.values()))


# ---------------------------------------------------------------- templates
@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without templates: neither named nor fetched."""
    monkeypatch.setenv("FIBERIFU_DATA", str(tmp_path / "absent"))
    monkeypatch.setattr(templates_download, "download_folder", lambda: tmp_path / "cache")


def test_no_templates(nowhere, instruments, tmp_path, capsys):
    assert cli.main(["simulate", "--survey", "desi", "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--fetch-templates" in error and "--templates" in error and not (tmp_path / "out").exists()


def test_table_of_templates():
    """By full commits; all that the pack is built from."""
    table = templates_download.template_files()
    assert {len(commit) for commit in table["commit"]} == {40} and {len(s) for s in table["sha256"]} == {64}
    folders = {str(Path(path).parent) for path in table["path"]}
    assert folders == {"templates/mastar_ssp_v1.0", "templates/fsps_ckc14z", "instrument/decam", "instrument/desi",
                       "instrument/sky", "lines/gutkin16", "lines/mappings"}  # fmt: skip
    assert templates_download.address(table[0]).startswith("https://raw.githubusercontent.com/")
    assert len(set(table["path"])) == len(table) == 82


def test_templates_of_the_table(data_dir):
    """Their checksums are those of the files that all was tested with."""
    for row in templates_download.template_files():
        assert templates_download._sha256(data_dir / row["path"]) == row["sha256"], row["path"]


def test_fetch(nowhere, monkeypatch, tmp_path, data_dir, request):
    """From a local copy of the repositories, laid out as they are; what is there is not fetched again."""
    table = templates_download.template_files()
    for row in table:
        source = tmp_path / "public" / row["repository"] / row["commit"] / row["source"]
        source.parent.mkdir(parents=True, exist_ok=True)
        source.symlink_to(data_dir / row["path"])
    base = (tmp_path / "public").as_uri()
    monkeypatch.setattr(templates_download, "ADDRESS", base + "/{repository}/{commit}/{source}")
    pack = read_templates(fetch=True)
    assert pack["ssp"].shape == (9, 6, 15309)
    assert not templates_download.wrong_files(tmp_path / "cache")

    monkeypatch.setattr(templates_download, "ADDRESS", "file:///nowhere/{source}")
    again = read_templates()  # fetched earlier
    np.testing.assert_array_equal(again["gas_line"], pack["gas_line"])
    first, second = (tmp_path / "cache" / path for path in table["path"][:2])
    whole = second.read_bytes()
    second.write_bytes(whole[:-1])  # truncated
    with pytest.raises(FileNotFoundError, match=f"1 are missing or altered in .*{second.name}"):
        read_templates()
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # as long, but altered
    with pytest.raises(FileNotFoundError, match="1 are missing or altered"):
        read_templates()
    second.write_bytes(whole)
    first.write_text("spoilt")
    with pytest.raises(FileNotFoundError, match=first.name):
        read_templates()
    with pytest.raises(OSError, match="cannot fetch file:///nowhere"):
        templates_download.download_templates(tmp_path / "cache")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("something else")
    monkeypatch.setattr(templates_download, "ADDRESS", wrong.as_uri())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(ValueError, match="it was not kept"):
        templates_download.download_templates(tmp_path / "cache")
    assert not list((tmp_path / "temporary").iterdir())
    assert first.read_text() == "spoilt" and not list(first.parent.glob(".*"))
    monkeypatch.setattr(templates_download, "ADDRESS", base + "/{repository}/{commit}/{source}")
    templates_download.download_templates()  # only what is wrong is fetched again
    assert not templates_download.wrong_files(tmp_path / "cache")


def test_manifest(whole):
    settings = json.loads((whole / "manifest.json").read_text())["settings"]
    assert settings["n"] == N and settings["seed"] == SEED and len(settings["templates"]) == 64
    assert "workers" not in settings, "what the result does not depend on"
