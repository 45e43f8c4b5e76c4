# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A catalogue of galaxies: its columns, one row for each galaxy whatever happens, chunks, kills and executors."""

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable

from fiberifu import infer_parts
from fiberifu.catalogue import read_targets
from fiberifu.cli import main
from fiberifu.flags import Flag
from fiberifu.infer_job import export_galaxy, infer_catalog, open_executor, read_inferred, read_spaxels, summary_lines
from fiberifu.lines import LineMaps
from fiberifu.simulate.files import write_cutout
from fiberifu.simulate.products import BandImages

FAST = {"size": 4 * u.arcsec, "spaxel": 1 * u.arcsec, "lines": ["Ha", "N2_6583"], "draws": 8}
N = 6


def disc(seed, ra, dec):
    """An inclined exponential disc in g, r and z, 64 pixels of 0.262 arcsec."""
    y, x = (np.indices((64, 64)) - 31.5) * 0.262
    light = np.exp(-np.hypot(x, y / 0.6) / 1.5)
    rng = np.random.default_rng(seed)
    flux = {b: f * light + 0.002 * rng.standard_normal(light.shape) for b, f in (("g", 0.2), ("r", 0.4), ("z", 0.6))}
    ivar = {band: np.full(light.shape, 0.002**-2) for band in flux}
    meta = {"seed": seed, "redshift": 0.03}
    return BandImages(
        flux, ivar, np.zeros(light.shape, np.int16), dict.fromkeys(flux, 1.3), 0.262, (ra, dec), 0.0, meta
    )


def table(n=N):
    ra, dec = 150 + 0.1 * np.arange(n), 2 + 0.1 * np.arange(n)
    names = [f"sim {i}" for i in range(n)]
    files = [f"images/sim_{i}.fits" for i in range(n)]
    values = {"NAME": names, "RA": ra * u.deg, "DEC": dec * u.deg, "Z": 0.02 + 0.01 * np.arange(n), "IMAGE": files}
    return QTable(values)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six galaxies: row 2 has no image, the image of 4 is damaged, and 5 has an impossible redshift."""
    folder = tmp_path_factory.mktemp("catalogue")
    (folder / "images").mkdir()
    rows = table()
    rows["Z"][5] = -1.0
    for i in (0, 1, 3, 4, 5):
        write_cutout(disc(i, rows["RA"][i].value, rows["DEC"][i].value), folder / rows["IMAGE"][i])
    whole = (folder / "images/sim_4.fits").read_bytes()
    (folder / "images/sim_4.fits").write_bytes(whole[:30_000])
    rows.write(folder / "galaxies.ecsv")
    return folder


@pytest.fixture(scope="module")
def serial(place):
    """All of it by this process, with maps."""
    infer_catalog(place / "galaxies.ecsv", place / "serial", maps=True, **FAST)
    return read_inferred(place / "serial")


def same(a, b):
    assert a.colnames == b.colnames
    for name in a.colnames:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


# ---------------------------------------------------------------- catalogues
def test_columns_by_any_name_in_any_unit(tmp_path):
    long = 39627000000000001  # more digits than a float has
    rows = QTable(
        {
            "targetid": MaskedColumn(np.array([long, long + 1, 7]), mask=[False, False, True]),
            "Target_RA": [10.0, 10.1, 10.2] * u.hourangle,
            "TARGET_DEC": [60.0, 90.0, 120.0] * u.arcmin,
            "Z_SPEC": MaskedColumn([0.1, 0.2, 0.3], mask=[False, True, False]),
            "SHAPE_R": [0.1, 0.1, -1] * u.arcmin,
            "EBV": [0.1, 0.2, 0.3],
            "PSFSIZE_R": [1.2, 0.0, 1.4],
            "cutout": ["a.fits", "b.fits", ""],
        }
    )
    for path in (tmp_path / "rows.ecsv", tmp_path / "rows.fits"):
        if path.suffix == ".fits":  # which has no hours
            rows["Target_RA"] = rows["Target_RA"].to(u.deg)
        rows.write(path)
        a, b, c = read_targets(path)
        assert [t.name for t in (a, b, c)] == [str(long), str(long + 1), "2"]
        assert (a.row, a.problem, a.file) == (0, "", "a.fits")
        np.testing.assert_allclose((a.ra, a.dec, a.redshift, a.ebv), (150, 1, 0.1, 0.1))
        assert a.size == pytest.approx(3 * 6)  # to 1.5 half-light radii on each side
        assert a.images == (str(tmp_path / "a.fits"),)
        assert a.psf_fwhm == {"r": 1.2} and b.psf_fwhm == {}
        assert b.problem == "redshift must be positive, got nan"
        assert np.isnan(c.size) and c.problem == "no image file is named"  # -60: a radius that is not known


def test_a_magnitude_is_no_redshift(tmp_path):
    rows = QTable({"ra": [1.0], "dec": [2.0], "g": [17.0], "r": [16.5], "z": [16.3], "image": ["a.fits"]})
    rows.write(tmp_path / "rows.ecsv")
    with pytest.raises(ValueError, match="a magnitude, or the redshift"):
        read_targets(tmp_path / "rows.ecsv")
    assert read_targets(tmp_path / "rows.ecsv", columns={"redshift": "z"})[0].redshift == 16.3
    rows["z_spec"] = [0.05]
    rows.write(tmp_path / "both.ecsv")
    assert read_targets(tmp_path / "both.ecsv")[0].redshift == 0.05


def test_coordinates_of_another_frame_and_pattern_of_files(tmp_path):
    sky = SkyCoord([10.0, 20.0], [45.0, 46.0], unit="deg", frame="galactic")
    rows = QTable({"where": sky, "objid": [7, 12], "brick": ["0001m002", "0001m005"], "zphot": [0.1, 0.2]})
    rows.write(tmp_path / "rows.ecsv")
    pattern = "g={brick}/g_{OBJID:05d}.fits;r={brick}/r.fits"
    a, b = read_targets(tmp_path / "rows.ecsv", columns={"redshift": "ZPHOT"}, image=pattern)
    assert a.position.separation(sky[0]) < 1e-6 * u.arcsec
    assert b.images == (f"g={tmp_path}/0001m005/g_00012.fits", f"r={tmp_path}/0001m005/r.fits")


@pytest.mark.parametrize(
    ("change", "keywords", "message"),
    [
        (lambda t: t.remove_column("RA"), {}, "no column of the ra"),
        (lambda t: t.remove_column("IMAGE"), {}, "no column of image files"),
        (lambda t: t.replace_column("RA", t["RA"].value * u.km), {}, "column RA .ra. must be in deg"),
        (lambda t: t.replace_column("Z", t["Z"] * 3e5 * u.km / u.s), {}, "column Z .redshift. must be a pure number"),
        (lambda t: t.remove_rows(slice(None)), {}, "no rows"),
        (lambda t: None, {"columns": {"redshift": "Z_BEST"}}, "no column Z_BEST"),
        (lambda t: None, {"columns": {"speed": "Z"}}, "columns: speed"),
        (lambda t: None, {"image": "{BRICK}.fits"}, "no column BRICK"),
        (lambda t: None, {"image": "all.fits"}, "without a column"),
        (lambda t: None, {"image": "{NAME:05d}.fits"}, "image is '{NAME:05d}.fits'"),
    ],
)
def test_what_is_wrong_with_a_catalogue(tmp_path, change, keywords, message):
    rows = table()
    change(rows)
    rows.write(tmp_path / "rows.ecsv")
    with pytest.raises(ValueError, match=message):
        read_targets(tmp_path / "rows.ecsv", **keywords)


def test_no_catalogue(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_targets(tmp_path / "rows.ecsv")
    (tmp_path / "rows.fits").write_bytes(b"SIMPLE  =    T")
    with pytest.raises(ValueError, match="no readable FITS table"):
        read_targets(tmp_path / "rows.fits")


# ---------------------------------------------------------------- rows
def test_bad_galaxies_are_rows_with_a_reason(place, serial):
    assert list(serial["OK"]) == [True, True, False, True, False, False]
    assert list(serial["ROW"]) == list(range(N))
    assert serial["STATUS"][0] == "ok"
    assert serial["STATUS"][2] == "images/sim_2.fits: no such file"
    assert serial["STATUS"][4].startswith("images/sim_4.fits: truncated or damaged FITS")
    assert serial["STATUS"][5] == "redshift must be positive, got -1.0"
    assert np.isnan(serial["Ha_flux"][~serial["OK"]]).all() and np.isnan(serial["LATENT"][2]).all()
    text = "\n".join(summary_lines([place / "serial/chunk_predicted_00000-of-00001.fits"]))
    assert "3 of 6 galaxies predicted; 3 not" in text and "sim 2" in text


def test_row_is_what_the_prediction_says(place, serial):
    """Against cube, fibre and maps made one by one."""
    import torch

    from fiberifu import VirtualIFU
    from fiberifu.surveys import read_legacysurvey

    row = serial[1]
    target = read_targets(place / "galaxies.ecsv")[1]
    ifu, before = VirtualIFU.from_pretrained(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = read_legacysurvey(target.images[0])
        cube = ifu.predict_cube(image, redshift=0.03, size=4 * u.arcsec, spaxel=1 * u.arcsec, center=target.position)
        fiber = ifu.predict(image, target.position, redshift=0.03)
        latent = ifu.latents(image, center=target.position)
    finally:
        torch.set_num_threads(before)
    y, x = np.indices((4, 4)) - 1.5
    circle = np.hypot(x, y) < 2
    sums = cube.line_sums(["Ha", "N2_6583"], circle, draws=8).value
    # the same stamps to a hundredth of a pixel, not to the bit: here they are centred on the galaxy
    np.testing.assert_allclose(row["Ha_flux"].value, sums[1, 0], rtol=1e-3)
    np.testing.assert_allclose(row["Ha_flux_p84"].value, sums[2, 0], rtol=1e-3)
    inner, outer = row["Ha_flux_rings"].value[0], row["Ha_flux_rings"].value[2]
    assert np.isnan(inner) and outer > 0  # no spaxel of this coarse grid is nearer to the centre than 2/3 arcsec
    np.testing.assert_allclose(
        [row[f"Ha_center_ew{end}"].value for end in ("_p16", "", "_p84")],
        fiber.line_quantiles(lines=["Ha"], quantity="ew").value[:, 0],
        rtol=1e-3,
    )
    check = cube.self_check
    np.testing.assert_allclose(row["RESIDUAL_r"].value, check["residual"][1].value, atol=2e-4)
    np.testing.assert_allclose(row["LATENT"], latent, atol=1e-4)
    assert row["FLAGS"] & Flag.PSF_ASSUMED and row["FLAGS_CENTER"] & Flag.VELOCITY_PRIOR
    assert (row["N_SPAXEL"], row["N_USABLE"], row["SIZE"]) == (circle.sum(), circle.sum(), 4 * u.arcsec)
    spaxels, maps = read_spaxels(place / "serial", 1), cube.line_maps(["Ha"])
    assert spaxels["ROW"].tolist() == [1] * 16 and spaxels["Ha_flux"].unit == maps.flux["Ha"].unit
    for name in ("flux", "ew", "continuum"):
        ccd = getattr(maps, name)["Ha"]
        for mine, other in ((f"Ha_{name}", ccd.data), (f"Ha_{name}_err", ccd.uncertainty.array)):
            found = spaxels[mine].value.reshape(4, 4)
            assert np.array_equal(np.isnan(found), ccd.mask)
            np.testing.assert_allclose(found[~ccd.mask], other[~ccd.mask], rtol=2e-3)
    there = SkyCoord(spaxels["RA"], spaxels["DEC"]).reshape(4, 4)
    assert there.separation(cube.positions.reshape(4, 4)).max() < 0.01 * u.arcsec
    assert np.array_equal(spaxels["Y"], np.repeat(range(4), 4)) and len(read_spaxels(place / "serial", 2)) == 0


def test_files_say_that_they_are_predictions(place, serial):
    with fits.open(place / "serial/chunk_predicted_00000-of-00001.fits") as hdus:
        for hdu in hdus:
            assert hdu.header["DATATYPE"] == "PREDICTED" and len(hdu.header["WSHA256"]) == 64
            assert hdu.header["NCHUNK"] == 1 and hdu.header["CATALOG"] == "galaxies.ecsv"
        assert hdus[1].columns["Ha_flux"].unit == "10**-17 erg s-1 cm-2"


def test_latents(serial):
    from fiberifu import VirtualIFU
    from fiberifu.datasets import example_image

    ifu, image = VirtualIFU.from_pretrained(), example_image()
    latent = ifu.latents(image)
    assert latent.shape == (ifu.config.width,) and latent.dtype == np.float32 and np.isfinite(latent).all()
    assert np.abs(serial["LATENT"][0] - latent).max() > 0.05  # another galaxy
    with pytest.raises(ValueError, match="center="):
        ifu.latents(image, center=SkyCoord(0, 0, unit="deg"))


def test_large_images_are_cut_around_the_galaxy():
    from fiberifu.catalogue_row import _around
    from fiberifu.datasets import example_image

    ccd = next(iter(example_image().values()))
    ny, nx = ccd.shape
    position = ccd.wcs.pixel_to_world(0.4 * nx, 0.5 * ny)
    part = _around(ccd, position, 5.0)
    assert part.shape < ccd.shape
    x, y = part.wcs.world_to_pixel(position)
    np.testing.assert_array_equal(
        part.data[round(float(y)), round(float(x))], ccd.data[round(0.5 * ny), round(0.4 * nx)]
    )
    assert part.uncertainty.array.shape == part.shape and dict(part.meta) == dict(ccd.meta)
    assert _around(ccd, position, 500.0) is ccd


# ---------------------------------------------------------------- chunks, executors, kills
def test_rows_do_not_depend_on_chunks_and_threads(place, serial, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for i in (2, 0):
            infer_catalog(place / "galaxies.ecsv", tmp_path / "x", chunk=i, of=3, executor=pool, **FAST)
        with pytest.raises(ValueError, match=r"1 of 3 chunks are missing \(1\)"):
            read_inferred(tmp_path / "x")
        paths = infer_catalog(place / "galaxies.ecsv", tmp_path / "x", of=3, executor=pool, resume=True, **FAST)
    assert [path.name for path in paths] == [f"chunk_predicted_0000{i}-of-00003.fits" for i in range(3)]
    same(read_inferred(tmp_path / "x"), serial)
    with pytest.raises(ValueError, match="--maps"):
        read_spaxels(tmp_path / "x", 0)
    with pytest.raises(FileNotFoundError, match="row 6 is in no chunk"):
        read_spaxels(tmp_path / "x", 6)


def fake(monkeypatch):
    """Rows without a network: their numbers are those of the catalogue."""
    monkeypatch.setattr(infer_parts, "PART", 2)
    exec(FAKE, {"parts": infer_parts, "set": lambda name, value: monkeypatch.setattr(infer_parts, name, value)})
    monkeypatch.setattr("fiberifu.infer_job.own_threads", lambda executor: contextlib.nullcontext())


FAKE = """
from types import SimpleNamespace
ifu = SimpleNamespace(config=SimpleNamespace(name="fake", bands="gr", width=3), weights_sha256="0" * 64, passport={})
def predict(ifu, target, options):
    return {"ROW": target.row, "NAME": target.name, "Ha_flux": 10 * target.redshift, "OK": True, "STATUS": "ok"}, None
def layout(config, lines, full=parts.row_layout):
    return {name: kind for name, kind in full(config, lines).items() if name in ("ROW", "NAME", "OK", "Ha_flux")}
set("_load", lambda source: ifu)
set("_one_thread", lambda: None)
set("predict_target", predict)
set("row_layout", layout)
"""


def test_killed_at_every_write(tmp_path, monkeypatch):
    """Ended before, and after, each file takes its name: what is there is kept, and the table comes out the same."""
    fake(monkeypatch)
    table(5).write(tmp_path / "rows.ecsv")
    infer_catalog(tmp_path / "rows.ecsv", tmp_path / "whole", of=2, **FAST)
    expected, replace, made = read_inferred(tmp_path / "whole"), os.replace, []

    class Killed(BaseException):
        pass

    def stop(after, late):
        def replace_once(a, b):
            if late:
                replace(a, b)
            if len(made) == after:
                raise Killed
            made.append(b)
            if not late:
                replace(a, b)

        return replace_once

    for late in (False, True):
        for after in range(9):
            made.clear()
            monkeypatch.setattr(os, "replace", stop(after, late))
            folder = tmp_path / f"{late}{after}"
            try:
                infer_catalog(tmp_path / "rows.ecsv", folder, of=2, **FAST)
                break  # all was written before
            except Killed:
                monkeypatch.setattr(os, "replace", replace)
            there = {path: path.stat().st_mtime_ns for path in folder.rglob("0*_predicted.fits")}
            infer_catalog(tmp_path / "rows.ecsv", folder, of=2, resume=True, **FAST)
            same(read_inferred(folder), expected)
            assert len(there) <= 3 and not list(folder.rglob("parts"))
        assert after == 6  # the manifest, three parts, two chunks


def test_damaged_part_is_made_again(tmp_path, monkeypatch):
    fake(monkeypatch)
    table(9).write(tmp_path / "rows.ecsv")
    (path,) = infer_catalog(tmp_path / "rows.ecsv", tmp_path / "x", of=1, **FAST)
    expected = read_inferred(tmp_path / "x")
    path.write_bytes(path.read_bytes()[:4000])
    part = tmp_path / "x/parts/00000/0000002_predicted.fits"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"SIMPLE")
    infer_catalog(tmp_path / "rows.ecsv", tmp_path / "x", of=1, resume=True, **FAST)
    same(read_inferred(tmp_path / "x"), expected)


KILLER = """
import contextlib, os, signal, sys, time
import astropy.units as u, numpy as np
from fiberifu import infer_job, line_functionals
from fiberifu import infer_parts as parts
set = lambda name, value: setattr(parts, name, value)
line_functionals.select_lines = lambda lines: {"key": lines}  # without torch, so that a fork is safe
infer_job.own_threads = lambda executor: contextlib.nullcontext()
set("PART", 2)
{fake}
def slow(ifu, target, options):
    time.sleep(0.002)
    return predict(ifu, target, options)
set("predict_target", slow)
rng = np.random.default_rng(3)
def files():
    return len([name for _, _, names in os.walk("{place}/x") for name in names])
for _ in range(4):
    before = files()
    child = os.fork()
    if not child:
        infer_job.infer_catalog("{place}/rows.ecsv", "{place}/x", of=3, resume=True, draws=8, size=4 * u.arcsec,
                                spaxel=1 * u.arcsec, lines=["Ha", "N2_6583"])
        os._exit(0)
    while files() < before + 2 and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], files())
"""


def test_sigkill(tmp_path, monkeypatch):
    """Runs killed by the operating system at some moment, each going on where the last one was; then one that ends."""
    fake(monkeypatch)
    table(24).write(tmp_path / "rows.ecsv")
    infer_catalog(tmp_path / "rows.ecsv", tmp_path / "whole", of=3, **FAST)
    code = KILLER.replace("{fake}", FAKE).replace("{place}", str(tmp_path))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    status, files = np.array([line.split() for line in done.stdout.splitlines()], int).T
    assert (status == 9).sum() >= 2 and files.max() > 2, done.stdout
    infer_catalog(tmp_path / "rows.ecsv", tmp_path / "x", of=3, resume=True, **FAST)
    same(read_inferred(tmp_path / "x"), read_inferred(tmp_path / "whole"))
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [
        *(f"chunk_predicted_0000{i}-of-00003.fits" for i in range(3)), "manifest.json"
    ]  # fmt: skip


def test_other_settings_are_refused(tmp_path, monkeypatch):
    fake(monkeypatch)
    path, folder = tmp_path / "rows.ecsv", tmp_path / "x"
    table(4).write(path)
    infer_catalog(path, folder, of=2, **FAST)
    with pytest.raises(FileExistsError, match="not empty"):
        infer_catalog(path, folder, of=2, **FAST)
    for change in ({"of": 3}, {"seed": 1}, {"aperture": 2 * u.arcsec}, {"size": 5 * u.arcsec}):
        with pytest.raises(ValueError, match="other settings"):
            infer_catalog(path, folder, resume=True, **{**FAST, "of": 2, **change})
    with pytest.raises(ValueError, match="other settings"):  # a chunk of other settings neither
        infer_catalog(path, folder, chunk=1, of=2, **{**FAST, "draws": 9})
    with pytest.raises(ValueError, match="overwrite is true, and chunk is given"):
        infer_catalog(path, folder, chunk=1, of=2, overwrite=True, **FAST)
    infer_catalog(path, folder, of=1, overwrite=True, **FAST)
    assert len(read_inferred(folder)) == 4
    table(5).write(path, overwrite=True)
    with pytest.raises(ValueError, match="other settings: catalog"):
        infer_catalog(path, folder, of=1, resume=True, **FAST)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"chunk": 1}, "of how many"),
        ({"chunk": 2, "of": 2}, "from 0 to 1"),
        ({"of": 7}, "6 galaxies"),
        ({"reader": "jpeg"}, "reader is 'jpeg'"),
        ({"draws": 1}, "draws is 1"),
        ({"size": 3}, "size is 3"),
        ({"aperture": -1 * u.arcsec}, "aperture is"),
        ({"lines": ["Hx"]}, "Hx"),
    ],
)
def test_arguments(place, tmp_path, keywords, message):
    with pytest.raises(ValueError, match=message):
        infer_catalog(place / "galaxies.ecsv", tmp_path / "x", **{**FAST, **keywords})
    assert not (tmp_path / "x").exists()


def test_executors_by_name():
    with open_executor("none") as executor:
        assert executor is None
    for arguments in (("threads",), ("process", 0), ("process", 1, "tcp://here")):
        with pytest.raises(ValueError, match="is "):
            with open_executor(*arguments):
                pass


@pytest.mark.remote_data  # its scheduler listens on all interfaces, which the guard of sockets takes for the internet
def test_dask(tmp_path, monkeypatch):
    """A cluster of one worker in this process."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    import warnings

    fake(monkeypatch)
    table(9).write(tmp_path / "rows.ecsv")
    infer_catalog(tmp_path / "rows.ecsv", tmp_path / "whole", of=2, **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dask's own
        with distributed.Client(n_workers=1, processes=False, host="127.0.0.1", dashboard_address=None) as client:
            pool = client.get_executor(pure=False)
            infer_catalog(tmp_path / "rows.ecsv", tmp_path / "x", of=2, executor=pool, **FAST)
    same(read_inferred(tmp_path / "x"), read_inferred(tmp_path / "whole"))


# ---------------------------------------------------------------- the command
def test_command(place, serial, tmp_path, capsys):
    command = [
        "infer",
        str(place / "galaxies.ecsv"),
        "--size",
        "4",
        "--spaxel",
        "1",
        "--lines",
        "Ha,N2",
        "--draws",
        "8",
    ]
    assert main([*command, "-o", str(tmp_path / "x"), "--chunk", "0", "--of", "2"]) == 0
    out = capsys.readouterr().out
    assert "chunk_predicted_00000-of-00002.fits" in out and "2 of 3 galaxies predicted; 1 not" in out
    with fits.open(tmp_path / "x/chunk_predicted_00000-of-00002.fits") as hdus:
        np.testing.assert_array_equal(hdus[1].data["Ha_flux"], serial["Ha_flux"][:3].value)
    assert main([*command, "-o", str(tmp_path / "y"), "--export", "sim 9"]) == 2
    assert "there is none of that name" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "y"), "--column", "Z"]) == 2
    assert "MEANING=NAME" in capsys.readouterr().err


def test_export(place, serial, tmp_path):
    keywords = {"size": FAST["size"], "spaxel": FAST["spaxel"]}
    prediction, paths = export_galaxy(place / "galaxies.ecsv", tmp_path / "x", "sim 1", **keywords)
    assert [path.name for path in paths[:2]] == ["sim_1_predicted_cube.fits", "sim_1_predicted_maps.fits"]
    mine = LineMaps.read(paths[1])
    theirs = read_spaxels(place / "serial", 1)
    np.testing.assert_allclose(mine.flux["Ha"].data.ravel(), theirs["Ha_flux"].value, rtol=1e-5)
    with pytest.raises(ValueError, match="redshift must be positive"):
        export_galaxy(place / "galaxies.ecsv", tmp_path / "y", "#5", **keywords)
