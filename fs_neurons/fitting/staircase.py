"""The response of an FS-neuron as a staircase, exactly: its error, best d, spikes and gradient.

Step t cuts the gate inputs that share a spike history z(1), ..., z(t-1) at exactly one point,

    x = T(t) + sum over j < t of h(j) z(j),

so that K steps leave a few hundred intervals, on each of which spike train and output are constant.
With integrals of the weight, of weight times f and of the input density over these intervals

    error  = integral of weight (f - sum of d(t) z(t))^2     a quadratic form in d,
    spikes = integral of density times sum of z(t),

and the cuts, hence error and spikes, are differentiable in T and h. No surrogate is involved.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

MAX_STEPS = 62  # spike trains are bits of an int64
MAX_INTERVALS = 4096
# Keeps d small where two steps (nearly) always fire together, and finite where one never does.
RIDGE = 1e-8


class Problem(NamedTuple):
    """What is fitted. Densities are constant within a cell of the grid, integrals are exact.

    Attributes:
        low, high: domain of the function.
        grid: (cells + 1,), ascending; from low to high, or beyond them on either side.
        tables: (cells + 1, 3), integrals up to each grid point of weight, weight f and density.
        square: integral of weight f^2.
        spike_penalty: objective = error + spike_penalty * spikes.
        bound, step: T, h, d are restricted to -bound, -bound + step, ..., bound; any if step is 0.
    """

    low: float
    high: float
    grid: np.ndarray
    tables: np.ndarray
    square: float
    spike_penalty: float
    bound: float
    step: float


class Staircase(NamedTuple):
    """Buffers for the intervals: left edge, step that cut it (-1: none), spikes, sum of h z."""

    edge: np.ndarray
    cut: np.ndarray
    spikes: np.ndarray
    offset: np.ndarray


@numba.njit
def new_staircase():
    return Staircase(
        np.empty(MAX_INTERVALS + 1), np.empty(MAX_INTERVALS, np.int64),
        np.empty(MAX_INTERVALS, np.int64), np.empty(MAX_INTERVALS),
    )  # fmt: skip


@numba.njit
def enumerate_intervals(T, h, low, high, stairs):
    """Fills `stairs` with the intervals of [low, high) in ascending order; returns their number.

    Returns 0 where there would be more than MAX_INTERVALS.
    """
    edge, cut, spikes, offset = stairs
    edge[0], cut[0], spikes[0], offset[0], edge[1] = low, -1, 0, 0.0, high
    n = 1
    for t in range(len(T)):
        fired = np.int64(1) << t
        splits = 0
        for i in range(n):
            threshold = T[t] + offset[i]
            if edge[i] < threshold < edge[i + 1]:
                splits += 1
        if n + splits > MAX_INTERVALS:
            return 0
        # From the right, so that intervals move to their new places without a second buffer.
        right = high
        to = n + splits - 1
        edge[n + splits] = high
        for i in range(n - 1, -1, -1):
            left = edge[i]
            threshold = T[t] + offset[i]
            if threshold >= right:
                edge[to], cut[to], spikes[to], offset[to] = left, cut[i], spikes[i], offset[i]
            else:
                before, silent, origin = offset[i], spikes[i], cut[i]
                inside = threshold > left
                edge[to] = threshold if inside else left
                cut[to] = t if inside else origin
                spikes[to] = silent | fired
                offset[to] = before + h[t]
                if inside:
                    to -= 1
                    edge[to], cut[to], spikes[to], offset[to] = left, origin, silent, before
            to -= 1
            right = left
        n += splits
    return n


@numba.njit
def count_bits(spikes):
    count = 0
    while spikes:
        spikes &= spikes - 1
        count += 1
    return count


@numba.njit
def _cell(problem, x):
    """Cell of the grid in which x lies, and how far into it, from 0 to 1."""
    grid = problem.grid
    i = min(max(np.searchsorted(grid, x, side="right") - 1, 0), len(grid) - 2)
    return i, (x - grid[i]) / (grid[i + 1] - grid[i])


@numba.njit
def normal_equations(problem, stairs, n, A, b):
    """Fills A and b with error = d'Ad - 2b'd + square, and returns the spikes.

    A[s, t] is the integral of weight z(s) z(t), b[t] that of weight f z(t); RIDGE is added to A.
    """
    K = len(b)
    A[:] = 0.0
    b[:] = 0.0
    fired = np.empty(K, np.int64)
    spikes = 0.0
    tables = problem.tables
    W0, F0, P0 = 0.0, 0.0, 0.0
    for i in range(n):
        j, part = _cell(problem, stairs.edge[i + 1])
        W1 = tables[j, 0] + part * (tables[j + 1, 0] - tables[j, 0])
        F1 = tables[j, 1] + part * (tables[j + 1, 1] - tables[j, 1])
        P1 = tables[j, 2] + part * (tables[j + 1, 2] - tables[j, 2])
        count = 0
        z = stairs.spikes[i]
        for t in range(K):
            if (z >> t) & 1:
                fired[count] = t
                count += 1
        for s in range(count):
            b[fired[s]] += F1 - F0
            for t in range(s + 1):
                A[fired[s], fired[t]] += W1 - W0
        spikes += count * (P1 - P0)
        W0, F0, P0 = W1, F1, P1
    for s in range(K):
        A[s, s] += RIDGE
        for t in range(s):
            A[t, s] = A[s, t]
    return spikes


@numba.njit
def snap(problem, x):
    """The values closest to x, a number or an array, that T, h and d may take."""
    if problem.step == 0.0:
        return x
    x = np.minimum(np.maximum(x, -problem.bound), problem.bound)
    return np.rint((x + problem.bound) / problem.step) * problem.step - problem.bound


@numba.njit
def _best_on_grid(problem, A, b, d):
    """Improves d, on the grid, one entry at a time until none can be."""
    d[:] = snap(problem, d)
    improved = True
    while improved:
        improved = False
        for t in range(len(d)):
            rest = b[t] - np.dot(A[t], d) + A[t, t] * d[t]
            value = snap(problem, rest / A[t, t])
            gain = (value - d[t]) * (2.0 * rest - A[t, t] * (value + d[t]))
            if gain > 1e-15:
                d[t] = value
                improved = True


@numba.njit
def objective(problem, T, h, d, stairs, gradient):
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
        more than MAX_INTERVALS intervals.
    """
    K = len(T)
    n = enumerate_intervals(T, h, problem.grid[0], problem.grid[-1], stairs)
    if n == 0:
        return np.inf, np.inf, np.inf
    A = np.empty((K, K))
    b = np.empty(K)
    spikes = normal_equations(problem, stairs, n, A, b)
    best = np.linalg.solve(A, b)
    if problem.step == 0.0:
        d[:] = best
    else:
        _best_on_grid(problem, A, b, d)
        _best_on_grid(problem, A, b, best)
        if np.dot(best, np.dot(A, best) - 2.0 * b) < np.dot(d, np.dot(A, d) - 2.0 * b):
            d[:] = best
    error = np.dot(d, np.dot(A, d) - 2.0 * b) + problem.square
    if gradient.size:
        _gradient(problem, stairs, n, d, gradient)
    return error + problem.spike_penalty * spikes, error, spikes


@numba.njit
def _gradient(problem, stairs, n, d, gradient):
    """Moving a cut x = T(t) + sum of h(j) z(j) exchanges the error and spikes on either side."""
    gradient[:] = 0.0
    y_left = 0.0
    for i in range(n):
        z = stairs.spikes[i]
        y = 0.0
        for t in range(len(d)):
            if (z >> t) & 1:
                y += d[t]
        t = stairs.cut[i]
        if t >= 0:
            j, _ = _cell(problem, stairs.edge[i])
            width = problem.grid[j + 1] - problem.grid[j]
            weight = (problem.tables[j + 1, 0] - problem.tables[j, 0]) / width
            weight_f = (problem.tables[j + 1, 1] - problem.tables[j, 1]) / width
            density = (problem.tables[j + 1, 2] - problem.tables[j, 2]) / width
            more = count_bits(stairs.spikes[i - 1]) - count_bits(z)
            slope = (y_left - y) * ((y_left + y) * weight - 2.0 * weight_f)
            slope += problem.spike_penalty * more * density
            gradient[0, t] += slope
            for s in range(t):
                if (z >> s) & 1:
                    gradient[1, s] += slope
        y_left = y
