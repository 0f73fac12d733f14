"""Random starts, and the random moves of simulated annealing."""

from __future__ import annotations

import numpy as np

from fs_neurons.backend import native
from fs_neurons.fitting.portable import bell, integer, uniform
from fs_neurons.fitting.problem import Problem
from fs_neurons.fitting.staircase import snap

MOVES = 8
# Sizes of moves, as fractions of the domain's width: 2^-FIRST_OCTAVE down to 2^-LAST_OCTAVE.
FIRST_OCTAVE, LAST_OCTAVE = 2, 15


@native
def fraction(random: np.ndarray, first: int, last: int) -> float:
    """A random fraction from 2^-(last + 1) to 2^-first, equally often in every octave."""
    octave = first + integer(random, last - first + 1)
    return (1.0 + uniform(random)) / (2 << octave)


@native
def _move_entry(x: np.ndarray, s: int, t: int) -> None:
    """Takes entry s out and puts it in at t."""
    moved = x[s]
    step = 1 if t > s else -1
    for i in range(s, t, step):
        x[i] = x[i + step]
    x[t] = moved


@native
def _swap(x: np.ndarray, s: int, t: int) -> None:
    x[s], x[t] = x[t], x[s]


@native
def propose(
    problem: Problem, T: np.ndarray, h: np.ndarray, d: np.ndarray, random: np.ndarray
) -> None:
    """Changes T, h (and d, which matters on a grid only) by one random move."""
    K = len(T)
    reach = problem.high - problem.low
    move = integer(random, MOVES)
    s, t = integer(random, K), integer(random, K)
    size = reach * fraction(random, FIRST_OCTAVE, LAST_OCTAVE)
    size = max(size, problem.step)
    if move == 0:
        T[s] += size * bell(random)
    elif move == 1:
        h[s] += size * bell(random)
    elif move == 2:
        T[s] += size * bell(random)
        h[s] += size * bell(random)
    elif move == 3:  # what is not taken off by one step is by another
        change = size * bell(random)
        h[s] += change
        h[t] -= change
    elif move == 4:
        size *= 0.3
        for k in range(K):
            T[k] += size * bell(random)
            h[k] += size * bell(random)
    elif move == 5:  # replace a step, near zero as often as anywhere
        width = reach * fraction(random, 1, 4)
        T[s] = width * bell(random) if uniform(random) < 0.9 else problem.grid[0]  # always fires
        h[s] = width * bell(random)
    elif move == 6:
        _swap(T, s, t)
        _swap(h, s, t)
        _swap(d, s, t)
    else:
        _move_entry(T, s, t)
        _move_entry(h, s, t)
        _move_entry(d, s, t)
    for k in range(K):
        T[k], h[k] = snap(problem, T[k]), snap(problem, h[k])


@native
def coarse_to_fine(problem: Problem, T: np.ndarray, h: np.ndarray, random: np.ndarray) -> None:
    """A random start: resets that fall geometrically, and thresholds below them.

    Half of the starts handle gate inputs above a random point first, those below it afterwards, as
    functions need that do one thing for positive and another for negative gate inputs.
    """
    K = len(T)
    reach = problem.high - problem.low
    if K < 4 or uniform(random) < 0.5:
        reset, ratio = reach / 2.0, 0.5 + 0.4 * uniform(random)
        below = 0.3 + 0.9 * uniform(random)
        for k in range(K):
            h[k] = reset * (0.6 + 0.8 * uniform(random))
            T[k] = h[k] * (below + 0.3 * bell(random))
            reset *= ratio
        return
    middle = min(max(0.0, problem.low), problem.high) + 0.02 * reach * bell(random)
    above = 1 + integer(random, K - 2)
    ratio = 0.5 + 0.2 * uniform(random)
    reset = (problem.high - middle) * (1.0 - ratio)
    for k in range(above):
        T[k], h[k] = middle + reset, reset
        reset *= ratio
    # One step in between sends what is left of the upper range below all that follows.
    T[above], h[above] = middle, middle - problem.low
    ratio = 0.5 + 0.2 * uniform(random)
    reset = (middle - problem.low) * ratio
    for k in range(above + 1, K):
        T[k], h[k] = problem.low + reset, reset
        reset *= ratio
