"""Time and memory of networks with FS-neurons against the same networks without, side by side.

    python -m experiments.benchmark                          # everything: under ten minutes on two cores
    python -m experiments.benchmark --rows=resnet20,profile --rounds=5

Networks: FS-neurons, with batch normalisation folded, and folded with spikes counted, each against the stock
Keras network; the same exported to ONNX Runtime; profile against a forward pass; single neurons against activations. What is compared takes turns
in one process, so that whatever else the machine does falls on all alike. Fit, calibrate, simulate and the first
call of a network, which compiles, are each in a process of its own, with the memory that they take beyond what
it holds (on Linux). Fit makes swish_k16 anew, and says how its objective compares with that of the shipped set. Weights and images are random: time does not depend on them. Prints medians with their
quartiles, and ratios; writes benchmark.json to --output_dir, benchmark_jax.json with KERAS_BACKEND=jax;
benchmark_partial.json with fewer --rows, --rounds or --elements.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags

import fs_neurons as fs
from experiments import results, runner, timing
from experiments.fit_parameters import SETS, fit_set, objective
from experiments.gate_inputs import time_gate_inputs
from experiments.onnx_runtime import time_in_onnx_runtime
from fs_neurons import models
from fs_neurons.analysis.evaluation import scores_and_spikes
from fs_neurons.backend import compiled
from fs_neurons.conversion.folding import fold
from fs_neurons.models.imagenet import RANDOM, load_network
from fs_neurons.neuron import sets


class Setting(NamedTuple):
    """What a network is timed on, and in how many rounds at most."""

    batch: int
    size: int
    most_rounds: int = 99


# Those of Table 1 first.
NETWORKS = {
    "resnet50": Setting(4, 224),
    "efficientnet-b7": Setting(1, 600, most_rounds=5),
    "resnet20": Setting(256, 32),
    "mobilenet_v2": Setting(16, 224),
    "efficientnet-b0": Setting(8, 224),
}
KERAS, PLAIN, FOLDED = "Keras", "FS-neurons", "FS-neurons, folded"
COUNTED = "FS-neurons, folded, spikes counted"
# Rounds of what takes seconds, at most.
TOOL_ROUNDS = 3
FIT_EFFORT = None  # the default one of `fs.fit`
FITTED = "swish_k16"
CALIBRATION_IMAGES, SIMULATED_IMAGES = 200, 20
PROFILED_BATCH, PROFILED_BATCHES = 250, 6
# Network -> batches of its first calls, one after the other, and in how many rounds at most.
FIRST_CALLS = {"efficientnet-b0": ((8, 5), TOOL_ROUNDS), "efficientnet-b7": ((1, 2), 1)}

# In ONNX Runtime: batch, and whether all sites are FS-ReLU.
IN_ONNX = {"resnet50": (1, True), "resnet20": (32, True), "efficientnet-b0": (1, False)}

ROUNDS, ELEMENTS = 9, 10_000_000
ROWS = (*NETWORKS, "onnx", "fit", "calibrate", "simulate", "profile", "first_call", "neurons")
FLAGS = flags.FlagValues()
flags.DEFINE_list("rows", list(ROWS), f"What to time: {', '.join(ROWS)}.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", ROUNDS, "Timed calls of each.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "elements", ELEMENTS, "Gate inputs per call of a single neuron.", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
runner.define_output_flag(FLAGS)


def main() -> None:
    unknown = [row for row in FLAGS.rows if row not in ROWS]
    if unknown:
        raise ValueError(f"--rows={','.join(unknown)}: choose from {', '.join(ROWS)}")
    started = time.perf_counter()
    measured: dict[str, dict[str, Any]] = {}
    for row in (row for row in ROWS if row in FLAGS.rows):
        for key, entries in time_row(row).items():
            measured.setdefault(key, {}).update(entries)
        keras.backend.clear_session()
    minutes = (time.perf_counter() - started) / 60
    backend = keras.backend.backend()
    complete = (
        set(FLAGS.rows) >= set(ROWS) and FLAGS.rounds >= ROUNDS and FLAGS.elements >= ELEMENTS
    )
    stem = "benchmark" if backend == "tensorflow" else f"benchmark_{backend}"
    path = runner.path(FLAGS, stem, complete=complete).with_suffix(".json")
    content = {
        **results.provenance("random gate inputs and images", 0),
        "processor": timing.processor(),
        "rounds": FLAGS.rounds,
        "minutes": round(minutes, 1),
        **measured,
    }
    results.write_json(path, content)
    print(f"Written to {path} after {minutes:.1f} minutes")


def time_row(row: str) -> dict[str, dict[str, Any]]:
    """Times one of `ROWS` and prints it; its entries of the result."""
    if row in NETWORKS:
        setting = NETWORKS[row]
        rounds = min(FLAGS.rounds, setting.most_rounds)
        times = time_network(row, setting, rounds)
        _show(f"{row}, batches of {setting.batch}, {rounds} rounds, ms per image", times)
        how = {"batch": setting.batch, "size": setting.size, "rounds": rounds}
        return {"networks": {row: {**how, "ms_per_image": times}}}
    if row in TOOLS:
        rounds = min(FLAGS.rounds, TOOL_ROUNDS)
        title, seconds, peak, figures = timing.in_a_process(time_tool, row, rounds)
        times = timing.compared({title: seconds}, 1.0, {})
        _show(f"{rounds} rounds, seconds", times)
        for name, value in figures.items():
            print(f"{name}: {value:.3f}\n", flush=True)
        found: dict[str, dict[str, Any]] = {"seconds": times, **_memory({title: peak})}
        return {**found, "figures": figures} if figures else found
    if row == "onnx":
        return time_onnx(FLAGS.rounds)
    if row == "profile":
        times = time_profile(FLAGS.rounds)
        _show(f"resnet20, batches of {PROFILED_BATCH}, {FLAGS.rounds} rounds, ms per image", times)
        return {"profile_ms_per_image": times}
    if row == "first_call":
        found, peaks = {}, {}
        for name, (_, most_rounds) in FIRST_CALLS.items():
            found[name], peaks_of = time_first_calls(name, min(FLAGS.rounds, most_rounds))
            peaks |= peaks_of
        return {"first_call_seconds": found, **_memory(peaks)}
    times = time_gate_inputs(FLAGS.elements, FLAGS.rounds)
    _show(f"{FLAGS.elements:,} gate inputs, {FLAGS.rounds} rounds, ns per gate input", times)
    return {"ns_per_gate_input": times}


def _show(title: str, times: dict[str, dict[str, Any]]) -> None:
    print(f"{title}\n{timing.as_table(times)}\n", flush=True)


def _memory(peaks: dict[str, int | None]) -> dict[str, dict[str, int]]:
    """Prints peak memory by name; its entry of the result, none where it can't be measured."""
    known = {name: peak for name, peak in peaks.items() if peak is not None}
    for name, peak in known.items():
        print(f"memory of {name}: {peak / 2**20:,.0f} MiB\n", flush=True)
    return {"peak_bytes": known} if known else {}


# --- networks -----------------------------------------------------------------------------------


def network(name: str) -> keras.Model:
    """The stock network with random weights."""
    keras.utils.set_random_seed(0)
    if name == "resnet20":
        return models.build(name)
    if name == "mobilenet_v2":
        return keras.applications.MobileNetV2(weights=None)
    return load_network(name, RANDOM).model


def random_images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (count, size, size, 3)).astype(np.float32)


def forward(model: keras.Model) -> Callable[[Any], Any]:
    """The forward pass, compiled by the framework."""
    return compiled(lambda x: model(x, training=False))


def time_network(name: str, setting: Setting, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds per image of a network in all its versions."""
    stock = network(name)
    folded = fs.convert(fold(stock)[0], quality="paper")
    functions = {
        KERAS: forward(stock),
        PLAIN: forward(fs.convert(stock, quality="paper")),
        FOLDED: forward(folded),
        COUNTED: compiled(scores_and_spikes(folded)),
    }
    images = random_images(setting.batch, setting.size)
    runs = {label: timing.waiting(function, images) for label, function in functions.items()}
    for run in runs.values():
        run()  # compiles
    against = dict.fromkeys((PLAIN, FOLDED, COUNTED), KERAS)
    return timing.compared(timing.in_turns(runs, rounds), 1e3 / setting.batch, against)


def time_onnx(rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds per image of networks in ONNX Runtime."""
    found: dict[str, dict[str, Any]] = {}
    for name, (batch, integers) in IN_ONNX.items():
        images = random_images(batch, NETWORKS[name].size)
        times = time_in_onnx_runtime(network(name), images, rounds, integers)
        _show(f"{name} in ONNX Runtime, batches of {batch}, {rounds} rounds, ms per image", times)
        found[name] = {"batch": batch, "rounds": rounds, "ms_per_image": times}
        keras.backend.clear_session()
    return {"in_onnx_runtime": found}


# --- tools --------------------------------------------------------------------------------------


class Tool(NamedTuple):
    """What is timed: its title, the call, and figures of what it returns."""

    title: str
    call: timing.Run
    figures: Callable[[Any], dict[str, float]] = lambda _: {}


def _fit() -> Tool:
    how: dict[str, Any] = {**SETS[FITTED], "effort": FIT_EFFORT, "seed": 0, "verbose": False}
    shipped = objective(SETS[FITTED], sets.load(FITTED))
    return Tool(
        f"fit: {FITTED}",
        lambda: fit_set(FITTED, **how),
        lambda fitted: {
            f"objective of fit, relative to {FITTED}": objective(SETS[FITTED], fitted) / shipped
        },
    )


def _calibrate() -> Tool:
    model, images = network("resnet20"), random_images(CALIBRATION_IMAGES, 32)
    return Tool(
        f"calibrate: resnet20, {len(images)} images",
        lambda: fs.convert(model, calibration_data=images),
    )


def _simulate() -> Tool:
    snn = fs.convert(models.build("resnet8"), quality="paper")
    images = random_images(SIMULATED_IMAGES, 32)
    return Tool(f"simulate: resnet8, {len(images)} images", lambda: fs.simulate(snn, images))


TOOLS = {"fit": _fit, "calibrate": _calibrate, "simulate": _simulate}


def time_tool(row: str, rounds: int) -> tuple[str, np.ndarray, int | None, dict[str, float]]:
    """Title of a row, seconds of every round after one that compiles, peak memory of that one, and figures."""
    tool = TOOLS[row]()
    result: list[Any] = []

    def call() -> None:
        result[:] = [tool.call()]

    peak = timing.peak_memory(call)
    seconds = timing.in_turns({tool.title: call}, rounds)[tool.title]
    return tool.title, seconds, peak, tool.figures(*result)


def time_profile(rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds per image of a forward pass and of `fs.profile`, once they are compiled."""
    snn = fs.convert(network("resnet20"), quality="paper")
    batches = [random_images(PROFILED_BATCH, 32)] * PROFILED_BATCHES
    pass_only = forward(snn)

    def run_over(taken: Iterator[np.ndarray]) -> None:
        for batch in taken:
            timing.waiting(pass_only, batch)()

    consumers: dict[str, Callable[[Iterator[np.ndarray]], Any]] = {
        "forward pass": run_over,
        "profile": functools.partial(fs.profile, snn),
    }
    seconds: dict[str, list[float]] = {name: [] for name in consumers}
    for _ in range(rounds):
        for name, consume in consumers.items():
            seconds[name].append(float(np.median(timing.seconds_between(consume, batches))))
    times = {name: np.array(each) for name, each in seconds.items()}
    return timing.compared(times, 1e3 / PROFILED_BATCH, {"profile": "forward pass"})


# --- first calls --------------------------------------------------------------------------------


def first_calls(name: str, convert: bool) -> tuple[list[float], int | None]:
    """Seconds of the first prediction on a batch of each size of `FIRST_CALLS`, and peak memory of all."""
    stock = network(name)
    model = fs.convert(fold(stock)[0], quality="paper") if convert else stock
    warm = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    warm.predict(np.zeros((1, 1)), verbose=0)  # what starts once per process, not per network
    seconds: list[float] = []

    def run() -> None:
        for batch in FIRST_CALLS[name][0]:
            images = random_images(batch, NETWORKS[name].size)
            seconds.append(timing.seconds_of(functools.partial(model.predict_on_batch, images)))

    return seconds, timing.peak_memory(run)


def time_first_calls(name: str, rounds: int) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Seconds of the first calls of a stock network and of the converted one, by batch; peak memory."""
    versions = {KERAS: False, FOLDED: True}
    seconds: dict[str, list[list[float]]] = {label: [] for label in versions}
    peaks: dict[str, int | None] = {}
    for _ in range(rounds):
        for label, convert in versions.items():
            times, peak = timing.in_a_process(first_calls, name, convert)
            seconds[label].append(times)
            peaks[f"first calls of {name}, {label}"] = peak
    found: dict[str, dict[str, Any]] = {}
    for number, batch in enumerate(FIRST_CALLS[name][0]):
        title = f"batch of {batch}" if number == 0 else f"then a batch of {batch}"
        times_of = {label: np.array(times)[:, number] for label, times in seconds.items()}
        found[title] = timing.compared(times_of, 1.0, {FOLDED: KERAS})
        _show(f"{name}, first calls, {title}, {rounds} rounds, seconds", found[title])
    return found, peaks


if __name__ == "__main__":
    runner.run(main, FLAGS)
