"""Positions per second of the published network: the public code against ours, in one run, on the same numbers.

``python benchmarks/published.py CHECKOUT`` with a checkout of github.com/harrypenguin/MultiModal (and what it imports:
timm, pytorch_lightning, zarr, pandas, wandb); without it, only ours. Random weights of the released shape; one image,
no spectrum, as in a scan of a galaxy. The public code runs as its notebooks do, its loss included, with gradients off.

``python benchmarks/published.py CHECKOUT --compare`` compares their outputs instead, in double and in single precision,
with all parameters random, at several redshifts, places and settings of the masks.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from fiberifu.model import PublishedConfig, PublishedMAE

__all__ = ["main"]

SHAPE = ("embed_dim", "merged_depth", "merged_num_heads", "s_depth", "e_depth", "s_num_heads", "e_num_heads",
         "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "decoder_MLP_coefficient")  # fmt: skip


def public_code(checkout):
    """The network of the public code with random weights, set to predict spectra from images; None if absent."""
    if checkout is None or not (Path(checkout) / "models" / "mae.py").is_file():
        print(f"public code: no models/mae.py in {checkout}; only ours is timed")
        return None
    sys.path.insert(0, str(checkout))
    from models.mae import MaskedAutoencoderViT

    config = PublishedConfig()
    model = MaskedAutoencoderViT(**{name: getattr(config, name) for name in SHAPE}).eval()
    model.mask_ratio, model.mask_ratio_img = 1, 0
    return model


def timed(work, repeats):
    """Shortest time of a few runs [s], and what the last one returned."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - start)
    return min(times), found


REDSHIFTS = (0.0301, 0.1423, 0.45)
MASKS = ((1, 0, 1), (0.5, 0.5, 1), (0, 0, 1), (0.75, 0.25, 8), (1, 0.9, 1), (0, 1 / 14, 4))  # shares hidden, chunk
PLACES = ((0, 0), (12.3, -40.7), (-63, 63), (31.7, 5.2), (-8, 16))


def compare(theirs, own, positions):
    """Print the largest differences of flux, log sigma and image, over all settings, in both precisions.

    All settings of the masks at the first redshift, those of use (no spectrum, the whole image) at the others.
    """
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # biases, norms and tokens too
        for value in theirs.parameters():
            if value.requires_grad:
                value += 0.02 * torch.randn(value.shape, generator=generator)
    own.load_state_dict(theirs.state_dict(), strict=True)
    image, ivar = torch.randn(6, 128, 128, generator=generator), torch.rand(6, 128, 128, generator=generator) * 400 + 1
    flux, weight = 5 + 2 * torch.randn(7781, generator=generator), torch.rand(7781, generator=generator) * 5 + 0.2
    xy = torch.tensor(PLACES[:positions], dtype=torch.float64)
    settings = [(z, *masks) for z in REDSHIFTS for masks in (MASKS if z == REDSHIFTS[0] else MASKS[:1])]
    tables = max(float((value - getattr(type(own)(own.config), key)).abs().max())
                 for key, value in theirs.state_dict().items() if key.endswith("pos_embed"))  # fmt: skip
    print(f"{len(xy)} places, {len(settings)} settings; tables of wavelengths differ by {tables:.1e}", flush=True)
    for dtype in (torch.float64, torch.float32):
        theirs.to(dtype), own.to(dtype)
        inputs = [x.to(dtype) for x in (flux, weight, (weight + 1e-6).rsqrt(), image, ivar, (ivar + 1e-6).rsqrt())]
        worst = {}
        for z, theirs.mask_ratio, theirs.mask_ratio_img, theirs.chunk_size in settings:
            torch.manual_seed(7)  # of what is hidden
            with torch.no_grad():
                many = [x.expand(len(xy), *x.shape) for x in inputs]
                out = theirs(*many, torch.full((len(xy),), z), xy.to(dtype))
                shown = ~out[7]
                found = own(inputs[3], inputs[5], z, xy.to(dtype), flux=inputs[0], flux_error=inputs[2],
                            spectrum_shown=shown[1:-384], image_shown=shown[-384:], want_image=True)  # fmt: skip
            tiles = found.image.unflatten(2, (8, 16)).unflatten(4, (8, 16)).transpose(3, 4)
            for name, a, b in (("flux", out[3], found.flux), ("log sigma", out[4], found.log_sigma),
                               ("image", out[5], tiles.reshape(len(xy), -1))):  # fmt: skip
                apart = float((a - b).abs().max())
                before = worst.get(name, (0, 0))
                worst[name] = max(before[0], apart), max(before[1], apart / float(a.std()))
        for name, (apart, share) in worst.items():
            print(f"{dtype}: {name} differs by {apart:.1e}, {share:.1e} of its standard deviation", flush=True)


def main():
    """Time both and compare what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", help="of the public code")
    parser.add_argument("--positions", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="compare outputs; no timing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, own, theirs = options.positions, PublishedMAE().eval(), public_code(options.checkout)
    if options.compare:
        if theirs is None:
            parser.error("--compare needs CHECKOUT")
        return compare(theirs, own, options.positions)
    if theirs is not None:
        own.load_state_dict(theirs.state_dict())
        theirs.to(device)
    own.to(device)
    image, ivar = torch.randn(6, 128, 128, device=device), torch.rand(6, 128, 128, device=device) + 0.5
    error, xy = ivar.rsqrt(), (torch.rand(n, 2, device=device) - 0.5) * 120
    flux = torch.zeros(n, 7781, device=device)

    def public(places):
        size = len(places)
        many = [x.expand(size, -1, -1, -1) for x in (image, ivar, error)]
        return theirs(*[flux[:size]] * 3, *many, torch.full((size,), 0.03, device=device), places)[3:5]

    def ours(places, shown=None):
        out = own(image, error, 0.03, places, image_shown=shown)
        return out.flux, out.log_sigma

    def singly(work):
        return [torch.cat(x) for x in zip(*[work(place) for place in xy.split(1)], strict=True)]

    def half(places):  # as a caller of the library asks for it
        with torch.autocast(device.type, torch.bfloat16):
            return [x.float() for x in ours(places)]

    few = torch.arange(384, device=device) < 256
    cases = {"ours, together": lambda: ours(xy), "ours, one by one": lambda: singly(ours),
             "ours, together, without W1 and W2": lambda: ours(xy, few),
             "ours, together, bfloat16": lambda: half(xy)}  # fmt: skip
    if theirs is not None:
        cases = {"public code, one by one": lambda: singly(public), "public code, together": lambda: public(xy)} | cases
    reference = None
    with torch.inference_mode():
        for name, work in cases.items():
            seconds, found = timed(work, options.repeats)
            reference = found if reference is None else reference
            apart = [float((a - b).abs().max() / b.std()) for a, b in zip(found, reference, strict=True)]
            same = "" if "without" in name else f"; differs by {max(apart):.1e} of the outputs' standard deviation"
            print(f"{name:<34} {n / seconds:7.3f} positions/s{same}", flush=True)
    print(f"{device}, {options.threads} thread(s), torch {torch.__version__}, {n} positions, best of {options.repeats}")


if __name__ == "__main__":
    main()
