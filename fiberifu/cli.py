# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The command line: ``fiberifu demo``, ``observe``, ``infer``, ``lines``, ``simulate``, ``info``, ``train`` and more.

Arguments become one call of the library each.  What is heavy is imported when needed: ``--help`` is quick.
"""

import argparse
import functools
import logging
import os
import re
import shlex
import sys
import warnings

from . import commands

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
    def add(name, help, description, epilog=None, *, to):
        return to.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=plain)

    def command(name, run, *texts, to=None):
        sub = add(name, *texts, to=to or group)
        sub.set_defaults(run=run)
        return sub

    def command_of_commands(name, help, description, title):
        sub = add(name, help, description, to=group)
        sub.set_defaults(parser=sub)
        return functools.partial(command, to=sub.add_subparsers(metavar="WHAT", title=title))

    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="fiberifu", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=plain)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    group = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add_command in commands.ADD:
        add_command(command)
    commands.validate.add(command_of_commands)
    return parser
