# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What supports a prediction: odd images, the range of the calibration and of the training, symmetries, stamps."""

import json
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty

from fiberifu import Flag, VirtualIFU
from fiberifu.datasets import example_image
from fiberifu.model import ModelConfig
from fiberifu.model.oddity import LOOKS, combine, look_at, looks_of, pack, unpack
from fiberifu.redshift import resolve_redshift
from fiberifu.support import Oddity, calibration_flags, oddity_cards, trained_wavelengths
from fiberifu.train.support import CalibrationRange, measure_oddity

CENTER = SkyCoord(150.0, 2.0, unit="deg")  # of the image
GALAXY = CENTER.spherical_offsets_by(2.99 * u.arcsec, -1.55 * u.arcsec)


@pytest.fixture(scope="module")
def ifu():
    return VirtualIFU.from_pretrained()


@pytest.fixture(scope="module")
def image():
    return example_image()


def changed(image, function):
    """The image with other pixels: ``function(band, data)``."""
    return {
        band: CCDData(function(band, ccd.data), unit=ccd.unit, wcs=ccd.wcs, meta=ccd.meta, mask=ccd.mask,
                      uncertainty=StdDevUncertainty(ccd.uncertainty.array))
        for band, ccd in image.items()
    }  # fmt: skip


def turned(image, turns, flip):
    """The same sky in other pixels: rotated by quarter turns, then mirrored, and the WCS with it."""
    out = {}
    for band, ccd in image.items():
        n = ccd.shape[0]
        assert ccd.shape == (n, n)

        def turn(x):
            x = np.rot90(x, turns)
            return np.ascontiguousarray(x[:, ::-1] if flip else x)

        # where the new pixel axes lie in the old ones: columns of the matrix of new over old pixel steps
        y, x = np.mgrid[:n, :n]
        oldx, oldy = turn(x), turn(y)
        step = np.array([[oldx[0, 1] - oldx[0, 0], oldx[1, 0] - oldx[0, 0]],
                         [oldy[0, 1] - oldy[0, 0], oldy[1, 0] - oldy[0, 0]]])  # fmt: skip
        wcs = ccd.wcs.deepcopy()
        middle = (n + 1) / 2
        wcs.wcs.pc = wcs.wcs.get_pc() @ np.diag(wcs.wcs.get_cdelt()) @ step
        wcs.wcs.cdelt = [1.0, 1.0]
        wcs.wcs.crpix = np.linalg.inv(step) @ (np.array(ccd.wcs.wcs.crpix) - middle) + middle
        wcs.wcs.set()
        mask = None if ccd.mask is None else turn(ccd.mask)
        out[band] = CCDData(turn(ccd.data), unit=ccd.unit, wcs=wcs, meta=ccd.meta, mask=mask,
                            uncertainty=StdDevUncertainty(turn(ccd.uncertainty.array)))  # fmt: skip
    return out
