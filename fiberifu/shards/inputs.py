# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which files a unit is made of, so that a build that goes on notices others: ``files -> sizes, times -> digests``.

Contents are not read again, which would take as long as making the records.
"""

import hashlib

import numpy as np

from ..surveys.legacysurvey.brick import brick_files

__all__ = ["check_inputs", "describe_inputs"]


def describe_inputs(fibers, files, bricks):
    """Digests of the names, sizes and times of change of all files that the records of a unit are made of.

    Parameters
    ----------
    fibers : `~astropy.table.Table`
        Rows of `~fiberifu.shards.plan.Plan.fibers`.
    files : sequence of `~pathlib.Path`
        Coadds, of which column ``file`` has the place.
    bricks : sequence of `~pathlib.Path`
        Folders in which bricks are looked for.

    Returns
    -------
    dict of str to str
        By the name of the coadd (with the redrock file beside it) or of the brick; that of a brick without files is "".
    """
    out = {}
    for place in np.unique(np.asarray(fibers["file"])):
        coadd = files[place]
        out[coadd.name] = _digest([coadd, coadd.with_name(coadd.name.replace("coadd-", "redrock-", 1))])
    for name in np.unique(np.asarray(fibers["brick"])):
        found = next((found for folder in bricks if (found := brick_files(folder, str(name)))), {})
        out[f"brick {name}"] = _digest(sorted(found.values()))
    return out


def _digest(paths):
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path.name} absent\n".encode())
    return digest.hexdigest()[:16] if paths else ""


def check_inputs(folder, recorded, found):
    """Refuse to go on with units of other files than are there.

    Parameters
    ----------
    folder : path-like
        Of the store, for the error.
    recorded, found : dict of str to dict
        By unit, of `describe_inputs`: when it was made, and now.

    Raises
    ------
    ValueError
        Naming some files and units.
    """
    changed = {
        name: unit
        for unit, now in found.items()
        for name in sorted(now.keys() | recorded[unit].keys())
        if now.get(name) != recorded[unit].get(name)
    }
    if changed:
        some = ", ".join(f"{name} (of {unit})" for name, unit in list(changed.items())[:3])
        raise ValueError(
            f"cannot resume in {folder}: records there are made of other files than are there now: sizes or times of "
            f"change differ of {some}{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}; give the former "
            "files back, or overwrite=True or another folder"
        )
