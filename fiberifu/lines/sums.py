# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Emission lines without a profile: sums over bandpasses, as the MaNGA DAP makes them beside its Gaussians.

``cube -> rows -> bands of each line, cut into pixels -> one linear sum per quantity -> LineMaps``

Every quantity is a sum over pixels, ``sum_p coefficient_p data_p``, or a ratio of such sums: flux, moments and the
pseudo-continuum beneath them. So their errors, and the covariance of lines that share a side band, are exact
(first order for the ratios). Westfall et al. 2019 (AJ 158, 231), section 9.7; Belfiore et al. 2019 (AJ 158, 160).

Shapes: N spectra, P pixels, L lines; bands are (L, 3, 2): blue, main, red; lower and upper edge.
"""

import astropy.units as u
import numpy as np
from astropy.nddata import NDData

from fiberifu.constants import C_KMS
from fiberifu.lines.fit import _assemble, _covered
from fiberifu.lines.job import BAD, SURE
from fiberifu.lines.maps import DAPMask
from fiberifu.lines.rows import Rows
from fiberifu.lines.table import observed_lines

__all__ = ["sum_line_maps"]

CHUNK = 512  # spectra at a time; bounds the memory, results do not depend on it
WHOLE = 1 - 1e-6  # covered fraction of a band from which it counts as complete; 1 but for rounding


def sum_line_maps(
    cube,
    table="strong",
    *,
    redshift,
    continuum=None,
    window=None,
    velocity=None,
    medium=None,
    mask=None,
):
    """Sum emission lines over bandpasses in every spaxel of a cube, or in every spectrum of a list.

    Flux is summed in the ``main`` band of each line above a straight line through the means of its ``blue`` and
    ``red`` side bands; pixels at the edges of bands count by the part that is inside. Nothing is assumed about the
    profile; flux beyond the band is lost, and that of neighbours inside it is included.

    Parameters
    ----------
    cube : `~specutils.Spectrum`
        Of any shape, in a flux density; with an uncertainty. Of any survey.
    table : str, sequence of str or `~astropy.table.QTable`
        Of lines with their bands, see `line_table`.
    redshift : float
        Systemic: bands are shifted by it, velocities and equivalent widths refer to it.
    continuum : `~specutils.Spectrum`, array_like or callable, optional
        Model of the starlight, of the shape of the cube, or a function that makes one of it. Fluxes and moments are
        measured on the cube less the model; H-beta and H-alpha need it, for their absorption. The continuum of
        equivalent widths is measured on the cube in either case.
    window : `~astropy.units.Quantity`, optional
        Half width of the main bands around the lines, a velocity or a rest-frame length, instead of the table's.
    velocity : `~astropy.units.Quantity` or `~astropy.nddata.NDData`, shape spatial, optional
        By which bands are shifted in addition, relative to ``redshift``: ``maps.velocity["Ha"]`` of a fit. Where it
        is masked or not finite, bands stay.
    medium : {'vacuum', 'air'}, optional
        Of the cube's wavelengths; by default ``cube.meta["medium"]``, else vacuum.
    mask : array_like of bool, optional
        True = bad, broadcast to the shape of the cube; in addition to the cube's own mask.

    Returns
    -------
    `LineMaps`
        With ``meta["kind"] = "sums"``. Velocity and dispersion are the first and second moment above the continuum, as
        observed, of what is inside the band, which makes broad lines narrower. They are DONOTUSE where the flux is
        below 3 sigma.

        Masks: NOCOV where one of the three bands has no pixel; LOWCOV where one has masked pixels or is cut by the
        end of the spectrum, with DONOTUSE if it is the main band, whose sum then lacks flux. A blend that the table
        measures in one band is in its first line, the other has NOVALUE: ``meta["blends"]`` has their names
        (``{"O2_3726": ("O2_3726", "O2_3729")}``).

    Raises
    ------
    ValueError
        Naming the argument, what came and what would do. A bad spaxel is flagged, never raised.

    Warns
    -----
    AstropyUserWarning
        For a predicted cube, whose pixels are correlated: errors are flagged.
    """
    rows = Rows(cube)
    lines, redshift, medium = observed_lines(table, redshift, cube, medium)
    centres = lines["wavelength"].to_value(u.AA) * (1 + redshift)
    covered = _covered(rows, centres)
    if not covered.size:
        raise ValueError(
            f"redshift is {redshift}: no line of the table falls on {rows.wave[0]:.0f}-{rows.wave[-1]:.0f} Angstrom; "
            "check redshift and table"
        )
    bands, blends = _bands(lines[covered], window)
    bands, shift = bands * (1 + redshift), _shift(velocity, rows.shape)
    low, high = rows.wave - rows.step / 2, rows.wave + rows.step / 2
    used = np.zeros(len(low), bool)
    for first, last in _spans(bands, shift):
        used |= (high > first) & (low < last)
    pixels = np.flatnonzero(used)
    data, weight = rows.read(mask, pixels)
    model = None
    if continuum is not None:
        model = rows.model(continuum(cube) if callable(continuum) else continuum, pixels)
        weight = np.where(np.isfinite(model), weight, 0.0)
    grid = rows.wave[pixels], low[pixels], high[pixels]
    chunks = [slice(i, i + CHUNK) for i in range(0, len(data), CHUNK)]
    parts = [
        _measure(data[i], weight[i], None if model is None else model[i], grid, bands, centres[covered],
                 shift if len(shift) == 1 else shift[i], redshift)
        for i in chunks
    ]  # fmt: skip
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    maps = _assemble(found, rows, lines, covered, redshift, cube, {"medium": medium})
    maps.meta |= {"kind": "sums", "blends": blends}
    return maps


# ---------------------------------------------------------------- bands and pixels
def _bands(lines, window):
    """Rest-frame bands (L, 3, 2), Angstrom, and the names of the lines that are measured in the band of another."""
    bands = np.stack([lines[name].to_value(u.AA) for name in ("blue", "main", "red")], axis=1)
    if window is not None:
        bands[:, 1] = _around(lines["wavelength"].to_value(u.AA), window)
        return bands, {}
    keys, blends = [str(key) for key in lines["key"]], {}
    edges = [tuple(band) for band in bands[:, 1]]
    for i, band in enumerate(edges):
        first = edges.index(band) if np.isfinite(band).all() else i
        if first != i:
            blends[keys[first]] = (*blends.get(keys[first], (keys[first],)), keys[i])
            bands[i, 1] = np.nan
    return bands, blends


def _around(wave, window):
    """Bands (L, 2) of half width ``window`` around the lines."""
    unit = getattr(window, "unit", u.one)
    if not (unit.is_equivalent(u.km / u.s) or unit.is_equivalent(u.AA)) or not np.isscalar(window.value):
        raise ValueError(f"window is {window}; give one half width, as a velocity or a length")
    half = window.to_value(u.AA) if unit.is_equivalent(u.AA) else wave * window.to_value(u.km / u.s) / C_KMS
    if not (np.isfinite(half).all() and np.all(half > 0)):
        raise ValueError(f"window is {window}; it must be positive")
    return np.stack([wave - half, wave + half], axis=1)


def _shift(velocity, shape):
    """Factors (N, 1) by which a velocity shifts wavelengths; (1, 1) without."""
    if velocity is None:
        return np.ones((1, 1))
    unit = getattr(velocity, "unit", None)
    if unit is None or not unit.is_equivalent(u.km / u.s) or np.shape(velocity) != shape:
        raise ValueError(
            f"velocity is {type(velocity).__name__} of shape {np.shape(velocity)} in {unit}; give a Quantity or NDData "
            f"of shape {shape} in km/s"
        )
    value = u.Quantity(velocity.data if isinstance(velocity, NDData) else velocity, unit).to_value(u.km / u.s)
    bad = ~np.isfinite(value)
    if getattr(velocity, "mask", None) is not None:
        bad |= velocity.mask
    return 1 + np.where(bad, 0.0, value).reshape(-1, 1) / C_KMS


def _spans(bands, shift):
    """From the bluest to the reddest edge (L, 2) of each line's bands, for all shifts."""
    return np.stack([np.nanmin(bands, (1, 2)) * shift.min(), np.nanmax(bands, (1, 2)) * shift.max()], axis=1)


def _inside(low, high, band):
    """Lengths (N, P) of the parts of pixels inside a band (N, 2)."""
    return np.maximum(np.minimum(high, band[:, 1:]) - np.maximum(low, band[:, :1]), 0)


# ---------------------------------------------------------------- measurements
def _measure(data, weight, model, pixels, bands, centres, shift, redshift):
    """All quantities, per line (N, L), as `fiberifu.lines.fit` has them."""
    variance = np.divide(1, weight, out=np.zeros_like(weight), where=weight > 0)
    light = data if model is None else np.where(weight > 0, data - model, 0.0)
    spans = [slice(*np.searchsorted(pixels[1], (first, last))) for first, last in _spans(bands, shift)]
    spans = [slice(max(span.start - 1, 0), span.stop) for span in spans]  # the pixel that holds the first edge
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [
            _measure_line(data[:, span], light[:, span], variance[:, span], weight[:, span] > 0,
                          [part[span] for part in pixels], band, centre, shift, redshift)
            for span, band, centre in zip(spans, bands, centres, strict=True)
        ]  # fmt: skip
    terms = [line.pop("coefficient") for line in found]
    result = {name: np.stack([line[name] for line in found], axis=1) for name in found[0]}
    return result | {"covariance": _covariance(terms, spans, variance)}


def _measure_line(data, light, variance, good, pixels, band, centre, shift, redshift):
    """Quantities (N,) of one line; arrays are (N, P) around it, ``band`` is (3, 2)."""
    wave, low, high = pixels
    lengths = [_inside(low, high, edge * shift) * good for edge in band]
    whole = [length.sum(1) for length in lengths]
    covered = [length / (edge[1] - edge[0]) / shift[:, 0] for length, edge in zip(whole, band, strict=True)]

    # The pseudo-continuum runs through the means of the side bands at the mean wavelengths of the pixels used, so that
    # a straight continuum leaves nothing, whatever is masked.
    blue, red = (lengths[i] / whole[i][:, None] for i in (0, 2))
    x_blue, x_red = blue @ wave, red @ wave
    along = lambda x: (x - x_blue[:, None]) / (x_red - x_blue)[:, None]  # 0 in the blue, 1 in the red  # noqa: E731

    def above(kernel):
        """Coefficients of the sum of kernel x (data - pseudo-continuum)."""
        part = (kernel * along(wave)).sum(1, keepdims=True)
        return kernel - (kernel.sum(1, keepdims=True) - part) * blue - part * red

    total = lambda kernel, values: (kernel * values).sum(1)  # noqa: E731
    error = lambda kernel: np.sqrt(total(kernel**2, variance))  # noqa: E731
    main = lengths[1]
    coefficient = above(main)
    flux, flux_sigma = total(coefficient, light), error(coefficient)

    place = along(centre * shift)
    under = (1 - place) * blue + place * red
    level, level_sigma = total(under, data), error(under)
    ew = flux / np.where(level > 0, level, np.nan) / (1 + redshift)
    ew_sigma = error(coefficient - (flux / level)[:, None] * under) / np.abs(level) / (1 + redshift)

    speed = C_KMS * (wave / centre - 1)
    first = above(main * speed)
    velocity = total(first, light) / flux
    velocity_sigma = error(first - velocity[:, None] * coefficient) / np.abs(flux)
    # The variance of a profile that pixels have smeared, less that of a pixel (Sheppard 1898, Proc. LMS 29, 353).
    offset = (speed - velocity[:, None]) ** 2 - (C_KMS * (high - low) / centre) ** 2 / 12
    second = above(main * offset)
    square = total(second, light) / flux
    dispersion = np.sqrt(np.where(square > 0, square, np.nan))
    dispersion_sigma = error(second - square[:, None] * coefficient) / np.abs(flux) / 2 / dispersion

    empty = np.any([part == 0 for part in covered], axis=0)
    mask = np.where(empty, np.int32(DAPMask.NOCOV) | BAD, np.int32(0))
    mask |= np.where(np.any([part < WHOLE for part in covered], axis=0), np.int32(DAPMask.LOWCOV), np.int32(0))
    mask |= np.where(covered[1] < WHOLE, BAD, np.int32(0))
    faint = np.where(flux < SURE * flux_sigma, np.int32(DAPMask.UNRELIABLE) | BAD, np.int32(0))
    found = {
        "flux": flux, "flux_sigma": flux_sigma, "ew": ew, "ew_sigma": ew_sigma,
        "continuum": level, "continuum_sigma": level_sigma, "velocity": velocity, "velocity_sigma": velocity_sigma,
        "dispersion": dispersion, "dispersion_sigma": dispersion_sigma,
        "instrumental_dispersion": np.full(len(flux), np.nan),
    }  # fmt: skip
    found = {name: np.where(empty, np.nan, value) for name, value in found.items()}
    return found | {"mask": mask, "kinematic_mask": mask | faint, "coefficient": coefficient}


def _covariance(terms, spans, variance):
    """Covariance (N, L, L) of fluxes from their coefficients (N, P'), each on its span of pixels."""
    out = np.zeros((len(variance), len(terms), len(terms)))
    for i, a in enumerate(spans):
        for j, b in enumerate(spans[: i + 1]):
            both = slice(max(a.start, b.start), min(a.stop, b.stop))
            if both.start < both.stop:
                one, two = (terms[k][:, both.start - s.start : both.stop - s.start] for k, s in ((i, a), (j, b)))
                out[:, i, j] = out[:, j, i] = np.einsum("np,np,np->n", one, two, variance[:, both])
    return out
