"""Make the embedded example: python tools/make_example.py (needs the survey templates, see fiberifu.simulate)."""

import tempfile
from pathlib import Path

from fiberifu.datasets import EXAMPLE, simulated_galaxy, write_example
from fiberifu.simulate import build_template_pack, find_data_dir, load_template_pack

SEED, INDEX = (
    4242,
    1414,
)  # a nearly face-on spiral at z = 0.03, chosen by its looks; far from the seeds of the training set

with tempfile.TemporaryDirectory() as folder:
    pack = Path(folder) / "pack.npz"
    build_template_pack(find_data_dir(), pack)
    write_example(EXAMPLE, *simulated_galaxy(SEED, INDEX, pack=load_template_pack(pack)))
