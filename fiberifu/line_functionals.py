# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Lines as linear functions of coefficients: ``nodes of a prediction -> fluxes, continua, widths, ratios``.

Shapes: N positions, L lines, K coefficients, Q levels, M sums of lines.
"""

import astropy.units as u
import numpy as np

from .extinction import mw_transmission
from .mixture import mixture_quantiles, ratio_quantiles

__all__ = ["functionals", "line_moments", "line_quantiles", "resolve_levels", "select_lines"]


def select_lines(lines):
    """Rows of the line table, of the lines the network knows."""
    from .lines import line_table
    from .model import LINES

    if lines == "strong":
        return line_table("strong")
    if not len(lines):
        raise ValueError(f"lines={lines!r}: name at least one line, or 'strong' or 'all'")
    table = line_table([lines] if isinstance(lines, str) and lines != "all" else lines)
    known = np.array([str(key) in LINES for key in table["key"]])
    if lines != "all" and not known.all():
        raise ValueError(f"lines={list(table['key'][~known])}: the model predicts {', '.join(LINES)}")
    return table[known]


def resolve_levels(levels):
    given = np.atleast_1d(np.asarray(levels, float))
    if given.ndim != 1 or not given.size or not ((given > 0) & (given < 1)).all():
        raise ValueError(f"levels={levels!r}: give probabilities between 0 and 1, such as (0.16, 0.5, 0.84)")
    return given


def functionals(renderer, node, table, ebv):
    """Weights (L, K) that turn coefficients into line fluxes, and into sideband continua at the lines.

    Observed behind dust of ``ebv``; at the redshift of the ``node``.
    """
    from .model import LINES

    basis, k = renderer.basis, renderer.basis.config.n_continuum
    wave, shapes, tie = basis.rest_wave.numpy(), basis.continuum.numpy(), basis.tie.numpy()
    z1 = 1 + node.redshift
    lines, sides = np.zeros((2, len(table), basis.n_coefficients))
    for i, row in enumerate(table):
        index = LINES.index(str(row["key"]))
        rest = float(basis.line_wave[index])
        through = float(mw_transmission(rest * z1, ebv)) if ebv else 1.0
        lines[i, k:] = tie[index] * z1 * through
        bands = [row[side].to_value(u.AA) for side in ("blue", "red")]
        levels = [shapes[:, (wave > low) & (wave < high)].mean(1) for low, high in bands]
        centres = [band.mean() for band in bands]
        part = (rest - centres[0]) / (centres[1] - centres[0])
        sides[i, :k] = (levels[0] * (1 - part) + levels[1] * part) * through
    return lines, sides


def line_moments(nodes, renderer, table, ebv):
    """Moments of fluxes, sideband continua and equivalent widths over the redshift nodes, each (L, N)."""
    flux_mean, flux_second, cont_mean, cont_second, ew_mean, ew_second = 0, 0, 0, 0, 0, 0
    for node in nodes:
        lines, sides = functionals(renderer, node, table, ebv)
        n = len(lines)
        g = node.gaussian
        both = np.concatenate([lines, sides])
        mean = (g.mean.numpy() @ both.T).T  # (2L, N)
        root = np.einsum("mk,nkr->nmr", both, g.factors.numpy())
        cov = root @ root.transpose(0, 2, 1) + np.einsum(
            "mk,nk,lk->nml", both, g.diag.numpy() ** 2, both, optimize=True
        )
        z1 = 1 + node.redshift
        f, c = mean[:n], mean[n:]
        safe = np.where(np.abs(c) > 0, c, np.nan)
        ew = f / safe / z1
        # first-order propagation of the ratio, with the covariance of line and continuum
        i = np.arange(n)
        vf, vc, vfc = cov[:, i, i].T, cov[:, n + i, n + i].T, cov[:, i, n + i].T
        ew_var = (vf - 2 * ew * z1 * vfc + (ew * z1) ** 2 * vc) / (safe * z1) ** 2
        w = node.weight
        flux_mean, cont_mean, ew_mean = flux_mean + w * f, cont_mean + w * c, ew_mean + w * ew
        flux_second = flux_second + w * (cov[:, :n, :n] + np.einsum("ln,mn->nlm", f, f))
        cont_second = cont_second + w * (vc + c**2)
        ew_second = ew_second + w * (ew_var + ew**2)
    flux_cov = flux_second - np.einsum("ln,mn->nlm", flux_mean, flux_mean)
    sd = lambda second, mean: np.sqrt(np.clip(second - mean**2, 0, None))  # noqa: E731
    return (
        flux_mean,
        (cont_mean, sd(cont_second, cont_mean)),
        {"flux": flux_cov, "ew": (ew_mean, sd(ew_second, ew_mean))},
    )


def line_quantiles(nodes, renderer, ebv, levels, sums, over=None):
    """Quantiles (Q, M, N) of M sums of lines, as they are or over a sum of lines or their ``continuum``."""
    given = resolve_levels(levels)
    table = select_lines(list(dict.fromkeys([*sum(sums, []), *(over if isinstance(over, list) else [])])))
    keys = [str(key) for key in table["key"]]
    pick = np.array([[key in parts for key in keys] for parts in sums], float)  # (M, L)
    weights, means, roots = [], [], []
    for node in nodes:
        lines, sides = functionals(renderer, node, table, ebv)
        rows = [pick @ lines]
        if over == "continuum":  # a doublet's width is that of its sum over the mean of its continua
            rows.append((1 + node.redshift) * (pick / pick.sum(1, keepdims=True)) @ sides)
        elif over is not None:
            rows.append(np.broadcast_to(lines[[key in over for key in keys]].sum(0), rows[0].shape))
        rows = np.concatenate(rows)
        mixture = node.mixture
        weights.append(node.weight * mixture.weight.numpy())
        means.append(np.einsum("mk,njk->mnj", rows, mixture.mean.numpy()))
        roots.append(np.einsum("mk,njkr->mnjr", rows, mixture.root.numpy()))
    weight, mean, root = (np.concatenate(x, i) for x, i in ((weights, -1), (means, -1), (roots, 2)))
    m = len(sums)
    variance = (root**2).sum(-1)
    if over is None:
        found = mixture_quantiles(given, weight, mean, np.sqrt(variance))
    else:
        both = (root[:m] * root[m:]).sum(-1)
        found = ratio_quantiles(given, weight, (mean[:m], mean[m:]), (variance[:m], variance[m:], both))
    return found
