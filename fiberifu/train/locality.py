"""What keeps a network that learned at galaxies' centres right elsewhere: remedies, each of which can be changed.

``Locality (recipe) -> start_context: weights -> enlarge, weigh: batches``. The masks are `fiberifu.model.masking`'s.
``benchmarks/locality.py`` measures what each is worth.
"""

import dataclasses
import math

import torch
from torch import nn

from ..model.masking import HIDING
from ..simulate.observe import aperture_photometry
from .tables import from_table

__all__ = ["Locality", "enlarge", "start_context", "weigh"]

OFF_CENTRE = 0.7  # effective radii


@dataclasses.dataclass(frozen=True)
class Locality:
    """Settings of the remedies: table ``[locality]`` of a recipe. The defaults are what the bundled weights had.

    Another remedy, galaxies anywhere in the stamp, is the simulator's ``jitter``.

    Parameters
    ----------
    hide : {'distance', 'random'}
        Which image patches are hidden: those beyond a distance from the fibre in 30 % of the galaxies, a random share
        in 35 %, none in 35 %; or a random share in 65 %.
    context : float
        Scale at which what is far from a query begins to count: attention to the galaxy and the view of 8 arcsec. 0
        cuts it for good, so that a query knows what is within 1.5 arcsec of it.
    off_centre_weight : float
        Of fibres beyond 0.7 effective radii of a simulated galaxy; 1 of the others.
    zoom : float
        Images are enlarged by factors between 1 / zoom and zoom, uniform in the logarithm; see `enlarge`. 1: none.
    """

    hide: str = "distance"
    context: float = 0.05
    off_centre_weight: float = 1.0
    zoom: float = 1.0

    def __post_init__(self):
        if self.hide not in HIDING:
            raise ValueError(f"locality.hide: got {self.hide!r}, use one of {HIDING}")
        if not self.context >= 0:
            raise ValueError(f"locality.context: got {self.context}; 0 or more is needed")
        if not self.off_centre_weight > 0:
            raise ValueError(f"locality.off_centre_weight: got {self.off_centre_weight}; more than 0 is needed")
        if not 1 <= self.zoom <= 3:
            raise ValueError(f"locality.zoom: got {self.zoom}; 1 to 3 will do")

    @classmethod
    def from_dict(cls, values):
        """Settings from a table of a recipe.

        Raises
        ------
        ValueError
            For an unknown name, a value of the wrong type or out of range.
        """
        return from_table(cls, "locality", values)


def start_context(model, scale):
    """Let the context path of a new model begin at ``scale``; at 0 it is cut, and training leaves it so.

    Cut weights are plain weights: who loads them later need not know.
    """
    decoder = model.query_decoder
    with torch.no_grad():
        for gate in (decoder.around_scale, *(block.scale for block in decoder.blocks)):
            gate.fill_(scale)
            gate.requires_grad_(scale > 0)


def weigh(batch, weight):
    """A batch with ``fiber_weight`` (F,): ``weight`` for fibres beyond 0.7 effective radii, 1 for the others."""
    far = batch["fiber_radius"] > OFF_CENTRE
    return batch | {"fiber_weight": torch.where(far, weight, 1.0)}


def enlarge(batch, zoom, aperture, pixel_scale, generator):
    """The same galaxies as if nearer or farther, each by a factor of its own: a central fibre covers other radii.

    Surface brightness and equivalent widths stay, and so does the redshift: what changes is how large a galaxy of its
    distance is. The PSF grows with the image. The aperture on the new image does not, so the spectrum is scaled by the
    light that it now has in there (as `fiberifu.simulate.observe.reanchor` does); that its colours and lines are the
    mean over another area of the galaxy is what makes this an approximation.

    Parameters
    ----------
    batch : dict
        Of the simulator.
    zoom : float
        Largest factor.
    aperture, pixel_scale : float
        arcsec.
    generator : torch.Generator

    Returns
    -------
    dict
        Pixels that would come from beyond the stamp are missing: sigma inf. A fibre whose aperture has no light before
        and after has no inverse variance.
    """
    image, sigma, owner = batch["image"], batch["sigma"], batch["fiber_galaxy"]
    factor = torch.exp(math.log(zoom) * (2 * torch.rand(len(image), generator=generator) - 1))
    shrink = torch.zeros(len(image), 2, 3)
    shrink[:, 0, 0] = shrink[:, 1, 1] = 1 / factor
    grid = nn.functional.affine_grid(shrink, list(image.shape), align_corners=False)

    def read(x, mode="bilinear"):
        return nn.functional.grid_sample(x, grid, mode=mode, align_corners=False)

    good = torch.isfinite(sigma)
    seen = read(good.to(image.dtype)) > 0.999
    out = dict(batch)
    out["image"] = torch.where(seen, read(torch.where(good, image, 0.0)), 0.0)
    # what a mean of four pixels leaves of the noise of one, as they are independent
    middle = (image.shape[-1] - 1) / 2
    part = torch.frac((torch.arange(image.shape[-1]) - middle) / factor[:, None] + middle + image.shape[-1])
    left = ((1 - part) ** 2 + part**2).sqrt()
    left = (left[:, :, None] * left[:, None, :])[:, None]
    out["sigma"] = torch.where(seen, left * read(torch.where(good, sigma, 0.0), "nearest"), torch.inf)
    out["psf_fwhm"] = batch["psf_fwhm"] * factor
    out["fiber_offset"] = batch["fiber_offset"] * factor[owner, None]
    reach = (image.shape[-1] / 2 - 5) * pixel_scale
    within = (out["fiber_offset"].abs() < reach).all(-1)
    (before, error), (after, new_error) = (
        aperture_photometry(b["image"][owner], b["sigma"][owner], b["fiber_offset"].clamp(-reach, reach), pixel_scale,
                            aperture) for b in (batch, out)
    )  # fmt: skip
    weight = torch.where(torch.isfinite(new_error), error, torch.inf) ** -2
    scale = (weight * before * after).sum(1) / (weight * before**2).sum(1).clamp(min=1e-12)
    lit = within & (scale > 0.02) & (scale < 50)
    scale = torch.where(lit, scale, 1.0)[:, None]
    out["flux"] = batch["flux"] * scale
    out["ivar"] = torch.where(lit[:, None], batch["ivar"] / scale**2, 0.0)
    return out
