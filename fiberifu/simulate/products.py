"""What telescopes deliver, as plain NumPy arrays: the meeting point of instruments, files and scripts.

Images and cubes are as astronomers hold them: rows grow to the North, columns to the West.
"""

import dataclasses

import numpy as np

__all__ = ["BandImages", "FiberSpectra", "IFUCube"]


@dataclasses.dataclass(eq=False)
class BandImages:
    """Coadded images of one field.

    Attributes
    ----------
    flux, ivar : dict of str to ndarray (ny, nx)
        By band: nanomaggies per pixel, and inverse variance; 0 where nothing was measured.
    maskbits : ndarray (ny, nx) of int16
        Legacy Surveys DR9 bits: 2, 3, 4 saturated in g, r, z; 5, 6, 7 all exposures bad.
    psf_fwhm : dict of str to float
        arcsec.
    pixel_scale : float
        arcsec.
    center : (float, float)
        Right ascension and declination of the middle of the array, degrees.
    ebv : float
        Of the Milky Way, on the scale of Schlegel, Finkbeiner & Davis (1998).
    meta : dict
        Names, seeds, redshifts.
    """

    flux: dict
    ivar: dict
    maskbits: np.ndarray
    psf_fwhm: dict
    pixel_scale: float
    center: tuple
    ebv: float = 0.0
    meta: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class FiberSpectra:
    """Spectra of F fibres, calibrated as the DESI pipeline does: to the total flux of a point source.

    Attributes
    ----------
    wave : dict of str to ndarray (n,)
        By arm, "b", "r", "z": vacuum Angstrom, observed.
    flux, ivar : dict of str to ndarray (F, n)
        1e-17 erg/s/cm2/A, and inverse variance.
    mask : dict of str to ndarray (F, n) of uint32
        0 is good.
    resolution : dict of str to ndarray (F, n_diagonal, n)
        Diagonals of the resolution matrix, in DESI's layout: ``dia_matrix((data[i], n_diagonal // 2 -
        arange(n_diagonal)))`` times the flux at infinite resolution is what the spectrograph delivers.
    table : dict of str to ndarray (F,)
        One entry per fibre: targetid, target_ra, target_dec, fiber_ra, fiber_dec (degrees, where it was, mean),
        std_fiber_ra, std_fiber_dec (arcsec), exptime (s), n_exposures, fiberstatus, objtype ("TGT", "SKY"),
        morphtype, shape_r (arcsec), shape_e1, shape_e2, flux_g, flux_r, flux_z (nanomaggies, total), fiberflux_g,
        fiberflux_r, fiberflux_z, psf_to_fiber_specflux, ebv, seeing (arcsec), z (fitted), zerr, zwarn, deltachi2 (what
        the best template gains on a polynomial), z_true, kind ("central", "shredded", "peculiar velocity", ...),
        galaxy (number within the seed).
    meta : dict
    """

    wave: dict
    flux: dict
    ivar: dict
    mask: dict
    resolution: dict
    table: dict
    meta: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class IFUCube:
    """A reconstructed cube of one galaxy.

    Attributes
    ----------
    wave : ndarray (N,)
        Vacuum Angstrom, observed.
    flux, ivar : ndarray (N, ny, nx)
        1e-17 erg/s/cm2/A/spaxel, and inverse variance.
    mask : ndarray (N, ny, nx) of int32
        MaNGA DRP3PIXMASK bits: NOCOV 0, LOWCOV 1, DEADFIBER 2, FORESTAR 3, DONOTUSE 10.
    lsf : ndarray (N,)
        1-sigma before integration over pixels, Angstrom.
    images, psf : dict of str to ndarray (ny, nx)
        By band g, r, i, z: nanomaggies per spaxel, and the PSF, of sum 1.
    fwhm : dict of str to float
        Of the PSFs, arcsec.
    spaxel : float
        arcsec.
    center : (float, float)
        Right ascension and declination of the middle of the array, degrees.
    correlation : ndarray, optional
        Correlation of the noise between spaxels by their distance in spaxels.
    table : dict
        For the drpall row: name, redshift, ifudesign, exposures, exptime (s, of all), ebv, re (arcsec), pa (degrees),
        axis_ratio, log_mass.
    truth : dict of str to ndarray (…, ny, nx)
        line_flux, line_ew (L, ny, nx), velocity, sigma (ny, nx): noiseless, at the cube's PSF, in the spaxel;
        sigma_star, stellar_limited (ny, nx): dispersion of stars, km/s, and whether the templates are broader.
    """

    wave: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    lsf: np.ndarray
    images: dict
    psf: dict
    fwhm: dict
    spaxel: float
    center: tuple
    correlation: np.ndarray | None = None
    table: dict = dataclasses.field(default_factory=dict)
    truth: dict = dataclasses.field(default_factory=dict)
