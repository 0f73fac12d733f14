"""Search for T and h: descent along the exact gradient, and simulated annealing with structural moves.

The best d for given T and h is computed at every evaluation, so only T and h are searched. The loops
are compiled; each is given its number of evaluations and the random numbers that it draws from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fs_neurons.backend import native
from fs_neurons.fitting.moves import coarse_to_fine, propose
from fs_neurons.fitting.portable import logarithm, new_random, uniform
from fs_neurons.fitting.problem import Problem
from fs_neurons.fitting.staircase import MAX_INTERVALS, new_staircase, objective, snap


class Round(NamedTuple):
    """Annealing of the best states found so far, each from the same temperature.

    Attributes:
        share: of all evaluations.
        states: how many, fewer where there would be less than CHUNK evaluations for each.
        hot: temperature at the start, a difference of the logarithm of the objective.
    """

    share: float
    states: int
    hot: float


# Many short ones first: which valley a search ends in decides more than how long it goes on there.
ROUNDS = (Round(0.5, 12, 0.1), Round(0.4, 4, 0.03))
# What is left polishes the winner.
POOL_SHARE, POLISH_SHARE = 0.05, 0.05
COLD = 0.0005  # the temperature at the end of each round
DESCENT, POOL_RATE, POLISH_RATES = 300, 0.1, (0.02, 0.005, 0.001)
# Evaluations after which a search reports, about 0.05 s.
CHUNK = 5000

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


@native
def _assign(target: State, T: np.ndarray, h: np.ndarray, d: np.ndarray, loss: float) -> None:
    for k in range(len(T)):
        target.T[k], target.h[k], target.d[k] = T[k], h[k], d[k]
    target.loss[0] = loss


@native
def evaluate(problem: Problem, state: State) -> None:
    """Snaps T and h to the grid, if there is one, and computes d and the objective."""
    for k in range(len(state.T)):
        state.T[k], state.h[k] = snap(problem, state.T[k]), snap(problem, state.h[k])
    stairs = new_staircase(len(state.T), MAX_INTERVALS)
    none = np.empty((0, 0))
    state.loss[0] = objective(problem, state.T, state.h, state.d, stairs, none)[0]


@native
def descend(problem: Problem, state: State, evaluations: int, rate: float) -> None:
    """Adam along the exact gradient, with a learning rate that falls from `rate` to 0.

    Keeps the best point on the way in `state`.
    """
    K = len(state.T)
    stairs = new_staircase(K, MAX_INTERVALS)
    x = np.empty((2, K))
    for k in range(K):
        x[0, k], x[1, k] = state.T[k], state.h[k]
    d = np.zeros(K)
    gradient, mean, square = np.zeros((2, K)), np.zeros((2, K)), np.zeros((2, K))
    mean_left, square_left = 1.0, 1.0  # what the zeros at the start still weigh
    for i in range(1, evaluations + 1):
        loss = objective(problem, x[0], x[1], d, stairs, gradient)[0]
        if not loss < np.inf:
            return
        if loss < state.loss[0]:
            _assign(state, x[0], x[1], d, loss)
        mean_left *= MOMENTUM
        square_left *= SQUARES
        step = rate * (1.0 - i / evaluations) / (1.0 - mean_left)
        for row in range(2):
            for k in range(K):
                slope = gradient[row, k]
                mean[row, k] = MOMENTUM * mean[row, k] + (1.0 - MOMENTUM) * slope
                square[row, k] = SQUARES * square[row, k] + (1.0 - SQUARES) * slope * slope
                unbiased = math.sqrt(square[row, k] / (1.0 - square_left))
                x[row, k] -= step * mean[row, k] / (unbiased + TINY)


@native
def anneal(
    problem: Problem,
    state: State,
    best: State,
    evaluations: int,
    hot: float,
    cold: float,
    random: np.ndarray,
) -> None:
    """Simulated annealing on the logarithm of the objective, which suits every scale of error.

    Args:
        problem: what is fitted.
        state: evaluated start, overwritten with the end.
        best: overwritten whenever something better is found.
        evaluations: number of proposals.
        hot, cold: temperature at the start and at the end, falling evenly.
        random: state of the random numbers.
    """
    K = len(state.T)
    stairs = new_staircase(K, MAX_INTERVALS)
    none = np.empty((0, 0))
    T, h, d = np.empty(K), np.empty(K), np.empty(K)
    for i in range(evaluations):
        temperature = hot + (cold - hot) * (i / evaluations)
        for k in range(K):
            T[k], h[k], d[k] = state.T[k], state.h[k], state.d[k]
        propose(problem, T, h, d, random)
        loss = objective(problem, T, h, d, stairs, none)[0]
        if not loss < np.inf:
            continue
        # The probability of something worse is (loss before / loss)^(1 / temperature).
        if loss > state.loss[0]:
            worse = logarithm(max(loss, TINY) / max(state.loss[0], TINY))
            if worse > -temperature * logarithm(max(uniform(random), TINY)):
                continue
        _assign(state, T, h, d, loss)
        if loss < best.loss[0]:
            _assign(best, T, h, d, loss)


def prepare(problem: Problem) -> None:
    """Compiles what a search calls, or reads it from the cache, so that it isn't timed."""
    state, random = new_state(np.ones(2), np.ones(2)), new_random(0)
    evaluate(problem, state)
    coarse_to_fine(problem, state.T, state.h, random)
    descend(problem, state, 1, POOL_RATE)
    anneal(problem, state, state.copy(), 1, COLD, COLD, random)


def search(
    problem: Problem, K: int, starts: list[State], effort: int, random: np.ndarray
) -> Iterator[tuple[int, State]]:
    """Descents from many starts, rounds of annealing that leave fewer and fewer states, and polish.

    On a grid, half of the effort first goes into a search without grid.

    Args:
        problem: what is fitted.
        K: number of time steps.
        starts: states to start from besides random ones.
        effort: number of evaluations, roughly.
        random: state of the random numbers.

    Yields:
        (evaluations so far, best state so far), every CHUNK evaluations or so. The state is
        overwritten as the search goes on.
    """
    done = 0
    free = problem._replace(step=0.0)
    if problem.step > 0.0:
        effort //= 2
        for done, best in search(free, K, starts, effort, random):
            best = best.copy()
            evaluate(problem, best)
            yield done, best
        starts = [*starts, best]

    pool: list[State] = []
    descents = max(1, int(effort * POOL_SHARE) // DESCENT)
    for i in range(len(starts) + descents):
        if i < len(starts):
            state = starts[i]
        else:
            state = new_state(np.zeros(K), np.zeros(K))
            coarse_to_fine(problem, state.T, state.h, random)
        evaluate(free, state)
        descend(free, state, DESCENT, POOL_RATE)
        evaluate(problem, state)
        pool = sorted([*pool, state], key=_loss)[: ROUNDS[0].states]
        done += DESCENT
        yield done, pool[0]

    for share, states, hot in ROUNDS:
        results: list[State] = []
        evaluations = int(effort * share)
        pool = pool[: min(states, max(1, evaluations // CHUNK))]
        each = evaluations // len(pool)
        for i, state in enumerate(pool):
            best = state.copy()
            for _ in _annealing(problem, state, best, each, hot, random):
                done += CHUNK
                yield done, min([*pool[i:], *results, best], key=_loss)
            results.append(best)
        pool = sorted(results, key=_loss)

    best = pool[0]
    polish = int(effort * POLISH_SHARE)
    for rate in POLISH_RATES if problem.step == 0.0 else ():
        descend(problem, best, min(polish // 6, CHUNK), rate)
    for _ in _annealing(problem, best.copy(), best, polish // 2, COLD, random):
        done += CHUNK
        yield done, best


def _loss(state: State) -> float:
    return float(state.loss[0])


def _annealing(
    problem: Problem, state: State, best: State, effort: int, hot: float, random: np.ndarray
) -> Iterator[None]:
    """`anneal` from temperature `hot` to COLD, in chunks."""
    chunks = max(1, effort // CHUNK)
    for i in range(chunks):
        start, end = (temperature(hot, COLD, (i + part) / chunks) for part in (0, 1))
        anneal(problem, state, best, CHUNK, start, end, random)
        yield


def temperature(hot: float, cold: float, progress: float) -> float:
    """From hot to cold as progress goes from 0 to 1, nearly in geometric progression.

    It is halved again and again, and falls evenly in between: powers differ by processor.
    """
    halvings = 0
    while hot > math.ldexp(cold, halvings + 1):
        halvings += 1
    # The last stretch is a part of a halving.
    part = 2.0 * (1.0 - math.ldexp(cold, halvings) / hot)
    position = progress * (halvings + part)
    whole = int(position)
    return math.ldexp(hot * (1.0 - (position - whole) / 2.0), -whole)
