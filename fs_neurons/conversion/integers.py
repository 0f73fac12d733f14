"""Values as integers in units of their own, and the arithmetic of such units."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.conversion.rounding import Feedback
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import ACTIVATION, DEPTHWISE, SUM, kind_of
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters

# Of potentials, with their sign: sums below 2^24 are exact in float32.
MOST_POTENTIAL_BITS = 25
BITS = {
    "weight_bits": (2, 16),
    "parameter_bits": (2, 16),
    "potential_bits": (8, MOST_POTENTIAL_BITS),
}
# No channel has a scale smaller than this part of the largest of its layer.
SMALLEST_SCALE = 2.0**-6
# Scales tried, of that at which the largest weight just fits: the one with the least squared error is taken.
PARTS_OF_RANGE = np.linspace(1.0, 0.4, 25)
# Relative error of the unit of a branch that is no multiple of another.
UNIT_ERROR, MOST_SHIFTS = 2.0**-9, 10
# From this step on, in units of the potential, it is rounded to the nearest; a smaller one upwards, so that no range
# becomes much narrower.
FINE_STEP = 8


@dataclasses.dataclass(frozen=True)
class Integers:
    """A value as integers.

    Attributes:
        tensor: symbolic, of the integers.
        unit: (channels,) or (1,), what an integer of each channel is worth.
        low, high: likewise, the least and the largest that they can be.
    """

    tensor: Any
    unit: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def largest(self) -> np.ndarray:
        """(channels,) or (1,), the largest magnitude."""
        return np.asarray(np.maximum(np.abs(self.low), np.abs(self.high)))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A value that is no integers: an input before it is coded, or an output.

    Attributes:
        tensor: symbolic.
        offset: what is to be added to it.
    """

    tensor: Any
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class IntegerWeights:
    """Weights of a dense or convolutional layer as integers.

    Attributes:
        kernel: in the layer's shape.
        bias: (channels,), in units of the output.
        unit: (channels,), of the output.
        low, high: (channels,), the least and the largest sum of weighted inputs, without the bias.
    """

    kernel: np.ndarray
    bias: np.ndarray
    unit: np.ndarray
    low: np.ndarray
    high: np.ndarray


def integer_weights(
    layer: Any, x: Integers, inputs: int, largest: int, common: bool, beside: np.ndarray | None,
    coarser: np.ndarray | float = 1.0, parts: int = 1, feedback: Feedback | None = None,
) -> IntegerWeights:  # fmt: skip
    """The weights of a layer as integers.

    Args:
        layer: of a kind that takes scales of its inputs and outputs into its weights.
        x: its input.
        inputs: channels of the input.
        largest: that weights may be.
        common: whether all output channels have one unit.
        beside: the unit of what its output is added to, if that is known.
        coarser: factors of the units of the output channels.
        parts: of the smaller of the units of two branches, in which the larger is a whole number.
        feedback: of rounding errors to weights that are not yet rounded.
    """
    kind = kind_of(layer)
    over_inputs, over_outputs = kind.scale_inputs, kind.scale_outputs
    assert over_inputs is not None and over_outputs is not None
    kernel, *biases = (w.astype(np.float64) for w in layer.get_weights())
    in_units = over_inputs(layer, np.broadcast_to(x.unit, inputs))
    real = kernel * in_units

    def by_output(values: np.ndarray, function: Callable[..., Any]) -> np.ndarray:
        """(channels,) of the kernel's entries for each output channel."""
        axes = tuple(range(values.ndim - (2 if kind is DEPTHWISE else 1)))
        return np.ravel(function(values, axis=axes))

    def rounded(scale: np.ndarray) -> np.ndarray:
        whole = np.rint(real / over_outputs(layer, scale))
        return np.asarray(np.clip(whole, -largest, largest))

    widest = by_output(np.abs(real), np.max) / largest
    errors = []
    for part in PARTS_OF_RANGE:
        scale = np.where(widest > 0, widest, 1.0) * part
        error = rounded(scale) * over_outputs(layer, scale) - real
        errors.append(by_output(np.square(error), np.sum))
    unit = widest * PARTS_OF_RANGE[np.argmin(errors, axis=0)]
    unit = np.maximum(unit, (unit.max() or 1.0) * SMALLEST_SCALE)
    unit = unit * coarser
    unit = np.full_like(unit, unit.max()) if common else unit
    unit = _commensurable(unit, beside, parts)
    if feedback is None:
        weights = rounded(unit)
    else:
        steps = np.broadcast_to(over_outputs(layer, unit) / in_units, kernel.shape)
        weights = feedback.rounded(kernel, steps, largest)
    bias = np.rint(biases[0] / unit) if biases else np.zeros_like(unit)
    # Of inputs that may be zero too, as at padded borders.
    low = over_inputs(layer, np.broadcast_to(np.minimum(x.low, 0), inputs))
    high = over_inputs(layer, np.broadcast_to(np.maximum(x.high, 0), inputs))
    up, down = np.maximum(weights, 0), np.minimum(weights, 0)
    ends = (by_output(e, np.sum) for e in (up * low + down * high, up * high + down * low))
    return IntegerWeights(weights, bias, unit, *ends)


def _commensurable(scale: np.ndarray, other: np.ndarray | None, parts: int) -> np.ndarray:
    """The next larger scales of which other units are multiples, or that are multiples of these, up to parts."""
    if other is None:
        return scale
    ratio = np.broadcast_to(other, scale.shape) / scale
    whole = np.where(ratio >= 1, np.floor(parts * ratio) / parts, parts / np.ceil(parts / ratio))
    return np.asarray(other / whole)


def common_unit(units: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """A unit of which all others are multiples, or nearly; and these multiples."""
    for shift in range(MOST_SHIFTS + 1):
        unit = np.minimum.reduce(units) / 2**shift
        factors = [np.rint(u / unit) for u in units]
        errors = [np.abs(m * unit / u - 1).max() for m, u in zip(factors, units, strict=True)]
        if max(errors) <= UNIT_ERROR:
            break
    return unit, factors


@dataclasses.dataclass(frozen=True)
class IntegerNeurons:
    """T, h and d of a site as integers.

    Attributes:
        T, h: (K, channels), in units of the potential.
        d: (K, channels), in units of the output.
        unit: (channels,), of the output.
        domain: (channels,) each, in units of the potential.
        is_binary: whether their spikes are a binary code.
        name: of the set.
    """

    T: np.ndarray
    h: np.ndarray
    d: np.ndarray
    unit: np.ndarray
    domain: tuple[np.ndarray, np.ndarray]
    is_binary: bool
    name: str

    def largest_potential(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(channels,), the largest magnitude of potentials that start in [low, high]: resets may lead beyond."""
        worst = np.maximum(np.abs(low), np.abs(high))
        for T, h in zip(self.T, self.h, strict=True):
            fires, rests = high >= T, low < T
            lows = np.where(fires, np.maximum(low, T) - h, np.inf), np.where(rests, low, np.inf)
            highs = (
                np.where(fires, high - h, -np.inf),
                np.where(rests, np.minimum(high, T), -np.inf),
            )
            low, high = np.minimum(*lows), np.maximum(*highs)
            worst = np.maximum(worst, np.maximum(np.abs(low), np.abs(high)))
        return np.asarray(worst)

    def parameters(self) -> NeuronParameters:
        """One set for all channels that have the same."""
        K = len(self.T)
        columns = np.concatenate([self.T, self.h, self.d, *(end[None] for end in self.domain)])
        unique, index = np.unique(columns, axis=1, return_inverse=True)
        members = tuple(
            FSParameters(
                T=column[:K], h=column[K : 2 * K], d=column[2 * K : 3 * K], name=self.name,
                source="integers", domain=(column[-2], column[-1]),
            )
            for column in unique.T
        )  # fmt: skip
        return members[0] if len(members) == 1 else ChannelParameters(members, np.ravel(index))


def integer_neurons(layer: Any, unit: np.ndarray, largest: int) -> IntegerNeurons:
    """The neurons of a layer as integers.

    Args:
        layer: of FS-neurons, whose channels are on the last axis.
        unit: (channels,), of the potential.
        largest: that d may be where it is not a binary code.
    """
    p, channels = layer.parameters, len(unit)
    scale = np.ones(channels) if layer.scale is None else as_float64(layer.scale)
    T, h, d = (_per_channel(values, channels) * scale for values in (p.T, p.h, p.d))
    members = (p,) if isinstance(p, FSParameters) else p.used
    if all(member.alpha is not None for member in members):
        step = h[-1] / unit
        m = np.maximum(np.where(step < FINE_STEP, np.ceil(step), np.rint(step)), 1)
        worth = np.broadcast_to(_shifts(p.K)[:, None], h.shape)
        ahead = np.rint((h[-1] - T[-1]) / h[-1] * 2) / 2  # steps that it looks ahead: 0 or 1/2
        return IntegerNeurons(
            np.ceil((worth - ahead) * m), worth * m, worth, m * unit,
            (np.full(channels, -np.inf), m * 2.0**p.K), True, f"{members[0].name}_int",
        )  # fmt: skip
    widest = np.abs(d).max(axis=0)
    out = np.where(widest > 0, widest / largest, 1.0)
    low, high = (np.broadcast_to(np.ravel(end), channels) * scale / unit for end in p.domain)
    return IntegerNeurons(
        np.rint(T / unit), np.rint(h / unit), np.rint(d / out), out, (low, high), False,
        f"{p.name}_int",
    )  # fmt: skip


def coded_in_integers(parameters: FSParameters) -> FSParameters:
    """Of neurons that code an input: thresholds in its unit, spikes that are shifts."""
    d = _shifts(parameters.K).astype(np.float32)
    return dataclasses.replace(parameters, d=d, name=f"{parameters.name}_int")


def _shifts(K: int) -> np.ndarray:
    return np.ldexp(1.0, K - np.arange(1, K + 1))


def _per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """(K,) or (K, channels) -> (K, channels), float64."""
    rows = np.reshape(values, (len(values), -1)).astype(np.float64)
    return np.broadcast_to(rows, (len(values), channels))


def plain(values: np.ndarray) -> Any:
    """A number where all are the same, else a list: what a layer's configuration takes."""
    values = np.ravel(values)
    return float(values[0]) if np.ptp(values) == 0 else [float(x) for x in values]


def as_float64(weight: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(weight), np.float64)


def check_bits(name: str, bits: int) -> None:
    """Raises ValueError where an argument is no number of bits that makes sense."""
    low, high = BITS[name]
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)):
        raise ValueError(f"{name} must be a number of bits, got {bits!r}")
    if not low <= bits <= high:
        raise ValueError(f"{name} must be {low} to {high}, got {bits}")


def is_output(network: Graph, value: Value) -> bool:
    """Whether the channels of a value are compared with each other: class scores."""
    consumers = network.consumers.get(value.index, ())
    ends = keras.tree.flatten(network.outputs)
    return value in ends or any(kind_of(call.op) is ACTIVATION for call in consumers)


def unit_beside(
    network: Graph, call: Call, known: Mapping[Value, Integers | Numbers]
) -> np.ndarray | None:
    """The unit of a branch that the output of a layer is added to, where it is known."""
    for consumer in network.consumers.get(call.outputs.index, ()):
        if kind_of(consumer.op) is SUM:
            for value in consumer.inputs:
                other = known.get(value)
                if isinstance(other, Integers):
                    return other.unit
    return None
