# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Line maps as FITS files in the layout of the MaNGA data analysis pipeline (MAPS), so that its readers work.

Westfall et al. 2019 (AJ 158, 231); https://www.sdss4.org/dr17/manga/manga-data/data-model/ (MAPS).
"""

import astropy.units as u
import numpy as np
from astropy.constants import c
from astropy.io import fits
from astropy.wcs import WCS

from fiberifu.lines.maps import DAPMask, LineMaps
from fiberifu.lines.table import line_table, resolve_line
from fiberifu.output import atomic_path
from fiberifu.provenance import Provenance, check_file_name, software_version

__all__ = ["read_dap_maps", "write_dap_maps"]

FLUX_BUNIT = "1E-17 erg/s/cm^2/spaxel"
# Sums of a doublet that is not resolved, under the name of one of its lines (Belfiore et al. 2019, AJ 158, 160).
BLENDS = {"OIId-3728": "O2_3726"}
LAYOUT = {  # quantity -> (extension, BUNIT as the DAP writes it, has an error)
    "flux": ("EMLINE_GFLUX", FLUX_BUNIT, True),
    "ew": ("EMLINE_GEW", "ang", True),
    "continuum": ("EMLINE_GEW_CNT", "1E-17 erg/s/cm^2/ang/spaxel", True),
    "velocity": ("EMLINE_GVEL", "km/s", True),
    "dispersion": ("EMLINE_GSIGMA", "km/s", True),
    "instrumental_dispersion": ("EMLINE_INSTSIGMA", "km/s", False),
}
# Extensions of numbers that maps of fits have in meta.
KEPT = {"F_CHI2": "chi2", "F_NPIX": "n_pixels", "F_DOF": "degrees_of_freedom", "F_BINS": "bins"}
# Keywords of how the fit was done, ``meta["fit"]``.
SETTINGS = {"FITMED": "medium", "FITLSF": "lsf", "FITCONT": "continuum", "FITSTAR": "starlight", "FITKIN": "kinematics",
            "FITCOMP": "components", "FITERR": "errors"}  # fmt: skip
STELLAR = {"STELLAR_VEL": "stellar_velocity", "STELLAR_SIGMA": "stellar_dispersion"}
SUMS = {  # the same of `sum_line_maps`; the DAP has no moments of them
    "flux": ("EMLINE_SFLUX", FLUX_BUNIT, True),
    "ew": ("EMLINE_SEW", "ang", True),
    "continuum": ("EMLINE_SEW_CNT", "1E-17 erg/s/cm^2/ang/spaxel", True),
}


def write_dap_maps(maps, path, *, sums=None, overwrite=False):
    """Write `LineMaps` as EMLINE_GFLUX, _GEW, _GEW_CNT, _GVEL, _GSIGMA, _INSTSIGMA with _IVAR and _MASK.

    Parameters
    ----------
    maps : `LineMaps`
        Two-dimensional, with a celestial WCS.
    path : str or path-like
        With ``predicted`` or ``sim`` in the name, as the provenance asks.
    sums : `LineMaps`, optional
        Of `sum_line_maps`, of the same spaxels: written as EMLINE_SFLUX, _SEW and _SEW_CNT beside the fits.
    overwrite : bool

    Notes
    -----
    What has no value is 0 with inverse variance 0, masked NOVALUE and DONOTUSE, as the DAP does.  As in the
    DAP GSIGMA is not corrected for INSTSIGMA.  Covariances are kept in F_COVARIANCE and F_SHARED, flags in
    FLAGS.
    """
    if len(maps.shape) != 2 or maps.wcs is None:
        raise ValueError(
            f"maps has the shape {maps.shape} and wcs {maps.wcs!r}; this format holds 2-D maps with a "
            "WCS; lists of positions: maps.to_table().write(...)"
        )
    if maps.provenance is not None:
        check_file_name(path, maps.provenance.datatype)
    primary = fits.PrimaryHDU()
    primary.header["DAPFRMT"] = ("MAPS", "layout of the MaNGA DAP")
    primary.header["MASKNAME"] = ("MANGA_DAPPIXMASK", "meaning of the mask bits")
    hdus = fits.HDUList([primary])
    if sums is not None and sums.shape != maps.shape:
        raise ValueError(f"sums has the shape {sums.shape}; that of the maps is {maps.shape}")
    parts = [(maps, *item) for item in LAYOUT.items()] + ([(sums, *item) for item in SUMS.items()] if sums else [])
    for source, name, (extension, bunit, has_error) in parts:
        value, sigma, _ = source._data[name]
        cards = {"BUNIT": bunit, "HDUCLASS": "SDSS", "HDUCLAS1": "CUBE", "HDUCLAS2": "DATA"}
        if has_error:
            cards |= {"ERRDATA": f"{extension}_IVAR", "QUALDATA": f"{extension}_MASK"}
        hdus.append(_image(source, np.nan_to_num(value, posinf=0, neginf=0), extension, cards))
        if has_error:
            with np.errstate(divide="ignore"):
                ivar = np.where((sigma > 0) & np.isfinite(sigma), sigma**-2.0, 0)
            cards = {
                "BUNIT": f"({bunit})^{{-2}}",
                "HDUCLASS": "SDSS",
                "HDUCLAS1": "CUBE",
                "HDUCLAS2": "ERROR",
                "QUALDATA": f"{extension}_MASK",
            }
            hdus.append(_image(source, ivar, f"{extension}_IVAR", cards))
            cards = {
                "HDUCLASS": "SDSS",
                "HDUCLAS1": "CUBE",
                "HDUCLAS2": "QUALITY",
                "ERRDATA": f"{extension}_IVAR",
            }
            hdus.append(_image(source, source._mask[name], f"{extension}_MASK", cards, dtype=np.int32))
    for name, array in (("F_COVARIANCE", maps._covariance), ("F_SHARED", maps.shared), ("FLAGS", maps.flags)):
        if array is not None:
            dtype = np.int32 if name == "FLAGS" else np.float32
            hdus.append(fits.ImageHDU(np.asarray(array, dtype=dtype), name=name))
    for name, key in KEPT.items():
        if key in maps.meta:
            array = np.asarray(maps.meta[key])
            hdus.append(fits.ImageHDU(array.astype(np.float32 if array.dtype.kind == "f" else np.int32), name=name))
    for name, key in STELLAR.items():
        if key in maps.meta:
            hdus.extend(_stellar_images(maps, name, key))
    for keyword, key in SETTINGS.items():
        if key in maps.meta.get("fit", {}):
            primary.header[keyword] = (maps.meta["fit"][key], f"{key} of the fit")
    for hdu in hdus:
        if maps.provenance is not None:
            maps.provenance.to_header(hdu.header)
        hdu.header["REDSHIFT"] = (maps.redshift, "frame of velocities and equivalent widths")
        hdu.header["EXTCORR"] = (maps.extinction_corrected, "T: corrected for Galactic extinction")
        if maps.ebv is not None and np.isfinite(maps.ebv):
            hdu.header["EBVGAL"] = (float(maps.ebv), "[mag] Galactic E(B-V), SFD scale")
        if "internal_extinction" in maps.meta:
            hdu.header["DUSTCORR"] = (True, "T: corrected for dust in the galaxy, too")
        hdu.header["FIBIFUV"] = (software_version(), "fiberifu version")
    with atomic_path(path, overwrite=overwrite) as temporary:
        hdus.writeto(temporary)


def _stellar_images(maps, name, key):
    """A map of starlight, its inverse variance and its mask, as the DAP has them."""
    value, sigma = (np.asarray(maps.meta[key + end], float) for end in ("", "_sigma"))
    bad = ~(np.isfinite(value) & (sigma > 0))
    header, error = maps.wcs.to_header(), maps.wcs.to_header()
    header["BUNIT"], error["BUNIT"] = "km/s", "(km/s)^{-2}"
    ivar = np.where(bad, 0, 1 / np.where(bad, 1, sigma) ** 2)
    bits = np.where(bad, np.int32(DAPMask.NOVALUE | DAPMask.DONOTUSE), np.int32(0))
    return [
        fits.ImageHDU(np.where(bad, 0, value).astype(np.float32), header, name=name),
        fits.ImageHDU(ivar.astype(np.float32), error, name=f"{name}_IVAR"),
        fits.ImageHDU(bits, maps.wcs.to_header(), name=f"{name}_MASK"),
    ]


def _image(maps, array, name, cards, dtype=np.float32):
    """One extension with the celestial WCS, a third axis of channels, and the channels' names."""
    header = maps.wcs.to_header()
    header["WCSAXES"] = 3
    for key, value in (("CRPIX3", 1.0), ("CRVAL3", 1.0), ("CDELT3", 1.0), ("CTYPE3", ""), ("CUNIT3", "")):
        header[key] = value
    known = line_table("all")
    channels = dict(zip(known["key"], known["dap_name"], strict=True))
    channels |= {line: channel for channel, line in BLENDS.items() if line in maps.meta.get("blends", {})}
    for i, line in enumerate(maps.lines, start=1):
        header[f"C{i:02d}"] = (channels.get(line, line), f"Data in channel {i}")
    header.update(cards)
    return fits.ImageHDU(np.asarray(array, dtype=dtype), header=header, name=name)


def read_dap_maps(path, *, kind="fit"):
    """Read a MAPS file: of the MaNGA DAP, any release, or as written by `write_dap_maps`.

    Parameters
    ----------
    path : str or path-like
    kind : {'fit', 'sums'}
        The Gaussian fits (EMLINE_GFLUX ...), or the sums in bands (EMLINE_SFLUX, _SEW).

    Returns
    -------
    `LineMaps`
        Lines are found by the names of their channels; a channel in no line table keeps its name.  Values
        without coverage or without value are NaN.  Published DAP maps are corrected for Galactic extinction.

    Raises
    ------
    FileNotFoundError, ValueError
        Not a FITS file, truncated, without EMLINE_GFLUX or errors and masks that its header names, of different shapes
        or in other units; the message names the file.
    """
    if kind not in ("fit", "sums"):
        raise ValueError(f"kind is {kind!r}; 'fit' or 'sums'")
    try:
        with fits.open(path, memmap=False) as hdus:
            maps = _from_hdus(hdus, LAYOUT if kind == "fit" else SUMS)
            maps.meta |= {"kind": "sums"} if kind == "sums" else {}
            return maps
    except FileNotFoundError:
        raise
    except (OSError, TypeError, KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a readable file of DAP maps: {error}") from error


def _from_hdus(hdus, layout):
    primary, header = hdus[0].header, hdus[layout["flux"][0]].header
    channels = [header[f"C{i:02d}"].strip() for i in range(1, header["NAXIS3"] + 1)]
    lines = [_line(channel) for channel in channels]
    no_value = np.int32(DAPMask.NOCOV | DAPMask.NOVALUE)
    values, masks = {}, {}
    for name, (extension, bunit, has_error) in layout.items():
        if extension not in hdus:
            continue
        _check(hdus, extension, bunit, hdus[layout["flux"][0]].shape)
        value = np.array(hdus[extension].data, dtype=np.float64)
        if f"{extension}_MASK" in hdus:
            masks[name] = np.array(hdus[f"{extension}_MASK"].data, dtype=np.int32)
            value[(masks[name] & no_value) != 0] = np.nan
        if has_error and f"{extension}_IVAR" in hdus:
            ivar = np.array(hdus[f"{extension}_IVAR"].data, dtype=np.float64)
            with np.errstate(divide="ignore"):
                values[f"{name}_sigma"] = np.where(ivar > 0, ivar**-0.5, np.nan)
        if np.isfinite(value).any():
            values[name] = value
    values.setdefault("flux", np.full(hdus[layout["flux"][0]].shape, np.nan))
    fitted = (("covariance", "F_COVARIANCE"), ("shared", "F_SHARED")) if layout is LAYOUT else ()
    extra = {key: np.array(hdus[hdu].data) for key, hdu in (*fitted, ("flags", "FLAGS")) if hdu in hdus}
    # SCINPVEL, the DAP's input velocity, is c z.
    redshift = primary.get("REDSHIFT", primary.get("SCINPVEL", np.nan) / c.to_value(u.km / u.s))
    return LineMaps(
        lines,
        values.pop("flux"),
        values.pop("flux_sigma", None),
        **values,
        **extra,
        mask=masks,
        wcs=WCS(header).celestial,
        redshift=redshift,
        ebv=primary.get("EBVGAL"),
        provenance=Provenance.from_header(primary) if "DATATYPE" in primary else None,
        extinction_corrected=primary.get("EXTCORR", "GEXTLAW" in primary),
        meta={"header": primary} | _meta(hdus, lines, channels),
    )


def _check(hdus, extension, bunit, shape):
    """ValueError unless an extension has its unit, and that, its errors and its mask are there in one shape."""
    header = hdus[extension].header
    text = str(header.get("BUNIT", bunit))
    if text.replace(" ", "").lower() != bunit.replace(" ", "").lower():
        raise ValueError(f"{extension} is in {text!r} (BUNIT), not {bunit!r}")
    for name in [extension, *(header[key] for key in ("ERRDATA", "QUALDATA") if key in header)]:
        if name not in hdus:
            raise ValueError(f"{extension} names {name}, which is not there")
        if hdus[name].shape != shape:
            raise ValueError(f"{name} has the shape {hdus[name].shape}, the fluxes {shape}")


def _meta(hdus, lines, channels):
    """What is kept in meta: chi2 and bins, what was done to the fluxes, and lines that stand for a blend."""
    meta = {key: np.array(hdus[name].data) for name, key in KEPT.items() if name in hdus}
    settings = {key: hdus[0].header[keyword] for keyword, key in SETTINGS.items() if keyword in hdus[0].header}
    meta |= {"fit": settings} if settings else {}
    for name, key in STELLAR.items():
        if name in hdus and f"{name}_IVAR" in hdus:
            ivar = np.array(hdus[f"{name}_IVAR"].data, float)
            good = (ivar > 0) & (np.array(hdus[f"{name}_MASK"].data) & DAPMask.DONOTUSE == 0)
            meta[key] = np.where(good, hdus[name].data, np.nan)
            meta[f"{key}_sigma"] = np.where(good, 1 / np.sqrt(np.where(good, ivar, 1)), np.nan)
    if hdus[0].header.get("DUSTCORR"):
        meta["internal_extinction"] = True
    blends = {line: channel for line, channel in zip(lines, channels, strict=True) if channel in BLENDS}
    return meta | ({"blends": blends} if blends else {})


def _line(channel):
    try:
        return resolve_line(BLENDS.get(channel, channel))
    except ValueError:
        return channel
