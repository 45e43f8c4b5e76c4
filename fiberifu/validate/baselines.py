# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Methods that the network must beat: ``fibres or spaxels -> equivalent widths at any position -> line maps``.

All but `PositionOnly` and `CentralTimesLight` know the image alone. A flux is the predicted EW times the continuum that
the image alone suggests (`image_continuum`), times 1 + z. Unless they say IFU, all learn from the same single fibres.
What none may beat, and the floor of noise, are in `nulls`.
"""

import dataclasses
from functools import cached_property, partial

import numpy as np

from ..output import settings_hash
from .image_view import SOFT_BRIGHTNESS, ImageView, colour_features, image_continuum, patch_features, view_image
from .maps import PredictedMaps, Predictor
from .regress import LineRegression, make_ridge, make_trees

__all__ = [
    "CentralTimesLight",
    "FiberTrees",
    "IFUTrees",
    "LightTimesEW",
    "PatchRidge",
    "PatchTrees",
    "PositionOnly",
    "view_galaxy",
]

VERSION = 1  # of what this module and `regress` predict; part of all keys
#: Errors by which a line must stand out to enter the median of `LightTimesEW`.
DETECTED = 3.0


def view_galaxy(galaxy):
    """What a baseline sees at the positions of a galaxy.

    Parameters
    ----------
    galaxy : TruthMaps

    Returns
    -------
    ImageView
    """
    from ..model import ModelConfig

    config = dataclasses.replace(ModelConfig(), pixel_scale=float(galaxy.pixel_scale))
    n = len(galaxy)
    offset = np.column_stack([galaxy.east, galaxy.north])
    flux, error, patch = view_image(config, galaxy.image[None], galaxy.sigma[None], np.zeros(n, int), offset)
    return ImageView(flux=flux, error=error, patch=patch, redshift=np.full(n, float(galaxy.redshift)),
                     psf_fwhm=np.full(n, float(galaxy.psf_fwhm)),
                     distance=np.hypot(*(offset - np.asarray(galaxy.central_offset)).T))  # fmt: skip


def _from_ew(view, ew, ew_sigma, scatter):
    """Maps from equivalent widths (n, 15): flux = EW x continuum of the image x (1 + z).

    ``scatter`` (15,) is the relative error of that continuum beyond the noise of the photometry.
    """
    continuum, noise = image_continuum(view)
    growth = (1 + view.redshift)[:, None]
    light = continuum * growth
    flux_sigma = np.sqrt((ew_sigma * light) ** 2 + (ew * noise * growth) ** 2 + (ew * light * scatter) ** 2)
    return PredictedMaps(flux=ew * light, flux_sigma=flux_sigma, ew=ew, ew_sigma=ew_sigma)


def _continuum_scatter(sample):
    """Relative scatter (15,) of the continuum of the image around that of the spectra, beyond the noise of the image.

    Half the distance of the 16th and 84th percentile; 0.2 for lines with too few fibres.
    """
    continuum, noise = image_continuum(sample.view)
    with np.errstate(divide="ignore", invalid="ignore"):
        fiber = sample.line_flux / sample.ew / (1 + sample.redshift[:, None])
        ratio = np.where(fiber > 0, np.log(continuum / fiber), np.nan)
        noise = noise / continuum
    out = np.full(ratio.shape[1], 0.2)
    for i, column in enumerate(ratio.T):
        use = np.isfinite(column) & (noise[:, i] < 0.1)
        if use.sum() > 30:
            low, high = np.percentile(column[use], [16, 84])
            out[i] = np.sqrt(max((high - low) ** 2 / 4 - np.median(noise[use, i]) ** 2, 0.02**2))
    return out


class LightTimesEW(Predictor):
    """Continuum light times one equivalent width per line, the median of the training fibres that show the line.

    The light is the image's own, interpolated between the bands and corrected for nothing: not for the lines in them,
    not for the 4000 A break.

    Parameters
    ----------
    sample : LineSample
    """

    name = "light x constant EW"
    role = "light only"

    def __init__(self, sample):
        self.key = settings_hash({"method": "constant", "version": VERSION, "sample": sample.sha256()})
        self.fibers = len(sample)
        self.scatter = _continuum_scatter(sample)
        sure = sample.measured & (np.nan_to_num(sample.ew) > DETECTED * np.nan_to_num(sample.ew_sigma, nan=np.inf))
        self.ew, self.spread = np.full(sure.shape[1], np.nan), np.full(sure.shape[1], np.nan)
        for i in np.flatnonzero(sure.any(0)):
            ew, sigma = sample.ew[sure[:, i], i], sample.ew_sigma[sure[:, i], i]
            self.ew[i] = np.median(ew)
            low, high = np.percentile(ew, [16, 84])
            self.spread[i] = np.sqrt(max((high - low) ** 2 / 4 - np.median(sigma) ** 2, 0.05**2))

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        view = view_galaxy(galaxy)
        count = np.ones((len(view), 1))
        return _from_ew(view, self.ew * count, self.spread * count, self.scatter)


class _Learned(Predictor):
    """Regressions of asinh(EW / 1 A) of every free line on features; trained at the first prediction.

    Tied lines follow their partners with the ratio of the fluxes. Errors are those of `LineRegression`.
    """

    quantities = ("ew",)

    def __init__(self, sample, name=None):
        self.sample, self.name = sample, name or self.name
        self.fibers = len(sample)
        self.key = settings_hash({"method": type(self).__name__, "version": VERSION, "sample": sample.sha256()})

    def features(self, view):
        """Features (n, m) of an `ImageView`."""
        return colour_features(view)

    def make(self):
        """A fresh estimator."""
        return make_trees()

    @cached_property
    def regressions(self):
        """`LineRegression` of each quantity and free line; None for lines with too few fibres."""
        from ..model.lines import AMPLITUDES, LINES

        x, out = self.features(self.sample.view), {}
        columns = {"ew": (self.sample.ew, self.sample.ew_sigma),
                   "flux": (self.sample.line_flux, self.sample.line_flux_sigma)}  # fmt: skip
        for quantity in self.quantities:
            for line in AMPLITUDES:
                value, sigma = (c[:, LINES.index(line)].astype(float) for c in columns[quantity])
                try:
                    fit = LineRegression(self.make, x, value, sigma, self.sample.galaxy)
                except ValueError:  # a line that the sample hardly has
                    fit = None
                out[quantity, line] = fit
        if not any(out.values()):
            raise ValueError(f"sample has {len(self.sample)} positions: no line has enough; make a larger one")
        return out

    @cached_property
    def scatter(self):
        """Relative error (15,) of the continuum of images."""
        return _continuum_scatter(self.sample)

    def regress(self, x, quantity="ew"):
        """Values and errors (n, 15) at features (n, m)."""
        from ..model.lines import LINE_COMPONENTS

        known = {}
        for (what, line), fit in self.regressions.items():
            if what == quantity and fit is not None:
                known[line] = fit.predict(x)
        none = np.full(len(x), np.nan), np.full(len(x), np.nan)
        pairs = [(known.get(free, none), ratio) for free, ratio in LINE_COMPONENTS.values()]
        return tuple(np.stack([pair[i] * ratio for pair, ratio in pairs], 1) for i in (0, 1))

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        view = view_galaxy(galaxy)
        seen = np.isfinite(view.flux).any(1)[:, None]  # an image that says nothing predicts nothing
        ew, sigma = (np.where(seen, x, np.nan) for x in self.regress(self.features(view)))
        return _from_ew(view, ew, sigma, self.scatter)


class FiberTrees(_Learned):
    """Gradient-boosted trees on colours, surface brightness, their S/N, redshift and PSF at the position.

    Parameters
    ----------
    sample : LineSample
        The fibres of the network's own training set.
    name : str, optional
    """

    name = "trees (fibres)"


class PatchTrees(FiberTrees):
    """The same trees, which also see what surrounds the position: light and colours of the 7 x 7 patch, 3.7 arcsec.

    Parameters
    ----------
    sample : LineSample
    name : str, optional
    """

    name = "trees (7 x 7 patch)"

    def features(self, view):
        """`colour_features`, with patch, its g - r and r - z, inner 3 x 3 less patch, g - r of that (n, 24)."""
        means = view.patch.mean((2, 3)), view.patch[:, :, 2:5, 2:5].mean((2, 3))  # NaN with a pixel that is missing
        whole, inner = (np.arcsinh(mean / SOFT_BRIGHTNESS) for mean in means)
        steep = inner - whole
        colours = whole[:, 0] - whole[:, 1], whole[:, 1] - whole[:, 3], steep[:, 0] - steep[:, 1]
        return np.column_stack([colour_features(view), whole, steep, *colours])


class IFUTrees(FiberTrees):
    """`FiberTrees` on spaxels of an IFU survey: of a few galaxies, twenty of each, what their cubes would teach.

    Parameters
    ----------
    sample : LineSample
        From `sample_spaxels`.
    name : str, optional
    """

    name = "trees (IFU spaxels)"


class PatchRidge(_Learned):
    """Ridge regression on the pixels of 7 x 7 patches around the position, the published baseline.

    Peng et al. 2026 (arXiv:2606.10197) regress H-alpha flux on pixels; here asinh(EW) on asinh(pixels), which contain
    colours and surface brightness, with log redshift and PSF, and flux is EW x light: kinder to the baseline.

    Parameters
    ----------
    sample : LineSample
    name : str, optional
    """

    name = "ridge (7 x 7 patch)"

    def features(self, view):
        """Pixels, redshift, PSF, and which bands there are (n, 202)."""
        return np.column_stack([patch_features(view), np.isnan(view.flux)])

    def make(self):
        """A fresh estimator."""
        return make_ridge()


class PositionOnly(_Learned):
    """Trees on redshift and distance from the centre, arcsec: a null that knows no image, for flux too.

    Parameters
    ----------
    sample : LineSample
    name : str, optional
    """

    name = "position only"
    role = "null limit"
    quantities = ("ew", "flux")

    def features(self, view):
        """Redshift and distance (n, 2)."""
        return np.column_stack([view.redshift, view.distance])

    def predict(self, galaxy):
        """As `Predictor.predict`; the image is not looked at."""
        distance = np.hypot(galaxy.east - galaxy.central_offset[0], galaxy.north - galaxy.central_offset[1])
        x = np.column_stack([np.full(len(galaxy), float(galaxy.redshift)), distance])
        (ew, ew_sigma), (flux, flux_sigma) = self.regress(x), self.regress(x, "flux")
        return PredictedMaps(flux=flux, flux_sigma=flux_sigma, ew=ew, ew_sigma=ew_sigma)


class CentralTimesLight(Predictor):
    """Equivalent widths of the galaxy's central fibre everywhere, times the light of the image.

    Lines are measured on ``galaxy.central_flux`` by the same fit as those of the training fibres; errors are of that
    measurement and of the light, not of gradients that it does not know. Lines off the spectrum are not predicted.

    Parameters
    ----------
    sample : LineSample
        Whose continuum components are fitted, and from which the error of the light is taken.
    """

    name = "central spectrum x light"

    def __init__(self, sample):
        self.continuum, self.scatter = sample.continuum, _continuum_scatter(sample)
        self.key = settings_hash({"method": "central", "version": VERSION, "sample": sample.sha256()})

    @cached_property
    def _fitter(self):
        from ..model import ModelConfig
        from .line_fit import LineFitter

        return LineFitter(ModelConfig(), self.continuum)

    def predict(self, galaxy):
        """As `Predictor.predict`."""
        view, size = view_galaxy(galaxy), self._fitter.config.wave_size
        if len(galaxy.central_flux) != size:
            raise ValueError(f"galaxy {galaxy.name}: central_flux has {len(galaxy.central_flux)} pixels, not {size}")
        fit = partial(self._fitter.fit, galaxy.central_flux[None], galaxy.central_ivar[None])
        lines = fit(np.array([galaxy.redshift]))
        count = np.ones((len(view), 1))
        return _from_ew(view, lines.ew * count, lines.ew_sigma * count, self.scatter)
