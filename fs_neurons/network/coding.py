"""What of a converted network is spikes: products of coded values, windows of time, and what needs a multiplier.

    coding = Coding(trace(snn))
    coding.products                  # computed by additions, from the spikes of their factors
    coding.digital                   # needs a multiplier, or hands on values that are no spikes; and why

A *coded* value is the spikes of one site, at most moved to other places. A *sum* is made of spikes by constant
weights, and of products. In a product of two values, one of them coded,

    x g = sum over t of d(t) z(t) g,

each spike of x at step t adds d(t) g: the *carrier* x, whose spikes travel, is the factor with more entries where both
are coded. The K multiples d(t) g of the other factor are formed by additions too: from its own spikes, as
d(t) g = sum over s of d(t) d'(s) z'(s) with a constant table of d(t) d'(s), or, where it is a sum, from the spikes
that make up the sum, each of whose weights there is K times, multiplied by d(t). The states of a recurrent layer are
no such factor: their multiples would need multiples at every step before.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import layers

from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.graph import Graph, is_linear
from fs_neurons.network.kinds import applies_activation, kind_of, unwrapped
from fs_neurons.network.sequences import InitialState

# What moves spikes and does nothing else to them.
_MOVING = (
    kinds.IDENTITY, kinds.AUGMENTATION, kinds.PADDING, kinds.CROPPING, kinds.UPSAMPLING,
    kinds.RESHAPING, kinds.PERMUTATION, kinds.REPETITION,
)  # fmt: skip
# Linear, without products of weights.
_WITHOUT_PRODUCTS = (*_MOVING, kinds.ROUTING, kinds.CONCATENATION)


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product of two values, one of them coded.

    Attributes:
        carrier: the factor whose spikes travel.
        other: the factor of which K multiples are formed.
        source: the site whose spikes the carrier is.
        is_coded: whether the other factor is coded too; else it is a sum.
    """

    carrier: Value
    other: Value
    source: Call
    is_coded: bool

    @property
    def K(self) -> int:
        """Number of multiples that are formed: time steps of the carrier."""
        return int(self.source.op.parameters.K)


class Coding:
    """Which values of a graph are spikes, and what is computed from them without a multiplier.

    Attributes:
        graph: of a converted network.
        sources: a coded value -> the site, or max-pooling of spikes, whose spikes it is.
        products: calls that are products of spikes.
        digital: a call -> why it needs a multiplier, or hands on values that need one behind it. Of calls in
            a row only the first is listed. Activations behind the class scores, such as softmax, are not.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.sources: dict[Value, Call] = {}
        self.products: dict[Call, Product] = {}
        self.digital: dict[Call, str] = {}
        # Values that are no sums of spikes, and whether a call that made them is listed.
        self._numbers: dict[Value, bool] = dict.fromkeys(graph.inputs, False)
        # Of recurrent layers, what begins a sequence, products, and sums of such: multiples of one would need
        # multiples of what it is made of, and so on to the first step.
        self._states: set[Value] = set()
        for call in graph.calls:
            self._visit(call)

    @functools.cached_property
    def windows(self) -> np.ndarray:
        """The window of K steps in which each value flows, counted from the image's first: int array (values,).

        A site fires one window after its input arrived. So does a product after the factor of which
        multiples are formed: they are complete by then.
        """
        at = np.zeros(len(self.graph.values), int)
        for call in self.graph.calls:
            inputs = [at[value.index] + call.is_site for value in call.inputs]
            if call in self.products:
                inputs.append(at[self.products[call].other.index] + 1)
            for value in keras.tree.flatten(call.outputs):
                at[value.index] = max(inputs, default=0)
        return at

    def _visit(self, call: Call) -> None:
        kind = kind_of(unwrapped(call.op))
        outputs = keras.tree.flatten(call.outputs)
        if isinstance(call.op, InitialState):
            self._states.update(outputs)  # zeros, which add nothing
            return
        if call.is_site:
            self.sources[call.outputs] = call
            return
        if kind is kinds.SPIKING_POOLING:
            self.sources[call.outputs] = self.sources.get(call.inputs[0], call)
            return
        if is_linear(call):
            if any(value in self._states for value in call.inputs):
                self._states.update(outputs)
            if kind in _MOVING and len(call.inputs) == 1 and call.inputs[0] in self.sources:
                self.sources.update(dict.fromkeys(outputs, self.sources[call.inputs[0]]))
            self._visit_linear(call, kind, outputs)
            return
        if kind is kinds.SHIFT and not any(value in self._numbers for value in call.inputs):
            return  # still a sum, of integers
        product = self._product(call, kind)
        if product is not None:
            self.products[call] = product
            if call.sequence is not None:
                self._states.update(outputs)
        elif not self._is_head(call, kind):
            self._list(call, _reason(call, kind), outputs)

    def _visit_linear(self, call: Call, kind: kinds.Kind, outputs: list[Value]) -> None:
        numbers = [value for value in call.inputs if value in self._numbers]
        if not numbers:
            return
        if not (_only_adds(call, kind) or any(self._numbers[value] for value in numbers)):
            self._list(call, "takes an input as numbers: give input_bits", outputs)
            return
        listed = any(self._numbers[value] for value in numbers)
        self._numbers.update(dict.fromkeys(outputs, listed))

    def _list(self, call: Call, reason: str, outputs: list[Value]) -> None:
        if not any(self._numbers.get(value) for value in call.inputs):
            self.digital[call] = reason
        self._numbers.update(dict.fromkeys(outputs, True))

    def _product(self, call: Call, kind: kinds.Kind) -> Product | None:
        if kind is not kinds.PRODUCT or type(call.op).__name__ != "Multiply":
            return None
        factors = call.inputs
        if len(factors) != 2 or len(factors[0].shape) != len(factors[1].shape):
            return None
        if any(value in self._numbers for value in factors):
            return None
        coded = [value for value in factors if value in self.sources]
        if not coded:
            return None
        carrier = max(coded, key=lambda value: math.prod(value.shape))
        other = factors[1] if carrier is factors[0] else factors[0]
        if other in self._states:
            return None
        return Product(carrier, other, self.sources[carrier], other in self.sources)

    def _is_head(self, call: Call, kind: kinds.Kind) -> bool:
        """Whether this applies an activation behind which there are only outputs of the model."""
        inline = kind.splittable and applies_activation(unwrapped(call.op))
        if not (kind is kinds.ACTIVATION or inline):
            return False
        if any(value in self._numbers for value in call.inputs):
            return False
        waiting = keras.tree.flatten(call.outputs)
        while waiting:
            for consumer in self.graph.consumers.get(waiting.pop().index, ()):
                if kind_of(consumer.op) not in (kinds.IDENTITY, kinds.RESHAPING):
                    return False
                waiting += keras.tree.flatten(consumer.outputs)
        return True


def _only_adds(call: Call, kind: kinds.Kind) -> bool:
    op: Any = unwrapped(call.op)
    if isinstance(op, layers.Rescaling):
        return bool(np.all(np.asarray(op.scale) == 1))
    if kind is kinds.SUM:
        return type(op).__name__ in ("Add", "Subtract", "Negative", "Sum")
    return kind in _WITHOUT_PRODUCTS or isinstance(op, layers.Activation)


def _reason(call: Call, kind: kinds.Kind) -> str:
    if kind is kinds.PRODUCT and call.sequence is not None:
        return "multiplies a gate with a state, which is no spikes of a site"
    if kind is kinds.PRODUCT:
        return "is a product neither factor of which is the spikes of a site"
    if kind in (kinds.MAX_POOLING, kinds.GLOBAL_MAX_POOLING):
        return (
            "hands on the largest values, not spikes: it takes those of one site whose response never falls,"
            " as MaxPooling2D"
        )
    if kind is kinds.ACTIVATION or kind.splittable:
        return "is an activation that was kept"
    return f"is a {type(call.op).__name__}, which is not linear"
