"""Measuring the sites of a network while batches run through it, in exact integers and float64."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.analysis.connectivity import FanOut, pooled_site, spiking_pools
from fs_neurons.analysis.layer_profiles import LayerProfile, PoolProfile
from fs_neurons.analysis.statistics import InputStatistics
from fs_neurons.backend import bincount, in_one_loop
from fs_neurons.layers import record_spikes
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.graph import Graph
from fs_neurons.neuron import NeuronParameters

BINS = 400
# Below and above the bins, and what is not counted.
CODES = BINS + 3
FLAGS = ("silent", "below", "above", "saturated")


class Measured(NamedTuple):
    """What one batch gives at one site; (images,) unless it says otherwise."""

    spikes: Any  # in the shape of the site, summed over the images
    mean: Any
    variance: Any
    minimum: Any
    maximum: Any
    histogram: Any  # (2^FLAGS, bins + 2), over neurons and images; FLAGS are the bits of the row
    counted: Any  # 1 for each image, 0 for each copy and where a step of its sequence is masked


class SpikeCounter:
    """Counts spikes that make up a value, and the operations that they cause."""

    def __init__(self, call: Call, fan: FanOut):
        self.call = call
        self.fan = fan
        self.shape: tuple[int, ...] = call.outputs.shape
        self.images = 0
        self.spikes = 0
        self.operations = 0

    def count(self, spikes: np.ndarray, images: int) -> None:
        """Adds spikes in the shape of the value, summed over images."""
        self.images += images
        spikes = spikes.astype(np.int64)
        self.spikes += int(spikes.sum())
        # Neurons along axes where the fan-out is constant are summed first.
        constant = tuple(i for i, size in enumerate(self.fan.total.shape) if size == 1)
        self.operations += int((spikes.sum(axis=constant, keepdims=True) * self.fan.total).sum())

    @property
    def from_spikes(self) -> int:
        """Multiply-accumulates whose inputs are these spikes."""
        return int(np.broadcast_to(self.fan.weighted, self.shape).sum())

    @property
    def ends(self) -> tuple[int, int]:
        """Smallest and largest fan-out."""
        return int(self.fan.total.min()), int(self.fan.total.max())

    def state(self) -> dict[str, Any] | None:
        """Everything counted, as JSON; None before the first batch."""
        if not self.images:
            return None
        return {"images": self.images, "spikes": self.spikes, "operations": self.operations}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """The sum of what `state` gave on all workers."""
        self.images, self.spikes, self.operations = (
            sum(state[key] for state in states) for key in ("images", "spikes", "operations")
        )


class PoolCollector(SpikeCounter):
    """Sums up what the batches give at max-pooling of spikes."""

    def finished(self) -> PoolProfile:
        return PoolProfile(
            self.call.name, self.shape, self.images, self.spikes, self.operations, self.ends
        )


class SiteCollector(SpikeCounter):
    """Sums up what the batches give at one site."""

    def __init__(self, call: Call, fan: FanOut):
        super().__init__(call, fan)
        self.counts = dict.fromkeys(FLAGS, 0)
        self.inputs: InputStatistics | None = None

    def add(self, measured: Measured, images: int) -> None:
        """Adds what a batch gave, without the copies behind its images.

        Raises:
            ValueError: gate inputs that are not finite.
        """
        counted = measured.counted[:images] > 0
        mean = measured.mean[:images][counted].astype(np.float64)
        variance = measured.variance[:images][counted].astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(
                f"the gate inputs of {self.call.name!r} are not finite on images {self.images}.."
                f"{self.images + images - 1}"
            )
        self.count(measured.spikes, images)
        if not counted.any():  # a step that all sequences are too short for
            return
        histogram = measured.histogram.astype(np.int64)
        sets = np.arange(len(histogram))
        for bit, name in enumerate(FLAGS):
            self.counts[name] += int(histogram[sets >> bit & 1 == 1].sum())
        inputs = InputStatistics(
            count=int(counted.sum()) * math.prod(self.shape),
            mean=float(mean.mean()),
            variance=float(variance.mean() + mean.var()),
            minimum=float(measured.minimum[:images][counted].min()),
            maximum=float(measured.maximum[:images][counted].max()),
            histogram=histogram.sum(axis=0),
        )
        self.inputs = self.inputs.merged(inputs) if self.inputs else inputs

    def state(self) -> dict[str, Any] | None:
        state = super().state()
        if state is None or self.inputs is None:
            return state and {**state, "counts": self.counts, "inputs": None}
        histogram = self.inputs.histogram.tolist()
        inputs = {**dataclasses.asdict(self.inputs), "histogram": histogram}
        return {**state, "counts": self.counts, "inputs": inputs}

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        super().restore(states)
        self.counts = {key: sum(state["counts"][key] for state in states) for key in self.counts}
        inputs = [
            InputStatistics(
                **{**s["inputs"], "histogram": np.array(s["inputs"]["histogram"], np.int64)}
            )
            for s in states
            if s["inputs"] is not None
        ]
        self.inputs = functools.reduce(InputStatistics.merged, inputs) if inputs else None


def finished_sites(collectors: Sequence[SiteCollector]) -> tuple[LayerProfile, ...]:
    """The profile of each site, of a gate of a recurrent layer over all steps of its sequence, or sequences.

    Raises:
        ValueError: a gate at which all steps of all sequences are masked.
    """
    sites: dict[Any, list[SiteCollector]] = {}
    for collector in collectors:
        call = collector.call
        key = id(collector) if call.sequence is None else call.place
        sites.setdefault(key, []).append(collector)
    return tuple(_finished(steps) for steps in sites.values())


def _finished(steps: list[SiteCollector]) -> LayerProfile:
    first = steps[0]
    layer: Any = first.call.op
    inputs = [step.inputs for step in steps if step.inputs is not None]
    if not inputs:
        raise ValueError(f"all steps of all sequences are masked at {first.call.name!r}")
    smallest, largest = zip(*(step.ends for step in steps), strict=True)
    sequences = {step.call.sequence for step in steps} - {None}
    # Neurons of their own at each place along the axes of TimeDistributed.
    entries = zip(*(sequence.entry for sequence in sequences if sequence), strict=True)
    outer = tuple(1 + max(places) for places in entries)
    return LayerProfile(
        name=first.call.name,
        activation=layer.activation_name or "?",
        parameters=layer.parameters,
        shape=(*outer, *first.shape),
        images=first.images,
        total_spikes=sum(step.spikes for step in steps),
        **{name: sum(step.counts[name] for step in steps) for name in first.counts},
        synaptic_operations=sum(step.operations for step in steps),
        fan_out=(min(smallest), max(largest)),
        inputs=functools.reduce(InputStatistics.merged, inputs),
        steps=len(steps) // len(sequences) if sequences else None,
    )


def measurement(network: Graph, edges: np.ndarray) -> Callable[[Any, Any], tuple[Any, ...]]:
    """(inputs, 1 for each image and 0 for each copy) -> a `Measured` per site, spikes of each pool, outputs."""
    pools = {call: pooled_site(network, call) for call in spiking_pools(network)}

    def measure_all(inputs: Any, valid: Any) -> tuple[Any, ...]:
        pooled: dict[Call, Any] = {}
        running: Any = None  # the layer that measures
        counted = valid

        def measure(x: Any, parameters: NeuronParameters) -> tuple[Any, tuple[Any, ...]]:
            y, codes, *sums = _measure_site(
                ops.cast(x, "float32"), parameters, running, counted, edges
            )
            histogram = bincount(ops.reshape(codes, (-1,)), CODES << len(FLAGS))
            return y, (*sums, ops.reshape(histogram, (-1, CODES))[:, :-1], counted)

        def each(call: Call, tensors: Callable[[Value], Any]) -> Any:
            nonlocal running, counted
            running, counted = call.op, valid
            if call.present is not None:
                counted = valid * ops.cast(tensors(call.present), valid.dtype)
            for pool, (site, paddings) in pools.items():
                if site is call:
                    layer: Any = call.op
                    x = layer.in_units(ops.cast(tensors(call.inputs[0]), "float32"))
                    count = neuron.spike_count(_largest(pool, paddings, x), layer.parameters)
                    pooled[pool] = _over_images(count, valid)
            return call(tensors)

        with record_spikes(measure) as records:
            outputs = network.run(inputs, each)
        return [record.spikes for record in records], [pooled[pool] for pool in pools], outputs

    return measure_all


def _largest(pool: Call, paddings: Sequence[Call], x: Any) -> Any:
    """The largest gate input of each window of a pool of spikes, between which and the site there is padding."""
    for padding in paddings:
        op: Any = padding.op
        amounts = [(0, 0), *op.padding, (0, 0)]
        if op.data_format == "channels_first":
            amounts = [(0, 0), (0, 0), *op.padding]
        x = ops.pad(x, amounts, constant_values=float("-inf"))  # never fires
    layer: Any = pool.op
    return layer.largest(x)


def histogram_edges(chosen: tuple[float, float] | None, sites: Sequence[Call]) -> np.ndarray:
    """Edges of the bins: the range that was asked for, or the widest domain, symmetric about 0.

    Raises:
        ValueError: not a finite range.
    """
    if chosen is None:
        ends = np.concatenate([np.ravel(_domain(call.op)) for call in sites])
        widest = float(np.abs(ends[np.isfinite(ends)]).max(initial=0.0)) or 16.0
        chosen = (-widest, widest)
    low, high = chosen
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"histogram_range must be (low, high), finite, got {chosen}")
    return np.linspace(low, high, BINS + 1)


def _domain(layer: Any) -> np.ndarray:
    """(2, channels): what the neurons of each channel are made for, in gate inputs as they arrive."""
    domain = np.stack([np.reshape(end, -1) for end in layer.parameters.domain])
    return domain if layer.scale is None else domain * ops.convert_to_numpy(layer.scale)


def _measure_site(
    x: Any, parameters: NeuronParameters, layer: Any, valid: Any, edges: np.ndarray
) -> Any:
    """Gate inputs (images, ...) in units of the layer -> outputs, codes of `_site_measures`, the rest of `Measured`."""
    scale = ops.ones((1,)) if layer.scale is None else ops.cast(layer.scale, "float32")
    # (2, channels), or (2, 1) where all channels have the same domain.
    domain = np.stack([np.reshape(end, -1) for end in parameters.limits(len(x.shape))])
    span = np.array([edges[0], BINS / (edges[-1] - edges[0])], np.float32)
    parts = neuron.equal_parts(x.shape, MOST_PARTS)
    y, codes, spikes, mean, squares, minimum, maximum = neuron.run_fused(
        _site_measures(parts), x, parameters, valid, ops.convert_to_tensor(domain),
        ops.convert_to_tensor(span), ops.reshape(scale, (-1,)), per_image=True,
        axis=None if layer.scale is None else layer.axis,
    )  # fmt: skip
    # Of groups of one size: the variance is that within groups and that of their means.
    whole = ops.mean(mean, axis=1, keepdims=True)
    variance = ops.mean(squares, axis=1) / parts + ops.mean(ops.square(mean - whole), axis=1)
    return (
        y,
        codes,
        ops.reshape(spikes, ops.shape(x)[1:]),
        whole[:, 0],
        variance,
        ops.min(minimum, axis=1),
        ops.max(maximum, axis=1),
    )


# Neurons of an image are measured in groups, one from each of so many parts.
MOST_PARTS = 16


@functools.lru_cache(maxsize=MOST_PARTS)
def _site_measures(parts: int) -> Callable[..., tuple[Any, ...]]:
    def function(
        form: neuron.Form, x: Any, rows: neuron.Rows, valid: Any, domain: Any, span: Any, scale: Any
    ) -> tuple[Any, ...]:
        """Outputs, codes, spikes; mean, squares and ends of every group, (images, groups).

        A code is the bin of a gate input, and CODES times the flags: one histogram counts all of them.
        """
        inputs = x * scale[:, None]  # as they arrive
        codes = ops.cast(ops.clip(ops.floor((inputs - span[0]) * span[1]), -1, BINS), "int32") + 1
        y, count = form.both(x, rows)
        low, high = domain[0][:, None], domain[1][:, None]
        # Without an upper end nothing saturates.
        top = ops.where(ops.isinf(high), np.float32(np.inf), form.response(high, rows))
        flags = ops.equal(count, 0), x < low, x >= high, y >= top
        codes = codes + sum(ops.cast(flag, "int32") * (CODES << i) for i, flag in enumerate(flags))
        # Copies that fill up the last batch, and masked steps, are in a bin of their own.
        valid = valid[:, None, None, None] > 0
        codes, count = ops.where(valid, codes, CODES - 1), ops.where(valid, count, 0)
        y, codes, count = in_one_loop(
            y, codes, ops.cast(count, "uint8" if rows.K < 2**8 else "int32")
        )
        # Integers far below 2^24, which XLA sums faster as float32.
        spikes = ops.cast(ops.sum(ops.cast(count, "float32"), axis=0), "int32")
        group = neuron.in_parts(inputs, parts)
        mean = functools.reduce(ops.add, group) / parts
        measures = in_one_loop(
            mean,
            functools.reduce(ops.add, [ops.square(x - mean) for x in group]),
            functools.reduce(ops.minimum, group),
            functools.reduce(ops.maximum, group),
        )
        return y, codes, ops.reshape(spikes, (-1,)), *measures

    return function


def _over_images(count: Any, valid: Any) -> Any:
    """Sum of counts (images, ...) over images, without copies."""
    valid = ops.reshape(ops.cast(valid, "int32"), (-1,) + (1,) * (len(count.shape) - 1))
    return ops.sum(count * valid, axis=0)
