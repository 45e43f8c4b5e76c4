"""The pixels of a spectrograph: `SpectralGrid`."""

import dataclasses

import numpy as np
import torch

from ..model.basis import desi_lsf

__all__ = ["SpectralGrid"]

# Observed wavelength and sigma, A.
_MANGA_LSF = (
    (3630, 3700, 3900, 4200, 4600, 5000, 5400, 5800, 5950, 6200, 6400, 7000, 7500, 8000, 8500, 9000, 9500, 9900, 10200,
     10340),
    (1.10, 1.08, 1.06, 1.06, 1.10, 1.17, 1.24, 1.28, 1.35, 1.44, 1.48, 1.49, 1.52, 1.56, 1.55, 1.59, 1.68, 1.86, 2.07,
     2.21),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralGrid:
    """Pixels and resolution of a spectrograph; vacuum wavelengths.

    Parameters
    ----------
    wave : Tensor (N,) of float64
        Pixel centres, Angstrom, rising.
    edges : Tensor (N + 1,) of float64
    lsf : Tensor (N,)
        1-sigma of the line-spread function at every pixel, Angstrom.
    stellar_lsf : float
        The same as a velocity, km/s, one for all of the starlight.
    """

    wave: torch.Tensor
    edges: torch.Tensor
    lsf: torch.Tensor
    stellar_lsf: float

    @classmethod
    def desi(cls, device="cpu"):
        """DESI: 3600-9824 A in steps of 0.8 A."""
        wave = 3600 + 0.8 * torch.arange(7781, device=device, dtype=torch.float64)
        edges = torch.cat([wave - 0.4, wave[-1:] + 0.4])
        return cls(wave, edges, desi_lsf(wave).float(), 55.0)

    @classmethod
    def manga(cls, device="cpu"):
        """MaNGA's logarithmic grid: 3622-10354 A in steps of 1e-4 in log10 (Law+2016, AJ 152, 83).

        The line-spread function is the median resolution of eight public spaxels (those of the DAP's tests), taken
        as before integration over pixels; blue and red spectrographs meet near 6000 A.
        """
        log = 3.5589 + 1e-4 * torch.arange(-0.5, 4563, 0.5, device=device, dtype=torch.float64)
        grid = 10**log
        wave, edges = grid[1::2].contiguous(), grid[::2].contiguous()
        lsf = np.interp(wave.cpu().numpy(), *_MANGA_LSF)
        return cls(wave, edges, torch.as_tensor(lsf, dtype=torch.float32, device=device), 68.0)

    def lsf_at(self, wave):
        """sigma (…), Angstrom, at observed wavelengths ``wave``; linear between pixels, the end values beyond."""
        place = torch.searchsorted(self.wave, wave.double().contiguous()).clamp(1, len(self.wave) - 1)
        low, high = self.wave[place - 1], self.wave[place]
        part = ((wave - low) / (high - low)).clamp(0, 1).float()
        return self.lsf[place - 1] * (1 - part) + self.lsf[place] * part
