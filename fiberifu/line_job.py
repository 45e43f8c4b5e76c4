# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From the files of a cube to files of its line maps: what ``fiberifu lines`` calls."""

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from specutils import Spectrum

from .formats import read_cube, read_spectra
from .jobs import name_of, sha256_of
from .lines import DAPMask, fit_line_maps
from .output import MANIFEST, atomic_path, prepare_output_folder
from .plot import plot_line_maps
from .provenance import Provenance, software_version
from .surveys import read_manga_cube, read_sami_cube

__all__ = ["lines_to_folder", "read_cube_files"]


def read_cube_files(files):
    """Read a cube of MaNGA, of SAMI (one file or both arms), of fiberifu, or of any format that specutils knows.

    Parameters
    ----------
    files : sequence of path-like

    Returns
    -------
    `~specutils.Spectrum`

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and what is wrong with it.
    """
    files = [Path(file) for file in files]
    if len(files) == 2:
        return read_sami_cube(*files)
    if len(files) != 1:
        raise ValueError(f"cube is {len(files)} files; give one, or the blue and the red arm of SAMI")
    file = files[0]
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(file) as hdus:
                layout, names = hdus[0].header.get("FIBFMT"), {hdu.name for hdu in hdus}
    except OSError as error:
        raise ValueError(f"{file} is no readable FITS file: {error}") from error
    if layout:
        return {"CUBE": read_cube, "SPECTRA": read_spectra}[layout](file)
    if {"FLUX", "IVAR", "MASK", "WAVE"} <= names:
        return read_manga_cube(file)
    if "VARIANCE" in names:
        return read_sami_cube(file)
    try:
        return Spectrum.read(file)
    except Exception as error:  # of whichever loader tried
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not a cube of MaNGA, SAMI or fiberifu, and specutils says: {first}") from error


def lines_to_folder(
    files,
    folder,
    *,
    table="strong",
    redshift=None,
    lsf=None,
    medium=None,
    name=None,
    overwrite=False,
    resume=False,
    **keywords,
):
    """Fit the emission lines of a cube and write maps and a figure.

    Parameters
    ----------
    files : sequence of path-like
        As for `read_cube_files`.
    folder : path-like
    table, redshift, lsf, medium, **keywords
        As for `~fiberifu.lines.fit_line_maps`; what is None is taken from the cube's metadata.
    name : str, optional
        First part of the files' names.
    overwrite, resume : bool
        As for `fiberifu.output.prepare_output_folder`; with ``resume`` nothing is done where all files are there.

    Returns
    -------
    maps : `~fiberifu.lines.LineMaps` or None
        None if all files were there.
    paths : list of `~pathlib.Path`
        ``NAME_maps.fits`` in the layout of MaNGA's MAPS (``NAME_lines.ecsv`` for what is no map) and ``NAME_maps.png``;
        ``predicted`` or ``sim`` is in the name where it is in the cube's provenance.

    Raises
    ------
    ValueError, OSError
        For what is wrong with the files, the folder or a keyword.
    """
    cube = read_cube_files(files)
    redshift = _taken(redshift, cube, "redshift", "give --redshift")
    if np.ndim(redshift):
        raise ValueError("redshift: the spectra have one each; fit them one by one with fit_line_maps")
    lsf = cube.meta.get("lsf") if lsf is None else lsf
    medium = medium or cube.meta.get("medium", "vacuum")
    name = name or re.sub(r"(_predicted)?_(cube|spectra)$", r"\1", name_of([Path(file) for file in files]))
    provenance = cube.meta.get("provenance")
    if isinstance(provenance, Provenance) and provenance.datatype == "PREDICTED" and "predicted" not in name:
        name += "_predicted"
    settings = {"files": {str(file): sha256_of(file) for file in files}, "table": str(table), "redshift": str(redshift),
                "lsf": str(lsf), "medium": medium, "software": software_version(), "name": name}  # fmt: skip
    settings |= {key: str(value) for key, value in keywords.items()}
    folder = prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)
    is_map = cube.flux.ndim == 3 and (cube.meta.get("celestial_wcs") or getattr(cube.wcs, "has_celestial", False))
    paths = [folder / f"{name}_{end}" for end in (("maps.fits", "maps.png") if is_map else ("lines.ecsv",))]
    if resume and all(path.is_file() for path in paths):
        return None, paths
    try:
        maps = fit_line_maps(cube, table, redshift=float(redshift), lsf=lsf, medium=medium, **keywords)
    except BaseException:
        if {path.name for path in folder.iterdir()} == {MANIFEST}:
            (folder / MANIFEST).unlink()
        raise
    if is_map:
        maps.write(paths[0], overwrite=True)
        plt.close(plot_line_maps(maps, paths[1], title=name))
    else:
        table = maps.to_table()
        if isinstance(provenance, Provenance):
            table.meta |= {card.keyword: card.value for card in provenance.to_header().cards}
        with atomic_path(paths[0]) as temporary:
            table.write(temporary, format="ascii.ecsv")
    return maps, paths


def _taken(value, cube, key, advice):
    """A keyword, or what the cube's metadata say of it."""
    value = cube.meta.get(key) if value is None else value
    if value is None:
        raise ValueError(f"{key}: the cube does not tell it; {advice}")
    return value


def summary_lines(maps):
    """What came out, in words: spaxels with each line, flags."""
    flux, snr = maps.flux, maps.snr
    for key in maps.lines:
        good = ~flux[key].mask
        if not good.any():
            yield f"{key:<10} not covered" if (flux[key].flags & int(DAPMask.NOCOV)).all() else f"{key:<10} no value"
            continue
        yield f"{key:<10} {good.sum():6d} spaxels, {(snr[key].data[good] > 3).sum():6d} above 3 sigma"
