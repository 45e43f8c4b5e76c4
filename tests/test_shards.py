# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From survey files to shards to batches: records that are right, builds that lose nothing, an order without replay."""

import dataclasses
import json
import os
import re
import shutil
import sys

import astropy.units as u
import numpy as np
import pytest
import simulated_surveys
import torch
from astropy.io import fits
from astropy.table import Table

from fiberifu.cli import main
from fiberifu.extinction import mw_transmission
from fiberifu.image import prepare_image
from fiberifu.model import ModelConfig
from fiberifu.shards import job, shards_to_folder
from fiberifu.shards.job import read_positions, split_side
from fiberifu.shards.plan import make_plan
from fiberifu.shards.unit import _strictest, make_records, passbands
from fiberifu.simulate import analytic_template_pack
from fiberifu.simulate.filters import filter_curve
from fiberifu.simulate.observe import aperture_photometry
from fiberifu.simulate_job import simulate_to_folder
from fiberifu.surveys import read_legacysurvey
from fiberifu.train import Recipe, train
from fiberifu.train.shards import Layout, ShardLoader, Shards, ShardStore, Shuffle, store, verify, write_shard
from fiberifu.train.shards.record import SPLITS, decode, encode

N = 4
SMALL = dict(width=32, depth=1, heads=2, query_blocks=1, local_width=32, n_continuum=4, rank=1)


def observe_desi(simulator, seed, start, n):
    """As that of other tests, with images whose columns grow to the West, as their headers say."""
    spectra, fields = simulated_surveys.observe_desi(simulator, seed, start, n)
    for field in fields:
        for part in (field.flux, field.ivar):
            part.update({band: plane[:, ::-1] for band, plane in part.items()})
        field.maskbits[:] = field.maskbits[:, ::-1].copy()
    return spectra, fields


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A simulated release with bricks: four galaxies in several HEALPix pixels, one with two fibres or more."""
    folder = tmp_path_factory.mktemp("release")
    instruments = {"desi": observe_desi}
    simulate_to_folder("desi", folder, n=N, seed=3, bricks=True, pack=analytic_template_pack(), instruments=instruments)
    return folder


@pytest.fixture(scope="module")
def records(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    shards_to_folder(tree, folder, per_unit=2)
    return folder


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "pack.npz"
    np.savez(path, **analytic_template_pack())
    return path


def contents(folder):
    """What a store holds, whoever made it: the bytes of data, and the index."""
    data = {path.name: path.read_bytes() for path in sorted((folder / store.SHARDS).iterdir())}
    return data, json.loads((folder / store.INDEX).read_text())


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize("n", [1, 2, 5, 64, 1000, 4097])
def test_every_epoch_visits_all_once(n):
    order = Shuffle(n, seed=4)
    epochs = [order(epoch, np.arange(n)) for epoch in range(3)]
    assert all(np.array_equal(np.sort(e), np.arange(n)) for e in epochs)
    if n > 50:
        assert (epochs[0] == epochs[1]).mean() < 0.2 and (epochs[0] == Shuffle(n, seed=5)(0, np.arange(n))).mean() < 0.2
        assert abs(np.corrcoef(np.arange(n), epochs[2])[0, 1]) < 0.4
    whole = np.concatenate(epochs)
    epoch, things = order.visits(n // 2, 2 * n)  # begins anywhere, without replaying
    assert np.array_equal(things, whole[n // 2 : n // 2 + 2 * n]) and epoch[-1] == (n // 2 + 2 * n - 1) // n
    state = order.state(2 * n + n // 2)
    assert state == {"epoch": 2, "consumed": n // 2} and order.position(state) == 2 * n + n // 2


def test_half_precision_keeps_what_matters():
    rng = np.random.default_rng(0)
    values = 3e-6 * 10 ** rng.uniform(0, 8, (2, 3, 40)) * rng.choice([-1, 1], (2, 3, 40))
    values[0, 0] = 0
    values[1, 2, 5] = np.inf
    half, scale = encode(values, 1)
    again = decode(half, scale)
    assert half.dtype == np.float16 and scale.shape == (2, 3) and np.isinf(again[1, 2, 5])
    finite = np.isfinite(values)
    error = np.abs(again[finite] - values[finite])
    allowed = np.maximum(4.9e-4 * np.abs(values), 3e-8 * scale[..., None])[finite] * 1.01
    assert (error <= allowed).all() and (again[0, 0] == 0).all()
    with pytest.raises(ValueError, match="nan"):
        encode([np.nan, 1.0], 1)


# ---------------------------------------------------------------- records
def test_records_are_the_galaxies_of_the_survey(tree, records):
    """Image as `prepare_image` makes it, spectra dereddened and at the image's flux, fibres where they were."""
    found = ShardStore(records)
    assert found.index["galaxies"] == N and len(found) > 1 and verify(records) == []
    truth = Table.read(tree / "truth_sim.fits", "FIBERS")
    row_of = {int(t): i for i, t in enumerate(truth["targetid"])}
    assert found.index["fibers"] == len(truth) and found.index["meta"]["kind"] == "SIMULATED"
    curves, layout = passbands(found.layout, ("",) * 4).numpy(), found.layout
    for unit in range(len(found)):
        arrays = found.arrays(unit)
        image, sigma = (decode(arrays[key], arrays[f"{key}_scale"]) for key in ("image", "sigma"))
        flux = decode(arrays["flux"], arrays["flux_scale"])
        for g, (first, n) in enumerate(zip(arrays["first_fiber"], arrays["n_fibers"], strict=True)):
            rows = [row_of[int(t)] for t in arrays["targetid"][first : first + n]]
            galaxy = set(truth["galaxy"][rows])
            assert len(galaxy) == 1  # all fibres of one galaxy together, and of no other
            cutout = tree / "images" / f"cutout_sim-3-{galaxy.pop():06d}.fits"
            psf = cutout.with_name(cutout.name.replace("cutout", "copsf"))
            prepared = prepare_image(read_legacysurvey(cutout, psf=psf), ebv=0.03)
            seen = np.isfinite(sigma[g])
            assert np.array_equal(seen, np.isfinite(prepared.sigma))
            noise = np.where(seen, prepared.sigma, 1)
            assert np.abs((image[g] - prepared.sb) / noise)[seen].max() < 0.3  # PSFs by image there, by FWHM here
            np.testing.assert_allclose(sigma[g][seen], prepared.sigma[seen], rtol=2e-3)
            dec = np.radians(truth["fiber_dec"][rows])
            east = (truth["fiber_ra"][rows] - arrays["ra"][g]) * np.cos(dec) * 3600
            north = (truth["fiber_dec"][rows] - arrays["dec"][g]) * 3600
            offset = arrays["offset"][first : first + n]
            np.testing.assert_allclose(offset, np.stack([east, north], 1), atol=0.01)
            stack = [torch.from_numpy(a[g]).expand(n, *a.shape[1:]) for a in (image, sigma)]
            band, error = aperture_photometry(*stack, torch.from_numpy(offset.copy()), layout.pixel_scale)
            mine = flux[first : first + n] @ curves.T
            pull = (mine - band.numpy()) / np.hypot(error.numpy(), 0.1 * np.abs(band.numpy()) + 0.02)
            assert np.abs(pull[np.isfinite(error.numpy())]).max() < 4
            np.testing.assert_allclose(arrays["redshift"][first : first + n], truth["z"][rows])
    assert (0 < arrays["anchor"]).all() and (arrays["sigma_z"] >= 3.3e-5).all()


def test_spectra_are_dereddened(tree, records):
    """What is left between a record and its coadd is the dust and a smooth factor."""
    found = ShardStore(records)
    arrays = found.arrays(0)
    path = sorted(tree.rglob("coadd-*.fits"))[0]
    with fits.open(path) as hdus:
        row = int(np.flatnonzero(hdus["FIBERMAP"].data["TARGETID"] == arrays["targetid"][0])[0])
        blue, ivar = hdus["B_FLUX"].data[row, :2700], hdus["B_IVAR"].data[row, :2700]
        ivar = np.where(hdus["B_MASK"].data[row, :2700] == 0, ivar, 0)
    wave = found.layout.wave[:2700]
    ratio = decode(arrays["flux"], arrays["flux_scale"])[0, :2700] * mw_transmission(wave, arrays["ebv"][0])
    good = (ivar > 0) & (np.abs(blue) * np.sqrt(ivar) > 0.3)
    factor = ratio[good] / blue[good]
    tilt = np.polyfit(np.log(wave[good]), factor, 1)
    np.testing.assert_allclose(factor, np.polyval(tilt, np.log(wave[good])), rtol=2e-3)
    assert arrays["ivar"][0, 7] == 0  # masked


def test_the_north_has_curves_of_its_own(tree, records, tmp_path, monkeypatch):
    """Spectra under images of BASS and MzLS are scaled through these, and nothing else changes."""
    layout = ShardStore(records).layout
    south, north = (passbands(layout, names) for names in (("",) * 4, ("BASS g", "BASS r", "", "MzLS z")))
    flat = 3631e-23 * 2.99792458e18 / layout.wave**2 * 1e-9 / 1e-17  # a nanomaggy, in 1e-17 erg/s/cm2/A
    tilted = torch.from_numpy(np.stack([flat, flat * (layout.wave / 6500) ** 2])).float()
    np.testing.assert_allclose((tilted[0] @ north.T).numpy(), 1, atol=3e-3)
    speclite = pytest.importorskip("speclite.filters")
    wide = np.arange(3000, 11000, 0.8)
    for i, name in enumerate(("BASS-g", "BASS-r")):
        spectrum = np.interp(wide, layout.wave, tilted[1].numpy()) * 1e-17 * u.Unit("erg/(s cm2 AA)")
        magnitude = speclite.load_filter(name).get_ab_magnitude(spectrum, wide * u.AA)
        assert float(tilted[1] @ north[i]) == pytest.approx(10 ** (0.4 * (22.5 - magnitude)), rel=1e-3)
    plan = make_plan(tree)
    fibers = plan.fibers[plan.fibers["galaxy"] == 0]
    bricks = shutil.copytree(tree / "legacysurvey", tmp_path / "north")
    args = (plan.files, [bricks], layout, 0, lambda ra, dec: 0)
    (before,), _ = make_records(fibers, *args)
    for path in bricks.rglob(f"legacysurvey-{fibers['brick'][0]}-image-*"):
        data = path.read_bytes()  # not through astropy, which would quantise the pixels again
        assert b"'simulated DECaLS'" in data
        path.write_bytes(
            data.replace(b"'simulated DECaLS'", b"'simulated BASS  '").replace(b"'sim-south'", b"'sim-north'")
        )
    (after,), _ = make_records(fibers, *args)
    assert np.array_equal(before["image"], after["image"])
    ratio = (decode(after["fibers"]["flux"], after["fibers"]["flux_scale"]) @ north.numpy().T) / (
        decode(before["fibers"]["flux"], before["fibers"]["flux_scale"]) @ south.numpy().T
    )
    np.testing.assert_allclose(ratio, 1, atol=0.02)  # the same light in each band, through other curves
    assert (before["fibers"]["anchor"] != after["fibers"]["anchor"]).all()
    passbands.cache_clear()
    monkeypatch.setitem(sys.modules, "speclite.filters", None)
    filter_curve.cache_clear()
    with pytest.raises(ValueError, match=r"BASS and MzLS: .*fiberifu\[north\]"):
        shards_to_folder(tree, tmp_path / "records", bricks=[bricks])


def test_fibres_of_one_galaxy_stay_together():
    from fiberifu.shards.plan import _together

    step = 1 / 3600
    rows = Table(
        {
            "ra": [10, 10 + 5 * step, 10 + 11 * step, 10 + 5 * step, 200.0],
            "dec": [0.0, 0, 0, 0, 45],
            "z": [0.1, 0.1005, 0.1, 0.3, 0.1],
            "flux_r": [5.0, 50, 1, 9, 3],
            "targetid": [1, 2, 3, 4, 5],
            "pixel": [7, 8, 7, 7, 9],
        }
    )
    order = _together(rows)
    ids, galaxy = np.asarray(rows["targetid"])[order], np.asarray(rows["galaxy"])[order]
    groups = {tuple(sorted(ids[galaxy == g])) for g in galaxy}
    assert groups == {(1, 2, 3), (4,), (5,)}  # the one behind has another redshift
    assert ids[galaxy == galaxy[list(ids).index(1)]][0] == 2  # the brightest first, whose pixel is that of all
    assert set(np.asarray(rows["pixel"])[[0, 1, 2]]) == {8}


def test_a_galaxy_is_held_out_with_any_of_its_fibers():
    sides = {1.0: "train", 2.0: "between", 3.0: "held_out"}
    for ras, wanted in (((1.0, 1.0), "train"), ((1.0, 2.0), "between"), ((3.0, 1.0, 2.0), "held_out")):
        fibers = {"ra": ras, "dec": ras}
        assert SPLITS[_strictest(lambda ra, dec: SPLITS.index(sides[ra]), fibers)] == wanted


def test_held_out_positions_are_kept_apart(tree, tmp_path):
    plan = make_plan(tree)
    ra, dec = plan.fibers["ra"][0], plan.fibers["dec"][0]
    path = tmp_path / "drpall.fits"
    Table({"objra": [ra], "objdec": [dec + 20 / 3600]}).write(path)
    positions = read_positions(path)
    assert SPLITS[split_side(ra, dec, positions)] == "held_out"
    assert SPLITS[split_side(ra, dec - 15 / 3600, positions)] == SPLITS[split_side(ra, dec, np.empty((0, 2)))]
    Table({"x": [1.0]}).write(path, overwrite=True)
    with pytest.raises(ValueError, match="objra and objdec"):
        read_positions(path)


# ---------------------------------------------------------------- builds
class Killed(BaseException):
    pass


def test_a_build_killed_at_any_moment_goes_on(tree, records, tmp_path, monkeypatch):
    """Stopped before and after every renaming of a file, and resumed: byte by byte what an undisturbed one makes."""
    renamed, made, make = store._replace, {}, job.make_records

    def make_once(fibers, *args):  # the same each time, as other tests hold; what matters here is the writing
        key = tuple(fibers["targetid"])
        made[key] = made.get(key) or make(fibers, *args)
        return made[key][0], dict(made[key][1])

    monkeypatch.setattr(job, "make_records", make_once)
    for done in (False, True):
        folder = tmp_path / str(done)
        for moment in range(20):
            calls = iter(range(100))

            def replace(temporary, path, calls=calls, done=done, moment=moment):
                last = next(calls) == moment
                if done or not last:
                    renamed(temporary, path)
                if last:
                    raise Killed

            monkeypatch.setattr(store, "_replace", replace)
            try:
                shards_to_folder(tree, folder, per_unit=2, resume=True)
                break
            except Killed:
                assert done or not (folder / store.INDEX).is_file()
        assert moment > 2
        assert contents(folder) == contents(records)


def test_chunks_make_the_same_store(tree, records, tmp_path):
    assert shards_to_folder(tree, tmp_path, per_unit=2, chunk=(2, 2), resume=True) is None
    with pytest.raises(FileNotFoundError, match="not finished"):
        ShardStore(tmp_path)
    assert shards_to_folder(tree, tmp_path, per_unit=2, chunk=(1, 2), resume=True)["galaxies"] == N
    assert contents(tmp_path) == contents(records)
    with pytest.raises(ValueError, match="other settings: seed"):
        shards_to_folder(tree, tmp_path, per_unit=2, seed=1, resume=True)
    data = sorted((tmp_path / store.SHARDS).glob("*.bin"))[0]
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match="build the unit again"):
        ShardStore(tmp_path)
    shards_to_folder(tree, tmp_path, per_unit=2, resume=True)
    assert contents(tmp_path) == contents(records)


def test_other_contents_of_the_same_files_are_refused(tree, records, tmp_path):
    """A file that was touched, another size, a brick that has come: said before anything is written."""
    folder = shutil.copytree(records, tmp_path / "records")
    before = contents(folder)
    spectra, image = sorted(tree.rglob("coadd-*.fits"))[0], sorted(tree.rglob("legacysurvey-*-image-r.fits*"))[-1]
    for path, named in ((image, f"brick {image.parent.name} "), (spectra, f"{spectra.name} ")):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
        with pytest.raises(ValueError, match=f"other files .* differ of {re.escape(named)}.*pixel-"):
            shards_to_folder(tree, folder, per_unit=2, resume=True)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    aside = image.rename(tmp_path / image.name)
    with pytest.raises(ValueError, match=f"differ of brick {image.parent.name}"):
        shards_to_folder(tree, folder, per_unit=2, resume=True)
    aside.rename(image)
    shards_to_folder(tree, folder, per_unit=2, resume=True)  # as it was
    assert contents(folder) == before


def test_bad_files_are_counted_and_the_rest_goes_on(tree, tmp_path, capsys, caplog):
    copy = tmp_path / "release"
    shutil.copytree(tree, copy)
    coadds, bricks = sorted(copy.rglob("coadd-*.fits")), sorted(copy.rglob("coadd/sim/*"))
    spectra = make_plan(copy)
    coadds[0].write_bytes(coadds[0].read_bytes()[:20_000])
    mine = {b for b, f in zip(spectra.fibers["brick"], spectra.fibers["file"], strict=True) if f > 0}
    lost = next(b for b in bricks if b.name in mine)
    shutil.rmtree(lost)
    assert main(["shards", str(copy), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    index = json.loads((tmp_path / "out" / store.INDEX).read_text())
    first = int((np.asarray(spectra.fibers["file"]) == 0).sum())
    assert index["left_out"]["coadd not readable"] == first and index["left_out"]["no image"] >= 1
    assert index["fibers"] == len(spectra.fibers) - sum(index["left_out"].values())
    assert f"{first} coadd not readable" in said.out and lost.name in caplog.text
    assert main(["shards", str(copy), "-o", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["shards", str(tmp_path / "absent"), "-o", str(tmp_path / "other")]) == 2
    assert "no such folder" in capsys.readouterr().err


# ---------------------------------------------------------------- training
@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 11 small galaxies, in three units, with one to three fibres."""
    folder, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    layout = Layout(bands=("g", "r", "z"), stamp=16, wave_size=50)

    def galaxy(i):
        n = 1 + i % 3
        spectra = {key: rng.uniform(1, 2, (n, 50)) for key in ("flux", "ivar")}
        numbers = {key: rng.uniform(0.1, 0.2, n) for key in ("redshift", "sigma_z", "anchor")}
        images = {key: rng.uniform(1, 2, (3, 16, 16)) for key in ("image", "sigma")}
        return images | {
            "present": [True, True, i % 2 == 0], "psf_fwhm": i, "split": i == 10, "ra": 1.0, "dec": 2.0, "ebv": 0.0,
            "fibers": spectra | numbers | {"offset": rng.normal(size=(n, 2)), "targetid": 10 * i + np.arange(n)},
        }  # fmt: skip

    names = ["pixel-1", "pixel-2", "pixel-3"]
    for k, name in enumerate(names):
        write_shard(folder, name, [galaxy(i) for i in range(4 * k, min(4 * k + 4, 11))], layout)
    store.finish(folder, names, layout=layout)
    return folder


def test_batches_do_not_depend_on_pieces_or_threads(many):
    def collect(n, threads, first, count):
        loader = ShardLoader(many, n, seed=1, threads=threads, fibers=2)
        batches = loader.batches(first)
        return [{k: v.clone() for k, v in next(batches)[1].items()} for _ in range(count)]

    whole, halves, later = collect(6, 0, 0, 4), collect(3, 3, 0, 8), collect(6, 2, 2, 2)
    for i in range(4):
        pair = halves[2 * i : 2 * i + 2]
        for key, value in whole[i].items():
            parts = [p[key] + 3 * k if key == "fiber_galaxy" else p[key] for k, p in enumerate(pair)]
            assert torch.equal(torch.cat(parts), value), key
        if i >= 2:
            assert all(torch.equal(later[i - 2][key], value) for key, value in whole[i].items())
    seen = torch.cat([b["psf_fwhm"] for b in whole])
    assert sorted(seen[:10].tolist()) == list(range(10))  # one epoch; the eleventh is held out
    first = whole[0]
    assert first["image"].shape == (6, 4, 16, 16) and not first["present"][:, 2].any()  # no i band in the store
    assert torch.isinf(first["sigma"][:, 2]).all() and (first["image"][:, 2] == 0).all()
    assert (torch.bincount(first["fiber_galaxy"]) <= 2).all()
    assert len(ShardLoader(many, 1, 0, split="held_out").galaxies) == 1
    with pytest.raises(ValueError, match="no galaxy in 'between'"):
        ShardLoader(many, 1, 0, split="between")


def test_training_on_shards_resumes_as_if_it_had_never_stopped(records, pack_path, tmp_path):
    recipe = Recipe(model=ModelConfig(**SMALL), steps=2, batch=4, pieces=2, warmup=1, mixtures=60,
                    shards=Shards(str(records), threads=1))  # fmt: skip
    whole, _ = train(recipe, pack_path, tmp_path / "whole")
    for expected in (1, 2):
        part, done = train(recipe, pack_path, tmp_path / "parts", stop_after=0.0)
        assert done == expected
    for (name, a), b in zip(whole.state_dict().items(), part.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    moved = shutil.copytree(records, tmp_path / "moved")  # the same records elsewhere are the same run
    train(dataclasses.replace(recipe, shards=Shards(str(moved))), pack_path, tmp_path / "parts")
    index = json.loads((moved / store.INDEX).read_text())
    (moved / store.INDEX).write_text(json.dumps(index | {"sha256": "0"}))
    with pytest.raises(ValueError, match="other records"):
        train(dataclasses.replace(recipe, shards=Shards(str(moved))), pack_path, tmp_path / "parts")


def test_recipes_with_shards(many, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(f'steps = 5\n[shards]\npath = "{many}"\nthreads = 3\n')
    recipe = Recipe.read(path)
    assert recipe.shards == Shards(str(many), threads=3)
    elsewhere = dataclasses.replace(recipe, shards=Shards("elsewhere"))
    assert recipe.sha256() == elsewhere.sha256() != Recipe(steps=5).sha256()
    for text, message in (
        ("[shards]\nfolder = 'x'", "unknown names ..folder"),
        ("[shards]\npath = 3", "shards.path: got 3"),
        ("[shards]\nfibers = 1", "shards.path: missing"),
        ("passes = 2\n[shards]\npath = 'x'", "passes is 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.read(path)
    with pytest.raises(ValueError, match="hold .*the model reads"):
        train(recipe, "absent.npz", tmp_path / "run")
