"""Corrections of the layers between sites: least squares for weights, means and deviations of channels.

Of large values only some positions count, the same ones in both networks, so that what is estimated is their
difference.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration.store import Store
from fs_neurons.network import kinds
from fs_neurons.network.graph import Call
from fs_neurons.network.kinds import applies_activation, channel_axis, kind_of

LARGEST_GAIN = 2.0
# Of the least squares for weights: ridges to choose from, relative to the mean variance of the inputs.
RIDGES, ROWS_PER_UNKNOWN = (0.01, 0.1, 1.0, 10.0), 64
# Neurons with more inputs are rescaled only: memory grows with the square, time with the third power.
MOST_UNKNOWNS = 8192
# Positions that means and deviations of a channel are taken from.
MOST_POSITIONS = 100_000


def offset_of(layer: Any) -> keras.Variable | None:
    """The weight that is added to every channel of a layer's output, if any."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.beta if layer.center else None
    kind = kind_of(layer)
    if kind.weighted and kind is not kinds.EINSUM and layer.use_bias:
        return None if applies_activation(layer) else layer.bias
    return None


def gain_of(layer: Any) -> keras.Variable | None:
    """The weight whose last axis multiplies the channels of a layer's output, its offset apart, if any."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.gamma if layer.scale else None
    return layer.kernel if kind_of(layer) in (kinds.DENSE, kinds.CONVOLUTION) else None


# --- least squares ------------------------------------------------------------------------------


def refit(call: Call, store: Store) -> bool:
    """Adds to kernel and bias what brings a layer's output nearest to that of the analog network.

    Args:
        call: the only one of its layer.
        store: has its inputs in both networks, and its output in the analog one.

    Returns:
        Whether it could: not for every kind of layer, nor where what fits half of the images does not help
        the other half.
    """
    layer = call.op
    if kind_of(layer) not in (kinds.DENSE, kinds.CONVOLUTION) or applies_activation(layer):
        return False
    if kind_of(layer) is kinds.CONVOLUTION and layer.groups != 1:
        return False
    inputs, outputs = math.prod(layer.kernel.shape[:-1]), layer.kernel.shape[-1]
    if inputs > MOST_UNKNOWNS:
        return False
    kernel = _float32(layer.kernel).reshape(inputs, outputs)
    bias = _float32(layer.bias) if layer.use_bias else np.zeros(outputs, np.float32)
    fit = LeastSquares(inputs, outputs)
    wanted = ROWS_PER_UNKNOWN * (inputs + 1) / store.images
    for batch in store.batches:
        analog = _channels_last(layer, store.analog.get(batch, call.outputs))
        spiking = _channels_last(layer, store.spiking.get(batch, call.inputs[0]))
        positions = every(math.prod(analog.shape[1:-1]), wanted)
        x = _rows(layer, spiking, analog.shape[1:-1], positions)
        y = analog.reshape(len(analog), -1, outputs)[:, positions]
        for half in range(2):
            images = slice((batch + half) % 2, None, 2)
            rows = x[images].reshape(-1, inputs)
            fit.add(rows, y[images].reshape(-1, outputs) - rows @ kernel - bias, half)
    W = fit.solve()
    if W is None:
        return False
    _add(layer.kernel, W[:-1].reshape(layer.kernel.shape))
    if layer.use_bias:
        _add(layer.bias, W[-1])
    return True


def every(positions: int, wanted: float) -> slice:
    """Evenly spaced positions, about as many as wanted; an odd distance meets all columns of a feature map."""
    return slice(None, None, max(1, int(positions // max(1.0, wanted))) | 1)


def _rows(layer: Any, x: np.ndarray, size: tuple[int, ...], positions: slice) -> np.ndarray:
    """What the flattened kernel is multiplied with at some positions of the output.

    Args:
        layer: dense, or a convolution.
        x: its input (images, ..., channels).
        size: of the output, (...).
        positions: which of the flattened output.

    Returns:
        (images, positions, inputs of a neuron).
    """
    if kind_of(layer) is kinds.DENSE:
        return x.reshape(len(x), -1, x.shape[-1])[:, positions]
    if any(n > 1 for n in layer.kernel_size):
        x = np.pad(x, [(0, 0), *_padding(layer, x.shape[1:-1], size), (0, 0)])
    at = np.unravel_index(np.arange(math.prod(size))[positions], size)
    parts = []
    for offsets in itertools.product(*map(range, layer.kernel_size)):
        places = zip(at, layer.strides, offsets, layer.dilation_rate, strict=True)
        index = tuple(i * stride + offset * dilation for i, stride, offset, dilation in places)
        parts.append(x[(slice(None), *index)])
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _padding(
    layer: Any, before: tuple[int, ...], after: tuple[int, ...]
) -> Iterable[tuple[int, int]]:
    dimensions = zip(
        before, after, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    )
    for size, count, kernel, stride, dilation in dimensions:
        reach = (kernel - 1) * dilation + 1
        missing = max(0, (count - 1) * stride + reach - size)
        if layer.padding == "causal":
            yield reach - 1, 0
        else:
            yield missing // 2, missing - missing // 2


class LeastSquares:
    """Y = X W + b by ridge regression, from the moments of rows in two halves."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._square = np.zeros((2, inputs + 1, inputs + 1))
        self._product = np.zeros((2, inputs + 1, outputs))

    def add(self, x: np.ndarray, y: np.ndarray, half: int) -> None:
        x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
        self._square[half] += x.T @ x
        self._product[half] += x.T @ y

    def solve(self) -> np.ndarray | None:
        """W with b as its last row, with the ridge for which either half predicts the other best.

        None where no prediction is better than Y = 0.
        """
        losses = [sum(self._loss(half, ridge) for half in range(2)) for ridge in RIDGES]
        if not min(losses) < 0:
            return None
        return _ridge_regression(
            self._square.sum(axis=0), self._product.sum(axis=0), RIDGES[int(np.argmin(losses))]
        )

    def _loss(self, half: int, ridge: float) -> float:
        """Squared error on one half of the fit to the other, less that of Y = 0."""
        W = _ridge_regression(self._square[1 - half], self._product[1 - half], ridge)
        return float(np.sum(W * (self._square[half] @ W - 2 * self._product[half])))


# Variance over mean square of inputs that do not vary but by rounding.
CONSTANT = 1e-10


def _ridge_regression(square: np.ndarray, product: np.ndarray, ridge: float) -> np.ndarray:
    """W of Y = X W from X'X and X'Y, where the last column of X is 1 and its weight free."""
    square, product = square / square[-1, -1], product / square[-1, -1]
    mean = square[-1, :-1]
    covariance = square[:-1, :-1] - np.outer(mean, mean)
    variance = float(np.mean(np.diag(covariance)))
    if variance <= CONSTANT * float(np.mean(np.diag(square))):
        # Inputs that are always the same tell nothing but a constant.
        W = np.zeros((len(mean), product.shape[1]))
        return np.concatenate([W, product[-1:]])
    W = np.linalg.solve(
        covariance + ridge * variance * np.eye(len(covariance)),
        product[:-1] - np.outer(mean, product[-1]),
    )
    return np.concatenate([W, (product[-1] - mean @ W)[None]])


# --- means and deviations -----------------------------------------------------------------------


def rescale(call: Call, store: Store, deviations: bool) -> None:
    """Gives each channel behind a layer the mean that it has in the analog network.

    Args:
        call: the only one of a layer with an offset.
        store: has its inputs in both networks, and its output in the analog one.
        deviations: whether each channel gets its standard deviation as well, where the layer has a gain.
    """
    layer = call.op
    offset, scaled = offset_of(layer), gain_of(layer) if deviations else None
    assert offset is not None
    wanted, actual = Moments(), Moments()
    for batch in store.batches:
        axis, share = channel_axis(layer), store.images
        wanted.add(store.analog.get(batch, call.outputs), axis, share)
        actual.add(call(functools.partial(store.spiking.get, batch)), axis, share)
    gain = np.ones_like(actual.mean)
    if scaled is not None:
        ratio = np.sqrt(wanted.variance / np.maximum(actual.variance, 1e-30))
        # A channel (nearly) without variance tells nothing.
        known = wanted.variance > 1e-12 * (1 + wanted.mean**2)
        gain = np.where(known, np.clip(ratio, 1 / LARGEST_GAIN, LARGEST_GAIN), 1.0)
        scaled.assign(ops.convert_to_numpy(scaled) * gain.astype(np.float32))
    before = ops.convert_to_numpy(offset) * gain
    offset.assign((before + wanted.mean - gain * actual.mean).astype(np.float32))


class Moments:
    """Mean and variance per channel over all batches added so far."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, x: Any, axis: int, images: int = 1) -> None:
        """Adds a batch: of large values, its share of what `images` images together may add."""
        x = np.moveaxis(_float32(x), axis, -1)
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x[:, every(x.shape[1], MOST_POSITIONS / images)].reshape(-1, x.shape[-1])
        self._count += len(x)
        self._sum = self._sum + x.sum(axis=0, dtype=float)
        self._squares = self._squares + np.square(x).sum(axis=0, dtype=float)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self._sum / self._count)

    @property
    def variance(self) -> np.ndarray:
        return np.asarray(np.maximum(self._squares / self._count - self.mean**2, 0.0))


def _float32(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")))


def _channels_last(layer: Any, x: Any) -> np.ndarray:
    return np.moveaxis(_float32(x), channel_axis(layer), -1)


def _add(variable: keras.Variable, change: np.ndarray) -> None:
    variable.assign(ops.convert_to_numpy(variable) + change.astype(np.float32))
