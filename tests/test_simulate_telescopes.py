"""Simulated telescopes: what reaches a detector is the integral of the sky, noise is what its variance says."""

import dataclasses
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fiberifu.extinction import BAND_EXTINCTION, mw_transmission  # noqa: E402
from fiberifu.model import desi_lsf  # noqa: E402
from fiberifu.simulate import (  # noqa: E402
    BASS_MZLS,
    DECALS,
    DES,
    DESI,
    MANGA,
    Camera,
    Photometry,
    SimConfig,
    Simulator,
    SpectralGrid,
    analytic_template_pack,
    milky_way,  # noqa: E402
    observe_desi,
    observe_fibers,
    observe_field,
    observe_ifu,
    observe_images,
    observe_manga,
    place_targets,
    selection,  # noqa: E402
)
from fiberifu.simulate import ifu as ifu_module  # noqa: E402
from fiberifu.simulate import imager as imager_module  # noqa: E402
from fiberifu.simulate.calibration import fiber_fraction, psf_to_fiber_specflux  # noqa: E402
from fiberifu.simulate.fiber import ARMS, COSMIC, arm_share, fiber_sigma  # noqa: E402
from fiberifu.simulate.filters import filter_curve  # noqa: E402
from fiberifu.simulate.gas import LINES  # noqa: E402
from fiberifu.simulate.imager import lanczos_transfer  # noqa: E402
from fiberifu.simulate.motion import FASTEST  # noqa: E402
from fiberifu.simulate.observe import encircled_energy, moffat_transfer, spectrum_sigma  # noqa: E402
from fiberifu.simulate.recipe import Draws, draw_galaxies  # noqa: E402
from fiberifu.simulate.resolution import apply_resolution, resolution_matrix  # noqa: E402
from fiberifu.simulate.selection import choose_manga  # noqa: E402
from fiberifu.simulate.stars import TEMPLATE_SIGMA  # noqa: E402

STEADY = dataclasses.replace(DESI, positioner=0.0, scatter=0.0, failed=0.0)


@pytest.fixture(scope="module")
def simulator():
    torch.set_num_threads(1)
    return Simulator(analytic_template_pack(), SimConfig(jitter=0.0))


@pytest.fixture(scope="module")
def scene(simulator):
    return simulator.scene(3, range(4))


@pytest.fixture(scope="module")
def photometry(simulator, scene):
    return Photometry(simulator, scene)


def on_centres(scene, kind="central"):
    east, north = (scene["g"][key].numpy() for key in ("east", "north"))
    return {"owner": np.arange(len(east)), "east": east, "north": north, "kind": [kind] * len(east)}


def with_light(scene, shape):
    """The scene with the light of the first stellar map alone, on a map of one's own (per arcsec2)."""
    stack = torch.zeros_like(scene["stack"])
    scale = 30 / scene["band"][:, 1, 0]  # nanomaggies
    stack[:, 0] = scale[:, None, None] * shape
    g = scene["g"] | {"neighbour": torch.zeros_like(scene["g"]["neighbour"])}
    return scene | {"stack": stack, "g": g}


def spot(simulator, east, north, pixels=3):
    """A map with a small square of unit integral, so many pixels from the middle."""
    middle, pixel = simulator.grid // 2, simulator.config.pixel_scale
    shape = torch.zeros(simulator.grid, simulator.grid)
    row, column = middle + round(north / pixel), middle + round(east / pixel)
    shape[row : row + pixels, column : column + pixels] = 1 / (pixels * pixel) ** 2
    return shape


# ---------------------------------------------------------------- imager
def test_image_noise_is_that_of_lanczos_coadds(simulator, scene):
    """Pixels scatter by 0.89 sigma and are correlated; sums over blocks scatter by sigma as if they were not."""
    camera = dataclasses.replace(DECALS, exposures=(30, 30, 30), depth_scatter=0.0)
    noisy = observe_field(simulator, 3, [0], [(0, 0)], camera=camera, size=512, stars=0, scenes=[(scene, 0)])
    steady = dataclasses.replace(camera, seeing=tuple(noisy.psf_fwhm.values()))
    clean = observe_field(
        simulator, 3, [0], [(0, 0)], camera=steady, size=512, stars=0, scenes=[(scene, 0)], noise=False
    )
    for band in "grz":
        pull = (noisy.flux[band] - clean.flux[band]) * np.sqrt(noisy.ivar[band])
        assert pull.std() == pytest.approx(0.894, abs=0.02)
        power = (pull**2).mean()
        for (dy, dx), expected in {(0, 1): 0.11, (1, 0): 0.11, (1, 1): 0.013, (0, 2): -0.076, (0, 3): 0.027}.items():
            both = pull[dy:, dx:] * pull[: 512 - dy, : 512 - dx]
            assert both.mean() / power == pytest.approx(expected, abs=0.015)
        blocks = pull.reshape(128, 4, 128, 4).sum((1, 3)) / 4
        assert blocks.std() == pytest.approx(1, abs=0.04)


def test_images_conserve_flux(simulator, scene):
    shape = spot(simulator, 0, 0)
    made = observe_images(simulator, 3, range(4), scene=with_light(scene, shape), noise=False, stars=0, ebv=0, size=160)
    for image in made:
        assert image.flux["r"].sum() == pytest.approx(30, rel=5e-3)  # the PSF's wings reach beyond
        assert image.psf_fwhm == dict(zip("grz", DECALS.seeing, strict=True))
        peak = {band: image.flux[band].max() / image.flux[band].sum() for band in "grz"}
        assert peak["g"] < peak["r"] < peak["z"]  # each band has its own PSF


def test_maskbits_mean_what_they_say(simulator, scene):
    shape = spot(simulator, 0, 0)
    bright = with_light(scene, 100 * shape)
    camera = dataclasses.replace(DECALS, exposures=(1, 1, 1))
    clean = observe_images(simulator, 3, [0], camera=camera, scene=bright, noise=False, stars=0, ebv=0)[0]
    well = camera.full_well / camera.electrons()[1]  # nanomaggies
    full = clean.flux["r"] >= well * 0.999
    assert full.any() and (clean.maskbits[full] & 8).all()
    assert clean.flux["r"].max() <= well * 1.001
    unsaturated = observe_images(simulator, 3, [0], camera=camera, scene=with_light(scene, shape), noise=False)[0]
    assert not (unsaturated.maskbits & 28).any()
    noisy = observe_field(simulator, 3, [0], [(0, 0)], camera=camera, size=600, stars=0, scenes=[(scene, 0)])
    for band, bit in zip("grz", (32, 64, 128), strict=True):
        lost = (noisy.maskbits & bit) > 0
        assert 0 < lost.mean() < 0.05
        np.testing.assert_array_equal(lost, noisy.ivar[band] == 0)
        assert (noisy.flux[band][lost] == 0).all()


def test_field_of_several(simulator):
    """A field is the sum of its galaxies, wherever they are, and knows where."""
    where = [(-40.0, 10.0), (30.0, -25.0)]
    both = observe_field(simulator, 3, [0, 1], where, size=640, noise=False, stars=0, ebv=0)
    for number, (index, position) in enumerate(zip([0, 1], where, strict=True)):
        one = observe_field(simulator, 3, [index], [position], size=640, noise=False, stars=0, ebv=0)
        record = both.meta["galaxies"][number]
        row = round(record["north"] / 0.262 + 319.5)
        column = round(319.5 - record["east"] / 0.262)
        cut = (slice(row - 20, row + 20), slice(column - 20, column + 20))
        np.testing.assert_allclose(both.flux["r"][cut], one.flux["r"][cut], rtol=1e-4, atol=1e-5)
        assert both.flux["r"][row, column] > 0.2 * both.flux["r"][cut].max()
    with pytest.raises(ValueError, match="positions: got 1 for 2"):
        observe_field(simulator, 3, [0, 1], where[:1])
    with pytest.raises(ValueError, match="bands: got"):
        Camera("x", bands=("u",))


def test_camera_against_real_coadd(data_dir):
    """DES in DR9: pixel noise to 20 % from exposure times alone, and how neighbouring pixels correlate."""
    fits = pytest.importorskip("astropy.io.fits")
    with fits.open(data_dir / "legacysurvey" / "cutout_59.1067_-30.4848.fits") as hdus:
        arrays = [hdu.data.astype(float) for hdu in hdus[1:]]
    transfer = lanczos_transfer((256, 256))
    model = torch.fft.irfft2(transfer**2, s=(256, 256)).numpy()
    for c, (image, ivar) in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
        assert 1 / np.sqrt(np.median(ivar)) == pytest.approx(DES.pixel_sigma()[c], rel=0.2)
        pull = image * np.sqrt(ivar)
        quiet = np.abs(pull) < 3  # sky; correlations of what is left of faint sources are below 0.02
        pull = np.where(quiet, pull - np.median(pull[quiet]), np.nan)
        for lag in (1, 2, 3):
            measured = np.nanmean(pull[:, lag:] * pull[:, :-lag]) / np.nanmean(pull**2)
            assert measured == pytest.approx(model[0, lag] / model[0, 0], abs=0.1)


# ---------------------------------------------------------------- orientation
@pytest.mark.parametrize(("east", "north"), [(5.0, 0.0), (0.0, 4.0)])
def test_north_up_east_left(simulator, scene, east, north):
    """What lies to the East is in a smaller column, what lies to the North in a higher row; fibres go where asked."""
    lit = with_light(scene, spot(simulator, east, north))
    image = observe_images(simulator, 3, [0], scene=lit, noise=False, stars=0)[0]
    cube = observe_ifu(simulator, lit, 3, fibers=37, noise=False, ebv=0)
    pictures = ((image.flux["r"], 0.262), (cube.images["r"], 0.5), (cube.flux[2000], 0.5), (cube.truth["band"][1], 0.5))
    for flux, step in pictures:
        row, column = np.unravel_index(np.argmax(flux), flux.shape)
        assert ((flux.shape[1] - 1) / 2 - column) * step == pytest.approx(east, abs=0.8)
        assert (row - (flux.shape[0] - 1) / 2) * step == pytest.approx(north, abs=0.8)
    targets = {"owner": [0, 0], "east": [east, -east], "north": [north, -north], "kind": ["a", "b"]}
    made = observe_fibers(simulator, lit, 3, targets, noise=False, ebv=0)
    assert made.flux["r"][0].mean() > 20 * made.flux["r"][1].mean()
    ra, dec = made.table["target_ra"], made.table["target_dec"]
    assert np.sign(ra[0] - ra[1]) == np.sign(east) and np.sign(dec[0] - dec[1]) == np.sign(north)


# ---------------------------------------------------------------- fibres
def test_fiber_is_aperture_of_cube(simulator, scene):
    """The light in a fibre is the sum, over small squares within it, of the sky seen through the seeing."""
    targets = {"owner": [1], "east": [0.7], "north": [-1.1], "kind": ["x"]}
    made = observe_fibers(simulator, scene, 3, targets, seeing=1.3, n_exposures=1, noise=False, ebv=0)
    side = 0.05
    axis = torch.arange(-16, 17) * side
    north, east = torch.meshgrid(axis, axis, indexing="ij")
    inside = ((0.75 - torch.hypot(east, north)) / side + 0.5).clamp(0, 1)

    def under(wave):
        """The galaxy in small squares, under the seeing at a wavelength."""
        transfer = moffat_transfer(simulator.k, torch.tensor(1.3 * (wave / 6500) ** -0.2))
        amount = simulator._under(scene["stack"][1:2], transfer, east + 0.7, north - 1.1, side, square=True)
        total = (amount * inside.flatten()[:, None]).sum(0, keepdim=True)
        return simulator.spectra(scene, torch.tensor([1]), total * (math.pi / 4 * 1.5**2) / (inside.sum() * side**2))

    expected = under(6200.0)
    np.testing.assert_allclose(made.meta["truth"]["band"], expected["band"], rtol=1e-3)
    for line in ("O2_3729", "Hb", "Ha"):
        k = LINES.index(line)
        there = under(float(simulator.gas.wave[k]) * (1 + float(scene["g"]["redshift"][1])))
        for key in ("line_flux", "line_ew"):
            assert made.meta["truth"][key][0, k] == pytest.approx(float(there[key][0, k]), rel=5e-3)
    at = int((6200 - 3600) / 0.8)
    flux = made.meta["truth"]["flux"][0, at - 100 : at + 100]
    assert flux.mean() == pytest.approx(float(expected["flux"][0, at - 100 : at + 100].mean()), rel=1e-3)


@pytest.mark.parametrize("line", ["O2_3729", "Hb", "O3_5007", "Ha"])
def test_lines_of_spectra_are_the_truth_s(simulator, scene, line):
    """A line made twice as bright adds its true flux to the spectrum, in the blue and in the red."""
    k = LINES.index(line)
    made = scene["made"] | {"line_out": scene["made"]["line_out"].clone()}
    made["line_out"][..., k] *= 2
    options = {"noise": False, "ebv": 0, "seeing": 1.4, "n_exposures": 1}
    one, two = (observe_fibers(simulator, s, 3, on_centres(s), **options) for s in (scene, scene | {"made": made}))
    truth = one.meta["truth"]["line_flux"][:, k]
    inside = simulator.gas.wave[k].item() * (1 + one.table["z_true"]) < 9700
    bright = inside & (truth > 1e-2 * np.abs(one.meta["truth"]["flux"]).max(1)) & (truth > 0)
    assert bright.sum() >= 2
    added = (two.meta["truth"]["flux"].astype(float) - one.meta["truth"]["flux"]).sum(1) * 0.8
    np.testing.assert_allclose(added[bright], truth[bright], rtol=1e-3)


def test_spectra_are_flat_to_their_ends(simulator, scene):
    """A spectrum without features ends as it began: the resolution takes no light away."""
    flat = SimpleNamespace(**{key: getattr(simulator, key) for key in ("wave", "desi", "gas", "grid", "config", "k")})
    flat.throughput, flat.sky, flat.device = simulator.throughput, simulator.sky, simulator.device
    truth = simulator.truth(scene, torch.arange(4), torch.zeros(4, scene["stack"].shape[1]))
    flat.spectra = lambda scene, who, amount, grid: truth | {"flux": torch.ones(4, len(grid.wave))}
    options = {"noise": False, "ebv": 0, "seconds": 1000}
    made = observe_fibers(flat, scene, 3, on_centres(scene), photometry=Photometry(simulator, scene), **options)
    np.testing.assert_allclose(made.meta["truth"]["flux"], 1, atol=1e-3)
    np.testing.assert_allclose(made.resolution["b"][:, :, 0].sum(1), 1, rtol=1e-5)  # as in DESI's files


def test_aperture_beyond_the_light(simulator, scene):
    """What is left of light far out is rounding, of any sign, and so are its moments: spectra stay finite."""
    light = scene["stack"].shape[1] - 3  # then light x v, light x (v^2 + sigma^2)
    amount = torch.zeros(4, scene["stack"].shape[1])
    amount[:, light] = torch.tensor([0.0, -1e-6, 1e-9, 1e-9])
    amount[:, light + 1 :] = torch.tensor([[-1.0, 1e4], [-1.0, 1e4], [1.0, 1e9], [-50.0, 1e4]])
    made = simulator.spectra(scene, torch.arange(4), amount)
    assert all(torch.isfinite(value).all() for value in made.values() if value.is_floating_point())
    assert made["velocity_star"].abs().max() <= FASTEST


@pytest.mark.parametrize(("seeing", "dex"), [(0.9, 0.16), (1.1, 0.24), (1.5, 0.41)])
def test_calibration_of_uniform_light(simulator, scene, seeing, dex):
    """Point-source calibration makes extended light too bright, more so in the blue."""
    lit = with_light(scene, torch.full((simulator.grid, simulator.grid), 1.0))
    targets = {"owner": [0], "east": [0.0], "north": [0.0], "kind": ["x"]}
    made = observe_fibers(simulator, lit, 3, targets, seeing=seeing, n_exposures=1, noise=False, ebv=0)

    def excess(wave):
        arm = "b" if wave < 5760 else "r" if wave < 7600 else "z"
        at = int(np.searchsorted(made.wave[arm], wave))
        inside = made.meta["truth"]["flux"][0, ARMS[arm][0] + at - 20 : ARMS[arm][0] + at + 20].mean()
        return math.log10(made.flux[arm][0, at - 20 : at + 20].mean() / inside)

    assert excess(6500) == pytest.approx(dex, abs=0.005)
    if seeing == 1.1:
        assert excess(4800) == pytest.approx(0.27, abs=0.005)
        assert excess(9200) == pytest.approx(0.21, abs=0.005)


def test_point_source_is_calibrated(simulator, scene):
    """A point comes out with its total flux, wherever in the fibre it fell, but for colour."""
    star = with_light(scene, spot(simulator, 0, 0, pixels=1))
    middle = 0.5 * simulator.config.pixel_scale
    for miss in (0.0, 0.3):
        targets = {"owner": [0], "east": [middle], "north": [middle], "kind": ["x"]}
        instrument = dataclasses.replace(STEADY, positioner=miss)
        made = observe_fibers(simulator, star, 3, targets, seeing=1.1, seconds=1e6, n_exposures=1, ebv=0,
                              instrument=dataclasses.replace(instrument, cosmic_rate=0.0))  # fmt: skip
        clean = simulator.spectra(star, torch.tensor([0]), star["stack"][:1].sum((2, 3)) * 0.262**2)["flux"][0].numpy()
        ratio = np.median(made.flux["r"][0] / clean[2700 : 2700 + 2326])
        assert ratio == pytest.approx(1, abs=0.03)


def test_column_of_the_pipeline():
    """PSF_TO_FIBER_SPECFLUX: 0.789 for points, a centred exponential disc of at most 2 arcsec for all else."""
    kinds = ["PSF", "", "REX", "DEV", "DEV", "SER"]
    column = psf_to_fiber_specflux(kinds, [0.7, 0.0, 0.388, 2.0, 5.0, 5.0], 0.0, 1.1, failed=[False] * 5 + [True])
    assert column[0] == pytest.approx(0.789) and column[1] == pytest.approx(0.789)
    assert column[2] == pytest.approx(0.7794, abs=0.001)  # the real galaxy with this SHAPE_R in early-release data
    assert column[3] == column[4] and column[5] == 0
    assert 0.6 < psf_to_fiber_specflux(["EXP"], [1.0], 0.5, 1.1)[0] < psf_to_fiber_specflux(["EXP"], [1.0], 0.0, 1.1)[0]
    # the shares behind it
    np.testing.assert_allclose(
        fiber_fraction(np.zeros(3), np.zeros(3), np.array([0.9, 1.1, 1.5])),
        encircled_energy(0.75, torch.tensor([0.9, 1.1, 1.5])), rtol=2e-3,
    )  # fmt: skip


def test_resolution_matrix():
    """The files' matrix acts on light at pixel centres; its widths are those of the line-spread function."""
    sparse = pytest.importorskip("scipy.sparse")
    wave = 3600 + 0.8 * torch.arange(7781, dtype=torch.float64)
    lsf = desi_lsf(wave)
    data = resolution_matrix(lsf)
    offsets = 5 - torch.arange(11)
    torch.testing.assert_close(data.sum(0), torch.ones_like(lsf))
    width = 0.8 * ((data * offsets[:, None] ** 2).sum(0)).sqrt()
    np.testing.assert_allclose(width.numpy(), np.hypot(lsf.numpy(), 0.8 / math.sqrt(12)), rtol=0.01)

    centre, sigma = 5007.3, 1.0
    edges = torch.cat([wave - 0.4, wave[-1:] + 0.4])

    def means(s):
        return torch.erf((edges - centre) / (math.sqrt(2) * s)).diff() / 2 / 0.8

    at = int((centre - 3600) / 0.8)
    exact = means(math.hypot(sigma, float(lsf[at])))
    delivered = apply_resolution(resolution_matrix(lsf, pixel=False), means(sigma))
    matrix = sparse.dia_matrix((data.numpy(), offsets.numpy()), shape=(7781, 7781))
    peaks = torch.exp(-0.5 * ((wave - centre) / sigma) ** 2) / (math.sqrt(2 * math.pi) * sigma)
    for other in (delivered.numpy(), matrix @ peaks.numpy()):
        np.testing.assert_allclose(other, exact, atol=0.01 * float(exact.max()))


def test_fiber_noise(simulator, scene):
    """Pulls against the noiseless spectrum are unit Gaussian; pixels that rays hit are masked and wrong."""
    pulls, outliers, share = {arm: [] for arm in ARMS}, [], []
    for seed in range(6):
        args = (simulator, scene, seed, on_centres(scene))
        options = {"seconds": 600, "n_exposures": 1, "seeing": 1.1, "ebv": 0, "instrument": STEADY}
        noisy, clean = observe_fibers(*args, **options), observe_fibers(*args, **options, noise=False)
        for arm in ARMS:
            good = noisy.mask[arm] == 0
            np.testing.assert_array_equal(noisy.ivar[arm] > 0, good)
            assert set(np.unique(noisy.mask[arm])) <= {0, COSMIC}
            error = np.where(good, 1 / np.sqrt(np.where(good, noisy.ivar[arm], 1)), np.nan)
            difference = noisy.flux[arm] - clean.flux[arm]
            pulls[arm].append(np.where(good, difference / error, np.nan).ravel())
            outliers.append((difference * np.sqrt(clean.ivar[arm]))[~good])
            share.append((~good).mean())
    for arm, values in pulls.items():
        values = np.concatenate(values)
        low, middle, high = np.nanquantile(values, [0.1587, 0.5, 0.8413])
        assert (high - low) / 2 == pytest.approx(1, abs=0.02), arm
        assert middle == pytest.approx(0, abs=0.05)
        assert np.nanmean(np.abs(values) > 4) < 1e-3
    assert np.concatenate(outliers).min() > 5
    assert 1e-4 < np.mean(share) < 5e-3


def test_more_exposures_survive_rays(simulator, scene):
    made = observe_fibers(simulator, scene, 3, on_centres(scene), seconds=600, n_exposures=3, instrument=STEADY)
    assert (made.table["n_exposures"] == 3).all()
    masked = np.mean([(mask != 0).mean() for mask in made.mask.values()])
    assert masked < 2e-5
    noise = 1 / np.sqrt(made.ivar["r"])
    assert (noise[:, 1:-1] > 1.15 * np.median(noise, axis=1, keepdims=True)).any()  # where one of three was lost


def test_fibers_do_not_depend_on_company(simulator, scene):
    whole = observe_fibers(simulator, scene, 3, on_centres(scene))
    alone = simulator.scene(3, [2])
    one = observe_fibers(simulator, alone, 3, on_centres(alone))
    for key in ("exptime", "seeing", "targetid", "fiber_ra", "zwarn"):
        np.testing.assert_allclose(one.table[key][0], whole.table[key][2], rtol=1e-9)
    for arm in ARMS:
        pull = (one.flux[arm][0] - whole.flux[arm][2]) * np.sqrt(whole.ivar[arm][2])
        assert np.abs(pull).max() < 0.02
    again = observe_fibers(simulator, scene, 3, on_centres(scene))
    np.testing.assert_array_equal(again.flux["b"], whole.flux["b"])
    assert not np.allclose(observe_fibers(simulator, scene, 4, on_centres(scene)).flux["b"], whole.flux["b"])


def test_failed_and_sky_fibers(simulator, scene):
    broken = dataclasses.replace(DESI, failed=1.0)
    made = observe_fibers(simulator, scene, 3, on_centres(scene), instrument=broken)
    assert all((made.ivar[arm] == 0).all() and (made.mask[arm] != 0).all() for arm in ARMS)
    assert (made.table["fiberstatus"] == 512).all() and (made.table["zwarn"] != 0).all()
    assert (made.table["psf_to_fiber_specflux"] == 0).all() and (made.table["exptime"] == 0).all()
    sky = on_centres(scene, "sky") | {"objtype": ["SKY"] * 4}
    sky["east"] = sky["east"] + 28
    made = observe_fibers(simulator, scene, 3, sky)
    assert (made.table["psf_to_fiber_specflux"] == 0).all() and (made.table["flux_r"] == 0).all()
    assert (made.meta["truth"]["flux"] == 0).all() and all((made.ivar[arm] > 0).mean() > 0.99 for arm in ARMS)
    with pytest.raises(ValueError, match="owner must have entries in 0-3"):
        observe_fibers(simulator, scene, 3, {"owner": [4], "east": [0], "north": [0], "kind": ["x"]})
    with pytest.raises(ValueError, match="seconds, n_exposures: got"):
        observe_fibers(simulator, scene, 3, on_centres(scene), seconds=-1)


def test_dust_of_the_milky_way(simulator, scene):
    options = {"noise": False, "seeing": 1.1, "n_exposures": 1, "seconds": 1000}
    clear, dusty = (observe_fibers(simulator, scene, 3, on_centres(scene), ebv=e, **options) for e in (0.0, 0.2))
    for arm in ARMS:
        expected = mw_transmission(clear.wave[arm], 0.2)
        np.testing.assert_allclose(dusty.flux[arm] / clear.flux[arm], np.tile(expected, (4, 1)), rtol=3e-3)
    assert milky_way.BAND_EXTINCTION == BAND_EXTINCTION
    images = [observe_images(simulator, 3, [0], scene=scene, noise=False, stars=0, ebv=e)[0] for e in (0.0, 0.2)]
    ratio = images[1].flux["g"].sum() / images[0].flux["g"].sum()
    assert ratio == pytest.approx(10 ** (-0.4 * 0.2 * BAND_EXTINCTION["g"]), rel=1e-4)


def training_sigma(simulator, inside, seconds, seeing=1.1):
    """Noise (N,) of `spectrum_sigma`, of the light in the fibre."""
    blur = seeing * (simulator.wave.double() / 6500) ** -0.2
    args = torch.as_tensor(inside)[None], simulator.wave, simulator.throughput, simulator.sky, blur[None]
    sigma = spectrum_sigma(*args, torch.tensor([float(seconds)]))[0]
    return (sigma * encircled_energy(0.75, blur)).numpy()


def test_noise_of_real_desi_coadds(data_dir):
    """With the exposures they had: arms of each to 20 %, sixths of arms in the mean to 8 %; training spectra, too."""
    fits = pytest.importorskip("astropy.io.fits")
    from fiberifu.simulate.templates import DESI_WAVE, _read_instrument

    pack = _read_instrument(data_dir / "instrument")
    values = {"wave": DESI_WAVE, "throughput": pack["desi_throughput"], "sky": pack["sky_dark"]}
    spectrograph = SimpleNamespace(**{key: torch.as_tensor(value) for key, value in values.items()})
    rows = (
        ("coadd-4-80613-thru20210324", 0),
        ("coadd-5-169-thru20210419", 4),
        ("coadd-special-dark-27247", 0),
        ("coadd-sv3-dark-26065", 2),
    )
    ratios, widths, training = {arm: [] for arm in ARMS}, [], []
    for name, row in rows:
        with fits.open(data_dir / "desi" / f"{name}.fits") as hdus:
            seconds = 12.15 * float(hdus["SCORES"].data["TSNR2_LRG"][row])  # desispec's EFFTIME_DARK
            fibermap = hdus["FIBERMAP"].data[row]
            count, shutter = int(fibermap["COADD_NUMEXP"]), float(fibermap["COADD_EXPTIME"])
            exposures = hdus["EXP_FIBERMAP"].data
            exposures = exposures[(exposures["TARGETID"] == fibermap["TARGETID"]) & (exposures["FIBERSTATUS"] == 0)]
            assert len(exposures) == count and exposures["EXPTIME"].sum() == pytest.approx(shutter, rel=1e-3)
            for a, (arm, (first, n)) in enumerate(ARMS.items()):
                flux, ivar = (hdus[f"{arm.upper()}_{key}"].data[row].astype(float) for key in ("FLUX", "IVAR"))
                data = hdus[f"{arm.upper()}_RESOLUTION"].data[row].astype(float)
                wave = DESI_WAVE[first : first + n]
                caught = encircled_energy(0.75, torch.as_tensor(1.1 * (wave / 6500) ** -0.2)).numpy()
                inside = np.zeros(len(DESI_WAVE))
                inside[first : first + n] = np.median(flux) * caught
                model = fiber_sigma(spectrograph, inside, seconds, count, shutter=shutter)[a, first : first + n]
                good = ivar > 0
                ratio = np.where(good, 1 / np.sqrt(np.where(good, ivar, 1)) / (model / caught), np.nan)
                ratios[arm].append([np.nanmedian(ratio)] + [np.nanmedian(part) for part in np.array_split(ratio, 6)])
                if arm == "b":
                    short = training_sigma(spectrograph, inside, seconds)[first : first + n] / caught
                    training.append(np.nanmedian(np.where(good, ratio * model / caught / short, np.nan)[: n // 6]))
                offset = 5 - np.arange(11)
                known = data.sum(0) > 0.5
                data = data[:, known] / data[:, known].sum(0)
                rms = 0.8 * np.sqrt((data * offset[:, None] ** 2).sum(0))
                lsf = desi_lsf(torch.as_tensor(wave[known])).numpy()
                widths.append(np.median(rms / np.hypot(lsf, 0.8 / math.sqrt(12))))
    for arm, values in ratios.items():
        values = np.array(values)  # of coadds: of the arm, and of its sixths
        assert np.abs(values[:, 0] - 1).max() < 0.2, arm
        assert np.abs(values.mean(0) - 1).max() < 0.08, arm
    assert np.mean(training) == pytest.approx(1, abs=0.1)  # the bluest sixth of b
    assert np.mean(widths) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("seconds", "level"), [(150, 0.0), (220, 2.0), (2000, 20.0)])
def test_training_noise_is_the_spectrograph_s(simulator, seconds, level):
    """Training spectra have the noise of the arms together, at every wavelength, in the blue and at the dichroics."""
    inside = np.full(7781, level)
    arms = fiber_sigma(simulator, inside, seconds, math.ceil(seconds / DESI.longest))
    ivar = np.zeros(7781)
    for sigma, (first, n) in zip(arms, ARMS.values(), strict=True):
        ivar[first : first + n] += sigma[first : first + n] ** -2
    np.testing.assert_allclose(training_sigma(simulator, inside, seconds) * np.sqrt(ivar), 1, atol=0.03)


def test_bright_sky_of_short_exposures(simulator):
    """As many effective seconds under a brighter sky: more exposures, but no more noise of the sky."""
    inside = np.zeros(7781)
    dark = fiber_sigma(simulator, inside, 3000, 3)
    bright = fiber_sigma(simulator, inside, 3000, 30, shutter=3000 * math.sqrt(10))  # read noise over charge is one
    for a, (first, n) in enumerate(ARMS.values()):
        np.testing.assert_allclose(bright[a, first : first + n], dark[a, first : first + n], rtol=1e-9)
    assert (fiber_sigma(simulator, inside, 3000, 30)[0, :2000] > 1.2 * dark[0, :2000]).all()


def test_arms_share_the_light():
    wave = np.arange(3600, 9824, 5.0)
    np.testing.assert_allclose(sum(arm_share(arm, wave) for arm in ARMS), 1, atol=1e-12)


# ---------------------------------------------------------------- IFU
@pytest.fixture(scope="module")
def cubes(simulator, scene):
    quiet = dataclasses.replace(MANGA, dead=0.0)
    options = {"fibers": 37, "seeing": 1.3, "ebv": 0, "instrument": quiet}
    return [observe_ifu(simulator, scene, 3, 1, noise=noise, **options) for noise in (True, False)]


def test_bundles():
    for n in ifu_module.BUNDLES:
        position = ifu_module.bundle_positions(n)
        assert position.shape == (3, n, 2)
        distance = np.hypot(*(position[0][:, None] - position[0]).transpose(2, 0, 1))
        assert np.sort(distance, 1)[:, 1] == pytest.approx(2.5)
        step = position[1, 0] - position[0, 0]
        assert np.hypot(*step) == pytest.approx(1.44)
        np.testing.assert_allclose(position.mean((0, 1)), 0, atol=1e-9)
    with pytest.raises(ValueError, match="fibers: got 20"):
        ifu_module.bundle_positions(20)


def test_ifu_noise(cubes):
    """Pulls of every spaxel are unit Gaussian along the spectrum; spaxels correlate as the cube says."""
    noisy, clean = cubes
    seen = noisy.ivar.min(0) > 0
    pull = (noisy.flux - clean.flux) * np.sqrt(noisy.ivar)
    assert pull[:, seen].std() == pytest.approx(1, abs=0.01)
    assert pull[:, seen].std(0).min() > 0.93 and pull[:, seen].std(0).max() < 1.07
    full = (noisy.mask == 0).all(0)
    for distance in (1, 2, 3, 4):
        both = full[:, distance:] & full[:, :-distance]
        measured = (pull[:, :, distance:] * pull[:, :, :-distance]).mean(0)[both].mean()
        assert measured == pytest.approx(noisy.correlation[distance], abs=0.03)
    assert np.all(np.diff(noisy.correlation[:6]) < 0) and noisy.correlation[0] == pytest.approx(1)


def test_shepard_conserves_flux(simulator, scene):
    """Uniform light stays uniform, a point keeps its flux and becomes 2.5 arcsec wide; noise of sums as published."""
    quiet = dataclasses.replace(MANGA, dead=0.0)
    lit = with_light(scene, torch.full((simulator.grid, simulator.grid), 1.0))
    flat = observe_ifu(simulator, lit, 3, fibers=19, noise=False, ebv=0, instrument=quiet)
    inside = flat.ivar[1000] > 0
    np.testing.assert_allclose(flat.flux[1000][inside], flat.flux[1000][inside].mean(), rtol=2e-4)
    np.testing.assert_allclose(flat.truth["band"][1][inside], 30 * 0.25, rtol=2e-3)
    point = with_light(scene, spot(simulator, 0, 0, pixels=1))
    middle = (simulator.config.pixel_scale / 2,) * 2
    options = {"fibers": 61, "noise": False, "ebv": 0, "seeing": 1.3, "instrument": quiet, "center": middle}
    cube = observe_ifu(simulator, point, 3, **options)
    total = cube.truth["band"][1].sum()
    assert total == pytest.approx(30, rel=0.02)
    assert cube.psf["r"].sum() == pytest.approx(1, rel=1e-5)
    assert cube.fwhm["r"] == pytest.approx(2.54, abs=0.1)
    np.testing.assert_allclose(cube.truth["band"][1] / total, cube.psf["r"], atol=0.02 * cube.psf["r"].max())
    weights = ifu_module.shepard_weights(ifu_module.bundle_positions(61).reshape(-1, 2), ifu_module.cube_side(61))
    for n in (2, 3, 5, 7, 9):
        assert ifu_module.sum_factor(weights, n) == pytest.approx(1 + 1.62 * math.log10(n * n), rel=0.08)


def test_ifu_truth_is_that_of_the_cube(cubes):
    """Photometry of the noiseless cube is the truth's; so is a line's flux."""
    _, clean = cubes
    seen = clean.ivar.min(0) > 0
    for c, band in enumerate("gri"):
        np.testing.assert_allclose(clean.images[band][seen], clean.truth["band"][c][seen], rtol=0.01)
    assert np.isnan(clean.truth["velocity"][~seen]).all() and (clean.truth["line_flux"][:, ~seen] == 0).all()
    limited, sigma_star = clean.truth["stellar_limited"], clean.truth["sigma_star"]
    np.testing.assert_array_equal(limited[seen], sigma_star[seen] < TEMPLATE_SIGMA)
    assert not limited[~seen].any() and 10 <= sigma_star[seen].min() < sigma_star[seen].max() < 500
    ha = 6564.6 * (1 + clean.table["redshift"])
    at = np.abs(clean.wave - ha) < 12
    width = np.gradient(clean.wave)[at, None]
    side = (np.abs(clean.wave - ha) > 40) & (np.abs(clean.wave - ha) < 60)
    line = ((clean.flux[at] - np.median(clean.flux[side], 0)).reshape(at.sum(), -1) * width).sum(0)
    true = clean.truth["line_flux"][LINES.index("Ha")].ravel()
    strong = seen.ravel() & (clean.truth["line_ew"][LINES.index("Ha")].ravel() > 30)
    assert strong.sum() > 20
    np.testing.assert_allclose(line[strong], true[strong], rtol=0.15)


def test_ifu_masks(simulator, scene):
    """NOCOV where there is no fibre, DEADFIBER around dead ones, FORESTAR around stars, DONOTUSE with each."""
    g = scene["g"]
    star = {"neighbour": True, "neighbour_is_star": True, "neighbour_east": 3.0, "neighbour_north": 0.0,
            "neighbour_r": 17.5}  # fmt: skip
    lit = scene | {"g": g | {key: torch.full_like(g[key], value) for key, value in star.items()}}
    holes = dataclasses.replace(MANGA, dead=0.1)
    cube = observe_ifu(simulator, lit, 3, fibers=37, instrument=holes)
    nocov, lowcov, dead, forestar, donotuse = ((cube.mask & 1 << bit) > 0 for bit in (0, 1, 2, 3, 10))
    np.testing.assert_array_equal(nocov, cube.ivar == 0)
    assert (cube.flux[nocov] == 0).all()
    np.testing.assert_array_equal(donotuse, nocov | lowcov | dead | forestar)
    assert dead.any() and not dead.all(1).all()
    side = cube.flux.shape[1]
    row, column = np.nonzero(forestar[0])
    assert ((side - 1) / 2 - column).mean() * 0.5 == pytest.approx(3, abs=0.3)
    assert (row - (side - 1) / 2).mean() * 0.5 == pytest.approx(0, abs=0.3)
    # what is marked as of low coverage has larger errors than the middle
    only = lowcov & ~nocov & ~dead
    assert only.any()
    assert np.median(cube.ivar[2000][only[2000]]) < np.median(cube.ivar[2000][~donotuse[2000]])


def test_manga_resolution_of_real_spectra(data_dir):
    fits = pytest.importorskip("astropy.io.fits")
    with fits.open(data_dir / "manga" / "MaNGA_test_spectra.fits.gz") as hdus:
        wave, power = hdus["WAVE"].data.astype(float), hdus["SRES"].data.astype(float)
    grid = SpectralGrid.manga()
    np.testing.assert_allclose(grid.wave, wave, rtol=2e-6)
    real = np.nanmedian(wave / np.where(power > 0, power, np.nan) / 2.3548, axis=0)
    ratio = grid.lsf.numpy() / real
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.02)
    assert np.nanquantile(np.abs(ratio - 1), 0.95) < 0.06


def test_noise_of_real_manga_spaxels(data_dir):
    """Faint spaxels of the public test spectra, under the real dark sky: to 10 % from 3700 A to the end."""
    fits = pytest.importorskip("astropy.io.fits")
    from fiberifu.simulate.templates import DESI_WAVE, _read_instrument

    with fits.open(data_dir / "manga" / "MaNGA_test_spectra.fits.gz") as hdus:
        wave, ivar = hdus["WAVE"].data.astype(float), hdus["IVAR"].data[6:].astype(float)
    pack = _read_instrument(data_dir / "instrument")
    spectrograph = SimpleNamespace(wave=torch.as_tensor(DESI_WAVE), sky=torch.as_tensor(pack["sky_dark"]))
    grid = SpectralGrid.manga()
    fiber = ifu_module.fiber_noise(spectrograph, grid, torch.zeros(1, 4563), 900.0)[0].numpy() / math.sqrt(3)
    weights = ifu_module.shepard_weights(ifu_module.bundle_positions(61).reshape(-1, 2), ifu_module.cube_side(61))
    total = weights.sum(1)
    best = np.argsort(-total)[:300]
    spaxel = 0.25 / math.pi * np.mean(np.sqrt((weights[best] ** 2).sum(1)) / total[best]) * fiber
    for low, high in (
        (3700, 4500),
        (4500, 5900),
        (6200, 7500),
        (7500, 9000),
        (9000, 9900),
        (9900, 10100),
        (10100, 10250),
        (10250, 10350),
    ):
        part = (wave > low) & (wave < high)
        real = np.median(np.nanmedian(1 / np.sqrt(np.where(ivar > 0, ivar, np.nan))[:, part], axis=1))
        assert np.median(spaxel[part]) == pytest.approx(real, rel=0.1), (low, high)


# ---------------------------------------------------------------- surveys
def test_photometry(simulator, scene, photometry):
    """Totals of the maps; the isophote of a disc of known profile."""
    n_map = scene["band"].shape[2]
    total = torch.einsum("bcj,bjyx->bc", scene["band"], scene["stack"][:, :n_map]) * 0.262**2
    alone = ~scene["g"]["neighbour"].bool()
    ratio = (photometry.flux / total)[alone]
    assert ((ratio > 0.85) & (ratio < 1.1)).all()
    axis = (torch.arange(simulator.grid) - (simulator.grid - 1) / 2) * 0.262
    g = scene["g"]
    scale = 2.0
    shapes = []
    for i in range(4):
        cos, sin = torch.cos(g["pa"][i]), torch.sin(g["pa"][i])
        x = (axis[None] - g["east"][i]) * cos + (axis[:, None] - g["north"][i]) * sin
        y = ((axis[:, None] - g["north"][i]) * cos - (axis[None] - g["east"][i]) * sin) / g["axis_ratio"][i]
        shapes.append(torch.exp(-torch.hypot(x, y) / scale))
    disc = Photometry(simulator, with_light(scene, torch.stack(shapes)))
    # 30 nanomaggies / arcsec2 in the middle, so many scale lengths out to 26 mag / arcsec2
    expected = scale * math.log(30 / 10 ** (0.4 * (22.5 - 26)))
    np.testing.assert_allclose(disc.isophotal_radius(24.0), scale * math.log(30 / 10 ** (0.4 * -1.5)), rtol=0.03)
    np.testing.assert_allclose(disc.isophotal_radius(), expected, rtol=0.05)
    np.testing.assert_allclose(disc.half_light, 1.678 * scale, rtol=0.12)
    np.testing.assert_allclose(disc.shape_r, disc.half_light * g["axis_ratio"].sqrt())


def test_targets(simulator):
    scene = simulator.scene(11, range(40))
    photometry = Photometry(simulator, scene)
    targets = place_targets(simulator, scene, 11, photometry)
    g, r26 = scene["g"], photometry.isophotal_radius().numpy()
    kinds = {str(kind) for kind in targets["kind"]}
    assert {"central", "peculiar velocity", "sky"} <= kinds
    assert set(targets["owner"]) == set(range(40))
    for owner, east, north, kind, objtype in zip(
        *(targets[key] for key in ("owner", "east", "north", "kind", "objtype")), strict=True
    ):
        dx, dy = east - float(g["east"][owner]), north - float(g["north"][owner])
        assert (objtype == "SKY") == (kind == "sky")
        if kind == "central":
            assert math.hypot(dx, dy) < 1.2 + float(g["re"][owner])
        if kind == "sky":
            assert 1.1 * r26[owner] < math.hypot(dx, dy) < 30.001
        if kind == "peculiar velocity":
            assert math.hypot(dx, dy) == pytest.approx(0.33 * r26[owner], rel=1e-4)
            across = dy * math.cos(float(g["pa"][owner])) - dx * math.sin(float(g["pa"][owner]))
            assert across == pytest.approx(0, abs=1e-4)


def test_other_filters(simulator, scene, monkeypatch):
    """Through curves of one's own: DECam's give the same light; images say through what they were taken."""
    pack = analytic_template_pack()
    curves = {name: (pack["band_wave"], pack[f"band_{name[-1]}"]) for name in ("a-g", "a-r", "a-z")}
    same = simulator.band_through(scene, [(pack["band_wave"], pack[f"band_{band}"]) for band in "griz"])
    torch.testing.assert_close(same, scene["band"], rtol=1e-5, atol=1e-12)
    monkeypatch.setattr(imager_module, "filter_curve", curves.get)
    camera = dataclasses.replace(DECALS, curves=tuple(curves), layer="north")
    see = {"noise": False, "stars": 0, "ebv": 0.0, "scene": scene}
    south, north = (observe_images(simulator, 3, range(4), camera=c, **see)[0] for c in (DECALS, camera))
    for band in "grz":
        np.testing.assert_allclose(north.flux[band], south.flux[band], rtol=1e-4, atol=1e-7)
    assert north.meta["filters"] == {"g": "a g", "r": "a r", "z": "a z"} and north.meta["layer"] == "north"
    assert south.meta["filters"]["g"] == "DECam g"
    for change, words in (({"curves": ("a-g",)}, "curves: got"), ({"layer": "east"}, "layer: got 'east'")):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(DECALS, **change)


def test_northern_surveys(simulator, scene):
    """BASS and MzLS, where speclite has their curves: close to DECam's, not the same; cutouts are read as northern."""
    pytest.importorskip("speclite")
    see = {"noise": False, "stars": 0, "ebv": 0.0, "scene": scene}
    south, north = (observe_images(simulator, 3, range(4), camera=c, **see)[0] for c in (DECALS, BASS_MZLS))
    for band in "grz":
        step = -2.5 * np.log10(north.flux[band].sum() / south.flux[band].sum())
        assert 1e-4 < abs(step) < 0.2
    assert north.meta["filters"] == {"g": "BASS g", "r": "BASS r", "z": "MzLS z"}


def test_northern_curves_are_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "speclite", None)
    monkeypatch.setitem(sys.modules, "speclite.filters", None)
    filter_curve.cache_clear()
    with pytest.raises(ImportError, match=r"fiberifu\[north\]"):
        filter_curve("BASS-g")


def test_desi_survey(simulator):
    spectra, images = observe_desi(simulator, 5, 0, 4)
    assert len(images) == 4
    assert [image.meta["index"] for image in images] == list(dict.fromkeys(spectra.table["galaxy"].tolist()))
    for image, index in zip(images, dict.fromkeys(spectra.table["galaxy"].tolist()), strict=True):
        mine = spectra.table["galaxy"] == index
        assert np.abs(spectra.table["target_dec"][mine] - image.center[1]).max() < 31 / 3600
        np.testing.assert_allclose(spectra.table["ebv"][mine], image.ebv)
    target = spectra.table["objtype"] == "TGT"
    magnitude = 22.5 - 2.5 * np.log10(spectra.table["flux_r"][target]) - 2.165 * spectra.table["ebv"][target]
    assert (magnitude < 19.5).all()
    truth = spectra.meta["truth"]
    np.testing.assert_array_equal(truth["stellar_limited"], truth["sigma_star"] < TEMPLATE_SIGMA)
    part, _ = observe_desi(simulator, 5, 3, 1, images=False)
    last = np.isin(spectra.table["galaxy"], part.table["galaxy"])
    np.testing.assert_array_equal(spectra.table["targetid"][last], part.table["targetid"])
    np.testing.assert_allclose(spectra.flux["r"][last], part.flux["r"], rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="start, n: got"):
        observe_desi(simulator, 5, 0, 0)


def test_redshifts(simulator, scene):
    """Errors scatter as quoted; faint spectra fail, and say so."""
    photometry = Photometry(simulator, scene)
    args = simulator, scene
    made = [observe_fibers(*args, s, on_centres(scene), seconds=1000, photometry=photometry) for s in range(36)]
    z, error, warning, true = (np.concatenate([m.table[k] for m in made]) for k in ("z", "zerr", "zwarn", "z_true"))
    good = (warning == 0) & (np.abs(z - true) < 0.003)
    assert good.mean() > 0.9
    pull = ((z - true) / error)[good]
    assert pull.std() == pytest.approx(1, abs=0.12) and pull.mean() == pytest.approx(0, abs=0.2)
    dark = with_light(scene, 1e-6 * torch.ones(simulator.grid, simulator.grid))
    made = [observe_fibers(simulator, dark, s, on_centres(scene), seconds=100) for s in range(5)]
    assert np.mean(np.concatenate([m.table["zwarn"] for m in made]) != 0) > 0.6


def test_manga_survey(simulator):
    chosen = [choose_manga(simulator, 2, slot) for slot in range(3)]
    first = next(iter(observe_manga(simulator, 2, 0, 1)))
    assert first.table["galaxy"] == chosen[0][0] and first.table["ifudesign"] // 100 == chosen[0][2]
    told = tuple(first.table[key] for key in ("slot", "wish_logm", "wish_re", "sample"))
    assert told == (0, *selection.manga_wish(2, 0))
    for slot, (_, one, fibers) in enumerate(chosen):
        assert 0.01 < float(one["g"]["redshift"]) < 0.15
        radius = selection.COVERAGE[selection.manga_wish(2, slot)[2]] * float(Photometry(simulator, one).half_light)
        smaller = ifu_module.BUNDLES[max(ifu_module.BUNDLES.index(fibers) - 1, 0)]
        assert ifu_module.bundle_radius(fibers) >= min(radius, 16.25)
        assert fibers == 19 or ifu_module.bundle_radius(smaller) < radius, "the smallest bundle"
    with pytest.raises(ValueError, match="start, n: got"):
        observe_manga(simulator, 2, -1)


def test_wishes():
    """Surveys wish for what is published of them."""
    z, r = np.array([selection.desi_wish(7, slot) for slot in range(2000)]).T
    assert np.quantile(z, [0.05, 0.5, 0.95]) == pytest.approx([0.06, 0.20, 0.43], rel=0.2) and r.max() < 19.5
    assert np.median(z[r < 17.77]) == pytest.approx(0.10, abs=0.02)
    assert np.mean(r < 17.77) == pytest.approx(92 / 864, abs=0.025) and np.mean(r < 18.9) == pytest.approx(
        0.46, abs=0.04
    )
    mass, radius, sample = zip(*(selection.manga_wish(7, slot) for slot in range(2000)), strict=True)
    np.testing.assert_allclose(
        np.quantile(mass, [0, 0.25, 0.5, 0.75, 1]), [9, 9.55, 10.1, 10.65, 11.2], atol=0.1
    )  # flat
    primary = np.array(sample) == "primary"
    reach = np.array(radius) * np.where(primary, 1.5, 2.5)
    assert primary.mean() == pytest.approx(2 / 3, abs=0.035)
    limits = [ifu_module.bundle_radius(n) for n in ifu_module.BUNDLES]
    share = np.bincount(np.searchsorted(limits[:-1], reach), minlength=5) / len(reach)
    np.testing.assert_allclose(share, np.array([2, 4, 4, 2, 5]) / 17, atol=0.035)


def test_nearest_candidate(simulator, monkeypatch):
    """What is chosen is near the wish, by what is measured, and is found without its company."""
    index, chosen = selection.choose_desi(simulator, 3, 4)
    z, r = selection.desi_wish(3, 4)
    photometry = Photometry(simulator, chosen)
    assert float(photometry.r_mag) < 19.5 and 4 * selection.CANDIDATES <= index < 5 * selection.CANDIDATES
    whole = draw_galaxies(Draws(3, [index]), jitter=simulator.config.jitter)
    assert float(chosen["g"]["redshift"]) == float(whole["redshift"])
    indices, g = selection._candidates(simulator, 3, 4)
    assert g["log_mass"][index - indices[0]] == float(whole["log_mass"][0]), "light draws are the same numbers"
    far = np.abs(np.log(g["redshift"] / z))
    assert far[index - indices[0]] < np.quantile(far, 0.5)
    with pytest.raises(ValueError, match="slot: got 131072; a survey has galaxies 0 to 131071"):
        selection.choose_desi(simulator, 3, 131072)


@pytest.fixture
def numbers(simulator, monkeypatch):
    """A simulator of parameters without maps, whose photometry is what is guessed from them."""

    def scene(seed, indices):
        return {"g": draw_galaxies(selection._Numbers(seed, list(indices)), jitter=0.0)}

    def photometry(simulator, scene):
        g = {key: value.numpy() for key, value in scene["g"].items()}
        size = np.where(g["spheroid"], g["bulge_re"], g["re"] * (1 - 0.35 * g["bulge_fraction"]))
        return SimpleNamespace(r_mag=selection._guess_r(g)[0], half_light=size[0])

    monkeypatch.setattr(selection, "Photometry", photometry)
    return SimpleNamespace(config=simulator.config, scene=scene)


def test_choices_come_near_the_wishes(numbers):
    """Each of what is wished for is followed: redshift and magnitude, mass and size, over many slots."""
    off = []
    for slot in range(40):
        _, chosen = selection.choose_desi(numbers, 3, slot)
        z, r = selection.desi_wish(3, slot)
        off.append((float(chosen["g"]["redshift"]) / z - 1, selection.Photometry(numbers, chosen).r_mag - r))
    dz, dr = np.abs(off).T
    assert np.median(dz) < 0.12 and np.quantile(dz, 0.8) < 0.25
    assert np.median(dr) < 0.18 and np.quantile(dr, 0.8) < 0.35
    off = []
    for slot in range(40):
        _, chosen, _ = selection.choose_manga(numbers, 3, slot)
        mass, radius, _ = selection.manga_wish(3, slot)
        size = selection.Photometry(numbers, chosen).half_light
        off.append((float(chosen["g"]["log_mass"]) + selection.SURVIVING - mass, math.log10(size / radius)))
    dm, ds = np.abs(off).T
    assert np.median(dm) < 0.1 and np.quantile(dm, 0.8) < 0.2 and dm.max() < 0.5
    assert np.median(ds) < 0.075 and np.quantile(ds, 0.8) < 0.14


def test_candidates_that_fit_come_first(monkeypatch):
    """A candidate beyond the survey's limit is taken only where none is within it."""
    monkeypatch.setattr(selection, "Photometry", lambda simulator, scene: scene)
    looked = []

    def first(magnitudes, wish=19.4):
        looked.clear()
        simulator = SimpleNamespace(scene=lambda seed, indices: looked.append(indices[0]) or magnitudes[indices[0]])
        order = np.arange(len(magnitudes))
        return selection._first(simulator, 1, order, lambda r: abs(r - wish), 0.3, lambda r: r < 19.5)[0]

    assert first([19.55, 18.0]) == 1, "it fits, though it is farther"
    assert first([18.0, 19.3, 19.4]) == 1 and looked == [0, 1], "near enough: no more looks"
    assert first([18.0, 18.2, 18.9, 18.1, 18.3, 19.4]) == 2 and len(looked) == selection.LOOKS
    assert first([19.6] * selection.LOOKS + [18.0]) == selection.LOOKS, "none fits yet: look on"
    assert first([20.0, 19.6, 19.8]) == 1, "none fits: the nearest"


def test_surveys_tell_their_wishes(simulator):
    """Slot and wish go with the images and cubes, the camera's side of the sky with the spectra."""
    pytest.importorskip("speclite")
    spectra, images = observe_desi(simulator, 5, 3, 1, camera=BASS_MZLS, noise=False)
    assert set(spectra.table["photsys"]) == {"N"}
    assert tuple(images[0].meta[key] for key in ("slot", "wish_z", "wish_r")) == (3, *selection.desi_wish(5, 3))
    assert set(observe_desi(simulator, 5, 3, 1, images=False, noise=False)[0].table["photsys"]) == {"S"}


def rotated(scene):
    """The scene turned by 90 degrees, from North to East, about the middle of its stamps."""
    g = scene["g"]
    turned = g | {"east": g["north"], "north": -g["east"], "pa": g["pa"] - math.pi / 2}
    return scene | {"g": turned, "stack": scene["stack"].transpose(-1, -2).flip(-2)}


def test_a_turned_galaxy_turns_image_and_fibre(simulator, scene):
    """The scene turned by 90 degrees: the image turns with it, and a fibre that turns along sees the same."""
    now = rotated(scene)
    options = {"noise": False, "stars": 0, "ebv": 0.0}
    before, after = (observe_images(simulator, 3, [0], scene=s, **options)[0] for s in (scene, now))
    for band in before.flux:
        expected = before.flux[band].T[:, ::-1]
        np.testing.assert_allclose(after.flux[band], expected, atol=2e-3 * expected.max(), err_msg=band)
    east, north = (scene["g"][key].numpy() for key in ("east", "north"))
    place = {"owner": [0], "kind": ["central"]}
    first = place | {"east": east[:1] + 1.3, "north": north[:1] - 0.6}
    second = place | {"east": first["north"], "north": -first["east"]}
    see = {"noise": False, "seeing": 1.1, "n_exposures": 1, "seconds": 600, "ebv": 0.0}
    one, two = observe_fibers(simulator, scene, 3, first, **see), observe_fibers(simulator, now, 3, second, **see)
    still = observe_fibers(simulator, now, 3, first, **see)
    for arm in ARMS:
        np.testing.assert_allclose(two.flux[arm], one.flux[arm], rtol=3e-3)
    assert np.median(still.flux["r"] / one.flux["r"]) != pytest.approx(1, abs=0.01), "the fibre that stays sees another"


def test_seeds_repeat_exactly(simulator, scene):
    """Images and cubes of a seed are the same to the bit, made from the scene or anew; other seeds have others."""
    images = [observe_images(simulator, 3, [0, 1])[1] for _ in range(2)]
    images.append(observe_images(simulator, 4, [0, 1])[1])
    cubes = [observe_ifu(simulator, simulator.scene(seed, [0]), seed, fibers=19, sets=1) for seed in (3, 3, 4)]
    for band in images[0].flux:
        for name in ("flux", "ivar"):
            same, other = (getattr(i, name)[band] for i in images[1:])
            np.testing.assert_array_equal(same, getattr(images[0], name)[band])
        assert not np.array_equal(other, images[0].ivar[band])
    for name in ("flux", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(cubes[0], name), getattr(cubes[1], name))
    assert not np.array_equal(cubes[2].flux, cubes[0].flux)


@pytest.mark.parametrize("spheroid", [True, False])
def test_major_axis_is_of_discs(simulator, scene, spheroid):
    """The training fibres that lie at a third of R26 are on discs only; those of spheroids stay near the peak."""
    n = len(scene["g"]["re"])
    lots = iter([0.99, *[0.5] * 9])  # the first says which kind of fibre
    d = SimpleNamespace(uniform=lambda *_: torch.full((n,), next(lots)), normal=lambda *_: torch.zeros(n))
    g = scene["g"] | {"spheroid": torch.full((n,), spheroid)}
    first, _, _ = simulator._place({"d": d, "g": g, "maps": scene["maps"]})
    u, best = torch.arange(n), scene["maps"]["clump_light"].argmax(1)
    clump = torch.stack([scene["maps"][f"clump_{axis}"][u, best] for axis in ("east", "north")], 1)
    away = (first - torch.stack([g["east"], g["north"]], 1)).norm(dim=1)
    if spheroid:
        torch.testing.assert_close(first, clump)
    else:
        torch.testing.assert_close(away, 0.33 * 3.3 * g["re"])
