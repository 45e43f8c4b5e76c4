"""The training loop, from top to bottom."""

import contextlib
import csv
import logging
import math
import os
import signal
import time
from pathlib import Path

import torch

from ..model import FiberMAE
from .basis import fill_basis
from .batches import augment, drop_bands, simulated_batches

__all__ = ["train"]

logger = logging.getLogger(__name__)


def train(recipe, pack_path, folder, *, start=None, stop_after=None, device="cpu", resume=True):
    """Train a model on simulated galaxies; a run killed at any moment resumes and gives the same weights.

    Parameters
    ----------
    recipe : Recipe
    pack_path : path-like
        Template pack (npz) of `fiberifu.simulate.build_template_pack`.
    folder : path-like
        Holds ``state.pt`` (everything needed to resume) and ``log.csv``.
    start : FiberMAE, optional
        Weights to start a new run from, instead of random ones; its configuration must be the recipe's.
    stop_after : float, optional
        Seconds after which to checkpoint and return; one step is always done.
    device : str
    resume : bool
        Go on from ``state.pt`` if there is one.

    Returns
    -------
    model : FiberMAE
        With the averaged (EMA) weights.
    step : int
        Steps done.

    Raises
    ------
    ValueError
        When the folder holds the state of another recipe, or ``start`` is another architecture.
    FloatingPointError
        When ten steps in a row gave a loss or gradient that is not finite.
    """
    from ..simulate import load_template_pack

    _check_geometry(recipe)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = FiberMAE(recipe.model)
    explained = fill_basis(model, load_template_pack(pack_path), recipe.seed, recipe.mixtures)
    if start is not None:
        if start.config != recipe.model:
            raise ValueError("start: weights of another architecture than the recipe's")
        model.load_state_dict(start.state_dict())
    model.to(device)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.learning_rate, betas=(0.9, 0.98), fused=device != "cpu",
    )  # fmt: skip
    step = 0
    state_path = folder / "state.pt"
    if resume and state_path.is_file():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["recipe"] != recipe.sha256():
            raise ValueError(f"{folder}: holds a run of another recipe; give a new folder or the same recipe")
        model.load_state_dict(state["model"])
        average, step = state["average"], state["step"]
        optimizer.load_state_dict(state["optimizer"])
        logger.info("resumed at step %d", step)
    logger.info("%.3g trained parameters; basis explains %.5f of the variance",
                sum(p.numel() for p in model.parameters()), explained)  # fmt: skip

    def save():
        state = {"recipe": recipe.sha256(), "step": step, "model": model.state_dict(),
                 "average": average, "optimizer": optimizer.state_dict()}  # fmt: skip
        part = state_path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, state_path)

    began = saved = time.monotonic()
    bad = 0
    batches = simulated_batches(
        pack_path, recipe.simulator, recipe.batch, recipe.seed, step, recipe.workers, recipe.survey
    )
    with _stop_signal() as stopping, contextlib.closing(batches), _log(folder / "log.csv", step) as log:
        for step_now, batch in batches:
            if step_now >= recipe.steps:
                break
            generator = torch.Generator().manual_seed(recipe.seed * 10_000_000 + step_now)
            batch = augment(drop_bands(batch, recipe.band_dropout, generator), generator)
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step_now, recipe)
            losses = model(batch, generator, recipe.image_weight, recipe.redshift_weight)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            if torch.isfinite(norm) and torch.isfinite(losses.total):
                optimizer.step()
                bad = 0
            else:  # skip the step; a run that cannot recover stops rather than writing such weights
                bad += 1
                logger.warning(
                    "step %d: loss %s, gradient norm %s; skipped", step_now, losses.total.item(), norm.item()
                )
                if bad == 10:
                    raise FloatingPointError(f"step {step_now}: ten steps in a row were not finite")
            ema = min(recipe.ema, (step_now + 1) / (step_now + 10))
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    average[name].lerp_(value, 1 - ema) if value.is_floating_point() else average[name].copy_(value)
            step = step_now + 1
            if step_now % 10 == 0:
                parts = losses.misfit, losses.fit, losses.spread, losses.image, losses.redshift, norm
                log((step_now, *(f"{x.item():.5f}" for x in parts), f"{time.monotonic() - began:.1f}"))
            if time.monotonic() - saved > recipe.checkpoint_seconds:
                save()
                saved = time.monotonic()
            if stopping() or (stop_after is not None and time.monotonic() - began > stop_after):
                break
    save()
    model.load_state_dict(average)
    return model.eval(), step


def _check_geometry(recipe):
    """The simulator must make what the model reads."""
    from ..simulate import SimConfig

    simulated = SimConfig(**recipe.simulator)
    wanted = {name: getattr(recipe.model, name) for name in ("stamp", "pixel_scale", "aperture")}
    made = {name: getattr(simulated, name) for name in wanted}
    if made != wanted or recipe.model.bands != ("g", "r", "i", "z"):
        raise ValueError(
            f"recipe: the model reads {wanted}, bands {recipe.model.bands}; the simulator makes {made}, griz"
        )


def _schedule(step, recipe):
    """Linear warm-up, then a cosine to ``final_rate``."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    part = min((step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1), 1.0)
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * part))


@contextlib.contextmanager
def _stop_signal():
    """A function that tells whether SIGTERM or SIGUSR1 came: the scheduler wants the machine back."""
    seen, before = [], {}
    for name in (signal.SIGTERM, signal.SIGUSR1):
        with contextlib.suppress(ValueError):  # not the main thread
            before[name] = signal.signal(name, lambda number, frame: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _log(path, step):
    """Append rows to a CSV file, after dropping those of steps that will be done again."""
    header = ("step", "misfit", "fit", "spread", "image", "redshift", "gradient", "seconds")
    rows = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) < step]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header, *rows])

        def log(row):
            writer.writerow(row)
            file.flush()

        yield log
