# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu simulate``: galaxies as a survey would see them, in its own files."""

from .arguments import add_output, add_seed, arguments_as_options, count

__all__ = ["add"]

DESCRIPTION = """\
Simulates galaxies and what a survey sees of them, in the survey's own formats, and writes to the folder DIR:
  images/                  cutouts and PSFs of the Legacy Surveys, one of each per galaxy
  spectro/redux/sim/       DESI's coadds, redshifts and catalogue; or MaNGA's LOGCUBEs and drpall
  spectro/analysis/sim/    MaNGA's MAPS: the truth, and of a fit
  truth_sim.fits           what was put in, with labels of rare kinds
All files say DATATYPE = 'SIMULATED' and have 'sim' in their names."""

EXAMPLES = """\
examples:
  fiberifu simulate --survey desi --n 100 --seed 1 -o desi-sim
  fiberifu simulate --survey manga --n 10 --seed 1 --workers 2 -o manga-sim
  fiberifu simulate --survey manga --n 10 --seed 1 --workers 2 -o manga-sim --resume

A run that was interrupted, or killed, goes on with --resume: nothing is lost, and nothing is done twice.
Templates of stars and gas are found in the folder that the environment variable FIBERIFU_DATA names; or
--fetch-templates downloads them once (20 MB, checksums verified), or --templates gives a pack of them."""


def add(command):
    """Add the command to the command line; ``command`` makes its parser."""
    parser = command("simulate", _simulate, "galaxies as a survey would see them", DESCRIPTION, EXAMPLES)
    parser.add_argument("--survey", required=True, choices=("desi", "manga"))
    parser.add_argument("--n", type=count, default=100, metavar="N", help="galaxies (100)")
    parser.add_argument("--templates", metavar="PACK", help="npz file of build_template_pack")
    parser.add_argument("--fetch-templates", action="store_true", help="download them if they are not found")
    parser.add_argument("--workers", type=count, default=1, metavar="W", help="processes (1); results are the same")
    parser.add_argument(
        "--continuum",
        default="2",
        metavar="C",
        help="under fitted lines of MaNGA: degree of a polynomial (2); ssp, better and minutes a cube; none for no fit",
    )
    parser.add_argument("--bricks", action="store_true", help="images as brick coadds, too")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    add_output(parser)
    add_seed(parser)


def _simulate(options):
    from .. import jobs, simulate_job
    from ..output import MANIFEST

    given = options.continuum
    continuum = {"none": None}.get(given, int(given) if given.isdecimal() else given)
    names = ("n", "seed", "templates", "workers", "device", "bricks", "overwrite", "resume")
    with arguments_as_options("templates"):
        paths = simulate_job.simulate_to_folder(
            options.survey,
            options.output,
            continuum=continuum,
            fetch=options.fetch_templates,
            progress=not options.quiet,
            **{name: getattr(options, name) for name in names},
        )
    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(f"{paths[-1].parent / MANIFEST}  (settings)")
    print(*simulate_job.summary_lines(options.output), sep="\n")
