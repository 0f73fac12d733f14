"""Which axis of each value holds its channels, as far as the layers before it tell.

axes = channel_axes(trace(model))
axes[value]                      # counted with the batch, or None where it isn't known
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers

from fs_neurons.network import kinds
from fs_neurons.network.graph import Call, Graph, Value
from fs_neurons.network.kinds import channel_axis, kind_of, unwrapped

# These keep the axis that their input has; others of the table say theirs.
_KEEPING = (
    kinds.IDENTITY, kinds.AUGMENTATION, kinds.PADDING, kinds.CROPPING, kinds.UPSAMPLING,
    kinds.INTERPOLATION, kinds.AVERAGE_POOLING, kinds.MAX_POOLING, kinds.SPIKING_POOLING, kinds.AFFINE,
    kinds.IMAGE_NORMALIZATION, kinds.NEURONS, kinds.ACTIVATION,
)  # fmt: skip
_JOINING = (kinds.SUM, kinds.PRODUCT, kinds.CONCATENATION)


def channel_axes(graph: Graph, keeping: tuple[type, ...] = ()) -> dict[Value, int | None]:
    """Axis of the channels of every value, counted with the batch, so that it is at least 1.

    Dense and convolutional layers and batch normalisation set it. Layers that keep channels apart hand it
    on: activations, padding, pooling, sums and products, concatenation, and reshaping where the channels
    stay an axis of their own. It is None behind every other operation, for the inputs of the model, and
    where branches that meet disagree.

    Args:
        graph: of a model.
        keeping: classes of further layers that keep the axes of their input.
    """
    axes: dict[Value, int | None] = dict.fromkeys(graph.inputs)
    for call in graph.calls:
        for value in keras.tree.flatten(call.outputs):
            axes[value] = None
        if isinstance(call.outputs, Value):
            axes[call.outputs] = _axis(call, call.outputs, axes, keeping)
    return axes


def _axis(
    call: Call, output: Value, axes: dict[Value, int | None], keeping: tuple[type, ...]
) -> int | None:
    rank = len(output.shape) + 1
    op = call.op
    kind = kind_of(unwrapped(op)) if isinstance(op, layers.Layer) else kind_of(op)
    if kind is kinds.EINSUM and not _ends_with_weights(unwrapped(op).equation):
        return None
    if kind.weighted or isinstance(op, layers.BatchNormalization):
        return channel_axis(op) % rank
    known = {
        axis + rank - len(value.shape) - 1  # broadcasting aligns the last axes
        for value in call.inputs
        if (axis := axes[value]) is not None
    }
    if len(known) != 1:
        return None
    (axis,) = known
    if (kind in _JOINING and isinstance(op, layers.Layer)) or (
        kind is kinds.SUM and _is_binary(op)
    ):
        return axis
    if kind is kinds.PRODUCT and len(call.inputs) == len(keras.tree.flatten(call.arguments[0])):
        return axis
    before = call.inputs[0]
    if kind in _KEEPING or isinstance(op, keeping):
        return axes[before]
    if kind in (kinds.GLOBAL_AVERAGE_POOLING, kinds.GLOBAL_MAX_POOLING):
        return axes[before] if len(before.shape) == len(output.shape) else 1
    if kind is kinds.RESHAPING:
        return _reshaped(axes[before], (0, *before.shape), (0, *output.shape))
    if kind is kinds.PERMUTATION:
        dims: tuple[int, ...] = op.dims
        return 1 + dims.index(axis)  # of as many axes as before
    if kind is kinds.REPETITION:
        return 2
    return None


def _ends_with_weights(equation: str) -> bool:
    """Whether the last axis of an einsum's output comes from its kernel, and not from its input."""
    inputs, output = equation.split("->")
    return output.strip()[-1] not in inputs.split(",")[0]


def _is_binary(op: Any) -> bool:
    return type(op).__name__ in ("Add", "Subtract", "Negative")


def _reshaped(axis: int | None, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """Where an axis is after a reshape, which keeps the order of entries: as many before it and along it."""
    if axis is None:
        return None
    size, outer = before[axis], math.prod(before[1:axis])
    for i in range(1, len(after)):
        if after[i] == size and math.prod(after[1:i]) == outer:
            return i
    return None
