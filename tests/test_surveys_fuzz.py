# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Damaged files are read soundly, or refused by name; ``python benchmarks/fuzz_readers.py`` does many more."""

import re

import numpy as np
import pytest
from astropy.io import fits
from damage import damaged
from reader_files import READERS, outcome


@pytest.mark.filterwarnings("ignore", "error::RuntimeWarning")
@pytest.mark.parametrize("name", READERS)
def test_bad_files(name, tmp_path):
    reader = READERS[name]
    paths = reader.make(tmp_path)
    assert outcome(reader, paths) == "read"
    path, whole = paths[0], paths[0].read_bytes()
    for bad in (whole[: len(whole) // 2 - 1500], b""):  # not between two HDUs
        path.write_bytes(bad)
        assert outcome(reader, paths) == "error"
    for seed in range(3):
        path.write_bytes(damaged(whole, np.random.default_rng([7, seed]))[0])
        assert outcome(reader, paths) in ("read", "error")
    for path in paths:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"\.fits"):
        reader.read(paths)


@pytest.mark.parametrize(
    ("name", "hdu", "key", "unit", "factor"),
    [
        ("manga-cube", "FLUX", "BUNIT", "Jy", None),
        ("manga-cube", "FLUX", "BUNIT", "1E-16 erg/s/cm^2/Ang/spaxel", 10.0),
        ("sami-cube", 0, "BUNIT", "nm", None),
        ("sami-cube", 0, "BUNIT", "10**(-17) erg /s /cm**2 /angstrom /pixel", 0.1),
        ("manga-maps", "EMLINE_GFLUX", "BUNIT", "1E-16 erg/s/cm^2/spaxel", None),
        ("manga-maps", "EMLINE_GVEL", "BUNIT", "m/s", None),
        ("tractor", 1, "TUNIT4", "Jy", None),
        ("tractor", 1, "TUNIT4", "nanomaggy", 1.0),
        ("drpall", 1, "TUNIT7", "pc", None),
        ("drpall", 1, "TUNIT7", "arcmin", 60.0),
    ],
)
def test_units(name, hdu, key, unit, factor, tmp_path):
    """Another unit of the same kind is converted; one of something else is refused, with the file's name."""
    reader = READERS[name]
    paths = reader.make(tmp_path)
    before = _number(name, reader.read(paths))
    with fits.open(paths[0], mode="update") as hdus:
        hdus[hdu].header[key] = unit
    if factor is None:
        with pytest.raises(ValueError, match=f"{paths[0].name}.*{re.escape(unit)}"):
            reader.read(paths)
    else:
        assert _number(name, reader.read(paths)) == pytest.approx(factor * before, rel=1e-6)


def _number(name, found):
    """A number that is in the unit."""
    if name == "tractor":
        return found["flux_g"][0].value
    if name == "drpall":
        return found["nsa_elpetro_th50_r"][0].value
    return None if name == "manga-maps" else float(np.median(found.flux.value[0, 3, 3]))


def test_maps_without_their_masks_or_errors(tmp_path):
    """Without a mask the zeros that stand for nothing would pass for fluxes; nor is one row taken for all."""
    (path,) = READERS["manga-maps"].make(tmp_path)
    bad = tmp_path / "manga-sim-bad-MAPS.fits"
    for lost in ("EMLINE_GFLUX_MASK", "EMLINE_GFLUX_IVAR", "EMLINE_GFLUX"):
        with fits.open(path) as hdus:
            del hdus[lost]
            hdus.writeto(bad, overwrite=True)
        with pytest.raises(ValueError, match=f"bad-MAPS.fits.*{lost}"):
            READERS["manga-maps"].read([bad])
    with fits.open(path) as hdus:
        hdus["EMLINE_GVEL"].data = hdus["EMLINE_GVEL"].data[:1]
        hdus.writeto(bad, overwrite=True)
    with pytest.raises(ValueError, match="bad-MAPS.fits.*EMLINE_GVEL has the shape"):
        READERS["manga-maps"].read([bad])
