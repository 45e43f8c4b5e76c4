"""Context: real spectra of the galaxy that is predicted -> the network's grid -> what they say about its errors."""

import warnings
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyUserWarning

from .constants import C_KMS
from .extinction import mw_transmission
from .flags import Flag
from .prediction import FLUX_DENSITY
from .provenance import is_predicted

__all__ = ["check_redshifts", "context_redshift", "context_tensors", "fiber_errors", "resolve_context",
           "warn_of_strangers"]  # fmt: skip

MOST_FIBERS = 8  # their components are combined, and there are three of each
MOST_UNSURE = 900.0  # km/s, of the redshift of a galaxy
MOST_APART = 1000.0  # km/s, of the redshifts of a fibre and its galaxy
OWN_SPREAD, ANY_SPREAD = 30.0, 150.0  # km/s: of a fibre around the redshift that it brings, and around the galaxy's
COVERED = 0.4  # of a band: below this share of good pixels it does not scale a spectrum
NEAREST = 0.5  # arcsec: what is nearer is the same place
UNLIKE = 4.0  # mean square of normalised differences from what the image predicts, above which a fibre is strange


def resolve_context(context, prepared):
    """Context as a list of (Spectrum, offset (2,))."""
    out, context = [], () if context is None else context
    if len(context) > MOST_FIBERS:
        raise ValueError(
            f"context: {len(context)} spectra; at most {MOST_FIBERS} can be used, take those farthest apart"
        )
    for i, item in enumerate(context):
        try:
            spectrum, where = item
            flux, axis = spectrum.flux, spectrum.spectral_axis
        except (TypeError, ValueError, AttributeError):
            raise ValueError(f"context[{i}]={item!r}: give (Spectrum, SkyCoord) pairs") from None
        if "prediction" in spectrum.meta or _is_ours(spectrum.meta):
            raise ValueError(f"context[{i}] is a prediction of fiberifu; give a measured spectrum")
        if not (isinstance(where, SkyCoord) and where.size == 1):
            raise ValueError(f"context[{i}]: its position must be one SkyCoord, got {where!r}")
        if flux.ndim != 1 or not flux.unit.is_equivalent(FLUX_DENSITY) or not axis.unit.is_equivalent(u.AA):
            raise ValueError(f"context[{i}]: needs one spectrum in flux per wavelength, got {flux.shape} {flux.unit}")
        if spectrum.uncertainty is None:
            raise ValueError(f"context[{i}]: needs an uncertainty")
        offset = prepared.offsets(where)[0]
        if not prepared.contains(offset)[0]:
            raise ValueError(f"context[{i}]: its position {where.to_string('hmsdms')} lies outside the image")
        if any(np.hypot(*(offset - other)) < NEAREST for _, other in out):
            raise ValueError(f"context[{i}]: another fibre is less than {NEAREST} arcsec away; give their mean instead")
        out.append((spectrum, offset))
    return out


def context_tensors(config, spectrum, prepared):
    """A context spectrum on the model's grid: (flux, ivar) as tensors, dereddened."""
    import torch
    from astropy.nddata import InverseVariance
    from specutils import Spectrum
    from specutils.manipulation import FluxConservingResampler

    flux = spectrum.flux.to_value(FLUX_DENSITY).astype(float)
    with np.errstate(divide="ignore"):  # the inverse variance of bad pixels is 0
        ivar = spectrum.uncertainty.represent_as(InverseVariance).quantity.to_value(FLUX_DENSITY**-2)
    bad = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    if spectrum.mask is not None:
        bad |= np.asarray(spectrum.mask, bool)
    wave = config.wave_start + config.wave_step * np.arange(config.wave_size)
    axis = spectrum.spectral_axis.to_value(u.AA)
    if len(axis) != len(wave) or not np.allclose(axis, wave, atol=0.01):
        # a bad pixel is one of no weight; the resampler knows no masks, but carries nan wherever it reaches
        flux, ivar = np.where(bad, np.nan, flux), np.where(bad, 1.0, ivar)
        clean = Spectrum(flux * FLUX_DENSITY, spectral_axis=axis * u.AA, uncertainty=InverseVariance(ivar))
        clean = FluxConservingResampler(extrapolation_treatment="nan_fill")(clean, wave * u.AA)
        flux, ivar = clean.flux.value, clean.uncertainty.array
        bad = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0))
    through = mw_transmission(wave, prepared.ebv) if prepared.ebv else 1.0
    flux, ivar = flux / through, ivar * through**2
    return tuple(torch.from_numpy(np.where(bad, 0, x).astype(np.float32)) for x in (flux, ivar))


def fiber_errors(model, spectra, prepared, predicted, redshift, field, seed):
    """What context spectra say about the errors of a prediction.

    Real spectra are calibrated as point sources: they are brought to the image's flux in their apertures, as those of
    the training set were. A fibre sees the galaxy at a velocity of its own, which is fitted.

    Parameters
    ----------
    model : FiberMAE
    spectra : list of (Spectrum, offset (2,))
        See `resolve_context`.
    prepared : PreparedImage
    predicted : tuple
        Mixture, dispersion of the gas [km/s] and photometry at their positions, as of `fiberifu.decode.decode`.
    redshift : float
        Of the galaxy.
    field : tuple of float
        Amplitude and length [arcsec] of the correlation of errors.
    seed : int

    Returns
    -------
    fiberifu.model.FiberErrors
    """
    import torch

    from .model import FiberErrors, desi_lsf
    from .simulate.observe import band_weights, reanchor

    mixture, sigma_gas, seen = predicted
    flux, ivar = (torch.stack(x) for x in zip(*(context_tensors(model.config, s, prepared) for s, _ in spectra),
                                              strict=True))  # fmt: skip
    wave = model.config.wave_start + model.config.wave_step * np.arange(model.config.wave_size)
    curves = band_weights(wave, 3000 + 5.0 * np.arange(1601), model.basis.passband.numpy())
    curves, grid, bands, noise = (
        torch.as_tensor(x, dtype=torch.float32) for x in (curves, wave, seen["flux"], seen["error"])
    )
    if (hole := ~np.isfinite(seen["error"]).any(1)).any():
        raise ValueError(f"context[{int(hole.argmax())}]: the image has no usable pixels at its position")
    redshifts = [own if (own := float(s.redshift.value)) > 0 else redshift for s, _ in spectra]
    with torch.no_grad():
        z = torch.tensor(redshifts, dtype=torch.float32)
        basis = model.basis.render(
            model.edges, z, torch.as_tensor(sigma_gas).float(), desi_lsf(model.basis.line_wave * (1 + z[:, None]))
        )
        filled, weight, share = _fill_gaps(
            flux, ivar, torch.einsum("fpk,fk->fp", basis, mixture.collapse().mean), curves
        )
    _, _, scale = reanchor(filled, weight, grid, curves, bands, torch.where(share > COVERED, noise, torch.inf))
    flux, ivar = flux * scale, ivar / scale**2
    best, precision, away, log_fit = [], [], [], 0.0
    for i, (spectrum, _) in enumerate(spectra):
        centre, spread = redshifts[i], OWN_SPREAD if float(spectrum.redshift.value) > 0 else ANY_SPREAD
        row = mixture.take(torch.tensor([i]))
        with torch.no_grad():
            found = _measure_moving(model, row, float(sigma_gas[i]), flux[i], ivar[i], centre, spread)
        best.append(found.best)
        precision.append(_without_scale(_weakened(found.precision, row, found.away / UNLIKE), found.best))
        away.append(found.away)
        log_fit += found.log_likelihood - (_velocity(centre, redshift) / ANY_SPREAD) ** 2 / 2
    offset = torch.tensor(np.array([where for _, where in spectra]))
    errors = FiberErrors(mixture, torch.stack(best), torch.stack(precision), offset, field, seed)
    errors.log_evidence = log_fit  # of each by itself, at its full weight
    errors.away = away
    return errors


def warn_of_strangers(nodes):
    """Warn of context spectra that are unlike what the image predicts, at the likeliest redshift of ``nodes``.

    Returns the flag, or 0.
    """
    fibers, flag = max(nodes, key=lambda node: node.weight).fibers, 0
    for i, away in enumerate(fibers.away if fibers else ()):
        if away > UNLIKE:
            flag = int(Flag.CONTEXT_UNLIKE)
            warnings.warn(
                f"context[{i}] is unlike what the image predicts at its position (mean square of normalised "
                f"differences: {away:.0f}); is it of this galaxy? Its errors are taken to be as large",
                AstropyUserWarning,
                stacklevel=4,
            )
    return flag


def _fill_gaps(flux, ivar, expected, curves):
    """Spectra (F, P) and weights whose bad pixels have the shape that is expected, and the share (F, C) of each band
    that was measured."""
    import torch

    good = ivar > 0
    weight = torch.where(good, ivar, 0.0)
    grey = (weight * flux * expected).sum(1) / (weight * expected**2).sum(1).clamp(min=1e-30)
    filler = grey[:, None] * expected
    unsure = 1 / (0.3 * filler.abs() + 1e-3) ** 2
    share = (good * expected.abs()) @ curves.T / (expected.abs() @ curves.T).clamp(min=1e-30)
    return torch.where(good, flux, filler), torch.where(good, ivar, unsure), share


def _weakened(precision, mixture, excess):
    """The precision (K, K) of a measurement that is wrong by ``excess`` times the spread of the mixture (of one
    position), where that is more than 1: the spread is added to its errors (Woodbury identity)."""
    import torch

    if excess <= 1:
        return precision
    root = mixture.collapse().root[0].double()
    half = precision @ root
    inner = root.T @ half + torch.eye(half.shape[1], dtype=torch.float64) / excess
    return precision - half @ torch.linalg.solve(inner, half.T)


def _without_scale(precision, best):
    """The precision without what it says of the scale: that was taken from the image, and is no second measurement."""
    pull = precision @ best.double()
    return precision - pull[:, None] * pull / (best.double() @ pull).clamp(min=1e-30)


def check_redshifts(spectra, nodes):
    """ValueError for spectra that bring a redshift which is not that of the galaxy, and for a galaxy without one."""
    if spectra and C_KMS * nodes.spread > MOST_UNSURE:
        raise ValueError(f"context: the redshift, {nodes.mean:.4f} +- {nodes.spread:.4f}, is too uncertain to find "
                         "lines of a fibre; give redshift=, or spectra that have one (Spectrum.redshift)")  # fmt: skip
    for i, (spectrum, _) in enumerate(spectra):
        own = float(spectrum.redshift.value)
        apart = _velocity(own, nodes.mean)
        if own > 0 and abs(apart) > MOST_APART + 3 * C_KMS * nodes.spread:
            raise ValueError(f"context[{i}]: its redshift {own:.5f} is {apart:.0f} km/s from that of the galaxy, "
                             f"{nodes.mean:.5f}; give spectra of this galaxy")  # fmt: skip


def _velocity(redshift, systemic):
    return C_KMS * (redshift - systemic) / (1 + systemic)


class _Measured(NamedTuple):
    """Coefficients (K,), their precision (K, K), the logarithm of the likelihood of the spectrum, and the mean square
    of normalised differences from what was predicted."""

    best: object
    precision: object
    log_likelihood: float
    away: float


def _measure_moving(model, mixture, sigma_gas, flux, ivar, redshift, spread):
    """`_Measured` of a spectrum at the velocity and width that suit it best, by prior and likelihood."""
    import torch

    from .model.distribution import coefficient_nll, mixture_nll

    gaussian = mixture.collapse()

    def law(velocity, width):
        """Negative log-likelihood, coefficients and precisions for velocities and widths (V,) [km/s]."""
        v = len(velocity)
        z = redshift + (1 + redshift) * velocity / C_KMS
        misfit, best, precision = model.measure(
            gaussian.mean.expand(v, -1), width, flux.expand(v, -1), ivar.expand(v, -1), z.float()
        )
        left = (
            misfit * (ivar > 0).sum() + (velocity / spread) ** 2 / 2 + (torch.log10(width / sigma_gas) / 0.2) ** 2 / 2
        )
        return left + mixture_nll(mixture.take(torch.zeros(v, dtype=torch.int64)), best, precision), best, precision

    velocity, width = torch.zeros(1), torch.full((1,), sigma_gas)
    for step in (spread / 2, spread / 8, spread / 32):
        tried = velocity + step * torch.arange(-6, 7)
        velocity = tried[law(tried, width.expand(13))[0].argmin()][None]
    tried = sigma_gas * 10 ** torch.linspace(-0.4, 0.4, 7)
    width = tried[law(velocity.expand(7), tried)[0].argmin()][None]
    nll, best, precision = law(velocity, width)
    # without its determinant, which is what the likelihood has at the mean
    mean, root = gaussian.mean.double(), gaussian.root
    pull, none = (coefficient_nll(mean, root, x, precision) for x in (best, mean))
    return _Measured(best[0], precision[0], -float(nll), float(2 * (pull - none) / best.shape[-1]))


def _is_ours(meta):
    datatype = getattr(meta.get("provenance"), "datatype", None)
    return datatype == "PREDICTED" or is_predicted(meta.get("header", {}))


def context_redshift(spectra, image=None):
    """Mean redshift of the context spectra that have one (``Spectrum.redshift``), or None.

    ValueError where it is not that of the image, ``image`` (None: the image has none).
    """
    known = [z for spectrum, _ in spectra if (z := float(spectrum.redshift.value)) > 0]
    found = float(np.mean(known)) if known else None
    if known and image is not None and abs(_velocity(found, float(image))) > MOST_APART:
        raise ValueError(f"context: redshift {found:.5f}, but that of the image (meta['REDSHIFT']) is "
                         f"{float(image):.5f}; give redshift= if the image is wrong")  # fmt: skip
    return found
