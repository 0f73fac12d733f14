"""Search for T and h: descent along the exact gradient, and simulated annealing with structural moves.

The best d for given T and h is computed at every evaluation, so only T and h are searched. The loops
are compiled; each is given its number of evaluations and the generator it draws from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np

from fs_neurons.fitting.staircase import Problem, new_staircase, objective, snap

# Shares of the evaluations; what is left polishes the winner.
POOL_SHARE, CHAINS_SHARE, FINALISTS_SHARE = 0.05, 0.5, 0.4
CHAINS, FINALISTS = 12, 3
# Temperatures: differences of the logarithm of the objective.
HOT, REHEATED, COLD = 0.1, 0.03, 0.0005
DESCENT, POOL_RATE, POLISH_RATES = 300, 0.1, (0.02, 0.005, 0.001)
# Evaluations after which a search reports, about 0.1 s.
CHUNK = 5000

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
    state.T[:], state.h[:] = snap(problem, state.T), snap(problem, state.h)
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
        T[s] = width * rng.normal() if rng.random() < 0.9 else problem.grid[0]  # always fires
        h[s] = width * rng.normal()
    elif move == 6:
        T[s], T[t] = T[t], T[s]
        h[s], h[t] = h[t], h[s]
        d[s], d[t] = d[t], d[s]
    else:
        _move_step(T, s, t)
        _move_step(h, s, t)
        _move_step(d, s, t)
    T[:], h[:] = snap(problem, T), snap(problem, h)


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


def search(
    problem: Problem, K: int, starts: list[State], effort: int, rng: np.random.Generator
) -> Iterator[tuple[int, State]]:
    """Searches in four stages: descents from many starts, annealing, annealing again, polish.

    On a grid, half of the effort first goes into a search without grid.

    Args:
        problem: what is fitted.
        K: number of time steps.
        starts: states to start from besides random ones.
        effort: number of evaluations, roughly.
        rng: numpy Generator.

    Yields:
        (evaluations so far, best state so far), every CHUNK evaluations or so. The state is
        overwritten as the search goes on.
    """
    done = 0
    free = problem._replace(step=0.0)
    if problem.step > 0.0:
        effort //= 2
        for done, best in search(free, K, starts, effort, rng):
            best = best.copy()
            evaluate(problem, best)
            yield done, best
        starts = [*starts, best]

    pool: list[State] = []
    descents = max(1, int(effort * POOL_SHARE) // DESCENT)
    for state in [*starts, *(coarse_to_fine(problem, K, rng) for _ in range(descents))]:
        evaluate(free, state)
        descend(free, state, DESCENT, POOL_RATE)
        evaluate(problem, state)
        pool = sorted([*pool, state], key=_loss)[:CHAINS]
        done += DESCENT
        yield done, pool[0]

    for share, size, hot in (
        (CHAINS_SHARE, CHAINS, HOT),
        (FINALISTS_SHARE, FINALISTS, REHEATED),
    ):
        results: list[State] = []
        pool = pool[:size]
        for i, state in enumerate(pool):
            best = state.copy()
            for _ in _annealing(problem, state, best, int(effort * share) // size, hot, rng):
                done += CHUNK
                yield done, min([*pool[i:], *results, best], key=_loss)
            results.append(best)
        pool = sorted(results, key=_loss)

    best = pool[0]
    polish = int(effort * (1.0 - POOL_SHARE - CHAINS_SHARE - FINALISTS_SHARE))
    for rate in POLISH_RATES if problem.step == 0.0 else ():
        descend(problem, best, min(polish // 6, CHUNK), rate)
    for _ in _annealing(problem, best.copy(), best, polish // 2, COLD, rng):
        done += CHUNK
        yield done, best


def _loss(state: State) -> float:
    return float(state.loss[0])


def _annealing(
    problem: Problem, state: State, best: State, effort: int, hot: float, rng: np.random.Generator
) -> Iterator[None]:
    """`anneal` from temperature `hot` to COLD, in chunks."""
    chunks = max(1, effort // CHUNK)
    factor = (COLD / hot) ** (1.0 / chunks)
    for i in range(chunks):
        anneal(problem, state, best, CHUNK, hot * factor**i, hot * factor ** (i + 1), rng)
        yield


def coarse_to_fine(problem: Problem, K: int, rng: np.random.Generator) -> State:
    """A random start: resets that fall geometrically, and thresholds below them.

    Half of the starts handle gate inputs above a random point first, those below it afterwards, as
    functions need that do one thing for positive and another for negative gate inputs.
    """
    reach = problem.high - problem.low
    if K < 4 or rng.random() < 0.5:
        h = reach / 2 * rng.uniform(0.5, 0.9) ** np.arange(K) * np.exp(0.3 * rng.normal(size=K))
        T = h * (rng.uniform(0.3, 1.2) + 0.3 * rng.normal(size=K))
        return new_state(T, h)
    middle = min(max(0.0, problem.low), problem.high) + 0.02 * reach * rng.normal()
    above = rng.integers(1, K - 1)
    ratio = rng.uniform(0.5, 0.7, size=2)
    upper = (
        (problem.high - middle) * (1 - ratio[0]) / ratio[0] * ratio[0] ** np.arange(1, above + 1)
    )
    lower = (middle - problem.low) * ratio[1] ** np.arange(1, K - above)
    # One step in between sends what is left of the upper range below all that follows.
    T = np.concatenate([middle + upper, [middle], problem.low + lower])
    h = np.concatenate([upper, [middle - problem.low], lower])
    return new_state(T, h)
