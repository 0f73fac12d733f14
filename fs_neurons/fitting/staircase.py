"""The response of an FS-neuron as a staircase, exactly: its error, best d, spikes and gradient.

Step t cuts the gate inputs that share a spike history z(1), ..., z(t-1) at exactly one point,

    x = T(t) + sum over j < t of h(j) z(j),

so that K steps leave a few hundred intervals, on each of which spike train and output are constant.
With integrals of the weight, of weight times f and of the input density over these intervals

    error  = integral of weight (f - sum of d(t) z(t))^2     a quadratic form in d,
    spikes = integral of density times sum of z(t),

and the cuts, hence error and spikes, are differentiable in T and h. No surrogate is involved.

The arithmetic is IEEE's, in an order that is written down: every processor gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fs_neurons.backend import native
from fs_neurons.fitting.problem import Problem

MAX_STEPS = 62  # spike trains are bits of an int64
MAX_INTERVALS = 4096
# Keeps d small where two steps (nearly) always fire together, and finite where one never does.
RIDGE = 1e-8

ZERO, ONE, SIX_BITS = np.uint64(0), np.uint64(1), np.uint64(58)
# The bit of a power of two: multiplied by this number, each has six leading bits of its own.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_OF = np.zeros(64, np.uint64)
_BIT_OF[[((0x03F79D71B4CB0A89 << bit) % 2**64) >> 58 for bit in range(64)]] = np.arange(64)


class Staircase(NamedTuple):
    """Buffers. Row 0 holds the intervals when done; steps write to the two rows in turn.

    Attributes:
        edge: (2, size + 1), left edges in ascending order, and the end of the last interval.
        spikes: (2, size) of uint64, spike trains: bit t is z(t + 1).
        offset: (2, size), sum of h z.
        fired: (MAX_STEPS,) of uint64, the steps that fire on one interval.
        system: (K + 1, K + 1), see `_normal_equations`.
    """

    edge: np.ndarray
    spikes: np.ndarray
    offset: np.ndarray
    fired: np.ndarray
    system: np.ndarray


@native
def new_staircase(K: int, intervals: int) -> Staircase:
    """Buffers for K steps and so many intervals."""
    size = 2 * intervals  # a step makes two of each at most
    return Staircase(
        np.empty((2, size + 1)), np.empty((2, size), np.uint64), np.empty((2, size)),
        np.empty(MAX_STEPS, np.uint64), np.empty((K + 1, K + 1)),
    )  # fmt: skip


# Indices are unsigned where time counts: Numba asks signed ones each time whether they are negative.


@native
def enumerate_intervals(
    T: np.ndarray, h: np.ndarray, low: float, high: float, stairs: Staircase
) -> int:
    """Fills row 0 of `stairs` with the intervals of [low, high); returns their number.

    Returns 0 where there would be more than the buffers are made for, or T or h is not finite.
    """
    K = len(T)
    total = 0.0
    for t in range(K):
        total += abs(T[t]) + abs(h[t])
    if not total < np.inf:
        return 0
    limit = stairs.spikes.shape[1] // 2
    row = K % 2
    stairs.edge[row, 0], stairs.edge[row, 1] = low, high
    stairs.spikes[row, 0], stairs.offset[row, 0] = ZERO, 0.0
    n: Any = 1
    for t in range(K):
        edge, spikes, offset = stairs.edge[row], stairs.spikes[row], stairs.offset[row]
        row = 1 - row
        new_edge, new_spikes, new_offset = stairs.edge[row], stairs.spikes[row], stairs.offset[row]
        threshold, reset, bit = T[t], h[t], ONE << np.uint64(t)
        to = ZERO
        left = edge[0]
        for i in range(n):
            right, before = edge[i + 1], offset[i]
            cut = threshold + before
            if cut > left:
                new_edge[to], new_spikes[to], new_offset[to] = left, spikes[i], before
                to += ONE
            if cut < right:
                new_edge[to] = max(cut, left)
                new_spikes[to], new_offset[to] = spikes[i] | bit, before + reset
                to += ONE
            left = right
        n = np.int64(to)
        new_edge[n] = high
        if n > limit:
            return 0
    return int(n)


@native
def list_steps(train: np.uint64, steps: np.ndarray) -> int:
    """Writes the steps that fire, ascending, to `steps` and returns their number."""
    count = 0
    while train:
        others = train & (train - ONE)
        steps[count] = _BIT_OF[((train ^ others) * _DE_BRUIJN) >> SIX_BITS]
        train = others
        count += 1
    return count


@native
def _cell(problem: Problem, x: float) -> tuple[np.uint64, float]:
    """Cell of the grid in which x lies, and how far into it, from 0 to 1."""
    position = (x - problem.low) * problem.cells_per_unit
    if 0.0 <= position < problem.cells:
        inside = int(position)
        return np.uint64(problem.first_cell + inside), position - inside
    return _cell_beyond(problem, x)


@native
def _cell_beyond(problem: Problem, x: float) -> tuple[np.uint64, float]:
    """As `_cell`, for an x at or beyond the ends of the domain."""
    grid = problem.grid
    first, last = 0, len(grid) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if grid[middle] <= x:
            first = middle
        else:
            last = middle
    return np.uint64(first), min((x - grid[first]) / (grid[last] - grid[first]), 1.0)


@native
def _normal_equations(problem: Problem, stairs: Staircase, n: int) -> float:
    """Fills the lower triangle of `stairs.system` and returns the spikes.

    With A[s, t] the integral of weight z(s) z(t), plus RIDGE on the diagonal, b[t] that of weight f z(t)
    and c that of weight f^2, the error is d'Ad - 2 b'd + c. The system is [[c, b'], [b, A]].
    """
    fired, tables = stairs.fired, problem.tables
    edge, trains = stairs.edge[0], stairs.spikes[0]
    system = stairs.system.ravel()  # a view
    width = np.uint64(len(stairs.system))
    system[:] = 0.0
    spikes = 0.0
    weight_before, weight_f_before, density_before = 0.0, 0.0, 0.0
    for i in range(n):
        j, part = _cell(problem, edge[i + 1])
        weight_up_to = tables[j, 0] + part * tables[j, 3]
        weight_f_up_to = tables[j, 1] + part * tables[j, 4]
        density_up_to = tables[j, 2] + part * tables[j, 5]
        weight, weight_f = weight_up_to - weight_before, weight_f_up_to - weight_f_before
        train = trains[i]
        count = 0
        while train:
            others = train & (train - ONE)
            column = ONE + _BIT_OF[((train ^ others) * _DE_BRUIJN) >> SIX_BITS]
            row = column * width
            system[row] += weight_f
            fired[count] = column
            count += 1
            for s in range(count):
                system[row + fired[s]] += weight
            train = others
        spikes += count * (density_up_to - density_before)
        weight_before, weight_f_before = weight_up_to, weight_f_up_to
        density_before = density_up_to
    for t in range(1, len(stairs.system)):
        stairs.system[t, t] += RIDGE
    system[0] = problem.square
    return spikes


@native
def _eliminate(system: np.ndarray) -> float:
    """Gaussian elimination in the lower triangle, from the last row up: what is left is the error."""
    for k in range(len(system) - 1, 0, -1):
        pivot = system[k]
        inverse = 1.0 / pivot[k]
        for i in range(k):
            factor = pivot[i] * inverse
            row = system[i]
            for j in range(i + 1):
                row[j] -= factor * pivot[j]
    return float(system[0, 0])


@native
def _substitute(system: np.ndarray, d: np.ndarray) -> None:
    """The best d, after `_eliminate`."""
    for t in range(len(d)):
        rest = system[t + 1, 0]
        for s in range(t):
            rest -= system[t + 1, s + 1] * d[s]
        d[t] = rest / system[t + 1, t + 1]


@native
def snap(problem: Problem, x: float) -> float:
    """The value closest to the number x that T, h and d may take."""
    if problem.step == 0.0:
        return x
    x = min(max(x, -problem.bound), problem.bound)
    return float(np.rint((x + problem.bound) / problem.step) * problem.step - problem.bound)


@native
def _rest(normal: np.ndarray, d: np.ndarray, t: int) -> float:
    """b[t] minus what the other steps contribute to it."""
    rest: float = normal[t + 1, 0]
    for s in range(len(d)):
        if s != t:
            rest -= d[s] * (normal[t + 1, s + 1] if s < t else normal[s + 1, t + 1])
    return rest


@native
def _error_of(normal: np.ndarray, d: np.ndarray) -> float:
    """d'Ad - 2 b'd + c."""
    error: float = normal[0, 0]
    for t in range(len(d)):
        rest, diagonal = _rest(normal, d, t), normal[t + 1, t + 1]
        error -= d[t] * (rest + normal[t + 1, 0] - diagonal * d[t])
    return error


@native
def _best_on_grid(problem: Problem, normal: np.ndarray, d: np.ndarray) -> float:
    """Improves d, on the grid, one entry at a time until none can be; returns the error."""
    for t in range(len(d)):
        d[t] = snap(problem, d[t])
    improved = True
    while improved:
        improved = False
        for t in range(len(d)):
            rest, diagonal = _rest(normal, d, t), normal[t + 1, t + 1]
            value = snap(problem, rest / diagonal)
            gain = (value - d[t]) * (2.0 * rest - diagonal * (value + d[t]))
            if gain > 1e-15:
                d[t] = value
                improved = True
    return _error_of(normal, d)


@native
def objective(
    problem: Problem,
    T: np.ndarray,
    h: np.ndarray,
    d: np.ndarray,
    stairs: Staircase,
    gradient: np.ndarray,
) -> tuple[float, float, float]:
    """The objective with the best d for given T and h.

    Args:
        problem: what is fitted.
        T, h: (K,).
        d: (K,), overwritten with the best output weights; on a grid, with ones that no change of a
            single entry improves, searched from the given d and from the rounded best.
        stairs: buffers, overwritten.
        gradient: (2, K), overwritten with the gradient with respect to T and h; an array without
            entries when it isn't wanted.

    Returns:
        error + spike_penalty * spikes, the error, the spikes; infinite, all of them, where there are
        more intervals than the buffers are made for.
    """
    n = enumerate_intervals(T, h, problem.grid[0], problem.grid[-1], stairs)
    if n == 0:
        return np.inf, np.inf, np.inf
    spikes = _normal_equations(problem, stairs, n)
    if problem.step == 0.0:
        error = _eliminate(stairs.system)
        _substitute(stairs.system, d)
    else:
        normal = stairs.system.copy()
        _eliminate(stairs.system)
        rounded = np.empty(len(d))
        _substitute(stairs.system, rounded)
        error = _best_on_grid(problem, normal, d)
        other = _best_on_grid(problem, normal, rounded)
        if other < error:
            error = other
            d[:] = rounded
    if gradient.size:
        _gradient(problem, stairs, n, d, gradient)
    return error + problem.spike_penalty * spikes, error, spikes


@native
def _gradient(
    problem: Problem, stairs: Staircase, n: int, d: np.ndarray, gradient: np.ndarray
) -> None:
    """Moving a cut x = T(t) + sum of h(j) z(j) exchanges the error and spikes on either side."""
    tables, grid, fired = problem.tables, problem.grid, stairs.fired
    edge, trains = stairs.edge[0], stairs.spikes[0]
    gradient[:] = 0.0
    y_left, count_left = 0.0, 0
    for i in range(n):
        count = list_steps(trains[i], fired)
        y = 0.0
        for s in range(count):
            y += d[fired[s]]
        if i > 0:
            j, _ = _cell(problem, edge[i])
            per_unit = 1.0 / (grid[j + ONE] - grid[j])
            slope = (y_left - y) * ((y_left + y) * tables[j, 3] - 2.0 * tables[j, 4])
            slope += problem.spike_penalty * (count_left - count) * tables[j, 5]
            slope *= per_unit
            # The step that cut here is the first that does differently on the two sides.
            differing = trains[i] ^ trains[i - 1]
            cut = _BIT_OF[((differing & (~differing + ONE)) * _DE_BRUIJN) >> SIX_BITS]
            gradient[0, cut] += slope
            for s in range(count):
                if fired[s] < cut:
                    gradient[1, fired[s]] += slope
        y_left, count_left = y, count
