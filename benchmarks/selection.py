# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What a choice of spaxels does to the bias of predicted fluxes: chosen by the truth, and by the prediction.

    fiberifu validate maps -o SCORES --baselines none
    python benchmarks/selection.py SCORES --held-out SCORES/truth --galaxies 1000

prints, in bins of flux over MaNGA's error, log10 of the summed prediction over the summed truth of H-alpha.
"""

import argparse
from pathlib import Path

import numpy as np

EDGES = (1, 3, 10, 30, np.inf)


def main():
    from fiberifu.validate import HeldOutSet, read_predictions
    from fiberifu.validate.pooling import pool_predictions, pool_truths

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, help="folder of fiberifu validate maps")
    parser.add_argument("--held-out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--galaxies", type=int, default=1000)
    options = parser.parse_args()
    held_out = HeldOutSet(options.held_out, galaxies=options.galaxies)
    truths = list(held_out)
    spaxels = pool_truths(truths)
    answers = pool_predictions(read_predictions(options.scores, "network", held_out), truths)
    i = spaxels.column("Ha")
    true, predicted, depth = spaxels.flux[:, i], answers.flux[:, i], spaxels.depth[:, i]
    known = np.isfinite(true + predicted) & (spaxels.radius < 1.6)
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        cells = []
        for chosen_by in (true, predicted):
            here = known & (chosen_by > low * depth) & (chosen_by <= high * depth)
            cells.append(f"{np.log10(predicted[here].sum() / true[here].sum()):+.3f} ({here.sum()})")
        print(f"S/N {low:g} to {high:g}: dex (spaxels), chosen by the truth {cells[0]}, by the prediction {cells[1]}")


if __name__ == "__main__":
    main()
