# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Lines of single spectra by linear least squares: ``spectrum -> continuum + Gaussians -> flux, EW, errors``.

For the training fibres of baselines, by the thousand: stellar continuum and lines in one linear fit, for some widths of
the lines, of which the best is kept. Line maps of cubes are measured by `fiberifu.lines`.

Shapes: F spectra, P pixels, K coefficients (continuum, then amplitudes), L = 15 lines.
"""

import dataclasses

import numpy as np

__all__ = ["FittedLines", "LineFitter"]

#: Gaussian sigma of the gas tried first, km/s, in equal steps of the logarithm; the last fit is at the maximum of a
#: parabola through the three best (a width off by 30 % moves a flux by 10-15 %).
WIDTHS = tuple(30.0 * 1.6**i for i in range(5))
#: Continuum below so many of its errors has no equivalent width.
SURE = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class FittedLines:
    """Lines of F spectra, each (F, 15); observed flux, 1e-17 erg/s/cm2, rest-frame EW, Angstrom.

    ``measured`` is False where line or side bands are off the spectrum or masked, or the continuum is too faint for an
    equivalent width; values are NaN there.
    """

    flux: np.ndarray
    flux_sigma: np.ndarray
    ew: np.ndarray
    ew_sigma: np.ndarray
    measured: np.ndarray


class LineFitter:
    """Fits lines to spectra on the network's wavelength grid.

    Parameters
    ----------
    config : `~fiberifu.model.ModelConfig`
    continuum : array_like (n_continuum, rest_size)
        Components in the rest frame, see `fiberifu.train.principal_components`: those of the network.
    """

    def __init__(self, config, continuum):
        import torch

        from ..model import RestBasis
        from ..model.basis import pixel_edges
        from ..simulate.gas import SIDEBANDS

        self.config = config
        self.continuum = np.asarray(continuum, np.float32)
        shape = (config.n_continuum, config.rest_size)
        if self.continuum.shape != shape:
            raise ValueError(f"continuum has shape {self.continuum.shape}, the model configuration asks for {shape}")
        self.basis = RestBasis(config)
        self.basis.continuum.copy_(torch.from_numpy(self.continuum))
        wave = config.wave_start + config.wave_step * torch.arange(config.wave_size, dtype=torch.float64)
        self.edges = pixel_edges(wave)
        rest = self.basis.rest_wave.numpy()
        bands = np.array([SIDEBANDS[line] for line in SIDEBANDS])  # L, 2, 2
        mean = np.array([[self.continuum[:, (rest > a) & (rest < b)].mean(1) for a, b in pair] for pair in bands])
        centre, line = bands.mean(2), self.basis.line_wave.numpy()
        part = ((line - centre[:, 0]) / (centre[:, 1] - centre[:, 0]))[:, None]
        #: Weights (L, n_continuum) of the components in the pseudo-continua.
        self.side = mean[:, 0] * (1 - part) + mean[:, 1] * part
        #: Rest wavelengths (L, 2) from and to which a spectrum must reach.
        self.reach = np.stack([bands.min((1, 2)), bands.max((1, 2))], 1)

    def fit(self, flux, ivar, redshift):
        """Measure lines.

        Parameters
        ----------
        flux, ivar : array_like (F, P)
            1e-17 erg/s/cm2/Angstrom on the configuration's grid; ivar 0 = not measured.
        redshift : array_like (F,)

        Returns
        -------
        FittedLines
        """
        import torch

        from ..model.basis import desi_lsf

        with torch.inference_mode():
            flux, ivar, z = (torch.as_tensor(x).float() for x in (flux, ivar, redshift))
            weight = torch.where(torch.isfinite(flux) & (ivar > 0), ivar, 0.0)
            flux = torch.where(weight > 0, flux, 0.0)
            lsf = desi_lsf(self.basis.line_wave * (1 + z[:, None]))
            taken = []  # what a fit takes off chi squared
            for width in WIDTHS:
                best, precision = self._solve(z, torch.full_like(z, width), lsf, flux, weight)
                taken.append(torch.einsum("fk,fkm,fm->f", best, precision, best))
            best = self._solve(z, _peak(torch.stack(taken, 1)), lsf, flux, weight)
            return self._lines(*(x.numpy() for x in best), weight.numpy(), z.numpy().astype(float))

    def _solve(self, z, width, lsf, flux, weight):
        """Coefficients (F, K) and their precision (F, K, K) with lines of ``width`` (F,) km/s."""
        from ..model.distribution import fit_coefficients

        return fit_coefficients(self.basis.render(self.edges, z, width, lsf), flux, weight)

    def _lines(self, coefficients, precision, weight, z):
        k, tie = self.config.n_continuum, self.basis.tie.numpy().astype(float)
        unit = 1 / np.sqrt(np.maximum(np.einsum("fkk->fk", precision), 1e-30))
        scaled = precision * unit[:, :, None] * unit[:, None]
        covariance = np.linalg.pinv(scaled, rcond=1e-9, hermitian=True) * unit[:, :, None] * unit[:, None]
        amplitude, level = coefficients[:, k:] @ tie.T, coefficients[:, :k] @ self.side.T

        def error(functional):  # (F or 1, L, K)
            variance = np.einsum("flk,fkm,flm->fl", *(functional, covariance, functional), optimize=True)
            return np.sqrt(np.maximum(variance, 0))

        n = len(z)
        lines = np.broadcast_to(np.concatenate([np.zeros((len(tie), k)), tie], 1), (n, len(tie), len(unit[0])))
        sides = np.broadcast_to(np.concatenate([self.side, np.zeros_like(tie)], 1), lines.shape)
        flux_sigma, level_sigma = error(lines), error(sides)
        with np.errstate(divide="ignore", invalid="ignore"):
            ew = amplitude / level
            ew_sigma = error(lines - np.nan_to_num(ew, posinf=0, neginf=0)[:, :, None] * sides) / level
        on_grid = self._covered(weight, z)
        measured = on_grid & (level > SURE * level_sigma) & (flux_sigma > 0) & np.isfinite(ew_sigma)
        growth = (1 + z)[:, None]
        values = amplitude * growth, flux_sigma * growth, ew, ew_sigma
        return FittedLines(*(np.where(measured, x, np.nan).astype(np.float32) for x in values), measured)

    def _covered(self, weight, z):
        """Whether (F, L) spectra reach over line and side bands, with 9 of 10 pixels good within 20 A of the line."""
        edges, growth = self.edges.numpy(), (1 + z)[:, None]
        inside = (self.reach[:, 0] * growth > edges[0]) & (self.reach[:, 1] * growth < edges[-1])
        running = np.concatenate([np.zeros((len(z), 1)), (weight > 0).cumsum(1)], 1)
        centre = self.basis.line_wave.numpy() * growth
        low, high = (np.clip(np.searchsorted(edges, centre + s), 0, len(edges) - 1) for s in (-20, 20))
        count = np.take_along_axis(running, high, 1) - np.take_along_axis(running, low, 1)
        return inside & (count > 0.9 * np.maximum(high - low, 1))


def _peak(taken):
    """Widths (F,) at the maximum of parabolas through the best of `WIDTHS` and its neighbours; ``taken`` is (F, W)."""
    import torch

    i = taken.argmax(1).clamp(1, len(WIDTHS) - 2)[:, None]
    low, middle, high = (taken.gather(1, i + step)[:, 0] for step in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = torch.where(bend < 0, (low - high) / (2 * bend.clamp(max=-1e-12)), torch.sign(high - low)).clamp(-1, 1)
    return (WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** (i[:, 0] + shift)).float()
