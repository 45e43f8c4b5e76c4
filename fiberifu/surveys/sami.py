# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cubes and maps of the SAMI Galaxy Survey, data release 3.

``file of each arm -> flux, variance, dust, bins -> arms joined on one axis -> Spectrum``

Data model: Croom et al. 2021 (MNRAS 505, 991), https://docs.datacentral.org.au/sami/data-release-3/core-data-products/.
Wavelengths are in **air**; flux densities are per spaxel. Neither cubes nor published maps are corrected for Galactic
extinction: fits to the uncorrected cubes give the published fluxes to 1-3 %, to the corrected ones 5-16 % more, the
bluer the more. Published velocities are c (z_obs - z), without the (1 + z) of ours.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS
from specutils import Spectrum

from fiberifu.surveys._checks import flux_factor, load_hdus, of_one_shape, reading, sky_wcs

__all__ = ["read_sami_cube", "read_sami_map"]

# BUNIT of cubes, '10**(-16) erg /s /cm**2 /angstrom /pixel', is no unit string of FITS; "per spaxel" is understood.
UNIT = u.Unit("1e-16 erg / (s cm2 AA)")
LINE_UNIT = u.Unit("1e-16 erg / (s cm2)")
# FWHM of the Gaussian line spread function, Angstrom: van de Sande et al. 2017 (MNRAS 472, 1272), section 2.
LSF_FWHM = {"blue": 2.65, "red": 1.61}
SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))  # of a Gaussian of FWHM 1
DICHROIC = 5900.0  # Angstrom, between the arms (blue ends at 5800, red starts at 6240)


@dataclass(eq=False)
class _Arm:
    """One file."""

    path: str
    name: str
    header: object
    wcs: WCS
    wave: np.ndarray
    flux: np.ndarray
    variance: np.ndarray
    extensions: dict

    def array(self, name):
        return self.extensions[name][1] if name in self.extensions else None


def read_sami_cube(blue, red=None, *, deredden=False):
    """Read a SAMI cube: one arm, or both on one wavelength axis with a gap.

    Parameters
    ----------
    blue : path-like
        A cube, ``default`` or binned (``sectors``, ``adaptive``, ``annular``); of the red arm if it comes alone.
    red : path-like, optional
        The other arm of the same cube.
    deredden : bool
        Whether to correct for Galactic extinction: flux times the file's DUST vector, variance times its square.

    Returns
    -------
    `~specutils.Spectrum`, shape (n_wave, ny, nx)
        In 1e-16 erg/(s cm2 Angstrom) per spaxel, with `~astropy.nddata.VarianceUncertainty`, and a mask, True where
        there is no variance.  A bin of a binned cube is the mean of its spaxels, and stands in each of them.  One arm
        has the WCS of its file, two have wavelengths alone.  ``meta`` has

        * ``header`` : the primary header (of the blue arm if there are two);
        * ``lsf`` : instrumental sigma (n_wave,), a length;
        * ``redshift`` : Z_SPEC, or None;
        * ``medium``, ``frame`` : "air", "heliocentric" (as the catalogue's redshifts);
        * ``dust`` : factors (n_wave,) that correct for Galactic extinction (Planck's E(B-V), ``ebv_planck``, with the
          law of Cardelli, Clayton & Mathis 1989, ApJ 345, 245), or None;
        * ``ebv`` : Galactic E(B-V) in mag (SFD), or None; ``extinction_corrected``, whether it was corrected for;
        * ``bins`` : number of the bin of each spaxel (ny, nx), -1 outside; None for a default cube;
        * ``weight`` : effective exposure (n_wave, ny, nx), or None;
        * ``covariance`` : for each arm the extension COVAR, ``values`` (n, 5, 5, ny, nx) relative to the variance, at
          ``wavelength`` (n,); empty for binned cubes, whose variance includes it (Sharp et al. 2015, MNRAS 446, 1551);
        * ``psf_fwhm`` : dict of the FWHM per arm, arcsec;
        * ``celestial_wcs`` : of the spaxels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is not FITS, is truncated, is no SAMI cube or in another unit, has no DUST to deredden with; or if two
        do not belong together.
    """
    arms = []
    for path in (blue, red):
        if path is not None:
            with reading(path, "a SAMI cube"):
                arms.append(_read_arm(path))
    with reading(blue, "a SAMI cube"):
        return _cube(sorted(arms, key=lambda arm: arm.wave[0]), deredden)


def _cube(arms, deredden):
    if len(arms) == 2:
        _check_pair(*arms)
    first = arms[0]
    dust = _joined(arms, "DUST")
    flux, variance = (np.concatenate([getattr(arm, name) for arm in arms]) for name in ("flux", "variance"))
    if deredden:
        if dust is None:
            raise ValueError(f"{first.path}: no extension DUST; deredden=True needs it")
        factor = dust.astype(np.float32)[:, None, None]
        flux, variance = flux * factor, variance * factor**2
    wave = np.concatenate([arm.wave for arm in arms])
    bins = first.array("BIN_MASK")
    dust_header = first.extensions["DUST"][0] if "DUST" in first.extensions else {}
    meta = {
        "header": first.header,
        "lsf": np.concatenate([np.full(len(arm.wave), LSF_FWHM[arm.name] * SIGMA) for arm in arms]) * u.AA,
        "redshift": first.header.get("Z_SPEC"),
        "medium": "air",
        "frame": "heliocentric",
        "dust": dust,
        "ebv": dust_header.get("EBVSFD98"),
        "ebv_planck": dust_header.get("EBVPLNCK"),
        "extinction_corrected": bool(deredden),
        "bins": None if bins is None else np.where(bins > 0, bins, -1).astype(int),
        "weight": _joined(arms, "WEIGHT"),
        "covariance": {arm.name: _covariance(arm) for arm in arms if "COVAR" in arm.extensions},
        "psf_fwhm": {arm.name: arm.header["PSFFWHM"] * u.arcsec for arm in arms if "PSFFWHM" in arm.header},
        "celestial_wcs": first.wcs.celestial,
    }
    # The arms have pixels of different widths: no one WCS describes both.
    axis = {"wcs": first.wcs} if len(arms) == 1 else {"spectral_axis": wave * u.AA}
    mask = ~(np.isfinite(flux) & np.isfinite(variance) & (variance > 0))
    uncertainty = VarianceUncertainty(variance, unit=UNIT**2)
    return Spectrum(flux * UNIT, uncertainty=uncertainty, mask=mask, meta=meta, spectral_axis_index=0, **axis)


def read_sami_map(path, *, component=None):
    """Read a published map: line flux, gas or stellar kinematics.

    Fluxes of H-alpha have an axis of components, the **total first**, then those of the fit; other lines have the total
    alone.  Velocities and dispersions of the gas have the components alone.

    Parameters
    ----------
    path : path-like
    component : int, optional
        Of the fit, from 1, the narrowest; by default the total flux, or the first component of the kinematics.

    Returns
    -------
    `~astropy.nddata.CCDData`, shape (ny, nx)
        With unit, standard deviation, mask (True where there is no value) and celestial WCS.  Line fluxes are in 1e-16
        erg/(s cm2) per spaxel (their BUNIT has a superfluous "/angstrom").  ``meta["component"]`` is "total" or a
        number, ``meta["n_components"]`` how many there are beside the total.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated or no map, or lacks the component.
    """
    with reading(path, "a SAMI map"):
        return _map(path, component)


def _map(path, component):
    hdus = load_hdus(path, "a SAMI file")
    header, data = hdus[0]
    if data is None or data.ndim not in (2, 3) or len(data) > 10 and data.ndim == 3:
        shape = None if data is None else data.shape
        raise ValueError(
            f"{path}: its first extension has the shape {shape}; a SAMI map is (y, x) or (component, y, x)"
        )
    text = str(header.get("BUNIT", header.get("UNIT", ""))).strip()
    is_flux = text.startswith("10**(-16) erg")
    unit = LINE_UNIT if is_flux else u.Unit(text, parse_strict="silent")
    has_total = data.ndim == 2 or is_flux or "total (0)" in str(header.get("HISTORY", ""))
    planes = data if data.ndim == 3 else data[None]
    n_components = len(planes) - has_total
    if component is not None and not 1 <= component <= n_components:
        raise ValueError(
            f"component is {component!r}; {path} has {n_components} beside the total: give None or 1 to that"
        )
    plane = 0 if component is None else component - (not has_total)
    error = next((x for h, x in hdus[1:] if str(h.get("EXTNAME", "")).strip().endswith("_ERR")), None)
    value = planes[plane].astype(float)
    bad, uncertainty = ~np.isfinite(value), None
    if error is not None:
        sigma = (error if error.ndim == 3 else error[None])[plane].astype(float)
        bad |= ~(np.isfinite(sigma) & (sigma > 0))
        uncertainty = StdDevUncertainty(sigma, unit=unit)
    meta = {
        "header": header,
        "component": "total" if has_total and component is None else component or 1,
        "n_components": n_components,
        "extinction_corrected": False,
    }
    return CCDData(value, unit=unit, uncertainty=uncertainty, mask=bad, wcs=sky_wcs(header, path), meta=meta)


# ---------------------------------------------------------------- arms
def _read_arm(path):
    hdus = load_hdus(path, "a SAMI file")
    header, flux = hdus[0]
    extensions = {str(h.get("EXTNAME", "")).strip(): (h, x) for h, x in hdus[1:] if x is not None}
    variance = extensions.get("VARIANCE", (None, None))[1]
    if flux is None or flux.ndim != 3 or variance is None:
        found = None if flux is None else flux.shape
        raise ValueError(f"{path}: first extension {found}, others {sorted(extensions)}; no SAMI cube with VARIANCE")
    images = {name: extensions.get(name, (None, None))[1] for name in ("DUST", "BIN_MASK", "WEIGHT")}
    of_one_shape(path, flux.shape, VARIANCE=variance, WEIGHT=images["WEIGHT"])
    of_one_shape(path, flux.shape[:1], DUST=images["DUST"])
    of_one_shape(path, flux.shape[1:], BIN_MASK=images["BIN_MASK"])
    sky_wcs(header, path)
    wcs = WCS(header, preserve_units=True)
    if wcs.wcs.ctype[2] != "AWAV":
        raise ValueError(f"{path}: CTYPE3 is {wcs.wcs.ctype[2]!r}; SAMI cubes have 'AWAV', wavelength in air")
    pixels = np.arange(len(flux))
    wave = (wcs.spectral.pixel_to_world_values(pixels) * u.Unit(wcs.wcs.cunit[2])).to_value(u.AA)
    name = "blue" if wave.mean() < DICHROIC else "red"
    if not (np.isfinite(wave).all() and wave[0] > 0 and (np.diff(wave) > 0).all()):
        raise ValueError(f"{path}: the wavelengths of its WCS do not rise from above zero; fetch it again")
    factor = flux_factor(path, header.get("BUNIT"), UNIT)
    flux, variance = (
        np.ascontiguousarray(x * scale, dtype=np.float32) for x, scale in ((flux, factor), (variance, factor**2))
    )
    return _Arm(path, name, header, wcs, wave, flux, variance, extensions)


def _check_pair(blue, red):
    """ValueError unless the two are the arms of one cube."""
    if (blue.name, red.name) != ("blue", "red"):
        raise ValueError(f"blue and red: {blue.path} and {red.path} are both {blue.name}; give one of each arm")
    names = [str(arm.header.get("NAME", "")).strip() for arm in (blue, red)]
    if names[0] != names[1]:
        raise ValueError(f"red: {red.path} is of {names[1]!r}, blue of {names[0]!r}; give the arms of one galaxy")
    bins = [arm.array("BIN_MASK") for arm in (blue, red)]
    alike = bins[0] is bins[1] is None or np.array_equal(*bins)
    if blue.flux.shape[1:] != red.flux.shape[1:] or not alike:
        raise ValueError(f"red: the spaxels of {red.path} are binned otherwise than those of {blue.path}")


def _joined(arms, name):
    """One array along wavelength, or None where an arm has none."""
    arrays = [arm.array(name) for arm in arms]
    return None if any(x is None for x in arrays) else np.concatenate(arrays).astype(float)


def _covariance(arm):
    header, values = arm.extensions["COVAR"]
    channels = [header.get(f"COVARLOC_{i + 1}") for i in range(len(values))]
    if values.ndim != 5 or None in channels:
        raise ValueError(f"{arm.path}: COVAR has the shape {values.shape} and channels {channels}; fetch it again")
    return {"values": values.astype(np.float32), "wavelength": arm.wave[np.array(channels, int)] * u.AA}
