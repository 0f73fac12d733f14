"""What is rounded more coarsely, so that no sum of integers can leave the range of potentials."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from fs_neurons.conversion.integer_sites import channels_are_last, integer_spikes
from fs_neurons.conversion.integers import Integers, Numbers, as_float64, by_output
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.geometry import data_axis
from fs_neurons.network.graph import Graph
from fs_neurons.network.kinds import GLOBAL_AVERAGE_POOLING, NEURONS, PRODUCT, SUM, kind_of

# Beyond what is needed, as weights are rounded anew.
MARGIN = 1.01
# How much finer d is for the same error of a sum: its values are larger than responses are, and a response is made of
# several, while what is rounded of weights is made up for by others.
FINER = 4.0
# How much larger than they are, as a rule, sums could be.
BOUND = 2.0**9
# Factors tried, by which d is coarser.
COARSER = 2.0 ** (np.arange(29) / 2)


def spike_limits(
    network: Graph, weight: int, parameter: int, limit: int, headroom: float
) -> dict[str, int]:
    """How large d may be where its bits would cost others more than they gain.

    A sum of integers is at most the largest weight, the largest d, and a number that depends on neither; a product
    likewise. Where that is too much, both are rounded more coarsely, so that the sum of their squared errors is
    least.

    Args:
        network: whose values are rounded.
        weight, parameter: the largest that weights and d may be.
        limit: of potentials.
        headroom: what products leave of it to what is added to them.

    Returns:
        Of sites that are no binary code, by name, where that is less than `parameter`.
    """
    producers = producers_of(network)
    spikes: dict[str, Any] = {}
    errors: dict[str, Any] = {}

    def note(site: Call, squared: np.ndarray) -> None:
        levels = np.abs(spikes[site.name][0]).max(axis=0).mean()
        own = np.square(FINER * COARSER / levels)
        errors[site.name] = errors.get(site.name, 0) + squared + own

    for call in network.calls:
        if kind_of(call.op) is NEURONS and channels_are_last(call):
            found = integer_spikes(call.op, call.outputs.shape[-1], parameter)
            if found is not None:
                spikes[call.name] = found
    for call in network.calls:
        if kind_of(call.op).weighted:
            for site, positions in _sites_before(call, producers):
                if site.name in spikes:
                    d, unit = spikes[site.name]
                    over = _largest_sums(network, call, d * positions, unit, weight) / limit
                    ofweights = np.maximum(over / COARSER[:, None], 1) / weight
                    note(site, np.square(ofweights).mean(axis=1))
    coding = Coding(network)
    for product in coding.products.values():
        if product.source.name in spikes:
            over = np.abs(spikes[product.source.name][0]).sum(axis=0).max() * headroom / limit
            if product.is_coded:
                d = _spikes_of(coding.sources[product.other], spikes)
                ofother = np.maximum(np.abs(d).sum(axis=0).max() * over / COARSER, 1)
                ofother = ofother * FINER / np.abs(d).max()
            else:
                ofother = BOUND * over / COARSER
            note(product.source, np.square(ofother))
    factors = {name: COARSER[np.argmin(squared)] for name, squared in errors.items()}
    return {
        name: max(1, int(np.abs(spikes[name][0]).max() / x)) for name, x in factors.items() if x > 1
    }


def _spikes_of(site: Call, spikes: Mapping[str, Any]) -> np.ndarray:
    """(K, channels) or (K, 1), d of a site."""
    op: Any = site.op
    return np.asarray(
        spikes[site.name][0]
        if site.name in spikes
        else np.exp2(np.arange(op.parameters.K))[:, None]
    )


def _largest_sums(
    network: Graph, call: Call, d: np.ndarray, unit: np.ndarray, weight: int
) -> np.ndarray:
    """(channels,), how large sums of weighted inputs could be, or T and h behind them, in integers."""
    kind, inputs = kind_of(call.op), call.inputs[0].shape[-1]
    if kind.scale_inputs is None or data_axis(call.op) != -1 or inputs % len(unit):
        return np.zeros(1)
    unit, worth = (np.resize(x, inputs) for x in (unit, np.abs(d).sum(axis=0)))  # flattened, too
    kernel = np.abs(call.op.get_weights()[0].astype(np.float64))
    real = kind.scale_inputs(call.op, unit) * kernel
    step = by_output(kind, real, np.max) / weight
    step = np.where(step > 0, step, 1.0)
    worst = by_output(kind, real * kind.scale_inputs(call.op, worth), np.sum)
    for site in _sites_behind(call, network):
        p, scale = site.op.parameters, 1.0 if site.op.scale is None else as_float64(site.op.scale)
        largest = max(np.abs(np.asarray(p.T)).max(), np.abs(np.asarray(p.h)).max())
        worst = np.maximum(worst, largest * scale)
    return np.asarray(worst / step)


def coarsened(
    network: Graph,
    over: Mapping[Call, np.ndarray],
    rescaled: Container[Call],
    before: Mapping[str, np.ndarray],
    largest: int,
    limit: int,
    known: Mapping[Value, Integers | Numbers],
) -> dict[str, np.ndarray]:
    """Factors of the scales of weights, or of products, with which the sums that could leave the range do not.

    Args:
        network: whose weights are rounded.
        over: by how much sums could leave the range: (channels,) or (1,).
        rescaled: sites whose T and h are too large: these shrink with the unit, so that there is no limit.
        before: factors so far, (channels,), by the name of the call, of weights or a product.
        largest: that weights may be; no factor is larger, as there would be no weights left.
        limit: of potentials.
        known: the integers that there are.

    Raises:
        ConversionError: no weights are to blame, or nothing would be left of them.
    """
    producers = producers_of(network)
    factors: dict[str, np.ndarray] = {}
    for call, ratio in over.items():
        most = np.inf
        for layer, share in _shares(call, ratio, producers, known):
            old = before.get(layer.name, np.ones(layer.outputs.shape[-1]))
            more = share if share.shape == old.shape else np.full_like(old, share.max())
            if more.max() < 1:
                continue
            factor = old * np.where(more >= 1, MARGIN * more, 1.0)
            factors[layer.name] = np.maximum(factors.get(layer.name, old), factor)
            worst = 1.0 if call in rescaled else factor[more >= 1].max()
            most = worst if np.isinf(most) else max(most, worst)
        if most > largest:
            raise ConversionError(
                f"potentials behind {call.name!r} could reach {limit * ratio.max():.0f}, and must stay below"
                f" {limit}: take fewer weight_bits, fewer parameter_bits, fewer steps, or, where each channel has a"
                " set of its own, one for all of them, as in convert(model, swish='swish_k16')"
            )
    return factors


def producers_of(network: Graph) -> dict[Value, Call]:
    """The call that gives each value."""
    return {value: call for call in network.calls for value in keras.tree.flatten(call.outputs)}


def sums_before(call: Call, producers: Mapping[Value, Call]) -> Iterator[Call]:
    """Dense and convolutional layers and products whose outputs make up what a call gives, or takes if it is a
    site."""
    return (layer for layer, _ in _shares(call, np.ones(1), producers, {}))


def _shares(
    call: Call,
    ratio: np.ndarray,
    producers: Mapping[Value, Call],
    known: Mapping[Value, Integers | Numbers],
) -> Iterator[tuple[Call, np.ndarray]]:
    """What a call gives, or takes if it is a site, is made of: layers of weights and products. And by how much the
    unit of each has to grow, so that the unit of the call grows by a ratio: a sum has the smallest unit of its terms."""
    waiting = [(call, ratio)]
    while waiting:
        at, share = waiting.pop()
        kind = kind_of(at.op)
        if kind.weighted or kind is PRODUCT:
            yield at, share
        elif at is call or not at.is_site:
            units = [x.unit if isinstance(x := known.get(v), Integers) else 1.0 for v in at.inputs]
            least = np.minimum.reduce(np.broadcast_arrays(*units)) if kind is SUM else None
            for value, unit in zip(at.inputs, units, strict=True):
                if value in producers:
                    part = share if least is None else share * least / unit
                    waiting.append((producers[value], part))


def _sites_behind(call: Call, network: Graph) -> Iterator[Call]:
    """Sites whose gate inputs are made of what a layer gives, without further weights."""
    waiting = [call]
    while waiting:
        for at in network.consumers.get(waiting.pop().outputs.index, ()):
            if kind_of(at.op) is NEURONS and channels_are_last(at):
                yield at
            elif kind_of(at.op) is SUM:
                waiting.append(at)


def _sites_before(call: Call, producers: Mapping[Value, Call]) -> Iterator[tuple[Call, int]]:
    """Sites of whose spikes the input of a layer is made, and of how many of each."""
    waiting = [(value, 1) for value in call.inputs]
    while waiting:
        value, positions = waiting.pop()
        at = producers.get(value)
        if at is None or kind_of(at.op).weighted or kind_of(at.op) is PRODUCT:
            continue
        if at.is_site:
            yield at, positions
        else:
            if kind_of(at.op) is GLOBAL_AVERAGE_POOLING:
                positions *= math.prod(at.inputs[0].shape[1:-1])
            waiting += [(each, positions) for each in at.inputs]
