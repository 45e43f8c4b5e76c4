# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Predict where a survey has observed: ``image -> a network, at the spaxels and the PSF of a cube -> PredictedMaps``.

A cube's PSF is broader than an image's. Fluxes add up linearly, so what is predicted in spaxels at the image's PSF is
blurred to the cube's; an equivalent width is the ratio of flux and continuum after that. n spaxels, L = 15 lines.
"""

import dataclasses
import warnings

import astropy.units as u
import numpy as np
from scipy.ndimage import binary_dilation

from ...pointing import Spaxel
from ..maps import APERTURE_AREA, PredictedMaps
from ..predictors import predicted_lines
from ..spaxels import QUANTITIES
from ..survey_truth import match_psf

__all__ = ["Seen", "predict_spaxels"]

CHUNK = 1024  # positions at a time


@dataclasses.dataclass(eq=False)
class Seen:
    """What a network said at n spaxels.

    Attributes
    ----------
    lines : PredictedMaps
        1e-17 erg/s/cm2 in `APERTURE_AREA`, at the cube's PSF, corrected for Galactic extinction.
    continuum : ndarray (n, L)
        1e-17 erg/s/cm2/Angstrom, in the same.
    band : ndarray (n, 4)
        Flux of the image in g, r, i, z, nanomaggy in the same; NaN where there is no band.
    beam : float
        FWHM of what was predicted, arcsec.
    bands : str
        Of the image.
    notes : list of str
    shape : `~fiberifu.shape.GalaxyShape` or None
        Of the galaxy in the image.
    image_sha256 : str
    """

    lines: PredictedMaps
    continuum: np.ndarray
    band: np.ndarray
    beam: float
    bands: str
    notes: list
    shape: object
    image_sha256: str


def predict_spaxels(ifu, image, wcs, wanted, *, redshift, ebv, psf_fwhm, spaxel):
    """Line maps that a network predicts at spaxels of a cube.

    Parameters
    ----------
    ifu : `~fiberifu.VirtualIFU`
        With weights of ours, or of the published network.
    image : dict of str to `~astropy.nddata.CCDData`
    wcs : `~astropy.wcs.WCS`
        Of the spaxels.
    wanted : ndarray (ny, nx) of bool
        Which, n of them.
    redshift, ebv : float
        The image is corrected for this extinction, and so are the lines.
    psf_fwhm, spaxel : float
        Of the cube, arcsec.

    Returns
    -------
    Seen

    Raises
    ------
    ValueError
        If the image cannot be used, or shows none of the spaxels.

    Notes
    -----
    A spaxel's flux is the mean surface brightness in the network's own aperture, a disc of 1.5 arcsec: the beam before
    blurring is that of image and disc together. Errors of what is blurred together are taken as common to it, as
    `~fiberifu.VirtualIFU` takes those of the parts of a large aperture; distributions are blurred level by level.
    """
    image = {band: _with_ebv(ccd, ebv) for band, ccd in image.items()}
    reach = int(np.ceil(1.5 * psf_fwhm / spaxel))  # of the kernel: light from beyond the field, too
    grid, shift = np.pad(wanted, reach), reach
    grid = binary_dilation(grid, _disc(reach))
    rows, columns = np.nonzero(grid)
    places = wcs.celestial.pixel_to_world(columns - shift, rows - shift).icrs
    keywords = {"redshift": redshift, "deredden": True, "aperture": Spaxel(spaxel * u.arcsec)}
    parts, seen = [], image
    for start in range(0, len(places), CHUNK):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "positions: none lies")  # of this chunk: said below, of all
            prediction = ifu.predict(seen, places[start : start + CHUNK], **keywords)
        seen = prediction.image  # prepared once
        parts.append(_read(prediction, ifu, APERTURE_AREA / spaxel**2))
    lines, continuum, band = (list(part) for part in zip(*parts, strict=True))
    lines, continuum, band = _joined(lines), np.concatenate(continuum), np.concatenate(band)
    notes, beam = [str(note) for note in seen.notes], float(prediction.beam.to_value(u.arcsec))
    if not np.isfinite(lines.flux).any():
        raise ValueError(f"the image, around {seen.center.to_string('decimal')}, shows none of the spaxels")
    keep = np.pad(wanted, reach)[grid]
    if beam < psf_fwhm * 0.995:
        lines, continuum, band = _blurred(lines, continuum, band, grid, spaxel, beam, psf_fwhm)
        beam = psf_fwhm
    elif beam > psf_fwhm * 1.03:
        notes.append(f"predicted at {beam:.2f} arcsec, observed at {psf_fwhm:.2f}: steep centres differ by that")
    band[:, ~np.asarray(seen.present)[: band.shape[1]]] = np.nan
    bands = "".join(name for name, there in zip(seen.bands, seen.present, strict=True) if there)
    return Seen(_taken(lines, keep), continuum[keep], band[keep], beam, bands, notes, seen.galaxy, seen.sha256)


def _with_ebv(ccd, ebv):
    """The band with the E(B-V) that the truth has, so that both are corrected alike."""
    out = ccd.copy()
    out.meta = dict(ccd.meta) | {"EBV": float(ebv)}
    out.psf = ccd.psf
    return out


def _disc(reach):
    y, x = np.indices((2 * reach + 1,) * 2) - reach
    return np.hypot(x, y) <= reach


def _read(prediction, ifu, scale):
    """Lines, continuum and bands of a prediction, times a factor."""
    from ...model import LINES

    maps = prediction.line_maps(LINES)
    calibration = ifu.passport.get("calibration", {})
    published = getattr(ifu.config, "architecture", None) is not None
    lines = predicted_lines(prediction, maps=maps, coherence=calibration.get("coherence"),
                            quantiles=bool(calibration) and not published)  # fmt: skip
    quantiles = {
        key: value if "/" in key or key.startswith("EW ") else value * scale
        for key, value in (lines.quantiles or {}).items()
    }
    lines = dataclasses.replace(
        lines, flux=lines.flux * scale, flux_sigma=lines.flux_sigma * scale, covariance=lines.covariance * scale**2,
        quantiles=quantiles or None,
    )  # fmt: skip
    continuum = np.stack([maps.continuum[line].data for line in LINES], 1) * scale
    return lines, continuum, np.asarray(prediction.photometry["flux"], float)[:, :4] * scale


def _joined(parts):
    """Predictions of chunks of one galaxy as one."""
    out = {}
    for field in dataclasses.fields(PredictedMaps):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "coherence" or values[0] is None:
            out[field.name] = values[0]
        elif field.name == "quantiles":
            out[field.name] = {key: np.concatenate([value[key] for value in values]) for key in values[0]}
        else:
            out[field.name] = np.concatenate(values)
    return PredictedMaps(**out)


def _taken(lines, keep):
    """Some of the positions."""
    out = {
        field.name: value if value is None or field.name == "coherence" else value[keep]
        for field in dataclasses.fields(PredictedMaps)
        if not isinstance(value := getattr(lines, field.name), dict)
    }
    quantiles = {key: value[keep] for key, value in (lines.quantiles or {}).items()} or None
    return PredictedMaps(**out | {"quantiles": quantiles})


def _blurred(lines, continuum, band, grid, spaxel, source, target):
    """Lines (N, ...), continuum and bands at a broader PSF, N spaxels of ``grid``."""
    from ...model import LINES

    def blur(values):
        flat = np.asarray(values, float).reshape(len(values), -1)
        out = np.empty(flat.shape)
        for i, column in enumerate(flat.T):
            plane = np.full(grid.shape, np.nan)
            plane[grid] = column
            out[:, i] = match_psf(plane, spaxel, source, target, shape="gaussian")[grid]
        return out.reshape(np.shape(values))

    level = blur(continuum)
    columns = {name: LINES.index(parts[0]) for name, parts in QUANTITIES.items()}

    def of_ratio(values, i=slice(None)):
        """Of what is a ratio to the continuum, or nearly follows it: its mean counts the light."""
        weight = continuum[:, i] if values.ndim == 2 and isinstance(i, slice) else continuum[:, i, None]
        return blur(values * weight) / (level[:, i] if isinstance(i, slice) else level[:, i, None])

    quantiles = {}
    for key, value in (lines.quantiles or {}).items():
        name = key.removeprefix("EW ").split("/")[-1]
        is_flux = "/" not in key and not key.startswith("EW ")
        quantiles[key] = blur(value) if is_flux else of_ratio(value, columns[name])
    return (
        PredictedMaps(
            flux=blur(lines.flux), flux_sigma=blur(lines.flux_sigma), ew=of_ratio(lines.ew),
            ew_sigma=of_ratio(lines.ew_sigma), covariance=blur(lines.covariance), quantiles=quantiles or None,
            coherence=lines.coherence,
        ),
        level,
        blur(band),
    )  # fmt: skip
