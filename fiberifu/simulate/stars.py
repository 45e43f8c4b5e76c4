"""Starlight: populations as weights on the SSP grid, dust, distances, and rendering to observed pixels.

Everything is linear in the SSPs, so photometry is a matrix product with no spectrum in between.

Shapes: B galaxies, P populations, D dust levels, S SSPs (n_age x n_met), N rest wavelengths, C bands, F
fibres.
"""

import copy
import math

import numpy as np
import torch

from ..constants import AB_NANOMAGGY, C_KMS

__all__ = ["TEMPLATE_SIGMA", "Starlight", "calzetti", "distance_factor", "universe_age"]

#: Width of the templates' lines, km/s: the MaStar library at R = 1800 (1430 to 2390, or 89 to 53 km/s, taken as one).
#: Convolution cannot take it away: starlight is no narrower than this, or, where a grid has a ``stellar_lsf``, no
#: narrower than this after the instrument (for DESI's 55 km/s: right down to a dispersion of 43 km/s).
TEMPLATE_SIGMA = 70.0
_LSUN = 3.828e33  # erg/s, IAU 2015 B3
_MPC = 3.0857e24  # cm
_H0, _OMEGA_M = 70.0, 0.3


def calzetti(wave):
    """Attenuation k(lambda) = A(lambda) / E(B-V) of starlight, R_V = 4.05 (Calzetti+2000, eq. 4).

    Parameters
    ----------
    wave : `torch.Tensor`
        Rest wavelength, Angstrom, 1200 to 22000.
    """
    x = 1e4 / wave
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    return torch.where(wave >= 6300, red, blue).clamp(min=0)


def _cosmology(z_max=0.8, n=4001):
    z = np.linspace(0, z_max, n)
    e = np.sqrt(_OMEGA_M * (1 + z) ** 3 + 1 - _OMEGA_M)
    comoving = np.concatenate([[0], np.cumsum((1 / e[1:] + 1 / e[:-1]) / 2 * np.diff(z))]) * C_KMS / _H0
    return z, comoving


_Z_GRID, _COMOVING = _cosmology()


def luminosity_distance(z):
    """Mpc; flat LCDM with H0 = 70 km/s/Mpc, Omega_m = 0.3."""
    z = torch.as_tensor(z)
    table = np.interp(z.detach().cpu().double().numpy(), _Z_GRID, _COMOVING)
    return torch.as_tensor(table, dtype=z.dtype, device=z.device) * (1 + z)


def kpc_per_arcsec(z):
    """Proper kpc per arcsec."""
    return luminosity_distance(z) / (1 + z) ** 2 * 1e3 * math.pi / 648000


def universe_age(z):
    """Age of the universe at ``z`` in yr (flat LCDM, closed form)."""
    ratio = math.sqrt((1 - _OMEGA_M) / _OMEGA_M)
    hubble_time = 977.8e9 / _H0
    return 2 / (3 * math.sqrt(1 - _OMEGA_M)) * torch.asinh(ratio * (1 + z) ** -1.5) * hubble_time


def distance_factor(z):
    """Factor from Lsun to 1e-17 erg/s/cm2 at redshift ``z``."""
    metres = luminosity_distance(z).double() * _MPC
    return (_LSUN / (4 * math.pi * metres**2) / 1e-17).float()


class Starlight:
    """The SSPs of a template pack on a device, and what is linear in them.

    Parameters
    ----------
    pack : dict
        See `fiberifu.simulate.templates`.
    device : str or `torch.device`
    sidebands : (L, 2, 2) array
        Blue and red sideband limits (rest Angstrom) of every line, for pseudo-continua.
    line_wave : (L,) array
        Rest wavelengths at which the pseudo-continuum is wanted.
    """

    def __init__(self, pack, sidebands, line_wave, device="cpu"):
        def tensor(a, dtype=torch.float32):
            return torch.as_tensor(np.asarray(a), dtype=dtype, device=device)

        self.wave = tensor(pack["wave"])
        self.ssp = tensor(pack["ssp"]).flatten(0, 1)  # S, N
        self.log_age, self.log_z = tensor(pack["log_age"]), tensor(pack["log_z"])
        self.n_age, self.n_met = len(self.log_age), len(self.log_z)
        self.k = calzetti(self.wave)
        self.nebular = tensor(pack["nebular"])  # per unit of H-beta
        wave = np.asarray(pack["wave"], dtype=np.float64)
        self.step = float(np.log(wave[1] / wave[0]))
        self.bands = ("g", "r", "i", "z")
        curves = [(pack["band_wave"], pack[f"band_{band}"]) for band in self.bands]
        # nanomaggies per 1e-17 erg/s/cm2/A, to be summed over the grid
        self.band_curves = tensor(self._photon_weights(wave[0], wave.size, curves))
        # pixel edges of the rest grid, for running integrals
        edges = wave[0] * np.exp(self.step * (np.arange(wave.size + 1) - 0.5))
        self.width = tensor(np.diff(edges), torch.float64)
        self.first_edge = float(edges[0])
        # pseudo-continua: mean of each sideband, interpolated linearly to the line
        mean = np.zeros((len(line_wave), 2, len(self.ssp)))
        centre, side_nebular = np.zeros((len(line_wave), 2)), np.zeros((len(line_wave), 2))
        for i, sides in enumerate(sidebands):
            for j, (low, high) in enumerate(sides):
                inside = (wave > low) & (wave < high)
                mean[i, j] = np.asarray(pack["ssp"]).reshape(-1, wave.size)[:, inside].mean(1)
                centre[i, j] = (low + high) / 2
                side_nebular[i, j] = np.asarray(pack["nebular"])[inside].mean()
        part = (np.asarray(line_wave) - centre[:, 0]) / (centre[:, 1] - centre[:, 0])
        mean *= np.stack([1 - part, part], 1)[:, :, None]
        self.side_mean, self.side_k = tensor(mean), calzetti(tensor(centre))
        self.side_nebular = tensor(side_nebular * np.stack([1 - part, part], 1))

    def _photon_weights(self, first, size, curves):
        """Curves on the rest grid continued to observed 17,500 A: a redshift is then a shift of the index."""
        long = first * np.exp(self.step * np.arange(size + int(0.75 / self.step)))
        rows = []
        for band_wave, curve in curves:
            t = np.interp(long, band_wave, curve, left=0, right=0)
            # photon-counting AB photometry: int f lambda T dlambda / int f_AB lambda T dlambda
            rows.append(t * long**2 / (np.sum(t) * AB_NANOMAGGY))
        return np.stack(rows)

    def through(self, curves):
        """The same starlight with other filters, pairs of wavelengths (Angstrom) and transmission."""
        out = copy.copy(self)
        weights = self._photon_weights(float(self.wave[0]), len(self.wave), curves)
        out.band_curves = torch.as_tensor(weights, dtype=torch.float32, device=self.wave.device)
        return out

    def weights(self, log_age_mean, width, log_z, low=9.0):
        """Mass weights (…, S) of a lognormal age distribution at one metallicity, ages above 10**low yr."""
        # mass per bin of log age: the bins are uneven, so each age weighs by the interval it stands for
        edge = (self.log_age[1:] + self.log_age[:-1]) / 2
        bins = torch.cat([edge, edge[-1:] + 0.1]) - torch.cat([edge[:1] - 0.5, edge])
        age = torch.exp(-0.5 * ((self.log_age - log_age_mean[..., None]) / width[..., None]) ** 2) * bins
        age = age * (self.log_age >= low)
        return self._outer(age / age.sum(-1, keepdim=True), log_z)

    def constant(self, start, stop, log_z):
        """Mass weights (…, S) of constant star formation between two look-back times in yr."""
        edge = 10 ** ((self.log_age[1:] + self.log_age[:-1]) / 2)
        edge = torch.cat([edge.new_zeros(1), edge, edge.new_full((1,), 2e10)])
        overlap = (edge[1:].clamp(max=stop) - edge[:-1].clamp(min=start)).clamp(min=0)
        return self._outer((overlap / overlap.sum()).expand(log_z.shape + (-1,)), log_z)

    def _outer(self, age, log_z):
        position = (log_z[..., None] - self.log_z).clamp(max=0)  # piecewise linear in log Z between grid points
        z = log_z.clamp(self.log_z[0], self.log_z[-1] - 1e-4)
        high = torch.searchsorted(self.log_z, z.contiguous(), right=True).clamp(1, self.n_met - 1)
        part = (z - self.log_z[high - 1]) / (self.log_z[high] - self.log_z[high - 1])
        met = torch.zeros_like(position).scatter_(-1, high[..., None], part[..., None])
        met = met.scatter_(-1, high[..., None] - 1, 1 - part[..., None])
        return (age[..., :, None] * met[..., None, :]).flatten(-2)

    def band_functional(self, z):
        """(B, C, N): dot a rest-frame spectrum [Lsun/A x `distance_factor`] with it to get nanomaggies."""
        shift = torch.log1p(z) / self.step
        whole = shift.floor()
        part = (shift - whole)[:, None, None]
        index = whole.long()[:, None] + torch.arange(len(self.wave) + 1, device=z.device)
        curve = self.band_curves[:, index].transpose(0, 1)
        return (curve[..., :-1] * (1 - part) + curve[..., 1:] * part) / (1 + z[:, None, None])

    def dust(self, ebv):
        """Fraction of light that leaves behind E(B-V): (..., N)."""
        return torch.exp(-0.4 * math.log(10) * ebv[..., None] * self.k)

    def nebular_flux(self, z, ebv):
        """Photometry of the nebular continuum behind dust: (B, D, C) nanomaggy per Lsun of H-beta."""
        functional = self.band_functional(z) * self.nebular
        return torch.einsum("bdn,bcn->bdc", self.dust(ebv), functional) * distance_factor(z)[:, None, None]

    def nebular_pseudo(self, z, ebv):
        """Nebular continuum at the lines' sidebands: (B, D, L), 1e-17 erg/s/cm2/A per Lsun of H-beta."""
        dust = torch.exp(-0.4 * math.log(10) * ebv[..., None, None] * self.side_k)
        return (self.side_nebular * dust).sum(-1) * distance_factor(z)[:, None, None]

    def band_flux(self, z, weights, ebv):
        """Photometry of populations behind dust: (B, P, D, C) nanomaggy per Msun.

        Parameters
        ----------
        z : Tensor (B,)
        weights : Tensor (B, P, S)
        ebv : Tensor (B, D)
            E(B-V) of starlight.
        """
        functional = self.dust(ebv)[:, :, None] * self.band_functional(z)[:, None]  # B, D, C, N
        ssp = torch.matmul(functional, self.ssp.T)  # B, D, C, S
        return torch.einsum("bdcs,bps->bpdc", ssp, weights) * distance_factor(z)[:, None, None, None]

    def line_transmission(self, z, line_wave):
        """(B, C, L): nanomaggies per 1e-17 erg/s/cm2 of a narrow line at rest ``line_wave``."""
        position = torch.log(line_wave * (1 + z[:, None]) / self.wave[0]) / self.step
        low = position.floor().long()
        part = (position - low)[:, None]
        curve = (
            self.band_curves[:, low].transpose(0, 1) * (1 - part) + self.band_curves[:, low + 1].transpose(0, 1) * part
        )
        return curve / (line_wave * (1 + z[:, None]))[:, None] / self.step

    def pseudo_continuum(self, z, weights, ebv):
        """Sideband pseudo-continua at the lines: (B, P, D, L), 1e-17 erg/s/cm2/A per Msun.

        Flux per *rest* Angstrom, so that line flux / continuum is a rest-frame equivalent width.
        """
        dust = torch.exp(-0.4 * math.log(10) * ebv[..., None, None] * self.side_k)  # B, D, L, 2
        one = torch.einsum("bps,ljs->bplj", weights, self.side_mean)
        return torch.einsum("bplj,bdlj->bpdl", one, dust) * distance_factor(z)[:, None, None, None]

    def spectrum(self, mass, ebv, sigma_kms, hbeta=None, gas_ebv=None):
        """Rest-frame spectra (F, N), Lsun/A.

        Parameters
        ----------
        mass : Tensor (F, D, S)
            Mass formed of each SSP behind each dust level.
        ebv : Tensor (F, D)
        sigma_kms : Tensor (F,)
            Broadening beyond the templates' own resolution.
        hbeta, gas_ebv : Tensor (F, D), optional
            H-beta before dust, Lsun, whose nebular continuum is added, and the gas's E(B-V).
        """
        spectrum = ((mass @ self.ssp) * self.dust(ebv)).sum(1)
        if hbeta is not None:
            spectrum = spectrum + (self.dust(gas_ebv) * hbeta[..., None]).sum(1) * self.nebular
        n = len(self.wave)
        padded = torch.cat([spectrum, spectrum[:, -1:].expand(-1, 540), spectrum[:, :1].expand(-1, 535)], 1)  # 2^14
        k = torch.fft.rfftfreq(padded.shape[1], device=spectrum.device)
        sigma = sigma_kms / C_KMS / self.step
        gauss = torch.exp(-2 * (math.pi * k * sigma[:, None]) ** 2)
        return torch.fft.irfft(torch.fft.rfft(padded) * gauss, n=padded.shape[1])[:, :n]

    def render(self, spectrum, z, edges):
        """Flux-conserving mean over observed pixels: (F, n_pixel), 1e-17 erg/s/cm2/A.

        Parameters
        ----------
        spectrum : Tensor (F, N)
            Rest frame, Lsun/A.
        z : Tensor (F,)
            Redshift of the light (distance included).
        edges : Tensor (n_pixel + 1,) or (F, n_pixel + 1)
            Observed Angstrom, float64.
        """
        running = torch.nn.functional.pad(torch.cumsum(spectrum.double() * self.width, 1), (1, 0))
        position = torch.log(edges / (1 + z.double()[:, None]) / self.first_edge) / self.step
        position = position.clamp(0, len(self.wave) - 1e-6)
        low = position.floor().long()
        value = torch.gather(running, 1, low)
        value = value + (torch.gather(running, 1, low + 1) - value) * (position - low)
        return (value.diff(dim=1) / edges.diff(dim=-1)).float() * distance_factor(z)[:, None]
