"""Mean and variance of every value of a network, from its weights: what each kind of layer does to them.

A new kind of layer is one entry of RULES. What has none leaves its outputs unknown.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration import moments
from fs_neurons.calibration.moments import ASSUMED, DISTANT, NEIGHBOURS, NORMALIZED, Moments
from fs_neurons.calibration.recurrence import Gate, of_sequences, steps_of
from fs_neurons.network import kinds
from fs_neurons.network.graph import Call, Graph, Value
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.kinds import Kind, channel_axis, kind_of, unwrapped
from fs_neurons.network.recurrent import is_recurrent
from fs_neurons.network.sites import Site, walk

# A Rescaling of the input by at most so much is taken for one of pixels 0 to 255; these are the mean and the
# standard deviation of ImageNet's.
PIXEL_SCALE, PIXEL_MEAN, PIXEL_DEVIATION = 1 / 16, 115.0, 58.0

# From a call and the statistics of its inputs to those of its output; None where they are unknown.
Rule = Callable[[Call, list[Moments]], Moments | None]


class Propagation:
    """Statistics of every value of a graph.

    Attributes:
        of: statistics of each value.
        gates: the site that gave a value, and the statistics of its gate inputs there.
        assumptions: what was assumed of the model's inputs, a sentence each.
    """

    def __init__(self, model: keras.Model) -> None:
        self._operations = list(walk(model))
        self._sites = {id(op): site for op, site in self._operations if not site.gate}
        self._repeats: dict[Site, float] = {}  # of the steps that gates are met at
        self._met: dict[Site, list[tuple[Moments, int]]] = {}
        self.of: dict[Value, Moments] = {}
        self.gates: dict[Value, tuple[Site, Moments]] = {}
        self.assumptions: list[str] = []

    def gate_inputs(self, site: Site) -> tuple[Moments, int]:
        """Statistics of the gate inputs of a site, and the axis of its channels: -1 for the last one."""
        met = self._met.get(site)
        if not met:
            return moments.unknown(1, 1), -1
        return moments.mixture([x for x, _ in met]), met[0][1]

    @property
    def neurons(self) -> collections.Counter[Site]:
        """How many neurons each site has for one image."""
        count: collections.Counter[Site] = collections.Counter()
        for value, (site, _) in self.gates.items():
            count[site] += math.prod(value.shape)
        for site, repeats in self._repeats.items():
            count[site] = round(count[site] * repeats)
        return count

    def assume(self, value: Value, name: str, graph: Graph) -> None:
        """Gives an input of the model its statistics."""
        takers = [call.op for call in graph.calls if value in call.inputs]
        scales = [np.max(np.abs(op.scale)) for op in takers if isinstance(op, layers.Rescaling)]
        pixels = any(scale <= PIXEL_SCALE for scale in scales)
        mean, deviation = (PIXEL_MEAN, PIXEL_DEVIATION) if pixels else (0.0, 1.0)
        channels = value.shape[-1] if value.shape else 1
        full = np.ones(channels)
        self.of[value] = Moments(mean * full, deviation**2 * full, len(value.shape), ASSUMED)
        what = "pixels 0 to 255" if pixels else "standardized"
        what += f", mean {mean:g}, standard deviation {deviation:g}"
        if any(isinstance(op, layers.Embedding) for op in takers):
            what = "symbols that are equally frequent"
        self.assumptions.append(f"input {name!r}: assumed to be {what}")

    def run(self, call: Call) -> None:
        """Adds the statistics of what a call gives."""
        inputs = [self.of[value] for value in call.inputs]
        outputs = keras.tree.flatten(call.outputs)
        inside = self._through_time if is_recurrent(call.op) else of_sequences
        results = inside(call, inputs)
        if results is None:
            results = [self._result(call, inputs, outputs)] * len(outputs)
        for value, result in zip(outputs, results, strict=True):
            channels = value.shape[-1] if value.shape else 1
            self.of[value] = result or moments.unknown(channels, len(value.shape))

    def _through_time(self, call: Call, inputs: list[Moments]) -> Sequence[Moments | None] | None:
        """Statistics of what a recurrent layer gives, and of the gate inputs inside of it."""
        if inputs[0].source == moments.UNKNOWN:
            return None
        sites = {site.gate: site for op, site in self._operations if op is call.op}
        graph = steps_of(call, sites)
        if graph is None:
            return None
        (x,) = graph.inputs
        repeats = math.prod(call.inputs[0].shape) / math.prod(x.shape)
        self._repeats.update(dict.fromkeys(sites.values(), repeats))
        self.of[x] = inputs[0]
        for step in graph.calls:
            self.run(step)
        return [self.of[value] for value in keras.tree.flatten(graph.outputs)]

    def _result(self, call: Call, inputs: list[Moments], outputs: list[Value]) -> Moments | None:
        rule = RULES.get(kind_of(unwrapped(call.op)))
        site = call.op.site if isinstance(call.op, Gate) else self._sites.get(id(call.op))
        result = None
        if kind_of(unwrapped(call.op)) is kinds.ACTIVATION or (rule is None and site is not None):
            result = self._activated(site, inputs[0], call) if len(inputs) == 1 else None
        elif rule is not None and inputs and len(outputs) == 1:
            result = _fitting(rule(call, inputs), outputs[0])
            if result is not None and kinds.applies_activation(unwrapped(call.op)):
                result = self._activated(site, result, call)
        return result

    def _activated(self, site: Site | None, x: Moments, call: Call) -> Moments | None:
        if site is None:  # linear, or not element-wise
            return x if _is_linear(unwrapped(call.op)) else None
        if not site.convertible:  # its gate inputs are somewhere inside
            return None
        rank = len(_output(call).shape)
        self._met.setdefault(site, []).append((x, -1 if x.axis == rank else x.axis))
        self.gates[_output(call)] = site, x
        return moments.through(site.function, x)


def propagate(model: keras.Model, graph: Graph) -> Propagation:
    """Statistics of all values of `graph`, the trace of `model`."""
    propagation = Propagation(model)
    symbols = keras.tree.flatten(input_structure(model))
    for value, symbol in zip(graph.inputs, symbols, strict=True):
        propagation.assume(value, symbol.name, graph)
    for call in graph.calls:
        propagation.run(call)
    return propagation


def _fitting(x: Moments | None, value: Value) -> Moments | None:
    """Statistics along an axis that still has their length; it has not behind pooling along that axis."""
    return x if x is not None and x.channels == value.shape[x.axis - 1] else None


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, layers.Activation) and layer.activation is keras.activations.linear


# --- rules --------------------------------------------------------------------------------------


def _unchanged(call: Call, inputs: list[Moments]) -> Moments | None:
    return inputs[0]


def _affine(call: Call, inputs: list[Moments]) -> Moments | None:
    layer = unwrapped(call.op)
    if isinstance(layer, layers.BatchNormalization):
        return _batch_normalized(layer, channel_axis(call.op), call.inputs[0].shape)
    if isinstance(layer, layers.Rescaling):
        scale, offset = (np.asarray(value, float) for value in (layer.scale, layer.offset))
        x = inputs[0]
        if scale.size > 1 or offset.size > 1:  # along the last axis
            x = x.along(-1, call.inputs[0].shape)
        return moments.affine(x, scale.ravel(), offset.ravel())
    # What Normalization was adapted to has mean 0 and variance 1 behind it, and is what it inverts to.
    shape = call.inputs[0].shape
    mean, variance = (
        np.broadcast_to(_numpy(weight), (1, *shape))[0] if layer.invert else np.full(shape, value)
        for weight, value in ((layer.mean, 0.0), (layer.variance, 1.0))
    )
    axis = inputs[0].axis
    mean, variance = (np.moveaxis(x, axis - 1, 0) for x in (mean, variance))
    return Moments(*moments.pooled(mean, variance), axis, NORMALIZED)


def _batch_normalized(layer: Any, axis: int, shape: tuple[int, ...]) -> Moments:
    variance = _numpy(layer.moving_variance)
    # Less than gamma^2 in channels that hardly vary, where epsilon counts.
    share = variance / (variance + layer.epsilon)
    gamma = _numpy(layer.gamma) if layer.scale else np.ones_like(variance)
    beta = _numpy(layer.beta) if layer.center else np.zeros_like(variance)
    return Moments(beta, np.square(gamma) * share, axis % (len(shape) + 1), NORMALIZED)


def kernel_of(call: Call) -> np.ndarray | None:
    """The kernel of a layer as `moments.weighted` takes it; None where it can't be put that way."""
    layer = unwrapped(call.op)
    kind = kind_of(layer)
    if kind is kinds.DENSE or (
        kind is kinds.EINSUM and _is_matrix_product(layer.equation, _numpy(layer.kernel))
    ):
        return _numpy(layer.kernel)[None, None]
    if kind is kinds.CONVOLUTION:
        kernel = _numpy(layer.kernel)
        # Output channel o sees the inputs of its own group.
        kernel = kernel.reshape(
            -1, kernel.shape[-2], layer.groups, kernel.shape[-1] // layer.groups
        )
        return kernel.transpose(0, 2, 1, 3)
    return _by_channel(layer.kernel) if kind is kinds.DEPTHWISE else None


def _weights(call: Call, inputs: list[Moments]) -> Moments | None:
    kernel = kernel_of(call)
    if kernel is None:
        return None
    return _weighted(call, _along_channels(call, inputs), kernel, unwrapped(call.op).bias)


def _is_matrix_product(equation: str, kernel: np.ndarray) -> bool:
    """Whether a two-dimensional kernel is multiplied with the last axis."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    left, _, right = inputs.partition(",")
    return kernel.ndim == 2 and left[-1] == right[0] and output == left[:-1] + right[1]


def _transposed(call: Call, inputs: list[Moments]) -> Moments | None:
    layer = unwrapped(call.op)
    kernel = np.swapaxes(_numpy(layer.kernel), -1, -2)
    x = _along_channels(call, inputs)
    # A place of the output meets every strides-th tap: which ones depends on the place.
    parts = []
    for first in itertools.product(*map(range, layer.strides)):
        steps = tuple(slice(i, None, step) for i, step in zip(first, layer.strides, strict=True))
        taps = kernel[steps].reshape(-1, 1, *kernel.shape[-2:])
        parts.append(_weighted(call, x, taps, layer.bias))
    return moments.mixture(parts)


def _separable(call: Call, inputs: list[Moments]) -> Moments | None:
    layer = unwrapped(call.op)
    x = _along_channels(call, inputs)
    x = _weighted(call, x, _by_channel(layer.depthwise_kernel), None)
    pointwise = _numpy(layer.pointwise_kernel)
    return _weighted(call, x, pointwise.reshape(1, 1, *pointwise.shape[-2:]), layer.bias)


def _by_channel(kernel: Any) -> np.ndarray:
    """A depthwise kernel with a group for each channel, as `moments.weighted` takes it."""
    kernel = _numpy(kernel)
    return np.asarray(kernel.reshape(-1, kernel.shape[-2], 1, kernel.shape[-1]))


def _along_channels(call: Call, inputs: list[Moments]) -> Moments:
    return inputs[0].along(channel_axis(call.op), call.inputs[0].shape)


def _weighted(call: Call, x: Moments, kernel: np.ndarray, bias: Any) -> Moments:
    axis = channel_axis(call.op) % (len(_output(call).shape) + 1)
    return moments.weighted(x, kernel, 0.0 if bias is None else _numpy(bias).ravel(), axis)


def _average_pooling(call: Call, inputs: list[Moments]) -> Moments | None:
    x = _along_channels(call, inputs)
    return moments.average(x, math.prod(unwrapped(call.op).pool_size), NEIGHBOURS)


def _max_pooling(call: Call, inputs: list[Moments]) -> Moments | None:
    x = _along_channels(call, inputs)
    return moments.maximum(x, math.prod(unwrapped(call.op).pool_size))


def _global_average_pooling(call: Call, inputs: list[Moments]) -> Moments | None:
    output, shape = _output(call), call.inputs[0].shape
    x = _along_channels(call, inputs)
    pooled = moments.average(x, math.prod(shape) // math.prod(output.shape), DISTANT)
    axis = channel_axis(call.op) % (len(output.shape) + 1)
    return pooled.derived(pooled.mean, pooled.variance, axis)


def _sum(call: Call, inputs: list[Moments]) -> Moments | None:
    name = type(call.op).__name__
    if name == "Negative":
        return moments.affine(inputs[0], -1.0, 0.0)
    if name not in ("Add", "Subtract", "Average"):
        return None
    parts = _aligned(call, inputs)
    if parts is None:
        return None
    signs = [1.0, *[-1.0 if name == "Subtract" else 1.0] * (len(parts) - 1)]
    result = moments.total(parts, signs)
    return moments.affine(result, 1 / len(parts), 0.0) if name == "Average" else result


def _product(call: Call, inputs: list[Moments]) -> Moments | None:
    if type(call.op).__name__ == "Multiply":
        parts = _aligned(call, inputs)
        return None if parts is None else moments.product(parts)
    args = call.arguments[0]
    if len(inputs) > 1 or len(args) != 2 or not isinstance(args[0], Value):
        return None  # a quotient of two values
    inverse = moments.constant(_as_output(1 / _numpy(args[1]), call), inputs[0].axis)
    return moments.product([inputs[0], inverse])


def _aligned(call: Call, inputs: list[Moments]) -> list[Moments] | None:
    """Statistics of all terms or factors along the same axis, constants included; None where a value's
    channels are not along that axis."""
    rank = len(_output(call).shape)
    widest = max(range(len(inputs)), key=lambda i: inputs[i].channels)
    axis = inputs[widest].axis + rank - len(call.inputs[widest].shape)
    statistics = iter(zip(call.inputs, inputs, strict=True))
    parts = []
    for term in keras.tree.flatten(call.arguments[0]):
        if not isinstance(term, Value):
            parts.append(moments.constant(_as_output(_numpy(term), call), axis))
            continue
        value, x = next(statistics)
        own = axis - (rank - len(value.shape))
        if own < 1:  # the same for all channels
            mean, variance = moments.pooled(x.mean[None], x.variance[None])
            x = x.derived(mean, variance, axis)
        else:
            x = x.along(own, value.shape)
        parts.append(Moments(x.mean, x.variance, axis, x.source))
    return parts


def _as_output(value: np.ndarray, call: Call) -> np.ndarray:
    """A constant for each entry of the output; its own batch axis, if any, has one entry."""
    return np.asarray(np.broadcast_to(value, (1, *_output(call).shape))[0])


def _concatenation(call: Call, inputs: list[Moments]) -> Moments | None:
    axis = call.op.axis % (len(_output(call).shape) + 1)
    if all(x.axis == axis for x in inputs):
        return moments.concatenated(inputs)
    if len({x.axis for x in inputs}) > 1:
        return None
    # Side by side along another axis, in proportion to their sizes there.
    return _mixed(inputs, [value.shape[axis - 1] for value in call.inputs])


def _mixed(inputs: list[Moments], sizes: list[int]) -> Moments:
    unit = math.gcd(*sizes)
    return moments.mixture(
        [x for x, size in zip(inputs, sizes, strict=True) for _ in range(size // unit)]
    )


def _reshaping(call: Call, inputs: list[Moments]) -> Moments | None:
    x, old, new = inputs[0], call.inputs[0].shape, _output(call).shape
    layer = unwrapped(call.op)
    if isinstance(layer, layers.Flatten) and layer.data_format == "channels_first" and len(old) > 1:
        # Flattened with the channels last.
        old = (*old[1:], old[0])
        x = Moments(x.mean, x.variance, x.axis - 1 or len(old), x.source)
    before, size = math.prod(old[: x.axis - 1]), old[x.axis - 1]
    for axis, new_size in enumerate(new, start=1):
        if new_size == size and math.prod(new[: axis - 1]) == before:
            return Moments(x.mean, x.variance, axis, x.source)
    return x.reshaped(old, new, len(new))


def _permutation(call: Call, inputs: list[Moments]) -> Moments | None:
    x = inputs[0]
    return Moments(x.mean, x.variance, unwrapped(call.op).dims.index(x.axis) + 1, x.source)


def _repetition(call: Call, inputs: list[Moments]) -> Moments | None:
    return Moments(inputs[0].mean, inputs[0].variance, 2, inputs[0].source)


def _output(call: Call) -> Value:
    output: Value
    (output,) = keras.tree.flatten(call.outputs)
    return output


def _numpy(weight: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(weight).astype(float))


RULES: dict[Kind, Rule] = {
    **dict.fromkeys((kinds.DENSE, kinds.EINSUM, kinds.CONVOLUTION, kinds.DEPTHWISE), _weights),
    kinds.TRANSPOSED: _transposed,
    kinds.SEPARABLE: _separable,
    **dict.fromkeys((kinds.IDENTITY, kinds.PADDING, kinds.CROPPING, kinds.UPSAMPLING), _unchanged),
    kinds.AFFINE: _affine,
    kinds.RESHAPING: _reshaping,
    kinds.PERMUTATION: _permutation,
    kinds.REPETITION: _repetition,
    kinds.CONCATENATION: _concatenation,
    kinds.AVERAGE_POOLING: _average_pooling,
    kinds.GLOBAL_AVERAGE_POOLING: _global_average_pooling,
    kinds.MAX_POOLING: _max_pooling,
    kinds.SUM: _sum,
    kinds.PRODUCT: _product,
}
