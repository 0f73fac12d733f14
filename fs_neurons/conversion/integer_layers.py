"""How each kind of layer computes in integers, and in which unit: what `quantize` builds its network of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import layers, ops

from fs_neurons.conversion.integer_sites import (
    channels_are_last,
    integer_neurons,
    integer_spikes,
)
from fs_neurons.conversion.integers import (
    Beside,
    Integers,
    Numbers,
    common_unit,
    integer_weights,
    is_output,
    plain,
)
from fs_neurons.conversion.potentials import producers_of, sums_before
from fs_neurons.conversion.rounding import Seen
from fs_neurons.layers import FSActivation, FSMaxPooling2D, RightShift
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.cloning import clone_of
from fs_neurons.network.coding import Coding
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.geometry import data_axis
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import Kind, applies_activation, kind_of
from fs_neurons.neuron import FSParameters

# What shifted sums leave of the range of potentials to what is added to them.
HEADROOM = 2.0
# Weights behind sums are not rounded more coarsely than by this factor: the sums are shifted.
MOST_COARSER = 16.0


class IntegerLayers:
    """Makes the layers of a network in integers.

    Args:
        network: to be made in integers.
        weight, parameter: largest that weights, and d of sets that are no binary codes, may be.
        potential: that sums must stay below.
        seen: what weighted calls do to images, for their weights to be rounded; empty where there are none.
        fewer: name of a site -> the largest that its d may be, where that is less than `parameter`.
        coarser: name of a call, of weights or a product -> factors of the scales of its output channels.
        offsets: of the outputs of weighted calls, (channels,), see `integer_offsets`.
        parts: of units where branches meet, see `integer_weights`.

    Attributes:
        over: by how much sums could leave the range.
        rescaled: sites whose T and h are what could; these shrink with the unit.
        made: id of a layer of weights -> the call that it was made of, and its output.
    """

    def __init__(
        self, network: Graph, weight: int, parameter: int, potential: int,
        seen: Mapping[Call, Seen], fewer: Mapping[str, int],
        coarser: Mapping[str, np.ndarray], offsets: Mapping[Call, np.ndarray], parts: int,
    ):  # fmt: skip
        self.network = network
        self.coarser, self.seen, self.offsets, self.parts = coarser, seen, offsets, parts
        self.fewer = fewer
        self.over: dict[Call, np.ndarray] = {}
        self.rescaled: set[Call] = set()
        self.made: dict[int, tuple[Call, Integers]] = {}
        self.coding = Coding(network)
        self.producers = producers_of(network)
        self.largest_weight, self.largest_parameter = weight, parameter
        self.limit = potential
        self.of: dict[Value, Integers | Numbers] = {}
        self.names: set[str] = set()

    def neurons(self, call: Call, x: Integers) -> Integers:
        """T and h in units of the potential; spikes of a binary code are shifts."""
        op: Any = call.op
        if not channels_are_last(call):
            raise ConversionError(
                f"quantize: the neurons of {call.name!r} differ along an axis that is not the last one"
            )
        channels = call.outputs.shape[-1]
        unit = np.broadcast_to(x.unit, channels)
        neurons = integer_neurons(op, unit, self.largest_spike(call))
        reach = neurons.largest_potential(x.low, x.high)
        if not neurons.is_binary:  # some thresholds are out of reach
            self.rescaled.add(call)
            neurons = dataclasses.replace(neurons, T=np.clip(neurons.T, -reach - 1, reach + 1))
        self.check(call, neurons.T, neurons.h, reach)
        layer = FSActivation(
            neurons.parameters(), op.activation_name, name=self.name(op.name), dtype="float32",
            passes_mask=op.passes_mask,
        )  # fmt: skip
        low, high = (f(neurons.d, 0).sum(axis=0) for f in (np.minimum, np.maximum))
        return Integers(layer(x.tensor), neurons.unit, low, high)

    def weighted(self, call: Call, x: Integers) -> Integers | Numbers | None:
        op: Any = call.op
        kind = kind_of(op)
        if kind.scale_inputs is None or kind.scale_outputs is None or data_axis(op) != -1:
            return None
        if call in self.coding.digital or getattr(op, "quantization_mode", None):
            return None
        inputs = call.inputs[0].shape[-1]
        common = is_output(self.network, call.outputs)
        beside = self.beside(call.outputs)
        coarser = self.coarser.get(call.name, 1.0)
        seen = self.seen.get(call)
        feedback = None if seen is None else seen.feedback
        known = self.largest_weight, common, beside, coarser, self.parts, feedback
        w = integer_weights(op, x, inputs, *known)
        worst = max(np.abs(w.low).max(), np.abs(w.high).max())
        coded = call.inputs[0] in self.coding.sources
        if not coded and (self.is_sum(call.inputs[0]) or worst > MOST_COARSER * self.limit):
            x = self.shifted_down(x, worst, f"{call.name}_input")
            w = integer_weights(op, x, inputs, *known)
        bias = w.bias + np.rint(self.offsets.get(call, 0.0) / w.unit)
        self.check(call, w.low - np.abs(bias), w.high + np.abs(bias))
        name = self.name(op.name)
        layer = clone_of(op, name, linear=True, use_bias=True, name=name, dtype="float32")
        y = layer(x.tensor)
        layer.set_weights([w.kernel.astype(np.float32), bias.astype(np.float32)])
        result = Integers(y, w.unit, w.low + bias, w.high + bias)
        if not applies_activation(op):
            self.made[id(layer)] = call, result
            return result
        # Behind the class scores.
        head = layers.Activation(op.activation, name=self.name(f"{name}_head"), dtype="float32")
        return Numbers(head(self.in_unit(result)))

    def added(self, call: Call, *terms: Integers) -> Integers | None:
        if type(call.op).__name__ != "Add" or len(terms) < 2:
            return None
        if len({x.tensor.shape for x in terms}) > 1:
            return None
        units = [np.broadcast_to(x.unit, call.outputs.shape[-1]) for x in terms]
        unit, factors = common_unit(units)
        scaled = [
            self.scaled(x.tensor, plain(m), 0.0, f"{call.op.name}_units")
            for x, m in zip(terms, factors, strict=True)
        ]
        low = sum(m * x.low for m, x in zip(factors, terms, strict=True))
        high = sum(m * x.high for m, x in zip(factors, terms, strict=True))
        y = layers.Add(name=self.name(call.op.name), dtype="float32")(scaled)
        return Integers(y, unit, np.asarray(low), np.asarray(high))

    def multiplied(self, call: Call, *factors: Integers) -> Integers | None:
        """Of two factors, the one of which multiples are formed without its lowest bits, if need be."""
        product = self.coding.products.get(call)
        if product is None:
            return None
        at = 1 if product.carrier is call.inputs[0] else 0  # the other factor
        carrier, other = factors[1 - at], factors[at]
        worst = carrier.largest * other.largest * self.coarser.get(call.name, 1.0)
        other = self.shifted_down(other, worst, f"{call.name}_factor")
        tensors = [carrier.tensor, carrier.tensor]
        tensors[at] = other.tensor
        y = layers.Multiply(name=self.name(call.op.name), dtype="float32")(tensors)
        corners = [a * b for a in (carrier.low, carrier.high) for b in (other.low, other.high)]
        low, high = (np.asarray(end.reduce(corners)) for end in (np.minimum, np.maximum))
        return Integers(y, carrier.unit * other.unit, low, high)

    def averaged(self, call: Call, x: Integers) -> Integers | None:
        """The sum of an image, in a smaller unit."""
        op: Any = call.op
        if data_axis(op) != -1:
            return None
        axes = tuple(range(1, len(x.tensor.shape) - 1))
        positions = math.prod(x.tensor.shape[axis] for axis in axes)
        if self.is_sum(call.inputs[0]):
            x = self.shifted_down(x, positions * x.largest, f"{call.name}_input")
        y = ops.sum(x.tensor, axis=axes, keepdims=op.keepdims)
        return Integers(y, x.unit / positions, positions * x.low, positions * x.high)

    def pooled(self, call: Call, x: Integers) -> Integers | None:
        """The sum of a window of 2^n entries, in a smaller unit: their mean is exact in float32."""
        op: Any = call.op
        area = math.prod(op.pool_size)
        if data_axis(op) != -1 or op.padding != "valid" or area & (area - 1):
            return None
        if self.is_sum(call.inputs[0]):
            x = self.shifted_down(x, area * x.largest, f"{call.name}_input")
        y = self.scaled(self.clone(op)(x.tensor), float(area), 0.0, f"{op.name}_units")
        return Integers(y, x.unit / area, area * x.low, area * x.high)

    def largest(self, call: Call, x: Integers) -> Integers | None:
        """Max-pooling of binary codes, which are numbers in order."""
        op: Any = call.op
        p = op.parameters
        members = (p,) if isinstance(p, FSParameters) else p.used
        if any(member.alpha is None for member in members):
            return None
        config = layers.MaxPooling2D.get_config(op)
        pool = FSMaxPooling2D.from_config(
            {**config, "K": p.K, "alpha": 2.0**p.K, "name": self.name(op.name), "dtype": "float32"}
        )
        return dataclasses.replace(x, tensor=pool(x.tensor))

    def shifted(self, call: Call, x: Integers) -> Integers | None:
        """A constant, rounded to integers; scales are in the weights by now."""
        op: Any = call.op
        if not (isinstance(op, layers.Rescaling) and np.all(np.asarray(op.scale) == 1)):
            return None
        offset = np.rint(np.ravel(op.offset) / x.unit)
        y = self.scaled(x.tensor, 1.0, plain(offset), op.name)
        return Integers(y, x.unit, x.low + offset, x.high + offset)

    def moved(self, call: Call, x: Integers) -> Integers | None:
        op: Any = call.op
        if data_axis(op) != -1:
            return None
        ends = np.minimum(x.low, 0), np.maximum(x.high, 0)  # with padded zeros
        return Integers(self.clone(op)(x.tensor), x.unit, *ends)

    def reshaped(self, call: Call, x: Integers) -> Integers | None:
        """Where each entry keeps its channel, or all channels have one unit."""
        before, after = call.inputs[0].shape, call.outputs.shape
        parts: tuple[np.ndarray, ...] = (x.unit, x.low, x.high)
        if after[-1] != before[-1] and any(np.ptp(part) for part in parts):
            if len(after) != 1 or data_axis(call.op) != -1:
                return None
            parts = tuple(np.broadcast_to(part, before).ravel() for part in parts)
        elif after[-1] != before[-1]:
            parts = tuple(part[:1] for part in parts)
        return Integers(self.clone(call.op)(x.tensor), *parts)

    def joined(self, call: Call, *parts: Integers) -> Integers | None:
        op: Any = call.op
        if not isinstance(op, layers.Concatenate) or op.axis not in (-1, len(call.outputs.shape)):
            return None
        sizes = [x.tensor.shape[-1] for x in parts]
        unit, low, high = (
            np.concatenate(
                [np.broadcast_to(getattr(x, name), n) for x, n in zip(parts, sizes, strict=True)]
            )
            for name in ("unit", "low", "high")
        )
        return Integers(self.clone(op)([x.tensor for x in parts]), unit, low, high)

    def unchanged(self, call: Call, x: Integers) -> Integers:
        return x

    def activated(self, call: Call, x: Integers) -> Any:
        """Linear; or behind the class scores."""
        if isinstance(call.op, layers.Activation) and not applies_activation(call.op):
            return x
        if call in self.coding.digital:
            return None
        return Numbers(self.clone(call.op)(self.decoded(call.inputs[0])))

    # --- parts ----------------------------------------------------------------------------------

    def largest_spike(self, site: Call) -> int:
        """The largest that d of a site may be."""
        return self.fewer.get(site.name, self.largest_parameter)

    def beside(self, value: Value) -> Beside | None:
        """What a value is added to, itself or multiplied by the spikes of a site, if the units are known."""
        for consumer in self.network.consumers.get(value.index, ()):
            if kind_of(consumer.op) is kinds.SUM:
                for other in map(self.of.get, consumer.inputs):
                    if isinstance(other, Integers):
                        return Beside(other.unit)
            product = self.coding.products.get(consumer)
            if product is not None and product.other is value:
                beside = self.beside(consumer.outputs)
                largest = self.largest_spike(product.source)
                spikes = integer_spikes(product.source.op, value.shape[-1], largest)
                if beside is not None and spikes is not None:
                    return Beside(beside.unit / spikes[1], is_shifted=True)
        return None

    def is_sum(self, value: Value) -> bool:
        """Whether there are weights or products in it, with no neurons behind them."""
        call = self.producers.get(value)
        return call is not None and any(sums_before(call, self.producers))

    def shifted_down(self, x: Integers, worst: Any, name: str) -> Integers:
        """Without so many of its lowest bits that what it leads to leaves some of the range: `worst`, one number or
        (channels,)."""
        bits = np.ceil(np.log2(np.maximum(worst, 1) * HEADROOM / self.limit))
        bits = np.broadcast_to(np.maximum(bits, 0), np.broadcast_shapes(bits.shape, x.unit.shape))
        if not bits.any():
            return x
        some = int(bits[0]) if np.ptp(bits) == 0 else bits.astype(int).tolist()
        layer = RightShift(some, name=self.name(f"{name}_shift"))
        low, high = (np.floor(end * 2.0**-bits + 0.5) for end in (x.low, x.high))
        return Integers(layer(x.tensor), x.unit * 2.0**bits, low, high)

    def clone(self, op: Any) -> Any:
        if not isinstance(op, layers.Layer):
            return clone_of(op, op.name)
        return clone_of(op, op.name, name=self.name(op.name), dtype="float32")

    def scaled(self, tensor: Any, scale: Any, offset: Any, name: str) -> Any:
        if np.all(np.asarray(scale) == 1) and not np.any(offset):
            return tensor
        return layers.Rescaling(scale, offset, name=self.name(name), dtype="float32")(tensor)

    def name(self, name: str) -> str:
        """A free one."""
        candidate, number = name, 1
        while candidate in self.names:
            candidate, number = f"{name}_{number}", number + 1
        self.names.add(candidate)
        return candidate

    def check(self, call: Call, *extremes: np.ndarray) -> None:
        """Notes what could leave the range; (channels,) or (steps, channels) each."""
        worst = np.zeros(1)
        for x in extremes:
            worst = np.maximum(worst, np.abs(np.atleast_2d(x)).max(axis=0))
        if worst.max() >= self.limit:
            self.over[call] = np.maximum(worst / self.limit, self.over.get(call, 0))

    def decoded(self, value: Value) -> Any:
        """The tensor of an output, in its unit."""
        x = self.of[value]
        return x.tensor if isinstance(x, Numbers) else self.in_unit(x)

    def in_unit(self, x: Integers) -> Any:
        return self.scaled(x.tensor, plain(x.unit), 0.0, "unit")


RULES: dict[Kind, Any] = {
    kinds.NEURONS: IntegerLayers.neurons,
    kinds.DENSE: IntegerLayers.weighted,
    kinds.CONVOLUTION: IntegerLayers.weighted,
    kinds.DEPTHWISE: IntegerLayers.weighted,
    kinds.SUM: IntegerLayers.added,
    kinds.PRODUCT: IntegerLayers.multiplied,
    kinds.GLOBAL_AVERAGE_POOLING: IntegerLayers.averaged,
    kinds.AVERAGE_POOLING: IntegerLayers.pooled,
    kinds.SPIKING_POOLING: IntegerLayers.largest,
    kinds.AFFINE: IntegerLayers.shifted,
    kinds.PADDING: IntegerLayers.moved,
    kinds.CROPPING: IntegerLayers.moved,
    kinds.UPSAMPLING: IntegerLayers.moved,
    kinds.RESHAPING: IntegerLayers.reshaped,
    kinds.CONCATENATION: IntegerLayers.joined,
    kinds.IDENTITY: IntegerLayers.unchanged,
    kinds.AUGMENTATION: IntegerLayers.unchanged,
    kinds.ACTIVATION: IntegerLayers.activated,
}
