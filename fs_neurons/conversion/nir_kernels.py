"""Shapes, kernels, constants and spikes as NIR has them: channels first, as many zeros on both sides, no groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import kind_of


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[-1], *shape[:-1])


def moved(x: np.ndarray, last: int = 1) -> np.ndarray:
    """(images, ..., channels) -> (images, channels, ...); `last` counts the axes from that of the channels on."""
    return np.moveaxis(x, -last, 1)


def dense_kernel(kernel: np.ndarray, call: Call, channels: int) -> np.ndarray:
    """(height, width, inputs, outputs), zero where groups don't meet: NIR's types know no groups."""
    if kind_of(call.op) is kinds.DEPTHWISE:
        full: np.ndarray = np.einsum("hwcm,cd->hwdcm", kernel, np.eye(channels, dtype=kernel.dtype))
        return full.reshape(*kernel.shape[:2], channels, -1)
    groups = channels // kernel.shape[2]
    if groups == 1:
        return kernel
    outputs = kernel.shape[3] // groups
    result = np.zeros((*kernel.shape[:2], channels, kernel.shape[3]), kernel.dtype)
    for g in range(groups):
        inside = slice(g * kernel.shape[2], (g + 1) * kernel.shape[2])
        part = slice(g * outputs, (g + 1) * outputs)
        result[:, :, inside, part] = kernel[..., part]
    return result


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and behind, of padding "same"."""
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def symmetric(
    kernel: np.ndarray, pads: list[tuple[int, int]], dilation: tuple[int, int]
) -> tuple[np.ndarray | None, tuple[int, int]]:
    """(outputs, inputs, height, width) and as many zeros on both sides: the kernel with zeros takes the rest."""
    widest = (max(pads[0]), max(pads[1]))
    zeros = [(p - a, p - b) for p, (a, b) in zip(widest, pads, strict=True)]
    if any(gap > 1 and any(more) for gap, more in zip(dilation, zeros, strict=True)):
        return None, widest
    return np.pad(kernel, [*zeros, (0, 0), (0, 0)]).transpose(3, 2, 0, 1).copy(), widest


def constants_of(coding: Coding, structure: Any) -> dict[Value, np.ndarray]:
    """What arrives beside spikes and the biases of nodes: at sites and at products and shifts, which hold sums, by their
    outputs, and at the output.

    Args:
        coding: of a network with one input and one output.
        structure: of its inputs.
    """
    with_offsets, without = (_silent(coding, structure, offsets) for offsets in (True, False))
    return {value: moved(x - without[value])[0] for value, x in with_offsets.items()}


def _silent(coding: Coding, structure: Any, offsets: bool) -> dict[Value, np.ndarray]:
    """What arrives without any spike; with what normalisations add, or without."""
    found: dict[Value, np.ndarray] = {}
    network = coding.graph

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        y = call(tensors)
        product = coding.products.get(call)
        if call.is_site or product or kind_of(call.op) is kinds.SHIFT:
            arrives = tensors(product.other if product else call.inputs[0])
            found[call.outputs] = ops.convert_to_numpy(arrives)
            return ops.zeros_like(y)
        if kind_of(call.op) is kinds.AFFINE and not offsets:
            return y - call(lambda value: ops.zeros_like(tensors(value)))
        return y

    (value,), (end,) = network.inputs, keras.tree.flatten(network.outputs)
    zeros = np.zeros((1, *value.shape), np.float32)
    outputs = network.run(keras.tree.pack_sequence_as(structure, [zeros]), each)
    (output,) = keras.tree.flatten(outputs)
    return {**found, end: ops.convert_to_numpy(output)}


def spikes_of(
    network: Graph, structure: Any, images: np.ndarray
) -> tuple[dict[Value, np.ndarray], np.ndarray]:
    """Spikes of each site, by its output, and class scores, as NIR has their entries.

    Args:
        network: with one input and one output.
        structure: of its inputs.
        images: (images, ..., channels).

    Returns:
        int32 arrays (spikes, 3), (image, step, index of the neuron) each; and the class scores (images, ...).
    """
    events: dict[Value, np.ndarray] = {}

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        if call.is_site:
            op: Any = call.op
            x = op.in_units(tensors(call.inputs[0]))
            z = ops.convert_to_numpy(neuron.spike_train(x, op.parameters)) > 0
            z = np.moveaxis(moved(z, last=2), -1, 1)  # images, steps, neurons as NIR has them
            image, step, index = np.nonzero(z.reshape(*z.shape[:2], -1))
            events[call.outputs] = np.stack([image, step, index], axis=1).astype(np.int32)
        return call(tensors)

    inputs = keras.tree.pack_sequence_as(structure, [images])
    (scores,) = keras.tree.flatten(network.run(inputs, each))
    return events, moved(ops.convert_to_numpy(scores))
