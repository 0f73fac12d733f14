"""Statistics inside recurrent layers, without data: what the operations of a cell do to them, step by step.

A layer is unrolled, from a state of zeros, for so many steps that its states have become what they stay like. The
input has the same statistics at every step, and is taken for independent of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration import moments
from fs_neurons.calibration.moments import ASSUMED, NORMALIZED, Moments
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import Graph, trace
from fs_neurons.network.kinds import kind_of
from fs_neurons.network.recurrent import copy_all_weights, gated_clone, outer_axes, rnns
from fs_neurons.network.sequences import InitialState
from fs_neurons.network.sites import Site
from fs_neurons.network.unrolling import Unrolled, is_unrollable

MOST_STEPS = 32

# From a call and the statistics of its inputs to those of its outputs; None where they are unknown.
Rule = Callable[[Call, list[Moments]], list[Moments] | None]


class Gate(keras.layers.Layer):
    """Stands at a gate of an unrolled layer.

    Attributes:
        site: the gate.
    """

    def __init__(self, site: Site):
        super().__init__()
        self.site = site

    def call(self, x: Any) -> Any:
        return x


def steps_of(call: Call, sites: dict[str, Site]) -> Graph | None:
    """A recurrent layer as a graph of its first steps, whose input is the sequence; `Gate`s stand at its gates.

    Args:
        call: of the layer, built.
        sites: by gate, see `network.recurrent.gates_of`.

    Returns:
        None where the layer can't be unrolled.
    """
    layer, sequences = call.op, call.inputs[0]
    # What TimeDistributed takes apart is alike.
    outer = outer_axes(layer)
    steps, *shape = sequences.shape[outer:]
    x = Value(0, (*(1,) * outer, min(steps, MOST_STEPS), *shape), sequences.dtype)
    if any(part.stateful for part in rnns(layer)):
        return None
    try:
        clone = gated_clone(layer, call.name, {path: Gate(site) for path, site in sites.items()})
        if not is_unrollable(clone):
            return None
        clone.build((None, *x.shape))
        copy_all_weights(layer, clone, call.name)
        return trace(Unrolled(clone, call.name, x, None, None).model)
    except ConversionError:
        return None


def of_sequences(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    """Statistics of what an operation gives that occurs in unrolled layers, or before recurrent ones."""
    if isinstance(call.op, layers.Masking):
        return inputs
    if isinstance(call.op, layers.Embedding):
        return [_embedded(call)]
    if isinstance(call.op, InitialState):
        (size,) = call.outputs.shape[-1:]
        return [Moments(np.zeros(size), np.zeros(size), len(call.outputs.shape), NORMALIZED)]
    rule = RULES.get(type(call.op).__name__)
    known = kind_of(call.op) in (kinds.ROUTING, kinds.CONTRACTION)
    return rule(call, inputs) if rule is not None and known else None


def _embedded(call: Call) -> Moments:
    """Of symbols that are assumed to be equally frequent, but for those that are masked."""
    table = ops.convert_to_numpy(call.op.embeddings).astype(float)[int(call.op.mask_zero) :]
    return Moments(table.mean(axis=0), table.var(axis=0), len(call.outputs.shape), ASSUMED)


def _part(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    """One step of a sequence, or some of the channels."""
    (x,), (_, key) = inputs, call.arguments[0]
    if not (isinstance(key, tuple) and key[0] == slice(None) and len(key) == 2):
        return None
    index = key[1]
    if isinstance(index, int) and x.axis > 1:
        return [Moments(x.mean, x.variance, x.axis - 1, x.source)]
    if isinstance(index, slice) and x.axis == 1:
        return [Moments(x.mean[index], x.variance[index], 1, x.source)]
    return None


def _split(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    (x,) = inputs
    rank = len(call.inputs[0].shape) + 1
    if call.op.axis % rank != x.axis:
        return None
    parts = (np.split(of, call.op.indices_or_sections) for of in (x.mean, x.variance))
    return [
        Moments(mean, variance, x.axis, x.source) for mean, variance in zip(*parts, strict=True)
    ]


def _stacked(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    if call.op.axis != 1 or len({x.axis for x in inputs}) > 1:
        return None
    x = moments.mixture(inputs)
    return [Moments(x.mean, x.variance, x.axis + 1, x.source)]


def _concatenated(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    axis = call.op.axis % (len(call.outputs.shape) + 1)
    return [moments.concatenated(inputs)] if all(x.axis == axis for x in inputs) else None


def _flipped(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    return inputs if call.op.axis != inputs[0].axis else None


def _multiplied(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    """By a constant matrix."""
    x, kernel = call.arguments[0]
    if not isinstance(x, Value) or isinstance(kernel, Value) or len(kernel.shape) != 2:
        return None
    rank = len(call.outputs.shape)
    if inputs[0].axis != rank:
        return None
    matrix = ops.convert_to_numpy(kernel).astype(float)
    return [moments.weighted(inputs[0], matrix[None, None], 0.0, rank)]


RULES: dict[str, Rule] = {
    "GetItem": _part,
    "Split": _split,
    "Stack": _stacked,
    "Concatenate": _concatenated,
    "Flip": _flipped,
    "Matmul": _multiplied,
}
