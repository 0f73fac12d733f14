"""What a converted network does on images: spikes, inputs, operations, energy, time.

    result = profile(snn, images)
    print(result)                                 # a table: every site, and all of them
    result.spikes_per_neuron, result.energy.ratio, result.latency
    result.to_json(); result.rows(); result.plot()

All counts are exact integers, over as many images as are streamed through.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from tabulate import tabulate

from fs_neurons import neuron
from fs_neurons.analysis import connectivity
from fs_neurons.backend import bincount
from fs_neurons.backend.distribution import ONE, Distribution
from fs_neurons.data.batches import Batch, Batches
from fs_neurons.layers import record_spikes
from fs_neurons.network import graph
from fs_neurons.neuron import FSParameters, NeuronParameters

if TYPE_CHECKING:
    import matplotlib.figure

BINS = 400
# From this share of inputs outside the domain of a parameter set on, `profile` warns.
WARN_OUTSIDE = 0.01


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """Energy of one operation; memory traffic, thresholds and idle neurons are left out.

    Attributes:
        mac: of one multiply-accumulate, in joule.
        ac: of one accumulate, in joule.
        source: where the numbers come from.
    """

    mac: float
    ac: float
    source: str


HOROWITZ_45NM = EnergyModel(
    mac=4.6e-12,
    ac=0.9e-12,
    source="45 nm CMOS, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ. M. Horowitz,"
    ' "Computing\'s energy problem (and what we can do about it)", ISSCC 2014',
)


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy for one image, in joule.

    Attributes:
        ann: every multiply-accumulate of the network.
        snn: one accumulate per synaptic operation, one multiply-accumulate per digital one.
    """

    ann: float
    snn: float

    @property
    def ratio(self) -> float:
        """How many times more the ANN takes."""
        return self.ann / self.snn if self.snn else math.inf


@dataclasses.dataclass(frozen=True, eq=False)
class InputStatistics:
    """Gate inputs, over neurons and images.

    Attributes:
        count: how many.
        mean, variance: of them.
        minimum, maximum: of them.
        histogram: int64 array (bins + 2,): below the range, per bin, above it.
    """

    count: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    histogram: np.ndarray

    def merged(self, other: InputStatistics) -> InputStatistics:
        """Of both together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        difference = other.mean - self.mean
        squares = self.variance * self.count + other.variance * other.count
        squares += difference**2 * self.count * other.count / count
        return InputStatistics(
            count,
            self.mean + difference * other.count / count,
            squares / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.histogram + other.histogram,
        )


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One site: a call of an FS layer. Counts are over all images and neurons.

    Attributes:
        name: of the FS layer, after the models that it is nested in.
        activation: what it stands for.
        parameters: its parameter set.
        shape: of one image.
        images: number of images.
        total_spikes: spikes.
        silent: neurons without a spike.
        below, above: gate inputs x below the domain [low, high) of the parameter set, and x >= high.
        saturated: neurons whose output is at least that at the upper end of the domain.
        synaptic_operations: spikes times the fan-out of their neuron.
        fan_out: (smallest, largest) number of targets of a neuron.
        inputs: statistics of the gate inputs.
    """

    name: str
    activation: str
    parameters: NeuronParameters
    shape: tuple[int, ...]
    images: int
    total_spikes: int
    silent: int
    below: int
    above: int
    saturated: int
    synaptic_operations: int
    fan_out: tuple[int, int]
    inputs: InputStatistics

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.total_spikes / self.images

    @property
    def spikes_per_neuron(self) -> float:
        return self.spikes / self.neurons

    @property
    def silent_share(self) -> float:
        return self.silent / self.inputs.count

    @property
    def outside_share(self) -> float:
        """Of the gate inputs: outside the domain of the parameter set."""
        return (self.below + self.above) / self.inputs.count

    @property
    def saturated_share(self) -> float:
        return self.saturated / self.inputs.count

    def row(self) -> dict[str, Any]:
        """Plain values: for a data frame, or JSON."""
        return {
            "site": self.name,
            "activation": self.activation,
            "parameters": self.parameters.name,
            "K": self.parameters.K,
            "neurons": self.neurons,
            "spikes": self.spikes,
            "spikes_per_neuron": self.spikes_per_neuron,
            "silent_share": self.silent_share,
            "input_mean": self.inputs.mean,
            "input_variance": self.inputs.variance,
            "input_minimum": self.inputs.minimum,
            "input_maximum": self.inputs.maximum,
            "below_share": self.below / self.inputs.count,
            "above_share": self.above / self.inputs.count,
            "saturated_share": self.saturated_share,
            "synaptic_operations": self.synaptic_operations / self.images,
            "smallest_fan_out": self.fan_out[0],
            "largest_fan_out": self.fan_out[1],
            "total_spikes": self.total_spikes,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """What `profile` measured; `str()` is a table.

    Attributes:
        model: name of the model.
        images: number of images.
        layers: one `LayerProfile` per site, in order of execution.
        edges: (bins + 1,), between the bins of the histograms.
        macs: multiply-accumulates of the ANN for one image, those with padded zeros left out.
        digital_macs: those of them whose inputs are no spikes, so that they stay: on the image, behind
            another linear layer, and products such as those of squeeze-excite gates.
        weighted_layers: dense and convolutional layers on the longest path.
        depth: sites on the longest path.
        energy_model: energy of one operation.
    """

    model: str
    images: int
    layers: tuple[LayerProfile, ...]
    edges: np.ndarray
    macs: int
    digital_macs: int
    weighted_layers: int
    depth: int
    energy_model: EnergyModel

    @property
    def neurons(self) -> int:
        return sum(layer.neurons for layer in self.layers)

    @property
    def total_spikes(self) -> int:
        """Over all images, an exact count."""
        return sum(layer.total_spikes for layer in self.layers)

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.total_spikes / self.images

    @property
    def spikes_per_neuron(self) -> float:
        return self.spikes / self.neurons

    @property
    def silent_share(self) -> float:
        return sum(layer.silent for layer in self.layers) / self.pooled_inputs.count

    @property
    def outside_share(self) -> float:
        return sum(layer.below + layer.above for layer in self.layers) / self.pooled_inputs.count

    @property
    def saturated_share(self) -> float:
        return sum(layer.saturated for layer in self.layers) / self.pooled_inputs.count

    @property
    def synaptic_operations(self) -> float:
        """Per image."""
        return sum(layer.synaptic_operations for layer in self.layers) / self.images

    @functools.cached_property
    def pooled_inputs(self) -> InputStatistics:
        """Gate inputs of all neurons together."""
        return functools.reduce(InputStatistics.merged, (layer.inputs for layer in self.layers))

    @property
    def site_average(self) -> tuple[float, float]:
        """Mean and variance of the gate inputs as in Figure 5 of the paper.

        The plain averages over sites of their means and of their standard deviations, the latter squared.
        """
        means = [layer.inputs.mean for layer in self.layers]
        deviations = [math.sqrt(layer.inputs.variance) for layer in self.layers]
        return float(np.mean(means)), float(np.mean(deviations)) ** 2

    @property
    def energy(self) -> Energy:
        """By `energy_model`, for one image."""
        return self.energy_by(self.energy_model)

    def energy_by(self, model: EnergyModel) -> Energy:
        """By another model of the energy of an operation, for one image."""
        return Energy(
            ann=self.macs * model.mac,
            snn=self.synaptic_operations * model.ac + self.digital_macs * model.mac,
        )

    @property
    def K(self) -> int:
        """Time steps of the slowest site: the length of the window in which layers take turns."""
        return max(layer.parameters.K for layer in self.layers)

    @property
    def paper_latency(self) -> int:
        """Time steps from image to output by the paper's formula, layers times K."""
        return self.weighted_layers * self.K

    @property
    def latency(self) -> int:
        """Time steps from image to output as `simulate` takes them.

        A window of K steps in which the first site collects, and one in which each site on the longest
        path fires. Layers without a site of their own take no time.
        """
        return (self.depth + 1) * self.K

    @property
    def period(self) -> int:
        """Time steps between images: each neuron collects for K steps and fires for K steps."""
        return 2 * self.K

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per site: `pandas.DataFrame(result.rows())`."""
        return [layer.row() for layer in self.layers]

    def summary(self) -> dict[str, Any]:
        """Everything but the sites, as plain values; per image unless the name says otherwise."""
        mean, variance = self.site_average
        return {
            "model": self.model,
            "images": self.images,
            "neurons": self.neurons,
            "spikes": self.spikes,
            "total_spikes": self.total_spikes,
            "spikes_per_neuron": self.spikes_per_neuron,
            "silent_share": self.silent_share,
            "outside_share": self.outside_share,
            "saturated_share": self.saturated_share,
            "pooled_input_mean": self.pooled_inputs.mean,
            "pooled_input_variance": self.pooled_inputs.variance,
            "site_average_input_mean": mean,
            "site_average_input_variance": variance,
            "ann_macs": self.macs,
            "synaptic_operations": self.synaptic_operations,
            "digital_macs": self.digital_macs,
            "ann_energy_joule": self.energy.ann,
            "snn_energy_joule": self.energy.snn,
            "energy_model": dataclasses.asdict(self.energy_model),
            "latency_steps": self.latency,
            "paper_latency_steps": self.paper_latency,
            "steps_between_images": self.period,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Everything measured, histograms included, as JSON text."""
        sites = [
            {**layer.row(), "histogram": layer.inputs.histogram.tolist()} for layer in self.layers
        ]
        content = {**self.summary(), "histogram_edges": self.edges.tolist(), "sites": sites}
        return json.dumps(content, indent=indent, allow_nan=False)

    def __str__(self) -> str:
        header = ("site", "activation", "neurons", "spikes", "/neuron", "silent %", "input mean",
                  "variance", "outside %", "saturated %", "synaptic operations")  # fmt: skip
        table = [
            (
                layer.name, layer.activation, f"{layer.neurons:,}", f"{layer.spikes:,.0f}",
                f"{layer.spikes_per_neuron:.2f}", f"{100 * layer.silent_share:.1f}",
                f"{layer.inputs.mean:.3f}", f"{layer.inputs.variance:.3f}",
                f"{100 * layer.outside_share:.3f}", f"{100 * layer.saturated_share:.3f}",
                f"{layer.synaptic_operations / self.images:,.0f}",
            )
            for layer in self.layers
        ]  # fmt: skip
        table.append(
            (
                "all", "", f"{self.neurons:,}", f"{self.spikes:,.0f}", f"{self.spikes_per_neuron:.2f}",
                f"{100 * self.silent_share:.1f}", f"{self.pooled_inputs.mean:.3f}",
                f"{self.pooled_inputs.variance:.3f}", f"{100 * self.outside_share:.3f}",
                f"{100 * self.saturated_share:.3f}", f"{self.synaptic_operations:,.0f}",
            )
        )  # fmt: skip
        mean, variance = self.site_average
        energy = self.energy
        return "\n".join(
            [
                f"Model {self.model!r}, {self.images:,} images; numbers are per image",
                tabulate(
                    table, header, disable_numparse=True, colalign=("left", "left", *["right"] * 9)
                ),
                f"inputs averaged over sites as in the paper: mean {mean:.3f}, variance {variance:.3f}",
                f"operations: ANN {self.macs:,} multiply-accumulates; SNN"
                f" {self.synaptic_operations:,.0f} accumulates and {self.digital_macs:,}"
                " multiply-accumulates",
                f"energy: ANN {1e6 * energy.ann:.3g} uJ, SNN {1e6 * energy.snn:.3g} uJ, a factor of"
                f" {energy.ratio:.2f} ({self.energy_model.source})",
                f"time: {self.latency} steps from image to output (layers x K: {self.paper_latency}), an"
                f" image every {self.period} steps",
            ]
        )

    def plot(self) -> matplotlib.figure.Figure:
        """Spikes per neuron and distribution of the gate inputs, site by site."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 1.5 + 0.24 * len(self.layers)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        at = np.arange(len(self.layers))
        left.barh(at, [layer.spikes_per_neuron for layer in self.layers], color="#0f5fa8")
        left.set(
            yticks=at, yticklabels=[layer.name for layer in self.layers], title="Spikes per neuron"
        )
        left.tick_params(axis="y", labelsize=7)
        left.invert_yaxis()
        density = np.array(
            [layer.inputs.histogram[1:-1] / layer.inputs.count for layer in self.layers]
        )
        shown = np.flatnonzero(density.max(axis=0) > 1e-4)
        first, last = (shown[0], shown[-1] + 1) if len(shown) else (0, density.shape[1])
        image = right.imshow(
            np.sqrt(density[:, first:last]), aspect="auto", cmap="Blues", interpolation="nearest",
            extent=(self.edges[first], self.edges[last], len(at) - 0.5, -0.5),
        )  # fmt: skip
        right.set(xlabel="gate input", title="Distribution of gate inputs")
        figure.colorbar(image, ax=right, label="square root of the share")
        return figure


def profile(
    snn: keras.Model,
    images: Any,
    *,
    batch_size: int = 100,
    histogram_range: tuple[float, float] | None = None,
    energy_model: EnergyModel = HOROWITZ_45NM,
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
        verbose: whether to show a progress bar.
        distribution: of the batches; `snn` was made in its scope.

    Raises:
        ConversionError: a model that can't be taken apart, or without FS-neurons.
        ValueError: no images, a bad range, or gate inputs that are not finite.
        WorkerLostError: another worker of the distribution is gone.

    Warns:
        UserWarning: at some site more than 1 % of the gate inputs are outside its parameter set's domain.
    """
    batches = Batches(snn, images, batch_size)
    collectors: list[_Collector] = []
    bar = keras.utils.Progbar(batches.images, verbose=int(verbose), unit_name="image")
    rounds = iter(batches)
    while several := list(itertools.islice(rounds, distribution.replicas)):
        if not collectors:
            inputs = several[0].inputs
            network = graph.trace_spiking(snn, inputs)
            edges = _edges(histogram_range, [call.op.parameters for call in network.sites])
            collectors = [
                _Collector(call, fan)
                for call, fan in zip(network.sites, connectivity.fan_outs(network), strict=True)
            ]
            measure = distribution.compiled(_measurement(snn, edges))
            size = len(keras.tree.flatten(inputs)[0])
        # Replicas that are left over at the end run copies, which count for nothing.
        idle = Batch(several[0].inputs, 0)
        mine = [several[i] if i < len(several) else idle for i in distribution.local]
        valid = [(np.arange(size) < batch.count).astype(np.float32) for batch in mine]
        results = measure([(batch.inputs, v) for batch, v in zip(mine, valid, strict=True)])
        for batch, measured in zip(mine, results, strict=True):
            for collector, tensors in zip(collectors, measured, strict=True):
                if batch.count:
                    collector.add(_Measured(*map(ops.convert_to_numpy, tensors)), batch.count)
        bar.add(sum(batch.count for batch in several))
    states = distribution.gather_json([collector.state() for collector in collectors])
    for collector, *parts in zip(collectors, *states, strict=True):
        collector.restore([part for part in parts if part is not None])
    layers = tuple(collector.finished() for collector in collectors)
    _warn_of_outside(layers)
    macs = sum(connectivity.multiply_accumulates(call) for call in network.calls)
    from_spikes = sum(
        int(np.broadcast_to(collector.fan.weighted, layer.shape).sum())
        for collector, layer in zip(collectors, layers, strict=True)
    )
    ends = [value.index for value in keras.tree.flatten(network.outputs)]
    return Profile(
        model=snn.name,
        images=layers[0].images,
        layers=layers,
        edges=edges,
        macs=macs,
        digital_macs=macs - from_spikes,
        weighted_layers=int(graph.depth(network, graph.is_weighted)[ends].max()),
        depth=int(graph.depth(network, lambda call: call.is_site)[ends].max()),
        energy_model=energy_model,
    )


# --- measuring ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What one batch gives at one site; (images,) unless it says otherwise."""

    spikes: np.ndarray  # (neurons,), over the images
    silent: np.ndarray
    below: np.ndarray
    above: np.ndarray
    saturated: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    histogram: np.ndarray  # (bins + 2,), over neurons and images


class _Collector:
    """Sums up what the batches give at one site, in exact integers and float64."""

    def __init__(self, call: graph.Call, fan: connectivity.FanOut):
        self.call = call
        self.fan = fan
        self.shape = call.outputs.shape
        self.images = 0
        self.counts = dict.fromkeys(("silent", "below", "above", "saturated"), 0)
        self.spikes = 0
        self.operations = 0
        self.inputs: InputStatistics | None = None

    def add(self, measured: _Measured, images: int) -> None:
        mean = measured.mean[:images].astype(np.float64)
        variance = measured.variance[:images].astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(
                f"the gate inputs of {self.call.name!r} are not finite on images {self.images}.."
                f"{self.images + images - 1}"
            )
        self.images += images
        spikes = measured.spikes.astype(np.int64).reshape(self.shape)
        self.spikes += int(spikes.sum())
        # Neurons along axes where the fan-out is constant are summed first.
        constant = tuple(i for i, size in enumerate(self.fan.total.shape) if size == 1)
        self.operations += int((spikes.sum(axis=constant, keepdims=True) * self.fan.total).sum())
        for name in self.counts:
            self.counts[name] += int(getattr(measured, name)[:images].sum(dtype=np.int64))
        inputs = InputStatistics(
            count=images * math.prod(self.shape),
            mean=float(mean.mean()),
            variance=float(variance.mean() + mean.var()),
            minimum=float(measured.minimum[:images].min()),
            maximum=float(measured.maximum[:images].max()),
            histogram=measured.histogram.astype(np.int64),
        )
        self.inputs = self.inputs.merged(inputs) if self.inputs else inputs

    def state(self) -> dict[str, Any] | None:
        """Everything measured, as JSON; None before the first batch."""
        if self.inputs is None:
            return None
        histogram = self.inputs.histogram.tolist()
        return {
            "images": self.images, "counts": self.counts, "spikes": self.spikes,
            "operations": self.operations,
            "inputs": {**dataclasses.asdict(self.inputs), "histogram": histogram},
        }  # fmt: skip

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """The sum of what `state` gave on all workers."""
        self.images, self.spikes, self.operations = (
            sum(state[key] for state in states) for key in ("images", "spikes", "operations")
        )
        self.counts = {key: sum(state["counts"][key] for state in states) for key in self.counts}
        inputs = [
            InputStatistics(
                **{**s["inputs"], "histogram": np.array(s["inputs"]["histogram"], np.int64)}
            )
            for s in states
        ]
        self.inputs = functools.reduce(InputStatistics.merged, inputs)

    def finished(self) -> LayerProfile:
        layer = self.call.op
        return LayerProfile(
            name=self.call.name,
            activation=layer.activation_name or "?",
            parameters=layer.parameters,
            shape=self.shape,
            images=self.images,
            total_spikes=self.spikes,
            **self.counts,
            synaptic_operations=self.operations,
            fan_out=(int(self.fan.total.min()), int(self.fan.total.max())),
            inputs=self.inputs,
        )


def _measurement(snn: keras.Model, edges: np.ndarray) -> Callable[[Any, Any], list[tuple]]:
    def measure_all(inputs: Any, valid: Any) -> list[tuple]:
        def measure(x: Any, parameters: NeuronParameters) -> tuple[Any, tuple]:
            y, bins, *sums = _measure_site(ops.cast(x, "float32"), parameters, valid, edges)
            # Copies that fill up the last batch are in a bin of their own.
            histogram = bincount(ops.reshape(bins, (-1,)), BINS + 3)[:-1]
            return y, (*sums, histogram)

        with record_spikes(measure) as records:
            snn(inputs, training=False)
        return [record.spikes for record in records]

    return measure_all


def _measure_site(x: Any, parameters: NeuronParameters, valid: Any, edges: np.ndarray) -> tuple:
    """Gate inputs (images, ...) -> outputs, bins of the histogram, the rest of `_Measured`."""
    # (2, channels), or (2, 1) where all channels have the same domain.
    domain = np.stack([np.reshape(end, -1) for end in parameters.limits(len(x.shape))])
    domain = ops.convert_to_tensor(domain)
    span = np.float32([edges[0], BINS / (edges[-1] - edges[0])])
    return neuron.run_fused(
        _site_measures, x, parameters, valid, domain, ops.convert_to_tensor(span), per_image=True
    )


def _site_measures(
    form: neuron.Form, x: Any, rows: neuron.Rows, valid: Any, domain: Any, span: Any
) -> tuple:
    """What `_measure_site` gives, of gate inputs (images, before, channels, behind)."""
    y, count = form.response(x, rows), form.count(x, rows)
    valid = valid[:, None, None, None]
    low, high = domain[0][:, None], domain[1][:, None]

    def how_many(condition: Any) -> Any:
        return ops.sum(ops.cast(condition, "int32"), axis=(1, 2, 3))

    # Without an upper end nothing saturates.
    top = ops.where(ops.isinf(high), np.float32(np.inf), form.response(high, rows))
    mean = ops.mean(x, axis=(1, 2, 3), keepdims=True)
    bins = ops.cast(ops.clip(ops.floor((x - span[0]) * span[1]), -1, BINS), "int32") + 1
    return (
        y,
        ops.where(valid > 0, bins, BINS + 2),
        ops.reshape(ops.sum(count * ops.cast(valid, "int32"), axis=0), (-1,)),
        how_many(ops.equal(count, 0)),
        how_many(x < low),
        how_many(x >= high),
        how_many(y >= top),
        ops.reshape(mean, (-1,)),
        ops.mean(ops.square(x - mean), axis=(1, 2, 3)),
        ops.min(x, axis=(1, 2, 3)),
        ops.max(x, axis=(1, 2, 3)),
    )


def _edges(chosen: tuple[float, float] | None, sets: Sequence[NeuronParameters]) -> np.ndarray:
    if chosen is None:
        ends = np.concatenate([np.ravel(parameters.domain) for parameters in sets])
        widest = float(np.abs(ends[np.isfinite(ends)]).max(initial=0)) or 16.0
        chosen = (-widest, widest)
    low, high = chosen
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"histogram_range must be (low, high), finite, got {chosen}")
    return np.linspace(low, high, BINS + 1)


def _warn_of_outside(layers: Sequence[LayerProfile]) -> None:
    outside = [layer for layer in layers if layer.outside_share > WARN_OUTSIDE]
    if outside:
        listed = ", ".join(
            f"{layer.name!r} {100 * layer.outside_share:.1f} % outside {_domain_text(layer.parameters)}"
            for layer in outside[:5]
        )
        warnings.warn(
            f"gate inputs outside the domain of their parameter set at {len(outside)} of"
            f" {len(layers)} sites: {listed}{', ...' if len(outside) > 5 else ''}. Convert with a set for"
            " a wider domain, such as relu=fs.relu_parameters(K, alpha) with a larger alpha",
            stacklevel=3,
        )


def _domain_text(parameters: NeuronParameters) -> str:
    if isinstance(parameters, FSParameters):
        return str(parameters.domain)
    low, high = parameters.domain
    return f"domains of {parameters.channels} channels, the widest ({low.min():g}, {high.max():g})"
