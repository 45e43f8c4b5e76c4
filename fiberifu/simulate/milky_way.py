"""Where simulated galaxies stand on the sky, and the dust of the Milky Way before them.

Images, spectra and cubes of surveys are not corrected for it, so those made here have it too; truth is without. The
numbers are those of `fiberifu.extinction`, which needs more than NumPy.
"""

import math

import numpy as np

from .streams import stream

__all__ = ["BAND_EXTINCTION", "galactic_ebv", "sky_position", "transmission"]

#: A / E(B-V) on the scale of Schlegel, Finkbeiner & Davis (1998) in DECam's bands (Legacy Surveys DR9).
BAND_EXTINCTION = {"g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211}
FIELD = 512  # galaxies
# Observed A, and A / E(B-V)_SFD of Fitzpatrick (1999) with R_V = 3.1, rescaled by Schlafly & Finkbeiner (2011).
_CURVE = (
    (3500, 3700, 3900, 4100, 4350, 4600, 4900, 5200, 5600, 6000, 6500, 7000, 7600, 8200, 9000, 10000, 10500),
    (4.311, 4.132, 3.966, 3.808, 3.615, 3.412, 3.15, 2.895, 2.604, 2.368, 2.107, 1.879, 1.646, 1.449, 1.236, 1.029,
     0.945),
)  # fmt: skip


def sky_position(seed, index):
    """Where galaxy ``index`` of ``seed`` stands: (right ascension, declination), degrees.

    512 galaxies in a row share a field of 0.9 degrees, as much as a few dozen that a survey takes of them would need;
    fields lie at random in 120-260, 0-60.
    """
    field, own = stream(seed, index // FIELD, "field").uniform(size=2), stream(seed, index, "sky").uniform(size=2)
    dec = math.degrees(math.asin(field[1] * math.sin(math.radians(60))))
    radius, angle = 0.45 * math.sqrt(own[0]), 2 * math.pi * own[1]
    east = radius * math.cos(angle) / math.cos(math.radians(dec))
    return float(120 + 140 * field[0] + east), dec + radius * math.sin(angle)


def galactic_ebv(seed, index):
    """E(B-V) of the Milky Way there, as in DESI's footprint: median 0.03 mag, the central 68 % in 0.016 to 0.055."""
    field, own = (
        stream(seed, i, name).standard_normal() for i, name in ((index // FIELD, "field dust"), (index, "dust"))
    )
    return float(np.clip(0.03 * np.exp(0.59 * field + 0.1 * own), 0.003, 0.3))


def transmission(wave, ebv):
    """Share of the light that passes at ``wave`` [A]; float64, of the shape of ``wave``."""
    return 10 ** (-0.4 * ebv * np.interp(wave, *_CURVE))
