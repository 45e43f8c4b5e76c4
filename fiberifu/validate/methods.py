# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The methods that are judged together, and what each is for: ``names -> samples of fibres, spaxels -> predictors``."""

import dataclasses

__all__ = ["BASELINES", "COSTLY", "JUDGED", "Baseline", "make_baselines", "parse_baselines"]

#: Name of the model among the methods.
JUDGED = "network"


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A method beside the model.

    Attributes
    ----------
    kind : {'rival', 'reference'}
        See `fiberifu.validate.report.KINDS`.
    about : str
        One sentence for the page.
    needs : {'fibers', 'spaxels', 'network'} or None
        What it is made from.
    """

    kind: str
    about: str
    needs: str | None = "fibers"


#: Baselines by their names on the command line, in the order of the page.
BASELINES = {
    "constant": Baseline("rival", "continuum of the image x one EW of each line, the median of the fibres"),
    "trees": Baseline(
        "rival", "gradient-boosted trees on colours, surface brightness, redshift and PSF at the position"
    ),
    "wide-trees": Baseline("rival", "the same trees, which also see light and colours of the 7 x 7 patch around it"),
    "ridge": Baseline("rival", "linear regression on the pixels of a 7 x 7 patch, the published baseline"),
    "ifu-trees": Baseline(
        "reference", "the first of these trees, trained on IFU spaxels all over some other galaxies", "spaxels"
    ),
    "central": Baseline("reference", "EW of the central fibre's spectrum x continuum of the image"),
    "position": Baseline("reference", "trees on redshift and distance from the centre: no image"),
    "floor": Baseline("reference", "the truth, observed once more with MaNGA's noise: a scale, no bound", None),
    "fiber": Baseline("reference", "the model, shown the central fibre's spectrum, too", "network"),
    "blank": Baseline("reference", "the model, shown an image of empty sky: a null", "network"),
    "shuffled": Baseline("reference", "the model, shown the image of another galaxy: a null", "network"),
}
#: As slow as the model itself: made only when they are named.
COSTLY = ("fiber", "blank", "shuffled")


def parse_baselines(text):
    """Names of baselines from "all" (those that are not `COSTLY`), "none", or a list with commas.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if text == "none":
        return []
    names = [name.strip() for part in text.split(",") for name in (_ALL if part.strip() == "all" else [part])]
    if unknown := [name for name in names if name not in BASELINES]:
        raise ValueError(
            f"baselines: unknown {', '.join(map(repr, unknown))}; give all, none, or of {', '.join(BASELINES)}"
        )
    return [name for name in BASELINES if name in names]


_ALL = [name for name in BASELINES if name not in COSTLY]


def make_baselines(names, *, network, galaxies, fibers, spaxels):
    """Predictors of baselines.

    Parameters
    ----------
    names : sequence of str
        Of `BASELINES`.
    network : Predictor
        The model, for those that show it something else.
    galaxies : HeldOutSet
        For "shuffled".
    fibers, spaxels : callable
        Without arguments, to `~fiberifu.validate.fiber_sample.LineSample`: called only if needed.

    Returns
    -------
    list of Predictor
        With ``kind`` and ``about``.
    """
    if not names:
        return []
    from . import baselines, nulls
    from .predictors import NetworkPredictor

    makers = {
        "constant": lambda: baselines.LightTimesEW(fibers()),
        "trees": lambda: baselines.FiberTrees(fibers()),
        "wide-trees": lambda: baselines.PatchTrees(fibers()),
        "ridge": lambda: baselines.PatchRidge(fibers()),
        "ifu-trees": lambda: baselines.IFUTrees(spaxels()),
        "central": lambda: baselines.CentralTimesLight(fibers()),
        "position": lambda: baselines.PositionOnly(fibers()),
        "floor": lambda: nulls.NoiseFloor(),
        "fiber": lambda: NetworkPredictor(network.ifu, context=True),
        "blank": lambda: nulls.Blank(network),
        "shuffled": lambda: nulls.Shuffled(network, galaxies),
    }
    out = []
    for name in names:
        out.append(makers[name]())
        out[-1].kind, out[-1].about = BASELINES[name].kind, BASELINES[name].about
    return out
