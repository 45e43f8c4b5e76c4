# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What supports a prediction: odd images, the range of the calibration and of the training, symmetries, stamps."""

import dataclasses
import json
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from fiberifu import Flag, VirtualIFU
from fiberifu.commands.train import half_light_radius
from fiberifu.datasets import example_image
from fiberifu.model import AMPLITUDES, LINES, FiberMAE, ModelConfig
from fiberifu.model.oddity import LOOKS, combine, look_at, looks_of, pack, unpack
from fiberifu.redshift import resolve_redshift
from fiberifu.support import Oddity, calibration_flags, oddity_cards, trained_wavelengths
from fiberifu.train.support import CalibrationRange, measure_oddity
from fiberifu.validate.ood import ood_roc, roc_curve

CENTER = SkyCoord(150.0, 2.0, unit="deg")  # of the image
GALAXY = CENTER.spherical_offsets_by(2.99 * u.arcsec, -1.55 * u.arcsec)


@pytest.fixture(scope="module")
def ifu():
    return VirtualIFU.from_pretrained()


@pytest.fixture(scope="module")
def image():
    return example_image()


def changed(image, function):
    """The image with other pixels: ``function(band, data)``."""
    return {
        band: CCDData(function(band, ccd.data), unit=ccd.unit, wcs=ccd.wcs, meta=ccd.meta, mask=ccd.mask,
                      uncertainty=StdDevUncertainty(ccd.uncertainty.array))
        for band, ccd in image.items()
    }  # fmt: skip


def turned(image, turns, flip):
    """The same sky in other pixels: rotated by quarter turns, then mirrored, and the WCS with it."""
    out = {}
    for band, ccd in image.items():
        n = ccd.shape[0]
        assert ccd.shape == (n, n)

        def turn(x):
            x = np.rot90(x, turns)
            return np.ascontiguousarray(x[:, ::-1] if flip else x)

        # where the new pixel axes lie in the old ones: columns of the matrix of new over old pixel steps
        y, x = np.mgrid[:n, :n]
        oldx, oldy = turn(x), turn(y)
        step = np.array([[oldx[0, 1] - oldx[0, 0], oldx[1, 0] - oldx[0, 0]],
                         [oldy[0, 1] - oldy[0, 0], oldy[1, 0] - oldy[0, 0]]])  # fmt: skip
        wcs = ccd.wcs.deepcopy()
        middle = (n + 1) / 2
        wcs.wcs.pc = wcs.wcs.get_pc() @ np.diag(wcs.wcs.get_cdelt()) @ step
        wcs.wcs.cdelt = [1.0, 1.0]
        wcs.wcs.crpix = np.linalg.inv(step) @ (np.array(ccd.wcs.wcs.crpix) - middle) + middle
        wcs.wcs.set()
        mask = None if ccd.mask is None else turn(ccd.mask)
        out[band] = CCDData(turn(ccd.data), unit=ccd.unit, wcs=wcs, meta=ccd.meta, mask=mask,
                            uncertainty=StdDevUncertainty(turn(ccd.uncertainty.array)))  # fmt: skip
    return out


# --- symmetries -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("turns", "flip"), [(1, False), (2, True)])
def test_turned_pixels_of_the_same_sky(ifu, image, turns, flip):
    """Rotated and mirrored files, WCS and all, are the same sky."""
    places = GALAXY.directional_offset_by([0, 90, 200] * u.deg, [0.5, 3, 5] * u.arcsec)
    straight, other = (ifu.predict(x, places).line_maps(["Ha"]) for x in (image, turned(image, turns, flip)))
    change = (other.flux["Ha"].data - straight.flux["Ha"].data) / straight.flux["Ha"].uncertainty.array
    assert np.abs(change).max() < 0.02


def test_turned_sky(ifu, image, turns=1):
    """A galaxy that is turned on the sky has the same lines in the places turned with it: to a share of their errors.

    The network is trained on turned images and not built for them.
    """
    prepared = ifu.predict(image, GALAXY).image
    rotated = dataclasses.replace(
        prepared,
        sb=np.rot90(prepared.sb, turns, (1, 2)).copy(),
        sigma=np.rot90(prepared.sigma, turns, (1, 2)).copy(),
    )
    radius, angle = np.array([0.5, 2.0, 3.0, 4.0, 5.0, 6.0]), np.radians([0, 70, 150, 200, 290, 330])
    offset = np.array([2.99, -1.55]) + radius[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])
    middle = (np.array(prepared.shape[::-1]) - 1) / 2
    place = offset / prepared.pixel_scale + prepared._origin - middle  # column, row from the middle of the array
    for _ in range(turns):  # rot90 of (row, column) takes (x, y) to (y, -x)
        place = np.column_stack([place[:, 1], -place[:, 0]])
    there = (place + middle - prepared._origin) * prepared.pixel_scale
    flux = []
    for ready, where in ((prepared, offset), (rotated, there)):
        flux.append(ifu.predict(ready, ready.skycoord(where)).line_maps(["Ha"]).flux["Ha"])
    change = np.abs(flux[1].data - flux[0].data) / flux[0].uncertainty.array
    assert np.median(change) < 0.2 and change.max() < 0.5


def test_overlapping_stamps_agree(ifu, image):
    """What the stamps that see a position say of it differs by little of its error, so blending leaves no seams."""
    model, prepared = ifu._model, ifu.predict(image, GALAXY).image
    positions = np.array([2.99, -1.55]) + np.array([[0.0, 0.0], [3.0, 1.0], [-2.0, 4.0], [1.0, -5.0]])
    z, n = prepared.meta["REDSHIFT"], len(positions)
    seen = []
    for corner in [(0, 0), (8, 0), (0, -8), (8, -8)]:
        sb, sigma, centre = prepared.stamp(*corner)
        stamp = torch.from_numpy(sb)[None], torch.from_numpy(sigma)[None], torch.tensor([prepared.psf_fwhm]).float()
        local = torch.from_numpy((positions - centre).astype(np.float32))
        with torch.inference_mode():
            found = model.query(model.encode(*stamp), *stamp, torch.zeros(n, dtype=torch.int64), local,
                                torch.full((n,), z), torch.full((n,), 1e-4))  # fmt: skip
        gaussian = found.mixture.collapse()
        k = model.config.n_continuum + AMPLITUDES.index("Ha")
        seen.append((gaussian.mean[:, k].numpy(), gaussian.root[:, k].square().sum(-1).sqrt().numpy()))
    mean, error = np.array(seen).transpose(1, 0, 2)
    assert (np.ptp(mean, axis=0) < 0.25 * error.mean(0)).all()


# --- odd images -------------------------------------------------------------------------------------------------------
def test_oddity_of_an_image(ifu, image):
    """An ordinary image is not flagged; swapped bands, an empty one and a redshift that cannot be are."""
    p = ifu.predict(image, GALAXY)
    score, share, look = p.oddity.worst
    assert score < 1 and 0 < share < 0.99 and look in LOOKS and not p.flags & Flag.IMAGE_UNLIKE
    assert p.oddity.score.shape == p.positions.shape == ()
    cards = p.spectrum().meta["header"]
    assert cards["ODDSHARE"][0] == round(share, 4) and cards["ODDLOOK"][0] == look
    swapped = changed(image, lambda band, data: image["z" if band == "g" else "g" if band == "z" else band].data)
    rng = np.random.default_rng(0)
    empty = changed(image, lambda band, data: 0.003 * rng.standard_normal(data.shape))
    for odd in (swapped, empty):
        other = ifu.predict(odd, GALAXY)
        assert other.flags & Flag.IMAGE_UNLIKE and other.oddity.worst[1] > 0.99
    far = ifu.predict(image, GALAXY, redshift=0.55)
    assert far.flags & Flag.IMAGE_UNLIKE and far.oddity.worst[2] == "redshift"
    with pytest.warns(match="inferred"):
        unknown = ifu.predict({b: no_redshift(c) for b, c in image.items()}, GALAXY)
    assert unknown.oddity.worst[2] != "redshift"


def no_redshift(ccd):
    """A band without a redshift in its header."""
    meta = {key: value for key, value in ccd.meta.items() if key != "REDSHIFT"}
    return CCDData(ccd.data, unit=ccd.unit, wcs=ccd.wcs, meta=meta, mask=ccd.mask, uncertainty=ccd.uncertainty)


def test_oddity_changes_no_number(ifu, image):
    """Weights whose passport does not tell predict the same."""
    passport = {key: value for key, value in ifu.passport.items() if key != "oddity"}
    bare = VirtualIFU(ifu._model, passport=passport, card="", sha256=ifu.weights_sha256)
    a, b = ifu.predict(image, GALAXY), bare.predict(image, GALAXY)
    assert b.oddity is None and "ODDSHARE" not in b.spectrum().meta["header"]
    np.testing.assert_array_equal(a.spectrum().flux.value, b.spectrum().flux.value)
    np.testing.assert_array_equal(a.spectrum().uncertainty.array, b.spectrum().uncertainty.array)


def test_oddity_in_files(ifu, image, tmp_path):
    path = tmp_path / "one_predicted.fits"
    p = ifu.predict(image, GALAXY[None] if GALAXY.shape else SkyCoord([GALAXY.ra], [GALAXY.dec]))
    p.write(path)
    header = fits.getheader(path)
    assert header["ODDSHARE"] == pytest.approx(p.oddity.share[0], abs=1e-4)
    assert header["ODDLOOK"] == p.oddity.look[0]
    assert oddity_cards(None) == {}
    nothing = Oddity(np.full(2, np.nan), np.full(2, np.nan), np.full(2, ""))
    assert oddity_cards(nothing) == {} and not nothing.flags.any()


def test_looks_are_measured_and_restored():
    """From images to limits: a number of bands and shifts of colours are found, whatever bands there are."""
    config = ModelConfig(width=16, depth=1, heads=2, stamp=32, patch=8)
    torch.manual_seed(0)
    model = FiberMAE(config).eval()
    g = torch.Generator().manual_seed(1)

    def batch(n, shift=0.0):
        x = (torch.arange(32) - 15.5) * config.pixel_scale
        disc = torch.exp(-torch.hypot(x, x[:, None]) / 2)
        level = torch.exp(0.5 * torch.randn(n, 1, generator=g) + 0.05 * torch.randn(n, 4, generator=g))
        level = level * torch.exp(torch.tensor([shift, 0, 0, -shift]))
        image = level[:, :, None, None] * disc + 0.01 * torch.randn(n, 4, 32, 32, generator=g)
        return {"image": image, "sigma": torch.full_like(image, 0.01), "psf_fwhm": torch.full((n,), 1.2),
                "redshift": 0.02 + 0.1 * torch.rand(n, generator=g), "offset": torch.zeros(n, 2)}  # fmt: skip

    stored = json.loads(json.dumps(measure_oddity(model, [batch(150), batch(150)])))
    assert stored["images"] == 300 and list(stored["limits"]) == list(LOOKS)
    stats = {"latents": [unpack(stored["latents"][x]) for x in ("mean", "directions")],
             "brightness": [unpack(stored["brightness"][x]) for x in ("mean", "covariance")]}  # fmt: skip
    limits = np.array([stored["limits"][name] for name in LOOKS])

    def scores(b):
        features = look_at(model, b["image"], b["sigma"], b["psf_fwhm"], b["offset"])
        return combine(looks_of(features, b["redshift"].double().numpy(), stats, config), limits)

    usual, _ = scores(batch(60))
    odd, look = scores(batch(20, shift=1.0))
    assert np.mean(usual > stored["scores"][-1]) < 0.1 and odd.min() > stored["scores"][-1]
    assert set(look) <= {LOOKS.index("brightness"), LOOKS.index("latents")}
    single = batch(20, shift=1.0)
    single["sigma"][:, 1:] = torch.inf  # one band has no colour
    few = look_at(model, single["image"], single["sigma"], single["psf_fwhm"], single["offset"])
    assert np.isfinite(few["brightness"]).sum() == 60
    assert np.isfinite(looks_of(few, np.full(20, np.nan), stats, config)[:, :4]).all()
    with pytest.raises(ValueError, match="images: 40"):
        measure_oddity(model, [batch(40)])
    array = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(unpack(pack(array)), array, rtol=1e-6)


# --- ranges -----------------------------------------------------------------------------------------------------------
def test_calibration_range(ifu, image):
    near, far = (ifu.predict(image, GALAXY, redshift=z) for z in (0.03, 0.2))
    assert not near.flags & Flag.CALIBRATION_RANGE and far.flags & Flag.CALIBRATION_RANGE
    known = ifu.passport["calibration"]
    wide = resolve_redshift((0.14, 0.03))  # some of its nodes lie beyond
    assert calibration_flags(known, wide, None) == Flag.CALIBRATION_RANGE
    nodes, small = resolve_redshift(0.05), SimpleNamespace(half_light_radius=1.0)
    assert calibration_flags(known, nodes, small) == Flag.CALIBRATION_RANGE
    assert calibration_flags(known, nodes, None) == 0
    assert calibration_flags({}, resolve_redshift(0.5), small) == 0  # of weights that do not tell


def test_trained_wavelengths(ifu, image):
    low, high = trained_wavelengths(ifu.config)
    assert low == pytest.approx(2250) and high == pytest.approx(9824 / 1.003)
    z = 0.03
    for last, beyond in ((high * (1 + z) - 2, False), (high * (1 + z) + 20, True)):
        p = ifu.predict(image, GALAXY, redshift=z, wavelength=np.arange(9000, last, 2.0) * u.AA)
        assert bool(p.flags & Flag.WAVELENGTH_RANGE) is beyond
        assert not p.spectrum().mask.any()  # an extrapolation, but there is a basis


def test_range_of_a_calibration():
    """Redshifts and measured sizes of galaxies that pass by."""
    n, size = 3, 64
    x = (torch.arange(size) - (size - 1) / 2) * 0.262
    light = torch.exp(-torch.hypot(x, x[:, None]) / 1.5)
    batch = {"image": light.expand(n, 4, -1, -1).clone(), "sigma": torch.full((n, 4, size, size), 0.01),
             "psf_fwhm": torch.full((n,), 1.2), "fiber_galaxy": torch.tensor([0, 0, 1, 1, 2, 2]),
             "fiber_redshift": torch.tensor([0.02, 0.02, 0.05, 0.05, 0.1, 0.1])}  # fmt: skip
    watch = CalibrationRange(half_light_radius)
    assert len(list(watch.watch([batch]))) == 1
    found = watch.found()
    assert found["redshift"] == [0.02, 0.1]
    assert found["half_light_radius_arcsec"] == pytest.approx(1.68 * 1.5, rel=0.15)  # of an exponential disc


# --- does the score find failures? --------------------------------------------------------------------------------
def test_roc_of_failures():
    """Galaxies with wrong errors are found by a score that knows them, and not by one that does not."""
    rng = np.random.default_rng(3)
    truths, answers, bad = [], [], np.arange(80) % 8 == 0
    for wrong in bad:
        n = 30
        flux = np.full((n, len(LINES)), 10.0)
        predicted = flux * np.exp(0.1 * rng.standard_normal((n, 1)) + (1.0 if wrong else 0.0))
        truths.append(SimpleNamespace(flux=flux, ew=flux, depth=np.full(len(LINES), 0.1), radius=np.full(n, 1.0),
                                      strata={"odd": bool(wrong), "none": False}))  # fmt: skip
        answers.append(SimpleNamespace(flux=predicted, flux_sigma=0.1 * predicted, quantiles=None))
    score = bad + 0.3 * rng.standard_normal(80)
    rows = {(r["what"], r["name"]): r for r in ood_roc(score, truths, answers, worst=0.125)}
    assert list(rows) == [("failure", "error"), ("failure", "pull"), ("stratum", "odd"), ("stratum", "none")]
    for key in list(rows)[:3]:
        row = rows[key]
        assert row["positive"] == 10 and row["galaxies"] == 80
        assert row["auc"] > 0.9 and row["low"] <= row["auc"] <= row["high"] + 1e-9 and row["found"] > 0.5
    assert rows["stratum", "none"]["auc"] is None
    blind = ood_roc(rng.standard_normal(80), truths, answers, worst=0.125)[1]
    assert 0.2 < blind["auc"] < 0.8
    found, false = roc_curve(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    np.testing.assert_allclose(found, [0, 0.5, 1, 1])
    np.testing.assert_allclose(false, [0, 0, 0.5, 1])
    with pytest.raises(ValueError, match="scores"):
        ood_roc(score[:5], truths, answers)
