# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What the telescopes of `fiberifu.simulate.api` give, as the plain arrays that writers take.

``{band: CCDData} of Imager.observe -> BandImages``; ``Spectrum (wave, y, x) of IFU.observe -> IFUCube``
"""

import numpy as np
from astropy.nddata import CCDData, InverseVariance
from specutils import Spectrum

from ..imager import ALL_BAD, SATURATED
from ..products import BandImages, FiberSpectra, IFUCube

__all__ = ["band_images", "fiber_spectra", "ifu_cube", "seed_of"]

CUBE_META = ("table", "lsf", "drp_mask", "images", "psf", "psf_fwhm", "correlation", "redshift", "ebv")


def seed_of(seed, record, name):
    """``seed``, or the one that the product's own ``record`` has; ValueError where neither is there."""
    seed = record.get("seed") if seed is None else seed
    if seed is None:
        raise ValueError(f"seed: got None, and {name} does not say of which seed it is; give seed=")
    return int(seed)


def band_images(images):
    """Images as `~fiberifu.simulate.products.BandImages`.

    Parameters
    ----------
    images : `~fiberifu.simulate.products.BandImages` or dict of str to `~astropy.nddata.CCDData`
        The latter as of `fiberifu.simulate.Imager.observe`, of one shape.

    Notes
    -----
    A mask of CCDData does not say why. Where a band has no inverse variance all its exposures are called bad; other
    masked pixels are called saturated in all bands.

    Raises
    ------
    ValueError
        For anything else, saying what is missing.
    """
    if isinstance(images, BandImages):
        return images
    if not (isinstance(images, dict) and images and all(isinstance(ccd, CCDData) for ccd in images.values())):
        raise ValueError(
            f"images: got {type(images).__name__}; the dict of CCDData by band of `fiberifu.simulate.Imager.observe`, "
            "or BandImages of `observe_images`, is needed"
        )
    flux, ivar = {}, {}
    for band, ccd in images.items():
        missing = [key for key in ("REDSHIFT", "EBV", "PSF_FWHM", "SEED", "FILTER") if key not in ccd.meta]
        missing += [name for name in ("wcs", "mask") if getattr(ccd, name) is None]
        missing += [] if isinstance(ccd.uncertainty, InverseVariance) else ["inverse variance"]
        if band not in SATURATED or str(ccd.unit) != "nmgy" or missing or ccd.meta.get("DATATYPE") != "SIMULATED":
            raise ValueError(
                f"images[{band!r}]: got a CCDData in {ccd.unit} that lacks {', '.join(missing) or 'nothing'}; images "
                f"in nmgy as `fiberifu.simulate.Imager.observe` gives them, of bands {', '.join(SATURATED)}, are needed"
            )
        flux[band] = np.asarray(ccd.data, np.float32)
        ivar[band] = np.asarray(ccd.uncertainty.array, np.float32)
    first = next(iter(images.values()))
    if len({f.shape for f in flux.values()}) > 1:
        raise ValueError(f"images: got the shapes {[f.shape for f in flux.values()]}; one is needed")
    bits = np.zeros(first.shape, np.uint16)
    for band in flux:
        bits[ivar[band] == 0] |= ALL_BAD[band]
    unexplained = np.any([ccd.mask for ccd in images.values()], 0) & (bits == 0)
    for band in flux:
        bits[unexplained] |= SATURATED[band]
    scale = 3600 * np.diag(first.wcs.pixel_scale_matrix)
    if not np.allclose(first.wcs.pixel_scale_matrix * 3600, np.diag([-scale[1], scale[1]]), atol=1e-6):
        raise ValueError("images: got a WCS that is not North up, East left with square pixels; files here are")
    meta = {"redshift": first.meta["REDSHIFT"], "seed": first.meta["SEED"], "pack_sha256": first.meta.get("PACKSHA")}
    meta["layer"] = "south" if str(first.meta["FILTER"]).startswith("DECam") else "north"
    return BandImages(
        flux, ivar, bits.view(np.int16), {band: float(ccd.meta["PSF_FWHM"]) for band, ccd in images.items()},
        round(float(scale[1]), 6), _middle(first.wcs, first.shape), float(first.meta["EBV"]), meta,
    )  # fmt: skip


def ifu_cube(cube):
    """A cube as `~fiberifu.simulate.products.IFUCube`.

    Parameters
    ----------
    cube : `~fiberifu.simulate.products.IFUCube` or `~specutils.Spectrum`
        The latter whole, as `fiberifu.simulate.IFU.observe` gives it; its truth is not in it.

    Raises
    ------
    ValueError
        For anything else, saying what is missing.
    """
    if isinstance(cube, IFUCube):
        return cube
    if isinstance(cube, tuple) and len(cube) == 2:
        raise ValueError("cube: got two things, the cube and the truth of `IFU.observe`; give the first, and write the "
                         "second with its own method `write`")  # fmt: skip
    needed = "the cube of `fiberifu.simulate.IFU.observe`, or an IFUCube of `observe_ifu`, is needed"
    if not isinstance(cube, Spectrum):
        raise ValueError(f"cube: got {type(cube).__name__}; {needed}")
    missing = [key for key in CUBE_META if key not in cube.meta]
    if cube.flux.ndim != 3 or missing:
        raise ValueError(
            f"cube: got a Spectrum of {cube.flux.ndim} axes, its meta lacks {', '.join(missing) or 'nothing'}; {needed}"
        )
    m = cube.meta
    if np.shape(m["drp_mask"]) != cube.shape:
        raise ValueError(
            f"cube: got a part of {cube.shape} of a cube of {np.shape(m['drp_mask'])}; the whole is needed"
        )
    plane = cube.wcs.celestial
    return IFUCube(
        wave=cube.spectral_axis.to_value("AA"), flux=cube.flux.value, ivar=cube.uncertainty.array, mask=m["drp_mask"],
        lsf=m["lsf"].to_value("AA"), images=m["images"], psf=m["psf"], fwhm=m["psf_fwhm"],
        spaxel=round(3600 * float(abs(plane.pixel_scale_matrix[1, 1])), 6), center=_middle(plane, cube.shape[1:]),
        correlation=m["correlation"], table=m["table"],
    )  # fmt: skip


def fiber_spectra(spectra):
    """``spectra``, if it is `~fiberifu.simulate.products.FiberSpectra`; else a ValueError that says the way."""
    if isinstance(spectra, FiberSpectra):
        return spectra
    raise ValueError(
        f"spectra: got {type(spectra).__name__}; FiberSpectra of `fiberifu.simulate.observe_desi` or `observe_fibers`, "
        "with arms apart, are needed; `fiberifu.cube.write_spectra` writes what `FibreSpectrograph.observe` gives"
    )


def _middle(wcs, shape):
    """Right ascension and declination of the middle of an array (ny, nx), degrees."""
    ra, dec = wcs.wcs_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    return float(ra), float(dec)
