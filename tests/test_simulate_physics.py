"""What simulated galaxies are made of: motion, structure, gas and the continuum of gas, with the analytic templates."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fiberifu.constants import C_KMS  # noqa: E402
from fiberifu.simulate import SimConfig, Simulator, analytic_template_pack, load_template_pack  # noqa: E402
from fiberifu.simulate.galaxy import galaxy_maps, galaxy_spectra  # noqa: E402
from fiberifu.simulate.gas import GAS_COMPONENTS, LINE_WAVELENGTH, LINES, SIDEBANDS, GasTables  # noqa: E402
from fiberifu.simulate.motion import GROUP_OF, GROUPS, gas_moments  # noqa: E402
from fiberifu.simulate.nebular import nebular_continuum  # noqa: E402
from fiberifu.simulate.observe import fiber_kernel, moffat_transfer  # noqa: E402
from fiberifu.simulate.recipe import Draws, draw_galaxies  # noqa: E402
from fiberifu.simulate.structure import broken_exponential, companion, debris  # noqa: E402
from fiberifu.simulate.survey import STRATA  # noqa: E402

HA, HB = LINES.index("Ha"), LINES.index("Hb")
STRATA_OF_THE_ISSUE = ("agn", "outflow", "off_centre_hii", "decoupled", "quenched", "merger", "edge_on")


@pytest.fixture(scope="module")
def pack():
    return analytic_template_pack()


@pytest.fixture(scope="module")
def simulator(pack):
    return Simulator(pack, SimConfig(noise=False, jitter=0.0))


def maps_of(simulator, n, seed=5, size=96, pixel=0.3, **changes):
    """Parameters with ``changes`` and the maps of ``n`` galaxies."""
    draws = Draws(seed, range(n))
    g = draw_galaxies(draws, jitter=0.0)
    g |= {k: torch.full_like(g[k], v) if not isinstance(v, torch.Tensor) else v for k, v in changes.items()}
    made = galaxy_spectra(g, simulator.stars, simulator.gas)
    return g, made, galaxy_maps(g, draws, size, pixel)


def amounts(simulator, scene, offset, fwhm=1.2):
    """Integrals of the maps under the fibre at ``offset`` (B, 2) of every galaxy."""
    n = len(offset)
    transfer = moffat_transfer(simulator.k, torch.full((n, 1, 1, 1), fwhm))
    kernel = fiber_kernel(offset[:, None], simulator.grid, 0.262, transfer, 1.5)
    return simulator._integrate(scene["stack"], torch.arange(n), kernel)[:, 0]


# --- motion


def test_lines_have_the_moments_of_the_truth(simulator):
    """Flux, mean velocity and dispersion of the rendered H-alpha are those of the truth."""
    n = 24
    scene = simulator.scene(11, range(n))
    owner = torch.arange(n)
    amount = amounts(simulator, scene, torch.full((n, 2), 0.4))
    alone = simulator.spectra(scene, owner, amount)
    # the same without H-alpha's companions: take their lines out of the composition
    only = [i for i in range(15) if i != HA]
    line_out = scene["made"]["line_out"].clone()
    scene["made"]["line_out"][..., only] = 0
    bare = simulator.spectra(scene, owner, amount)
    scene["made"]["line_out"][..., HA] = 0
    base = simulator.spectra(scene, owner, amount)
    scene["made"]["line_out"] = line_out
    line = (bare["flux"] - base["flux"]).double() * 0.8
    flux = line.sum(1)
    z0 = scene["g"]["redshift"]
    centre = 6564.632 * (1 + z0.double())
    inside = centre < 9600
    assert inside.sum() > 15
    torch.testing.assert_close(flux[inside].float(), alone["line_flux"][inside, HA], rtol=1e-3, atol=1e-5)
    speed = (simulator.wave.double() / centre[:, None] - 1) * C_KMS
    mean = (line * speed).sum(1) / flux
    sigma = torch.sqrt((line * (speed - mean[:, None]) ** 2).sum(1) / flux)
    lsf = simulator.desi.lsf_at(centre) / centre.float() * C_KMS
    pixel = 0.8 / math.sqrt(12) / centre.float() * C_KMS
    expected = torch.sqrt(alone["sigma"] ** 2 + lsf**2 + pixel**2)
    bright = inside & (alone["line_flux"][:, HA] > 1)
    assert bright.sum() > 8
    assert (mean.float() - alone["velocity"])[bright].abs().max() < 1.5
    assert ((sigma.float() / expected)[bright] - 1).abs().max() < 0.01
    torch.testing.assert_close(alone["ha_share"].sum(1), torch.ones(n))


def test_moments_of_groups():
    """Mean and dispersion of a sum of Gaussians; groups without light are harmless."""
    flux = torch.tensor([[3.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    v, s = torch.tensor([[100.0, -300.0, 0, 0, 0, 0]]), torch.tensor([[25.0, 200.0, 0, 0, 0, 0]])
    velocity, sigma, mean, spread, share = gas_moments(flux, flux * v, flux * (v**2 + s**2))
    torch.testing.assert_close(velocity[0, :2], v[0, :2])
    torch.testing.assert_close(sigma[0, :2], s[0, :2])
    assert float(mean) == pytest.approx(0.0, abs=1e-4)
    assert float(spread) == pytest.approx(math.sqrt(0.75 * (25**2 + 100**2) + 0.25 * (200**2 + 300**2)), rel=1e-5)
    assert share[0].tolist() == pytest.approx([0.75, 0.25, 0, 0, 0, 0])
    assert torch.isfinite(sigma).all()
    assert len(GROUP_OF) == len(GAS_COMPONENTS)
    assert max(GROUP_OF) + 1 == len(GROUPS)


def test_half_a_turn_reverses_motion(simulator):
    """A disc that is turned by 180 degrees recedes where it approached; its light turns along."""
    g, _, maps = maps_of(simulator, 3)
    turned = maps_of(simulator, 3, pa=g["pa"] + math.pi)[2]
    for key in ("velocity", "velocity_star", "variance_star"):
        torch.testing.assert_close(turned[key].flip(-1, -2), maps[key], rtol=1e-3, atol=0.5)
    disc = GROUPS.index("disc")
    smooth = maps_of(simulator, 3, streaming=0.0, merger=False, companion_ratio=0.0)[2]["velocity"][:, disc]
    torch.testing.assert_close(smooth.flip(-1, -2), -smooth, rtol=1e-3, atol=0.5)


def test_winds_are_blue_on_the_near_side(simulator):
    """The cone in front of the disc approaches; exchanging near and far exchanges the colours."""
    n = 8
    settings = {
        "agn": False,
        "outflow": True,
        "inclination": 50.0,
        "pa": 0.0,
        "cone_half": 0.5,
        "re": 4.0,
        "spheroid": False,
    }
    settings |= {"wind_speed": 300.0, "companion_ratio": 0.0, "outflow_share": 0.2, "cone_length": 1.0}
    wind, component = GROUPS.index("wind"), GAS_COMPONENTS.index("wind")
    g, _, maps = maps_of(simulator, n, far_side=1.0, **settings)
    light, v = maps["gas"][:, component].sum(1), maps["velocity"][:, wind]
    north = torch.arange(96)[:, None].expand(96, 96) > 47
    for side, sign in ((north, -1), (~north, 1)):
        mean = (light * v * side).sum((1, 2)) / (light * side).sum((1, 2))
        assert (mean * sign > 40).all()  # far half: the approaching cone lies before it
    # the receding half is behind the disc: as a whole the wind is blueshifted
    thin = maps["gas"][:, component, 0]
    assert ((thin * v).sum((1, 2)) / thin.sum((1, 2)) < -40).all()
    mirrored = maps_of(simulator, n, far_side=-1.0, **settings)[2]
    torch.testing.assert_close(mirrored["velocity"][:, wind].flip(-2), v, rtol=1e-3, atol=0.5)
    assert (torch.sqrt(maps["variance"][:, wind]) > 140).all()


def test_arms_trail(simulator):
    """The far side follows from the sense of the arms and from the receding side."""
    g = draw_galaxies(Draws(3, range(40)))
    assert torch.equal(g["far_side"], -torch.sign(g["pitch"]))
    assert 5 < int((g["far_side"] > 0).sum()) < 35


def test_stars_lag_behind_gas(simulator):
    """Asymmetric drift: slower and hotter than the gas, and v_c^2 = v^2 + 2 (R / h) sigma_R^2 on the major axis."""
    settings = {"inclination": 60.0, "spheroid": False, "bulge_fraction": 0.0, "companion_ratio": 0.0, "streaming": 0.0}
    settings |= {"warp": 0.0, "pa": 0.0, "re": 5.0, "merger": False, "axis_ratio": 0.5, "thin_ratio": 0.5}
    g, _, maps = maps_of(simulator, 4, **settings)
    row, column = 48, 48 + round(1.2 * 5.0 / 0.3)  # 1.2 effective radii on the receding side
    gas, star = maps["velocity"][:, 0, row, column], maps["velocity_star"][:, row, column]
    assert (gas > 30).all()
    assert (star < gas).all()
    assert (star > 0.6 * gas).all()
    radius = maps["radius"][:, row, column]
    sigma2 = (0.29 * math.exp(0.5) * g["v_max"]) ** 2 * torch.exp(-1.68 * radius) + 15.0**2
    sin2 = math.sin(math.radians(60)) ** 2
    torch.testing.assert_close(star**2 / sin2 + 2 * 1.68 * radius * sigma2, gas**2 / sin2, rtol=0.02, atol=0)
    assert (maps["variance_star"][:, 48, 48] > maps["variance_star"][:, row, column]).all()
    face_on = maps_of(simulator, 4, **(settings | {"inclination": 0.0}))[2]
    assert face_on["velocity"][:, 0].abs().max() < 1e-3
    diffuse = maps["velocity"][:, GROUPS.index("diffuse"), row, column]
    assert (diffuse < gas).all()
    assert (maps["variance"][:, GROUPS.index("diffuse")] > maps["variance"][:, 0]).all()


def test_decoupled_gas_has_its_own_axis(simulator):
    settings = {"decoupled": True, "companion_ratio": 0.0, "pa": 0.0, "inclination": 55.0, "streaming": 0.0}
    g, _, maps = maps_of(simulator, 12, **settings)
    own = maps["velocity"][:, GROUPS.index("decoupled")]
    along = own[:, :, 60] - own[:, :, 35]  # gradient along the major axis of the disc
    disc = maps["velocity"][:, 0][:, :, 60] - maps["velocity"][:, 0][:, :, 35]
    misaligned = (along.mean(1) / disc.mean(1)) < 0.75
    assert misaligned.all()
    light = maps["gas"][:, GAS_COMPONENTS.index("decoupled")].sum((1, 2, 3))
    assert (light > 0).all()
    none = maps_of(simulator, 12, decoupled=False)[2]["gas"][:, GAS_COMPONENTS.index("decoupled")]
    assert none.abs().max() == 0


def test_rotation_and_dispersion_follow_mass():
    g = draw_galaxies(Draws(8, range(600)))
    heavy, light = g["log_mass"] > 10.8, g["log_mass"] < 10.0
    for key in ("v_max", "sigma_star", "re_kpc"):
        assert g[key][heavy].median() > 1.3 * g[key][light].median()
    assert (g["sigma_narrow"][g["agn"]] >= 80).all()
    assert ((g["wind_sigma"] >= 150) & (g["wind_sigma"] <= 400)).all()


# --- structure


def test_breaks():
    """Inside the break a disc has one scale length, outside another."""
    radius = torch.linspace(0.01, 8, 800)[None, None]
    g = {"break_radius": torch.tensor([2.0, 2.0, 2.0]), "break_ratio": torch.tensor([2.0, 0.5, 1.0])}
    log = torch.log(broken_exponential(g, radius.expand(3, 1, 800), 1.68))[:, 0]
    slope = -(log.diff(dim=1) / radius[0].diff(dim=1))
    torch.testing.assert_close(slope[:, :80].mean(1), torch.full((3,), 1.68), rtol=0.01, atol=0)
    torch.testing.assert_close(slope[:, -200:].mean(1), 1.68 * g["break_ratio"], rtol=0.01, atol=0)
    far = broken_exponential(g, torch.full((3, 1, 1), 300.0), 1.68)
    assert torch.isfinite(far).all()


def test_discs_have_thickness(simulator):
    """Seen from the side gas is thinner than old stars; a spheroid is as round in all of its light."""
    settings = {"inclination": 90.0, "re": 6.0, "pa": 0.0, "warp": 0.0, "companion_ratio": 0.0, "debris": 0.0}
    settings |= {"hole": 0.0, "lopsided": 0.0}
    g = draw_galaxies(Draws(5, range(12)), jitter=0.0)
    disc = torch.nonzero(~g["spheroid"] & ~g["ring"])[:, 0]
    assert len(disc) > 5
    thin, thick = torch.full((12,), 0.07), torch.full((12,), 0.2)
    maps = maps_of(simulator, 12, axis_ratio=thick, thin_ratio=thin, **settings)[2]
    height = (torch.arange(96) - 47.5).abs()[:, None] * 0.3

    def mean_height(light):
        return (light * height).sum((1, 2)) / light.sum((1, 2))

    old, gas = mean_height(maps["mass"][:, 1].sum(1)), mean_height(maps["gas"][:, 0].sum(1))
    assert (gas < 0.8 * old)[disc].all()


def test_mergers_bring_light(simulator):
    """A companion adds its mass; tails and shells are unit maps outside of the centre."""
    g = draw_galaxies(Draws(5, range(30)), jitter=0.0)
    assert (g["companion_ratio"][~g["merger"]] == 0).all()
    settings = {"merger": True, "debris": 0.1, "companion_young": 0.3}
    with_one = maps_of(simulator, 4, companion_ratio=0.5, **settings)[2]["mass"][:, 2].sum((1, 2, 3))
    without = maps_of(simulator, 4, companion_ratio=0.0, **settings)[2]["mass"][:, 2].sum((1, 2, 3))
    gained = (with_one - without) * 0.3**2 / 10 ** g["log_mass"][:4]
    assert ((gained > 0.2) & (gained < 0.55)).all()  # some of it may lie beyond the small grid
    axis = (torch.arange(96) - 47.5) * 0.3
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x.expand(30, 96, 96), y.expand(30, 96, 96)
    radius, angle = torch.hypot(x, y) / 4.0, torch.atan2(y, x)
    g["re"] = torch.full((30,), 4.0)
    pulled = debris(g, radius, angle, pixel=0.3)
    torch.testing.assert_close(pulled.sum((1, 2)) * 0.09, torch.ones(30), rtol=1e-4, atol=0)
    assert ((pulled * (radius < 0.5)).sum((1, 2)) < 0.1 * pulled.sum((1, 2))).all()
    torch.testing.assert_close(companion(g, x, y, pixel=0.3).sum((1, 2)) * 0.09, torch.ones(30), rtol=1e-4, atol=0)


def test_clumps_have_a_luminosity_function():
    """Index of dN/dL between -1.6 and -2.2 (Kennicutt, Edgar & Hodge 1989)."""
    from fiberifu.simulate.galaxy import _clump_positions

    draws = Draws(1, range(120))
    g = draw_galaxies(draws)
    light = _clump_positions(g, draws)[2]
    index = []
    for one in light:
        one = one[one > 0]
        # Hill's estimate of N(>L) ~ L^-(alpha - 1), corrected for three decades of range
        index.append(1 + 1 / torch.log(one / one.min()).mean())
    index = torch.stack(index)
    assert 1.7 < float(index.median()) < 2.2


def test_strata():
    """Every labelled stratum exists, in the shares of 2000 galaxies."""
    g = draw_galaxies(Draws(77, range(2000)))
    share = {name: float(g[name].float().mean()) for name in STRATA_OF_THE_ISSUE}
    assert all(g[name].dtype == torch.bool for name in STRATA_OF_THE_ISSUE)
    assert set(STRATA_OF_THE_ISSUE) <= set(STRATA)
    assert all(0.03 < value < 0.7 for value in share.values()), share


def test_special_galaxies_do_not_depend_on_company(simulator):
    """Mergers and decoupled gas are worked out only where they are; a galaxy alone has the very same maps."""
    together = simulator.scene(41, range(40))
    for name in ("merger", "decoupled"):
        i = int(torch.nonzero(together["g"][name])[0])
        alone = simulator.scene(41, [i])
        for key in ("mass", "gas", "velocity"):
            expected = together["maps"][key][i]
            torch.testing.assert_close(
                alone["maps"][key][0], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
            )


# --- gas


def test_nebular_continuum():
    """Jumps at the series limits, and the level that case B gives: EW(H-beta) of pure gas is near 1400 A."""
    wave = np.array([3600.0, 3640.0, 3655.0, 4862.0, 8190.0, 8215.0])
    blue, below, above, hb, paschen_below, paschen_above = nebular_continuum(wave)
    assert 4.0 < below / above < 6.5
    assert 1.5 < paschen_below / paschen_above < 3.0
    assert 1100 < 1 / hb < 1700
    # 1e-40 erg cm3/s/Hz at 10000 A and 1e4 K (Osterbrock & Ferland 2006, chapter 4): about 7
    gamma = nebular_continuum(np.array([10000.0]))[0] * 1e4**2 / 2.998e18 * 1.235e-25 / 1e-40
    assert 6.0 < gamma < 8.0
    two_photon = nebular_continuum(np.array([1300.0, 1500.0, 2431.0]))
    assert (two_photon > 0).all()


def test_nebular_continuum_reaches_image_spectrum_and_truth(pack):
    """Without it, images and spectra lose the same light, and equivalent widths rise."""
    dark = dict(pack)
    dark["nebular"] = np.zeros_like(pack["nebular"])
    pair = [Simulator(p, SimConfig(noise=False, jitter=0.0)) for p in (pack, dark)]
    out = []
    for simulator in pair:
        scene = simulator.scene(4, range(8))
        owner = torch.arange(8)
        out.append(simulator.spectra(scene, owner, amounts(simulator, scene, torch.zeros(8, 2))) | {"scene": scene})
    with_gas, without = out
    lost = with_gas["band"] - without["band"]
    assert (lost > 0).all()
    synthetic = (with_gas["flux"] - without["flux"]) @ pair[0].curves.T
    torch.testing.assert_close(synthetic[:, :3], lost[:, :3], rtol=2e-2, atol=1e-5)
    torch.testing.assert_close(with_gas["line_flux"], without["line_flux"])
    assert (with_gas["line_ew"] < without["line_ew"]).all()


def test_photometry_of_spectra(simulator):
    """Broad and blueshifted lines keep synthetic photometry of spectra equal to that of the maps."""
    n = 48
    scene = simulator.scene(31, range(n))
    owner = torch.arange(n)
    seen = simulator.spectra(scene, owner, amounts(simulator, scene, torch.full((n, 2), 0.5)))
    synthetic = seen["flux"] @ simulator.curves.T
    torch.testing.assert_close(synthetic[:, :3], seen["band"][:, :3], rtol=2e-3, atol=1e-5)
    assert (scene["g"]["outflow"] | scene["g"]["agn"]).any()


def test_hard_tables(pack):
    """Narrow-line regions lie above the starburst line of Kewley+2001, shocks have strong [O I]."""
    gas = GasTables(pack)
    one = torch.ones(1)
    narrow = gas.narrow(0.5 * one, -2.8 * one, -1.6 * one)[0]
    shock = gas.shock(0 * one, 2.5 * one)[0]
    for line in (narrow, shock):
        assert float(line[HA]) == pytest.approx(1.0, rel=1e-5)
        assert 2.8 < float(line[HA] / line[HB]) < 3.3
    n2 = torch.log10(narrow[LINES.index("N2_6583")])
    o3 = torch.log10(narrow[LINES.index("O3_5007")] / narrow[HB])
    assert o3 > 0.61 / (n2 - 0.47) + 1.19
    assert shock[LINES.index("O1_6300")] > 0.15
    poor = gas.narrow(-0.5 * one, -2.8 * one, -1.6 * one)[0]
    assert poor[LINES.index("N2_6583")] < 0.5 * narrow[LINES.index("N2_6583")]
    torch.testing.assert_close(poor[LINES.index("O3_5007")], narrow[LINES.index("O3_5007")], rtol=0.5, atol=0)


def test_unseen_scatter(pack):
    """Colours and brightness do not tell H-alpha: at least 0.25 dex remain of log EW in star-forming discs."""
    simulator = Simulator(pack, SimConfig(noise=False, placement="uniform"))
    gathered = []
    for seed in range(5):
        scene = simulator.scene(500 + seed, range(64))
        seen = simulator.truth(scene, torch.arange(64), amounts(simulator, scene, simulator._place(scene)[0]))
        gathered.append(scene["g"] | seen)
    keys = ("band", "line_ew", "redshift", "quenched", "agn", "neighbour")
    truth = {key: torch.cat([t[key] for t in gathered]) for key in keys}
    keep = ~(truth["quenched"] | truth["agn"] | truth["neighbour"])
    mag = -2.5 * torch.log10(truth["band"].clamp(min=1e-4))[keep]
    generator = torch.Generator().manual_seed(1)
    mag = mag + 0.02 * torch.randn(mag.shape, generator=generator)  # photometry as good as calibration allows
    colour = [mag[:, 0] - mag[:, 1], mag[:, 1] - mag[:, 2], mag[:, 2] - mag[:, 3], mag[:, 1], truth["redshift"][keep]]
    x = torch.stack([(c - c.mean()) / c.std() for c in colour], 1) * torch.tensor([2.0, 2.0, 1.5, 1.0, 1.0])
    y = torch.log10(truth["line_ew"][keep, HA])
    distance = torch.cdist(x, x) + 1e6 * torch.eye(len(x))
    residual = y - y[distance.topk(10, largest=False).indices].mean(1)
    width = (torch.quantile(residual, 0.84) - torch.quantile(residual, 0.16)) / 2
    assert width > 0.25


# --- company on the sky


def neighbours(pack, n=12, **changes):
    """A noiseless simulator whose galaxies all have a neighbour with ``changes``."""

    class Crowded(Simulator):
        def _draw(self, d):
            g = super()._draw(d)
            g["neighbour"] = torch.ones(n, dtype=torch.bool)
            return g | {k: torch.full_like(g[k], v) for k, v in changes.items()}

    return Crowded(pack, SimConfig(noise=False, jitter=0.0))


def test_equivalent_widths_with_a_neighbour(pack):
    """Line flux over the sidebands of the noiseless spectrum is the truth, whatever light is in the aperture."""
    n = 12
    simulator = neighbours(pack, n, neighbour_r=19.5, neighbour_east=1.0, neighbour_north=0.4)
    scene = simulator.scene(5, range(n))
    owner, amount = torch.arange(n), amounts(simulator, scene, torch.zeros(n, 2))
    truth = simulator.truth(scene, owner, amount)
    share = amount[:, 28] * scene["band"][:, 1, 28] / truth["band"][:, 1]
    assert share.median() > 0.05
    scene["made"]["line_out"] = torch.zeros_like(scene["made"]["line_out"])  # the continuum alone
    continuum = simulator.spectra(scene, owner, amount)["flux"]
    wave = simulator.wave / (1 + scene["g"]["redshift"][:, None])
    for name in ("Hb", "O1_6300", "Ha"):
        means = []
        for low, high in SIDEBANDS[name]:
            inside = (wave > low) & (wave < high)
            means.append((continuum * inside).sum(1) / inside.sum(1))
        (a, b), (c, e) = SIDEBANDS[name]
        part = (LINE_WAVELENGTH[name] - (a + b) / 2) / ((c + e - a - b) / 2)
        level = torch.lerp(*means, part) * (1 + scene["g"]["redshift"])
        i = LINES.index(name)
        seen = wave[:, -1] > e
        expected = (truth["line_flux"][:, i] / level)[seen]
        torch.testing.assert_close(truth["line_ew"][seen, i], expected, rtol=0.015, atol=0)


def test_stars_in_the_field_are_points(pack):
    """Their images are the PSF, centred to a hundredth of an arcsec, with all of the flux."""
    at = (0.09, -0.2)
    settings = {"neighbour_east": at[0], "neighbour_north": at[1], "neighbour_r": 12.0, "neighbour_is_star": True}
    simulator = neighbours(pack, 2, neighbour_z=0.0, **settings)
    scene = simulator.scene(1, range(2))
    light = scene["stack"][:, 28]
    assert (light > 0).sum((1, 2)).max() <= 4
    alone = {"stack": torch.zeros_like(scene["stack"]), "band": scene["band"]}
    alone["stack"][:, 28] = light
    image = simulator._images(alone, torch.full((2,), 1.2))[:, 1]
    torch.testing.assert_close(image.sum((1, 2)) * 0.262**2, torch.full((2,), 10**4.2), rtol=0.01, atol=0)
    axis = (torch.arange(128) - 63.5) * 0.262
    near = image * (torch.hypot(axis - at[0], axis[:, None] - at[1]) < 3)
    for k, dim in enumerate((1, 2)):
        centre = (near.sum(dim) * axis).sum(1) / near.sum((1, 2))
        torch.testing.assert_close(centre, torch.full((2,), at[k]), rtol=0, atol=0.01)
    # as sharp as a Moffat profile of 1.2 arcsec: the same peak
    alpha = 1.2 / (2 * math.sqrt(2 ** (1 / 3.5) - 1))
    r2 = (axis - at[0]) ** 2 + (axis[:, None] - at[1]) ** 2
    psf = 2.5 / (math.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.5 * 10**4.2
    assert (image.amax((1, 2)) / psf.max()).tolist() == pytest.approx([1, 1], abs=0.08)


def test_limited_stellar_widths_are_flagged(simulator):
    n = 24
    scene = simulator.scene(11, range(n))
    truth = simulator.truth(scene, torch.arange(n), amounts(simulator, scene, torch.zeros(n, 2)))
    assert torch.equal(truth["stellar_limited"], truth["sigma_star"] < 70)
    assert 0 < int(truth["stellar_limited"].sum()) < n


def test_star_formation_from_lines(pack):
    """H-alpha before dust gives the true star-formation rate to 0.15 dex in the median (Kennicutt & Evans 2012)."""
    g, made, maps = maps_of(Simulator(pack), 80, size=80, pixel=0.5)
    gas = maps["gas"].sum((2, 3, 4)) * 0.5**2
    ha = (gas * made["line"][..., HA])[:, :4].sum(1)
    keep = ~(g["quenched"] | g["green"] | g["post_starburst"] | g["merger"])
    offset = (torch.log10(ha) + 33.583)[keep] - 41.27 - g["log_sfr"][keep]
    assert abs(float(offset.median())) < 0.15


# --- packs


def test_old_pack(pack, tmp_path):
    """A pack that lacks a table says so, and how to get one that does not."""
    old = {key: value for key, value in pack.items() if key not in ("nebular", "shock_line")}
    np.savez(tmp_path / "old.npz", **old)
    with pytest.raises(ValueError, match=r"lacks nebular, shock_line; rebuild it with build_template_pack"):
        load_template_pack(tmp_path / "old.npz")
    np.savez(tmp_path / "new.npz", **pack)
    assert set(load_template_pack(tmp_path / "new.npz")) == set(pack)
