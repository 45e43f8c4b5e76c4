# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One galaxy, from its files to its files: ``truth, image -> prediction -> comparison, figure, row``."""

import functools
import json
import warnings
from pathlib import Path

from astropy.coordinates import SkyCoord

from ...image import prepare_image
from ...line_job import read_cube_files
from ...output import atomic_path
from ...provenance import Provenance
from ..held_out import check_seed
from .compare import Ellipse, compare, galaxy_row
from .cube_fit import fit_cube
from .figure import draw_galaxy
from .images import cube_image, find_image, maps_image
from .observe import predict_spaxels
from .observed import Unusable, read_maps
from .store import plain, write_comparison

__all__ = ["run_galaxy", "stamp"]


def run_galaxy(job, files):
    """Compare one galaxy and write its files; what a worker does.

    Parameters
    ----------
    job : dict
        model, folder, options, provenance (model_id, weights_sha256, training_data, seed).
    files : `~fiberifu.validate.manga.find.GalaxyFiles`

    Returns
    -------
    dict
        Its row: ``reason`` says why it was skipped, or is "".
    """
    folder = Path(job["folder"])
    row = {"name": files.name, "reason": "", "files": stamp(files), "provenance": _cards(job["provenance"])}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one galaxy among many: what matters is in its notes
            row |= _compare(_load(job["model"]), files.local(), job, folder)
    except Exception as error:  # one bad galaxy does not stop the others
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        row["reason"] = f"{kind}{error}" or type(error).__name__
    with atomic_path(folder / f"{files.name}_predicted.json") as temporary:
        temporary.write_text(json.dumps(plain(row), indent=1, allow_nan=False), encoding="utf-8")
    return row


def _cards(known, **more):
    """What keeps a file from passing as an observation, as in the headers of predicted FITS files."""
    return dict(Provenance(datatype="PREDICTED", **known, **more).to_header())


def _compare(ifu, files, job, folder):
    """Row of a galaxy; its arrays and its figure are written on the way."""
    options = job["options"]
    if files.critical:
        raise Unusable("DRP3QUAL is CRITICAL in drpall: must not be used")
    truth_from = options["truth"]
    if truth_from == "auto":
        truth_from = "maps" if files.maps else "cube"
    if not (files.maps if truth_from == "maps" else files.cube):
        raise ValueError(f"no {truth_from.upper()} file of it, which truth={truth_from!r} asks for")
    cube = read_cube_files(files.cube) if files.cube and (truth_from == "cube" or _lacks(files, options)) else None
    center = files.position
    if truth_from == "maps":
        seen_by = read_maps(files.maps, redshift=files.redshift, cube=files.cube[0] if files.cube else None)
        center = _position(seen_by.header) if center is None else center
        image = _image(files, options, cube, seen_by, center)
        ellipse = _ellipse(files, seen_by.header, center, image)
        inside = ellipse.offsets(seen_by.wcs, seen_by.group.shape)[2] < options["radius"]
        seen_by = seen_by.within(inside)
    else:
        center = _position(cube.meta.get("header")) if center is None else center
        image = _image(files, options, cube, None, center)
        ellipse = _ellipse(files, cube.meta.get("header"), center, image)
        near = lambda wcs, shape: ellipse.offsets(wcs, shape)[2] < options["radius"]  # noqa: E731
        seen_by = fit_cube(cube, files.cube[0], redshift=files.redshift, near=near,
                                    continuum=options["continuum"])  # fmt: skip
    wanted = seen_by.group >= 0
    seen = predict_spaxels(ifu, image[0], seen_by.wcs, wanted, redshift=seen_by.redshift, ebv=seen_by.ebv,
                                   psf_fwhm=seen_by.psf_fwhm, spaxel=seen_by.spaxel)  # fmt: skip
    made = compare(files.name, seen_by, seen, wanted, ellipse)
    seen.notes.extend(_seed_note(seen_by))
    if seen_by.binned:
        seen.notes.append("binned: not in sums within 1 Re")
    about = {"truth": seen_by.kind, "image": f"{image[1]} ({seen.bands})", "redshift": seen_by.redshift,
             "ebv": seen_by.ebv, "psf_fwhm": seen_by.psf_fwhm, "beam": seen.beam, "spaxels": int(wanted.sum()),
             "positions": len(made.truth), "r50": ellipse.r50, "r50 from": ellipse.source,
             "notes": "; ".join(seen.notes), "simulated": bool(seen_by.simulated),
             "image_sha256": seen.image_sha256}  # fmt: skip
    about["provenance"] = _cards(
        job["provenance"], image_sha256=seen.image_sha256, redshift=seen_by.redshift, ebv=seen_by.ebv,
        redshift_source="truth" if files.redshift is None else "catalogue", extinction_corrected=True,
    )  # fmt: skip
    row = about | galaxy_row(made)
    write_comparison(folder / f"{files.name}_predicted.npz", made, about | {"group": seen_by.group})
    draw_galaxy(made, seen_by, image[0], ifu.config.name, folder / f"{files.name}_predicted.png", about)
    return row


def _seed_note(seen_by):
    """A note where the truth is simulated with a seed that trainings use."""
    try:
        if seen_by.simulated and seen_by.header.get("SEED") is not None:
            check_seed(seen_by.header["SEED"])
        return []
    except ValueError:
        return ["simulated with a seed that trainings may have used"]


def _lacks(files, options):
    """Whether the cube is needed for its image."""
    return options["image"] == "own" and not files.image


def _image(files, options, cube, seen_by, position):
    """The image and, in words, where it is from."""
    image = find_image(files, options["image"], position)
    if image is not None:
        return image, "file" if files.image else "Legacy Surveys, fetched"
    if options["image"] != "own":
        raise ValueError("no image of it; give one, or image='fetch' (--image fetch), or image='own'")
    if cube is not None:
        z = files.redshift if files.redshift is not None else cube.meta.get("redshift")
        if z is None:
            raise ValueError(f"{files.cube[0]}: no redshift in it; give one (drpall, or a table)")
        return cube_image(cube, z), "its own continuum"
    return maps_image(files.maps, seen_by.wcs, seen_by.psf_fwhm), "its own SPX_MFLUX"


def _position(header):
    """Of the object, from a header of the DRP or the DAP, or of SAMI."""
    for keys in (("OBJRA", "OBJDEC"), ("CATARA", "CATADEC")):
        if header is not None and all(key in header for key in keys):
            return SkyCoord(header[keys[0]], header[keys[1]], unit="deg")
    return None


def _ellipse(files, header, center, image):
    """From the catalogue, from the header of MAPS, or from the image."""
    if center is not None and None not in (files.r50, files.axis_ratio, files.position_angle):
        return Ellipse(center, files.r50, max(files.axis_ratio, 0.1), files.position_angle, "catalogue")
    keys = ("REFF", "ECOOELL", "ECOOPA")
    if center is not None and header is not None and all(key in header for key in keys) and header["REFF"] > 0:
        return Ellipse(center, header["REFF"], max(1 - header["ECOOELL"], 0.1), header["ECOOPA"] % 180, "MAPS")
    shape = prepare_image(image[0]).galaxy
    if shape is None:
        raise ValueError("no galaxy at the centre of its image; give r50, axis_ratio and position_angle in a table")
    return Ellipse(center or shape.center, shape.half_light_radius, max(shape.axis_ratio, 0.1), shape.position_angle,
                   "image")  # fmt: skip


def stamp(files):
    """Names, sizes and times of the files, and what a catalogue says, so that a result is not kept for others."""
    out = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in files.paths if path.is_file()}
    return out | {"catalogue": plain(files.catalogue)}


@functools.lru_cache(maxsize=1)
def _load(source):
    from ...observe import VirtualIFU

    return VirtualIFU.from_pretrained(source)
