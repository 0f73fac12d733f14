"""The response of an FS-neuron as a lookup, for runtimes that have no fused kernels.

Of a float32 gate input x the response is a staircase, see `staircase`. A lookup numbers cells of equal width and
finds the step of x in two of them:

    u = x scale, clipped                     the scale is a power of two, so that this is exact
    c = u, truncated                         the cell of x, which holds one breakpoint at most
    y = values[u + shifts[c], truncated]     shifted so far that the breakpoint is where a cell begins

This equals the step loop bit for bit, but for

- breakpoints further outside of the domain than FARTHEST times its width: the response stays as it is before them. Many
  sets have one 1,000 below their domain, under which a neuron does not fire.
- steps so narrow that two breakpoints share a cell: they get the response of the step below. Together they are no wider
  than if every breakpoint was rounded to NARROWEST of the domain, as the sum is that makes a gate input.
- the breakpoint in the cell around 0, which the sum with its shift may move by NEAR of a cell.

Within a cell all operations are non-decreasing functions of x in float32 too, so that equality at both ends of a cell
and on both sides of its breakpoint is equality everywhere: `lookup_of` compares them there.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.backend import gather
from fs_neurons.neuron.parameters import FSParameters
from fs_neurons.neuron.staircase import Steps, steps_of

# On one side of 0: two tables of them are two megabytes in a file.
MOST_CELLS = 2**18
# Cells between the outer breakpoints of the coarsest lookup.
FEWEST_CELLS = 16
# Widths of the domain.
FARTHEST = 8
# Of the larger end of the domain, times the number of breakpoints: the width of all steps that are left out.
NARROWEST = 2.0**-22
# Of a cell: float32 numbers around 1 are 2^-23 apart.
NEAR = 2.0**-23


@dataclasses.dataclass(frozen=True)
class Code:
    """Rounded down to 0, ..., top: the spikes of an FS-ReLU as a number."""

    top: int

    def __call__(self, u: Any) -> Any:
        """Of a float32 tensor, element by element. NaN gives NaN."""
        return ops.floor(ops.clip(u, np.float32(0), np.float32(self.top)))


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """Tables of one set.

    Attributes:
        shifts: float32 array (cells,), what moves the breakpoint of a cell to where one begins.
        values: float32 array (cells,), the response below the breakpoint of each cell. That of the first is NaN: the
            smallest integer, which NaN becomes, belongs to it, and no number.
        low: number of the first cell, below 0; the last has number 0 or more.
    """

    shifts: np.ndarray
    values: np.ndarray
    low: int

    @property
    def high(self) -> int:
        """Number of the last cell."""
        return self.low + len(self.values) - 1

    def __call__(self, u: Any) -> Any:
        """The response to gate inputs times the scale: see `Lookups`."""
        return Lookups((self,), np.zeros((), np.int64))(u)


@dataclasses.dataclass(frozen=True, eq=False)
class Lookups:
    """Sets that differ between channels, their tables one behind the other.

    Attributes:
        sets: one or several.
        table: which of them an element has, an int array that broadcasts with the gate inputs.
    """

    sets: tuple[Lookup, ...]
    table: np.ndarray

    @property
    def shifts(self) -> np.ndarray:
        return np.concatenate([each.shifts for each in self.sets])

    @property
    def values(self) -> np.ndarray:
        return np.concatenate([each.values for each in self.sets])

    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each element's set: numbers of the first and the last cell, and where cell 0 is in the tables; int32."""
        lows = np.array([each.low for each in self.sets])
        sizes = np.array([len(each.values) for each in self.sets])
        found = (lows, lows + sizes - 1, np.cumsum(sizes) - sizes - lows)
        low, high, zero = (np.asarray(each[self.table], np.int32) for each in found)
        return low, high, zero

    def __call__(self, u: Any) -> Any:
        """The response to gate inputs times the scale, a float32 tensor.

        NaN gives NaN on processors that make the smallest integer of it (x86), on others any response.
        """
        low, high, zero = self.cells()
        u = ops.minimum(ops.maximum(u, np.float32(low + 1)), np.float32(high))

        def place(u: Any) -> Any:
            cell = ops.minimum(ops.maximum(ops.cast(u, "int32"), low), high)
            return cell + ops.convert_to_tensor(zero)

        return gather(self.values, place(u + gather(self.shifts, place(u))))


@functools.lru_cache(maxsize=512)
def lookup_of(parameters: FSParameters) -> tuple[np.float32, Lookup] | None:
    """The scale and the smallest lookup of a set; None where none is small enough."""
    steps = steps_of(parameters)
    steps = None if steps is None else _within(steps, parameters.domain)
    if steps is None or not len(steps.breakpoints):
        return None
    largest = float(np.abs(steps.breakpoints).max())
    finite = [abs(end) for end in parameters.domain if np.isfinite(end)]
    left_out = NARROWEST * max(finite or [largest]) * len(steps.breakpoints)
    span = float(steps.breakpoints[-1]) - float(steps.breakpoints[0])
    exponent = int(np.floor(np.log2(FEWEST_CELLS / (max(span, largest / FEWEST_CELLS) or 1.0))))
    while (scale := np.ldexp(np.float32(1), exponent)) * largest < MOST_CELLS:
        lookup = _lookup(steps, scale, left_out) if scale > 0 else None
        if lookup is not None:
            return scale, lookup
        exponent += 1
    return None


def _within(steps: Steps, domain: tuple[float, float]) -> Steps:
    """Without breakpoints that are far outside."""
    margin = FARTHEST * (domain[1] - domain[0])
    first, end = np.searchsorted(steps.breakpoints, [domain[0] - margin, domain[1] + margin])
    return Steps(steps.breakpoints[first:end], steps.values[first : end + 1])


def _lookup(steps: Steps, scale: np.float32, left_out: float) -> Lookup | None:
    """The lookup with cells of width 1 / scale; None where it differs, or would leave out wider steps."""
    with np.errstate(over="ignore", under="ignore"):
        at = steps.breakpoints * scale
    if (at / scale != steps.breakpoints).any():
        return None
    alone = np.diff(np.trunc(at), append=np.inf) > 0
    widths = np.diff(steps.breakpoints.astype(np.float64), append=np.inf)
    if widths[~alone].sum() > left_out:
        return None
    at, kept = at[alone], steps.values[np.concatenate([[True], alone])]
    cell = np.trunc(at)
    low, high = int(min(cell[0] - 2, -1)), int(max(cell[-1] + 1, 2))
    number = np.arange(low, high + 1, dtype=np.float32)
    place = cell.astype(np.int64) - low
    shifts = np.zeros(len(number), np.float32)
    before = np.nextafter(at, np.float32(-np.inf))
    shifts[place] = np.where(cell < 0, cell - before, cell + 1 - at)
    values = kept[np.searchsorted(cell, number)]
    values[0] = np.nan
    lookup = Lookup(shifts, values, low)
    return lookup if _equal(lookup, at, kept) else None


def _equal(lookup: Lookup, at: np.ndarray, steps: np.ndarray) -> bool:
    """Whether it is the staircase with breakpoints `at`, at the ends of all cells and next to all breakpoints."""
    low, high = lookup.low, lookup.high
    number = np.arange(low, high + 1, dtype=np.float32)
    near = np.where(np.trunc(at) == 0, np.float32(NEAR), np.float32(0))
    inside = np.float32(1) - np.float32(2.0**-24)
    ends = [
        np.where(number <= 0, np.nextafter(number - 1, np.float32(np.inf)), number),
        np.where(number >= 0, np.nextafter(number + 1, np.float32(-np.inf)), number),
        np.array([-inside, inside], np.float32),
    ]
    u = np.concatenate([at + near, np.nextafter(at, np.float32(-np.inf)) - near, *ends])
    u = np.clip(u, np.float32(low + 1), np.float32(high))
    cell = np.trunc(u + lookup.shifts[np.trunc(u).astype(np.int64) - low]).astype(np.int64) - low
    if (cell < 0).any() or (cell >= len(lookup.values)).any():
        return False
    return bool((lookup.values[cell] == steps[np.searchsorted(at, u, side="right")]).all())
