# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The published network: the same numbers as the public code, safe loading, orientation, and what it cannot give."""

import collections
import dataclasses
import os
import pickle
import shutil
import sys
import types
import warnings
import zipfile

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from make_published_reference import CONFIG, MASKS, REFERENCE, filled, inputs

from fiberifu import Flag, VirtualIFU
from fiberifu.cli import main
from fiberifu.commands.arguments import arguments_as_options
from fiberifu.commands.observe import _check_in_words, _line_in_words
from fiberifu.image import PreparedImage, prepare_image
from fiberifu.infer_job import _model_files
from fiberifu.model import (
    PublishedConfig,
    PublishedMAE,
    PublishedOutput,
    convert_published,
    load_checkpoint,
    load_published,
    read_lightning_checkpoint,
)
from fiberifu.model.published_checkpoint import _fill
from fiberifu.plot.summary import flags_in_words
from fiberifu.published import fibre_fraction, fibre_place, network_image, prepare
from fiberifu.published.image import stamps
from fiberifu.surveys import read_des

TINY = CONFIG | {"spec_dim": 7781, "left_patches": 10, "right_patches": 10, "s_depth": 1, "merged_depth": 1}
CENTER = SkyCoord(150.0, 2.0, unit="deg")
BANDS = PublishedConfig.bands


@pytest.fixture(scope="module")
def tiny():
    return PublishedMAE(PublishedConfig(**CONFIG)).double().eval()


def lightning(path, model, **changes):
    """A file as Lightning writes it, with the class and the NumPy number that real ones hold."""
    parameters = {k: getattr(model.config, k) for k in CONFIG} | {"mlp_ratio": 4.0, "norm_layer": torch.nn.LayerNorm,
                  "norm_pix_loss": False, "lr": 2e-4, "patch_scheme": {"patch_sizes": [1]}}  # fmt: skip
    stored = {"epoch": 3, "state_dict": collections.OrderedDict(model.state_dict()), "hyper_parameters": parameters,
              "lr_schedulers": [{"_last_lr": [np.float64(1e-4)]}], "callbacks": {}} | changes  # fmt: skip
    torch.save(stored, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(2)
    return lightning(tmp_path_factory.mktemp("ckpt") / "pretrained.ckpt", PublishedMAE(PublishedConfig(**TINY)))


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    convert_published(checkpoint, folder)
    return folder


def image(east_left=True, bands=BANDS, rotation=0.0, error=0.01):
    """Blank bands of 128 pixels but for a point 4 arcsec East and 2 North of the middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [CENTER.ra.deg, CENTER.dec.deg]
    wcs.wcs.crpix, step = [64.5, 64.5], 0.262 / 3600
    wcs.wcs.cdelt = [-step if east_left else step, step]
    data = np.full((128, 128), 0.02, np.float32)
    x, y = wcs.world_to_pixel(CENTER.spherical_offsets_by(4 * u.arcsec, 2 * u.arcsec))
    data[round(float(y)), round(float(x))] = 3

    def ccd():
        noise = None if error is None else StdDevUncertainty(np.full(data.shape, error))
        return CCDData(data.copy(), unit=u.nmgy, wcs=wcs.deepcopy(), uncertainty=noise)

    return {band: ccd() for band in bands}


# --- the same numbers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("masks", MASKS)
def test_same_numbers_as_the_public_code(tiny, masks):
    tiny.load_state_dict(filled(tiny.state_dict()), strict=True)
    pictures, errors, flux, flux_error, xy, redshift = inputs()
    with np.load(REFERENCE) as stored:
        wanted = {key: torch.from_numpy(stored[f"{masks}_{key}"]) for key in ("flux", "log_sigma", "hidden")}
    shown = ~wanted["hidden"]
    keywords = {"flux": flux, "flux_error": flux_error, "spectrum_shown": shown[1:3], "image_shown": shown[3:]}
    with torch.no_grad():
        for want_image in (False, True):  # what is not computed changes nothing
            found = tiny(pictures, errors, redshift, xy, want_image=want_image, **keywords)
            for key in ("flux", "log_sigma"):
                assert (getattr(found, key) - wanted[key]).abs().max() < 1e-9
                assert wanted[key].std() > 0.01
        alone = tiny(pictures, errors, redshift, xy[1:2], **keywords)
        assert (alone.flux - wanted["flux"][1:2]).abs().max() < 1e-9
    assert found.image.shape == (3, 6, 128, 128)


def test_released_shape():
    with torch.device("meta"):
        count = sum(p.numel() for p in PublishedMAE().parameters() if p.requires_grad)
    assert count == 53_576_714
    c = PublishedConfig()
    assert (c.spectrum_patches, c.image_patches, len(c.extended_wavelength)) == (251, 384, 8401)
    assert c.wavelength[-1] == pytest.approx(9824)
    with pytest.raises(ValueError, match="patch_size=30 must divide"):
        PublishedConfig(patch_size=30)


# --- safe loading -------------------------------------------------------------------------------------------------
def test_conversion(checkpoint, folder, capsys, tmp_path):
    assert main(["convert-checkpoint", str(checkpoint), str(tmp_path / "out")]) == 0
    assert "sha256" in capsys.readouterr().out
    model, passport = load_published(tmp_path / "out")
    torch.manual_seed(2)
    state = PublishedMAE(PublishedConfig(**TINY)).state_dict()  # what the checkpoint was made of
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert passport["source_sha256"] in (tmp_path / "out" / "README.md").read_text()
    assert passport["training"]["lr"] == 2e-4
    ifu = VirtualIFU.from_pretrained(tmp_path / "out")
    ifu.save_pretrained(tmp_path / "again")
    assert VirtualIFU.from_pretrained(tmp_path / "again").weights_sha256 == ifu.weights_sha256
    assert main(["convert-checkpoint", str(checkpoint), str(tmp_path / "bad"), "--sha256", "00"]) == 2
    assert "its sha256 is" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {"manifest.json", "model.safetensors"} <= set(before)
    torch.save({"state_dict": {}, "hyper_parameters": {"embed_dim": 7}}, tmp_path / "bad.ckpt")
    assert main(["convert-checkpoint", str(tmp_path / "bad.ckpt"), str(tmp_path / "out"), "--overwrite"]) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    shutil.copy(checkpoint, tmp_path / "same.ckpt")
    assert main(["convert-checkpoint", str(tmp_path / "same.ckpt"), str(tmp_path / "out"), "--overwrite"]) == 0
    assert "same.ckpt" in (tmp_path / "out" / "manifest.json").read_text()
    with pytest.raises(ValueError, match="fiberifu convert-checkpoint"):
        VirtualIFU.from_pretrained(checkpoint)


class Hostile:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("call", [os.mkdir, eval, __import__, torch.load])
def test_hostile_pickles_are_refused_by_name(call, tmp_path, folder):
    trap = tmp_path / "trap"
    argument = {os.mkdir: str(trap), eval: f"__import__('os').mkdir({str(trap)!r})"}.get(call, "os")
    path = lightning(tmp_path / "bad.ckpt", load_published(folder)[0], extra=Hostile(call, argument))
    with pytest.raises(ValueError, match=rf"would call .*{call.__name__}.*nothing was run"):
        read_lightning_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("call", [os.mkdir, None])
def test_other_protocols_are_refused_and_say_what_they_would_call(call, tmp_path, folder):
    trap, bad = tmp_path / "trap", tmp_path / "bad.ckpt"
    torch.save({"state_dict": {}, "extra": Hostile(call, str(trap)) if call else 1}, bad, pickle_protocol=4)
    with pytest.raises(ValueError, match=r"would call \w+\.mkdir" if call else "protocol 4 .*only protocol 2"):
        read_lightning_checkpoint(bad)
    assert not trap.exists()


def nested(kind, depth):
    value = kind(["lol"])
    for _ in range(depth):
        value = kind([value, value])
    return value


def archive(path, *parts):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # a name twice
        for name, content in parts:
            file.writestr(name, content)


def test_small_files_do_not_grow(tmp_path, folder, monkeypatch):
    bad, model, empty = tmp_path / "bad.ckpt", load_published(folder)[0], pickle.dumps({}, 2)
    torch.save({"state_dict": {}, "extra": Hostile(bytearray, 1 << 30)}, bad)
    with pytest.raises(ValueError, match=r"would call (__builtin__|builtins)\.bytearray"):
        read_lightning_checkpoint(bad)
    torch.save({"state_dict": {"x": torch.ones(1).to_sparse()}}, bad)
    with pytest.raises(ValueError, match=r"would call .*_rebuild_sparse_tensor"):
        read_lightning_checkpoint(bad)
    key = b"\x80\x02}X\x01\x00\x00\x00a\x85q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(40)) + b"K\x01s."
    archive(bad, ("archive/data.pkl", key))
    with pytest.raises(ValueError, match=r"unfold to .*e\+1"):
        read_lightning_checkpoint(bad)
    for name in ("norm_layer", "spec_dim"):  # what a message says of them is short
        lightning(bad, model, hyper_parameters={name: nested(list, 40)})
        with pytest.raises(ValueError, match=name) as caught:
            convert_published(bad, tmp_path / "out")
        assert len(str(caught.value)) < 1000
    lightning(bad, model, hyper_parameters={(1, 2): 3})
    with pytest.raises(ValueError, match="a dictionary of names"):
        convert_published(bad, tmp_path / "out")
    archive(bad, ("archive/data.pkl", empty), ("archive/data.pkl", empty))
    with pytest.raises(ValueError, match="several parts of the same name"):
        read_lightning_checkpoint(bad)
    archive(bad, ("archive/data.pkl", empty + bytes(4 * 2**20)))
    with pytest.raises(ValueError, match="no single data.pkl of at most 4 MiB"):
        read_lightning_checkpoint(bad)
    monkeypatch.setattr("fiberifu.model.published_checkpoint.LARGEST", 2**16)
    archive(bad, ("archive/data.pkl", empty), ("archive/more", bytes(2**16)))
    assert bad.stat().st_size < 2**12
    with pytest.raises(ValueError, match="holds .* GiB; more than 2 GiB"):
        read_lightning_checkpoint(bad)


def test_a_small_file_cannot_make_a_large_network(tmp_path, folder, monkeypatch):
    made, model = [], load_published(folder)[0]
    monkeypatch.setattr("fiberifu.model.published._wavelength_table", lambda size: made.append(size))
    large = TINY | {"mlp_ratio": 4.0, "embed_dim": 2048, "s_depth": 32}
    lightning(tmp_path / "bad.ckpt", model, state_dict={"x": torch.ones(1)}, hyper_parameters=large)
    with pytest.raises(ValueError, match=r"extra \['x'\]"):
        convert_published(tmp_path / "bad.ckpt", tmp_path / "out")
    assert not made
    for name, value in (("embed_dim", 4096), ("s_depth", 33), ("decoder_MLP_coefficient", 9)):
        with pytest.raises(ValueError, match=f"{name} is {value}; a whole number between"):
            PublishedConfig(**{name: value})


TABLES = {"img_spatial_pos_embed": ("image_place", 1), "img_channel_embed": ("image_band", 64),
          "decoder_img_spatial_pos_embed": ("decoder_image_place", 1),
          "decoder_img_channel_embed": ("decoder_image_band", 64)}  # fmt: skip


def test_names_and_tables_of_older_versions(tmp_path, folder):
    model, path = load_published(folder)[0], tmp_path / "old.ckpt"
    old = {key: getattr(model, own)[::step][: 64 if step == 1 else 6].clone() for key, (own, step) in TABLES.items()}
    old["img_spatial_pos_embed"] = old["img_spatial_pos_embed"][None]  # some have a first axis
    state = {f"_orig_mod.{key}": value for key, value in (old | model.state_dict()).items()}
    convert_published(lightning(path, model, state_dict=state), tmp_path / "out")
    assert all(torch.equal(value, model.state_dict()[key])
               for key, value in load_published(tmp_path / "out")[0].state_dict().items())  # fmt: skip
    for key in (*TABLES, "pos_embed", "decoder_pos_embed"):
        right = state[f"_orig_mod.{key}"]
        worse = state | {f"_orig_mod.{key}": 0 * right if key.endswith("l_embed") else right + 3e-3}
        with pytest.raises(ValueError, match=f"tensor {key} is not the fixed table"):
            _fill(model.config, worse, path)
    for worse in ({"img_channel_embed": torch.zeros(5)}, {"pos_embed": torch.zeros_like(model.pos_embed)}):
        with pytest.raises(ValueError, match=f"{next(iter(worse))} is not the fixed table"):
            _fill(model.config, model.state_dict() | worse, path)


@pytest.mark.parametrize(
    ("state", "parameters", "message"),
    [
        ({"cls_token": torch.zeros(1, 1, 1).expand(1, 1, 8)}, {}, r"\['cls_token'\] are sparse, empty or views"),
        ({"cls_token": torch.zeros(1, 1, 9)}, {}, r"cls_token \(1, 1, 9\) instead of \(1, 1, 8\)"),
        ({}, {"norm_pix_loss": True}, "norm_pix_loss is True; this network is another one"),
        ({}, {"norm_layer": "batch"}, "norm_layer is 'batch'; this network is another one"),
        ({}, {"s_depth": None}, "hyper-parameters without s_depth; this network is another one"),
    ],
)
def test_other_networks_are_refused(state, parameters, message, tmp_path, folder):
    model = load_published(folder)[0]
    given = {k: getattr(model.config, k) for k in CONFIG} | {"mlp_ratio": 4.0} | parameters
    given = {key: value for key, value in given.items() if value is not None}
    path = lightning(tmp_path / "x.ckpt", model, state_dict=model.state_dict() | state, hyper_parameters=given)
    with pytest.raises(ValueError, match=message):
        convert_published(path, tmp_path / "out")


def test_other_files_are_refused(tmp_path, folder, monkeypatch):
    bad = tmp_path / "bad.ckpt"
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_lightning_checkpoint(bad)
    bad.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(ValueError, match="not a file of torch.save"):
        read_lightning_checkpoint(bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("archive/data.pkl", b"not a pickle")
    with pytest.raises(ValueError, match="cannot be read"):
        read_lightning_checkpoint(bad)
    torch.save({"weights": 1}, bad)
    with pytest.raises(ValueError, match="no state_dict"):
        read_lightning_checkpoint(bad)
    model, _ = load_published(folder)
    state = dict(model.state_dict())
    lightning(bad, model, state_dict={k: v for k, v in state.items() if k != "cls_token"} | {"more": torch.ones(1)})
    with pytest.raises(ValueError, match=r"missing tensors \['cls_token'\], extra \['more'\]"):
        convert_published(bad, tmp_path / "out")
    lightning(bad, model, state_dict=state | {"cls_token": torch.full_like(state["cls_token"], np.nan)})
    with pytest.raises(ValueError, match="no finite numbers: cls_token"):
        convert_published(bad, tmp_path / "out")
    lightning(bad, model, hyper_parameters={})
    with pytest.warns(UserWarning, match="no hyper-parameters in it"), pytest.raises(ValueError, match="wrong shape"):
        convert_published(bad, tmp_path / "out")
    lightning(bad, model, hyper_parameters={"embed_dim": 7})
    with pytest.raises(ValueError, match="hyper-parameters"):
        convert_published(bad, tmp_path / "out")
    monkeypatch.setattr("fiberifu.model.published_checkpoint.LARGEST", 1000)
    with pytest.raises(ValueError, match="more than 2 GiB"):
        read_lightning_checkpoint(bad)


def test_from_the_hub(checkpoint, tmp_path, monkeypatch, capsys):
    place = tmp_path / "snapshots" / "hub" / "snapshots" / "0123abc" / "pretrained.ckpt"
    place.parent.mkdir(parents=True)
    place.write_bytes(checkpoint.read_bytes())
    calls = []

    def download(repo_id, filename, revision):
        calls.append((repo_id, filename, revision))
        if revision == "other":
            raise ConnectionError("no route")
        return str(place)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    monkeypatch.setattr("astropy.config.paths.get_cache_dir_path", lambda name: tmp_path / "cache")
    ifu = VirtualIFU.from_pretrained("pengzehao/MultimodalHF")
    assert ifu.config.name == "peng2026"
    assert ifu.passport["source_revision"] == "0123abc"
    again = VirtualIFU.from_pretrained("hf://pengzehao/MultimodalHF")  # without the network
    assert again.weights_sha256 == ifu.weights_sha256
    assert calls == [("pengzehao/MultimodalHF", "pretrained.ckpt", None)]
    with pytest.raises(OSError, match=r"no route.*convert-checkpoint"):
        VirtualIFU.from_pretrained("pengzehao/MultimodalHF", revision="other")
    cache = tmp_path / "cache" / "published"
    (tmp_path / "cache" / "precious").touch()
    for wrong in ("..", ".", "", "x" * 200):
        with pytest.raises(ValueError, match="revision=.*give a commit, tag or branch"):
            VirtualIFU.from_pretrained("pengzehao/MultimodalHF", revision=wrong)
    for name in ("refs/pr/1", "../..", "default"):
        VirtualIFU.from_pretrained("pengzehao/MultimodalHF", revision=name)
    assert (tmp_path / "cache" / "precious").exists()
    assert sorted(path.name for path in cache.iterdir()) == ["at-..%2F..", "at-default", "at-refs%2Fpr%2F1", "default"]
    with place.open("ab") as file:  # of the same commit, another file
        file.write(b"x")
    with pytest.raises(ValueError, match="its sha256 is"):
        VirtualIFU.from_pretrained("pengzehao/MultimodalHF", revision="again")
    assert main(["convert-checkpoint", "hf://pengzehao/MultimodalHF", str(tmp_path / "bad")]) == 2
    assert "its sha256 is" in capsys.readouterr().err
    with (cache / "default" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="not what was written there"):
        VirtualIFU.from_pretrained("pengzehao/MultimodalHF")


# --- orientation and what goes in ---------------------------------------------------------------------------------
class Looks(torch.nn.Module):
    """Stands for the network: its spectrum is the value of the image's band r where it was told that the fibre is."""

    def __init__(self):
        super().__init__()
        self.config = PublishedConfig()
        self.seen = []

    def forward(self, image, error, redshift, xy, *, image_shown):
        self.seen.append((image, error, image_shown))
        column, row = (xy[:, 0] + 63.5).round().long(), (63.5 - xy[:, 1]).round().long()
        flux = image[1, row, column][:, None].expand(-1, 8401)
        return PublishedOutput(flux, torch.zeros_like(flux))


def looking():
    return VirtualIFU(Looks(), passport={}, card="", sha256="0" * 64)


@pytest.mark.parametrize("east_left", [True, False])
def test_a_network_that_returns_its_place(east_left):
    ifu = looking()
    sky = CENTER.spherical_offsets_by([4, -4, 4, 0] * u.arcsec, [2, 2, -2, 0] * u.arcsec)
    seen = ifu.predict(image(east_left), sky, redshift=0.03).raw[0][:, 0]
    np.testing.assert_allclose(seen, [3, 0.02, 0.02, 0.02], rtol=1e-5)
    cube = ifu.predict_cube(image(east_left), redshift=0.03, size=48 * 0.262 * u.arcsec, spaxel=0.262 * u.arcsec)
    y, x = np.unravel_index(cube.raw[0][:, 0].argmax(), cube.shape)
    assert cube.positions[y, x].separation(sky[0]) < 0.3 * u.arcsec
    assert x < 24 < y  # East left, North up


def test_the_array_that_the_network_sees():
    ifu = looking()
    ifu.predict(image(False), CENTER, redshift=0.03)
    band = ifu._model.seen[0][0][1].numpy()
    row, column = np.unravel_index(band.argmax(), band.shape)
    assert (row, column) == (63 + 8, 64 - 16)  # South first, East left
    np.testing.assert_allclose(fibre_place([[4.0, 2.0]], 0.262), [[-4 / 0.262, -2 / 0.262]])


def test_orientation_on_a_real_image_with_east_to_the_right(data_dir):
    bands = read_des({band: data_dir / "decam" / f"DES_{band}.fits" for band in "griz"})
    r = bands["r"]
    y, x = np.unravel_index(np.nanargmax(np.where(np.isfinite(r.data), r.data, -1)), r.shape)
    near = [(x, y), (x + 9, y), (x, y + 9)]
    sky = SkyCoord([r.wcs.pixel_to_world(*place) for place in near])
    with pytest.warns(AstropyUserWarning):
        found = looking().predict(bands, sky, redshift=0.03).raw[0][:, 0]
    scale = 1.0 / found[0]
    wanted = np.array([r.data[j, i] for i, j in near]) / r.data[y, x]
    np.testing.assert_allclose(found * scale, wanted, rtol=0.15)


def test_missing_bands_and_errors_and_holes():
    ifu = looking()
    some = image(bands=("g", "r", "z"))
    some["r"].mask = np.zeros((128, 128), bool)
    some["r"].mask[:16, :17] = True  # one whole patch, and a column of the next
    some["g"].uncertainty = None
    some["g"].data += np.random.default_rng(0).normal(0, 0.01, (128, 128))
    with pytest.warns(AstropyUserWarning) as warned:
        p = ifu.predict(some, CENTER, redshift=0.03)
    assert any("no band i, W1, W2: the published network sees only g, r, z" in str(w.message) for w in warned)
    assert any("band g: no uncertainty" in str(w.message) for w in warned)
    assert {"BAND_MISSING", "NO_UNCERTAINTY"} <= set(p.describe_flags())
    pictures, errors, shown = ifu._model.seen[0]
    shown = shown.reshape(6, 64)
    assert shown.sum(1).tolist() == [64, 63, 0, 64, 0, 0]
    assert torch.isfinite(pictures).all() and (errors > 0).all()


def test_holes_take_the_mean_of_all_good_pixels():
    sb, sigma = np.full((2, 32, 32), 2.0, np.float32), np.full((2, 32, 32), 0.5, np.float32)
    sb[1] = 4
    sb[0, 0, 0], sigma[1, 5, 5], sb[1, 8, 8] = np.nan, np.inf, 200
    pictures, errors, shown = network_image(sb, sigma, 1.0)
    good = (2 * 1023 + 4 * 1022) / 2045
    np.testing.assert_allclose([pictures[0, 0, 31], pictures[1, 5, 26], pictures[1, 8, 23]], good, rtol=1e-6)
    np.testing.assert_allclose(errors, 1 / np.sqrt(4 + 1e-6), rtol=1e-6)
    assert shown.all()


def test_stamps_do_not_depend_on_company():
    places = np.array([[0.0, 0.0], [14.6, -14.6], [14.8, 0.0], [40.0, -20.0]])
    keys = [next(key for key, rows in stamps(places, 0.262).items() if i in rows) for i in range(4)]
    assert keys[0] == keys[1] == (0, 0)
    assert all(len(stamps(place[None], 0.262)) == 1 and key in stamps(place[None], 0.262)
               for place, key in zip(places, keys, strict=True))  # fmt: skip


def test_flux_in_the_fibre():
    found = -np.log10(fibre_fraction([4800, 6500, 9200]))
    np.testing.assert_allclose(found, [0.27, 0.24, 0.21], atol=0.005)  # conventions of DESI's calibration


# --- the prediction -----------------------------------------------------------------------------------------------
def test_prediction(folder, tmp_path):
    ifu = VirtualIFU.from_pretrained(folder)
    sky = CENTER.spherical_offsets_by([0, 4, 100] * u.arcsec, [0, 2, 0] * u.arcsec)
    p = ifu.predict(image(), sky, redshift=0.03)
    spectrum = p.spectrum()
    assert spectrum.flux.shape == (3, 7781)
    assert spectrum.meta["prediction"] is p
    assert spectrum.mask[2].all() and not spectrum.mask[:2].any()
    assert p.flags[2] & Flag.BAD_SPAXEL and p.flags[2] & Flag.OUTSIDE_IMAGE
    flux, sigma = p.raw
    np.testing.assert_allclose(spectrum.flux.value[0], flux[0] * fibre_fraction(p.wavelength.value), rtol=1e-5)
    np.testing.assert_allclose(p.as_desi().spectrum().flux.value[:2], flux[:2], rtol=1e-6)
    ratio = p.recalibrated().spectrum().uncertainty.array[0] / spectrum.uncertainty.array[0]
    np.testing.assert_allclose(ratio, 0.93**-2, rtol=1e-4)
    assert p.recalibrated().provenance.extra["ERRSCALE"] == 0.93
    maps = p.line_maps(["Ha"])
    assert (maps.flags & int(Flag.FORMAL_ERRORS)).all()
    assert maps.flux["Ha"].shape == (3,)
    check = p.self_check
    assert check["n"][list(check["band"]).index("r")] == 2
    p.write(tmp_path / "x_predicted.fits")
    alone = ifu.predict(image(), sky[1], redshift=0.03)
    np.testing.assert_allclose(alone.raw[0][0], flux[1], atol=1e-5 * flux.std())
    with torch.no_grad():  # straight from the network
        sb, error, centre = p.image.stamp(0, 0)
        arrays = [torch.from_numpy(x) for x in network_image(sb, error, 0.262)]
        xy = torch.from_numpy(fibre_place(p.offsets[:2] - centre, 0.262))
        out = ifu._model(*arrays[:2], 0.03, xy, image_shown=arrays[2])
    np.testing.assert_allclose(out.flux[:, 310:-310], flux[:2], atol=1e-5 * flux.std())
    np.testing.assert_allclose(out.log_sigma[:, 310:-310].exp(), sigma[:2], rtol=1e-4)


def test_less_precision_is_the_callers_choice_and_recorded(folder):
    ifu = VirtualIFU.from_pretrained(folder)
    full = ifu.predict(image(), CENTER, redshift=0.03)
    with torch.autocast("cpu", torch.bfloat16):
        half = ifu.predict(image(), CENTER, redshift=0.03)
    assert full.provenance.extra["PRECISN"] == "float32" and half.provenance.extra["PRECISN"] == "bfloat16"
    apart = np.abs(half.raw[0] - full.raw[0]).max() / full.raw[0].std()
    assert 0 < apart < 0.1 and half.raw[0].dtype == half.raw[1].dtype == np.float32


def test_long_scans_are_announced(monkeypatch, caplog):
    ifu = looking()
    sky = CENTER.spherical_offsets_by(np.arange(20) * 0.1 * u.arcsec, 0 * u.arcsec)
    with caplog.at_level("INFO", "fiberifu"):
        ifu.predict(image(), sky, redshift=0.03)
        assert "20 positions x 1 points" in caplog.text and "more" not in caplog.text
        monkeypatch.setattr(sys.modules["fiberifu.published.predict"], "LONG", 0)
        ifu.predict(image(), sky, redshift=0.03)
    assert "the network takes some 0 minutes more" in caplog.text


def test_images_prepared_otherwise_are_refused(folder):
    ifu, bands = VirtualIFU.from_pretrained(folder), image()
    ours = prepare_image({band: bands[band] for band in "griz"})
    with pytest.raises(ValueError, match="prepared for another network .bands g r i z"):
        ifu.predict(ours, CENTER, redshift=0.03)
    prepared = prepare(bands, ifu.config)
    alike = {f.name: getattr(prepared, f.name) for f in dataclasses.fields(PreparedImage)} | {"ebv": 0.1}
    alike = PreparedImage(**alike)  # the same bands and stamps, corrected for extinction
    with pytest.raises(ValueError, match="0.1 taken off.*as observed"):
        ifu.predict(alike, CENTER, redshift=0.03)
    assert ifu.predict(prepared, CENTER, redshift=0.03).image is prepared
    with pytest.raises(ValueError, match="published network, which predicts and no more"):
        load_checkpoint(folder)
    with pytest.raises(ValueError, match="which has no quantiles"):
        _model_files(folder)
    with pytest.raises(ValueError, match="was prepared for bands"):
        VirtualIFU.from_pretrained().predict(prepared, CENTER, redshift=0.03)


@pytest.mark.filterwarnings("ignore:image. no band")
def test_the_command_line_speaks_of_its_options(folder, tmp_path, capsys):
    for band, ccd in image(bands=("r", "W1")).items():
        ccd.write(tmp_path / f"x_{band}.fits")
    files = [f"{band}={tmp_path}/x_{band}.fits" for band in ("r", "W1")]

    def observe(*more):
        where = ("--position", "150", "2") if "--size" not in more else ()
        code = main(["observe", *files, *where, *more, "--model", str(folder), "-o", str(tmp_path / "out")])
        return code, capsys.readouterr()

    for more, words in (
        ((), "give --redshift, or REDSHIFT in the image's header"),
        (("--redshift", "-1"), "--redshift must be positive, got -1.0"),
        (("--redshift", "0.03,0.01"), "--redshift: the published network takes one"),
        (
            ("--redshift", "0.03", "--deredden"),
            "--deredden needs the Galactic E(B-V): give --ebv or EBV in the image's",
        ),
        (("--redshift", "0.03", "--size", "0.1"), "--size 0.1 arcsec, --spaxel 0.5 arcsec: that makes 0 x 0 spaxels"),
    ):
        code, said = observe(*more)
        assert code == 2 and words in said.err
    far = VirtualIFU.from_pretrained(folder).predict(image(bands=("r", "W1")), CENTER.reshape(1), redshift=0.55)
    assert _line_in_words(far).startswith("H-beta fitted to the predicted spectra, flux over its formal error: ")
    words = flags_in_words(far.flags)
    assert any("a band that the model relies on is missing" in text for text in words)
    assert any("errors of a fit" in text for text in words)


def test_flux_in_bands():
    """The spectrum of the network that returns its place is flat: what photometry makes of it is known by hand."""
    ifu, sky = looking(), CENTER.reshape(1)
    p = ifu.predict(image(error=0.001), sky, redshift=0.03)
    check = p.self_check
    area = np.pi / 4 * 1.5**2 / 0.262**2
    np.testing.assert_allclose(check["observed"].value[:4], 0.02 * area, rtol=1e-4)
    wave, share = p.band_wavelengths[1:3], fibre_fraction(p.band_wavelengths[1:3])  # r, i; g and z reach beyond
    wanted = (
        0.02 / 3.631e-6 * share * (1e-17 * u.erg / u.s / u.cm**2 / u.AA).to_value(u.Jy, u.spectral_density(wave * u.AA))
    )
    np.testing.assert_allclose(check["predicted"].value[1:3], wanted, rtol=0.02)  # of one wavelength
    np.testing.assert_allclose(check["residual"][1].value, -2.5 * np.log10(0.02 * area / wanted[0]), atol=0.02)
    sigma = 0.001 * np.sqrt(area)
    np.testing.assert_allclose(check["pull"][1], (0.02 * area - wanted[0]) / sigma, rtol=0.02)
    red = ifu.predict(image(), sky, redshift=0.03, ebv=0.3, deredden=True)
    x = np.log(p.wavelength.value / 6500)
    ratio = red.spectrum().flux.value[0] / p.spectrum().flux.value[0]
    np.testing.assert_allclose(ratio[[0, -1]], 10 ** (0.4 * 0.3 * np.array([3.1 * 1.4, 3.1 * 0.46])), rtol=0.1)
    # anchored to an image that is brighter, and redder
    bands = np.log(p.band_wavelengths / 6500)
    brighter = p.photometry["predicted"] * 10 ** (0.05 + 0.03 * bands)
    photometry = p.photometry | {"flux": brighter, "error": brighter / 1e4}
    anchored = dataclasses.replace(p, photometry=photometry).anchored()
    ratio = anchored.spectrum().flux.value[0] / p.spectrum().flux.value[0]
    np.testing.assert_allclose(ratio, 10 ** (0.05 + 0.03 * x), rtol=1e-3)
    assert anchored.provenance.extra["FLUXCAL"] == "IMAGE"
    np.testing.assert_array_equal(anchored.as_desi().spectrum().flux, p.as_desi().spectrum().flux)
    weak = dataclasses.replace(p, photometry=photometry | {"error": brighter / 4}).anchored()
    np.testing.assert_array_equal(weak.spectrum().flux, p.spectrum().flux)
    with pytest.raises(ValueError, match="leave out as_desi"):
        p.as_desi().anchored()


def test_flux_below_zero_without_some_bands():
    bands = image(bands=("g", "r", "z"))
    for ccd in bands.values():
        ccd.data[:] = -0.05
    with pytest.warns(AstropyUserWarning, match="no band i"):
        p = looking().predict(bands, CENTER, redshift=0.03)
    assert "NEGATIVE_FLUX" in p.describe_flags()
    assert "r -2.68" in _check_in_words(p)  # both below zero: a ratio
    p = dataclasses.replace(p, photometry=p.photometry | {"flux": -p.photometry["flux"]})
    assert "r -0.108 nanomaggy predicted, 1.29 in the image" in _check_in_words(p)


def test_far_from_the_middle_and_far_from_reason(monkeypatch):
    bands = image(bands=("r",))
    wcs = bands["r"].wcs
    wcs.wcs.crpix = [150.5, 150.5]
    row, column = np.indices((300, 300))
    plane = CCDData(0.01 * column + 0.03 * row, unit=u.nmgy, wcs=wcs, uncertainty=StdDevUncertainty(0 * row + 0.01))
    sky = CENTER.spherical_offsets_by([1.3, 20, -25, 30] * u.arcsec, [0.7, 3.3, -18, 30] * u.arcsec)
    ifu = looking()
    monkeypatch.setattr(sys.modules["fiberifu.published.predict"], "BATCH", {"cpu": 2, "cuda": 2})
    right = Looks.forward
    monkeypatch.setattr(Looks, "forward", lambda *args, **keywords: dataclasses.replace(
        found := right(*args, **keywords), log_sigma=found.flux * 0 + 50))  # fmt: skip
    with pytest.warns(AstropyUserWarning, match="no band"):
        p = ifu.predict({"r": plane}, sky, redshift=0.03)
    x, y = wcs.world_to_pixel(sky)
    np.testing.assert_allclose(p.raw[0][:, 0], 0.01 * x + 0.03 * y, atol=0.021)  # half a pixel each way
    np.testing.assert_allclose(p.raw[1], np.exp(10), rtol=1e-5)  # of the public likelihood


def test_what_does_not_fit_the_aperture_or_the_network():
    ifu = looking()
    p = ifu.predict(image(), CENTER, redshift=0.03, aperture=3 * u.arcsec)
    with pytest.raises(ValueError, match="of a 3 arcsec fibre; DESI's fibres have 1.5 arcsec"):
        p.as_desi()
    assert p._meta()["header"]["APERTURE"] == "3 arcsec fibre"
    with pytest.raises(ValueError, match="line_maps.redshift=.*of the prediction, 0.03; predict at another"):
        p.line_maps(["Ha"], redshift=0.05)
    with pytest.raises(ValueError, match="latents: the published network has none"):
        ifu.latents(image())
    for ebv in (5000.0, -0.1, np.nan, "much"):
        with pytest.raises(ValueError, match=f"ebv is {ebv}; one E.B-V. in magnitudes"):
            ifu.predict(prepare(image(), ifu.config), CENTER, redshift=0.03, ebv=ebv)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("the folder /x/redshift=0.03 is not empty", "the folder /x/redshift=0.03 is not empty"),
        ("source='redshift=1' is no folder", "--model 'redshift=1' is no folder"),
        ("a-redshift=2: give redshift=, or redshift=3", "a-redshift=2: give --redshift, or --redshift 3"),
    ],
)
def test_messages_of_options_leave_paths_alone(said, wanted):
    with pytest.raises(ValueError) as caught, arguments_as_options("redshift", source="--model"):
        raise ValueError(said)
    assert str(caught.value) == wanted


def test_cube(folder, tmp_path):
    p = VirtualIFU.from_pretrained(folder).predict_cube(image(), redshift=0.03, size=2 * u.arcsec, spaxel=1 * u.arcsec)
    cube = p.cube()
    assert cube.shape == (7781, 2, 2)
    area = 1 / (np.pi / 4 * 1.5**2)
    np.testing.assert_allclose(cube.flux.value[:, 0, 0], p.raw[0][0] * fibre_fraction(p.wavelength.value) * area, 1e-5)
    p.write(tmp_path / "x_predicted_cube.fits")
    assert fits.getheader(tmp_path / "x_predicted_cube.fits")["BANDS"] == "g,r,i,z,W1,W2"
    with pytest.raises(ValueError, match="as_desi"):
        p.as_desi()


@pytest.mark.parametrize(
    ("method", "args"),
    [("continuum", ()), ("sample", (2,)), ("line_quantiles", ()), ("line_sums", ()), ("ratio_quantiles", ("Ha", "Hb"))],
)
def test_what_it_cannot_give_it_says(method, args):
    p = looking().predict(image(), CENTER, redshift=0.03)
    with pytest.raises(ValueError, match="published network"):
        getattr(p, method)(*args)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"redshift": None}, "needs one and cannot tell it"),
        ({"redshift": (0.1, 0.05)}, "cannot average"),
        ({"lsf": 2000}, "DESI's resolution"),
        ({"wavelength": [5000, 5001] * u.AA}, "DESI's grid"),
        ({"seeing": 1 * u.arcsec}, "own PSFs"),
        ({"context": [("spectrum", CENTER)]}, "none from elsewhere"),
        ({"deredden": True}, "needs the Galactic"),
    ],
)
def test_what_it_cannot_take_it_says(keywords, message):
    with pytest.raises(ValueError, match=message):
        looking().predict(image(), CENTER, **({"redshift": 0.03} | keywords))
