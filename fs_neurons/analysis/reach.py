"""Additions of a network without a multiplier: every neuron that a spike reaches, through all linear layers on the way.

    reach = Additions(coding)
    reach.of(site.outputs)           # additions that a spike of each neuron causes

Without a multiplier there are no weights behind a sum. So layers in a row with no neurons in between are one layer,
whose weights are the products of theirs, known before any image: a spike makes one addition at each neuron, output of
the model, or product of spikes that it reaches. Reaching it on two branches makes two.

At a product (see `network.coding`) the spikes of the carrier go on, with the multiples of the other factor as weights. Each
of the K multiples, times each weight behind the product, is formed anew for every image: as many additions for
each spike of the other factor, or, where that is a sum, for each spike that reaches it. Where the other factor is the
same for many places, such as the gate of a channel, its multiples are formed once for all of them; weights of
convolutions are, too, so that they count once for all places that they are shifted to.
"""

from __future__ import annotations

import keras
import numpy as np

from fs_neurons.analysis.connectivity import unwrapped_call
from fs_neurons.analysis.places import Reached
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding, Product
from fs_neurons.network.graph import is_linear
from fs_neurons.network.kinds import kind_of


class Additions:
    """Additions that spikes cause in a network without a multiplier.

    Args:
        coding: of the network.
    """

    def __init__(self, coding: Coding):
        self.coding = coding
        self.graph = coding.graph
        self._ends = {value.index for value in keras.tree.flatten(self.graph.outputs)}
        self._formed: dict[Product, np.ndarray] = {}

    def of(self, value: Value) -> np.ndarray:
        """For each entry, additions that a spike of it causes: int64, broadcasts to the value."""
        return self._behind(value, Reached.itself(value))

    def formed(self, product: Product, output: Value) -> np.ndarray:
        """Multiples of each entry of the other factor: int64, broadcasts to it."""
        if product not in self._formed:
            ends: list[tuple[Reached, np.ndarray]] = []
            self._behind(output, Reached.itself(output), ends)
            shape = product.other.shape
            multiples = [reached.multiples(shape) * int(costs.max()) for reached, costs in ends]
            self._formed[product] = product.K * sum(multiples, start=np.zeros((), np.int64))
        return self._formed[product]

    def _behind(
        self, value: Value, reached: Reached, ends: list[tuple[Reached, np.ndarray]] | None = None
    ) -> np.ndarray:
        """Additions of each entry of a source that reaches a value so; adds what they are made at to `ends`."""
        total = np.zeros((1,) * reached.rank, np.int64)
        one = np.ones((), np.int64)

        def end(costs: np.ndarray = one) -> np.ndarray:
            if ends is not None:
                ends.append((reached, costs))
            return reached.total(
                np.reshape(costs, (1,) * (len(reached.axes) - costs.ndim) + costs.shape)
            )

        if value.index in self._ends:
            total = total + end()
        for call in self.graph.consumers.get(value.index, ()):
            product = self.coding.products.get(call)
            if product is not None:
                if value is product.other:
                    total = total + end(self.formed(product, call.outputs))
                if value is product.carrier:
                    spread = reached.spread(call.outputs)
                    assert spread is not None  # factors have the rank of their product
                    total = total + self._behind(call.outputs, spread, ends)
            elif kind_of(call.op) is kinds.SPIKING_POOLING:
                continue  # a gate, whose own spikes cause additions
            elif (
                is_linear(call) or kind_of(call.op).weighted
            ):  # with a softmax behind the class scores
                behind = reached.through(call, value)
                if behind is None:
                    total = total + end(self._path_by_path(call, value))
                else:
                    total = total + self._behind(call.outputs, behind, ends)
            else:
                total = total + end()
        return total

    def _path_by_path(self, call: Call, value: Value) -> np.ndarray:
        """Where places can't be followed: at most so many, as every target has its own targets."""
        behind = [self.of(end) for end in keras.tree.flatten(call.outputs)]
        kind = kind_of(call.op)
        if kind.routes:
            return kind.routes(call, value, behind)
        inner, repeated = unwrapped_call(call)
        kind = kind_of(inner.op)
        taken = value if inner is call else inner.inputs[0]
        fan = kind.fan_out(inner, taken) if kind.fan_out else None
        fan = kind.additions(inner, taken) if fan is None else fan
        most = max(int(costs.max(initial=0)) for costs in behind)
        return np.reshape(fan, (1,) * len(repeated) + np.shape(fan)) * most
