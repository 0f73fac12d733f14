"""How many additions a spike causes: the fan-out of every neuron, borders and strides respected.

    fan = fan_out(graph, site.outputs)
    operations = (spikes * fan.total).sum()          # one addition per spike and target

A spike travels through layers that only route (padding, reshape, concatenation, batch normalisation,
which folds into weights) to the first that adds up: a dense or convolutional layer, a projection of an
attention or recurrent layer, with one target per output that the neuron has a weight to; average pooling,
with one per window; a residual addition, another site or the output of the model, with one. In a product of two
coded values each spike of the carrier makes one, and each of the other factor K, for the multiples of it, see
`network.coding`.
Max-pooling of spikes (`FSMaxPooling2D`) adds nothing. It fires spikes of its own, the binary code of its
output, and these cause additions as those of neurons do: it is a source of spikes like a site. Layers behind
any of these, such as the second of two convolutions with no activation between them, work on sums, once per
image: with a multiplier. `reach` counts what there is to do without one.

What a kind of layer does is in `network.kinds`; a call of a kind that is not known is in `unknown_calls`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from fs_neurons.network import geometry, kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding, Product
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import applies_activation, kind_of


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


def fan_out(graph: Graph, value: Value, coding: Coding | None = None) -> FanOut:
    """Targets of the spikes that make up a value.

    Args:
        graph: of a converted network.
        value: a site's output, or that of max-pooling of spikes.
        coding: of the graph, where it is known already.
    """
    products = (coding or Coding(graph)).products
    return FanOut(*(compressed(_targets(graph, value, only, products)) for only in (True, False)))


def pooled_site(graph: Graph, pool: Call) -> tuple[Call, list[Call]]:
    """The call of the FS layer whose spikes a pool takes, and those of zero padding in between, in order."""
    producers = {
        value.index: call for call in graph.calls for value in keras.tree.flatten(call.outputs)
    }
    call = producers[pool.inputs[0].index]
    paddings: list[Call] = []
    while not call.is_site:
        paddings.insert(0, call)
        call = producers[call.inputs[0].index]
    return call, paddings


def spiking_pools(graph: Graph) -> list[Call]:
    """Calls of max-pooling layers that fire spikes of their own."""
    return [call for call in graph.calls if kind_of(call.op) is kinds.SPIKING_POOLING]


def multiply_accumulates(call: Call) -> int | None:
    """Multiply-accumulates of a call for one image; those with padded zeros are left out.

    Weights of dense, convolutional, recurrent and attention layers, and products of two tensors. Activation
    functions, normalisations and scales, which go into weights, count nothing.

    Returns:
        None where they are not known.
    """
    inner, repeated = unwrapped_call(call)
    macs = kind_of(inner.op).macs
    count = macs(inner) if macs else None
    return None if count is None else math.prod(repeated) * count


def unknown_calls(graph: Graph) -> tuple[str, ...]:
    """Calls whose operations are not known: "name (class)", in order of execution, each once."""
    return tuple(
        dict.fromkeys(
            f"{call.name} ({type(call.op).__name__})"
            for call in graph.calls
            if multiply_accumulates(call) is None
        )
    )


def _targets(
    graph: Graph, value: Value, weighted_only: bool, products: Mapping[Call, Product]
) -> np.ndarray:
    total = np.zeros(value.shape, np.int64)
    for call in graph.consumers.get(value.index, ()):
        inner, repeated = unwrapped_call(call)
        kind = kind_of(inner.op)
        routes = geometry.unchanged if _is_linear_activation(inner) else kind.routes
        if routes:
            ends = keras.tree.flatten(call.outputs)
            behind = [_targets(graph, end, weighted_only, products) for end in ends]
            total += routes(call, value, behind)
            continue
        taken = value if inner is call else inner.inputs[0]
        fan = kind.fan_out(inner, taken) if kind.fan_out else None
        if fan is None:
            fan = np.zeros((), np.int64) if weighted_only else kind.additions(inner, taken)
        if call in products and products[call].is_coded and not weighted_only:
            product = products[call]
            fan = np.asarray(
                (value is product.carrier) + product.K * (value is product.other), np.int64
            )
        total += np.reshape(fan, (1,) * len(repeated) + np.shape(fan))
    if weighted_only:
        return total
    return total + sum(value is end for end in keras.tree.flatten(graph.outputs))


def _is_linear_activation(call: Call) -> bool:
    return isinstance(call.op, layers.Activation) and not applies_activation(call.op)


def unwrapped_call(call: Call) -> tuple[Call, tuple[int, ...]]:
    """The call of the layer inside of wrappers; and the lengths of the axes along which it is repeated."""
    repeated: tuple[int, ...] = ()
    while kind_of(call.op) is kinds.WRAPPER:
        (value,), output = call.inputs, call.outputs
        if isinstance(call.op, layers.TimeDistributed):
            repeated = (*repeated, value.shape[0])
            value, output = (
                dataclasses.replace(x, shape=x.shape[1:]) for x in (value, output)
            )  # fmt: skip
        call = Call(call.name, call.op.layer, ((value,), {}), output)
    return call, repeated


def compressed(array: np.ndarray) -> np.ndarray:
    """Length 1 along axes where it is constant."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array
