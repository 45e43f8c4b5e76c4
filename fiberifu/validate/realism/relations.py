# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Published relations that the simulation is held against, each with its source."""

import numpy as np

__all__ = [
    "SOLAR_OH",
    "andrews_martini_2013",
    "abundance_ridge",
    "kewley_ellison_n2",
    "n2_metallicity",
    "sfr_from_halpha",
    "size_early",
    "size_late",
    "tremonti_2004",
]

#: 12 + log(O/H) of the gas at solar Z = 0.01524 with a dust-to-metal ratio of 0.3-0.4 (Gutkin et al. 2016, table 2).
SOLAR_OH = 8.70


def abundance_ridge(x):
    """log [O III]/H-beta of star-forming galaxies at z = 0: 0.61 / (x + 0.08) + 1.1 (Kewley+2013, ApJ 774, 100).

    ``x`` is log [N II]/H-alpha; -inf right of the asymptote.
    """
    x = np.asarray(x, dtype=float)
    left = x < -0.08
    return np.where(left, 0.61 / np.where(left, x + 0.08, -1.0) + 1.1, -np.inf)


def tremonti_2004(log_mass):
    """12 + log(O/H), Tremonti et al. (2004, ApJ 613, 898), eq. 3; 8.5 < log M < 11.5, Kroupa IMF."""
    return -1.492 + 1.847 * log_mass - 0.08026 * log_mass**2


def andrews_martini_2013(log_mass):
    """12 + log(O/H) from electron temperatures, Andrews & Martini (2013, ApJ 765, 140), eq. 5 and table 4."""
    return 8.798 - np.log10(1 + 10 ** (0.640 * (8.901 - np.asarray(log_mass))))


def n2_metallicity(log_n2):
    """12 + log(O/H) = 8.90 + 0.57 log([N II] 6583 / H-alpha); Pettini & Pagel (2004, MNRAS 348, L59), eq. 1."""
    return 8.90 + 0.57 * np.asarray(log_n2)


def kewley_ellison_n2(log_mass):
    """12 + log(O/H) on the N2 scale of Pettini & Pagel (Kewley & Ellison 2008, ApJ 681, 1183, table 2)."""
    return np.polyval([-0.0235065, 0.645142, -5.62784, 23.9049], log_mass)


def sfr_from_halpha(luminosity):
    """Msun/yr from dust-corrected L(H-alpha) in erg/s: log SFR = log L - 41.27 (Kennicutt & Evans 2012, table 1)."""
    return np.asarray(luminosity) * 10**-41.27


def size_late(log_mass):
    """log10 of the major-axis effective radius / kpc of late types at z = 0.25 (van der Wel et al. 2014, table 1)."""
    return 0.86 + 0.25 * (np.asarray(log_mass) - np.log10(5e10))


def size_early(log_mass):
    """The same of early types more massive than 2e10 Msun."""
    return 0.60 + 0.75 * (np.asarray(log_mass) - np.log10(5e10))
