"""The rest-frame basis and its rendering: coefficients to pixels, lines and bands.

A spectrum is ``S x (continuum shape + lines)``: ``S`` [1e-17 erg/s/cm2/A] scales a continuum that is the mean shape
plus principal components on a logarithmic rest-frame grid, and Gaussian lines whose amplitude is a rest-frame
width in angstrom, so that the flux of a line is ``S (1 + z)`` times its amplitude.

Shapes: F fibres, P pixels, K coefficients (continuum, then amplitudes), L lines, C bands, n rest-frame samples.
"""

import math

import torch
from torch import nn

from ..constants import AB_NANOMAGGY, C_KMS
from .lines import AMPLITUDES, LINE_COMPONENTS, LINE_WAVELENGTH, LINES

__all__ = ["RestBasis", "desi_lsf", "pixel_edges"]

LEVELS = ((3850.0, 3950.0), (4000.0, 4100.0), (6480.0, 6640.0))  # rest-frame angstrom
BIN = 8  # rest-frame samples averaged for photometry


# Through the rms width of the RESOLUTION matrices of DESI early-release coadds (DESI Collaboration 2024, AJ 168, 58),
# less the 0.8 A pixel in quadrature: observed wavelength and sigma, angstrom; the three arms in turn.
DESI_LSF = (
    (3600.0, 4700.0, 5770.0, 5790.0, 6700.0, 7560.0, 7580.0, 8670.0, 9824.0),
    (0.66, 0.67, 0.65, 0.59, 0.61, 0.60, 0.63, 0.67, 0.77),
)


def desi_lsf(wave):
    """Line-spread function of the DESI spectrographs, pixel integration not included.

    Parameters
    ----------
    wave : Tensor
        Observed wavelength, angstrom.

    Returns
    -------
    Tensor
        Gaussian sigma, angstrom; resolving power about 2250 at 3600 A to 5400 at 9800 A.
    """
    x, y = (torch.tensor(v, dtype=wave.dtype, device=wave.device) for v in DESI_LSF)
    high = torch.searchsorted(x, wave.contiguous()).clamp(1, len(x) - 1)
    part = ((wave - x[high - 1]) / (x[high] - x[high - 1])).clamp(0, 1)
    return y[high - 1] + part * (y[high] - y[high - 1])


def pixel_edges(wave):
    """Edges (P + 1,) of pixels with centres ``wave`` (P,): midpoints, ends by extrapolation."""
    middle = (wave[1:] + wave[:-1]) / 2
    return torch.cat([(2 * wave[0] - middle[0])[None], middle, (2 * wave[-1] - middle[-1])[None]])


class RestBasis(nn.Module):
    """Fixed buffers of the continuum basis and the passbands, and how they are seen at a redshift."""

    def __init__(self, config):
        super().__init__()
        c = self.config = config
        self.register_buffer("continuum", torch.zeros(c.n_continuum, c.rest_size))
        self.register_buffer("component_scale", torch.ones(c.n_continuum))  # rms of the coefficients in training
        self.register_buffer("passband", torch.zeros(len(c.bands), 1601))  # on 3000 (5) 11000 angstrom
        tie = torch.zeros(len(LINES), len(AMPLITUDES))
        for i, name in enumerate(LINES):
            amplitude, ratio = LINE_COMPONENTS[name]
            tie[i, AMPLITUDES.index(amplitude)] = ratio
        self.register_buffer("tie", tie, persistent=False)
        self.register_buffer("line_wave", torch.tensor([LINE_WAVELENGTH[x] for x in LINES]), persistent=False)

    @property
    def n_coefficients(self):
        return self.config.n_continuum + len(AMPLITUDES)

    @property
    def rest_wave(self):
        """Rest-frame grid (n,), float64 angstrom."""
        c = self.config
        steps = torch.arange(c.rest_size, dtype=torch.float64, device=self.continuum.device)
        return c.rest_start * torch.exp(c.rest_step * steps)

    def render_continuum(self, edges, redshift, basis=None):
        """Mean over pixels of the basis, or of another ``basis`` (K, n) on its grid, at ``redshift`` (F,).

        ``edges`` (P + 1,) are the pixels' edges, observed angstrom; the result is (F, P, K).

        Exact integral of the piecewise linear basis (the flux in a pixel is conserved): whole cells by differences of a
        float64 running integral, which lose nothing there, and what a pixel's edges leave of them in float32.
        """
        c = self.config
        wave = self.rest_wave
        basis = (self.continuum if basis is None else basis).double().T  # (n, K)
        width = wave.diff()[:, None]
        running = torch.cat([torch.zeros_like(basis[:1]), ((basis[1:] + basis[:-1]) / 2 * width).cumsum(0)])
        slope = torch.cat([basis.diff(dim=0) / width, torch.zeros_like(basis[:1])])
        rest = edges.double() / (1 + redshift.double()[:, None])
        index = ((rest / c.rest_start).log() / c.rest_step).floor().long().clamp(0, c.rest_size - 2)
        step = (rest - wave[index]).clamp(0, wave[-1] - wave[-2]).float()[..., None]
        gather = nn.functional.embedding
        part = step * (gather(index, basis.float()) + step / 2 * gather(index, slope.float()))
        integral = gather(index, running).diff(dim=1).float() + part.diff(dim=1)
        return integral / rest.diff(dim=1).float()[..., None]

    def line_window(self, edges, redshift, sigma_max, lsf_sigma):
        """First pixel (F, L) and width (int) of windows of 5 sigma, gas [km/s] and instrument [A], at the lines."""
        centre = self.line_wave.double() * (1 + redshift.double()[:, None])
        reach = 5 * torch.hypot(centre * sigma_max / C_KMS, lsf_sigma.double())
        edges = edges.double()
        first = torch.searchsorted(edges, centre - reach)
        last = torch.searchsorted(edges, centre + reach)
        size = min(int((last - first).max()) + 2, len(edges) - 1)
        return (first - 1).clamp(0, len(edges) - 1 - size), size

    def render_lines(self, edges, redshift, sigma_kms, lsf_sigma, window=None):
        """Unit-flux line profiles integrated over pixels, in windows.

        Parameters
        ----------
        edges : Tensor (P + 1,)
            Observed angstrom.
        redshift, sigma_kms : Tensor (F,)
        lsf_sigma : Tensor (L,) or (F, L)
            Instrumental sigma at the lines, observed angstrom.
        window : tuple, optional
            First pixels (F, L) and width of the windows; wide enough for the widest line by default.

        Returns
        -------
        first : Tensor (F, L) of int64
        profile : Tensor (F, L, W)
            Per angstrom; its sum over pixels x pixel width is 1 for a line on the grid.
        """
        first, size = window or self.line_window(edges, redshift, float(sigma_kms.detach().max()), lsf_sigma)
        index = first[..., None] + torch.arange(size + 1, device=first.device)
        edge = edges.double()[index]
        centre = self.line_wave.double() * (1 + redshift.double()[:, None])
        sigma = torch.hypot(centre.float() * sigma_kms[:, None] / C_KMS, lsf_sigma)
        phase = ((edge - centre[..., None]).float() / sigma[..., None]).clamp(-8, 8) / math.sqrt(2)
        return first, torch.erf(phase).diff(dim=-1) / 2 / edge.diff(dim=-1).float()

    def render(self, edges, redshift, sigma_kms, lsf_sigma):
        """The whole basis (F, P, K), in units of ``S``."""
        continuum = self.render_continuum(edges, redshift)
        first, profile = self.render_lines(edges, redshift, sigma_kms, lsf_sigma)
        profile = profile * (1 + redshift[:, None, None])
        index = first[..., None] + torch.arange(profile.shape[-1], device=first.device)
        dense = torch.zeros(len(redshift), len(LINES), len(edges) - 1, device=profile.device, dtype=profile.dtype)
        dense = dense.scatter_add(2, index, profile)
        return torch.cat([continuum, dense.transpose(1, 2) @ self.tie], dim=-1)

    def photometry(self, redshift):
        """Band fluxes [nanomaggy] of the basis at ``redshift`` (F,) -> (F, C, K), in units of ``S``.

        Photon-counting AB photometry (Bessell & Murphy 2012, PASP 124, 140, eq. A12): integral of f_lambda lambda R
        over integral of f_AB lambda R.
        """
        c = self.config
        n = c.rest_size // BIN * BIN
        wave = self.rest_wave[:n].unflatten(0, (-1, BIN)).mean(-1).float()
        basis = self.continuum[:, :n].unflatten(1, (-1, BIN)).mean(-1)
        observed = wave * (1 + redshift[:, None])
        weight = (
            self._response(observed) * observed[:, None] * (wave * c.rest_step * BIN) * (1 + redshift[:, None, None])
        )
        norm = self._norm()
        continuum = weight @ basis.T / norm[:, None]
        line = self.line_wave * (1 + redshift[:, None])
        lines = self._response(line) * line[:, None] * (1 + redshift[:, None, None]) / norm[:, None]
        return torch.cat([continuum, lines @ self.tie], dim=-1)

    def functionals(self, redshift):
        """What is quoted of a spectrum: weights (F, M, K) of line amplitudes, band fluxes and continuum levels.

        Bands are in units of the flux of the mean shape; levels are those of the 4000 A break (Balogh et al. 1999, ApJ
        527, 54) and at H-alpha.
        """
        k, n = self.config.n_continuum, len(redshift)
        bands = self.photometry(redshift)
        bands = bands / bands[..., :1].clamp(min=1e-6)
        wave = self.rest_wave
        levels = torch.stack([self.continuum[:, (wave > low) & (wave < high)].mean(1) for low, high in LEVELS])
        levels = nn.functional.pad(levels, (0, len(AMPLITUDES))).expand(n, -1, -1)
        lines = torch.eye(self.n_coefficients, device=levels.device)[k:].expand(n, -1, -1)
        return torch.cat([lines, bands, levels], 1)

    def _response(self, wave_FN):
        """Passbands (F, C, N) at observed wavelengths, linear between samples."""
        place = ((wave_FN - 3000) / 5).clamp(0, 1599.999)
        index = place.long()
        part = (place - index)[:, None]
        table = self.passband.T
        return table[index].transpose(1, 2) * (1 - part) + table[index + 1].transpose(1, 2) * part

    def _norm(self):
        wave = 3000 + 5 * torch.arange(1601, device=self.passband.device, dtype=torch.float32)
        return AB_NANOMAGGY * (self.passband / wave).sum(-1) * 5
