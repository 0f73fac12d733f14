"""Post-training calibration: fewer steps and spikes for the same accuracy, from unlabelled inputs.

    snn = fs.convert(model, calibration_data=images, steps=5)
    snn = fs.convert(model, calibration_data=images, steps=8, spike_penalty=0.01)
    snn = fs.convert(model, calibration_data=images, steps=5, target_spikes=0.8)

The analog and the spiking network run side by side on the calibration data, which needs no labels,
operation by operation, all data through one before the next. A site is fitted to the gate inputs that it
gets from the converted network before it. A linear layer gets the weights that come nearest, in the
sense of least squares, to what it gave in the analog network; other layers with an offset are rescaled
and shifted so that each channel has its mean and standard deviation again. With few steps, weights and
ranges of all layers are then adjusted together, for the gate inputs of all sites and the outputs.

A ReLU site gets range alpha per channel, for the least error, and rounds to the nearest
multiple of its step. Every other site gets T, h and d fitted to its function and its own distribution
of gate inputs. The equations are in docs/calibration.md.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.calibration.refinement import refine
from fs_neurons.calibration.store import Store, last_uses
from fs_neurons.layers import FSActivation, fs_layer, record_spikes
from fs_neurons.network import Site, graph
from fs_neurons.network.graph import Call, Graph, Value
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import walk
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron.sets import shipped

GRANULARITIES = ("channel", "layer")
# How errors are made up for in the layers between sites, each with what the one before has.
CORRECTIONS = ("none", "mean", "affine", "weights", "joint")
# Up to so many steps, "joint" is worth its time; and with a price on spikes.
FEW_STEPS, FEW_PRICED_STEPS = 4, 8
MIN_IMAGES, MAX_IMAGES = 16, 50_000
BATCH = 100
# A site is fitted to at most so many gate inputs, evenly spaced over images and positions.
SAMPLES_PER_CHANNEL, SAMPLES = 65_536, 8_000_000
# Candidates for alpha, as shares of the largest gate input of a channel, and bins of its histogram.
ALPHAS, BINS = np.geomspace(0.04, 1.3, 96), 512
# Effort of the first fit of a function and of those that start from fits before it.
FIRST_EFFORT, NEXT_EFFORT = 300_000, 40_000
# Shares of the weight for inputs never met: spread evenly over the range of a fit, and of either side of it.
# With more, sites of few steps spend their levels there.
SPREAD, GUARD = 1e-4, 1e-5
# Sites whose distributions differ by less than this (Kolmogorov-Smirnov) share a set.
SAME_DISTRIBUTION = 0.03
LARGEST_GAIN = 2.0
# Of the least squares for weights: ridges to choose from, relative to the mean variance of the inputs.
RIDGES, ROWS_PER_UNKNOWN = (0.01, 0.1, 1.0, 10.0), 200
# Neurons with more inputs are rescaled only: memory grows with the square, time with the third power.
MOST_UNKNOWNS = 8192
# Of the search for the spike penalty that meets a target.
PENALTIES, SEARCH_ROUNDS, TARGET_TOLERANCE = (1e-3, 1.0), 6, 0.02


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to calibrate; see `convert`.

    Attributes:
        steps: K of every site; that of the uncalibrated set where None.
        granularity: whether ReLUs get alpha per "channel" or per "layer".
        spike_penalty: what one spike per neuron costs, in units of a site's relative squared error.
        target_spikes: average spikes per neuron that the penalty is to be raised for, if any.
        rounding: of ReLU sites, "nearest" or "down".
        correction: of the layers between sites: "mean" or "affine", mean and standard deviation, of each
            channel; "weights" for least squares instead; "joint" for that and then an adjustment of
            all weights and ranges together; "none" leaves all weights as they are. Where None,
            `best_correction`.

    Raises:
        ValueError: an argument makes no sense.
    """

    steps: int | None = None
    granularity: str = "channel"
    spike_penalty: float = 0.0
    target_spikes: float | None = None
    rounding: str = "nearest"
    correction: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (
            isinstance(self.steps, bool)
            or not isinstance(self.steps, (int, np.integer))
            or not 1 <= self.steps <= 20
        ):
            raise ValueError(f"steps must be a number of time steps, 1 to 20, got {self.steps!r}")
        for name, choices in (("granularity", GRANULARITIES), ("correction", CORRECTIONS)):
            value = getattr(self, name)
            if value not in choices and not (name == "correction" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if not (np.isfinite(self.spike_penalty) and self.spike_penalty >= 0):
            raise ValueError(f"spike_penalty must be a number >= 0, got {self.spike_penalty!r}")
        if self.target_spikes is not None:
            if not (np.isfinite(self.target_spikes) and self.target_spikes > 0):
                raise ValueError(f"target_spikes must be a number > 0, got {self.target_spikes!r}")
            if self.spike_penalty:
                raise ValueError("give target_spikes or spike_penalty, not both")

    @property
    def best_correction(self) -> str:
        """ "joint" with few steps, where errors are large; else "weights"."""
        few = FEW_PRICED_STEPS if self.spike_penalty or self.target_spikes else FEW_STEPS
        return "joint" if self.steps is not None and self.steps <= few else "weights"


def calibrate(
    model: keras.Model, chosen: Mapping[Site, FSParameters], data: Any, settings: Settings
) -> keras.Model:
    """The FS-network of `model`, calibrated; `convert(model, calibration_data=data)` calls this.

    Args:
        model: as for `convert`.
        chosen: sites to replace, and the sets that they would get without calibration.
        data: inputs as the model takes them, an array (a list or dictionary of them for several
            inputs), or an iterable over batches of such.
        settings: how.

    Returns:
        A new model. Its weights differ from those of `model` where layers were corrected.

    Raises:
        TypeError, ValueError: `data` isn't inputs of the model, holds labels or NaN, or is too little;
            `target_spikes` can't be met.
    """
    return _Calibration(model, chosen, _batches(model, data), settings).run()


class _Calibration:
    """The state of a calibration: the network being made, and what was learned so far."""

    def __init__(self, model, chosen, batches, settings: Settings):
        self.model, self.batches, self.settings = model, batches, settings
        self.chosen = chosen
        self.correction = settings.correction or settings.best_correction
        # 1. The network, with placeholders at its sites.
        structure = input_structure(model)
        first = keras.tree.pack_sequence_as(structure, self.batches[0])
        calls = _calls(graph.trace(model, first))
        called = {site: calls[id(op)] for op, site in walk(model) if id(op) in calls}
        self.site_of: dict[int, Site] = {}

        def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
            if site not in chosen:
                return None
            layer = self._placeholder(site, called[site] > 1, name, dtype)
            self.site_of[id(layer)] = site
            return layer

        self.snn = Rewriter(replacement).rewrite(model)
        self.graph = graph.trace(self.snn, first)
        # The same values with the original activations.
        self.analog = {
            call: dataclasses.replace(call, op=self.site_of[id(call.op)].function)
            if call.is_site
            else call
            for call in self.graph.calls
        }
        self.calls, self.last_uses = _calls(self.graph), last_uses(self.graph)
        self.weights = self.snn.get_weights()

    def run(self) -> keras.Model:
        self._sample_shared_sites()
        self._calibrate(self.settings.spike_penalty)
        target = self.settings.target_spikes
        if target is not None and self._spikes_per_neuron() > target * (1 + TARGET_TOLERANCE):
            self._search_penalty(target)
        if self.correction == "joint":
            self._refine(self._spikes_per_neuron() if target is None else target)
        return self.snn

    def _search_penalty(self, target: float) -> None:
        """Calibrates with the lowest penalty found that has no more spikes per neuron than the target."""
        low, high = map(math.log, PENALTIES)
        best = None
        for _ in range(SEARCH_ROUNDS):
            penalty = math.exp((low + high) / 2)
            self._calibrate(penalty)
            spikes = self._spikes_per_neuron()
            if spikes > target:
                low = math.log(penalty)
            else:
                best, high = penalty, math.log(penalty)
                if spikes > target * (1 - TARGET_TOLERANCE):
                    return
        if best is None:
            raise ValueError(
                f"target_spikes={target}: with penalty {penalty:.3g} there are still {spikes:.2f} spikes"
                " per neuron; take fewer steps, or a larger target"
            )
        if best != penalty:
            self._calibrate(best)

    def _placeholder(self, site: Site, shared: bool, name: str, dtype: Any) -> FSActivation:
        parameters = self.chosen[site]
        steps = self.settings.steps or parameters.K
        if not _is_relu(site):
            return fs_layer(parameters, site.activation, name=name, dtype=dtype)
        # A layer that several places share may meet different numbers of channels.
        per_channel = self.settings.granularity == "channel" and not shared
        unit = relu_parameters(steps, 1.0, self.settings.rounding)
        return FSActivation(
            unit, site.activation, per_channel=per_channel, axis=_channel_axis(), name=name, dtype=dtype
        )  # fmt: skip

    def _sample_shared_sites(self) -> None:
        """Gate inputs of sites in several places: they are fitted to all of them at the first."""
        self.shared_inputs: dict[int, list[np.ndarray]] = {}
        if all(self.calls[layer] == 1 for layer in self.site_of):
            return
        with Store() as values:
            self._put_inputs(values)
            for call in self.graph.calls:
                if self.calls[id(call.op)] > 1 and id(call.op) in self.site_of:
                    share = len(self.batches) * self.calls[id(call.op)]
                    self.shared_inputs.setdefault(id(call.op), []).extend(
                        _sample(values.get(i, call.inputs[0]), -1, share)
                        for i in range(len(self.batches))
                    )
                self._run_analog(call, values)
                values.drop(self.last_uses[call])

    def _put_inputs(self, values: Store) -> None:
        for i, batch in enumerate(self.batches):
            values.put(i, self.graph.inputs, [ops.convert_to_tensor(x) for x in batch])

    def _run_analog(self, call: Call, values: Store) -> None:
        for i in range(len(self.batches)):
            values.put(i, call.outputs, self.analog[call](values.of(i)))

    def _calibrate(self, penalty: float) -> None:
        """Site by site and layer by layer."""
        self.snn.set_weights(self.weights)
        self.penalty = penalty
        self.fits: list[_Fit] = []
        # Offsets of layers, with the standard deviation of their channels.
        self.offsets: list[tuple[keras.Variable, np.ndarray]] = []
        self._run_side_by_side()

    def _refine(self, most_spikes: float) -> None:
        """All layers together."""
        called = {id(call.op): call.op for call in self.graph.calls}.values()
        kernels = [
            (weight, _rms_of_channels(weight))
            for layer in called
            for weight in getattr(layer, "weights", ())
            if len(weight.shape) > 1 and "float" in weight.dtype
        ]
        refine(
            self.graph,
            dataclasses.replace(self.graph, calls=tuple(self.analog.values())),
            originals=list(zip(self.snn.weights, self.weights, strict=True)),
            ranges=[s.scale for s in called if isinstance(s, FSActivation) and s.per_channel],
            weights=kernels + self.offsets,
            inputs=[np.concatenate(arrays) for arrays in zip(*self.batches, strict=True)],
            most_spikes=most_spikes,
        )

    def _spikes_per_neuron(self) -> float:
        spikes = neurons = 0
        for batch in self._packed():
            with record_spikes() as records:
                self.snn(batch, training=False)
            for record in records:
                spikes += int(ops.convert_to_numpy(record.spikes).sum(dtype=np.int64))
                neurons += math.prod(record.shape)
        return spikes / neurons

    def _packed(self) -> list[Any]:
        """Batches in the structure in which the model takes its inputs."""
        structure = input_structure(self.model)
        return [keras.tree.pack_sequence_as(structure, batch) for batch in self.batches]

    def _run_side_by_side(self) -> None:
        """All batches through one operation of both networks after the other."""
        # Outputs of layers whose weights were fitted.
        self.refitted: set[Value] = set()
        fitted: set[int] = set()
        with Store() as analog, Store() as spiking:
            self._put_inputs(analog)
            self._put_inputs(spiking)
            for call in self.graph.calls:
                layer = call.op
                # 1. The analog network: no layer is corrected before it gave its results here.
                self._run_analog(call, analog)
                # 2. Fit or correct.
                if id(layer) in self.site_of:
                    if id(layer) not in fitted:
                        self._fit(layer, call, spiking)
                        fitted.add(id(layer))
                elif self.calls[id(layer)] == 1:
                    self._correct(call, analog, spiking)
                if self.calls[id(layer)] == 1 and (offset := _offset(layer)) is not None:
                    moments = _Moments()
                    moments.add(analog.get(0, call.outputs), _output_axis(layer))
                    self.offsets.append((offset, np.sqrt(moments.variance)))
                # 3. The spiking network.
                for i in range(len(self.batches)):
                    spiking.put(i, call.outputs, call(spiking.of(i)))
                for values in (analog, spiking):
                    values.drop(self.last_uses[call])

    # --- sites ----------------------------------------------------------------------------------

    def _fit(self, layer: FSActivation, call: Call, spiking: Store) -> None:
        site = self.site_of[id(layer)]
        axis = layer.axis if layer.per_channel else -1
        x = self.shared_inputs.get(id(layer)) or [
            _sample(spiking.get(i, call.inputs[0]), axis, len(self.batches))
            for i in range(len(self.batches))
        ]
        x = np.concatenate(x)
        steps = self.settings.steps or self.chosen[site].K
        if not _is_relu(site):
            layer.parameters = self._fitted_set(site.activation, site.function, x.ravel(), steps)
            return
        if not layer.per_channel:
            x = x.reshape(-1, 1)
        top = np.inf if site.max_value is None else site.max_value
        alpha = best_alpha(x, steps, top, self.settings.rounding, self.penalty, _exponent(steps))
        unit = relu_parameters(steps, 1.0, self.settings.rounding)
        if self.penalty:
            # One set for all channels, each in units of its alpha; errors count in their own units.
            weight = np.broadcast_to(alpha**2, x.shape).ravel()
            signal = float(np.mean(np.var(np.clip(x, 0, top), axis=0)) / np.mean(alpha**2))
            unit = self._fitted_set(
                "relu", lambda u: ops.relu(u), (x / alpha).ravel(), steps, weight, signal, unit
            )
        if layer.per_channel:
            layer.parameters = unit
            layer.scale.assign(alpha)
        else:
            layer.parameters = _scaled(unit, float(alpha[0]))

    def _fitted_set(
        self, activation, function, x, steps, weight=None, signal=None, start=None
    ) -> FSParameters:
        """T, h and d for a function and a distribution of gate inputs; one from before where it fits."""
        inputs = _Distribution.of(x, weight)
        for fit in self.fits:
            if (fit.activation, fit.parameters.K) == (activation, steps) and inputs.like(
                fit.inputs
            ):
                return fit.parameters
        f = _as_numpy_function(function)
        if signal is None:
            signal = float(np.var(f(x)))
        before = [
            fit.parameters for fit in self.fits
            if (fit.activation, fit.parameters.K) == (activation, steps)
        ]  # fmt: skip
        starts = [*([start] if start else shipped(activation, steps)), *before[-3:]]
        # Only fitting needs numba.
        from fs_neurons.fitting import fit

        parameters = fit(
            f,
            steps,
            inputs.domain,
            weight=inputs.weight,
            input_distribution=inputs.density,
            spike_penalty=self.penalty * signal,
            guard=GUARD,
            starts=starts,
            effort=NEXT_EFFORT if before or start else FIRST_EFFORT,
            name=f"{activation}_k{steps}_calibrated{len(self.fits) + 1}",
            verbose=False,
        )
        self.fits.append(_Fit(activation, inputs, parameters))
        return parameters

    # --- layers between sites -------------------------------------------------------------------

    def _correct(self, call: Call, analog: Store, spiking: Store) -> None:
        layer, correction = call.op, self.correction
        if correction in ("weights", "joint") and self._refit(call, analog, spiking):
            self.refitted.add(call.outputs)
        elif correction != "none" and (offset := _offset(layer)) is not None:
            rescale = correction != "mean" and call.inputs[0] not in self.refitted
            self._rescale(layer, offset, _gain(layer) if rescale else None, call, analog, spiking)

    def _refit(self, call: Call, analog: Store, spiking: Store) -> bool:
        """Adds to kernel and bias what brings the layer's output nearest to that of the analog network.

        Returns whether it could: not for every kind of layer, nor where what fits half of the images does
        not help the other half.
        """
        layer = call.op
        rows = _rows_of(layer)
        if rows is None:
            return False
        inputs, outputs = math.prod(layer.kernel.shape[:-1]), layer.kernel.shape[-1]
        if inputs > MOST_UNKNOWNS:
            return False
        fit = _LeastSquares(inputs, outputs)
        wanted = ROWS_PER_UNKNOWN * (inputs + 1) // len(self.batches) + 1
        for i, batch in enumerate(self.batches):
            missing = analog.get(i, call.outputs) - call(spiking.of(i))
            x, missing = (
                ops.convert_to_numpy(ops.cast(y, "float32")).reshape(len(batch[0]), -1, y.shape[-1])
                for y in (rows(spiking.get(i, call.inputs[0])), missing)
            )
            # An odd number meets all columns of a feature map.
            every = max(1, x.shape[0] * x.shape[1] // wanted) | 1
            for half in range(2):
                images = slice((i + half) % 2, None, 2)
                fit.add(
                    x[images, ::every].reshape(-1, inputs),
                    missing[images, ::every].reshape(-1, outputs),
                    half,
                )
        W = fit.solve()
        if W is None:
            return False
        _add(layer.kernel, W[:-1].reshape(layer.kernel.shape))
        if layer.use_bias:
            _add(layer.bias, W[-1])
        return True

    def _rescale(
        self, layer: Any, offset: Any, scaled: Any, call: Call, analog: Store, spiking: Store
    ) -> None:
        """Gives each channel behind a layer the mean and deviation that it has in the analog network."""
        wanted, actual = _Moments(), _Moments()
        for i in range(len(self.batches)):
            wanted.add(analog.get(i, call.outputs), _output_axis(layer))
            actual.add(call(spiking.of(i)), _output_axis(layer))
        gain = np.ones_like(actual.mean)
        if scaled is not None:
            ratio = np.sqrt(wanted.variance / np.maximum(actual.variance, 1e-30))
            # A channel (nearly) without variance tells nothing.
            known = wanted.variance > 1e-12 * (1 + wanted.mean**2)
            gain = np.where(known, np.clip(ratio, 1 / LARGEST_GAIN, LARGEST_GAIN), 1.0)
            scaled.assign(ops.convert_to_numpy(scaled) * gain.astype(np.float32))
        before = ops.convert_to_numpy(offset) * gain
        offset.assign((before + wanted.mean - gain * actual.mean).astype(np.float32))


def _calls(graph: Graph) -> collections.Counter[int]:
    """How often each operation is called, by id."""
    return collections.Counter(id(call.op) for call in graph.calls)


@dataclasses.dataclass(frozen=True)
class _Fit:
    activation: str
    inputs: _Distribution
    parameters: FSParameters


def _exponent(steps: int) -> float:
    """Of the error that alpha minimises.

    More than the 2 of least squares counts large errors, those of saturation, heavier: unlike rounding
    errors they do not average out, and the fewer the steps the more there are of them.
    """
    return 2 + 8 / steps**2


def _is_relu(site: Site) -> bool:
    return site.activation == "relu" or site.max_value is not None


def _scaled(parameters: FSParameters, alpha: float) -> FSParameters:
    """The set for inputs and outputs `alpha` times as large."""
    if parameters.alpha is not None:
        return relu_parameters(parameters.K, parameters.alpha * alpha, parameters.rounding)
    return dataclasses.replace(
        parameters,
        T=parameters.T * np.float32(alpha),
        h=parameters.h * np.float32(alpha),
        d=parameters.d * np.float32(alpha),
        domain=(parameters.domain[0] * alpha, parameters.domain[1] * alpha),
        out_of_range="",
        errors={},
    )


def best_alpha(
    x: np.ndarray,
    K: int,
    top: float = np.inf,
    rounding: str = "nearest",
    spike_penalty: float = 0.0,
    exponent: float = 2.0,
) -> np.ndarray:
    """Range of an FS-ReLU per channel for the least mean error, plus what its spikes cost.

    Args:
        x: gate inputs (samples, channels).
        K: number of time steps.
        top: where the ReLU saturates.
        rounding: "nearest" or "down".
        spike_penalty: cost of a spike per neuron, in units of the error that a constant would make.
        exponent: of the error; 2 for least squares.

    Returns:
        alpha, float32 (channels,); that of the average channel for channels that are never positive.
    """
    largest = x.max(axis=0).astype(float)
    alive = largest > 0
    if not alive.any():
        return np.ones(x.shape[1], np.float32)
    largest = np.where(alive, largest, 1.0)
    # Histograms over (0, largest]; what is not positive costs nothing.
    bin_of = np.ceil(x / largest * BINS).astype(int) - 1
    hist = np.stack([np.bincount(b[b >= 0], minlength=BINS)[:BINS] for b in bin_of.T]) / len(x)
    centre = (np.arange(BINS) + 0.5) / BINS
    wanted = np.minimum(centre, np.minimum(top / largest, 2.0)[:, None])
    y = np.clip(x, 0, top)
    signal = max(float(np.mean(np.abs(y - y.mean(axis=0)) ** exponent)), 1e-30)
    ones = np.array([n.bit_count() for n in range(2**K)])
    ahead = 0.5 if rounding == "nearest" else 0.0
    cost = np.empty((len(ALPHAS), x.shape[1]))
    for i, alpha in enumerate(ALPHAS):
        code = np.clip(centre * (2**K / alpha) + ahead, 0, 2**K - 1).astype(int)
        error = np.abs(wanted - code * (alpha / 2**K)) ** exponent
        error = np.sum(hist * error, axis=1) * largest**exponent
        cost[i] = error / signal + spike_penalty * (hist @ ones[code])
    alpha = largest * ALPHAS[cost.argmin(axis=0)]
    alpha[~alive] = alpha[alive].mean()
    return alpha.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Distribution:
    """Gate inputs of a site: their density and the weight of errors, on equal bins of `domain`."""

    domain: tuple[float, float]
    centres: np.ndarray
    counts: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray | None = None) -> _Distribution:
        low, high = float(x.min()), float(x.max())
        margin = max(0.05 * (high - low), 1e-3 * max(1.0, abs(low), abs(high)))
        domain = (low - margin, high + margin)
        counts, edges = np.histogram(x, 1024, domain)
        weights = counts if weight is None else np.histogram(x, edges, weights=weight)[0]
        centres = (edges[1:] + edges[:-1]) / 2
        return cls(domain, centres, counts / counts.sum(), weights / weights.sum())

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.interp(x, self.centres, self.counts + SPREAD / len(self.counts))

    def weight(self, x: np.ndarray) -> np.ndarray:
        return np.interp(x, self.centres, self.weights + SPREAD / len(self.weights))

    def like(self, other: _Distribution) -> bool:
        at = np.linspace(
            min(self.domain[0], other.domain[0]), max(self.domain[1], other.domain[1]), 2048
        )
        return all(
            np.max(np.abs(self._below(at, mine) - other._below(at, others))) < SAME_DISTRIBUTION
            for mine, others in ((self.counts, other.counts), (self.weights, other.weights))
        )

    def _below(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        return np.interp(x, self.centres, np.cumsum(mass), left=0.0)


def _as_numpy_function(function: Callable) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: ops.convert_to_numpy(
        function(ops.convert_to_tensor(x.astype(np.float32)))
    ).astype(float)


def _sample(x: Any, axis: int, share: int) -> np.ndarray:
    """Evenly spaced gate inputs (positions, channels) of a batch, at most 1/share of what a site takes."""
    x = ops.convert_to_numpy(ops.cast(x, "float32"))
    x = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    wanted = max(1, min(SAMPLES_PER_CHANNEL, SAMPLES // x.shape[1]) // share)
    return x[:: max(1, len(x) // wanted)]


# --- layers between sites -----------------------------------------------------------------------

_WITH_BIAS = (
    layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose,
    layers.Conv2DTranspose, layers.Conv3DTranspose, layers.DepthwiseConv1D, layers.DepthwiseConv2D,
    layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip
# Layers whose kernel has the output channels last.
_WITH_KERNEL = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)


def _offset(layer: Any) -> keras.Variable | None:
    """The weight that is added to every channel of a layer's output."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.beta if layer.center else None
    if isinstance(layer, _WITH_BIAS) and layer.use_bias:
        linear = layer.activation in (None, keras.activations.linear)
        return layer.bias if linear else None
    return None


def _gain(layer: Any) -> keras.Variable | None:
    """The weight whose last axis multiplies the channels of a layer's output, its offset apart."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.gamma if layer.scale else None
    return layer.kernel if type(layer) in _WITH_KERNEL else None


def _output_axis(layer: Any) -> int:
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _channel_axis() -> int:
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def _rows_of(layer: Any) -> Callable[[Any], Any] | None:
    """Turns a layer's input into what its kernel, flattened, is multiplied with; None for other layers."""
    if getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return None
    if type(layer) is layers.Dense:
        return lambda x: x
    if type(layer) is not layers.Conv2D or layer.groups != 1 or _output_axis(layer) != -1:
        return None
    return lambda x: ops.image.extract_patches(
        x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, layer.data_format
    )


def _rms_of_channels(kernel: keras.Variable) -> np.ndarray:
    squares = np.square(ops.convert_to_numpy(ops.cast(kernel, "float32")))
    return np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1))))


def _add(variable: keras.Variable, change: np.ndarray) -> None:
    variable.assign(ops.convert_to_numpy(variable) + change.astype(np.float32))


class _LeastSquares:
    """Y = X W + b by ridge regression, from the moments of rows in two halves."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._square = np.zeros((2, inputs + 1, inputs + 1))
        self._product = np.zeros((2, inputs + 1, outputs))

    def add(self, x: np.ndarray, y: np.ndarray, half: int) -> None:
        x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
        self._square[half] += x.T @ x
        self._product[half] += x.T @ y

    def solve(self) -> np.ndarray | None:
        """W with b as its last row, with the ridge for which either half predicts the other best.

        None where no prediction is better than Y = 0.
        """
        losses = [sum(self._loss(half, ridge) for half in range(2)) for ridge in RIDGES]
        if not min(losses) < 0:
            return None
        return _ridge_regression(
            self._square.sum(axis=0), self._product.sum(axis=0), RIDGES[int(np.argmin(losses))]
        )

    def _loss(self, half: int, ridge: float) -> float:
        """Squared error on one half of the fit to the other, less that of Y = 0."""
        W = _ridge_regression(self._square[1 - half], self._product[1 - half], ridge)
        return float(np.sum(W * (self._square[half] @ W - 2 * self._product[half])))


def _ridge_regression(square: np.ndarray, product: np.ndarray, ridge: float) -> np.ndarray:
    """W of Y = X W from X'X and X'Y, where the last column of X is 1 and its weight free."""
    square, product = square / square[-1, -1], product / square[-1, -1]
    mean = square[-1, :-1]
    covariance = square[:-1, :-1] - np.outer(mean, mean)
    variance = max(float(np.mean(np.diag(covariance))), 1e-30)
    W = np.linalg.solve(
        covariance + ridge * variance * np.eye(len(covariance)),
        product[:-1] - np.outer(mean, product[-1]),
    )
    return np.concatenate([W, (product[-1] - mean @ W)[None]])


class _Moments:
    """Mean and variance per channel over all batches added so far."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = 0.0

    def add(self, x: Any, axis: int) -> None:
        x = ops.cast(x, "float32")
        axis %= len(x.shape)
        others = [i for i in range(len(x.shape)) if i != axis]
        mean, variance = (ops.convert_to_numpy(m).astype(float) for m in ops.moments(x, others))
        count = math.prod(x.shape[i] for i in others)
        self._count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + count * (variance + mean**2)

    @property
    def mean(self) -> np.ndarray:
        return self._sum / self._count

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(self._squares / self._count - self.mean**2, 0.0)


# --- calibration data ---------------------------------------------------------------------------


def _batches(model: keras.Model, data: Any) -> list[list[np.ndarray]]:
    """Calibration data as batches, each a list of the model's inputs; checked."""
    expected = keras.tree.flatten(input_structure(model))
    whole = _is_array(data) or (
        len(expected) > 1 and isinstance(data, (list, tuple, Mapping)) and len(data) == len(expected)
        and all(map(_is_array, keras.tree.flatten(data)))
    )  # fmt: skip
    if not whole and (
        isinstance(data, (str, bytes, tuple, Mapping)) or not isinstance(data, Iterable)
    ):
        raise TypeError(
            f"calibration_data must be an array of inputs of model {model.name!r}, or an iterable over"
            f" batches of them, without labels; got {type(data).__name__}"
            + (" (inputs and labels? pass the inputs alone)" if isinstance(data, tuple) else "")
        )
    batches: list[list[np.ndarray]] = []
    images = 0
    for batch in [data] if whole else itertools.islice(data, MAX_IMAGES + 1):
        arrays = _checked_batch(model, batch, expected, images)
        images += len(arrays[0])
        if images > MAX_IMAGES:
            raise ValueError(
                f"calibration_data has more than {MAX_IMAGES:,} images, or never ends: 500 to 1,000 do"
            )
        parts = -(-len(arrays[0]) // BATCH)
        if parts:
            batches += map(list, zip(*(np.array_split(x, parts) for x in arrays), strict=True))
    if images < MIN_IMAGES:
        raise ValueError(
            f"calibration_data has {images} images; at least {MIN_IMAGES} are needed, and 500 to 1,000"
            " are better"
        )
    return batches


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype")


def _checked_batch(model, batch: Any, expected: list, first: int) -> list[np.ndarray]:
    arrays = keras.tree.flatten(batch)
    where = f"calibration_data, images from {first} on"
    if len(arrays) != len(expected):
        raise ValueError(
            f"{where}: {len(arrays)} arrays, but model {model.name!r} has {len(expected)} inputs;"
            " labels are not needed"
        )
    checked = []
    for array, x in zip(arrays, expected, strict=True):
        array = ops.convert_to_numpy(array) if _is_array(array) else np.asarray(array)
        fits = array.ndim == len(x.shape) and all(
            n in (None, m) for n, m in zip(x.shape[1:], array.shape[1:], strict=False)
        )
        if not fits:
            labels = array.ndim <= 2 and array.ndim < len(x.shape)
            raise ValueError(
                f"{where}: shape {array.shape}, but input {x.name!r} of model {model.name!r} takes"
                f" {x.shape}" + ("; are these labels? Only inputs are needed" if labels else "")
            )
        if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
            raise TypeError(f"{where}: input {x.name!r} must be numbers, got {array.dtype}")
        array = array.astype(x.dtype)
        bad = ~np.isfinite(array.astype(float)).reshape(len(array), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{where}: image {first + int(bad.argmax())} has NaN or infinite values"
            )
        checked.append(array)
    if len({len(array) for array in checked}) > 1:
        raise ValueError(f"{where}: inputs of different length {[len(a) for a in checked]}")
    return checked
