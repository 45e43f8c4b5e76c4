# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu observe`` and ``fiberifu demo``: a cube or spectra, line maps and a page, from an image."""

import re

from .arguments import add_common, arcsec, arguments_as_options, by_band, common, positive, redshift, sky

__all__ = ["add_demo", "add_observe"]

DEMO = """\
Runs the main job on an embedded image of a simulated galaxy, with the bundled model and without a network:
a cube, maps of emission lines and a one-page summary, in the folder DIR."""

OBSERVE = """\
Predicts a cube, or the spectra of fibres (--position), from an image, and writes to the folder DIR:
  NAME_predicted_cube.fits      cube (wave, y, x) with its errors; or NAME_predicted_spectra.fits
  NAME_predicted_maps.fits      emission lines, as MaNGA's MAPS;   or NAME_predicted_lines.ecsv
  NAME_predicted_summary.png    all of it on one page"""

OBSERVE_EXAMPLES = """\
IMAGE is a cutout of the Legacy Surveys' viewer, or one file per band: BAND=FILE, or FILE where its header tells the
band. Files of the Dark Energy Survey, of Pan-STARRS1 and frames of the SDSS are known; any other needs a celestial WCS,
and BUNIT (such as nJy) or a zero point, of its header or of --zero-point. Bands are g, r, i, z, and
W1, W2 for the published network; any may lack.

examples:
  fiberifu observe cutout.fits --redshift 0.03 -o results
  fiberifu observe cutout.fits --redshift 0.03 --size 40 --spaxel 1 -o results
  fiberifu observe g=DES_g.fits r=DES_r.fits z=DES_z.fits --redshift 0.03 -o spiral
  fiberifu observe g=my_g.fits r=my_r.fits --zero-point g=25.1,r=25.3 --psf-fwhm 1.1 --redshift 0.03 -o mine
  fiberifu observe cutout.fits --redshift 0.03 --position 59.1067 -30.4848 -o fibre

A cutout with its errors: https://www.legacysurvey.org/viewer/cutout.fits?ra=RA&dec=DEC&layer=ls-dr9&invvar"""

#: Lines that are looked for in a prediction, the first that is on its pixels, in words.
LINES = {"Ha": "H-alpha", "Hb": "H-beta", "O2_3729": "[O II] 3729"}


FAR_OFF = 0.5  # mag: a self-check beyond is no prediction of this image


def add_demo(command):
    """Add ``demo`` to the command line; ``command`` makes its parser."""
    add_common(command("demo", _demo, "all of it on an embedded galaxy", DEMO))


def add_observe(command):
    """Add ``observe``."""
    parser = command("observe", _observe, "a cube, or spectra, from your image", OBSERVE, OBSERVE_EXAMPLES)
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="a FITS file, or BAND=FILE for each band")
    parser.add_argument(
        "--redshift",
        type=redshift,
        metavar="Z",
        help="redshift, or Z,SIGMA; without it the image's header is asked, then the model guesses, with a warning",
    )
    parser.add_argument("--size", type=positive, metavar="S", help="side of the cube in arcsec (30)")
    parser.add_argument(
        "--position",
        nargs=2,
        action="append",
        metavar=("RA", "DEC"),
        help="a fibre, in degrees or as 1:51:48.5 -0:15:50; may be given again",
    )
    parser.add_argument("--spaxel", type=positive, metavar="P", help="side of a spaxel in arcsec (0.5)")
    parser.add_argument("--center", nargs=2, metavar=("RA", "DEC"), help="of the cube; the image's by default")
    parser.add_argument(
        "--aperture",
        type=positive,
        metavar="D",
        help="diameter of the fibres in arcsec (1.5: DESI; 2: MaNGA; 3: SDSS)",
    )
    parser.add_argument("--psf", metavar="FILE", help="PSF file of the Legacy Surveys' viewer (coadd-psf)")
    parser.add_argument(
        "--psf-fwhm",
        type=by_band,
        metavar="F",
        help="FWHM of the PSF in arcsec, or g=1.3,r=1.2; the header's by default",
    )
    parser.add_argument(
        "--zero-point",
        type=by_band,
        metavar="M",
        help="AB magnitude of one unit of the file, or g=25.1,r=25.3; the header's by default",
    )
    parser.add_argument("--ebv", type=float, metavar="E", help="Galactic E(B-V), SFD scale, in mag (0)")
    parser.add_argument("--deredden", action="store_true", help="correct the output for Galactic extinction")
    parser.add_argument("--name", help="first part of the files' names; the image's by default")
    add_common(parser)


def _demo(options):
    from .. import jobs

    _report(options, *jobs.run_demo(options.output, **common(options)))


def _observe(options):
    from .. import jobs

    _check_places(options)
    image, files = _image(options)
    keywords = common(options)
    keywords |= {"redshift": options.redshift, "ebv": options.ebv, "deredden": options.deredden}
    if options.position:
        keywords |= {"positions": sky(options.position), "aperture": arcsec(options.aperture or 1.5)}
    else:
        keywords |= {"size": arcsec(options.size or 30), "spaxel": arcsec(options.spaxel or 0.5)}
        keywords["center"] = sky([options.center])[0] if options.center else None
    inputs = {str(file): jobs.sha256_of(file) for file in [*files, *([options.psf] if options.psf else [])]}
    inputs |= {key: getattr(options, key) for key in ("zero_point", "psf_fwhm") if getattr(options, key) is not None}
    name = options.name or jobs.name_of(files)
    names = ("redshift", "size", "spaxel", "center", "aperture", "ebv", "deredden", "model")
    with arguments_as_options(*names, positions="--position", source="--model"):
        done = jobs.observe_to_folder(image, options.output, name=name, inputs=inputs, **keywords)
    _report(options, *done)


def _image(options):
    """The image and its files; errors name options instead of arguments."""
    from ..image_files import read_image

    fwhm = options.psf_fwhm
    if fwhm is not None:
        fwhm = {band: arcsec(x) for band, x in fwhm.items()} if isinstance(fwhm, dict) else arcsec(fwhm)
    try:
        return read_image(options.image, psf=options.psf, zero_point=options.zero_point, psf_fwhm=fwhm)
    except ValueError as error:
        text = re.sub(r"\b(zero_point|psf_fwhm)\b", lambda m: "--" + m[1].replace("_", "-"), str(error))
        raise ValueError(text) from error


def _check_places(options):
    """Options of cubes and of fibres do not mix; one that would be ignored is refused."""
    wrong = ("size", "spaxel", "center") if options.position else ("aperture",)
    if named := [f"--{name}" for name in wrong if getattr(options, name) is not None]:
        what = "fibres (--position)" if options.position else "a cube; fibres need --position"
        raise ValueError(f"{', '.join(named)}: has no meaning for {what}")


def _report(options, prediction, paths):
    """The files and their sizes, the self-check, the flags in words."""
    from .. import jobs
    from ..output import MANIFEST
    from ..plot.summary import flags_in_words
    from ..support import IN_WORDS

    if options.quiet:
        return
    for path in paths:
        print(f"{path}  {jobs.size_of(path)}")
    print(f"{paths[0].parent / MANIFEST}  (settings)")
    if prediction is None:
        print("All of it was there already.")
        return
    print(f"Self-check in mag, + is an image fainter than the prediction: {_check_in_words(prediction)}")
    off = [row["band"] for row in prediction.self_check if abs(row["residual"].value) > FAR_OFF]
    if off:
        print(
            f"  {', '.join(off)} off by more than {FAR_OFF} mag: check the image's unit and zero point, and the model"
        )
    if words := _line_in_words(prediction):
        print(words)
    worst = prediction.oddity.worst if prediction.oddity is not None else None
    if worst is not None:
        share, look = 100 * worst[1], IN_WORDS[worst[2]]
        print(f"Oddity: {share:.1f} % of the training images are less odd (flagged above 99 %); oddest is {look}")
    print("Flags:", *(flags_in_words(prediction.flags) or ["none"]), sep="\n  ")
    print(f"Predicted from an image by the model {prediction.provenance.model_id}: not an observation.")


def _check_in_words(prediction):
    """Residuals in the bands that are measured somewhere; fluxes where there is no logarithm of their ratio."""
    check = ", ".join(
        f"{row['band']} {row['residual'].value:+.3f}" if row["residual"] == row["residual"]  # else of no logarithm
        else f"{row['band']} {row['predicted'].value:.3g} nanomaggy predicted, {row['observed'].value:.3g} in the image"
        for row in prediction.self_check if row["n"]
    )  # fmt: skip
    return check or "no position to compare"


def _line_in_words(prediction):
    """How well the first line is predicted that is on the pixels, where the image has light; "" if there is none."""
    import numpy as np

    from ..flags import Flag

    snr, bright = prediction.line_maps("strong").snr, prediction.bright(5)
    line = next((key for key in LINES if (~snr[key].mask & bright).any()), None)
    if line is None:
        return ""
    light = ~snr[line].mask & bright
    median = float(np.nanmedian(snr[line].data[light]))
    where = f", median of the {light.sum()} positions with light" if light.size > 1 else ""
    if np.any(prediction.flags & int(Flag.FORMAL_ERRORS)):  # a fit knows nothing of other galaxies
        advice = "" if median > 2 else ": no line to speak of"
        return f"{LINES[line]} fitted to the predicted spectra, flux over its formal error{where}: {median:.1f}{advice}"
    advice = "" if median > 2 else ": hardly more than what the model expects of any galaxy"
    return f"Predicted {LINES[line]} flux over its error{where}: {median:.1f}{advice}"
