"""Inputs as spikes: FS-neurons in front of the first weights, which then accumulate like all others.

    snn = convert(model, input_bits=8, input_range=(0, 256))

x in [low, high) becomes low + (high - low) 2^-K n, where the K bits of n are the spikes, the most significant first.
The low end is a constant current. What normalises the input in front of the first weights goes into them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons import neuron
from fs_neurons.calibration.data import Inputs
from fs_neurons.conversion.folding import fold_inputs
from fs_neurons.layers import FSActivation, FSInput
from fs_neurons.network import Rewriter, graph
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.kinds import LOOK_UP, kind_of
from fs_neurons.neuron import FSParameters, relu_parameters

MOST_BITS = 16
# Shares of the calibration data that may be outside of the range, on either side.
OUTSIDE = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)

Range = tuple[float, float]


class InputCode:
    """How the inputs of a model are coded.

    Args:
        model: that takes them.
        bits: time steps of their neurons.
        range: (low, high) of all inputs.
        data: calibration data, which tells the range of each input where none is given: that of the least
            squared error.

    Raises:
        ValueError: bits or range make no sense, or there is neither range nor data.
        ConversionError: an input is an index, such as that of an embedding, or steps are masked by their values.
    """

    def __init__(
        self, model: keras.Model, bits: int, range: Range | None, data: Inputs | None = None
    ):
        if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)):
            raise ValueError(f"input_bits must be a number of bits, got {bits!r}")
        if not 1 <= bits <= MOST_BITS:
            raise ValueError(f"input_bits must be 1 to {MOST_BITS}, got {bits}")
        _refuse_uncodable(model)
        symbols = keras.tree.flatten(input_structure(model))
        if range is not None:
            ranges = [_checked(range)] * len(symbols)
        elif data is not None:
            ranges = [_range_of(x, bits, s.name) for x, s in zip(data, symbols, strict=True)]
        else:
            raise ValueError(
                "input_bits needs the range of the inputs: input_range=(low, high), (0, 256) for"
                " pixels, or calibration_data"
            )
        self.model = model
        self.lows = [low for low, _ in ranges]
        self.parameters = [
            relu_parameters(int(bits), high - low, "nearest") for low, high in ranges
        ]

    def decoded(self, inputs: Inputs) -> Inputs:
        """What the network sees of inputs."""
        return [
            ops.convert_to_numpy(neuron.response(x.astype(np.float32) - np.float32(low), p))
            + np.float32(low)
            for x, low, p in zip(inputs, self.lows, self.parameters, strict=True)
        ]

    def put_in_front(self, snn: keras.Model) -> keras.Model:
        """A new network with neurons behind its inputs.

        Args:
            snn: that takes the inputs of the model.
        """
        return _Coder(self).rewrite(snn)


def with_folded_inputs(model: keras.Model) -> keras.Model:
    """A model whose first weights have taken in what normalises its inputs; says what could not go."""
    folded, report = fold_inputs(model)
    if report.left:
        warnings.warn(
            f"in front of the first weights of model {model.name!r} there remain"
            f" {'; '.join(f'{name!r}, as {reason}' for name, reason in report.left.items())}",
            stacklevel=3,
        )
    return folded if report.folded else model


def _checked(range: Any) -> Range:
    try:
        low, high = map(float, range)
    except (TypeError, ValueError) as error:
        raise ValueError(f"input_range must be (low, high), got {range!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"input_range must be (low, high), finite, low < high, got {range!r}")
    return low, high


def _range_of(x: np.ndarray, bits: int, name: str) -> Range:
    """The range with the least squared error of those between quantiles; the largest number has a code."""
    candidates = []
    for outside in OUTSIDE:
        low, top = (float(end) for end in np.quantile(x, [outside, 1 - outside]))
        if low < top:
            step = (top - low) / (2**bits - 1)
            error = step * np.clip(np.rint((x - low) / step), 0, 2**bits - 1) + low - x
            candidates.append((float(np.mean(np.square(error))), low, low + step * 2**bits))
    if not candidates:
        raise ValueError(f"calibration_data: input {name!r} hardly varies: give input_range")
    _, low, high = min(candidates)
    return low, high


def _refuse_uncodable(model: keras.Model) -> None:
    network = graph.trace(model, graph.some_inputs(model))
    for call in network.calls:
        if isinstance(call.op, layers.Masking):
            raise ConversionError(
                f"input_bits: {call.name!r} masks steps by their exact value, which coded inputs need not have:"
                " take sequences of one length, without it"
            )
        if kind_of(call.op) is LOOK_UP and set(call.inputs) & set(network.inputs):
            raise ConversionError(
                f"input_bits: {call.name!r} looks up the rows of a table by an input, which is an index and"
                " can't be coded by spikes: convert the model behind it"
            )


class _Coder(Rewriter):
    """Clones a network with neurons behind its inputs."""

    def __init__(self, code: InputCode):
        super().__init__(lambda *_: None)
        self.code = code
        self.outermost: Any = None

    def rewrite(self, model: keras.Model) -> keras.Model:
        self.outermost = model
        return super().rewrite(model)

    def input_layers(self, model: keras.Model, x: keras.KerasTensor) -> list[keras.layers.Layer]:
        if model is not self.outermost:
            return []
        names = [symbol.name for symbol in keras.tree.flatten(input_structure(model))]
        i = names.index(x.name)
        return list(_layers(x.name, self.code.lows[i], self.code.parameters[i]))

    def _new_clone(self, op: Any) -> Any:
        clone = super()._new_clone(op)
        if isinstance(op, FSActivation):  # its configuration has no regulariser
            clone.activity_regularizer = op.activity_regularizer
        return clone


def _layers(name: str, low: float, parameters: FSParameters) -> Iterator[keras.layers.Layer]:
    alpha = parameters.alpha
    assert alpha is not None  # binary coded
    if low:
        yield layers.Rescaling(1.0, -low, name=f"{name}_from_low", dtype="float32")
    yield FSInput(parameters.K, alpha, name=f"{name}_spikes", dtype="float32")
    if low:
        yield layers.Rescaling(1.0, low, name=f"{name}_low", dtype="float32")
