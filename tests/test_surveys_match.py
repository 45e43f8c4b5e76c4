# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Matching on the sky: fibres of one galaxy, off-centre and moving ones, and spaxels within fibres."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, InverseVariance
from astropy.table import QTable
from astropy.wcs import WCS
from specutils import Spectrum

from fiberifu.constants import C_KMS
from fiberifu.plot import plot_offset_census
from fiberifu.surveys import extract_fibers, match_fibers, match_images, spaxel_weights

CENTER = SkyCoord(150.0, 40.0, unit="deg")  # where a degree of right ascension is short


def at(east, north, center=CENTER):
    return center.spherical_offsets_by(east * u.arcsec, north * u.arcsec)


def galaxies(n=1, apart=60.0, **columns):
    place = SkyCoord([at(apart * i, 0) for i in range(n)])
    out = QTable({"position": place, "z": np.full(n, 0.03), "r50": np.full(n, 5.0) * u.arcsec})
    out["axis_ratio"], out["position_angle"] = np.full(n, 0.5), np.full(n, 90.0) * u.deg  # along East
    for key, value in columns.items():
        out[key] = value
    return out


def fibers(*rows):
    """Rows of (east, north, velocity in km/s), with the columns of the readers of fibre spectra."""
    east, north, velocity = np.transpose(rows)
    out = QTable({"position": SkyCoord([at(*offset) for offset in zip(east, north, strict=True)])})
    out["targetid"] = 100 + np.arange(len(rows))
    out["z"] = 0.03 + 1.03 * velocity / C_KMS
    out["zwarn"], out["zerr"] = np.zeros(len(rows), int), np.full(len(rows), 1e-5)
    out["objtype"] = "TGT"
    return out


def test_fibers_of_one_galaxy():
    table = fibers((0.1, 0, 20), (6, 0, 140), (0.3, 0, 21), (0, 6, 0), (0, 9, 0), (3, 1, 5000), (200, 0, 0), (2, 0, 0))
    table["zwarn"][7] = -1
    found = match_fibers(table, galaxies())
    assert list(found["kind"]) == [
        "central", "off-centre", "central", "off-centre", "unmatched", "other redshift", "unmatched", "no redshift",
    ]  # fmt: skip
    assert found["galaxy"].tolist() == [0, 0, 0, 0, -1, -1, -1, 0] and found["targetid"].tolist() == list(
        range(100, 108)
    )
    np.testing.assert_allclose(found["east"].value[:4], [0.1, 6, 0.3, 0], atol=1e-3)
    np.testing.assert_allclose(found["radius"][:4], [0.02, 1.2, 0.06, 2.4], atol=1e-3)  # minor axis counts twice
    np.testing.assert_allclose(found["azimuth"].value[[1, 3]], [0, 90], atol=0.1)
    np.testing.assert_allclose(found["dv"].value[:2], [20, 140], atol=0.1)
    assert found["reference"].tolist() == [True] + [False] * 7 and found["n_fibers"][:4].tolist() == [4] * 4
    np.testing.assert_allclose(found["velocity"].value[[0, 1, 3]], [0, 120, -20], atol=0.1)
    assert found["repeat"].tolist() == [False, False, True] + [False] * 5  # a duplicate of the first
    assert found["moving"].tolist() == [False, True, False, True] + [False] * 4  # 20 km/s are 5 sigma, 1 is not
    assert found["major_axis"].tolist() == [False, True] + [False] * 6
    assert found.meta["census"] | {"fibers": 8, "central": 2, "off-centre": 2, "unmatched": 2, "repeat": 1,
        "galaxies with two fibers or more": 1, "other redshift": 1, "no redshift": 1, "moving": 2,
        "off-centre on the major axis": 1} == found.meta["census"]  # fmt: skip


def test_overlapping_galaxies():
    """A fibre in two ellipses goes to the galaxy of its redshift, else to the one in which it is deepest."""
    pair = galaxies(2, apart=8.0, z=[0.03, 0.06])
    background = (0.06 - 0.03) / 1.03 * C_KMS
    assert match_fibers(fibers((3, 0, background), (3, 0, 0)), pair)["galaxy"].tolist() == [1, 0]
    pair["z"] = np.nan
    assert match_fibers(fibers((3, 0, 0), (5, 0, 0)), pair)["galaxy"].tolist() == [0, 1]


def test_incomplete_tables():
    table = fibers((0, 0, 0), (1, 0, 0), (0, 0, 0))
    table["objtype"] = ["TGT", "TGT", "SKY"]
    table["position"] = SkyCoord([CENTER.ra, np.nan * u.deg, CENTER.ra], [CENTER.dec, np.nan * u.deg, CENTER.dec])
    table["z"][0] = np.nan
    unknown = galaxies(r50=[np.nan] * u.arcsec, axis_ratio=[np.nan])
    found = match_fibers(table, unknown)
    assert list(found["kind"]) == ["no redshift", "unmatched", "sky"] and found["galaxy"].tolist() == [0, -1, -1]
    assert np.isnan(found["radius"][0]) and not found["reference"].any()
    assert len(match_fibers(table[:0], unknown)) == 0 and match_fibers(table, unknown[:0]).meta["census"]["sky"] == 1
    del table["zwarn"]
    with pytest.raises(ValueError, match="fibers has no column zwarn"):
        match_fibers(table, unknown)
    with pytest.raises(ValueError, match=r"galaxies\['r50'\] has no unit"):
        match_fibers(fibers((0, 0, 0)), galaxies(r50=[5.0]))


def test_census_figure():
    rng = np.random.default_rng(0)
    found = match_fibers(fibers(*rng.normal(0, [4, 2, 60], (60, 3))), galaxies())
    ax = plot_offset_census(found)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    off, moving = found["kind"] == "off-centre", found["moving"]
    assert shown[::-1] == [
        f"central ({(found['kind'] == 'central').sum()})",
        f"off-centre ({(off & ~moving).sum()})",
        f"off-centre, at another velocity ({(off & moving).sum()})",
    ]
    assert ax.get_title("left") == "1 galaxies with fibres, 1 with two or more"
    with pytest.raises(ValueError, match="no column kind"):
        plot_offset_census(QTable())


def grid(n=20, scale=0.5, center=CENTER, angle=0.0):
    out = WCS(naxis=2)
    out.wcs.ctype = "RA---TAN", "DEC--TAN"
    out.wcs.crval = center.ra.deg, center.dec.deg
    out.wcs.crpix = n / 2 + 0.5, n / 2 + 0.5
    c, s = np.cos(angle), np.sin(angle)
    out.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    out.array_shape = n, n
    return out


def test_images_of_positions():
    images = [{"r": CCDData(np.ones((20, 20)), unit=u.nmgy, wcs=grid(center=at(x, 0)))} for x in (0, 6)]
    positions = SkyCoord([at(0, 0), at(6, 1), at(2.5, 0), at(30, 0)])
    assert match_images(positions, images).tolist() == [0, 1, 0, -1]
    assert match_images(positions, images, margin=4.2 * u.arcsec).tolist() == [0, -1, -1, -1]


def test_weights_are_areas():
    """Against the area of overlap counted on a fine grid, and against the whole."""
    positions = SkyCoord([at(0, 0), at(0.13, 0.31), at(5.0, 0), at(40, 0), SkyCoord(np.nan, np.nan, unit="deg")])
    wcs = grid(angle=0.4)
    weights, covered = spaxel_weights(positions, wcs, aperture=2 * u.arcsec)
    area = np.pi * 1.0**2 / 0.5**2
    np.testing.assert_allclose(np.ravel(weights.sum(1)), covered * area)
    np.testing.assert_allclose(covered[:2], 1, rtol=1e-6)
    assert 0.3 < covered[2] < 0.8 and covered[3:].tolist() == [0, 0]
    fine = (np.arange(800) + 0.5) / 40 - 0.5  # forty to a pixel
    x, y = wcs.world_to_pixel(positions[1])
    inside = np.hypot(fine[None] - x, fine[:, None] - y) < 2
    counted = inside.reshape(20, 40, 20, 40).mean((1, 3))
    np.testing.assert_allclose(weights[[1]].toarray().reshape(20, 20), counted, atol=1e-2)
    for wrong, match in ((CENTER.ra, "SkyCoord"), (None, "SkyCoord")):
        with pytest.raises(ValueError, match=match):
            spaxel_weights(wrong, wcs)
    with pytest.raises(ValueError, match="aperture"):
        spaxel_weights(positions, wcs, aperture=2)


def make_cube(bad=()):
    y, x = np.indices((20, 20))
    plane = 1 + 0.1 * x + 0.05 * y
    flux = np.stack([plane, 2 * plane]) * u.Unit("1e-17 erg / (s cm2 AA)")
    mask = np.zeros(flux.shape, bool)
    for where in bad:
        mask[(slice(None), *where)] = True
    return Spectrum(
        flux, spectral_axis=[5000, 5001] * u.AA, spectral_axis_index=0, mask=mask,
        uncertainty=InverseVariance(np.full(flux.shape, 4.0)), meta={"celestial_wcs": grid(), "redshift": 0.03},
    )  # fmt: skip


def test_spectra_in_fibers():
    """A plane has the mean of its centre: surface brightness there times the fibre's area."""
    positions = SkyCoord([at(0, 0), at(-1.1, 0.7), at(5.0, 0)])
    found = extract_fibers(make_cube(), positions, aperture=2 * u.arcsec, covariance=0)
    area = np.pi / 0.25
    x, y = 9.5 + np.array([0, 1.1]) / 0.5, 9.5 + np.array([0, 0.7]) / 0.5
    expected = area * (1 + 0.1 * x + 0.05 * y)
    np.testing.assert_allclose(found.flux.value[:2], np.outer(expected, [1, 2]), rtol=1e-3)
    assert found.mask.tolist() == [[False] * 2, [False] * 2, [True] * 2] and found.meta["redshift"] == 0.03
    weights, _ = spaxel_weights(positions, grid(), aperture=2 * u.arcsec)
    sigma = np.sqrt(weights[[0]].power(2).sum() / 4)
    assert found.uncertainty.array[0, 0] ** -0.5 == pytest.approx(sigma)
    correlated = extract_fibers(make_cube(), positions, aperture=2 * u.arcsec)
    number = weights[[0]].sum() ** 2 / weights[[0]].power(2).sum()
    assert correlated.uncertainty.array[0, 0] ** -0.5 == pytest.approx(sigma * (1 + 1.62 * np.log10(number)))


def test_bad_spaxels_in_fibers():
    one = extract_fibers(make_cube(bad=[(9, 9)]), SkyCoord([at(0, 0)]), aperture=2 * u.arcsec)
    whole = extract_fibers(make_cube(), SkyCoord([at(0, 0)]), aperture=2 * u.arcsec)
    assert not one.mask.any()  # 8 % of it: scaled to the whole
    np.testing.assert_allclose(one.flux.value, whole.flux.value, rtol=0.01)
    two = extract_fibers(make_cube(bad=[(9, 9), (9, 10)]), SkyCoord([at(0, 0)]), aperture=2 * u.arcsec)
    assert two.mask.all() and not two.uncertainty.array.any()
    with pytest.raises(ValueError, match="celestial WCS and an uncertainty"):
        extract_fibers(Spectrum([1, 2] * u.Jy, spectral_axis=[1, 2] * u.AA), SkyCoord([at(0, 0)]))
