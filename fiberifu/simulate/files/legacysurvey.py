# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Simulated images in the Legacy Surveys' formats: viewer cutouts and PSFs, brick coadds, Tractor catalogues.

https://www.legacysurvey.org/dr9/files and https://www.legacysurvey.org/viewer.
"""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from photutils.aperture import CircularAperture, aperture_photometry

from ..identifiers import RELEASE, brick_name, brick_number
from ..milky_way import BAND_EXTINCTION
from ..observe import BETA
from .common import provenance, sersic_index, table_hdu, write_hdus
from .from_api import band_images, seed_of

__all__ = ["TRACTOR", "brick_paths", "image_wcs", "moffat_image", "tractor_rows",
           "write_brick", "write_cutout", "write_psf", "write_tractor"]  # fmt: skip

# SURVEY and VERSION: readers look for "decals", "bass", "south", "north"
LAYERS = {"south": ("simulated DECaLS", "sim-south"), "north": ("simulated BASS MzLS", "sim-north")}
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in sigma
APERTURES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.5, 5.0, 7.0)  # arcsec, radii of APFLUX

_WISE = ("w1", "w2", "w3", "w4")


def _per(bands, *items):
    return " ".join(f"{name}_{band}:{form}" for name, form in items for band in bands)


#: Columns of a DR9 Tractor catalogue, in their order (lower case, as in the survey's files).
TRACTOR = " ".join(
    [
        "release:I brickid:J brickname:8A objid:J brick_primary:L maskbits:I fitbits:I type:3A ra:D dec:D ra_ivar:E",
        "dec_ivar:E bx:E by:E dchisq:5E ebv:E mjd_min:D mjd_max:D ref_cat:2A ref_id:K pmra:E pmdec:E parallax:E",
        "pmra_ivar:E pmdec_ivar:E parallax_ivar:E ref_epoch:E gaia_phot_g_mean_mag:E",
        "gaia_phot_g_mean_flux_over_error:E gaia_phot_g_n_obs:I gaia_phot_bp_mean_mag:E",
        "gaia_phot_bp_mean_flux_over_error:E gaia_phot_bp_n_obs:I gaia_phot_rp_mean_mag:E",
        "gaia_phot_rp_mean_flux_over_error:E gaia_phot_rp_n_obs:I gaia_phot_variable_flag:L",
        "gaia_astrometric_excess_noise:E gaia_astrometric_excess_noise_sig:E gaia_astrometric_n_obs_al:I",
        "gaia_astrometric_n_good_obs_al:I gaia_astrometric_weight_al:E gaia_duplicated_source:L gaia_a_g_val:E",
        "gaia_e_bp_min_rp_val:E gaia_phot_bp_rp_excess_factor:E gaia_astrometric_sigma5d_max:E",
        "gaia_astrometric_params_solved:B",
        _per("grz", ("flux", "E")),
        _per(_WISE, ("flux", "E")),
        _per("grz", ("flux_ivar", "E")),
        _per(_WISE, ("flux_ivar", "E")),
        _per("grz", ("fiberflux", "E"), ("fibertotflux", "E"), ("apflux", "8E"), ("apflux_resid", "8E")),
        _per("grz", ("apflux_blobresid", "8E"), ("apflux_ivar", "8E"), ("apflux_masked", "8E")),
        _per(_WISE, ("apflux", "5E"), ("apflux_resid", "5E"), ("apflux_ivar", "5E")),
        _per(("g", "r", "z", *_WISE), ("mw_transmission", "E"), ("nobs", "I"), ("rchisq", "E"), ("fracflux", "E")),
        _per("grz", ("fracmasked", "E"), ("fracin", "E"), ("anymask", "I"), ("allmask", "I")),
        _per(_WISE[:2], ("wisemask", "B")),
        _per("grz", ("psfsize", "E"), ("psfdepth", "E"), ("galdepth", "E"), ("nea", "E"), ("blob_nea", "E")),
        _per(_WISE, ("psfdepth", "E")),
        "wise_coadd_id:8A wise_x:E wise_y:E",
        _per(_WISE[:2], ("lc_flux", "15E"), ("lc_flux_ivar", "15E"), ("lc_nobs", "15I"), ("lc_fracflux", "15E")),
        _per(_WISE[:2], ("lc_rchisq", "15E"), ("lc_mjd", "15D"), ("lc_epoch_index", "15I")),
        "sersic:E sersic_ivar:E shape_r:E shape_r_ivar:E shape_e1:E shape_e1_ivar:E shape_e2:E shape_e2_ivar:E",
    ]
)


# ---------------------------------------------------------------- images
def image_wcs(images):
    """Celestial WCS of a `~fiberifu.simulate.products.BandImages`: North up, East left, centre in the middle."""
    ny, nx = images.maskbits.shape
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix = images.center, [(nx + 1) / 2, (ny + 1) / 2]
    wcs.wcs.cd = images.pixel_scale / 3600 * np.diag([-1.0, 1.0])
    wcs.wcs.set()
    return wcs


def _header(images, bands, kind):
    """The cards of the viewer's cutouts, in its order."""
    ny, nx = images.maskbits.shape
    scale = images.pixel_scale / 3600
    header = fits.Header()
    header["SURVEY"], header["VERSION"] = LAYERS[images.meta.get("layer", "south")]
    header["IMAGETYP"] = kind
    header["BANDS"] = "".join(bands)
    for i, band in enumerate(bands):
        header[f"BAND{i}"] = band
    header["CTYPE1"], header["CTYPE2"] = ("RA---TAN", "TANgent plane"), ("DEC--TAN", "TANgent plane")
    header["CRVAL1"], header["CRVAL2"] = (images.center[0], "Reference RA"), (images.center[1], "Reference Dec")
    header["CRPIX1"], header["CRPIX2"] = ((nx + 1) / 2, "Reference x"), ((ny + 1) / 2, "Reference y")
    for key, value in (("CD1_1", -scale), ("CD1_2", 0.0), ("CD2_1", 0.0), ("CD2_2", scale)):
        header[key] = (value, "CD matrix")
    header["IMAGEW"], header["IMAGEH"] = (float(nx), "Image width"), (float(ny), "Image height")
    return header


def _marks(images, seed, **more):
    z = images.meta.get("redshift")
    z = None if z is None else float(z)
    return provenance(seed, images.meta.get("pack_sha256"), redshift=z, ebv=float(images.ebv), **more)


def write_cutout(images, path, *, seed=None, overwrite=False):
    """Write a cutout as the sky viewer's ``fits-cutout`` with ``&invvar&maskbits``.

    Parameters
    ----------
    images : `~fiberifu.simulate.products.BandImages`, or what `fiberifu.simulate.Imager.observe` gives
    path : path-like
        With ``sim`` in its name.
    seed : int, optional
        That of the images by default.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        For other images, or a name that does not say what the file is.
    FileExistsError
        Without ``overwrite``.

    Notes
    -----
    HDU 0 (band, y, x) in nanomaggies, HDU 1 the same of inverse variance (``IMAGETYP = 'INVVAR'``), HDU 2 (y, x) of
    mask bits.  `~fiberifu.surveys.read_legacysurvey` reads it.
    """
    images = band_images(images)
    seed, bands = seed_of(seed, images.meta, "images"), list(images.flux)
    flux, ivar = (np.stack([part[band] for band in bands]).astype(np.float32) for part in (images.flux, images.ivar))
    hdus = [
        fits.PrimaryHDU(flux, _header(images, bands, "IMAGE")),
        fits.ImageHDU(ivar, _header(images, bands, "INVVAR")),
        fits.ImageHDU(images.maskbits.astype(np.int16), _header(images, bands, "MASKBITS")),
    ]
    write_hdus(hdus, path, _marks(images, seed), overwrite=overwrite)


def moffat_image(fwhm, pixel_scale, size=63, over=5):
    """A Moffat PSF (beta 3.5) averaged over pixels, (size, size), of sum 1.

    Parameters
    ----------
    fwhm, pixel_scale : float
        arcsec.
    size, over : int
        Pixels on a side, and points per pixel.
    """
    axis = (np.arange(size * over) - (size * over - 1) / 2) / over * pixel_scale
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / BETA) - 1))
    fine = (1 + (axis[:, None] ** 2 + axis**2) / alpha**2) ** -BETA
    coarse = fine.reshape(size, over, size, over).mean((1, 3))
    return coarse / coarse.sum()


def write_psf(images, path, *, seed=None, overwrite=False):
    """Write the PSFs of a field as the viewer's ``coadd-psf``: one 63 x 63 image per band; as `write_cutout`."""
    images = band_images(images)
    seed = seed_of(seed, images.meta, "images")
    hdus, bands = [], list(images.psf_fwhm)
    for band in bands:
        data = moffat_image(images.psf_fwhm[band], images.pixel_scale).astype(np.float32)
        hdu = fits.ImageHDU(data) if hdus else fits.PrimaryHDU(data)
        if not hdus:
            hdu.header["BANDS"] = "".join(bands)
            for i, name in enumerate(bands):
                hdu.header[f"BAND{i}"] = name
        hdu.header["BAND"] = band
        hdus.append(hdu)
    write_hdus(hdus, path, _marks(images, seed), overwrite=overwrite)


def brick_paths(images, folder, galaxy):
    """The files of `write_brick`, a dict by kind and band ("" for all)."""
    brick = brick_name(galaxy)
    folder = Path(folder) / "coadd" / brick[:3] / brick
    keys = [(kind, band) for band in images.flux for kind in ("image", "invvar", "psfsize")] + [("maskbits", "")]
    return {key: folder / f"legacysurvey-{brick}-{'-'.join(filter(None, key))}.fits.fz" for key in keys}


def write_brick(images, folder, *, seed, galaxy):
    """Write coadds as those of a brick of the survey, ``coadd/sim/BRICK/legacysurvey-BRICK-*.fits.fz``.

    Compressed as the survey's pipeline does: image RICE in steps of 1e-4 nanomaggies, inverse variance RICE with
    noise-relative steps, mask bits HCOMPRESS, PSF sizes GZIP; tiles of 100 pixels.  A real brick has 3600 pixels on
    a side, this one has the size of the images.

    Parameters
    ----------
    images : `~fiberifu.simulate.products.BandImages`, or what `fiberifu.simulate.Imager.observe` gives
    folder : path-like
        That has, or gets, the folder ``coadd``.
    seed, galaxy : int

    Returns
    -------
    list of `~pathlib.Path`
        ``image``, ``invvar`` and ``psfsize`` of every band, and ``maskbits``.
    """
    images = band_images(images)
    brick, paths = brick_name(galaxy), brick_paths(images, folder, galaxy)
    next(iter(paths.values())).parent.mkdir(parents=True, exist_ok=True)
    ny, nx = images.maskbits.shape
    tile = (min(100, ny), min(100, nx))

    def write(kind, data, band, **how):
        header = _header(images, [band] if band else list(images.flux), kind)
        header["BRICK"] = (brick, "brick of a simulation: not of the survey")
        header["BRICKID"] = int(brick_number(seed, galaxy))
        header["PRODTYPE"] = kind
        if band:
            header["BAND"] = header["FILTER"] = band
            header["MAGZERO"] = (22.5, "AB magnitude of one nanomaggy")
        hdu = fits.CompImageHDU(data, header, name=kind.upper(), tile_shape=tile, **how)
        write_hdus([fits.PrimaryHDU(), hdu], paths[kind, band], _marks(images, seed))

    for band in images.flux:
        flux = np.asarray(images.flux[band], np.float32)
        write("image", flux, band, compression_type="RICE_1", quantize_level=-1e-4, quantize_method=2, dither_seed=1)
        ivar = np.asarray(images.ivar[band], np.float32)
        write("invvar", ivar, band, compression_type="RICE_1", quantize_level=16, quantize_method=-1)
        size = np.full((ny, nx), images.psf_fwhm[band], np.float32)
        write("psfsize", size, band, compression_type="GZIP_1", quantize_level=0)
    write("maskbits", images.maskbits.astype(np.int16), "", compression_type="HCOMPRESS_1")
    return list(paths.values())


# ---------------------------------------------------------------- catalogues
def tractor_rows(table, images, *, seed):
    """Columns of a Tractor catalogue of the targets on one field.

    Parameters
    ----------
    table : dict of str to ndarray (F,)
        As of `~fiberifu.simulate.products.FiberSpectra`, of the rows of one galaxy, with ``objid``.
    images : `~fiberifu.simulate.products.BandImages`
    seed : int

    Returns
    -------
    dict of str to ndarray (F,)
        Fluxes and shapes are those of ``table``, in DECam's bands; aperture fluxes, depths and PSF sizes are measured
        on the images, whatever their camera.
    """
    n, scale = len(table["target_ra"]), images.pixel_scale
    x, y = image_wcs(images).wcs_world2pix(table["target_ra"], table["target_dec"], 0)
    galaxy = np.asarray(table["galaxy"])
    rows = {
        "release": np.full(n, RELEASE), "brickid": brick_number(seed, table["galaxy"]), "objid": table["objid"],
        "brickname": [brick_name(g) for g in galaxy], "brick_primary": np.ones(n, bool), "type": table["morphtype"],
        "ra": table["target_ra"], "dec": table["target_dec"], "bx": x, "by": y, "ebv": table["ebv"],
        **{key: table[key] for key in ("shape_r", "shape_e1", "shape_e2") if key in table},
        "sersic": sersic_index(table["morphtype"]), "photsys": np.asarray(table.get("photsys", np.full(n, "S"))),
    }  # fmt: skip
    ny, nx = images.maskbits.shape
    column, row = (np.clip(np.rint(v).astype(int), 0, m - 1) for v, m in ((x, nx), (y, ny)))
    rows["maskbits"] = images.maskbits[row, column]
    circles = [CircularAperture(np.stack([x, y], 1), radius / scale) for radius in APERTURES]
    for band in "grz":
        rows[f"mw_transmission_{band}"] = 10 ** (-0.4 * BAND_EXTINCTION[band] * np.asarray(table["ebv"]))
        for name in ("flux", "fiberflux"):
            if f"{name}_{band}" in table:
                rows[f"{name}_{band}"] = table[f"{name}_{band}"]
        if f"fiberflux_{band}" in rows:
            rows[f"fibertotflux_{band}"] = rows[f"fiberflux_{band}"]
        if band not in images.flux:
            continue
        flux, ivar = images.flux[band], images.ivar[band]
        seen = ivar > 0
        if not seen.any():
            continue
        sums = _apertures(np.where(seen, flux, 0), circles)
        variance = _apertures(np.where(seen, 1 / np.where(seen, ivar, 1), 0), circles)
        area = np.array([circle.area for circle in circles])
        rows[f"apflux_{band}"] = sums
        rows[f"apflux_ivar_{band}"] = np.where(variance > 0, 1 / np.where(variance > 0, variance, 1), 0)
        rows[f"apflux_masked_{band}"] = 1 - _apertures(seen.astype(float), circles) / area
        sigma2 = (images.psf_fwhm[band] / FWHM) ** 2
        depth = np.median(ivar[seen])
        # noise-equivalent area of a Gaussian, 4 pi sigma^2; galdepth is of a round exponential disc of 0.45 arcsec
        for name, more in (("psfdepth", 0.0), ("galdepth", 0.45)):
            rows[f"{name}_{band}"] = np.full(n, depth * scale**2 / (4 * np.pi * (sigma2 + (more / 1.18) ** 2)))
        reach = sigma2 + (np.asarray(table["shape_r"], float) / 1.18) ** 2
        rows[f"flux_ivar_{band}"] = depth * scale**2 / (4 * np.pi * reach)
        rows[f"nea_{band}"] = 4 * np.pi * reach
        rows[f"psfsize_{band}"] = np.full(n, images.psf_fwhm[band])
        rows[f"nobs_{band}"] = np.full(n, 1)
        rows[f"fracin_{band}"] = np.full(n, seen.mean())
    return rows


def _apertures(image, circles):
    """Sums (F, 8) of an image in circles."""
    found = aperture_photometry(np.asarray(image, float), circles)
    return np.stack([found[f"aperture_sum_{i}"] for i in range(len(circles))], 1)


def write_tractor(rows, path, *, seed, pack_sha256=None):
    """Write a catalogue with the columns of DR9's ``tractor-BRICK.fits``; what was not simulated (WISE, Gaia) is 0.

    Parameters
    ----------
    rows : dict of str to ndarray
        Of `tractor_rows`, of one or more fields.
    path : path-like
    seed : int
    pack_sha256 : str, optional
        Of the template pack.
    """
    count, rows = len(rows["ra"]), dict(rows)
    north = count > 0 and bool(np.all(rows.pop("photsys", "S") == "N"))
    hdu = table_hdu(TRACTOR, rows, count, None)
    hdu.header["SURVEY"], hdu.header["LSDR"] = LAYERS["north" if north else "south"][0], "sim"
    if north:
        hdu.header["COMMENT"] = "FLUX and FIBERFLUX are of DECam's bands; APFLUX is measured on BASS and MzLS images"
    hdu.header["BANDS"], hdu.header["PRODTYPE"] = "grz", "catalog"
    for i, radius in enumerate(APERTURES):
        hdu.header[f"APRAD{i}"] = (radius, "(optical) Aperture radius, in arcsec")
    write_hdus([fits.PrimaryHDU(), hdu], path, provenance(seed, pack_sha256))
