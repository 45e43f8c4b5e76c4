"""Spectra per second of training, where the time goes, and how much of the hardware's peak that is; and the cost of a
recipe at this rate.

    python benchmarks/training.py [PACK.npz] [--recipe tiny.toml] [--device cuda] [--batch 16] [--steps 6] [--threads 1]

Three networks do full training steps (forward, backward, optimiser) on the same simulated galaxies in one run: that of
the recipe, ours at the size of the published one, and a network of the published layout with random weights
(``published_layout.py``). The simulator is timed apart, since other processes run it. Operations are those of matrix
products and attention, counted by PyTorch; the peak is that of a large matrix product, measured in the same run: in
float32 on a processor, in bfloat16 on a GPU. Seconds are those of the clock on a GPU, and of processor time on a CPU:
what else runs there does not count.

Without a pack the analytic templates serve, whose spectra cost the same.
"""

import argparse
import contextlib
import functools
import time
from importlib import resources
from pathlib import Path

import torch
from published_layout import PublishedLayout
from torch.utils.flop_counter import FlopCounterMode

from fiberifu.model import FiberMAE, ModelConfig, mae
from fiberifu.model.encoder import Block
from fiberifu.model.masking import show_spectrum
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack, load_template_pack
from fiberifu.train import Recipe, fill_basis

# 53.6 million parameters, as the published network
EQUAL = ModelConfig(name="equal", width=640, depth=7, heads=10, query_blocks=2, local_width=768)
PUBLISHED_RATE = 80  # spectra per second and A100, as published


class Clock:
    """Seconds of the named parts of steps."""

    def __init__(self, device):
        self.device, self.parts = device, {}

    def now(self):
        if self.device == "cpu":
            return time.process_time() / torch.get_num_threads()
        torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def part(self, name):
        begin = self.now()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + self.now() - begin

    def watch(self, model, *names):
        """Time methods of a model."""
        for name in names:
            setattr(model, name, self.timed(name, getattr(model, name)))

    def timed(self, name, method):
        def call(*args, **kwargs):
            with self.part(name):
                return method(*args, **kwargs)

        return call


def peak(clock, dtype):
    """Operations per second of a large matrix product."""
    n = 2048 if clock.device == "cpu" else 8192
    a = torch.randn(n, n, device=clock.device).to(dtype)
    turns = 3 if clock.device == "cpu" else 50
    a @ a
    begin = clock.now()
    for _ in range(turns):
        a @ a
    return 2 * n**3 * turns / (clock.now() - begin)


def train_steps(model, loss, clock, steps):
    """Seconds and operations of a step of ``loss(step)``, means of ``steps`` after one that is not timed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=clock.device != "cpu")

    def one(step):
        optimizer.zero_grad(set_to_none=True)
        with clock.part("forward"):
            value = loss(step)
        with clock.part("backward"):
            value.backward()
        with clock.part("optimiser"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    operations = []
    for step in range(steps):  # the kinds of steps (what is hidden) differ
        with FlopCounterMode(display=False) as counter:
            one(step)
        operations.append(counter.get_total_flops())
    clock.parts.clear()
    begin = clock.now()
    for step in range(steps):
        one(step)
    return (clock.now() - begin) / steps, sum(operations) / steps


def ours(config, batch, pack, clock, steps, compiled):
    """Seconds and operations of a step, parameters, and seconds of its parts."""
    torch.manual_seed(0)
    model = FiberMAE(config)
    fill_basis(model, pack, n_mixtures=500)
    model.to(clock.device)
    for block in (m for m in model.modules() if isinstance(m, Block)):
        block.bfloat16 = clock.device != "cpu"
        if compiled:
            block.compile(dynamic=True)
    clock.watch(model, "encode", "query", "spectrum_nll", "image_nll")

    def loss(step):
        # every other step hides the spectrum: the share of training, without its luck
        mae.show_spectrum = functools.partial(show_spectrum, hidden_share=float(step % 2))
        return model(batch, torch.Generator().manual_seed(step)).total

    seconds, operations = train_steps(model, loss, clock, steps)
    return seconds, operations, sum(p.numel() for p in model.parameters()), dict(clock.parts)


def published(batch, clock, steps, half):
    """As `ours`, of the published layout on the first spectrum of every galaxy."""
    torch.manual_seed(0)
    model = PublishedLayout().to(clock.device)
    n = len(batch["image"])
    image = torch.cat([batch["image"], batch["image"][:, :2]], 1)
    image_ivar = torch.cat([batch["sigma"], batch["sigma"][:, :2]], 1) ** -2
    offset = batch["fiber_offset"][:n] / (0.262 * 16)

    def loss(step):
        # about 30 % of the steps hide the whole spectrum; of the others half is taken to be hidden, as of the image
        hidden = (1.0 if step % 3 == 2 else 0.5, 0.5)
        with torch.autocast(clock.device.split(":")[0], torch.bfloat16, enabled=half):
            return model(image, image_ivar, batch["flux"][:n], batch["ivar"][:n], offset, hidden)

    seconds, operations = train_steps(model, loss, clock, steps)
    return seconds, operations, sum(p.numel() for p in model.parameters()), dict(clock.parts)


def read_recipe(name):
    if Path(name).is_file():
        return Recipe.read(name)
    with resources.as_file(resources.files("fiberifu.train") / "recipes" / name) as path:
        return Recipe.read(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", nargs="?", help="template pack")
    parser.add_argument("--recipe", default="nano.toml", help="a file, or one of the package")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16, help="galaxies at a time")
    parser.add_argument("--steps", type=int, default=6, help="timed; of six, all kinds of masks have their shares")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="our attention blocks")
    parser.add_argument("--only", choices=("recipe", "equal", "published"), action="append", help="of the networks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pack = load_template_pack(arguments.pack) if arguments.pack else analytic_template_pack()
    recipe, device, n = read_recipe(arguments.recipe), arguments.device, arguments.batch
    clock, gpu = Clock(device), device != "cpu"
    simulator = Simulator(pack, config=SimConfig(**recipe.simulator))
    simulator.batch(2, 0)
    begin = time.process_time()
    batch = simulator.batch(n, 1)
    simulated = n * arguments.threads / (time.process_time() - begin)
    batch = {k: v.to(device) for k, v in batch.items() if k != "truth"}
    spectra = len(batch["flux"])
    top = peak(clock, torch.bfloat16 if gpu else torch.float32)
    name = torch.cuda.get_device_name() if gpu else f"CPU, {arguments.threads} threads"
    print(f"{name}; PyTorch {torch.__version__}; peak of a matrix product {top / 1e12:.3g} Tflop/s", flush=True)
    print(f"simulator: {simulated:.1f} galaxies / s and core", flush=True)
    networks = {
        "recipe": lambda: ours(recipe.model, batch, pack, clock, arguments.steps, arguments.compile),
        "equal": lambda: ours(EQUAL, batch, pack, clock, arguments.steps, arguments.compile),
        "published": lambda: published(batch, clock, arguments.steps, False),
    }
    titles = {"recipe": recipe.model.name, "equal": "ours at equal size", "published": "published layout, float32"}
    if gpu:
        networks["half"] = lambda: published(batch, clock, arguments.steps, True)
        titles["half"] = "published layout, bfloat16"
    rates = {}
    for key, measure in networks.items():
        if arguments.only and {"half": "published"}.get(key, key) not in arguments.only:
            continue
        seconds, operations, parameters, parts = measure()
        made = spectra if key in ("recipe", "equal") else n
        rates[key] = made / seconds
        share = 100 * operations / seconds / top
        print(f"{titles[key]}: {parameters / 1e6:.2f} M parameters, {rates[key]:.3g} spectra / s")
        print(f"   {operations / made / 1e9:.3g} Gflop / spectrum, {share:.1f} % of the peak")
        print("   " + ", ".join(f"{part} {1e3 * s / arguments.steps:.0f} ms" for part, s in parts.items()), flush=True)
        if gpu:
            print(f"   {torch.cuda.max_memory_allocated() / 2**20:.0f} MB at most")
            torch.cuda.reset_peak_memory_stats()
    if {"equal", "published"} <= set(rates):
        print(f"ours at equal size / published layout, both here: {rates['equal'] / rates['published']:.1f}")
    if "equal" in rates and gpu:
        print(f"ours at equal size / published rate on an A100: {rates['equal'] / PUBLISHED_RATE:.1f}")
    if "recipe" in rates:
        visits = recipe.steps * recipe.batch * spectra / n
        cores = rates["recipe"] / recipe.passes / simulated
        hours = visits / rates["recipe"] / 3600
        print(
            f"recipe {recipe.model.name}: {visits:.3g} spectra are {hours:.3g} hours of this device; {cores:.2g} cores"
        )
        print(f"   beside it keep up with simulating galaxies, each of which is seen {recipe.passes} times")


if __name__ == "__main__":
    main()
