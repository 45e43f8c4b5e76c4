"""Small simulated samples, labelled as such: for the documentation, tests and first steps. All offline."""

from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from .constants import C_KMS

__all__ = [
    "EXAMPLE",
    "example_image",
    "example_truth",
    "simulated_cube",
    "simulated_galaxy",
    "simulated_image",
    "write_example",
]

#: The embedded example: a simulated galaxy (``DATATYPE='SIMULATED'``).
EXAMPLE = Path(__file__).parent / "data" / "example_sim.fits"
CENTER = (150.0, 2.0)  # degrees, an arbitrary place on the sky
LINE = "Ha"


def example_image():
    """The embedded example: g, r, z images of a simulated spiral at z = 0.03.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        In nanomaggy, with uncertainty, celestial WCS (North up, East left) and ``meta["REDSHIFT"]``.

    Examples
    --------
    >>> from fiberifu.datasets import example_image
    >>> image = example_image()
    >>> list(image), image["r"].unit, image["r"].shape
    (['g', 'r', 'z'], Unit("nmgy"), (128, 128))
    """
    out = {}
    with fits.open(EXAMPLE) as hdus:
        for band in hdus[0].header["BANDS"]:
            header = hdus[f"IMAGE_{band.upper()}"].header
            flux = hdus[f"IMAGE_{band.upper()}"].data.astype(np.float32)
            sigma = hdus[f"SIGMA_{band.upper()}"].data.astype(np.float32)
            meta = {k: header[k] for k in ("FILTER", "PSF_FWHM", "REDSHIFT", "DATATYPE", "ORIGIN", "OBJECT")}
            out[band] = CCDData(flux, unit=u.nmgy, uncertainty=StdDevUncertainty(sigma), mask=~np.isfinite(sigma),
                                wcs=WCS(header), meta=meta)  # fmt: skip
    return out


def example_truth():
    """The true H-alpha flux per 0.5 arcsec spaxel of the embedded example, at the image's PSF.

    Returns
    -------
    `~astropy.nddata.CCDData`
        In 1e-17 erg/(s cm2), with a celestial WCS.
    """
    with fits.open(EXAMPLE) as hdus:
        hdu = hdus["TRUE_HA"]
        return CCDData(hdu.data.astype(np.float32), unit=u.Unit("1e-17 erg / (s cm2)"), wcs=WCS(hdu.header),
                       meta={"DATATYPE": hdu.header["DATATYPE"]})  # fmt: skip


def simulated_galaxy(seed, index=0, *, pack=None, spaxel=0.5 * u.arcsec, size=20 * u.arcsec):
    """One simulated galaxy: what an imager sees, and the true H-alpha map.

    Parameters
    ----------
    seed, index : int
        Galaxy ``index`` of the universe ``seed``.
    pack : dict, optional
        Template pack (`fiberifu.simulate.load_template_pack`); by default the small analytic one, which is enough for
        tests and pictures but not for training.
    spaxel, size : `~astropy.units.Quantity`
        Of the truth map.

    Returns
    -------
    image : dict of str to `~astropy.nddata.CCDData`
        The bands that were observed.
    truth : `~astropy.nddata.CCDData`
        H-alpha flux per spaxel.
    """
    from .model import LINES
    from .simulate import Simulator, analytic_template_pack

    simulator = Simulator(analytic_template_pack() if pack is None else pack)
    spaxel, size = spaxel.to_value(u.arcsec), size.to_value(u.arcsec)
    maps = simulator.truth_maps(seed, index, spaxel=spaxel, size=size)
    image = simulated_image(maps, simulator.config.pixel_scale, f"SIM {seed}-{index}")
    true = maps["spaxel_line_flux"][..., LINES.index(LINE)].numpy()[:, ::-1].astype(np.float32)
    centre = float(maps["east"].mean()), float(maps["north"].mean())
    truth = CCDData(true, unit=u.Unit("1e-17 erg / (s cm2)"), wcs=_wcs(true.shape, spaxel, centre),
                    meta={"DATATYPE": "SIMULATED", "ORIGIN": "fiberifu", "OBJECT": f"SIM {seed}-{index}"})  # fmt: skip
    return image, truth


def simulated_cube(
    seed, index=0, *, pack=None, spaxel=0.5 * u.arcsec, size=20 * u.arcsec, psf=2.5 * u.arcsec, snr=30.0
):
    """What an integral field unit would see of a simulated galaxy, and the true line maps.

    Parameters
    ----------
    seed, index, pack, spaxel, size
        As for `simulated_galaxy`.
    psf : `~astropy.units.Quantity`
        FWHM of the PSF; 2.5 arcsec is MaNGA's.
    snr : float
        Median signal-to-noise per pixel of the spaxel where it is highest; the noise is the same in all spaxels.

    Returns
    -------
    cube : `~specutils.Spectrum`, shape (n_wave, ny, nx)
        On DESI's grid, per spaxel, North up, East left; ``meta`` has ``redshift``, ``lsf`` (sigma per wavelength),
        ``medium``, ``provenance``. Neighbouring spaxels are independent, as those of no real cube are.
    truth : `~fiberifu.lines.LineMaps`
        Fluxes, equivalent widths, velocity and observed dispersion, without errors.
    """
    import torch

    from .cube import cube_wcs, make_cube
    from .lines import LineMaps
    from .model import LINE_WAVELENGTH, LINES, desi_lsf
    from .provenance import Provenance
    from .simulate import Simulator, analytic_template_pack

    simulator = Simulator(analytic_template_pack() if pack is None else pack)
    step, side, fwhm = (float(x.to_value(u.arcsec)) for x in (spaxel, size, psf))
    made = simulator.truth_cube(seed, index, spaxel=step, size=side, psf_fwhm=fwhm)
    redshift = float(simulator.truth_maps(seed, index, spaxel=1.0, size=1.0)["redshift"])
    flux = np.moveaxis(made["flux"].numpy(), -1, 0)[..., ::-1].astype(float)
    wave = made["wave"].double()
    sigma = np.max(np.median(flux, 0)) / snr
    noise = np.random.default_rng([seed, index]).standard_normal(flux.shape) * sigma
    lsf = desi_lsf(wave).numpy()
    wcs = cube_wcs(SkyCoord(*CENTER, unit="deg"), flux.shape[1:], spaxel, wave.numpy() * u.AA)
    provenance = Provenance(datatype="SIMULATED", model_id="fiberifu.simulate", redshift=redshift, seed=seed)
    meta = {"provenance": provenance, "redshift": redshift, "lsf": lsf * u.AA, "medium": "vacuum"}
    cube = make_cube(flux + noise, np.full(flux.shape, sigma**-2), None, wcs=wcs, meta=meta)
    # (ny, nx, L) with columns to the East -> (L, ny, nx) with East on the left
    lines, width = (np.moveaxis(made[name].numpy(), -1, 0)[..., ::-1] for name in ("line_flux", "line_ew"))
    velocity, gas = (made[name].numpy()[:, ::-1] for name in ("velocity", "sigma"))
    observed = np.array([LINE_WAVELENGTH[line] for line in LINES]) * (1 + redshift)
    instrument = desi_lsf(torch.from_numpy(observed)).numpy()[:, None, None] / observed[:, None, None] * C_KMS
    truth = LineMaps(
        LINES, lines, np.zeros(lines.shape), width, redshift=redshift, velocity=velocity, wcs=wcs.celestial,
        dispersion=np.hypot(gas, instrument), instrumental_dispersion=np.broadcast_to(instrument, lines.shape),
        provenance=provenance,
    )  # fmt: skip
    return cube, truth


def simulated_image(maps, pixel_scale, name):
    """The observed bands of a simulated galaxy as an astronomer gets them: North up, East left, in nanomaggy.

    Parameters
    ----------
    maps : dict
        Such as `fiberifu.simulate.Simulator.truth_maps` returns: image, sigma_image (4, S, S), present (4,), psf_fwhm,
        redshift.
    pixel_scale : float
        arcsec.
    name : str
        For ``meta["OBJECT"]``.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
    """
    image = {}
    for i, band in enumerate("griz"):
        if not bool(maps["present"][i]):
            continue
        # the simulator's columns grow to the East; astronomers' images have East on the left
        flux, sigma = (np.asarray(maps[key][i])[:, ::-1] * pixel_scale**2 for key in ("image", "sigma_image"))
        meta = {
            "FILTER": f"DECam {band}",
            "PSF_FWHM": float(maps["psf_fwhm"]),
            "REDSHIFT": float(maps["redshift"]),
            "DATATYPE": "SIMULATED",
            "ORIGIN": "fiberifu",
            "OBJECT": name,
        }
        image[band] = CCDData(
            flux.astype(np.float32),
            unit=u.nmgy,
            uncertainty=StdDevUncertainty(sigma),
            mask=~np.isfinite(sigma),
            wcs=_wcs(flux.shape, pixel_scale, (0.0, 0.0)),
            meta=meta,
        )
    return image


def _wcs(shape, step, centre):
    """North up, East left; the middle of the array lies at offset ``centre`` (east, north) [arcsec] of `CENTER`."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = CENTER
    wcs.wcs.crpix = [(shape[1] + 1) / 2 + centre[0] / step, (shape[0] + 1) / 2 - centre[1] / step]
    wcs.wcs.cdelt = [-step / 3600, step / 3600]
    wcs.wcs.radesys = "ICRS"
    wcs.array_shape = shape
    wcs.wcs.set()
    return wcs


def write_example(path, image, truth):
    """Write a simulated galaxy as `example_image` reads it; the file name must contain ``sim``.

    Parameters
    ----------
    path : path-like
    image, truth
        As from `simulated_galaxy`.
    """
    from .provenance import Provenance, check_file_name

    check_file_name(path, "SIMULATED")
    provenance = Provenance(datatype="SIMULATED", model_id="fiberifu.simulate", redshift=image["r"].meta["REDSHIFT"])
    hdus = [fits.PrimaryHDU()]
    hdus[0].header["BANDS"] = "".join(image)
    for band, ccd in image.items():
        header = ccd.wcs.to_header()
        for name, value in ccd.meta.items():
            header[name] = value
        header["BUNIT"] = "nmgy"
        hdus.append(fits.ImageHDU(ccd.data.astype(np.float32), header, name=f"IMAGE_{band.upper()}"))
        # half precision is plenty for a noise map; FITS has no such type, so round the mantissa and let gzip work
        sigma = ccd.uncertainty.array.astype(np.float16).astype(np.float32)
        hdus.append(fits.ImageHDU(sigma, header, name=f"SIGMA_{band.upper()}"))
    header = truth.wcs.to_header()
    header["BUNIT"] = "1e-17 erg/(s cm2)"
    hdus.append(fits.ImageHDU(truth.data, header, name="TRUE_HA"))
    for hdu in hdus:
        provenance.to_header(hdu.header)
    fits.HDUList(hdus).writeto(path, overwrite=True)
