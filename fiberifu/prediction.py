"""What `~fiberifu.VirtualIFU` returns: coefficients now; pixels, lines, samples and files when asked."""

import dataclasses
import functools

import astropy.units as u
import numpy as np
from astropy.table import QTable

from . import formats  # noqa: F401  (Spectrum.read then knows our files)
from .constants import C_KMS
from .flags import Flag
from .line_functionals import functionals, line_moments, line_quantiles, resolve_levels, select_lines
from .support import oddity_cards

__all__ = ["FLUX_DENSITY", "Prediction"]

FLUX_DENSITY = u.Unit("1e-17 erg / (s cm2 AA)")
CHUNK = 512  # positions rendered together


@dataclasses.dataclass(eq=False, repr=False)
class Prediction:
    """Spectra predicted from an image: a mixture of Gaussians of coefficients per position. **Not an observation.**

    Made by `VirtualIFU.predict <fiberifu.VirtualIFU.predict>` and `predict_cube`; everything below is computed on
    demand, in chunks, from the coefficients.

    Attributes
    ----------
    positions : `~astropy.coordinates.SkyCoord`
        Of any shape; for a cube (ny, nx).
    wcs : `~astropy.wcs.WCS` or None
        Celestial WCS of a cube (East left, North up); None for a list of positions.
    wavelength : `~astropy.units.Quantity`, shape (n_wave,)
        Vacuum.
    redshift : float
        Mean of the redshifts marginalised over.
    flags : ndarray of int, same shape as ``positions``
        `~fiberifu.Flag` bits.
    card : str
        Model card of the weights.
    provenance : `~fiberifu.provenance.Provenance`
    image : `~fiberifu.image.PreparedImage`
    beam : `~astropy.units.Quantity`
        Effective FWHM: image PSF and aperture together.
    oddity : `~fiberifu.support.Oddity` or None
        How unlike the training images the image is; None where the weights do not tell.
    """

    positions: object
    wcs: object
    wavelength: u.Quantity
    redshift: float
    flags: np.ndarray
    card: str
    provenance: object
    image: object
    beam: u.Quantity
    aperture: object
    nodes: list = dataclasses.field(repr=False)
    renderer: object = dataclasses.field(repr=False)
    photometry: dict = dataclasses.field(repr=False)
    usable: np.ndarray = dataclasses.field(repr=False)
    offsets: np.ndarray = dataclasses.field(repr=False)
    field: tuple = (0.0, 1.0)
    ebv_out: float = 0.0
    oddity: object = dataclasses.field(default=None, repr=False)

    def __repr__(self):
        wave, kind = self.wavelength, "a cube" if self.wcs is not None else "spectra"
        return (f"<Prediction of {kind} {self.shape}, {wave[0].value:.0f}-{wave[-1].value:.0f} {wave.unit}, "
                f"z = {self.redshift:.4f}, model {self.provenance.model_id!r}; not an observation>")  # fmt: skip

    @property
    def shape(self):
        """Shape of the positions."""
        return self.positions.shape

    # --- pixels ---------------------------------------------------------------------------------------------------
    def _moments(self):
        """Mean and variance (N, n_wave) float32, marginalised over redshift; NaN nowhere, see `_mask`."""
        n, size = len(self.nodes[0].sigma_lines), len(self.wavelength)
        mean, variance = np.empty((n, size), np.float32), np.empty((n, size), np.float32)
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            first = second = 0.0
            for node in self.nodes:
                m, v = (x.numpy() for x in self.renderer.moments(node, rows))
                first = first + node.weight * m
                second = second + node.weight * (v if len(self.nodes) == 1 else v + m**2)
            mean[rows] = first
            variance[rows] = second if len(self.nodes) == 1 else second - first**2
        return mean, variance

    def _mask(self):
        """True = bad: no coverage by the basis at any of the redshifts, or no prediction at the position."""
        covered = np.all([self.renderer.covered(node.redshift).numpy() for node in self.nodes], axis=0)
        return ~(self.usable[:, None] & covered)

    @functools.cached_property
    def _rendered(self):
        mean, variance = self._moments()
        mask = self._mask()
        with np.errstate(divide="ignore"):
            ivar = np.where(mask | ~(variance > 0), 0, 1 / variance).astype(np.float32)
        return mean, ivar, mask

    def spectrum(self):
        """Spectra at the positions.

        Returns
        -------
        `~specutils.Spectrum` (formerly ``Spectrum1D``)
            Flux ``positions.shape + (n_wave,)`` in the aperture, 1e-17 erg/(s cm2 Angstrom), with `InverseVariance`
            (of the noiseless spectrum: model and photometric error) and a mask; this prediction in
            ``meta["prediction"]``.
        """
        from .cube import make_spectra

        mean, ivar, mask = (x.reshape(*self.shape, -1) for x in self._rendered)
        spectrum = make_spectra(
            mean, ivar, mask, wavelength=self.wavelength, positions=self.positions, meta=self._meta()
        )
        spectrum.meta["prediction"] = self
        return spectrum

    def cube(self):
        """The predicted cube.

        Returns
        -------
        `~specutils.Spectrum`
            Flux (wave, y, x) per spaxel, with a 3-D FITS WCS, `InverseVariance` and a mask.

        Raises
        ------
        ValueError
            When the prediction is a list of positions.
        """
        from .cube import cube_wcs, make_cube

        if self.wcs is None:
            raise ValueError("cube(): this prediction is a list of positions; use spectrum(), or predict_cube()")
        mean, ivar, mask = (np.moveaxis(x.reshape(*self.shape, -1), -1, 0) for x in self._rendered)
        center = self.wcs.pixel_to_world((self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2)
        spaxel = abs(self.wcs.wcs.cdelt[1]) * u.deg
        wcs = cube_wcs(center, self.shape, spaxel, self.wavelength)
        cube = make_cube(mean, ivar, mask, wcs=wcs, meta=self._meta())
        cube.meta["prediction"] = self
        return cube

    def continuum(self):
        """The predicted starlight alone, without lines.

        Returns
        -------
        `~astropy.units.Quantity`
            Of the shape of `cube`, or of `spectrum`: ``fit_line_maps(cube, continuum=prediction.continuum(), ...)``
            fits the lines above it.
        """
        k = self.renderer.basis.config.n_continuum
        total = 0.0
        for node in self.nodes:
            shape = self.renderer.continuum(node.redshift).numpy()  # (n_wave, k)
            total = total + node.weight * (node.gaussian.mean.numpy()[:, :k] @ shape.T)
        total = (total * self.renderer.transmission.numpy()).reshape(*self.shape, -1)
        return (np.moveaxis(total, -1, 0) if self.wcs is not None else total) * FLUX_DENSITY

    def sample(self, n, *, seed=None):
        """Draw noiseless spectra, coherent in wavelength and from position to position as the errors are.

        The error of zero points is common to all positions of a draw, the noise of the image is not. How far the others
        reach was measured when the weights were calibrated, and is in their passport: without that, positions are drawn
        independently, and sums over positions vary less than they should. A draw is made for the positions of this
        prediction together: other positions, or another order, are other draws.

        Parameters
        ----------
        n : int
        seed : int, optional
            By default that of the prediction.

        Returns
        -------
        `~astropy.units.Quantity`, shape (n,) + positions.shape + (n_wave,)
        """
        import torch

        out = np.empty((n, len(self.usable), len(self.wavelength)), np.float32)
        for i, (node, coefficients, generator) in enumerate(self._draws(n, seed)):
            mean = self.renderer.mean(node, coefficients)
            noise = torch.randn(mean.shape, generator=generator)
            out[i] = (mean * (1 + self.renderer.floor * noise)).numpy()
        return out.reshape(n, *self.shape, -1) * FLUX_DENSITY

    def _draws(self, n, seed):
        """Yield n times a node of the redshifts, coefficients (N, K) and the generator that drew them."""
        import torch

        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n={n}: draw at least one sample, a whole number")
        weights = torch.tensor([node.weight for node in self.nodes])
        offsets = torch.from_numpy(np.where(np.isfinite(self.offsets), self.offsets, 0.0))
        seed = self.provenance.seed if seed is None else seed
        for i in range(n):  # a generator for each, so that the first draws are the same for any number of them
            generator = torch.Generator().manual_seed(1_000_003 * seed + i)
            node = self.nodes[torch.multinomial(weights, 1, generator=generator)]
            yield node, node.sample(offsets, generator, self.field), generator

    # --- lines ----------------------------------------------------------------------------------------------------
    def line_maps(self, lines="strong"):
        """Emission-line fluxes, widths and their errors, by projection of the line amplitudes: no cube, no fit.

        Fluxes are emergent gas-only fluxes (above the stellar absorption). Velocities are not predicted from an image.

        Parameters
        ----------
        lines : str or sequence of str
            A table name ("strong", "all") or line keys.

        Returns
        -------
        `~fiberifu.lines.LineMaps`
        """
        from .lines import LineMaps
        from .lines.maps import DAPMask

        table = select_lines(lines)
        keys = [str(key) for key in table["key"]]
        flux, cont, joint = line_moments(self.nodes, self.renderer, table, self.ebv_out)
        shape = (len(keys), *self.shape)
        sigma = np.sqrt(np.diagonal(joint["flux"], axis1=1, axis2=2)).T
        width, width_sigma = joint["ew"]
        bad = ~self.usable
        mask = np.where(bad, np.int32(DAPMask.NOVALUE | DAPMask.DONOTUSE), 0) + np.zeros((len(keys), 1), np.int32)
        off = ~np.array([self._on_grid(key) for key in keys])
        mask[off] |= np.int32(DAPMask.NOCOV | DAPMask.DONOTUSE)
        # a width over a continuum that may be zero is noise over noise
        unsure = np.abs(cont[0]) < 3 * cont[1]
        masks = {"flux": mask, "continuum": mask, "dispersion": mask, "instrumental_dispersion": mask, "velocity": mask}
        masks["ew"] = np.where(unsure, mask | np.int32(DAPMask.UNRELIABLE | DAPMask.DONOTUSE), mask)
        instrument = self._instrumental_dispersion(keys)
        gas = np.sqrt(sum(node.weight * node.sigma_lines.numpy() ** 2 for node in self.nodes))
        return LineMaps(
            keys,
            flux.reshape(shape),
            sigma.reshape(shape),
            width.reshape(shape),
            width_sigma.reshape(shape),
            cont[0].reshape(shape),
            cont[1].reshape(shape),
            redshift=self.redshift,
            dispersion=np.hypot(gas, instrument[:, None]).reshape(shape),
            instrumental_dispersion=np.broadcast_to(instrument[:, None], flux.shape).reshape(shape),
            mask={name: bits.reshape(shape) for name, bits in masks.items()},
            flags=self.flags,
            wcs=self.wcs,
            positions=None if self.wcs is not None else self.positions,
            covariance=joint["flux"].reshape(*self.shape, len(keys), len(keys)),
            provenance=self.provenance,
        )

    def line_quantiles(self, levels=(0.16, 0.5, 0.84), lines="strong", quantity="flux"):
        """Quantiles of line fluxes or equivalent widths: the errors are not symmetric, as those of `line_maps` are.

        Parameters
        ----------
        levels : float or sequence of float, shape (Q,)
            Probabilities, inside (0, 1).
        lines : str or sequence of str or of tuple of str
            A table name ("strong", "all") or L line keys. A tuple is a sum of lines, such as a doublet: of their
            fluxes; the width is that of the sum over the mean of their continua.
        quantity : {"flux", "ew"}

        Returns
        -------
        `~astropy.units.Quantity`, shape (Q, L) + positions.shape
            Without the Q axis for one level. NaN where nothing is predicted, and for widths over a continuum that
            may be below zero.

        Raises
        ------
        ValueError
            For levels outside (0, 1), unknown lines or quantities.
        """
        if quantity not in ("flux", "ew"):
            raise ValueError(f"quantity={quantity!r}: 'flux' or 'ew'")
        if isinstance(lines, str):
            lines = [str(key) for key in select_lines(lines)["key"]]
        sums = [[key] if isinstance(key, str) else list(key) for key in lines]
        out = self._quantiles(levels, sums, "continuum" if quantity == "ew" else None)
        return out * (FLUX_DENSITY * u.AA if quantity == "flux" else u.AA)

    def line_sums(self, lines="strong", where=None, *, levels=(0.16, 0.5, 0.84), draws=400, seed=None):
        """Quantiles of line fluxes added up over spaxels, whose errors are not independent.

        Parameters
        ----------
        lines : str or sequence of str
            A table name ("strong", "all") or L line keys.
        where : ndarray of bool, shape positions.shape or (R,) + positions.shape, optional
            Spaxels to be added, in one region or in R of them (from the same draws); by default all that are usable.
        levels : float or sequence of float, shape (Q,)
            Probabilities, inside (0, 1).
        draws : int
            Coherent draws, as of `sample`, from which the quantiles are taken.
        seed : int, optional
            By default that of the prediction.

        Returns
        -------
        `~astropy.units.Quantity`, shape (Q, L), or (Q, R, L) for R regions
            Without the Q axis for one level. NaN for a region without a usable spaxel.

        Raises
        ------
        ValueError
            For a list of positions: their apertures may overlap, and fluxes in them cannot be added.
        """
        if self.wcs is None:
            raise ValueError("line_sums(): this prediction is a list of positions, whose apertures may overlap; use "
                             "predict_cube()")  # fmt: skip
        where = np.ones(self.shape, bool) if where is None else np.asarray(where)
        if where.shape[-2:] != self.shape or where.ndim not in (2, 3) or where.dtype != bool:
            raise ValueError(f"where: {where.dtype} of shape {where.shape}; a boolean map of shape {self.shape} fits, "
                             "or a stack of them")  # fmt: skip
        given = resolve_levels(levels)
        regions = where.reshape(*where.shape[:-2], -1) & self.usable
        pick, table = np.atleast_2d(regions), select_lines(lines)
        weights, sums = {}, []
        for node, coefficients, _ in self._draws(draws, seed):
            if id(node) not in weights:
                weights[id(node)] = functionals(self.renderer, node, table, self.ebv_out)[0].T
            added = [coefficients[np.flatnonzero(rows)].double().sum(0).numpy() for rows in pick]
            sums.append(np.stack(added) @ weights[id(node)])
        sums = np.where(pick.any(1)[:, None], sums, np.nan)  # nothing usable is no certain zero
        sums = sums.reshape(len(sums), *regions.shape[:-1], len(table))
        found = np.quantile(sums, given, axis=0) * (FLUX_DENSITY * u.AA)
        return found[0] if np.ndim(levels) == 0 else found

    def ratio_quantiles(self, numerator, denominator, levels=(0.16, 0.5, 0.84)):
        """Quantiles of a ratio of line fluxes, or of sums of lines, with what errs together in both.

        Parameters
        ----------
        numerator, denominator : str or sequence of str
            Line keys; the fluxes of several are added.
        levels : float or sequence of float, shape (Q,)
            Probabilities, inside (0, 1).

        Returns
        -------
        ndarray (Q,) + positions.shape
            NaN where the denominator may be below zero (probability above 0.1).
        """
        above, below = ([x] if isinstance(x, str) else list(x) for x in (numerator, denominator))
        select_lines(above + below)
        return np.take(self._quantiles(levels, [above], below), 0, axis=-1 - len(self.shape))

    def _quantiles(self, levels, sums, over=None):
        """Quantiles (Q, M, *shape) of M sums of lines, without the first axis for one level; NaN where not usable."""
        found = line_quantiles(self.nodes, self.renderer, self.ebv_out, levels, sums, over)
        found = np.where(self.usable, found, np.nan).reshape(*found.shape[:2], *self.shape)
        return found[0] if np.ndim(levels) == 0 else found

    def _observed(self, key):
        from .model import LINE_WAVELENGTH

        return LINE_WAVELENGTH[key] * (1 + self.redshift)

    def _on_grid(self, key):
        return self.wavelength[0].value < self._observed(key) < self.wavelength[-1].value

    def _instrumental_dispersion(self, keys):
        import torch

        wave = np.array([self._observed(key) for key in keys])
        return self.renderer.lsf(torch.as_tensor(wave)).numpy() / wave * C_KMS

    # --- checks and files -----------------------------------------------------------------------------------------
    @functools.cached_property
    def self_check(self):
        """Synthetic photometry of the prediction against the image, band by band, before any correction.

        Tests colour and geometry, not lines.

        Returns
        -------
        `~astropy.table.QTable`
            One row for each band of the image: ``band``; ``observed``, ``predicted``: fluxes in the aperture or spaxel
            [nanomaggy], summed over the n positions measured in the band (a total for spaxels; fibres may overlap);
            ``residual``: -2.5 log10(observed / predicted) of the sums [mag], positive where the image is fainter than
            the prediction; ``scatter``: half of the central 68 %
            of the residuals of single positions with S/N > 10, NaN for less than three [mag]; ``pull``: rms of
            (observed - predicted) / error of the photometry, 1 where noise explains all; ``n``.
        """
        flux, error, predicted = (self.photometry[name] for name in ("flux", "error", "predicted"))
        rows = []
        for i, band in enumerate(self.image.bands):
            if not self.image.present[i]:
                continue
            good = np.isfinite(error[:, i]) & self.usable
            f, e, p = flux[good, i], error[good, i], predicted[good, i]
            with np.errstate(divide="ignore", invalid="ignore"):
                residual = -2.5 * np.log10(f.sum() / p.sum()) if good.any() else np.nan
                single = -2.5 * np.log10(f / p)[(f > 10 * e) & (p > 0)]
            scatter = np.diff(np.percentile(single, [16, 84]))[0] / 2 if len(single) > 2 else np.nan
            pull = np.sqrt(np.mean(((f - p) / e) ** 2)) if good.any() else np.nan
            rows.append((band, f.sum(), p.sum(), residual, scatter, pull, int(good.sum())))
        names = ("band", "observed", "predicted", "residual", "scatter", "pull", "n")
        table = QTable(rows=rows, names=names)
        for name, unit in (("observed", u.nmgy), ("predicted", u.nmgy), ("residual", u.mag), ("scatter", u.mag)):
            table[name].unit = unit
        return QTable(table)

    def bright(self, nsigma=5.0):
        """Where some band of the image has light above ``nsigma`` times its error in the aperture.

        Returns
        -------
        ndarray of bool, same shape as ``positions``
        """
        flux, error = self.photometry["flux"], self.photometry["error"]
        return (np.isfinite(error) & (flux > nsigma * error)).any(1).reshape(self.shape)

    def _meta(self):
        """Metadata of every product: provenance, flags and the error factors that make later line fits honest."""
        return {
            "provenance": self.provenance,
            "factors": self._factors(),
            "flags": self.flags,
            "card": self.card,
            "redshift": self.redshift,
            "lsf": self._lsf() * u.AA,
            "medium": "vacuum",
            "oddity": self.oddity,
            "header": {
                **oddity_cards(self.oddity),
                "BEAM": (float(self.beam.to_value(u.arcsec)), "[arcsec] effective FWHM of PSF and aperture"),
                "APERTURE": str(self.aperture),
                "PSFFWHM": (round(float(self.image.psf_fwhm), 4), "[arcsec] FWHM of the image's PSF"),
                "LSFSIGMA": (
                    round(float(self._lsf()[len(self.wavelength) // 2]), 4),
                    "[Angstrom] sigma at the middle pixel",
                ),
                "FRAME": ("barycentric, vacuum", "wavelengths"),
            },
        }

    def _lsf(self):
        import torch

        return self.renderer.lsf(torch.from_numpy(self.wavelength.value.astype(float))).numpy()

    def _factors(self):
        """The coefficients and their covariance as arrays; spatial axes last, as in the cube."""
        from .cube import ErrorFactors

        spatial, axes = (self.shape, "y x") if self.wcs is not None else ((len(self.usable),), "n")

        def last(x):  # (N, ...) -> (..., *spatial)
            x = np.moveaxis(x.numpy(), 0, -1)
            return x.reshape(*x.shape[:-1], *spatial).astype(np.float32)

        arrays = {
            "basis": (self.renderer.basis.continuum.numpy(), "k rest"),
            "nodes": (np.array([[node.redshift, node.weight] for node in self.nodes]), "node z_weight"),
        }
        for i, node in enumerate(self.nodes):
            g = node.gaussian
            arrays |= {
                f"coeff{i}": (last(g.mean), f"k {axes}"),
                f"diag{i}": (last(g.diag), f"k {axes}"),
                f"factor{i}": (last(g.factors), f"k r {axes}"),
                f"sigma{i}": (last(node.sigma_lines), axes),
            }
        config = self.renderer.basis.config
        return ErrorFactors(
            {name: array for name, (array, _) in arrays.items()},
            axes={name: text for name, (_, text) in arrays.items()},
            cards={"REST0": config.rest_start, "DLNLAM": config.rest_step, "NCONT": config.n_continuum,
                   "FLOOR": float(self.renderer.floor)},
        )  # fmt: skip

    def write(self, path, *, overwrite=False):
        """Write the cube, or the spectra, with the error factors and the provenance in every HDU.

        Parameters
        ----------
        path : path-like
            The file name must contain ``predicted``, so that nobody takes it for an observation.
        overwrite : bool

        Raises
        ------
        ValueError
            When the name does not contain ``predicted``.
        OSError
            When the file exists, or cannot be written.
        """
        product = self.cube() if self.wcs is not None else self.spectrum()
        product.write(path, format="fiberifu cube" if self.wcs is not None else "fiberifu spectra", overwrite=overwrite)

    def describe_flags(self):
        """Each flag that occurs, with the number of positions that carry it.

        Returns
        -------
        dict of str to int
        """
        return {f.name: int(((self.flags & f.value) != 0).sum()) for f in Flag if ((self.flags & f.value) != 0).any()}
