"""Converted networks in integers: weights of few bits; thresholds, resets, biases and branches in common units.

    snn = convert(model, input_bits=8, input_range=(0, 256))
    chip = quantize(snn, weight_bits=8)

Every value is a unit times an integer, the unit one of its channel. Spikes of a binary code are worth 2^(K-t), shifts.
A layer takes the units of its inputs into its weights and divides each output channel by a scale, so that its weights
are integers of `weight_bits`; that scale is the unit of the potential, in which the biases, T and h of the neurons
behind it are rounded to integers. A neuron of a binary code fires in multiples of an integer step m:
T(t) = h(t) = m 2^(K-t), so that its range, and nothing else, is rounded. Where branches meet, the scale of a layer is
enlarged until one unit is a multiple of the other. A product of two integers is one, in the product of their units; a
sum that is a factor, or is summed up further, loses its lowest bits where it would become too large, rounded.

The new model is a Keras model whose numbers are these integers, in float32. Sums of integers are exact there as
long as they stay below 2^24, in whatever order: the largest possible sum is checked for every layer and site.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration.data import checked_inputs
from fs_neurons.conversion.folding import fold
from fs_neurons.conversion.integer_layers import HEADROOM, RULES, IntegerLayers
from fs_neurons.conversion.integer_offsets import fitted_offsets, squared_error
from fs_neurons.conversion.integer_sites import coded_in_integers, spike_error
from fs_neurons.conversion.integers import Integers, Numbers, check_bits
from fs_neurons.conversion.potentials import coarsened, spike_limits
from fs_neurons.conversion.rounding import HALVES, Seen, observed
from fs_neurons.layers import INPUT, FSActivation, FSInput
from fs_neurons.network import kinds
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import Call, Value, trace, trace_spiking
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.kinds import Kind, kind_of

# Relative error of responses by rounded d beyond which there is a warning.
COARSE = 0.03
# Of units where branches meet, as long as the range of potentials is wide enough.
PARTS = 4


def quantize(
    snn: keras.Model,
    weight_bits: int = 8,
    parameter_bits: int = 12,
    potential_bits: int = 25,
    *,
    calibration_data: Any = None,
) -> keras.Model:
    """A converted network in integers.

    Args:
        snn: converted with `input_bits`. Batch normalization is folded into its weights first.
        weight_bits: of weights, with their sign; each output channel has a scale of its own.
        parameter_bits: that d has at most, with its sign, where it is not a binary code, whose spikes are shifts. A
            site has fewer where the bits of d would cost weights or products more than they gain, as all share
            those of the potential. T and h are integers in units of the potential.
        potential_bits: of potentials, with their sign. Where a sum could become larger, the weights that it is
            made of are rounded more coarsely, with a warning.
        calibration_data: inputs without labels as in `convert`, a few hundred, computed at once. The error of each
            weight that is rounded is then made up for by others of its filter, and biases for what is left of it in
            the mean of each channel: these are fitted to half of the inputs, and kept if they lessen the error for the
            others.

    Returns:
        A new model that takes the same inputs; its outputs are integers times their unit.

    Raises:
        TypeError: not a Keras model, or calibration data that are no inputs of it.
        ValueError: bits that make no sense, or calibration data that are too few, of another shape, or not finite.
        ConversionError: inputs that are not coded, sizes that are open, a layer that has no integer form, or a sum
            that could leave the range of potentials whatever its weights are.
    """
    if not isinstance(snn, keras.Model):
        raise TypeError(f"expected a keras.Model, got {type(snn).__name__}")
    check_bits("weight_bits", weight_bits)
    check_bits("parameter_bits", parameter_bits)
    check_bits("potential_bits", potential_bits)
    if any(None in x.shape[1:] for x in keras.tree.flatten(input_structure(snn))):
        raise ConversionError(
            f"the inputs of model {snn.name!r} have open sizes: build it with inputs of known size"
        )
    folded, _ = fold(snn)
    network = trace_spiking(folded)
    limit = 2 ** (potential_bits - 1)
    largest = 2 ** (weight_bits - 1) - 1, 2 ** (parameter_bits - 1) - 1
    fewer = spike_limits(network, *largest, limit, HEADROOM)
    seen, inputs = dict[Call, Seen](), None
    if calibration_data is not None:
        images = [ops.convert_to_tensor(x) for x in checked_inputs(snn, calibration_data)]
        inputs = keras.tree.pack_sequence_as(input_structure(folded), images)
        seen = observed(network, inputs)
    make = functools.partial(_Quantizer, network, *largest, limit, seen=seen, fewer=fewer)
    quantizer = _within_limits(make, folded)
    if calibration_data is not None:
        quantizer = _with_offsets(make, folded, quantizer, inputs)
    _warn_of(quantizer, f"model {snn.name!r}", potential_bits)
    return quantizer.chip


def _within_limits(
    make: Callable[..., _Quantizer],
    model: keras.Model,
    offsets: Mapping[Call, np.ndarray] = MappingProxyType({}),
    coarser: Mapping[str, np.ndarray] = MappingProxyType({}),
    parts: int = PARTS,
) -> _Quantizer:
    """Builds a network until no sum could leave the range of potentials."""
    coarser = dict(coarser)
    while True:
        quantizer = make(coarser=coarser, offsets=offsets, parts=parts)
        quantizer.build(model)
        if not quantizer.over:
            return quantizer
        if parts > 1:
            parts = 1
        else:
            coarser |= coarsened(
                quantizer.network, quantizer.over, quantizer.rescaled, coarser, quantizer.largest_weight,
                quantizer.limit, quantizer.of,
            )  # fmt: skip


def _with_offsets(
    make: Callable[..., _Quantizer], model: keras.Model, before: _Quantizer, inputs: Any
) -> _Quantizer:
    """The network with fitted biases, if these lessen the error on inputs that they were not fitted to."""
    fitted, others = (keras.tree.map_structure(lambda x, h=h: x[h], inputs) for h in HALVES)
    offsets = fitted_offsets(trace(before.chip), fitted, before.made, before.seen)
    after = _within_limits(make, model, offsets, before.coarser, before.parts)
    wanted = model(others)
    errors = [squared_error(network.chip(others), wanted) for network in (before, after)]
    return after if errors[1] < errors[0] else before


def _warn_of(quantizer: _Quantizer, model: str, potential_bits: int) -> None:
    """Warns of what is rounded more coarsely than was asked for."""
    weighted = {call.name for call in quantizer.network.calls if kind_of(call.op).weighted}
    worst = {name: x.max() for name, x in quantizer.coarser.items() if name in weighted}
    if worst:
        most = ", ".join(f"{name!r} {x:.2g}" for name, x in worst.items())
        warnings.warn(
            f"weights of {model} rounded more coarsely, so that no sum can leave {potential_bits} bits, in their worst"
            f" channel by a factor of: {most}",
            stacklevel=3,
        )
    errors = {
        call.name: spike_error(call.op, quantizer.largest_parameter)
        for call in quantizer.network.calls
        if kind_of(call.op) is kinds.NEURONS and call.name not in quantizer.fewer
    }
    coarse = [repr(name) for name, error in errors.items() if error > COARSE]
    if coarse:
        warnings.warn(
            f"d of {model} rounded so that responses change by up to {max(errors.values()):.0%} at {len(coarse)} sites:"
            f" {', '.join(coarse[:5])}{', ...' if len(coarse) > 5 else ''}. Give more parameter_bits, or sets whose d are"
            " closer together",
            stacklevel=3,
        )


class _Quantizer(IntegerLayers):
    """Builds the network in integers, call by call.

    Attributes:
        chip: what was built.
    """

    chip: keras.Model

    def build(self, model: keras.Model) -> None:
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            input_structure(model),
        )
        for value, tensor in zip(self.network.inputs, keras.tree.flatten(inputs), strict=True):
            self.of[value] = Numbers(tensor)
        for call in self.network.calls:
            self._visit(call)
        outputs = keras.tree.map_structure(self.decoded, self.network.outputs)
        self.chip = keras.Model(inputs, outputs, name=model.name)

    def _visit(self, call: Call) -> None:
        kind = kind_of(call.op)
        taken = [self.of[value] for value in call.inputs]
        if not isinstance(call.outputs, Value) or not taken:
            raise self._refusal(call)
        result = None
        if all(isinstance(x, Numbers) for x in taken):
            result = self._numbers(call, kind, *taken)
        elif all(isinstance(x, Integers) for x in taken) and kind in RULES:
            result = RULES[kind](self, call, *taken)
        if result is None:
            raise self._refusal(call)
        if isinstance(result, Integers):
            self.check(call, result.low, result.high)
        self.of[call.outputs] = result

    def _refusal(self, call: Call) -> ConversionError:
        return ConversionError(
            f"quantize has no integer form of {call.name!r} ({type(call.op).__name__})"
        )

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
            return Numbers(self.clone(op)(x.tensor))
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
            tensor = self.scaled(tensor, 1.0, shift, f"{op.name}_from_low")
        if step == 1:
            layer: Any = FSInput(
                p.K, 2.0**p.K, p.rounding, name=self.name(op.name), dtype="float32"
            )
        else:
            layer = FSActivation(
                coded_in_integers(p), INPUT, name=self.name(op.name), dtype="float32"
            )
        top = np.array([2.0**p.K - 1])
        return Integers(layer(tensor), np.array([step]), np.zeros(1), top)
