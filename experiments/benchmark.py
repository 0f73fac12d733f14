"""Time and memory of networks with FS-neurons against the same networks without, side by side.

    python -m experiments.benchmark                                   # everything, half an hour on two cores
    python -m experiments.benchmark --networks=resnet20 --rounds=5
    python -m experiments.benchmark --networks=                       # gate inputs and steps only

Rounds are interleaved in one process, so that whatever else the machine does falls on all alike; peak memory
is that of a process of its own (on Linux). Weights are random: time does not depend on them. Prints medians with their
quartiles, and ratios; writes benchmark.json to --output_dir, benchmark_jax.json with KERAS_BACKEND=jax.
"""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import pathlib
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import app, flags
from keras import ops
from tabulate import tabulate

import fs_neurons as fs
from experiments import results
from fs_neurons import models, neuron
from fs_neurons.analysis.evaluation import scores_and_spikes
from fs_neurons.backend import compiled
from fs_neurons.conversion.folding import fold
from fs_neurons.models.imagenet import load_network
from fs_neurons.neuron import sets as parameters

FLAGS = flags.FLAGS
flags.DEFINE_integer("elements", 10_000_000, "Gate inputs per call.", lower_bound=1)
flags.DEFINE_integer("rounds", 9, "Timed calls of each.", lower_bound=1)
flags.DEFINE_list(
    "networks",
    ["resnet20", "mobilenet_v2", "efficientnet-b0", "efficientnet-b7"],
    "Networks to time.",
)
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")

Quartiles = tuple[float, float, float]


# --- gate inputs --------------------------------------------------------------------------------


def unrolled(x: Any, p: fs.FSParameters) -> Any:
    """Equations (1)-(3) as plain operations of the framework, unrolled over the K steps."""
    v, y = x, ops.zeros_like(x)
    for T, h, d in zip(p.T, p.h, p.d, strict=True):
        z = ops.cast(v >= T, "float32")
        y += d * z
        v -= h * z
    return y


def while_loop(x: Any, p: fs.FSParameters) -> Any:
    """Equations (1)-(3) as the official code has them: a loop of the framework over the K steps.

    Each step scales the potential by (|v| + 1) for its pseudo-derivative, and adds to two means, those of
    the regularisation of training, whether they are used or not.
    """
    T, h, d = (ops.convert_to_tensor(a) for a in (p.T, p.h, p.d))

    def step(t, v, y, too_far, fired):
        scaled = (v - T[t]) / (ops.abs(v) + 1)
        z = ops.where(scaled >= 0, ops.ones_like(v), ops.zeros_like(v))
        too_far += ops.square(ops.mean(ops.maximum(ops.abs(scaled) - 1, 0)))
        return t + 1, v - h[t] * z, y + d[t] * z, too_far, fired + ops.mean(z)

    zero = ops.convert_to_tensor(np.float32(0))
    start = (ops.convert_to_tensor(0), x, ops.zeros_like(x), zero, zero)
    return ops.while_loop(lambda t, *_: t < p.K, step, start)[2]


def gate_inputs() -> dict[str, Any]:
    """ns per gate input of activations and their FS-neurons."""
    swish, relu = parameters.load("swish_k16_paper"), fs.relu_parameters(10, 25)
    functions = {
        "ReLU": ops.relu,
        "FS-ReLU K=10": lambda x: neuron.response(x, relu),
        "FS-ReLU K=10, spikes counted": lambda x: neuron.response_and_spikes(x, relu),
        "Swish": ops.silu,
        "FS-Swish K=16": lambda x: neuron.response(x, swish),
        "FS-Swish K=16, spikes counted": lambda x: neuron.response_and_spikes(x, swish),
        "FS-Swish K=16, unrolled": lambda x: unrolled(x, swish),
        "FS-Swish K=16, while loop": lambda x: while_loop(x, swish),
    }
    random = np.random.default_rng(0)
    for K in (4, 8, 12, 16, 24, 32):
        # Time does not depend on the values: T falls like a binary code's.
        T = 8.0 * 2.0 ** -np.arange(1, K + 1)
        p = fs.FSParameters(T, T, T * random.uniform(0.9, 1.1, K), name=f"any_k{K}")
        functions[f"any set, K={K}"] = lambda x, p=p: neuron.response(x, p)
    x = random.normal(-0.112, np.sqrt(1.99), (1, FLAGS.elements)).astype("float32")
    times = interleaved({name: on(x, compiled(function)) for name, function in functions.items()})
    print(f"{FLAGS.elements:,} gate inputs, {FLAGS.rounds} rounds, ns per gate input")
    return report(
        times, 1e9 / FLAGS.elements,
        {"FS-ReLU K=10": "ReLU", "FS-ReLU K=10, spikes counted": "ReLU",
         "FS-Swish K=16": "Swish", "FS-Swish K=16, spikes counted": "Swish",
         "FS-Swish K=16, unrolled": "FS-Swish K=16", "FS-Swish K=16, while loop": "FS-Swish K=16"},
    )  # fmt: skip


# --- networks -----------------------------------------------------------------------------------


class Setting(NamedTuple):
    """What a network is timed on."""

    batch: int
    size: int


SETTINGS = {
    "resnet20": Setting(256, 32),
    "mobilenet_v2": Setting(16, 224),
    "efficientnet-b0": Setting(8, 224),
    "efficientnet-b7": Setting(1, 600),
}
ANN, PLAIN, FOLDED, COUNTED = "ANN", "FS", "FS, folded", "FS, folded, spikes counted"
UNROLLED, WHILE = "FS, unrolled loop", "FS, while loop"
IN_MEMORY = (ANN, FOLDED, COUNTED)


def network(name: str) -> keras.Model:
    """The stock network with random weights."""
    keras.utils.set_random_seed(0)
    if name == "resnet20":
        return models.build("resnet20")
    if name == "mobilenet_v2":
        return keras.applications.MobileNetV2(weights=None)
    return load_network(name, "random").model


def contestants(name: str, chosen: tuple[str, ...] = ()) -> dict[str, Callable[[Any], Any]]:
    """Forward passes, compiled by the framework, by what they are; all of them, or those `chosen`."""
    stock = network(name)

    def plain(model: keras.Model) -> Callable:
        return compiled(lambda x: model(x, training=False))

    def by_loop(loop: Callable) -> Callable:
        snn = fs.convert(stock, quality="paper")

        def run(x: Any) -> Any:
            with fs.record_spikes(lambda v, p: (loop(v, p), 0)):
                return snn(x, training=False)

        return compiled(run)

    def counted() -> Callable:
        return compiled(scores_and_spikes(fs.convert(fold(stock)[0], quality="paper")))

    makers = {
        ANN: lambda: plain(stock),
        PLAIN: lambda: plain(fs.convert(stock, quality="paper")),
        FOLDED: lambda: plain(fs.convert(fold(stock)[0], quality="paper")),
        COUNTED: counted,
        UNROLLED: lambda: by_loop(unrolled),
        WHILE: lambda: by_loop(while_loop),
    }
    return {label: make() for label, make in makers.items() if not chosen or label in chosen}


def images_for(name: str, batch: int | None = None) -> np.ndarray:
    setting = SETTINGS[name]
    shape = (batch or setting.batch, setting.size, setting.size, 3)
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def time_network(
    name: str, chosen: tuple[str, ...] = (), batch: int | None = None
) -> dict[str, Any]:
    """ms per image of a network in all its versions."""
    images = images_for(name, batch)
    runs = {label: on(images, run) for label, run in contestants(name, chosen).items()}
    times = interleaved(runs)
    print(f"{name}, batches of {len(images)}, {FLAGS.rounds} rounds, ms per image")
    ratios = {label: ANN for label in runs if label != ANN}
    if UNROLLED in runs:
        ratios |= {UNROLLED: FOLDED, WHILE: FOLDED}
    return report(times, 1e3 / len(images), ratios)


def peak_memory(name: str, label: str) -> int:
    """Largest resident size of this process after three forward passes, in bytes."""
    (run,) = contestants(name, (label,)).values()
    gc.collect()  # the stock network, where it isn't what runs
    run = on(images_for(name), run)
    for _ in range(3):
        run()
    # Not getrusage: its maximum begins with that of the parent process.
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def memory_of(name: str) -> dict[str, int]:
    """Peak memory of each version, in a process of its own; nothing where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return {}
    with concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        peaks = {label: pool.submit(peak_memory, name, label).result() for label in IN_MEMORY}
    print(", ".join(f"{label}: {peak / 2**20:,.0f} MiB" for label, peak in peaks.items()) + "\n")
    return peaks


# --- measuring ----------------------------------------------------------------------------------


def on(x: np.ndarray, function: Callable[[Any], Any]) -> Callable[[], Any]:
    """A call of `function` on `x` that waits until its results are there."""
    x = ops.convert_to_tensor(x)
    return lambda: [np.asarray(y[(0,) * len(y.shape)]) for y in keras.tree.flatten(function(x))]


def interleaved(functions: dict[str, Callable[[], Any]]) -> dict[str, np.ndarray]:
    """Seconds of every round of each, after one that compiles."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(FLAGS.rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(s) for name, s in seconds.items()}


def report(seconds: dict[str, np.ndarray], unit: float, against: dict[str, str]) -> dict[str, Any]:
    """Prints quartiles in the given unit, and median ratios round by round; returns both."""
    rows, content = [], {}
    for name, s in seconds.items():
        low, median, high = (float(q) for q in np.percentile(s, [25, 50, 75]) * unit)
        content[name] = {"quartiles": [round(q, 5) for q in (low, median, high)]}
        ratio = ""
        if name in against:
            value = float(np.median(s / seconds[against[name]]))
            content[name] |= {"against": against[name], "ratio": round(value, 3)}
            ratio = f"{value:.2f} x {against[name]}"
        rows.append((name, f"{low:.2f}", f"{median:.2f}", f"{high:.2f}", ratio))
    header = ("", "lower quartile", "median", "upper quartile", "ratio")
    align = ("left", "right", "right", "right", "left")
    print(tabulate(rows, header, disable_numparse=True, colalign=align), end="\n\n", flush=True)
    return content


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    unknown = [name for name in FLAGS.networks if name not in SETTINGS]
    if unknown:
        sys.exit(f"benchmark: no setting for {', '.join(unknown)}; known: {', '.join(SETTINGS)}")
    backend = keras.backend.backend()
    stem = "benchmark" if backend == "tensorflow" else f"benchmark_{backend}"
    path = pathlib.Path(FLAGS.output_dir) / f"{stem}.json"
    content = {
        **results.provenance("random gate inputs and images", 0),
        "rounds": FLAGS.rounds,
        "elements": FLAGS.elements,
        "ns_per_gate_input": gate_inputs(),
        "networks": {},
    }
    for name in FLAGS.networks:
        content["networks"][name] = {
            **SETTINGS[name]._asdict(),
            "ms_per_image": time_network(name),
            "peak_bytes": memory_of(name),
        }
        keras.backend.clear_session()
        results.write_json(path, content)
    if "resnet20" in FLAGS.networks:
        content["ms_per_image_by_batch"] = {
            str(batch): time_network("resnet20", IN_MEMORY, batch) for batch in (1, 16, 64)
        }
    results.write_json(path, content)
    print(f"Written to {path}")


if __name__ == "__main__":
    app.run(main)
