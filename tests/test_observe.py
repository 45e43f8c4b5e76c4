"""The main job on the bundled weights: images and positions in, spectra, cubes and line maps out."""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.uncertainty import normal
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from regions import CircleSkyRegion, PointSkyRegion
from specutils import Spectrum

from fiberifu import Flag, Gaussian, Spaxel, VirtualIFU
from fiberifu.datasets import example_image, example_truth
from fiberifu.line_functionals import functionals, select_lines

CENTER = SkyCoord(150.0, 2.0, unit="deg")  # of the image
GALAXY = CENTER.spherical_offsets_by(2.99 * u.arcsec, -1.55 * u.arcsec)  # where its light peaks
NEAR = CENTER.directional_offset_by([0, 90, 200] * u.deg, [0.5, 4, 7] * u.arcsec)


@pytest.fixture(scope="module")
def ifu():
    return VirtualIFU.from_pretrained()


@pytest.fixture(scope="module")
def image():
    return example_image()


@pytest.fixture(scope="module")
def cube_prediction(ifu, image):
    return ifu.predict_cube(image, size=16 * u.arcsec, spaxel=1 * u.arcsec)


def values(prediction):
    return prediction.spectrum().flux.value


# --- spectra ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_output_shape_follows_positions(ifu, image, shape):
    positions = SkyCoord(np.full(shape, 150.0), np.full(shape, 2.0), unit="deg")
    spectrum = ifu.observe(image, positions)
    assert isinstance(spectrum, Spectrum)
    assert spectrum.flux.shape == (*shape, 7781)
    assert spectrum.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")
    assert isinstance(spectrum.uncertainty, InverseVariance)
    assert spectrum.spectral_axis[0].to_value(u.AA) == pytest.approx(3600)
    assert spectrum.spectral_axis[-1].to_value(u.AA) == pytest.approx(9824)
    assert spectrum.meta["prediction"].shape == shape
    assert not spectrum.mask.any() and (spectrum.uncertainty.array > 0).all()


def test_company_and_order_do_not_matter(ifu, image):
    together = values(ifu.predict(image, NEAR))
    for i in range(3):
        np.testing.assert_allclose(values(ifu.predict(image, NEAR[i])), together[i], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(ifu.predict(image, NEAR[::-1])), together[::-1], rtol=1e-4, atol=1e-5)


def test_frames_and_regions_name_the_same_place(ifu, image):
    expected = values(ifu.predict(image, NEAR[1]))
    np.testing.assert_allclose(values(ifu.predict(image, NEAR[1].galactic)), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        values(ifu.predict(image, PointSkyRegion(NEAR[1]))).ravel(), expected, rtol=1e-4, atol=1e-5
    )
    disc = ifu.predict(image, CircleSkyRegion(CENTER, 1.5 * u.arcsec))
    assert len(disc.positions) == pytest.approx(np.pi * 9, rel=0.25)


def test_the_spectrum_follows_the_light(ifu, image):
    """More flux at the centre than 8 arcsec away; the photometric anchor holds in every band."""
    away = GALAXY.directional_offset_by(90 * u.deg, 9 * u.arcsec)
    p = ifu.predict(image, SkyCoord([GALAXY.ra, away.ra], [GALAXY.dec, away.dec]))
    flux = np.median(values(p), axis=1)
    assert flux[0] > 3 * flux[1] > 0
    check = p.self_check
    assert list(check["band"]) == ["g", "r", "z"] and (check["n"] == 2).all()
    assert np.abs(check["residual"].to_value(u.mag)).max() < 0.1


def test_units_in_do_not_matter(ifu, image):
    other = {}
    for band, ccd in image.items():
        factor = 3.631  # microjansky per nanomaggy
        other[band] = CCDData(ccd.data * factor, unit=u.uJy, wcs=ccd.wcs, meta=ccd.meta, mask=ccd.mask,
                              uncertainty=StdDevUncertainty(ccd.uncertainty.array * factor))  # fmt: skip
    np.testing.assert_allclose(values(ifu.predict(other, NEAR)), values(ifu.predict(image, NEAR)), rtol=1e-3, atol=1e-3)


def test_flips_of_the_file_do_not_matter(ifu, image):
    """The same sky in an image with East on the right gives the same spectra."""
    flipped = {}
    for band, ccd in image.items():
        wcs = ccd.wcs.deepcopy()
        wcs.wcs.cdelt[0] *= -1
        wcs.wcs.crpix[0] = ccd.shape[1] + 1 - wcs.wcs.crpix[0]
        flipped[band] = CCDData(ccd.data[:, ::-1], unit=ccd.unit, wcs=wcs, meta=ccd.meta, mask=ccd.mask[:, ::-1],
                                uncertainty=StdDevUncertainty(ccd.uncertainty.array[:, ::-1]))  # fmt: skip
    np.testing.assert_allclose(
        values(ifu.predict(flipped, NEAR)), values(ifu.predict(image, NEAR)), rtol=1e-3, atol=1e-3
    )


def test_seams_between_stamps(ifu, image):
    """Across the edge of the stamp lattice the prediction is as smooth as elsewhere."""
    east = np.linspace(-1.5, 1.5, 31)
    line = SkyCoord(CENTER.ra + (8.0 + east) / 3600 * u.deg / np.cos(CENTER.dec), CENTER.dec + np.zeros(31) * u.deg)
    ha = ifu.predict(image, line).line_maps(["Ha"]).flux["Ha"].data
    steps = np.abs(np.diff(ha)) / np.median(np.abs(ha))
    assert steps.max() < 0.15


# --- keywords ---------------------------------------------------------------------------------------------------------
def test_apertures(ifu, image):
    p = {d: values(ifu.predict(image, GALAXY, aperture=d * u.arcsec)).mean() for d in (1.5, 2, 3)}
    assert p[1.5] < p[2] < p[3] < 4 * p[1.5]  # light falls off from the centre
    spaxel = values(ifu.predict(image, NEAR[0], aperture=Spaxel(0.5 * u.arcsec)))
    np.testing.assert_allclose(spaxel, values(ifu.predict(image, NEAR[0])) * 0.25 / (np.pi * 0.5625), rtol=1e-5)
    wide = ifu.predict(image, NEAR[0], aperture=Gaussian(3 * u.arcsec))
    assert wide.beam > ifu.predict(image, NEAR[0]).beam
    small = ifu.predict(image, NEAR[0], aperture=1 * u.arcsec)
    assert small.flags & Flag.APERTURE_SMALLER
    with pytest.raises(ValueError, match="aperture"):
        ifu.predict(image, NEAR[0], aperture=1.5)


def test_large_aperture_keeps_the_photometry(ifu, image):
    """Flux in 3 arcsec against exact aperture photometry of the same image, through the same synthetic band."""
    from photutils.aperture import CircularAperture, aperture_photometry

    p = ifu.predict(image, CENTER, aperture=3 * u.arcsec)
    sb = p.image.sb[1]
    x, y = (float(v) for v in p.image.wcs.world_to_pixel(CENTER))
    area = p.image.pixel_scale**2
    exact = aperture_photometry(sb * area, CircularAperture((x, y), 1.5 / p.image.pixel_scale))["aperture_sum"][0]
    assert float(p.photometry["flux"][0, 1]) == pytest.approx(exact, rel=0.03)


def test_wavelength_grids_conserve_flux(ifu, image):
    fine = ifu.observe(image, NEAR[0])
    grid = np.arange(3700, 9700, 40.0) * u.AA
    coarse = ifu.observe(image, NEAR[0], wavelength=grid)
    a = fine.flux.value[(fine.spectral_axis > 3680 * u.AA) & (fine.spectral_axis < 9680 * u.AA)].sum() * 0.8
    b = coarse.flux.value.sum() * 40
    assert a == pytest.approx(b, rel=2e-3)
    for bad in (grid[::-1], grid.value, grid[:1], np.linspace(100, 200, 5) * u.AA):
        with pytest.raises(ValueError, match="wavelength"):
            ifu.observe(image, NEAR[0], wavelength=bad)


@pytest.mark.parametrize("power", [600, 100])
def test_lsf_broadens_lines_not_flux(ifu, image, power):
    """Flux of the lines alone: the spectra with and without them differ by their flux at any resolution."""
    p = ifu.predict(image, NEAR, lsf=power)
    sharp = ifu.predict(image, NEAR, lsf=4000)
    node = p.nodes[0]
    lines = node.gaussian.mean.clone()
    lines[:, : p.renderer.basis.config.n_continuum] = 0
    flux = [(x.renderer.mean(node, lines).numpy() * 0.8).sum(1) for x in (sharp, p)]
    np.testing.assert_allclose(flux[1], flux[0], rtol=5e-3)
    assert values(p).max() < values(sharp).max()
    np.testing.assert_allclose(values(ifu.predict(image, NEAR[1], lsf=power)), values(p)[1], rtol=1e-3, atol=1e-4)


def test_bad_lsf(ifu, image):
    with pytest.raises(ValueError, match="lsf"):
        ifu.observe(image, NEAR[0], lsf=-3.0)


def test_extinction(ifu, image):
    with pytest.raises(ValueError, match="deredden=True needs"):
        ifu.predict(image, NEAR[0], deredden=True)
    assert ifu.predict(image, NEAR[0]).provenance.ebv is None  # unknown is not zero
    seen = ifu.predict(image, NEAR[0], ebv=0.2)
    clear = ifu.predict(image, NEAR[0], ebv=0.2, deredden=True)
    ratio = values(seen) / values(clear)
    assert ratio[0] < ratio[-1] < 1  # reddened, as observed
    assert clear.provenance.extinction_corrected and not seen.provenance.extinction_corrected
    flux = [p.line_maps(["Ha"]).flux["Ha"].data for p in (seen, clear)]
    assert flux[0] / flux[1] == pytest.approx(ratio[np.argmin(abs(seen.wavelength.value - 6564.6 * 1.0335))], rel=0.01)


def test_seeing(ifu, image):
    assert ifu.predict(image, NEAR[0], seeing=2 * u.arcsec).image.psf_fwhm == 2
    sharp = ifu.predict(image, NEAR[0], seeing=0.6 * u.arcsec)
    assert sharp.image.psf_fwhm > 1 and sharp.flags & Flag.PSF_ATTAINABLE
    with pytest.raises(ValueError, match="seeing"):
        ifu.predict(image, NEAR[0], seeing=1.3)


# --- redshift ---------------------------------------------------------------------------------------------------------
def test_redshift_sources(ifu, image):
    given = ifu.predict(image, NEAR[0], redshift=0.05)
    assert given.redshift == 0.05 and given.provenance.redshift_source == "argument"
    assert ifu.predict(image, NEAR[0]).redshift == pytest.approx(image["r"].meta["REDSHIFT"])
    spread = ifu.predict(image, NEAR[0], redshift=normal(0.05, std=0.01, n_samples=500))
    assert len(spread.nodes) > 1 and np.abs(spread.redshift - 0.05) < 0.003
    a, b = (p.spectrum().uncertainty.array for p in (given, spread))
    assert np.median(a) > np.median(b)  # not knowing z costs precision
    bare = {band: CCDData(c, meta={k: v for k, v in c.meta.items() if k != "REDSHIFT"}) for band, c in image.items()}
    with pytest.warns(AstropyUserWarning, match="redshift: none given"):
        inferred = ifu.predict(bare, NEAR[0])
    assert inferred.flags & Flag.REDSHIFT_INFERRED
    assert 0.003 <= inferred.redshift <= 0.6


def test_uncertain_redshift_gives_one_bump_not_a_comb(ifu, image):
    broad = values(ifu.predict(image, NEAR[0], redshift=(0.05, 0.005)))
    wave = 3600 + 0.8 * np.arange(7781)
    near = (wave > 6564.6 * 1.04) & (wave < 6564.6 * 1.06)
    bump = broad[near] - np.interp(wave[near], wave[near][[0, -1]], broad[near][[0, -1]])
    smooth = np.convolve(bump, np.ones(25) / 25, mode="same")
    peaks = (smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] > smooth[2:]) & (smooth[1:-1] > 0.5 * smooth.max())
    assert peaks.sum() <= 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0, -0.1, 5, "near", (0.1, -1), [0.1, 0.2, 0.3]])
def test_bad_redshift(ifu, image, bad):
    with pytest.raises(ValueError, match="redshift"):
        ifu.predict(image, NEAR[0], redshift=bad)


def test_what_the_model_cannot_know_is_flagged(ifu, image):
    far = ifu.predict(image, NEAR[0], redshift=0.9).flags
    assert far & Flag.REDSHIFT_RANGE and far & Flag.LINE_OFF_ARM
    near = ifu.predict(image, NEAR[0]).flags
    assert not near & (Flag.REDSHIFT_RANGE | Flag.LINE_OFF_ARM | Flag.WAVELENGTH_RANGE | Flag.BRIGHTNESS_RANGE)
    red = ifu.predict(image, NEAR[0], wavelength=np.arange(9000, 12000, 5.0) * u.AA)
    assert red.flags & Flag.WAVELENGTH_RANGE and red.spectrum().mask[-1]
    bright = {b: c.multiply(300.0) for b, c in image.items()}
    for b, c in bright.items():
        c.meta, c.wcs = image[b].meta, image[b].wcs
    assert ifu.predict(bright, NEAR[0]).flags & Flag.BRIGHTNESS_RANGE
    odd = dict(image, g=bright["g"])
    assert ifu.predict(odd, NEAR[0]).flags & Flag.FAR_FROM_TRAINING


# --- cubes and lines --------------------------------------------------------------------------------------------------
def test_cube_geometry(cube_prediction):
    cube = cube_prediction.cube()
    assert cube.flux.shape == (7781, 16, 16)
    sky = WCS(cube.wcs.to_header()).celestial
    middle = sky.pixel_to_world(7.5, 7.5)
    assert middle.separation(cube_prediction.image.center) < 0.01 * u.arcsec
    right, up = sky.pixel_to_world(8.5, 7.5), sky.pixel_to_world(7.5, 8.5)
    assert middle.position_angle(right).to_value(u.deg) == pytest.approx(270, abs=0.1)  # West on the right
    assert abs(middle.position_angle(up).wrap_at("180d").to_value(u.deg)) < 0.1  # North up
    np.testing.assert_allclose(cube.flux.value[:, 3, 12], values(cube_prediction)[3, 12])


def test_cube_agrees_with_single_positions(ifu, image, cube_prediction):
    where = cube_prediction.positions[5, 9]
    alone = ifu.observe(image, where, aperture=Spaxel(1 * u.arcsec))
    np.testing.assert_allclose(alone.flux.value, values(cube_prediction)[5, 9], rtol=1e-3, atol=1e-4)


def test_line_maps_are_the_lines_in_the_spectra(cube_prediction):
    """Projection against summing line pixels above the same spectra without lines, flux and error."""
    maps = cube_prediction.line_maps("strong")
    assert maps.flux["Ha"].unit == u.Unit("1e-17 erg / (s cm2)")
    assert maps.flux["Ha"].wcs.wcs.cdelt[0] < 0
    spectra, wave = values(cube_prediction), cube_prediction.wavelength.value
    centre = 5008.24 * (1 + cube_prediction.redshift)  # [O III] 5007 stands alone
    window = np.abs(wave - centre) < 16
    sides = (np.abs(wave - centre) < 34) & ~(np.abs(wave - centre) < 17)
    above = spectra[8, 8][window].sum() - np.median(spectra[8, 8][sides]) * window.sum()
    assert above * 0.8 == pytest.approx(maps.flux["O3_5007"].data[8, 8], rel=0.3, abs=0.3)
    draws = cube_prediction.sample(60, seed=2).value[:, 8, 8]
    scatter = np.std(draws[:, window].sum(1) - np.median(draws[:, sides], axis=1) * window.sum()) * 0.8
    assert scatter == pytest.approx(maps.flux["O3_5007"].uncertainty.array[8, 8], rel=0.5, abs=0.1)


def test_line_ratios_are_tied(cube_prediction):
    maps = cube_prediction.line_maps()
    np.testing.assert_allclose(maps.flux["O3_5007"].data, 2.98 * maps.flux["O3_4959"].data, rtol=1e-5)
    assert (maps.ew["Ha"].data[6:10, 6:10] > 0).all()
    assert np.isnan(maps.velocity["Ha"].data).all()  # an image does not know the sign of rotation
    with pytest.raises(ValueError, match="Lya"):
        cube_prediction.line_maps(["Lya"])


def test_samples_have_the_stated_spread(ifu, image):
    p = ifu.predict(image, NEAR)
    draws = p.sample(200, seed=1).value
    sigma = p.spectrum().uncertainty.array ** -0.5
    assert ((0.85 < (r := np.median(draws.std(0) / sigma, axis=1))) & (r < 1.15)).all()
    a, b, other = (p.sample(2, seed=s).value for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, other)


def test_quantiles_are_those_of_samples(ifu, image):
    """Fluxes, widths, ratios and sums against draws of coefficients."""
    cube_prediction = ifu.predict_cube(image, size=4 * u.arcsec, spaxel=1 * u.arcsec)
    lines, levels = ["Ha", "N2_6583"], (0.16, 0.5, 0.84)
    table = select_lines(lines)
    weights, sides = functionals(cube_prediction.renderer, cube_prediction.nodes[0], table, 0.0)
    draws = np.stack([c.numpy() for _, c, _ in cube_prediction._draws(3000, 1)])[:, 2 * 4 + 2]  # (n, K)
    flux, continuum = draws @ weights.T, draws @ sides.T
    for got, drawn in (
        (cube_prediction.line_quantiles(levels, lines), flux),
        (cube_prediction.line_quantiles(levels, lines, "ew"), flux / continuum / (1 + cube_prediction.redshift)),
        (cube_prediction.ratio_quantiles("N2_6583", "Ha", levels)[:, None], (flux[:, 1] / flux[:, 0])[:, None]),
    ):
        got = np.asarray(getattr(got, "value", got))[..., 2, 2]
        np.testing.assert_allclose(got, np.quantile(drawn, levels, axis=0), rtol=0.08, atol=0.02 * abs(got).max())
    one = cube_prediction.line_quantiles(0.5, lines)
    np.testing.assert_allclose(one.value, cube_prediction.line_quantiles(levels, lines)[1].value)
    where = np.zeros(cube_prediction.shape, bool)
    where[2, 2] = True
    alone = cube_prediction.line_sums(lines, where, draws=2000)
    assert alone.unit == one.unit and alone.shape == (3, 2)
    np.testing.assert_allclose(alone.value, cube_prediction.line_quantiles(levels, lines)[..., 2, 2].value, rtol=0.15)


def test_sums_of_lines_know_that_errors_are_coherent(cube_prediction):
    """Between independent errors, and errors that are the same everywhere."""
    low, high = cube_prediction.line_sums("Ha", levels=(0.16, 0.84))[:, 0].value
    each = np.diff(cube_prediction.line_quantiles((0.16, 0.84), "Ha")[:, 0].value, axis=0)
    assert np.sqrt((each**2).sum()) < high - low < 1.1 * each.sum()
    field = dataclasses.replace(cube_prediction, field=(0.0, 1.0))
    apart = np.diff(field.line_sums("Ha", levels=(0.16, 0.84))[:, 0].value)[0]
    if cube_prediction.field[0] > 0.3:
        assert high - low > 1.5 * apart


@pytest.mark.parametrize("bad", [0, 1, (0.5, 1.2), [[0.5]]])
def test_bad_levels(cube_prediction, bad):
    with pytest.raises(ValueError, match="levels"):
        cube_prediction.line_quantiles(bad, "Ha")


def test_bad_sums(ifu, image, cube_prediction):
    with pytest.raises(ValueError, match="overlap"):
        ifu.predict(image, NEAR).line_sums("Ha")
    with pytest.raises(ValueError, match="where"):
        cube_prediction.line_sums("Ha", where=np.ones(3, bool))
    with pytest.raises(ValueError, match="quantity"):
        cube_prediction.line_quantiles(0.5, "Ha", quantity="width")


def test_predicted_map_resembles_the_truth(ifu, image):
    """Not an accuracy claim: the H-alpha map lies where the galaxy's H-alpha is, and has its order of magnitude.

    How accurate the model is over many galaxies is in its card.
    """
    truth = example_truth()
    y, x = np.mgrid[: truth.shape[0], : truth.shape[1]]
    p = ifu.predict(image, truth.wcs.pixel_to_world(x, y), aperture=Spaxel(0.5 * u.arcsec))
    predicted = p.line_maps(["Ha"]).flux["Ha"].data
    assert np.corrcoef(predicted.ravel(), truth.data.ravel())[0, 1] > 0.6
    assert abs(np.log10(predicted.sum() / truth.data.sum())) < 0.7


def test_files_keep_the_error_factors(cube_prediction, tmp_path):
    path = tmp_path / "galaxy_predicted.fits"
    cube_prediction.write(path)
    again = Spectrum.read(path)
    cube = cube_prediction.cube()
    np.testing.assert_array_equal(again.flux.value, cube.flux.value)
    np.testing.assert_array_equal(again.uncertainty.array, cube.uncertainty.array)
    assert again.meta["factors"]["coeff0"].shape == (27, 16, 16)
    with fits.open(path) as hdus:
        assert all(h.header["DATATYPE"] == "PREDICTED" and h.header["ORIGIN"] == "fiberifu" for h in hdus)
        assert "MANGAID" not in hdus[0].header
        assert hdus[0].header["WSHA256"] == VirtualIFU.from_pretrained().weights_sha256
        header = next(h.header for h in hdus if "LSFSIGMA" in h.header)
        assert header["PSFFWHM"] == pytest.approx(cube_prediction.image.psf_fwhm, abs=1e-4)
        assert 0.5 < header["LSFSIGMA"] < 0.8  # DESI near 6700 A
    with pytest.raises(ValueError, match="predicted"):
        cube_prediction.write(tmp_path / "galaxy.fits")
    with pytest.raises(OSError, match="exists"):
        cube_prediction.write(path)


# --- bad input --------------------------------------------------------------------------------------------------------
def test_positions_outside_are_flagged_and_the_rest_goes_on(ifu, image):
    far = CENTER.directional_offset_by(0 * u.deg, 100 * u.arcsec)
    both = SkyCoord([CENTER.ra, far.ra], [CENTER.dec, far.dec])
    p = ifu.predict(image, both)
    spectrum = p.spectrum()
    assert not spectrum.mask[0].any() and spectrum.mask[1].all()
    assert p.flags[1] & Flag.OUTSIDE_IMAGE and p.flags[1] & Flag.BAD_SPAXEL and not p.flags[0] & Flag.BAD_SPAXEL
    np.testing.assert_allclose(spectrum.flux.value[0], values(ifu.predict(image, CENTER)), rtol=1e-4, atol=1e-5)
    assert np.isfinite(spectrum.flux.value).all()


def test_one_bad_corner_is_masked_the_rest_goes_on(ifu, image):
    broken = {band: ccd.copy() for band, ccd in image.items()}
    for ccd in broken.values():
        ccd.data[:20, :20] = np.nan
    p = ifu.predict_cube(broken, size=30 * u.arcsec, spaxel=2 * u.arcsec)
    bad = (p.flags & Flag.BAD_SPAXEL) != 0
    assert 0 < bad.sum() < 20
    maps = p.line_maps(["Ha"])
    assert (maps.flux["Ha"].mask == bad).all()
    assert p.spectrum().mask.all(-1)[bad].all()


@pytest.mark.parametrize("bands", ["g", "r", "rz", "grz"])
def test_any_subset_of_bands(ifu, image, bands):
    p = ifu.predict({b: image[b] for b in bands}, NEAR)
    assert np.isfinite(values(p)).all()


def test_bad_arguments(ifu, image):
    with pytest.raises(ValueError, match="positions"):
        ifu.observe(image, SkyCoord([], [], unit="deg"))
    with pytest.raises(ValueError, match="positions"):
        ifu.observe(image, (150.0, 2.0))
    with pytest.raises(ValueError, match="size"):
        ifu.observe_cube(image, size=30)
    with pytest.raises(ValueError, match="spaxels"):
        ifu.observe_cube(image, size=1 * u.deg, spaxel=0.1 * u.arcsec)
    with pytest.raises(ValueError, match="list of positions"):
        ifu.predict(image, NEAR).cube()
    with pytest.raises(ValueError, match="n=0"):
        ifu.predict(image, NEAR).sample(0)


def test_broken_weights_are_refused(ifu, tmp_path):
    from safetensors.torch import load_file, save_file

    ifu.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "log_floor"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="missing tensors"):
        VirtualIFU.from_pretrained(tmp_path)


def test_large_spaxels_are_integrated(ifu, image):
    """A 4 arcsec spaxel holds the light of the 0.5 arcsec spaxels within it."""
    one = values(ifu.predict(image, CENTER, aperture=Spaxel(4 * u.arcsec)))
    fine = ifu.predict_cube(image, size=4 * u.arcsec, spaxel=0.5 * u.arcsec)
    np.testing.assert_allclose(np.median(one), np.median(values(fine).sum((0, 1))), rtol=0.05)


def test_many_positions_in_many_stamps(ifu, image):
    """More positions than fit one pass, over several stamps: each as it would be alone."""
    rng = np.random.default_rng(0)
    offset = rng.uniform(-14, 14, (4200, 2)) / 3600
    many = SkyCoord(150 + offset[:, 0], 2 + offset[:, 1], unit="deg")
    p = ifu.predict(image, many)
    for i in (0, 1234, 4199):
        alone = ifu.predict(image, many[i]).nodes[0].gaussian.mean[0]
        np.testing.assert_allclose(alone, p.nodes[0].gaussian.mean[i], rtol=1e-3, atol=1e-4)


def test_predictions_are_no_input(ifu, image):
    fake = {b: c.copy() for b, c in image.items()}
    fake["r"].meta["DATATYPE"] = "PREDICTED"
    with pytest.raises(ValueError, match="made by fiberifu"):
        ifu.predict(fake, NEAR)


def test_save_and_load(ifu, image, tmp_path):
    ifu.save_pretrained(tmp_path / "mine")
    again = VirtualIFU.from_pretrained(tmp_path / "mine")
    assert again.config == ifu.config and again.card == ifu.card
    np.testing.assert_allclose(values(again.predict(image, NEAR)), values(ifu.predict(image, NEAR)), rtol=1e-5)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        VirtualIFU.from_pretrained(tmp_path / "not" / "here")


def test_real_spiral(ifu, data_dir):
    """DES coadds with East on the right: the prediction follows the sky, not the array."""
    from fiberifu.surveys import read_des

    image = read_des({band: data_dir / "decam" / f"DES_{band}.fits" for band in "grz"})
    cube = ifu.predict_cube(image, redshift=0.03, size=50 * u.arcsec, spaxel=2 * u.arcsec, ebv=0.03)
    assert np.abs(cube.self_check["residual"].to_value(u.mag)).max() < 0.1
    # the continuum map must correlate with the image on the sky and lose that when mirrored
    r = cube.image.sb[1]
    x, y = cube.image.wcs.world_to_pixel(cube.positions)
    light = r[np.rint(y).astype(int), np.rint(x).astype(int)]
    continuum = cube.line_maps(["Ha"]).continuum["Ha"].data
    straight = np.corrcoef(np.log(light.clip(0.1)).ravel(), np.log(continuum.clip(1e-3)).ravel())[0, 1]
    mirrored = np.corrcoef(np.log(light.clip(0.1)).ravel(), np.log(continuum[:, ::-1].clip(1e-3)).ravel())[0, 1]
    assert straight > 0.9 and straight > mirrored + 0.02


def test_nothing_usable_is_said_aloud(ifu, image):
    with pytest.warns(
        AstropyUserWarning, match="none lies on usable pixels.*10.0000 10.0000 is .* from its centre"
    ) as said:
        p = ifu.predict(image, SkyCoord(10, 10, unit="deg"))
    assert "swapped" not in str(said[0].message)
    moved = image["r"].copy()
    moved.wcs.wcs.crval = [28.0, 2.0]  # where swapped coordinates are a place on the sky
    with pytest.warns(AstropyUserWarning, match="RA and Dec seem to be swapped"):
        ifu.predict(moved, SkyCoord(2.0, 28.0, unit="deg"))
    assert p.spectrum().mask.all()
    assert len(repr(p)) < 200 and "not an observation" in repr(p)
    with pytest.raises(ValueError, match="pure number"):
        ifu.predict(image, NEAR[0], redshift=3000 * u.km / u.s)


def test_projected_lines_are_those_of_a_fit_to_drawn_spectra(ifu, image):
    """Two ways to the same fluxes and errors: the model's amplitudes, and fits with free width to its spectra."""
    from fiberifu.lines import fit_line_maps

    p = ifu.predict_cube(image, size=8 * u.arcsec, spaxel=2 * u.arcsec)
    cube, projected = p.cube(), p.line_maps()
    keys = ["Hb", "O3_5007", "Ha", "N2_6583", "S2_6716"]
    maps = fit_line_maps(cube, keys, redshift=p.redshift, lsf=cube.meta["lsf"], continuum=p.continuum(),
                         errors="samples", samples=40)  # fmt: skip
    assert maps.flags is None or not (maps.flags & int(Flag.FORMAL_ERRORS)).any()
    for key in keys:
        np.testing.assert_allclose(maps.flux[key].data, projected.flux[key].data, rtol=2e-3)
        ratio = maps.flux[key].uncertainty.array / projected.flux[key].uncertainty.array
        assert 0.75 < np.median(ratio) < 1.3, key  # the drawn continua vary below the lines, too
    np.testing.assert_allclose(maps.dispersion["Ha"].data, projected.dispersion["Ha"].data, rtol=1e-2)
    assert np.abs(maps.velocity["Ha"].data).max() < 2
    with pytest.warns(AstropyUserWarning, match="predicted pixels are correlated"):
        formal = fit_line_maps(cube, keys, redshift=p.redshift, lsf=cube.meta["lsf"], continuum=p.continuum())
    assert (formal.flags & int(Flag.FORMAL_ERRORS)).all()


@pytest.mark.filterwarnings("ignore:cube.*predicted pixels:astropy.utils.exceptions.AstropyUserWarning")
def test_bright_lines_are_not_lost_to_what_a_polynomial_lacks(ifu, image):
    """Pixels of a prediction are sharpest where no line is: wide absorption would fit them best, and is no gas."""
    from fiberifu.lines import fit_line_maps

    place = CENTER.spherical_offsets_by(5 * u.arcsec, -6.3 * u.arcsec)
    p = ifu.predict_cube(image, center=place, size=3 * u.arcsec, spaxel=0.75 * u.arcsec)
    maps = fit_line_maps(p.cube(), "strong", redshift=p.redshift)
    assert np.all(maps.flux["Ha"].data > 0.5 * p.line_maps().flux["Ha"].data)
    assert np.all(maps.dispersion["Ha"].data < 300)
