# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Galactic extinction, on the scale of the SFD reddening maps.

The network sees dereddened images and spectra. Images take the band
coefficients below; spectra take the curve. Both are A / E(B-V)_SFD: they multiply
the reddening read from the map of Schlegel, Finkbeiner & Davis 1998 (ApJ 500, 525),
with the recalibration of Schlafly & Finkbeiner 2011 (ApJ 737, 103) built in.
"""

import numpy as np
from scipy.interpolate import CubicSpline

__all__ = ["BAND_EXTINCTION", "mw_extinction_curve", "mw_transmission"]

#: A / E(B-V)_SFD of the DECam filters, R_V = 3.1, airmass 1.3, 7000 K source: E. Schlafly with the
#: method of Schlafly & Finkbeiner 2011, as used by the Legacy Surveys (DR9 "Galactic extinction").
BAND_EXTINCTION = {"g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211}

# Anchors of the R_V = 3.1 curve, 1/micron and A/E(B-V): Fitzpatrick 1999 (PASP 111, 63), Table 3.
_ANCHOR_X = 1e4 / np.array([np.inf, 26500, 12200, 6000, 5470, 4670, 4110, 2700, 2600])
_ANCHOR_K = np.array([0.0, 0.265, 0.829, 2.688, 3.055, 3.806, 4.315, 6.265, 6.591])
_F99 = CubicSpline(_ANCHOR_X, _ANCHOR_K, bc_type="natural")
_RANGE = (2600.0, 60000.0)
# A(1 micron) / E(B-V)_SFD: 1.319 of Schlegel et al. 1998 times the 0.78 by which Schlafly & Finkbeiner
# 2011 (section 4) rescale it. With their source spectra that is their 14 % in E(B-V).
_SCALE = 1.319 * 0.78 / _F99(1.0)


def mw_extinction_curve(wave):
    """Milky Way extinction per unit SFD reddening: Fitzpatrick 1999, R_V = 3.1.

    Parameters
    ----------
    wave : array_like
        Wavelength in angstrom, 2600 to 60000 (the difference of air and vacuum
        does not matter here).

    Returns
    -------
    ndarray of float64
        A(wave) / E(B-V)_SFD in magnitudes, same shape as ``wave``: the spline of
        Fitzpatrick 1999 (PASP 111, 63), normalised at 1 micron as by Schlafly &
        Finkbeiner 2011.

    Raises
    ------
    ValueError
        If a wavelength is outside the range of the optical-infrared spline.
    """
    wave = np.asarray(wave, dtype=float)
    if wave.size and not (np.min(wave) >= _RANGE[0] and np.max(wave) <= _RANGE[1]):
        raise ValueError(
            f"wave must lie within {_RANGE[0]:.0f} to {_RANGE[1]:.0f} angstrom, "
            f"got {np.min(wave):.6g} to {np.max(wave):.6g}; give wavelengths in angstrom"
        )
    return _SCALE * _F99(1e4 / wave)


def mw_transmission(wave, ebv):
    """Fraction of light that passes the Milky Way's dust.

    Parameters
    ----------
    wave : array_like
        Wavelength in angstrom.
    ebv : float
        E(B-V) on the SFD scale.

    Returns
    -------
    ndarray of float64
        10^(-0.4 A(wave)); divide an observed spectrum by it to deredden.
    """
    return 10 ** (-0.4 * ebv * mw_extinction_curve(wave))
