"""Large fields: overlapping stamps on a fixed lattice of the sky, blended without seams."""

import numpy as np

__all__ = ["LATTICE", "stamp_weights"]

LATTICE = 8.0  # arcsec between stamp centres; queries stay within this of a centre, as in training


def stamp_weights(offsets, step=LATTICE):
    """The stamps that see each position, with bilinear weights.

    The lattice is fixed to the image, so a position is always seen by the same stamps whatever its company, and the
    weights are continuous, so there are no seams.

    Parameters
    ----------
    offsets : ndarray (N, 2)
        East, north from the image's centre, arcsec.
    step : float

    Returns
    -------
    dict
        (east, north) of a stamp's centre [arcsec] -> (indices, weights) of the positions it sees; the weights of a
        position sum to 1.
    """
    place = np.asarray(offsets, float) / step
    corner = np.floor(place).astype(int)
    part = place - corner
    found = {}
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.where(dx, part[:, 0], 1 - part[:, 0]) * np.where(dy, part[:, 1], 1 - part[:, 1])
            for i in np.flatnonzero(weight > 0):
                found.setdefault((corner[i, 0] + dx, corner[i, 1] + dy), []).append((i, weight[i]))
    return {
        (float(kx * step), float(ky * step)): (np.array([i for i, _ in rows]), np.array([w for _, w in rows]))
        for (kx, ky), rows in sorted(found.items())
    }
