"""A converted network as spikes over discrete time.

    result = simulate(snn, images)
    result.outputs, result.spikes, result.latency, result.period

Time runs in windows of K steps. A site that has d - 1 sites before it on its longest path collects during
window d - 1 and fires during window d: its neurons start from what they collected and follow equations (1)
and (2). A spike at step t makes, at once, a current in all neurons that it reaches: the linear layers between
two sites, applied to d(t) z(t); their constants (biases) arrive once, with the first step. Where branches of
unequal depth meet, spikes of the shorter one wait in a delay line for whole windows. A product of two values
takes the spikes of one factor, the carrier, one window after the other factor is complete: each spike at step t
makes the current d(t) times the other factor, see `network.coding`. Other operations that are not linear
(softmax, a kept activation) are digital: they work at the end of the window, on complete values.

A neuron is busy for two windows, so that a new image enters every 2 K steps while earlier ones are still
deeper in the network. A gate of a recurrent layer is a site at each step of a sequence: step s of a layer follows its
step s - 1 and step s of the layer before, in a pipeline; a new sequence enters once the first is through each of them.

Currents add up in another order than in `snn(images)`, and rounding would move a few potentials across a
threshold. So that every spike is that of `snn(images)`, neurons begin to fire from the potential as one sum
over all spikes that arrived; it is compared with the sum of their currents, neuron by neuron, and a
difference beyond rounding is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.data.batches import Batches
from fs_neurons.network import ConversionError, graph
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.kinds import SPIKING_POOLING, kind_of

# Largest difference between a sum of currents and a gate input, relative to the largest of the site (at
# least 1): float32 sums of some thousand terms are off by 1e-5.
ROUNDING = 1e-4
LOW_PRECISION = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True, eq=False)
class Raster:
    """Spikes of a site, one entry each, in no particular order.

    Attributes:
        image: int64 array (spikes,): which image they belong to.
        step: int64 array (spikes,): when, in steps since the first image entered.
        neuron: int64 array (spikes,): index in the flattened shape of the site.
    """

    image: np.ndarray
    step: np.ndarray
    neuron: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SiteActivity:
    """What one site, a call of an FS layer, did.

    Attributes:
        name: of the FS layer, after the models that it is nested in.
        window: in which it fires, counted from the image's first.
        shape: of one image.
        counts: int64 array (images, K): spikes of all its neurons at every step of that window.
        raster: every spike; None unless asked for.
    """

    name: str
    window: int
    shape: tuple[int, ...]
    counts: np.ndarray
    raster: Raster | None

    @property
    def neurons(self) -> int:
        return int(np.prod(self.shape))

    @property
    def spikes(self) -> np.ndarray:
        """(images,), over all neurons."""
        return np.asarray(self.counts.sum(axis=1))


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    """What `simulate` gives.

    Attributes:
        outputs: what the network gives, as numpy arrays in the model's structure.
        sites: one `SiteActivity` per site, in order of execution.
        K: steps of a window: of the slowest site.
        depth: windows after the first until the output is complete, see `Coding.windows`.
        delays: for each layer where branches of unequal depth meet, the steps that the first one waits.
        windows_between_images: see `graph.windows_between_images`.
        deviation: largest difference between a gate input as a sum of currents and as one sum,
            relative to the largest gate input of its site (at least 1).
    """

    outputs: Any
    sites: tuple[SiteActivity, ...]
    K: int
    depth: int
    delays: dict[str, int]
    deviation: float
    windows_between_images: int = 2

    @property
    def images(self) -> int:
        return len(self.sites[0].counts)

    @property
    def latency(self) -> int:
        """Steps from an image's entry to its complete output."""
        return (self.depth + 1) * self.K

    @property
    def period(self) -> int:
        """Steps between two images."""
        return self.windows_between_images * self.K

    @property
    def throughput(self) -> float:
        """Images per step, in the long run."""
        return 1 / self.period

    @property
    def in_flight(self) -> int:
        """Images in the network at once, in the long run."""
        return -(-self.latency // self.period)

    @property
    def steps(self) -> int:
        """Steps from the entry of the first image to the output of the last."""
        return self.latency + (self.images - 1) * self.period

    @property
    def spikes(self) -> np.ndarray:
        """int64 array (images,): spikes of the whole network."""
        return np.asarray(np.sum([site.spikes for site in self.sites], axis=0))

    @property
    def spikes_per_neuron(self) -> float:
        return float(self.spikes.mean()) / sum(site.neurons for site in self.sites)

    def activity(self) -> np.ndarray:
        """Spikes at every step, of all images in flight: int64 array (sites, steps)."""
        result = np.zeros((len(self.sites), self.steps), np.int64)
        for row, site in zip(result, self.sites, strict=True):
            for image, counts in enumerate(site.counts):
                start = image * self.period + site.window * self.K
                row[start : start + len(counts)] += counts
        return result


def simulate(
    snn: keras.Model,
    images: Any,
    *,
    batch_size: int = 10,
    raster: bool = False,
    verbose: bool = False,
) -> Simulation:
    """Runs a converted network in discrete time, images one after the other.

    Args:
        snn: a converted model, sequential or functional.
        images: what the model takes, (images, ...); or an iterable of batches.
        batch_size: images that are computed together; of no influence on the result.
        raster: whether to keep every spike.
        verbose: whether to show a progress bar.

    Raises:
        ConversionError: a model that can't be taken apart, without FS-neurons, with a layer that turns
            out not to be linear, or that computes in less than float32.
        ValueError: no images, or gate inputs that are not finite.
    """
    batches = Batches(snn, images, batch_size)
    bar = keras.utils.Progbar(batches.images, verbose=int(verbose), unit_name="image")
    run: _Run | None = None
    outputs = []
    for inputs, count in batches:
        run = run or _Run(graph.trace_spiking(snn, inputs), raster)
        batch = run.batch(inputs, count)
        outputs.append(keras.tree.map_structure(lambda x: x[:count], batch))  # noqa: B023
        bar.add(count)
    assert run is not None  # Batches has at least one
    return Simulation(
        outputs=keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs),
        sites=tuple(run.activities()),
        K=run.K,
        depth=run.depth,
        delays=run.delays,
        deviation=run.deviation,
        windows_between_images=run.windows_between_images,
    )


class _Run:
    """The network in time: for every value that flows, its total and what arrives at each step.

    A stream is a tensor (K, images, ...), in the window in which the value flows. `total` is what the
    model itself computes; a stream adds up to it.
    """

    def __init__(self, network: graph.Graph, raster: bool):
        _refuse_low_precision(network)
        _refuse_masks(network)
        self.network = network
        self.keep_raster = raster
        self.K = max(call.op.parameters.K for call in network.sites)
        self.coding = Coding(network)
        self.windows = self.coding.windows
        self.windows_between_images = graph.windows_between_images(network, self.windows)
        ends = keras.tree.flatten(network.outputs)
        self.depth = int(max(self.windows[value.index] for value in ends))
        self.delays = self._delays()
        self.deviation = 0.0
        self.images = 0
        self.counts: list[list[np.ndarray]] = [[] for _ in network.sites]
        self.rasters: list[list[np.ndarray]] = [[] for _ in network.sites]
        self.constants: dict[int, Any] = {}

    def _delays(self) -> dict[str, int]:
        delays = {}
        for call in self.network.calls:
            at = [self.windows[value.index] for value in call.inputs]
            product = self.coding.products.get(call)
            if product is not None:
                at = [self.windows[x.index] for x in (product.carrier, call.outputs)]
            if at and min(at) < max(at):
                delays[call.name] = int(max(at) - min(at)) * self.K
        return delays

    def batch(self, inputs: Any, count: int) -> Any:
        """Runs images in parallel; returns the outputs, with those of copies that fill the batch up."""
        streams: dict[int, Any] = {}
        for value, x in zip(self.network.inputs, keras.tree.flatten(inputs), strict=True):
            x = ops.convert_to_tensor(x, value.dtype)
            streams[value.index] = _at_step(0, x, self.K)
        sites = iter(range(len(self.network.sites)))
        numbers = {call: i for i, call in enumerate(self.network.calls)}

        def each(call: Call, totals: Callable[[Value], Any]) -> Any:
            i = numbers[call]
            total = call(totals)
            if call.is_site:
                (source,) = call.inputs
                x = totals(source)
                self._check(call, x, streams[source.index], count)
                spikes, stream = _fire(x, call.op, self.K)
                self._record(next(sites), spikes, count)
            else:
                stream = self._passed_on(i, call, total, totals, streams)
            arriving = zip(
                keras.tree.flatten(call.outputs), keras.tree.flatten(stream), strict=True
            )
            streams.update((value.index, currents) for value, currents in arriving)
            for value in call.inputs:
                if self.network.last_uses[value.index] == i:
                    streams.pop(value.index, None)
            return total

        outputs = self.network.run(inputs, each)
        self.images += count
        return keras.tree.map_structure(ops.convert_to_numpy, outputs)

    def _passed_on(
        self,
        i: int,
        call: Call,
        total: Any,
        totals: Callable[[Value], Any],
        streams: dict[int, Any],
    ) -> Any:
        """What a call without neurons makes of the streams that reach it."""
        product = self.coding.products.get(call)
        if product is not None:
            return streams[product.carrier.index] * totals(product.other)[None]
        if graph.is_linear(call):
            response = _per_step(call, lambda value: streams[value.index])
            if i not in self.constants:
                self.constants[i] = call(lambda value: ops.zeros((1, *value.shape), value.dtype))
            at_first = np.zeros(self.K, np.float32)
            at_first[1:] = 1

            def once(x: Any, constant: Any) -> Any:
                late = ops.reshape(at_first, (self.K,) + (1,) * len(constant.shape))
                return x - ops.cast(late, x.dtype) * constant[None]

            return keras.tree.map_structure(once, response, self.constants[i])
        if kind_of(call.op) is SPIKING_POOLING:
            # Knows the largest code digit by digit.
            (value,) = call.inputs
            pool: Any = call.op
            return pool.spikes(streams[value.index])
        return keras.tree.map_structure(lambda x: _at_step(self.K - 1, x, self.K), total)

    def _check(self, call: Call, x: Any, currents: Any, count: int) -> None:
        total = ops.convert_to_numpy(x).astype(np.float64)[:count]
        if not np.isfinite(total).all():
            raise ValueError(
                f"the gate inputs of {call.name!r} are not finite on images {self.images}.."
                f"{self.images + count - 1}"
            )
        collected = ops.convert_to_numpy(currents)[:, :count].sum(axis=0, dtype=np.float64)
        difference = float(np.abs(collected - total).max(initial=0))
        deviation = difference / max(1.0, float(np.abs(total).max(initial=0)))
        if not deviation <= ROUNDING:
            raise ConversionError(
                f"the currents of {call.name!r} add up to something else than its gate inputs (relative"
                f" difference {deviation:.2g}): a layer before it is not linear"
            )
        self.deviation = max(self.deviation, deviation)

    def _record(self, site: int, spikes: Any, count: int) -> None:
        train = ops.convert_to_numpy(spikes)[:, :count]
        train = train.reshape(len(train), count, -1)
        self.counts[site].append(train.sum(axis=2, dtype=np.int64).T)
        if self.keep_raster:
            step, image, index = np.nonzero(train)
            self.rasters[site].append(np.stack([image + self.images, step, index]))

    def activities(self) -> list[SiteActivity]:
        result = []
        for call, counts, rasters in zip(
            self.network.sites, self.counts, self.rasters, strict=True
        ):
            window = int(self.windows[call.outputs.index])
            raster = None
            if self.keep_raster:
                image, step, index = np.concatenate(rasters, axis=1)
                raster = Raster(
                    image, (self.windows_between_images * image + window) * self.K + step, index
                )
            result.append(
                SiteActivity(call.name, window, call.outputs.shape, np.concatenate(counts), raster)
            )
        return result


def _refuse_low_precision(network: graph.Graph) -> None:
    """Rounding to a few bits makes sums of currents differ from gate inputs by more than a threshold."""
    for call in network.calls:
        dtype = getattr(call.op, "compute_dtype", None) or ""
        if dtype in LOW_PRECISION:
            raise ConversionError(
                f"{call.name!r} computes in {dtype}, in which currents that arrive one after the other do"
                " not add up to those that arrive at once: simulate a network whose dtype policy is"
                " float32 (build it under that policy and copy the weights with set_weights)"
            )


def _refuse_masks(network: graph.Graph) -> None:
    """In time, a masked step would be one in which the neurons of a layer do nothing."""
    for call in network.sites:
        if call.present is not None:
            raise ConversionError(
                f"{call.name!r} is part of a sequence with masked steps, which have no place in time: simulate a"
                " network without Masking and mask_zero, on sequences of one length"
            )


def _fire(x: Any, layer: Any, K: int) -> tuple[Any, Any]:
    """Spikes (K, images, ...) in {0, 1} of gate inputs (images, ...), and d(t) z(t); silent after its K."""
    p = layer.parameters
    z = ops.moveaxis(neuron.spike_train(layer.in_units(x), p), -1, 0)
    # Currents of single spikes, in the units of the output: (K, images, ...).
    d = ops.convert_to_tensor(p.rows(len(x.shape)).d)
    d = ops.stack([layer.out_of_units(d[t] * ops.ones_like(z[t])) for t in range(p.K)])
    silence = [(0, K - p.K)] + [(0, 0)] * len(x.shape)
    return ops.pad(z, silence), ops.cast(ops.pad(z * d, silence), x.dtype)


def _at_step(step: int, x: Any, K: int) -> Any:
    """A stream (K, ...) that is x at one step and nothing at the others."""
    return ops.pad(x[None], [(step, K - 1 - step)] + [(0, 0)] * len(x.shape))


def _per_step(call: Call, stream_of: Callable[[Value], Any]) -> Any:
    """Applies a call to streams (K, images, ...), all steps at once."""
    steps_and_images: tuple[Any, ...] = ()

    def merged(value: graph.Value) -> Any:
        nonlocal steps_and_images
        stream = stream_of(value)
        steps_and_images = tuple(ops.shape(stream)[:2])
        return ops.reshape(stream, (-1, *value.shape))

    result = call(merged)
    return keras.tree.map_structure(
        lambda x: ops.reshape(x, (*steps_and_images, *ops.shape(x)[1:])), result
    )
