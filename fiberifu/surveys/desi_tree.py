# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spectra of DESI out of a whole release: which files there are, where a target is, and its spectrum.

``TARGETID -> redshift catalogue -> SURVEY, PROGRAM, HEALPIX -> healpix/SURVEY/PROGRAM/NNN/NNNNN/coadd-*.fits``

Layout: https://data.desi.lbl.gov/doc/organization, the same for the releases of DESI and for simulated ones.
"""

import os
import re
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import QTable, Table, vstack
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum

from fiberifu.surveys._fits import exists, find, is_remote, naming, size
from fiberifu.surveys.desi import read_desi
from fiberifu.surveys.fibers import UNIT

__all__ = ["find_desi", "list_desi", "read_desi_targets"]

LARGEST = 1e9  # bytes of a catalogue that may be fetched unasked; that of DR1 has 20.8 GB
COLUMNS = ("TARGETID", "SURVEY", "PROGRAM", "HEALPIX")


def list_desi(tree, *, survey=None, program=None):
    """All healpix coadds of a release.

    Parameters
    ----------
    tree : path-like or str
        The folder of a release (with ``spectro/redux/...`` in it), of a production (``.../spectro/redux/iron``), or the
        URL of one.
    survey, program : str, optional
        Of these alone, as "main", "bright".

    Returns
    -------
    `~astropy.table.QTable`
        ``survey``, ``program``, ``healpix``, ``path``; sorted.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no production, or several; if it has no such coadds.
    """
    root = _production(tree)
    pattern, rows = f"healpix/{survey or '*'}/{program or '*'}/*/*/coadd-*.fits*", []
    for path in find(root, pattern):
        match = re.fullmatch(r"coadd-([^-]+)-([^-]+)-(\d+)\.fits(\.gz)?", path.rsplit("/", 1)[-1])
        if match:
            rows.append((match[1], match[2], int(match[3]), path))
    if not rows:
        raise ValueError(f"tree: no {pattern} in {root}; give the folder of a release, or another survey and program")
    return QTable(rows=sorted(rows), names=("survey", "program", "healpix", "path"))


def find_desi(tree, targetids, *, catalog=None, survey=None, program=None):
    """Find the coadds of targets by the redshift catalogue of a release.

    Parameters
    ----------
    tree : path-like or str
        As of `list_desi`.
    targetids : sequence of int
    catalog : path-like, str or `~astropy.table.Table`, optional
        With TARGETID, SURVEY, PROGRAM and HEALPIX, as ``zall-pix-*.fits`` or ``zpix-*.fits``; by default the former in
        ``zcatalog`` of the release, unless it is remote and large: DR1's has 20.8 GB, have a copy of it at hand.
    survey, program : str, optional
        Of these alone.

    Returns
    -------
    `~astropy.table.QTable`
        One row per target and coadd, in the order of ``targetids`` and the best of each first: ``targetid``,
        ``survey``, ``program``, ``healpix``, ``primary`` (the catalogue's choice), ``path``.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or catalogue.
    ValueError
        If a target is not in the catalogue; if this is none, is damaged or too large to be fetched.
    """
    wanted = np.atleast_1d(np.asarray(targetids))
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or not len(wanted):
        raise ValueError(f"targetids is {targetids!r}; give one or more integers")
    wanted = wanted.astype(np.int64)
    root = _production(tree)
    rows, name = _catalog_rows(root, catalog, wanted)
    for key, value in (("SURVEY", survey), ("PROGRAM", program)):
        if value is not None:
            rows = rows[rows[key] == value]
    missing = [str(t) for t in wanted if t not in set(rows["TARGETID"].tolist())]
    if missing:
        more = " ..." if missing[5:] else ""
        raise ValueError(f"targetids: {', '.join(missing[:5])}{more} not in {name}, or not of that survey and program")
    place = {t: i for i, t in reversed(list(enumerate(wanted.tolist())))}
    order = np.lexsort((rows["ZWARN"] != 0, ~rows["ZCAT_PRIMARY"], [place[t] for t in rows["TARGETID"].tolist()]))
    rows = rows[order]
    out = QTable({key.lower(): rows[key] for key in COLUMNS} | {"primary": rows["ZCAT_PRIMARY"]})
    out["path"] = [_coadd(root, r["SURVEY"], r["PROGRAM"], int(r["HEALPIX"])) for r in rows]
    return out


def read_desi_targets(tree, targetids, *, catalog=None, survey=None, program=None, resolution=True):
    """Read the spectra of targets out of a release: of each target the best coadd.

    Parameters
    ----------
    tree, targetids, catalog, survey, program
        As of `find_desi`.
    resolution : bool
        As of `read_desi`.

    Returns
    -------
    `~specutils.Spectrum`, shape (n, 7781)
        As of `read_desi`, in the order of ``targetids``; without ``meta["header"]``, and with ``path`` in
        ``meta["fibers"]``.  Targets whose file cannot be read are left out, with a warning; ``meta["errors"]`` has
        the files and why.

    Raises
    ------
    FileNotFoundError, ValueError
        As by `find_desi`; if no file can be read.
    """
    table = find_desi(tree, targetids, catalog=catalog, survey=survey, program=program)
    _, first = np.unique(table["targetid"], return_index=True)
    table = table[np.sort(first)]
    parts, rows, errors = [], [], {}
    for path in dict.fromkeys(table["path"].tolist()):
        which = np.flatnonzero(table["path"] == path)
        try:
            part = read_desi(path, targetids=np.asarray(table["targetid"][which]), resolution=resolution)
            if len(part.meta["fibers"]) != len(which):
                raise ValueError(f"{path}: a TARGETID of {len(which)} is there twice; read it with read_desi")
            part.meta["fibers"]["path"] = path
            parts.append(part)
            rows.append(which)
        except (OSError, ValueError) as error:
            errors[path] = str(error)
    if not parts:
        raise ValueError(f"no file can be read: {next(iter(errors.values()))}")
    if errors:
        warnings.warn(f"{len(errors)} files cannot be read, see meta['errors']", AstropyUserWarning, stacklevel=2)
    order = np.argsort(np.concatenate(rows))
    return _stack(parts, order, errors)


def _stack(parts, order, errors):
    meta = dict(parts[0].meta)
    meta.pop("header")
    for key in ("fibers", "fibermap"):
        meta[key] = vstack([part.meta[key] for part in parts], metadata_conflicts="silent")[order]
    if meta["lsf"] is not None:
        meta["lsf"] = np.concatenate([part.meta["lsf"] for part in parts])[order]
    meta["errors"] = errors
    return Spectrum(
        np.concatenate([part.flux.value for part in parts])[order] * UNIT,
        spectral_axis=parts[0].spectral_axis,
        uncertainty=InverseVariance(np.concatenate([p.uncertainty.array for p in parts])[order], unit=UNIT**-2),
        mask=np.concatenate([part.mask for part in parts])[order],
        meta=meta,
        spectral_axis_index=1,
    )


# ---------------------------------------------------------------- the tree
def _production(tree):
    """The folder of a production, which has ``healpix`` in it."""
    tree = os.fspath(tree).rstrip("/" + os.sep)
    if not is_remote(tree) and not Path(tree).is_dir():
        raise FileNotFoundError(f"tree: {tree} is no folder")
    for below in ("", "spectro/redux/*/", "redux/*/", "*/"):
        found = find(tree, f"{below}healpix")
        if len(found) > 1:
            names = ", ".join(path.removesuffix("/healpix") for path in found)
            raise ValueError(f"tree: {tree} holds several productions, {names}; give one of them")
        if found:
            return found[0].removesuffix("/healpix")
    raise ValueError(f"tree: no folder healpix in {tree}, nor in its spectro/redux/*; give the folder of a release")


def _coadd(root, survey, program, pixel):
    path = f"{root}/healpix/{survey}/{program}/{pixel // 100}/{pixel}/coadd-{survey}-{program}-{pixel}.fits"
    return f"{path}.gz" if not is_remote(path) and not exists(path) and exists(f"{path}.gz") else path


# ---------------------------------------------------------------- the catalogue
def _catalog_rows(root, catalog, targetids):
    """The rows of these targets as a Table, and the name of the catalogue."""
    if isinstance(catalog, Table):
        missing = [key for key in COLUMNS if key not in catalog.colnames]
        if missing:
            raise ValueError(f"catalog has no column {', '.join(missing)}; give one like zall-pix-*.fits")
        rows, name = catalog[np.isin(catalog["TARGETID"], targetids)], "the catalog"
    else:
        name = _catalog_path(root) if catalog is None else os.fspath(catalog)
        if not exists(name):
            raise FileNotFoundError(f"catalog: {name}: no such file")
        with naming(name), fits.open(
            name, memmap=not is_remote(name), use_fsspec=is_remote(name), character_as_bytes=True
        ) as hdus:  # fmt: skip
            hdu = next((hdu for hdu in hdus[1:] if "TARGETID" in hdu.header.values()), None)
            missing = [key for key in COLUMNS if hdu is None or key not in hdu.columns.names]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}, as zall-pix-*.fits has")
            found = np.flatnonzero(np.isin(hdu.data["TARGETID"], targetids))
            wanted = [*COLUMNS, *(key for key in ("ZWARN", "ZCAT_PRIMARY") if key in hdu.columns.names)]
            part = hdu.data[found]
            rows = Table({key: np.array(part[key]) for key in wanted})
    out = Table()
    for key in ("TARGETID", "HEALPIX"):
        out[key] = np.asarray(rows[key]).astype(np.int64)
    for key in ("SURVEY", "PROGRAM"):
        out[key] = np.char.strip(np.asarray(rows[key]).astype(str))
    out["ZWARN"] = np.asarray(rows["ZWARN"]).astype(np.int64) if "ZWARN" in rows.colnames else 0
    out["ZCAT_PRIMARY"] = np.asarray(rows["ZCAT_PRIMARY"]).astype(bool) if "ZCAT_PRIMARY" in rows.colnames else False
    return out, name


def _catalog_path(root):
    """The redshift catalogue of a production, of the highest version."""
    found = [path for folder in ("", "*/", "*/zall/") for path in find(root, f"zcatalog/{folder}zall-pix-*.fits")]
    found = [path for path in found if not path.endswith(("-extra.fits", "-imaging.fits"))]
    if not found:
        raise ValueError(f"tree: no zcatalog/v*/zall-pix-*.fits in {root}; give catalog=, with {', '.join(COLUMNS)}")
    path = max(found, key=lambda path: int((re.findall(r"/v(\d+)", path) or [0])[-1]))
    if is_remote(path) and (size(path) or np.inf) > LARGEST:
        raise ValueError(f"catalog: {path} is too large to be fetched for this; download it once and give its name")
    return path
