"""What is fitted, as integrals over a fine grid of gate inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fs_neurons.fitting.functions import Density, as_density, evaluated

CELLS, POINTS_PER_CELL = 8192, 4
BOUND = 8.0  # quantised parameters lie in [-8, 8], section 1.5
FAR = 1000.0  # how far beyond the domain the guard reaches
# Cells of the guard on either side: so many for every factor of two of the distance.
GUARD_CELLS_PER_OCTAVE = 16
# Values are rounded to this part of the largest one, see `_rounded`.
ROUNDING_BITS = 24


class Problem(NamedTuple):
    """What is fitted. Densities are constant within a cell of the grid, integrals are exact.

    Attributes:
        low, high: domain of the function.
        cells, cells_per_unit: number and density of the equal cells that the domain is divided into.
        first_cell: number of cells of the grid below the domain.
        grid: (number of cells + 1,), ascending; from low to high, or beyond them on either side.
        tables: (number of cells, 6), integrals of weight, weight f and density up to each cell, and those
            over the cell.
        square: integral of weight f^2.
        spike_penalty: objective = error + spike_penalty * spikes.
        bound, step: T, h, d are restricted to -bound, -bound + step, ..., bound; any if step is 0.
    """

    low: float
    high: float
    cells: int
    cells_per_unit: float
    first_cell: int
    grid: np.ndarray
    tables: np.ndarray
    square: float
    spike_penalty: float
    bound: float
    step: float


def build_problem(
    function: Callable[[np.ndarray], Any],
    domain: tuple[float, float],
    *,
    weight: Callable[[np.ndarray], Any] | None = None,
    spike_penalty: float = 0.0,
    input_distribution: Density | None = None,
    bits: int | None = None,
    guard: float = 0.0,
) -> Problem:
    """Integrals of weight, weight f and density; weight and density integrate to 1 on the domain.

    Args:
        as for `fit`; guard is the weight of either side, 0 for none.

    Raises:
        ValueError: function, weight or density is not finite, or weight or density negative.
    """
    low, high = map(float, domain)
    points = CELLS * POINTS_PER_CELL
    x = low + (np.arange(points) + 0.5) * ((high - low) / points)
    f = _rounded(evaluated(function, x, "function"))
    w = _share(np.ones_like if weight is None else weight, x, "weight")
    p = _share(as_density(input_distribution), x, "input_distribution")
    square = _sum(w * f * f)
    # Column by column, so that the order of the additions is given.
    cells = [sum(part.reshape(CELLS, POINTS_PER_CELL).T) for part in (w, w * f, p)]
    grid = low + np.arange(CELLS + 1) * ((high - low) / CELLS)
    grid[-1] = high
    table = np.stack(cells, axis=1)
    first_cell = 0
    if guard:
        distances = _guard_distances(high - low)
        ends = _rounded(evaluated(function, np.array([low, high]), "function"))
        first_cell = len(distances)
        share = guard / first_cell
        below, above = ([[share, share * end, 0.0]] * first_cell for end in ends)
        grid = np.concatenate([low - distances[::-1], grid, high + distances])
        table = np.concatenate([below, table, above])
        square += guard * float(ends[0] * ends[0] + ends[1] * ends[1])
    up_to = np.concatenate([np.zeros((1, 3)), np.cumsum(table, axis=0)])
    return Problem(
        low=low,
        high=high,
        cells=CELLS,
        cells_per_unit=CELLS / (high - low),
        first_cell=first_cell,
        grid=grid,
        tables=np.concatenate([up_to[:-1], table], axis=1),
        square=square,
        spike_penalty=float(spike_penalty),
        bound=BOUND,
        step=0.0 if bits is None else 2 * BOUND / (2**bits - 1),
    )


def _guard_distances(width: float) -> np.ndarray:
    """Distances from 1/128 of the domain's width to FAR, nearly in geometric progression."""
    start = width / 128
    steps = 1 + np.arange(GUARD_CELLS_PER_OCTAVE) / GUARD_CELLS_PER_OCTAVE
    octaves = []
    while start < FAR:
        octaves.append(start * steps)
        start *= 2
    return np.append(np.concatenate([*octaves, []]), start)


def _share(function: Callable[[np.ndarray], Any], x: np.ndarray, what: str) -> np.ndarray:
    """A weight or density that sums to 1."""
    y = evaluated(function, x, what)
    if (y < 0).any() or not y.any():
        raise ValueError(f"{what} must be >= 0, and > 0 somewhere on the domain")
    y = _rounded(y)
    return y / _sum(y)


def _rounded(y: np.ndarray) -> np.ndarray:
    """Values as multiples of 2^-ROUNDING_BITS of the largest one.

    Exponentials and the like differ in their last bit from processor to processor. Rounded to what a
    float32 tells apart they no longer do, except where a value lies within that bit of the middle between
    two multiples: a chance of one in ten thousand for all values of a fit together.
    """
    largest = float(np.max(np.abs(y)))
    if largest == 0.0:
        return y
    # A little less, since many functions have a power of two as their maximum, or just below it.
    exponent = math.frexp(largest * (1.0 - 2.0**-20))[1]
    unit = math.ldexp(1.0, exponent - ROUNDING_BITS)
    return np.rint(y / unit) * unit


def _sum(values: Sequence[float] | np.ndarray) -> float:
    """The sum, rounded once, in whatever order it is computed."""
    return math.fsum(values)
