# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which files belong together: ``folders, or a table -> cube, MAPS, image and catalogue row of each galaxy``."""

import dataclasses
import re
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from ...surveys import read_drpall

__all__ = ["GalaxyFiles", "find_galaxies"]

CUBE = re.compile(r"manga-(?P<name>.+)-(?P<kind>LOG|LIN)CUBE\.fits(\.gz)?$")
MAPS = re.compile(r"manga-(?P<name>[^-]+-[^-]+)-MAPS-(?P<kind>.+)\.fits(\.gz)?$")
ARM = re.compile(r"(?P<name>\d+_[A-Z])_(?P<kind>\w+)_(?P<arm>blue|red)\.fits(\.gz)?$")
SIMULATED = re.compile(r"sim9(?P<seed>\d{5})-(?P<galaxy>\d+)$")  # of `fiberifu simulate --survey manga`
PLANES = ("invvar", "ivar", "mask", "psf")  # parts of names that are of no image
COLUMNS = ("name", "cube", "maps", "image", "psf", "redshift", "ra", "dec", "r50", "axis_ratio", "position_angle")


@dataclasses.dataclass(frozen=True, eq=False)
class GalaxyFiles:
    """The files of one galaxy, and what a catalogue says of it.

    Attributes
    ----------
    name : str
        Plate and IFU, "7815-3702".
    cube : tuple of `~pathlib.Path`
        LOGCUBE (LINCUBE where there is none), or both arms of SAMI; empty if there is none.
    maps : `~pathlib.Path` or None
        MAPS of the analysis pipeline.
    image : tuple of str
        As `fiberifu.jobs.read_image` takes it; empty if there is none.
    psf : `~pathlib.Path` or None
        Of the image.
    redshift : float or None
    position : `~astropy.coordinates.SkyCoord` or None
    r50, axis_ratio, position_angle : float or None
        Half-light semi-major axis in arcsec; degrees from North through East.
    critical : bool
        Whether the catalogue says that the cube must not be used (DRP3QUAL).
    """

    name: str
    cube: tuple = ()
    maps: Path | None = None
    image: tuple = ()
    psf: Path | None = None
    redshift: float | None = None
    position: SkyCoord | None = None
    r50: float | None = None
    axis_ratio: float | None = None
    position_angle: float | None = None
    critical: bool = False

    @property
    def paths(self):
        """All files, for a hash of what a result depends on."""
        files = [*self.cube, self.maps, *(re.sub(r"^\w+=", "", item) for item in self.image), self.psf]
        return [Path(file) for file in files if file is not None]

    @property
    def catalogue(self):
        """What is known but the contents of files: values of a catalogue, and which file serves as what."""
        out = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        place = None if self.position is None else self.position.icrs
        out["position"] = None if place is None else [place.ra.deg, place.dec.deg]
        return out | {"cube": list(map(str, self.cube)), "maps": str(self.maps), "psf": str(self.psf)}

    def local(self):
        """The same with what is on the net fetched, or taken from astropy's cache of downloads.

        Raises
        ------
        OSError
            If an address cannot be fetched.
        """
        maps = None if self.maps is None else _fetched(self.maps)
        return dataclasses.replace(self, cube=tuple(map(_fetched, self.cube)), maps=maps)


def find_galaxies(sources, *, daptype=None, base=None):
    """Find galaxies, each with its files.

    Parameters
    ----------
    sources : sequence of path-like
        Folders, which are searched with all that is in them, files, or one table (ECSV, CSV, FITS ...) with the columns
        name and some of cube, maps, image, psf, redshift, ra, dec [degrees], r50 [arcsec], axis_ratio, position_angle
        [degrees]. Several files in one cell (the arms of a cube, the bands of an image as ``g=FILE``) have blanks
        between them; names are relative to the table's folder.
    base : str, optional
        An address, ``https://...``, or a folder, to which the table's names of cubes and MAPS are relative instead.
    daptype : str, optional
        Which MAPS, by a part of what follows ``-MAPS-`` in their names, "HYB10-MILESHC-MASTARSSP"; by default the
        first in the order of names, but the truth before the fit of a simulated survey.

    Returns
    -------
    list of GalaxyFiles
        In the order of their names (of rows, for a table).

    Raises
    ------
    FileNotFoundError, ValueError
        If a source is not there, nothing of a galaxy is found, or two files could be the same part of one.
    """
    sources = [Path(source) for source in sources]
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
    if len(sources) == 1 and sources[0].is_file() and not _kind(sources[0]):
        return _from_table(sources[0], base)
    if base is not None:
        raise ValueError(f"base is {base!r}, and goes with a table; give one as the only source")
    files = [file for source in sources for file in (source.rglob("*.fit*") if source.is_dir() else [source])]
    files = sorted({file.resolve(): file for file in files}.values())  # a file may be in two sources
    found = _by_name([file for file in files if not file.name.startswith(".")], daptype)
    if not found:
        raise ValueError(
            f"{' '.join(map(str, sources))}: no manga-*-LOGCUBE.fits.gz and no manga-*-MAPS-*.fits.gz in it; give a "
            "folder that has some, or a table of files (columns name, cube, maps, image)"
        )
    return [GalaxyFiles(**found[name]) for name in sorted(found)]


def _kind(file):
    """Whether a name is that of a cube or of maps, and the match."""
    return next(filter(None, (form.match(file.name) for form in (CUBE, MAPS, ARM))), None)


def _by_name(files, daptype):
    """Keywords of `GalaxyFiles` by the galaxies' names."""
    found, images = {}, []
    for file in files:
        match = _kind(file)
        if match is None:
            images.append(file)
            continue
        parts = found.setdefault(match["name"], {})  # by what they are: survey's file, kind, arm
        part = (match.re, match["kind"], match["arm"] if match.re is ARM else "")
        if part in parts:
            raise ValueError(
                f"{match['name']}: both {parts[part]} and {file} could be its {_WHAT[match.re].format(*part[1:])}; "
                "give one of them, or a table of files (columns name, cube, maps, image)"
            )
        parts[part] = file
    catalogue = _catalogue([file for file in images if re.match(r"drpall-.*\.fits$", file.name)])
    out = {}
    for name, parts in found.items():
        one = out[name] = {"name": name, "cube": _cube(parts)}
        wanted = [kind for form, kind, _ in parts if form is MAPS and (daptype is None or daptype in kind)]
        if wanted:
            one["maps"] = parts[MAPS, min(wanted, key=lambda kind: (kind == "FIT", kind)), ""]
        if not any(form is ARM for form, *_ in parts):  # beside SAMI's cubes are maps of like names
            one |= _image(name, images)
        one |= catalogue.get(name, {})
    return {name: one for name, one in out.items() if one.get("cube") or one.get("maps")}


_WHAT = {CUBE: "{}CUBE", MAPS: "MAPS {}", ARM: "cube {}, arm {}"}


def _cube(parts):
    """The cube, LOGCUBE before LINCUBE; or the arms of one binning, the first in the order of names."""
    for kind in ("LOG", "LIN"):
        if (CUBE, kind, "") in parts:
            return (parts[CUBE, kind, ""],)
    kinds = sorted(kind for form, kind, _ in parts if form is ARM)
    return tuple(parts[ARM, kinds[0], arm] for arm in ("blue", "red") if (ARM, kinds[0], arm) in parts) if kinds else ()


def _image(name, files):
    """Image and PSF of a galaxy among all files: by the number of a simulated galaxy, else by the name in theirs."""
    simulated = SIMULATED.match(name)
    if simulated:
        wanted = f"sim-{int(simulated['seed'])}-{simulated['galaxy']}.fits"
        mine = {key: file for file in files for key in ("cutout", "copsf") if file.name == f"{key}_{wanted}"}
        image = (str(mine["cutout"]),) if "cutout" in mine else ()
        return {"image": image, "psf": mine.get("copsf")}
    mine = [file for file in files if re.search(rf"(?<!\d){re.escape(name)}(?!\d)", file.name)]
    mine = [file for file in mine if not file.name.startswith("manga-")]  # model cubes, RSS ...
    psf = next((file for file in mine if "psf" in file.name.lower()), None)
    mine = [file for file in mine if not any(part in file.name.lower() for part in PLANES)]
    bands = {re.search(r"[-_]([griz])\.fit", file.name): file for file in mine}
    if mine and all(bands) and len(bands) == len(mine):  # a file for each band
        return {"image": tuple(f"{band[1]}={file}" for band, file in bands.items())}
    return {"image": (str(mine[0]),) if mine else (), "psf": psf}


def _catalogue(files):
    """Rows of the survey's tables by name."""
    out = {}
    for file in files:
        for row in read_drpall(file):
            out[str(row["name"])] = {
                "redshift": _number(row["z"]),
                "position": row["position"],
                "r50": _number(row["r50"].value),
                "axis_ratio": _number(row["axis_ratio"]),
                "position_angle": _number(row["position_angle"].value),
                "critical": bool(row["critical"]),
            }
    return out


def _from_table(path, base):
    try:
        rows = Table.read(path, **({"format": "ascii.csv"} if path.suffix == ".csv" else {}))
    except Exception as error:  # of whichever reader tried
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: neither a cube or MAPS of MaNGA nor a readable table ({first})") from error
    unknown = set(rows.colnames) - set(COLUMNS)
    if "name" not in rows.colnames or unknown or not {"cube", "maps"} & set(rows.colnames):
        raise ValueError(
            f"{path}: columns {', '.join(rows.colnames)}; there must be name, and cube or maps, and there may be "
            f"{', '.join(COLUMNS[3:])}"
        )
    out = []
    for row in rows:
        cell = {key: row[key] for key in rows.colnames if not np.ma.is_masked(row[key]) and str(row[key]).strip()}
        place = [_number(cell.get(key)) for key in ("ra", "dec")]
        numbers = {key: _number(cell.get(key)) for key in ("redshift", "r50", "axis_ratio", "position_angle")}
        named = {key: str(cell.get(key, "")).split() for key in COLUMNS[1:5]}
        for key, items in named.items():
            from_base = base is not None and key in ("cube", "maps")
            named[key] = [_at(base, item) if from_base else _beside(path, item) for item in items]
        out.append(GalaxyFiles(
            name=str(cell["name"]), cube=tuple(named["cube"]), image=tuple(map(str, named["image"])),
            maps=next(iter(named["maps"]), None), psf=next(iter(named["psf"]), None),
            position=None if None in place else SkyCoord(*place, unit="deg"), **numbers,
        ))  # fmt: skip
    if bad := [one.name for one in out if not re.fullmatch(r"[\w.+-]+", one.name)]:
        raise ValueError(f"{path}: name {bad[0]!r}; results are files of that name: letters, digits and .+-_ will do")
    if len({one.name for one in out}) < len(out):
        raise ValueError(f"{path}: a name comes twice; give each galaxy a name of its own")
    return out


def _beside(table, item):
    """A file that a table names, ``FILE`` or ``BAND=FILE``, relative to the table."""
    band, _, file = item.rpartition("=")
    return f"{band}={table.parent / file}" if band else table.parent / file


def _at(base, item):
    """A file at an address, or in a folder."""
    return f"{base.rstrip('/')}/{item}" if "://" in base else Path(base) / item


def _fetched(file):
    """A file, or what is at an address."""
    if "://" not in str(file):
        return file
    from astropy.utils.data import download_file

    try:
        return Path(download_file(str(file), cache=True, show_progress=False))
    except (OSError, ValueError) as error:
        raise OSError(f"{file} cannot be fetched ({error}); fetch it by hand, and give the file") from error


def _number(value):
    return float(value) if value is not None and np.isfinite(value) else None
