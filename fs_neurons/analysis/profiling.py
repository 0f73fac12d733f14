"""What a converted network does on images: spikes, inputs, operations, energy, time.

    result = profile(snn, images)
    print(result)                                 # a table: every site, and all of them
    result.spikes_per_neuron, result.energy.ratio, result.latency
    result.to_json(); result.rows(); result.plot()

All counts are exact integers, over as many images as are streamed through.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.analysis.connectivity import (
    FanOut,
    compressed,
    fan_out,
    multiply_accumulates,
    spiking_pools,
    unknown_calls,
)
from fs_neurons.analysis.energy import HOROWITZ_45NM, Energy, EnergyModel
from fs_neurons.analysis.layer_profiles import LayerProfile, PoolProfile
from fs_neurons.analysis.measurement import (
    Measured,
    PoolCollector,
    SiteCollector,
    SpikeCounter,
    finished_sites,
    histogram_edges,
    measurement,
)
from fs_neurons.analysis.reach import Additions
from fs_neurons.analysis.results import Profile
from fs_neurons.analysis.shifts import additions_of_shifted_sums
from fs_neurons.analysis.statistics import InputStatistics
from fs_neurons.backend.distribution import ONE, Distribution
from fs_neurons.data.batches import Batch, Batches
from fs_neurons.network import graph
from fs_neurons.network.calls import Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import Graph

__all__ = [
    "HOROWITZ_45NM", "Energy", "EnergyModel", "InputStatistics", "LayerProfile", "PoolProfile",
    "Profile", "profile",
]  # fmt: skip

# From this share of inputs outside the domain of a parameter set on, `profile` warns.
WARN_OUTSIDE = 0.01


def profile(
    snn: keras.Model,
    images: Any,
    *,
    batch_size: int = 100,
    histogram_range: tuple[float, float] | None = None,
    energy_model: EnergyModel = HOROWITZ_45NM,
    multiplier: bool | None = None,
    verbose: bool = False,
    distribution: Distribution = ONE,
) -> Profile:
    """Runs a converted network over images and measures every site.

    Args:
        snn: a converted model, sequential or functional.
        images: what the model takes, (images, ...); or an iterable of batches, such as a
            tf.data.Dataset, each alone or in a tuple with its labels.
        batch_size: images per forward pass, of an array.
        histogram_range: of the gate inputs, in 400 bins; when missing, symmetric about 0 and as wide as
            the widest domain of the parameter sets.
        energy_model: energy of one operation.
        multiplier: whether there is a digital multiplier, which layers then use whose inputs are no spikes,
            such as a dense layer behind average pooling: once per image, on sums. Without one, layers in a
            row count as one, see `reach`. When missing, there is one only if something else needs it.
        verbose: whether to show a progress bar.
        distribution: of the batches; `snn` was made in its scope.

    Raises:
        ConversionError: a model that can't be taken apart, or without FS-neurons; or one that needs a
            multiplier, and `multiplier` is False.
        ValueError: no images, a bad range, or gate inputs that are not finite.
        WorkerLostError: another worker of the distribution is gone.

    Warns:
        UserWarning: at some site more than 1 % of the gate inputs are outside its parameter set's domain.
    """
    result = measured(
        snn, images, batch_size, histogram_range, energy_model, verbose, distribution, multiplier
    )  # fmt: skip
    outside = sites_outside(result.layers)
    if outside:
        listed = ", ".join(
            f"{x.name!r} {100 * x.outside_share:.1f} % outside {x.parameters.describe_domain()}"
            for x in outside[:5]
        )
        warnings.warn(
            f"gate inputs outside the domain of their parameter set at {len(outside)} of"
            f" {len(result.layers)} sites: {listed}{', ...' if len(outside) > 5 else ''}. Convert with"
            f" {', or with '.join(range_advice(outside))}",
            stacklevel=2,
        )
    return result


def measured(
    snn: keras.Model,
    images: Any,
    batch_size: int = 100,
    histogram_range: tuple[float, float] | None = None,
    energy_model: EnergyModel = HOROWITZ_45NM,
    verbose: bool = False,
    distribution: Distribution = ONE,
    multiplier: bool | None = None,
) -> Profile:
    """What `profile` gives, without its warning."""
    batches = Batches(snn, images, batch_size)
    network: Graph | None = None
    bar = keras.utils.Progbar(batches.images, verbose=int(verbose), unit_name="image")
    rounds = iter(batches)
    while several := list(itertools.islice(rounds, distribution.replicas)):
        if network is None:
            inputs = several[0].inputs
            network = graph.trace_spiking(snn, inputs)
            edges = histogram_edges(histogram_range, network.sites)
            coding = Coding(network)
            multiplies = _multiplies(snn, coding, multiplier)
            fan = _fan_outs(coding, multiplies)
            sites = [SiteCollector(c, fan(c.outputs)) for c in network.sites]
            pools = [PoolCollector(c, fan(c.outputs)) for c in spiking_pools(network)]
            measure = distribution.compiled(measurement(network, edges))
            size = len(keras.tree.flatten(inputs)[0])
        # Replicas that are left over at the end run copies, which count for nothing.
        idle = Batch(several[0].inputs, 0)
        mine = [several[i] if i < len(several) else idle for i in distribution.local]
        valid = [(np.arange(size) < batch.count).astype(np.float32) for batch in mine]
        results = measure([(batch.inputs, v) for batch, v in zip(mine, valid, strict=True)])
        for batch, (measured, pooled) in zip(mine, results, strict=True):
            if not batch.count:
                continue
            for site, tensors in zip(sites, measured, strict=True):
                site.add(Measured(*map(ops.convert_to_numpy, tensors)), batch.count)
            for pool, spikes in zip(pools, pooled, strict=True):
                pool.count(ops.convert_to_numpy(spikes), batch.count)
        bar.add(sum(batch.count for batch in several))
    assert network is not None  # Batches has at least one
    collectors: list[SpikeCounter] = [*sites, *pools]
    states = distribution.gather_json([collector.state() for collector in collectors])
    for collector, *parts in zip(collectors, *states, strict=True):
        collector.restore([part for part in parts if part is not None])
    layers = finished_sites(sites)
    macs = {call: multiply_accumulates(call) or 0 for call in network.calls}
    accumulated = sum(collector.from_spikes for collector in collectors)
    accumulated += sum(macs[call] for call, x in coding.products.items() if x.is_coded)
    ends = [value.index for value in keras.tree.flatten(network.outputs)]
    return Profile(
        model=snn.name,
        images=layers[0].images,
        layers=layers,
        pools=tuple(pool.finished() for pool in pools),
        edges=edges,
        macs=sum(macs.values()),
        digital_macs=sum(macs.values()) - accumulated if multiplies else 0,
        digital=tuple(f"{call.name} {reason}" for call, reason in coding.digital.items()),
        multiplier=multiplies,
        left_out=unknown_calls(network),
        weighted_layers=int(graph.depth(network, graph.is_weighted)[ends].max()),
        depth=int(coding.windows[ends].max()),
        energy_model=energy_model,
        windows_between_images=graph.windows_between_images(network, coding.windows),
        shifted_additions=0 if multiplies else additions_of_shifted_sums(coding),
    )


def _multiplies(snn: keras.Model, coding: Coding, multiplier: bool | None) -> bool:
    if multiplier is False and coding.digital:
        needed = "; ".join(f"{call.name!r} {why}" for call, why in coding.digital.items())
        raise ConversionError(f"model {snn.name!r} needs a multiplier: {needed}")
    return bool(coding.digital) if multiplier is None else multiplier


def _fan_outs(coding: Coding, multiplies: bool) -> Callable[[Value], FanOut]:
    if multiplies:
        return lambda value: fan_out(coding.graph, value, coding)
    additions = Additions(coding)

    def fan(value: Value) -> FanOut:
        total = compressed(np.broadcast_to(additions.of(value), value.shape))
        return FanOut(total, total)

    return fan


def sites_outside(sites: Sequence[LayerProfile]) -> list[LayerProfile]:
    """The sites with more than `WARN_OUTSIDE` of their gate inputs outside the domain of their sets."""
    return [site for site in sites if share_outside(site) > WARN_OUTSIDE]


def range_advice(sites: Sequence[LayerProfile]) -> list[str]:
    """Arguments of `convert` for sites whose inputs are outside the domain of their sets."""
    sets = dict.fromkeys(filter(None, map(_advice, sites)))
    return ["calibration_data=..., which fits each site to its inputs", *sets]


def share_outside(layer: LayerProfile) -> float:
    """Share of gate inputs outside the domain; above it, a ReLU that saturates at its end does what it should."""
    saturates = re.fullmatch(r"relu\(max_value=(.+)\)", layer.activation)
    if saturates and np.all(float(saturates[1]) <= np.asarray(layer.parameters.domain[1])):
        return layer.below / layer.inputs.count
    return layer.outside_share


def _advice(layer: LayerProfile) -> str:
    """An argument of `convert` for a wider domain; empty where there is none for this activation alone."""
    name = layer.activation
    if name == "relu":
        return "relu=fs.relu_parameters(K, alpha) with a larger alpha"
    if not name.isidentifier():
        return ""
    low, high = math.floor(layer.inputs.minimum), math.ceil(layer.inputs.maximum)
    K = layer.parameters.K
    return f"{name}=fs.fit({name!r}, K={K}, domain=({low}, {high})), a set for a wider domain"
