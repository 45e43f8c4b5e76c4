# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""``fiberifu train`` and ``fiberifu calibrate``: a model from a recipe, and its errors made right."""

import logging

from .arguments import count, positive

__all__ = ["add_calibrate", "add_train"]

TRAIN = """\
Trains a model by a recipe, on simulated galaxies; the weights go to DIR/model.
The same command resumes a run."""

CALIBRATE = """\
Measures how far the errors of a model are right, on fibres all over simulated galaxies that it was not trained on, and
writes the model with what mends them (factors, temperatures, how far errors reach), and with what tells images that are
unlike those of its training, to the folder DIR."""


def add_train(command):
    """Add ``train`` to the command line; ``command`` makes its parser."""
    parser = command("train", _train, "train a model", TRAIN)
    parser.add_argument("recipe", metavar="RECIPE", help="TOML file")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--data", metavar="FOLDER", help="of the survey templates")
    parser.add_argument("--weights", metavar="MODEL", help="model folder to start a new run from")
    parser.add_argument("--stop-after", type=positive, metavar="SECONDS")
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")
    parser.add_argument("--tensorboard", action="store_true", help="write events too, where tensorboard is installed")


def add_calibrate(command):
    """Add ``calibrate``."""
    parser = command("calibrate", _calibrate, "make a model's errors right", CALIBRATE)
    parser.add_argument("model", metavar="MODEL", help="model folder")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the calibrated model")
    parser.add_argument("--data", metavar="FOLDER", help="of the survey templates")
    parser.add_argument("--galaxies", type=count, default=400, help="(400)")
    parser.add_argument("--fibers", type=count, default=8, help="of each, anywhere in it (8)")
    parser.add_argument("--images", type=count, default=1600, help="training images that tell odd ones (1600)")
    parser.add_argument("--seed", type=count, metavar="N", help="of the galaxies")


def _train(options):
    from ..train import main as train

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
    from ..train.calibrate import main as calibrate

    said = calibrate(
        options.model,
        options.output,
        data=options.data,
        galaxies=options.galaxies,
        fibers=options.fibers,
        images=options.images,
        seed=options.seed,
        size=half_light_radius,
    )
    print(said)


def half_light_radius(image, sigma, psf_fwhm, redshift):
    """Half-light radius [arcsec] of the galaxy in a simulated stamp, as `fiberifu.shape.galaxy_shape` finds it at use.

    ``image, sigma`` (4, S, S) [nanomaggy/arcsec2], columns to the East; sigma inf where nothing was measured. NaN where
    no galaxy is found.
    """
    import numpy as np

    from ..datasets import simulated_image
    from ..image import prepare_image

    present = np.isfinite(sigma).any((1, 2))
    maps = {"image": image, "sigma_image": sigma, "present": present, "psf_fwhm": psf_fwhm, "redshift": redshift}
    galaxy = prepare_image(simulated_image(maps, 0.262, "calibration")).galaxy
    return float("nan") if galaxy is None else galaxy.half_light_radius
