# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu infer``: options to one call of `fiberifu.infer_job.infer_catalog`."""

from .arguments import add_common, positive

__all__ = ["add"]

DESCRIPTION = """\
Predicts every galaxy of a catalogue, and writes to the folder DIR tables with one row for each:
  chunk_predicted_00000-of-00010.fits   line fluxes of the field, of rings and of a fibre on the centre, with their
                                        errors; latents of the image; flags; and STATUS, why a galaxy has none;
                                        with --maps a second table, of spaxels: the line maps of all galaxies
With --export NAME: cube, line maps and summary of that galaxy instead, as 'fiberifu observe' makes them."""

EXAMPLES = """\
CATALOG is an ECSV or FITS table. Its columns are known by the usual names, in any unit: RA and DEC (or a SkyCoord);
Z or REDSHIFT; IMAGE, a file, relative to the catalogue; and, if they are there, NAME, SIZE (side of the field) or
SHAPE_R (the field then reaches to 1.5 half-light radii), EBV, ZERR, PSF, PSFSIZE_G ... Others are named by --column.

examples:
  fiberifu infer galaxies.ecsv -o predicted --executor process --workers 4
  fiberifu infer galaxies.ecsv -o predicted --executor process --workers 4 --resume
  fiberifu infer desi.fits --column redshift=Z_HP --image 'cutouts/{TARGETID}.fits' -o predicted
  fiberifu infer galaxies.ecsv -o predicted --chunk $SLURM_ARRAY_TASK_ID --of 100
  fiberifu infer galaxies.ecsv --export NGC1309 -o ngc1309

A run that was interrupted, or killed, goes on with --resume; with --chunk it always does. Galaxies whose image or
redshift is no good are flagged, and the rest goes on. Results do not depend on chunks, executor or workers."""


def add(command):
    """Add the command to the command line; ``command`` makes its parser."""
    parser = command("infer", _infer, "all galaxies of a catalogue", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add("catalog", metavar="CATALOG", help="ECSV or FITS table")
    add("--executor", choices=("none", "process", "dask"), help="who computes (process, or none for one worker)")
    add("--workers", type=int, default=1, metavar="N", help="processes, one thread each (1)")
    add("--scheduler", metavar="ADDRESS", help="of dask; without it dask's workers are started here")
    add("--chunk", type=int, metavar="I", help="do only this one of N chunks, from 0")
    add("--of", type=int, metavar="N", help="chunks, each a table (of at most 1000 galaxies)")
    add("--column", action="append", default=[], metavar="MEANING=NAME", help="of a column: redshift=Z_HP; repeatable")
    add("--image", metavar="PATTERN", help="of the image files, with columns in braces: 'cutouts/{NAME}.fits'")
    add("--reader", default="auto", choices=("auto", "legacysurvey", "des"), help="of the images (auto)")
    add(
        "--size", type=positive, default=15.0, metavar="S", help="side of the field where CATALOG has none, arcsec (15)"
    )
    add("--spaxel", type=positive, default=0.75, metavar="P", help="side of a spaxel in arcsec (0.75)")
    add("--aperture", type=positive, default=1.5, metavar="D", help="diameter of the fibre on the centre, arcsec (1.5)")
    add("--lines", default="strong", help="strong, all, or names such as Ha,N2,O3 (strong)")
    add("--draws", type=int, default=64, metavar="N", help="from which errors of sums are taken (64)")
    add("--maps", action="store_true", help="line maps of every galaxy, too, as a second table")
    add("--export", metavar="NAME", help="cube, maps and summary of one galaxy only; #12 is that of row 12, from 0")
    add_common(parser)


def _infer(options):
    import logging

    import astropy.units as u

    from .. import infer_job
    from ..jobs import size_of
    from ..output import MANIFEST

    logging.getLogger("fiberifu.decode").setLevel(logging.WARNING)  # a line for each galaxy, otherwise
    names = ("image", "reader", "model", "seed", "overwrite", "resume")
    common = {name: getattr(options, name) for name in names} | {"progress": not options.quiet}
    common |= {"columns": _columns(options.column)}
    common |= {"size": options.size * u.arcsec, "spaxel": options.spaxel * u.arcsec}
    if options.export is not None:
        _, paths = infer_job.export_galaxy(options.catalog, options.output, options.export, **common)
        lines = ["Predicted from an image: not an observation."]
    else:
        lines = options.lines if options.lines in ("strong", "all") else options.lines.split(",")
        kind = options.executor or ("process" if options.workers > 1 or options.scheduler else "none")
        with infer_job.open_executor(kind, options.workers, options.scheduler) as executor:
            paths = infer_job.infer_catalog(
                options.catalog,
                options.output,
                executor=executor,
                lines=lines,
                aperture=options.aperture * u.arcsec,
                **{name: getattr(options, name) for name in ("chunk", "of", "draws", "maps")},
                **common,
            )
        lines = infer_job.summary_lines(paths)
    if options.quiet:
        return
    for path in paths[:10]:
        print(f"{path}  {size_of(path)}")
    if len(paths) > 10:
        print(f"... {len(paths)} tables in all")
    print(f"{paths[0].parent / MANIFEST}  (settings)")
    print(*lines, sep="\n")


def _columns(items):
    pairs = [item.partition("=") for item in items]
    if wrong := [item for item, pair in zip(items, pairs, strict=True) if not (pair[0] and pair[2])]:
        raise ValueError(f"--column {wrong[0]}: give MEANING=NAME, such as redshift=Z_HP")
    return {meaning: name for meaning, _, name in pairs}
