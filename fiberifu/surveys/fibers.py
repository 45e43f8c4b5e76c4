# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spectra of single fibres: what is to be known of each, which are good galaxies, which serve as context.

``read_desi, read_sdss_fiber -> Spectrum with meta["fibers"] -> select_galaxies -> fiber_spectrum, fiber_context``
"""

import enum

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from specutils import Spectrum

__all__ = [
    "FiberFlag",
    "fiber_context",
    "fiber_spectrum",
    "is_good_galaxy",
    "select_galaxies",
    "take_fibers",
]

#: Flux densities of fibre spectra.
UNIT = u.Unit("1e-17 erg / (s cm2 AA)")


class FiberFlag(enum.IntFlag):
    """What is to be known of a fibre and its spectrum: column ``flags`` of ``meta["fibers"]``; 0 is good.

    Notes
    -----
    * ``SKY``: a fibre on blank sky;
    * ``NO_TARGET``: the fibre was on no target;
    * ``FIBER_FAILED``: the survey's pipeline gave the fibre up (broken, bad position, bad trace, flat, arc ...);
    * ``POOR_POSITION``: more than 30 micron (0.4 arcsec) from where it should have been; DESI only;
    * ``NO_SIGNAL``: no pixel has an inverse variance;
    * ``ARM_MISSING``: an arm, or more than half of the pixels, has none;
    * ``REDSHIFT_MISSING``, ``REDSHIFT_WARNING``: no redshift; the survey's fit of it warns;
    * ``NOT_GALAXY``: classified as a star or quasar;
    * ``APERTURE_UNDEFINED``: no aperture factor (DESI's MEAN_PSF_TO_FIBER_SPECFLUX is 0);
    * ``POSITION_TARGET``: the position is the target's, as that of the fibre is not known;
    * ``POSITION_MISSING``: no position at all;
    * ``EXPOSURES_EXCLUDED``: some exposures did not enter the coadd; position, scatter and factor are without them;
    * ``DUPLICATE``: another row of the file has the same identifier;
    * ``NO_PHOTOMETRY``: the source has no photometry or morphology, whose aperture factor therefore is nominal;
    * ``DIAMETER_GUESSED``: the diameter of the fibre is not in the file and was taken from the plate; SDSS only.
    """

    SKY = 1 << 0
    NO_TARGET = 1 << 1
    FIBER_FAILED = 1 << 2
    POOR_POSITION = 1 << 3
    NO_SIGNAL = 1 << 4
    ARM_MISSING = 1 << 5
    REDSHIFT_MISSING = 1 << 6
    REDSHIFT_WARNING = 1 << 7
    NOT_GALAXY = 1 << 8
    APERTURE_UNDEFINED = 1 << 9
    POSITION_TARGET = 1 << 10
    POSITION_MISSING = 1 << 11
    EXPOSURES_EXCLUDED = 1 << 12
    DUPLICATE = 1 << 13
    NO_PHOTOMETRY = 1 << 14
    DIAMETER_GUESSED = 1 << 15


#: Flags of fibres that are of no use as spectra of galaxies.
REJECTED = (
    FiberFlag.SKY
    | FiberFlag.NO_TARGET
    | FiberFlag.FIBER_FAILED
    | FiberFlag.NO_SIGNAL
    | FiberFlag.REDSHIFT_MISSING
    | FiberFlag.REDSHIFT_WARNING
    | FiberFlag.NOT_GALAXY
    | FiberFlag.POSITION_MISSING
)


def flag_names(flags):
    """Names of the flags of each row (n,), joined by commas; "good" without any."""
    return np.array([",".join(b.name for b in FiberFlag if f & b) or "good" for f in np.asarray(flags, int)], dtype=str)


def set_flag(flags, flag, where):
    """Set a bit of ``flags`` (n,) in place."""
    flags[np.asarray(where, bool)] |= int(flag)


def sky_coord(ra, dec):
    """ICRS positions (n,) of degrees, and where they are any: not NaN, off the sphere, or both 0, for none."""
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ra) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360) & ((ra != 0) | (dec != 0))
    return SkyCoord(np.where(good, ra, np.nan), np.where(good, dec, np.nan), unit="deg"), good


# ---------------------------------------------------------------- selection
def is_good_galaxy(fibers, *, deltachi2=40.0, zerr=0.0005, z_min=0.001, z_max=np.inf, reject=REJECTED):
    """Which rows are galaxies with a reliable redshift.

    Parameters
    ----------
    fibers : `~astropy.table.QTable`
        ``meta["fibers"]`` of `read_desi` or `read_sdss_fiber`.
    deltachi2 : float
        Least difference in chi^2 to the second best redshift, where the survey gives one; 40 for DESI's Bright Galaxy
        Survey (Hahn et al. 2023, AJ 165, 253, section 5.1, with the limit on ``zerr``).
    zerr : float
        Largest error of the redshift, in units of 1 + z.
    z_min, z_max : float
        Redshifts; below 0.001 (300 km/s) a galaxy's peculiar velocity and a star are not told apart.
    reject : FiberFlag
        Rows with any of these bits are left out.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    z, error, difference = (np.asarray(fibers[name], float) for name in ("z", "zerr", "deltachi2"))
    good = (np.asarray(fibers["flags"], int) & int(reject)) == 0
    good &= np.isfinite(z) & (z >= z_min) & (z <= z_max)
    good &= np.isfinite(error) & (error >= 0) & (error <= zerr * (1 + z))
    return good & (np.isnan(difference) | (difference > deltachi2))


def select_galaxies(spectra, **cuts):
    """Good galaxies of a list of fibre spectra.

    Parameters
    ----------
    spectra : `~specutils.Spectrum`, shape (n, n_wave)
        Of `read_desi`.
    **cuts
        As `is_good_galaxy`.

    Returns
    -------
    `~specutils.Spectrum`, shape (n_good, n_wave)
        Without a row if there is none; `take_fibers` of those that `is_good_galaxy` finds.
    """
    return take_fibers(spectra, is_good_galaxy(_fibers(spectra), **cuts))


# ---------------------------------------------------------------- rows
def take_fibers(spectra, rows):
    """Some rows of a list of fibre spectra, with their rows of all that ``meta`` has of each.

    Parameters
    ----------
    spectra : `~specutils.Spectrum`, shape (n, n_wave)
    rows : array_like of bool (n,) or int, or slice

    Returns
    -------
    `~specutils.Spectrum`
    """
    fibers = _fibers(spectra)
    if spectra.flux.ndim != 2:
        raise ValueError(f"spectra has the shape {spectra.shape}; give a list of spectra (n, n_wave)")
    rows = np.arange(len(fibers))[rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))]
    return _rows(spectra, rows, spectral_axis_index=1)


def fiber_spectrum(spectra, row=0):
    """One row of a list of fibre spectra as a spectrum of its own, which knows its redshift.

    Parameters
    ----------
    spectra : `~specutils.Spectrum`, shape (n, n_wave) or (n_wave,)
    row : int

    Returns
    -------
    `~specutils.Spectrum`, shape (n_wave,)
        With ``redshift``, if there is one without a warning; the position is ``meta["fibers"]["position"][0]``.

    Raises
    ------
    ValueError
        If there is no such row.
    """
    n = len(_fibers(spectra))
    if not -n <= row < n:
        raise ValueError(f"row is {row}; there are {n} spectra")
    if spectra.flux.ndim == 1:
        return spectra
    fiber = spectra.meta["fibers"][row]
    known = np.isfinite(fiber["z"]) and not fiber["flags"] & FiberFlag.REDSHIFT_WARNING
    return _rows(spectra, row, **({"redshift": float(fiber["z"])} if known else {}))


def fiber_context(spectra, rows=None):
    """Spectra and where they were taken, as ``context`` of `VirtualIFU.predict <fiberifu.VirtualIFU.predict>`.

    Flux stays as the survey calibrates it, to the total of a point source, and with the dust of the Milky Way: the
    prediction brings it to the flux of the image at the fibre, and dereddens it, as it did with the spectra of the
    training.

    Parameters
    ----------
    spectra : `~specutils.Spectrum`, shape (n, n_wave) or (n_wave,)
        Of one galaxy.
    rows : sequence of int, optional
        All that have signal, a position, and a fibre that did not fail nor is on sky, by default.

    Returns
    -------
    list of (`~specutils.Spectrum`, `~astropy.coordinates.SkyCoord`)

    Raises
    ------
    ValueError
        If a row that was asked for is none of these; if there is none, by default.
    """
    fibers = _fibers(spectra)
    unusable = FiberFlag.NO_SIGNAL | FiberFlag.POSITION_MISSING | FiberFlag.FIBER_FAILED | FiberFlag.SKY
    usable = (np.asarray(fibers["flags"], int) & int(unusable)) == 0
    if rows is None:
        rows = np.flatnonzero(usable)
        if not len(rows):
            raise ValueError("spectra has no row with signal and a position; see its meta['fibers']['status']")
    for row in rows:
        if not usable[row]:
            raise ValueError(f"row {row} is of no use as context: {fibers['status'][row]}; choose another")
    return [(fiber_spectrum(spectra, int(row)), fibers["position"][row]) for row in rows]


def _fibers(spectra):
    fibers = spectra.meta.get("fibers")
    if fibers is None:
        raise ValueError("spectra has no meta['fibers']; give what read_desi or read_sdss_fiber returned")
    return fibers


def _rows(spectra, rows, **keywords):
    one = np.ndim(rows) == 0
    meta = dict(spectra.meta)
    for key in ("fibers", "fibermap"):
        if meta.get(key) is not None:
            meta[key] = meta[key][[rows] if one else rows]
    if meta.get("lsf") is not None:
        meta["lsf"] = meta["lsf"][rows]
    if "redshift" in keywords:
        meta["redshift"] = keywords["redshift"]
    kind, array = type(spectra.uncertainty), spectra.uncertainty.array[rows]
    return Spectrum(
        spectra.flux[rows],
        spectral_axis=u.Quantity(spectra.spectral_axis),
        uncertainty=kind(array, unit=spectra.uncertainty.unit),
        mask=spectra.mask[rows],
        meta=meta,
        **keywords,
    )
