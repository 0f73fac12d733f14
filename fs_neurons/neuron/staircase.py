"""The response of an FS-neuron as a staircase: of a float32 gate input it is constant but for its breakpoints.

Every breakpoint, some hundreds, is found in float32 itself, by bisection over its numbers.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from fs_neurons.neuron.parameters import FSParameters

MOST_BREAKPOINTS = 2**14


class Steps(NamedTuple):
    """Where the response changes.

    Attributes:
        breakpoints: float32 array (n,), the first gate input of every step but the first, ascending.
        values: float32 array (n + 1,), the response on every step.
    """

    breakpoints: np.ndarray
    values: np.ndarray


@functools.lru_cache(maxsize=64)
def steps_of(parameters: FSParameters) -> Steps | None:
    """All steps of the response; None where there are too many for a lookup."""
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
