"""How realistic simulated galaxies are: a table, figures and one HTML page.

    python benchmarks/realism.py [--galaxies 1200] [--half judging] [--pack PACK.npz] -o DIR

Writes DIR/realism.json, DIR/realism.html (figures inside), DIR/realism_table.inc, DIR/population.inc and the figures as
PNG; the page of the documentation shows what lies in docs/_static/realism. Those who set constants of the simulator
by what they see here use --half tuning. The real files and the templates are those of
`fiberifu.simulate.find_data_dir`; 1200 galaxies take some minutes on one core.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from fiberifu.simulate import Simulator, build_template_pack, find_data_dir, load_template_pack
from fiberifu.validate.realism import measure_realism, write_realism


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--survey-galaxies", type=int, default=200, help="of the simulated DESI and MaNGA surveys each")
    parser.add_argument("--cubes", type=int, default=6, help="simulated MaNGA cubes")
    parser.add_argument("--half", choices=("judging", "tuning", "all"), default="judging", help="of SDSS and the atlas")
    parser.add_argument("--pack", help="template pack; made anew by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args(args)
    folder = find_data_dir()
    with tempfile.TemporaryDirectory() as scratch:
        path = arguments.pack or Path(scratch) / "pack.npz"
        if arguments.pack is None:
            build_template_pack(folder, path)
        pack = load_template_pack(path)
    report, figures = measure_realism(
        Simulator(pack, device=torch.device(arguments.device)),
        pack,
        folder,
        galaxies=arguments.galaxies,
        survey_galaxies=arguments.survey_galaxies,
        cubes=arguments.cubes,
        half=arguments.half,
        seed=arguments.seed,
        command=command_line(arguments),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    write_realism(report, figures, arguments.output)
    print_table(report)


def command_line(arguments):
    """The command with all that the numbers depend on."""
    names = ("galaxies", "survey-galaxies", "cubes", "half", "seed")
    return "python benchmarks/realism.py " + " ".join(f"--{n} {getattr(arguments, n.replace('-', '_'))}" for n in names)


def print_table(report):
    """The table of the page, as text."""
    print(f"{report['galaxies']} galaxies, seed {report['seed']}:", report["summary"])
    print(report["summary_by_basis"])
    for row in report["comparisons"]:
        value = {key: "--" if x is None else f"{x:.3f}" for key, x in row.items() if not isinstance(x, str)}
        print(
            f"{row['verdict']:9s} {value['excess']:>7s}  {row['name'][:80]:80s}",
            f"{value['simulated']:>7s} +- {value['simulated_error']:5s}",
            f"{value['real']:>7s} +- {value['real_error']:5s}",
            f"threshold {row['threshold']:g}, {row['basis']}, n {row['n_simulated']}, {row['n_real']}",
        )


if __name__ == "__main__":
    main()
