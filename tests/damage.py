# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Ways to damage a FITS file, by a seed: its bytes, or what is in it."""

import gzip
import io
import warnings

import numpy as np
from astropy.io import fits

BYTES = ("flip", "flip a header", "truncate", "cut out", "insert", "gzip", "gzip, truncate", "gzip, flip", "empty",
         "no FITS")  # fmt: skip
CONTENT = ("drop HDUs", "rename a card", "not a number", "no weight", "row twice", "unit", "shape", "drop a column",
           "rename a column", "type of a column", "swap HDUs", "scramble names")  # fmt: skip
UNITS = ("Jy", "", "erg", "1e-16 erg/(s cm2 Angstrom)", "nm", "bananas")


def to_bytes(hdus):
    file = io.BytesIO()
    hdus.writeto(file)
    return file.getvalue()


def damaged(whole, rng):
    """Bytes of a damaged file, and how it was damaged.

    Parameters
    ----------
    whole : bytes
        Of a FITS file that is not gzipped.
    rng : `~numpy.random.Generator`
    """
    kinds = BYTES + CONTENT
    kind = kinds[rng.integers(len(kinds))]
    return (_bytes if kind in BYTES else _content)(kind, whole, rng), kind


def _bytes(kind, whole, rng):
    data = bytearray(whole)
    if kind == "flip":
        for i in rng.integers(0, len(data), rng.integers(1, 20)):
            data[i] ^= 1 << rng.integers(8)
    elif kind == "flip a header":
        starts = [
            i for i in range(0, len(data), 80) if data[i + 8 : i + 9] == b"=" and data[i : i + 8].strip().isalnum()
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
    else:  # no FITS
        data = bytearray([b"<html>404</html>", b"SIMPLE  =", b"\x1f\x8b", rng.bytes(5000)][rng.integers(4)])
    return bytes(data)


def _content(kind, whole, rng):
    """Whole FITS files whose content is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(whole)) as opened:
            hdus = fits.HDUList([hdu.copy() for hdu in opened])
            _change(kind, hdus, rng)
            return to_bytes(hdus)


def _change(kind, hdus, rng):
    images = [i for i, hdu in enumerate(hdus) if hdu.is_image and hdu.data is not None]
    tables = [i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU) and not hdu.is_image]
    on_image = bool(images) and (not tables or kind not in _OF_TABLES and rng.random() < 0.7)
    where = (images if on_image else tables)[rng.integers(len(images if on_image else tables))]
    hdu = hdus[where]
    if kind == "drop HDUs":
        for _ in range(rng.integers(1, 4)):
            if len(hdus) > 1:
                del hdus[rng.integers(1, len(hdus))]
    elif kind == "swap HDUs" and len(hdus) > 2:
        a, b = rng.integers(1, len(hdus), 2)
        hdus[a].name, hdus[b].name = hdus[b].name, hdus[a].name
    elif kind == "scramble names" and len(hdus) > 1:
        hdus[rng.integers(1, len(hdus))].name = "X"
    elif kind == "rename a card":
        keys = [key for key in hdu.header if key.isalnum() and not key.startswith(("NAXIS", "BITPIX"))]
        key = keys[rng.integers(len(keys))]
        if not key.startswith(_KEPT):
            hdu.header.rename_keyword(key, "XX")
    elif kind == "unit":
        told = [h for h in hdus if "BUNIT" in h.header] or [hdu]
        told[rng.integers(len(told))].header["BUNIT"] = UNITS[rng.integers(len(UNITS))]
        if not on_image:
            hdu.header[f"TUNIT{rng.integers(1, hdu.header['TFIELDS'] + 1)}"] = UNITS[rng.integers(len(UNITS))]
    elif on_image:
        _change_image(kind, hdu, rng)
    else:
        hdus[where] = _changed_table(kind, hdu, rng)


# Cards that say how the file is laid out, which damage to its bytes reaches, and commentary.
_KEPT = ("COMMENT", "HISTORY", "XTENSION", "SIMPLE", "PCOUNT", "GCOUNT", "TFIELDS", "TFORM", "TTYPE", "EXTEND")
_OF_TABLES = ("drop a column", "rename a column", "type of a column", "row twice")


def _change_image(kind, hdu, rng):
    if kind in ("not a number", "no weight") and hdu.data.dtype.kind == "f":
        value = 0 if kind == "no weight" else rng.choice([np.nan, np.inf, -np.inf, -1.0, 1e38])
        hdu.data = np.where(rng.random(hdu.shape) < rng.random(), value, hdu.data).astype(hdu.data.dtype)
    elif kind == "no weight":
        hdu.data = np.full_like(hdu.data, -1)
    elif kind == "shape":
        d = hdu.data
        hdu.data = [d.T, d[..., :-1], d[:1], d[..., None], d[:0]][rng.integers(5)].copy()


def _changed_table(kind, hdu, rng):
    columns = {name: np.asarray(hdu.data[name]) for name in hdu.columns.names}
    names = list(columns)
    name = names[rng.integers(len(names))]
    values = columns[name]
    if kind == "shape":
        return fits.BinTableHDU(hdu.data[: rng.integers(2)], hdu.header)
    if kind == "row twice":
        hdu.data[rng.integers(len(hdu.data))] = hdu.data[rng.integers(len(hdu.data))]
        return hdu
    if kind in ("not a number", "no weight"):
        names = [name for name in names if columns[name].dtype.kind == "f"]
        if names:
            value = 0 if kind == "no weight" else rng.choice([np.nan, np.inf, -np.inf, -1.0, 1e38])
            hdu.data[names[rng.integers(len(names))]][...] = value
        return hdu
    if kind not in _OF_TABLES:
        return hdu
    del columns[name]
    if kind == "rename a column":
        columns[name[::-1] + "X"] = values
    elif kind == "type of a column":
        text, n = values.astype("U"), len(values)
        columns[name] = [text.reshape(n, -1)[:, 0], np.zeros((n, 3)), np.zeros(n, bool), np.full(n, "x")][
            rng.integers(4)
        ]
    return table_hdu(hdu.name, columns, hdu.header) if columns else fits.BinTableHDU(name=hdu.name)


def table_hdu(name, columns, header=None):
    """A table of arrays."""
    kinds = {"i8": "K", "i4": "J", "i2": "I", "u1": "B", "f8": "D", "f4": "E", "b1": "L"}
    out = []
    for key, values in columns.items():
        values = np.asarray(values)
        if values.dtype.kind in "SU":
            values = values.astype("U")
            form = f"{max(values.dtype.itemsize // 4, 1)}A"
        else:
            form = kinds[values.dtype.str[1:]]
            form = form if values.ndim == 1 else f"{int(np.prod(values.shape[1:]))}{form}"
        out.append(fits.Column(key, form, array=values))
    made = fits.BinTableHDU.from_columns(out, name=name)
    for card in () if header is None else header.cards:
        if (
            not card.keyword.startswith(("T", "NAXIS", "XTENSION", "BITPIX", "PCOUNT", "GCOUNT", "EXTNAME"))
            and card.keyword
        ):
            made.header.append(card, end=True)
    return made
