# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Matching on the sky: fibres to galaxies, and to images.

``fibres + galaxies -> offsets in the galaxy's ellipse, velocities -> kind of each fibre -> census``
"""

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.table import QTable

from fiberifu.constants import C_KMS
from fiberifu.surveys._sky import one_angle

__all__ = ["KINDS", "match_fibers", "match_images"]

#: What a fibre may be, column ``kind`` of `match_fibers`.
KINDS = ("central", "off-centre", "no redshift", "other redshift", "unmatched", "sky")


# ---------------------------------------------------------------- fibres and galaxies
def match_fibers(
    fibers,
    galaxies,
    *,
    max_radius=3.0,
    min_reach=3 * u.arcsec,
    center=0.75 * u.arcsec,
    max_velocity=1000 * u.km / u.s,
    n_sigma=3.0,
    axis_angle=15 * u.deg,
):
    """Find the galaxy of every fibre, and so all fibres of every galaxy.

    Parameters
    ----------
    fibers : `~astropy.table.QTable`
        Columns ``position`` (`~astropy.coordinates.SkyCoord`), ``z``, ``zwarn``; ``targetid``, ``zerr`` and
        ``objtype`` are used if there: ``meta["fibers"]`` of a reader of fibre spectra.
    galaxies : `~astropy.table.QTable`
        Columns ``position``, ``z`` (NaN if not known), ``r50`` (half-light semi-major axis, an angle), ``axis_ratio``,
        ``position_angle`` (from North through East): of `read_drpall`, or of `read_tractor` with a ``z``.
    max_radius : float
        How far a galaxy reaches, in elliptical radii of ``r50``.
    min_reach : `~astropy.units.Quantity`
        At least this far on the major axis, whatever ``r50``.
    center : `~astropy.units.Quantity`
        Separation up to which a fibre is central; by default DESI's covers the centre then. Also the separation up
        to which two fibres are at the same place.
    max_velocity : `~astropy.units.Quantity`
        Beyond, a fibre is of something before or behind the galaxy.
    n_sigma : float
        Redshift errors beyond which two fibres of a galaxy differ in velocity.
    axis_angle : `~astropy.units.Quantity`
        How far an off-centre fibre may be from the major axis to be on it.

    Returns
    -------
    `~astropy.table.QTable`
        One row per fibre, in their order:

        * ``targetid``, or the number of the row;
        * ``galaxy`` : row in ``galaxies``, -1 without one;
        * ``kind`` : one of `KINDS`;
        * ``separation``, ``east``, ``north`` : of the fibre from the galaxy, arcsec;
        * ``radius`` : elliptical, in ``r50``; ``azimuth`` : from the major axis in the plane of the disc, 0 to 90
          degrees;
        * ``dv`` : c (z - z_galaxy) / (1 + z_galaxy), km/s;
        * ``velocity``, ``velocity_error`` : the same to the galaxy's reference fibre, the innermost with a redshift;
        * ``n_fibers`` : of that galaxy with a redshift of it; ``reference`` : whether it is the reference;
        * ``repeat`` : another fibre of the galaxy, earlier in the table, was at the same place;
        * ``moving`` : ``velocity``, of either sign, is beyond the errors and below ``max_velocity``: one galaxy, seen
          at another place of its rotation (peculiar-velocity targets, shredded galaxies), or a companion within it;
        * ``major_axis`` : off-centre, and on the major axis, where peculiar-velocity surveys put their fibres
          (Saulder et al. 2023, MNRAS 525, 1106).

        What is not known is NaN. ``meta["census"]`` counts them.

    Raises
    ------
    ValueError
        If a column is absent or of a wrong kind.

    Notes
    -----
    Where galaxies overlap, a fibre goes to the one in whose ellipse it is deepest, of those with its redshift.
    """
    _check_columns(fibers, "fibers", ("position", "z", "zwarn"))
    _check_columns(galaxies, "galaxies", ("position", "z", "r50", "axis_ratio", "position_angle"))
    z, z_galaxy = (_plain(t["z"]) for t in (fibers, galaxies))
    good = np.isfinite(z) & (_plain(fibers["zwarn"], 1) == 0)
    top = u.Quantity(max_velocity).to_value(u.km / u.s)
    pairs = _pairs(fibers, galaxies, max_radius, one_angle(min_reach, "min_reach"))
    pairs["dv"] = C_KMS * (z[pairs["fiber"]] - z_galaxy[pairs["galaxy"]]) / (1 + z_galaxy[pairs["galaxy"]])
    pairs["other"] = good[pairs["fiber"]] & (np.abs(pairs["dv"]) > top)  # unknown redshifts: False
    # the best pair of a fibre: at the galaxy's redshift, then deepest
    order = np.lexsort((pairs["depth"], pairs["other"], pairs["fiber"]))
    first = order[np.unique(pairs["fiber"][order], return_index=True)[1]]
    n = len(fibers)
    row = np.full(n, -1)
    row[pairs["fiber"][first]] = first

    def take(name, fill=np.nan):
        return np.where(row >= 0, pairs[name][row], fill) if len(first) else np.full(n, fill)

    out = QTable()
    out["targetid"] = fibers["targetid"] if "targetid" in fibers.colnames else np.arange(n)
    other, separation = take("other", False).astype(bool), take("separation")
    out["galaxy"] = np.where(other, -1, take("galaxy", -1)).astype(int)
    blank = (
        np.isin(np.asarray(fibers["objtype"]).astype(str), ["SKY"])
        if "objtype" in fibers.colnames
        else np.zeros(n, bool)
    )
    inner = separation < one_angle(center, "center").value
    cases = [blank, row < 0, other, ~good, inner]
    out["kind"] = np.select(cases, ["sky", "unmatched", "other redshift", "no redshift", "central"], "off-centre")
    out["galaxy"][blank] = -1
    out["separation"] = separation * u.arcsec
    for name in ("east", "north"):
        out[name] = take(name) * u.arcsec
    out["radius"], out["azimuth"] = take("radius"), take("azimuth") * u.deg
    out["dv"] = np.where(good, take("dv"), np.nan) * u.km / u.s
    _add_groups(out, fibers, z, n_sigma, top, one_angle(center, "center"))
    off = out["kind"] == "off-centre"
    out["major_axis"] = off & (np.abs(_on_sky_angle(pairs, row)) < u.Quantity(axis_angle).to_value(u.deg))
    out.meta["census"] = _census(out, len(galaxies))
    return out


def _pairs(fibers, galaxies, max_radius, min_reach):
    """All pairs of a fibre and a galaxy that reaches it: indices, offsets (arcsec), radius in r50, depth in reaches."""
    r50 = galaxies["r50"].to_value(u.arcsec)
    ratio, angle = _plain(galaxies["axis_ratio"]), galaxies["position_angle"].to_value(u.rad)
    sized = np.isfinite(r50) & (r50 > 0)
    round_ = ~(np.isfinite(ratio) & (ratio > 0) & (ratio < 1) & np.isfinite(angle))
    ratio, angle = np.where(round_, 1.0, np.clip(ratio, 0.1, 1)), np.where(round_, 0.0, angle)
    reach = np.maximum(np.where(sized, max_radius * r50, 0), min_reach.value)
    places = [t["position"].icrs for t in (fibers, galaxies)]
    known = [np.flatnonzero(np.isfinite(p.ra.deg) & np.isfinite(p.dec.deg)) for p in places]
    if all(len(k) for k in known):
        i, j, _, _ = search_around_sky(*(p[k] for p, k in zip(places, known, strict=True)), reach.max() * u.arcsec)
        i, j = known[0][i], known[1][j]
    else:
        i = j = np.zeros(0, int)
    # without distances, which would make them places in space
    one, two = (SkyCoord(p.ra[k], p.dec[k], frame="icrs") for p, k in zip(places, (i, j), strict=True))
    east, north = (v.arcsec for v in two.spherical_offsets_to(one)) if len(i) else (np.zeros(0), np.zeros(0))
    major = east * np.sin(angle[j]) + north * np.cos(angle[j])
    minor = (east * np.cos(angle[j]) - north * np.sin(angle[j])) / ratio[j]
    ellipse = np.hypot(major, minor)
    pairs = {
        "fiber": i, "galaxy": j, "east": east, "north": north, "separation": np.hypot(east, north),
        "radius": ellipse / np.where(sized, r50, np.nan)[j], "depth": ellipse / reach[j],
        # of a round galaxy, or one of unknown shape, nobody knows the axis
        "azimuth": np.where(round_[j], np.nan, np.degrees(np.arctan2(np.abs(minor), np.abs(major)))),
        "slit": np.where(round_[j], np.nan, np.degrees(np.arctan2(np.abs(minor * ratio[j]), np.abs(major)))),
    }  # fmt: skip
    inside = pairs["depth"] < 1
    return {name: values[inside] for name, values in pairs.items()}


def _on_sky_angle(pairs, row):
    """Angle between the major axis and the fibre on the sky, degrees."""
    return np.where(row >= 0, pairs["slit"][row], np.nan) if len(pairs["slit"]) else np.full(len(row), np.nan)


def _add_groups(out, fibers, z, n_sigma, top, same):
    """What the fibres of one galaxy are to each other."""
    n = len(out)
    error = _plain(fibers["zerr"]) if "zerr" in fibers.colnames else np.full(n, np.nan)
    velocity, sigma = np.full(n, np.nan), np.full(n, np.nan)
    count, reference, repeat = np.zeros(n, int), np.zeros(n, bool), np.zeros(n, bool)
    usable = np.isin(out["kind"], ["central", "off-centre"])
    rows = np.flatnonzero(usable)
    separation, galaxy = out["separation"].value, np.asarray(out["galaxy"])
    order = rows[np.lexsort((separation[rows], galaxy[rows]))]
    groups = np.split(order, np.flatnonzero(np.diff(galaxy[order])) + 1) if len(order) else []
    for group in groups:
        lead = group[0]
        reference[lead], count[group] = True, len(group)
        velocity[group] = C_KMS * (z[group] - z[lead]) / (1 + z[lead])
        sigma[group] = C_KMS * np.hypot(error[group], error[lead]) / (1 + z[lead])
        sigma[lead] = C_KMS * error[lead] / (1 + z[lead])
        east, north = (out[name].value[np.sort(group)] for name in ("east", "north"))
        apart = np.hypot(east[:, None] - east, north[:, None] - north)
        repeat[np.sort(group)] = np.tril(apart < same.value, -1).any(1)
    out["velocity"], out["velocity_error"] = velocity * u.km / u.s, sigma * u.km / u.s
    out["n_fibers"], out["reference"], out["repeat"] = count, reference, repeat
    with np.errstate(invalid="ignore"):  # NaN errors: not known to differ
        out["moving"] = (np.abs(velocity) > n_sigma * sigma) & (np.abs(velocity) < top) & ~reference


def _census(out, n_galaxies):
    """How many of each there are."""
    matched = out["galaxy"] >= 0
    several = out["reference"] & (out["n_fibers"] > 1)
    return {
        "fibers": len(out),
        "galaxies": n_galaxies,
        "galaxies with a fiber": len(np.unique(out["galaxy"][matched])),
        "galaxies with two fibers or more": int(several.sum()),
        **{kind: int((out["kind"] == kind).sum()) for kind in KINDS},
        "repeat": int(out["repeat"].sum()),
        "off-centre on the major axis": int(out["major_axis"].sum()),
        "moving": int(out["moving"].sum()),
        "moving and off-centre": int((out["moving"] & (out["kind"] == "off-centre")).sum()),
    }


def _check_columns(table, label, needed):
    names = getattr(table, "colnames", None)
    missing = [name for name in needed if names is None or name not in names]
    if missing:
        raise ValueError(f"{label} has no column {', '.join(missing)}; it needs {', '.join(needed)}")
    if not isinstance(table["position"], SkyCoord):
        raise ValueError(f"{label}['position'] is {type(table['position']).__name__}; a SkyCoord is needed")
    for name in ("r50", "position_angle"):
        if name in needed and not getattr(table[name], "unit", None):
            raise ValueError(f"{label}[{name!r}] has no unit; an angle is needed")


def _plain(column, fill=np.nan):
    """A column as float, with ``fill`` where it is masked."""
    return np.asarray(np.ma.filled(np.ma.asarray(getattr(column, "unmasked", column)).astype(float), fill))


# ---------------------------------------------------------------- fibres and images
def match_images(positions, images, *, margin=0 * u.arcsec):
    """Find for every position the image in which it is farthest from an edge.

    Parameters
    ----------
    positions : `~astropy.coordinates.SkyCoord`, shape (n,)
    images : sequence of CCDData, or of mappings of bands to CCDData
        Of a mapping all bands must have the position.
    margin : `~astropy.units.Quantity`
        Distance from the edge that is needed, such as half a stamp.

    Returns
    -------
    ndarray of int, shape (n,)
        Index in ``images``; -1 where none has the position.
    """
    positions = positions.reshape(-1)
    best, deepest = np.full(len(positions), -1), np.full(len(positions), u.Quantity(margin).to_value(u.deg))
    for i, image in enumerate(images):
        depth = np.full(len(positions), np.inf)
        for ccd in image.values() if isinstance(image, Mapping) else [image]:
            wcs = ccd.wcs.celestial
            ny, nx = ccd.shape[-2:]
            x, y = wcs.world_to_pixel(positions)
            inside = np.minimum.reduce([x + 0.5, nx - 0.5 - x, y + 0.5, ny - 0.5 - y])
            depth = np.minimum(depth, np.where(np.isfinite(inside), inside, -np.inf) * _pixel_side(wcs))
        better = (depth >= 0) & (depth >= deepest)
        best[better], deepest[better] = i, depth[better]
    return best


def _pixel_side(wcs):
    """Degrees."""
    return np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix)))
