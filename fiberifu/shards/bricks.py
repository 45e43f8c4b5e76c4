# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Pieces of the Legacy Surveys' brick coadds: ``coadd/RRR/BRICK/legacysurvey-BRICK-KIND-BAND.fits.fz -> CCDData``."""

import contextlib
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance

from ..flags import Flag
from ..provenance import is_predicted
from ..surveys._fits import celestial_wcs
from ..surveys.legacysurvey.cutout import is_north

__all__ = ["Brick", "find_brick"]

# Bits of MASKBITS (legacysurvey.org/dr9/bitmasks): saturated, and masked in all exposures.
_SATURATED_BIT = {"g": 2, "r": 3, "z": 4, "i": 14}
_ALLMASK_BIT = {"g": 5, "r": 6, "z": 7, "i": 15}


def find_brick(folders, name):
    """Folder of a brick's files below the first of ``folders`` that has it.

    Raises
    ------
    FileNotFoundError
    """
    for folder in folders:
        for path in (folder / "coadd" / name[:3] / name, folder / name[:3] / name):
            if path.is_dir():
                return path
    raise FileNotFoundError(f"brick {name}: not in {', '.join(str(f) for f in folders)}")


class Brick(contextlib.ExitStack):
    """The open files of a brick.

    Parameters
    ----------
    folder : path-like
        Of the brick.
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
        If there is no image in any band, or one cannot be read.
    """

    def __init__(self, folder, bands):
        super().__init__()
        self.folder, self._hdus = Path(folder), {}
        try:
            for kind, band in [(kind, b) for b in bands for kind in ("image", "invvar", "psfsize")] + [
                ("maskbits", "")
            ]:
                self._add(kind, band)
            self.bands = [band for band in bands if ("image", band) in self._hdus]
            if not self.bands:
                raise FileNotFoundError(f"{self.folder}: no image in {', '.join(bands)}")
            header = self._hdus["image", self.bands[0]].header
            self.shape = self._hdus["image", self.bands[0]].shape
            self.wcs = celestial_wcs(header, self.folder)
            self._north = is_north(header, header, self.wcs, self.shape)
        except BaseException:
            self.close()
            raise

    def _add(self, kind, band):
        name = f"legacysurvey-{self.folder.name}-{kind}{'-' + band if band else ''}.fits"
        path = next((p for end in (".fz", ".gz", "") if (p := self.folder / (name + end)).is_file()), None)
        if path is None:
            return
        try:
            hdus = self.enter_context(fits.open(path))
            self._hdus[kind, band] = hdu = next(hdu for hdu in hdus if len(hdu.shape) == 2)
            if is_predicted(hdu.header):
                raise ValueError("DATATYPE='PREDICTED', made by fiberifu; give an observed or simulated image")
        except (OSError, ValueError, TypeError, StopIteration) as error:
            raise ValueError(f"{path}: not usable ({error})") from error

    def cut(self, rows, columns):
        """A rectangle, as `~fiberifu.surveys.read_legacysurvey` gives cutouts; only its tiles are unpacked.

        Parameters
        ----------
        rows, columns : slice

        Returns
        -------
        dict of str to CCDData
        """
        part, out = (rows, columns), {}
        bits = self._data("maskbits", "", part)
        for band in self.bands:
            data = self._data("image", band, part).astype(np.float32)
            mask, flags, uncertainty = ~np.isfinite(data), None, None
            ivar = self._data("invvar", band, part)
            if ivar is not None:
                ivar = ivar.astype(np.float32)
                mask |= ~(ivar > 0)
                uncertainty = InverseVariance(np.where(ivar > 0, ivar, 0), unit=u.nmgy**-2)
            if bits is not None and band in _SATURATED_BIT:
                bits = bits.astype(np.int64)
                flags = np.where(bits & (1 << _SATURATED_BIT[band]), int(Flag.SATURATED), 0)
                mask |= (bits & (1 << _ALLMASK_BIT[band])) != 0
            survey = "BASS+MzLS" if self._north else "DECaLS"
            camera = ("MzLS" if band == "z" else "BASS") if self._north else "DECam"
            meta = {"BAND": band, "FILTER": f"{camera} {band}", "SURVEY": survey}
            sizes = self._data("psfsize", band, part)
            sizes = sizes[np.isfinite(sizes) & (sizes > 0)] if sizes is not None else np.empty(0)
            if sizes.size:
                meta["PSF_FWHM"] = float(np.median(sizes))  # arcsec
            out[band] = CCDData(data, unit=u.nmgy, wcs=self.wcs[part], mask=mask, flags=flags,
                                uncertainty=uncertainty, meta=meta)  # fmt: skip
        return out

    def _data(self, kind, band, part):
        hdu = self._hdus.get((kind, band))
        return None if hdu is None else np.array(hdu.section[part])
