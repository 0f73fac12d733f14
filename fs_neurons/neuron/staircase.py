"""The response of an FS-neuron as a table, for runtimes that have no fused kernels.

Of a float32 gate input x the response is a staircase: constant but for its breakpoints, some hundreds. A table
has cells of equal width with at most one or two breakpoints in each:

    c = cell of x: (x - low) scale, clipped and truncated
    n = number of thresholds of cell c that x reaches
    y = values[m c + n], m thresholds per cell

This equals the step loop bit for bit. Every breakpoint is found in float32 itself, by bisection over its
numbers. And the cell is a non-decreasing function of x in float32 too, as each of its operations is: a breakpoint
in a lower cell than x lies below x, one in a higher cell above it, and those in the same cell are compared.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons.neuron.parameters import FSParameters, NeuronParameters

# A table is no larger than this, for the caches of a processor.
MOST_CELLS = 2**14
MOST_BREAKPOINTS = MOST_CELLS
MOST_THRESHOLDS = 2
# Cells of a table that an exception or two would make much larger get a second threshold instead.
FINE_CELLS = 2**12


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
        thresholds: float32 array (cells, m): breakpoints in each cell, NaN where there are fewer than m.
        values: float32 array (m (cells + 1),): the response at m c + n, in cell c with n thresholds reached.
    """

    low: np.float32
    scale: np.float32
    thresholds: np.ndarray
    values: np.ndarray


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
                return v >= parameters.T[t]

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
        ends = _response(np.float32([-np.inf, np.inf]), parameters)
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
    before = np.searchsorted(cell, np.arange(size + 1))  # breakpoints in lower cells
    counts = before[:, None] + np.arange(m)
    # What no x reaches may hold anything; the value after all thresholds of c is the first of c + 1.
    values = steps.values[np.minimum(counts, len(steps.values) - 1)].ravel()
    return Table(low, scale, limits, values)


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
    m = found[0].thresholds.shape[1]
    sizes = np.array([len(table.thresholds) for table in found])
    # One row after the last of each set, so that its values begin at m times its first cell.
    thresholds = np.concatenate(
        [np.pad(t.thresholds, ((0, 1), (0, 0)), constant_values=np.nan) for t in found]
    )
    values = np.concatenate([table.values for table in found])

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
    start = of_channel(np.cumsum(sizes + 1) - sizes - 1, np.int32)
    place = (x - low) * scale
    # NaN goes to the first cell.
    place = ops.where(place > 0, ops.minimum(place, last), np.float32(0))
    cell = ops.cast(place, "int32")
    if np.any(start):
        cell = cell + start
    index = cell if m == 1 else cell * np.int32(m)
    for column in thresholds.T:
        index = index + ops.cast(x >= ops.take(ops.convert_to_tensor(column), cell), "int32")
    return ops.where(ops.isnan(x), x, ops.take(ops.convert_to_tensor(values), index))


def _tables(sets: tuple[FSParameters, ...]) -> list[Table] | None:
    """Tables with as many thresholds for all sets: one, unless that takes many more cells."""
    best = None
    for m in range(1, MOST_THRESHOLDS + 1):
        tables = [table_of(p, m) for p in sets]
        complete = [table for table in tables if table is not None]
        if len(complete) == len(tables):
            best = complete
            if max(len(table.thresholds) for table in complete) <= FINE_CELLS:
                break
    return best


def _cell(x: np.ndarray, low: np.float32, scale: np.float32, size: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        place = (x - low) * scale
    return np.clip(place, 0, np.float32(size - 1)).astype(np.int64)


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
