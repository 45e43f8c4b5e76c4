"""What a user of the weights must know, written beside them."""

import dataclasses

import numpy as np
import torch

__all__ = ["make_passport", "training_range"]

PERCENTILES = (0.1, 99.9)


@torch.inference_mode()
def training_range(model, batches):
    """Brightness and colours of the training apertures, for the flags of positions unlike any of them.

    Parameters
    ----------
    model : FiberMAE
    batches : iterable of dict

    Returns
    -------
    dict
        Band or pair of bands (``"g"``, ``"g-r"``) -> the middle 99.8 % of its AB magnitudes or colours [mag];
        without those that no aperture has.
    """
    flux, error = [], []
    for b in batches:
        seen = model.local.photometry(b["image"], b["sigma"], b["fiber_galaxy"], b["fiber_offset"])
        flux.append(seen[0].numpy())
        error.append(seen[1].numpy())
    flux, error = np.concatenate(flux), np.concatenate(error)
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = np.where(np.isfinite(error) & (flux > 3 * error), 22.5 - 2.5 * np.log10(flux), np.nan)
    bands = model.config.bands
    values = {band: mag[:, i] for i, band in enumerate(bands)}
    values |= {f"{a}-{b}": mag[:, i] - mag[:, i + 1] for i, (a, b) in enumerate(zip(bands, bands[1:], strict=False))}
    if {"r", "z"} <= set(bands):
        values["r-z"] = mag[:, bands.index("r")] - mag[:, bands.index("z")]
    seen = {name: v[np.isfinite(v)] for name, v in values.items()}
    return {name: [round(float(p), 3) for p in np.percentile(v, PERCENTILES)] for name, v in seen.items() if len(v)}


def make_passport(recipe, step, ranges, training_data="fiberifu.simulate"):
    """The passport of a trained model, for ``config.json``.

    Parameters
    ----------
    recipe : Recipe
    step : int
        Steps done.
    ranges : dict
        From `training_range`.
    training_data : str

    Returns
    -------
    dict
    """
    model, survey = recipe.model, recipe.survey
    # batches that are kept for another pass hold no new galaxies
    block, within = divmod(step, recipe.passes * recipe.shelf) if recipe.passes > 1 else (0, step)
    seen = (block * recipe.shelf + (min(within, recipe.shelf) if recipe.passes > 1 else within)) * recipe.batch
    placement = recipe.simulator.get("placement", "desi") if survey is None else dataclasses.asdict(survey)
    return {
        "bands": list(model.bands),
        "pixel_scale_arcsec": model.pixel_scale,
        "aperture_arcsec": model.aperture,
        "image_unit": "nanomaggy / arcsec2",
        "flux_unit": "1e-17 erg / (s cm2 AA)",
        "wavelengths": "vacuum",
        "redshift_range": [model.redshift_min, model.redshift_max],
        "training_range": ranges,
        "training_data": training_data,
        "training_galaxies": seen if survey is None else min(seen, survey.galaxies),
        "placement": placement,
        "seed": recipe.seed,
        "steps": step,
        "recipe_sha256": recipe.sha256(),
        "licence": "BSD-3-Clause",
    }
