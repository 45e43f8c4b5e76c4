# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu shards``: its arguments, and what it says."""

from pathlib import Path

from .arguments import add_output, count

__all__ = ["add"]

DESCRIPTION = """\
Makes records for training from DESI's spectra and the images of the Legacy Surveys, in the folder DIR:
  shards/    memory-mapped arrays, one file for each unit of work, with an index beside it
  index.json what there is, with sha256; written when all units are done
Galaxies in a tenth of the sky, and near those of --held-out, are marked and never trained on."""

EXAMPLES = """\
examples:
  fiberifu shards spectro/redux/iron/healpix --bricks dr9/south --bricks dr9/north --bands grz -o records
  fiberifu shards desi-sim -o records --workers 2
  fiberifu shards desi-sim -o records --workers 2 --resume

A run that was interrupted, or killed, goes on with --resume: nothing is lost, and nothing is done twice. With
--chunk I --of N jobs on several machines share the work. Then train with a recipe that has a table [shards] with
path = "records"."""


def add(command):
    """Add the command to the command line; ``command`` makes its parser."""
    parser = command("shards", _shards, "records for training, from a survey's files", DESCRIPTION, EXAMPLES)
    parser.add_argument("tree", metavar="TREE", help="folder with redrock-*.fits and coadd-*.fits at any depth")
    parser.add_argument(
        "--bricks", action="append", metavar="FOLDER",
        help="with coadd/RRR/BRICK of the Legacy Surveys; may be given again (TREE/legacysurvey)",
    )  # fmt: skip
    parser.add_argument(
        "--held-out", metavar="TABLE", help="positions that are never trained on, such as MaNGA's drpall"
    )
    parser.add_argument("--bands", default="griz", help="that are kept (griz)")
    parser.add_argument("--per-unit", type=count, default=512, metavar="N", help="galaxies of a shard, at least (512)")
    parser.add_argument("--seed", type=int, default=0, help="of the places of galaxies in their stamps (0)")
    parser.add_argument("--workers", type=count, default=1, metavar="W", help="processes (1); results are the same")
    parser.add_argument("--chunk", type=count, default=1, metavar="I", help="do the I-th part of the units ...")
    parser.add_argument("--of", type=count, default=1, metavar="N", help="... of N")
    add_output(parser)


def _shards(options):
    from ..shards.job import shards_to_folder, summary_lines
    from ..train.shards.store import INDEX

    names = ("bricks", "held_out", "per_unit", "seed", "workers", "overwrite", "resume")
    index = shards_to_folder(
        options.tree, options.output, bands=tuple(options.bands), chunk=(options.chunk, options.of),
        progress=not options.quiet, **{name: getattr(options, name) for name in names},
    )  # fmt: skip
    if options.quiet:
        return
    if index is None:
        print("Other chunks have units left to do: the index is written with the last of them.")
        return
    print(Path(options.output) / INDEX, *summary_lines(index), sep="\n")
