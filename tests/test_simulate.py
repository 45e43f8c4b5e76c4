"""The simulated universe, with the analytic templates: what is linear must agree exactly."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fiberifu.model import desi_lsf  # noqa: E402
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack, reanchor  # noqa: E402
from fiberifu.simulate.galaxy import galaxy_maps, galaxy_spectra  # noqa: E402
from fiberifu.simulate.gas import LINES, GasTables  # noqa: E402
from fiberifu.simulate.grid import SpectralGrid  # noqa: E402
from fiberifu.simulate.observe import (  # noqa: E402
    add_lines,
    aperture_patch,
    aperture_photometry,
    encircled_energy,
    frequencies,
    image_noise,
    moffat_transfer,
)
from fiberifu.simulate.recipe import Draws, draw_galaxies  # noqa: E402
from fiberifu.simulate.templates import build_template_pack, load_template_pack  # noqa: E402
from fiberifu.simulate.templates_download import template_files  # noqa: E402


@pytest.fixture(scope="module")
def pack():
    return analytic_template_pack()


@pytest.fixture(scope="module")
def simulator(pack):
    return Simulator(pack)


@pytest.fixture(scope="module")
def batch(simulator):
    return simulator.batch(6, 3)


def test_shapes(batch):
    n = len(batch["fiber_galaxy"])
    assert n >= 6
    assert batch["image"].shape == batch["sigma"].shape == (6, 4, 128, 128)
    assert batch["flux"].shape == batch["ivar"].shape == (n, 7781)
    assert batch["fiber_offset"].shape == (n, 2)
    assert batch["truth"]["line_ew"].shape == (n, 15)
    for key in ("image", "flux", "ivar", "fiber_redshift"):
        assert batch[key].dtype == torch.float32
        assert torch.isfinite(batch[key]).all()
    assert (batch["ivar"] > 0).all()
    missing = ~batch["present"]
    assert torch.isinf(batch["sigma"][missing]).all()
    assert (batch["image"][torch.isinf(batch["sigma"])] == 0).all()
    assert set(batch["fiber_galaxy"][:6].tolist()) == set(range(6))


def test_reproducible(simulator, batch):
    """A galaxy does not depend on its company."""
    for i in (0, 4):
        one = simulator.batch(1, 3, start=i)
        first = int(torch.nonzero(batch["fiber_galaxy"] == i)[0])
        torch.testing.assert_close(one["image"][0], batch["image"][i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one["psf_fwhm"][0], batch["psf_fwhm"][i])
        error = (one["flux"][0] - batch["flux"][first]).abs() * batch["ivar"][first].sqrt()
        assert error.max() < 0.01
        torch.testing.assert_close(
            one["truth"]["line_flux"][0], batch["truth"]["line_flux"][first], rtol=1e-3, atol=1e-5
        )
    other = simulator.batch(1, 4)
    assert not torch.allclose(other["image"][0], batch["image"][0])


def test_image_of_truth_maps(simulator, batch):
    """The maps come with the very image of the batch."""
    truth = simulator.truth_maps(3, 2, size=6.0)
    torch.testing.assert_close(truth["image"], batch["image"][2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(truth["psf_fwhm"], batch["psf_fwhm"][2])
    assert torch.equal(truth["present"], batch["present"][2])
    assert torch.equal(torch.isinf(truth["sigma_image"]), torch.isinf(batch["sigma"][2]))


@pytest.mark.parametrize("seed", [1, 2])
def test_spectrum_is_aperture(pack, seed):
    """Photometry of truth spectra = aperture photometry of the noiseless image = truth photometry."""
    simulator = Simulator(pack, SimConfig(noise=False))
    truth = simulator.truth_maps(seed, 0, spaxel=1.5, size=6.0)
    cube = simulator.truth_cube(seed, 0, spaxel=1.5, size=6.0, aperture=1.5, psf_fwhm=float(truth["psf_fwhm"]))
    offset = torch.stack([truth["east"].flatten(), truth["north"].flatten()], 1)
    image = truth["image"].expand(len(offset), -1, -1, -1)
    flux, _ = aperture_photometry(image, torch.ones_like(image), offset, 0.262)
    np.testing.assert_allclose(flux, truth["band"].flatten(0, 1), rtol=1e-3, atol=1e-6)
    synthetic = cube["flux"].flatten(0, 1) @ simulator.curves.T
    np.testing.assert_allclose(synthetic[:, :3], flux[:, :3], rtol=2e-3)
    np.testing.assert_allclose(synthetic[:, 3], flux[:, 3], rtol=2e-2)  # 9 % of z lies beyond the spectrum
    np.testing.assert_allclose(cube["line_flux"], truth["line_flux"], rtol=1e-4)


def test_flux_is_conserved(pack):
    """Images hold the light of the maps where the PSF puts it, and maps the mass and the star formation."""
    simulator = Simulator(pack, SimConfig(noise=False, jitter=0.0))
    scene = simulator.scene(7, range(40))
    some = {"stack": scene["stack"][:4], "band": scene["band"][:4]}
    image = simulator._images(some, torch.full((4,), 1.3), crop=False)
    sharp = torch.einsum("bcj,bjyx->bcyx", some["band"], some["stack"][:, :29]) * 0.262**2
    torch.testing.assert_close(image.sum((2, 3)) * 0.262**2, sharp.sum((2, 3)), rtol=1e-3, atol=1e-5)
    # the PSF by direct summation: beta = 3.5, FWHM = 1.3 arcsec
    alpha = 1.3 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))
    axis = torch.arange(simulator.grid) * 0.262
    for row, column in ((80, 80), (72, 84), (90, 61)):
        r2 = (axis[:, None] - axis[row]) ** 2 + (axis - axis[column]) ** 2
        psf = 2.5 / (math.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.5
        direct = (sharp * psf).sum((2, 3))
        torch.testing.assert_close(image[..., row, column], direct, rtol=0.01, atol=1e-4 * float(image.max()))

    g, merger = scene["g"], scene["g"]["merger"]
    assert merger.any()
    area = 0.262**2
    mass = scene["maps"]["mass"].sum((1, 2, 3, 4)) * area
    own = 10 ** g["log_mass"]
    torch.testing.assert_close(mass[~merger], own[~merger], rtol=0.01, atol=0)
    assert (mass > 1.02 * own)[merger].all()  # a companion comes on top
    torch.testing.assert_close(torch.log10(mass), g["log_mass_formed"], rtol=0, atol=1e-3)
    newborn = scene["maps"]["mass"][:, 5].sum((1, 2, 3)) * area
    company = 1 + g["companion_young"] * merger
    torch.testing.assert_close(newborn, 10 ** (g["log_sfr"] + g["burst"]) * 1.8e7 * company, rtol=0.01, atol=0)
    last = 10 ** g["log_sfr"] * (0.82 + 0.18 * 10 ** g["burst"]) * company  # 18 of the last 100 Myr
    torch.testing.assert_close(g["log_sfr_total"], torch.log10(last), rtol=0, atol=0.005)
    # what makes lines: all of it is spent, some on winds and on gas that fell in
    wind = g["outflow_share"] * (g["outflow"] & ~g["agn"])
    fallen = g["decoupled_share"] * (g["decoupled"] & ~g["quenched"])
    ionised = scene["maps"]["gas"][:, :4].sum((1, 2, 3, 4)) * area
    photons = 10 ** (g["log_sfr"] + g["burst"] + g["ionising"])
    torch.testing.assert_close(ionised, photons * company * (1 - wind - fallen), rtol=0.01, atol=0)


def test_light_does_not_depend_on_the_grid(pack):
    """Turned by 37 degrees or moved by half a pixel, 95 % of galaxies keep H-alpha to 2 % and r to 1 %."""
    n = 60

    def totals(turn=0.0, east=0.0, north=0.0):
        class Turned(Simulator):
            def _draw(self, d):
                g = super()._draw(d)
                place = {"east": torch.full((n,), east), "north": torch.full((n,), north)}
                return g | place | {"pa": g["pa"] + turn, "neighbour": torch.zeros(n, dtype=torch.bool)}

        simulator = Turned(pack, SimConfig(noise=False))
        scene = simulator.scene(21, range(n))
        truth = simulator.truth(scene, torch.arange(n), scene["stack"].sum((2, 3)) * 0.262**2)
        return truth["line_flux"][:, LINES.index("Ha")], truth["band"][:, 1]

    ha, r = totals()
    for change in ({"turn": math.radians(37)}, {"east": 0.131}, {"east": 0.131, "north": -0.0655}):
        now = totals(**change)
        for new, old, tolerance in ((now[0], ha, 0.02), (now[1], r, 0.01)):
            off = (new / old - 1).abs()
            assert (off < tolerance).float().mean() >= 0.95, (change, tolerance)
            assert off.max() < 0.06


def test_rotation(pack):
    """Turning a galaxy by 90 degrees turns its maps."""
    simulator = Simulator(pack)
    draws = Draws(5, range(3))
    g = draw_galaxies(draws)
    galaxy_spectra(g, simulator.stars, simulator.gas)
    maps = galaxy_maps(g, draws, 96, 0.3)
    turned = galaxy_maps(g | {"pa": g["pa"] + math.pi / 2, "east": -g["north"], "north": g["east"]}, draws, 96, 0.3)
    for key in ("mass", "gas", "velocity", "velocity_star", "variance_star"):
        expected = maps[key].transpose(-1, -2).flip(-1)
        torch.testing.assert_close(turned[key], expected, rtol=5e-3, atol=1e-4 * float(expected.abs().max()))


def test_noise_pulls(simulator):
    batch = simulator.batch(12, 21)
    # neighbouring pixels of faint, smooth spectra differ by noise alone
    step = batch["flux"].diff(dim=1) / torch.sqrt(1 / batch["ivar"][:, 1:] + 1 / batch["ivar"][:, :-1])
    width = torch.quantile(step, 0.84, dim=1) - torch.quantile(step, 0.16, dim=1)
    assert 0.93 < float(width.median()) / 2 < 1.1


def test_image_noise():
    """Matching keeps low-frequency power: apertures scatter by at most the noise quoted."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(8, 1, 128, 128, generator=generator)
    fwhm, common = torch.full((8, 1), 1.1), torch.full((8,), 1.4)
    noise, sigma = image_noise(
        torch.zeros_like(white), white, fwhm, common, torch.full((8, 1), 0.003), 0.262, torch.tensor([5000.0])
    )
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.003 / 0.262**2))
    pulls = []
    for x in np.arange(-14, 15, 2.0):
        flux, error = aperture_photometry(noise, sigma, torch.tensor([[x, -x / 2]]).expand(8, 2), 0.262)
        pulls.append(flux / error)
    assert 0.6 < float(torch.cat(pulls).std()) < 1.05
    assert float((noise / sigma).std()) < 0.8  # single pixels are smoother than their sigma


def test_moffat():
    """The closed form against a numerical Hankel transform, and a unit sum."""
    fwhm = torch.tensor(1.2)
    alpha = 1.2 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))
    r = torch.linspace(0, 60, 60001, dtype=torch.float64)
    profile = 2.5 / (math.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -3.5
    for k in (0.0, 0.2, 0.6):
        direct = torch.trapezoid(2 * math.pi * r * profile * torch.special.bessel_j0(2 * math.pi * k * r), r)
        assert abs(float(moffat_transfer(torch.tensor(k), fwhm)) - float(direct)) < 1e-4
    inside = torch.trapezoid((2 * math.pi * r * profile)[r <= 0.75], r[r <= 0.75])
    assert abs(float(encircled_energy(0.75, fwhm)) - float(inside)) < 1e-3
    assert frequencies(8, 0.5).shape == (8, 5)


def test_aperture_patch():
    offset = torch.tensor([[0.0, 0.0], [0.13, -0.4], [3.3, 2.2]])
    index, area = aperture_patch(offset, 64, 0.262)
    assert torch.allclose(area.sum((1, 2)), torch.tensor(math.pi * 0.75**2))
    assert area.max() < 0.262**2 * 1.02
    row, column = index // 64, index % 64
    east = ((column - 31.5) * 0.262 * area).sum((1, 2)) / area.sum((1, 2))
    north = ((row - 31.5) * 0.262 * area).sum((1, 2)) / area.sum((1, 2))
    torch.testing.assert_close(torch.stack([east, north], 1), offset, rtol=0, atol=5e-3)
    with pytest.raises(ValueError, match="diameter"):
        aperture_patch(offset, 64, 0.262, 5.0)


def test_lines_on_spectra():
    flux = torch.zeros(2, 7781)
    wave = torch.tensor([5008.24, 6564.632])
    add_lines(
        flux,
        torch.tensor([[3.0, 5.0], [1.0, 2.0]]),
        wave,
        torch.tensor([0.02, 0.1]),
        torch.tensor([40.0, 90.0]),
        SpectralGrid.desi(),
    )
    torch.testing.assert_close(flux.sum(1) * 0.8, torch.tensor([8.0, 3.0]), rtol=1e-4, atol=0)
    grid = 3600 + 0.8 * torch.arange(7781)
    near = (grid - 6564.632 * 1.1).abs() < 40
    mean = (grid * flux[1])[near].sum() / flux[1][near].sum()
    assert abs(float(mean) - 6564.632 * 1.1) < 0.02
    manga = SpectralGrid.manga()
    flux = torch.zeros(1, 4563)
    red, width = torch.tensor([0.02]), torch.tensor([90.0])
    add_lines(flux, torch.tensor([[3.0, 5.0, 9.0]]), torch.tensor([5008.24, 6564.632, 12000.0]), red, width, manga)
    assert float((flux * manga.edges.diff()).sum()) == pytest.approx(8.0, rel=1e-4)  # the last is off the arm
    ends = torch.tensor([3600.0, 9800.0])
    resolution = ends / desi_lsf(ends) / 2.3548
    assert 2000 < resolution[0] < 2600
    assert 5000 < resolution[1] < 5800


def test_reanchor(simulator):
    """Grey factor and tilt are found again."""
    wave, curves = simulator.wave, simulator.curves
    truth = 2 + 0.5 * torch.log(wave / 6500)[None].expand(3, -1)
    factor = torch.tensor([1.4, 1.7, 2.4])[:, None] * (1 - 0.12 * torch.log(wave / 6500))
    flux, ivar = truth * factor, torch.full_like(truth, 25.0)
    aperture = truth @ curves.T
    sigma = 0.01 * aperture
    sigma[1, 2] = torch.inf
    fixed, fixed_ivar, scale = reanchor(flux, ivar, wave, curves, aperture, sigma)
    torch.testing.assert_close(fixed, truth, rtol=0.02, atol=0)
    torch.testing.assert_close(fixed_ivar * scale**2, ivar)


def test_physics(simulator):
    """Ratios that atomic physics fixes, and equivalent widths from the definition."""
    batch = simulator.batch(8, 8)
    line = dict(zip(LINES, batch["truth"]["line_flux"].T, strict=True))
    torch.testing.assert_close(line["N2_6583"] / line["N2_6548"], torch.full_like(line["Ha"], 3.05), rtol=0.02, atol=0)
    assert (line["Ha"] / line["Hb"] > 2.6).all()
    assert (batch["truth"]["line_ew"] > 0).all()
    assert (batch["truth"]["redshift"] >= 0.003).all()


def test_placements(pack):
    for placement in ("uniform", "central"):
        simulator = Simulator(pack, SimConfig(placement=placement, pair_fraction=0.0))
        batch = simulator.batch(16, 2)
        assert len(batch["fiber_galaxy"]) == 16
        inner = batch["truth"]["fiber_radius"].median()
        assert inner > 0.5 if placement == "uniform" else inner < 0.4
    with pytest.raises(ValueError, match="placement"):
        SimConfig(placement="random")
    with pytest.raises(ValueError, match="pair_fraction"):
        SimConfig(pair_fraction=2.0)


def test_missing_pack(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="template pack"):
        load_template_pack(tmp_path / "none.npz")
    monkeypatch.setenv("FIBERIFU_DATA", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="FIBERIFU_DATA"):
        build_template_pack()


def test_altered_templates(tmp_path):
    """Files that are not those of everybody else are told by their hashes."""
    path = tmp_path / str(template_files()["path"][0])
    path.parent.mkdir(parents=True)
    path.write_text("altered")
    with pytest.warns(UserWarning, match=f"1 files .* such as .*{path.name}"), pytest.raises(FileNotFoundError):
        build_template_pack(tmp_path)


def test_real_pack(real_pack_file):
    """The pack from the public files, and one batch with it."""
    pack = load_template_pack(real_pack_file)
    assert pack["ssp"].shape == (9, 6, 15309)
    assert set(pack) == set(analytic_template_pack())
    # one solar mass formed 1 Gyr ago: V light of the CKC14z SSPs
    v = pack["ssp"][5, 4][(pack["wave"] > 5400) & (pack["wave"] < 5600)].mean()
    assert 1e-4 < v < 3e-4
    batch = Simulator(pack).batch(4, 1)
    assert torch.isfinite(batch["flux"]).all()
    # narrow-line regions lie above the line of Kewley+2001; fast shocks have the ratios of Allen+2008 shocks
    gas, one = GasTables(pack), torch.ones(1)
    narrow, shock = gas.narrow(0.4 * one, -3 * one, -1.7 * one)[0], gas.shock(0 * one, math.log10(400) * one)[0]
    pairs = ("O3_5007", "Hb"), ("N2_6583", "Ha")
    o3, n2 = (torch.log10(narrow[LINES.index(a)] / narrow[LINES.index(b)]) for a, b in pairs)
    assert 0.6 < o3 < 0.9
    assert o3 > 0.61 / (n2 - 0.47) + 1.19
    assert -0.5 < torch.log10(shock[LINES.index("O1_6300")] / shock[LINES.index("Ha")]) < 0.1
