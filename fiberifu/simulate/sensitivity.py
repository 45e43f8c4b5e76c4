"""How much light a fibre spectrograph turns into electrons: one set of numbers for training spectra and for arms.

Shapes: N spectral pixels; 3 arms b, r, z.
"""

import dataclasses

import torch

__all__ = ["ARMS", "DESI", "FiberInstrument", "arm_share", "sensitivity"]

#: First pixel and number of pixels of each arm on the grid 3600-9824 A, 0.8 A (DESI Collaboration 2024, AJ 168, 58).
ARMS = {"b": (0, 2751), "r": (2700, 2326), "z": (4900, 2881)}
# Atmospheric extinction at Kitt Peak, mag per airmass (IRAF onedstds kpnoextinct).
EXTINCTION = (
    (3600, 3700, 3860, 4036, 4255, 4566, 5000, 5556, 6055, 6790, 7550, 8370, 9832),
    (0.56, 0.502, 0.428, 0.364, 0.302, 0.238, 0.183, 0.151, 0.133, 0.084, 0.061, 0.048, 0.037),
)


@dataclasses.dataclass(frozen=True)
class FiberInstrument:
    """Numbers of the fibres and the spectrographs.

    Parameters
    ----------
    diameter : float
        Of the fibre on the sky, arcsec.
    area : float
        Collecting area, cm2.
    airmass : float
    positioner, scatter : float
        1-sigma error of the fibre's mean position and from exposure to exposure, arcsec in each direction.
    longest : float
        Exposures are split so that none is longer, effective s; their read noise is then that of the four coadds below.
    read_noise : tuple of float
        Electrons per CCD pixel in b, r, z.
    ccd_pixels : float
        CCD pixels whose read noise a pixel of 0.8 A collects: about 4.4 across the trace times 0.8 / 0.6 A.
    efficiency : tuple
        Of each arm relative to the template pack's throughput: wavelengths [A] and values. From the noise of four
        early-release coadds (30, 20, 2 and 1 exposures) with their open-shutter times, and sky as bright as their
        effective ones say; what it corrects are fibre losses in the blue, sky and throughput alike.
    cosmic_rate : float
        Hits per arm, spectrum and 1000 s.
    failed : float
        Share of fibres whose positioner failed.
    """

    diameter: float = 1.5
    area: float = 8.66e4
    airmass: float = 1.2
    positioner: float = 0.08
    scatter: float = 0.06
    longest: float = 1800.0
    read_noise: tuple = (3.2, 2.8, 2.8)
    ccd_pixels: float = 5.9
    efficiency: tuple = (
        ((3600, 3675, 3750, 3850, 3950, 4100, 4300, 4550, 4850), (0.38, 0.51, 0.59, 0.67, 0.77, 0.8, 0.86, 0.94, 1.02)),
        ((5700,), (1.15,)),
        ((7520, 9150, 9450, 9650, 9824), (1.35, 1.35, 0.85, 0.85, 1.0)),
    )
    cosmic_rate: float = 2.0
    failed: float = 0.01


DESI = FiberInstrument()


def arm_share(arm, wave):
    """Share of the light that the dichroics send into an arm, after the arms' throughputs and the noise of coadds.

    Parameters
    ----------
    arm : {'b', 'r', 'z'}
    wave : ndarray or Tensor
        A.
    """
    red = torch.sigmoid((torch.as_tensor(wave) - 5783.0) / 41.0)
    far = torch.sigmoid((torch.as_tensor(wave) - 7570.0) / 36.0)
    return {"b": 1 - red, "r": red * (1 - far), "z": far}[arm]


def sensitivity(wave, throughput, instrument=DESI):
    """Electrons (3, N) of float64 per second and unit of flux, 1e-17 erg/s/cm2/A, in a pixel of 0.8 A of each arm.

    Beyond an arm's own pixels (`ARMS`) too, where they are not recorded.

    Parameters
    ----------
    wave, throughput : Tensor (N,)
        A, and the template pack's throughput of telescope and spectrographs.
    instrument : FiberInstrument
    """
    wave = wave.double()
    air = 10 ** (-0.4 * instrument.airmass * _interpolate(wave, *EXTINCTION))
    energy = 1.98645e-8 / wave  # erg
    one = 1e-17 * instrument.area * 0.8 / energy * air * throughput.double()
    rows = [arm_share(arm, wave) * _interpolate(wave, *e) for arm, e in zip(ARMS, instrument.efficiency, strict=True)]
    return one * torch.stack(rows)


def _interpolate(x, at, value):
    """`numpy.interp` on the device of ``x``."""
    if len(at) == 1:
        return torch.full_like(x, value[0])
    at, value = (torch.tensor(a, dtype=x.dtype, device=x.device) for a in (at, value))
    place = torch.searchsorted(at, x).clamp(1, len(at) - 1)
    part = ((x - at[place - 1]) / (at[place] - at[place - 1])).clamp(0, 1)
    return value[place - 1] * (1 - part) + value[place] * part
