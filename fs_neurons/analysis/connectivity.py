"""How many additions a spike causes: the fan-out of every neuron, borders and strides respected.

    for site, fan in zip(graph.sites, fan_outs(graph)):
        operations = (spikes * fan.total).sum()      # one addition per spike and target

A spike travels through layers that only route (padding, reshape, concatenation, batch normalisation,
which folds into weights) to the first that adds up: a dense or convolutional layer, with one target per
output that the neuron has a weight to; average pooling, with one per window; a residual addition, a
product, another site or the output of the model, with one. Layers behind these, such as the second of two
convolutions with no activation between them, work on sums, once per image.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from fs_neurons.network import graph as graphs
from fs_neurons.network import kinds
from fs_neurons.network.graph import Call, Graph, Value

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_ROUTES = (
    *kinds.IDENTITIES, *kinds.CHANNEL_SCALINGS, *kinds.PADDINGS, *kinds.CROPPINGS,
    *kinds.RESHAPINGS, *kinds.UPSAMPLINGS, layers.Concatenate, layers.Permute,
)  # fmt: skip
_RESHAPING_OPERATIONS = ("Reshape", "Squeeze", "ExpandDims")


@dataclasses.dataclass(frozen=True)
class FanOut:
    """Targets of each neuron of a site.

    Attributes:
        weighted: int64 array in the shape of the site, length 1 along axes where it is constant:
            targets in dense and convolutional layers, each with a weight of its own.
        total: likewise, all targets.
    """

    weighted: np.ndarray
    total: np.ndarray


def fan_outs(graph: Graph) -> list[FanOut]:
    """Fan-out of every site of `graph`, in order."""
    consumers: dict[int, list[Call]] = {}
    for call in graph.calls:
        for value in set(call.inputs):
            consumers.setdefault(value.index, []).append(call)
    ends = keras.tree.flatten(graph.outputs)

    def targets(value: Value, weighted_only: bool) -> np.ndarray:
        total = np.zeros(value.shape, np.int64)
        for call in consumers.get(value.index, ()):
            if _routes(call):
                total += _traced_back(call, value, targets(call.outputs, weighted_only))
            elif isinstance(call.op, kinds.WEIGHTED):
                total += weight_fan_out(call)
            elif not weighted_only:
                total += _additions(call, value)
        return total + (0 if weighted_only else sum(value is end for end in ends))

    return [
        FanOut(
            *(
                _compressed(targets(call.outputs, weighted_only=only))
                for only in (True, False)
            )
        )
        for call in graph.sites
    ]  # fmt: skip


def multiply_accumulates(call: Call) -> int:
    """Multiply-accumulates of a call for one image; those with padded zeros are left out.

    Dense and convolutional layers, and products of two tensors; 0 for all others.
    """
    if isinstance(call.op, kinds.WEIGHTED):
        (value,) = call.inputs
        count = int(np.broadcast_to(weight_fan_out(call), value.shape).sum())
        if isinstance(call.op, _SEPARABLE):  # the pointwise half
            channels = value.shape[_channel_axis(call.op)] * call.op.depth_multiplier
            count += math.prod(call.outputs.shape) * channels
        return count
    if type(call.op).__name__ == "Multiply" and len(call.inputs) > 1:
        return math.prod(call.outputs.shape) * (len(call.inputs) - 1)
    return 0


def weight_fan_out(call: Call) -> np.ndarray:
    """Outputs of a dense or convolutional layer that each input has a weight to.

    Of a separable convolution: of its depthwise half, which is the one that spikes meet.

    Returns:
        int64 array that broadcasts to the shape of the input.
    """
    op, (value,) = call.op, call.inputs
    if isinstance(op, layers.Dense):
        return np.full((1,) * len(value.shape), op.units, np.int64)
    if isinstance(op, layers.EinsumDense):
        return _einsum_fan_out(op, value)
    rank = len(op.kernel_size)
    channel = _channel_axis(op)
    spatial = value.shape[1:] if channel == 0 else value.shape[:-1]
    out = call.outputs.shape[1:] if channel == 0 else call.outputs.shape[:-1]
    if isinstance(op, (*_DEPTHWISE, *_SEPARABLE)):
        per_position = op.depth_multiplier
    else:
        per_position = op.filters // getattr(op, "groups", 1)
    result = np.full((1,) * (rank + 1), per_position, np.int64)
    for axis in range(rank):
        counts = _axis_fan_out(
            spatial[axis], out[axis], op.kernel_size[axis], op.strides[axis], op.dilation_rate[axis],
            op.padding, transposed=isinstance(op, _TRANSPOSED),
        )  # fmt: skip
        at = axis + 1 if channel == 0 else axis
        result = result * counts.reshape([-1 if i == at else 1 for i in range(rank + 1)])
    return result


def _axis_fan_out(
    size: int, out: int, kernel: int, stride: int, dilation: int, padding: str, transposed=False
) -> np.ndarray:
    """Along one axis: (output, kernel tap) pairs that each of `size` inputs takes part in."""
    if transposed:
        # The gradient of a convolution from `out` to `size`: the same pairs, seen from its outputs.
        before = _pad_before(out, size, kernel, stride, dilation, padding)
        at = np.arange(size)[:, None] * stride + np.arange(kernel) * dilation - before
        return ((at >= 0) & (at < out)).sum(axis=1)
    before = _pad_before(size, out, kernel, stride, dilation, padding)
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.bincount(at[(at >= 0) & (at < size)], minlength=size).astype(np.int64)


def _pad_before(size, out, kernel, stride, dilation, padding) -> int:
    extent = (kernel - 1) * dilation + 1
    if padding == "causal":
        return extent - 1
    return max(0, (out - 1) * stride + extent - size) // 2 if padding == "same" else 0


def _einsum_fan_out(op: layers.EinsumDense, value: Value) -> np.ndarray:
    terms, result = op.equation.replace(" ", "").split("->")
    inputs, kernel = terms.split(",")
    letters = dict(zip(kernel, op.kernel.shape, strict=True))
    count = math.prod(letters[letter] for letter in result if letter not in inputs and letter in letters)  # fmt: skip
    return np.full((1,) * len(value.shape), count, np.int64)


def _additions(call: Call, value: Value) -> np.ndarray | int:
    """Targets of each entry of `value` in a call without weights."""
    op = call.op
    if not isinstance(op, kinds.POOLINGS):
        return sum(x is value for x in call.inputs)  # x + x takes both of them
    rank = len(op.pool_size)
    channel = _channel_axis(op)
    result = np.ones((1,) * (rank + 1), np.int64)
    for axis in range(rank):
        at = axis + 1 if channel == 0 else axis
        counts = _axis_fan_out(
            value.shape[at], call.outputs.shape[at], op.pool_size[axis], op.strides[axis], 1, op.padding
        )  # fmt: skip
        result = result * counts.reshape([-1 if i == at else 1 for i in range(rank + 1)])
    return result


def _routes(call: Call) -> bool:
    op = call.op
    if isinstance(op, layers.Activation):
        return graphs.is_linear(call)
    if type(op).__name__ in _RESHAPING_OPERATIONS:
        return True
    return isinstance(op, _ROUTES) and getattr(op, "interpolation", "nearest") == "nearest"


def _traced_back(call: Call, value: Value, targets: np.ndarray) -> np.ndarray:
    """Sum of `targets` over the places that each entry of `value` is routed to."""
    op = call.op
    if isinstance(op, layers.Flatten) and _channel_axis(op) == 0:
        channels, *spatial = value.shape
        return np.moveaxis(targets.reshape(*spatial, channels), -1, 0)
    if isinstance(op, kinds.RESHAPINGS) or type(op).__name__ in _RESHAPING_OPERATIONS:
        return targets.reshape(value.shape)
    if isinstance(op, layers.Permute):
        return targets.transpose(np.argsort([axis - 1 for axis in op.dims]))
    if isinstance(op, layers.Concatenate):
        axis = op.axis - 1 if op.axis > 0 else op.axis
        edges = np.cumsum([x.shape[axis] for x in call.inputs])[:-1]
        parts = np.split(targets, edges, axis=axis)
        return sum(part for part, x in zip(parts, call.inputs, strict=True) if x is value)
    if isinstance(op, (*kinds.PADDINGS, *kinds.CROPPINGS)):
        amounts = _per_axis(op, op.padding if isinstance(op, kinds.PADDINGS) else op.cropping)
        if isinstance(op, kinds.CROPPINGS):
            return np.pad(targets, amounts)
        return targets[
            tuple(slice(a, n - b) for n, (a, b) in zip(targets.shape, amounts, strict=True))
        ]
    if isinstance(op, kinds.UPSAMPLINGS):
        sizes = op.size if isinstance(op.size, Sequence) else (op.size,)
        factors = _per_axis(op, sizes, default=1)
        split = itertools.chain(*zip(value.shape, factors, strict=True))
        return targets.reshape(tuple(split)).sum(axis=tuple(range(1, 2 * len(factors), 2)))
    return targets


def _per_axis(op, amounts, default=(0, 0)) -> list:
    """Puts what a layer says of its spatial axes where these are in one image."""
    if len(np.shape(amounts)) == 1 and default != 1:
        amounts = [tuple(amounts)]
    return [default, *amounts] if _channel_axis(op) == 0 else [*amounts, default]


def _channel_axis(op: layers.Layer) -> int:
    """Of one image: 0 or -1."""
    return 0 if getattr(op, "data_format", None) == "channels_first" else -1


def _compressed(array: np.ndarray) -> np.ndarray:
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array
