# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The records of one unit: ``coadds -> spectra; bricks -> prepared stamps; both -> re-anchored, dereddened records``.

Shapes: F fibres of a galaxy, C bands, S x S pixels, N spectral pixels.
"""

import collections
import contextlib
import functools
import logging
import warnings

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyUserWarning

from ..constants import C_KMS
from ..extinction import mw_transmission
from ..image import prepare_image
from ..surveys.desi import read_desi
from .bricks import Brick

__all__ = ["make_records", "passbands"]

log = logging.getLogger(__name__)

JITTER = 6.0  # arcsec, as the simulator's: where a fibre is in its stamp says nothing of where it is on its galaxy
EDGE = 5  # pixels between a fibre and the edge of its stamp, at least
AROUND = 12  # pixels of the brick around a stamp, for the matching of PSFs
NORTH = ("BASS ", "MzLS ")
FLOOR = 10.0  # km/s: errors of redshifts are not smaller (Lan+2023, ApJ 943, 68)


class _LeftOut(Exception):
    """Why a galaxy or fibre is not used, in few words."""


def make_records(fibers, files, bricks, layout, seed, split):
    """Galaxies of a unit; what cannot be used is counted and said, and the rest goes on.

    Parameters
    ----------
    fibers : `~astropy.table.Table`
        Rows of `~fiberifu.shards.plan.Plan.fibers`.
    files : list of path-like
    bricks : list of `~pathlib.Path`
        Folders in which bricks are looked for.
    layout : `~fiberifu.train.shards.Layout`
    seed : int
        Of the jitter.
    split : callable
        ``(ra, dec) -> place in SPLITS``, of degrees.

    Returns
    -------
    galaxies : list of dict
        As `~fiberifu.train.shards.write_shard` takes them.
    left_out : dict of str to int
        Fibres, by reason.
    """
    from ..train.shards.record import compress  # late: torch

    flux, ivar, usable, left_out = _spectra(fibers, files, layout)
    galaxy = np.asarray(fibers["galaxy"])
    heads = np.flatnonzero(np.diff(galaxy, prepend=-1))
    found = [None] * len(heads)
    with contextlib.ExitStack() as opened:
        name, brick = None, None
        for i in np.argsort(np.asarray(fibers["brick"])[heads], kind="stable"):  # each brick is opened once
            rows = np.flatnonzero((galaxy == galaxy[heads[i]]) & usable)
            if not len(rows):
                continue
            if name != (name := str(fibers["brick"][heads[i]])):
                opened.close()
                brick = _open(bricks, name, layout.bands)
                if isinstance(brick, Brick):
                    opened.push(brick)
            try:
                if isinstance(brick, Exception):
                    raise _LeftOut("no image")
                record = _record(fibers[rows], flux[rows], ivar[rows], brick, layout, seed)
                found[i] = compress(record | {"split": _strictest(split, fibers[rows])})
                kept = len(found[i]["fibers"]["targetid"])
                if kept < len(rows):
                    left_out["no image at the fibre"] += len(rows) - kept
            except _LeftOut as reason:
                left_out[str(reason)] += len(rows)
            except (ValueError, OSError, TypeError) as error:  # of prepare_image, or a damaged tile
                log.warning("brick %s, target %d: not used (%s)", name, fibers["targetid"][rows[0]], error)
                left_out["image not usable"] += len(rows)
    return [record for record in found if record is not None], dict(left_out)


def _strictest(split, fibers):
    """Place in ``SPLITS`` of a galaxy: held out, or between, where one of its fibres is; `split` takes a position."""
    from ..train.shards.record import SPLITS

    sides = {SPLITS[split(ra, dec)] for ra, dec in zip(fibers["ra"], fibers["dec"], strict=True)}
    return SPLITS.index(next(side for side in ("held_out", "between", "train") if side in sides))


def _open(bricks, name, bands):
    """The brick, or why there is none; said once."""
    try:
        return Brick(bricks, name, bands)
    except (OSError, ValueError) as error:
        log.warning("%s", error)
        return error


# ---------------------------------------------------------------- spectra
def _spectra(fibers, files, layout):
    """Flux and ivar (F, N) of the arms joined, which are usable, and a count of those that are not."""
    n = len(fibers)
    flux, ivar = np.zeros((n, layout.wave_size), np.float32), np.zeros((n, layout.wave_size), np.float32)
    left_out = collections.Counter()
    usable = np.zeros(n, bool)
    for file in np.unique(np.asarray(fibers["file"])):
        mine = np.flatnonzero(np.asarray(fibers["file"]) == file)
        try:
            flux[mine], ivar[mine] = _joined(files[file], np.asarray(fibers["targetid"])[mine], layout)
        except (OSError, ValueError) as error:
            log.warning("%s: %d fibres not used (%s)", files[file], len(mine), error)
            left_out["coadd not readable"] += len(mine)
            continue
        usable[mine] = (ivar[mine] > 0).sum(1) > layout.wave_size // 2
        left_out["half of the spectrum missing"] += int((~usable[mine]).sum())
    return flux, ivar, usable, +left_out


def _joined(path, ids, layout):
    """Flux and ivar of targets of a coadd, on the grid of the layout."""
    spectra = read_desi(path, redrock=False, targetids=ids, resolution=False)
    if not np.allclose(spectra.spectral_axis.value, layout.wave, atol=1e-3):
        raise ValueError(f"its wavelengths are not those of the records, from {layout.wave[0]} A")
    if len(spectra.flux) != len(ids):
        raise ValueError("a TARGETID is in it twice")
    return spectra.flux.value, spectra.uncertainty.array


# ---------------------------------------------------------------- galaxies
@functools.cache
def passbands(layout, filters):
    """Weights (C, N) of the bands on the spectral pixels, Tensor (see `fiberifu.simulate.observe.band_weights`).

    Parameters
    ----------
    layout : `~fiberifu.train.shards.Layout`
    filters : tuple of str
        Of its bands. Those of BASS and MzLS, as "BASS g", have curves of their own, of the speclite package; all others
        those of DECam that the bundled model holds, as for context spectra.

    Raises
    ------
    ImportError
        Where speclite is needed and not installed.
    """
    import torch

    from ..model import load_checkpoint
    from ..pretrained import resolve_pretrained
    from ..simulate.filters import filter_curve
    from ..simulate.observe import band_weights

    model = load_checkpoint(resolve_pretrained())[0]
    rows = []
    for band, name in zip(layout.bands, filters, strict=True):
        if name.startswith(NORTH):
            wave, curve = filter_curve(name.replace(" ", "-"))
        else:
            wave, curve = 3000 + 5.0 * np.arange(1601), model.basis.passband.numpy()[model.config.bands.index(band)]
        rows.append(band_weights(layout.wave, wave, [curve])[0])
    return torch.as_tensor(np.stack(rows), dtype=torch.float32)


def _record(fibers, flux, ivar, brick, layout, seed):
    """The record of a galaxy from its fibres (rows of the plan), their spectra (F, N) and its brick."""
    positions = SkyCoord(fibers["ra"], fibers["dec"], unit="deg")
    ebv = float(fibers["ebv"][0])
    x, y = brick.wcs.world_to_pixel(positions)
    rng = np.random.default_rng([seed % 2**32, int(fibers["targetid"][0]) % 2**63])
    centre = np.array([_centre(v, n, j, layout) for v, n, j in zip((x, y), brick.shape[::-1], rng.uniform(-1, 1, 2),
                                                                    strict=True)])  # fmt: skip
    half = layout.stamp / 2 + AROUND
    part = []
    for middle, n in zip(centre[::-1], brick.shape, strict=True):
        low, high = max(int(np.floor(middle - half)), 0), min(int(np.ceil(middle + half)) + 1, n)
        if high - low < layout.stamp / 2:
            raise _LeftOut("outside the image")
        part.append(slice(low, high))
    middle = brick.wcs.pixel_to_world(*centre).icrs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # of bands without a pixel: they are missing
        prepared = prepare_image(brick.cut(*part), SkyCoord(middle.ra, middle.dec), bands=layout.bands,
                                 pixel_scale=layout.pixel_scale, stamp=layout.stamp, ebv=ebv)  # fmt: skip
    image, sigma, own = prepared.stamp(0.0, 0.0)
    offset = prepared.offsets(positions) - own
    filters = (prepared.filters.get(band, "") for band in layout.bands)
    curves = passbands(layout, tuple(name if name.startswith(NORTH) else "" for name in filters))
    flux, ivar, anchor, seen = _anchored(image, sigma, offset, flux, ivar, ebv, curves, layout)
    if not seen.any():
        raise _LeftOut("no image at the fibre")
    where = prepared.skycoord([own])[0]
    z, zerr = np.asarray(fibers["z"]), np.asarray(fibers["zerr"])
    return {
        "image": image, "sigma": sigma, "present": np.isfinite(sigma).any((1, 2)), "psf_fwhm": prepared.psf_fwhm,
        "ra": where.ra.deg, "dec": where.dec.deg, "ebv": ebv,
        "fibers": {
            "flux": flux[seen], "ivar": ivar[seen], "offset": offset[seen], "redshift": z[seen],
            "sigma_z": np.maximum(zerr, FLOOR / C_KMS * (1 + z))[seen], "anchor": anchor[seen],
            "targetid": np.asarray(fibers["targetid"])[seen],
        },
    }  # fmt: skip


def _centre(fibers, n, draw, layout):
    """Middle of the stamp along one axis, in pixels of the brick: off the first fibre by the jitter, inside the image
    where that is possible, and in any case with all fibres well inside the stamp."""
    reach = layout.stamp / 2 - EDGE
    low, high = fibers.max() - reach, fibers.min() + reach
    low, high = min(low, high), max(low, high)
    half = (layout.stamp - 1) / 2
    wanted = fibers[0] + draw * JITTER / layout.pixel_scale
    if n >= layout.stamp:
        wanted = np.clip(wanted, half, n - 1 - half)
    return float(np.clip(wanted, low, high))


def _anchored(image, sigma, offset, flux, ivar, ebv, curves, layout):
    """Spectra without the dust of the Milky Way, at the flux that the image has in their apertures (conventions of
    `fiberifu.simulate.observe.reanchor`); the factor at 6500 A; and which fibres the image has."""
    import torch

    from ..simulate.observe import aperture_photometry, reanchor

    through = mw_transmission(layout.wave, ebv).astype(np.float32)
    flux, ivar = torch.from_numpy(flux / through), torch.from_numpy(ivar * through**2)
    image, sigma = (torch.from_numpy(a).expand(len(flux), *a.shape) for a in (image, sigma))
    where = torch.as_tensor(offset, dtype=torch.float32)
    band, error = aperture_photometry(image, sigma, where, layout.pixel_scale, layout.aperture)
    wave = torch.as_tensor(layout.wave, dtype=torch.float32)
    flux, ivar, scale = reanchor(flux, ivar, wave, curves, band, error)
    anchor = scale[:, int(np.abs(layout.wave - 6500.0).argmin())]
    return flux.numpy(), ivar.numpy(), anchor.numpy(), torch.isfinite(error).any(1).numpy()
