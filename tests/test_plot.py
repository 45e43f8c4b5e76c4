# Licensed under a 3-clause BSD style license - see LICENSE.rst
import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, NDData
from fakes import CENTER, FakePrediction, image_of, prepared_image, sky_wcs
from matplotlib.colors import AsinhNorm
from specutils import Spectrum

from fiberifu.lines import DAPMask
from fiberifu.plot import plot_map, plot_pointing, plot_spectrum, plot_summary, style
from fiberifu.plot.maps import _round_values
from fiberifu.plot.spectrum import line_label

FLUX = u.Unit("1e-17 erg / (s cm2)")


@pytest.fixture(scope="module")
def cube_prediction():
    return FakePrediction.cube_of(16, 1.0)


def texts(figure):
    """All that is written in a figure."""
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def a_map(size=21, unit=FLUX, mask=None, **orientation):
    """A map with one bright pixel 4 arcsec to the East and 3 arcsec to the North of the middle."""
    wcs = sky_wcs(size, 0.5, **orientation)
    x, y = wcs.world_to_pixel(CENTER.spherical_offsets_by(4 * u.arcsec, 3 * u.arcsec))
    data = np.ones((size, size))
    data[int(round(float(y))), int(round(float(x)))] = 100
    return CCDData(data, unit=unit, wcs=wcs, mask=mask)


# ---------------------------------------------------------------- orientation
@pytest.mark.parametrize("east_left", [True, False])
@pytest.mark.parametrize("angle", [0, 90, 143])
def test_north_up_east_left(east_left, angle):
    data = a_map(east_left=east_left, angle=angle)
    ax = plot_map(data, scale_bar=False)
    x, y = ax.wcs.world_to_pixel(CENTER.spherical_offsets_by([0, 1] * u.arcsec, [1, 0] * u.arcsec))
    middle = ax.wcs.world_to_pixel(CENTER)
    assert y[0] - middle[1] == pytest.approx(2, abs=1e-3) and x[0] == pytest.approx(middle[0], abs=1e-3)
    assert x[1] - middle[0] == pytest.approx(-2, abs=1e-3) and y[1] == pytest.approx(middle[1], abs=1e-3)
    # not undone by an inverted axis
    assert ax.get_xlim()[0] < ax.get_xlim()[1] and ax.get_ylim()[0] < ax.get_ylim()[1]
    # every pixel is drawn where its WCS says it is
    pixels = np.array([[0, 0], [20, 0], [3, 17]])
    drawn = (ax.images[0].get_transform() - ax.transData).transform(pixels)
    assert np.all(ax.wcs.pixel_to_world(*drawn.T).separation(data.wcs.pixel_to_world(*pixels.T)) < 1 * u.mas)


@pytest.mark.parametrize("east_left", [True, False])
def test_picture_has_north_up_east_left(east_left):
    """The last word is with the drawn page."""
    ax = plot_map(a_map(east_left=east_left), scale_bar=False, colorbar=False)
    ax.figure.canvas.draw()
    page = np.asarray(ax.figure.canvas.buffer_rgba())[::-1, :, :3].astype(int)
    box = ax.get_window_extent()
    inside = page[int(box.y0) + 8 : int(box.y1) - 8, int(box.x0) + 8 : int(box.x1) - 8].sum(axis=2)
    y, x = np.nonzero(inside > 0.9 * inside.max())
    assert y.mean() > 0.6 * inside.shape[0], "North is up"
    assert x.mean() < 0.4 * inside.shape[1], "East is left"


def test_pointing_has_the_same_orientation():
    image = prepared_image()
    ax = plot_pointing(image, CENTER.spherical_offsets_by(5 * u.arcsec, 5 * u.arcsec))
    assert image.wcs.wcs.cd[0, 0] > 0  # East to the right in the data
    fibre = ax.collections[0].get_offsets()[0]
    middle = np.array(ax.wcs.world_to_pixel(CENTER))
    assert fibre[0] < middle[0] and fibre[1] > middle[1]


# ---------------------------------------------------------------- maps
def test_map_hatches_what_is_bad():
    mask = np.zeros((21, 21), int)
    mask[0, :4] = DAPMask.DONOTUSE, DAPMask.NEARBOUND, DAPMask.MULTICOMP, DAPMask.NOVALUE
    plain = a_map()
    plain.data[5, 5] = np.nan
    data = NDData(plain.data, unit=plain.unit, wcs=plain.wcs, mask=mask)  # CCDData makes masks bool
    ax = plot_map(data)
    drawn = ax.images[0].get_array()
    assert drawn.mask[0, :4].tolist() == [True, False, False, True]
    assert drawn.mask.sum() == 3 and drawn.mask[5, 5]
    assert ax.patches[0].get_hatch()


@pytest.mark.parametrize(
    ("unit", "kind"), [(FLUX, "flux"), (u.AA, "equivalent width"), (u.km / u.s, "velocity"), (u.one, "a title")]
)
def test_map_kind_from_unit(unit, kind):
    ax = plot_map(a_map(unit=unit), title="a title", redshift=0.03)
    assert kind in texts(ax.figure) and "a title" in texts(ax.figure) and "kpc" in texts(ax.figure)


def test_velocity_is_symmetric():
    norm = plot_map(a_map(unit=u.km / u.s)).images[0].norm
    assert norm.vmin == -norm.vmax


@pytest.mark.parametrize("value", [0, 3, -2, np.nan])
def test_constant_and_empty_maps(value):
    ax = plot_map(CCDData(np.full((4, 5), value, float), unit=FLUX, wcs=sky_wcs(5)))
    ax.figure.canvas.draw()


def test_map_limits():
    norm = plot_map(a_map(), limits=(2, 5)).images[0].norm
    assert (norm.vmin, norm.vmax) == (2, 5)


def test_map_on_given_axes():
    data = a_map()
    figure = plt.figure()
    ax = figure.add_subplot(projection=data.wcs)
    assert plot_map(data, ax=ax) is ax
    frame = ax.wcs
    plot_map(a_map(size=31, angle=45), ax=ax, colorbar=False, scale_bar=False)
    assert ax.wcs is frame, "axes with content keep their frame"
    with pytest.raises(ValueError, match="WCSAxes are needed"):
        plot_map(data, ax=figure.add_subplot())


def test_map_errors():
    with pytest.raises(ValueError, match="kind is 'speed'; it must be one of flux, ew"):
        plot_map(a_map(), kind="speed")
    with pytest.raises(ValueError, match="celestial WCS"):
        plot_map(CCDData(np.ones((3, 3)), unit=FLUX))


def test_says_predicted(cube_prediction):
    data = a_map()
    assert "predicted from image" not in texts(plot_map(data).figure)
    data.meta["DATATYPE"] = "PREDICTED"
    assert "predicted from image" in texts(plot_map(data).figure)
    spectrum = cube_prediction.cube()
    assert "predicted from image" in texts(plot_spectrum(spectrum).figure)
    spectrum.meta.pop("prediction")
    assert "predicted from image" in texts(plot_spectrum(spectrum).figure)
    spectrum.meta.pop("provenance")
    assert "predicted from image" not in texts(plot_spectrum(spectrum).figure)


# ---------------------------------------------------------------- spectra
def test_spectrum_of_a_cube(cube_prediction):
    cube = cube_prediction.cube()
    ax = plot_spectrum(cube, (3, 4), color="C1", label="here")
    drawn = ax.lines[0].get_ydata()
    bad = cube.mask[:, 3, 4]
    assert bad.any() and np.isnan(drawn[bad]).all()
    np.testing.assert_array_equal(drawn[~bad], cube.flux.value[~bad, 3, 4])
    middle = plot_spectrum(cube).lines[0].get_ydata()
    np.testing.assert_array_equal(middle, plot_spectrum(cube, (8, 8)).lines[0].get_ydata())
    with pytest.raises(ValueError, match=r"index is \(16, 0\); the spectra have the shape \(16, 16\)"):
        plot_spectrum(cube, (16, 0))
    with pytest.raises(ValueError, match=r"index is \(3,\)"):
        plot_spectrum(cube, 3)


def test_error_band_is_one_sigma(cube_prediction):
    cube = cube_prediction.cube()
    ax = plot_spectrum(cube, (3, 4), lines=None)
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    good = ~cube.mask[:, 3, 4]
    sigma = cube.uncertainty.array[good, 3, 4] ** -0.5
    assert edges.max() == pytest.approx((cube.flux.value[good, 3, 4] + sigma).max(), rel=1e-5)


def test_spectrum_without_extras():
    wave = np.linspace(4000, 7000, 50) * u.AA
    ax = plot_spectrum(Spectrum(flux=np.ones(50) * u.Unit("mJy"), spectral_axis=wave))
    assert not ax.collections and "Hα" not in texts(ax.figure), "no uncertainty, no redshift"
    zero_ivar = FakePrediction(CENTER).spectrum()
    zero_ivar.uncertainty.array[:] = 0
    plot_spectrum(zero_ivar)


@pytest.mark.parametrize("width", [5, 13])
def test_line_names_do_not_overlap(cube_prediction, width):
    figure, ax = plt.subplots(figsize=(width, 2.5))
    plot_spectrum(cube_prediction.cube(), ax=ax)
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts if text.get_rotation() == 90), key=lambda box: box.x0)
    assert len(boxes) == 12, "15 lines, of which three doublets share a name"
    assert all(left.x1 <= right.x0 for left, right in zip(boxes[:-1], boxes[1:], strict=True))


def test_line_names_follow_redshift(cube_prediction):
    at_rest = texts(plot_spectrum(cube_prediction.cube(), redshift=0.0).figure)
    far = texts(plot_spectrum(cube_prediction.cube(), redshift=0.55).figure)
    assert "Hα" in at_rest and "Hα" not in far and "Hβ" in far


def test_line_labels():
    assert [line_label(key) for key in ("Ha", "O3_5007", "He1_5876", "H8")] == ["Hα", "[O III] 5007", "He I 5876", "H8"]
    assert line_label("N2_6583", wavelength=False) == "[N II]"


# ---------------------------------------------------------------- pointing
@pytest.mark.parametrize("bands", ["grz", "gr", "r"])
def test_pointing_takes_any_bands(bands):
    image = {band: ccd for band, ccd in image_of(prepared_image()).items() if band in bands}
    ax = plot_pointing(image)
    picture = ax.images[0].get_array()
    assert picture.shape == (64, 64, 3) and 0 <= picture.min() < 0.3 and 0.5 < picture.max() <= 1
    assert (np.ptp(picture, axis=2).max() > 0) == (len(bands) > 2)


def test_fibres_are_to_scale():
    positions = CENTER.spherical_offsets_by([0, 3] * u.arcsec, [0, 0] * u.arcsec)
    ax = plot_pointing(prepared_image(scale=0.5), positions, aperture=2 * u.arcsec, size=10 * u.arcsec)
    assert np.allclose(ax.collections[0].get_widths(), 4)  # 2 arcsec in pixels of 0.5
    assert np.ptp(ax.get_xlim()) == pytest.approx(20)
    assert np.mean(ax.get_xlim()) == pytest.approx(np.mean(ax.collections[0].get_offsets()[:, 0]))


def test_footprint(cube_prediction):
    ax = plot_pointing(cube_prediction.image, cube_prediction.cube().wcs)
    corners = ax.patches[0].get_xy()
    assert np.allclose(np.ptp(corners, axis=0), 32, atol=1e-3)  # 16 spaxels of 1 arcsec in pixels of 0.5
    with pytest.raises(ValueError, match="give shape="):
        plot_pointing(cube_prediction.image, sky_wcs())


def test_pointing_errors():
    image = image_of(prepared_image())
    with pytest.raises(ValueError, match="at least one of g, r, i, z"):
        plot_pointing({"u": image["g"]})
    with pytest.raises(ValueError, match="all of one shape"):
        plot_pointing({"g": image["g"], "r": image["r"][:9]})


def test_blank_image():
    image = prepared_image()
    image.sb[:] = 0
    plot_pointing(image)


# ---------------------------------------------------------------- summary
def test_summary_of_a_cube(cube_prediction, tmp_path):
    path = tmp_path / "x_predicted.png"
    figure = plot_summary(cube_prediction, path, title="NGC 0")
    written = texts(figure)
    for words in ("NGC 0: predicted from image", "not an observation", "model fake", "z = 0.0300", "Hα flux",
                  "equivalent width", "[N II] 6583 / Hα", "light peak", "half way", "outer", "self-check", "-0.011",
                  "velocity prior", "% of positions"):  # fmt: skip
        assert words in written, words
    assert path.stat().st_size > 1e4
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file stays"
    assert b"not an observation" in path.read_bytes()


@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
def test_summary_of_positions(shape):
    east = np.arange(np.prod(shape, dtype=int)).reshape(shape) * 2 * u.arcsec
    figure = plot_summary(FakePrediction(CENTER.spherical_offsets_by(east, 0 * east)))
    assert "[O III] 5007" in texts(figure) and "position 0" in texts(figure)
    assert len([ax for ax in figure.axes if ax.lines]) >= min(east.size, 3)


def test_summary_without_halpha():
    """At z = 0.55 H-alpha is off the grid: H-beta stands in."""
    prediction = FakePrediction.cube_of(8, 1.0, redshift=0.55)
    prediction.bad_lines = ["Ha"]
    assert "Hβ flux" in texts(plot_summary(prediction))


def test_summary_of_nothing_usable():
    prediction = FakePrediction.cube_of(4, 1.0)
    prediction.bad_lines = prediction.line_maps().lines
    plot_summary(prediction)


def test_style_does_not_leak(cube_prediction):
    before = dict(plt.rcParams)
    plot_spectrum(cube_prediction.cube())
    assert dict(plt.rcParams) == before
    with style():
        assert plt.rcParams["image.origin"] == "lower"


def test_galactic_positions():
    """Positions of any frame fall on the same place."""
    ax = plot_pointing(prepared_image(), SkyCoord(CENTER).galactic)
    assert np.allclose(ax.collections[0].get_offsets()[0], ax.wcs.world_to_pixel(CENTER), atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-0.574, -0.532), (0.0, 3.0), (1.0, 1.0002), (-2.0, 5.0)])
def test_ticks_are_inside_the_colours(low, high):
    ticks = _round_values(AsinhNorm(linear_width=0.1 * max(abs(low), abs(high)), vmin=low, vmax=high))
    assert len(ticks) > 2 and low <= ticks[0] < ticks[-1] <= high
