# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Where a file comes from: the cards that keep a prediction from passing as an observation.

Every file that fiberifu writes says in its primary header and in each data extension that it was predicted or
simulated, by which weights, from which image.  Readers of truth call `refuse_predicted`.
"""

import math
import re
from dataclasses import dataclass, field, replace
from importlib import metadata
from os import PathLike, fspath
from pathlib import Path

from astropy.io import fits

__all__ = ["Provenance", "check_file_name", "is_predicted", "refuse_predicted", "software_version"]

ORIGIN = "fiberifu"
NAME_PARTS = {"PREDICTED": "predicted", "SIMULATED": "sim"}
# Identifiers of real MaNGA data: a file of ours that carried one could be taken for the observation.
FORBIDDEN = ("MANGAID", "PLATEIFU", "VERSDAP")
CARDS = {  # field -> (keyword, comment)
    "datatype": ("DATATYPE", "PREDICTED from an image, or SIMULATED"),
    "model_id": ("MODELID", "model that predicted this"),
    "weights_sha256": ("WSHA256", "sha256 of the weights"),
    "training_data": ("TRAINSET", "what the model was trained on"),
    "version": ("FIBIFUV", "fiberifu version"),
    "image_sha256": ("IMGSHA", "sha256 of the input image"),
    "redshift": ("REDSHIFT", "redshift used"),
    "redshift_sigma": ("ZSIGMA", "1-sigma uncertainty of the redshift"),
    # Not ZSOURCE, which the FITS WCS standard reserves for a number.
    "redshift_source": ("ZSRC", "where the redshift comes from"),
    "seed": ("SEED", "seed of the random numbers"),
    "ebv": ("EBVGAL", "[mag] Galactic E(B-V), SFD scale"),
    "extinction_corrected": ("EXTCORR", "T: corrected for Galactic extinction"),
}
#: Of further cards.
COMMENTS = {
    "BANDS": "of the image that the network saw",
    "FLUXCAL": "FIBER: in aperture; DESI: point source",
    "ERRSCALE": "of errors; 1: as the network has them",
    "PRECISN": "of the network's numbers",
}


def software_version():
    """Version of the installed fiberifu (``"unknown"`` where it runs without being installed)."""
    try:
        return metadata.version("fiberifu")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The history of a prediction or a simulation, as written in FITS headers.

    Parameters
    ----------
    datatype : {'PREDICTED', 'SIMULATED'}
        Predicted from an image by a model, or simulated (truth known).
    model_id, weights_sha256, training_data : str, optional
        Name of the model (or of the simulator's recipe), hash of its weights, what it was trained on.
    image_sha256 : str, optional
        Hash of the input image.
    redshift, redshift_sigma : float, optional
        Redshift given to the model, and its uncertainty.
    redshift_source : str, optional
        ``"user"``, ``"context"``, ``"photometric"`` ...; ``"simulation"``: what was put into the simulation.
    seed : int, optional
        Seed of the random numbers.
    ebv : float, optional
        Galactic E(B-V) in mag (SFD scale).
    extinction_corrected : bool
        Whether the fluxes are corrected for it.
    version : str
        Version of fiberifu; the running one by default.
    extra : dict
        Further cards; keys are FITS keywords of at most 8 characters, values str, bool, int or finite float.
    """

    datatype: str = "PREDICTED"
    model_id: str | None = None
    weights_sha256: str | None = None
    training_data: str | None = None
    image_sha256: str | None = None
    redshift: float | None = None
    redshift_sigma: float | None = None
    redshift_source: str | None = None
    seed: int | None = None
    ebv: float | None = None
    extinction_corrected: bool = False
    version: str = field(default_factory=software_version)
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.datatype not in NAME_PARTS:
            raise ValueError(f"datatype is {self.datatype!r}; it must be 'PREDICTED' or 'SIMULATED'")
        taken = {keyword for keyword, _ in CARDS.values()} | {"ORIGIN", "FIBEXTRA", *FORBIDDEN}
        for key in self.extra:
            if not re.fullmatch(r"[A-Z0-9_-]{1,8}", key) or key in taken:
                raise ValueError(
                    f"extra has the key {key!r}; it must be a FITS keyword (at most 8 characters out of "
                    f"A-Z, 0-9, '_', '-') and none of {', '.join(sorted(taken))}"
                )

    def replace(self, **changes):
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_header(self, header=None):
        """Write the cards into ``header`` (a new one by default) and return it.

        Cards of unknown (None or NaN) fields are removed, as are identifiers of real observations.
        """
        header = fits.Header() if header is None else header
        for keyword in (*FORBIDDEN, *(keyword for keyword, _ in CARDS.values())):
            header.remove(keyword, ignore_missing=True)
        header["ORIGIN"] = (ORIGIN, "written by fiberifu: not an observation")
        for name, (keyword, comment) in CARDS.items():
            if name == "redshift" and self.redshift_source == "simulation":
                comment = "true redshift of the simulated galaxy"
            _set_card(header, keyword, getattr(self, name), comment)
        _set_card(header, "FIBEXTRA", ",".join(self.extra) or None, "further provenance cards")
        for key, value in self.extra.items():
            _set_card(header, key, value, COMMENTS.get(key, ""))
        return header

    @classmethod
    def from_header(cls, header):
        """Read back what `to_header` wrote; ValueError when the header has no DATATYPE card."""
        if "DATATYPE" not in header:
            raise ValueError("header has no DATATYPE card; only files written by fiberifu have a Provenance")
        values = {name: header[keyword] for name, (keyword, _) in CARDS.items() if keyword in header}
        extra = {key: header[key] for key in header.get("FIBEXTRA", "").split(",") if key in header}
        return cls(**{"version": "unknown", **values}, extra=extra)


def _set_card(header, keyword, value, comment):
    """Set one card; None and non-finite numbers, which FITS cannot hold, are left out."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return
    if isinstance(value, str):  # FITS holds printable ASCII on one line
        value = " ".join(value.split()).encode("ascii", "backslashreplace").decode()
        if len(value) + len(comment) > 60:
            comment = ""
    elif hasattr(value, "item"):
        value = value.item()
    header[keyword] = (value, comment)


def is_predicted(source):
    """Whether a header, an `~astropy.io.fits.HDUList` or a FITS file says that its data were predicted.

    Parameters
    ----------
    source : `~astropy.io.fits.Header`, mapping, `~astropy.io.fits.HDUList` or path
        In a file any extension with the mark is enough.  A file of ours that lost its DATATYPE card counts as
        predicted.
    """
    if isinstance(source, str | PathLike):
        with fits.open(source) as hdus:
            return is_predicted(hdus)
    if isinstance(source, fits.HDUList):
        return any(is_predicted(hdu.header) for hdu in source)
    datatype = str(source.get("DATATYPE", "")).strip().upper()
    ours = str(source.get("ORIGIN", "")).strip().lower() == ORIGIN
    return datatype == "PREDICTED" or (ours and datatype != "SIMULATED")


def refuse_predicted(source):
    """Raise ValueError if ``source`` (as for `is_predicted`) was predicted: it cannot serve as truth."""
    if is_predicted(source):
        name = fspath(source) if isinstance(source, str | PathLike) else "the header"
        raise ValueError(
            f"{name} says DATATYPE='PREDICTED': predictions cannot be truth for training or validation; "
            "give an observation or a simulation"
        )


def check_file_name(path, datatype="PREDICTED"):
    """Check that the name of a file tells what it holds, and return it as a `~pathlib.Path`.

    Parameters
    ----------
    path : str or path-like
        Predicted data need ``predicted`` in the file name, simulated data ``sim`` (and not ``predicted``).
    datatype : {'PREDICTED', 'SIMULATED'}

    Raises
    ------
    ValueError
        With a name that would do.
    """
    path = Path(path)
    if datatype not in NAME_PARTS:
        raise ValueError(f"datatype is {datatype!r}; it must be 'PREDICTED' or 'SIMULATED'")
    part, name = NAME_PARTS[datatype], path.name.lower()
    if part in name and (datatype == "PREDICTED" or "predicted" not in name):
        return path
    stem, dot, suffix = path.name.partition(".")
    stem = re.sub(r"[-_]?predicted", "", stem, flags=re.IGNORECASE)
    better = path.with_name(f"{stem}_{part}{dot}{suffix}".lstrip("_"))
    raise ValueError(
        f"path is {str(path)!r}; {datatype.lower()} data need {part!r} in the file name, for example {str(better)!r}"
    )
