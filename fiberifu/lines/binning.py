# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Spectra of bins, and maps from what was measured on them.

``cube, bins -> bin_spectra -> one spectrum per bin -> fit_line_maps -> spread_bins -> maps on the grid of the cube``

``bins`` has one integer per spaxel, negative where there is none, as BINID of the MaNGA DAP.

Shapes: N spaxels, P pixels, B bins.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import StdDevUncertainty
from scipy.sparse import csr_array
from specutils import Spectrum

from fiberifu.flags import Flag
from fiberifu.lines.maps import DAPMask, LineMaps
from fiberifu.lines.rows import Rows

__all__ = ["bin_spectra", "spread_bins", "voronoi_bins"]

COVARIANCE = 1.62  # of MaNGA's cubes: sigma of N spaxels grows by 1 + 1.62 log10 N (Law et al. 2016, AJ 152, 83)
LARGEST = 100  # spaxels beyond which it grows no more (the same: 1 + 1.62 log10 100 = 4.2)
HOW = ("mean", "sum", "repeated")
KEPT = ("provenance", "extinction_corrected", "ebv", "medium", "redshift")  # of the metadata
PER_SPAXEL = ("flux", "continuum")  # the quantities that a sum has N times as much of


def bin_spectra(cube, bins, *, how="mean", covariance=COVARIANCE, mask=None):
    """Co-add the spectra of bins.

    Parameters
    ----------
    cube : `~specutils.Spectrum`
        Of any shape, in a flux density; with an uncertainty.
    bins : array_like of int, shape spatial
        Bin of each spaxel, negative for none.
    how : {'mean', 'sum', 'repeated'}
        Cubes that were binned already repeat a spectrum, and its errors, in all spaxels of a bin: 'repeated' takes the
        first of them (``bins=cube.meta["bins"]`` of `~fiberifu.surveys.read_sami_cube`).
        Every good pixel counts alike. A sum is the mean times the spaxels of the bin that have any good pixel, so that
        a masked pixel does not make a dip.
    covariance : float
        Coefficient alpha of 1 + alpha log10 N, by which errors are larger than those of N independent spaxels; N, of
        the pixels that are added, up to 100. 1.62 is MaNGA's (0.5 arcsec spaxels, 2.5 arcsec beam); 0 for independent
        spaxels.
    mask : array_like of bool, optional
        True = bad, broadcast to the shape of the cube; in addition to the cube's own mask, and to spaxels that
        ``meta["flags"]`` calls `Flag.BAD_SPAXEL <fiberifu.flags.Flag>`.

    Returns
    -------
    spectra : `~specutils.Spectrum`, shape (B, P)
        In the unit of the cube, masked where no pixel is good; ``meta["n_spaxels"]`` has how many there are in each,
        ``meta["flags"]`` what the flags of these say together.
    bin_ids : ndarray of int, shape (B,)
        The number of each bin, rising.

    Raises
    ------
    ValueError
        Naming the argument, what came and what would do. Bad spaxels are left out, never raised.
    """
    rows = Rows(cube)
    index, bin_ids = _index(bins, rows.shape)
    if how not in HOW:
        raise ValueError(f"how is {how!r}; use one of {HOW}")
    if not (np.isscalar(covariance) and covariance >= 0):
        raise ValueError(f"covariance is {covariance!r}; give a coefficient that is not negative")
    data, weight = rows.read(mask)
    flags = np.broadcast_to(np.asarray(cube.meta.get("flags", 0), np.int32), rows.shape).ravel()
    weight[flags & Flag.BAD_SPAXEL != 0] = 0
    good = weight > 0
    used = np.flatnonzero((index >= 0) & good.any(1))
    if how == "repeated":
        used = used[np.unique(index[used], return_index=True)[1]]
    member = csr_array((np.ones(len(used)), (index[used], used)), shape=(len(bin_ids), len(index)))
    n = member @ good.astype(float)  # (B, P)
    scale = member.sum(1)[:, None] if how == "sum" else 1
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = member @ np.where(good, data, 0) / n * scale
        sigma = np.sqrt(member @ np.where(good, 1 / weight, 0)) / n * scale * _correction(n, covariance)
    together = np.zeros(len(bin_ids), np.int32)
    np.bitwise_or.at(together, index[used], flags[used])
    kept = {name: cube.meta[name] for name in KEPT if name in cube.meta}
    if np.shape(cube.meta.get("lsf")) == cube.spectral_axis.shape:
        kept["lsf"] = cube.meta["lsf"]
    absent = n == 0
    flux, sigma, absent = (_as_given(x, rows) for x in (np.where(absent, 0, flux), np.where(absent, 1, sigma), absent))
    spectra = Spectrum(
        flux=flux / rows.factor * cube.flux.unit,
        spectral_axis=cube.spectral_axis,
        spectral_axis_index=1,
        uncertainty=StdDevUncertainty(sigma / rows.factor),
        mask=absent,
        meta=kept | {"n_spaxels": np.bincount(index[used], minlength=len(bin_ids)), "flags": together},
    )
    return spectra, bin_ids


def spread_bins(values, bins, *, bin_ids=None, how="mean", wcs=None):
    """Give every spaxel the value of its bin.

    Parameters
    ----------
    values : array_like, `~astropy.units.Quantity` of shape (B, ...), or `LineMaps` of the list of B bins
        What was measured on the spectra of `bin_spectra`.
    bins : array_like of int, shape spatial
        Bin of each spaxel, negative for none.
    bin_ids : array_like of int, shape (B,), optional
        Numbers of the bins; by default all in ``bins``, rising.
    how : {'mean', 'sum'}
        Of the spectra: with sums, flux, continuum and their errors in `LineMaps` are divided by the number of spaxels
        of the bin in ``bins``. Values other than `LineMaps` stay as they are.
    wcs : `~astropy.wcs.WCS`, optional
        Celestial WCS of the new `LineMaps`.

    Returns
    -------
    ndarray, Quantity of shape spatial + (...), or `LineMaps`
        NaN, for integers 0, where there is no bin; `LineMaps` have NOCOV there, and keep the bins (-1 for none, else
        rows of ``values``) in ``meta["bins"]``, so that `LineMaps.total` knows whose errors are the same.

    Raises
    ------
    ValueError
        Naming the argument, what came and what would do.
    """
    if how not in HOW:
        raise ValueError(f"how is {how!r}; use one of {HOW}")
    shape = np.shape(bins)
    index, bin_ids = _index(bins, shape, bin_ids)
    if isinstance(values, LineMaps):
        return _spread_maps(values, index, shape, bin_ids, how, wcs)
    if np.ndim(values) == 0 or len(values) != len(bin_ids):
        raise ValueError(f"values has the shape {np.shape(values)}; for {len(bin_ids)} bins it must be that long")
    return _spread(values, index, shape)


def voronoi_bins(signal, noise, target_snr, *, mask=None, covariance=0.0):
    """Voronoi bins of about equal signal-to-noise, by the method of Cappellari & Copin 2003 (MNRAS 342, 345).

    The work is done by the package vorbin of M. Cappellari, which is free for non-commercial use only and must be
    installed apart.

    Parameters
    ----------
    signal, noise : array_like or `~astropy.units.Quantity`, shape (ny, nx)
        Of each spaxel, in one unit; spaxels that are not finite or have no positive noise are in no bin.
    target_snr : float
        Of the bins. Spaxels of larger signal-to-noise are bins of their own.
    mask : array_like of bool, shape (ny, nx), optional
        True = in no bin: of a signal-to-noise so low, for instance, that it adds nothing.
    covariance : float
        As for `bin_spectra`.

    Returns
    -------
    ndarray of int, shape (ny, nx)
        Bin of each spaxel, -1 for none.

    Raises
    ------
    ValueError
        If vorbin is not installed, shapes differ, or there is nothing to bin.
    """
    try:
        from vorbin.voronoi_2d_binning import voronoi_2d_binning
    except ImportError:
        raise ValueError(
            "voronoi_bins needs the package vorbin (free for non-commercial use only): pip install vorbin; or give "
            "bins of your own to bin_spectra"
        ) from None
    unit = getattr(signal, "unit", u.dimensionless_unscaled)
    signal = np.asarray(getattr(signal, "value", signal), float)
    noise = np.asarray(noise.to_value(unit) if isinstance(noise, u.Quantity) else noise, float)
    if signal.ndim != 2 or noise.shape != signal.shape:
        raise ValueError(f"signal has the shape {signal.shape}, noise {noise.shape}; both must be (ny, nx)")
    good = np.isfinite(signal) & (noise > 0) & np.isfinite(noise)
    if mask is not None:
        good &= ~np.broadcast_to(np.asarray(mask, bool), signal.shape)
    if not good.any():
        raise ValueError("signal has no spaxel with finite signal and positive noise that is not masked")
    together = lambda i, s, n: s[i].sum() / np.sqrt((n[i] ** 2).sum()) / _correction(np.size(i), covariance)  # noqa: E731
    y, x = np.nonzero(good)
    found = voronoi_2d_binning(x, y, signal[good], noise[good], target_snr, pixelsize=1, plot=False, sn_func=together)
    bins = np.full(signal.shape, -1)
    bins[good] = found[0]
    return bins


def _correction(n, covariance):
    """Factor on the error of n spaxels that were taken as independent."""
    return 1 + covariance * np.log10(np.clip(n, 1, LARGEST))


def _index(bins, shape, bin_ids=None):
    """Row of each spaxel (N,) in the list of bins, -1 for none, and the numbers of the bins (B,)."""
    bins = np.asarray(bins)
    if bins.dtype.kind not in "iu" or bins.shape != shape:
        raise ValueError(f"bins is a {bins.dtype} array of shape {bins.shape}; it must be integers of shape {shape}")
    bins = bins.astype(int).ravel()
    known = np.unique(bins[bins >= 0])
    if bin_ids is None:
        bin_ids = known
    bin_ids = np.asarray(bin_ids)
    if not bin_ids.size:
        raise ValueError("bins has no bin: all are negative")
    if bin_ids.ndim != 1 or len(np.unique(bin_ids)) != len(bin_ids) or not np.isin(known, bin_ids).all():
        raise ValueError(f"bin_ids is {bin_ids}; give the number of every bin, once")
    order = np.argsort(bin_ids)
    place = np.clip(np.searchsorted(bin_ids[order], bins), 0, len(bin_ids) - 1)
    return np.where(bins >= 0, order[place], -1), bin_ids


def _as_given(values, rows):
    """Columns in the order of the cube's wavelengths; `Rows` has them rising."""
    out = np.empty_like(values)
    out[:, rows.order] = values
    return out


def _spread(values, index, shape, fill=None):
    """Values (B, ...) on the grid, ``fill`` where there is no bin."""
    unit = getattr(values, "unit", None)
    values = np.asarray(values.value if unit is not None else values)
    fill = (np.nan if values.dtype.kind == "f" else 0) if fill is None else fill
    out = np.where((index >= 0).reshape(-1, *[1] * (values.ndim - 1)), values[index], fill).astype(values.dtype)
    out = out.reshape(*shape, *values.shape[1:])
    return out if unit is None else out * unit


def _spread_maps(maps, index, shape, bin_ids, how, wcs):
    if maps.shape != (len(bin_ids),):
        raise ValueError(f"values has the shape {maps.shape}; for {len(bin_ids)} bins it must be ({len(bin_ids)},)")
    share = np.ones(len(bin_ids))
    if how == "sum":
        share = 1 / np.maximum(np.bincount(index[index >= 0], minlength=len(bin_ids)), 1)

    def grid(values, fill=None):
        """From axes (..., B) to (...) + spatial."""
        spread = _spread(np.moveaxis(values, -1, 0), index, shape, fill)
        return np.moveaxis(spread, tuple(range(len(shape))), tuple(range(-len(shape), 0)))

    arrays = {}
    for name, (value, sigma, _) in maps._data.items():
        factor = share if name in PER_SPAXEL else 1.0
        arrays[name] = grid(value * factor)
        if name != "instrumental_dispersion":
            arrays[f"{name}_sigma"] = grid(sigma * factor)
    absent = np.int32(DAPMask.NOCOV | DAPMask.DONOTUSE)
    covariance = None if maps._covariance is None else _spread(
        maps._covariance * share[:, None, None] ** 2, index, shape)  # fmt: skip
    meta = {
        key: _spread(value, index, shape) if np.shape(value) == maps.shape and np.ndim(value) else value
        for key, value in maps.meta.items()
    }
    result = LineMaps(
        maps.lines,
        **arrays,
        redshift=maps.redshift,
        mask={name: grid(bits, absent) for name, bits in maps._mask.items()},
        flags=None if maps.flags is None else _spread(maps.flags, index, shape),
        wcs=wcs,
        covariance=covariance,
        shared=None if maps.shared is None else np.nan_to_num(grid(maps.shared * share)),
        provenance=maps.provenance,
        extinction_corrected=maps.extinction_corrected,
        ebv=maps.ebv,
        meta=meta | {"bins": index.reshape(shape)},
    )
    result.components = tuple(_spread_maps(part, index, shape, bin_ids, how, wcs) for part in maps.components)
    return result
