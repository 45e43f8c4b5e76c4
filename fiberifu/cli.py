# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command line: ``fiberifu demo``, ``observe``, ``infer``, ``lines``, ``simulate``, ``info``, ``train`` and more.

Arguments become one call of the library each.  What is heavy is imported when needed: ``--help`` is quick.
"""

import argparse
import contextlib
import logging
import os
import re
import shlex
import sys
import warnings

from . import shards_command
from .convert_job import add_parser as add_convert_parser
from .infer_cli import add_infer

__all__ = ["main"]

DESCRIPTION = """\
Predict what an integral field spectrograph would see, from an image of a galaxy.

What fiberifu makes is predicted from an image, never observed; its files and figures say so."""

EXAMPLES = """\
start here:
  fiberifu demo -o demo                                       all of it on an embedded galaxy, offline
  fiberifu observe cutout.fits --redshift 0.03 -o results     a cube and line maps from your image
  fiberifu infer galaxies.ecsv -o predicted                   every galaxy of a catalogue
  fiberifu lines manga-LOGCUBE.fits.gz --redshift 0.03 -o maps
                                                              emission-line maps of any cube, ours or a survey's
  fiberifu simulate --survey manga --n 3 -o sim               simulated galaxies in a survey's files, with the truth
  fiberifu info                                               the bundled model: what it can do and cannot
  fiberifu validate maps -o scores                            how good it is, with the truth beside it

'fiberifu COMMAND --help' tells more about each."""

DEMO = """\
Runs the main job on an embedded image of a simulated galaxy, with the bundled model and without a network:
a cube, maps of emission lines and a one-page summary, in the folder DIR."""

OBSERVE = """\
Predicts a cube, or the spectra of fibres (--position), from an image, and writes to the folder DIR:
  NAME_predicted_cube.fits      cube (wave, y, x) with its errors; or NAME_predicted_spectra.fits
  NAME_predicted_maps.fits      emission lines, as MaNGA's MAPS;   or NAME_predicted_lines.ecsv
  NAME_predicted_summary.png    all of it on one page"""

OBSERVE_EXAMPLES = """\
IMAGE is a cutout of the Legacy Surveys' viewer, or one file per band: BAND=FILE. Files of the Dark Energy
Survey are known; others need a celestial WCS and BUNIT (such as nJy). Bands are g, r, i, z; any may lack.

examples:
  fiberifu observe cutout.fits --redshift 0.03 -o results
  fiberifu observe cutout.fits --redshift 0.03 --size 40 --spaxel 1 -o results
  fiberifu observe g=DES_g.fits r=DES_r.fits z=DES_z.fits --redshift 0.03 -o spiral
  fiberifu observe cutout.fits --redshift 0.03 --position 59.1067 -30.4848 -o fibre

A cutout with its errors: https://www.legacysurvey.org/viewer/cutout.fits?ra=RA&dec=DEC&layer=ls-dr9&invvar"""

LINES = """\
Fits the emission lines of every spaxel of a cube, and writes to the folder DIR:
  NAME_maps.fits   fluxes, widths, kinematics, with errors and masks, as MaNGA's MAPS
  NAME_maps.png    the main ones, and the BPT diagram, on one page"""

LINES_EXAMPLES = """\
CUBE is a LOGCUBE of MaNGA, a cube of SAMI (or its blue and red arm), of fiberifu, or anything that specutils reads.
Resolution and medium are taken from the file where it has them.

examples:
  fiberifu lines manga-7443-12703-LOGCUBE.fits.gz --redshift 0.0402 --continuum ssp -o maps
  fiberifu lines 41144_A_blue.fits 41144_A_red.fits --redshift 0.02964 --continuum ssp -o maps
  fiberifu lines cube.fits --redshift 0.03 --lsf 2000 --lines Ha,N2,S2_6716,S2_6731 --components 2 -o maps

--continuum ssp subtracts stellar absorption, without which H-beta is several Angstrom of equivalent width too weak;
it needs template spectra in the folder that the environment variable FIBERIFU_DATA names (see the documentation)."""

SIMULATE = """\
Simulates galaxies and what a survey sees of them, in the survey's own formats, and writes to the folder DIR:
  images/                  cutouts and PSFs of the Legacy Surveys, one of each per galaxy
  spectro/redux/sim/       DESI's coadds, redshifts and catalogue; or MaNGA's LOGCUBEs and drpall
  spectro/analysis/sim/    MaNGA's MAPS: the truth, and of a fit
  truth_sim.fits           what was put in, with labels of rare kinds
All files say DATATYPE = 'SIMULATED' and have 'sim' in their names."""

SIMULATE_EXAMPLES = """\
examples:
  fiberifu simulate --survey desi --n 100 --seed 1 -o desi-sim
  fiberifu simulate --survey manga --n 10 --seed 1 --workers 2 -o manga-sim
  fiberifu simulate --survey manga --n 10 --seed 1 --workers 2 -o manga-sim --resume

A run that was interrupted, or killed, goes on with --resume: nothing is lost, and nothing is done twice.
Templates of stars and gas are found in the folder that the environment variable FIBERIFU_DATA names; or
--fetch-templates downloads them once (20 MB, checksums verified), or --templates gives a pack of them."""

INFO = """\
Shows a model's card (the bundled model by default), or where a FITS file of fiberifu comes from."""

INFO_EXAMPLES = """\
examples:
  fiberifu info
  fiberifu info results/cutout_predicted_cube.fits"""

TRAIN = """\
Trains a model by a recipe, on simulated galaxies; the weights go to DIR/model.
The same command resumes a run."""

CALIBRATE = """\
Measures how far the errors of a model are right, on fibres all over simulated galaxies that it was not trained on, and
writes the model with what mends them (factors, temperatures, how far errors reach) to the folder DIR."""

VALIDATE = """\
Judges a model on simulated galaxies that nobody trained on, with their truth, beside simpler methods."""

VALIDATE_MAPS = """\
Judges predicted maps of emission lines, and writes to the folder DIR:
  maps.html      the page: score tables, reliability, example maps, kinds of galaxies, radial profiles
  scores.json    all of it, scores.ecsv the table, one row for each number
  truth/  predictions/  samples/    caches, from which --resume goes on"""

VALIDATE_EXAMPLES = """\
examples:
  fiberifu validate maps -o scores                          the bundled model
  fiberifu validate maps -o look --galaxies 100 --fibers 4000 --workers 2     a first look
  fiberifu validate maps RUN/model -o mine --recipe recipe.toml --held-out scores/truth
  fiberifu validate maps -o scores --page-only              the page again, from what is there

Baselines: constant, trees, wide-trees, ridge, ifu-trees, central, position, floor; and, as slow as the model itself and
made only when they are named: fiber, blank, shuffled. They learn from the fibres the model was trained on, which its
recipes say, and need scikit-learn: pip install 'fiberifu[validate]'. The documentation (Validation) tells what every
score means."""


def main(args=None):
    """Run the command line.

    Parameters
    ----------
    args : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 2 for errors of use (said in one line on stderr), 130 when interrupted.
    """
    args = sys.argv[1:] if args is None else list(args)
    # argparse takes -30:29:05 for an option; behind a blank it is a value.
    args = [f" {arg}" if re.match(r"-\d", arg) else arg for arg in args]
    parser = _parser()
    options = parser.parse_args(args)
    if options.command is None or "run" not in options:
        (parser if options.command is None else options.parser).print_help()
        return 2
    options.command_line = shlex.join(["fiberifu", *(arg.strip() for arg in args)])
    # Figures are drawn into files: no window, and no display needed.
    os.environ.setdefault("MPLBACKEND", "agg")
    logging.basicConfig(format="fiberifu: %(message)s")
    if not getattr(options, "quiet", True):  # what takes a while is announced
        logging.getLogger("fiberifu").setLevel(logging.INFO)
    import astropy  # noqa: F401  (its import takes over the display of warnings: before ours, not after)

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.run(options)
        except KeyboardInterrupt:
            print("fiberifu: interrupted; --resume goes on where files are missing", file=sys.stderr)
            return 130
        except (ValueError, OSError) as error:
            print(f"fiberifu: error: {_one_line(error)}", file=sys.stderr)
            return 2
    return 0


def _show_warning(message, *args, **keywords):
    print(f"fiberifu: warning: {message}", file=sys.stderr)


def _one_line(error):
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


# ---------------------------------------------------------------- arguments
class _Version(argparse.Action):
    def __call__(self, parser, *args, **keywords):
        import fiberifu

        print(f"fiberifu {fiberifu.__version__}")
        parser.exit()


def _parser():
    def command(name, run, help, description, epilog=None):
        sub = commands.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=plain)
        sub.set_defaults(run=run)
        return sub

    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="fiberifu", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=plain)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    demo = command("demo", _demo, "all of it on an embedded galaxy", DEMO)
    observe = command("observe", _observe, "a cube, or spectra, from your image", OBSERVE, OBSERVE_EXAMPLES)
    add_infer(commands, _positive)
    info = command("info", _info, "a model's card, or where a file comes from", INFO, INFO_EXAMPLES)
    lines = command("lines", _lines, "emission-line maps of a cube", LINES, LINES_EXAMPLES)
    simulate = command("simulate", _simulate, "galaxies as a survey would see them", SIMULATE, SIMULATE_EXAMPLES)
    train = command("train", _train, "train a model", TRAIN)
    add_convert_parser(command)
    shards = command("shards", shards_command.run, "records for training, from a survey's files",
                     shards_command.DESCRIPTION, shards_command.EXAMPLES)  # fmt: skip
    calibrate = command("calibrate", _calibrate, "make a model's errors right", CALIBRATE)
    validate = commands.add_parser("validate", help="judge a model", description=VALIDATE, formatter_class=plain)
    validate.set_defaults(parser=validate)
    kinds = validate.add_subparsers(metavar="WHAT", title="what is judged")
    maps = kinds.add_parser(
        "maps", help="maps of lines", description=VALIDATE_MAPS, epilog=VALIDATE_EXAMPLES, formatter_class=plain
    )
    maps.set_defaults(run=_validate_maps)

    observe.add_argument("image", nargs="+", metavar="IMAGE", help="a FITS file, or BAND=FILE for each band")
    observe.add_argument(
        "--redshift",
        type=_redshift,
        metavar="Z",
        help="redshift, or Z,SIGMA; without it the image's header is asked, then the model guesses, with a warning",
    )
    observe.add_argument("--size", type=_positive, metavar="S", help="side of the cube in arcsec (30)")
    observe.add_argument(
        "--position",
        nargs=2,
        action="append",
        metavar=("RA", "DEC"),
        help="a fibre, in degrees or as 1:51:48.5 -0:15:50; may be given again",
    )
    observe.add_argument("--spaxel", type=_positive, metavar="P", help="side of a spaxel in arcsec (0.5)")
    observe.add_argument("--center", nargs=2, metavar=("RA", "DEC"), help="of the cube; the image's by default")
    observe.add_argument(
        "--aperture",
        type=_positive,
        metavar="D",
        help="diameter of the fibres in arcsec (1.5: DESI; 2: MaNGA; 3: SDSS)",
    )
    observe.add_argument("--psf", metavar="FILE", help="PSF file of the Legacy Surveys' viewer (coadd-psf)")
    observe.add_argument("--ebv", type=float, metavar="E", help="Galactic E(B-V), SFD scale, in mag (0)")
    observe.add_argument("--deredden", action="store_true", help="correct the output for Galactic extinction")
    observe.add_argument("--name", help="first part of the files' names; the image's by default")
    lines.add_argument("cube", nargs="+", metavar="CUBE", help="a FITS file, or the blue and the red arm")
    lines.add_argument("--redshift", type=float, metavar="Z", help="systemic; the file's by default")
    lines.add_argument("--lines", default="strong", help="strong, all, or names such as Ha,N2,O3 (strong)")
    lines.add_argument("--continuum", default="2", metavar="C", help="ssp, or the degree of a polynomial (2)")
    lines.add_argument("--starlight", choices=("nnls", "ppxf"), default="nnls", help="who fits it; ppxf if installed")
    lines.add_argument("--lsf", type=_positive, metavar="R", help="resolving power lambda/FWHM; the file's by default")
    lines.add_argument("--medium", choices=("vacuum", "air"), help="of the wavelengths; the file's by default")
    lines.add_argument("--kinematics", choices=("all", "balmer+forbidden", "table"), default="all")
    lines.add_argument("--components", type=int, choices=(1, 2), default=1, help="2: a broad one where it is needed")
    lines.add_argument("--errors", choices=("formal", "mc"), default="formal", help="mc: from fits with new noise")
    lines.add_argument("--name", help="first part of the files' names; the cube's by default")
    simulate.add_argument("--survey", required=True, choices=("desi", "manga"))
    simulate.add_argument("--n", type=_count, default=100, metavar="N", help="galaxies (100)")
    simulate.add_argument("--templates", metavar="PACK", help="npz file of build_template_pack")
    simulate.add_argument("--fetch-templates", action="store_true", help="download them if they are not found")
    simulate.add_argument("--workers", type=_count, default=1, metavar="W", help="processes (1); results are the same")
    simulate.add_argument(
        "--continuum",
        default="2",
        metavar="C",
        help="under fitted lines of MaNGA: degree of a polynomial (2); ssp, better and minutes a cube; none for no fit",
    )
    simulate.add_argument("--bricks", action="store_true", help="images as brick coadds, too")
    simulate.add_argument("--device", default="cpu", help="cpu or cuda")
    maps.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model folder, or hf://owner/name; or the bundled one"
    )
    maps.add_argument("--galaxies", type=_count, metavar="N", help="held-out galaxies (2000; or all of --held-out)")
    maps.add_argument("--fibers", type=_count, default=40_000, metavar="N", help="that baselines learn from (40,000)")
    maps.add_argument("--baselines", default="all", metavar="B", help="all, none, or names as below with commas (all)")
    maps.add_argument("--recipe", action="append", default=[], metavar="FILE", help="of the training, stage by stage")
    maps.add_argument("--held-out", metavar="FOLDER", help="galaxies to read, such as the truth of an earlier DIR")
    maps.add_argument("--templates", metavar="PACK", help="npz file of build_template_pack")
    maps.add_argument("--fetch-templates", action="store_true", help="download them if they are not found")
    maps.add_argument("--workers", type=_count, default=1, metavar="W", help="processes that simulate galaxies (1)")
    maps.add_argument("--seed", type=int, metavar="S", help="of the held-out galaxies (77000001)")
    shards_command.add_arguments(shards, _count)
    for sub in (demo, observe, lines, simulate, shards, maps):
        sub.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the results")
        sub.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
        again = sub.add_mutually_exclusive_group()
        again.add_argument("--overwrite", action="store_true", help="replace files in DIR")
        again.add_argument("--resume", action="store_true", help="keep the files that are there; same settings only")
        if sub is maps:
            again.add_argument("--page-only", action="store_true", help="draw the page again, from the scores in DIR")
    for sub in (demo, observe):
        sub.add_argument(
            "--model", metavar="MODEL", help="a model folder, or hf://owner/name; the bundled one by default"
        )
    for sub in (demo, observe, simulate):
        sub.add_argument("--seed", type=int, default=0, help="of random numbers (0); recorded in the files")

    info.add_argument("target", nargs="?", metavar="MODEL|FILE", help="a model folder or a FITS file of fiberifu")
    train.add_argument("recipe", metavar="RECIPE", help="TOML file")
    train.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the run")
    train.add_argument("--data", metavar="FOLDER", help="of the survey templates")
    train.add_argument("--weights", metavar="MODEL", help="model folder to start a new run from")
    train.add_argument("--stop-after", type=_positive, metavar="SECONDS")
    train.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    train.add_argument("--tensorboard", action="store_true", help="write events too, where tensorboard is installed")

    calibrate.add_argument("model", metavar="MODEL", help="model folder")
    calibrate.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the calibrated model")
    calibrate.add_argument("--data", metavar="FOLDER", help="of the survey templates")
    calibrate.add_argument("--galaxies", type=_count, default=400, help="(400)")
    calibrate.add_argument("--fibers", type=_count, default=8, help="of each, anywhere in it (8)")
    calibrate.add_argument("--seed", type=_count, metavar="N", help="of the galaxies")
    return parser


def _positive(text):
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; units are fixed (arcsec)") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _redshift(text):
    """``Z`` or ``Z,SIGMA``; whether the values make sense is for the library to say."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is neither Z nor Z,SIGMA")
    return parts[0] if len(parts) == 1 else tuple(parts)


# ---------------------------------------------------------------- commands
def _demo(options):
    from . import jobs

    _report(options, *jobs.run_demo(options.output, **_common(options)))


def _observe(options):
    from . import jobs

    _check_places(options)
    image, files = jobs.read_image(options.image, psf=options.psf)
    keywords = _common(options)
    keywords |= {"redshift": options.redshift, "ebv": options.ebv, "deredden": options.deredden}
    if options.position:
        keywords |= {"positions": _sky(options.position), "aperture": _arcsec(options.aperture or 1.5)}
    else:
        keywords |= {"size": _arcsec(options.size or 30), "spaxel": _arcsec(options.spaxel or 0.5)}
        keywords["center"] = _sky([options.center])[0] if options.center else None
    inputs = {str(file): jobs.sha256_of(file) for file in [*files, *([options.psf] if options.psf else [])]}
    name = options.name or jobs.name_of(files)
    _report(options, *jobs.observe_to_folder(image, options.output, name=name, inputs=inputs, **keywords))


def _check_places(options):
    """Options of cubes and of fibres do not mix; one that would be ignored is refused."""
    wrong = ("size", "spaxel", "center") if options.position else ("aperture",)
    if named := [f"--{name}" for name in wrong if getattr(options, name) is not None]:
        what = "fibres (--position)" if options.position else "a cube; fibres need --position"
        raise ValueError(f"{', '.join(named)}: has no meaning for {what}")


def _lines(options):
    from . import jobs, line_job
    from .output import MANIFEST

    names = "redshift lsf medium kinematics components starlight errors name overwrite resume".split()
    keywords = {name: getattr(options, name) for name in names}
    table = options.lines if options.lines in ("strong", "all") else options.lines.split(",")
    continuum = int(options.continuum) if options.continuum.isdigit() else options.continuum
    maps, paths = line_job.lines_to_folder(options.cube, options.output, table=table, continuum=continuum, **keywords)
    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(f"{paths[0].parent / MANIFEST}  (settings)")
    print(*(line_job.summary_lines(maps) if maps else ["All of it was there already."]), sep="\n")


def _simulate(options):
    from . import jobs, simulate_job
    from .output import MANIFEST

    given = options.continuum
    continuum = {"none": None}.get(given, int(given) if given.isdecimal() else given)
    names = ("n", "seed", "templates", "workers", "device", "bricks", "overwrite", "resume")
    with _arguments_as_options("templates"):
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


def _info(options):
    from . import jobs

    print(jobs.describe(options.target))


def _train(options):
    from .train import main as train

    logging.getLogger("fiberifu").setLevel(logging.INFO)
    done = train(
        options.recipe,
        options.output,
        data=options.data,
        weights=options.weights,
        stop_after=options.stop_after,
        device=options.device,
        tensorboard=options.tensorboard,
        progress=True,
    )
    print(done)


def _calibrate(options):
    from .train.calibrate import main as calibrate

    print(calibrate(options.model, options.output, data=options.data, galaxies=options.galaxies,
                    fibers=options.fibers, seed=options.seed))  # fmt: skip


def _validate_maps(options):
    from . import jobs
    from .validate import maps_job

    names = ("model", "galaxies", "fibers", "seed", "baselines", "held_out", "templates", "workers", "overwrite")
    with _arguments_as_options(*names, model="MODEL", recipes="--recipe", resume="--resume"):
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


@contextlib.contextmanager
def _arguments_as_options(*names, **others):
    """What the library says of its arguments, said of options: "galaxies is 3" becomes "--galaxies is 3"."""
    options = {name: "--" + name.replace("_", "-") for name in names} | others
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of the library
            raise
        text = re.sub(r"(\w+)=True(?: \(--[\w-]+\))?", lambda m: options.get(m[1], m[0]), str(error))
        text = re.sub(r"^(\w+)(?= is |:)", lambda m: options.get(m[1], m[0]), text)
        raise ValueError(text) from error


def _common(options):
    names = ("model", "seed", "overwrite", "resume")
    return {name: getattr(options, name) for name in names} | {"progress": not options.quiet}


def _report(options, prediction, paths):
    """The files and their sizes, the self-check, the flags in words."""
    import numpy as np

    from . import jobs
    from .output import MANIFEST
    from .plot.summary import flags_in_words

    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(f"{paths[0].parent / MANIFEST}  (settings)")
    if prediction is None:
        print("All of it was there already.")
        return
    residuals = [(row["band"], row["residual"].value) for row in prediction.self_check]
    check = ", ".join(f"{band} {value:+.3f}" for band, value in residuals if value == value)  # nan: nowhere measured
    print(f"Self-check in mag, + is an image fainter than the prediction: {check or 'no position to compare'}")
    snr = prediction.line_maps(["Ha"]).snr["Ha"]
    light = ~snr.mask & prediction.bright(5)
    if light.any():
        median = float(np.nanmedian(snr.data[light]))
        advice = "" if median > 2 else ": hardly more than what the model expects of any galaxy"
        where = f"of the {light.sum()} positions with light" if light.size > 1 else ""
        print(f"Predicted H-alpha flux over its error, median {where}: {median:.1f}{advice}".replace(" :", ":"))
    print("Flags:", *(flags_in_words(prediction.flags) or ["none"]), sep="\n  ")
    print(f"Predicted from an image by the model {prediction.provenance.model_id}: not an observation.")


def _arcsec(value):
    import astropy.units as u

    return value * u.arcsec


def _sky(pairs):
    """RA and Dec, in degrees or sexagesimal (then RA in hours), as SkyCoord."""
    from astropy.coordinates import Angle, SkyCoord

    def angle(ra):  # each by itself: degrees beside sexagesimal ones stay degrees
        return Angle(ra, "hourangle" if ":" in ra or "h" in ra else "deg")

    try:
        return SkyCoord([angle(ra).deg for ra, _ in pairs], [Angle(dec, "deg").deg for _, dec in pairs], unit="deg")
    except ValueError as error:
        raise ValueError(f"RA DEC is {pairs}: {error}; give degrees, or 1:51:48.5 -0:15:50") from error
