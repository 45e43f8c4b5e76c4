# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What is to be done, fixed before anything is: ``redrock files -> good fibres -> galaxies -> units of work``.

A galaxy is the fibres that share its stamp: within 12 arcsec on the sky and 900 km/s of its brightest target. So a
target that was observed twice, the pieces of a broken-up galaxy and the fibres along a major axis stay together. A unit
is the galaxies of neighbouring HEALPix pixels, some hundreds of them.
"""

import hashlib
import logging
import re
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from ..constants import C_KMS
from ..surveys._fits import FitsFile
from ..surveys.desi_fibers import fiber_table
from ..surveys.fibers import FiberFlag

__all__ = ["REACH", "Plan", "make_plan"]

log = logging.getLogger(__name__)

REACH = 12.0  # arcsec, of a galaxy's fibres from its brightest target: within a stamp wherever its centre is
SAME = 900.0  # km/s
REDSHIFTS = (0.003, 0.6)  # for which models are made
DELTA_CHI2 = 40.0  # over the second best redshift: below it redshifts are not trusted (Hahn+2023, AJ 165, 253)


class Plan:
    """Fibres, galaxies and units.

    Attributes
    ----------
    files : list of `~pathlib.Path`
        Coadds.
    fibers : `~astropy.table.Table`
        One row per good fibre, a galaxy's together, the brightest first: file, targetid, ra, dec (degrees), z,
        zerr, ebv, flux_r, brick, pixel, galaxy.
    units : dict of str to slice
        Rows of ``fibers`` by the name of the unit.
    left_out : dict of str to int
        Fibres that are not used, by reason.
    kinds : list of str
        ``DATATYPE`` of the files: "OBSERVED" (without that card), "SIMULATED".
    sha256 : str
        Of all that decides what the units hold.
    """

    def __init__(self, files, fibers, units, left_out, kinds):
        self.files, self.fibers, self.units, self.left_out, self.kinds = files, fibers, units, left_out, kinds
        digest = hashlib.sha256()
        for name in ("targetid", "ra", "dec", "z", "ebv", "galaxy"):
            digest.update(np.ascontiguousarray(fibers[name]).tobytes())
        digest.update("\n".join([f"{f.name}" for f in files] + list(fibers["brick"]) + list(units)).encode())
        self.sha256 = digest.hexdigest()

    @property
    def galaxies(self):
        """Number of galaxies."""
        return int(self.fibers["galaxy"][-1]) + 1 if len(self.fibers) else 0


def make_plan(tree, *, per_unit=512):
    """Find the good fibres of a DESI tree and divide them.

    Parameters
    ----------
    tree : path-like
        A folder with ``redrock-*.fits`` and ``coadd-*.fits`` beside each other, at any depth, such as
        ``spectro/redux/iron/healpix`` of Data Release 1.
    per_unit : int
        Galaxies of a unit, at least.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no redrock file in it.
    ValueError
        If no fibre is good.
    """
    tree = Path(tree)
    if not tree.is_dir():
        raise FileNotFoundError(f"tree {tree}: no such folder")
    found = sorted((path for path in tree.rglob("redrock-*.fits*") if not path.name.startswith(".")), key=_key)
    if not found:
        raise FileNotFoundError(f"tree {tree}: no redrock-*.fits in it; give the folder of a DESI production")
    files, tables, left_out, kinds = [], [], {}, set()
    for path in found:
        coadd = path.with_name(path.name.replace("redrock-", "coadd-", 1))
        try:
            if not coadd.is_file():
                raise FileNotFoundError(f"no {coadd.name} beside it")
            rows, kind = _good_rows(path, left_out)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: not used (%s)", path, error)
            left_out["file not readable"] = left_out.get("file not readable", 0) + 1
            continue
        rows["file"] = len(files)
        kinds.add(kind)
        files.append(coadd)
        tables.append(rows)
    fibers = vstack(tables, metadata_conflicts="silent") if tables else Table()
    if not len(fibers):
        raise ValueError(f"tree {tree}: no good galaxy in {len(found)} redrock files; left out: {left_out or 'none'}")
    fibers = fibers[_together(fibers)]
    return Plan(files, fibers, _units(fibers, per_unit), left_out, sorted(kinds))


def _key(path):
    """Pixel and name: neighbours on the sky follow one another, whatever folder they are in."""
    return _pixel(path), path.name


def _pixel(path):
    numbers = re.findall(r"\d+", path.name.split(".")[0])
    return int(numbers[-1]) if numbers else 0


def _good_rows(path, left_out):
    """The good fibres of one redrock file, and what it is; counts the others in ``left_out``."""
    with FitsFile(path) as file:
        kind = str(file.headers["PRIMARY"].get("DATATYPE", "OBSERVED")).strip()
        if missing := [name for name in ("REDSHIFTS", "FIBERMAP") if name not in file]:
            raise ValueError(f"no {' and no '.join(missing)} in it")
        redshifts, fibermap = file.table("REDSHIFTS"), file.table("FIBERMAP")
        exposures = file.table("EXP_FIBERMAP") if "EXP_FIBERMAP" in file else None
        fibers = fiber_table(fibermap, exposures, redshifts, list(file.headers.values()))
    brick = fibermap.get("BRICKNAME")
    if brick is None or len(redshifts["TARGETID"]) != len(fibers):
        raise ValueError("REDSHIFTS and FIBERMAP are of other targets, or no BRICKNAME is there")
    flags, z, ebv = np.asarray(fibers["flags"]), np.asarray(fibers["z"]), fibers["ebv"].value
    good = np.ones(len(fibers), bool)
    for reason, wrong in (
        ("not a target", (flags & int(FiberFlag.SKY | FiberFlag.NO_TARGET)) != 0),
        ("fibre failed", np.asarray(fibers["fiberstatus"]) != 0),
        ("redshift with a warning", (flags & int(FiberFlag.REDSHIFT_WARNING | FiberFlag.REDSHIFT_MISSING)) != 0),
        ("not a galaxy", (flags & int(FiberFlag.NOT_GALAXY)) != 0),
        ("redshift uncertain", ~(np.asarray(fibers["deltachi2"]) > DELTA_CHI2)),
        ("redshift out of range", ~((z >= REDSHIFTS[0]) & (z <= REDSHIFTS[1]))),
        ("no position", (flags & int(FiberFlag.POSITION_MISSING | FiberFlag.POSITION_TARGET)) != 0),
        ("twice in its file", (flags & int(FiberFlag.DUPLICATE)) != 0),
        ("E(B-V) not known", ~(ebv >= 0)),
    ):
        if count := int((good & wrong).sum()):
            left_out[reason] = left_out.get(reason, 0) + count
        good &= ~wrong
    fibers = fibers[good]
    columns = Table(
        {
            "targetid": np.asarray(fibers["targetid"], np.int64),
            "ra": fibers["position"].ra.deg,
            "dec": fibers["position"].dec.deg,
            "z": np.asarray(fibers["z"]),
            "zerr": np.asarray(fibers["zerr"]),
            "ebv": np.clip(fibers["ebv"].value, 0, 9),
            "flux_r": np.nan_to_num(fibers["flux_r"].value),
            "brick": np.char.strip(np.asarray(brick)[good].astype(str)).astype("U8"),
            "pixel": np.full(len(fibers), _pixel(path)),
        }
    )
    return columns, kind


def _together(fibers):
    """Order of rows in which the fibres of a galaxy follow one another; writes the column ``galaxy``."""
    n = len(fibers)
    ra, dec, z = np.radians(fibers["ra"]), np.radians(fibers["dec"]), np.asarray(fibers["z"])
    tree = cKDTree(np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], 1))
    pairs = tree.query_pairs(np.radians(REACH / 3600), output_type="ndarray")
    near = np.abs(z[pairs[:, 0]] - z[pairs[:, 1]]) < SAME / C_KMS * (1 + z[pairs].min(1))
    neighbours = {}
    for a, b in pairs[near]:
        neighbours.setdefault(int(a), []).append(int(b))
        neighbours.setdefault(int(b), []).append(int(a))
    # the brightest of those that have a neighbour takes what is near and free, then the next one
    head = np.arange(n)
    free = np.ones(n, bool)
    flux, targetid = np.asarray(fibers["flux_r"]), np.asarray(fibers["targetid"])
    for i in sorted(neighbours, key=lambda i: (-flux[i], targetid[i], i)):
        if free[i]:
            mine = [j for j in neighbours[i] if free[j]]
            head[mine] = i
            free[[i, *mine]] = False
    pixel = np.asarray(fibers["pixel"])[head]  # that of the brightest
    order = np.lexsort((np.arange(n), head != np.arange(n), head, pixel))
    _, galaxy = np.unique(np.stack([pixel[order], head[order]], 1), axis=0, return_inverse=True)
    where = np.empty(n, np.int64)
    where[order] = galaxy.ravel()
    fibers["galaxy"], fibers["pixel"] = where, pixel
    return order


def _units(fibers, per_unit):
    """Slices of whole pixels with ``per_unit`` galaxies or more (the last one has what is left)."""
    pixel, galaxy = np.asarray(fibers["pixel"]), np.asarray(fibers["galaxy"])
    begins = np.append(np.flatnonzero(np.diff(pixel, prepend=-1)), len(pixel))
    units, first = {}, 0
    for end in begins[1:]:
        if galaxy[end - 1] + 1 - galaxy[first] >= per_unit or end == len(pixel):
            units[f"pixel-{pixel[first]:06d}"] = slice(first, int(end))
            first = int(end)
    return units
