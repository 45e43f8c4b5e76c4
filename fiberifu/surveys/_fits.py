# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Opening FITS files, local or remote, whole or in parts, with errors that name the file."""

import gzip
import io
import os
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, FITSFixedWarning

from fiberifu.provenance import is_predicted

__all__ = ["FitsFile", "celestial_wcs", "exists", "find", "is_remote", "naming", "read_hdus", "size"]


def read_hdus(path):
    """Read a FITS file wholly.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of (Header, ndarray or None)
        One per HDU, in memory; the file is closed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not FITS, is truncated, or is a prediction of this package.
    """
    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    # Opened here, so that it is closed when astropy gives up half-way.
    with naming(path), open(path, "rb") as file, fits.open(file, memmap=False) as hdus:
        out = [(hdu.header.copy(), None if hdu.data is None else hdu.data.copy()) for hdu in hdus]
    if any(is_predicted(header) for header, _ in out):
        raise ValueError(f"{path}: DATATYPE='PREDICTED', made by fiberifu; give an observed or simulated image")
    return out


class FitsFile:
    """A FITS file of which parts are read when they are asked for; to be used in a ``with`` statement.

    Parameters
    ----------
    path : path-like or str
        A file, or a URL that fsspec knows (``https://``, ``s3://`` without sign-in ...), of which only the parts that
        are asked for are fetched.  A gzipped file is unpacked in memory.
    checksum : bool
        Whether to verify the checksums of a file that has them, for which all of it is read.

    Attributes
    ----------
    headers : dict of str to `~astropy.io.fits.Header`
        By the name of the HDU, HDU1 ... where it has none, the first PRIMARY; of two with one name, the first.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the URL needs a package that is not installed.
    ValueError
        If it is not FITS, is truncated, does not have its checksums, or is a prediction of this package.
    """

    def __init__(self, path, *, checksum=False):
        self.path, self._stack = os.fspath(path), ExitStack()
        if not is_remote(self.path) and not Path(self.path).is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        try:
            with naming(self.path):
                file = self._stack.enter_context(_open(self.path))
                if file.read(2) == b"\x1f\x8b":
                    file.seek(0)
                    file = io.BytesIO(gzip.open(file).read())
                file.seek(0)
                hdus = self._stack.enter_context(fits.open(file, memmap=False, checksum=checksum))
                self._hdus = {}
                for i, hdu in enumerate(hdus):  # all of them: how astropy finds out that a file is truncated
                    hdu.verify("silentfix+ignore")  # a card that cannot be parsed would fail when it is looked at
                    self._hdus.setdefault((hdu.name or f"HDU{i}") if i else "PRIMARY", hdu)
                self.headers = {name: hdu.header for name, hdu in self._hdus.items()}
                predicted = any(is_predicted(header) for header in self.headers.values())
            if predicted:
                raise ValueError(f"{self.path}: DATATYPE='PREDICTED', made by fiberifu; give an observation")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()

    def __contains__(self, name):
        return name in self._hdus

    def shape(self, name):
        """Shape of an image; None where there is none of this name."""
        hdu = self._hdus.get(name)
        with naming(self.path):
            return tuple(hdu.shape) if getattr(hdu, "is_image", False) else None

    def rows(self, name, start, stop):
        """Rows (slices of the first axis) ``start`` to ``stop`` of an image, in native byte order."""
        with naming(self.path):
            data = np.asarray(self._hdus[name].section[start:stop])
            return data.astype(data.dtype.newbyteorder("="), copy=False)

    def image(self, name):
        """The whole of an image, in native byte order."""
        with naming(self.path):
            data = np.asarray(self._hdus[name].data)
            return data.astype(data.dtype.newbyteorder("="), copy=False)

    def columns(self, name):
        """Names of a table's columns, in upper case; none if it is not a table."""
        with naming(self.path):
            hdu = self._hdus[name]
            return [str(key).upper() for key in hdu.columns.names] if isinstance(hdu, fits.BinTableHDU) else []

    def table(self, name):
        """Columns of a table: dict of ndarray, in native byte order, text as str; keys in upper case."""
        with naming(self.path):
            hdu = self._hdus[name]
            if not isinstance(hdu, fits.BinTableHDU):
                raise ValueError(f"{name} is not a table")
            data, out = hdu.data, {}
            for column in hdu.columns.names:
                values = np.asarray(data[column])
                if values.dtype.kind == "S":
                    values = np.char.decode(values, "ascii", "replace")
                out[column.upper()] = values.astype(values.dtype.newbyteorder("="), copy=True)
        return out


def is_remote(path):
    """Whether a path is a URL."""
    return "://" in os.fspath(path)


def exists(path):
    """Whether there is such a file, local or remote."""
    if not is_remote(path):
        return Path(path).is_file()
    filesystem, name = _filesystem(path)
    return filesystem.isfile(name)


def find(folder, pattern):
    """Names of the files and folders in a folder that match, sorted, local or remote."""
    if not is_remote(folder):
        return sorted(str(path) for path in Path(folder).glob(pattern))
    filesystem, name = _filesystem(folder)
    return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(f"{name}/{pattern}"))


def size(path):
    """Bytes of a remote file; None if that is not known."""
    filesystem, name = _filesystem(path)
    return filesystem.size(name)


def celestial_wcs(header, path):
    """Celestial WCS of a header; ValueError, naming the file, if it has none."""
    with warnings.catch_warnings():
        # wcslib announces that it completes the CD matrix of a cube of bands: harmless.
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header).celestial
    if wcs.naxis != 2:
        raise ValueError(f"{path}: no celestial WCS in its header")
    return wcs


# ---------------------------------------------------------------- how files are opened
def _open(path):
    if not is_remote(path):
        return open(path, "rb")
    filesystem, name = _filesystem(path)
    return filesystem.open(name, "rb")


def _filesystem(path):
    """fsspec's file system of a URL, without sign-in, and the name in it."""
    try:
        import fsspec

        keywords = {"anon": True} if path.startswith(("s3://", "gs://")) else {}
        return fsspec.core.url_to_fs(path, **keywords)
    except ImportError as error:
        raise ImportError(f"{path}: {error}; pip install fsspec aiohttp (of s3:// s3fs)") from error


@contextmanager
def naming(path):
    """What a damaged file makes astropy raise (the kinds are many) becomes a ValueError that names the file."""
    try:
        with warnings.catch_warnings():
            # astropy only warns of a truncated file or a wrong checksum, and fails later or not at all.
            for message in (".*truncated", ".*Error validating header", ".*verification failed"):
                warnings.filterwarnings("error", message=message, category=AstropyWarning)
            yield
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:
        kind = "truncated or damaged FITS" if is_remote(path) or _looks_like_fits(path) else "not a FITS file"
        raise ValueError(f"{path}: {kind} ({error}); fetch it again") from error


def _looks_like_fits(path):
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith(b"SIMPLE") or start.startswith(b"\x1f\x8b")
