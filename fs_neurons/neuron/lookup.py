"""The response of an FS-neuron as a lookup, for runtimes that have no fused kernels.

Of a float32 gate input x the response is a staircase, see `staircase`. A lookup numbers cells of equal width and
finds the step of x in two of them:

    u = x scale, clipped                     the scale is a power of two, so that this is exact
    c = u, truncated                         the cell of x, which holds one breakpoint at most
    y = values[u + shifts[c], truncated]     shifted so far that a breakpoint is where a cell begins

This equals the step loop bit for bit: within a cell all operations are non-decreasing functions of x in float32
too, so that equality at both ends of a cell and on both sides of its breakpoint is equality everywhere. `lookup_of`
compares them there, and gives no lookup that differs. Left out are steps of a few float32 numbers, which some sets
have between two larger ones, and narrower than the rounding of any sum: they get the response of the step below.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.backend import gather
from fs_neurons.neuron.parameters import FSParameters
from fs_neurons.neuron.staircase import Steps, steps_of

# Of a large lookup, for a set that has breakpoints far outside, only few cells are ever needed.
MOST_CELLS = 2**21
# Cells between the outer breakpoints of the coarsest lookup.
FEWEST_CELLS = 16
# Steps that are narrower than this part of the domain are left out.
NARROWEST = 2.0**-22


@dataclasses.dataclass(frozen=True)
class Code:
    """Rounded down to 0, ..., top: the spikes of an FS-ReLU as a number."""

    top: int

    def __call__(self, u: Any) -> Any:
        """Of a float32 tensor, element by element. NaN gives NaN."""
        return ops.floor(ops.clip(u, np.float32(0), np.float32(self.top)))


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """Tables of one or several sets, one behind the other.

    Attributes:
        shifts: float32 array (cells,), what moves the breakpoint of a cell to where one begins.
        values: float32 array (cells,), the response below the breakpoint of each cell.
        lows, highs: int32 arrays (sets,), numbers of the first and the last cell of a set; low < 0 <= high. The
            first is that of NaN, which becomes the smallest integer.
        table: which of the sets an element has, an int array that broadcasts with the gate inputs; None
            where there is one set.
    """

    shifts: np.ndarray
    values: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    table: np.ndarray | None = None

    @property
    def first(self) -> np.ndarray:
        """Where cell 0 of a set is in the tables, an int32 array (sets,)."""
        sizes = self.highs - self.lows + 1
        return np.asarray(np.cumsum(sizes) - sizes - self.lows, np.int32)

    def __call__(self, u: Any) -> Any:
        """The response to gate inputs times the scale, a float32 tensor.

        NaN gives NaN on processors that make the smallest integer of it (x86), on others any response.
        """
        table = 0 if self.table is None else self.table
        low, high, first = (each[table] for each in (self.lows, self.highs, self.first))
        u = ops.minimum(ops.maximum(u, np.float32(low + 1)), np.float32(high))

        def place(u: Any) -> Any:
            cell = ops.minimum(ops.maximum(ops.cast(u, "int32"), low), high)
            return cell + ops.convert_to_tensor(first)

        return gather(self.values, place(u + gather(self.shifts, place(u))))


@functools.lru_cache(maxsize=64)
def lookup_of(parameters: FSParameters) -> tuple[np.float32, Lookup] | None:
    """The scale and the smallest lookup of a set; None where none is small enough."""
    steps = steps_of(parameters)
    if steps is None or not len(steps.breakpoints):
        return None
    steps = _without_narrow(steps, parameters.domain)
    span = float(steps.breakpoints[-1]) - float(steps.breakpoints[0])
    largest = float(np.abs(steps.breakpoints).max())
    exponent = int(np.floor(np.log2(FEWEST_CELLS / (max(span, largest / FEWEST_CELLS) or 1.0))))
    while (scale := np.ldexp(np.float32(1), exponent)) * largest <= MOST_CELLS:
        lookup = _lookup(steps, scale) if scale > 0 else None
        if lookup is not None:
            return scale, lookup
        exponent += 1
    return None


def _without_narrow(steps: Steps, domain: tuple[float, float]) -> Steps:
    finite = [abs(end) for end in domain if np.isfinite(end)]
    reach = max(finite or [float(np.abs(steps.breakpoints).max())])
    wide = np.diff(steps.breakpoints, append=np.inf) > NARROWEST * reach
    return Steps(steps.breakpoints[wide], steps.values[np.concatenate([[True], wide])])


def _lookup(steps: Steps, scale: np.float32) -> Lookup | None:
    """The lookup with cells of width 1 / scale; None where it would differ from the staircase, or be too large."""
    with np.errstate(over="ignore", under="ignore"):
        at = steps.breakpoints * scale
    if (at / scale != steps.breakpoints).any():
        return None
    cell = np.trunc(at)
    low, high = min(cell[0] - 2, -1), max(cell[-1] + 1, 0)
    if high - low + 1 > MOST_CELLS or (np.diff(cell) == 0).any():
        return None
    low, high = int(low), int(high)
    place = cell.astype(np.int64) - low
    shifts = np.zeros(high - low + 1, np.float32)
    before = np.nextafter(at, np.float32(-np.inf))
    shifts[place] = np.where(cell < 0, cell - before, cell + 1 - at)
    values = steps.values[np.searchsorted(cell, np.arange(low, high + 1))]
    values[0] = np.nan
    lookup = Lookup(shifts, values, np.array([low], np.int32), np.array([high], np.int32))
    number = np.arange(low, high + 1, dtype=np.float32)
    inside = np.float32(1) - np.float32(2.0**-24)
    ends = [
        np.where(number <= 0, np.nextafter(number - 1, np.float32(np.inf)), number),
        np.where(number >= 0, np.nextafter(number + 1, np.float32(-np.inf)), number),
        np.array([-inside, inside], np.float32),
    ]
    u = np.concatenate([at, before, *ends])
    u = np.clip(u, np.float32(low + 1), np.float32(high))
    c = np.trunc(u).astype(np.int64) - low
    found = np.trunc(u + shifts[c]).astype(np.int64) - low
    if (found < 0).any() or (found >= len(values)).any():
        return None
    expected = np.searchsorted(at, u, side="right")
    return lookup if (values[found] == steps.values[expected]).all() else None


def joined(lookups: Sequence[Lookup], table: np.ndarray) -> Lookup:
    """Several sets, and which of them an element has."""
    shifts, values, lows, highs = (
        np.concatenate([getattr(each, name) for each in lookups])
        for name in ("shifts", "values", "lows", "highs")
    )
    return Lookup(shifts, values, lows, highs, table)
