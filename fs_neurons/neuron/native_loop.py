"""The step loop in numba, for tensors of a framework that compiles nothing: PyTorch on a CPU.

A block of neurons of the same set stays in the nearest cache while four steps at a time run over it, in the
instructions that a processor has for several numbers. Nothing is added in another order than in the equations, so
that the results are theirs, bit for bit.
"""

from __future__ import annotations

import concurrent.futures
import functools
import math
import os
from typing import Any

import numba
import numpy as np
from keras import ops

from fs_neurons.backend import native, numpy_operation
from fs_neurons.neuron.equations import Form
from fs_neurons.neuron.parameters import Rows

BLOCK, STEPS = 512, 4
# So few neurons are not worth a thread.
FEWEST_FOR_A_THREAD = 2**15


def response_and_count(
    x: np.ndarray, T: np.ndarray, h: np.ndarray, d: np.ndarray, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Equations (1)-(3).

    Args:
        x: float32 gate inputs (entries, channels, behind).
        T, h, d: float32 arrays (K, channels).
        threads: how many may be used.

    Returns:
        Responses and numbers of spikes, float32 arrays of the shape of x. NaN gives NaN and no spike.
    """
    x = np.ascontiguousarray(x)
    arrays = x, np.empty_like(x), np.empty_like(x)
    if not x.size:
        return arrays[1:]
    _, channels, behind = x.shape
    if channels == 1:
        rows = [array.reshape(1, -1) for array in arrays]
    elif behind == 1:
        rows = [array.reshape(-1, channels).T for array in arrays]
    else:
        rows = [array.reshape(-1, behind) for array in arrays]
    sets = [_to_whole_groups(T, np.nan), _to_whole_groups(h, 0), _to_whole_groups(d, 0)]
    # Whole sequences of channels, or neurons where a row has all of a channel.
    axis, unit = (1, 1) if len(rows[0]) == channels else (0, channels)
    parts = max(1, min(threads, x.size // FEWEST_FOR_A_THREAD))
    ends = np.linspace(0, rows[0].shape[axis] // unit, parts + 1, dtype=np.int64) * unit

    def run(part: int) -> None:
        here = slice(ends[part], ends[part + 1])
        _run(*(array[:, here] if axis else array[here] for array in rows), *sets)

    if parts == 1:
        run(0)
    else:
        list(_pool(threads, os.getpid()).map(run, range(parts)))
    return arrays[1:]


def native_both(x: Any, rows: Rows) -> tuple[Any, Any]:
    """The same of tensors: gate inputs (..., channels, behind), or any where all have the same set."""
    sets = [ops.reshape(values, (rows.K, -1)) for values in rows]
    channels = sets[0].shape[1]
    outer, behind = (x.shape[:-2], x.shape[-1]) if channels > 1 else (x.shape, 1)
    entries = ops.reshape(x, (math.prod(outer), channels, behind))
    y, count = numpy_operation(response_and_count)(entries, *sets)
    return ops.reshape(y, x.shape), ops.reshape(count, x.shape)


def native_response(x: Any, rows: Rows) -> Any:
    return native_both(x, rows)[0]


def native_count(x: Any, rows: Rows) -> Any:
    return ops.cast(native_both(x, rows)[1], "int32")


NATIVE = Form(native_response, native_count, native_both)


def _to_whole_groups(values: np.ndarray, filling: float) -> np.ndarray:
    """(K, channels) -> (channels, K), K a multiple of STEPS. NaN is a threshold that nothing reaches."""
    K, channels = values.shape
    padded = np.full((channels, K + -K % STEPS), filling, np.float32)
    padded[:, :K] = values.T
    return padded


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> concurrent.futures.ThreadPoolExecutor:
    """One for each process, as a fork has none of the threads of its parent."""
    return concurrent.futures.ThreadPoolExecutor(threads, "fs_neurons")


@numba.njit(inline="always")
def _step(v: Any, y: Any, count: Any, T: Any, h: Any, d: Any) -> Any:
    z = v >= T
    return v - h if z else v, y + d if z else y, count + np.float32(1) if z else count


@native
def _run(x: Any, y: Any, count: Any, T: Any, h: Any, d: Any) -> None:
    """Row r of (rows, neurons) has the set r of T, h, d (channels, K), again and again."""
    v, s, n = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    channels, K = T.shape
    rows, neurons = x.shape
    for first in range(0, neurons, BLOCK):
        size = min(BLOCK, neurons - first)
        for row in range(rows):
            c = row % channels
            for i in range(size):
                v[i], s[i], n[i] = x[row, first + i], np.float32(0), np.float32(0)
            for t in range(0, K, STEPS):
                T0, T1, T2, T3 = T[c, t], T[c, t + 1], T[c, t + 2], T[c, t + 3]
                h0, h1, h2, h3 = h[c, t], h[c, t + 1], h[c, t + 2], h[c, t + 3]
                d0, d1, d2, d3 = d[c, t], d[c, t + 1], d[c, t + 2], d[c, t + 3]
                for i in range(size):
                    a, b, z = _step(v[i], s[i], n[i], T0, h0, d0)
                    a, b, z = _step(a, b, z, T1, h1, d1)
                    a, b, z = _step(a, b, z, T2, h2, d2)
                    v[i], s[i], n[i] = _step(a, b, z, T3, h3, d3)
            for i in range(size):
                at = x[row, first + i]
                y[row, first + i] = s[i] if at == at else at
                count[row, first + i] = n[i]
