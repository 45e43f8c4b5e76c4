"""A look at the network while it trains: H-alpha of one held-out galaxy, truth against prediction, in a PNG."""

import copy
import logging
import math
import os

import torch

from .batches import _batch_seed
from .config import MOST_STEPS
from .finite_survey import FiniteSurvey, Survey

__all__ = ["Picture"]

logger = logging.getLogger(__name__)


class Picture:
    """Draws the same galaxy again and again.

    The galaxy is the first large and near one of a seed that no step of training has.

    Parameters
    ----------
    recipe : Recipe
    pack_path : path-like
    folder : `pathlib.Path`
        Of the pictures.
    """

    def __init__(self, recipe, pack_path, folder):
        self.recipe, self.pack_path, self.folder = recipe, pack_path, folder
        self._truth = None

    @property
    def truth(self):
        """As `Simulator.truth_maps`; made at first use."""
        if self._truth is None:
            from ..simulate import SimConfig, Simulator, load_template_pack

            simulator = Simulator(load_template_pack(self.pack_path), config=SimConfig(**self.recipe.simulator))
            seed = _batch_seed(self.recipe.seed, MOST_STEPS)
            one = FiniteSurvey(simulator, Survey(galaxies=1, max_redshift=0.08, min_re=3.0), seed)
            self._truth = simulator.truth_maps(seed, int(one.galaxies[0]), spaxel=0.75, size=18.0)
        return self._truth

    @torch.inference_mode()
    def predict(self, model):
        """Map of the H-alpha flux (ny, nx), 1e-17 erg/s/cm2 in the aperture around each position."""
        from ..model import LINES

        truth = self.truth
        device = model.edges.device
        image = [truth[key][None].to(device) for key in ("image", "sigma_image")]
        psf, redshift = (torch.as_tensor(truth[key], device=device)[None] for key in ("psf_fwhm", "redshift"))
        where = torch.stack([truth["east"].flatten(), truth["north"].flatten()], 1).to(device)
        zero = torch.zeros(len(where), dtype=torch.int64, device=device)
        at = redshift.expand(len(where))
        decoded = model.query(model.encode(*image, psf), *image, psf, zero, where, at, torch.full_like(at, 1e-4))
        amplitude = decoded.mixture.collapse().mean[:, model.config.n_continuum :] @ model.basis.tie[LINES.index("Ha")]
        return (amplitude * (1 + at)).unflatten(0, truth["east"].shape).cpu()

    def draw(self, model, weights, step):
        """Write ``step_NNNNNNN.png`` of a model with other ``weights``; without matplotlib, only say so.

        Parameters
        ----------
        model : FiberMAE
        weights : dict
            State of the model to be shown: the averaged one.
        step : int
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            logger.warning("no pictures without matplotlib")
            return
        from ..model import LINES

        shown = copy.deepcopy(model)
        shown.load_state_dict(weights)
        predicted, truth = self.predict(shown.eval()), self.truth
        true = truth["line_flux"][..., LINES.index("Ha")]
        top = float(true.max())
        extent = [float(truth["east"].min()), float(truth["east"].max())] * 2
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        half = self.recipe.model.stamp * self.recipe.model.pixel_scale / 2
        axes[0].imshow(truth["image"][1].asinh().numpy(), origin="lower", cmap="gray_r", extent=[-half, half] * 2)
        axes[0].set(xlim=extent[:2], ylim=extent[2:], title=f"r band, z = {float(truth['redshift']):.3f}")
        high = math.log10(top)
        for ax, values, title in zip(axes[1:], (true, predicted), ("truth", f"step {step}"), strict=True):
            logs = values.clamp(min=1e-3 * top).log10().numpy()
            drawn = ax.imshow(logs, origin="lower", extent=extent, vmin=high - 2, vmax=high)
            ax.set_title(f"H-alpha, {title}")
        figure.colorbar(drawn, ax=axes, label="log flux [1e-17 erg / (s cm2)]")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:07d}.png"
        part = path.with_suffix(".part")
        figure.savefig(part, format="png", dpi=80)
        os.replace(part, path)
