"""The training loop, from top to bottom."""

import contextlib
import logging
import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from ..model import FiberMAE
from ..model.encoder import Block
from .basis import fill_basis
from .batches import _batch_seed, augment, drop_bands, recipe_batches, simulated_step
from .locality import enlarge, start_context, weigh
from .metrics import metrics
from .picture import Picture
from .ranks import Ranks
from .shards import check_store

__all__ = ["train"]

logger = logging.getLogger(__name__)

MOST_BAD = 10  # steps in a row
PARTS = ("total", "misfit", "fit", "spread", "image", "redshift")  # of the loss


def train(
    recipe, pack_path, folder, *, start=None, stop_after=None, device="cpu", resume=True, tensorboard=False,
    progress=False, cache=None,
):  # fmt: skip
    """Train a model on simulated galaxies or on records of files; a run killed at any moment resumes and gives the same
    weights.

    In the process group of `~fiberifu.train.join`, every rank computes its share of the pieces of each batch, and all
    return the same weights; they are those of a single process, but for the order of sums.

    Parameters
    ----------
    recipe : Recipe
    pack_path : path-like
        Template pack (npz) of `fiberifu.simulate.build_template_pack`.
    folder : path-like
        Holds ``state.pt`` (everything needed to resume, on any number of ranks) and ``log.csv``.
    start : FiberMAE, optional
        Weights to start a new run from, instead of random ones; its configuration must be the recipe's.
    stop_after : float, optional
        Seconds after which to checkpoint and return; one step is always done.
    device : str
    resume : bool
        Go on from ``state.pt`` if there is one.
    tensorboard : bool
        Write events to ``folder/tensorboard`` too.
    progress : bool
        Show a bar on a terminal.
    cache : path-like, optional
        Folder of simulated batches that several runs share, see `simulated_batches`.

    Returns
    -------
    model : FiberMAE
        With the averaged (EMA) weights.
    step : int
        Steps done.

    Raises
    ------
    ValueError
        When the folder holds the state of another recipe or of other records, ``start`` is another architecture, or
        there are more ranks than pieces.
    FloatingPointError
        When ten steps in a row gave a loss or gradient that is not finite.
    ImportError
        When ``tensorboard`` is not installed.
    """
    from ..simulate import load_template_pack

    ranks = Ranks.current()
    _check_geometry(recipe)
    records = check_store(recipe.shards, recipe.model) if recipe.shards is not None else None
    if ranks.size > recipe.pieces:
        raise ValueError(f"recipe: pieces={recipe.pieces} are too few for {ranks.size} ranks; each needs one at least")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = FiberMAE(recipe.model)
    explained = fill_basis(model, load_template_pack(pack_path), recipe.seed, recipe.mixtures)
    if start is not None:
        if start.config != recipe.model:
            raise ValueError("start: weights of another architecture than the recipe's")
        model.load_state_dict(start.state_dict())
    if start is None or recipe.locality.context == 0:
        start_context(model, recipe.locality.context)
    model.to(device)
    for block in (m for m in model.modules() if isinstance(m, Block)):
        block.bfloat16 = recipe.bfloat16 and device != "cpu"
        if recipe.compile:
            block.compile(dynamic=True)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = _optimizer(model, recipe, device)
    step = skipped = 0
    state_path = folder / "state.pt"
    if resume and state_path.is_file():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["recipe"] != recipe.sha256():
            raise ValueError(f"{folder}: holds a run of another recipe; give a new folder or the same recipe")
        if state.get("records") != records:
            raise ValueError(f"{folder}: holds a run on other records than {recipe.shards.path}; give a new folder")
        model.load_state_dict(state["model"])
        average, step, skipped = state["average"], state["step"], state.get("skipped", 0)
        optimizer.load_state_dict(state["optimizer"])
        logger.info("resumed at step %d", step)
    logger.info("%.3g trained parameters; basis explains %.5f of the variance; %d ranks of %s",
                sum(p.numel() for p in model.parameters()), explained, ranks.size, device)  # fmt: skip

    def save():
        if ranks.first:
            state = {"recipe": recipe.sha256(), "step": step, "skipped": skipped, "model": model.state_dict(),
                     "average": average, "optimizer": optimizer.state_dict()}  # fmt: skip
            state |= {"records": records} if records else {}
            part = state_path.with_suffix(".part")
            torch.save(state, part)
            os.replace(part, state_path)

    began = saved = time.monotonic()
    bad = 0
    loss = ranks.parallel(_Loss(model, recipe))
    mine = ranks.pieces(recipe.pieces)
    pictures = Picture(recipe, pack_path, folder / "pictures")
    batches = recipe_batches(recipe, pack_path, step, mine, cache)
    with (
        _stop_signal() as stopping,
        contextlib.closing(batches),
        _log(folder, step, tensorboard, ranks) as log,
        _bar(recipe.steps, step, progress and ranks.first) as advance,
    ):
        while step < recipe.steps:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, recipe)
            optimizer.zero_grad(set_to_none=True)
            # losses and whether to stop, summed over pieces and ranks
            summary = torch.zeros(len(PARTS) + 1, device=device)
            for piece in mine:
                number, batch = next(batches)
                generator = torch.Generator().manual_seed(recipe.seed * 10_000_000 * recipe.pieces + number)
                batch = _to(device, _vary(batch, recipe, generator))
                with ranks.alone(loss) if piece != mine[-1] else contextlib.nullcontext():
                    total, parts = loss(batch, generator)
                    (total * (ranks.size / recipe.pieces)).backward()  # gradients are averaged over ranks
                summary[:-1] += parts / recipe.pieces
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            summary[-1] = stopping() or (stop_after is not None and time.monotonic() - began > stop_after)
            *values, stop = ranks.total(summary).tolist()
            values = dict(zip(PARTS, values, strict=True), gradient=norm.item())
            if all(math.isfinite(v) for v in values.values()):
                optimizer.step()
                bad = 0
            else:  # skip the step; a run that cannot recover stops rather than writing such weights
                bad, skipped = bad + 1, skipped + 1
                logger.warning("step %d: %s; skipped", step, values)
                if bad == MOST_BAD:
                    raise FloatingPointError(
                        f"step {step}: ten steps in a row were not finite, the last with {values}, by a recipe of seed "
                        f"{recipe.seed}; lower learning_rate or clip, or look at {_where(recipe, step)}"
                    )
            _update(average, model, min(recipe.ema, (step + 1) / (step + 10)))
            if step % 10 == 0:
                log(step, {k: f"{v:.5f}" for k, v in values.items()}
                    | {"seconds": f"{time.monotonic() - began:.1f}", "skipped": skipped})  # fmt: skip
            step += 1
            advance(values["total"])
            if ranks.first and recipe.picture_steps and step % recipe.picture_steps == 0:
                pictures.draw(model, average, step)
            if time.monotonic() - saved > recipe.checkpoint_seconds:
                save()
                saved = time.monotonic()
            if stop:
                break
    save()
    ranks.wait()  # for the file
    model.load_state_dict(average)
    for block in (m for m in model.modules() if isinstance(m, Block)):
        block.bfloat16 = False
    return model.eval(), step


def _where(recipe, step):
    """The call that makes the galaxies of a step again."""
    if recipe.shards is not None:
        return f"ShardLoader({recipe.shards.path!r}, {recipe.batch}, {recipe.seed}).read({step})"
    simulated = simulated_step(step, recipe.seed, recipe.passes, recipe.shelf)
    return f"Simulator.batch({recipe.batch}, {_batch_seed(recipe.seed, simulated)})"


def _vary(batch, recipe, generator):
    """What a batch is at this visit: size, bands and orientation of its images, and how much its fibres count."""
    locality = recipe.locality
    if locality.zoom > 1:
        batch = enlarge(batch, locality.zoom, recipe.model.aperture, recipe.model.pixel_scale, generator)
    if locality.off_centre_weight != 1:
        batch = weigh(batch, locality.off_centre_weight)
    return augment(drop_bands(batch, recipe.band_dropout, generator), generator)


class _Loss(nn.Module):
    """The loss of a piece of a batch, as a module that can run on many ranks: ``total`` and the values of its parts."""

    def __init__(self, model, recipe):
        super().__init__()
        self.model = model
        self.settings = recipe.image_weight, recipe.redshift_weight, recipe.locality.hide, recipe.encoder_parts

    def forward(self, batch, generator):
        losses = self.model(batch, generator, *self.settings)
        return losses.total, torch.stack([getattr(losses, name).detach().float() for name in PARTS])


def _optimizer(model, recipe, device):
    """AdamW, fused on a GPU; vectors and scalars (norms, biases, scales) do not decay."""
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=device != "cpu")


@torch.no_grad()
def _update(average, model, ema):
    """Move the averaged weights a step of 1 - ``ema`` to the present ones; buffers do not change."""
    for name, value in model.named_parameters():
        average[name].lerp_(value, 1 - ema)


def _to(device, batch):
    if device == "cpu":
        return batch
    return {k: v.pin_memory().to(device, non_blocking=True) for k, v in batch.items()}


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


def _log(folder, step, tensorboard, ranks):
    """`metrics` of the first rank; the others write none."""
    if not ranks.first:
        return contextlib.nullcontext(lambda step, values: None)
    names = (*PARTS[1:], "gradient", "seconds", "skipped")
    return metrics(folder / "log.csv", step, names, folder / "tensorboard" if tensorboard else None)


@contextlib.contextmanager
def _bar(steps, step, progress):
    """A function that moves a bar on a terminal by one step; tqdm is not needed for training."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda loss: None
        return
    with tqdm(total=steps, initial=step, unit="step", disable=None if progress else True, leave=False) as bar:

        def advance(loss):
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        yield advance
