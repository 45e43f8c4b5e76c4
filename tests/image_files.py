# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Small images and catalogues in the formats of surveys."""

import io

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits

RA, DEC, SIDE = 200.0, -3.0, 24
CENTER = SkyCoord(RA, DEC, unit="deg")


def header(n=SIDE, scale=0.262, *, shift=0.0, **cards):
    """Of an image whose middle is ``shift`` pixels West of the centre."""
    out = fits.Header()
    out.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": RA, "CRVAL2": DEC, "CRPIX2": n / 2 + 0.5})
    out.update({"CRPIX1": n / 2 + 0.5 - shift, "CD1_1": -scale / 3600, "CD1_2": 0.0, "CD2_1": 0.0})
    out.update({"CD2_2": scale / 3600, **cards})
    return out


def image(n=SIDE):
    return np.random.default_rng(0).normal(1, 0.1, (n, n)).astype(np.float32)


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path, overwrite=True)
    return path


def sdss_frame(path, **cards):
    sky = [
        fits.Column("ALLSKY", "20E", dim="(4,5)", array=np.full((1, 5, 4), 100.0, np.float32)),
        fits.Column("XINTERP", f"{SIDE}E", array=np.linspace(0, 3, SIDE)[None]),
        fits.Column("YINTERP", f"{SIDE}E", array=np.linspace(0, 4, SIDE)[None]),
    ]
    cards = {"FILTER": "r", "CAMCOL": 3, "RUN": 1000, "BUNIT": "nanomaggy"} | cards
    hdus = fits.PrimaryHDU(image(), header(scale=0.396, **cards)), fits.ImageHDU(np.full(SIDE, 0.005, np.float32))
    return write(path, *hdus, fits.BinTableHDU.from_columns(sky))


def cutout(n=SIDE):
    out = io.BytesIO()
    planes = fits.PrimaryHDU(np.stack([image(n)] * 3), header(n, BANDS="grz", VERSION="DR9"))
    fits.HDUList([planes, fits.ImageHDU(np.full((3, n, n), 25.0), header(n, BANDS="grz", IMAGETYP="INVVAR"))]).writeto(
        out
    )
    return out.getvalue()


def table(path, **columns):
    forms = {"U": "20A", "f": "D", "i": "K"}
    columns = {key: np.asarray(value) for key, value in columns.items()}
    hdu = fits.BinTableHDU.from_columns([fits.Column(k, forms[v.dtype.kind], array=v) for k, v in columns.items()])
    return write(path, fits.PrimaryHDU(), hdu)


def tractor(path):
    """Five sources: an exponential, a point, and three of other kinds, with columns of the survey's names."""
    shapes = {"shape_r": [2.0, 0, 1, 3, 0.5], "shape_e1": [0.3, 0, 0.1, -0.2, 0], "shape_e2": [0.1, 0, -0.4, 0, 0]}
    columns = {"ra": RA + np.arange(5) / 1000, "dec": np.full(5, DEC), "type": ["EXP", "PSF", "DEV", "SER", "REX"]}
    columns |= {f"{name}_{band}": np.arange(1, 6.0) for band in "grz" for name in ("flux", "flux_ivar", "psfsize")}
    columns |= {"brick_primary": np.ones(5, int), "ebv": np.full(5, 0.03), "objid": np.arange(5)}
    return table(path, **columns, **shapes)


def brick(folder, name="0001m030"):
    """Coadds of a brick of 40 pixels, compressed as the survey's: image, invvar, psfsize, maskbits."""
    cards, paths = header(40, VERSION="DR9"), []
    planes = {"image-r": image(40), "invvar-r": np.full((40, 40), 16.0, np.float32)}
    planes |= {"psfsize-r": np.full((40, 40), 1.3, np.float32), "maskbits": np.zeros((40, 40), np.int16)}
    for kind, data in planes.items():
        hdu = fits.CompImageHDU(data, cards, quantize_level=0 if data.dtype.kind == "i" else -1e-7)
        paths.append(write(folder / f"legacysurvey-{name}-{kind}.fits.fz", fits.PrimaryHDU(), hdu))
    return paths


def drpall(path, **more):
    columns = {
        "plateifu": ["7815-3702", "8000-1901", "8000-1902"], "objra": [10.0, 11.0, 12.0], "objdec": [1.0, 2.0, 3.0],
        "drp3qual": [0, 1 << 30 | 2, 0], "nsa_z": [0.02, -9999.0, 0.03], "z": [0.021, 0.05, -9999.0],
        "nsa_elpetro_th50_r": [5.0, -9999.0, -9999.0], "nsa_sersic_th50": [6.0, 4.0, -9999.0],
        "nsa_elpetro_ba": [0.5, 0.6, 0.7], "nsa_elpetro_phi": [190.0, 20.0, 30.0], "ebvgal": [0.01, 0.02, 0.03],
        "mngtarg1": [1024, 0, 0], "mngtarg3": [0, 0, 16],
    }  # fmt: skip
    return table(path, **columns | more)
