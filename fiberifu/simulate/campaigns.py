"""Surveys of the simulated universe: `observe_desi`, `observe_manga`."""

import numpy as np

from .fiber import DESI, observe_fibers
from .ifu import MANGA, observe_ifu
from .imager import DECALS, observe_images
from .photometry import Photometry
from .products import FiberSpectra
from .selection import choose_desi, choose_manga, desi_wish, manga_wish
from .targets import centred, place_targets

__all__ = ["join_spectra", "observe_desi", "observe_manga"]


def join_spectra(parts):
    """Several `FiberSpectra` of one survey as one."""
    parts = list(parts)
    if not parts:
        raise ValueError("parts: got nothing; give one FiberSpectra or more")

    def joined(name):
        return {key: np.concatenate([getattr(p, name)[key] for p in parts]) for key in getattr(parts[0], name)}

    truth = {key: np.concatenate([p.meta["truth"][key] for p in parts]) for key in parts[0].meta["truth"]}
    galaxies = [index for p in parts for index in p.meta["galaxies"]]
    return FiberSpectra(
        wave=parts[0].wave,
        meta=parts[0].meta | {"galaxies": galaxies, "truth": truth},
        **{name: joined(name) for name in ("flux", "ivar", "mask", "resolution", "table")},
    )


def observe_desi(
    simulator, seed, start=0, n=1, *, images=True, camera=DECALS, instrument=DESI, seconds=None, noise=True
):
    """The bright survey of DESI on the simulated universe, with the images of the hosts.

    Parameters
    ----------
    simulator : Scenes
    seed : int
    start, n : int
        First galaxy of the survey, and how many; each may have several fibres.
    images : bool
        Whether the hosts are imaged.
    camera : Camera
        Of the images. Targets are chosen, and their fluxes in ``table`` are, in DECam's bands whatever it is.
    instrument : FiberInstrument
    seconds : float, optional
        Effective exposure time of every fibre; by default drawn.
    noise : bool

    Returns
    -------
    FiberSpectra
        ``table["galaxy"]`` has the galaxies' numbers within the seed, ``table["photsys"]`` N for a northern ``camera``,
        else S.
    list of BandImages
        One for each galaxy, in order; empty without ``images``. ``meta`` has the slot and what it wished for.
    """
    if n < 1 or start < 0:
        raise ValueError(f"start, n: got {start} and {n}; a first galaxy >= 0 and at least one are needed")
    parts, pictures = [], []
    for slot in range(start, start + n):
        index, scene = choose_desi(simulator, seed, slot)
        photometry = Photometry(simulator, scene)
        targets = place_targets(simulator, scene, seed, photometry)
        parts.append(
            observe_fibers(
                simulator, scene, seed, targets,
                seconds=seconds, noise=noise, instrument=instrument, photometry=photometry,
            )
        )  # fmt: skip
        if images:
            pictures += observe_images(simulator, seed, [index], camera=camera, noise=noise, scene=scene)
            pictures[-1].meta.update(zip(("slot", "wish_z", "wish_r"), (slot, *desi_wish(seed, slot)), strict=True))
    spectra = join_spectra(parts)
    spectra.table["photsys"] = np.full(len(spectra.table["galaxy"]), "N" if camera.layer == "north" else "S")
    return spectra, pictures


def observe_manga(simulator, seed, start=0, n=1, *, instrument=MANGA, noise=True):
    """MaNGA on the simulated universe, one cube at a time; galaxies stand in the middle of their bundles.

    Parameters
    ----------
    simulator : Scenes
    seed : int
    start, n : int
        First galaxy of the survey, and how many.
    instrument : IFUInstrument
    noise : bool

    Yields
    ------
    IFUCube
        ``table["galaxy"]`` has the galaxy's number within the seed, and the slot with what it wished for.
    """
    if n < 1 or start < 0:
        raise ValueError(f"start, n: got {start} and {n}; a first galaxy >= 0 and at least one are needed")
    simulator = centred(simulator)

    def cubes():
        for slot in range(start, start + n):
            _, scene, fibers = choose_manga(simulator, seed, slot)
            cube = observe_ifu(simulator, scene, seed, fibers=fibers, noise=noise, instrument=instrument)
            names = ("slot", "wish_logm", "wish_re", "sample")
            cube.table.update(zip(names, (slot, *manga_wish(seed, slot)), strict=True))
            yield cube

    return cubes()
