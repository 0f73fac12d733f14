"""How much an error at each site matters to the outputs of a network, from its weights alone.

    importance = importances(graph, propagate(model, graph))
    importance[site]                            # (channels,)

Errors of variance e[c] in the outputs of a site, channel by channel, change the outputs of the network by

    sum over c of importance[c] e[c]

relative to their variance. It is found from the outputs backwards: a layer with weights w multiplies the
variance of errors by w^2, batch normalization by gamma^2 over its variance, an activation by f'(x)^2. Behind a
filter that takes differences and a normalization that makes them large again, small errors matter a lot.

Errors of different channels are taken for independent, and for correlated between places as values are: see
`moments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration.moments import DENSITY, DISTANT, NEIGHBOURS, NODES, Moments
from fs_neurons.calibration.propagation import Propagation, kernel_of
from fs_neurons.network import kinds
from fs_neurons.network.graph import Call, Graph, Value
from fs_neurons.network.kinds import kind_of, unwrapped
from fs_neurons.network.sites import Site

# From a call, the importance of its output (channels,) and the statistics of its inputs to their importance;
# None where it isn't known.
Rule = Callable[[Call, np.ndarray, list[Moments]], list[np.ndarray] | None]


def importances(graph: Graph, propagation: Propagation) -> dict[Site, np.ndarray]:
    """Importance of every site of a graph, channel by channel.

    Args:
        graph: of a model.
        propagation: statistics of its values.

    Returns:
        float64 (channels,), along the axis of the statistics of a site's gate inputs; a single number
        where the site is called in several places of different widths.
    """
    of: dict[Value, np.ndarray] = {}
    outputs = keras.tree.flatten(graph.outputs)
    for value in outputs:
        x = propagation.of[value]
        total = _or(float(x.variance.sum()), float(x.channels))
        _add(of, value, np.full(x.channels, 1 / (total * len(outputs))))
    found: dict[Site, list[np.ndarray]] = {}
    for call in reversed(graph.calls):
        values = [value for value in keras.tree.flatten(call.outputs) if value in of]
        taken = [value for value in call.inputs if value.dtype != "bool"]  # no masks
        inputs = [propagation.of[value] for value in taken]
        if not (values and inputs):
            continue
        output = of[values[0]]
        statistics = propagation.of[values[0]]
        gate = propagation.gates.get(values[0])
        if gate is not None:
            site, x = gate
            found.setdefault(site, []).append(output)
            output = output * _squared_slope(site, x)
            statistics = x
        shares = None
        if len(values) == 1:
            rule = RULES.get(kind_of(unwrapped(call.op)), _unchanged if gate is not None else None)
            shares = rule(call, output, inputs) if rule is not None else None
        if shares is None:
            shares = _as_relative_errors(output, statistics, inputs)
        for value, x, share in zip(taken, inputs, shares, strict=True):
            _add(of, value, share if len(share) == x.channels else _spread(share, x))
    return {site: _together(parts) for site, parts in found.items()}


def _add(of: dict[Value, np.ndarray], value: Value, importance: np.ndarray) -> None:
    of[value] = of[value] + importance if value in of else importance


def _together(parts: list[np.ndarray]) -> np.ndarray:
    if len({len(part) for part in parts}) > 1:
        return np.array([sum(part.sum() for part in parts)])
    return np.asarray(sum(parts))


def _or(known: float, otherwise: float) -> float:
    return known if np.isfinite(known) and known > 0 else otherwise


def _squared_slope(site: Site, x: Moments) -> np.ndarray:
    """Mean of f'(x)^2 in each channel, f' from differences between the nodes of the quadrature."""
    spread = np.maximum(np.sqrt(x.variance), 1e-6)[:, None]
    at = x.mean[:, None] + spread * NODES
    y = ops.convert_to_numpy(site.function(ops.convert_to_tensor(at.astype(np.float32))))
    slope = np.gradient(y.astype(float), NODES, axis=1) / spread
    return np.asarray(np.nan_to_num(np.square(slope) @ DENSITY, nan=1.0))


def _as_relative_errors(
    output: np.ndarray, statistics: Moments, inputs: list[Moments]
) -> list[np.ndarray]:
    """Of a call of which nothing else is known: its output has the relative error of its inputs."""
    effect = _or(float((output * statistics.variance).sum()), float(output.sum()))
    return [
        np.full(x.channels, effect / _or(float(x.variance.sum()), float(x.channels)))
        for x in inputs
    ]


def _spread(importance: np.ndarray, x: Moments) -> np.ndarray:
    """The same importance for all channels along another axis."""
    return np.full(x.channels, importance.sum() / x.channels)


# --- rules --------------------------------------------------------------------------------------


def _unchanged(call: Call, output: np.ndarray, inputs: list[Moments]) -> list[np.ndarray] | None:
    return [output] if len(inputs) == 1 and len(output) == inputs[0].channels else None


def _weighted(call: Call, output: np.ndarray, inputs: list[Moments]) -> list[np.ndarray] | None:
    kernel = kernel_of(call)
    if kernel is None:
        return None
    apart, together = np.square(kernel).sum(axis=0), np.square(kernel.sum(axis=0))
    factors = apart if len(kernel) == 1 else (1 - NEIGHBOURS) * apart + NEIGHBOURS * together
    return [np.einsum("gio,go->gi", factors, output.reshape(len(factors), -1)).ravel()]


def _affine(call: Call, output: np.ndarray, inputs: list[Moments]) -> list[np.ndarray] | None:
    layer = unwrapped(call.op)
    if not isinstance(layer, layers.BatchNormalization):
        return None
    variance = ops.convert_to_numpy(layer.moving_variance).astype(float) + layer.epsilon
    gamma = ops.convert_to_numpy(layer.gamma).astype(float) if layer.scale else 1.0
    return [output * np.square(gamma) / variance]


def _average_pooling(
    call: Call, output: np.ndarray, inputs: list[Moments]
) -> list[np.ndarray] | None:
    positions = math.prod(unwrapped(call.op).pool_size)
    return [output * (NEIGHBOURS + (1 - NEIGHBOURS) / positions)]


def _global_average_pooling(
    call: Call, output: np.ndarray, inputs: list[Moments]
) -> list[np.ndarray] | None:
    positions = math.prod(call.inputs[0].shape) // len(output)
    return [output * (DISTANT + (1 - DISTANT) / positions)]


def _sum(call: Call, output: np.ndarray, inputs: list[Moments]) -> list[np.ndarray] | None:
    name = type(call.op).__name__
    if name not in ("Add", "Subtract", "Average", "Negative"):
        return None
    share = output / len(inputs) ** 2 if name == "Average" else output
    return [share] * len(inputs)


def _product(call: Call, output: np.ndarray, inputs: list[Moments]) -> list[np.ndarray] | None:
    if len(inputs) != 2 or any(x.channels != len(output) for x in inputs):
        return None
    first, second = (np.nan_to_num(x.variance + x.mean**2, nan=1.0) for x in inputs)
    return [output * second, output * first]


def _concatenation(
    call: Call, output: np.ndarray, inputs: list[Moments]
) -> list[np.ndarray] | None:
    sizes = [x.channels for x in inputs]
    return np.split(output, np.cumsum(sizes)[:-1]) if sum(sizes) == len(output) else None


RULES: dict[kinds.Kind, Rule] = {
    **dict.fromkeys((kinds.DENSE, kinds.EINSUM, kinds.CONVOLUTION, kinds.DEPTHWISE), _weighted),
    **dict.fromkeys(
        (
            kinds.IDENTITY, kinds.AUGMENTATION, kinds.PADDING, kinds.CROPPING, kinds.UPSAMPLING,
            kinds.RESHAPING, kinds.PERMUTATION, kinds.MAX_POOLING, kinds.ACTIVATION,
        ),
        _unchanged,
    ),
    kinds.AFFINE: _affine,
    kinds.AVERAGE_POOLING: _average_pooling,
    kinds.GLOBAL_AVERAGE_POOLING: _global_average_pooling,
    kinds.SUM: _sum,
    kinds.PRODUCT: _product,
    kinds.CONCATENATION: _concatenation,
}  # fmt: skip
