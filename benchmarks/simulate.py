"""Throughput of the simulator: training batches, DESI spectra, images, MaNGA cubes; on a processor or a graphics card.

    python benchmarks/simulate.py [PACK.npz] [--device cuda] [--batch 32] [--seconds 10]

Without a pack the analytic templates serve, whose spectra cost the same. Numbers are wall time of this process, after a
first call that is not counted.
"""

import argparse
import resource
import time

import torch

from fiberifu.simulate import (
    Simulator,
    analytic_template_pack,
    load_template_pack,
    observe_desi,
    observe_images,
    observe_manga,
)


def rate(work, seconds, device):
    """Pieces per second of ``work(turn)``, which returns how many it made; at least two turns."""
    work(0)
    begin, made, turn = time.perf_counter(), 0, 1
    while turn < 3 or time.perf_counter() - begin < seconds:
        made += work(turn)
        turn += 1
        if device != "cpu":
            torch.cuda.synchronize()
    return made / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", nargs="?", help="template pack")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32, help="galaxies at a time")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each number")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pack = load_template_pack(arguments.pack) if arguments.pack else analytic_template_pack()
    simulator = Simulator(pack, device=arguments.device)
    n = arguments.batch

    def batch(turn):
        simulator.batch(n, seed=turn)
        return n

    def scene(turn):
        simulator.scene(turn, range(n))
        return n

    def images(turn):
        return len(observe_images(simulator, turn, range(8)))

    def desi(turn):
        spectra, _ = observe_desi(simulator, turn, 0, 8)
        return len(spectra.table["targetid"])

    def manga(turn):
        return len(list(observe_manga(simulator, turn, 0, 1)))

    work = {
        "galaxies, their maps": scene,
        "galaxies of training batches, images and fibres": batch,
        "cutouts in four bands": images,
        "DESI spectra with images of their hosts": desi,
        "MaNGA cubes": manga,
    }
    print(f"{arguments.device}, {arguments.threads} threads, {n} galaxies at a time")
    for name, function in work.items():
        print(f"{rate(function, arguments.seconds, arguments.device):9.2f} / s  {name}", flush=True)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MB  peak memory, imports included")
    if arguments.device != "cpu":
        print(f"{torch.cuda.max_memory_allocated() / 2**20:9.0f} MB  peak memory of the card")


if __name__ == "__main__":
    main()
