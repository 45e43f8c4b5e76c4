# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The network as a `Predictor`: ``TruthMaps -> images and sky positions -> VirtualIFU.predict -> PredictedMaps``.

By the public interface alone, with images as astronomers have them: North up, East left.
"""

import dataclasses

import astropy.units as u
import numpy as np

from ..datasets import simulated_image
from ..output import settings_hash
from .code_hash import prediction_sha256
from .maps import LEVELS, PredictedMaps, Predictor
from .spaxels import QUANTITIES, RATIOS

__all__ = ["NetworkPredictor", "observed_image", "predicted_lines", "sky_positions"]


class NetworkPredictor(Predictor):
    """Line maps and spectra of a `~fiberifu.VirtualIFU`.

    Parameters
    ----------
    ifu : `~fiberifu.VirtualIFU`
    context : bool
        Whether it is given the central fibre's spectrum, too.
    name : str, optional
        By default "network", or "network + fibre" with context.
    """

    def __init__(self, ifu, *, context=False, name=None):
        self.ifu, self.context = ifu, bool(context)
        self.name = name or ("network + fibre" if context else "network")
        settings = {"method": "network", "weights": ifu.weights_sha256, "context": self.context}
        self.key = settings_hash(settings | {"code": prediction_sha256()})

    def predict(self, galaxy):
        """Lines at all positions, spectra at ``galaxy.spectrum_at``; no velocities: an image has none.

        Equivalent widths are given wherever fluxes are, over continua that may be noise, too: their errors say so. They
        have quantiles only over continua, ratios only over lines, that are hardly below zero. The coherence of errors
        is that of the calibration in the passport of the weights, none without.
        """
        image = observed_image(galaxy)
        where = sky_positions(galaxy, image)
        keywords = {"redshift": galaxy.redshift, "wavelength": galaxy.wave * u.AA}
        if self.context:
            keywords["context"] = [self._central(galaxy, image)]
        prediction = self.ifu.predict(image, where, **keywords)
        lines = predicted_lines(prediction, coherence=self.ifu.passport.get("calibration", {}).get("coherence"))
        # the prepared image, so that the second call prepares none; only these few positions are rendered
        spectra = self.ifu.predict(prediction.image, where[galaxy.spectrum_at], **keywords).spectrum()
        bad = spectra.mask | ~(spectra.uncertainty.array > 0)
        sigma = np.where(bad, np.nan, np.where(bad, 1, spectra.uncertainty.array) ** -0.5).astype(np.float32)
        return dataclasses.replace(
            lines, spectrum=np.where(bad, np.nan, spectra.flux.value).astype(np.float32), spectrum_sigma=sigma
        )

    @staticmethod
    def _central(galaxy, image):
        from astropy.nddata import InverseVariance
        from specutils import Spectrum

        from ..prediction import FLUX_DENSITY

        spectrum = Spectrum(
            galaxy.central_flux * FLUX_DENSITY,
            spectral_axis=galaxy.wave * u.AA,
            uncertainty=InverseVariance(galaxy.central_ivar * FLUX_DENSITY**-2),
        )
        return spectrum, sky_positions(galaxy, image, *galaxy.central_offset)


def predicted_lines(prediction, *, maps=None, coherence=None, quantiles=True):
    """Lines of a prediction at a list of n positions, with all that is known of their errors.

    Parameters
    ----------
    prediction : `~fiberifu.Prediction`
        Of positions.
    maps : `~fiberifu.lines.LineMaps`, optional
        Its lines; by default they are asked for.
    coherence : (float, float), optional
        As of `~fiberifu.validate.PredictedMaps`.
    quantiles : bool
        Whether it can be asked for quantiles of its lines: that of the published network cannot.

    Returns
    -------
    PredictedMaps
    """
    from ..model import LINES

    maps = prediction.line_maps(LINES) if maps is None else maps
    n, usable = maps.shape[0], {name: ~maps.flux[name].mask for name in LINES}

    def column(quantity, line, error=False):
        data = getattr(maps, quantity)[line]
        return np.where(usable[line], data.uncertainty.array if error else data.data, np.nan)

    def table(quantity, error=False):
        return np.stack([column(quantity, line, error) for line in LINES], 1).astype(np.float32)

    covariance = np.full((n, len(LINES), len(LINES)), np.nan, np.float32)
    for i, a in enumerate(LINES):
        for j, b in enumerate(LINES[: i + 1]):
            both = np.where(usable[a] & usable[b], maps.covariance(a, b).value, np.nan)
            covariance[:, i, j] = covariance[:, j, i] = both
    return PredictedMaps(
        flux=table("flux"),
        flux_sigma=table("flux", error=True),
        ew=table("ew"),
        ew_sigma=table("ew", error=True),
        covariance=covariance,
        quantiles=_quantiles(prediction, usable) if quantiles else None,
        coherence=None if coherence is None else tuple(coherence),
    )


def _quantiles(prediction, usable):
    """Quantiles (n, K) of all that may have them; NaN where a line of it is not usable, ``usable`` has (n,) of each."""
    found = {}
    for quantity, prefix in (("flux", ""), ("ew", "EW ")):
        values = prediction.line_quantiles(LEVELS, list(QUANTITIES.values()), quantity).value  # (K, 6, n)
        found |= {prefix + name: values[:, i] for i, name in enumerate(QUANTITIES)}
    for ratio, (top, bottom) in RATIOS.items():
        found[ratio] = prediction.ratio_quantiles(QUANTITIES[top], QUANTITIES[bottom], LEVELS)
    out = {}
    for key, values in found.items():
        lines = sum((QUANTITIES[name] for name in RATIOS.get(key, [key.removeprefix("EW ")])), ())
        known = np.logical_and.reduce([usable[line] for line in lines])
        # in order: over a denominator that may be faint, a level may be reached more than once
        out[key] = np.sort(np.where(known, values, np.nan), axis=0).T.astype(np.float32)
    return out


def observed_image(galaxy):
    """Bands of a galaxy as they come from an archive.

    Parameters
    ----------
    galaxy : TruthMaps

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        Nanomaggies, North up, East left.
    """
    maps = {"image": galaxy.image, "sigma_image": galaxy.sigma, "present": galaxy.present}
    maps |= {"psf_fwhm": galaxy.psf_fwhm, "redshift": galaxy.redshift}
    return simulated_image(maps, galaxy.pixel_scale, galaxy.name)


def sky_positions(galaxy, image, east=None, north=None):
    """Where offsets from the stamp's centre lie on the sky, by the WCS of `observed_image`.

    Parameters
    ----------
    galaxy : TruthMaps
    image : dict
    east, north : float or ndarray, optional
        arcsec; by default those of the galaxy's positions.

    Returns
    -------
    `~astropy.coordinates.SkyCoord`
    """
    east, north = (galaxy.east, galaxy.north) if east is None else (east, north)
    first = next(iter(image.values()))
    middle = (np.array(first.shape) - 1) / 2  # row, column
    return first.wcs.pixel_to_world(middle[1] - east / galaxy.pixel_scale, middle[0] + north / galaxy.pixel_scale)
