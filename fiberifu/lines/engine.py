# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The line engine: variable projection and Levenberg-Marquardt for all spaxels at once, on plain arrays.

A spectrum is a polynomial per window plus Gaussian lines.  Only velocities and widths are nonlinear; given them, fluxes
and polynomials follow by weighted linear least squares (variable projection, Golub & Pereyra 1973, SIAM J. Numer. Anal.
10, 413; the Jacobian is Kaufman's, 1975, BIT 15, 49).  All that a step needs are sums over the few pixels around each
line, so a step costs microseconds per spaxel:

``problem + data -> seed -> steps -> fluxes, velocities, widths and their joint covariance``

Shapes: N spaxels, P pixels, L lines, F free fluxes, G kinematic groups, K polynomial terms, X pixels around some lines.
"""

from dataclasses import dataclass, field

import numpy as np

from fiberifu.constants import C_KMS
from fiberifu.lines.backend import NUMPY

__all__ = ["LineFit", "LineProblem", "fit_lines", "line_spectra", "polynomial_spectra"]

GRID = 600.0  # km/s, reach of the velocity grid
STEP = 100.0  # km/s, of the grid
CLEAR = 25.0  # drop of chi2 that lets a group choose a velocity of its own
APART = 1000.0  # km/s
NEAR = 75.0  # km/s, that the best of it may be off
SEED_SIGMA = 90.0  # km/s
USUAL = 160.0  # km/s; pixels are gathered for lines up to this width, wider ones are done again
REACH = 4.5  # sigma around a line that enter the sums
EDGE = 0.999999
SLOW = 0.5  # of chi2, that the last steps may still leave
ROOT_2PI = float(np.sqrt(2 * np.pi))


@dataclass(frozen=True, eq=False)
class LineProblem:
    """What is the same for all spaxels.

    Parameters
    ----------
    wave, pixel_width : ndarray (P,)
        Pixel centres, Angstrom, rising (gaps do no harm), and widths.
    centres : ndarray (L,)
        Observed wavelengths of the lines at velocity 0, in rising order.
    lsf : ndarray (L,)
        Instrumental sigma at the lines, Angstrom; 0 where the observed width is wanted. Where spaxels differ, a typical
        one: the bounds and the first guess are common.
    tie : ndarray (L, F)
        Fluxes of lines per free flux; one entry per row.
    group : ndarray (L,) of int
        Kinematic group of each line, 0 ... G - 1.
    windows : sequence of (int, int)
        Disjoint, rising ranges of pixels that are fitted; every line lies in one of them.
    degree : int
        Of the polynomial in each window; -1 for none.
    max_velocity, max_sigma : float
        Bounds, km/s.
    middle : float
        Of the velocities that are searched, km/s.
    """

    wave: np.ndarray
    pixel_width: np.ndarray
    centres: np.ndarray
    lsf: np.ndarray
    tie: np.ndarray
    group: np.ndarray
    windows: tuple
    degree: int = 2
    max_velocity: float = 1000.0
    max_sigma: float = 800.0
    middle: float = 0.0
    window_of: np.ndarray = field(init=False)
    basis: np.ndarray = field(init=False)

    def __post_init__(self):
        at = np.searchsorted(self.wave, self.centres)
        owner = np.array([next((i for i, (a, b) in enumerate(self.windows) if a <= p < b), -1) for p in at])
        if (owner < 0).any():
            raise ValueError(f"windows: the line at {self.centres[owner < 0][0]:.1f} Angstrom lies in none of them")
        basis = np.zeros((len(self.wave), self.degree + 1))
        for low, high in self.windows:
            x = np.linspace(-1, 1, high - low)
            basis[low:high] = np.polynomial.legendre.legvander(x, self.degree) if self.degree >= 0 else 0
        object.__setattr__(self, "window_of", owner)
        object.__setattr__(self, "basis", basis)

    @property
    def n_groups(self):
        """G."""
        return int(self.group.max()) + 1

    def blur2(self, lsf=None):
        """Variance that is not the gas's: instrument, and a twelfth of the squared pixel for its integration."""
        width = np.interp(self.centres, self.wave, self.pixel_width)
        return (self.lsf if lsf is None else lsf) ** 2 + width**2 / 12


@dataclass(eq=False)
class LineFit:
    """What came out, for N spaxels.

    Attributes
    ----------
    flux : ndarray (N, F)
        Free fluxes, in units of the data x Angstrom.
    velocity, variance : ndarray (N, G)
        km/s, and the squared dispersion of the gas [km2/s2]: negative where lines are narrower than the instrument.
    covariance : ndarray (N, F + 2 G, F + 2 G)
        Of fluxes, velocities and variances together.
    chi2, gain : ndarray (N,)
        And by how much it is lower than without any line.
    n_pixels : ndarray (N,) of int
        Pixels of weight above 0 in the windows.
    converged, bounded : ndarray (N,), (N, G) of bool
        Bounded: velocity or width ended at its bound.
    """

    flux: np.ndarray
    velocity: np.ndarray
    variance: np.ndarray
    covariance: np.ndarray
    chi2: np.ndarray
    gain: np.ndarray
    n_pixels: np.ndarray
    converged: np.ndarray
    bounded: np.ndarray


class _Placed:
    """The problem's arrays where the work is done; what only steers stays with ``host``, the `LineProblem`."""

    def __init__(self, problem, xp):
        self.host, self.xp = problem, xp
        self.wave, self.basis, self.centres, self.tie, self.group = (
            xp.asarray(x) for x in (problem.wave, problem.basis, problem.centres, problem.tie, problem.group)
        )
        self.member = xp.asarray((problem.group[:, None] == np.arange(problem.n_groups)).astype(float))


def fit_lines(problem, data, weight, *, lsf=None, start=None, fixed=False, max_steps=40, tolerance=1e-3, xp=NUMPY):
    """Fit all spaxels.

    Parameters
    ----------
    problem : LineProblem
    data, weight : ndarray (N, P)
        Flux densities and inverse variances; pixels of weight 0 are never read.
    lsf : ndarray (N, L), optional
        Instrumental sigma of each spaxel, Angstrom; by default that of the problem.
    start : (ndarray (N, G), ndarray (N, G)), optional
        Velocities and variances to begin with; by default the best of a grid of velocities.
    fixed : bool
        Leave them there, and find the fluxes alone.
    max_steps : int
    tolerance : float
        Stop when a step would lower chi2 by less.
    xp : backend
        Where to compute, see `fiberifu.lines.backend.get_backend`.

    Returns
    -------
    LineFit
        Of NumPy arrays.
    """
    placed = _Placed(problem, xp)
    data, weight = xp.asarray(np.where(weight > 0, data, 0.0)), xp.asarray(np.ascontiguousarray(weight))
    poly = _Polynomials(placed, data, weight)
    apart = None
    if start is None:
        (velocity, variance), apart = _seed(placed, poly, data, weight)
    else:
        velocity, variance = map(xp.asarray, start)
    blur2 = xp.asarray(np.broadcast_to(problem.blur2(lsf), (len(data), len(problem.centres))))
    lowest = xp.asarray(_lowest_variance(problem, lsf, len(data)))
    sums = _LocalSums(placed, poly, blur2, lowest, data, weight, velocity, reach_sigma=USUAL)
    if fixed:
        return _numpy(xp, _at(placed, sums, velocity, variance))
    fit = _iterate(placed, sums, velocity, variance, max_steps, tolerance)
    if apart is not None:  # groups that choose other velocities are tried there, too
        again = xp.flatnonzero(xp.amax(abs(apart - velocity), 1) > 1.5 * STEP)
        if len(again):
            other = _LocalSums(placed, poly.rows(again), blur2[again], lowest[again], data[again], weight[again],
                               apart[again], reach_sigma=USUAL)  # fmt: skip
            second = _iterate(placed, other, apart[again], variance[again], max_steps, tolerance)
            better = second.converged & (second.chi2 < fit.chi2[again])
            _replace(fit, again[better], second, better)
            velocity[again[better]] = apart[again[better]]
    wide = xp.amax(fit.variance, 1) > USUAL**2
    moved = xp.amax(abs(fit.velocity - velocity), 1) > 1.5 * NEAR
    again = xp.flatnonzero(wide | moved)
    if len(again):  # few: their pixels are chosen anew, around where they went
        wider = _LocalSums(placed, poly.rows(again), blur2[again], lowest[again], data[again], weight[again],
                           fit.velocity[again], reach_sigma=problem.max_sigma)  # fmt: skip
        second = _iterate(placed, wider, fit.velocity[again], fit.variance[again], max_steps, tolerance)
        _replace(fit, again, second, slice(None))
    return _numpy(xp, fit)


def _replace(fit, rows, other, chosen):
    """Take over ``chosen`` of another fit as ``rows`` of this."""
    for name in ("flux", "velocity", "variance", "covariance", "chi2", "gain", "converged", "bounded"):
        getattr(fit, name)[rows] = getattr(other, name)[chosen]


def _numpy(xp, fit):
    return LineFit(**{name: xp.to_numpy(value) for name, value in vars(fit).items()})


def _at(placed, sums, velocity, variance):
    """Fluxes where velocities and widths are known: errors are of the fluxes alone."""
    state = _evaluate(placed, sums, velocity, variance)
    n_free = state.flux.shape[1]
    state.hessian[:, :n_free, n_free:] = 0
    state.hessian[:, n_free:, :n_free] = 0
    return _finish(placed, sums, state, velocity, variance, placed.xp.zeros(len(velocity), dtype=bool) | True)


class _Polynomials:
    """The polynomials, solved for once: lines are compared with what is left of the data."""

    def __init__(self, placed, data, weight):
        xp, problem = placed.xp, placed.host
        k = problem.degree + 1
        self.white, self.half, self.left = [], [], 0.0
        self.n_pixels = xp.zeros(len(data), dtype=int)
        for low, high in problem.windows:
            basis, w, y = placed.basis[low:high], weight[:, low:high], data[:, low:high]
            gram = (w @ (basis[:, :, None] * basis[:, None]).reshape(high - low, k * k)).reshape(len(w), k, k)
            if k:
                scale = xp.diagonal(gram, 0, 1, 2).mean(1)
                gram = gram + xp.where(scale > 0, 1e-12 * scale, 1.0)[:, None, None] * xp.eye(k)
                white = xp.linalg.inv(xp.linalg.cholesky(gram))  # white @ gram @ white.T = 1
            else:
                white = gram
            half = (white @ ((w * y) @ basis)[..., None])[..., 0]
            self.white.append(white)
            self.half.append(half)
            self.left = self.left + (w * y * y).sum(1) - (half**2).sum(1)  # chi2 without any line
            self.n_pixels = self.n_pixels + (w > 0).sum(1)
        # from sums with polynomials and data (K + 1 numbers for each window) to overlap with what is left of the data
        self.is_polynomial = xp.asarray(np.tile(np.append(np.ones(k), 0.0), len(problem.windows)))
        ones = xp.full((len(data), len(problem.windows), 1), 1.0)
        self.tail = xp.concatenate([-xp.stack(self.half, 1), ones], 2)

    def best(self, window):
        """Coefficients (N, K) of the polynomials that fit best without any line."""
        return (self.half[window][:, None] @ self.white[window])[:, 0]

    def rows(self, index):
        """The same for some spaxels."""
        part = object.__new__(_Polynomials)
        part.white, part.half = ([x[index] for x in part_] for part_ in (self.white, self.half))
        part.left, part.n_pixels, part.tail = self.left[index], self.n_pixels[index], self.tail[index]
        part.is_polynomial = self.is_polynomial
        return part


def _seed(placed, poly, data, weight):
    """Best velocity of a grid, by the drop of chi2 line by line: templates common to all spaxels, so plain products.

    Gives velocities and variances (N, G), one velocity for all groups; and the velocities (N, G) that each group by
    itself would choose, None where there is one group.

    The polynomials are taken off the data; that they could also take up a little of a template, about as much at every
    velocity, is left out.
    """
    xp, problem = placed.xp, placed.host
    grid = problem.middle + np.arange(-GRID, GRID + 1, STEP)
    grid = grid[abs(grid) < problem.max_velocity]
    blur2 = problem.blur2()
    n_free = problem.tie.shape[1]
    power, overlap = (xp.zeros((len(data), len(grid), n_free)) for _ in range(2))
    for i, (low, high) in enumerate(problem.windows):
        wave, w = problem.wave[low:high], weight[:, low:high]
        left = -poly.best(i) @ placed.basis[low:high].T
        left += data[:, low:high]
        left *= w
        lines = np.flatnonzero(problem.window_of == i)
        centre = problem.centres[lines] * (1 + grid[:, None] / C_KMS)  # (V, lines)
        sigma = np.sqrt((centre * SEED_SIGMA / C_KMS) ** 2 + blur2[lines])[..., None]
        shape = np.exp(-0.5 * ((wave - centre[..., None]) / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)
        # lines of one free flux are one template
        free = np.flatnonzero(problem.tie[lines].any(0))
        shape = np.einsum("vlp,lf->vfp", shape, problem.tie[lines][:, free])
        v, f, p = shape.shape
        flat = xp.asarray(np.ascontiguousarray(shape.reshape(-1, p).T))
        power[..., free] += (w @ flat**2).reshape(-1, v, f)
        overlap[..., free] += (left @ flat).reshape(-1, v, f)
    good = power > 0
    gain = xp.where(good, overlap.clip(0) ** 2 / xp.where(good, power, 1.0), 0.0)
    velocity, _ = _top(xp, grid, gain.sum(-1))
    n_groups = problem.n_groups
    together = xp.tile(velocity[:, None], (1, n_groups)), xp.full((len(data), n_groups), SEED_SIGMA**2)
    if n_groups == 1:
        return together, None
    member = problem.tie.T @ (problem.group[:, None] == np.arange(n_groups)) > 0  # (F, G)
    tops = [_top(xp, grid, gain[..., np.flatnonzero(member[:, g])].sum(-1)) for g in range(n_groups)]
    places = xp.stack([xp.where(height > CLEAR, place, velocity) for place, height in tops], 1)
    return together, places


def _top(xp, grid, gain):
    """Velocity (N,) where the gain (N, V) is highest, by the parabola through the highest three, and how high."""
    peak = gain.argmax(1)
    rows, best = xp.arange(len(gain)), peak.clip(1, len(grid) - 2)
    before, here, after = (gain[rows, best + step] for step in (-1, 0, 1))
    bend = 2 * here - before - after
    top = xp.where(bend > 0, 0.5 * (after - before) / xp.where(bend > 0, bend, 1.0), 0.0).clip(-1, 1)
    top = xp.where(peak == best, top, 0.0)  # at the ends of the grid the end itself
    return xp.asarray(grid)[peak] + STEP * top, gain[rows, peak]


class _LocalSums:
    """Gathered pixels around the lines, and the sums over them that a step needs."""

    def __init__(self, placed, poly, blur2, lowest, data, weight, velocity, reach_sigma):
        self.placed, self.poly, self.blur2, self.lowest = placed, poly, blur2, lowest
        xp, problem = placed.xp, placed.host
        centre = problem.centres
        sigma = np.sqrt((centre * reach_sigma / C_KMS) ** 2 + xp.to_numpy(xp.amax(blur2, 0)))
        half = REACH * sigma + centre * NEAR / C_KMS
        # groups may move apart: as far as any is likely to, so that the company does not decide what is summed together
        spread = float((xp.amax(velocity, 1) - xp.amin(velocity, 1)).max())
        spread = max(spread, APART) if problem.n_groups > 1 else 0.0
        self.blocks = []
        for i, (low, high) in enumerate(problem.windows):
            lines = np.flatnonzero(problem.window_of == i)
            # lines whose pixels overlap, in any spaxel, are summed together
            shift = centre[lines] * spread / C_KMS
            begin, end = centre[lines] - half[lines] - shift, centre[lines] + half[lines] + shift
            for part in np.split(lines, 1 + np.flatnonzero(begin[1:] > end[:-1])):
                self._gather(i, part, low, high, velocity, xp.asarray(half[part]), data, weight)

    def _gather(self, window, lines, low, high, velocity, half, data, weight):
        placed, xp = self.placed, self.placed.xp
        at = placed.centres[lines] * (1 + velocity[:, placed.group[lines]] / C_KMS)  # (N, lines)
        first = xp.searchsorted(placed.wave, xp.amin(at - half, 1)).clip(low, high - 1)
        last = xp.searchsorted(placed.wave, xp.amax(at + half, 1)).clip(low + 1, high)
        size = min(int((last - first).max()), high - low)
        index = first.clip(low, high - size)[:, None] + xp.arange(size)
        own = (index >= first[:, None]) & (index < last[:, None])  # the rest is there for the company
        rows = xp.arange(len(data))[:, None]
        basis = placed.basis[index] @ xp.swapaxes(self.poly.white[window], 1, 2)  # whitened polynomials
        right = xp.concatenate([basis, data[rows, index][..., None]], 2)
        self.blocks.append((_Block(placed, window, lines), placed.wave[index], weight[rows, index] * own, right))

    def rows(self, index):
        """The same for some spaxels."""
        part = object.__new__(_LocalSums)
        part.placed, part.poly = self.placed, self.poly.rows(index)
        part.blur2, part.lowest = self.blur2[index], self.lowest[index]
        part.blocks = [(block, *(x[index] for x in arrays)) for block, *arrays in self.blocks]
        return part


class _Block:
    """Lines whose pixels overlap: their window, and the range of free fluxes (f of them) that they have."""

    def __init__(self, placed, window, lines):
        tie = placed.host.tie[lines]
        free = np.flatnonzero(tie.any(0))
        self.window, self.lines = window, slice(int(lines[0]), int(lines[-1]) + 1)
        self.free = slice(int(free[0]), int(free[-1]) + 1)
        alone = np.array_equal(tie[:, self.free], np.eye(len(lines)))
        self.tie = None if alone else placed.xp.asarray(np.ascontiguousarray(tie[:, self.free].T))
        self.member = placed.member.T[:, self.lines]  # (G, m)


@dataclass(eq=False)
class _State:
    """One evaluation: chi2 (N,), fluxes (N, F), Hessian (N, F + 2G, F + 2G), its Schur complement and slope (2G)."""

    chi2: np.ndarray
    flux: np.ndarray
    hessian: np.ndarray
    schur: np.ndarray
    slope: np.ndarray
    seen: np.ndarray  # (N, F), whether a line has any pixel

    def update(self, good, rows, other):
        """Take over the rows ``rows[good]`` from the evaluation ``other`` of ``rows``."""
        for name in ("chi2", "flux", "hessian", "schur", "slope", "seen"):
            getattr(self, name)[rows[good]] = getattr(other, name)[good]


def _evaluate(placed, sums, velocity, variance):
    """Best fluxes at these velocities and variances, and how chi2 changes with all of them.

    First the profiles, of which the fluxes follow; then, with the fluxes, what moving and widening all lines of a group
    does to the spectrum: one column for each, so that the sums over pixels are few.
    """
    xp, n, size = placed.xp, len(velocity), placed.tie.shape[1] + 2 * placed.member.shape[1]
    n_free = placed.tie.shape[1]
    centre = placed.centres * (1 + velocity[:, placed.group] / C_KMS)
    sigma = xp.sqrt((centre / C_KMS) ** 2 * variance[:, placed.group] + sums.blur2)
    scale = 1 / sigma
    hessian = xp.zeros((n, size, size))
    # sums of every column with the polynomials of each window and with the data in it
    sides = xp.zeros((n, size, *sums.poly.tail.shape[1:]))
    kept = []
    for block, wave, w, right in sums.blocks:
        x = (wave[:, None] - centre[:, block.lines, None]) * scale[:, block.lines, None]
        q = x * x
        t = xp.exp(-0.5 * q) * (scale[:, block.lines, None] / ROOT_2PI)  # (N, m, X)
        profile = t if block.tie is None else block.tie @ t  # (N, f, X)
        weighted = profile * w[:, None]
        hessian[:, block.free, block.free] += weighted @ xp.swapaxes(profile, 1, 2)
        sides[:, block.free, block.window] += weighted @ right
        kept.append((profile, t * x, t * (q - 1)))
    power = xp.diagonal(hessian, 0, 1, 2)[:, :n_free] + 0.0
    side = sides[:, :n_free].reshape(n, n_free, -1)
    hessian[:, :n_free, :n_free] -= side @ xp.swapaxes(side * sums.poly.is_polynomial, 1, 2)  # projected out
    tail = sums.poly.tail.reshape(n, -1, 1)
    overlap = (side @ tail)[..., 0]
    normal = hessian[:, :n_free, :n_free]
    # a line without any pixel keeps its zeros; the rest is not disturbed
    diagonal = xp.diagonal(normal, 0, 1, 2)
    seen = diagonal > xp.maximum(1e-10 * power, 1e-20 * xp.amax(power, 1).clip(1e-280)[:, None])
    normal = normal + xp.where(seen, 1e-10 * diagonal, 1.0)[:, None] * xp.eye(n_free)
    target = overlap * seen
    inverse = xp.linalg.inv(normal)
    flux = (inverse @ target[..., None])[..., 0]
    amplitude = flux @ placed.tie.T
    by_velocity = amplitude * placed.centres / C_KMS * scale
    by_variance = amplitude * (centre * scale / C_KMS) ** 2 / 2
    for (block, _, w, right), (profile, tx, tq) in zip(sums.blocks, kept, strict=True):
        moved = (by_velocity[:, None, block.lines] * block.member) @ tx  # (N, G, X)
        widened = (by_variance[:, None, block.lines] * block.member) @ tq
        columns = xp.concatenate([moved, widened], 1)
        weighted = columns * w[:, None]
        hessian[:, n_free:, block.free] += weighted @ xp.swapaxes(profile, 1, 2)
        hessian[:, n_free:, n_free:] += weighted @ xp.swapaxes(columns, 1, 2)
        sides[:, n_free:, block.window] += weighted @ right
    sides = sides.reshape(n, size, -1)
    side = sides[:, n_free:]
    hessian[:, n_free:] -= (side * sums.poly.is_polynomial) @ xp.swapaxes(sides, 1, 2)
    slope = (side @ tail)[..., 0]
    hessian[:, n_free:, :n_free] *= seen[:, None]
    hessian[:, :n_free, :n_free] = normal
    corner = xp.swapaxes(hessian[:, n_free:, :n_free], 1, 2)
    hessian[:, :n_free, n_free:] = corner
    schur = hessian[:, n_free:, n_free:] - xp.swapaxes(corner, 1, 2) @ inverse @ corner
    slope = slope - (xp.swapaxes(corner, 1, 2) @ flux[..., None])[..., 0]
    return _State(sums.poly.left - (target * flux).sum(1), flux, hessian, schur, slope, seen)


def _iterate(placed, sums, velocity, variance, max_steps, tolerance):
    """Levenberg-Marquardt on velocities and variances; converged spaxels are left out as they finish."""
    xp, problem = placed.xp, placed.host
    n, n_groups = velocity.shape
    velocity, variance = velocity + 0.0, variance + 0.0  # copies
    state = _evaluate(placed, sums, velocity, variance)
    damping, converged = xp.full(n, 1e-3), xp.zeros(n, dtype=bool)
    rows, active = xp.arange(n), sums
    left = xp.full(n, np.inf)  # drop of chi2 that is still expected
    for _ in range(max_steps):
        schur, slope = _unpinned(placed, active, state.schur[rows], state.slope[rows], velocity[rows], variance[rows])
        diagonal = xp.diagonal(schur, 0, 1, 2)
        floor = 1e-12 * xp.amax(diagonal, 1).clip(1e-30)[:, None]
        damped = schur + (damping[rows][:, None] * diagonal + floor)[:, None] * xp.eye(2 * n_groups)
        step = xp.linalg.solve(damped, slope[..., None])[..., 0]
        # the expected drop of chi2 tells when all is done
        drop = (step * slope).sum(1)
        done = ~(drop > tolerance)
        fresh = done & ~converged[rows] & xp.isfinite(drop)
        _last_step(placed, sums, state, rows[fresh], step[fresh], drop[fresh], velocity, variance)
        converged[rows[fresh]] = True
        left[rows] = drop
        keep = xp.flatnonzero(~done)
        if not len(keep):
            break
        if len(keep) < 0.8 * len(rows):
            rows, step, active = rows[keep], step[keep], active.rows(keep)
        try_velocity = (velocity[rows] + step[:, :n_groups].clip(-150, 150)).clip(
            -problem.max_velocity, problem.max_velocity
        )
        grow = abs(variance[rows]).clip(40.0**2)
        stride = xp.minimum(xp.maximum(step[:, n_groups:], -0.7 * grow), 2 * grow)
        try_variance = xp.maximum(variance[rows] + stride, active.lowest).clip(None, problem.max_sigma**2)
        trial = _evaluate(placed, active, try_velocity, try_variance)
        better = trial.chi2 < state.chi2[rows] + 1e-9 * abs(state.chi2[rows])
        better = better & ~converged[rows]
        velocity[rows[better]], variance[rows[better]] = try_velocity[better], try_variance[better]
        state.update(better, rows, trial)
        damping[rows] = xp.where(better, damping[rows] * 0.2, damping[rows] * 8).clip(1e-9, 1e9)
        # damped to nothing: no step is left to take
        converged[rows[damping[rows] >= 1e8]] = True
    converged = converged | (left < SLOW)
    return _finish(placed, sums, state, velocity, variance, converged)


def _unpinned(placed, sums, schur, slope, velocity, variance):
    """Curvature and slope without the parameters that lie at a bound and would go beyond it: these stay."""
    xp, problem = placed.xp, placed.host
    place = xp.concatenate([velocity, variance], 1)
    top = xp.concatenate([0 * velocity + problem.max_velocity, 0 * variance + problem.max_sigma**2], 1)
    bottom = xp.concatenate([0 * velocity - problem.max_velocity, sums.lowest], 1)
    pinned = ((place >= top) & (slope > 0)) | ((place <= bottom) & (slope < 0))
    free = xp.where(pinned, 0.0, 1.0)
    schur = schur * free[:, :, None] * free[:, None] + (1 - free)[:, None] * xp.eye(place.shape[1])
    return schur, slope * free


def _last_step(placed, sums, state, rows, step, drop, velocity, variance):
    """Take the step that lowers chi2 by less than the tolerance without another evaluation: to first order the fluxes
    follow along the joint Hessian."""
    xp, problem = placed.xp, placed.host
    n_free, n_groups = state.flux.shape[1], velocity.shape[1]
    to_velocity = (velocity[rows] + step[:, :n_groups]).clip(-problem.max_velocity, problem.max_velocity)
    to_variance = xp.maximum(variance[rows] + step[:, n_groups:], sums.lowest[rows]).clip(None, problem.max_sigma**2)
    move = xp.concatenate([to_velocity - velocity[rows], to_variance - variance[rows]], 1)
    velocity[rows], variance[rows] = to_velocity, to_variance
    hessian = state.hessian[rows]
    along = hessian[:, :n_free, n_free:] @ move[..., None]
    state.flux[rows] -= xp.linalg.solve(hessian[:, :n_free, :n_free], along)[..., 0]
    state.chi2[rows] -= drop


def _lowest_variance(problem, lsf, n):
    """Lower bound (N, G) of the gas variance: no line may become narrower than half of its instrumental sigma."""
    blur2 = np.broadcast_to(problem.blur2(lsf), (n, len(problem.centres))) * (C_KMS / problem.centres) ** 2
    return np.stack([-0.75 * blur2[:, problem.group == g].min(1) for g in range(problem.n_groups)], 1)


def _finish(placed, sums, state, velocity, variance, converged):
    xp, problem, hessian, lowest = placed.xp, placed.host, state.hessian, sums.lowest
    diagonal = xp.diagonal(hessian, 0, 1, 2)
    unit = xp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    ridge = 1e-9 + 1.0 * (diagonal <= 0)
    scaled = hessian * unit[:, :, None] * unit[:, None] + ridge[:, None] * xp.eye(hessian.shape[1])
    covariance = xp.linalg.inv(scaled) * unit[:, :, None] * unit[:, None]
    flux = xp.where(state.seen, state.flux, np.nan)
    bounded = (abs(velocity) >= EDGE * problem.max_velocity) | (variance <= lowest + 1e-6 * abs(lowest))
    bounded = bounded | (variance >= EDGE * problem.max_sigma**2)
    gain = sums.poly.left - state.chi2
    return LineFit(flux, velocity, variance, covariance, state.chi2, gain, sums.poly.n_pixels, converged, bounded)


def line_spectra(problem, fit, lsf=None):
    """The fitted lines (N, P), in the windows."""
    out = np.zeros((len(fit.flux), len(problem.wave)))
    flux = np.nan_to_num(fit.flux) @ problem.tie.T
    centre = problem.centres * (1 + fit.velocity[:, problem.group] / C_KMS)
    sigma = np.sqrt((centre / C_KMS) ** 2 * fit.variance[:, problem.group] + problem.blur2(lsf))
    reach = 5 * sigma  # beyond it a line is 4e-6 of its peak
    ends = np.fmin.reduce(centre - reach, 0), np.fmax.reduce(centre + reach, 0)
    first, last = (np.searchsorted(problem.wave, end) for end in ends)
    for j, i in enumerate(problem.window_of):
        low, high = max(first[j], problem.windows[i][0]), min(last[j], problem.windows[i][1])
        x = (problem.wave[low:high] - centre[:, j, None]) / sigma[:, j, None]
        out[:, low:high] += (flux[:, j] / sigma[:, j] / np.sqrt(2 * np.pi))[:, None] * np.exp(-0.5 * x * x)
    return out


def polynomial_spectra(problem, data, weight):
    """The best polynomials (N, P) in the windows, zero elsewhere; for data without lines."""
    data = np.where(weight > 0, data, 0.0)
    poly = _Polynomials(_Placed(problem, NUMPY), data, weight)
    out = np.zeros(data.shape)
    for i, (low, high) in enumerate(problem.windows):
        out[:, low:high] = poly.best(i) @ problem.basis[low:high].T
    return out
