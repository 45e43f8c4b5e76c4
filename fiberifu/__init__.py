# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Integral field spectroscopy of galaxies, predicted from images; learned from one fibre per galaxy.

The way of the data, each arrow a module or sub-package::

 use   CCDData + SkyCoord --image--> patches --model--> coefficients
       --cube--> Spectrum --lines--> LineMaps --plot--> figures
 read  survey files --surveys--> CCDData
 make  galaxy recipes --simulate--> images and fibre spectra --train--> checkpoint --pretrained--> VirtualIFU
 judge predictions x truth --validate--> scores; simulated galaxies x real ones --validate.realism--> how realistic

Imports run one way, along the arrows. Names load at their first use, so that importing the package is cheap::

 from fiberifu import VirtualIFU
 ifu = VirtualIFU.from_pretrained()
 cube = ifu.observe_cube(image, redshift=0.03, size=30 * u.arcsec, spaxel=0.5 * u.arcsec)
"""

from importlib import import_module

__all__ = [
    "Flag",
    "Gaussian",
    "Prediction",
    "Spaxel",
    "VirtualIFU",
    "cube",
    "datasets",
    "flags",
    "image",
    "lines",
    "model",
    "plot",
    "pretrained",
    "simulate",
    "surveys",
    "train",
    "validate",
]

# Where the names live that are not sub-modules.
_HOME = {
    "Flag": "flags",
    "Gaussian": "pointing",
    "Prediction": "prediction",
    "Spaxel": "pointing",
    "VirtualIFU": "observe",
}


def __getattr__(name):
    """Load a public name at its first use (PEP 562)."""
    if name == "__version__":
        value = _version()
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:
        return import_module(f".{name}", __name__)  # the import binds the name itself
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version():
    """Version of the installed package; ``"unknown"`` where it runs without being installed."""
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "unknown"


def __dir__():
    return sorted({*globals(), *__all__, "__version__"})
