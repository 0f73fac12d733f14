"""Post-training calibration: fewer steps and spikes for the same accuracy, from unlabelled inputs.

    snn = fs.convert(model, calibration_data=images, steps=5)
    snn = fs.convert(model, calibration_data=images, steps=8, spike_penalty=0.01)
    snn = fs.convert(model, calibration_data=images, steps=5, target_spikes=0.8)

The analog and the spiking network run side by side on the calibration data, which needs no labels,
operation by operation, all data through one before the next. A site is fitted to the gate inputs that it
gets from the converted network before it. A linear layer gets the weights that come nearest, in the
sense of least squares, to what it gave in the analog network; other layers with an offset are rescaled
and shifted so that each channel has its mean and standard deviation again, and each channel of the last
site its mean where that is no ReLU and has few steps. With few steps, weights and ranges of all layers are
then adjusted together, for the gate inputs of all sites and the outputs.

A ReLU site gets a range alpha per channel, for the least error, and rounds to the nearest multiple of its
step. At every other site, each channel gets the set of a family that suits its gate inputs best, or one
fitted to them where no family is shipped. Where the layers before a site don't tell which axis holds its
channels, one range or set serves the whole site. The equations are in docs/calibration.md.

Recurrent layers are unrolled: a gate is a site in several places, the steps of the sequence, and is fitted to what it
meets at all of them in the analog network, masked steps left out. The weights of cells stay.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.calibration.candidates import Candidates
from fs_neurons.calibration.centring import centre, is_last
from fs_neurons.calibration.corrections import every, offset_of, refit, rescale
from fs_neurons.calibration.data import Inputs, batches, checked_inputs
from fs_neurons.calibration.distributions import as_numpy_function
from fs_neurons.calibration.neurons import (
    FEW_STEPS,
    PRIOR_SHARE,
    Neurons,
    choose_sets,
    fit_relu,
    is_relu,
)
from fs_neurons.calibration.pair import Pair
from fs_neurons.calibration.progress import Progress
from fs_neurons.calibration.refinement import refine_network
from fs_neurons.calibration.selection import expected_of_family, price_of_spikes
from fs_neurons.calibration.settings import Settings
from fs_neurons.calibration.statistics import InputStatistics, input_statistics
from fs_neurons.calibration.store import Lane, Store
from fs_neurons.layers import record_spikes
from fs_neurons.network import ConversionError, Site, graph
from fs_neurons.network.graph import Call, Value
from fs_neurons.network.keras_internals import input_structure, misplaces_bias
from fs_neurons.neuron import FSParameters

# A site is fitted to at most so many gate inputs, evenly spaced over images and positions.
SAMPLES_PER_CHANNEL, SAMPLES = 65_536, 4_000_000
# Expected spikes per neuron, on average over the sites whose sets come from families: up to FEW_STEPS, and with more.
SPIKES = (2.5, 2.1)
# Images that run through the finished network at once.
BATCH = 100
# Of the search for the spike penalty that meets a target.
PENALTIES, SEARCH_ROUNDS, TARGET_TOLERANCE = (1e-3, 1.0), 6, 0.02


@dataclasses.dataclass(frozen=True)
class Task:
    """What to calibrate, with what, and how.

    Attributes:
        pair: both networks.
        inputs: calibration data.
        steps: K of each site.
        statistics: what the model's weights tell of its gate inputs.
        price: of a spike where sets come from families, see `selection.choose`.
        settings: how.
        correction: one of CORRECTIONS.
    """

    pair: Pair
    inputs: Inputs
    steps: Mapping[Site, int]
    statistics: InputStatistics
    price: float
    settings: Settings
    correction: str


def calibrate(
    model: keras.Model,
    chosen: Mapping[Site, FSParameters],
    data: Any,
    settings: Settings,
    verbose: bool = False,
) -> keras.Model:
    """The FS-network of `model`, calibrated; `convert(model, calibration_data=data)` calls this.

    Args:
        model: as for `convert`.
        chosen: sites to replace, and the sets that they would get without calibration.
        data: inputs as the model takes them, an array (a list or dictionary of them for several
            inputs), or an iterable over batches of such.
        settings: how.
        verbose: whether to show a progress bar.

    Returns:
        A new model. Its weights differ from those of `model` where layers were corrected.

    Raises:
        TypeError, ValueError: `data` isn't inputs of the model, holds labels or NaN, is too little, or
            its images differ in size; `target_spikes` can't be met; "joint" corrections of a network
            with gates, whose weights they can't change.
    """
    inputs = checked_inputs(model, data)
    correction = _correction(settings, chosen)
    pair = Pair.of(model, chosen, _packed(model, [x[:1] for x in inputs]))
    _refuse_hidden(pair, chosen)
    steps = {site: settings.steps or parameters.K for site, parameters in chosen.items()}
    statistics, steps_of = input_statistics(model), {site.name: K for site, K in steps.items()}
    priced = {site.name for site in chosen if not site.gate}
    expected = [
        (s, expected_of_family(s, steps_of[s.site])) for s in statistics if s.site in priced
    ]
    most_spikes = SPIKES[max(steps.values(), default=0) > FEW_STEPS]
    price = price_of_spikes([(s, found) for s, found in expected if found is not None], most_spikes)
    task = Task(pair, inputs, steps, statistics, price, settings, correction)
    neurons = _within_target(task, Progress(verbose))
    snn, copies = pair.with_neurons(neurons)
    if correction == "joint":
        spiking = graph.trace(snn, _packed(model, [x[:1] for x in inputs]))
        most_spikes = settings.target_spikes or _spikes_per_neuron(snn, inputs)
        refine_network(spiking, pair.analog_graph(spiking), copies, inputs, most_spikes)
    return snn


def _refuse_hidden(pair: Pair, sites: Collection[Site]) -> None:
    seen = {pair.site(call) for call in pair.sites}
    hidden = next((site for site in sites if site not in seen), None)
    if hidden is not None:
        raise ConversionError(
            f"{hidden.layer!r} can't be taken apart, so that what is inside of it can't be calibrated: leave out"
            " calibration_data, or keep it, keep_layers=[...]"
        )


def _correction(settings: Settings, sites: Collection[Site]) -> str:
    gate = next((site for site in sites if site.gate), None)
    if gate is None:
        return settings.correction or settings.best_correction
    if settings.correction == "joint":
        raise ValueError(
            f"correction='joint' can't change the weights of the recurrent layer {gate.layer!r}: take 'weights'"
        )
    return settings.correction or "weights"


def _within_target(task: Task, progress: Progress) -> dict[Site, Neurons]:
    """Neurons with the lowest price found that has no more spikes per neuron than the target, if any."""
    target, shared = task.settings.target_spikes, _sampled_shared_sites(task)

    def attempt(penalty: float) -> tuple[dict[Site, Neurons], float]:
        neurons = _side_by_side(task, penalty, shared, progress)
        return neurons, _expected_spikes(task.pair, neurons)

    neurons, spikes = attempt(task.settings.spike_penalty)
    if target is None or spikes <= target * (1 + TARGET_TOLERANCE):
        return neurons
    low, high = map(math.log, PENALTIES)
    best = None
    for _ in range(SEARCH_ROUNDS):
        penalty = math.exp((low + high) / 2)
        neurons, spikes = attempt(penalty)
        if spikes > target:
            low = math.log(penalty)
        else:
            best, high = penalty, math.log(penalty)
            if spikes > target * (1 - TARGET_TOLERANCE):
                return neurons
    if best is None:
        raise ValueError(
            f"target_spikes={target}: with penalty {penalty:.3g} there are still {spikes:.2f} spikes"
            " per neuron; take fewer steps, or a larger target"
        )
    return neurons if best == penalty else attempt(best)[0]


def _side_by_side(
    task: Task, penalty: float, shared: Mapping[Site, np.ndarray], progress: Progress
) -> dict[Site, Neurons]:
    """Fits every site and corrects every layer, in the order of the network.

    Args:
        task: what to calibrate; layers of its pair get their weights anew.
        penalty: what a spike costs.
        shared: gate inputs of sites in several places.
        progress: shows how far it is.
    """
    pair = task.pair
    pair.reset()
    neurons: dict[Site, Neurons] = {}
    library: dict[tuple[str, int], Candidates] = {}
    refitted: set[Value] = set()
    store = Store(
        pair.graph,
        task.inputs,
        pair.analog,
        lambda call, tensors: pair.spiking(call, tensors, neurons),
    )
    uses = pair.uses
    for place, call in enumerate(pair.graph.calls):
        progress(place, len(pair.graph.calls), call.name)
        store.admit(place)
        # The analog network comes first: no layer is corrected before it gave its results there.
        store.run_analog(place)
        site = pair.site(call)
        if site is not None and site not in neurons:
            x = shared.get(site)
            if x is None:
                x = _gate_inputs(store, store.spiking, call, _axis(task, site))
            few = site not in shared and task.steps[site] <= FEW_STEPS
            last = few and is_last(pair, call)
            neurons[site] = _fitted(task, site, x, penalty, library, last)
            if last and _is_centred(task, site):
                wanted = _gate_inputs(store, store.analog, call, _axis(task, site))
                centre(pair, call, neurons[site], x, wanted, store)
        elif site is None and uses[id(call.op)] == 1:
            _correct(call, store, task.correction, refitted)
        store.run_spiking(place)
    progress(len(pair.graph.calls), len(pair.graph.calls), "")
    return neurons


def _is_centred(task: Task, site: Site) -> bool:
    """Whether the offset before a site with few steps is shifted by its mean error, which is small for ReLU."""
    return _axis(task, site) is not None and task.correction != "none" and not is_relu(site)


def _correct(call: Call, store: Store, correction: str, refitted: set[Value]) -> None:
    """Corrects a layer; `refitted` has the outputs of those whose weights were fitted."""
    has_offset = offset_of(call.op) is not None
    if has_offset and misplaces_bias(call.op, call.outputs.shape):
        return  # it is not one for each channel
    if correction in ("weights", "joint") and refit(call, store):
        refitted.add(call.outputs)
    elif correction != "none" and has_offset:
        rescale(call, store, correction != "mean" and call.inputs[0] not in refitted)


# --- sites --------------------------------------------------------------------------------------


def _axis(task: Task, site: Site) -> int | None:
    """Of the channels that get neurons of their own; None where all of a site get the same."""
    return task.pair.axes[site] if task.settings.granularity == "channel" else None


def _fitted(
    task: Task,
    site: Site,
    x: np.ndarray,
    penalty: float,
    library: dict[tuple[str, int], Candidates],
    last: bool,
) -> Neurons:
    """The neurons of a site for its gate inputs (samples, channels).

    Behind the last site, nothing multiplies the error of an input that lies outside, so that its few steps are for what
    was measured alone.
    """
    steps, axis = task.steps[site], _axis(task, site)
    if not x.size:
        raise ValueError(
            f"calibration_data: at {site.layer!r}, all steps of all sequences are masked"
        )
    x = x if axis is not None else x.reshape(-1, 1)
    key = ("relu" if is_relu(site) else site.activation, steps)
    if key not in library:
        library[key] = Candidates(site.activation, as_numpy_function(site.function), steps)
    if is_relu(site):
        return fit_relu(site, x, axis, steps, penalty, task.settings, library[key])
    price = 0.0 if site.gate else task.price
    prior_share = 0.0 if last else PRIOR_SHARE
    statistics = task.statistics[site.name]
    return choose_sets(library[key], x, axis, penalty, statistics, price, prior_share)


def _gate_inputs(store: Store, lane: Lane, call: Call, axis: int | None) -> np.ndarray:
    """(samples, channels) of what a site meets in one of the networks, where sequences are not masked."""
    (value,) = call.inputs
    parts = []
    for i in store.batches:
        x = ops.convert_to_numpy(ops.cast(lane.get(i, value), "float32"))
        if call.present is not None:
            x = x[ops.convert_to_numpy(lane.get(i, call.present))]
        parts.append(_sample(x, -1 if axis is None else axis, store.images))
    return np.concatenate(parts)


def _sampled_shared_sites(task: Task) -> dict[Site, np.ndarray]:
    """Gate inputs of sites in several places, in the analog network: they are fitted to all of them at once."""
    pair = task.pair
    shared = {
        site for call in pair.sites if pair.uses[id(call.op)] > 1 and (site := pair.site(call))
    }
    samples: dict[Site, list[np.ndarray]] = {site: [] for site in shared}
    if not shared:
        return {}
    store = Store(pair.graph, task.inputs, pair.analog, pair.analog)
    for place, call in enumerate(pair.graph.calls):
        store.admit(place)
        store.run_analog(place)
        site = pair.site(call)
        if site in shared:
            samples[site].append(_gate_inputs(store, store.spiking, call, _axis(task, site)))
        store.run_spiking(place)
    return {
        site: _fewer(
            np.concatenate([x.reshape(-1, 1) if _axis(task, site) is None else x for x in parts])
        )
        for site, parts in samples.items()
    }


def _fewer(x: np.ndarray) -> np.ndarray:
    """At most SAMPLES of the gate inputs (samples, channels) of a site in many places, evenly spaced."""
    return np.asarray(x[:: -(-x.size // SAMPLES) or 1])


def _sample(x: np.ndarray, axis: int, images: int) -> np.ndarray:
    """Evenly spaced gate inputs (positions, channels) of a batch, its share of what a site of so many images takes."""
    x = np.moveaxis(x, axis, -1)
    x = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]) if x.ndim > 2 else x[:, None]
    wanted = min(SAMPLES_PER_CHANNEL, SAMPLES // x.shape[-1]) / images
    return np.asarray(x[:, every(x.shape[1], wanted)].reshape(-1, x.shape[-1]))


# --- the whole network --------------------------------------------------------------------------


def _packed(model: keras.Model, arrays: Inputs) -> Any:
    """Arrays in the structure in which the model takes its inputs."""
    return keras.tree.pack_sequence_as(input_structure(model), arrays)


def _expected_spikes(pair: Pair, neurons: Mapping[Site, Neurons]) -> float:
    """Spikes per neuron, from the gate inputs that sites were fitted to."""
    sizes = [(pair.site(call), math.prod(call.inputs[0].shape)) for call in pair.sites]
    spikes = sum(neurons[site].spikes * size for site, size in sizes if site is not None)
    return spikes / sum(size for _, size in sizes)


def _spikes_per_neuron(snn: keras.Model, inputs: Inputs) -> float:
    """Counted, on all calibration data."""
    spikes = neurons = 0
    for batch in batches(inputs, BATCH):
        with record_spikes() as records:
            snn(_packed(snn, batch), training=False)
        for record in records:
            spikes += int(ops.convert_to_numpy(record.spikes).sum(dtype=np.int64))
            neurons += math.prod(record.shape)  # type: ignore[arg-type]
    return spikes / neurons
