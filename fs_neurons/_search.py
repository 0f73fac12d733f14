"""Search for T and h: descent along the exact gradient, and simulated annealing with structural moves.

The best d for given T and h is computed at every evaluation, so only T and h are searched. Compiled
by numba; every loop is given its number of evaluations, and draws from the generator it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from fs_neurons._staircase import new_staircase, objective, snap

MOVES = 8
MOMENTUM, SQUARES, TINY = 0.9, 0.99, 1e-12  # Adam


class State(NamedTuple):
    """T, h, d of shape (K,), overwritten in place, and their objective in an array of one entry."""

    T: np.ndarray
    h: np.ndarray
    d: np.ndarray
    loss: np.ndarray

    def copy(self) -> State:
        """The same values in arrays of their own."""
        return State(*(part.copy() for part in self))


def new_state(T: np.ndarray, h: np.ndarray) -> State:
    """A state with these T and h, not evaluated yet."""
    return State(np.array(T, float), np.array(h, float), np.zeros(len(T)), np.full(1, np.inf))


@numba.njit
def _assign(target, T, h, d, loss):
    target.T[:], target.h[:], target.d[:], target.loss[0] = T, h, d, loss


@numba.njit
def evaluate(problem, state):
    """Snaps T and h to the grid, if there is one, and computes d and the objective."""
    for t in range(len(state.T)):
        state.T[t], state.h[t] = snap(problem, state.T[t]), snap(problem, state.h[t])
    state.loss[0] = objective(
        problem, state.T, state.h, state.d, new_staircase(), np.empty((0, 0))
    )[0]


@numba.njit
def descend(problem, state, evaluations, rate):
    """Adam along the exact gradient, with a learning rate that falls from `rate` to 0.

    Keeps the best point on the way in `state`.
    """
    K = len(state.T)
    stairs = new_staircase()
    x = np.empty((2, K))
    x[0], x[1] = state.T, state.h
    d = np.zeros(K)
    gradient, mean, square = np.zeros((2, K)), np.zeros((2, K)), np.zeros((2, K))
    for i in range(1, evaluations + 1):
        loss = objective(problem, x[0], x[1], d, stairs, gradient)[0]
        if not loss < np.inf:
            return
        if loss < state.loss[0]:
            _assign(state, x[0], x[1], d, loss)
        mean[:] = MOMENTUM * mean + (1.0 - MOMENTUM) * gradient
        square[:] = SQUARES * square + (1.0 - SQUARES) * gradient**2
        step = rate * (1.0 - i / evaluations)
        unbiased = np.sqrt(square / (1.0 - SQUARES**i))
        x -= step * mean / (1.0 - MOMENTUM**i) / (unbiased + TINY)


@numba.njit
def _move_step(x, s, t):
    """Takes entry s out and puts it in at t."""
    moved = x[s]
    if s < t:
        x[s:t] = x[s + 1 : t + 1].copy()
    else:
        x[t + 1 : s + 1] = x[t:s].copy()
    x[t] = moved


@numba.njit
def _propose(problem, T, h, d, rng):
    """Changes T, h (and d, which matters on a grid only) by one random move."""
    K = len(T)
    reach = problem.high - problem.low
    move = rng.integers(0, MOVES)
    s, t = rng.integers(0, K), rng.integers(0, K)
    # Sizes over four decades, or down to a step of the grid.
    size = reach * 10.0 ** rng.uniform(-4.5, -0.7)
    if problem.step > 0.0:
        size = max(size, problem.step)
    if move == 0:
        T[s] += size * rng.normal()
    elif move == 1:
        h[s] += size * rng.normal()
    elif move == 2:
        T[s] += size * rng.normal()
        h[s] += size * rng.normal()
    elif move == 3:  # what is not taken off by one step is by another
        change = size * rng.normal()
        h[s] += change
        h[t] -= change
    elif move == 4:
        size *= 0.3
        for k in range(K):
            T[k] += size * rng.normal()
            h[k] += size * rng.normal()
    elif move == 5:  # replace a step, near zero as often as anywhere
        width = reach * 10.0 ** rng.uniform(-1.5, -0.3)
        T[s] = width * rng.normal()
        h[s] = width * rng.normal()
    elif move == 6:
        T[s], T[t] = T[t], T[s]
        h[s], h[t] = h[t], h[s]
        d[s], d[t] = d[t], d[s]
    else:
        _move_step(T, s, t)
        _move_step(h, s, t)
        _move_step(d, s, t)
    for k in range(K):
        T[k], h[k] = snap(problem, T[k]), snap(problem, h[k])


@numba.njit
def anneal(problem, state, best, evaluations, hot, cold, rng):
    """Simulated annealing on the logarithm of the objective, which suits every scale of error.

    Args:
        problem: what is fitted.
        state: evaluated start, overwritten with the end.
        best: overwritten whenever something better is found.
        evaluations: number of proposals.
        hot, cold: temperature at the start and at the end, falling geometrically.
        rng: numpy Generator.
    """
    stairs = new_staircase()
    none = np.empty((0, 0))
    for i in range(evaluations):
        temperature = hot * (cold / hot) ** (i / evaluations)
        T, h, d = state.T.copy(), state.h.copy(), state.d.copy()
        _propose(problem, T, h, d, rng)
        loss = objective(problem, T, h, d, stairs, none)[0]
        if not loss < np.inf:
            continue
        worse = np.log(max(loss, TINY) / max(state.loss[0], TINY))
        if worse <= 0.0 or rng.random() < np.exp(-worse / temperature):
            _assign(state, T, h, d, loss)
            if loss < best.loss[0]:
                _assign(best, T, h, d, loss)
