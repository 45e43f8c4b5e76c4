# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""`PreparedImage`: an image as the network sees it, with its way back to the sky."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from scipy.ndimage import binary_dilation

from fiberifu.flags import Flag
from fiberifu.shape import galaxy_shape

__all__ = ["PreparedImage"]

#: Radius in arcsec around a position in which a bad pixel counts: the training fibre.
FLAG_RADIUS = 0.75


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network sees it, with its way back to the sky.

    Attributes
    ----------
    sb : ndarray of float32, (C, ny, nx)
        Surface brightness in nanomaggy / arcsec2, dereddened, at the common PSF; 0 where
        there is no information. Rows grow to the North, columns to the **East**.
    sigma : ndarray of float32, (C, ny, nx)
        1-sigma noise of the pixels *before* PSF matching, as if uncorrelated; +inf = missing.
    present : ndarray of bool, (C,)
        Which bands there are.
    bands : tuple of str
        Names of the C bands.
    psf_fwhm : float
        FWHM of the common PSF, arcsec.
    wcs : WCS
        Celestial WCS of the grid: TAN, positive CDELT1.
    center : SkyCoord
        ICRS position of offset (0, 0).
    pixel_scale : float
        Pixel side, arcsec.
    stamp_size : int
        Side of a stamp, pixels.
    flags : Flag
        Flags of the whole image.
    filters : dict of str to str
        Filter curve per band present.
    ebv : float
        E(B-V) on the SFD scale by which the image was dereddened.
    covered, bad, saturated : ndarray of bool, (ny, nx)
        Within any band's footprint; missing in a band that is present; saturated in any band.
    sha256 : str
        Hash of the input pixel values.
    meta : dict
        Header of the reference band (r, or the first).
    notes : list of str
        What was assumed or done, in words.
    """

    sb: np.ndarray
    sigma: np.ndarray
    present: np.ndarray
    bands: tuple
    psf_fwhm: float
    wcs: WCS
    center: SkyCoord
    pixel_scale: float
    stamp_size: int
    flags: Flag
    filters: dict
    ebv: float
    covered: np.ndarray
    bad: np.ndarray
    saturated: np.ndarray
    sha256: str
    meta: dict
    notes: list = field(default_factory=list)

    @property
    def shape(self):
        """(ny, nx) of the grid."""
        return self.sb.shape[1:]

    @cached_property
    def _origin(self):
        """Zero-based (column, row) of offset (0, 0), float64."""
        return np.array([float(v) for v in self.wcs.world_to_pixel(self.center)])

    @cached_property
    def galaxy(self):
        """GalaxyShape of the source at the centre, or None if nothing is there."""
        return galaxy_shape(self)

    # ------------------------------------------------------------ sky and offsets
    def offsets(self, positions):
        """Tangent-plane offsets of sky positions from `center`.

        Parameters
        ----------
        positions : SkyCoord
            Any frame; shape (N,) or scalar.

        Returns
        -------
        ndarray of float64, (N, 2)
            East and North in arcsec; nan on the other side of the sky.
        """
        xy = np.stack([np.atleast_1d(v) for v in self.wcs.world_to_pixel(positions)], axis=-1)
        return (xy - self._origin) * self.pixel_scale

    def skycoord(self, offsets):
        """Sky positions of offsets, the inverse of `offsets`.

        Parameters
        ----------
        offsets : array_like, (N, 2)
            East and North in arcsec.

        Returns
        -------
        SkyCoord, (N,)
            ICRS.
        """
        x, y = (np.reshape(offsets, (-1, 2)) / self.pixel_scale + self._origin).T
        return self.wcs.pixel_to_world(x, y).icrs

    def _pixels(self, offsets):
        """Nearest (row, column) of offsets, and whether it is on the grid."""
        xy = np.reshape(np.asarray(offsets, float), (-1, 2)) / self.pixel_scale + self._origin
        ny, nx = self.shape
        inside = np.all((xy > -0.5) & (xy < (nx - 0.5, ny - 0.5)), axis=1)  # False for nan
        ix, iy = np.rint(np.where(inside[:, None], xy, 0)).astype(int).T
        return np.clip(iy, 0, ny - 1), np.clip(ix, 0, nx - 1), inside

    def contains(self, offsets):
        """Whether offsets lie within the footprint of the image.

        Parameters
        ----------
        offsets : array_like, (N, 2)
            East and North in arcsec.

        Returns
        -------
        ndarray of bool, (N,)
        """
        iy, ix, inside = self._pixels(offsets)
        return inside & self.covered[iy, ix]

    def stamp(self, east, north):
        """Cut the stamp that is centred closest to an offset.

        Parameters
        ----------
        east, north : float
            Wanted centre, arcsec.

        Returns
        -------
        sb, sigma : ndarray of float32, (C, stamp_size, stamp_size)
            Padded with 0 and +inf outside of the image.
        center : tuple of float
            The exact offset (east, north) of the stamp's centre; a position's offset from
            the stamp is its own offset minus this.
        """
        size, half = self.stamp_size, (self.stamp_size - 1) / 2
        wanted = np.array([east, north]) / self.pixel_scale + self._origin
        x0, y0 = np.rint(wanted - half).astype(int)
        sb = np.zeros((len(self.bands), size, size), np.float32)
        sigma = np.full_like(sb, np.inf)
        ny, nx = self.shape
        rows = slice(max(y0, 0), min(y0 + size, ny))
        columns = slice(max(x0, 0), min(x0 + size, nx))
        if rows.start < rows.stop and columns.start < columns.stop:
            into = (
                slice(None),
                slice(rows.start - y0, rows.stop - y0),
                slice(columns.start - x0, columns.stop - x0),
            )
            sb[into] = self.sb[:, rows, columns]
            sigma[into] = self.sigma[:, rows, columns]
        center = (np.array([x0, y0]) + half - self._origin) * self.pixel_scale
        return sb, sigma, (float(center[0]), float(center[1]))

    # ------------------------------------------------------------ quality
    @cached_property
    def _flag_map(self):
        """Flags per pixel, with bad pixels grown by the radius of the fibre."""
        n = int(np.ceil(FLAG_RADIUS / self.pixel_scale))
        disc = np.hypot(*np.mgrid[-n : n + 1, -n : n + 1]) <= FLAG_RADIUS / self.pixel_scale + 0.5
        flags = np.where(self.covered, 0, int(Flag.OUTSIDE_IMAGE)).astype(np.int32)
        flags[binary_dilation(self.bad, disc)] |= int(Flag.MASKED_PIXELS)
        flags[binary_dilation(self.saturated, disc)] |= int(Flag.SATURATED)
        if self.galaxy is not None:
            flags[self.galaxy.contaminated] |= int(Flag.CONTAMINATED)
        return flags

    def position_flags(self, offsets):
        """Flags of single positions: outside, masked, saturated, contaminated.

        Parameters
        ----------
        offsets : array_like, (N, 2)
            East and North in arcsec.

        Returns
        -------
        ndarray of int32, (N,)
            Combinations of `Flag`; the flags of the whole image are not repeated.
        """
        iy, ix, inside = self._pixels(offsets)
        return np.where(inside, self._flag_map[iy, ix], int(Flag.OUTSIDE_IMAGE)).astype(np.int32)
