# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu info``: a model's card, or where a file comes from."""

__all__ = ["add"]

DESCRIPTION = """\
Shows a model's card (the bundled model by default), or where a FITS file of fiberifu comes from."""

EXAMPLES = """\
examples:
  fiberifu info
  fiberifu info results/cutout_predicted_cube.fits"""


def add(command):
    """Add the command to the command line; ``command`` makes its parser."""
    parser = command("info", _info, "a model's card, or where a file comes from", DESCRIPTION, EXAMPLES)
    parser.add_argument("target", nargs="?", metavar="MODEL|FILE", help="a model folder or a FITS file of fiberifu")


def _info(options):
    from .. import jobs

    print(jobs.describe(options.target))
