# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""From the files of a cube to files of its line maps: what ``fiberifu lines`` calls."""

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from specutils import Spectrum

from .formats import read_cube, read_spectra
from .jobs import name_of, sha256_of
from .lines import DAPMask, bin_spectra, fit_line_maps, spread_bins
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
    if layout in ("CUBE", "SPECTRA"):
        return {"CUBE": read_cube, "SPECTRA": read_spectra}[layout](file)
    if "EMLINE_GFLUX" in names:
        raise ValueError(f"{file}: holds maps, not a cube; read it with fiberifu.lines.LineMaps.read")
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
        ``predicted`` or ``sim`` is in the name where it is in the cube's provenance.  With two components
        ``NAME_narrow_maps.fits`` and ``NAME_broad_maps.fits``, too.

    Raises
    ------
    ValueError, OSError
        For what is wrong with the files, the folder or a keyword.
    """
    cube = read_cube_files(files)
    redshift = _redshift(redshift, cube)
    lsf = cube.meta.get("lsf") if lsf is None else lsf
    name = name or re.sub(r"(_predicted)?_(cube|spectra)$", r"\1", name_of([Path(file) for file in files]))
    provenance = cube.meta.get("provenance")
    if isinstance(provenance, Provenance) and provenance.datatype == "PREDICTED" and "predicted" not in name:
        name += "_predicted"
    settings = {"files": {str(file): sha256_of(file) for file in files}, "table": str(table), "redshift": str(redshift),
                "lsf": str(lsf), "medium": medium, "software": software_version(), "name": name}  # fmt: skip
    settings |= {key: str(value) for key, value in keywords.items()}
    folder = prepare_output_folder(folder, overwrite=overwrite, resume=resume, settings=settings)
    is_map = cube.flux.ndim == 3 and (cube.meta.get("celestial_wcs") or getattr(cube.wcs, "has_celestial", False))
    ends = ("maps.fits", "maps.png") if is_map else ("lines.ecsv",)
    if is_map and keywords.get("components") == 2:
        ends += ("narrow_maps.fits", "broad_maps.fits")
    paths = [folder / f"{name}_{end}" for end in ends]
    if resume and all(path.is_file() for path in paths):
        return None, paths
    new = {path.name for path in folder.iterdir()} == {MANIFEST}
    try:
        maps = _fit(cube, table, redshift=redshift, lsf=lsf, medium=medium, **keywords)
    except BaseException:
        if new:  # nothing came of it
            (folder / MANIFEST).unlink()
            folder.rmdir()
        raise
    if is_map:
        maps.write(paths[0], overwrite=True)
        plt.close(plot_line_maps(maps, paths[1], title=name))
        for part, path in zip(maps.components, paths[2:], strict=True):
            part.write(path, overwrite=True)
    else:
        table = maps.to_table()
        if isinstance(provenance, Provenance):
            table.meta |= {card.keyword: card.value for card in provenance.to_header().cards}
        with atomic_path(paths[0]) as temporary:
            table.write(temporary, format="ascii.ecsv")
    return maps, paths


def _redshift(given, cube):
    """The redshift given, or the file's; a warning where they differ by more than any rotation."""
    told = cube.meta.get("redshift")
    if told is None:
        told = getattr(cube.meta.get("provenance"), "redshift", None)
    if np.ndim(told):
        raise ValueError("redshift: the spectra have one each; fit them one by one with fit_line_maps")
    if given is None and told is None:
        raise ValueError("redshift: the cube does not tell it; give --redshift")
    if given is not None and told is not None and abs(given - told) > 0.003 * (1 + told):
        warnings.warn(f"redshift: {given} was given, the file says {told:.5f}", AstropyUserWarning, stacklevel=3)
    return float(told if given is None else given)


def _fit(cube, table, **keywords):
    """`fit_line_maps`; of a cube that repeats the spectra of bins each is fitted once."""
    bins = cube.meta.get("bins")
    if bins is None:
        return fit_line_maps(cube, table, **keywords)
    spectra, ids = bin_spectra(cube, bins, how="repeated")
    if np.shape(keywords.get("lsf")) == cube.shape:
        raise ValueError("lsf: of a binned cube give one per wavelength")
    found = fit_line_maps(spectra, table, **keywords)
    wcs = cube.meta.get("celestial_wcs")
    maps = spread_bins(found, bins, bin_ids=ids, wcs=wcs)
    maps.components = tuple(spread_bins(part, bins, bin_ids=ids, wcs=wcs) for part in found.components)
    return maps


def summary_lines(maps):
    """What came out, in words: spaxels with each line, flags."""
    flux, snr, seen = maps.flux, maps.snr, False
    for key in maps.lines:
        good = ~flux[key].mask
        if not good.any():
            yield f"{key:<10} not covered" if (flux[key].flags & int(DAPMask.NOCOV)).all() else f"{key:<10} no value"
            continue
        places = "spaxels"
        if "bins" in maps.meta:  # count what was measured
            first = np.unique(maps.meta["bins"], return_index=True)[1]
            good = good & np.isin(np.arange(good.size), first).reshape(good.shape)
            places = "bins"
        above = (snr[key].data[good] > 3).sum()
        seen |= above > 0.1 * good.sum()
        yield f"{key:<10} {good.sum():6d} {places}, {above:6d} above 3 sigma"
    if "chi2" in maps.meta:
        chi2, velocity = maps.chi2.data, maps.velocity
        bright = [velocity[key].data[~velocity[key].mask] for key in maps.lines]
        values = np.concatenate(bright)
        moved = f", velocities {np.median(values):+.0f} km/s (median)" if values.size else ""
        yield f"redshift {maps.redshift:.5f}{moved}; reduced chi2 {np.nanmedian(chi2):.2f} (median), which 1 would be"
        if np.nanmedian(chi2) > 5:
            yield "The model misses much of the spectra: check the redshift, the resolution, and the continuum."
    if not seen:
        yield "No line stands out in a tenth of them: is the redshift right?"
