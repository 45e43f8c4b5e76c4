# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What keeps it local: the same network from the same galaxies, each time with one remedy changed.

    python benchmarks/locality.py PACK.npz -o FOLDER --steps 640 --held-out FOLDER/truth --judged 300

Fibres are DESI's: 85 % on the light peak. All arms start from the same random weights, see the same galaxies (simulated
once, ``FOLDER/cache``; without jitter the same galaxies in the middle of the stamp) and take the same steps; what differs
is the table ``[locality]`` of the recipe. Then they are judged at positions of held-out galaxies beyond 0.7 effective radii
and everywhere within 1.6, beside trees that learned from the same fibres, and compared with the recipe as it is over the
same bootstrap draws of galaxies. One arm is the recipe as it is with other starting weights: differences that are not
larger than its are none.

``FOLDER/runs/ARM`` are training runs, ``FOLDER/scores`` predictions and scores, ``FOLDER/locality.json`` the rows. The
same command resumes; with ``--stop-after`` training goes in portions.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from importlib import resources
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch  # noqa: E402

from fiberifu.model import FiberMAE, save_checkpoint  # noqa: E402
from fiberifu.simulate import load_template_pack  # noqa: E402
from fiberifu.train import (  # noqa: E402
    Locality,
    Recipe,
    fill_basis,
    make_passport,
    recipe_batches,
    train,
    training_range,
)

AS_IS, OTHER_START = "as it is", "as it is, other start"
ARMS = {  # what each changes: of [locality], the simulator's jitter, or the seed of the starting weights
    AS_IS: {},
    "patches hidden anywhere": {"hide": "random"},
    "galaxy in the middle": {"jitter": 0.0},
    "apparent size varied": {"zoom": 1.5},
    "off-centre fibres x 3": {"off_centre_weight": 3.0},
    "local path alone": {"context": 0.0},
    "context from full scale": {"context": 1.0},
    OTHER_START: {},
}


def make_arms(labels, steps, passes, seed):
    """Recipes by name of the arm."""
    with resources.as_file(resources.files("fiberifu.train") / "recipes" / "nano.toml") as path:
        recipe = Recipe.read(path)
    # as many batches as are needed for the steps, in the given number of passes
    recipe = dataclasses.replace(recipe, steps=steps, passes=passes, shelf=-(-steps // passes), seed=seed, workers=0)
    out = {}
    for label in labels:
        changes = dict(ARMS[label])
        simulator = recipe.simulator | ({"jitter": changes.pop("jitter")} if "jitter" in changes else {})
        out[label] = dataclasses.replace(recipe, simulator=simulator, locality=Locality(**changes))
    return out


def run_folder(output, label):
    return output / "runs" / label.replace(",", "").replace(" ", "-")


def train_arms(arms, pack_path, output, stop_after):
    """Train what is not trained yet; False when the time ran out before all were."""
    torch.set_num_threads(1)
    began = time.monotonic()
    for label, recipe in arms.items():
        run = run_folder(output, label)
        if _trained_by(run) == recipe.sha256():
            continue
        left = None if stop_after is None else stop_after - (time.monotonic() - began)
        if left is not None and left <= 0:
            return False
        start = other_start(recipe, pack_path) if label == OTHER_START else None
        model, step = train(recipe, pack_path, run, start=start, stop_after=left, cache=output / "cache")
        print(f"{label}: step {step} of {recipe.steps}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if step < recipe.steps:
            return False
        batches = recipe_batches(recipe, pack_path, 0, (0,), output / "cache")
        ranges = training_range(model, (batch for _, batch in itertools.islice(batches, 10)))
        card = f"# {label}\n\nAn arm of benchmarks/locality.py. Not for use.\n"
        save_checkpoint(run / "model", model, card=card, passport=make_passport(recipe, step, ranges))
    return True


def other_start(recipe, pack_path):
    """Other random weights than those that the recipe's seed makes, on the same basis."""
    torch.manual_seed(recipe.seed + 1_000_000)
    model = FiberMAE(recipe.model)
    fill_basis(model, load_template_pack(pack_path), recipe.seed, recipe.mixtures)
    return model


def _trained_by(run):
    """Hash of the recipe of a finished arm."""
    path = run / "model" / "config.json"
    return json.loads(path.read_text())["passport"]["recipe_sha256"] if path.is_file() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="template pack")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM",
                        help=f"of {', '.join(map(repr, ARMS))}; by default all")  # fmt: skip
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--passes", type=int, default=2, help="how often each galaxy is seen")
    parser.add_argument("--seed", type=int, default=11, help="of galaxies, starting weights, order and masks")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="of training; the same command goes on")
    options = parser.parse_args()
    arms = make_arms(options.arms, options.steps, options.passes, options.seed)
    if not train_arms(arms, options.pack, options.output, options.stop_after):
        print("stopped; the same command goes on")
        return


if __name__ == "__main__":
    main()
