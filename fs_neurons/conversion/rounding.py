"""Weights rounded one after the other: those that follow make up for the errors of those before.

The squared error of a sum of inputs x is e' E[x x'] e, e the errors of its weights. Each weight is moved to where this is
least, all errors before it as they are, and then rounded: the rows of the Cholesky factor of the inverse of E[x x'] say by
how much. This is GPTQ (Frantar et al. 2023, https://arxiv.org/abs/2210.17323), with inputs of the largest power first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.network.calls import Call, Value
from fs_neurons.network.geometry import data_axis
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import CONVOLUTION, DENSE, kind_of

# Of their mean, added to the powers of the inputs: no direction in which inputs do not vary is trusted.
DAMPING = 0.01
# Weights of a filter with more inputs are rounded to the nearest: moments are of their square.
MOST_INPUTS = 4608
# Of images: biases are fitted to one half, and judged by the other.
HALVES = slice(None, None, 2), slice(1, None, 2)
# Entries of patches that are computed at once.
ENTRIES_AT_ONCE = 2**25


@dataclasses.dataclass(frozen=True)
class Feedback:
    """How the error of a rounded weight changes those that follow.

    Attributes:
        order: (inputs,), in which weights are rounded; an input is a row of the kernel, (inputs, channels).
        factor: (inputs, inputs), of the inverse of the moments in this order, upper triangular.
    """

    order: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray) -> Feedback:
        """From E[x x'], or a multiple of it, (inputs, inputs)."""
        powers = np.diag(moments)
        order = np.argsort(-powers, kind="stable")
        damped = moments + np.diag(np.full(len(powers), DAMPING * powers.mean() or 1.0))
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        return cls(order, np.linalg.cholesky(inverse).T)

    def rounded(self, kernel: np.ndarray, steps: np.ndarray, largest: int) -> np.ndarray:
        """Integers of which the kernel is, nearly, the multiple.

        Args:
            kernel: of a layer, output channels last.
            steps: what its integers are worth, in its shape.
            largest: that integers may be.
        """
        rows = (len(self.order), kernel.shape[-1])
        w, step = (x.reshape(rows)[self.order] for x in (kernel, steps))
        whole, errors = np.zeros(rows), np.zeros(rows)
        for i, diagonal in enumerate(np.diag(self.factor)):
            aim = w[i] - self.factor[:i, i] @ errors[:i]
            whole[i] = np.clip(np.rint(aim / step[i]), -largest, largest)
            errors[i] = (aim - whole[i] * step[i]) / diagonal
        result = np.empty(rows)
        result[self.order] = whole
        return result.reshape(kernel.shape)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a layer of weights does to images.

    Attributes:
        mean: (channels,), of its outputs for half of the images.
        feedback: of its inputs; None where weights are rounded to the nearest.
    """

    mean: np.ndarray
    feedback: Feedback | None


def observed(network: Graph, inputs: Any) -> dict[Call, Seen]:
    """What the calls of weights of a network do.

    Args:
        network: any.
        inputs: tensors in the structure that it takes.
    """
    seen: dict[Call, Seen] = {}

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        y = call(tensors)
        if kind_of(call.op).weighted:
            moments = _moments(call, tensors(call.inputs[0]))
            seen[call] = Seen(mean(y[HALVES[0]]), None if moments is None else Feedback.of(moments))
        return y

    network.run(inputs, each)
    return seen


def _moments(call: Call, x: Any) -> np.ndarray | None:
    """(inputs, inputs), of the inputs of a filter at all places of all images; None for other kinds of layers."""
    op: Any = call.op
    kind = kind_of(op)
    convolves = kind is CONVOLUTION and len(x.shape) == 4 and op.groups == 1
    inputs = x.shape[-1] * (math.prod(op.kernel_size) if convolves else 1)
    if not (convolves or kind is DENSE) or data_axis(op) != -1 or inputs > MOST_INPUTS:
        return None
    total = np.zeros((inputs, inputs))
    count = max(1, ENTRIES_AT_ONCE // (inputs * math.prod(call.outputs.shape[:-1])))
    for begin in range(0, x.shape[0], count):
        part = x[begin : begin + count]
        if convolves:
            part = ops.image.extract_patches(
                part, op.kernel_size, op.strides, op.dilation_rate, op.padding, "channels_last"
            )
        rows = ops.reshape(part, (-1, inputs))
        total += ops.convert_to_numpy(ops.matmul(ops.transpose(rows), rows))
    return total


def mean(y: Any) -> np.ndarray:
    """(channels,), of a tensor."""
    values = ops.convert_to_numpy(y)
    return np.asarray(values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float64))
