"""Constants that make up for rounded weights: each channel keeps the mean that it had before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.conversion.integers import Integers
from fs_neurons.conversion.rounding import Seen, mean
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.graph import Graph


def fitted_offsets(
    chip: Graph,
    inputs: Any,
    made: Mapping[int, tuple[Call, Integers]],
    seen: Mapping[Call, Seen],
) -> dict[Call, np.ndarray]:
    """What to add to the output of layers of a network in integers, so that their means are those of the original.

    Layers are seen one after the other, each behind all that was added before it.

    Args:
        chip: the network in integers.
        inputs: tensors in the structure that it takes.
        made: id of a layer -> the call that it was made of, and its output.
        seen: what these calls give for the same inputs.

    Returns:
        (channels,) each, in units of the original.
    """
    offsets: dict[Call, np.ndarray] = {}

    def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
        y = call(tensors)
        if id(call.op) not in made:
            return y
        original, output = made[id(call.op)]
        offset = np.rint(seen[original].mean / output.unit - mean(y))
        offsets[original] = offset * output.unit
        return y + ops.convert_to_tensor(offset.astype(np.float32))

    chip.run(inputs, each)
    return offsets


def squared_error(found: Any, wanted: Any) -> float:
    """Mean squared error of outputs in any structure, each in units of its variance."""
    errors = []
    for a, b in zip(*map(keras.tree.flatten, (found, wanted)), strict=True):
        a, b = (ops.convert_to_numpy(y).astype(np.float64) for y in (a, b))
        errors.append(np.mean(np.square(a - b)) / (b.var() or 1.0))
    return float(np.mean(errors))
