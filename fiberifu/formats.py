# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""FITS files of cubes and of lists of spectra: the formats "fiberifu cube" and "fiberifu spectra".

A file holds PRIMARY, FLUX, IVAR, MASK (1 = bad) and WAVE; POSITIONS for a list of spectra; FLAGS if there are
any; and the error factors, one extension F_<NAME> each.  Predicted pixels are strongly correlated: with the
factors the errors of sums and of line fits can be computed honestly.
"""

import re
import warnings
import zlib
from contextlib import contextmanager
from os import PathLike

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from specutils import Spectrum
from specutils.io.parsing_utils import read_fileobj_or_hdulist
from specutils.io.registers import custom_writer, data_loader

from fiberifu.flags import Flag
from fiberifu.output import atomic_path
from fiberifu.provenance import Provenance, check_file_name

__all__ = [
    "FLUX_UNIT",
    "ErrorFactors",
    "inverse_variance",
    "read_cube",
    "read_spectra",
    "write_cube",
    "write_spectra",
]

#: Unit of predicted flux density.
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
# 'spaxel' in a unit does not parse, so "per spaxel" stands in FLUXTYPE and in the comment.
BUNIT = "1e-17 erg/(s cm2 AA)"
FLUX_TYPES = {"CUBE": "per spaxel", "SPECTRA": "in the aperture"}
STRUCTURE = ("CHECKSUM", "DATASUM", "EXTNAME", "FIBFMT", "FLUXTYPE", "EXTEND", "FACTORS", "POSSHAPE")


class ErrorFactors(dict):
    """Named arrays that describe correlated errors, in ``meta["factors"]``; a plain dict does as well.

    Parameters
    ----------
    arrays : mapping of str to array_like
        Names of at most 60 lower-case letters, digits and '_'.
    axes : mapping of str to str, optional
        Axes of each array, such as ``"k wave"`` or ``"y x k"``.  ``wave``, ``y`` and ``x`` are cut by
        `fiberifu.cube.subcube`.
    cards : mapping of str to str, bool, int or float, optional
        Numbers and words that go with them, as FITS keywords.
    """

    def __init__(self, arrays=(), *, axes=None, cards=None):
        super().__init__({name: np.asarray(array) for name, array in dict(arrays).items()})
        self.axes = dict(axes or {})
        self.cards = dict(cards or {})
        for name, text in self.axes.items():
            if name not in self or len(text.split()) != self[name].ndim:
                raise ValueError(
                    f"axes names {name!r} as {text!r}; the arrays are "
                    f"{ {key: value.shape for key, value in self.items()} }"
                )


def write_cube(cube, path, *, overwrite=False):
    """Write a cube as FITS ("fiberifu cube").

    Parameters
    ----------
    cube : `specutils.Spectrum`, shape (n_wave, ny, nx)
        ``meta["provenance"]`` (`~fiberifu.provenance.Provenance`) is needed; ``meta["header"]`` (cards for
        the primary header), ``meta["factors"]`` and ``meta["flags"]`` are written if present.
    path : str or path-like
        With ``predicted`` or ``sim`` in the name.
    overwrite : bool
    """
    if cube.flux.ndim != 3 or not isinstance(cube.wcs, WCS):
        raise ValueError(
            f"cube has {cube.flux.ndim} axes and a {type(cube.wcs).__name__}; this format needs (wave, y, x) "
            "and a FITS WCS, as from make_cube (slices lose it: use subcube)"
        )
    _write(cube, path, "CUBE", cube.wcs.to_header(), cube.shape, [], overwrite)


def write_spectra(spectra, path, *, overwrite=False):
    """Write row-stacked spectra as FITS ("fiberifu spectra"): FLUX (n, n_wave) and a table POSITIONS.

    Parameters
    ----------
    spectra : `specutils.Spectrum`, shape positions.shape + (n_wave,)
        With ``meta["positions"]`` (SkyCoord) and ``meta["provenance"]``, else as for `write_cube`.
    path, overwrite
        As for `write_cube`.
    """
    positions = spectra.meta.get("positions")
    if positions is None or positions.shape != spectra.shape[:-1]:
        raise ValueError(f"meta['positions'] is {positions!r}; it must be a SkyCoord of shape {spectra.shape[:-1]}")
    sky = positions.reshape(-1).icrs
    table = fits.table_to_hdu(QTable({"ra": sky.ra.to(u.deg), "dec": sky.dec.to(u.deg)}))
    table.name = "POSITIONS"
    table.header["RADESYS"] = "ICRS"
    table.header["POSSHAPE"] = (",".join(map(str, positions.shape)), "shape of the array of positions")
    _write(spectra, path, "SPECTRA", fits.Header(), (sky.size, spectra.shape[-1]), [table], overwrite)


def inverse_variance(spectrum):
    """Inverse variance in ``unit**-2`` as an array, whatever the kind of uncertainty; 0 where unknown."""
    uncertainty = spectrum.uncertainty
    if uncertainty is None:
        return np.zeros(spectrum.shape, np.float32)
    if isinstance(uncertainty, InverseVariance):  # represent_as would divide twice
        return uncertainty.array
    with np.errstate(divide="ignore", invalid="ignore"):
        array = uncertainty.represent_as(InverseVariance).array
    return np.where(np.isfinite(array), array, 0)


def _write(spectrum, path, kind, wcs_header, shape, tables, overwrite):
    provenance = spectrum.meta.get("provenance")
    if not isinstance(provenance, Provenance):
        raise ValueError(
            f"meta['provenance'] is {provenance!r}; a fiberifu.provenance.Provenance must say whether the "
            "data are predicted or simulated, and from what"
        )
    check_file_name(path, provenance.datatype)
    unit = BUNIT if spectrum.unit == FLUX_UNIT else spectrum.unit.to_string()
    mask = np.zeros(spectrum.shape, bool) if spectrum.mask is None else spectrum.mask
    wave = fits.ImageHDU(spectrum.spectral_axis.to_value(u.AA).astype(np.float64), name="WAVE")
    wave.header["BUNIT"] = ("Angstrom", "vacuum")
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, array, dtype, bunit in (
        ("FLUX", spectrum.flux.value, np.float32, unit),
        ("IVAR", inverse_variance(spectrum), np.float32, (spectrum.unit**-2).to_string()),
        ("MASK", mask, np.uint8, None),
    ):
        hdus.append(fits.ImageHDU(np.asarray(array, dtype=dtype).reshape(shape), header=wcs_header, name=name))
        if bunit:
            hdus[-1].header["BUNIT"] = (bunit, FLUX_TYPES[kind])
    hdus["MASK"].header["COMMENT"] = "0 is good, 1 is bad"
    hdus.extend([wave, *tables])
    if spectrum.meta.get("flags") is not None:
        flags = np.asarray(spectrum.meta["flags"], dtype=np.int32)
        hdus.append(fits.ImageHDU(flags.reshape(shape[1:] if kind == "CUBE" else shape[:1]), name="FLAGS"))
        for flag in Flag:
            hdus[-1].header[f"BIT{flag.value.bit_length() - 1:02d}"] = flag.name
    factors = spectrum.meta.get("factors") or {}
    hdus.extend(_factor_hdus(factors))
    _add_cards(hdus[0].header, spectrum.meta.get("header", {}))
    for hdu in hdus:
        provenance.to_header(hdu.header)
    hdus[0].header["FIBFMT"] = (kind, "layout of this file")
    hdus[0].header["FLUXTYPE"] = (FLUX_TYPES[kind], "what FLUX and IVAR refer to")
    hdus[0].header["FACTORS"] = (bool(factors), "error factors are kept (F_ extensions)")
    with atomic_path(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)


def _factor_hdus(factors):
    axes, cards = getattr(factors, "axes", {}), getattr(factors, "cards", {})
    for name, array in factors.items():
        array = np.asarray(array)
        array = array.astype(np.uint8) if array.dtype == bool else array
        if not (re.fullmatch("[a-z0-9_]{1,60}", name) and array.dtype.kind in "iuf" and array.ndim):
            raise ValueError(
                f"factors has {name!r} of type {array.dtype} and shape {array.shape}; names are lower-case "
                "letters, digits and '_', values arrays of numbers"
            )
        hdu = fits.ImageHDU(array, name=f"F_{name.upper()}")
        if name in axes:
            hdu.header["AXES"] = (axes[name], "axes in the order of numpy")
        _add_cards(hdu.header, cards)
        hdu.header["FACARDS"] = ",".join(cards)
        yield hdu


def _add_cards(header, cards):
    """Copy cards (a Header or a mapping) except for those that describe arrays."""
    if isinstance(cards, fits.Header):
        cards = cards.copy(strip=True)
        for key in STRUCTURE:
            cards.remove(key, ignore_missing=True, remove_all=True)
        header.extend(cards, unique=True)
        return
    for key, value in cards.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, float) and not np.isfinite(value):
            continue  # FITS headers hold no NaN
        header[key if len(key) <= 8 else f"HIERARCH {key}"] = value


def read_cube(path):
    """Read a cube written by `write_cube`; ``Spectrum.read(path)`` does the same.

    Parameters
    ----------
    path : str, path-like, file object or `~astropy.io.fits.HDUList`

    Returns
    -------
    `specutils.Spectrum`
        Wavelength in Angstrom, `~astropy.nddata.InverseVariance`, mask; ``meta`` has ``header`` (primary),
        ``provenance`` and, if in the file, ``factors`` (`ErrorFactors`) and ``flags``.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a FITS file, truncated, or of another layout.
    """
    with _open(path, "CUBE") as hdus:
        wcs = WCS(hdus["FLUX"].header, preserve_units=True)
        cube = Spectrum(**_read_arrays(hdus), wcs=wcs, spectral_axis_index=0, meta=_read_meta(hdus))
    return cube


def read_spectra(path):
    """Read spectra written by `write_spectra`; ``Spectrum.read(path)`` does the same.

    Parameters, errors and ``meta`` are those of `read_cube`, and there is ``meta["positions"]``.
    """
    with _open(path, "SPECTRA") as hdus:
        table = hdus["POSITIONS"]
        shape = tuple(int(n) for n in table.header["POSSHAPE"].split(",") if n)
        ra, dec = (np.array(table.data[name], dtype=float) for name in ("ra", "dec"))
        positions = SkyCoord(ra * u.deg, dec * u.deg).reshape(shape)
        wave = np.array(hdus["WAVE"].data, dtype=float) * u.AA
        meta = {**_read_meta(hdus), "positions": positions}
        if "flags" in meta:
            meta["flags"] = meta["flags"].reshape(shape)
        arrays = _read_arrays(hdus, shape + wave.shape)
        spectra = Spectrum(**arrays, spectral_axis=wave, spectral_axis_index=len(shape), meta=meta)
    return spectra


@contextmanager
def _open(source, kind):
    """An HDUList of the right layout; errors name the file."""
    name = source if isinstance(source, str | PathLike) else getattr(source, "name", "the file")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "File may have been truncated")
            with read_fileobj_or_hdulist(source) as hdus:  # leaves file objects open, as the registry needs
                found = hdus[0].header.get("FIBFMT")
                if found != kind:
                    raise ValueError(f"{name} has the layout {found!r}, not {kind!r}")
                yield hdus
    except FileNotFoundError:
        raise
    except (OSError, EOFError, TypeError, KeyError, zlib.error, AstropyUserWarning) as error:
        raise ValueError(f"{name} is not a whole FITS file written by fiberifu: {error}") from error


def _read_arrays(hdus, shape=None):
    """Flux, uncertainty and mask for a Spectrum, in native byte order."""
    flux, ivar, mask = (hdus[name].data for name in ("FLUX", "IVAR", "MASK"))
    shape, unit = shape or flux.shape, u.Unit(hdus["FLUX"].header["BUNIT"])
    return {
        "flux": u.Quantity(flux.astype(np.float32).reshape(shape), unit, copy=False),
        "uncertainty": InverseVariance(ivar.astype(np.float32).reshape(shape), unit=unit**-2),
        "mask": mask.reshape(shape) != 0,
    }


def _read_meta(hdus):
    meta = {"header": hdus[0].header.copy(), "provenance": Provenance.from_header(hdus[0].header)}
    if "FLAGS" in hdus:
        meta["flags"] = np.array(hdus["FLAGS"].data, dtype=np.int32)
    factors = [hdu for hdu in hdus if hdu.name.startswith("F_")]
    if factors:
        header = factors[0].header
        meta["factors"] = ErrorFactors(
            {hdu.name[2:].lower(): hdu.data.astype(hdu.data.dtype.newbyteorder("=")) for hdu in factors},
            axes={hdu.name[2:].lower(): hdu.header["AXES"] for hdu in factors if "AXES" in hdu.header},
            cards={key: header[key] for key in header["FACARDS"].split(",") if key},
        )
    return meta


def _identifier(kind):
    def identify(origin, path, fileobj, *args, **kwargs):
        if origin != "read":
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with read_fileobj_or_hdulist(fileobj if fileobj is not None else path) as hdus:
                return hdus[0].header.get("FIBFMT") == kind and hdus[0].header.get("ORIGIN") == "fiberifu"

    return identify


# force: reloading the module in a session must not fail.
@data_loader(
    "fiberifu cube",
    identifier=_identifier("CUBE"),
    dtype=Spectrum,
    extensions=["fits"],
    priority=20,
    force=True,
)
def _cube_loader(file_obj, **kwargs):
    return read_cube(file_obj)


@data_loader(
    "fiberifu spectra",
    identifier=_identifier("SPECTRA"),
    dtype=Spectrum,
    extensions=["fits"],
    priority=20,
    force=True,
)
def _spectra_loader(file_obj, **kwargs):
    return read_spectra(file_obj)


@custom_writer("fiberifu cube", force=True)
def _cube_writer(cube, path, overwrite=False, **kwargs):
    write_cube(cube, path, overwrite=overwrite)


@custom_writer("fiberifu spectra", force=True)
def _spectra_writer(spectra, path, overwrite=False, **kwargs):
    write_spectra(spectra, path, overwrite=overwrite)
