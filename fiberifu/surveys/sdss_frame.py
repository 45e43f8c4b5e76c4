# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Frames of the SDSS imaging survey: calibrated, sky-subtracted, with the noise that their counts had.

``frame-BAND-RUN-CAMCOL-FIELD.fits.bz2 -> image, calibration, sky -> counts as read out -> inverse variance -> CCDData``

Data model: https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html.
"""

import numpy as np
from scipy.ndimage import map_coordinates

from fiberifu.surveys._checks import load_hdus, sky_wcs
from fiberifu.surveys._images import nanomaggy_ccd, read_bands

__all__ = ["read_sdss_frame"]

BANDS = "ugriz"
_WHAT = "a frame of the SDSS"
# Of the data model: gain (electrons per count) and dark variance (counts^2, read noise included) of each of the six
# camera columns, in u, g, r, i, z. Where a CCD changed: (last run of the first value, both values).
_GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    ((1100, 1.595, 1.825), 3.855, 4.6, 6.565, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
_DARK_VARIANCE = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, (1500, 5.76, 6.25), 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, (1500, 6.25, 7.5625), (1500, 9.61, 12.6025)),
    (9.3025, 1.1025, 0.81, 7.84, (1500, 1.8225, 2.1025)),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)


def read_sdss_frame(paths):
    """Read frames of the SDSS imaging survey (DR8 and later), one file per band.

    Parameters
    ----------
    paths : path-like, sequence of path-like, or mapping of str to path-like
        ``frame-r-001000-1-0027.fits.bz2`` and alike, compressed or not. Bands are those of the headers.

    Returns
    -------
    dict of str to CCDData
        Nanomaggy, celestial WCS (scan direction along the columns: a network's grid is made of it later), inverse
        variance of photon and read noise, ``meta["FILTER"]`` "SDSS g" ..., ``meta["SURVEY"]`` "SDSS". The frames
        hold no PSF and no mask.

    Raises
    ------
    FileNotFoundError
        If a file is absent.
    ValueError
        If a file is not FITS, is truncated, is no frame, or is in another unit.

    Notes
    -----
    Not corrected for Galactic extinction. SDSS magnitudes are AB to 0.01-0.02 in g, r, i, z; u_AB = u - 0.04
    (the files' zero point, 22.5, is used as it is). A frame is 13.5 x 9.8 arcmin: `cut_image` cuts a field out.
    """
    return read_bands(paths, _WHAT, _frame, BANDS)


def _frame(path):
    hdus = load_hdus(path, _WHAT)
    header, image = hdus[0]
    band = str(header.get("FILTER", "")).strip()
    if band not in BANDS or not band or image is None or "CAMCOL" not in header:
        raise ValueError(f"{path}: no FILTER and CAMCOL in its header; is it a frame of the SDSS?")
    unit = str(header.get("BUNIT", "nanomaggy")).strip().lower()
    if not unit.startswith("nanomagg"):
        raise ValueError(f"{path}: BUNIT is {unit!r}; a frame of DR8 or later is in nanomaggy")
    meta = {"SURVEY": "SDSS", "BAND": band, "FILTER": f"SDSS {band}"}
    meta |= {key: header[key] for key in ("RUN", "CAMCOL", "FIELD", "RERUN") if key in header}
    ivar = _inverse_variance(path, header, BANDS.index(band), image, hdus)
    return band, nanomaggy_ccd(path, image, 1.0, sky_wcs(header, path), meta, ivar=ivar)


def _inverse_variance(path, header, i, image, hdus):
    """1 / ((counts / gain + dark variance) calibration^2), counts with the sky: as in the data model."""
    calibration = next((data for _, data in hdus[1:] if data is not None and data.shape == image.shape[1:]), None)
    sky = next((data for _, data in hdus[1:] if "ALLSKY" in map(str.upper, getattr(data, "names", None) or ())), None)
    if calibration is None or sky is None:
        raise ValueError(f"{path}: no calibration vector or sky table; without them its noise is not known")
    if not (np.isfinite(calibration) & (calibration > 0)).all():
        raise ValueError(f"{path}: the calibration vector is not positive everywhere; fetch it again")
    table, x, y = (np.asarray(sky[key][0], float) for key in ("ALLSKY", "XINTERP", "YINTERP"))
    if (len(y), len(x)) != image.shape:
        raise ValueError(f"{path}: the sky is for an image of {len(y)} x {len(x)}, not {image.shape}")
    y, x = np.meshgrid(y, x, indexing="ij")
    sky = map_coordinates(table, [y, x], order=1, mode="nearest")
    camcol, run = int(header["CAMCOL"]), int(header.get("RUN", 0))
    if not 1 <= camcol <= 6:
        raise ValueError(f"{path}: CAMCOL is {camcol}; the camera has columns 1 to 6")
    gain, dark = (_of_run(table[camcol - 1][i], run) for table in (_GAIN, _DARK_VARIANCE))
    counts = np.clip(image / calibration + sky, 0, None)
    return 1 / ((counts / gain + dark) * calibration.astype(float) ** 2)


def _of_run(value, run):
    if isinstance(value, tuple):
        last, before, after = value
        return before if run <= last else after
    return value
