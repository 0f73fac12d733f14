"""Constants that make up for rounded weights: each channel keeps the mean that it had before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.conversion.integers import Integers
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.graph import Graph


def mean_outputs(network: Graph, structure: Any, images: Any, calls: Any) -> dict[Call, np.ndarray]:
    """The mean output of calls, (channels,) each.

    Args:
        network: that they are part of.
        structure: of its inputs.
        images: what the network takes.
        calls: any of its calls.
    """
    means: dict[Call, np.ndarray] = {}

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        y = call(tensors)
        if call in calls:
            means[call] = _mean(y)
        return y

    network.run(_packed(structure, images), each)
    return means


def fitted_offsets(
    chip: Graph,
    structure: Any,
    images: Any,
    made: Mapping[int, tuple[Call, Integers]],
    means: Mapping[Call, np.ndarray],
) -> dict[Call, np.ndarray]:
    """What to add to the output of layers of a network in integers, so that their means are those of the original.

    Layers are seen one after the other, each behind all that was added before it.

    Args:
        chip: the network in integers.
        structure: of its inputs.
        images: what it takes.
        made: id of a layer -> the call that it was made of, and its output.
        means: outputs of these calls, see `mean_outputs`.

    Returns:
        (channels,) each, in units of the original.
    """
    offsets: dict[Call, np.ndarray] = {}

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        y = call(tensors)
        if id(call.op) not in made:
            return y
        original, output = made[id(call.op)]
        offset = np.rint(means[original] / output.unit - _mean(y))
        offsets[original] = offset * output.unit
        return y + ops.convert_to_tensor(offset.astype(np.float32))

    chip.run(_packed(structure, images), each)
    return offsets


def _packed(structure: Any, images: Any) -> Any:
    arrays = [ops.convert_to_tensor(x, "float32") for x in keras.tree.flatten(images)]
    return keras.tree.pack_sequence_as(structure, arrays)


def _mean(y: Any) -> np.ndarray:
    values = ops.convert_to_numpy(y)
    return np.asarray(values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float64))
