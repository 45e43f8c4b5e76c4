# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu lines``: emission-line maps of a cube."""

from .arguments import add_output, positive

__all__ = ["add"]

DESCRIPTION = """\
Fits the emission lines of every spaxel of a cube, and writes to the folder DIR:
  NAME_maps.fits   fluxes, widths, kinematics, with errors and masks, as MaNGA's MAPS
  NAME_maps.png    the main ones, and the BPT diagram, on one page"""

EXAMPLES = """\
CUBE is a LOGCUBE of MaNGA, a cube of SAMI (or its blue and red arm), of fiberifu, or anything that specutils reads.
Resolution and medium are taken from the file where it has them.

examples:
  fiberifu lines manga-7443-12703-LOGCUBE.fits.gz --redshift 0.0402 --continuum ssp -o maps
  fiberifu lines 41144_A_blue.fits 41144_A_red.fits --redshift 0.02964 --continuum ssp -o maps
  fiberifu lines cube.fits --redshift 0.03 --lsf 2000 --lines Ha,N2,S2_6716,S2_6731 --components 2 -o maps

--continuum ssp subtracts stellar absorption, without which H-beta is several Angstrom of equivalent width too weak;
it needs template spectra in the folder that the environment variable FIBERIFU_DATA names (see the documentation)."""


def add(command):
    """Add the command to the command line; ``command`` makes its parser."""
    parser = command("lines", _lines, "emission-line maps of a cube", DESCRIPTION, EXAMPLES)
    parser.add_argument("cube", nargs="+", metavar="CUBE", help="a FITS file, or the blue and the red arm")
    parser.add_argument("--redshift", type=float, metavar="Z", help="systemic; the file's by default")
    parser.add_argument("--lines", default="strong", help="strong, all, or names such as Ha,N2,O3 (strong)")
    parser.add_argument("--continuum", default="2", metavar="C", help="ssp, or the degree of a polynomial (2)")
    parser.add_argument("--starlight", choices=("nnls", "ppxf"), default="nnls", help="who fits it; ppxf if installed")
    parser.add_argument("--lsf", type=positive, metavar="R", help="resolving power lambda/FWHM; the file's by default")
    parser.add_argument("--medium", choices=("vacuum", "air"), help="of the wavelengths; the file's by default")
    parser.add_argument("--kinematics", choices=("all", "balmer+forbidden", "table"), default="all")
    parser.add_argument("--components", type=int, choices=(1, 2), default=1, help="2: a broad one where it is needed")
    parser.add_argument("--errors", choices=("formal", "mc"), default="formal", help="mc: from fits with new noise")
    parser.add_argument("--name", help="first part of the files' names; the cube's by default")
    add_output(parser)


def _lines(options):
    from .. import jobs, line_job
    from ..output import MANIFEST

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
