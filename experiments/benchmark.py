"""Time and memory of networks with FS-neurons against the same networks without, side by side.

    python -m experiments.benchmark                          # everything: under ten minutes on two cores
    python -m experiments.benchmark --rows=resnet20,profile --rounds=5

Networks: FS-neurons, with batch normalisation folded, and folded with spikes counted, each against the stock
Keras network. Then fit, calibrate, simulate and profile; the first call of a network, which compiles; and
single neurons. Rounds are in turns in one process, so that whatever else the machine does falls on all alike;
first calls are each in a process of its own. Memory is what a call takes beyond what the process holds (on
Linux). Weights and images are random: time does not depend on them. Prints medians with their quartiles, and
ratios; writes benchmark.json to --output_dir, benchmark_jax.json with KERAS_BACKEND=jax; benchmark_partial.json
with fewer --rows, --rounds or --elements.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags

import fs_neurons as fs
from experiments import results, runner, timing
from experiments.gate_inputs import time_gate_inputs
from fs_neurons import models
from fs_neurons.analysis.evaluation import scores_and_spikes
from fs_neurons.backend import compiled
from fs_neurons.conversion.folding import fold
from fs_neurons.models.imagenet import RANDOM, load_network


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
# Of calls that take seconds.
TOOL_ROUNDS = 3
FIT_EFFORT, CALIBRATION_IMAGES, SIMULATED_IMAGES = 200_000, 200, 20
PROFILED_BATCH, PROFILED_BATCHES = 250, 6
FIRST_NETWORK, FIRST_BATCHES = "efficientnet-b0", (8, 5)

ROUNDS, ELEMENTS = 9, 10_000_000
ROWS = (*NETWORKS, "fit", "calibrate", "simulate", "profile", "first_call", "neurons")
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
        times, peaks = time_network(row, setting, rounds)
        print(f"{row}, batches of {setting.batch}, {rounds} rounds, ms per image")
        print(timing.as_table(times))
        print(_memory(peaks), flush=True)
        entry = {"batch": setting.batch, "size": setting.size, "ms_per_image": times}
        return {"networks": {row: entry | ({"peak_bytes": peaks} if peaks else {})}}
    if row in TOOLS:
        title, call = TOOLS[row]()
        peaks = _peaks({title: call})  # compiles, too
        rounds = min(FLAGS.rounds, TOOL_ROUNDS)
        times = timing.compared(timing.in_turns({title: call}, rounds), 1.0, {})
        print(f"seconds, {rounds} rounds")
        print(timing.as_table(times))
        print(_memory(peaks), flush=True)
        return {"seconds": times, **({"peak_bytes": peaks} if peaks else {})}
    if row == "profile":
        times = time_profile(FLAGS.rounds)
        print(f"resnet20, batches of {PROFILED_BATCH}, {FLAGS.rounds} rounds, ms per image")
        print(timing.as_table(times) + "\n", flush=True)
        return {"profile_ms_per_image": times}
    if row == "first_call":
        calls = time_first_calls()
        for name, call in calls.items():
            print(
                f"{name}: {call['keras']:.1f} s, {call['fs_neurons']:.1f} s ({call['ratio']:.2f} x)"
            )
        print(flush=True)
        return {"first_call_seconds": calls}
    times = time_gate_inputs(FLAGS.elements, FLAGS.rounds)
    print(f"{FLAGS.elements:,} gate inputs, {FLAGS.rounds} rounds, ns per gate input")
    print(timing.as_table(times) + "\n", flush=True)
    return {"ns_per_gate_input": times}


def _peaks(runs: dict[str, timing.Run]) -> dict[str, int]:
    """Peak memory of each; nothing where it can't be measured."""
    peaks = {name: timing.peak_memory(run) for name, run in runs.items()}
    return {name: peak for name, peak in peaks.items() if peak is not None}


def _memory(peaks: dict[str, int]) -> str:
    shown = [f"{name}: {peak / 2**20:,.0f} MiB" for name, peak in peaks.items()]
    return "".join(f"{line}\n" for line in ["memory: " + ", ".join(shown)] if shown)


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


def time_network(
    name: str, setting: Setting, rounds: int
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Milliseconds per image of a network in all its versions, and peak memory of each."""
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
    times = timing.compared(timing.in_turns(runs, rounds), 1e3 / setting.batch, against)
    return times, _peaks(runs)


# --- tools --------------------------------------------------------------------------------------


def _fit() -> tuple[str, timing.Run]:
    how: dict[str, Any] = {"K": 16, "domain": (-8.0, 12.0), "seed": 0, "verbose": False}
    return (
        f"fit: Swish, K = 16, {FIT_EFFORT:,} evaluations",
        lambda: fs.fit("swish", **how, effort=FIT_EFFORT),
    )


def _calibrate() -> tuple[str, timing.Run]:
    model, images = network("resnet20"), random_images(CALIBRATION_IMAGES, 32)
    return (
        f"calibrate: resnet20, {len(images)} images",
        lambda: fs.convert(model, calibration_data=images),
    )


def _simulate() -> tuple[str, timing.Run]:
    snn = fs.convert(models.build("resnet8"), quality="paper")
    images = random_images(SIMULATED_IMAGES, 32)
    return f"simulate: resnet8, {len(images)} images", lambda: fs.simulate(snn, images)


# Row -> its title and the call that is timed.
TOOLS = {"fit": _fit, "calibrate": _calibrate, "simulate": _simulate}


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


def first_calls(name: str, convert: bool) -> list[float]:
    """Seconds of the first prediction on a batch of each of `FIRST_BATCHES`, in this process."""
    stock = network(name)
    model = fs.convert(fold(stock)[0], quality="paper") if convert else stock
    size = NETWORKS[name].size
    warm = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    warm.predict(np.zeros((1, 1)), verbose=0)  # what starts once per process, not per network
    return [
        timing.seconds_of(functools.partial(model.predict_on_batch, random_images(batch, size)))
        for batch in FIRST_BATCHES
    ]


def time_first_calls() -> dict[str, dict[str, float]]:
    """Seconds of first calls of the stock network and the converted one, each in a process of its own."""
    seconds = {}
    for convert in (False, True):
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as pool:
            seconds[convert] = pool.submit(first_calls, FIRST_NETWORK, convert).result()
    first, other = FIRST_BATCHES
    names = (f"{FIRST_NETWORK}, first call, batch of {first}", f"then a batch of {other}")
    return {
        name: {
            "keras": round(stock, 2),
            "fs_neurons": round(converted, 2),
            "ratio": round(converted / stock, 3),
        }
        for name, stock, converted in zip(names, seconds[False], seconds[True], strict=True)
    }


if __name__ == "__main__":
    runner.run(main, FLAGS)
