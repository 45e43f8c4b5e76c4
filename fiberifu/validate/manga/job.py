# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From a survey's files to a page: what ``fiberifu validate manga`` calls.

``files of each galaxy -> truth, prediction -> comparison, figure, row, written as they come -> scores and summary``
"""

import datetime
import importlib.metadata
import json
import logging
from concurrent.futures import BrokenExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...infer_executors import open_executor
from ...jobs import sha256_of
from ...lines.stellar import StellarTemplates
from ...output import MANIFEST, atomic_path, prepare_output_folder
from ...pretrained import resolve_pretrained
from ...provenance import software_version
from ..maps_job import _quiet
from ..score_files import write_scores
from . import page
from .compare import LIGHT
from .find import find_galaxies
from .galaxy import run_galaxy, stamp
from .store import read_comparison

__all__ = ["PAGE", "summary_lines", "validate_manga_to_folder"]

log = logging.getLogger(__name__)

PAGE = "manga.html"
TRUTHS, IMAGES = ("auto", "maps", "cube"), ("files", "fetch", "own")
RADIUS = 2.5  # effective radii: scores are of 1.6 and less, maps show a little more
DRAWS = 500


def validate_manga_to_folder(
    folder,
    sources,
    *,
    model=None,
    truth="auto",
    daptype=None,
    base=None,
    image="files",
    continuum="ssp",
    radius=RADIUS,
    workers=1,
    overwrite=False,
    resume=False,
    progress=False,
    command=None,
    draws=DRAWS,
):
    """Compare predicted maps of lines with observed ones, galaxy by galaxy, and write scores and a page.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    sources : sequence of path-like
        As for `~fiberifu.validate.manga.find_galaxies`.
    model : str or path-like, optional
        As for `VirtualIFU.from_pretrained <fiberifu.VirtualIFU.from_pretrained>`.
    truth : {'auto', 'maps', 'cube'}
        The values of MAPS, or a fit of the cube; by default MAPS where there are any.
    daptype : str, optional
        Which MAPS, by a part of their names.
    base : str, optional
        Where a table's cubes and MAPS are, as for `~fiberifu.validate.manga.find_galaxies`.
    image : {'files', 'fetch', 'own'}
        From files; fetched where there is none (Legacy Surveys); or, where there is none, the continuum of the cube
        or the mean flux of MAPS: a hard test.
    continuum : 'ssp' or int
        Under the lines of a fit, as for `~fiberifu.lines.fit_line_maps`.
    radius : float
        Effective radii within which spaxels are predicted and fitted.
    workers : int
        Processes; results do not depend on it.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`. With ``resume`` galaxies that are there are kept, and those that
        were skipped are tried again.
    progress : bool
    command : str, optional
        To be recorded.
    draws : int
        Of the bootstrap over galaxies.

    Returns
    -------
    list of `~pathlib.Path`
        ``scores.json``, ``scores.ecsv``, ``galaxies.ecsv``, ``manga.html``. In ``galaxies/`` each galaxy has
        ``NAME_predicted.npz``, ``NAME_predicted.png`` and ``NAME_predicted.json``, its row.

    Raises
    ------
    ValueError, OSError
        For what is wrong with an argument, the folder or the model, if no galaxy could be compared, or if a worker was
        killed. What is wrong
        with a galaxy is in its row.
    """
    for name, value, allowed in (("truth", truth, TRUTHS), ("image", image, IMAGES)):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; give {', '.join(allowed)}")
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"radius is {radius!r}; give effective radii, such as {RADIUS}")
    galaxies = find_galaxies(sources, daptype=daptype, base=base)
    _check_continuum(continuum, truth == "cube" or (truth == "auto" and not all(one.maps for one in galaxies)))
    source = resolve_pretrained(model)
    weights = sha256_of(source / "model.safetensors")
    options = {"truth": truth, "image": image, "continuum": continuum, "radius": float(radius)}
    settings = {"weights": weights, "software": software_version(), **options}  # files may be added: see _done
    folder = _prepare(Path(folder), settings, overwrite, resume)
    (folder / "galaxies").mkdir(exist_ok=True)
    stored = json.loads((source / "config.json").read_text(encoding="utf-8"))
    known = {"model_id": stored.get("model", {}).get("name", "model"), "weights_sha256": weights, "seed": 0,
             "training_data": str(stored.get("passport", {}).get("training_data", "unknown"))}  # fmt: skip
    job = {"model": str(source.absolute()), "folder": str((folder / "galaxies").absolute()), "options": options,
           "provenance": known}  # fmt: skip
    rows = {one.name: row for one in galaxies if (row := _done(folder, one)) is not None}
    todo = [one for one in galaxies if one.name not in rows]
    with open_executor("process" if workers > 1 else "none", workers) as pool, _quiet("fiberifu.decode"):
        made = _map(pool, job, todo)
        for row in tqdm(made, total=len(todo), unit="galaxy", disable=not progress, leave=False):
            rows[row["name"]] = row
            if row["reason"]:
                log.warning("%s skipped: %s", row["name"], row["reason"])
    rows = [rows[one.name] for one in galaxies]
    return _summarize(folder, rows, known, {"command": command, "draws": draws, **options})


def summary_lines(folder):
    """What came out, in words.

    Yields
    ------
    str
    """
    report = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
    rows = report["galaxies"]
    skipped = [row for row in rows if row["reason"]]
    yield f"galaxies compared: {len(rows) - len(skipped)}, skipped: {len(skipped)}"
    for line in ("Ha", "N2", "O3", "Hb"):
        found = {
            row["score"]: row
            for row in report["scores"]
            if (row["predictor"], row["quantity"], row["region"], row["stratum"])
            == (report["meta"]["predictors"][0]["name"], line, "whole", "all")
        }
        if "bias log flux [dex]" in found and found["bias log flux [dex]"]["value"] is not None:
            bias, mae = (found[f"{name} log flux [dex]"]["value"] for name in ("bias", "MAE"))
            yield f"{line}: bias {bias:+.2f} dex, mean absolute error {mae:.2f} dex in absolute flux"


# ---------------------------------------------------------------- many
def _map(pool, job, todo):
    """Rows, as they come."""
    if pool is None:
        yield from (run_galaxy(job, one) for one in todo)
        return
    try:
        for future in as_completed([pool.submit(_one_thread, job, one) for one in todo]):
            yield future.result()
    except BrokenExecutor as error:
        raise OSError(
            "a worker process has ended, killed or for want of memory: what was done is kept; go on with "
            "resume=True (--resume), perhaps with fewer workers"
        ) from error


def _one_thread(job, files):
    import torch

    torch.set_num_threads(1)
    return run_galaxy(job, files)


def _check_continuum(continuum, needed):
    """What would fail for every galaxy alike fails before the first."""
    if continuum != "ssp" and not (isinstance(continuum, int) and continuum >= 0):
        raise ValueError(f"continuum is {continuum!r}; give 'ssp', or the degree of a polynomial")
    if needed and continuum == "ssp":
        StellarTemplates.read_mastar()


def _done(folder, files):
    """The row of a galaxy that is there, made of the same files; None if it has to be made (again)."""
    path = folder / "galaxies" / f"{files.name}_predicted.json"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        parts = [path.with_name(f"{path.stem}.{end}") for end in ("npz", "png")]
        same = row["files"] == stamp(files) and all(part.is_file() for part in parts)
        return row if same and not row["reason"] else None
    except (OSError, ValueError, KeyError):
        return None


def _prepare(folder, settings, overwrite, resume):
    if overwrite and folder.is_dir():
        (folder / MANIFEST).unlink(missing_ok=True)  # a run killed meanwhile cannot be resumed
        for path in folder.glob("galaxies/*_predicted.*"):
            path.unlink()
    return prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)


def _summarize(folder, rows, known, about):
    """Scores of all galaxies together, tables and the page."""
    made = [read_comparison(folder / "galaxies" / f"{row['name']}_predicted.npz") for row in rows if not row["reason"]]
    if not made:
        reasons = "; ".join(f"{row['name']}: {row['reason']}" for row in rows[:5])
        raise ValueError(f"no galaxy could be compared: {reasons}")
    model = known["model_id"]
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "astropy", "torch")}
    meta = {
        **about,
        "datatype": "PREDICTED",
        "origin": "fiberifu",
        "software": "fiberifu",
        "version": software_version(),
        "versions": versions,
        "model": model,
        "weights_sha256": known["weights_sha256"],
        "training_data": known["training_data"],
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "seed": known["seed"],
        "galaxies": len(made),
        "positions": sum(len(one.truth) for one, _ in made),
        "predictors": [
            {"name": "model", "kind": "judged", "role": "", "about": f"the model {model}, from the image alone"},
            {"name": LIGHT, "kind": "reference", "role": "light only",
             "about": "light of the image times one EW, both told the mean of the galaxy's truth: no rival, it has "
                      "seen the answer"},
        ],
    }  # fmt: skip
    report = page.pooled_report([one for one, _ in made], rows, meta)
    paths = write_scores(folder, report)
    paths.append(page.write_galaxy_table(folder / "galaxies.ecsv", rows, meta))
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(page.make_page(report, folder / "galaxies"), encoding="utf-8")
    return [*paths, folder / PAGE]
