# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Cutouts from the sky viewer of the Legacy Surveys, each fetched once.

``position, size, layer -> address -> cache folder, else the viewer (slowly, with retries) -> checked file, with its
sha256``
"""

import hashlib
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

import astropy.units as u
import numpy as np

from fiberifu.output import atomic_path
from fiberifu.provenance import software_version
from fiberifu.surveys._checks import load_hdus
from fiberifu.surveys._sky import one_angle, one_position

__all__ = ["INTERVAL", "fetch_cutout", "fetch_psf"]

VIEWER = "https://www.legacysurvey.org/viewer/"
#: Seconds between the starts of two requests of one process: the viewer serves everybody, and about one cutout a
#: second.
INTERVAL = 3.0
#: Pixels on a side beyond which the viewer cuts without a word.
LARGEST = 3000
_WAIT = 5.0  # seconds before the second attempt; twice that before the third ...
_LONGEST = 300.0  # seconds, whatever the server asks for
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # HTTP states that may pass

_lock = threading.Lock()
_last = -np.inf  # when the last request began


def fetch_cutout(
    position,
    size,
    *,
    layer="ls-dr9",
    bands="grz",
    pixel_scale=0.262 * u.arcsec,
    folder=None,
    retries=4,
    timeout=60,
):
    """Fetch a cutout of the sky viewer, with inverse variance and mask bits, or take it from the cache.

    Parameters
    ----------
    position : `~astropy.coordinates.SkyCoord`
        One place, the middle of the cutout.
    size : `~astropy.units.Quantity`
        Side, an angle; at most 3000 pixels.
    layer : str
        Of the viewer: "ls-dr9" (North and South), "ls-dr10" (with i), "ls-dr9-north" ...
    bands : str
        One letter each. Bands that the layer does not have there come back empty or not at all.
    pixel_scale : `~astropy.units.Quantity`
        That of the coadds by default, so that nothing is resampled but to the cutout's grid.
    folder : path-like, optional
        The cache, made if it does not exist; ``fiberifu/legacysurvey`` in the user's cache folder by default.
    retries : int
        How often to try again after a failure that may pass (busy server, broken transfer, truncated file), waiting 5,
        10, 20, 40 s, or as the server asks.
    timeout : float
        Of one connection, seconds.

    Returns
    -------
    `~pathlib.Path`
        For `read_legacysurvey`.

    Raises
    ------
    ValueError
        For a wrong argument, before anything is asked; or if the viewer has no such image.
    OSError
        If the file cannot be had; the same call tries again.

    Notes
    -----
    A file appears under its name when it is whole: as long as the server said, readable, of the size and with the bands
    asked for. Its sha256 is kept beside it and compared at each use; a file that has changed is fetched again.
    Between the starts of two requests of a process are 3 seconds: to fetch thousands use the bricks
    (`read_legacysurvey_brick`).
    """
    query, name = _query(position, layer, bands)
    scale = one_angle(pixel_scale, "pixel_scale").to_value(u.arcsec)
    n = int(np.ceil(one_angle(size, "size").to_value(u.arcsec) / scale - 1e-6))
    if n > LARGEST:
        raise ValueError(
            f"size={size} is {n} pixels; the viewer gives up to {LARGEST}, larger fields are in the bricks"
        )
    query |= {"pixscale": f"{scale:g}", "size": n}
    address = f"{VIEWER}fits-cutout?{urllib.parse.urlencode(query)}&invvar&maskbits"

    def check(path):
        found = [
            (header, data)
            for header, data in load_hdus(path, "a cutout of the viewer")
            if data is not None and data.ndim >= 2
        ]
        if not found or any(data.shape[-2:] != (n, n) for _, data in found):
            shapes = [data.shape for _, data in found]
            raise ValueError(f"images of {shapes} came, not of {n} x {n} pixels")
        came = "".join(str(header.get("BANDS") or header.get("BAND") or "") for header, _ in found)
        if came and not set("".join(bands)) <= set(came):
            raise ValueError(f"bands {came!r} came, not {''.join(bands)!r}: the layer has no others there")

    return _fetch(address, f"cutout_{name}_{n}x{scale:g}.fits", folder, check, retries, timeout)


def fetch_psf(position, *, layer="ls-dr9", bands="grz", folder=None, retries=4, timeout=60):
    """Fetch the PSFs of the coadds at a place, for ``read_legacysurvey(cutout, psf=...)``; else as `fetch_cutout`.

    Parameters
    ----------
    position, layer, bands, folder, retries, timeout
        As of `fetch_cutout`.

    Returns
    -------
    `~pathlib.Path`

    Raises
    ------
    ValueError, OSError
        As by `fetch_cutout`.
    """
    query, name = _query(position, layer, bands)
    address = f"{VIEWER}coadd-psf/?{urllib.parse.urlencode(query)}"

    def check(path):
        if not any(data is not None and np.nansum(data) > 0 for _, data in load_hdus(path, "a cutout of the viewer")):
            raise ValueError("no PSF image in what came")

    return _fetch(address, f"copsf_{name}.fits", folder, check, retries, timeout)


def _query(position, layer, bands):
    """Arguments of the viewer, and what they are called in a file name."""
    position = one_position(position)
    bands = "".join(bands)
    if not bands.isalpha() or len(set(bands)) != len(bands):
        raise ValueError(f"bands={bands!r}: give one letter each, such as 'grz'")
    if not str(layer).replace("-", "").replace(".", "").isalnum():
        raise ValueError(f"layer={layer!r}: give a name of the viewer, such as 'ls-dr9'")
    ra, dec = f"{position.ra.deg:.6f}", f"{position.dec.deg:.6f}"
    return {"ra": ra, "dec": dec, "layer": layer, "bands": bands}, f"{ra}_{dec}_{layer}_{bands}"


# ---------------------------------------------------------------- one file
def _fetch(address, name, folder, check, retries, timeout):
    folder = _cache() if folder is None else Path(os.fspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    note = path.with_name(f"{name}.sha256")
    if path.is_file() and note.is_file() and note.read_text().split()[:1] == [_sha256(path)]:
        return path
    for attempt in range(retries + 1):
        try:
            body = _get(address, timeout)
            with atomic_path(path) as temporary:
                temporary.write_bytes(body)
                check(temporary)
                digest = _sha256(temporary)
            with atomic_path(note) as temporary:
                temporary.write_text(f"{digest}  {name}\n")
            return path
        except urllib.error.HTTPError as error:
            if error.code not in _AGAIN:
                raise ValueError(
                    f"{address}: the viewer answers {error.code} ({error.reason}); is the layer right, and does it "
                    "cover that place?"
                ) from error
            reason, pause = error, _asked(error)
        except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException, ValueError) as error:
            reason, pause = error, None
        if attempt < retries:
            time.sleep(_WAIT * 2**attempt if pause is None else pause)
    raise OSError(f"cannot fetch {address}: {reason} ({retries + 1} attempts); try again later") from reason


def _get(address, timeout):
    """The body of one answer, checked against its length; not sooner than INTERVAL after the request before."""
    global _last
    with _lock:
        pause = _last + INTERVAL - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        _last = time.monotonic()
    request = urllib.request.Request(address, headers={"User-Agent": f"fiberifu/{software_version()}"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        body, length = answer.read(), answer.headers.get("Content-Length")
    if length is not None and len(body) != int(length):
        raise ConnectionError(f"{len(body)} of {length} bytes came")
    return body


def _asked(error):
    """Seconds that the server asks us to wait, or None."""
    value = (error.headers or {}).get("Retry-After", "")
    return min(float(value), _LONGEST) if value.isdigit() else None


def _cache():
    from astropy.config.paths import get_cache_dir_path

    return get_cache_dir_path("fiberifu") / "legacysurvey"


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
