"""A universe for controls, where lines follow from what an image shows: ``Draws -> usual galaxy -> no unseen scatter``.

What a network learns there is the most that it could learn anywhere: nothing is hidden from it but by the seeing.
"""

import torch

from ..simulate import Simulator

__all__ = ["ForeseeableSimulator"]

#: What no image shows, and the middle of what `fiberifu.simulate.recipe.draw_galaxies` draws for it: star formation of
#: the last 10 Myr and the ionising photons that make lines (dex), scatter of line emission from place to place (dex),
#: dust-to-metal ratio, abundances and lines of their own (dex), E(B-V) of gas over that of stars, diffuse gas.
MIDDLE = {
    "burst": 0.0,
    "ionising": -0.14,
    "phase_texture": 0.0,
    "xi": 0.3,
    "n_over_o": 0.05,
    "oxygen_one": 0.0,
    "neon": 0.0,
    "helium": 0.0,
    "gas_dust": 1 / 0.44,
    "diffuse": 0.285,
    "diffuse_o3": -0.05,
    "diffuse_low": 0.08,
}
HIDDEN = ("agn", "outflow", "decoupled")  # gas that starlight does not tell of


class ForeseeableSimulator(Simulator):
    """`~fiberifu.simulate.Simulator` of the same galaxies without what an image does not show.

    No active nuclei, winds and decoupled gas; `MIDDLE` for what scatters unseen; the ionisation parameter follows from
    the metallicity, and all clumps have one age. Metallicity, ages and dust of starlight scatter as always: colours
    show them, though not one by one. Noise is another matter (``SimConfig(noise=False)``).

    Parameters
    ----------
    pack, config, device
        As for `~fiberifu.simulate.Simulator`.
    """

    universe = "without unseen scatter"

    @classmethod
    def like(cls, simulator):
        """With the templates and settings of another simulator, which are shared.

        Parameters
        ----------
        simulator : Simulator

        Returns
        -------
        ForeseeableSimulator
        """
        out = cls.__new__(cls)
        out.__dict__.update(simulator.__dict__)
        return out

    def _draw(self, d):
        d.force |= dict.fromkeys(HIDDEN, False)
        d.clump[..., 5] = 1.5 - d.clump[..., 1] - d.clump[..., 6]  # of which `galaxy_maps` makes the ages of clumps
        g = super()._draw(d)
        g |= {name: torch.full_like(g[name], value) for name, value in MIDDLE.items()}
        g["log_u"] = -3.6 - 1.3 * g["gas_z_inner"]
        return g | {"log_u_clump": g["log_u"] + 0.05}
