# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images in: orientation, flux, units, noise, PSF, dust, and every bad input with its message."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import (
    CCDData,
    InverseVariance,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS

from fiberifu.flags import Flag
from fiberifu.image import prepare_image
from fiberifu.psf import convolve, matching_kernel, measure_fwhm, moffat_psf

CENTER = SkyCoord(150.1, 33.0, unit="deg")
NORTH_UP, ROTATED = 0.0, 37.0


def make_wcs(shape=(200, 200), scale=0.262, angle=NORTH_UP, east=-1, north=1, center=CENTER):
    """TAN WCS; ``east=-1``: East to the left; ``angle``: degrees by which the camera is turned."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [center.ra.deg, center.dec.deg]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[c, -s], [s, c]]) @ np.diag([east, north])
    return wcs


def star_image(wcs, shape, sky, flux=100.0, fwhm=1.3):
    """Stars of given flux [nanomaggy per image]: Gaussians, evaluated on the tangent plane."""
    iy, ix = np.indices(shape)
    pixels = wcs.pixel_to_world(ix, iy)
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    sigma = fwhm / 2.3548
    out = np.zeros(shape)
    for star in sky:
        distance = star.separation(pixels).arcsec
        out += flux * scale**2 / (2 * np.pi * sigma**2) * np.exp(-0.5 * (distance / sigma) ** 2)
    return out


def ccd(data, wcs=None, unit=u.nmgy, band="r", noise=0.01, **kwargs):
    data = np.asarray(data)
    kwargs.setdefault("uncertainty", StdDevUncertainty(np.full(data.shape, noise)))
    meta = {"FILTER": f"DECam {band}", "PSF_FWHM": 1.3, **kwargs.pop("meta", {})}
    return CCDData(data, unit=unit, wcs=make_wcs(data.shape[-2:]) if wcs is None else wcs, meta=meta, **kwargs)


@pytest.fixture
def noise():
    return np.random.default_rng(1).normal(0.02, 0.01, (60, 70))


# ---------------------------------------------------------------- geometry
CAMERAS = {
    "north up": {},
    "east right": {"east": 1},
    "south up": {"north": -1},
    "both flipped": {"east": 1, "north": -1},
    "rotated": {"angle": ROTATED},
    "rotated, other parity": {"angle": -110.0, "east": 1},
    "finer": {"scale": 0.1, "shape": (520, 510)},
    "coarser, rotated": {"scale": 0.4, "angle": ROTATED, "shape": (130, 130)},
    "DES": {"scale": 0.263, "east": 1},
}


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_star_lands_where_it_is(camera):
    """Orientation, parity, centring and flux for every kind of camera."""
    options = {"shape": (200, 190), **CAMERAS[camera]}
    shape = options["shape"]
    wcs = make_wcs(**options)
    # 12.3" East and 7.7" North of the centre; the brighter of a pair that no symmetry maps on itself.
    star = CENTER.spherical_offsets_by(12.3 * u.arcsec, 7.7 * u.arcsec)
    prepared = prepare_image(ccd(star_image(wcs, shape, [star]), wcs), center=CENTER)
    sb = prepared.sb[1].astype(float)
    assert sb.dtype == float and prepared.sb.dtype == np.float32 and prepared.sigma.dtype == np.float32
    iy, ix = np.indices(sb.shape)
    x, y = (sb * ix).sum() / sb.sum(), (sb * iy).sum() / sb.sum()
    found = (np.array([x, y]) - prepared._origin) * 0.262
    np.testing.assert_allclose(found, [12.3, 7.7], atol=0.003)
    np.testing.assert_allclose(prepared.offsets(star)[0], [12.3, 7.7], atol=1e-4)
    # The pixel scale of the grid has an area of 0.262^2 arcsec2.
    np.testing.assert_allclose(sb.sum() * 0.262**2, 100, rtol=1e-3)
    assert prepared.wcs.wcs.cdelt[0] > 0 and prepared.wcs.wcs.cdelt[1] > 0
    # The whole image is on the grid.
    assert prepared.contains(prepared.offsets(wcs.pixel_to_world([2, shape[1] - 3], [2, shape[0] - 3]))).all()
    # Low-frequency noise power is kept: sigma^2 x pixel area in surface brightness.
    area = np.abs(np.linalg.det(wcs.pixel_scale_matrix)) * 3600**2
    sigma = prepared.sigma[1]
    np.testing.assert_allclose(sigma[np.isfinite(sigma)] * 0.262, 0.01 / np.sqrt(area), rtol=5e-3)


@pytest.mark.parametrize("camera", ["north up", "east right", "south up", "both flipped"])
def test_north_up_images_are_copied_exactly(camera, noise):
    options = CAMERAS[camera]
    wcs = make_wcs(noise.shape, **options)
    prepared = prepare_image(ccd(noise.astype(">f4"), wcs))
    rows = slice(None, None, options.get("north", 1))
    columns = slice(None, None, options.get("east", -1))  # East must end on the right
    np.testing.assert_allclose(prepared.sb[1] * 0.262**2, noise[rows, columns], rtol=1e-5)
    assert prepared.sb.dtype.isnative
    assert not any("resampled" in note for note in prepared.notes)


def test_cutout_far_from_its_tangent_point_is_copied(noise):
    """As in survey bricks: CRPIX is hundreds of pixels away."""
    wcs = make_wcs(noise.shape)
    wcs.wcs.crpix = [-739.5, -79.5]
    prepared = prepare_image(ccd(noise, wcs))
    np.testing.assert_allclose(prepared.sb[1] * 0.262**2, noise[:, ::-1], rtol=1e-5)
    sky = wcs.pixel_to_world([3, 40], [5, 50])
    expected = (np.array([[69 - 3, 5], [69 - 40, 50]]) - [34.5, 29.5]) * 0.262
    np.testing.assert_allclose(prepared.offsets(sky), expected, atol=1e-6)
    assert prepared.skycoord(prepared.offsets(sky)).separation(sky).arcsec.max() < 1e-6


@pytest.mark.parametrize("radesys", ["ICRS", "FK5", ""])
def test_equatorial_frames_are_copied(noise, radesys):
    wcs = make_wcs(noise.shape)
    wcs.wcs.radesys, wcs.wcs.equinox = radesys, 2000.0
    prepared = prepare_image(ccd(noise, wcs))
    np.testing.assert_allclose(prepared.sb[1] * 0.262**2, noise[:, ::-1], rtol=1e-5)
    sky = wcs.pixel_to_world(0, 0)
    np.testing.assert_allclose(prepared.offsets(sky), [[34.5 * 0.262, -29.5 * 0.262]], atol=1e-6)


def test_galactic_images_are_turned(noise):
    wcs = make_wcs((120, 120), center=SkyCoord(CENTER.galactic.l, CENTER.galactic.b))
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    star = CENTER.spherical_offsets_by(4 * u.arcsec, 6 * u.arcsec)
    prepared = prepare_image(ccd(star_image(wcs, (120, 120), [star]), wcs), center=CENTER)
    y, x = np.unravel_index(prepared.sb[1].argmax(), prepared.shape)
    np.testing.assert_allclose((np.array([x, y]) - prepared._origin) * 0.262, [4, 6], atol=0.14)


def test_offsets_take_any_frame_and_keep_double_precision(noise):
    prepared = prepare_image(ccd(noise), center=CENTER)
    sky = CENTER.spherical_offsets_by([1e-5, 3] * u.arcsec, [2, -1] * u.arcsec)
    offsets = prepared.offsets(sky)
    assert offsets.dtype == np.float64 and offsets.shape == (2, 2)
    np.testing.assert_allclose(offsets, [[1e-5, 2], [3, -1]], atol=1e-6)
    np.testing.assert_allclose(prepared.offsets(sky.galactic), offsets, atol=1e-6)
    assert not prepared.contains(prepared.offsets(SkyCoord(330, -33, unit="deg")))[0]


def test_bands_with_their_own_wcs_meet(noise):
    star = CENTER.spherical_offsets_by(-3 * u.arcsec, 5 * u.arcsec)
    images = {}
    for band, options in {"g": {"scale": 0.2, "angle": 20}, "r": {}, "z": {"east": 1}}.items():
        wcs = make_wcs((150, 150), **options)
        images[band] = ccd(star_image(wcs, (150, 150), [star]), wcs, band=band)
    prepared = prepare_image(images)
    assert prepared.present.tolist() == [True, True, False, True]
    peaks = [np.unravel_index(prepared.sb[i].argmax(), prepared.shape) for i in (0, 1, 3)]
    assert peaks[0] == peaks[1] == peaks[2]
    assert np.isinf(prepared.sigma[2]).all() and not prepared.sb[2].any()


def test_stamp(noise):
    prepared = prepare_image(ccd(noise), stamp=32)
    sb, sigma, center = prepared.stamp(1.0, -2.0)
    assert sb.shape == sigma.shape == (4, 32, 32)
    # An even stamp is centred between pixels; the offset of its centre is exact.
    x, y = np.array(center) / 0.262 + prepared._origin
    assert abs(center[0] - 1) <= 0.132 and abs(center[1] + 2) <= 0.132
    x0, y0 = round(x - 15.5), round(y - 15.5)
    np.testing.assert_allclose([x - 15.5, y - 15.5], [x0, y0], atol=1e-6)
    np.testing.assert_array_equal(sb, prepared.sb[:, y0 : y0 + 32, x0 : x0 + 32])
    # Beyond the edge: missing, not zero.
    sb, sigma, _ = prepared.stamp(-9.17, 0.0)
    assert np.isinf(sigma[1, :, :8]).all() and np.isfinite(sigma[1, :, 20:]).all()
    assert np.isinf(prepared.stamp(1000.0, 0.0)[1]).all()


# ---------------------------------------------------------------- values
def test_units_are_equivalent(noise):
    want = prepare_image(ccd(noise)).sb[1]
    per_area = noise / 0.262**2
    jansky = 3.631e-6  # one nanomaggy
    same = {
        "uJy": ccd(noise * jansky * 1e6, unit=u.uJy, noise=1),
        "mJy": ccd(noise * jansky * 1e3, unit=u.mJy, noise=1),
        "MJy/sr": ccd(per_area * (jansky * u.Jy / u.arcsec**2).to_value(u.MJy / u.sr), unit=u.MJy / u.sr),
        "nmgy/arcsec2": ccd(per_area, unit=u.nmgy / u.arcsec**2),
        "mgy": ccd(noise * 1e-9, unit=u.mgy, noise=1),
        "adu": ccd(noise * 1e3, unit=u.adu, meta={"MAGZERO": 30.0}),
        "electron/s": ccd(noise * 10, unit=u.electron / u.s, meta={"ZEROPOINT": 25.0}),
        "dimensionless": ccd(noise, unit="", meta={"MAGZP": 22.5}),
    }
    for name, image in same.items():
        np.testing.assert_allclose(prepare_image(image).sb[1], want, rtol=2e-5, err_msg=name)


def test_uncertainties_are_equivalent(noise):
    std = np.random.default_rng(2).uniform(0.01, 0.03, noise.shape)
    want = prepare_image(ccd(noise, uncertainty=StdDevUncertainty(std))).sigma[1]
    np.testing.assert_allclose(want * 0.262**2, std[:, ::-1], rtol=1e-5)
    for uncertainty in (
        VarianceUncertainty(std**2),
        InverseVariance(std**-2),
        InverseVariance(std**-2, unit=u.nmgy**-2),
        StdDevUncertainty(std * 1e-9, unit=u.mgy),
    ):
        got = prepare_image(ccd(noise, uncertainty=uncertainty)).sigma[1]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_noise_is_estimated_if_not_given():
    rng = np.random.default_rng(3)
    data = rng.normal(0, 0.05, (100, 100))
    data[40:60, 40:60] += 10
    prepared = prepare_image(ccd(data, uncertainty=None))
    assert prepared.flags & Flag.NO_UNCERTAINTY
    np.testing.assert_allclose(prepared.sigma[1] * 0.262**2, 0.05, rtol=0.05)
    assert np.isfinite(prepare_image(ccd(np.ones((20, 20)), uncertainty=None)).sigma[1]).all()


def test_bad_pixels_stay_where_they_are_and_do_not_spread():
    data = np.full((100, 100), 0.5)
    data[50, 30] = np.nan
    data[20, 20] = 1e6
    mask = np.zeros(data.shape, bool)
    mask[20, 20] = True
    ivar = np.full(data.shape, 1e4)
    ivar[80, 80] = 0
    for angle in (NORTH_UP, ROTATED):
        wcs = make_wcs(data.shape, angle=angle)
        images = {
            band: ccd(data, wcs, band=band, mask=mask, uncertainty=InverseVariance(ivar), meta={"PSF_FWHM": w})
            for band, w in (("g", 1.4), ("r", 1.1))
        }
        prepared = prepare_image(images)
        for plane, sigma in zip(prepared.sb[:2], prepared.sigma[:2], strict=True):
            good = np.isfinite(sigma)
            assert (plane[~good] == 0).all()
            np.testing.assert_allclose(plane[good] * 0.262**2, 0.5, rtol=1e-4)
        for y, x in ((50, 30), (20, 20), (80, 80)):
            offset = prepared.offsets(wcs.pixel_to_world(x, y))
            assert prepared.position_flags(offset)[0] == Flag.MASKED_PIXELS
        assert prepared.position_flags(prepared.offsets(wcs.pixel_to_world(60, 60)))[0] == 0
        if angle == NORTH_UP:
            assert prepared.bad.sum() == 3


def test_negative_pixels_are_normal(noise):
    prepared = prepare_image(ccd(noise - 1))
    assert np.isfinite(prepared.sigma[1]).all() and (prepared.sb[1] < 0).all()


def test_band_subsets_and_arrangements(noise):
    cube = np.stack([noise, noise + 1, noise + 2])
    stacked = ccd(cube, meta={"BANDS": "grz", "FILTER": None})
    mapping = {b: ccd(noise + i, band=b) for i, b in enumerate("grz")}
    one, two = prepare_image(stacked), prepare_image(mapping)
    np.testing.assert_allclose(one.sb, two.sb)
    assert one.sha256 == two.sha256 != prepare_image({"g": mapping["g"]}).sha256
    changes = [{"uncertainty": StdDevUncertainty(noise * 0 + 3)}, {"psf": np.ones((5, 5))}, {"unit": u.uJy},
               {"uncertainty": StdDevUncertainty(noise * 0 + 0.01, unit=1e-3 * u.nmgy)}, {"meta": {"PSF_FWHM": 1.9}},
               {"mask": noise > 0.03}]  # fmt: skip
    hashes = {prepare_image({"g": ccd(noise, band="g", **change)}).sha256 for change in changes}
    assert len(hashes | {prepare_image({"g": mapping["g"]}).sha256}) == len(changes) + 1
    assert one.flags == Flag.FILTER_ASSUMED and two.flags == 0  # grz is complete
    named = CCDData(cube, unit=u.nmgy, wcs=make_wcs(noise.shape), meta={"PSF_FWHM": 1.3})
    np.testing.assert_allclose(prepare_image(named, planes="grz").sb, one.sb)
    alone = prepare_image(ccd(noise, meta={"FILTER": "z DECam c0004", "BAND": "z"}))
    assert alone.present.tolist() == [False] * 3 + [True] and alone.flags == Flag.BAND_MISSING
    assert alone.filters == {"z": "DECam z"}
    alone = prepare_image(ccd(noise, meta={"FILTER": "SDSS r"}))
    assert alone.flags & Flag.FILTER_ASSUMED and alone.filters == {"r": "SDSS r"}


def test_stack_from_a_three_axis_wcs(noise):
    header = make_wcs(noise.shape).to_header()
    wcs = WCS(header, naxis=2)
    three = WCS(naxis=3)
    three.wcs.ctype = [*wcs.wcs.ctype, ""]
    three.wcs.crval, three.wcs.crpix = [*wcs.wcs.crval, 0], [*wcs.wcs.crpix, 0]
    three.wcs.cdelt, three.wcs.pc = [*wcs.wcs.cdelt, 1], np.diag([*np.diag(wcs.wcs.pc), 1])
    cube = np.stack([noise] * 3)
    psf = np.stack([moffat_psf(f, 0.262, 31) for f in (1.4, 1.2, 1.1)])
    image = CCDData(cube, unit=u.nmgy, wcs=three, psf=psf, meta={"BANDS": "grz"})
    prepared = prepare_image(image)
    np.testing.assert_allclose(prepared.psf_fwhm, 1.4, rtol=5e-3)
    assert prepared.shape == noise.shape and not prepared.flags & Flag.PSF_ASSUMED


def test_all_masked_band_is_missing(noise):
    images = {"r": ccd(noise), "g": ccd(noise, band="g", mask=np.ones(noise.shape, bool))}
    with pytest.warns(AstropyUserWarning, match="band g has no valid pixel"):
        prepared = prepare_image(images)
    assert prepared.flags & Flag.BAND_MISSING and prepared.present.tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match=r"no valid pixel in any band \(g\)"):
        prepare_image({"g": images["g"]})


# ---------------------------------------------------------------- PSF and dust
@pytest.mark.parametrize(("source", "target"), [(0.7, 1.3), (1.11, 1.29), (1.18, 1.29), (0.9, 2.4)])
def test_matching_reaches_the_target(source, target):
    psf = moffat_psf(source, 0.262)
    kernel = matching_kernel(psf, moffat_psf(target, 0.262), 0.262)
    np.testing.assert_allclose(kernel.sum(), 1)
    matched = convolve(psf, np.zeros(psf.shape, bool), kernel)
    np.testing.assert_allclose(measure_fwhm(matched, 0.262), target, rtol=0.02)
    assert -kernel[kernel < 0].sum() < 0.3
    assert matching_kernel(moffat_psf(target, 0.262), psf, 0.262) is None


def test_psfs_become_one():
    """Three bands of one star with different seeing, PSF given as image or as width."""
    shape = (101, 101)
    images = {}
    for band, fwhm in (("g", 1.4), ("r", 1.2), ("z", 1.0)):
        star = np.zeros(shape)
        star[19:82, 19:82] = moffat_psf(fwhm, 0.262)
        given = {"meta": {"PSF_FWHM": fwhm}} if band == "r" else {"psf": moffat_psf(fwhm, 0.262, 41)}
        images[band] = ccd(star * 50, band=band, **given)
    prepared = prepare_image(images)
    np.testing.assert_allclose(prepared.psf_fwhm, 1.4, rtol=5e-3)
    for plane in prepared.sb[[0, 1, 3]]:
        np.testing.assert_allclose(measure_fwhm(plane.astype(float), 0.262), 1.4, rtol=0.02)
        np.testing.assert_allclose(plane.sum() * 0.262**2, 50, rtol=2e-3)
    # The noise is that of the pixels before matching.
    np.testing.assert_allclose(prepared.sigma[3] * 0.262**2, 0.01, rtol=1e-5)
    assert not prepared.flags & Flag.PSF_ASSUMED


def test_psf_is_turned_with_the_image():
    wcs = make_wcs((80, 80), angle=90.0)
    y, x = np.indices((41, 41)) - 20
    wide = np.exp(-0.5 * ((y / 4.0) ** 2 + (x / 2.0) ** 2))
    images = {
        "g": ccd(np.zeros((80, 80)), wcs, band="g", psf=wide),
        "r": ccd(np.pad(moffat_psf(0.8, 0.262), ((8, 9), (8, 9))), wcs, psf=moffat_psf(0.8, 0.262)),
    }
    sb = prepare_image(images).sb[1].astype(float)
    iy, ix = np.indices(sb.shape)
    x, y = (sb * ix).sum() / sb.sum(), (sb * iy).sum() / sb.sum()
    # Along the columns of the file, thus East-West on the sky.
    assert (sb * (ix - x) ** 2).sum() > 1.8 * (sb * (iy - y) ** 2).sum()


def test_survey_median_psf(noise):
    images = {b: ccd(noise, band=b, meta={"PSF_FWHM": None}) for b in "grz"}
    prepared = prepare_image(images)
    assert prepared.flags == Flag.PSF_ASSUMED and prepared.psf_fwhm == 1.29


def test_image_is_dereddened(noise):
    images = {b: ccd(noise, band=b) for b in "griz"}
    plain, clear = prepare_image(images), prepare_image(images, ebv=0.1)
    factor = 10 ** (0.04 * np.array([3.214, 2.165, 1.592, 1.211]))
    np.testing.assert_allclose(clear.sb, plain.sb * factor[:, None, None], rtol=1e-5)
    np.testing.assert_allclose(clear.sigma, plain.sigma * factor[:, None, None], rtol=1e-5)
    assert plain.ebv == 0 and any("E(B-V)" in note for note in plain.notes)
    images["i"].meta["EBV"] = 0.1
    np.testing.assert_allclose(prepare_image(images).sb, clear.sb)


# ---------------------------------------------------------------- the galaxy
def test_galaxy_shape_and_contaminants():
    shape = (240, 240)
    y, x = (np.indices(shape) - 119.5) * 0.262
    east, north = -x, y  # the default WCS has East to the left
    angle = np.radians(30.0)  # East of North
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    radius = np.hypot(along, across / 0.5)
    data = np.exp(-radius / 3.0)
    wcs = make_wcs(shape)
    star = CENTER.spherical_offsets_by(-20 * u.arcsec, 20 * u.arcsec)
    data += star_image(wcs, shape, [star], flux=20.0)
    data += np.random.default_rng(0).normal(0, 0.01, shape)
    prepared = prepare_image(ccd(data, wcs), center=CENTER)
    galaxy = prepared.galaxy
    assert np.hypot(*galaxy.offset) < 0.1
    np.testing.assert_allclose(galaxy.half_light_radius, 1.678 * 3.0, rtol=0.08)
    np.testing.assert_allclose(galaxy.axis_ratio, 0.5, atol=0.05)
    np.testing.assert_allclose(galaxy.position_angle, 30, atol=2)
    np.testing.assert_allclose(galaxy.flux, 2 * np.pi * 9 * 0.5 / 0.262**2, rtol=0.05)
    flags = prepared.position_flags([[0, 0], [-20, 20], [20, -20], [500, 0]])
    assert flags.tolist() == [0, Flag.CONTAMINATED, 0, Flag.OUTSIDE_IMAGE]


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_a_featureless_image_has_no_galaxy(level):
    data = np.random.default_rng(4).normal(level, 0.01, (128, 128))
    prepared = prepare_image(ccd(data))
    assert prepared.galaxy is None
    assert (prepared.position_flags([[0, 0]]) == 0).all()


def test_saturation(noise):
    noise[30, 35] = 100
    prepared = prepare_image(ccd(noise, meta={"SATURATE": 50.0}))
    offsets = prepared.offsets(make_wcs(noise.shape).pixel_to_world([35, 10], [30, 10]))
    assert (prepared.position_flags(offsets) & Flag.SATURATED).tolist() == [Flag.SATURATED, 0]


# ---------------------------------------------------------------- bad input
def bad_inputs():
    data = np.ones((20, 20))
    far = make_wcs(center=SkyCoord(150.1, 33.01, unit="deg"), shape=(20, 20))
    antipode = make_wcs(center=SkyCoord(330.1, -33.0, unit="deg"), shape=(20, 20))
    spectral = WCS(naxis=2)
    spectral.wcs.ctype = ["WAVE", ""]
    no_wcs = CCDData(data, unit=u.nmgy, meta={"BAND": "r"})
    return {
        "array": (data, "image must be a CCDData or a mapping"),
        "file": ("cutout.fits", "file name.*read_legacysurvey"),
        "empty mapping": ({}, "holds no band"),
        "mapping of arrays": ({"r": data}, r"image\['r'\] must be a CCDData"),
        "band names": ({"R": ccd(data), "u": ccd(data)}, r"unknown bands \['R'\]"),
        "no band of use": ({"u": ccd(data), "W1": ccd(data)}, "the model uses none of them"),
        "band without name": (CCDData(data, unit=u.nmgy, wcs=make_wcs()), "set image.meta\\['BAND'\\]"),
        "planes without names": (CCDData([data], unit=u.nmgy, wcs=make_wcs()), "planes without names"),
        "too few names": (ccd([data, data], meta={"BANDS": "grz"}), "has 2 planes"),
        "filter of another band": ({"g": ccd(data)}, "that is band 'r'"),
        "no WCS": (no_wcs, r"image\['r'\] has no WCS"),
        "no sky WCS": ({"r": ccd(data, spectral)}, "WCS without sky coordinates"),
        "no zero point": ({"r": ccd(data, unit=u.adu)}, "no zero point; set meta\\['MAGZERO'\\]"),
        "zero point": ({"r": ccd(data, unit=u.adu, meta={"MAGZERO": "x"})}, "must be an AB magnitude"),
        "magnitudes": ({"r": ccd(data, unit=u.ABmag, uncertainty=None)}, r"has unit 'mag\(AB\)'"),
        "length": ({"r": ccd(data, unit=u.m)}, "has unit 'm'; give u.nmgy"),
        "uncertainty kind": ({"r": ccd(data, uncertainty=UnknownUncertainty(data))}, "UnknownUncertainty"),
        "four axes": (ccd(np.ones((2, 2, 2, 2)), make_wcs()), "two axes|has no|without"),
        "no overlap": ({"r": ccd(data), "g": ccd(data, far, "nmgy", "g")}, "'r' and 'g' do not overlap"),
        "other side": ({"r": ccd(data), "g": ccd(data, antipode, "nmgy", "g")}, "do not overlap"),
        "psf shape": ({"r": ccd(data, psf=np.ones(5))}, "psf must be a finite image"),
        "psf width": ({"r": ccd(data, meta={"PSF_FWHM": -1})}, r"meta\['PSF_FWHM'\] must be the FWHM"),
        "all nan": ({"r": ccd(data * np.nan)}, "no valid pixel in any band"),
        "no ivar": ({"r": ccd(data, uncertainty=InverseVariance(0 * data))}, "no valid pixel in any band"),
        "ebv in header": ({"r": ccd(data, meta={"EBV": "dusty"})}, r"image.meta\['EBV'\] must be"),
    }


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input(case):
    image, message = bad_inputs()[case]
    with pytest.raises(ValueError, match=message):
        prepare_image(image)


def test_bad_arguments(noise):
    image = ccd(noise)
    with pytest.raises(ValueError, match="ebv must be one"):
        prepare_image(image, ebv=np.nan)
    with pytest.raises(ValueError, match="lies outside the image, which is centred on"):
        prepare_image(image, center=SkyCoord(10, 10, unit="deg"))
    with pytest.raises(ValueError, match="center must be one SkyCoord"):
        prepare_image(image, center=(10, 10))


# ---------------------------------------------------------------- real files
def test_des_east_is_on_the_right_of_the_grid(data_dir):
    """The parity test: the files have CD1_1 > 0, and so has the grid."""
    from fiberifu.surveys import read_des

    images = read_des({band: data_dir / "decam" / f"DES_{band}.fits" for band in "griz"})
    assert images["r"].wcs.wcs.cd[0, 0] > 0
    prepared = prepare_image(images)
    assert prepared.flags == Flag.PSF_ASSUMED and prepared.present.all()
    assert np.isfinite(prepared.sigma).mean() > 0.99
    sky = images["r"].wcs.pixel_to_world([100, 140], [120, 120])
    assert sky[1].ra > sky[0].ra
    offsets = prepared.offsets(sky)
    np.testing.assert_allclose(offsets[1] - offsets[0], [40 * 0.263, 0], atol=1e-3)
    # Flux is kept, and the nucleus stays where it was.
    total = np.nansum(images["r"].data)
    np.testing.assert_allclose(prepared.sb[1].sum() * 0.262**2, total, rtol=5e-3)
    y, x = np.unravel_index(np.argmax(images["r"].data), images["r"].shape)
    y2, x2 = np.unravel_index(np.argmax(prepared.sb[1]), prepared.shape)
    nucleus = prepared.wcs.pixel_to_world(x2, y2)
    assert nucleus.separation(images["r"].wcs.pixel_to_world(x, y)).arcsec < 0.3
    assert 8 < prepared.galaxy.half_light_radius < 14


def test_legacy_cutout(data_dir):
    from fiberifu.surveys import read_legacysurvey

    folder = data_dir / "legacysurvey"
    images = read_legacysurvey(folder / "cutout_59.1067_-30.4848.fits", psf=folder / "copsf_59.1067_-30.4848.fits")
    prepared = prepare_image(images, ebv=0.01)
    assert prepared.flags == 0 and 1.0 < prepared.psf_fwhm < 1.1
    # g is the broadest: it is a mirrored copy.
    want = images["g"].data[:, ::-1] / 0.262**2 * 10 ** (0.4 * 3.214 * 0.01)
    np.testing.assert_allclose(prepared.sb[0], want, rtol=1e-4)
    assert np.hypot(*prepared.galaxy.offset) < 1 and 1.5 < prepared.galaxy.half_light_radius < 3
