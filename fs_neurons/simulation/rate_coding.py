"""The same network with rate coding, to compare with: integrate-and-fire neurons with soft reset.

    thresholds = firing_thresholds(snn, calibration_images)
    for result in simulate_rate(snn, images, thresholds, steps=550):
        ...                                   # after every step: outputs so far, spikes so far

B. Rueckauer et al., "Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks for
Image Classification", Frontiers in Neuroscience 11, 2017: in place of each ReLU a neuron that adds its
input current to its potential, fires where that reaches the threshold and subtracts the threshold. Spikes
count as much as the threshold. Image and biases are constant currents. Thresholds are the 99.9th percentile of
the ReLU's activations, which is their data-based normalisation with the scale in the threshold instead of the
weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from fs_neurons.backend import compiled
from fs_neurons.layers import record_spikes
from fs_neurons.network import ConversionError, graph
from fs_neurons.network.calls import Call
from fs_neurons.network.kinds import SPIKING_POOLING, kind_of
from fs_neurons.neuron import NeuronParameters

# Networks whose compiled time step is kept.
COMPILED = 4


class RateStep(NamedTuple):
    """After a time step.

    Attributes:
        outputs: (images, classes), mean over the steps so far.
        spikes: int64 array (images,), of all neurons in the steps so far.
    """

    outputs: np.ndarray
    spikes: np.ndarray


def firing_thresholds(snn: keras.Model, images: Any, percentile: float = 99.9) -> list[float]:
    """Percentile of the ReLU's activations at every site, of the network without spikes.

    Args:
        snn: a converted model whose sites are all ReLUs.
        images: what the model takes, some hundred of them.
        percentile: in [0, 100].

    Raises:
        ConversionError: an activation other than ReLU, or max-pooling of spikes.
    """
    _check(snn, images)

    def activations(x: Any, _: NeuronParameters) -> tuple[Any, Any]:
        y = ops.relu(x)
        return y, y

    with record_spikes(activations) as records:
        snn(images, training=False)
    thresholds = [
        float(np.percentile(ops.convert_to_numpy(record.spikes), percentile)) for record in records
    ]
    # A site that is silent on these images still needs a positive threshold.
    return [threshold or 1.0 for threshold in thresholds]


def simulate_rate(
    snn: keras.Model, images: Any, thresholds: Sequence[float], steps: int
) -> Iterator[RateStep]:
    """Runs a network with integrate-and-fire neurons in place of its FS-neurons.

    Args:
        snn: a converted model whose sites are all ReLUs, with one output.
        images: what the model takes, (images, ...).
        thresholds: of `firing_thresholds`, one per site.
        steps: number of time steps.

    Yields:
        A `RateStep` after every step.

    Raises:
        ConversionError: as for `firing_thresholds`.
        ValueError: thresholds of another number than sites, or not positive.
    """
    sites = _check(snn, images)
    if len(thresholds) != len(sites) or not all(0 < t < np.inf for t in thresholds):
        raise ValueError(
            f"{len(sites)} positive thresholds are needed, one per site; got {list(thresholds)}"
        )
    run = _compiled_step(snn, _ById(weight.value for weight in snn.variables))
    inputs = keras.tree.map_structure(ops.convert_to_tensor, images)
    count = len(keras.tree.flatten(images)[0])
    potentials = [ops.zeros((count, *site.outputs.shape), "float32") for site in sites]
    limits = ops.convert_to_tensor(np.asarray(thresholds, np.float32))
    total: Any = 0.0
    spikes: Any = 0
    for t in range(1, steps + 1):
        outputs, counts, potentials = run(inputs, potentials, limits)
        total = total + ops.convert_to_numpy(outputs).astype(np.float64)
        spikes = spikes + ops.convert_to_numpy(counts).sum(axis=0, dtype=np.int64)
        yield RateStep(total / t, spikes)


class _ById(tuple[Any, ...]):
    """Arrays that are compared by what they are, not by what is in them."""

    def __hash__(self) -> int:
        return hash(tuple(map(id, self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and list(map(id, self)) == list(map(id, other))


@functools.lru_cache(maxsize=COMPILED)
def _compiled_step(snn: keras.Model, weights: _ById) -> Callable[..., tuple[Any, Any, list[Any]]]:
    """(images, potentials, thresholds) -> outputs, spikes (sites, images), potentials after a time step.

    `weights` is in the key of the cache: where arrays can't be changed in place, as on JAX, a compiled
    function keeps those that it was made with.
    """

    def step(inputs: Any, potentials: Any, thresholds: Any) -> tuple[Any, Any, list[Any]]:
        def integrate_and_fire(x: Any, _: NeuronParameters) -> tuple[Any, Any]:
            threshold = thresholds[len(records)]
            v = potentials[len(records)] + x
            z = v >= threshold
            v = ops.where(z, v - threshold, v)
            count = ops.sum(ops.cast(z, "int32"), axis=tuple(range(1, len(x.shape))))
            return threshold * ops.cast(z, x.dtype), (v, count)

        with record_spikes(integrate_and_fire) as records:
            outputs = snn(inputs, training=False)
        after, counts = zip(*(record.spikes for record in records), strict=True)
        return outputs, ops.stack(counts), list(after)

    return compiled(step)


def _check(snn: keras.Model, images: Any) -> list[Call]:
    network = graph.trace_spiking(snn, images)
    others = [c.name for c in network.sites if getattr(c.op, "activation_name", "") != "relu"]
    pools = [call.name for call in network.calls if kind_of(call.op) is SPIKING_POOLING]
    if others or pools:
        raise ConversionError(
            "rate coding is for ReLU networks without max-pooling; in the way:"
            f" {', '.join((others + pools)[:5])}"
        )
    return network.sites
