# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A simulated survey from nothing to files: what ``fiberifu simulate`` calls."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from astropy.io import fits
from tqdm import tqdm

from .output import MANIFEST, prepare_output_folder
from .provenance import software_version

__all__ = ["SURVEYS", "find_instruments", "read_templates", "simulate_to_folder", "summary_lines"]

log = logging.getLogger(__name__)

SURVEYS = ("desi", "manga")
UNIT = {"desi": 16, "manga": 1}  # slots of a survey, one galaxy each, that are simulated together
# Processor time (s) and files (MB) per galaxy, measured on runs of 16 and 3; MaNGA's files have 35 to 110 MB by bundle
COST = {"desi": (0.6, 1.2), "manga": (12, 60)}


def find_instruments():
    """The functions of `fiberifu.simulate` that observe galaxies.

    Returns
    -------
    dict
        desi : ``observe_desi``, (simulator, seed, start, n) -> `FiberSpectra
        <fiberifu.simulate.products.FiberSpectra>`, list of `BandImages <fiberifu.simulate.products.BandImages>`;
        manga : ``observe_manga``, the same arguments -> iterator of `IFUCube <fiberifu.simulate.products.IFUCube>`;
        images : ``observe_images``, (simulator, seed, galaxies) -> list of BandImages;
        centred : (simulator) -> one with its galaxies in the middle of their stamps, where IFUs point.
    """
    from .simulate import observe_desi, observe_images, observe_manga
    from .simulate.targets import centred

    return {"desi": observe_desi, "manga": observe_manga, "images": observe_images, "centred": centred}


def read_templates(path=None, *, fetch=False, progress=False):
    """The template pack: of a file, else built from the public files.

    Parameters
    ----------
    path : path-like, optional
        Written by `~fiberifu.simulate.build_template_pack`.
    fetch : bool
        Whether the public files are downloaded if they are not found; otherwise those fetched earlier are used.
    progress : bool

    Raises
    ------
    FileNotFoundError
        Naming the ways out.
    """
    from .simulate import build_template_pack, load_template_pack
    from .simulate.templates_download import download_folder, download_templates, template_files, wrong_files

    if path is not None:
        try:
            return load_template_pack(path)
        except (FileNotFoundError, ValueError) as error:  # by the name that the argument has in jobs
            if not str(error).startswith("path:"):
                raise
            raise type(error)("templates" + str(error).removeprefix("path")) from error
    try:
        return build_template_pack()
    except FileNotFoundError as error:
        wrong = wrong_files(download_folder())
        if not wrong:
            return build_template_pack(download_folder())
        if fetch:
            log.info("fetching templates of stars and gas, 20 MB")
            return build_template_pack(download_templates(progress=progress))
        if len(wrong) < len(template_files()):
            raise FileNotFoundError(
                f"templates of stars and gas: of those fetched earlier {len(wrong)} are missing or altered in "
                f"{download_folder()}, {wrong[0]} among them; with --fetch-templates these are downloaded again"
            ) from error
        raise FileNotFoundError(
            f"templates of stars and gas: {error}. With --fetch-templates they are downloaded once, 20 MB; or give "
            "--templates PACK.npz, made by fiberifu.simulate.build_template_pack where they are"
        ) from error


def simulate_to_folder(
    survey,
    folder,
    *,
    n=100,
    seed=0,
    templates=None,
    fetch=False,
    workers=1,
    device="cpu",
    continuum=2,
    bricks=False,
    overwrite=False,
    resume=False,
    progress=False,
    pack=None,
    instruments=None,
):
    """Simulate a survey and write it in the survey's own formats, with the truth.

    Parameters
    ----------
    survey : {'desi', 'manga'}
    folder : path-like
        Made if it does not exist.
    n : int
        Galaxies: those of slots 0 to ``n - 1`` of the survey (`fiberifu.simulate.selection`); their numbers within the
        seed, by which files are named, are others.
    seed : int
    templates : path-like, optional
        A template pack; by default one is built from the public files, see `read_templates`.
    fetch : bool
        Whether these are downloaded if they are not found.
    workers : int
        Processes.  The files do not depend on it.
    device : str
        "cpu" or "cuda"; the files depend on it at the level of rounding.
    continuum : int, "ssp" or None
        Under the lines that are fitted to MaNGA cubes, as for `~fiberifu.lines.fit_line_maps`; None for no fit.  The
        true maps are written in any case.
    bricks : bool
        Whether images are written as brick coadds, too.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`.  ``resume`` does what is missing, and of a finished survey again
        what is missing or damaged; ``overwrite`` first removes the files that an earlier survey listed as its own.
    progress : bool
    pack : dict, optional
        Of templates, instead of ``templates``.
    instruments : dict, optional
        Other functions than those of `find_instruments`; with several workers they must be importable.

    Returns
    -------
    list of `~pathlib.Path`
        The catalogues and the truth.

    Raises
    ------
    ValueError, OSError
        For what is wrong with an argument, the folder or the templates.
    """
    from .simulate.files import tree  # late: it loads torch
    from .simulate.identifiers import pack_sha256
    from .simulate.selection import SLOTS

    if survey not in SURVEYS:
        raise ValueError(f"survey is {survey!r}; give one of {', '.join(SURVEYS)}")
    for name, value, least in (("n", n, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; give a whole number from {least}")
    if n > SLOTS:
        raise ValueError(f"n is {n}; a survey has at most {SLOTS} galaxies: take another seed for more")
    instruments = find_instruments() if instruments is None else instruments
    needed = {"desi": ("desi",), "manga": ("manga", "images")}[survey]
    if missing := [key for key in needed if key not in instruments]:
        raise ValueError(f"instruments has no {' and no '.join(missing)}; simulating {survey} needs them")
    if not (continuum is None or continuum == "ssp" or (isinstance(continuum, int) and continuum >= 0)):
        raise ValueError(f"continuum is {continuum!r}; give the degree of a polynomial, 'ssp', or none for no fit")
    device = _device(device)
    pack = read_templates(templates, fetch=fetch, progress=progress) if pack is None else pack
    options = {"continuum": continuum if survey == "manga" else None, "bricks": bool(bricks)}
    settings = {"survey": survey, "n": int(n), "seed": int(seed), "templates": pack_sha256(pack), "device": str(device),
                "unit": UNIT[survey], "software": software_version(), **options}  # fmt: skip
    existed = Path(folder).is_dir()
    if overwrite and not resume and existed:
        # until the old files are gone nothing may vouch for them: a run killed meanwhile cannot be resumed
        (Path(folder) / MANIFEST).unlink(missing_ok=True)
        tree.remove_files(folder)
    folder = prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)
    units = [(i, start, min(UNIT[survey], n - start)) for i, start in enumerate(range(0, n, UNIT[survey]))]
    again = None  # units to do again, of a finished survey
    if tree.listed(folder) is not None:
        _remove_halves(folder)
        bad = tree.damaged(folder)
        if not bad:  # all is there; what a killed run did not tidy up is removed
            shutil.rmtree(folder / tree.PARTS, ignore_errors=True)
            return _catalogues(folder)
        again = tree.reopen(folder, bad)
        log.warning("%d files are missing or damaged, such as %s: made again", len(bad), bad[0])
    todo = [u for u in units if not tree.is_done(folder, u[0]) and (again is None or u[0] in again)]
    if len(todo) < len(units):
        log.info("%d of %d galaxies are there already", n - sum(unit[2] for unit in todo), n)
    _remove_halves(folder)
    if todo:
        log.info(estimate(survey, sum(unit[2] for unit in todo), min(workers, len(todo))))
    job = {"folder": folder, "survey": survey, "seed": int(seed), "options": options, "instruments": instruments}
    try:
        _run(todo, job, pack, device, min(workers, max(len(todo), 1)), progress, n - sum(u[2] for u in todo), n)
    except BaseException:
        from .jobs import _leave  # it imports much that the workers do without

        _leave(folder, existed)
        raise
    if again is not None:
        tree.finish(folder, tree.listed(folder))
        return _catalogues(folder)
    return tree.gather(folder, survey, seed=seed, pack_sha256=settings["templates"])


def estimate(survey, n, workers=1):
    """About how long ``n`` galaxies of a survey take and how large their files are, in words."""
    seconds, size = (n * cost for cost in COST[survey])
    time = f"{seconds / workers:.0f} s" if seconds < 120 * workers else f"{seconds / 60 / workers:.0f} min"
    space = f"{size:.0f} MB" if size < 2000 else f"{size / 1000:.1f} GB"
    return (
        f"{n} {'galaxy' if n == 1 else 'galaxies'}: about {time} on {workers} free cores, and {space} of files".replace(
            " 1 free cores", " a free core"
        )
    )


# ---------------------------------------------------------------- workers
_state = {}


def _start(job, pack, device, threads, watch):
    """Make the simulator of a process."""
    import torch

    from .simulate import Simulator

    if watch:
        threading.Thread(target=_follow, daemon=True).start()
        torch.set_num_threads(threads)
    _state["job"], _state["simulator"] = job, Simulator(pack, device=device)


def _follow():
    """End when the parent has ended: killed, it cannot tell its workers to."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _unit(unit):
    from .simulate.files import tree

    number, start, count = unit
    job = dict(_state["job"])
    tree.run_unit(job.pop("folder"), number, job.pop("survey"), _state["simulator"], job.pop("instruments"),
                  seed=job["seed"], start=start, n=count, options=job["options"])  # fmt: skip
    return count


def _run(todo, job, pack, device, workers, progress, done, total):
    with tqdm(total=total, initial=done, unit="galaxy", disable=not progress, leave=False) as bar:
        if workers == 1:
            _start(job, pack, device, 1, watch=False)
            for unit in todo:
                bar.update(_unit(unit))
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(workers, context, _start, (job, pack, device, threads, True)) as pool:
            try:
                for count in pool.map(_unit, todo):
                    bar.update(count)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


# ---------------------------------------------------------------- what the result depends on
def _device(name):
    """``name``, if it is a device that PyTorch can use."""
    import torch

    try:
        torch.zeros(1, device=str(name)).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, absent, or not compiled in
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(name)!r}, which PyTorch cannot use ({reason}); give cpu, or cuda") from None
    return str(name)


# ---------------------------------------------------------------- the folder
def _remove_halves(folder):
    """Remove what a killed run was writing: hidden, with eight hexadecimal digits (see `fiberifu.output`)."""
    for path in folder.rglob(".*-*"):
        name = path.name
        if path.is_file() and name[9:10] == "-" and all(c in "0123456789abcdef" for c in name[1:9]):
            path.unlink(missing_ok=True)


def _catalogues(folder):
    from .simulate.files import tree

    names = (
        "spectro/redux/sim/zcatalog/v1/*.fits",
        "legacysurvey/tractor/sim/*.fits",
        "spectro/redux/sim/drpall*.fits",
    )
    return [path for pattern in (*names, tree.TRUTH) for path in sorted(folder.glob(pattern))]


def summary_lines(folder):
    """What a survey holds, in words."""
    from .simulate.files import tree

    folder = Path(folder)
    with fits.open(folder / tree.TRUTH) as hdus:
        galaxies = hdus["GALAXIES"]
        n = len(galaxies.data)
        strata = [(key, int(galaxies.data[key].sum())) for key in galaxies.header["STRATA"].split(",")]
        if "FIBERS" in hdus:
            yield f"{n} galaxies, {len(hdus['FIBERS'].data)} fibres"
        else:
            yield f"{n} galaxies, each with a cube"
    yield "of them " + ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in strata if count)
    yield "Simulated: not an observation."
