"""Converted networks in integers: weights of few bits; thresholds, resets, biases and branches in common units.

    snn = convert(model, input_bits=8, input_range=(0, 256))
    chip = quantize(snn, weight_bits=8)

Every value is a unit times an integer, the unit one of its channel. Spikes of a binary code are worth 2^(K-t), shifts.
A layer takes the units of its inputs into its weights and divides each output channel by a scale, so that its weights
are integers of `weight_bits`; that scale is the unit of the potential, in which the biases, T and h of the neurons
behind it are rounded to integers. A neuron of a binary code fires in multiples of an integer step m:
T(t) = h(t) = m 2^(K-t), so that its range, and nothing else, is rounded. Where branches meet, the scale of a layer is
enlarged until one unit is a multiple of the other.

The new model is a Keras model whose numbers are these integers, in float32. Sums of integers are exact there as
long as they stay below 2^24, in whatever order: the largest possible sum is checked for every layer and site.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.conversion.folding import fold
from fs_neurons.conversion.integers import (
    Integers,
    Numbers,
    check_bits,
    coded_in_integers,
    common_unit,
    integer_neurons,
    integer_weights,
    is_output,
    plain,
    unit_beside,
)
from fs_neurons.conversion.potentials import coarsened
from fs_neurons.layers import INPUT, FSActivation, FSInput, FSMaxPooling2D
from fs_neurons.network import kinds
from fs_neurons.network.cloning import clone_of
from fs_neurons.network.coding import Coding
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.geometry import data_axis
from fs_neurons.network.graph import Call, Graph, Value, trace_spiking
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.kinds import Kind, applies_activation, kind_of
from fs_neurons.neuron import ChannelParameters, FSParameters


def quantize(
    snn: keras.Model, weight_bits: int = 8, parameter_bits: int = 8, potential_bits: int = 25
) -> keras.Model:
    """A converted network in integers.

    Args:
        snn: converted with `input_bits`. Batch normalization is folded into its weights first.
        weight_bits: of weights, with their sign; each output channel has a scale of its own.
        parameter_bits: of d, with its sign, where it is not a binary code, whose spikes are shifts. T and h are
            integers in units of the potential.
        potential_bits: of potentials, with their sign. Where a sum could become larger, the weights that it is
            made of are rounded more coarsely, with a warning.

    Returns:
        A new model that takes the same inputs; its outputs are integers times their unit.

    Raises:
        ValueError: bits that make no sense.
        ConversionError: inputs that are not coded, sizes that are open, a layer that has no integer form, or a sum
            that could leave the range of potentials whatever its weights are.
    """
    check_bits("weight_bits", weight_bits)
    check_bits("parameter_bits", parameter_bits)
    check_bits("potential_bits", potential_bits)
    if any(None in x.shape[1:] for x in keras.tree.flatten(input_structure(snn))):
        raise ConversionError(
            f"the inputs of model {snn.name!r} have open sizes: build it with inputs of known size"
        )
    folded, _ = fold(snn)
    network = trace_spiking(folded)
    largest = 2 ** (weight_bits - 1) - 1, 2 ** (parameter_bits - 1) - 1
    coarser: dict[str, np.ndarray] = {}
    while True:
        quantizer = _Quantizer(network, *largest, 2 ** (potential_bits - 1), coarser)
        chip = quantizer.build(folded)
        if not quantizer.over:
            break
        coarser |= coarsened(network, quantizer.over, coarser, largest[0], quantizer.limit)
    if coarser:
        most = ", ".join(f"{name!r} {x.max():.2g}" for name, x in coarser.items())
        warnings.warn(
            f"weights of model {snn.name!r} rounded more coarsely, so that no sum can leave"
            f" {potential_bits} bits, in their worst channel by a factor of: {most}",
            stacklevel=2,
        )
    return chip


class _Quantizer:
    """Builds the network in integers, call by call."""

    def __init__(
        self, network: Graph, weight: int, parameter: int, potential: int,
        coarser: Mapping[str, np.ndarray],
    ):  # fmt: skip
        self.network = network
        self.coarser = coarser  # name of a call -> factors of the scales of its output channels
        self.over: dict[Call, np.ndarray] = {}  # by how much sums could leave the range
        self.coding = Coding(network)
        self.largest_weight, self.largest_parameter = weight, parameter
        self.limit = potential
        self.of: dict[Value, Integers | Numbers] = {}
        self.names: set[str] = set()

    def build(self, model: keras.Model) -> keras.Model:
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            input_structure(model),
        )
        for value, tensor in zip(self.network.inputs, keras.tree.flatten(inputs), strict=True):
            self.of[value] = Numbers(tensor)
        for call in self.network.calls:
            self._visit(call)
        outputs = keras.tree.map_structure(self._decoded, self.network.outputs)
        return keras.Model(inputs, outputs, name=model.name)

    def _visit(self, call: Call) -> None:
        kind = kind_of(call.op)
        taken = [self.of[value] for value in call.inputs]
        if not isinstance(call.outputs, Value) or not taken:
            raise self._refusal(call)
        result = None
        if all(isinstance(x, Numbers) for x in taken):
            result = self._numbers(call, kind, *taken)
        elif all(isinstance(x, Integers) for x in taken) and kind in _RULES:
            result = _RULES[kind](self, call, *taken)
        if result is None:
            raise self._refusal(call)
        if isinstance(result, Integers):
            self._check(call, result.low, result.high)
        self.of[call.outputs] = result

    def _refusal(self, call: Call) -> ConversionError:
        return ConversionError(
            f"quantize has no integer form of {call.name!r} ({type(call.op).__name__})"
        )

    def _check(self, call: Call, *extremes: np.ndarray) -> None:
        """Notes what could leave the range; (channels,) or (steps, channels) each."""
        worst = np.zeros(1)
        for x in extremes:
            worst = np.maximum(worst, np.abs(np.atleast_2d(x)).max(axis=0))
        if worst.max() >= self.limit:
            self.over[call] = np.maximum(worst / self.limit, self.over.get(call, 0))

    # --- numbers --------------------------------------------------------------------------------

    def _numbers(self, call: Call, kind: Kind, x: Any, *others: Any) -> Any:
        """An input on the way to the neurons that code it; or what is behind an output."""
        op: Any = call.op
        if others:
            return None
        if isinstance(op, FSActivation) and op.activation_name == INPUT:
            return self._coded(call, x)
        if isinstance(op, layers.Rescaling) and np.ndim(op.offset) == 0 and op.scale == 1:
            return dataclasses.replace(x, offset=x.offset + float(op.offset))
        behind = kind in (kinds.ACTIVATION, kinds.RESHAPING, kinds.IDENTITY)
        if behind and not set(call.inputs) & set(self.network.inputs):
            return Numbers(self._clone(op)(x.tensor))
        if kind.weighted or kind in (kinds.NEURONS, kinds.AFFINE):
            raise ConversionError(
                f"{call.name!r} takes an input as numbers: convert(model, input_bits=8, input_range=...)"
            )
        return None

    def _coded(self, call: Call, x: Numbers) -> Integers:
        op: Any = call.op
        p = op.parameters
        step = float(p.h[-1])
        shift = round(x.offset / step) * step  # so that the low end is a whole number of steps
        tensor = x.tensor
        if shift:
            tensor = self._scaled(tensor, 1.0, shift, f"{op.name}_from_low")
        if step == 1:
            layer: Any = FSInput(
                p.K, 2.0**p.K, p.rounding, name=self._name(op.name), dtype="float32"
            )
        else:
            layer = FSActivation(
                coded_in_integers(p), INPUT, name=self._name(op.name), dtype="float32"
            )
        top = np.array([2.0**p.K - 1])
        return Integers(layer(tensor), np.array([step]), np.zeros(1), top)

    def _decoded(self, value: Value) -> Any:
        """The tensor of an output, in its unit."""
        x = self.of[value]
        return x.tensor if isinstance(x, Numbers) else self._in_unit(x)

    def _in_unit(self, x: Integers) -> Any:
        return self._scaled(x.tensor, plain(x.unit), 0.0, "unit")

    # --- rules ----------------------------------------------------------------------------------

    def neurons(self, call: Call, x: Integers) -> Integers:
        """T and h in units of the potential; spikes of a binary code are shifts."""
        op: Any = call.op
        p = op.parameters
        channels = call.outputs.shape[-1]
        if getattr(op, "axis", -1) not in (-1, len(call.outputs.shape)) and (
            op.per_channel or isinstance(p, ChannelParameters)
        ):
            raise ConversionError(
                f"quantize: the neurons of {call.name!r} differ along an axis that is not the last one"
            )
        unit = np.broadcast_to(x.unit, channels)
        neurons = integer_neurons(op, unit, self.largest_parameter)
        # Resets may lead beyond the range in which a potential arrives.
        resets = 0 if neurons.is_binary else np.abs(neurons.h).sum(axis=0)
        reach = resets + np.maximum(np.abs(x.low), np.abs(x.high))
        if not neurons.is_binary:  # some thresholds are out of reach
            neurons = dataclasses.replace(neurons, T=np.clip(neurons.T, -reach - 1, reach + 1))
        self._check(call, neurons.T, neurons.h, reach)
        layer = FSActivation(
            neurons.parameters(), op.activation_name, name=self._name(op.name), dtype="float32",
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
        w = integer_weights(
            op, x, inputs, self.largest_weight, common, unit_beside(self.network, call, self.of),
            self.coarser.get(call.name, 1.0),
        )  # fmt: skip
        self._check(call, w.low - np.abs(w.bias), w.high + np.abs(w.bias))
        name = self._name(op.name)
        layer = clone_of(op, name, linear=True, use_bias=True, name=name, dtype="float32")
        y = layer(x.tensor)
        layer.set_weights([w.kernel.astype(np.float32), w.bias.astype(np.float32)])
        result = Integers(y, w.unit, w.low + w.bias, w.high + w.bias)
        if not applies_activation(op):
            return result
        # Behind the class scores.
        head = layers.Activation(op.activation, name=self._name(f"{name}_head"), dtype="float32")
        return Numbers(head(self._in_unit(result)))

    def added(self, call: Call, *terms: Integers) -> Integers | None:
        if type(call.op).__name__ != "Add" or len(terms) < 2:
            return None
        if len({x.tensor.shape for x in terms}) > 1:
            return None
        units = [np.broadcast_to(x.unit, call.outputs.shape[-1]) for x in terms]
        unit, factors = common_unit(units)
        scaled = [
            self._scaled(x.tensor, plain(m), 0.0, f"{call.op.name}_units")
            for x, m in zip(terms, factors, strict=True)
        ]
        low = sum(m * x.low for m, x in zip(factors, terms, strict=True))
        high = sum(m * x.high for m, x in zip(factors, terms, strict=True))
        y = layers.Add(name=self._name(call.op.name), dtype="float32")(scaled)
        return Integers(y, unit, np.asarray(low), np.asarray(high))

    def averaged(self, call: Call, x: Integers) -> Integers | None:
        """The sum of an image, in a smaller unit."""
        op: Any = call.op
        if data_axis(op) != -1:
            return None
        axes = tuple(range(1, len(x.tensor.shape) - 1))
        positions = math.prod(x.tensor.shape[axis] for axis in axes)
        y = ops.sum(x.tensor, axis=axes, keepdims=op.keepdims)
        return Integers(y, x.unit / positions, positions * x.low, positions * x.high)

    def pooled(self, call: Call, x: Integers) -> Integers | None:
        """The sum of a window of 2^n entries, in a smaller unit: their mean is exact in float32."""
        op: Any = call.op
        area = math.prod(op.pool_size)
        if data_axis(op) != -1 or op.padding != "valid" or area & (area - 1):
            return None
        y = self._scaled(self._clone(op)(x.tensor), float(area), 0.0, f"{op.name}_units")
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
            {**config, "K": p.K, "alpha": 2.0**p.K, "name": self._name(op.name), "dtype": "float32"}
        )
        return dataclasses.replace(x, tensor=pool(x.tensor))

    def shifted(self, call: Call, x: Integers) -> Integers | None:
        """A constant, rounded to integers; scales are in the weights by now."""
        op: Any = call.op
        if not (isinstance(op, layers.Rescaling) and np.all(np.asarray(op.scale) == 1)):
            return None
        offset = np.rint(np.ravel(op.offset) / x.unit)
        y = self._scaled(x.tensor, 1.0, plain(offset), op.name)
        return Integers(y, x.unit, x.low + offset, x.high + offset)

    def moved(self, call: Call, x: Integers) -> Integers | None:
        op: Any = call.op
        if data_axis(op) != -1:
            return None
        ends = np.minimum(x.low, 0), np.maximum(x.high, 0)  # with padded zeros
        return Integers(self._clone(op)(x.tensor), x.unit, *ends)

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
        return Integers(self._clone(call.op)(x.tensor), *parts)

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
        return Integers(self._clone(op)([x.tensor for x in parts]), unit, low, high)

    def unchanged(self, call: Call, x: Integers) -> Integers:
        return x

    def activated(self, call: Call, x: Integers) -> Any:
        """Linear; or behind the class scores."""
        if isinstance(call.op, layers.Activation) and not applies_activation(call.op):
            return x
        if call in self.coding.digital:
            return None
        return Numbers(self._clone(call.op)(self._decoded(call.inputs[0])))

    # --- parts ----------------------------------------------------------------------------------

    def _clone(self, op: Any) -> Any:
        if not isinstance(op, layers.Layer):
            return clone_of(op, op.name)
        return clone_of(op, op.name, name=self._name(op.name), dtype="float32")

    def _scaled(self, tensor: Any, scale: Any, offset: Any, name: str) -> Any:
        if np.all(np.asarray(scale) == 1) and not np.any(offset):
            return tensor
        return layers.Rescaling(scale, offset, name=self._name(name), dtype="float32")(tensor)

    def _name(self, name: str) -> str:
        """A free one."""
        candidate, number = name, 1
        while candidate in self.names:
            candidate, number = f"{name}_{number}", number + 1
        self.names.add(candidate)
        return candidate


_RULES: dict[Kind, Any] = {
    kinds.NEURONS: _Quantizer.neurons,
    kinds.DENSE: _Quantizer.weighted,
    kinds.CONVOLUTION: _Quantizer.weighted,
    kinds.DEPTHWISE: _Quantizer.weighted,
    kinds.SUM: _Quantizer.added,
    kinds.GLOBAL_AVERAGE_POOLING: _Quantizer.averaged,
    kinds.AVERAGE_POOLING: _Quantizer.pooled,
    kinds.SPIKING_POOLING: _Quantizer.largest,
    kinds.AFFINE: _Quantizer.shifted,
    kinds.PADDING: _Quantizer.moved,
    kinds.CROPPING: _Quantizer.moved,
    kinds.UPSAMPLING: _Quantizer.moved,
    kinds.RESHAPING: _Quantizer.reshaped,
    kinds.CONCATENATION: _Quantizer.joined,
    kinds.IDENTITY: _Quantizer.unchanged,
    kinds.AUGMENTATION: _Quantizer.unchanged,
    kinds.ACTIVATION: _Quantizer.activated,
}
