"""Context: real spectra of the galaxy that is predicted, brought to the network's grid."""

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord

from .extinction import mw_transmission
from .prediction import FLUX_DENSITY
from .provenance import is_predicted

__all__ = ["context_redshift", "context_tensors", "resolve_context"]


def resolve_context(context, prepared):
    """Context as a list of (Spectrum, offset (2,))."""
    out = []
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
        out.append((spectrum, offset))
    return out


def context_tensors(config, spectrum, offset, prepared, redshift):
    """A context spectrum on the model's grid: (flux, ivar, offset, redshift) as tensors, dereddened."""
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
    tensors = (torch.from_numpy(np.where(bad, 0, x).astype(np.float32)) for x in (flux, ivar))
    return (*tensors, offset, torch.tensor(float(redshift), dtype=torch.float32))


def _is_ours(meta):
    datatype = getattr(meta.get("provenance"), "datatype", None)
    return datatype == "PREDICTED" or is_predicted(meta.get("header", {}))


def context_redshift(spectra):
    """Redshift of the first context spectrum that has one (``Spectrum.redshift``), or None."""
    for spectrum, _ in spectra:
        z = float(spectrum.redshift.value)
        if z > 0:
            return z
    return None
