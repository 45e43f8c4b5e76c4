# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every reader of `fiberifu.surveys`, with a small file for it and what must be true of all that it gives.

``make files -> damage one -> read -> sound, or an error that names a file``
"""

from collections.abc import Callable
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from fiber_files import check_spectra, desi_hdus, redrock_hdus, sdss_hdus
from ifu_files import manga_hdus, sami_hdus, sami_map_hdus
from image_files import DEC, RA, brick, cutout, drpall, header, image, sdss_frame, tractor

from fiberifu.lines import LineMaps, write_dap_maps
from fiberifu.provenance import Provenance
from fiberifu.surveys import (
    DRPQuality,
    read_des,
    read_desi,
    read_drpall,
    read_image,
    read_legacysurvey,
    read_legacysurvey_brick,
    read_manga_cube,
    read_manga_maps,
    read_ps1,
    read_sami_cube,
    read_sami_map,
    read_sdss_fiber,
    read_sdss_frame,
    read_tractor,
    read_unwise,
)


@dataclass(frozen=True)
class Reader:
    """A reader, small files for it, and what must be true of all that it gives."""

    make: Callable  # folder -> the files
    read: Callable  # the files -> what the reader gives
    check: Callable
    real: tuple = ()  # real files, below the folder of the data


def outcome(reader, files):
    """ "error", one that names a file and is a ValueError or an OSError, or "read", what is sound."""
    try:
        found = reader.read(files)
    except (ValueError, OSError) as error:
        names = [*map(str, files), f"no brick in {files[0].parent}"]
        assert any(name in str(error) for name in names), f"the error names no file: {error}"
        return "error"
    reader.check(found)
    return "read"


# ---------------------------------------------------------------- what is sound
def check_image(ccds):
    """Numbers are finite and weights positive wherever the mask says good."""
    for ccd in ccds.values() if isinstance(ccds, dict) else [ccds]:
        good = ~ccd.mask
        assert ccd.wcs.celestial.naxis == 2 and ccd.data.shape == ccd.mask.shape and ccd.data.dtype.isnative
        assert np.isfinite(ccd.data[good]).all()
        assert ccd.flags is None or ccd.flags.shape == ccd.shape
        if ccd.uncertainty is not None:
            weight = ccd.uncertainty.array
            assert weight.shape == ccd.shape and (weight[good] > 0).all() and np.isfinite(weight[good]).all()
        fwhm = ccd.meta.get("PSF_FWHM")
        assert fwhm is None or 0 < fwhm < np.inf


def check_cube(cube):
    """A cube of which a line fit can be made."""
    flux, wave = cube.flux.value, cube.spectral_axis.to_value(u.AA)
    weight, good = cube.uncertainty.array, ~cube.mask
    assert flux.ndim == 3 and flux.shape == cube.mask.shape == weight.shape and len(wave) == len(flux) > 0
    assert np.isfinite(wave).all() and (wave > 0).all() and (np.diff(wave) > 0).all()
    assert np.isfinite(flux[good]).all() and np.isfinite(weight[good]).all() and (weight[good] > 0).all()
    lsf, meta = cube.meta["lsf"], cube.meta
    assert lsf is None or (np.isfinite(lsf.value).all() and (lsf > 0).all() and len(lsf) == len(wave))
    assert lsf is None or lsf.shape in (flux.shape, wave.shape)
    assert meta["celestial_wcs"].naxis == 2 and meta["medium"] in ("air", "vacuum")
    for key in ("redshift", "ebv", "ebv_planck"):
        assert meta.get(key) is None or np.isfinite(meta[key])
    assert all(0 < fwhm.to_value(u.arcsec) < np.inf for fwhm in meta["psf_fwhm"].values())
    for key in ("dust", "bins", "weight"):
        array = meta.get(key)
        assert array is None or array.shape in (wave.shape, flux.shape[1:], flux.shape)


def check_maps(maps):
    """Values that are not masked are finite, with errors."""
    assert len(maps.lines) > 0 and maps.wcs.naxis == 2 and maps.redshift is not None
    assert isinstance(maps.meta["drp_quality"], DRPQuality)
    for name in ("flux", "ew", "velocity", "dispersion"):
        found = getattr(maps, name)
        for line in maps.lines:
            ccd = found[line]
            good = ~ccd.mask
            assert ccd.shape == maps.shape and np.isfinite(ccd.data[good]).all()
            if ccd.uncertainty is not None:
                assert not (ccd.uncertainty.array[good] < 0).any()


def check_table(table):
    """Positions are on the sky; shapes are numbers or NaN, and none impossible."""
    assert table["position"].shape == (len(table),)
    assert np.isfinite(table["position"].ra.deg).all() and (np.abs(table["position"].dec.deg) <= 90).all()
    ratio, angle, r50 = table["axis_ratio"], table["position_angle"].to_value(u.deg), table["r50"].to_value(u.arcsec)
    assert (np.isnan(ratio) | ((ratio >= 0) & (ratio <= 1))).all()
    assert (np.isnan(angle) | ((angle >= 0) & (angle < 180))).all()
    assert (np.isnan(r50) | ((r50 >= 0) & (r50 < np.inf))).all()
    if "quality" in table.colnames:
        assert table["critical"].dtype == bool and table["galaxy"].dtype == bool and all(map(str, table["name"]))
        assert not np.isinf(table["z"]).any()


# ---------------------------------------------------------------- files
def one(name, make):
    """A maker of one file, of a function that writes to a path, or gives HDUs."""

    def write_one(folder):
        path = folder / name
        hdus = make(path)
        if isinstance(hdus, bytes):
            path.write_bytes(hdus)
        elif isinstance(hdus, list):
            fits.HDUList(hdus).writeto(path)
        return [path]

    return write_one


def maps(path):
    """Maps of three lines and six by five spaxels, as the DAP lays them out."""
    rng, shape = np.random.default_rng(0), (3, 6, 5)
    values = {name: rng.normal(5, 1, shape) for name in ("ew", "continuum", "velocity", "dispersion")}
    values |= {f"{name}_sigma": np.full(shape, 0.5) for name in values}
    mask = np.zeros(shape, np.int32)
    mask[:, 0, 0] = 1 << 30 | 1
    made = LineMaps(
        ["Ha", "Hb", "N2_6583"], rng.normal(10, 1, shape), np.full(shape, 0.5), **values, mask=mask,
        instrumental_dispersion=np.full(shape, 70.0), wcs=WCS(header(5)), redshift=0.03, ebv=0.02,
        provenance=Provenance(datatype="SIMULATED", seed=1),
    )  # fmt: skip
    write_dap_maps(made, path)


def desi(folder):
    coadd, redrock = folder / "coadd-main-bright-27247.fits", folder / "redrock-main-bright-27247.fits"
    desi_hdus().writeto(coadd)
    redrock_hdus().writeto(redrock)
    return [coadd, redrock]


def sami(folder):
    paths = [folder / f"{arm}.fits" for arm in ("blue", "red")]
    for path in paths:
        sami_hdus(path.stem, n_wave=64, Hb=5.0).writeto(path)
    return paths


def plane(**cards):
    return fits.PrimaryHDU(image(), header(**cards))


def weight(name="WGT"):
    return fits.ImageHDU(np.full(image().shape, 9.0, np.float32), header(), name=name)


def ps1(path):
    cards = header(scale=0.25, EXPTIME=100.0, **{"HIERARCH FPA.FILTERID": "r.00000"})
    return [fits.PrimaryHDU(), fits.CompImageHDU(image(), cards)]


def field(paths):
    """A field of the brick in the folder, as the small one has it, or the whole of a real one."""
    return read_legacysurvey_brick(paths[0].parent, SkyCoord(RA, DEC, unit="deg"), 4 * u.arcsec)


READERS = {
    "desi": Reader(desi, lambda paths: read_desi(paths[0]), check_spectra, ("desi/coadd-special-dark-27247.fits",)),
    "sdss": Reader(one("spec-0585-52027-0012.fits", lambda path: list(sdss_hdus())),
                   lambda paths: read_sdss_fiber(paths[0]), check_spectra),
    "cutout": Reader(one("cutout.fits", lambda path: cutout()), lambda paths: read_legacysurvey(paths[0]), check_image,
                     ("legacysurvey/test_image.fits",)),
    "psf": Reader(lambda folder: [*one("psf.fits", lambda path: cutout(9))(folder),
                                  *one("cutout.fits", lambda path: cutout())(folder)],
                  lambda paths: read_legacysurvey(paths[1], psf=paths[0]), check_image),
    "brick": Reader(brick, field, check_image),
    "tractor": Reader(one("tractor-0001m030.fits", tractor), lambda paths: read_tractor(paths[0]), check_table,
                      ("legacysurvey/tractor-1054p567.fits",)),
    "des": Reader(one("des.fits", lambda path: [plane(BAND="r", MAGZERO=30.0, EXTNAME="SCI"), weight()]),
                  lambda paths: read_des(paths[0]), check_image, ("decam/DES_r.fits",)),
    "image": Reader(one("any.fits", lambda path: [plane(MAGZERO=25.0), weight("IVAR")]),
                    lambda paths: read_image(paths[0], "r"), check_image),
    "sdss-frame": Reader(one("frame.fits", lambda path: sdss_frame(path) and None),
                         lambda paths: read_sdss_frame(paths[0]), check_image),
    "ps1": Reader(one("ps1.fits", ps1), lambda paths: read_ps1(paths[0]), check_image),
    "unwise": Reader(one("unwise-0000p000-w1-img-m.fits", lambda path: [plane(MAGZP=22.5)]),
                     lambda paths: read_unwise(paths[0]), check_image),
    "drpall": Reader(one("drpall.fits", drpall), lambda paths: read_drpall(paths[0]), check_table),
    "manga-cube": Reader(one("manga-0-1902-LOGCUBE.fits", lambda path: list(manga_hdus(step=1e-3))),
                         lambda paths: read_manga_cube(paths[0]), check_cube),
    "manga-maps": Reader(one("manga-sim-MAPS.fits", maps), lambda paths: read_manga_maps(paths[0]), check_maps,
                         ("manga/manga-7815-3702-MAPS-HYB10-GAU-MILESHC.fits.gz",)),
    "sami-cube": Reader(sami, lambda paths: read_sami_cube(*paths), check_cube,
                        ("sami/41144_A_sectors_blue.fits.gz", "sami/41144_A_sectors_red.fits.gz")),
    "sami-map": Reader(one("map.fits", lambda path: list(sami_map_hdus())),
                       lambda paths: read_sami_map(paths[0]), lambda ccd: check_image(ccd),
                       ("sami/41144_A_Halpha_default_1-comp.fits",)),
}  # fmt: skip
