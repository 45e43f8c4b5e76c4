# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The published network over a field: one pass per position, in batches; then into flux in the aperture.

``positions -> stamp, place of the fibre -> network -> flux, sigma -> photometry -> PublishedPrediction``
"""

import functools
import logging
import time
import warnings

import astropy.units as u
import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from photutils.aperture import CircularAperture

from ..constants import AB_NANOMAGGY
from ..flags import Flag
from ..instrument import aperture_points, beam_fwhm
from ..pointing import Spaxel, resolve_aperture
from ..pretrained import BUNDLED
from ..provenance import Provenance
from ..redshift import resolve_redshift
from .image import fibre_place, network_image, reddening, stamps
from .prediction import PublishedPrediction

__all__ = ["fibre_fraction", "predict"]

logger = logging.getLogger(__name__)

BATCH = {"cpu": 8, "cuda": 128}  # positions in one pass; results do not depend on it but for rounding
SEEING, MOFFAT, PIVOT = 1.1, 3.5, 6500.0  # arcsec, exponent, Angstrom: DESI's typical delivered PSF
LONG = 60  # seconds of a scan, above which it is announced
COVERED = 0.9  # of a passband: below this share no synthetic photometry


def fibre_fraction(wavelength, diameter=1.5):
    """Share of a point source's light inside a fibre in DESI's typical seeing: what its calibration divides by.

    A Moffat profile with exponent 3.5 and a FWHM of 1.1 arcsec at 6500 Angstrom, in proportion to wavelength^-0.2
    (Kolmogorov turbulence). For light that is spread evenly, DESI's spectra are too bright by its inverse: 0.27 dex at
    4800 and 0.21 dex at 9200 Angstrom.

    Parameters
    ----------
    wavelength : array_like
        Angstrom.
    diameter : float
        Arcsec.

    Returns
    -------
    ndarray
    """
    fwhm = SEEING * (np.asarray(wavelength, float) / PIVOT) ** -0.2
    core = fwhm / (2 * np.sqrt(2 ** (1 / MOFFAT) - 1))
    return 1 - (1 + (diameter / 2 / core) ** 2) ** (1 - MOFFAT)


def predict(
    model, passport, card, sha256, prepared, positions, wcs, *, redshift, aperture, lsf=None, wavelength=None, ebv=None,
    deredden=False, context=(), seed=0, progress=False,
):  # fmt: skip
    """What `~fiberifu.VirtualIFU.predict` and ``predict_cube`` do with the published network.

    Parameters
    ----------
    model : `~fiberifu.model.PublishedMAE`
    passport : dict
    card, sha256 : str
        Of the weights.
    prepared : `~fiberifu.image.PreparedImage`
        Of `prepare`.
    positions : `~astropy.coordinates.SkyCoord`
    wcs : `~astropy.wcs.WCS` or None
    redshift, aperture, lsf, wavelength, ebv, deredden, context, seed, progress
        As for `~fiberifu.VirtualIFU.predict`; what the network cannot do is refused.

    Returns
    -------
    PublishedPrediction
    """
    config = model.config
    for name, value, way_out in (
        ("lsf", lsf, "its spectra have DESI's resolution; convolve them"),
        ("wavelength", wavelength, "its spectra are on DESI's grid; resample them with specutils.manipulation"),
    ):
        if value is not None:
            raise ValueError(f"{name}: the published network has none to choose: {way_out}")
    if not isinstance(context, list | tuple) or len(context):
        raise ValueError(
            "context: the published network takes a spectrum at the place of the fibre that it predicts, to fill its "
            "gaps, and none from elsewhere; use weights of fiberifu, or leave it out"
        )
    nodes = resolve_redshift(redshift, prepared.meta, trained=(config.redshift_min, config.redshift_max))
    if nodes is None:
        raise ValueError(
            "redshift: the published network needs one and cannot tell it from an image; give redshift=, or "
            "image.meta['REDSHIFT']"
        )
    if len(nodes) > 1:
        raise ValueError(
            "redshift: the published network takes one, known to 300 km/s (0.001); it cannot average over a range"
        )
    ebv = reddening(prepared.meta, ebv)
    if deredden and ebv is None:
        raise ValueError("deredden=True needs the Galactic E(B-V): give ebv= or image.meta['EBV']")
    aperture = resolve_aperture(aperture)
    offsets = prepared.offsets(positions.ravel() if positions.shape else positions)
    flags = prepared.position_flags(offsets) | int(prepared.flags) | int(nodes.flags) | int(Flag.FORMAL_ERRORS)
    points, scale, small = aperture_points(aperture, config.aperture)
    if small and not isinstance(aperture, Spaxel):
        flags |= int(Flag.APERTURE_SMALLER)
    inside = np.isfinite(offsets).all(1) & ((flags & int(Flag.OUTSIDE_IMAGE)) == 0)
    (flux, sigma, synthetic, seen), precision = _scan(
        model, prepared, offsets, points, inside, float(nodes.mean), progress
    )
    usable = inside & seen
    flags |= np.where(usable, 0, int(Flag.BAD_SPAXEL))
    if not usable.any():
        warnings.warn("positions: none lies on usable pixels of the image", AstropyUserWarning, stacklevel=4)
    photometry = _aperture_photometry(prepared, offsets, points, config.aperture)
    photometry["predicted"] = synthetic
    photometry["error"][:, [band not in "griz" for band in prepared.bands]] = np.nan  # no spectrum reaches there
    flags |= np.where((np.nansum(photometry["flux"][:, :4], 1) < 0) & usable, int(Flag.NEGATIVE_FLUX), 0)
    photometry = {name: scale * value for name, value in photometry.items()}
    provenance = Provenance(
        model_id=config.name,
        weights_sha256=sha256,
        training_data=str(passport.get("training_data", "unknown")),
        image_sha256=prepared.sha256,
        redshift=nodes.mean,
        redshift_sigma=nodes.spread,
        redshift_source=nodes.source,
        seed=seed,
        ebv=ebv,
        extinction_corrected=deredden,
        extra={"FLUXCAL": "FIBER", "ERRSCALE": 1.0, "PRECISN": precision, "BANDS": ",".join(prepared.filters)},
    )
    return PublishedPrediction(
        positions=positions,
        wcs=wcs,
        wavelength=config.wavelength * u.AA,
        redshift=nodes.mean,
        flags=flags.reshape(positions.shape).astype(np.int32),
        card=card,
        provenance=provenance,
        image=prepared,
        beam=np.hypot(prepared.psf_fwhm, beam_fwhm(aperture, config.aperture)) * u.arcsec,
        aperture=aperture,
        nodes=[],
        renderer=None,
        photometry=photometry,
        usable=usable,
        offsets=offsets,
        ebv_out=0.0 if deredden else (ebv or 0.0),
        raw=(flux, sigma),
        fraction=fibre_fraction(config.wavelength, config.aperture),
        scale=scale,
        dereddening=ebv if deredden else 0.0,
        band_wavelengths=_band_wavelengths(config),
    )


def _scan(model, prepared, offsets, points, inside, redshift, progress):
    """Flux and sigma (N, n_wave) of the network, synthetic photometry (N, C), seen or not (N,); and the precision.

    In full single precision, which gives the numbers of the public code; in less where the caller asked torch for it
    (``torch.autocast``).
    """
    import torch
    from tqdm import tqdm

    config, g = model.config, len(points)
    left, n_wave = config.left_patches * config.patch_size, config.spec_dim
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = torch.is_autocast_enabled(device.type)
    precision = str(torch.get_autocast_dtype(device.type) if half else torch.float32).removeprefix("torch.")
    model = model.to(device)
    flux, sigma = (np.zeros((len(offsets), n_wave), np.float32) for _ in range(2))
    synthetic = np.full((len(offsets), len(config.bands)), np.nan)
    seen, weights = np.zeros(len(offsets), bool), _band_weights(config)
    rows_of = {key: rows[inside[rows]] for key, rows in stamps(np.where(inside[:, None], offsets, 0.0),
                                                               prepared.pixel_scale).items()}  # fmt: skip
    size = max(1, BATCH[device.type] // g)
    total, first, start = int(inside.sum()), True, time.perf_counter()
    if total:
        logger.info("%d positions x %d points of the aperture, on %s in %s", total, g, device.type, precision)
    bar = tqdm(total=total, desc="positions", disable=None if progress else True, leave=False)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), bar:
        for (east, north), rows in rows_of.items():
            sb, error, centre = prepared.stamp(east, north)
            image, error, shown = network_image(sb, error, prepared.pixel_scale)
            if not len(rows) or not shown.any():
                continue
            image, error, shown = (torch.from_numpy(x).to(device) for x in (image, error, shown))
            for part in np.array_split(rows, -(-len(rows) // size)):
                where = (offsets[part, None] + points - centre).reshape(-1, 2)
                xy = torch.from_numpy(fibre_place(where, prepared.pixel_scale).astype(np.float32)).to(device)
                out = model(image, error, redshift, xy, image_shown=shown)
                mean = out.flux.float().unflatten(0, (-1, g)).mean(1).cpu().numpy()
                # errors of neighbouring points are taken as common to them; limits as in the public likelihood
                log_sigma = out.log_sigma.float().clamp(-10, 10).exp().unflatten(0, (-1, g)).mean(1).cpu().numpy()
                flux[part], sigma[part] = mean[:, left : left + n_wave], log_sigma[:, left : left + n_wave]
                synthetic[part] = mean @ weights
                seen[part] = True
                bar.update(len(part))
                if first:
                    _announce((time.perf_counter() - start) * (total / len(part) - 1), bar)
                first = False
    return (flux, sigma, synthetic, seen), precision


def _announce(seconds, bar):
    """Tell how long a scan will take, as its first batch did, if that is long."""
    if seconds > LONG:
        with bar.external_write_mode():
            logger.info(
                "the network takes some %s more; fewer positions (a smaller field, larger spaxels) take less, in "
                "proportion", f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours",
            )  # fmt: skip


@functools.lru_cache(maxsize=4)
def _band_weights(config):
    """Weights (n_extended, C) that turn the network's spectrum into nanomaggies in a fibre; NaN for bands not covered.

    Photon-weighted means through the curves of DECam, with the patches beyond either end of the spectrum.
    """
    from safetensors import safe_open

    with safe_open(BUNDLED / "model.safetensors", "np") as file:
        curves = file.get_tensor("basis.passband").astype(float)  # g, r, i, z on 3000 (5) 11000 Angstrom
    grid, wave = 3000 + 5.0 * np.arange(curves.shape[1]), config.extended_wavelength
    weights = np.full((len(wave), len(config.bands)), np.nan)
    step = wave[1] - wave[0]
    for i, curve in enumerate(curves):
        through = np.interp(wave, grid, curve, left=0, right=0)
        inside = (through / wave).sum() * step
        if inside > COVERED * (curve / grid).sum() * 5:
            weights[:, i] = through * wave * fibre_fraction(wave) / (AB_NANOMAGGY * (through / wave).sum())
    return weights


def _band_wavelengths(config):
    """Mean wavelengths of the bands by their weights (C,), Angstrom; NaN for bands not covered."""
    weights = _band_weights(config)
    return config.extended_wavelength @ weights / weights.sum(0)


def _aperture_photometry(prepared, offsets, points, diameter):
    """Flux and error (N, C) in a fibre, nanomaggy, averaged over the points of the aperture."""
    found = {name: np.full((len(offsets), len(prepared.bands)), np.nan) for name in ("flux", "error")}
    good = np.flatnonzero(np.isfinite(offsets).all(1))
    if not len(good):
        return found
    origin = np.array([float(x) for x in prepared.wcs.world_to_pixel(prepared.center)])
    xy = (offsets[good, None] + points).reshape(-1, 2) / prepared.pixel_scale + origin
    fibres = CircularAperture(xy, diameter / 2 / prepared.pixel_scale)
    area = prepared.pixel_scale**2
    for i in np.flatnonzero(prepared.present):
        hole = ~np.isfinite(prepared.sigma[i])
        error = np.where(hole, 0, prepared.sigma[i])
        total, noise = fibres.do_photometry(prepared.sb[i].astype(float), error=error.astype(float))
        spoiled = fibres.do_photometry(hole.astype(float))[0] > 0
        found["flux"][good, i] = total.reshape(len(good), -1).mean(1) * area
        noise = np.where(spoiled, np.nan, noise).reshape(len(good), -1).mean(1) * area
        found["error"][good, i] = noise
    return found
