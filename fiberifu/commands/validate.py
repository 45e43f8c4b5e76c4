# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu validate WHAT``: a model judged, beside simpler methods."""

from .arguments import add_output, arguments_as_options, count

__all__ = ["add"]

VALIDATE = """\
Judges a model: on simulated galaxies that nobody trained on, with their truth, beside simpler methods; or on galaxies
that MaNGA has observed."""

MAPS = """\
Judges predicted maps of emission lines, and writes to the folder DIR:
  maps.html      the page: score tables, reliability, example maps, kinds of galaxies, radial profiles
  scores.json    all of it, scores.ecsv the table, one row for each number
  truth/  predictions/  samples/    caches, from which --resume goes on"""

MAPS_EXAMPLES = """\
examples:
  fiberifu validate maps -o scores                          the bundled model
  fiberifu validate maps -o look --galaxies 100 --fibers 4000 --workers 2     a first look
  fiberifu validate maps RUN/model -o mine --recipe recipe.toml --held-out scores/truth
  fiberifu validate maps -o scores --page-only              the page again, from what is there

Baselines: constant, trees, wide-trees, ridge, ifu-trees, central, position, floor; and, as slow as the model itself and
made only when they are named: fiber, blank, shuffled. They learn from the fibres the model was trained on, which its
recipes say, and need scikit-learn: pip install 'fiberifu[validate]'. The documentation (Validation) tells what every
score means."""

MANGA = """\
Predicts maps of emission lines where MaNGA has observed them, from images, and compares the two in absolute flux, at
the same spaxels and PSF, corrected for Galactic extinction alike. Writes to the folder DIR:
  manga.html     the page: scores, a table of galaxies, maps of each beside each other
  scores.json    all of it, scores.ecsv the scores, galaxies.ecsv a row for each galaxy
  galaxies/      of each galaxy its comparison and figure, from which --resume goes on"""

MANGA_EXAMPLES = """\
examples:
  fiberifu validate manga TREE -o DIR              cubes, MAPS, images as of fiberifu simulate --survey manga
  fiberifu validate manga FOLDER --image fetch -o DIR --workers 4       images from the Legacy Surveys' viewer
  fiberifu validate manga galaxies.csv --truth cube -o DIR     columns name, cube, maps, image, psf, redshift, ra, dec
  fiberifu validate manga MAPS.fits.gz --image own -o DIR      from its own continuum, for want of an image: a hard test

Galaxies that the survey says must not be used, predicted files given as observations, and files that cannot be read are
skipped, with the reason on the page."""


HEADLINE = """\
Does it work? Trains the same network on one fibre per galaxy (numbers, placements) and on IFU cubes (numbers), judges
all of them and simpler methods on the same held-out galaxies, and writes to the folder DIR:
  headline.html    the page: curves, how many cubes the fibres are worth, placements, kinds of galaxies, errors, maps
  headline.json    all of it, headline.ecsv the curves, one row for each number
  runs/ARM/        each training with its weights; truth/ predictions/ samples/ control/ caches"""

HEADLINE_EXAMPLES = """\
examples:
  fiberifu validate headline --size smoke -o smoke           that it runs: minutes on two cores, no meaning
  fiberifu validate headline --size cpu -o headline          some two hours on two idle cores
  fiberifu validate headline --size cpu -o headline --resume --stop-after 600    ten minutes more of it
  fiberifu validate headline --size mine.toml -o mine        a plan of yours, see the documentation (Does it work?)
  fiberifu validate headline -o headline --page-only         the page again, from what is there

A run that was stopped or killed goes on with --resume, each training from its last state."""


def add(group):
    """Add the command and its kinds to the command line; ``group`` makes a command of commands."""
    command = group("validate", "judge a model", VALIDATE, "what is judged")
    _add_maps(command)
    _add_manga(command)
    _add_headline(command)


def _add_maps(command):
    parser = command("maps", _validate_maps, "maps of lines", MAPS, MAPS_EXAMPLES)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model folder, or hf://owner/name; or the bundled one"
    )
    parser.add_argument("--galaxies", type=count, metavar="N", help="held-out galaxies (2000; or all of --held-out)")
    parser.add_argument("--fibers", type=count, default=40_000, metavar="N", help="that baselines learn from (40,000)")
    parser.add_argument(
        "--baselines", default="all", metavar="B", help="all, none, or names as below with commas (all)"
    )
    parser.add_argument("--recipe", action="append", default=[], metavar="FILE", help="of the training, stage by stage")
    parser.add_argument("--held-out", metavar="FOLDER", help="galaxies to read, such as the truth of an earlier DIR")
    parser.add_argument("--templates", metavar="PACK", help="npz file of build_template_pack")
    parser.add_argument("--fetch-templates", action="store_true", help="download them if they are not found")
    parser.add_argument("--workers", type=count, default=1, metavar="W", help="processes that simulate galaxies (1)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the held-out galaxies (77000001)")
    add_output(parser, page_only=True)


def _validate_maps(options):
    from .. import jobs
    from ..validate import maps_job

    names = ("model", "galaxies", "fibers", "seed", "baselines", "held_out", "templates", "workers", "overwrite")
    with arguments_as_options(*names, model="MODEL", recipes="--recipe", resume="--resume"):
        if options.page_only:
            paths = [maps_job.write_page(options.output, held_out=options.held_out)]
        else:
            paths = maps_job.validate_maps_to_folder(
                options.output,
                recipes=options.recipe,
                fetch=options.fetch_templates,
                resume=options.resume,
                progress=not options.quiet,
                command=options.command_line,
                **{name: getattr(options, name) for name in names},
            )
    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(*maps_job.summary_lines(options.output), sep="\n")


def _add_manga(command):
    parser = command("manga", _validate_manga, "maps of lines, with MaNGA's", MANGA, MANGA_EXAMPLES)
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="folders, files, or one table of files")
    parser.add_argument("--model", metavar="MODEL", help="a model folder, or hf://owner/name; or the bundled one")
    parser.add_argument(
        "--truth",
        choices=("auto", "maps", "cube"),
        default="auto",
        help="MAPS, or a fit of the cube (MAPS if there are)",
    )
    parser.add_argument("--base", metavar="URL", help="address, or folder, of the cubes and MAPS that a table names")
    parser.add_argument("--daptype", metavar="NAME", help="which MAPS, by a part of their names")
    parser.add_argument(
        "--image", choices=("files", "fetch", "own"), default="files", help="where images are from without a file"
    )
    parser.add_argument(
        "--continuum", default="ssp", metavar="C", help="under the lines of a fit: ssp, or a degree (ssp)"
    )
    parser.add_argument(
        "--radius", type=float, default=2.5, metavar="R", help="effective radii that are predicted (2.5)"
    )
    parser.add_argument("--workers", type=count, default=1, metavar="W", help="processes (1)")
    add_output(parser)


def _validate_manga(options):
    from .. import jobs
    from ..validate.manga import summary_lines, validate_manga_to_folder

    names = ("model", "truth", "daptype", "base", "image", "radius", "workers", "overwrite", "resume")
    with arguments_as_options(*names, source="SOURCE", continuum="--continuum"):
        paths = validate_manga_to_folder(
            options.output,
            options.source,
            continuum=int(options.continuum) if options.continuum.isdigit() else options.continuum,
            progress=not options.quiet,
            command=options.command_line,
            **{name: getattr(options, name) for name in names},
        )
    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(*summary_lines(options.output), sep="\n")


def _add_headline(command):
    parser = command("headline", _validate_headline, "fibres against cubes, the experiment", HEADLINE,
                     HEADLINE_EXAMPLES)  # fmt: skip
    parser.add_argument("--size", default="cpu", metavar="S", help="smoke, cpu, full, or a TOML file (cpu)")
    parser.add_argument("--model", metavar="MODEL", help="other weights to be judged beside the arms")
    parser.add_argument("--galaxies", type=count, metavar="N", help="held-out galaxies (the plan's)")
    parser.add_argument("--held-out", metavar="FOLDER", help="galaxies to read, such as the truth of an earlier DIR")
    parser.add_argument("--templates", metavar="PACK", help="npz file of build_template_pack")
    parser.add_argument("--fetch-templates", action="store_true", help="download them if they are not found")
    parser.add_argument("--workers", type=int, metavar="W", help="processes that simulate; 0: in this one (the plan's)")
    parser.add_argument("--device", default="cpu", help="of the trainings: cpu or cuda")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="of training; --resume goes on")
    parser.add_argument("--as-is", action="store_true", help="judge what is trained already, and leave the rest")
    add_output(parser, page_only=True)


def _validate_headline(options):
    from .. import jobs
    from ..validate.headline import job, page

    names = ("size", "model", "galaxies", "held_out", "templates", "workers", "device", "stop_after", "as_is")
    names += ("overwrite",)
    with arguments_as_options(*names, resume="--resume"):
        if options.page_only:
            paths = [page.write_page(options.output, held_out=options.held_out)]
        else:
            paths = job.headline_to_folder(
                options.output,
                fetch=options.fetch_templates,
                resume=options.resume,
                progress=not options.quiet,
                command=options.command_line,
                **{name: getattr(options, name) for name in names},
            )
    if options.quiet:
        return
    if not paths:
        print("Stopped before all were trained; the same command with --resume goes on.")
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(*job.summary_lines(options.output), sep="\n")
