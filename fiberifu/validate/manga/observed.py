# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What was observed: ``MAPS, or a fit of the cube -> line maps at positions, without Galactic dust, with bad bits``.

Positions are spaxels, or the bins of a cube or of MAPS that repeat one spectrum in many spaxels. B positions, L = 15
lines of `fiberifu.model.LINES`.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_area

from ...extinction import mw_transmission
from ...lines import DAPMask, line_table
from ...lines.diagnostics import relative_extinction
from ...provenance import is_predicted
from ...surveys import DAPQuality, DRPQuality, read_manga_maps

__all__ = [
    "BAD_BITS",
    "PSF_FWHM",
    "Observed",
    "Unusable",
    "line_names",
    "observed_lines",
    "read_maps",
    "refuse",
    "transmission",
]

#: Bits of DAP masks with which a value is not used as truth.
BAD_BITS = DAPMask.NOCOV | DAPMask.LOWCOV | DAPMask.FORESTAR | DAPMask.DONOTUSE
PSF_FWHM = 2.5  # arcsec, where a file does not tell: the survey's median (Law et al. 2016)
LAWS = {"odonnell": "odonnell94", "ccm": "cardelli89"}  # GEXTLAW of the DAP
CRITICAL = DAPQuality.CRITICAL | DAPQuality.DAPCRIT | DAPQuality.DRPCRIT


class Unusable(ValueError):
    """A galaxy whose files must not be used, for the reason given: flagged by the survey, or predicted."""


@dataclasses.dataclass(eq=False)
class Observed:
    """Line maps of one galaxy as truth.

    Attributes
    ----------
    kind : str
        Where they are from, in words.
    redshift : float
    ebv : float
        Galactic E(B-V), mag, SFD scale.
    wcs : `~astropy.wcs.WCS`
        Celestial, of the spaxels.
    group : ndarray (ny, nx) of int
        Position of each spaxel, -1 for none.
    psf_fwhm : float
        arcsec, in r.
    flux, flux_sigma, continuum : ndarray (B, L)
        Per spaxel, 1e-17 erg/s/cm2 (/Angstrom), corrected for Galactic extinction by the law of
        `fiberifu.extinction`; NaN where a line is not there; ``flux_sigma`` 0 for a simulation's truth.
    ew, ew_sigma : ndarray (B, L)
        Rest frame, Angstrom.
    bad : ndarray (B, L) of bool
        Not to be judged by.
    velocity : ndarray (B,)
        Of H-alpha, km/s.
    simulated : bool
    header : `~astropy.io.fits.Header`
    """

    kind: str
    redshift: float
    ebv: float
    wcs: object
    group: np.ndarray
    psf_fwhm: float
    flux: np.ndarray
    flux_sigma: np.ndarray
    continuum: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    bad: np.ndarray
    velocity: np.ndarray
    simulated: bool
    header: object

    @property
    def spaxel(self):
        """Side of a spaxel, arcsec."""
        return float(np.sqrt(proj_plane_pixel_area(self.wcs.celestial))) * 3600

    @property
    def binned(self):
        """Whether some positions are of more than one spaxel."""
        return bool((np.bincount(self.group[self.group >= 0]) > 1).any())

    def within(self, inside):
        """The same of positions that have more than half of their spaxels in ``inside`` (ny, nx) of bool.

        Raises
        ------
        ValueError
            If there are none.
        """
        known, size = self.group >= 0, len(self.flux)
        share = np.bincount(self.group[known], inside[known], size) / np.bincount(self.group[known], minlength=size)
        keep = share > 0.5
        if not keep.any():
            raise ValueError("no good spaxel within the radius asked for")
        group = np.where(known & keep[self.group], (np.cumsum(keep) - 1)[self.group], -1)
        per_position = ("flux", "flux_sigma", "continuum", "ew", "ew_sigma", "bad", "velocity")
        return dataclasses.replace(self, group=group, **{name: getattr(self, name)[keep] for name in per_position})

    def grid(self, values):
        """Values (B,) of positions as a map (ny, nx)."""
        return np.where(self.group >= 0, np.asarray(values, float)[self.group], np.nan)


def read_maps(path, *, redshift=None, cube=None):
    """Published maps as truth.

    Parameters
    ----------
    path : path-like
        MAPS of the DAP, of any release, or of a simulated survey. Where the emission lines were measured on bins, each
        bin is one position.
    redshift : float, optional
        By default that of the file.
    cube : path-like, optional
        Of the same galaxy, for what headers of MAPS may lack: quality, PSF, position.

    Returns
    -------
    Observed
        Fluxes that were corrected by another law (GEXTLAW, O'Donnell 1994 in the DAP) have that taken back and ours,
        on the same E(B-V), applied: -0.018 dex at H-alpha for E(B-V) = 0.1.

    Raises
    ------
    Unusable
        If the survey says that they must not be used, or they were predicted.
    FileNotFoundError, ValueError
        If the file cannot be read.
    """
    maps = read_manga_maps(path, allow_predicted=True)
    refuse(maps.meta["header"], path)
    header = maps.meta["header"].copy()
    if cube is not None:
        with fits.open(cube) as hdus:
            refuse(hdus[0].header, cube)
            header.extend(hdus[0].header, unique=True)
    quality, drp = maps.meta["quality"], DRPQuality(int(header.get("DRP3QUAL", 0)))
    if quality & CRITICAL or drp & DRPQuality.CRITICAL:
        raise Unusable(f"{path}: DAPQUAL {quality!r}, DRP3QUAL {drp!r}: must not be used")
    z = maps.redshift if redshift is None else redshift
    if not np.isfinite(z):
        raise ValueError(f"{path}: no redshift in it; give one (drpall, or a table with the column redshift)")
    ebv = float(maps.ebv or 0.0)
    factor = _same_law(header, z, ebv) if maps.extinction_corrected else 1 / transmission(z, ebv)
    group = _bins(path, maps.shape)
    kind = f"MAPS {header.get('DAPTYPE') or str(path.name).split('-MAPS-')[-1].split('.fits')[0]}"
    simulated = maps.provenance is not None
    return observed_lines(maps, group, factor, kind=kind, redshift=z, ebv=ebv, wcs=maps.wcs, simulated=simulated,
                     psf_fwhm=float(header.get("RFWHM") or PSF_FWHM), header=header)  # fmt: skip


def transmission(redshift, ebv):
    """Of the Milky Way's dust at the observed wavelengths of the lines (L,)."""
    return mw_transmission(_wavelength(redshift), ebv)


def refuse(header, path):
    """Unusable if a header says that what comes with it was predicted."""
    if is_predicted(header):
        raise Unusable(f"{path}: DATATYPE='PREDICTED', made by fiberifu: no truth; give an observation")


# ---------------------------------------------------------------- parts
def line_names():
    """Keys of the lines, L of them, in the order of the columns."""
    from ...model import LINES  # loads torch

    return list(LINES)


def _wavelength(redshift):
    return line_table(line_names())["wavelength"].to_value(u.AA) * (1 + redshift)


def _same_law(header, redshift, ebv):
    """What takes fluxes (L,) from the correction by the survey's law to that by ours, with the same E(B-V)."""
    law = str(header.get("GEXTLAW", "")).strip().lower()
    if not ebv or law not in LAWS:
        return np.ones(len(line_names()))
    wave = _wavelength(redshift)
    theirs = relative_extinction(wave * u.AA, LAWS[law], rv=float(header.get("RVGAL", 3.1)))
    return 10 ** (-0.4 * ebv * theirs) / mw_transmission(wave, ebv)


def _bins(path, shape):
    """Bin of each spaxel on which the lines were measured, -1 for none; a spaxel each where the file has no bins."""
    with fits.open(path, memmap=False) as hdus:
        if "BINID" not in hdus:
            return np.arange(shape[0] * shape[1]).reshape(shape)
        ids = np.asarray(hdus["BINID"].data, int)
    return ids[3] if ids.ndim == 3 and len(ids) > 3 else ids.reshape(-1, *shape)[0]  # 3: emission-line models


def observed_lines(maps, group, factor, **about):
    """Observed of line maps.

    Parameters
    ----------
    maps : `~fiberifu.lines.LineMaps`
        Of spaxels (ny, nx), of which the first of each bin is taken; or of a list of positions.
    group : ndarray (ny, nx) of int
        Bin, or row of the list, of each spaxel; -1 for none.
    factor : float or ndarray (L,)
        Of fluxes and continua.
    **about
        The other attributes.
    """
    lines = line_names()
    if len(maps.shape) == 2:
        ids, first = np.unique(group, return_index=True)
        first = first[ids >= 0]
        group = np.where(group >= 0, np.searchsorted(ids[ids >= 0], group), -1)
        take = lambda x: np.asarray(x).reshape(-1)[first]  # noqa: E731
    else:
        take = np.asarray

    def table(quantity, error=False):
        columns = []
        for line in lines:
            data = getattr(maps, quantity)[line] if line in maps.lines else None
            values = data if data is None or not error else data.uncertainty
            missing = np.full(maps.shape, np.nan)
            columns.append(take(missing if values is None else values.array if error else data.data))
        return np.stack(columns, 1).astype(float)

    bits = np.stack(
        [take(maps.flux[x].flags | maps.ew[x].flags) if x in maps.lines else take(np.full(maps.shape, int(BAD_BITS)))
         for x in lines], 1,
    )  # fmt: skip
    flux, sigma, ew = table("flux") * factor, table("flux", error=True) * factor, table("ew")
    continuum = table("continuum") * factor
    if not np.isfinite(continuum).any():  # early releases of the DAP have none
        with np.errstate(divide="ignore", invalid="ignore"):
            continuum = np.where(np.abs(ew) > 0.1, flux / (ew * (1 + about["redshift"])), np.nan)
    bad = ((bits & int(BAD_BITS)) != 0) | ~np.isfinite(flux) | ~np.isfinite(ew)
    keep = ~bad.all(1)
    renumber = np.where(keep, np.cumsum(keep) - 1, -1)
    group = np.where(group >= 0, renumber[group], -1)
    velocity = take(maps.velocity["Ha"].data) if "Ha" in maps.lines else np.full(len(flux), np.nan)
    parts = {"flux": flux, "flux_sigma": np.nan_to_num(sigma), "continuum": continuum, "ew": ew,
             "ew_sigma": np.nan_to_num(table("ew", error=True)), "bad": bad, "velocity": velocity}  # fmt: skip
    return Observed(group=group, **{name: value[keep] for name, value in parts.items()}, **about)
