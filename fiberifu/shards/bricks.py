# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pieces of one brick of the Legacy Surveys, whose files stay open: ``rows, columns -> {band: CCDData}``."""

import contextlib

import numpy as np

from ..surveys._checks import sky_wcs
from ..surveys.legacysurvey.brick import BrickFiles, brick_files
from ..surveys.legacysurvey.cutout import band_ccd

__all__ = ["Brick"]


class Brick(contextlib.ExitStack):
    """The open files of a brick.

    `~fiberifu.surveys.read_legacysurvey_brick` opens files for every field, and goes on in neighbouring bricks; here
    hundreds of galaxies lie in one.

    Parameters
    ----------
    folders : list of `~pathlib.Path`
        The first that has the brick is taken.
    name : str
    bands : sequence of str
        Wanted; those without an image are left out.

    Attributes
    ----------
    wcs : WCS
    shape : tuple of int
        (ny, nx).

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such brick, no image in any band, or one cannot be read.
    """

    def __init__(self, folders, name, bands):
        super().__init__()
        files = next((found for folder in folders if (found := brick_files(folder, name))), None)
        if files is None:
            raise FileNotFoundError(f"brick {name}: not in {', '.join(str(f) for f in folders)}")
        self.bands = [band for band in bands if ("image", band) in files]
        if not self.bands:
            raise FileNotFoundError(f"brick {name}: no image in {', '.join(bands)}")
        self._files = BrickFiles(files, self)
        try:
            for kind, band in files:  # a damaged one is found before galaxies are made of it
                if band in (*self.bands, ""):
                    self._files.hdu(kind, band)
            hdu = self._files.hdu("image", self.bands[0])[1]
            self.shape, self.wcs = hdu.shape, sky_wcs(hdu.header, self._files.path("image", self.bands[0]))
        except BaseException:
            self.close()
            raise

    def cut(self, rows, columns):
        """A rectangle, as `~fiberifu.surveys.read_legacysurvey` gives cutouts; only its tiles are unpacked.

        Parameters
        ----------
        rows, columns : slice

        Returns
        -------
        dict of str to CCDData
        """
        low, high, out = (rows.start, columns.start), (rows.stop, columns.stop), {}
        for band in self.bands:
            path, (primary, hdu) = self._files.path("image", band), self._files.hdu("image", band)
            image, ivar, sizes, bits = (
                self._files.section(kind, band, low, high, self.shape)
                for kind in ("image", "invvar", "psfsize", "maskbits")
            )
            bits = None if bits is None else bits.astype(np.int32)
            ccd = band_ccd(band, path, image, hdu.header, primary, ivar, bits, wcs=self.wcs[rows, columns])
            if sizes is not None and (sizes > 0).any():
                ccd.meta["PSF_FWHM"] = float(np.median(sizes[sizes > 0]))  # arcsec
            out[band] = ccd
        return out
