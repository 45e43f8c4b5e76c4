# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Maps of MaNGA's data analysis pipeline (MAPS), with their quality: what `fiberifu.lines.read_dap_maps` reads, as
truth."""

import warnings
from pathlib import Path

from astropy.utils.exceptions import AstropyWarning

from fiberifu.lines.io import read_dap_maps
from fiberifu.surveys._checks import reading
from fiberifu.surveys.manga_catalog import DAPQuality, DRPQuality

__all__ = ["read_manga_maps"]


def read_manga_maps(path, *, kind="fit", allow_predicted=False):
    """Read line maps of the MaNGA data analysis pipeline, ``manga-*-MAPS-*.fits.gz``, any release.

    Parameters
    ----------
    path : path-like
    kind : {'fit', 'sums'}
        Gaussian fits (EMLINE_GFLUX ...), or sums in bands (EMLINE_SFLUX ...).
    allow_predicted : bool
        Whether a file that says it was predicted may be read.

    Returns
    -------
    `~fiberifu.lines.LineMaps`
        As by `~fiberifu.lines.read_dap_maps`, with ``meta["quality"]``, a `DAPQuality`, and ``meta["drp_quality"]``, a
        `DRPQuality`. Fluxes are corrected for Galactic extinction, wavelengths are vacuum, velocities heliocentric and
        c (z_obs - z) / (1 + z), dispersions not corrected for the instrument's.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, has no emission lines, or was predicted.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if kind not in ("fit", "sums"):
        raise ValueError(f"kind is {kind!r}; 'fit' or 'sums'")
    with reading(path, "a MAPS file of the MaNGA DAP"), warnings.catch_warnings():
        # astropy only warns of a truncated file, and fails later or not at all.
        warnings.filterwarnings("error", message=".*truncated", category=AstropyWarning)
        try:
            maps = read_dap_maps(path, kind=kind)
        except OSError as error:
            raise ValueError(f"{path}: truncated or damaged ({error}); fetch it again") from error
        header = maps.meta["header"]
        if maps.provenance is not None and maps.provenance.datatype == "PREDICTED" and not allow_predicted:
            raise ValueError(
                f"{path}: DATATYPE='PREDICTED', made by fiberifu; give an observation, or allow_predicted=True if a "
                "prediction is what you want"
            )
        maps.meta["quality"] = DAPQuality(int(header.get("DAPQUAL", 0)))
        maps.meta["drp_quality"] = DRPQuality(int(header.get("DRP3QUAL", 0)))
    return maps
