# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A catalogue of galaxies predicted, chunk by chunk: what ``fiberifu infer`` calls.

``catalogue -> targets -> chunks -> parts, each a file made by some worker -> one table per chunk``

What is in a row depends on the galaxy and the settings only: not on chunks, parts, or workers.
"""

import math
import re
import shutil
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import QTable, vstack

from fiberifu import infer_parts
from fiberifu.catalogue import read_targets
from fiberifu.catalogue_row import READERS, field_of, prepare_target
from fiberifu.infer_executors import open_executor
from fiberifu.infer_parts import Chunks, file_name, own_threads
from fiberifu.output import MANIFEST, prepare_output_folder
from fiberifu.pretrained import resolve_pretrained
from fiberifu.provenance import software_version

__all__ = ["export_galaxy", "infer_catalog", "open_executor", "read_inferred", "read_spaxels", "summary_lines"]

CHUNK = 1000  # galaxies of a chunk, unless the number of chunks is given


def infer_catalog(
    catalog,
    folder,
    *,
    model=None,
    chunk=None,
    of=None,
    executor=None,
    columns=None,
    image=None,
    reader="auto",
    size=15 * u.arcsec,
    spaxel=0.75 * u.arcsec,
    aperture=1.5 * u.arcsec,
    lines="strong",
    draws=64,
    seed=0,
    maps=False,
    overwrite=False,
    resume=False,
    progress=False,
):
    """Predict the galaxies of a catalogue: a table of line fluxes, latents and flags, one row for each.

    Parameters
    ----------
    catalog : path-like
        Of N galaxies; see `~fiberifu.catalogue.read_targets` for its columns.
    folder : path-like
        Made if it does not exist.
    model : str or path-like, optional
        As for `VirtualIFU.from_pretrained <fiberifu.VirtualIFU.from_pretrained>`.
    chunk, of : int, optional
        Do only chunk number ``chunk`` of ``of``, from 0. Several may be done at the same time, by different machines,
        in one folder; one that is done already is left as it is. By default all chunks are done, and have at most 1000
        galaxies.
    executor : `concurrent.futures.Executor`, optional
        Where parts are computed: of processes, of ``dask.distributed``, of anything else whose workers can import
        fiberifu and see the same files. By default this process does it. Every worker computes on one thread, and loads
        the model once.
    columns : dict of str to str, optional
    image : str, optional
        Both as for `~fiberifu.catalogue.read_targets`.
    reader : str or callable
        Of images: "auto", "legacysurvey", "des", or a function (files, PSF file or None) -> {band: CCDData}, which
        the workers of the executor can import.
    size, spaxel : `~astropy.units.Quantity`
        Side of the field where the catalogue has none, and of its spaxels; sums are of the circle inside.
    aperture : `~astropy.units.Quantity`
        Diameter of the fibre on the centre.
    lines : str or sequence of str
        "strong", "all", or keys of lines.
    draws : int
        From which the quantiles of sums are taken.
    seed : int
    maps : bool
        Whether the line maps of every galaxy are in the table's file, too: see `read_spaxels`.
    overwrite : bool
        Replace what an earlier run, under whatever settings, has made in the folder.
    resume : bool
        Go on in a folder that was made under the same settings; with ``chunk`` that is always so.
    progress : bool

    Returns
    -------
    list of `~pathlib.Path`
        The tables, ``chunk_predicted_00000-of-00010.fits`` and so on, of the chunks asked for.

    Raises
    ------
    ValueError, OSError
        For what is wrong with the catalogue as a whole, the folder or an argument. What is wrong with a galaxy is in
        its row: ``OK`` is False, and ``STATUS`` says why.
    """
    from fiberifu.line_functionals import select_lines  # late: it loads much that a worker needs, and --help does not

    targets = read_targets(catalog, columns=columns, image=image)
    source, weights = _model_files(model)
    keys = [str(key) for key in select_lines(lines)["key"]]
    options = {"reader": reader, "lines": keys, "draws": _whole("draws", draws, 2), "seed": _whole("seed", seed, 0)}
    options |= {name: _angle(name, value) for name, value in
                (("size", size), ("spaxel", spaxel), ("aperture", aperture))}  # fmt: skip
    options["maps"] = bool(maps)
    if not callable(reader) and reader not in READERS:
        raise ValueError(f"reader is {reader!r}; give {', '.join(READERS)} or a function")
    of = max(1, math.ceil(len(targets) / CHUNK)) if of is None and chunk is None else of
    chunks = _chunks(chunk, of, len(targets))
    settings = {
        "catalog": _sha256(catalog), "columns": columns or {}, "image": image, "chunks": of, "part": infer_parts.PART,
        "model": weights, "software": software_version(),
        **options, "reader": reader if isinstance(reader, str) else f"{reader.__module__}.{reader.__qualname__}",
    }  # fmt: skip
    folder = _prepare(Path(folder), settings, chunk is not None, overwrite, resume)
    job = {"model": str(source.absolute()), "options": options}
    job["cards"] = {"CATALOG": Path(catalog).name, "CATSHA": settings["catalog"][:16], "SPAXEL": options["spaxel"],
                    "APERTURE": options["aperture"], "DRAWS": draws, "NCHUNK": of}  # fmt: skip
    work = Chunks(folder, of, targets, chunks)
    with own_threads(executor):
        work.make(job, executor, progress)
    return [work.table(i) for i in chunks]


def read_inferred(folder):
    """All rows of a catalogue that was predicted.

    Parameters
    ----------
    folder : path-like
        Of `infer_catalog`.

    Returns
    -------
    `~astropy.table.QTable`
        In the order of the catalogue; every row of it once.

    Raises
    ------
    FileNotFoundError
        If there is no chunk.
    ValueError
        If chunks are missing, naming them.
    """
    paths = sorted(Path(folder).glob("chunk_predicted_*-of-*.fits"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no chunk of a predicted catalogue (chunk_predicted_*.fits)")
    of = int(paths[0].stem.rpartition("-")[2])
    there = {int(re.search(r"(\d+)-of", path.name)[1]) for path in paths}
    if missing := sorted(set(range(of)) - there):
        some = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise ValueError(f"{folder}: {len(missing)} of {of} chunks are missing ({some}); do them first")
    table = vstack([QTable.read(path, hdu=1, mask_invalid=False) for path in paths], metadata_conflicts="silent")
    if not np.array_equal(table["ROW"], np.arange(len(table))):
        raise ValueError(f"{folder}: the rows of its chunks do not follow each other; was a file exchanged?")
    return table


def read_spaxels(folder, row):
    """Line maps of one galaxy of a catalogue that was predicted with ``maps``.

    Parameters
    ----------
    folder : path-like
        Of `infer_catalog`.
    row : int
        Of the catalogue, from 0.

    Returns
    -------
    `~astropy.table.QTable`
        One row per spaxel: place in the maps (``X``, ``Y``), ``RA``, ``DEC``, ``FLAGS``, and for each line flux,
        equivalent width (rest frame) and continuum (observed frame) with their errors; NaN where there is none.
        ``table["Ha_flux"].reshape(table["Y"].max() + 1, -1)`` is a map. Empty for a galaxy without a prediction.

    Raises
    ------
    FileNotFoundError
        If no chunk has that row.
    ValueError
        If the run was one without maps.
    """
    for path in sorted(Path(folder).glob("chunk_predicted_*-of-*.fits")):
        with fits.open(path) as hdus:
            if row not in hdus["GALAXIES"].data["ROW"]:
                continue
            if "SPAXELS" not in hdus:
                raise ValueError(f"{path}: without line maps; predict the catalogue with maps=True (--maps)")
        table = QTable.read(path, hdu="SPAXELS", mask_invalid=False)
        return table[table["ROW"] == row]
    raise FileNotFoundError(f"{folder}: row {row} is in no chunk there")


def export_galaxy(catalog, folder, name, *, columns=None, image=None, reader="auto", model=None,
                  size=15 * u.arcsec, spaxel=0.75 * u.arcsec, **keywords):  # fmt: skip
    """Cube, line maps and summary of one galaxy of a catalogue, as `infer_catalog` saw it.

    Parameters
    ----------
    catalog, columns, image, reader, model, size, spaxel
        As for `infer_catalog`.
    folder : path-like
        Another than that of the catalogue's tables.
    name : str
        Of the galaxy; ``"#12"`` for row 12, from 0.
    **keywords
        Of `fiberifu.jobs.observe_to_folder`, such as ``seed`` or ``resume``.

    Returns
    -------
    prediction, paths
        As of `fiberifu.jobs.observe_to_folder`.

    Raises
    ------
    ValueError, OSError
        For a name that is not there or not unique, and whatever is wrong with the galaxy.
    """
    from fiberifu.jobs import observe_to_folder
    from fiberifu.observe import VirtualIFU

    targets = read_targets(catalog, columns=columns, image=image)
    same = [t for t in targets if t.name == name or f"#{t.row}" == name]
    if len(same) != 1:
        here = f"are {len(same)} galaxies, rows {', '.join(str(t.row) for t in same[:5])}" if same else "is none"
        raise ValueError(f"name is {name!r}: there {here} of that name in {catalog}; #ROW takes a row, from 0")
    target, options = same[0], {"size": _angle("size", size), "spaxel": _angle("spaxel", spaxel)}
    if target.problem:
        raise ValueError(f"{name}: {target.problem}")
    side, _ = field_of(target, options)
    prepared = prepare_target(target, VirtualIFU.from_pretrained(model).config, reader, side)
    z = target.redshift
    return observe_to_folder(
        prepared,
        folder,
        name=file_name(target),
        title=target.name,
        model=model,
        inputs={"image": prepared.sha256},
        redshift=(z, target.redshift_error) if np.isfinite(target.redshift_error) else z,
        size=side * u.arcsec,
        spaxel=spaxel,
        center=target.position,
        **keywords,
    )


def summary_lines(paths):
    """What chunks hold, in words: how many galaxies were predicted, and why others were not.

    Parameters
    ----------
    paths : sequence of path-like
        As `infer_catalog` gives them.

    Yields
    ------
    str
    """
    n, reasons = 0, {}
    for path in paths:
        with fits.open(path) as hdus:
            data = hdus[1].data
            n += len(data)
            for name, status in zip(data["NAME"][~data["OK"]], data["STATUS"][~data["OK"]], strict=True):
                reasons.setdefault(_kind_of(str(status)), []).append((str(name), str(status)))
    bad = sum(map(len, reasons.values()))
    yield f"{n - bad} of {n} galaxies predicted" + (f"; {bad} not, whose rows say why (STATUS):" if bad else ".")
    for cases in sorted(reasons.values(), key=len, reverse=True)[:5]:
        yield f"  {len(cases)}, such as {cases[0][0]}: {cases[0][1]}"
    if len(reasons) > 5:
        yield f"  and {len(reasons) - 5} other kinds"
    yield "Predicted from images: not observations."


def _kind_of(status):
    """A reason without its names and numbers."""
    return re.sub(r"\S*[/\d]\S*", "", status)


# ---------------------------------------------------------------- arguments and the folder
def _chunks(chunk, of, n):
    of = _whole("of", of, 1) if of is not None else None
    if of is None:
        raise ValueError(f"chunk is {chunk}, of how many? give of= (--of), too")
    if of > n:
        raise ValueError(f"of is {of}; the catalogue has {n} galaxies, which make {n} chunks at most")
    if chunk is None:
        return list(range(of))
    if not isinstance(chunk, int | np.integer) or not 0 <= chunk < of:
        raise ValueError(f"chunk is {chunk!r}; with {of} chunks give a whole number from 0 to {of - 1}")
    return [int(chunk)]


def _prepare(folder, settings, one, overwrite, resume):
    """The folder, with the same settings in its manifest."""
    if overwrite and one:
        raise ValueError("overwrite is true, and chunk is given: that would remove the other chunks; remove the folder "
                         "before the first of them instead")  # fmt: skip
    if overwrite and folder.is_dir():
        # until the old files are gone nothing may vouch for them: a run killed meanwhile cannot be resumed
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.glob("chunk_predicted_*-of-*.fits"):
            path.unlink()
        shutil.rmtree(folder / "parts", ignore_errors=True)
    return prepare_output_folder(folder, overwrite=overwrite, resume=resume or one, settings=settings)


def _model_files(model):
    """The folder of a model, and a hash of its files; FileNotFoundError if one is not there; refused if not of ours."""
    from fiberifu.model import is_published

    folder = resolve_pretrained(model)
    paths = [folder / name for name in ("config.json", "model.safetensors")]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {path.name}; a model folder has config.json and model.safetensors"
            )
    if is_published(folder):
        raise ValueError(
            f"model: {folder} holds the published network, which has no quantiles and latent vectors for a catalogue; "
            "predict galaxies one by one (fiberifu observe), or give weights of fiberifu's own network"
        )
    return folder, [_sha256(path) for path in paths]


def _sha256(path):
    from hashlib import file_digest

    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _whole(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number from {least}")
    return int(value)


def _angle(name, value):
    """An angle in arcsec."""
    try:
        number = float(u.Quantity(value).to_value(u.arcsec))
    except (TypeError, ValueError, u.UnitsError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value!r}; give a positive angle, such as 1.5 * u.arcsec")
    return number
