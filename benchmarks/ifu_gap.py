# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What single fibres cost: the same network, trained on whole fields and on single fibres of the very same galaxies.

    python benchmarks/ifu_gap.py PACK.npz -o FOLDER --galaxies 1000 10000 --off-centre 0 0.15 1 --steps 4400
    python benchmarks/ifu_gap.py PACK.npz --speed

``fiberifu validate headline`` asks how many cubes fibres are worth; this asks what a spectrum per galaxy lacks, galaxy
for galaxy, also from weights that are given (``--weights``). Both train by `fiberifu.validate.headline.run`.

For every number of galaxies there is one arm on cubes (``train/recipes/nano_ifu.toml``, the paper's supervised
baseline) and one on single fibres (``nano_fibers.toml``) for each share of fibres that are not on the centre. All arms
start from the same weights and take the same number of steps, batches and learning rates: what differs is ``[survey]``
alone. Then one judge scores them on the same held-out galaxies, and the gap of each fibre arm is its score less that of
the cubes of as many galaxies, with the interval (16-84 %) of that difference over the same bootstrap draws.

``FOLDER/runs/ARM`` are training runs, ``FOLDER/ifu_gap.json`` and ``ifu_gap.ecsv`` the tidy rows, with what the arm
was trained on; the same command resumes, with ``--stop-after`` in portions. ``--speed`` tells what a spectrum costs by
positions per galaxy: CPU seconds of one thread, simulation and network apart.
"""

import argparse
import dataclasses
import itertools
import json
import os
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch  # noqa: E402

from fiberifu.model import FiberMAE, load_checkpoint  # noqa: E402
from fiberifu.simulate import SimConfig, Simulator, load_template_pack  # noqa: E402
from fiberifu.train import FiniteSurvey, augment, drop_bands, fill_basis  # noqa: E402
from fiberifu.validate.headline.plan import Arm, packaged_recipe  # noqa: E402
from fiberifu.validate.headline.run import arm_folder, train_arms  # noqa: E402

POSITIONS = (1, 2, 4, 8, 12)
SHOWN = (  # quantity, region, score: the printed table
    ("Ha", "whole", "R2 log EW"),
    ("Ha", "off-centre", "R2 log EW"),
    ("Ha", "off-centre", "R2 log EW within galaxies"),
    ("Ha", "off-centre", "r after r-band"),
    ("Ha", "off-centre", "MAE log EW [dex]"),
    ("N2", "off-centre", "R2 log EW"),
)


def recipes():
    """The packaged recipes of both kinds of arms: (cubes, fibres)."""
    return tuple(packaged_recipe(f"nano_{name}") for name in ("ifu", "fibers"))


def make_arms(galaxies, off_centre, **changes):
    """Arms by their names, those on cubes first; ``changes`` of the recipes are the same for all."""
    cubes, fibers = recipes()
    out = []
    for n in galaxies:
        out.append(_arm("cubes", f"cubes of {n}", cubes, changes, galaxies=n))
        for share in off_centre:
            name = f"fibres of {n}, {100 * share:g} % off centre"
            out.append(_arm("fibres", name, fibers, changes, galaxies=n, off_centre=share))
    return {arm.name: arm for arm in out}


def _arm(kind, name, recipe, changes, **survey):
    recipe = dataclasses.replace(recipe, survey=dataclasses.replace(recipe.survey, **survey), **changes)
    return Arm(name, kind, recipe.survey.galaxies, "", recipe)


def reference_of(label):
    """The arm on cubes of as many galaxies."""
    return "cubes of " + label.split(" of ")[1].split(",")[0]


# --- scores


def measure_gaps(predictions, truths, *, seed, draws):
    """Scores of all arms; those of single fibres also less those of the cubes of as many galaxies."""
    from fiberifu.validate.metrics import measure_scores

    rows = []
    for reference in dict.fromkeys(map(reference_of, predictions)):
        group = {label: maps for label, maps in predictions.items() if reference_of(label) == reference}
        rows += measure_scores(group, truths, seed=seed, draws=draws, reference=reference)
    return [row for row in rows if row["predictor"] in predictions]


def score_arms(arms, pack_path, output, held_out, galaxies, draws, workers):
    """Judge the trained arms on the same held-out galaxies; tidy rows with what each arm was trained on."""
    from fiberifu import VirtualIFU
    from fiberifu.validate import HeldOutSet, NetworkPredictor, judge

    held_out = HeldOutSet(held_out, Simulator(load_template_pack(pack_path)), galaxies)
    held_out.build(workers=workers, progress=True)
    predictors = []
    for label in arms:
        ifu = VirtualIFU.from_pretrained(arm_folder(output, arms[label]) / "model")
        predictors.append(NetworkPredictor(ifu, name=label))
    found = judge(held_out, predictors, output, draws=draws, progress=True, overwrite=True,
                  meta={"command": "benchmarks/ifu_gap.py"}, measures=[measure_gaps])  # fmt: skip
    rows = []
    for row in found["scores"]:
        recipe = arms[row["predictor"]].recipe
        keys = ("instrument", "off_centre", "fibers", "positions")
        survey = {key: getattr(recipe.survey, key) for key in keys}
        rows.append(row | survey | {"training_galaxies": recipe.survey.galaxies, "steps": recipe.steps})
    return {"meta": found["meta"], "scores": rows}


def write_table(output, found):
    """Everything as JSON, the rows as ECSV."""
    from astropy.table import Table

    path = output / "ifu_gap.json"
    path.with_suffix(".part").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".part").replace(path)
    rows = [{k: float("nan") if v is None else v for k, v in row.items()} for row in found["scores"]]
    Table(rows).write(output / "ifu_gap.ecsv", format="ascii.ecsv", overwrite=True)


def markdown(arms, rows):
    """The main scores and, in brackets, how far each arm of fibres is from its cubes."""
    values = {(r["predictor"], r["quantity"], r["region"], r["score"]): r for r in rows if r["stratum"] == "all"}
    titles = [f"{score}, {quantity}, {region}" for quantity, region, score in SHOWN]
    lines = ["| trained on | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for label in arms:
        cells = []
        for *where, score in SHOWN:
            row, gap = (values.get((label, *where, s)) for s in (score, f"{score}, minus {reference_of(label)}"))
            text = f"{row['value']:.3f}" if row and row["value"] is not None else ""
            if gap and gap["value"] is not None:
                error = "" if gap["low"] is None else f", {gap['low']:+.3f} to {gap['high']:+.3f}"
                text += f" ({gap['value']:+.3f}{error})"
            cells.append(text)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- speed


def speed(pack_path, positions, galaxies, repeat):
    """CPU time per galaxy of simulation and of one training step, by positions per galaxy: rows as they come."""
    torch.set_num_threads(1)
    pack = load_template_pack(pack_path)
    cubes, fibers = recipes()
    simulator = Simulator(pack, config=SimConfig(**cubes.simulator))
    model = FiberMAE(cubes.model)
    fill_basis(model, pack, n_mixtures=200)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for recipe, n in itertools.product((cubes, fibers), positions):
        settings = dataclasses.replace(recipe.survey, galaxies=galaxies * (repeat + 1), fibers=388, positions=n)
        survey = FiniteSurvey(simulator, settings, 10_000_000)
        simulated = network = 0.0
        for step in range(repeat + 1):  # the first is not counted
            began = time.process_time()
            batch = survey.batch(step, galaxies)
            made = time.process_time()
            generator = torch.Generator().manual_seed(step)
            batch = augment(drop_bands({k: v for k, v in batch.items() if k != "truth"}, 0.08, generator), generator)
            model(batch, generator).total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step:
                simulated += made - began
                network += time.process_time() - made
        spectra = n * galaxies * repeat
        yield {
            "instrument": settings.instrument,
            "positions": n,
            "simulation [ms / galaxy]": 1000 * simulated / (galaxies * repeat),
            "network [ms / galaxy]": 1000 * network / (galaxies * repeat),
            "simulated [spectra / s]": spectra / simulated,
            "trained on [spectra / s]": spectra / network,
            "both [spectra / s]": spectra / (simulated + network),
        }


def main():
    recipe = recipes()[0]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, help="template pack")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="of runs and scores")
    parser.add_argument("--galaxies", type=int, nargs="+", default=[10_000], help="of the training sets")
    parser.add_argument("--off-centre", type=float, nargs="+", default=[0.0, 0.15, 1.0], help="shares of the fibres")
    parser.add_argument("--weights", metavar="MODEL", help="model folder to start all arms from; by default random")
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--batch", type=int, default=recipe.batch, help="galaxies of a step")
    parser.add_argument("--rate", type=float, default=recipe.learning_rate, help="of learning")
    parser.add_argument("--seed", type=int, default=recipe.seed, help="of galaxies, starting weights and order")
    parser.add_argument("--workers", type=int, default=1, help="simulating processes")
    parser.add_argument("--held-out", type=Path, metavar="FOLDER", help="of held-out galaxies; by default FOLDER/truth")
    parser.add_argument("--judged", type=int, default=500, help="held-out galaxies")
    parser.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="of training; the same command goes on")
    parser.add_argument("--speed", action="store_true", help="only tell what a spectrum costs")
    options = parser.parse_args()
    if options.speed:
        for row in speed(options.pack, POSITIONS, galaxies=16, repeat=3):
            print("  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        return
    if options.output is None:
        parser.error("-o FOLDER is needed")
    arms = make_arms(options.galaxies, options.off_centre, steps=options.steps, batch=options.batch,
                     learning_rate=options.rate, seed=options.seed, workers=options.workers)  # fmt: skip
    start = None if options.weights is None else load_checkpoint(options.weights)[0]
    if not train_arms(list(arms.values()), options.pack, options.output, start=start, stop_after=options.stop_after):
        print("stopped; the same command goes on")
        return
    held_out = options.held_out or options.output / "truth"
    found = score_arms(arms, options.pack, options.output, held_out, options.judged, options.draws, options.workers)
    write_table(options.output, found)
    print(markdown(arms, found["scores"]))


if __name__ == "__main__":
    main()
