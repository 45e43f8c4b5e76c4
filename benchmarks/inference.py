"""Cubes and line maps of 62 x 62 spaxels x 7781 pixels, against a network that does one pass for each position.

    python benchmarks/inference.py [IMAGE.fits] [--model FOLDER] [--side 62] [--positions 3] [--threads 2]

The peer is a network of the published layout with random weights (``published_layout.py``), all of whose spectrum is
hidden and whose image is seen, one pass for each position, as that network is used; its time for the field is that of a
few positions times their number. The image is prepared before, and so is the peer's. Both run in this process with the
same number of threads; seconds are those of processor time shared among the threads, so that what else runs on the
machine does not count. Where the time goes is printed by part.
"""

import argparse
import contextlib
import resource
import time

import astropy.units as u
import torch
from published_layout import PublishedLayout

from fiberifu import VirtualIFU
from fiberifu.datasets import example_image
from fiberifu.surveys import read_legacysurvey


def seconds(function, repeat=2):
    """Best of a few calls [processor seconds per thread], and the result."""
    best, value = float("inf"), None
    for _ in range(repeat):
        begin = time.process_time()
        value = function()
        best = min(best, (time.process_time() - begin) / torch.get_num_threads())
    return best, value


@contextlib.contextmanager
def parts(found, owner, *names):
    """Add up the time in methods, or functions of a module, for as long as this lasts."""
    kept = {name: getattr(owner, name) for name in names}

    def timed(name):
        def wrapper(*args, **keywords):
            begin = time.process_time()
            try:
                return kept[name](*args, **keywords)
            finally:
                found[name] = found.get(name, 0.0) + (time.process_time() - begin) / torch.get_num_threads()

        return wrapper

    for name in names:
        setattr(owner, name, timed(name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(owner, name, function)


def one_pass(network):
    """One position of the peer."""
    image, flux = torch.rand(1, 6, 128, 128), torch.rand(1, 7781)
    with torch.inference_mode():
        return network(image, torch.ones_like(image), flux, torch.ones_like(flux), torch.zeros(1, 2), (1.0, 0.0))


def time_peer(positions):
    """Seconds of the peer for one position."""
    network = PublishedLayout().eval()
    one_pass(network)  # warm
    return seconds(lambda: [one_pass(network) for _ in range(positions)])[0] / positions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="cutout of the Legacy Surveys' viewer; or the embedded example")
    parser.add_argument("--model", help="model folder; or the bundled one")
    parser.add_argument("--side", type=int, default=62, help="spaxels on a side, of 0.5 arcsec")
    parser.add_argument("--positions", type=int, default=3, help="of the peer")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n = arguments.side**2
    peer = time_peer(arguments.positions) * n
    ifu = VirtualIFU.from_pretrained(arguments.model)
    image = read_legacysurvey(arguments.image) if arguments.image else example_image()
    prepared = ifu._prepare(image, None, None)
    field = {"redshift": 0.03, "size": arguments.side * 0.5 * u.arcsec, "spaxel": 0.5 * u.arcsec}
    prepared.galaxy  # noqa: B018  (its segmentation is cached, as the peer has none)
    ifu.predict_cube(prepared, **field | {"size": 4 * u.arcsec})  # warm
    whole, cube = seconds(lambda: ifu.observe_cube(prepared, **field))
    maps, _ = seconds(lambda: ifu.predict_cube(prepared, **field).line_maps("strong"))
    found = {}
    model = type(ifu._model)
    with parts(found, model, "encode", "query"), parts(found, type(cube.meta["prediction"]), "_moments", "line_maps"):
        ifu.observe_cube(prepared, **field).meta["prediction"].line_maps("strong")
    side, size, threads = arguments.side, cube.shape[0], torch.get_num_threads()
    print(f"{side} x {side} spaxels x {size} pixels with variance, {threads} threads, torch {torch.__version__}; "
          "processor seconds per thread")  # fmt: skip
    print(f"{peer:10.1f} s  a network of the published layout, {peer / n:.3f} s for each of {n} positions")
    print(f"{whole:10.2f} s  fiberifu, cube with variance: {peer / whole:.0f} times faster")
    print(f"{maps:10.2f} s  fiberifu, maps of the strong lines without a cube: {peer / maps:.0f} times faster")
    print("where it goes: " + ", ".join(f"{name.strip('_')} {value:.2f} s" for name, value in found.items()))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, libraries included")


if __name__ == "__main__":
    main()
