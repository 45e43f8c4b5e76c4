"""The continuum of ionised hydrogen: recombination to bound levels, bremsstrahlung and two photons."""

import numpy as np

__all__ = ["nebular_continuum"]

_H, _K, _RYDBERG, _C = 6.62607e-27, 1.380649e-16, 2.17987e-11, 2.99792458e10  # cgs
#: 4 pi j / (n_e n_p) of H-beta, case B at 1e4 K and 100 cm-3, erg cm3/s (Osterbrock & Ferland 2006, table 4.4).
_H_BETA = 1.235e-25
#: Recombinations to 2 2S that end in two photons, case B at 1e4 K, cm3/s (Osterbrock & Ferland 2006, table 4.11).
_TO_2S = 0.838e-13


def _gaunt_free_free(frequency, temperature):
    """Free-free Gaunt factor of hydrogen (Draine 2011, eq. 10.9, good to 10 % for photons below 10 kT or so)."""
    x = np.log(frequency / 1e9 * (temperature / 1e4) ** -1.5)
    return np.log(np.exp(5.960 - np.sqrt(3) / np.pi * x) + np.e)


def _gaunt_bound_free(frequency, n):
    """Kramers-Gaunt factor of level ``n`` (Menzel & Pekeris 1935; Seaton 1959, expansion in n^-2/3)."""
    u = n**2 * (_H * frequency / _RYDBERG) - 1  # energy of the free electron in units of the threshold
    first = 0.1728 * (u - 1) / (n * (u + 1)) ** (2 / 3)
    second = 0.0496 * (u**2 + 4 / 3 * u + 1) / (n * (u + 1)) ** (4 / 3)
    return 1 + first - second


def nebular_continuum(wave, temperature=1e4):
    """Continuum of hydrogen per unit of its H-beta line.

    Free-bound and free-free: Kramers' formula with Gaunt factors, summed over levels (Brown & Mathews 1970;
    Osterbrock & Ferland 2006, section 4.3). Two photons: spectral shape of Nussbaumer & Schmutz 1984 (eq. 2),
    case B, far below the critical density of 1e4 cm-3. Helium, which would add about a tenth, and the
    temperature dependence of H-beta are left out.

    Parameters
    ----------
    wave : (N,) array
        Rest vacuum wavelength, Angstrom, above the Lyman limit.
    temperature : float
        Electron temperature, K.

    Returns
    -------
    (N,) `numpy.ndarray`
        1 / Angstrom: multiply by the luminosity of H-beta.
    """
    wave = np.asarray(wave, dtype=np.float64)
    frequency = _C / (wave * 1e-8)
    kt = _K * temperature
    # Kramers: every term is 6.84e-38 T^-1/2 exp(-h nu / kT) x a weight (Rybicki & Lightman 1979, eq. 5.14a)
    weight = _gaunt_free_free(frequency, temperature)
    for n in range(2, 40):
        free = _H * frequency >= _RYDBERG / n**2
        bound = 2 * _RYDBERG / (kt * n**3) * np.exp(_RYDBERG / n**2 / kt) * _gaunt_bound_free(frequency, n)
        weight = weight + np.where(free, bound, 0.0)
    emission = 6.84e-38 / np.sqrt(temperature) * np.exp(-_H * frequency / kt) * weight  # erg cm3/s/Hz

    y = np.clip(1215.67 / wave, 0, 1)
    w = y * (1 - y)
    rate = 202.0 * (w * (1 - (4 * w) ** 0.8) + 0.88 * w**1.53 * (4 * w) ** 0.8)  # A(y), 1/s
    total = 8.2249  # the integral of A(y) / 2
    # photons per decay and unit y are A(y) / total; d nu = nu_Lya dy
    emission = emission + _TO_2S * _H * frequency * (rate / total) * (1215.67e-8 / _C)
    return emission * frequency / wave / _H_BETA  # f_lambda = f_nu nu / lambda
