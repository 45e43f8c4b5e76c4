# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What keeps it local: the same network from the same galaxies, each time with one remedy changed.

    python benchmarks/locality.py PACK.npz -o FOLDER --held-out FOLDER/truth --judged 500 --trees

Fibres are DESI's: 85 % on the light peak. All arms start from the same random weights, see the same galaxies (simulated
once, ``FOLDER/cache``; without jitter the same galaxies in the middle of the stamp) and take the same steps; what
differs is the table ``[locality]`` of the recipe. Then they are judged at positions of held-out galaxies beyond 0.7
effective radii and everywhere within 1.6, and compared with the recipe as it is over the same bootstrap draws of
galaxies. Its own local path is judged, too: the same weights, shown 5 arcsec around each position. One arm is the
recipe as it is from other starting weights: differences that are not larger than its are none.

``FOLDER/runs/ARM`` are training runs, ``FOLDER/scores`` predictions and scores, ``FOLDER/locality.json`` the rows. The
same command resumes; with ``--stop-after`` training goes in portions.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sys
import time
from importlib import resources
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from fiberifu.decode import SIGMA_Z  # noqa: E402
from fiberifu.line_functionals import line_moments, line_quantiles, select_lines  # noqa: E402
from fiberifu.model import (  # noqa: E402
    LINES,
    Encoded,
    FiberMAE,
    Node,
    aperture_snr,
    apply_calibration,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from fiberifu.simulate import Simulator, load_template_pack  # noqa: E402
from fiberifu.train import (  # noqa: E402
    Locality,
    Recipe,
    fill_basis,
    make_passport,
    recipe_batches,
    train,
    training_range,
)
from fiberifu.validate import HeldOutSet, PredictedMaps, Predictor, judge, scores  # noqa: E402
from fiberifu.validate.bootstrap import Bootstrap  # noqa: E402
from fiberifu.validate.maps import LEVELS  # noqa: E402
from fiberifu.validate.pooling import pool_predictions, pool_truths  # noqa: E402
from fiberifu.validate.spaxels import QUANTITIES, REGIONS, complete  # noqa: E402
from fiberifu.validate.table import ScoreTable  # noqa: E402

BEYOND, COVERED = "r after r-band", "coverage 68 %"
SHOWN = (  # quantity, score
    ("Ha", "R2 log EW"),
    ("Ha", "MAE log EW [dex]"),
    ("Ha", BEYOND),
    ("Ha", COVERED),
    ("N2", "MAE log EW [dex]"),
    ("O3", "MAE log EW [dex]"),
)

AS_IS, OTHER_START = "as it is", "as it is, other start"
WITHIN = 5.0  # arcsec
NEAR = f"shown {WITHIN:g} arcsec"
OTHER, OTHER_NEAR = "given weights", f"given weights, {NEAR}"
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


#: The nano network at half its width, depth and coefficients, which takes half the time.
HALF = dict(name="nano halved", width=64, depth=2, query_blocks=1, local_width=128, n_continuum=10)


def make_arms(labels, passes, whole, **changes):
    """Recipes by name of the arm; ``changes`` are the same for all."""
    with resources.as_file(resources.files("fiberifu.train") / "recipes" / "nano.toml") as path:
        recipe = Recipe.read(path)
    # as many batches as are needed for the steps, in the given number of passes
    changes |= {"passes": passes, "shelf": -(-changes["steps"] // passes), "workers": 0, "mixtures": 500}
    model = recipe.model if whole else dataclasses.replace(recipe.model, **HALF)
    recipe = dataclasses.replace(recipe, model=model, **changes)
    out = {}
    for label in labels:
        own = dict(ARMS[label])
        simulator = recipe.simulator | {key: own.pop(key) for key in ("jitter",) if key in own}
        out[label] = dataclasses.replace(recipe, simulator=simulator, locality=Locality(**own))
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


# --- scores


class Stamps(Predictor):
    """What a network says of a stamp itself, as it was trained: `VirtualIFU` without what real images need.

    With ``within`` [arcsec], each position is given only the image patches whose centres are that near to it, one of
    the ways in which patches are hidden in training: the network's own local path.
    """

    def __init__(self, folder, name, within=None):
        from fiberifu.output import settings_hash
        from fiberifu.validate.code_hash import prediction_sha256

        self.model, passport = load_checkpoint(folder)
        self.calibration, self.name = passport.get("calibration"), name
        self.within = within
        weights = weights_sha256(folder)
        self.key = settings_hash(
            {"method": "stamps", "weights": weights, "within": within, "code": prediction_sha256()}
        )

    @torch.inference_mode()
    def predict(self, galaxy):
        """Lines with their moments and quantiles of fluxes."""
        model = self.model
        image, sigma = (torch.from_numpy(x.astype(np.float32))[None] for x in (galaxy.image, galaxy.sigma))
        where = torch.from_numpy(np.stack([galaxy.east, galaxy.north], 1).astype(np.float32))
        psf = torch.tensor([float(galaxy.psf_fwhm)])
        z = torch.full((len(where),), float(galaxy.redshift))
        owner = torch.zeros(len(where), dtype=torch.int64)
        encoded = (
            model.encode(image, sigma, psf) if self.within is None else self._encode_near(image, sigma, psf, where)
        )
        with contextlib.ExitStack() as stack:
            if self.within is not None:  # each position reads an encoding of its own
                own = torch.arange(len(where))
                swap = model.query_decoder.register_forward_pre_hook(lambda _, given: (*given[:4], own, *given[5:]))
                stack.callback(swap.remove)
            decoded = model.query(encoded, image, sigma, psf, owner, where, z, SIGMA_Z * (1 + z))
        mixture = decoded.mixture
        if self.calibration is not None:
            mixture = apply_calibration(mixture, aperture_snr(decoded.flux, decoded.error), self.calibration)
        nodes = [Node(float(galaxy.redshift), 1.0, mixture, decoded.sigma_gas)]
        flux, continuum, joint = line_moments(nodes, model, select_lines(LINES), 0.0)
        sums = list(map(list, QUANTITIES.values()))
        quantiles = line_quantiles(nodes, model, 0.0, LEVELS, sums)
        ew, ew_sigma = joint["ew"]
        # a width over a continuum that may be zero is none
        unsure = np.abs(continuum[0]) < 3 * continuum[1]
        return PredictedMaps(
            flux=flux.T,
            flux_sigma=np.sqrt(np.diagonal(joint["flux"], axis1=1, axis2=2)),
            ew=np.where(unsure, np.nan, ew).T,
            ew_sigma=np.where(unsure, np.nan, ew_sigma).T,
            covariance=joint["flux"],
            quantiles={name: quantiles[:, i].T.astype(np.float32) for i, name in enumerate(QUANTITIES)},
        )

    def _encode_near(self, image, sigma, psf, where):
        model, n = self.model, len(where)
        tokens, keep, pixels = model.image_tokens(image, sigma, psf)
        keep = keep & (torch.cdist(where, model.centres) < self.within)
        keep = keep | ~keep.any(1, keepdim=True)
        offset = model.centres.expand(n, -1, -1)
        encoded = model.encoder(tokens.expand(n, -1, -1), offset, keep, parts=8)
        return Encoded(encoded, offset, keep, None, None, pixels)


class Thinned(HeldOutSet):
    """Held-out galaxies at some of their positions: every n-th within 1.6 effective radii, and no spectra."""

    def __init__(self, folder, simulator, galaxies, positions):
        super().__init__(folder, simulator, galaxies)
        self.positions, self.key = positions, f"{self.key} at {positions}"

    def _thin(self, galaxy):
        inside = np.flatnonzero(galaxy.radius < REGIONS["whole"][1])
        some = inside[:: max(1, len(inside) // self.positions)]
        names = "row column east north radius flux ew band velocity peak_distance".split()
        rows = {name: getattr(galaxy, name)[some] for name in names}
        return dataclasses.replace(galaxy, **rows, spectrum_at=galaxy.spectrum_at[:0], spectrum=galaxy.spectrum[:0])

    def shard(self, number):
        return list(map(self._thin, super().shard(number)))

    def truths(self):
        return list(map(self._thin, super().truths()))


def score_arms(arms, pack_path, output, options):
    """Judge trained arms on the same positions; rows of `SHOWN`, with differences to the recipe as it is."""
    pack = load_template_pack(pack_path)
    held_out = Thinned(options.held_out or output / "truth", Simulator(pack), options.judged, options.positions)
    predictors = [Stamps(run_folder(output, label) / "model", label) for label in arms]
    predictors.append(Stamps(run_folder(output, AS_IS) / "model", f"{AS_IS}, {NEAR}", WITHIN))
    if options.weights:
        predictors += [Stamps(options.weights, name, within) for name, within in ((OTHER, None), (OTHER_NEAR, WITHIN))]
    if options.trees:
        from fiberifu.validate import FiberTrees, sample_fibers

        recipe = dataclasses.replace(arms[AS_IS], steps=arms[AS_IS].shelf)  # galaxies of later passes are the same
        sample = sample_fibers(recipe, pack, recipe.steps * recipe.batch * 2, output / "fibers.npz")
        predictors.append(FiberTrees(sample, name="trees on the same fibres"))
    measures = [functools.partial(measure, of=of) for of in (AS_IS, OTHER)]
    found = judge(held_out, predictors, output / "scores", draws=options.draws, progress=True, overwrite=True,
                  meta={"command": "benchmarks/locality.py"}, measures=measures)  # fmt: skip
    return found


def measure(predictions, truths, *, of, seed, draws):
    """Rows of `SHOWN`, as `fiberifu.validate` has them, and of their differences to the method ``of``."""
    if of not in predictions:
        return []
    group = {name: maps for name, maps in predictions.items() if (name in (OTHER, OTHER_NEAR)) == (of == OTHER)}
    spaxels, table = pool_truths(truths), ScoreTable(Bootstrap(len(truths), draws, seed).weights)
    for name, maps in group.items():
        answer = complete(spaxels, pool_predictions(maps, truths))
        for (quantity, score), region in itertools.product(SHOWN, ("off-centre", "whole")):
            i, place = spaxels.column(quantity), spaxels.region(region)
            where = place if score == COVERED else place & spaxels.selected(quantity)
            where = np.flatnonzero(where & (spaxels.light > 0) & np.isfinite(spaxels.ew[:, i]))
            galaxy = spaxels.galaxy[where]
            if score == COVERED:
                if quantity not in answer.quantiles:
                    continue
                low, high = (answer.quantiles[quantity][where, LEVELS.index(level)] for level in (0.16, 0.84))
                inside = (low <= spaxels.flux[where, i]) & (spaxels.flux[where, i] <= high)
                found = scores.bias(np.zeros(len(where)), inside.astype(float), galaxy, table.weights)
            else:
                field, floor = ("flux", "ew")[score != BEYOND], spaxels.floor(quantity)[score == BEYOND]
                truth, predicted = (getattr(x, field)[:, i] for x in (spaxels, answer))
                logs = np.log10(truth[where]), np.log10(np.maximum(predicted, floor)[where])
                if score == BEYOND:
                    light = np.log10(spaxels.light[where])
                    found = scores.correlation_after(*logs, light, galaxy, table.weights)
                else:
                    found = (scores.r2 if score.startswith("R2") else scores.mae)(*logs, galaxy, table.weights)
            table.add(name, quantity, region, "all", {score: found}, len(np.unique(galaxy)), len(where))
    table.compare(of)
    return table.rows


def markdown(rows, region):
    """Scores of a region, in brackets less those of the reference with 16 to 84 % of the bootstrap."""
    at = {(r["predictor"], r["quantity"], r["score"]): r for r in rows if r["region"] == region}
    lines = ["| | " + " | ".join(": ".join(column) for column in SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name in dict.fromkeys(row["predictor"] for row in rows):
        cells = []
        for quantity, score in SHOWN:
            row = at.get((name, quantity, score))
            gap = next(
                (r for (*who, s), r in at.items() if who == [name, quantity] and s.startswith(f"{score}, minus")), None
            )
            text = "" if row is None or row["value"] is None else f"{row['value']:.3f}"
            if gap is not None and gap["low"] is not None:
                text += f" ({gap['value']:+.3f}, {gap['low']:+.3f} to {gap['high']:+.3f})"
            elif text and row["low"] is not None:
                text += f" ({row['low']:.3f} to {row['high']:.3f})"
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="template pack")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM",
                        help=f"of {', '.join(map(repr, ARMS))}; by default all")  # fmt: skip
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="galaxies of a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning")
    parser.add_argument("--whole", action="store_true", help="the nano network itself, not one of half its size")
    parser.add_argument("--passes", type=int, default=2, help="how often each galaxy is seen")
    parser.add_argument("--seed", type=int, default=11, help="of galaxies, starting weights, order and masks")
    parser.add_argument("--held-out", type=Path, metavar="FOLDER", help="of held-out galaxies; by default FOLDER/truth")
    parser.add_argument("--judged", type=int, default=500, help="held-out galaxies")
    parser.add_argument("--positions", type=int, default=40, help="in each of them, about")
    parser.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    parser.add_argument("--trees", action="store_true", help="judge trees on the same fibres, too")
    parser.add_argument("--weights", metavar="MODEL", help="judge a trained model, too")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="of training; the same command goes on")
    options = parser.parse_args()
    arms = make_arms(options.arms, options.passes, options.whole, steps=options.steps, batch=options.batch,
                     learning_rate=options.rate, warmup=options.steps // 10, seed=options.seed)  # fmt: skip
    if not train_arms(arms, options.pack, options.output, options.stop_after):
        print("stopped; the same command goes on")
        return
    found = score_arms(arms, options.pack, options.output, options)
    path = options.output / "locality.json"
    path.with_suffix(".part").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".part").replace(path)
    for region in ("off-centre", "whole"):
        print(f"\n{region}\n\n{markdown(found['scores'], region)}")


if __name__ == "__main__":
    main()
