# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""How deep MaNGA would see: noise of its fibres -> of an aperture on its cubes -> of the flux of a line.

The noise is the simulator's own for MaNGA's fibres under a dark sky, three visits of three pointings of 900 s; what
fits of real spectra lose against the best possible one is a factor on top, from real errors.
"""

import functools
import math

import numpy as np

from ..constants import C_KMS

__all__ = ["FIT_LOSS", "aperture_factor", "line_depth"]

#: Errors of the survey's line fluxes over those of a Gaussian of known place and width in the simulator's noise. In
#: single spaxels the ideal fit reaches 2.8e-18 erg/s/cm2/arcsec2 in H-alpha (3 sigma, 9 exposures); MaNGA has 5e-18
#: (Belfiore+2019, AJ 158, 160), and in the faint spaxels of the public cube 7815-3702 4.2e-18 with 15 exposures. Free
#: widths alone make 1.22; moonlight, residuals of the sky and of the stars, and more, the rest.
FIT_LOSS = 1.8


@functools.cache
def aperture_factor(diameter=1.5, fibers=61):
    """Noise of a round aperture on a cube, in units of the noise of one of the fibre spectra that the cube is made of.

    A spaxel is a weighted mean of fibres, an aperture a sum over spaxels, so it is a sum over fibres with known
    weights (Law+2016, AJ 152, 83, section 9.2); the square root of the sum of their squares, rms over places in the
    middle of the bundle. The spaxels' covariance is in it.

    Parameters
    ----------
    diameter : float
        arcsec.
    fibers : int
        Of the bundle; any but the smallest gives the same.
    """
    from ..simulate.ifu import MANGA, bundle_positions, cube_side, shepard_weights

    side = cube_side(fibers)
    weights = shepard_weights(bundle_positions(fibers).reshape(-1, 2), side).astype(float)
    spaxel_area, fiber_area = MANGA.spaxel**2, math.pi / 4 * MANGA.core**2
    rows = weights / np.maximum(weights.sum(1, keepdims=True), 1e-12) * spaxel_area / fiber_area
    # the disc as points 0.05 arcsec apart, at places that step over a spaxel and the pattern of the dithers
    fine = np.arange(-diameter / 2 + 0.025, diameter / 2, 0.05)
    x, y = (a.ravel() for a in np.meshgrid(fine, fine))
    inside = np.hypot(x, y) < diameter / 2
    x, y = x[inside], y[inside]
    area = math.pi / 4 * diameter**2 / len(x)
    variance = []
    for place in np.stack(np.meshgrid(np.linspace(-1.2, 1.2, 7), np.linspace(-1.2, 1.2, 7)), -1).reshape(-1, 2):
        column, row = (
            np.floor((a + p) / MANGA.spaxel + side / 2).astype(int) for a, p in zip((x, y), place, strict=True)
        )
        share = np.bincount(row * side + column, minlength=side**2) * area / spaxel_area
        variance.append(((share @ rows) ** 2).sum())
    return math.sqrt(np.mean(variance))


def line_depth(simulator, redshift, dispersion):
    """1-sigma errors that MaNGA would have on the fluxes of lines in the network's aperture, where the sky dominates.

    `FIT_LOSS` times that of the best fit of a Gaussian of known width: ``sigma^-2 = sum_i (p_i / s_i)^2`` with the
    line's profile ``p`` and the noise ``s`` in pixel i. Where a galaxy outshines the dark sky MaNGA does worse.

    Parameters
    ----------
    simulator : `~fiberifu.simulate.Simulator`
    redshift : float
    dispersion : float
        Of the gas, km/s; the instrument's is added.

    Returns
    -------
    ndarray (15,)
        1e-17 erg/s/cm2; inf for lines off MaNGA's grid, 3622 to 10354 A.
    """
    import torch

    from ..model import LINE_WAVELENGTH, LINES
    from ..simulate import MANGA, SpectralGrid
    from ..simulate.ifu import fiber_noise

    grid = SpectralGrid.manga(simulator.device)
    dark = torch.zeros(1, len(grid.wave), device=simulator.device)
    noise = fiber_noise(simulator, grid, dark, MANGA.seconds)[0].double().cpu() / math.sqrt(MANGA.sets)
    noise = noise * aperture_factor(simulator.config.aperture)
    centre = torch.tensor([LINE_WAVELENGTH[line] for line in LINES], dtype=torch.float64) * (1 + redshift)
    sigma = torch.hypot(centre * dispersion / C_KMS, grid.lsf_at(centre).double().cpu())
    edges = grid.edges.cpu()
    share = torch.erf((edges - centre[:, None]) / sigma[:, None] / math.sqrt(2)).diff(dim=1) / 2
    weight = ((share / edges.diff() / noise) ** 2).sum(1)
    whole = share.sum(1) > 0.99
    return torch.where(whole, FIT_LOSS * weight.clamp(min=1e-30).rsqrt(), torch.inf).numpy()
