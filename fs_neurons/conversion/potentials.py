"""How much more coarsely weights are rounded, so that no sum of integers can leave the range of potentials."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import keras
import numpy as np

from fs_neurons.network.calls import Call, Value
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import PRODUCT, kind_of

# Beyond what is needed, as weights are rounded anew.
MARGIN = 1.01
# Products alone become coarser up to this factor, then what is added to them, too.
MOST_OF_PRODUCTS = 8.0


def coarsened(
    network: Graph,
    over: Mapping[Call, np.ndarray],
    rescaled: Container[Call],
    before: Mapping[str, np.ndarray],
    largest: int,
    limit: int,
) -> dict[str, np.ndarray]:
    """Factors of the scales of weights, or of products, with which the sums that could leave the range do not.

    Args:
        network: whose weights are rounded.
        over: by how much sums could leave the range: (channels,) or (1,).
        rescaled: sites whose T and h are too large: these shrink with the unit, so that there is no limit.
        before: factors so far, (channels,), by the name of the call, of weights or a product.
        largest: that weights may be; no factor is larger, as there would be no weights left.
        limit: of potentials.

    Raises:
        ConversionError: no weights are to blame, or nothing would be left of them.
    """
    producers = producers_of(network)
    factors: dict[str, np.ndarray] = {}
    for call, ratio in over.items():
        before_it = list(sums_before(call, producers))
        # The units of products are the finest, as a rule.
        products = [x for x in before_it if kind_of(x.op) is PRODUCT]
        tried = max((before[x.name].max() for x in products if x.name in before), default=1.0)
        most = 1.0 if before_it else np.inf
        for layer in products if products and tried < MOST_OF_PRODUCTS else before_it:
            old = before.get(layer.name, np.ones(layer.outputs.shape[-1]))
            more = ratio if ratio.shape == old.shape else np.full_like(old, ratio.max())
            factor = old * np.where(more >= 1, MARGIN * more, 1.0)
            factors[layer.name] = np.maximum(factors.get(layer.name, old), factor)
            most = 1.0 if call in rescaled else max(most, factor[more >= 1].max())
        if most > largest:
            raise ConversionError(
                f"potentials behind {call.name!r} could reach {limit * ratio.max():.0f}, and must stay below"
                f" {limit}: take fewer weight_bits, fewer steps, or, where each channel has a set of its own, one"
                " for all of them, as in convert(model, swish='swish_k16')"
            )
    return factors


def producers_of(network: Graph) -> dict[Value, Call]:
    """The call that gives each value."""
    return {value: call for call in network.calls for value in keras.tree.flatten(call.outputs)}


def sums_before(call: Call, producers: Mapping[Value, Call]) -> Iterator[Call]:
    """Dense and convolutional layers and products whose outputs make up what a call gives, or takes if it is a
    site."""
    waiting = [call]
    while waiting:
        at = waiting.pop()
        kind = kind_of(at.op)
        if kind.weighted or kind is PRODUCT:
            yield at
        elif at is call or not at.is_site:
            waiting += [producers[value] for value in at.inputs if value in producers]
