"""Which part of the sky is never trained on: ``position -> cell -> hash of its number -> held out or not``.

A galaxy that is seen twice, or whose light reaches into a neighbour's stamp, must not be on both sides. The hash of a
cell decides, not the order of a file or a random state, so that new data never move a galaxy to the other side.
"""

import numpy as np

__all__ = ["MARGIN", "SALT", "SHARE", "is_held_out", "sky_block"]

#: Share of the cells that are held out.
SHARE = 0.1
#: arcsec; about the side of a stamp (33.5).
MARGIN = 30.0
#: Of the hash; another one makes another split, which old weights have not been trained for.
SALT = 0x6669626572696675
RINGS = 180  # of 1 degree in declination

_RING_EDGE = np.sin(np.radians(np.arange(RINGS + 1) - 90.0))
_CELLS = np.rint(360 * 180 / np.pi * np.diff(_RING_EDGE)).astype(np.int64)  # 1 deg2 each; 3 around a pole
_FIRST = np.concatenate([[0], np.cumsum(_CELLS)])


def sky_block(ra, dec):
    """Number of the cell of the sky that a position is in.

    Rings of one degree in declination, divided evenly in right ascension into cells of 1 deg2 to 5 % (exactly equal
    within a ring): 41,252 on the whole sky.

    Parameters
    ----------
    ra, dec : array_like or Quantity
        ICRS; degrees where there is no unit.

    Returns
    -------
    ndarray of int64
        In the common shape of ``ra`` and ``dec``.

    Raises
    ------
    ValueError
        For a declination beyond the poles or a number that is not finite.
    """
    ra, dec = np.broadcast_arrays(_degrees(ra), _degrees(dec))
    if not (np.isfinite(ra).all() and (np.abs(dec) <= 90).all()):
        raise ValueError(f"ra, dec: got {ra}, {dec}; finite degrees are needed, with declinations from -90 to 90")
    ring = np.clip(np.floor(dec + 90).astype(np.int64), 0, RINGS - 1)
    cell = np.floor(np.mod(ra, 360.0) / 360.0 * _CELLS[ring]).astype(np.int64)
    return _FIRST[ring] + np.minimum(cell, _CELLS[ring] - 1)


def _degrees(angle):
    """Plain numbers of an angle; this module does without astropy, its callers need not."""
    return np.asarray(angle.to_value("deg") if hasattr(angle, "to_value") else angle, float)


def _hash(block):
    """A uniform number in [0, 1) for each cell: the finaliser of splitmix64 (Steele+2014, OOPSLA, 453)."""
    x = np.atleast_1d(block).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(SALT)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).reshape(np.shape(block)) / 2.0**64


def is_held_out(ra, dec, margin=MARGIN):
    """Whether positions are kept from training.

    With the default margin a galaxy is held out if any cell within 30 arcsec of it is, so nothing that is trained on
    shares a stamp with a held-out cell. Train on ``~is_held_out(ra, dec)``; test on ``is_held_out(ra, dec,
    margin=0)``; what lies between, outside of a held-out cell but within 30 arcsec of one (0.3 % of the sky), serves
    neither.

    Parameters
    ----------
    ra, dec : array_like or Quantity
        ICRS; degrees where there is no unit.
    margin : float
        arcsec, below 1800.

    Returns
    -------
    ndarray of bool

    Raises
    ------
    ValueError
        As `sky_block`, and for a margin out of range.
    """
    if not 0 <= margin < 1800:
        raise ValueError(f"margin: got {margin}; 0 to 1800 arcsec will do (cells are a degree high)")
    ra, dec = np.broadcast_arrays(_degrees(ra), _degrees(dec))
    out = _hash(sky_block(ra, dec)) < SHARE
    if margin == 0:
        return out
    # a box of +-margin reaches no cell that its corners do not: cells are larger, their sides run along it
    step = margin / 3600
    for north in (-step, step):
        there = np.clip(dec + north, -90, 90)
        # the wider of the parallels; close to a pole all three of its cells
        narrow = np.cos(np.radians(np.minimum(np.abs(dec) + step, 90)))
        east = np.minimum(step / np.maximum(narrow, 1e-9), 120.0)
        for side in (-1, 1):
            out = out | (_hash(sky_block(ra + side * east, there)) < SHARE)
    return out
