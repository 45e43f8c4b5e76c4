# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Maps of emission lines, or lists of positions: flux, equivalent width, kinematics, with honest errors."""

from collections.abc import Mapping
from enum import IntFlag

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable

from fiberifu.lines.table import resolve_line

__all__ = ["CONTINUUM_UNIT", "FLUX_UNIT", "DAPMask", "LineMaps", "Totals"]

FLUX_UNIT = u.Unit("1e-17 erg / (s cm2)")
CONTINUUM_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")


class DAPMask(IntFlag):
    """Bits of the masks of the MaNGA data analysis pipeline (MANGA_DAPPIXMASK)."""

    NOCOV = 1 << 0  #: no coverage in this spaxel
    LOWCOV = 1 << 1  #: low coverage
    DEADFIBER = 1 << 2  #: major contribution by a dead fibre
    FORESTAR = 1 << 3  #: foreground star
    NOVALUE = 1 << 4  #: the analysis gives no value
    UNRELIABLE = 1 << 5  #: value deemed unreliable
    MATHERROR = 1 << 6  #: mathematical error in the computation
    FITFAILED = 1 << 7  #: fit failed
    NEARBOUND = 1 << 8  #: fitted value near its bound
    NOCORRECTION = 1 << 9  #: no correction available
    MULTICOMP = 1 << 10  #: multiple velocity components
    DONOTUSE = 1 << 30  #: do not use for science


NO_DATA = DAPMask.NOVALUE | DAPMask.DONOTUSE


class _ByLine(Mapping):
    """Read-only mapping from lines (any name that `resolve_line` takes) to `~astropy.nddata.CCDData`."""

    def __init__(self, keys, make):
        self._keys, self._make = keys, make

    def __getitem__(self, line):
        return self._make(self._keys.index(resolve_line(line, known=self._keys)))

    def __iter__(self):
        return iter(self._keys)

    def __len__(self):
        return len(self._keys)

    def __contains__(self, line):
        try:
            return bool(resolve_line(line, known=self._keys))
        except ValueError:
            return False


class Totals(dict):
    """Sums over spaxels by line, each (sum, 1-sigma error).

    ``used`` has the fraction of the region's area on the maps that is behind each sum (what of it lies beyond the maps
    does not count).
    """

    def __init__(self):
        super().__init__()
        self.used = {}


class LineMaps:
    """Emission-line measurements, or predictions, for a grid of spaxels or a list of positions.

    ``maps.flux["Ha"]``, and likewise ``ew``, ``continuum``, ``velocity``, ``dispersion`` and ``snr``, is a
    `~astropy.nddata.CCDData` with unit, standard deviation, celestial WCS, `DAPMask` bits in ``flags``, and a
    ``mask`` that is True where DONOTUSE is set.

    Parameters
    ----------
    lines : sequence of str
        Keys of the n lines; a name that is in no line table stays as it is.
    flux, flux_sigma : array_like or `~astropy.units.Quantity`, shape (n,) + spatial
        Line flux in 1e-17 erg/(s cm2), per spaxel or in the aperture, and 1-sigma errors.
    ew, ew_sigma : array_like or Quantity, shape (n,) + spatial, optional
        Rest-frame equivalent width in Angstrom, **positive in emission** (specutils has the opposite sign).
    continuum, continuum_sigma : array_like or Quantity, shape (n,) + spatial, optional
        Pseudo-continuum under the line, observed frame, in 1e-17 erg/(s cm2 Angstrom).
    velocity, velocity_sigma, dispersion, dispersion_sigma, instrumental_dispersion : array_like, optional
        In km/s, broadcast to (n,) + spatial.  Velocity is c (z_obs - z) / (1 + z).  The dispersion is as
        observed: not corrected for the instrumental one.  What is absent is NaN and masked.
    mask : array_like of int, or dict of them, optional
        `DAPMask` bits, broadcast to (n,) + spatial; a dict has one for each quantity (``"flux"``,
        ``"ew"`` ...).  Values that are not finite are marked NOVALUE and DONOTUSE in addition.
    flags : array_like of int, shape spatial, optional
        `fiberifu.flags.Flag` bits of the positions.
    wcs : `~astropy.wcs.WCS`, optional
        Celestial WCS of two-dimensional maps.
    positions : `~astropy.coordinates.SkyCoord`, shape spatial, optional
        For lists of positions.
    redshift : float
        Of the frame of velocities and equivalent widths.
    covariance : array_like, shape spatial + (n, n), optional
        Covariance of the fluxes of different lines in one position; independent if absent.
    shared : array_like, shape (k, n) + spatial, optional
        Directions of flux error common to all lines and positions: the flux error is
        ``sum_k shared[k] * e_k`` with independent normal ``e_k``, plus an independent rest.
    provenance : `~fiberifu.provenance.Provenance`, optional
        Needed for predictions and simulations.
    extinction_corrected : bool, optional
        For Galactic extinction; by default as in ``provenance`` (False without).
    ebv : float, optional
        Galactic E(B-V) in mag; by default as in ``provenance``.
    meta : dict, optional
    """

    def __init__(
        self,
        lines,
        flux,
        flux_sigma,
        ew=None,
        ew_sigma=None,
        continuum=None,
        continuum_sigma=None,
        *,
        redshift,
        velocity=None,
        velocity_sigma=None,
        dispersion=None,
        dispersion_sigma=None,
        instrumental_dispersion=None,
        mask=0,
        flags=None,
        wcs=None,
        positions=None,
        covariance=None,
        shared=None,
        provenance=None,
        extinction_corrected=None,
        ebv=None,
        meta=None,
    ):
        self.lines = tuple(str(line) for line in lines)
        flux = _plain(flux, FLUX_UNIT)
        if flux.ndim not in (1, 2, 3) or len(flux) != len(self.lines):
            raise ValueError(
                f"flux has the shape {flux.shape}; for {len(self.lines)} lines it must be "
                f"({len(self.lines)}, ...) with at most two spatial axes"
            )
        self.shape = flux.shape[1:]
        if wcs is not None and (len(self.shape) != 2 or wcs.naxis != 2):
            raise ValueError(
                f"wcs has {wcs.naxis} axes and the maps {len(self.shape)}; both must be 2 (use wcs.celestial)"
            )
        if positions is not None and positions.shape != self.shape:
            raise ValueError(f"positions has the shape {positions.shape}; the fluxes ask for {self.shape}")
        arrays = {
            "flux": (flux, flux_sigma, FLUX_UNIT),
            "ew": (ew, ew_sigma, u.AA),
            "continuum": (continuum, continuum_sigma, CONTINUUM_UNIT),
            "velocity": (velocity, velocity_sigma, u.km / u.s),
            "dispersion": (dispersion, dispersion_sigma, u.km / u.s),
            "instrumental_dispersion": (instrumental_dispersion, None, u.km / u.s),
        }
        self._exact = {name for name, (_, sigma, _) in arrays.items() if sigma is None}  # known without an error
        self._data = {
            name: (self._full(value, unit, name), self._full(sigma, unit, f"{name}_sigma"), unit)
            for name, (value, sigma, unit) in arrays.items()
        }
        masks = mask if isinstance(mask, Mapping) else dict.fromkeys(arrays, mask)
        self._mask = {
            name: np.where(np.isfinite(value), 0, np.int32(NO_DATA))
            | np.broadcast_to(np.asarray(masks.get(name, 0), np.int32), value.shape)
            for name, (value, _, _) in self._data.items()
        }
        self.flags = None if flags is None else np.broadcast_to(np.asarray(flags, dtype=np.int32), self.shape)
        n = len(self.lines)
        self._covariance = _checked(covariance, self.shape + (n, n), "covariance")
        self.shared = _checked(shared, (len(shared) if shared is not None else 0, n) + self.shape, "shared")
        self.wcs, self.positions, self.redshift = wcs, positions, float(redshift)
        self.provenance = provenance
        if extinction_corrected is None:
            extinction_corrected = provenance is not None and provenance.extinction_corrected
        self.extinction_corrected = bool(extinction_corrected)
        self.ebv = provenance.ebv if ebv is None and provenance is not None else ebv
        self.meta = dict(meta or {})
        #: `LineMaps` of each component, the narrow one first, of a fit with two; else empty.
        self.components = ()
        self.fitted = None  # FittedSpectra, of a fit

    def _full(self, value, unit, name):
        shape = (len(self.lines),) + self.shape
        value = np.nan if value is None else _plain(value, unit)
        try:
            return np.broadcast_to(value, shape)
        except ValueError:
            raise ValueError(f"{name} has the shape {np.shape(value)}; it must be {shape}") from None

    def _map(self, name):
        value, sigma, unit = self._data[name]
        exact = name in self._exact
        return _ByLine(
            self.lines, lambda i: self._ccd(value[i], None if exact else sigma[i], unit, self._mask[name][i])
        )

    def _ccd(self, value, sigma, unit, bits):
        bits = bits | np.where(np.isfinite(value), 0, np.int32(NO_DATA))
        uncertainty = None if sigma is None else StdDevUncertainty(sigma)
        return CCDData(
            value,
            unit=unit,
            uncertainty=uncertainty,
            mask=bits & DAPMask.DONOTUSE != 0,
            flags=bits,
            wcs=self.wcs,
            meta={} if self.provenance is None else {"provenance": self.provenance},
        )

    flux = property(lambda self: self._map("flux"), doc="Line flux, 1e-17 erg/(s cm2).")
    ew = property(lambda self: self._map("ew"), doc="Rest-frame equivalent width, Angstrom, positive in emission.")
    continuum = property(lambda self: self._map("continuum"), doc="Pseudo-continuum, 1e-17 erg/(s cm2 Angstrom).")
    velocity = property(lambda self: self._map("velocity"), doc="Velocity relative to ``redshift``, km/s.")
    dispersion = property(lambda self: self._map("dispersion"), doc="Observed velocity dispersion, km/s.")
    instrumental_dispersion = property(
        lambda self: self._map("instrumental_dispersion"), doc="Instrumental dispersion at the line, km/s."
    )

    @property
    def intrinsic_dispersion(self):
        """Dispersion without the instrument's, km/s: square root of the difference of squares.

        Where lines are narrower than the instrument it is 0, with NEARBOUND and DONOTUSE; its error is that of the
        observed dispersion, propagated, and large where the two are close.
        """
        value, sigma, unit = self._data["dispersion"]
        instrument = self._data["instrumental_dispersion"][0]
        square = value**2 - instrument**2
        intrinsic = np.sqrt(np.clip(square, 0, None))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(intrinsic > 0, value * sigma / intrinsic, np.nan)
        mask = self._mask["dispersion"] | np.where(square > 0, 0, np.int32(DAPMask.NEARBOUND | DAPMask.DONOTUSE))
        return _ByLine(self.lines, lambda i: self._ccd(intrinsic[i], error[i], unit, mask[i]))

    @property
    def snr(self):
        """Flux over its 1-sigma error."""
        value, sigma, _ = self._data["flux"]
        return _ByLine(
            self.lines,
            lambda i: self._ccd(_divide(value[i], sigma[i]), None, u.dimensionless_unscaled, self._mask["flux"][i]),
        )

    def ratio(self, numerator, denominator):
        """Ratio of two fluxes with its first-order error.

        Parameters
        ----------
        numerator, denominator : str
            Line names, or sums of lines such as ``"S2_6716+S2_6731"``.

        Returns
        -------
        `~astropy.nddata.CCDData`
            Dimensionless; NaN, with MATHERROR set, where the denominator is not positive.
        """
        value = self._data["flux"][0]
        a, b = self._weights(numerator), self._weights(denominator)
        top, bottom = (sum(w[i] * value[i] for i in np.flatnonzero(w)) for w in (a, b))
        bottom = np.where(bottom > 0, bottom, np.nan)
        ratio = top / bottom
        used = np.flatnonzero(a + b)
        covariance = self._line_covariance()[..., used[:, None], used]
        gradient = a[used] - ratio[..., None] * b[used]  # d ratio = (a - ratio b) . dF / bottom
        variance = np.einsum("...i,...ij,...j->...", gradient, covariance, gradient) / bottom**2
        mask = np.bitwise_or.reduce(self._mask["flux"][used], axis=0)
        mask = mask | np.where(np.isfinite(ratio), 0, np.int32(DAPMask.MATHERROR | DAPMask.DONOTUSE))
        return self._ccd(ratio, np.sqrt(np.clip(variance, 0, None)), u.dimensionless_unscaled, mask)

    def covariance(self, a, b):
        """Covariance, position by position, of two fluxes or sums of fluxes (named as for `ratio`)."""
        i, j = (np.flatnonzero(self._weights(name)) for name in (a, b))
        block = self._line_covariance()[..., i[:, None], j]
        return block.sum((-2, -1)) * FLUX_UNIT**2

    def _weights(self, expression):
        weights = np.zeros(len(self.lines))
        for line in expression.split("+"):
            weights[self.lines.index(resolve_line(line.strip(), known=self.lines))] += 1
        return weights

    def _line_covariance(self):
        """Covariance between lines in one position, shape spatial + (n, n)."""
        if self._covariance is not None:
            return self._covariance
        sigma = np.moveaxis(self._data["flux"][1], 0, -1)
        covariance = sigma[..., None] ** 2 * np.eye(len(self.lines))
        if self.shared is not None:
            common = np.einsum("ki...,kj...->...ij", self.shared, self.shared)
            covariance = covariance + common * (1 - np.eye(len(self.lines)))
        return covariance

    def upper_limit(self, line, *, nsigma=3):
        """Upper limit of a flux: max(flux, 0) + ``nsigma`` sigma, as `~astropy.nddata.CCDData`."""
        i = self.lines.index(resolve_line(line, known=self.lines))
        value, sigma, unit = self._data["flux"]
        return self._ccd(np.maximum(value[i], 0) + nsigma * sigma[i], None, unit, self._mask["flux"][i])

    def bpt(self, kind="N2", *, snr=3):
        """Star-forming, Seyfert, LINER ... by line ratios; see `fiberifu.lines.diagnostics.bpt`."""
        from fiberifu.lines.diagnostics import bpt

        return bpt(self, kind, snr=snr)

    def whan(self, *, snr=3):
        """Classes by EW(H-alpha) and [N II]/H-alpha; see `fiberifu.lines.diagnostics.whan`."""
        from fiberifu.lines.diagnostics import whan

        return whan(self, snr=snr)

    def balmer_decrement(self, numerator="Ha", denominator="Hb"):
        """Ratio of two Balmer lines; see `ratio`, and `deredden` for what follows from it."""
        return self.ratio(numerator, denominator)

    def deredden(self, ebv=None, *, law="cardelli89", rv=3.1, decrement=("Ha", "Hb"), intrinsic=None, snr=3):
        """Correct the fluxes for dust **in the galaxy**; see `fiberifu.lines.diagnostics.deredden`.

        For Galactic extinction see ``extinction_corrected``.
        """
        from fiberifu.lines.diagnostics import deredden

        return deredden(self, ebv, law=law, rv=rv, decrement=decrement, intrinsic=intrinsic, snr=snr)

    @property
    def chi2(self):
        """Reduced chi2 of the fit, `~astropy.nddata.CCDData`; ValueError for maps that do not come from a fit."""
        from fiberifu.lines.diagnostics import reduced_chi2

        return reduced_chi2(self)

    def total(self, region=None, *, correlation=None):
        """Sum of the fluxes over spaxels.

        Parameters
        ----------
        region : array_like of bool, `regions.Region` or `photutils.aperture.Aperture`, optional
            Spaxels to sum: a mask (True = in), a sky or pixel region (centres inside), or a sky or pixel aperture,
            whose edge takes spaxels by the area inside; all by default.
        correlation : float, array_like of shape (n, n) or callable, optional
            Of the errors of neighbouring spaxels: the factor alpha of 1 + alpha log10 N by which sigma grows for N
            spaxels up to 100 (MaNGA: 1.62; Law et al. 2016, AJ 152, 83); coefficients between all n spaxels in the
            order of `numpy.ravel`; or a function that gives them for separations in spaxels (MaNGA:
            ``lambda d: np.exp(-0.5 * (d / 1.92) ** 2)``; Westfall et al. 2019, AJ 158, 231).

        Returns
        -------
        `Totals`, a dict of str to (`~astropy.units.Quantity`, `~astropy.units.Quantity`)
            Sum and 1-sigma error of each line over the spaxels that are not DONOTUSE, which count as nothing:
            ``totals.used["Ha"]`` is the fraction of the region's area on the maps that was summed.

        Raises
        ------
        ValueError
            For a region or a correlation that does not fit the maps.

        Notes
        -----
        The error uses the ``shared`` directions; ``correlation`` then is that of the rest.  Without either,
        spaxels of a prediction count as fully correlated (an upper bound), those of one bin too where maps were
        spread over bins (`spread_bins`), others as independent: neighbouring spaxels of real cubes are not, and
        need ``correlation``.  Positions whose apertures overlap must not be summed at all.
        """
        weights = np.ones(self.shape) if region is None else self._inside(region)
        value, sigma, unit = self._data["flux"]
        good = (weights > 0) & (self._mask["flux"] & DAPMask.DONOTUSE == 0) & np.isfinite(value)
        totals = Totals()
        for i, line in enumerate(self.lines):
            share = np.where(good[i], weights, 0.0)
            flux, error = (np.where(good[i], x[i], 0.0) * share for x in (value, sigma))
            common = 0.0
            if self.shared is not None:
                directions = np.where(good[i], self.shared[:, i], 0.0) * share
                common = (directions.reshape(len(directions), -1).sum(1) ** 2).sum()
                error = np.sqrt(np.clip(error**2 - (directions**2).sum(0), 0, None))
            rest = self._variance_of_sum(error, share.sum(), correlation)
            totals[line] = (flux.sum() * unit, np.sqrt(common + rest) * unit)
            totals.used[line] = share.sum() / weights.sum() if weights.any() else np.nan
        return totals

    def _variance_of_sum(self, sigma, n, correlation):
        """Variance of the sum of n spaxels that have the errors ``sigma``, 0 elsewhere."""
        bins = self.meta.get("bins")
        if bins is not None:  # what spaxels of a bin have in common adds up linearly
            by_bin = np.bincount(np.ravel(bins) - np.min(bins), np.ravel(sigma))
            if correlation is None or np.ndim(correlation) == 0 and not callable(correlation):
                growth = 1.0 if correlation is None else 1 + correlation * np.log10(np.clip((by_bin > 0).sum(), 1, 100))
                return (by_bin**2).sum() * growth**2
            raise ValueError("correlation: for maps of bins give a number (among the bins) or None")
        if correlation is None:
            predicted = self.provenance is not None and self.provenance.datatype == "PREDICTED"
            if self.shared is None and predicted:
                return sigma.sum() ** 2
            return (sigma**2).sum()
        if callable(correlation):
            if len(self.shape) != 2:
                raise ValueError(f"correlation is a function of separation; for positions {self.shape} give a matrix")
            from scipy.signal import correlate  # late: a second that few need

            # Of all pairs, by their offset: their products of errors summed, times one coefficient.
            y, x = (np.arange(1 - size, size) for size in self.shape)
            return max((correlate(sigma, sigma) * correlation(np.hypot(y[:, None], x))).sum(), 0.0)
        correlation = np.asarray(correlation, float)
        if correlation.ndim == 0 and correlation >= 0:
            return (sigma**2).sum() * (1 + correlation * np.log10(np.clip(n, 1, 100))) ** 2
        if correlation.shape != (sigma.size, sigma.size):
            raise ValueError(
                f"correlation is {correlation if correlation.ndim == 0 else correlation.shape}; it must be a number "
                f"that is not negative, a function, or an array of shape {(sigma.size, sigma.size)}"
            )
        return max(sigma.ravel() @ correlation @ sigma.ravel(), 0.0)

    def _inside(self, region):
        """How much of each spaxel is in the region, 0 to 1."""
        on_sky = hasattr(region, "to_pixel")
        if (on_sky and self.wcs is None) or (hasattr(region, "to_mask") and len(self.shape) != 2):
            raise ValueError(f"region is {region!r}; maps of shape {self.shape} without a WCS take a bool array")
        if on_sky:
            region = region.to_pixel(self.wcs)
        if hasattr(region, "to_mask"):
            # Apertures are exact in area; regions, which may be any shape, take centres.
            cut = region.to_mask(method="exact") if hasattr(region, "area_overlap") else region.to_mask(mode="center")
            if isinstance(cut, list):
                raise ValueError(f"region is an aperture at {len(cut)} positions; give one")
            image = cut.to_image(self.shape)
            return np.zeros(self.shape) if image is None else np.asarray(image, float)
        region = np.asarray(region)
        if region.dtype != bool or region.shape != self.shape:
            raise ValueError(
                f"region is a {region.dtype} array of shape {region.shape}; it must be a region, an aperture or a bool "
                f"array of shape {self.shape}"
            )
        return region.astype(float)

    def model(self, what="all"):
        """The fitted spectra.

        Parameters
        ----------
        what : {'all', 'lines', 'continuum'}

        Returns
        -------
        `~specutils.Spectrum`
            Like the cube that was fitted; NaN outside the windows around the lines.

        Raises
        ------
        ValueError
            For maps that do not come from a fit in this session.
        """
        return self._needs_fit().spectrum(what)

    def residual(self):
        """The cube less the fitted spectra, with its uncertainty and mask; otherwise as `model`."""
        return self._needs_fit().residual()

    def _needs_fit(self):
        if self.fitted is None:
            raise ValueError("these maps hold no spectra: only those that fit_line_maps has just made do")
        return self.fitted

    def to_table(self):
        """One row per position: its place and columns such as ``Ha_flux``, ``Ha_flux_err``, ``Ha_mask``."""
        table = QTable(meta={"redshift": self.redshift, "extinction_corrected": self.extinction_corrected})
        if len(self.shape) == 2:
            table["y"], table["x"] = (index.ravel() for index in np.indices(self.shape))
        positions = self.positions
        if positions is None and self.wcs is not None:
            positions = self.wcs.pixel_to_world(*np.indices(self.shape)[::-1])
        if positions is not None:
            table["position"] = positions.reshape(-1)
        if self.flags is not None:
            table["flags"] = self.flags.ravel()
        for i, line in enumerate(self.lines):
            for name, (value, sigma, unit) in self._data.items():
                if np.isfinite(value[i]).any():
                    table[f"{line}_{name}"] = np.ravel(value[i]) * unit
                    if np.isfinite(sigma[i]).any():
                        table[f"{line}_{name}_err"] = np.ravel(sigma[i]) * unit
            table[f"{line}_mask"] = self._mask["flux"][i].ravel()
        return table

    def write(self, path, *, format="dap-maps", sums=None, overwrite=False):
        """Write a FITS file in the layout of the MaNGA DAP MAPS; see `fiberifu.lines.write_dap_maps`."""
        from fiberifu.lines.io import write_dap_maps

        if format != "dap-maps":
            raise ValueError(f"format is {format!r}; 'dap-maps' is the one there is")
        write_dap_maps(self, path, sums=sums, overwrite=overwrite)

    @classmethod
    def read(cls, path, *, format="dap-maps", kind="fit"):
        """Read a MAPS file of the MaNGA DAP or of ours; see `fiberifu.lines.read_dap_maps`."""
        from fiberifu.lines.io import read_dap_maps

        if format != "dap-maps":
            raise ValueError(f"format is {format!r}; 'dap-maps' is the one there is")
        return read_dap_maps(path, kind=kind)

    def __repr__(self):
        kind = "observed" if self.provenance is None else self.provenance.datatype.lower()
        return f"<LineMaps: {len(self.lines)} lines, shape {self.shape}, z = {self.redshift:g}, {kind}>"


def _plain(value, unit):
    """Numbers in ``unit``, as a native float array."""
    return np.asarray(value.to_value(unit) if isinstance(value, u.Quantity) else value, dtype=np.float64)


def _divide(a, b):
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _checked(value, shape, name):
    if value is None:
        return None
    value = np.asarray(value, dtype=np.float64)
    if value.shape != shape:
        raise ValueError(f"{name} has the shape {value.shape}; it must be {shape}")
    return value
