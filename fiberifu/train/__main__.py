"""``python -m fiberifu.train recipe.toml -o RUN``: as ``fiberifu train``, where only torch and numpy are."""

import argparse
import logging

from . import main

__all__ = []

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fiberifu.train", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--data")
    parser.add_argument("--weights", metavar="MODEL")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(main(arguments.recipe, arguments.output, data=arguments.data, weights=arguments.weights,
               stop_after=arguments.stop_after, device=arguments.device))  # fmt: skip
