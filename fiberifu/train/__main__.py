"""``python -m fiberifu.train recipe.toml -o RUN``: as ``fiberifu train``, where only torch and numpy are.

Many processes, on any number of GPUs and nodes: ``torchrun --nproc-per-node 4 -m fiberifu.train recipe.toml -o RUN``.
"""

import argparse
import logging

from . import Ranks, main

__all__ = []

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fiberifu.train", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--data")
    parser.add_argument("--weights", metavar="MODEL")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    parser.add_argument("--tensorboard", action="store_true")
    arguments = vars(parser.parse_args())
    rank = Ranks.of_environment()
    logging.basicConfig(level=logging.INFO if rank.first else logging.ERROR, format="%(asctime)s %(message)s")
    done = main(arguments.pop("recipe"), arguments.pop("output"), progress=True, **arguments)
    if rank.first:
        print(done)
