"""Identifiers of simulated objects, in ranges that no survey uses."""

import hashlib

import numpy as np

__all__ = ["BRICKID", "FIBERS", "MOCK_BIT", "RELEASE", "brick_name", "brick_number", "is_simulated_targetid",
           "pack_sha256", "simulated_targetid", "torch_version"]  # fmt: skip

#: DESI's TARGETID has a bit that says "this target is a mock target" (desitarget's ``targetid_mask``: OBJID 0-21,
#: BRICKID 22-41, RELEASE 42-57, MOCK 58, SKY 59, GAIADR 60-61). It is for mock catalogues: no observation
#: has it.
MOCK_BIT, SKY_BIT = 58, 59
#: Data release of simulated objects; those of the Legacy Surveys are 4 to 5 digits from 4000 to about 10,000.
RELEASE = 32000
#: First brick number of simulated objects: the sky has 662,174 bricks, the field in TARGETID ends at 1,048,575.
BRICKID = 1_000_000
BRICKS, SEEDS = 64, 759  # bricks of one seed, and seeds that have bricks of their own
FIBERS, GALAXIES = 16, 1 << 18  # of one galaxy, and of one brick


def simulated_targetid(seed, galaxy, number=0, *, sky=False):
    """TARGETID in the range that is reserved for mock targets.

    Decoded as DESI's it gives RELEASE 32000, the BRICKID of `brick_number`, and OBJID 16 (galaxy modulo 2^18) + number.

    Parameters
    ----------
    seed : int
        Seeds that differ by a multiple of 759 share identifiers.
    galaxy, number : array_like of int
        Number of the galaxy within the seed, below 2^24, and of the fibre on that galaxy, below 16.
    sky : array_like of bool
        Sky fibres have a bit of their own, too.

    Returns
    -------
    ndarray of int64
    """
    galaxy, number = np.asarray(galaxy, np.int64), np.asarray(number, np.int64)
    last = BRICKS * GALAXIES - 1
    if np.any((galaxy < 0) | (galaxy > last)) or np.any((number < 0) | (number >= FIBERS)):
        raise ValueError(
            f"galaxy is {galaxy}, number {number}: there are identifiers for galaxies 0 to {last}, with fibres 0 to "
            f"{FIBERS - 1} each; take another seed for more"
        )
    objid = FIBERS * (galaxy % GALAXIES) + number
    base = (1 << MOCK_BIT) | (RELEASE << 42) | (brick_number(seed, galaxy) << 22)
    return base + objid + np.where(sky, np.int64(1) << SKY_BIT, np.int64(0))


def is_simulated_targetid(targetid):
    """Whether they are from `simulated_targetid`: the mock bit, and the release of simulations (bool, same shape)."""
    targetid = np.asarray(targetid, np.int64)
    mock, release = (targetid >> MOCK_BIT) & 1, (targetid >> 42) & 0xFFFF
    return (targetid >= 0) & (mock == 1) & (release == RELEASE)


def brick_number(seed, galaxy):
    """BRICKID (int64): 1,000,000 + 64 (seed modulo 759) + galaxy / 2^18."""
    return BRICKID + BRICKS * (int(seed) % SEEDS) + np.asarray(galaxy, np.int64) // GALAXIES


def brick_name(galaxy):
    """Name of the brick of one galaxy: "sim" and five digits of base 36; real ones are as "0591m305"."""
    galaxy, digits = int(galaxy), ""
    if not 0 <= galaxy < 36**5:
        raise ValueError(f"galaxy is {galaxy}; a number from 0 to {36**5 - 1} has a brick name")
    for _ in range(5):
        galaxy, digit = divmod(galaxy, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return f"sim{digits}"


def pack_sha256(pack):
    """sha256 of the arrays of a template pack, in any order of its keys."""
    digest = hashlib.sha256()
    for key in sorted(pack):
        array = np.ascontiguousarray(pack[key])
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def torch_version():
    """Version of PyTorch, on which the last digits of a simulation depend."""
    import torch

    return str(torch.__version__)
