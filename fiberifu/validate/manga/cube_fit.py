# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""A cube as truth: ``good spaxels, or bins, near the galaxy -> fit_line_maps -> Observed``."""

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from specutils import Spectrum

from ...lines import bin_spectra, fit_line_maps
from ...surveys import DRPQuality
from .observed import PSF_FWHM, Unusable, line_names, observed_lines, refuse, transmission

__all__ = ["fit_cube"]

#: Bits of DRP masks, of a cube's pixels: NOCOV 0, LOWCOV 1, FORESTAR 3, DONOTUSE 10 (Law et al. 2016, appendix B).
BAD_PIXELS = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 10
BAD_PART = 0.5  # of a spaxel's pixels with such a bit: the spaxel is bad


def fit_cube(cube, path, *, redshift=None, near=None, continuum="ssp", threads=1):
    """Fit the lines of a cube with `~fiberifu.lines.fit_line_maps`.

    Parameters
    ----------
    cube : `~specutils.Spectrum`, shape (n_wave, ny, nx)
        Of a reader of `fiberifu.surveys`.
    path : path-like
        Of the cube, for its mask bits and for errors.
    redshift : float, optional
        By default that of the cube.
    near : callable, optional
        Of a celestial WCS and (ny, nx): which spaxels (ny, nx) of bool are wanted. All by default.
    continuum, threads
        As for `~fiberifu.lines.fit_line_maps`.

    Returns
    -------
    Observed
        Each bin of a cube that repeats spectra is one position.

    Raises
    ------
    Unusable
        If the survey says that the cube must not be used, or it was predicted.
    ValueError
        If there is no redshift, or no spaxel to fit.
    """
    meta = cube.meta
    header = meta.get("header") or fits.Header()
    refuse(header, path)
    if getattr(meta.get("provenance"), "datatype", "") == "PREDICTED":
        raise Unusable(f"{path}: a cube that fiberifu predicted: no truth; give an observation")
    if meta.get("quality", 0) & DRPQuality.CRITICAL:
        raise Unusable(f"{path}: DRP3QUAL {meta['quality']!r}: must not be used")
    z = meta.get("redshift") if redshift is None else redshift
    if z is None or not np.isfinite(z):
        raise ValueError(f"{path}: no redshift in it; give one (drpall, or a table with the column redshift)")
    ny, nx = cube.flux.shape[1:]
    wcs, bins = meta["celestial_wcs"], meta.get("bins")
    good = (~cube.mask).mean(0) > BAD_PART
    if bins is None:
        good &= ~bad_spaxels(path, (ny, nx))
    if near is not None:
        good &= near(wcs, (ny, nx))
    if not good.any():
        raise ValueError(f"{path}: no good spaxel within the radius asked for")
    group = np.full((ny, nx), -1)
    if bins is None:
        group[good] = np.arange(good.sum())
        spectra = _rows(cube, good)
    else:
        spectra, ids = bin_spectra(cube, np.where(good, bins, -1), how="repeated")
        group[good] = np.searchsorted(ids, bins[good])
    maps = fit_line_maps(spectra, line_names(), redshift=z, continuum=continuum, medium=meta.get("medium"),
                         threads=threads)  # fmt: skip
    ebv = float(meta.get("ebv") or 0.0)
    factor = 1.0 if meta.get("extinction_corrected") else 1 / transmission(z, ebv)
    known = meta.get("psf_fwhm") or {}
    psf = next((known[key] for key in ("r", "red", *known) if key in known), PSF_FWHM * u.arcsec)
    how = continuum if isinstance(continuum, str) else f"polynomial of degree {continuum}"
    return observed_lines(maps, group, factor, kind=f"fit of the cube ({how})", redshift=float(z), ebv=ebv, wcs=wcs,
                     simulated=meta.get("provenance") is not None, psf_fwhm=psf.to_value(u.arcsec),
                     header=header)  # fmt: skip


def bad_spaxels(path, shape):
    """Spaxels (ny, nx) of bool with NOCOV, LOWCOV, FORESTAR or DONOTUSE in more than half of a MaNGA cube's pixels."""
    with fits.open(path, memmap=False) as hdus:
        if "MASK" not in hdus or hdus["MASK"].data.shape[1:] != shape:
            return np.zeros(shape, bool)
        return ((hdus["MASK"].data & BAD_PIXELS) != 0).mean(0) > BAD_PART


def _rows(cube, good):
    """Chosen spaxels of a cube as a list of spectra."""
    ivar = cube.uncertainty.represent_as(InverseVariance).array
    lsf = cube.meta.get("lsf")
    if lsf is not None and lsf.ndim == 3:
        lsf = lsf[:, good].T
    meta = {key: cube.meta[key] for key in ("medium", "provenance") if key in cube.meta} | {"lsf": lsf}
    return Spectrum(
        cube.flux[:, good].T, spectral_axis=cube.spectral_axis, spectral_axis_index=1, mask=cube.mask[:, good].T,
        uncertainty=InverseVariance(ivar[:, good].T, unit=cube.flux.unit**-2), meta=meta,
    )  # fmt: skip
