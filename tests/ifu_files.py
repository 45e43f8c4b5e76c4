# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Small files in the formats of MaNGA and SAMI, whose lines are known."""

import astropy.units as u
import numpy as np
from astropy.io import fits
from scipy.special import ndtr

from fiberifu.lines import line_table

FWHM = 2 * np.sqrt(2 * np.log(2))
NY, NX, REDSHIFT = 5, 6, 0.03


def sky_cards(ctype, wave0, step, unit="Angstrom"):
    out = fits.Header()
    out.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": ctype, "CUNIT3": unit})
    out.update({"CRVAL1": 180.0, "CRVAL2": -1.0, "CRVAL3": wave0, "CRPIX1": 3.5, "CRPIX2": 3.0, "CRPIX3": 1.0})
    out.update({"CUNIT1": "deg", "CUNIT2": "deg", "CD1_1": -0.5 / 3600, "CD2_2": 0.5 / 3600, "CD3_3": step})
    return out


def light(wave, sigma, fluxes, redshift=REDSHIFT, medium="vacuum"):
    """Spectra (n_wave, NY, NX): a continuum of 1, lines of given fluxes and those tied to them, 80 km/s wide."""
    table = line_table(medium=medium)
    spectrum, step = np.ones_like(wave), np.gradient(wave)
    tied = {str(row["key"]): row["ratio"] * fluxes[row["tied_to"]] for row in table if str(row["tied_to"]) in fluxes}
    for key, flux in (fluxes | tied).items():
        centre = table["wavelength"][table["key"] == key][0].to_value(u.AA) * (1 + redshift)
        width = np.hypot(np.interp(centre, wave, sigma), 80 / 299792.458 * centre)
        below, above = (ndtr((wave + side * step / 2 - centre) / width) for side in (-1, 1))
        spectrum = spectrum + flux * (above - below) / step  # integrated over the pixel
    return np.repeat(spectrum, NY * NX).reshape(-1, NY, NX).astype(np.float32)


FLUXES = {"Hb": 10.0, "O3_5007": 20.0, "Ha": 30.0, "N2_6583": 12.0}


def manga_hdus(resolution="LSFPRE", linear=False, step=1e-4, **cards):
    """HDUs of a DRP cube: DR17 with LSFPRE and LSFPOST, DR15 with PREDISP and DISP, earlier ones with SPECRES alone."""
    wave = np.arange(4800, 7200, 1.0) if linear else 10 ** np.arange(np.log10(4800), np.log10(7200), step)
    header = sky_cards(*(("WAVE", 4800.0, 1.0) if linear else ("WAVE-LOG", 4800.0, 4800 * step * np.log(10))))
    sigma = wave / 1900 / FWHM
    flux = light(wave, sigma, FLUXES)
    ivar, mask = np.full(flux.shape, 1e4, np.float32), np.zeros(flux.shape, np.int32)
    mask[:, 0, 0] = 1 << 10 | 1  # no coverage
    ivar[:, 0, 0] = 0
    mask[:, 0, 1] = 1 << 3  # a star
    mask[100, 2, 2] = 1 << 1  # low coverage: used
    ivar[101, 2, 2] = 0
    flux[102, 2, 2] = np.nan
    header["BUNIT"] = "1E-17 erg/s/cm^2/Ang/spaxel"
    primary = fits.PrimaryHDU(
        header=fits.Header({"TELESCOP": "SDSS 2.5-M", "PLATEIFU": "0-1902", "EBVGAL": 0.05, **cards})
    )
    primary.header.update({"GFWHM": 2.6, "RFWHM": 2.5, "IFWHM": 2.4, "ZFWHM": 2.4})
    cube = np.repeat(sigma, NY * NX).reshape(-1, NY, NX).astype(np.float32)
    cube[:, 0, 0] = 0  # as outside the hexagon
    cube[:50, 0, 2] = np.nan
    cube[7] = 0  # a whole channel
    names = {"LSFPRE": ("LSFPOST", "LSFPRE"), "PREDISP": ("DISP", "PREDISP"), "LSFPOST": ("LSFPOST",)}.get(
        resolution, ()
    )
    cubes = [fits.ImageHDU(cube * (1 if name == resolution else 1.05), name=name) for name in names]
    power = (wave / sigma / FWHM).astype(np.float32)
    power[3] = 0
    hdus = [
        primary,
        fits.ImageHDU(flux, header, name="FLUX"),
        fits.ImageHDU(ivar, name="IVAR"),
        fits.ImageHDU(mask, name="MASK"),
        *cubes,
        fits.ImageHDU(wave, name="WAVE"),
        fits.ImageHDU(power, name="SPECRES"),
        fits.ImageHDU(flux[0], name="GIMG"),
    ]
    return fits.HDUList(hdus)


def write(path, hdus):
    hdus.writeto(path)
    return path


# ---------------------------------------------------------------- SAMI
def sami_hdus(arm, name="1234", redshift=REDSHIFT, n_wave=2048, **fluxes):
    first, step = {"blue": (3650.0, 1.05), "red": (6240.0, 0.596)}[arm]
    wave = first + step * np.arange(n_wave)
    sigma = np.full(n_wave, {"blue": 2.65, "red": 1.61}[arm] / FWHM)
    flux = light(wave, sigma, fluxes, redshift, "air")
    flux[:, 0, 0] = np.nan
    header = sky_cards("AWAV", first, step)
    header.update(
        {"NAME": name, "Z_SPEC": redshift, "PSFFWHM": 2.1, "BUNIT": "10**(-16) erg /s /cm**2 /angstrom /pixel"}
    )
    variance = np.where(np.isfinite(flux), 1e-4, np.nan)
    dust = fits.ImageHDU(np.full(n_wave, {"blue": 1.2, "red": 1.1}[arm]), name="DUST")
    dust.header.update({"EBVPLNCK": 0.04, "EBVSFD98": 0.03})
    covariance = fits.ImageHDU(np.ones((2, 5, 5, NY, NX)), name="COVAR")
    covariance.header["HIERARCH COVARLOC_1"], covariance.header["HIERARCH COVARLOC_2"] = (
        10,
        n_wave - 48 if n_wave > 48 else 1,
    )
    weight = fits.ImageHDU(np.full(flux.shape, 1800.0), name="WEIGHT")
    variance = fits.ImageHDU(variance, name="VARIANCE")
    return fits.HDUList([fits.PrimaryHDU(flux.astype(">f8"), header), variance, weight, covariance, dust])


def sami_map_hdus(n=4, bunit="10**(-16) erg/s/cm**2/angstrom/pixel", name="HALPHA_ERR"):
    """A map of n planes, of values 1, 2 ...: of fluxes the total and the components of the fit."""
    header = sky_cards("AWAV", 1.0, 1.0)
    for key in ("CTYPE3", "CUNIT3", "CRVAL3", "CRPIX3", "CD3_3"):
        del header[key]
    header["BUNIT"] = bunit
    planes = np.arange(float(n))[:, None, None] + np.ones((n, NY, NX))
    return fits.HDUList([fits.PrimaryHDU(planes, header), fits.ImageHDU(planes, name=name)])
