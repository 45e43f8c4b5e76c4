# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One galaxy: ``Observed, Seen -> TruthMaps, PredictedMaps, a reference -> numbers``, all in one aperture and one dust.

Fluxes per spaxel become those in `APERTURE_AREA`, as everywhere in `fiberifu.validate`: 1e-17 erg/s/cm2, corrected for
Galactic extinction. B positions, n spaxels, L = 15 lines.
"""

import dataclasses

import numpy as np
from astropy.coordinates import SkyCoord

from ..calibration import measure_calibration
from ..maps import APERTURE_AREA, PredictedMaps, TruthMaps
from ..metrics import measure_scores
from ..spaxels import EW_LIMIT, EW_LIMIT_HB, QUANTITIES, REGIONS, SNR_LIMIT

__all__ = ["Comparison", "Ellipse", "LIGHT", "compare", "galaxy_row", "known_errors", "merge_bins"]

LIGHT = "light x one EW"  # name of the reference
#: 1-sigma depth of MaNGA in a line's surface brightness, 1e-17 erg/s/cm2/arcsec2, for truth that has no errors: a third
#: of 5e-18 (Belfiore et al. 2019, AJ 158, 160).
DEPTH = 0.5 / 3
NOISY = 3.0  # errors above this many times the median are those of edges: not judged by
RELATED = 0.5  # correlation of the errors of a network within a bin, where its calibration does not tell
SCORED = ("R2 log flux", "MAE log flux [dex]", "bias log flux [dex]", "R2 log EW", "MAE log EW [dex]",
          "bias log EW [dex]", "Spearman EW, median")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """Where a galaxy is and how large: its centre, half-light semi-major axis [arcsec], axis ratio, position angle.

    Attributes
    ----------
    center : `~astropy.coordinates.SkyCoord`
    r50 : float
        arcsec.
    axis_ratio : float
    position_angle : float
        Degrees, from North through East.
    source : str
        Who says so.
    """

    center: object
    r50: float
    axis_ratio: float
    position_angle: float
    source: str

    def offsets(self, wcs, shape):
        """East and north [arcsec] of the spaxels (ny, nx) from the centre, and radius in effective radii."""
        y, x = np.indices(shape)
        center, sky = self.center.icrs, wcs.celestial.pixel_to_world(x, y).icrs
        sky, center = (SkyCoord(place.ra, place.dec) for place in (sky, center))  # without an equinox kept from FK5
        east, north = (value.to_value("arcsec") for value in center.spherical_offsets_to(sky))
        angle = np.radians(self.position_angle)
        along, across = east * np.sin(angle) + north * np.cos(angle), east * np.cos(angle) - north * np.sin(angle)
        return east, north, np.hypot(along, across / self.axis_ratio) / self.r50


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Truth and predictions of one galaxy at the same positions.

    Attributes
    ----------
    truth : TruthMaps
    answers : dict of str to PredictedMaps
        The model first, then the reference.
    mask : ndarray (B, L) of bool
        True = not judged by.
    noise : tuple of ndarray (B, L)
        Errors of the true fluxes and EWs.
    continuum_dex : float
        Median of log10 of the predicted over the observed continuum at H-alpha within 1 Re: calibration, aperture and
        PSF, without any line.
    """

    truth: TruthMaps
    answers: dict
    mask: np.ndarray
    noise: tuple
    continuum_dex: float


def compare(name, observed, seen, wanted, ellipse, *, model="model"):
    """Put what was observed and what was predicted side by side.

    Parameters
    ----------
    name : str
    observed : `~fiberifu.validate.manga.observed.Observed`
    seen : `~fiberifu.validate.manga.observe.Seen`
    wanted : ndarray (ny, nx) of bool
        The n spaxels that were predicted: of every position all.
    ellipse : Ellipse
    model : str
        What the model is called.

    Returns
    -------
    Comparison

    Notes
    -----
    The reference is the light of the image in r (or its only band) times one EW, told the truth's mean: its flux is the
    light scaled to the mean of the true log flux over the spaxels that count. It is no rival, since it has seen the
    truth; whoever knows more than the light does better.

    Where positions are bins, of unlike size, the truth has no ``spaxel``: nobody can add them up as cells of a grid.
    """
    group = observed.group[wanted]
    lines, continuum, band = merge_bins(seen, group)
    east, north, radius = (mean_of(values[wanted], group) for values in ellipse.offsets(observed.wcs, wanted.shape))
    to = APERTURE_AREA / observed.spaxel**2
    flux, sigma = observed.flux * to, observed.flux_sigma * to
    inside = radius < REGIONS["whole"][1]
    depth = np.full(flux.shape[1], np.inf)
    for i in range(len(depth)):
        good = inside & ~observed.bad[:, i] & (sigma[:, i] > 0)
        if good.any():
            depth[i] = np.median(sigma[good, i])
        elif (~observed.bad[:, i]).any():
            depth[i] = DEPTH * APERTURE_AREA
    mask = observed.bad | (sigma > NOISY * depth)
    y, x = (mean_of(values[wanted], group) for values in np.indices(wanted.shape))
    flipped = np.linalg.det(observed.wcs.celestial.pixel_scale_matrix) < 0  # East to the left: columns grow to the West
    column = np.rint(x.max() - x if flipped else x - x.min()).astype(int)
    light = np.where(np.isfinite(band), band, np.nanmean(np.where(np.isfinite(band), band, np.nan), 1)[:, None])
    truth = TruthMaps(
        name=name, seed=0, index=0, redshift=observed.redshift,
        spaxel=np.nan if observed.binned else observed.spaxel,
        row=np.rint(y - y.min()).astype(int), column=column, east=east, north=north, radius=radius,
        flux=np.where(mask, np.nan, flux), ew=np.where(mask, np.nan, observed.ew), depth=depth, band=light,
        velocity=observed.velocity, peak_distance=np.full(len(flux), np.nan), strata={},
        properties={"re_arcsec": ellipse.r50, "inclination": float(np.degrees(np.arccos(ellipse.axis_ratio)))},
        image=np.zeros((4, 0, 0)), sigma=np.zeros((4, 0, 0)), present=np.isfinite(band).any(0),
        psf_fwhm=observed.psf_fwhm, pixel_scale=0.0, wave=np.zeros(0), spectrum_at=np.zeros(0, int),
        spectrum=np.zeros((0, 0)), central_flux=np.zeros(0), central_ivar=np.zeros(0), central_offset=np.zeros(2),
    )  # fmt: skip
    noise = tuple(np.where(mask, 0, value) for value in (sigma, observed.ew_sigma))
    answers = {model: lines, LIGHT: _light(truth, light[:, 1], mask)}
    return Comparison(
        truth, answers, mask, noise, _continuum(continuum, observed.continuum * to, radius, flux.shape[1])
    )


def merge_bins(seen, group):
    """Predictions of spaxels (n, ...) as means over positions (B, ...).

    Parameters
    ----------
    seen : `~fiberifu.validate.manga.observe.Seen`
    group : ndarray (n,) of int
        Position of each spaxel; 0 to B - 1 must all be there.

    Returns
    -------
    lines : PredictedMaps
        EW is that of the mean flux over the mean continuum. Errors within a bin are correlated by the amplitude of the
        coherence, 0.5 where there is none; distributions are the mean of those of the spaxels.
    continuum, band : ndarray (B, ...)
    """
    lines, count = seen.lines, np.bincount(group)
    if (count == 1).all():
        order = np.argsort(group)
        pick = lambda value: None if value is None else value[order]  # noqa: E731
        fields = {name: pick(getattr(lines, name)) for name in ("flux", "flux_sigma", "ew", "ew_sigma", "covariance")}
        quantiles = {key: value[order] for key, value in (lines.quantiles or {}).items()} or None
        return (
            PredictedMaps(**fields, quantiles=quantiles, coherence=lines.coherence),
            seen.continuum[order],
            seen.band[order],
        )
    amplitude = RELATED if lines.coherence is None else lines.coherence[0]
    flux, continuum, band = (mean_of(value, group) for value in (lines.flux, seen.continuum, seen.band))
    shrink = np.sqrt(amplitude + (1 - amplitude) / count)[:, None]
    weight = np.maximum(seen.continuum, 0) / continuum[group]  # of an EW in the mean
    quantiles = {key: mean_of(value, group) for key, value in (lines.quantiles or {}).items()} or None
    merged = PredictedMaps(
        flux=flux,
        flux_sigma=mean_of(lines.flux_sigma, group) * shrink,
        ew=mean_of(lines.ew * weight, group),
        ew_sigma=mean_of(lines.ew_sigma * weight, group) * shrink,
        covariance=None if lines.covariance is None else mean_of(lines.covariance, group) * shrink[:, :, None] ** 2,
        quantiles=quantiles,
        coherence=lines.coherence,
    )
    return merged, continuum, band


def mean_of(values, group):
    """Means (B, ...) over the rows (n, ...) of each position that are known; NaN where less than half are."""
    values = np.asarray(values, float)
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat)
    total, count = (
        np.stack([np.bincount(group, column) for column in part.T], 1) for part in (np.where(known, flat, 0), known)
    )
    with np.errstate(invalid="ignore"):
        mean = np.where(count > 0.5 * np.bincount(group)[:, None], total / count, np.nan)
    return mean.reshape(-1, *values.shape[1:])


def _chosen(truth, i):
    """Positions whose true line i counts."""
    limit = EW_LIMIT_HB if i == _column("Hb") else EW_LIMIT
    with np.errstate(invalid="ignore"):
        return (truth.ew[:, i] > limit) & (truth.flux[:, i] > SNR_LIMIT * truth.depth[i]) & (
            truth.radius < REGIONS["whole"][1]
        )  # fmt: skip


def _column(line):
    from ...model import LINES

    return LINES.index(line)


def _light(truth, light, mask):
    flux, ew = np.full(truth.flux.shape, np.nan), np.full(truth.flux.shape, np.nan)
    for i in range(flux.shape[1]):
        good = _chosen(truth, i) & (light > 0)
        if good.any():
            flux[:, i] = light * np.exp(np.mean(np.log(truth.flux[good, i] / light[good])))
            ew[:, i] = np.exp(np.mean(np.log(truth.ew[good, i])))
    nothing = np.full(flux.shape, np.nan)
    return PredictedMaps(flux=flux, flux_sigma=nothing, ew=ew, ew_sigma=nothing)


def _continuum(predicted, observed, radius, n_lines):
    """Median log10 of the ratio at H-alpha (at any line, where that is not there) within 1 Re."""
    for i in (_column("Ha"), *range(n_lines)):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.log10(predicted[:, i] / observed[:, i])[radius < 1]
        if np.isfinite(ratio).any():
            return float(np.nanmedian(ratio))
    return np.nan


# ---------------------------------------------------------------- numbers
def known_errors(comparisons):
    """Keywords ``masks`` and ``noise`` of scores; no noise where no truth has any."""
    noise = [one.noise for one in comparisons]
    some = any(np.any(sigma > 0) for one in noise for sigma in one)
    return {"masks": [one.mask for one in comparisons], "noise": noise if some else None}


def galaxy_row(comparison, model="model"):
    """Scores of one galaxy alone, as a flat row.

    Parameters
    ----------
    comparison : Comparison
    model : str

    Returns
    -------
    dict of str to float
        Of each line, "Ha chosen" (positions that count), "Ha R2 log flux" and so on, the same of the reference where it
        is one of flux ("Ha R2 log flux, light"), and "Ha coverage 68 %".
    """
    answers, truth = comparison.answers, comparison.truth
    keywords = known_errors([comparison]) | {"draws": 0}
    scores = measure_scores({name: [maps] for name, maps in answers.items()}, [truth], **keywords)
    calibration, _ = measure_calibration({model: [answers[model]]}, [truth], **keywords)
    out = {"continuum [dex]": comparison.continuum_dex}
    for line in QUANTITIES:
        out[f"{line} chosen"] = 0
        for row in scores + calibration:
            if (row["quantity"], row["region"], row["stratum"]) != (line, "whole", "all"):
                continue
            value = np.nan if row["value"] is None else row["value"]
            if row["predictor"] == model and row["score"] in SCORED:
                out[f"{line} chosen"] = row["spaxels"]
                out[f"{line} {row['score']}"] = value
            elif row["predictor"] == LIGHT and row["score"] == "R2 log flux":
                out[f"{line} R2 log flux, light"] = value
            elif row["score"] == "coverage 68 %":
                out[f"{line} coverage 68 %"] = value
    return out
