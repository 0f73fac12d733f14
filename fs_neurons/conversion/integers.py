"""Values as integers in units of their own, and the arithmetic of such units."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.conversion.rounding import Feedback
from fs_neurons.network.calls import Value
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import ACTIVATION, DEPTHWISE, Kind, kind_of

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
# Relative error of the unit of a branch that is no multiple of a common one, and parts of the smallest that are tried.
UNIT_ERROR, MOST_PARTS = 2.0**-9, 1024
# Binary digits of the ratio of two units, of which the finer may still become a power of two coarser.
DIGITS = 4


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


@dataclasses.dataclass(frozen=True)
class Beside:
    """What the output of a layer is added to.

    Attributes:
        unit: (channels,) or (1,), with which that of the output has to go together.
        is_shifted: whether the output may lose some of its lowest bits before it is added.
    """

    unit: np.ndarray
    is_shifted: bool = False


def integer_weights(
    layer: Any, x: Integers, inputs: int, largest: int, common: bool, beside: Beside | None,
    coarser: np.ndarray | float = 1.0, parts: int = 1, feedback: Feedback | None = None,
) -> IntegerWeights:  # fmt: skip
    """The weights of a layer as integers.

    Args:
        layer: of a kind that takes scales of its inputs and outputs into its weights.
        x: its input.
        inputs: channels of the input.
        largest: that weights may be.
        common: whether all output channels have one unit.
        beside: what its output is added to, if the unit of that is known.
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

    def rounded(scale: np.ndarray) -> np.ndarray:
        whole = np.rint(real / over_outputs(layer, scale))
        return np.asarray(np.clip(whole, -largest, largest))

    widest = by_output(kind, np.abs(real), np.max) / largest
    errors = []
    for part in PARTS_OF_RANGE:
        scale = np.where(widest > 0, widest, 1.0) * part
        error = rounded(scale) * over_outputs(layer, scale) - real
        errors.append(by_output(kind, np.square(error), np.sum))
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
    ends = (by_output(kind, e, np.sum) for e in (up * low + down * high, up * high + down * low))
    return IntegerWeights(weights, bias, unit, *ends)


def by_output(kind: Kind, values: np.ndarray, function: Callable[..., Any]) -> np.ndarray:
    """(channels,) of a kernel's entries for each output channel."""
    axes = tuple(range(values.ndim - (2 if kind is DEPTHWISE else 1)))
    return np.ravel(function(values, axis=axes))


def _commensurable(scale: np.ndarray, beside: Beside | None, parts: int) -> np.ndarray:
    """The next larger scales of which other units are multiples, or that are multiples of these, up to parts."""
    if beside is None:
        return scale
    ratio = np.broadcast_to(beside.unit, scale.shape) / scale
    if beside.is_shifted:
        whole = np.where(ratio >= 1, _of_few_digits(ratio), 1 / -_of_few_digits(-1 / ratio))
    else:
        whole = np.where(
            ratio >= 1, np.floor(parts * ratio) / parts, parts / np.ceil(parts / ratio)
        )
    return np.asarray(beside.unit / whole)


def _of_few_digits(values: np.ndarray) -> np.ndarray:
    """The next smaller integers with few binary digits before their zeros: multiples of a large power of two."""
    digit = np.exp2(np.maximum(np.floor(np.log2(np.abs(values))) - DIGITS + 1, 0))
    return np.asarray(np.floor(values / digit) * digit)


def common_unit(units: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The largest unit of each channel of which all others are multiples, or nearly; and these multiples."""
    parts = np.arange(1, MOST_PARTS + 1)[:, None]
    least = np.minimum.reduce(units)
    multiples = [np.rint(parts * u / least) for u in units]
    errors = [np.abs(m * least / (parts * u) - 1) for m, u in zip(multiples, units, strict=True)]
    fits = np.maximum.reduce(errors) <= UNIT_ERROR
    first = np.where(fits.any(axis=0), fits.argmax(axis=0), MOST_PARTS - 1)
    channels = np.arange(len(least))
    return least / parts[first, 0], [m[first, channels] for m in multiples]


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
