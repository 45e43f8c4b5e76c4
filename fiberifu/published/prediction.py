# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What the published network predicts: flux and error of single pixels. What that cannot give is refused in words."""

import dataclasses
import functools
import warnings

import astropy.units as u
import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from ..extinction import mw_transmission
from ..pointing import Fiber
from ..prediction import Prediction

__all__ = ["PULL", "PublishedPrediction"]

#: Standard deviation of pixel pulls that the authors measured on spectra, with the noise of the observation in the
#: error (their calibration notebook; the robust one, from quantiles, is 0.83).
PULL = 0.93
#: dex, grey and per e-fold of wavelength: how far off the share of a point source's light may be.
ANCHOR_PRIOR = 0.1
DESI_FIBER = 1.5 * u.arcsec
COHERENT = "its errors are those of single pixels, and nothing tells how they go together"


def aperture_in_words(aperture):
    """An aperture as headers and messages have it, such as "1.5 arcsec fibre"."""
    kind = {"Fiber": "fibre", "Spaxel": "square spaxel", "Gaussian": "FWHM Gaussian"}[type(aperture).__name__]
    return f"{getattr(aperture, dataclasses.fields(aperture)[0].name).to_value(u.arcsec):.4g} arcsec {kind}"


@dataclasses.dataclass(eq=False, repr=False)
class PublishedPrediction(Prediction):
    """Spectra that the network of Peng et al. (2026) predicts from an image. **Not an observation.**

    A `~fiberifu.Prediction` with the same face. The network gives a flux and an error for each pixel, and nothing else:
    lines are fitted to its spectra, and their errors, which take pixels as independent, are flagged ``FORMAL_ERRORS``
    (model errors are common to neighbouring pixels: they are too small). What needs errors that are known to go
    together, or starlight apart from lines, raises a `ValueError` that says so.

    Attributes
    ----------
    raw : tuple of ndarray (N, n_wave)
        Flux and sigma as the network gives them, 1e-17 erg/(s cm2 Angstrom), in DESI's calibration.
    fraction : ndarray (n_wave,)
        Share of a point source's light in the fibre, by which DESI's calibration divided.
    scale : float
        Area of the aperture over that of the fibre.
    dereddening : float
        E(B-V) for which the spectra are corrected.
    error_scale : float
        By which the network's errors are multiplied.
    calibration : {"fiber", "desi"}
        Flux in the aperture, or as DESI's spectra are.
    band_wavelengths : ndarray (C,)
        Of the image's bands, Angstrom; NaN for those beyond the spectrum.
    anchor : ndarray (N, 2) or None
        Of `anchored`: grey factor [dex] and tilt [dex per e-fold of wavelength, 0 at 6500 Angstrom].
    """

    raw: tuple = dataclasses.field(default=(), repr=False)
    fraction: np.ndarray = dataclasses.field(default=None, repr=False)
    scale: float = 1.0
    dereddening: float = 0.0
    error_scale: float = 1.0
    calibration: str = "fiber"
    band_wavelengths: np.ndarray = dataclasses.field(default=None, repr=False)
    anchor: np.ndarray = dataclasses.field(default=None, repr=False)

    # --- pixels ---------------------------------------------------------------------------------------------------
    @property
    def _factor(self):
        """From the network's flux to that of this prediction, (n_wave,), or (N, n_wave) if anchored."""
        factor = self.scale * self.fraction if self.calibration == "fiber" else np.ones(len(self.wavelength))
        if self.dereddening:
            factor = factor / mw_transmission(self.wavelength.value, self.dereddening)
        if self.anchor is not None:
            grey, tilt = self.anchor.T[..., None]
            factor = factor * 10 ** (grey + tilt * np.log(self.wavelength.value / 6500))
        return factor

    @functools.cached_property
    def _rendered(self):
        flux, sigma = self.raw
        mask = np.broadcast_to(~self.usable[:, None], flux.shape)
        error = sigma * (self._factor * self.error_scale)
        with np.errstate(divide="ignore"):
            ivar = np.where(mask | ~(error > 0), 0, 1 / error**2).astype(np.float32)
        return (flux * self._factor).astype(np.float32), ivar, mask

    def as_desi(self):
        """The same in DESI's calibration: as if all light came from a point source in the fibre's middle.

        That is what the network was trained on, to be compared with DESI's own spectra. Extended light is too bright in
        it, by about 0.24 dex.

        Returns
        -------
        PublishedPrediction

        Raises
        ------
        ValueError
            For a cube, or an aperture that is no fibre of 1.5 arcsec: of those there is no such thing.
        """
        if self.wcs is not None:
            raise ValueError("as_desi(): a cube has flux per spaxel, which DESI's calibration does not know; "
                             "predict() fibres")  # fmt: skip
        if not isinstance(self.aperture, Fiber) or abs(self.aperture.diameter - DESI_FIBER) > 1e-3 * u.arcsec:
            raise ValueError(f"as_desi(): these are spectra of a {aperture_in_words(self.aperture)}; DESI's "
                             f"fibres have {DESI_FIBER.value} arcsec: predict() without aperture=")  # fmt: skip
        return self._with(calibration="desi", anchor=None, FLUXCAL="DESI")

    def anchored(self):
        """The same with the flux of each position brought to that of the image in the aperture.

        The share of a point source's light in the fibre, by which the network's flux is multiplied, is that of one
        seeing: it may be wrong by 0.1 dex, which is in no error. Here a grey factor and a tilt with the logarithm of
        wavelength are fitted to the image's flux in g, r, i and z over that of the spectrum (`self_check` compares
        them), with a prior of 0 +- 0.1 dex on both; bands with a flux below five times its error have no say, and a
        position without others stays as it is. Errors grow with the flux; those of the photometry are not added. The
        image's PSF and DESI's seeing are taken as alike.

        Returns
        -------
        PublishedPrediction
            With `anchor` set, ``FLUXCAL`` recorded as ``IMAGE``; `self_check` is still that before the correction.

        Raises
        ------
        ValueError
            After `as_desi`: that is not flux in an aperture.
        """
        if self.calibration != "fiber":
            raise ValueError(
                "anchored(): spectra in DESI's calibration are not flux in an aperture; leave out as_desi()"
            )
        flux, error, predicted = (self.photometry[name] for name in ("flux", "error", "predicted"))
        good = (flux > 5 * error) & (predicted > 0)  # not where any is NaN
        ratio = np.log10(np.where(good, flux, 1) / np.where(good, predicted, 1))
        weight = np.where(good, (np.log(10) * np.where(good, flux / error, 0)) ** 2, 0)
        x = np.nan_to_num(np.log(self.band_wavelengths / 6500))
        basis = np.stack([np.ones_like(x), x], 1)
        normal = np.einsum("nc,ci,cj->nij", weight, basis, basis) + np.eye(2) / ANCHOR_PRIOR**2
        fit = np.linalg.solve(normal, ((weight * ratio) @ basis)[..., None])[..., 0]
        return self._with(anchor=fit, FLUXCAL="IMAGE")

    def recalibrated(self, factor=PULL):
        """The same with the errors of the network multiplied by a factor, which is recorded (``ERRSCALE``).

        Parameters
        ----------
        factor : float
            By default 0.93, the standard deviation of the pulls that the authors measured. It was measured on errors
            that include the noise of the observation; that it holds for the model's error alone is taken, not known.

        Returns
        -------
        PublishedPrediction
        """
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError(f"factor={factor}: a positive number is needed")
        return self._with(error_scale=float(factor), ERRSCALE=float(factor))

    def _with(self, **changes):
        extra = {key: changes.pop(key) for key in list(changes) if key.isupper()}
        provenance = self.provenance.replace(extra=self.provenance.extra | extra)
        return dataclasses.replace(self, provenance=provenance, **changes)

    # --- lines ----------------------------------------------------------------------------------------------------
    def line_maps(self, lines="strong", *, continuum=2, **keywords):
        """Emission lines, fitted to the predicted spectra by `fiberifu.lines.fit_line_maps`.

        Parameters
        ----------
        lines : str or sequence of str
            A table name ("strong", "all") or line keys.
        continuum : int or other
            As for `~fiberifu.lines.fit_line_maps`. A polynomial leaves stellar absorption in: H-beta is several
            Angstrom of equivalent width too weak. ``"ssp"`` takes it off, where templates are.
        **keywords
            Of `~fiberifu.lines.fit_line_maps`.

        Returns
        -------
        `~fiberifu.lines.LineMaps`
            Flagged ``FORMAL_ERRORS``. Velocities are what the network made of the image, which does not know the sign
            of rotation.
        """
        from .. import lines as line_tools

        if "redshift" in keywords:
            raise ValueError(f"line_maps(redshift=...): lines are fitted at the redshift of the prediction, "
                             f"{self.redshift:.5g}; predict at another one")  # fmt: skip
        spectra = self.cube() if self.wcs is not None else self.spectrum()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "cube: predicted pixels are correlated", AstropyUserWarning)
            return line_tools.fit_line_maps(spectra, lines, redshift=self.redshift, continuum=continuum, **keywords)

    # --- what it cannot give --------------------------------------------------------------------------------------
    def continuum(self):
        """Refused: the network does not tell starlight from lines."""
        raise ValueError("continuum(): the published network does not tell starlight from lines; "
                         "fit it, with fiberifu.lines.fit_starlight")  # fmt: skip

    def sample(self, n, *, seed=None):
        """Refused: nothing is known of how errors go together."""
        raise ValueError(f"sample(): the published network has no draws to give: {COHERENT}")

    def line_quantiles(self, levels=(0.16, 0.5, 0.84), lines="strong", quantity="flux"):
        """Refused: as `sample`."""
        raise ValueError(f"line_quantiles(): not of the published network: {COHERENT}; line_maps() fits lines")

    def line_sums(self, lines="strong", where=None, *, levels=(0.16, 0.5, 0.84), draws=400, seed=None):
        """Refused: as `sample`."""
        raise ValueError(f"line_sums(): not of the published network: {COHERENT}; line_maps() fits lines")

    def ratio_quantiles(self, numerator, denominator, levels=(0.16, 0.5, 0.84)):
        """Refused: as `sample`."""
        raise ValueError(f"ratio_quantiles(): not of the published network: {COHERENT}; line_maps() fits lines")

    # --- what goes with it ----------------------------------------------------------------------------------------
    def _lsf(self):
        import torch

        from ..model import desi_lsf

        return desi_lsf(torch.from_numpy(self.wavelength.value.astype(float))).numpy()

    def _factors(self):
        return None

    def _meta(self):
        """Metadata of every product: provenance and flags; there are no error factors."""
        header = {
            "BEAM": (float(self.beam.to_value(u.arcsec)), "[arcsec] effective FWHM of PSF and aperture"),
            "APERTURE": aperture_in_words(self.aperture) if self.calibration == "fiber" else "point source, in total",
            "PSFFWHM": (round(float(self.image.psf_fwhm), 4), "[arcsec] FWHM of the image's PSF"),
            "LSFSIGMA": (round(float(self._lsf()[len(self.wavelength) // 2]), 4), "[Angstrom] at the middle pixel"),
            "FRAME": ("barycentric, vacuum", "wavelengths"),
        }
        return {
            "provenance": self.provenance,
            "flags": self.flags,
            "card": self.card,
            "redshift": self.redshift,
            "lsf": self._lsf() * u.AA,
            "medium": "vacuum",
            "header": header,
        }
