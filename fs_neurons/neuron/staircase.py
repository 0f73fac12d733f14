"""The response of an FS-neuron as a table, for runtimes that have no fused kernels.

Of a float32 gate input x the response is a staircase: constant but for its breakpoints, some hundreds. A table
has cells of equal width with at most one or two breakpoints in each:

    c = cell of x: (x - low) scale, clipped and truncated
    n = number of thresholds of cell c that x reaches
    y = values[c, n]

A row of the table has all that is known of its cell, as looking up is what takes longest.

This equals the step loop bit for bit. Every breakpoint is found in float32 itself, by bisection over its
numbers. And the cell is a non-decreasing function of x in float32 too, as each of its operations is: a breakpoint
in a lower cell than x lies below x, one in a higher cell above it, and those in the same cell are compared.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons.backend import gather
from fs_neurons.neuron.parameters import FSParameters, NeuronParameters

# A table is no larger than this, for the caches of a processor.
MOST_CELLS = 2**14
MOST_BREAKPOINTS = MOST_CELLS
MOST_THRESHOLDS = 2


class Steps(NamedTuple):
    """Where the response changes.

    Attributes:
        breakpoints: float32 array (n,), the first gate input of every step but the first, ascending.
        values: float32 array (n + 1,), the response on every step.
    """

    breakpoints: np.ndarray
    values: np.ndarray


class Table(NamedTuple):
    """Cells of equal width.

    Attributes:
        low, scale: the cell of x is (x - low) scale, truncated.
        rows: float32 array (cells, m + m + 1): the m thresholds of each cell, ascending, NaN where it has fewer;
            then the responses with 0, ..., m of them reached.
    """

    low: np.float32
    scale: np.float32
    rows: np.ndarray


@functools.lru_cache(maxsize=64)
def steps_of(parameters: FSParameters) -> Steps | None:
    """All steps of the response; None where there are too many for a table."""
    limit = _ordinal(np.array([np.finfo(np.float32).max]))
    first, end = -limit, limit
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(parameters.K):
            # Within one interval all spikes before t are the same, and v(t) does not decrease with x: at most one
            # number from which on the neuron fires.
            def fires(ordinals: np.ndarray, t: int = t) -> np.ndarray:
                v = _potential(_number(ordinals), parameters, t)
                return np.asarray(v >= parameters.T[t])

            split = ~fires(first) & fires(end)
            below, reached = first[split], end[split]
            while (reached - below > 1).any():
                middle = (below + reached) // 2
                up = fires(middle)
                below, reached = np.where(up, below, middle), np.where(up, middle, reached)
            first = np.sort(np.concatenate([first, reached]))
            end = np.concatenate([first[1:] - 1, limit])
            if len(first) > MOST_BREAKPOINTS:
                return None
        y = _response(_number(first), parameters)
        ends = _response(np.array([-np.inf, np.inf], np.float32), parameters)
    if ends[0] != y[0] or ends[1] != y[-1]:
        return None
    changes = np.concatenate([[True], y[1:] != y[:-1]])
    return Steps(_number(first)[changes][1:], y[changes])


@functools.lru_cache(maxsize=64)
def table_of(parameters: FSParameters, thresholds: int) -> Table | None:
    """The smallest table with so many thresholds per cell; None where none is small enough."""
    steps = steps_of(parameters)
    if steps is None or len(steps.breakpoints) < 2:
        return None
    at = steps.breakpoints
    # The first and the last cell have no outer end: a breakpoint far outside may be left to them.
    spans = [(at[i], at[-1 - j]) for i in (0, 1) for j in (0, 1) if i + j < len(at) - 1]
    size = 16
    while size <= MOST_CELLS:
        for low, high in spans:
            scale = np.float32(size / (np.float64(high) - np.float64(low)))
            if not np.isfinite(scale):
                continue
            cell = _cell(at, low, scale, size)
            if np.bincount(cell).max() <= thresholds:
                return _table(steps, low, scale, size, cell, thresholds)
        size *= 2
    return None


def _table(
    steps: Steps, low: np.float32, scale: np.float32, size: int, cell: np.ndarray, m: int
) -> Table:
    limits = np.full((size, m), np.nan, np.float32)
    place = np.arange(len(cell)) - np.searchsorted(cell, cell)  # among those of its cell
    limits[cell, place] = steps.breakpoints
    before = np.searchsorted(cell, np.arange(size))  # breakpoints in lower cells
    reached = before[:, None] + np.arange(m + 1)
    # Thresholds that a cell doesn't have are never reached.
    values = steps.values[np.minimum(reached, len(steps.values) - 1)]
    return Table(low, scale, np.concatenate([limits, values], axis=1))


def staircase_response(x: Any, parameters: NeuronParameters) -> Any | None:
    """The response from a table, equal to the step loop bit for bit; None where no table is small enough.

    Args:
        x: float32 tensor of gate inputs, any shape.
        parameters: T, h, d.
    """
    sets = (parameters,) if isinstance(parameters, FSParameters) else parameters.members
    used = [0] if isinstance(parameters, FSParameters) else np.unique(parameters.index)
    found = _tables(tuple(sets[i] for i in used))
    if found is None:
        return None
    m = found[0].rows.shape[1] // 2
    sizes = np.array([len(table.rows) for table in found])

    def of_channel(numbers: Any, dtype: Any) -> Any:
        """What differs between sets, in a shape that broadcasts with x."""
        numbers = np.asarray(numbers, dtype)
        if isinstance(parameters, FSParameters) or len(numbers) == 1:
            return numbers[0]
        position = np.searchsorted(used, parameters.index)
        return parameters.broadcast(numbers[position][None], len(x.shape))[0]

    low = of_channel([table.low for table in found], np.float32)
    scale = of_channel([table.scale for table in found], np.float32)
    last = of_channel(sizes - 1, np.float32)
    start = of_channel(np.cumsum(sizes) - sizes, np.int32)
    place = ops.maximum(ops.minimum((x - low) * scale, last), np.float32(0))
    cell = ops.maximum(ops.cast(place, "int32"), np.int32(0))  # NaN becomes any integer
    if np.any(start):
        cell = cell + start
    row = ops.unstack(gather(np.concatenate([table.rows for table in found]), cell), axis=-1)
    # z: 1 for thresholds that are reached, else 0; of y one term is not 0. Products are quicker than selections.
    z = [np.float32(1), *(ops.cast(x >= threshold, "float32") for threshold in row[:m]), None]
    y = sum(
        value * (here if above is None else here - above)
        for value, here, above in zip(row[m:], z[:-1], z[1:], strict=True)
    )
    return ops.where(ops.isnan(x), x, y)


def _tables(sets: tuple[FSParameters, ...]) -> list[Table] | None:
    """Tables with as many thresholds for all sets, and with as few as that takes."""
    for m in range(1, MOST_THRESHOLDS + 1):
        tables = [table for p in sets if (table := table_of(p, m)) is not None]
        if len(tables) == len(sets):
            return tables
    return None


def _cell(x: np.ndarray, low: np.float32, scale: np.float32, size: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        place = (x - low) * scale
    return np.asarray(np.clip(place, 0, np.float32(size - 1)).astype(np.int64))


def _potential(x: np.ndarray, parameters: FSParameters, t: int) -> np.ndarray:
    """v(t + 1), after t steps."""
    v = x
    for T, h in zip(parameters.T[:t], parameters.h[:t], strict=True):
        v = np.where(v >= T, v - h, v)
    return v


def _response(x: np.ndarray, parameters: FSParameters) -> np.ndarray:
    v, y = x, np.zeros_like(x)
    for T, h, d in zip(parameters.T, parameters.h, parameters.d, strict=True):
        z = v >= T
        y = np.where(z, y + d, y)
        v = np.where(z, v - h, v)
    return y


def _ordinal(x: np.ndarray) -> np.ndarray:
    """Numbers that count the finite float32 numbers, 0 for zero."""
    bits = np.asarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _number(ordinal: np.ndarray) -> np.ndarray:
    """The inverse of `_ordinal`."""
    bits = np.where(ordinal >= 0, ordinal, -ordinal | 0x80000000)
    return bits.astype(np.uint32).view(np.float32)
