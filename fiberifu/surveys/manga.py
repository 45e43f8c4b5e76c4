# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spectra of MaNGA: cubes of the data reduction pipeline (LOGCUBE, LINCUBE), and lists of spectra.

``file -> headers and arrays -> mask, resolution, WCS -> Spectrum with what a line fit needs in meta``

Data model: Law et al. 2016 (AJ 152, 83), appendix B, and https://www.sdss4.org/dr17/manga/manga-data/data-model/.
Wavelengths are in vacuum and heliocentric, flux densities per spaxel, not corrected for Galactic extinction.
"""

import os
import re
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning
from specutils import Spectrum

from fiberifu.provenance import NAME_PARTS, Provenance, is_predicted
from fiberifu.surveys._checks import flux_factor, of_one_shape, read_table, reading, sky_wcs
from fiberifu.surveys.manga_catalog import DRPQuality, first_value

__all__ = ["read_manga_cube", "read_manga_spectra"]

# BUNIT of the files, '1E-17 erg/s/cm^2/Ang/spaxel'; "per spaxel" is understood.
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
# MANGA_DRP3PIXMASK bits: NOCOV 0, FORESTAR 3, DONOTUSE 10 (Law et al. 2016, appendix B).
BAD_BITS = 1 << 0 | 1 << 3 | 1 << 10
# Resolution, the best first: as it was before the pixels integrated it, which line fits do themselves; per spaxel; DR17
# names before those of DR15.  Law et al. 2021 (AJ 161, 52) tell the two apart.
SIGMA_CUBES = ("LSFPRE", "PREDISP", "LSFPOST", "DISP")  # sigma, Angstrom
RESOLVING_POWERS = ("PRESPECRES", "SPECRES")  # lambda / FWHM
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in sigma
LOWEST = 500  # resolving power
BANDS = "griz"


def read_manga_cube(path, *, drpall=None, allow_predicted=False):
    """Read a cube of the MaNGA data reduction pipeline, ``manga-*-LOGCUBE.fits.gz`` or ``-LINCUBE``.

    Parameters
    ----------
    path : path-like
    drpall : path-like, optional
        The survey's summary table ``drpall-*.fits``, for the redshift: cubes do not hold it.
    allow_predicted : bool
        Whether a file that says it was predicted may be read.

    Returns
    -------
    `~specutils.Spectrum`, shape (n_wave, ny, nx)
        In 1e-17 erg/(s cm2 Angstrom) per spaxel, with `~astropy.nddata.InverseVariance`, and a mask, True where
        there is no inverse variance or one of the bits NOCOV, FORESTAR and DONOTUSE is set.  Its WCS is the file's, if
        its wavelengths are those of the extension WAVE.  ``meta`` has

        * ``header`` : the primary header;
        * ``lsf`` : instrumental sigma, a length, (n_wave, ny, nx) or in older releases (n_wave,); holes are filled with
          the median at their wavelength.  None if the file has none;
        * ``lsf_extension`` : where it is from. LSFPRE and PREDISP are without the integration over pixels, as
          `~fiberifu.lines.fit_line_maps` takes it; LSFPOST, DISP and SPECRES with it, 20 km/s in quadrature more;
        * ``redshift`` : of the NASA-Sloan Atlas, or None;
        * ``ebv`` : Galactic E(B-V) in mag (SFD), or None; ``extinction_corrected`` is False;
        * ``medium``, ``frame`` : "vacuum", "heliocentric";
        * ``psf_fwhm`` : dict of the reconstructed FWHM per band, arcsec;
        * ``celestial_wcs`` : of the spaxels;
        * ``quality`` : `DRPQuality` of the cube, of which CRITICAL must not be used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is not FITS, is truncated, has another layout or unit, or is a prediction; if ``drpall`` lacks the
        galaxy.
    """
    headers, arrays = _load(path, allow_predicted)
    redshift = None if drpall is None else _listed_redshift(path, headers, drpall)
    with reading(path, "a MaNGA LOGCUBE or LINCUBE file"):
        return _cube(path, headers, arrays, redshift)


def _cube(path, headers, arrays, redshift):
    if "MODEL" in headers:
        raise ValueError(f"{path}: a model cube of the DAP, whose mask has other bits; give the DRP's LOGCUBE")
    wave, flux = _checked(path, arrays, 3)
    factor = flux_factor(path, headers["FLUX"].get("BUNIT"), UNIT)
    if factor != 1:
        flux, arrays["IVAR"] = flux * np.float32(factor), arrays["IVAR"] / np.float32(factor) ** 2
    of_one_shape(path, flux.shape, **{name: arrays.get(name) for name in SIGMA_CUBES})
    of_one_shape(path, wave.shape, **{name: arrays.get(name) for name in RESOLVING_POWERS})
    header = next(iter(headers.values()))
    cards = fits.Header([*headers["FLUX"].cards, *header.cards])  # where a card stands depends on the release
    celestial = sky_wcs(headers["FLUX"], path)
    name, sigma = _resolution(arrays, wave)
    if name is not None and not np.isfinite(sigma).all():
        raise ValueError(f"{path}: extension {name} is nowhere positive; fetch the file again")
    meta = {
        "header": header,
        "lsf": sigma,
        "lsf_extension": name,
        "redshift": _redshift(cards) if redshift is None else redshift,
        "ebv": _number(cards, "EBVGAL"),
        "extinction_corrected": False,
        "medium": "vacuum",
        "frame": "heliocentric",
        "psf_fwhm": {
            band: cards[f"{band.upper()}FWHM"] * u.arcsec for band in BANDS if _number(cards, f"{band.upper()}FWHM")
        },
        "celestial_wcs": celestial,
        "quality": DRPQuality(int(_number(cards, "DRP3QUAL") or 0)),
    }
    if header.get("DATATYPE") in NAME_PARTS:  # simulated, or predicted and allowed
        meta["provenance"] = Provenance.from_header(header)
    return _spectrum(flux, arrays, meta, **_axis(headers["FLUX"], wave), spectral_axis_index=0)


def read_manga_spectra(path):
    """Read a list of MaNGA spectra: extensions WAVE (n_wave,), FLUX, IVAR, MASK, SRES (n, n_wave) and Z (n,).

    Parameters
    ----------
    path : path-like

    Returns
    -------
    `~specutils.Spectrum`, shape (n, n_wave)
        As by `read_manga_cube`; ``meta["redshift"]`` (n,), one of each, and ``meta["lsf"]`` (n, n_wave) of SRES, the
        resolving power lambda / FWHM; None where absent.  Where SRES is below 500, as where there is
        no spectrum, sigma is interpolated.

    Raises
    ------
    FileNotFoundError, ValueError
        As by `read_manga_cube`.
    """
    headers, arrays = _load(path, allow_predicted=False)
    with reading(path, "a list of MaNGA spectra"):
        return _list(path, headers, arrays)


def _list(path, headers, arrays):
    wave, flux = _checked(path, arrays, 2)
    power, redshift = arrays.get("SRES"), arrays.get("Z")
    if power is not None:
        with np.errstate(divide="ignore"):
            sigma = wave / np.where(power > LOWEST, power, np.nan) / FWHM  # less is a place holder
            power = np.stack([_filled(row) for row in sigma]) * u.AA
    meta = {
        "header": next(iter(headers.values())),
        "lsf": power,
        "lsf_extension": None if power is None else "SRES",
        "redshift": redshift,
        "ebv": None,
        "extinction_corrected": False,
        "medium": "vacuum",
        "frame": "heliocentric",
    }
    return _spectrum(flux, arrays, meta, spectral_axis=wave * u.AA, spectral_axis_index=1)


# ---------------------------------------------------------------- the file
def _load(path, allow_predicted):
    """Headers of all extensions, by name, and the arrays that are wanted.

    A cube of 127 fibres is 100 MB an extension, and has twenty: only some are read, unlike `_fits.read_hdus`.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            # astropy only warns of a truncated file, and fails later or not at all.
            warnings.filterwarnings("error", message=".*truncated", category=AstropyWarning)
            with open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
                headers = {hdu.name: hdu.header.copy() for hdu in hdus}
                wanted = ["FLUX", "IVAR", "MASK", "WAVE", "SRES", "Z"]
                wanted += [name for name in SIGMA_CUBES + RESOLVING_POWERS if name in headers][:1]
                arrays = {name: _native(hdus[name].data) for name in wanted if name in headers}
    except Exception as error:  # a flipped bit can raise anything: zlib.error, VerifyError, IndexError, MemoryError ...
        raise ValueError(f"{path}: not a FITS file, or truncated ({error}); fetch it again") from error
    if not allow_predicted and any(map(is_predicted, headers.values())):
        raise ValueError(
            f"{path}: DATATYPE='PREDICTED', made by fiberifu; give an observation, or allow_predicted=True if a "
            "prediction is what you want"
        )
    return headers, arrays


def _native(data):
    return None if data is None else np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("="))


def _checked(path, arrays, ndim):
    """Wavelengths, Angstrom, and flux; ValueError, naming the file, if its layout is another."""
    missing = [name for name in ("FLUX", "IVAR", "MASK", "WAVE") if arrays.get(name) is None]
    if missing:
        raise ValueError(f"{path}: no extension {', '.join(missing)}; is it a MaNGA LOGCUBE or LINCUBE file?")
    flux, wave = arrays["FLUX"], arrays["WAVE"].astype(float)
    shapes = {name: array.shape for name, array in arrays.items()}
    n_wave = flux.shape[0 if ndim == 3 else -1]
    same = all(shapes[name] == flux.shape for name in ("IVAR", "MASK"))
    if flux.ndim != ndim or wave.shape != (n_wave,) or not same:
        form = "(wave, y, x)" if ndim == 3 else "(n, wave)"
        reader = {2: "read_manga_spectra", 3: "read_manga_cube"}.get(flux.ndim)
        hint = f"; use {reader}" if reader and flux.ndim != ndim else ""
        raise ValueError(f"{path}: extensions of shapes {shapes}; FLUX, IVAR and MASK must be {form}{hint}")
    if not (len(wave) > 0 and wave[0] > 0 and np.isfinite(wave[-1]) and (np.diff(wave) > 0).all()):
        raise ValueError(f"{path}: WAVE does not rise from above zero; fetch the file again")
    return wave, flux


# ---------------------------------------------------------------- what it means
def _spectrum(flux, arrays, meta, **axis):
    ivar = arrays["IVAR"]
    mask = ((arrays["MASK"] & BAD_BITS) != 0) | ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    return Spectrum(flux * UNIT, uncertainty=InverseVariance(ivar, unit=UNIT**-2), mask=mask, meta=meta, **axis)


def _axis(header, wave):
    """The WCS, if its wavelengths are those of WAVE; else these alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header, preserve_units=True)
    if wcs.naxis == 3 and wcs.has_spectral:
        told = (wcs.spectral.pixel_to_world_values(np.arange(len(wave))) * u.Unit(wcs.wcs.cunit[2])).to_value(u.AA)
        if np.allclose(told, wave, rtol=1e-6, atol=0):  # 0.3 km/s
            return {"wcs": wcs}
    return {"spectral_axis": wave * u.AA}


def _resolution(arrays, wave):
    """Name of the extension, and sigma as a Quantity (n_wave, ...), or None."""
    for name in SIGMA_CUBES:
        if name in arrays:
            return name, _filled(arrays[name]) * u.AA
    for name in RESOLVING_POWERS:
        if name in arrays:
            with np.errstate(divide="ignore"):
                return name, _filled(wave / arrays[name] / FWHM) * u.AA
    return None, None


def _filled(sigma):
    """Sigma (n_wave, ...) with holes, which are not positive, filled: from the channel, else from its neighbours.

    All NaN where nothing is positive: the fit then takes the median of the other spectra.
    """
    good = np.isfinite(sigma) & (sigma > 0)
    if not good.any():
        return np.full_like(sigma, np.nan)
    channels = np.flatnonzero(good.reshape(len(sigma), -1).any(1))
    known = np.where(good, sigma, np.nan)[channels].reshape(len(channels), -1)
    typical = np.interp(np.arange(len(sigma)), channels, np.nanmedian(known, axis=1)).astype(sigma.dtype)
    return np.where(good, sigma, typical.reshape(-1, *[1] * (sigma.ndim - 1)))


def _number(header, key):
    """A finite card, else None."""
    value = header.get(key)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) and value > -999 else None


def _redshift(cards):
    """Of a card of the cube, where someone has put it."""
    return next((z for z in (_number(cards, key) for key in ("REDSHIFT", "NSA_Z", "Z")) if z is not None), None)


def _listed_redshift(path, headers, drpall):
    """From the summary table, by PLATEIFU, or what the cube's file name has in its place."""
    file_name = re.match(r"manga-(.+)-L(?:OG|IN)CUBE", Path(os.fspath(path)).name)
    cards = (str(header.get("PLATEIFU", "")).strip() for header in headers.values())
    name = next(filter(None, cards), file_name[1] if file_name else "")
    _, table = read_table(drpall, "a MaNGA drpall file")
    if not {"plateifu", "simname"} & set(table):
        raise ValueError(f"{drpall}: not a MaNGA drpall file: no column plateifu")
    with reading(drpall, "a MaNGA drpall file"):
        row = table["plateifu" if "plateifu" in table else "simname"] == name
        if not row.any():
            raise ValueError(f"{drpall}: no row with plateifu {name!r}; is it of the cube's release?")
        # DR17's z is that of the Atlas, or of an ancillary programme for galaxies outside it; -9999 stands for none.
        z = first_value(table, len(row), "z", "nsa_z")[row][0]
    return float(z) if np.isfinite(z) and z > -1 else None
