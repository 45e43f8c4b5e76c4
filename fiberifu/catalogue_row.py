# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""One galaxy of a catalogue, predicted: ``target -> image -> cube, fibre on the centre, latents -> a row, line maps``.

Whatever is wrong with a galaxy becomes the ``STATUS`` of its row.
"""

import re
import warnings

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.wcs.utils import proj_plane_pixel_scales

from fiberifu.flags import Flag
from fiberifu.image import prepare_image
from fiberifu.observe import off_image

__all__ = ["READERS", "field_of", "predict_target", "prepare_target", "row_layout", "rows_table", "spaxel_layout",
           "spaxels_table"]  # fmt: skip

FLUX, CONTINUUM = u.Unit("1e-17 erg / (s cm2)"), u.Unit("1e-17 erg / (s cm2 AA)")
LEVELS = (0.16, 0.5, 0.84)
RINGS = 3
MOST_SPAXELS = 200  # on a side: a radius gone wrong should not take the memory of a machine
SEEN = 90.0  # arcsec around a galaxy in which its neighbours are looked for; of larger images, no more is read


def _auto(images, psf):
    from fiberifu.jobs import read_image

    return read_image(images, psf=psf)[0]


def _legacysurvey(images, psf):
    from fiberifu.surveys import read_legacysurvey

    return {band: ccd for path in _paths(images) for band, ccd in read_legacysurvey(path, psf=psf).items()}


def _des(images, psf):
    from fiberifu.surveys import read_des

    return read_des(_paths(images))


def _paths(images):
    """Files without the ``BAND=`` before them: these readers know the bands."""
    return [re.sub(r"^\w{1,2}=", "", item) for item in images]


#: Readers of images by name: (files, PSF file or None) -> {band: CCDData}. ``auto`` is that of ``fiberifu observe``.
READERS = {"auto": _auto, "legacysurvey": _legacysurvey, "des": _des}


def prepare_target(target, config, reader="auto", size=0.0):
    """The image of a galaxy as the network sees it, centred on the galaxy.

    Parameters
    ----------
    target : `~fiberifu.catalogue.Target`
    config : `~fiberifu.model.ModelConfig`
    reader : str or callable
        One of `READERS`, or a function like them.
    size : float
        Side of the field, arcsec: of images much larger than that, the part around the galaxy is used.

    Returns
    -------
    `~fiberifu.image.PreparedImage`

    Raises
    ------
    ValueError, OSError
        Saying what is wrong with the row, or with its files.
    """
    if target.problem:
        raise ValueError(target.problem)
    read = reader if callable(reader) else READERS[reader]
    image = read(target.images, target.psf or None)
    cut = {}
    for band, ccd in image.items():
        ccd = _around(ccd, target.position, max(SEEN, size / 2 + 30))
        if band in target.psf_fwhm and ccd.psf is None:
            ccd.meta["PSF_FWHM"] = target.psf_fwhm[band]
        if np.isfinite(target.ebv):
            ccd.meta["EBV"] = target.ebv
        cut[band] = ccd
    c = config
    return prepare_image(cut, target.position, bands=c.bands, pixel_scale=c.pixel_scale, stamp=c.stamp)


def _around(ccd, position, reach):
    """The part of an image within ``reach`` [arcsec] of a position, where it is larger; else the image itself."""
    half = reach / 3600 / proj_plane_pixel_scales(ccd.wcs)[::-1]  # rows, columns
    if np.all(np.array(ccd.shape) <= 2 * half + 2):
        return ccd
    place = np.array([float(v) for v in ccd.wcs.world_to_pixel(position)][::-1])
    if not np.all((place > -0.5) & (place < np.array(ccd.shape) - 0.5)):
        return ccd  # outside, which prepare_image says in words
    low = np.clip(np.floor(place - half), 0, None).astype(int)
    high = np.ceil(place + half).astype(int) + 1
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    out = ccd[part]
    out.psf, out.meta = ccd.psf, dict(ccd.meta)
    out.flags = None if ccd.flags is None else ccd.flags[part]
    return out


def field_of(target, options):
    """Side of the field of a galaxy, a whole number of spaxels, and the spaxels on a side.

    Raises
    ------
    ValueError
        For more than 200 spaxels on a side.
    """
    size = target.size if np.isfinite(target.size) else options["size"]
    n = max(int(np.rint(size / options["spaxel"])), 1)
    if n > MOST_SPAXELS:
        raise ValueError(f"size of {size:.4g} arcsec: that is {n} spaxels on a side, at most {MOST_SPAXELS} will do")
    return n * options["spaxel"], n


def predict_target(ifu, target, options):
    """Predict one galaxy.

    Parameters
    ----------
    ifu : `~fiberifu.VirtualIFU`
    target : `~fiberifu.catalogue.Target`
    options : dict
        ``reader``; ``size``, ``spaxel``, ``aperture`` in arcsec; ``lines``, ``draws``, ``seed``; whether ``maps`` are
        wanted.

    Returns
    -------
    row : dict
        Of what `row_layout` lists; without its numbers where the galaxy cannot be predicted, and ``STATUS`` says why.
    spaxels : dict of ndarray (n,), or None
        Of what `spaxel_layout` lists, for each spaxel; None without maps, or where the galaxy cannot be predicted.
    """
    row = {"ROW": target.row, "NAME": target.name, "RA": target.ra, "DEC": target.dec, "REDSHIFT": target.redshift,
           "REDSHIFT_ERR": target.redshift_error, "EBV": target.ebv, "IMAGE": target.file, "OK": False}  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said by flags, or by the status
            found, spaxels = _measure(ifu, target, options)
    except MemoryError:
        raise
    except Exception as error:  # one galaxy never ends a catalogue: its row says what happened
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        text = str(error).replace(f"{target.folder}/", "")  # the same wherever the catalogue is
        row["STATUS"] = kind + " ".join(text.split())
        return row, None
    return row | found | {"STATUS": "ok", "OK": True}, spaxels


def _measure(ifu, target, options):
    if target.problem:
        raise ValueError(target.problem)
    size, n = field_of(target, options)
    prepared = prepare_target(target, ifu.config, options["reader"], size)
    here, lines = target.position, options["lines"]
    z = target.redshift
    z = (z, target.redshift_error) if np.isfinite(target.redshift_error) else z
    common = {"redshift": z, "seed": options["seed"]}
    cube = ifu.predict_cube(prepared, size=size * u.arcsec, spaxel=options["spaxel"] * u.arcsec, center=here, **common)
    if np.all(cube.flags & int(Flag.BAD_SPAXEL)):
        raise ValueError(off_image(prepared, cube.positions))
    fiber = ifu.predict(prepared, here, aperture=options["aperture"] * u.arcsec, **common)

    radius = np.hypot(*cube.offsets.T).reshape(n, n)
    edges = np.linspace(0, size / 2, RINGS + 1)
    rings = [(radius >= a) & (radius < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    whole = np.any(rings, axis=0) if n > 1 else np.ones((1, 1), bool)
    usable = whole & cube.usable.reshape(n, n)
    row = {
        "IMAGE_SHA256": prepared.sha256,
        "EBV": prepared.ebv if "EBV" in prepared.meta else np.nan,
        "FLAGS": np.bitwise_or.reduce(cube.flags[whole]),
        "FLAGS_CENTER": fiber.flags,
        "SIZE": size,
        "N_SPAXEL": whole.sum(),
        "N_USABLE": usable.sum(),
        "PSF_FWHM": prepared.psf_fwhm,
        "BEAM": cube.beam.to_value(u.arcsec),
        "LATENT": ifu.latents(prepared, center=here),
    }
    for check in cube.self_check:
        row[f"RESIDUAL_{check['band']}"], row[f"PULL_{check['band']}"] = check["residual"].value, check["pull"]
    sums = cube.line_sums(lines, np.array([whole, *rings]), levels=LEVELS, draws=options["draws"]).to_value(FLUX)
    maps = cube.line_maps(lines)
    central = {name: fiber.line_quantiles(LEVELS, lines, name).value for name in ("flux", "ew")}
    for i, key in enumerate(maps.lines):
        if maps.flux[key].mask.all():  # off the wavelengths
            continue
        row |= _quantiles(f"{key}_flux", sums[:, 0, i])
        row[f"{key}_flux_rings"] = sums[1, 1:, i]
        row[f"{key}_flux_rings_err"] = (sums[2, 1:, i] - sums[0, 1:, i]) / 2
        row[f"{key}_continuum"] = maps.continuum[key].data[usable].sum() if usable.any() else np.nan
        if fiber.usable.all():
            for name in ("flux", "ew"):
                row |= _quantiles(f"{key}_center_{name}", central[name][:, i])
    return row, _spaxels(target, cube, maps) if options["maps"] else None


def _spaxels(target, cube, maps):
    """Line maps as columns, NaN where they are masked; spaxels from South to North, and from East to West in a row."""
    y, x = np.indices(maps.shape)
    found = {"ROW": np.full(maps.shape, target.row), "X": x, "Y": y, "FLAGS": cube.flags}
    found |= {"RA": cube.positions.icrs.ra.deg, "DEC": cube.positions.icrs.dec.deg}
    for key in maps.lines:
        for name, of_line in (("flux", maps.flux), ("ew", maps.ew), ("continuum", maps.continuum)):
            ccd = of_line[key]
            found[f"{key}_{name}"] = np.where(ccd.mask, np.nan, ccd.data)
            found[f"{key}_{name}_err"] = np.where(ccd.mask, np.nan, ccd.uncertainty.array)
    return {name: np.ravel(values) for name, values in found.items()}


def _quantiles(name, values):
    return dict(zip((f"{name}_p16", name, f"{name}_p84"), values, strict=True))


# ---------------------------------------------------------------- tables
def row_layout(config, lines):
    """Columns of a table of rows: name -> (dtype, shape, unit), in their order."""
    floats = {}
    for key in lines:
        for name, unit in (("flux", FLUX), ("center_flux", FLUX), ("center_ew", u.AA)):
            floats |= dict.fromkeys((f"{key}_{name}_p16", f"{key}_{name}", f"{key}_{name}_p84"), ("f4", (), unit))
        floats |= dict.fromkeys((f"{key}_flux_rings", f"{key}_flux_rings_err"), ("f4", (RINGS,), FLUX))
        floats[f"{key}_continuum"] = ("f4", (), CONTINUUM)
    text, count, number = (str, (), None), ("i4", (), None), ("f4", (), None)
    return {
        "ROW": ("i8", (), None),
        "NAME": text,
        "RA": ("f8", (), u.deg),
        "DEC": ("f8", (), u.deg),
        "REDSHIFT": ("f8", (), None),
        "REDSHIFT_ERR": ("f8", (), None),
        "EBV": ("f4", (), u.mag),
        "IMAGE": text,
        "IMAGE_SHA256": text,
        "OK": ("?", (), None),
        "STATUS": text,
        "FLAGS": count,
        "FLAGS_CENTER": count,
        "SIZE": ("f4", (), u.arcsec),
        "N_SPAXEL": count,
        "N_USABLE": count,
        "PSF_FWHM": ("f4", (), u.arcsec),
        "BEAM": ("f4", (), u.arcsec),
        **{f"RESIDUAL_{band}": ("f4", (), u.mag) for band in config.bands},
        **{f"PULL_{band}": number for band in config.bands},
        **floats,
        "LATENT": ("f4", (config.width,), None),
    }


def spaxel_layout(lines):
    """Columns of a table of spaxels, as `row_layout`."""
    floats = {}
    for key in lines:
        for name, unit in (("flux", FLUX), ("ew", u.AA), ("continuum", CONTINUUM)):
            floats |= dict.fromkeys((f"{key}_{name}", f"{key}_{name}_err"), ("f4", (), unit))
    position, count = ("f8", (), u.deg), ("i2", (), None)
    return {"ROW": ("i8", (), None), "X": count, "Y": count, "RA": position, "DEC": position,
            "FLAGS": ("i4", (), None), **floats}  # fmt: skip


def spaxels_table(galaxies, layout):
    """A `~astropy.table.QTable` of the spaxels of galaxies, one after the other."""
    table = QTable()
    for name, (dtype, _, unit) in layout.items():
        values = np.concatenate([np.empty(0, dtype), *(galaxy[name] for galaxy in galaxies)]).astype(dtype)
        table[name] = values if unit is None else values * unit
    return table


def rows_table(rows, layout):
    """A `~astropy.table.QTable` of rows; what a row lacks is NaN, 0 or blank."""
    table = QTable()
    for name, (dtype, shape, unit) in layout.items():
        if dtype is str:  # FITS holds ASCII
            text = [str(row.get(name, "")).encode("ascii", "backslashreplace").decode() for row in rows]
            table[name] = np.array(text, dtype=f"U{max(map(len, text), default=1) or 1}")
            continue
        values = np.full((len(rows), *shape), np.nan if dtype[0] == "f" else 0, dtype)
        for i, row in enumerate(rows):
            if name in row:
                values[i] = row[name]
        table[name] = values if unit is None else values * unit
    return table
