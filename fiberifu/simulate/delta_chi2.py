"""DELTACHI2 of a spectrum whose noiseless form is known: what the best template gains on a polynomial.

Shapes: F fibres, n pixels of an arm.
"""

import numpy as np

__all__ = ["LOW_DELTA_CHI2", "delta_chi2"]

DEGREE = 3  # of the polynomial in each arm
#: Below it redrock sets bit 2 (value 4) of ZWARN, SMALL_DELTA_CHI2 (its module ``zwarning``; Bailey et al., in prep.).
LOW_DELTA_CHI2 = 9.0


def delta_chi2(wave, flux, ivar, template):
    """chi2 of a cubic polynomial in each arm, less chi2 of the template with such polynomials.

    The template has one amplitude for all arms. With the polynomials fitted out of both, the gain is
    (sum w f t)^2 / sum w t^2: never negative, about 1 for a spectrum that has nothing of the template, and the square
    of the S/N of what is no continuum for one that has. A template of negative amplitude gains nothing.

    Parameters
    ----------
    wave : dict of str to ndarray (n,)
        By arm.
    flux, ivar, template : dict of str to ndarray (F, n)
        By arm; ``ivar`` 0 where a pixel is not to be used, ``template`` the noiseless flux, 0 for blank sky.

    Returns
    -------
    ndarray (F,)
    """
    cross = norm = 0.0
    for arm, x in wave.items():
        x = np.asarray(x, float)
        basis = np.polynomial.legendre.legvander(2 * (x - x[0]) / (x[-1] - x[0]) - 1, DEGREE)
        weight = np.asarray(ivar[arm], float)
        normal = np.einsum("fp,pi,pj->fij", weight, basis, basis, optimize=True)
        scale = np.einsum("fii->f", normal)[:, None, None]
        normal = normal + np.where(scale > 0, 1e-12 * scale, 1.0) * np.eye(DEGREE + 1)
        rest = []
        for value in (flux[arm], template[arm]):
            value = np.where(weight > 0, np.asarray(value, float), 0.0)
            fitted = np.linalg.solve(normal, ((weight * value) @ basis)[..., None])[..., 0]
            rest.append(value - fitted @ basis.T)
        cross = cross + (weight * rest[0] * rest[1]).sum(1)
        norm = norm + (weight * rest[1] ** 2).sum(1)
    return np.where(norm > 0, np.clip(cross, 0, None) ** 2 / np.where(norm > 0, norm, 1), 0.0)
