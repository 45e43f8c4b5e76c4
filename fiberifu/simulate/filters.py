"""Curves of filters that the template pack has not: those of BASS and MzLS, of the `speclite` package."""

import functools

import numpy as np

__all__ = ["filter_curve"]


@functools.lru_cache(maxsize=16)
def filter_curve(name):
    """A transmission curve by its name in speclite, as "BASS-g", at airmass 1.1.

    Returns
    -------
    wave, transmission : ndarray
        Angstrom; not below 0.

    Raises
    ------
    ImportError
        Where speclite is not installed.
    """
    try:
        from speclite.filters import load_filter
    except ImportError as error:
        raise ImportError(f"the curve of {name} is in the speclite package: pip install fiberifu[north]") from error
    curve = load_filter(name)
    return np.asarray(curve.wavelength, float), np.clip(np.asarray(curve.response, float), 0, None)
