"""How fibre spectra are calibrated: shares of light in a fibre, and the pipeline's column of them.

Shapes: F fibres.
"""

import math

import numpy as np
import torch

from .observe import moffat_transfer

__all__ = ["fiber_fraction", "psf_to_fiber_specflux"]


def fiber_fraction(half_light, offset, fwhm, diameter=1.5):
    """Share of an exponential disc's light in a fibre under Moffat seeing (beta 3.5); a point source if 0.

    By the Hankel transform, on a grid of spatial frequencies.

    Parameters
    ----------
    half_light, offset, fwhm : ndarray (F,)
        arcsec.
    """
    k = torch.linspace(0, 4, 4001, dtype=torch.float64)[1:]
    half_light, offset, fwhm = (
        torch.tensor(np.asarray(a), dtype=torch.float64)[..., None] for a in (half_light, offset, fwhm)
    )
    disc = (1 + (2 * math.pi * k * half_light / 1.678) ** 2) ** -1.5
    psf = moffat_transfer(k, fwhm)
    aperture = diameter / 2 * torch.special.bessel_j1(math.pi * k * diameter) / k  # transform of the fibre's face
    where = torch.special.bessel_j0(2 * math.pi * k * offset)
    return (2 * math.pi * k * disc * psf * aperture * where).sum(-1).numpy() * 1e-3


def psf_to_fiber_specflux(morphtype, shape_r, offset, seeing, failed=None):
    """The column PSF_TO_FIBER_SPECFLUX by the DESI pipeline's definition (``desispec.fiberfluxcorr``).

    Factor from flux calibrated as a point source to flux in 1.5 arcsec at a nominal 1 arcsec Gaussian seeing: of a
    centred exponential disc with SHAPE_R, at most 2 arcsec, whatever the galaxy is; grey.

    Parameters
    ----------
    morphtype : array_like of str (F,)
        "PSF" for a point source.
    shape_r, offset, seeing : array_like (F,)
        Half-light radius, distance of the fibre from its target, FWHM; arcsec.
    failed : array_like of bool (F,), optional
        Sky fibres and failed ones: 0.

    Returns
    -------
    ndarray (F,)
        0.789 for a point source; near 0.79 where the morphology is blank and SHAPE_R 0.
    """
    point = np.asarray(morphtype) == "PSF"
    size = np.where(point, 0.0, np.minimum(shape_r, 2.0))
    offset, seeing = np.broadcast_to(offset, size.shape), np.broadcast_to(seeing, size.shape)
    zero, one = np.zeros_like(size), np.ones_like(size)
    now = fiber_fraction(zero, offset, seeing) / fiber_fraction(size, offset, seeing)
    nominal = 0.789 * fiber_fraction(size, zero, one) / fiber_fraction(zero[:1], zero[:1], one[:1])
    out = now * nominal
    return out if failed is None else np.where(failed, 0.0, out)
