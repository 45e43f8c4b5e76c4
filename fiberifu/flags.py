# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Quality flags: one bit per way in which a prediction may be less than it seems.

Flags are defined once, here. Images, positions and predictions carry them as
integers; :func:`describe` turns an integer back into sentences.

=====================  ====  ==================================================================
Name                   Bit   Meaning
=====================  ====  ==================================================================
OUTSIDE_IMAGE          0     the position lies outside the image
REDSHIFT_RANGE         1     the redshift is outside the range of the training set
WAVELENGTH_RANGE       2     part of the wavelength grid is outside the trained rest range
BRIGHTNESS_RANGE       3     surface brightness outside the range of the training set
SATURATED              4     a saturated pixel lies in the aperture
CONTAMINATED           5     another source (star, neighbour) lies on the position
REDSHIFT_INFERRED      6     no redshift was given; it was inferred from the photometry
PSF_ATTAINABLE         7     the attainable PSF is broader than the one asked for
LINE_OFF_ARM           8     the line falls outside the wavelength coverage
FILTER_ASSUMED         9     filter unlike those of the training, taken as DECam
PSF_ASSUMED            10    no PSF was given; the survey median was taken
NO_UNCERTAINTY         11    no uncertainty was given; noise estimated from the background
BAND_MISSING           12    a band that the model relies on is missing, or held no valid pixel
MASKED_PIXELS          13    a masked or missing pixel lies in the aperture
APERTURE_SMALLER       14    the aperture is smaller than the training kernel
FAR_FROM_TRAINING      15    the position is unlike any fibre of the training set
VELOCITY_PRIOR         16    line widths include a velocity prior; velocities are not given
CONTINUUM_RESOLUTION   17    stellar continuum limited to R ~ 1800, lines are not
NEGATIVE_FLUX          18    the photometric flux in the aperture is negative
BAD_SPAXEL             19    the spaxel should not be used
FORMAL_ERRORS          20    errors of a fit to predicted pixels, taken as independent
CONTEXT_UNLIKE         21    a context spectrum is unlike what the image predicts there
IMAGE_UNLIKE           22    the image, at this redshift, is unlike those of the training set
CALIBRATION_RANGE      23    redshift or size beyond galaxies on which errors are calibrated
=====================  ====  ==================================================================
"""

import enum

import numpy as np

__all__ = ["Flag", "describe"]


class Flag(enum.IntFlag):
    """Quality bits of images, positions and predictions; 0 is good.

    The table in `fiberifu.flags` gives the meaning of each bit, as does
    `describe`. Values are stable: they are written into FITS files.
    """

    OUTSIDE_IMAGE = 1 << 0
    REDSHIFT_RANGE = 1 << 1
    WAVELENGTH_RANGE = 1 << 2
    BRIGHTNESS_RANGE = 1 << 3
    SATURATED = 1 << 4
    CONTAMINATED = 1 << 5
    REDSHIFT_INFERRED = 1 << 6
    PSF_ATTAINABLE = 1 << 7
    LINE_OFF_ARM = 1 << 8
    FILTER_ASSUMED = 1 << 9
    PSF_ASSUMED = 1 << 10
    NO_UNCERTAINTY = 1 << 11
    BAND_MISSING = 1 << 12
    MASKED_PIXELS = 1 << 13
    APERTURE_SMALLER = 1 << 14
    FAR_FROM_TRAINING = 1 << 15
    VELOCITY_PRIOR = 1 << 16
    CONTINUUM_RESOLUTION = 1 << 17
    NEGATIVE_FLUX = 1 << 18
    BAD_SPAXEL = 1 << 19
    FORMAL_ERRORS = 1 << 20
    CONTEXT_UNLIKE = 1 << 21
    IMAGE_UNLIKE = 1 << 22
    CALIBRATION_RANGE = 1 << 23


_MEANING = {
    Flag.OUTSIDE_IMAGE: "the position lies outside the image",
    Flag.REDSHIFT_RANGE: "the redshift is outside the range of the training set",
    Flag.WAVELENGTH_RANGE: "part of the wavelength grid is outside the trained rest range",
    Flag.BRIGHTNESS_RANGE: "surface brightness outside the range of the training set",
    Flag.SATURATED: "a saturated pixel lies in the aperture",
    Flag.CONTAMINATED: "another source (star, neighbour) lies on the position",
    Flag.REDSHIFT_INFERRED: "no redshift was given; it was inferred from the photometry",
    Flag.PSF_ATTAINABLE: "the attainable PSF is broader than the one asked for",
    Flag.LINE_OFF_ARM: "the line falls outside the wavelength coverage",
    Flag.FILTER_ASSUMED: "filter unlike those of the training, taken as DECam",
    Flag.PSF_ASSUMED: "no PSF was given; the survey median was taken",
    Flag.NO_UNCERTAINTY: "no uncertainty was given; noise estimated from the background",
    Flag.BAND_MISSING: "a band that the model relies on is missing, or held no valid pixel",
    Flag.MASKED_PIXELS: "a masked or missing pixel lies in the aperture",
    Flag.APERTURE_SMALLER: "the aperture is smaller than the training kernel",
    Flag.FAR_FROM_TRAINING: "the position is unlike any fibre of the training set",
    Flag.VELOCITY_PRIOR: "line widths include a velocity prior; velocities are not given",
    Flag.CONTINUUM_RESOLUTION: "stellar continuum limited to R ~ 1800, lines are not",
    Flag.NEGATIVE_FLUX: "the photometric flux in the aperture is negative",
    Flag.BAD_SPAXEL: "the spaxel should not be used",
    Flag.FORMAL_ERRORS: "errors of a fit to predicted pixels, taken as independent",
    Flag.CONTEXT_UNLIKE: "a context spectrum is unlike what the image predicts there",
    Flag.IMAGE_UNLIKE: "the image, at this redshift, is unlike those of the training set",
    Flag.CALIBRATION_RANGE: "redshift or size beyond galaxies on which errors are calibrated",
}


def describe(flag):
    """Say in words what the bits of a flag mean.

    Parameters
    ----------
    flag : int, Flag or array_like of int
        A combination of bits; of an array, those that any element has.

    Returns
    -------
    list of str
        One ``"NAME: meaning"`` per set bit, lowest bit first; empty for 0.

    Raises
    ------
    ValueError
        If a bit is set that has no meaning here.

    Examples
    --------
    >>> from fiberifu.flags import Flag, describe
    >>> describe(Flag.PSF_ASSUMED)
    ['PSF_ASSUMED: no PSF was given; the survey median was taken']
    """
    value = int(np.bitwise_or.reduce(np.ravel(flag).astype(int), initial=0))
    unknown = value & ~sum(int(bit) for bit in Flag)
    if value < 0 or unknown:
        raise ValueError(f"flag={value} has bits that are not defined; valid bits are 0 to {len(Flag) - 1}")
    return [f"{bit.name}: {_MEANING[bit]}" for bit in Flag if value & bit]
