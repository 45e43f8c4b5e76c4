# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Predict where a survey has observed: ``image -> a network, at the spaxels and the PSF of a cube -> PredictedMaps``.

A cube's PSF is broader than an image's: what the network is asked for is the flux in a Gaussian aperture that makes the
one of the other, scaled to the area of `APERTURE_AREA` as are all fluxes that are scored. n spaxels, L = 15 lines.
"""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.nddata import CCDData, StdDevUncertainty, VarianceUncertainty

from ...constants import AB_NANOMAGGY
from ...jobs import read_image
from ...lines import line_table
from ...pointing import Gaussian, Spaxel
from ..maps import APERTURE_AREA, PredictedMaps
from ..predictors import predicted_lines
from ..survey_truth import match_psf

__all__ = ["Seen", "cube_image", "find_image", "maps_image", "predict_spaxels"]

CHUNK = 256  # positions at a time: each is seen at some forty points of its aperture
TRAINED = 1.5 / 4  # arcsec, sigma per axis of the network's own aperture: a disc's is a quarter of its diameter
FIELD = 45 * u.arcsec  # more than the largest bundle of MaNGA, 32 arcsec, with room for the network's stamps
#: Windows of continuum that stand for bands, Angstrom: DECam's at half of their maximum (Flaugher et al. 2015, AJ 150,
#: 150, figure 8).
WINDOWS = {"g": (4000, 5500), "r": (5650, 7150), "i": (7000, 8500), "z": (8500, 10000)}
CLEAR = 15.0  # Angstrom, rest frame: nearer to a strong line is no continuum
WHOLE = 0.6  # part of a window that must be covered


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


# ---------------------------------------------------------------- images
def find_image(files, how, position=None):
    """The image of a galaxy, from its files or fetched.

    Parameters
    ----------
    files : `~fiberifu.validate.manga.find.GalaxyFiles`
    how : {'files', 'fetch'}
        'fetch' asks the Legacy Surveys' viewer (`~fiberifu.surveys.fetch_cutout`) where there is no file.
    position : `~astropy.coordinates.SkyCoord`, optional
        Where, if the files do not tell.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`, or None
        None if there is no file and none is to be fetched.
    """
    if files.image:
        return read_image(files.image, psf=files.psf)[0]
    position = files.position if files.position is not None else position
    if how != "fetch":
        return None
    if position is None:
        raise ValueError(f"{files.name}: where it is is not known, so no image can be fetched; give ra and dec")
    from ...surveys import fetch_cutout, fetch_psf

    return read_image([str(fetch_cutout(position, FIELD))], psf=fetch_psf(position))[0]


def cube_image(cube, redshift):
    """Continuum of a cube in windows that stand for the bands: a hard test, for want of an image.

    Strong lines are left out, so that the image tells nothing of them; the PSF and the spaxels are the cube's.

    Parameters
    ----------
    cube : `~specutils.Spectrum`, shape (n_wave, ny, nx)
    redshift : float

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        Of the bands that the cube covers by 60 % or more, nanomaggy per spaxel.
    """
    wave = cube.spectral_axis.to_value(u.AA)
    strong = line_table("strong")["wavelength"].to_value(u.AA) * (1 + redshift)
    clear = (np.abs(wave[:, None] - strong) > CLEAR * (1 + redshift)).all(1)
    factor = cube.flux.unit.to(u.Unit("1e-17 erg / (s cm2 AA)"))
    variance = cube.uncertainty.represent_as(VarianceUncertainty).array
    psf = {str(key): value.to_value(u.arcsec) for key, value in (cube.meta.get("psf_fwhm") or {}).items()}
    out = {}
    for band, (low, high) in WINDOWS.items():
        inside = clear & (wave > low) & (wave < high)
        if np.diff(wave)[inside[:-1]].sum() < WHOLE * (high - low):
            continue
        good = ~cube.mask[inside]
        n = np.maximum(good.sum(0), 1)
        flux = np.where(good, cube.flux.value[inside], 0).sum(0) / n * factor
        sigma = np.sqrt(np.where(good, variance[inside], 0).sum(0)) / n * factor
        pivot = wave[inside].mean()
        fwhm = psf.get(band) or psf.get("blue" if band == "g" else "red") or next(iter(psf.values()), None)
        out[band] = _plane(band, flux, sigma, pivot, good.mean(0) < 0.5, cube.meta["celestial_wcs"], fwhm)
    if not out:
        raise ValueError(f"cube covers {wave[0]:.0f}-{wave[-1]:.0f} Angstrom: none of the bands g, r, i, z")
    return out


def maps_image(path, wcs, psf_fwhm):
    """The only image in a MAPS file: the mean flux of its spaxels (SPX_MFLUX), in g.

    Parameters
    ----------
    path : path-like
    wcs : `~astropy.wcs.WCS`
        Celestial.
    psf_fwhm : float
        arcsec.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        One band, nanomaggy per spaxel.

    Raises
    ------
    ValueError
        If there is none.
    """
    from astropy.io import fits

    with fits.open(path, memmap=False) as hdus:
        if "SPX_MFLUX" not in hdus:
            raise ValueError(f"{path}: no SPX_MFLUX in it, and no image beside it; give an image")
        flux, ivar = (hdus[name].data.astype(float) for name in ("SPX_MFLUX", "SPX_MFLUX_IVAR"))
    bad = ~(ivar > 0)
    # weighted by the response in SDSS g, of effective wavelength 4686 Angstrom (Fukugita et al. 1996, AJ 111, 1748)
    return {"g": _plane("g", flux, np.where(bad, 1, ivar) ** -0.5, 4686.0, bad, wcs, psf_fwhm)}


def _plane(band, flux, sigma, pivot, bad, wcs, fwhm):
    """1e-17 erg/s/cm2/Angstrom per spaxel as an image in nanomaggy."""
    to = pivot**2 / AB_NANOMAGGY
    meta = {"FILTER": f"DECam {band}"} | ({} if fwhm is None else {"PSF_FWHM": float(fwhm)})
    sigma = np.where(bad | ~(sigma > 0), 1, sigma * to)
    return CCDData(np.where(bad, 0, flux * to), unit=u.nmgy, wcs=wcs.celestial, mask=bad | ~np.isfinite(flux),
                   uncertainty=StdDevUncertainty(sigma, unit=u.nmgy), meta=meta)  # fmt: skip


# ---------------------------------------------------------------- predictions
def predict_spaxels(ifu, image, wcs, wanted, *, redshift, ebv, psf_fwhm, spaxel):
    """Line maps that a network predicts at spaxels of a cube.

    Parameters
    ----------
    ifu : `~fiberifu.VirtualIFU`
        With weights of ours, or of the published network; of the latter, which takes a second per position, spaxels
        are predicted in its own aperture and the maps of flux and continuum blurred to the cube's PSF.
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
    """
    published = getattr(ifu.config, "architecture", None) is not None
    image = {band: _with_ebv(ccd, ebv) for band, ccd in image.items()}
    rows, columns = np.nonzero(wanted)
    places = wcs.celestial.pixel_to_world(columns, rows).icrs
    keywords = {"redshift": redshift, "deredden": True}
    first = ifu.predict(image, places[:1], aperture=Spaxel(spaxel * u.arcsec), **keywords)
    prepared, notes = first.image, [str(note) for note in first.image.notes]
    aperture, area = _aperture(prepared.psf_fwhm, psf_fwhm, spaxel, published)
    calibration = ifu.passport.get("calibration", {})
    parts = []
    for start in range(0, len(places), CHUNK):
        prediction = ifu.predict(prepared, places[start : start + CHUNK], aperture=aperture, **keywords)
        parts.append(_read(prediction, APERTURE_AREA / area, calibration, published))
    lines, continuum, band = (list(part) for part in zip(*parts, strict=True))
    lines, continuum, band = _joined(lines), np.concatenate(continuum), np.concatenate(band)
    beam = float(prediction.beam.to_value(u.arcsec))
    if published and beam < psf_fwhm * 0.995:
        lines, continuum, band = _blurred(lines, continuum, band, wanted, spaxel, beam, psf_fwhm, redshift)
        beam = psf_fwhm
    if abs(beam / psf_fwhm - 1) > 0.05:
        notes.append(f"predicted at {beam:.2f} arcsec, observed at {psf_fwhm:.2f}: no aperture makes them alike")
    if not np.isfinite(lines.flux).any():
        raise ValueError(f"the image, around {prepared.center.to_string()}, shows none of the spaxels")
    bands = "".join(name for name, there in zip(prepared.bands, prepared.present, strict=True) if there)
    return Seen(lines, continuum, band, beam, bands, notes, prepared.galaxy, prepared.sha256)


def _with_ebv(ccd, ebv):
    """The band with the E(B-V) that the truth has, so that both are corrected alike."""
    out = ccd.copy()
    out.meta = dict(ccd.meta) | {"EBV": float(ebv)}
    out.psf = ccd.psf
    return out


def _aperture(image_fwhm, cube_fwhm, spaxel, published):
    """Aperture that makes the image's PSF the cube's, and its area, arcsec2."""
    fwhm = np.sqrt(max(cube_fwhm**2 - image_fwhm**2, 0))
    if published or fwhm / 2.3548 < TRAINED:  # the network's own aperture is the least there is
        return Spaxel(spaxel * u.arcsec), spaxel**2
    shape = Gaussian(fwhm * u.arcsec)
    return shape, float(shape.area.to_value(u.arcsec**2))


def _read(prediction, scale, calibration, published):
    """Lines, continuum and bands of a prediction, times a factor."""
    from ...model import LINES

    maps = prediction.line_maps(LINES)
    calibrated = bool(calibration) and not published
    lines = predicted_lines(prediction, maps=maps, coherence=calibration.get("coherence"), quantiles=calibrated)
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


def _blurred(lines, continuum, band, wanted, spaxel, source, target, redshift):
    """Maps at a broader PSF: flux and continuum are blurred, EW is their ratio; errors as if common to all under it."""

    def blur(columns):
        out = np.empty(columns.shape)
        for i, column in enumerate(columns.T):
            grid = np.full(wanted.shape, np.nan)
            grid[wanted] = column
            out[:, i] = match_psf(grid, spaxel, source, target)[wanted]
        return out

    flux, sigma, level = blur(lines.flux), blur(lines.flux_sigma), blur(continuum)
    with np.errstate(divide="ignore", invalid="ignore"):
        ew = np.where(level > 0, flux / level, np.nan) / (1 + redshift)
        ew_sigma = np.where(level > 0, sigma / level, np.nan) / (1 + redshift)
    return PredictedMaps(flux=flux, flux_sigma=sigma, ew=ew, ew_sigma=ew_sigma), level, blur(band)
