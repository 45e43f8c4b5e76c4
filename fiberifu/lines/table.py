# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The emission lines: names, wavelengths, ties and equivalent-width bandpasses, each with its source."""

import re
from functools import cache
from importlib import resources

import astropy.units as u
import numpy as np
from astropy.table import QTable, vstack

__all__ = ["air_to_vacuum", "line_table", "resolve_line", "vacuum_to_air"]

# The strong component of a doublet with a fixed ratio, and other spellings.
ALIASES = {
    "O3": "O3_5007",
    "N2": "N2_6583",
    "O1": "O1_6300",
    "Ne3": "Ne3_3869",
    "S3": "S3_9531",
    "N2_6584": "N2_6583",
    "Halpha": "Ha",
    "Hbeta": "Hb",
    "Hgamma": "Hg",
    "Hdelta": "Hd",
    "H-alpha": "Ha",
    "H-beta": "Hb",
    "H-gamma": "Hg",
    "H-delta": "Hd",
}
# Doublets whose ratio measures a density: neither component may stand for both.
DOUBLETS = {"O2": ("O2_3726", "O2_3729"), "S2": ("S2_6716", "S2_6731")}


@cache
def _stored_table():
    with resources.as_file(resources.files(__package__) / "emission_lines.ecsv") as path:
        return QTable.read(path, format="ascii.ecsv")


def line_table(name="strong", medium="vacuum"):
    """Table of emission lines, in order of wavelength.

    Parameters
    ----------
    name : {'strong', 'all'} or sequence of str
        The 15 lines that the models predict, all known lines (those of the MaNGA DAP in DR17 and two more),
        or any line names that `resolve_line` takes, in the order given.
    medium : {'vacuum', 'air'}
        Medium of all wavelengths.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``key`` (``'Ha'``), ``dap_name`` (``'Ha-6564'``: always the vacuum wavelength), ``wavelength``
        (rest frame, Angstrom), ``group`` (balmer, paschen, helium, forbidden), ``tied_to`` and ``ratio``
        (flux / flux of the line it is tied to; empty and NaN if free), ``blue``, ``main``, ``red``
        (bandpasses of the equivalent width, Angstrom, shape (n, 2); NaN if there is none), ``source`` and
        ``ratio_source``.  The meaning of the sources is in ``meta['references']``.
    """
    if medium not in ("vacuum", "air"):
        raise ValueError(f"medium is {medium!r}; it must be 'vacuum' or 'air'")
    stored = _stored_table()
    if not isinstance(name, str):
        order = {key: row for row, key in enumerate(stored["key"])}
        rows = np.array([order[resolve_line(line)] for line in name], dtype=int)
    elif name in ("strong", "all"):
        rows = np.flatnonzero(stored["strong"] | (name == "all"))
    else:
        raise ValueError(f"name is {name!r}; it must be 'strong', 'all' or a list of line names")
    table = stored[rows]
    table.meta["medium"] = medium
    for band in ("blue", "main", "red"):
        edges = u.Quantity([table.columns[f"{band}_low"], table.columns[f"{band}_high"]]).T
        table.remove_columns([f"{band}_low", f"{band}_high"])
        table.add_column(edges, name=band, index=table.colnames.index("source"))
    table.remove_column("strong")
    if medium == "air":
        for column in ("wavelength", "blue", "main", "red"):
            table[column] = vacuum_to_air(table[column])
    return table


def complete_doublets(table, reach):
    """The table with the other line of every doublet of fixed ratio that lies near: their fluxes are one.

    Parameters
    ----------
    table : str, sequence of str or `~astropy.table.QTable`
        As for `line_table`; a table of other columns stays as it is.
    reach : `~astropy.units.Quantity`
        How near, rest frame.

    Returns
    -------
    `~astropy.table.QTable`
    """
    table = table if isinstance(table, QTable) else line_table(table)
    stored = line_table("all", medium=table.meta.get("medium", "vacuum"))
    if not set(stored.colnames) <= set(table.colnames):
        return table
    keys = [str(key) for key in stored["key"]]
    place = dict(zip(keys, stored["wavelength"], strict=True))
    here, missing = [str(key) for key in table["key"]], set()
    for key, parent in zip(keys, map(str, stored["tied_to"]), strict=True):
        if parent in place and abs(place[key] - place[parent]) < reach and (key in here) != (parent in here):
            missing.add(keys.index(parent if key in here else key))
    return vstack([table, stored[sorted(missing)]]) if missing else table


def observed_lines(table, redshift, cube, medium=None):
    """The lines of a fit in the medium of a cube: times ``1 + redshift`` their wavelengths are the cube's, exactly.

    Air wavelengths of lines do not scale with 1 + z: the refractive index is that of the wavelength that arrives.

    Parameters
    ----------
    table : str, sequence of str or `~astropy.table.QTable`
        As for `line_table`; a table says its medium in ``meta["medium"]``, vacuum by default.
    redshift : float or dimensionless `~astropy.units.Quantity`
        Systemic.
    cube : `~specutils.Spectrum`
        Whose ``meta["medium"]`` is taken where ``medium`` is None.
    medium : {'vacuum', 'air'}, optional

    Returns
    -------
    lines : `~astropy.table.QTable`
        In order of wavelength.
    redshift : float
    medium : str

    Raises
    ------
    ValueError
        For a medium that is not that of the cube, or a redshift that is none.
    """
    known = cube.meta.get("medium") if hasattr(cube, "meta") else None
    medium = medium or known or "vacuum"
    if medium not in ("vacuum", "air") or known not in (None, medium):
        raise ValueError(
            f"medium is {medium!r}, and the cube's metadata say {known!r}: use 'vacuum' or "
            "'air', and correct cube.meta['medium'] if it is wrong"
        )
    try:
        z = float(u.Quantity(redshift).to_value(u.one)) if not isinstance(redshift, str) else np.nan
    except (TypeError, ValueError, u.UnitConversionError):
        z = np.nan
    if not -0.01 < z < 20:
        raise ValueError(f"redshift is {_brief(redshift)}; give the one systemic redshift, a number without unit")
    lines = table.copy() if isinstance(table, QTable) else line_table(table)
    lines.sort("wavelength")
    was_air = lines.meta.get("medium") == "air"
    for name in ("wavelength", "blue", "main", "red"):
        if name in lines.colnames:
            rest = air_to_vacuum(lines[name]) if was_air else lines[name]
            lines[name] = vacuum_to_air(rest * (1 + z)) / (1 + z) if medium == "air" else rest
    lines.meta["medium"] = medium
    return lines, z, medium


def _brief(value):
    text = repr(value)
    return text if len(text) < 80 else f"{type(value).__name__} of shape {np.shape(value)}"


def resolve_line(name, *, known=None):
    """The short key of a line, from its key, an alias or the name of a DAP channel.

    Parameters
    ----------
    name : str
        ``'Ha'``, ``'N2'`` (the strong component of a fixed doublet), ``'Halpha'``, ``'NII-6585'`` ...
    known : sequence of str, optional
        Accept only these keys; by default all of ``line_table("all")``.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        For an unknown name, and for ``'O2'`` and ``'S2'``: the ratio of these doublets varies with density,
        so one component cannot stand for the sum.
    """
    table = _stored_table()
    keys = list(table["key"]) if known is None else list(known)
    key = ALIASES.get(name, name)
    if key not in keys:
        key = dict(zip(table["dap_name"], table["key"], strict=True)).get(str(name).strip(), key)
    if key not in keys:
        key = _spelt(str(name), list(table["key"])) or key
    if key in keys:
        return str(key)
    if name in DOUBLETS:
        raise ValueError(
            f"line {name!r} is a doublet; say {' or '.join(map(repr, DOUBLETS[name]))}, "
            f"or {'+'.join(DOUBLETS[name])!r} where sums are taken"
        )
    known_elsewhere = known is not None and key in list(table["key"])
    problem = "is not among these" if known_elsewhere else "is not known; known are"
    raise ValueError(f"line {name!r} {problem}: {', '.join(keys)} (DAP channel names and NII6583 will do, too)")


def _spelt(name, keys):
    """Key of a line in other common spellings: ``NII6583``, ``[O III] 5007``, ``halpha``; None if it is none."""
    greek = re.fullmatch(r"h[\s_-]?(alpha|beta|gamma|delta)(\d{4})?", name.strip(), re.IGNORECASE)
    if greek:
        return {"alpha": "Ha", "beta": "Hb", "gamma": "Hg", "delta": "Hd"}[greek[1].lower()]
    match = re.fullmatch(r"\[?\s*([A-Z][a-z]?)\s*(I{1,3}|IV|V)\s*\]?[\s_-]*(\d{4})", name.strip())
    if not match:
        return None
    start = f"{match[1]}{['I', 'II', 'III', 'IV', 'V'].index(match[2]) + 1}_"
    near = [key for key in keys if key.startswith(start) and abs(int(key[len(start) :]) - int(match[3])) <= 2]
    return near[0] if len(near) == 1 else None


def _refractive_index(wavelength):
    """Index of dry air at 15 C and 1 atm for a vacuum wavelength (Morton 2000, ApJS 130, 403, eq. 8)."""
    wavenumber2 = (1 / wavelength.to_value(u.um)) ** 2
    return 1 + 8.34254e-5 + 2.406147e-2 / (130 - wavenumber2) + 1.5998e-4 / (38.9 - wavenumber2)


def vacuum_to_air(wavelength):
    """Air wavelength of a vacuum wavelength (`~astropy.units.Quantity`; Morton 2000, above 2000 Angstrom)."""
    return wavelength / _refractive_index(wavelength)


def air_to_vacuum(wavelength):
    """Vacuum wavelength of an air wavelength; inverse of `vacuum_to_air` to better than 1e-10."""
    vacuum = wavelength
    for _ in range(3):  # the index changes by 1e-8 per Angstrom: converges at once
        vacuum = wavelength * _refractive_index(vacuum)
    return vacuum
