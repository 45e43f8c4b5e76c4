"""Time and peak memory of a cube, split into its parts, and import times.

python benchmarks/cube.py [--spaxels 32] [--model FOLDER]
"""

import argparse
import resource
import subprocess
import sys
import time

import astropy.units as u
import torch

from fiberifu import VirtualIFU
from fiberifu.datasets import example_image


def timed(function, repeat=3):
    """Best of a few calls, and the result."""
    best, value = float("inf"), None
    for _ in range(repeat):
        start = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - start)
    return best, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaxels", type=int, default=32)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    ifu = VirtualIFU.from_pretrained(arguments.model)
    n, spaxel = arguments.spaxels, 0.75 * u.arcsec
    image = example_image()
    rows = {}
    rows["prepare the image"], prepared = timed(lambda: ifu._prepare(image, None, None))
    prepared.galaxy  # noqa: B018  (its segmentation is cached; keep it out of the parts below)

    model, stamp = ifu._model, prepared.stamp(0, 0)
    tensors = torch.from_numpy(stamp[0])[None], torch.from_numpy(stamp[1])[None], torch.tensor([prepared.psf_fwhm])
    with torch.inference_mode():
        rows["encode one stamp"], encoded = timed(lambda: model.encode(*tensors))
        offset = 4 * torch.randn(n * n, 2)
        many = torch.zeros(n * n, dtype=torch.int64), offset, torch.full((n * n,), 0.03), torch.full((n * n,), 1e-4)
        rows[f"query {n * n} positions"], _ = timed(lambda: model.query(encoded, *tensors, *many))
    rows["predict_cube (all stamps, blended)"], p = timed(
        lambda: ifu.predict_cube(prepared, redshift=0.03, size=n * spaxel, spaxel=spaxel)
    )
    rows["render mean and variance"], _ = timed(p._moments)
    rows["strong line maps"], _ = timed(lambda: p.line_maps("strong"))
    rows["everything: observe_cube from CCDData"], _ = timed(
        lambda: ifu.observe_cube(image, redshift=0.03, size=n * spaxel, spaxel=spaxel)
    )
    print(f"{n} x {n} spaxels x {len(p.wavelength)} pixels, {torch.get_num_threads()} threads, best of 3")
    for name, seconds in rows.items():
        print(f"{seconds * 1e3:9.1f} ms  {name}")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MB  peak memory, imports included")
    for code in ("pass", "import fiberifu", "from fiberifu.cli import main; main(['--version'])", "import torch"):
        seconds, _ = timed(
            lambda code=code: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        )
        print(f"{seconds * 1e3:9.1f} ms  python -c {code!r}")


if __name__ == "__main__":
    main()
