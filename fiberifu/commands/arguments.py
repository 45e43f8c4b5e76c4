# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""What arguments of several commands share: types, options, and what the library says of arguments, said of options."""

import argparse
import contextlib
import re

__all__ = [
    "add_common",
    "add_output",
    "add_seed",
    "arcsec",
    "arguments_as_options",
    "by_band",
    "common",
    "count",
    "positive",
    "redshift",
    "sky",
]

#: Where a name may begin: not within a path, a quotation or another word.
START = r"(?<![\w/\\'\"=.-])"


def add_output(parser, *, page_only=False):
    """Options of every command that writes a folder; the group of those that say what becomes of an old one."""
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--quiet", action="store_true", help="say nothing but warnings and errors")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace files in DIR")
    again.add_argument("--resume", action="store_true", help="keep the files that are there; same settings only")
    if page_only:
        again.add_argument("--page-only", action="store_true", help="draw the page again, from the scores in DIR")


def add_common(parser):
    """Options of commands that predict."""
    add_output(parser)
    parser.add_argument(
        "--model", metavar="MODEL", help="a model folder, or hf://owner/name; the bundled one by default"
    )
    add_seed(parser)


def add_seed(parser):
    """The seed, for commands that draw random numbers."""
    parser.add_argument("--seed", type=int, default=0, help="of random numbers (0); recorded in the files")


def common(options):
    """Keywords of the library for `add_common`."""
    names = ("model", "seed", "overwrite", "resume")
    return {name: getattr(options, name) for name in names} | {"progress": not options.quiet}


def positive(text):
    """A finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; units are fixed (arcsec)") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def count(text):
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def by_band(text):
    """A number for all bands, or ``g=25.1,r=25.3``: a float, or a dict of them."""
    values = {}
    try:
        if "=" not in text:
            return float(text)
        for part in text.split(","):
            band, value = part.split("=")
            if band.strip() in values:
                raise argparse.ArgumentTypeError(f"{text!r} has band {band.strip()} twice")
            values[band.strip()] = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor such as g=25.1,r=25.3") from None
    return values


def redshift(text):
    """``Z`` or ``Z,SIGMA``; whether the values make sense is for the library to say."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text!r} is neither Z nor Z,SIGMA")
    return parts[0] if len(parts) == 1 else tuple(parts)


def arcsec(value):
    """A number of the command line as an angle."""
    import astropy.units as u

    return value * u.arcsec


def sky(pairs):
    """RA and Dec, in degrees or sexagesimal (then RA in hours), as SkyCoord."""
    from astropy.coordinates import Angle, SkyCoord

    def angle(ra):  # each by itself: degrees beside sexagesimal ones stay degrees
        return Angle(ra, "hourangle" if ":" in ra or "h" in ra else "deg")

    try:
        return SkyCoord([angle(ra).deg for ra, _ in pairs], [Angle(dec, "deg").deg for _, dec in pairs], unit="deg")
    except ValueError as error:
        raise ValueError(f"RA DEC is {pairs}: {error}; give degrees, or 1:51:48.5 -0:15:50") from error


@contextlib.contextmanager
def arguments_as_options(*names, **others):
    """What the library says of its arguments, said of options: "galaxies is 3" becomes "--galaxies is 3"."""
    options = {name: "--" + name.replace("_", "-") for name in names} | others
    try:
        yield
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of the library
            raise
        text = re.sub(START + r"(\w+)=True(?: \(--[\w-]+\))?", lambda m: options.get(m[1], m[0]), str(error))
        text = re.sub(r"^(\w+)(?= is | = | must |:)", lambda m: options.get(m[1], m[0]), text)
        text = re.sub(START + r"(\w+)=(?=[\s,;.)]|$)", lambda m: options.get(m[1], m[0]), text)  # give ebv=
        text = re.sub(START + r"(\w+)=", lambda m: f"{options[m[1]]} " if m[1] in options else m[0], text)
        text = re.sub(r"image\.meta\['(\w+)'\]", r"\1 in the image's header", text)
        raise ValueError(text) from error
