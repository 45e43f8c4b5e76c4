# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Galaxies to be predicted, from a table: ``ECSV or FITS -> columns by any of their names, in any unit -> targets``.

A row that cannot be used becomes a target with the reason in ``problem``; only what is wrong with the whole table is an
error.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable

__all__ = ["ALIASES", "Target", "read_targets"]

#: Names of columns, case-insensitive; of several that a table has, the first in the list is taken.
ALIASES = {
    "ra": ("RA", "TARGET_RA", "RAJ2000", "RA_ICRS", "ALPHA_J2000", "OBJRA", "IFURA"),
    "dec": ("DEC", "TARGET_DEC", "DEJ2000", "DE_ICRS", "DELTA_J2000", "OBJDEC", "IFUDEC"),
    "redshift": ("REDSHIFT", "Z_SPEC", "ZSPEC", "Z_BEST", "NSA_Z", "Z"),
    "redshift_error": ("REDSHIFT_ERR", "ZERR", "Z_ERR", "E_Z"),
    "image": ("IMAGE", "IMAGE_FILE", "CUTOUT", "FILENAME", "FILE", "PATH"),
    "name": ("NAME", "TARGETID", "ID", "OBJECT", "OBJID", "SOURCE_ID", "IAUNAME", "MANGAID", "PLATEIFU"),
    "size": ("SIZE",),
    "radius": ("SHAPE_R", "RE", "R_E", "R50", "HALF_LIGHT_RADIUS", "NSA_ELPETRO_TH50_R"),
    "ebv": ("EBV", "E_BV", "E(B-V)", "SFD_EBV"),
    "psf": ("PSF", "PSF_FILE"),
    "psfsize_g": ("PSFSIZE_G",),
    "psfsize_r": ("PSFSIZE_R",),
    "psfsize_i": ("PSFSIZE_I",),
    "psfsize_z": ("PSFSIZE_Z",),
}
#: Units of columns that have none.
UNITS = {"ra": u.deg, "dec": u.deg, "size": u.arcsec, "radius": u.arcsec, "ebv": u.mag}
UNITS |= dict.fromkeys(("psfsize_g", "psfsize_r", "psfsize_i", "psfsize_z"), u.arcsec)
TEXT = ("image", "name", "psf")
REACH = 1.5  # half the side of the field, in half-light radii
_FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Target:
    """One galaxy of a catalogue, plain numbers, so that it travels to other processes.

    Attributes
    ----------
    row : int
        In the catalogue, from 0.
    name : str
    ra, dec : float
        ICRS, degrees.
    redshift, redshift_error : float
    file : str
        Of the image, as the catalogue has it.
    folder : str
        Of the catalogue.
    images : tuple of str
        As `fiberifu.jobs.read_image` takes them; paths are complete.
    psf : str
        File of PSFs, or "".
    psf_fwhm : dict of str to float
        By band, arcsec.
    ebv : float
        Galactic E(B-V), mag; NaN to take the image's.
    size : float
        Side of the field, arcsec; NaN to take the default.
    problem : str
        Why it cannot be predicted; "" if it can.
    """

    row: int
    name: str
    ra: float
    dec: float
    redshift: float
    redshift_error: float = np.nan
    file: str = ""
    folder: str = ""
    images: tuple = ()
    psf: str = ""
    psf_fwhm: dict = field(default_factory=dict)
    ebv: float = np.nan
    size: float = np.nan
    problem: str = ""

    @property
    def position(self):
        """`~astropy.coordinates.SkyCoord`."""
        return SkyCoord(self.ra, self.dec, unit="deg")


def read_targets(path, *, columns=None, image=None):
    """Read a catalogue.

    Parameters
    ----------
    path : path-like
        ECSV or FITS table: position (a SkyCoord column, or RA and Dec), redshift, image file; optionally name, error
        of the redshift, size of the field or half-light radius (the field then reaches to 1.5 of it), E(B-V), PSF file,
        and PSF sizes by band. Columns are known by the names in `ALIASES`; those without a unit are in degrees, arcsec
        and mag. Paths are relative to the catalogue's folder.
    columns : dict of str to str, optional
        Names of columns by their meaning, ``{"redshift": "Z_PHOT"}``, instead of the usual ones.
    image : str, optional
        Pattern of the image file instead of a column: ``"cutouts/{BRICKNAME}/{OBJID:07d}.fits"``, from the catalogue's
        columns. Several files of one galaxy are separated by ``;``: ``"g=g_{NAME}.fits;r=r_{NAME}.fits"``.

    Returns
    -------
    list of Target
        One for each row.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the catalogue and what is missing or wrong: no such file, no table, a column that is not there, or has a
        unit of another kind.
    """
    path = Path(path).absolute()  # workers may be in another folder
    table = _read(path)
    found = _find(table, dict(columns or {}), path)
    n = len(table)
    ra, dec = _positions(table, found, path)
    numbers = {key: _numbers(table, name, key, path) for key, name in found.items() if key not in (*TEXT, "sky")}
    numbers = {key: numbers.get(key, np.full(n, np.nan)) for key in ALIASES if key not in TEXT}
    texts = {key: _texts(table, found[key]) if key in found else [""] * n for key in TEXT}
    if image is not None:
        texts["image"] = _expand(table, image, path)
    elif "image" not in found:
        raise ValueError(f"{path}: no column of image files ({', '.join(ALIASES['image'])}); it has "
                         f"{', '.join(table.colnames)}; name it (columns, --column image=NAME) or give a pattern "
                         "(image, --image)")  # fmt: skip
    for key in ("radius", "redshift_error", "ebv"):  # 0 or -1: how surveys write that it is not known
        numbers[key] = np.where((numbers[key] < 0) | ((key == "radius") & (numbers[key] == 0)), np.nan, numbers[key])
    size = np.where(np.isfinite(numbers["size"]), numbers["size"], 2 * REACH * numbers["radius"])
    targets = []
    for i in range(n):
        images, psf = texts["image"][i], texts["psf"][i]
        values = {
            "ra": ra[i],
            "dec": dec[i],
            **{key: float(numbers[key][i]) for key in ("redshift", "redshift_error", "ebv")},
            "size": float(size[i]),
        }
        targets.append(
            Target(
                i,
                texts["name"][i] or str(i),
                file=images,
                folder=str(path.parent),
                images=tuple(_place(item, path.parent) for item in images.split(";") if item.strip()),
                psf=_place(psf, path.parent) if psf else "",
                psf_fwhm={b: float(v) for b in "griz" if np.isfinite(v := numbers[f"psfsize_{b}"][i]) and v > 0},
                problem=_problem(values, images, "size" if np.isfinite(numbers["size"][i]) else "radius"),
                **values,
            )
        )
    return targets


def _problem(values, images, side):
    """What is wrong with a row, in words."""
    if not (np.isfinite(values["ra"]) and abs(values["dec"]) <= 90):
        return f"position: RA {values['ra']}, Dec {values['dec']} degrees"
    z, error = values["redshift"], values["redshift_error"]
    if not z > 0:
        return f"redshift must be positive, got {z}"
    if error < 0 or np.isinf(error):
        return f"redshift error must be finite and not negative, got {error}"
    if values["size"] <= 0 or np.isinf(values["size"]):
        return f"{side} must be positive, got {values['size'] / (1 if side == 'size' else 2 * REACH)} arcsec"
    if not images.strip():
        return "no image file is named"
    return ""


# ---------------------------------------------------------------- the table
def _read(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a catalogue, an ECSV or FITS table")
    form = "ascii.ecsv" if path.suffix.lower() == ".ecsv" else "fits"
    try:
        with open(path, "rb") as file:  # by us, so that it is closed whatever a damaged one does
            table = QTable.read(file, format=form, **({"hdu": 1} if form == "fits" else {}))
    except Exception as error:  # of many kinds, for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is no readable {'ECSV' if form == 'ascii.ecsv' else 'FITS'} table: {reason}"
        ) from error
    if not len(table):
        raise ValueError(f"{path}: the catalogue has no rows")
    return table


def _find(table, given, path):
    """Names of columns by meaning; "sky" for one of SkyCoord."""
    if unknown := set(given) - {*ALIASES, "sky"}:
        raise ValueError(f"columns: {', '.join(sorted(unknown))}; a column can be {', '.join(ALIASES)} or sky")
    here = {name.upper(): name for name in reversed(table.colnames)}
    found = {}
    for key, name in given.items():
        if name.upper() not in here:
            raise ValueError(f"{path}: no column {name} ({key}); it has {', '.join(table.colnames)}")
        found[key] = name if name in table.colnames else here[name.upper()]
    for key, names in ALIASES.items():
        first = next((here[name] for name in names if name in here), None)
        if key not in found and first is not None:
            found[key] = first
    sky = next((name for name in table.colnames if isinstance(table[name], SkyCoord)), None)
    if sky is not None and not {"ra", "dec"} <= given.keys():
        found.setdefault("sky", sky)
    if found.get("redshift", "").upper() == "Z" and "redshift" not in given and {"G", "R"} <= set(here):
        raise ValueError(f"{path}: column {found['redshift']} stands beside g and r: a magnitude, or the "
                         "redshift? Name it (columns, --column redshift=NAME)")  # fmt: skip
    for key in ("redshift",) if "sky" in found else ("ra", "dec", "redshift"):
        if key not in found:
            raise ValueError(f"{path}: no column of the {key} ({', '.join(ALIASES[key])}); it has "
                             f"{', '.join(table.colnames)}; name it (columns, --column {key}=NAME)")  # fmt: skip
    if "sky" in found:
        found = {key: name for key, name in found.items() if key not in ("ra", "dec")}
    return found


def _positions(table, found, path):
    """ICRS right ascension and declination (n,), degrees."""
    if "sky" in found:
        if not isinstance(table[found["sky"]], SkyCoord):
            raise ValueError(f"{path}: column {found['sky']} holds no sky coordinates; give ra and dec")
        sky = table[found["sky"]].icrs
        ra, dec = sky.ra, sky.dec
    else:
        ra, dec = (_numbers(table, found[key], key, path) * u.deg for key in ("ra", "dec"))
    return tuple(np.asarray(np.ma.filled(np.ma.asarray(_unmasked(x.to_value(u.deg))), np.nan)) for x in (ra, dec))


def _numbers(table, name, key, path):
    """A column as numbers (n,) in our unit; masked ones are NaN."""
    column, unit = table[name], UNITS.get(key, u.one)
    own = getattr(column, "unit", None) or unit
    values = _unmasked(getattr(column, "value", column))
    try:
        if values.ndim != 1:
            raise ValueError(f"has the shape {values.shape}")
        values = np.asarray(values, float)
        if unit is u.one and str(own) == "redshift":
            own = u.one
        if key == "ebv" and own == u.one:
            own = u.mag
        return u.Quantity(values, own).to_value(unit)
    except (TypeError, ValueError, u.UnitsError) as error:
        wanted = "a pure number" if unit is u.one else f"in {unit} or alike"
        raise ValueError(f"{path}: column {name} ({key}) must be {wanted}: {error}") from None


def _unmasked(values, text=False):
    """A plain array; NaN, or "" in text, where it was masked."""
    if hasattr(values, "unmasked"):  # astropy.utils.masked
        plain, mask = np.array(values.unmasked), np.asarray(values.mask)
    else:
        plain, mask = np.array(np.ma.getdata(values)), np.ma.getmaskarray(values)
    if not mask.any():
        return plain
    if plain.dtype.kind in "iuf" and not text:
        return np.where(mask, np.nan, plain)
    plain = plain.astype(object)
    plain[mask] = ""
    return plain


def _texts(table, name):
    values = _unmasked(table[name], text=True)
    return [(x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x)).strip() for x in values.tolist()]


def _expand(table, pattern, path):
    """A pattern with the columns of each row in it."""
    here = {name.upper(): name for name in table.colnames}
    if unknown := [name for name, _ in _FIELD.findall(pattern) if name.upper() not in here]:
        raise ValueError(f"image is {pattern!r}: {path} has no column {', '.join(unknown)}, but "
                         f"{', '.join(table.colnames)}")  # fmt: skip
    columns = {name: table[here[name.upper()]] for name, _ in _FIELD.findall(pattern)}
    if not columns:
        raise ValueError(f"image is {pattern!r}: without a column in it, such as {{NAME}}, all galaxies have one image")
    values = {name: _unmasked(getattr(column, "value", column), text=True).tolist() for name, column in columns.items()}

    def text(i, name, form):
        value = values[name][i]
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return format(value.strip() if isinstance(value, str) else value, form or "")

    out, error = [], None
    for i in range(len(table)):
        try:
            out.append(_FIELD.sub(lambda found, i=i: text(i, *found.groups()), pattern))
        except ValueError as problem:  # a blank where a number should be
            out.append("")
            error = problem
    if error is not None and not any(out):
        raise ValueError(f"image is {pattern!r}: {error}")
    return out


def _place(item, folder):
    """A path, or BAND=PATH, relative to the catalogue."""
    band, path = re.fullmatch(r"\s*(?:([A-Za-z]\w?)=)?(.+?)\s*", item).groups()
    return (f"{band}=" if band else "") + str(folder / path)
