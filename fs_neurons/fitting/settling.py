"""Last changes to a set that was found: nothing in the range of the fit, but safer and smaller beyond."""

from __future__ import annotations

import numpy as np

from fs_neurons.fitting.problem import FAR, Problem
from fs_neurons.fitting.search import State
from fs_neurons.fitting.staircase import MAX_INTERVALS, enumerate_intervals, new_staircase

# A reset of this part of the domain's width is small enough.
SMALL_RESET = 0.5


def settled(best: State, problem: Problem) -> State:
    """The set with safe thresholds and small resets; unchanged on a grid, or of too many intervals.

    A step that fires everywhere in the range gets a threshold far below it, so that the response keeps
    its value there. One that fires nowhere is switched off, lest it fires beyond. The last reset is 0, as no
    step comes after it. Other resets, of which large ones often do the same as smaller ones, are halved as
    long as the response stays the same in the domain and does not go further astray outside it.
    """
    _, trains = _staircase(best, problem.grid[0], problem.grid[-1])
    if problem.step > 0.0 or not len(trains):
        return best
    changed = best.copy()
    always, ever = int(np.bitwise_and.reduce(trains)), int(np.bitwise_or.reduce(trains))
    for t in range(len(best.T)):
        if (always >> t) & 1:
            changed.T[t] = problem.low - FAR
        elif not (ever >> t) & 1:
            changed.T[t], changed.h[t], changed.d[t] = problem.high + FAR, 0.0, 0.0
    changed.h[-1] = 0.0
    for t in range(len(best.T)):
        while abs(changed.h[t]) > SMALL_RESET * (problem.high - problem.low):
            smaller = changed.copy()
            smaller.h[t] /= 2.0
            if not _does_as_well(smaller, changed, problem):
                break
            changed = smaller
    return changed


def _does_as_well(new: State, old: State, problem: Problem) -> bool:
    """Whether the response is the same in the domain, and strays no further from it outside."""
    inside = [_staircase(state, problem.low, problem.high) for state in (new, old)]
    if not all(np.array_equal(*parts) for parts in zip(*inside, strict=True)):
        return False
    for side, end in ((-1, problem.low), (1, problem.high)):
        low, high = sorted((end, end + side * FAR))
        strays = []
        for state in (new, old):
            _, trains = _staircase(state, low, high)
            if not len(trains):
                return False
            y = _outputs(trains, state.d)
            nearest = y[0] if side > 0 else y[-1]
            strays.append(float(np.abs(y - nearest).max()))
        if strays[0] > strays[1]:
            return False
    return True


def _staircase(state: State, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges and spike trains of the intervals; none where there are too many."""
    stairs = new_staircase(len(state.T), MAX_INTERVALS)
    n = enumerate_intervals(state.T, state.h, low, high, stairs)
    return stairs.edge[0, : n + 1].copy(), stairs.spikes[0, :n].copy()


def _outputs(trains: np.ndarray, d: np.ndarray) -> np.ndarray:
    fired = (trains[:, None] >> np.arange(len(d), dtype=np.uint64)) & np.uint64(1)
    return np.asarray((fired * d).sum(axis=1))
