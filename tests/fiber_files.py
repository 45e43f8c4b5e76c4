# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Small files in the formats of DESI and SDSS, and ways to damage them; as a script, many of them (``--help``)."""

import argparse
import collections
import gzip
import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits

from fiberifu.surveys import fiber_context, fiber_spectrum, read_desi, read_sdss_fiber, select_galaxies

FLUX_UNIT, IVAR_UNIT = "10**-17 erg/(s cm2 Angstrom)", "10**+34 (s2 cm4 Angstrom2) / erg2"
ARMS = {"B": (0, 60), "R": (50, 110), "Z": (100, 160)}  # pixels of the joint grid; real arms have up to 2881
IDS = np.array([39633345008634465, 39633345008634466, 616088619186127404, 39633345008634468])


# ---------------------------------------------------------------- DESI
def desi_hdus(seed=0, *, exposures=False, sigma=0.72):
    """A coadd of four fibres, two galaxies, sky, and a failed one; or as a file of exposures (``spectra-*``)."""
    rng, n = np.random.default_rng(seed), len(IDS)
    dec = 2 + 0.01 * np.arange(n)
    fixed = {"OBJTYPE": ["TGT", "TGT", "SKY", "TGT"], "MORPHTYPE": ["EXP", "DEV", "", "REX"], "EBV": np.full(n, 0.03)}
    fixed |= {f"{name}_{b}": np.float32([3, 4, 0, 5]) for b in "GRZ" for name in ("FLUX", "FIBERFLUX", "FLUX_IVAR")}
    status, mean = ("FIBERSTATUS", "") if exposures else ("COADD_FIBERSTATUS", "MEAN_")
    table = {"TARGETID": IDS, status: np.int32([0, 0, 0, 1 << 9]), "TARGET_RA": np.full(n, 150.0), "TARGET_DEC": dec}
    table |= fixed | {f"{mean}FIBER_RA": np.full(n, 150.00002), f"{mean}FIBER_DEC": dec}
    table[f"{mean}PSF_TO_FIBER_SPECFLUX"] = np.float32([0.7, 0.75, 0, 0])
    hdus = [fits.PrimaryHDU(), table_hdu("FIBERMAP", table)]
    hdus[0].header.update({"SURVEY": "main", "PROGRAM": "bright", "HPXPIXEL": 27247})
    if not exposures:
        row = np.repeat(np.arange(n), 3)
        # of the second target one exposure of three failed, ten arcseconds off
        failed = np.arange(3 * n) == 4
        values = {"TARGETID": IDS[row], "FIBER_RA": np.full(3 * n, 150.00002), "FIBER_DEC": dec[row] + failed / 360}
        values |= {"FIBERSTATUS": np.where(failed | (row == 3), 1 << 9, 0).astype(np.int32)}
        values |= {"PSF_TO_FIBER_SPECFLUX": np.where(failed, 0, table["MEAN_PSF_TO_FIBER_SPECFLUX"][row])}
        hdus.append(table_hdu("EXP_FIBERMAP", values))
    signal = 10 + rng.normal(0, 1, (n, 160))
    for arm, (start, stop) in ARMS.items():
        wave = 3600 + 0.8 * np.arange(start, stop)
        flux = signal[:, start:stop].astype(np.float32)
        ivar = np.full(flux.shape, {"B": 1.0, "R": 3.0, "Z": 2.0}[arm], np.float32)
        ivar[3] = 0
        mask = np.zeros(flux.shape, np.int32)
        mask[0, 5] = 1
        offset = 5 - np.arange(11)
        matrix = np.exp(-0.5 * offset**2 / (sigma**2 / 0.64 + 1 / 12))
        matrix = np.float32(np.tile((matrix / matrix.sum())[:, None], (n, 1, stop - start)))
        images = {"WAVELENGTH": wave, "FLUX": flux, "IVAR": ivar, "MASK": mask, "RESOLUTION": matrix}
        units = {"WAVELENGTH": "Angstrom", "FLUX": FLUX_UNIT, "IVAR": IVAR_UNIT}
        for name, array in images.items():
            hdus.append(fits.ImageHDU(array, name=f"{arm}_{name}"))
            if name in units:
                hdus[-1].header["BUNIT"] = units[name]
    return fits.HDUList(hdus)


def redrock_hdus():
    """Redshifts in another order than the coadd's, of the sky and of a star too."""
    order = [2, 3, 0, 1]
    table = {"TARGETID": IDS[order], "Z": np.array([1.5, 0.2, 0.03, 0.05]), "ZERR": np.full(4, 1e-5)}
    table |= {"ZWARN": np.array([4, 0, 0, 0]), "DELTACHI2": np.array([2.0, 60, 900, 30])}
    return fits.HDUList([fits.PrimaryHDU(), table_hdu("REDSHIFTS", table | {"SPECTYPE": ["GALAXY"] * 4})])


def table_hdu(name, columns):
    """A table of arrays."""
    kinds = {"i8": "K", "i4": "J", "i2": "I", "u1": "B", "f8": "D", "f4": "E", "b1": "L"}
    out = []
    for key, values in columns.items():
        values = np.asarray(values)
        form = f"{values.dtype.itemsize // 4}A" if values.dtype.kind == "U" else kinds[values.dtype.str[1:]]
        form = form if values.ndim == 1 else f"{values.shape[1]}{form}"
        out.append(fits.Column(key, form, array=values))
    return fits.BinTableHDU.from_columns(out, name=name)


# ---------------------------------------------------------------- SDSS
def sdss_hdus(seed=0, *, plate=585, instrument="SDSS"):
    """``spec-*.fits`` of a galaxy at z = 0.05, 300 pixels, by the data model."""
    rng, n = np.random.default_rng(seed), 300
    and_mask = np.zeros(n, np.int32)
    and_mask[7], and_mask[8] = 1 << 23, 1 << 20  # bright sky; scattered light, which is no reason
    ivar = np.full(n, 4, np.float32)
    ivar[3] = 0
    coadd = {"flux": np.float32(rng.normal(20, 0.5, n)), "loglam": np.float32(3.58 + 1e-4 * np.arange(n)), "ivar": ivar}
    coadd |= {"and_mask": and_mask, "or_mask": and_mask, "wdisp": np.full(n, 1.1, np.float32)}
    row = {
        "PLATE": [plate],
        "MJD": [52027],
        "FIBERID": [12],
        "PLUG_RA": [150.0],
        "PLUG_DEC": [2.0],
        "Z": [np.float32(0.05)],
    }
    row |= {"Z_ERR": [np.float32(1e-5)], "ZWARNING": [0], "CLASS": ["GALAXY"], "SUBCLASS": ["STARFORMING"]}
    row |= {"RCHI2DIFF": [np.float32(0.4)], "DOF": [280], "SPECOBJID": ["658744712123456512"], "OBJTYPE": ["GALAXY"]}
    row |= {"MODELFLUX": np.float32([[1, 2, 3, 4, 5]])} | ({"INSTRUMENT": [instrument]} if instrument else {})
    hdus = [fits.PrimaryHDU(), table_hdu("COADD", coadd), table_hdu("SPECOBJ", row)]
    hdus[0].header.update({"BUNIT": "1E-17 erg/cm^2/s/Ang", "TELESCOP": "SDSS 2.5-M", "VACUUM": True})
    return fits.HDUList(hdus)


# ---------------------------------------------------------------- damage
def to_bytes(hdus):
    file = io.BytesIO()
    hdus.writeto(file)
    return file.getvalue()


def damaged(whole, rng):
    """Bytes of a damaged file, and how it was damaged."""
    kinds = ("flip", "flip a header", "truncate", "cut out", "insert", "drop HDUs", "rename a card", "gzip",
             "gzip, truncate", "gzip, flip", "empty", "no FITS", "not a number", "no weight", "row twice", "unit",
             "shape", "drop a column", "type of a column", "swap HDUs")  # fmt: skip
    kind = kinds[rng.integers(len(kinds))]
    return _damage(kind, whole, rng), kind


def _damage(kind, whole, rng):
    data = bytearray(whole)
    if kind == "flip":
        for i in rng.integers(0, len(data), rng.integers(1, 20)):
            data[i] ^= 1 << rng.integers(8)
    elif kind == "flip a header":
        starts = [
            i for i in range(0, len(data), 80) if data[i : i + 8].strip().isalnum() and data[i + 8 : i + 9] == b"="
        ]
        for start in rng.choice(starts, rng.integers(1, 4)):
            data[start + rng.integers(80)] = rng.integers(32, 127) if rng.random() < 0.8 else rng.integers(256)
    elif kind == "truncate":
        del data[rng.integers(len(data)) :]
    elif kind == "cut out":
        start = rng.integers(len(data))
        del data[start : start + rng.integers(1, 6000)]
    elif kind == "insert":
        start = rng.integers(len(data))
        data[start:start] = rng.bytes(rng.integers(1, 6000))
    elif kind.startswith("gzip"):
        data = bytearray(gzip.compress(whole, 1, mtime=0))
        if "truncate" in kind:
            del data[rng.integers(len(data)) :]
        elif "flip" in kind:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == "empty":
        data = bytearray()
    elif kind == "no FITS":
        data = bytearray([b"<html>404</html>", b"SIMPLE  =", b"\x1f\x8b", rng.bytes(5000)][rng.integers(4)])
    else:
        return _rewritten(kind, whole, rng)
    return bytes(data)


def _rewritten(kind, whole, rng):
    """Whole FITS files whose content is wrong."""
    with fits.open(io.BytesIO(whole)) as opened:
        hdus = fits.HDUList([hdu.copy() for hdu in opened])
    images = [hdu for hdu in hdus[1:] if hdu.is_image] or [None]
    tables = [hdu for hdu in hdus[1:] if not hdu.is_image]
    image, table = images[rng.integers(len(images))], tables[rng.integers(len(tables))]
    where = hdus.index(table)
    if kind == "drop HDUs":
        for _ in range(rng.integers(1, 4)):
            if len(hdus) > 2:
                del hdus[rng.integers(1, len(hdus))]
    elif kind in ("not a number", "no weight"):
        value = 0 if kind == "no weight" else rng.choice([np.nan, np.inf, -np.inf, -1.0, 1e38])
        if image is None or rng.random() < 0.3:
            names = [name for name in table.columns.names if table.data[name].dtype.kind == "f"]
            if names:
                table.data[names[rng.integers(len(names))]] = value
        elif image.data.dtype.kind == "f":
            image.data[...] = np.where(rng.random(image.shape) < rng.random(), value, image.data)
    elif kind == "row twice":
        data = table.data
        data[rng.integers(len(data))] = data[rng.integers(len(data))]
    elif kind == "unit":
        with_unit = [hdu for hdu in hdus if "BUNIT" in hdu.header] or [table]
        with_unit[rng.integers(len(with_unit))].header["BUNIT"] = [
            "Jy",
            "",
            "erg",
            "1e-16 erg/(s cm2 Angstrom)",
            "nm",
            "bananas",
        ][rng.integers(6)]
    elif kind == "shape" and image is not None:
        image.data = [image.data.T, image.data[..., :-1], image.data[:1], image.data[..., None]][rng.integers(4)].copy()
    elif kind == "shape":
        hdus[where] = fits.BinTableHDU(table.data[: rng.integers(2)], table.header)
    elif kind in ("drop a column", "type of a column"):
        columns = {name: np.asarray(table.data[name]) for name in table.columns.names}
        name = list(columns)[rng.integers(len(columns))]
        values = columns.pop(name)
        if kind == "type of a column":
            columns[name] = [values.astype("U"), np.zeros((len(values), 3)), np.zeros(len(values), bool)][
                rng.integers(3)
            ]
        hdus[where] = table_hdu(table.name, columns) if columns else fits.BinTableHDU(name=table.name)
    elif kind == "swap HDUs":
        a, b = rng.integers(1, len(hdus), 2)
        hdus[a].name, hdus[b].name = hdus[b].name, hdus[a].name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_bytes(hdus)


# ---------------------------------------------------------------- what comes of it
def outcome(reader, path, *named):
    """Either "error", a ValueError that names the file (or one of ``named``), or "read", a sound spectrum."""
    try:
        spectra = reader(path)
    except ValueError as error:
        assert any(str(name) in str(error) for name in (path, *named)), f"the error does not name the file: {error}"
        return "error"
    check_spectra(spectra)
    return "read"


def check_spectra(spectra):
    """The spectrum, and its table, are what their reader promises."""
    fibers = spectra.meta["fibers"]
    flux, ivar = spectra.flux.value, spectra.uncertainty.array
    assert np.isfinite(flux).all() and np.isfinite(ivar).all() and (ivar >= 0).all()
    assert spectra.mask.shape == flux.shape == ivar.shape and ((ivar == 0) == spectra.mask).all()
    assert flux.shape in ((len(fibers), 7781), (len(spectra.spectral_axis),)) and len(fibers) > 0
    assert (flux[spectra.mask] == 0).all()
    lsf = spectra.meta["lsf"]
    assert lsf is None or (lsf.shape == flux.shape and (np.isnan(lsf.value) | (lsf.value > 0)).all())
    assert all(fibers["status"]) and fibers["flags"].dtype.kind == "i" and fibers["position"].shape == (len(fibers),)
    if flux.ndim == 2:
        assert select_galaxies(spectra).shape[1] == 7781
    for row in range(len(fibers)):
        one = fiber_spectrum(spectra, row)
        assert one.flux.shape == (flux.shape[-1],)
        try:
            assert len(fiber_context(spectra, [row])) == 1
        except ValueError as error:
            assert "of no use" in str(error)


def main(args=None):
    parser = argparse.ArgumentParser(description="Damage files in many ways and read them: seeded, the same each time.")
    parser.add_argument("--reader", choices=("desi", "redrock", "sdss"), required=True)
    parser.add_argument("--n", type=int, default=500, help="how many files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, help="damage this one (read only), not a synthetic one")
    options = parser.parse_args(args)
    make = {"desi": desi_hdus, "redrock": redrock_hdus, "sdss": sdss_hdus}[options.reader]
    whole = options.file.read_bytes() if options.file else to_bytes(make())
    counts, wrong = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        path = Path(folder) / (
            "spec-0585-52027-0012.fits" if options.reader == "sdss" else "coadd-main-bright-27247.fits"
        )
        beside = path.with_name(path.name.replace("coadd", "redrock"))
        for i in range(options.n):
            data, kind = damaged(whole, np.random.default_rng([options.seed, i]))
            if options.reader == "redrock":
                path.write_bytes(to_bytes(desi_hdus()))
            (beside if options.reader == "redrock" else path).write_bytes(data)
            try:
                result = outcome(read_sdss_fiber if options.reader == "sdss" else read_desi, path, beside)
            except Exception as error:
                result = "WRONG"
                wrong.append(f"{i} ({kind}): {type(error).__name__}: {error}")
            counts[kind, result] += 1
    for (kind, result), count in sorted(counts.items()):
        print(f"{kind:20} {result:6} {count}")
    print(f"{options.n} files, {len(wrong)} wrong", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
