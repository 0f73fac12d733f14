"""Max-pooling of FS-ReLU neurons, computed from their spikes as they arrive.

The spikes of an FS-ReLU are the binary digits of its output, the most significant first. The largest
output of a window is therefore known digit by digit: all its neurons begin as candidates; at step t the
pool fires if any candidate does, and then the candidates that did not fire drop out. What is left is the
neurons with the largest code, and the pool's spike train is that code: no output is ever decoded or
compared. `convert` puts `FSMaxPooling2D` where max-pooling follows FS-ReLU, directly or through zero
padding, which is silence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.backend import fuse
from fs_neurons.layers.activation import FSReLU
from fs_neurons.neuron import FSParameters, relu_parameters, spike_train

# Up to here every code is tried out before a pool is built; the paper's largest K is 16.
MOST_STEPS = 16


def max_spikes(trains: Sequence[Any]) -> Iterator[Any]:
    """Spikes of the largest of several binary codes, step by step.

    Args:
        trains: for every time step, boolean tensors of one shape, one per candidate.

    Yields:
        The spikes of the pool at each step, a boolean tensor.
    """
    alive: list[Any] | None = None
    for spikes in trains:
        if alive is None:
            alive = [ops.ones_like(z) for z in spikes]
        fires = functools.reduce(
            ops.logical_or, (ops.logical_and(a, z) for a, z in zip(alive, spikes, strict=True))
        )
        yield fires
        silent = ops.logical_not(fires)
        alive = [
            ops.logical_and(a, ops.logical_or(z, silent))
            for a, z in zip(alive, spikes, strict=True)
        ]


@keras.saving.register_keras_serializable(package="fs_neurons")
class FSMaxPooling2D(layers.MaxPooling2D):
    """Max-pooling of the outputs of an FSReLU layer, from their spikes.

    Equal to max-pooling of the outputs, bit for bit. The pool is a gate, not a neuron: it is neither
    counted as neurons nor its output as spikes.

    Args:
        K: number of time steps of the FS-ReLU.
        alpha: upper end of its range.
        pool_size, strides, padding, data_format: as for keras.layers.MaxPooling2D.

    Raises:
        ValueError: as `relu_parameters`, or float32 outputs of that FS-ReLU do not tell its spikes.
    """

    def __init__(self, K: int, alpha: float, pool_size: Any = (2, 2), **kwargs: Any):
        super().__init__(pool_size, **kwargs)
        self.parameters = relu_parameters(K, alpha)
        if not _recoverable(self.parameters):
            raise ValueError(
                f"FSMaxPooling2D: the spikes of an FS-ReLU with K={K}, alpha={alpha!r} can't be told from"
                " its float32 output; use keras.layers.MaxPooling2D"
            )

    def call(self, x: Any) -> Any:
        windows = self._windows(ops.cast(x, "float32"))
        flat = [ops.reshape(part, (-1,)) for part in windows]
        y = _fused_maximum(self.parameters, len(flat))(*flat)
        return ops.cast(ops.reshape(y, ops.shape(windows[0])), self.compute_dtype)

    def _windows(self, x: Any) -> list[Any]:
        """The members of all windows: one tensor of the shape of the output per place in a window."""
        axes = (1, 2) if self.data_format == "channels_last" else (2, 3)
        sizes = [x.shape[axis] for axis in axes]
        padding = [(0, 0)] * 4
        steps = zip(axes, sizes, self.pool_size, self.strides, strict=True)
        counts = []
        for axis, size, pool, stride in steps:
            if self.padding == "same":
                count = -(-size // stride)
                total = max(0, (count - 1) * stride + pool - size)
                padding[axis] = (total // 2, total - total // 2)
            else:
                count = (size - pool) // stride + 1
            counts.append(count)
        # Silent neurons all around: a code of zero is never above another.
        x = ops.pad(x, padding)
        windows = []
        for offsets in itertools.product(*(range(pool) for pool in self.pool_size)):
            index = [slice(None)] * 4
            for axis, offset, count, stride in zip(
                axes, offsets, counts, self.strides, strict=True
            ):
                index[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
            windows.append(x[tuple(index)])
        return windows

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "K": self.parameters.K, "alpha": self.parameters.alpha}


def spiking_pool(pool: Any, source: Any) -> FSMaxPooling2D | None:
    """The layer that takes the place of a max-pooling layer behind `source`.

    Args:
        pool: layer of a network.
        source: layer whose output it pools.

    Returns:
        None where `source` is no FS-ReLU, `pool` is no MaxPooling2D, or outputs are not kept in float32.
    """
    if type(pool) is not layers.MaxPooling2D or not isinstance(source, FSReLU):
        return None
    exact = source.compute_dtype == pool.compute_dtype == "float32"
    if not exact or not _recoverable(source.parameters):
        return None
    parameters = source.parameters
    return FSMaxPooling2D.from_config(
        {**pool.get_config(), "K": parameters.K, "alpha": parameters.alpha}
    )


def _maximum(*windows: Any, parameters: FSParameters) -> Any:
    """Largest of the outputs; NaN where one is NaN."""
    # An output of FS-ReLU, as the gate input of the same neuron, gives the spikes that it came from.
    codes = [spike_train(x, parameters) > 0 for x in windows]
    trains = [[code[..., t] for code in codes] for t in range(parameters.K)]
    y = ops.zeros_like(windows[0])
    for d, fires in zip(parameters.d, max_spikes(trains), strict=True):
        y = y + d * ops.cast(fires, "float32")
    for x in windows:
        y = ops.where(ops.isnan(x), x, y)
    return y


@functools.cache
def _recoverable(parameters: FSParameters) -> bool:
    """Whether every float32 output of an FS-ReLU, put in again, gives the spikes that it came from."""
    if parameters.K > MOST_STEPS:
        return False
    digits = np.arange(2**parameters.K)[:, None] >> np.arange(parameters.K)[::-1] & 1
    v = np.zeros(len(digits), np.float32)
    for d, z in zip(parameters.d, digits.T, strict=True):
        v += d * z.astype(np.float32)
    for T, h, z in zip(parameters.T, parameters.h, digits.T, strict=True):
        if ((v >= T) != z).any():
            return False
        v -= h * z.astype(np.float32)
    return True


@functools.cache
def _fused_maximum(parameters: FSParameters, windows: int) -> Callable[..., Any]:
    return fuse(functools.partial(_maximum, parameters=parameters), [(None,)] * windows)
