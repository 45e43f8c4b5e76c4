# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Whole jobs, from files to files: what the command line calls."""

import hashlib
import json
import os
import re
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits

from .flags import Flag
from .image_files import read_image
from .observe import VirtualIFU, off_image
from .output import MANIFEST, atomic_path, prepare_output_folder
from .plot import plot_summary
from .pretrained import resolve_pretrained
from .provenance import Provenance, software_version

__all__ = ["describe", "observe_to_folder", "read_image", "run_demo"]


def run_demo(folder, **keywords):
    """The main job on the embedded image of a simulated galaxy; else as `observe_to_folder`."""
    from .datasets import example_image

    keywords = {
        "size": 24 * u.arcsec,
        "spaxel": 0.75 * u.arcsec,
        "title": "simulated example galaxy",
        **keywords,
    }
    return observe_to_folder(example_image(), folder, name="example_sim", **keywords)


def observe_to_folder(
    image,
    folder,
    *,
    name,
    positions=None,
    model=None,
    title=None,
    inputs=None,
    overwrite=False,
    resume=False,
    progress=False,
    seed=0,
    **keywords,
):
    """Predict a cube, or spectra at positions, and write them with line maps and a summary figure.

    Parameters
    ----------
    image : mapping or `~astropy.nddata.CCDData`
        As `VirtualIFU.predict_cube <fiberifu.VirtualIFU.predict_cube>` takes it.
    folder : path-like
        Made if it does not exist.
    name : str
        First part of the files' names.
    positions : `~astropy.coordinates.SkyCoord`, optional
        Predict spectra there, instead of a cube.
    model : str or path-like, optional
        As for `VirtualIFU.from_pretrained <fiberifu.VirtualIFU.from_pretrained>`.
    title : str, optional
        Of the figure; ``name`` by default.
    inputs : dict, optional
        What else the result depends on, such as hashes of the input files; written to the folder's manifest.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`; with ``resume`` files that are there are kept.
    progress : bool
    seed : int
    **keywords
        Of `~fiberifu.VirtualIFU.predict_cube` or `~fiberifu.VirtualIFU.predict`.

    Returns
    -------
    prediction : `~fiberifu.Prediction` or None
        None if all files were there.
    paths : list of `~pathlib.Path`
        ``NAME_predicted_cube.fits``, ``NAME_predicted_maps.fits`` and ``NAME_predicted_summary.png``; for
        positions ``NAME_predicted_spectra.fits``, ``NAME_predicted_lines.ecsv`` and the summary.

    Raises
    ------
    ValueError, OSError
        For what is wrong with the image, the folder or a keyword.
    """
    settings = {"name": name, "inputs": inputs or {}, "model": str(model or "bundled"), "seed": seed}
    settings |= {key: str(value) for key, value in keywords.items()}
    weights = resolve_pretrained(model) / "model.safetensors"
    settings["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    settings["software"] = software_version()
    if positions is not None:
        settings["positions"] = [
            list(map(float, axis)) for axis in (positions.icrs.ra.deg.ravel(), positions.icrs.dec.deg.ravel())
        ]
    existed = Path(folder).is_dir()
    folder = prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)
    ends = ("cube.fits", "maps.fits") if positions is None else ("spectra.fits", "lines.ecsv")
    paths = [folder / f"{name}_predicted_{end}" for end in (*ends, "summary.png")]
    if overwrite:  # until the old files are gone nothing may vouch for them: a run killed meanwhile cannot be resumed
        (folder / MANIFEST).unlink()
    todo = [path for path in paths if not (resume and path.is_file())]
    if not todo:
        return None, paths
    keywords |= {"seed": seed, "progress": progress}
    try:
        ifu = VirtualIFU.from_pretrained(model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "positions: none lies")  # an error here, below
            if positions is None:
                prediction = ifu.predict_cube(image, **keywords)
            else:
                prediction = ifu.predict(image, positions, **keywords)
    except BaseException:
        _leave(folder, existed)
        raise
    if np.all(prediction.flags & int(Flag.BAD_SPAXEL)):
        _leave(folder, existed)
        raise ValueError(off_image(prediction.image, prediction.positions))
    if overwrite:
        for path in paths:
            path.unlink(missing_ok=True)
        prepare_output_folder(folder, overwrite=True, settings=settings)
    for path, write in zip(paths, (_write_spectra, _write_lines, _write_summary), strict=True):
        if path in todo:
            write(prediction, path, title or name)
    return prediction, paths


def _leave(folder, existed):
    """Take back a folder in which nothing was made, so that the next attempt does not find it occupied."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [MANIFEST]:
            (folder / MANIFEST).unlink()
            if not existed:
                folder.rmdir()


def _write_spectra(prediction, path, title):
    prediction.write(path, overwrite=True)


def _write_lines(prediction, path, title):
    maps = prediction.line_maps("strong")
    if path.suffix == ".fits":
        maps.write(path, overwrite=True)
        return
    table = maps.to_table()
    table.meta |= {card.keyword: card.value for card in prediction.provenance.to_header().cards}
    with atomic_path(path) as temporary:
        table.write(temporary, format="ascii.ecsv")


def _write_summary(prediction, path, title):
    plt.close(plot_summary(prediction, path, title=title))


# ---------------------------------------------------------------- images
def name_of(files):
    """What the names of files have in common, without extension."""
    stems = [re.sub(r"\.fi?ts?(\.gz|\.fz)?$", "", file.name, flags=re.IGNORECASE) for file in files]
    return os.path.commonprefix(stems).strip("_-. ") or stems[0]


def sha256_of(path):
    """sha256 of a file, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# ---------------------------------------------------------------- descriptions
def describe(target=None):
    """What a model is and where it comes from, or a FITS file of ours, as text.

    Parameters
    ----------
    target : str or path-like, optional
        A model folder or hub id, or a FITS file; the bundled model by default.
    """
    if target is not None and Path(target).is_file():
        return _describe_file(Path(target))
    folder = resolve_pretrained(target)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; a model folder has config.json and model.safetensors")
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights, model = folder / "model.safetensors", stored.get("model", {})
    bands = " ".join(model.get("bands", ()))
    rows = {
        "fiberifu": software_version(),
        "model": model.get("name"),
        "bands": bands,
        "folder": folder,
        "weights": size_of(weights),
        "sha256": sha256_of(weights),
    }
    passport = stored.get("passport", {})
    rows |= {key: value for key, value in passport.items() if isinstance(value, str | int | float)}
    card = folder / "README.md"
    return _rows(rows) + (f"\n\n{card.read_text(encoding='utf-8').rstrip()}" if card.is_file() else "")


def _describe_file(path):
    try:
        with fits.open(path) as hdus:
            parts = [(hdu.name, _shape(hdu), hdu.header.get("BUNIT", "")) for hdu in hdus]
            header = hdus[0].header.copy()
    except OSError as error:
        raise ValueError(f"{path} is no readable FITS file: {error}") from error
    if "DATATYPE" in header:
        rows = {key.replace("_", " "): value for key, value in asdict(Provenance.from_header(header)).items()}
    elif "FIBIFUV" in header:  # lines of an observed cube
        names = {"FIBIFUV": "fiberifu", "REDSHIFT": "redshift", "EXTCORR": "extinction corrected", "EBVGAL": "ebv"}
        rows = {"data": "line maps of an observed cube"} | {names[key]: header[key] for key in names if key in header}
    else:
        raise ValueError(f"{path} has neither a DATATYPE nor a FIBIFUV card: fiberifu did not write it")
    return "\n".join([_rows(rows), "", *(f"{name:<20} {shape:<22} {unit}".rstrip() for name, shape, unit in parts)])


def _shape(hdu):
    if isinstance(hdu, fits.BinTableHDU):
        return f"{len(hdu.data)} rows x {len(hdu.columns)} columns"
    return " x ".join(map(str, hdu.shape))


def _rows(rows):
    return "\n".join(f"{key:<20} {value}" for key, value in rows.items() if value not in (None, "", {}))


def size_of(path):
    """Size of a file in words."""
    size = Path(path).stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
