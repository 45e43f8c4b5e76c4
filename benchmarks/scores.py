"""First scores of a model: maps of EW(H-alpha) and H-alpha flux on held-out simulated galaxies, against baselines.

    python benchmarks/scores.py PACK.npz MODEL_FOLDER -o scores.json --galaxies 500 --fibers 16000

Baselines: continuum light x the median EW of the training fibres; gradient-boosted trees on the colours, surface
brightness and redshift at the position, trained on fibres of the very training set. Everything is in the training
aperture (1.5 arcsec) at the image's PSF. Spaxels are chosen on truth only: EW > 1 A and H-alpha flux above 0.9e-17
erg/s/cm2 in the aperture (about S/N 3 at MaNGA depth: 5e-18 erg/s/cm2/arcsec2, Belfiore et al. 2019, AJ 158, 160).
Intervals are 16-84 % of a bootstrap over galaxies.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from fiberifu import VirtualIFU
from fiberifu.datasets import simulated_image
from fiberifu.model import AMPLITUDES, LINES, desi_lsf
from fiberifu.simulate import Simulator, load_template_pack
from fiberifu.train import Recipe

HA = LINES.index("Ha")
HELD_OUT = 77_000_001  # seed of the held-out galaxies; training uses seed x 10^7 + step
SIDEBANDS = ((6483.0, 6513.0), (6623.0, 6653.0))  # of H-alpha, MaNGA DAP (Belfiore et al. 2019)


def sideband(model):
    """Weights (K,) of the continuum coefficients in the H-alpha pseudo-continuum."""
    wave = model.basis.rest_wave
    levels = [model.basis.continuum[:, (wave > low) & (wave < high)].mean(1) for low, high in SIDEBANDS]
    centres = [sum(band) / 2 for band in SIDEBANDS]
    part = (6564.632 - centres[0]) / (centres[1] - centres[0])
    return levels[0] * (1 - part) + levels[1] * part


def features(flux, error, redshift, psf):
    """What the trees see: asinh magnitudes, colours, S/N, redshift, PSF; NaN where a band is missing."""
    flux = np.where(np.isfinite(error), flux, np.nan)
    mag = np.arcsinh(flux / 0.05)
    colours = [mag[:, 0] - mag[:, 1], mag[:, 1] - mag[:, 3], mag[:, 1] - mag[:, 2]]
    return np.column_stack([mag, *colours, flux / error, redshift, psf])


@torch.inference_mode()
def fiber_sample(simulator, model, recipe, n, cache):
    """Photometry and measured EW(H-alpha) of the first ``n`` training fibres, from their noisy spectra."""
    rows = [*load_cache(cache, recipe.sha256())["rows"]] if cache.is_file() else []
    step = round(len(rows) and rows[-1][-1] + 1)
    k = model.config.n_continuum
    side, index = sideband(model).double(), AMPLITUDES.index("Ha")
    while len(rows) < n:
        b = simulator.batch(recipe.batch, recipe.seed * 10_000_000 + step)
        z = b["fiber_redshift"]
        flux, error = model.local.photometry(b["image"], b["sigma"], b["fiber_galaxy"], b["fiber_offset"])
        lsf = desi_lsf(model.basis.line_wave * (1 + z[:, None]))
        basis = model.basis.render(model.edges, z, torch.full_like(z, 90.0), lsf).double()
        normal = (basis * b["ivar"][..., None]).transpose(1, 2) @ basis
        shift = torch.einsum("fpk,fp->fk", basis, (b["ivar"] * b["flux"]).double())
        scale = normal.diagonal(dim1=1, dim2=2).clamp(min=1e-12).rsqrt()
        inverse = torch.linalg.inv(normal * scale[:, :, None] * scale[:, None] + 1e-6 * torch.eye(normal.shape[-1]))
        best = scale * (inverse @ (scale * shift)[..., None])[..., 0]
        spread = scale * inverse.diagonal(dim1=1, dim2=2).sqrt()
        continuum = best[:, :k] @ side
        seen = (6600 * (1 + z) < 9800) & (continuum > 0)
        ew, ew_error = best[:, k + index] / continuum, spread[:, k + index] / continuum
        x = features(flux.numpy(), error.numpy(), z.numpy(), b["psf_fwhm"][b["fiber_galaxy"]].numpy())
        for i in np.flatnonzero(seen.numpy()):
            rows.append(np.array([*x[i], float(ew[i]), float(ew_error[i]), step]))
        step += 1
        if step % 20 == 0:
            np.savez(cache, key=recipe.sha256(), rows=np.array(rows))
            print(f"{len(rows)} fibres", file=sys.stderr, flush=True)
    np.savez(cache, key=recipe.sha256(), rows=np.array(rows))
    return np.array(rows)[:n]


def load_cache(path, key):
    """What an interrupted run left, if it was of the same recipe or weights."""
    with np.load(path) as stored:
        if str(stored["key"]) != key:
            raise ValueError(f"{path} is of another recipe or of other weights: remove it, or write elsewhere")
        return {name: stored[name] for name in stored if name != "key"}


def train_trees(rows):
    """Boosted trees for asinh(EW / 1 A), weighted by the error of each measured EW."""
    ew, error = rows[:, -3], rows[:, -2]
    weight = 1 / (0.35**2 + error**2 / (1 + ew**2))  # d asinh(x) = dx / sqrt(1 + x^2); 0.35 of intrinsic scatter
    trees = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, max_leaf_nodes=24, min_samples_leaf=30,
                                          early_stopping=True, random_state=0)  # fmt: skip
    return trees.fit(rows[:, :-3], np.arcsinh(ew), sample_weight=weight), float(
        np.median(ew[error < 0.3 * abs(ew) + 1])
    )


def score_galaxies(simulator, ifu, trees, constant, n, cache, key):
    """One array per galaxy: truth, radius and predictions of its selected spaxels, all by the public interface."""
    galaxies = list(load_cache(cache, key).values()) if cache.is_file() else []
    index = 0 if not galaxies else int(galaxies.pop()[0])
    scale = simulator.config.pixel_scale
    while len(galaxies) < n:
        scene = simulator.scene(HELD_OUT, [index])["g"]
        index += 1
        z, re = float(scene["redshift"]), float(scene["re"])
        if not (0.01 < z < 0.15 and re > 2.0):  # galaxies that an IFU would resolve
            continue
        m = simulator.truth_maps(HELD_OUT, index - 1, spaxel=1.0, size=min(24.0, 3.2 * re + 3))
        ew, ha = m["line_ew"][..., HA].numpy().ravel(), m["line_flux"][..., HA].numpy().ravel()
        east, north, radius = (m[key].numpy().ravel() for key in ("east", "north", "radius"))
        chosen = (ew > 1) & (ha > 0.9) & (radius < 1.6) & (np.maximum(abs(east), abs(north)) < 15.5)
        if chosen.sum() < 10:
            continue
        image = simulated_image(m, scale, f"SIM {HELD_OUT}-{index - 1}")
        first = next(iter(image.values()))
        middle = (first.shape[0] - 1) / 2
        where = first.wcs.pixel_to_world(middle - east[chosen] / scale, middle + north[chosen] / scale)
        p = ifu.predict(image, where, redshift=z)
        maps = p.line_maps(["Ha"])
        got = [(getattr(maps, name)["Ha"].data, getattr(maps, name)["Ha"].uncertainty.array) for name in ("ew", "flux")]
        f = len(where)
        x = features(p.photometry["flux"], p.photometry["error"], np.full(f, z), np.full(f, p.image.psf_fwhm))
        tree_ew = np.sinh(trees.predict(x))
        # line flux of a baseline = its EW x the network's continuum at the line: methods differ in EW alone
        light = maps.continuum["Ha"].data * (1 + z)
        columns = [ew[chosen], ha[chosen], radius[chosen], *got[0], *got[1], tree_ew, tree_ew * light,
                   np.full(f, constant), constant * light]  # fmt: skip
        galaxies.append(np.column_stack(columns))
        if len(galaxies) % 25 == 0:
            np.savez(cache, *galaxies, np.array([index]), key=key)
            print(f"{len(galaxies)} galaxies", file=sys.stderr, flush=True)
    return galaxies


def table(galaxies, rng, n_boot=200):
    """Scores of each method, whole galaxies and beyond 0.7 Re, with bootstrap intervals."""
    columns = {"network": (3, 5), "trees": (7, 8), "light x constant EW": (9, 10)}
    out = {}
    # an aperture that touches masked pixels has no prediction: left out for every method
    galaxies = [g[np.isfinite(g).all(1) & (g[:, 6] > 0)] for g in galaxies]
    for region, low in (("whole", 0.0), ("off-centre (R > 0.7 Re)", 0.7)):
        cut = [g[g[:, 2] > low] for g in galaxies]
        cut = [g for g in cut if len(g) >= 5]
        draws = [rng.integers(len(cut), size=len(cut)) for _ in range(n_boot)]
        out[region] = {"galaxies": len(cut), "spaxels": sum(map(len, cut))}
        for name, (i, j) in columns.items():
            scores = measure(cut, i, j, network=name == "network")
            boots = [measure([cut[k] for k in draw], i, j, network=name == "network") for draw in draws]
            out[region][name] = {
                key: [value, *np.nanpercentile([b[key] for b in boots], [16, 84])] for key, value in scores.items()
            }
    return out


def measure(galaxies, i, j, network):
    """Scores of one method on a list of galaxies."""
    rows = np.concatenate(galaxies)
    log_ew, log_flux = np.log10(rows[:, 0]), np.log10(rows[:, 1])
    got_ew, got_flux = (np.log10(np.clip(rows[:, c], 0.05, None)) for c in (i, j))
    owner = np.repeat(np.arange(len(galaxies)), [len(g) for g in galaxies])

    def r2(true, got):
        return 1 - np.sum((true - got) ** 2) / np.sum((true - true.mean()) ** 2)

    def centred(x):
        return x - (np.bincount(owner, x) / np.bincount(owner))[owner]

    def spearman(g):
        a, b = (np.argsort(np.argsort(x)) for x in (g[:, 0], g[:, i]))
        return np.corrcoef(a, b)[0, 1] if np.ptp(g[:, i]) > 0 else 0.0

    scores = {
        "R2 log EW": r2(log_ew, got_ew),
        "R2 log EW within galaxies": 1 - np.sum(centred(log_ew - got_ew) ** 2) / np.sum(centred(log_ew) ** 2),
        "R2 log flux": r2(log_flux, got_flux),
        "MAE log EW [dex]": np.mean(np.abs(got_ew - log_ew)),
        "MAE log flux [dex]": np.mean(np.abs(got_flux - log_flux)),
        "bias log flux [dex]": np.mean(got_flux - log_flux),
        "bias of summed flux [dex]": np.median([np.log10(g[:, j].sum() / g[:, 1].sum()) for g in galaxies]),
        "Spearman EW per galaxy, median": np.median([spearman(g) for g in galaxies]),
    }
    if network:
        for name, true, value, sigma in (("EW", 0, 3, 4), ("flux", 1, 5, 6)):
            pull = np.abs(rows[:, true] - rows[:, value]) / rows[:, sigma]
            scores[f"68 % interval of {name} covers"] = np.mean(pull < 0.9945)
            scores[f"95 % interval of {name} covers"] = np.mean(pull < 1.96)
    return scores


def markdown(scores):
    """The scores as tables for the model card."""
    lines = []
    for region, entry in scores.items():
        methods = [m for m in entry if isinstance(entry[m], dict)]
        lines += [f"**{region}**: {entry['galaxies']} galaxies, {entry['spaxels']} spaxels", "",
                  "| score | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]  # fmt: skip
        for key in entry["network"]:
            cells = []
            for m in methods:
                value = entry[m].get(key)
                cells.append("" if value is None else f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})")
            lines.append(f"| {key} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--galaxies", type=int, default=500)
    parser.add_argument("--fibers", type=int, default=16000)
    parser.add_argument("--recipe", type=Path, help="of the training set; by default the packaged nano.toml")
    parser.add_argument("--only-fibers", action="store_true", help="make the cache of training fibres and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1 if arguments.only_fibers else 2)
    start = time.monotonic()
    packaged = Path(sys.modules[Recipe.__module__].__file__).parent / "recipes" / "nano.toml"
    recipe = Recipe.read(arguments.recipe or packaged)
    from fiberifu.simulate import SimConfig

    pack = load_template_pack(arguments.pack)
    simulator = Simulator(pack, config=SimConfig(**recipe.simulator))
    ifu = VirtualIFU.from_pretrained(arguments.model)
    model = ifu._model
    folder = arguments.output.parent
    rows = fiber_sample(simulator, model, recipe, arguments.fibers, folder / "fibers.npz")
    if arguments.only_fibers:
        return
    trees, constant = train_trees(rows)
    galaxies = score_galaxies(simulator, ifu, trees, constant, arguments.galaxies,
                              arguments.output.with_suffix(".npz"), f"{ifu.weights_sha256} {len(rows)}")  # fmt: skip
    scores = table(galaxies, np.random.default_rng(0))
    arguments.output.write_text(json.dumps(scores, indent=1))
    print(markdown(scores))
    print(f"trees: {len(rows)} training fibres; constant EW {constant:.1f} A; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
