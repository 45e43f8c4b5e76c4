"""How noisy an aperture on one of MaNGA's cubes is: ``noise of fibres x cube_factor -> noise of the aperture``."""

import functools
import math

import numpy as np

from ..simulate.ifu import MANGA, fiber_noise

__all__ = ["aperture_noise", "cube_factor"]


def aperture_noise(simulator, inside, instrument=MANGA):
    """Noise (F, N) that the flux in the network's aperture has on MaNGA's cubes, on DESI's pixels.

    That of a fibre of all visits of one pointing (`fiberifu.simulate.ifu.fiber_noise`) x `cube_factor`. The cube's
    aperture has a beam of 2.5 arcsec; given to light at the image's PSF, this noise makes the training set a little
    better than cubes are. Calibration errors and the covariance of neighbouring apertures are left out.

    Parameters
    ----------
    simulator : Simulator
    inside : Tensor (F, N)
        Noiseless flux in the aperture, 1e-17 erg/s/cm2/A.
    instrument : IFUInstrument
    """
    diameter = simulator.config.aperture
    in_fiber = inside * (instrument.core / diameter) ** 2
    one = fiber_noise(simulator, simulator.desi, in_fiber, instrument.seconds, instrument)
    return one * (cube_factor(diameter, instrument) / math.sqrt(instrument.sets))


@functools.cache
def cube_factor(diameter, instrument=MANGA, step=0.05, size=256):
    """Noise of a round aperture on a cube, in units of the noise of one of the fibre spectra that the cube is made of.

    A cube's spaxels are means of fibres with Shepard's weights G (Law+2016, AJ 152, 83, equation 6), an aperture D sums
    spaxels, B being the shape of one: with n fibre positions per arcsec2 and a the area of a core, the weight of a
    fibre is (D * B * G) / (n a), * a convolution and B, G of integral 1, and the variance n times the integral of its
    square. n is three dithers over the area sqrt(3) / 2 pitch^2 of a fibre's cell. The sum over the fibres of a real
    bundle is 3 % less.

    Parameters
    ----------
    diameter : float
        arcsec.
    instrument : IFUInstrument
    step, size : float, int
        Of the grid on which the integral is summed: arcsec, points on a side.
    """
    axis = (np.arange(size) - size / 2) * step
    x, y = np.meshgrid(axis, axis)
    disc = np.hypot(x, y) < diameter / 2
    disc = disc * (math.pi / 4 * diameter**2 / disc.sum())  # arcsec2 at each point
    box = (np.abs(x) < instrument.spaxel / 2) & (np.abs(y) < instrument.spaxel / 2)
    shepard = np.exp(-0.5 * (x**2 + y**2) / instrument.width**2) * (np.hypot(x, y) < instrument.reach)
    transfer = np.fft.fft2(disc) * np.fft.fft2(box / box.sum()) * np.fft.fft2(shepard / shepard.sum())
    squares = (np.abs(transfer) ** 2).mean() / step**2  # Parseval: integral of (D * B * G)^2, arcsec2
    density, core = 3 / (math.sqrt(0.75) * instrument.pitch**2), math.pi / 4 * instrument.core**2
    return math.sqrt(squares / density) / core
