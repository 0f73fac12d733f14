"""Time of FS-neurons against the activations that they replace, side by side in one process.

    python -m experiments.benchmark                     # 10 million gate inputs

Rounds are interleaved, so that whatever else the machine does falls on all alike. Prints the median time
per gate input with its quartiles, and ratios; writes benchmark.json to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
from absl import app, flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results
from fs_neurons import neuron, parameters

FLAGS = flags.FLAGS
flags.DEFINE_integer("elements", 10_000_000, "Gate inputs per call.", lower_bound=1)
flags.DEFINE_integer("rounds", 15, "Timed calls of each.", lower_bound=1)
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")


def unrolled_graph(x, swish: fs.FSParameters):
    """Equations (1)-(3) as plain TensorFlow operations, unrolled over the K steps."""
    import tensorflow as tf

    v, y = x, tf.zeros_like(x)
    for T, h, d in zip(swish.T, swish.h, swish.d, strict=True):
        z = tf.cast(v >= T, tf.float32)
        y += d * z
        v -= h * z
    return y


def contestants() -> dict[str, Callable]:
    """Name -> function of a (1, n) tensor."""
    import tensorflow as tf

    swish, relu = parameters.load("swish_k16_paper"), fs.relu_parameters(10, 25)
    return {
        "tf.nn.relu": tf.nn.relu,
        "FS-ReLU K=10": tf.function(lambda x: neuron.response(x, relu)),
        "FS-ReLU K=10 and spikes": tf.function(lambda x: neuron.response_and_spikes(x, relu)[0]),
        "tf.nn.silu": tf.nn.silu,
        "FS-Swish K=16": tf.function(lambda x: neuron.response(x, swish)),
        "FS-Swish K=16 and spikes": tf.function(lambda x: neuron.response_and_spikes(x, swish)[0]),
        "FS-Swish K=16, unrolled graph": tf.function(lambda x: unrolled_graph(x, swish)),
    }


RATIOS = (
    ("FS-ReLU K=10", "tf.nn.relu"),
    ("FS-ReLU K=10 and spikes", "tf.nn.relu"),
    ("FS-Swish K=16", "tf.nn.silu"),
    ("FS-Swish K=16 and spikes", "tf.nn.silu"),
    ("FS-Swish K=16, unrolled graph", "FS-Swish K=16"),
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if keras.backend.backend() != "tensorflow":
        sys.exit("benchmark: compares with TensorFlow's operations; set KERAS_BACKEND=tensorflow")
    x = keras.ops.convert_to_tensor(
        np.random.default_rng(0)
        .normal(-0.112, np.sqrt(1.99), (1, FLAGS.elements))
        .astype("float32")
    )
    functions = contestants()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function(x)  # compile
    for _ in range(FLAGS.rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            np.asarray(function(x)[0, 0])  # waits for the result
            seconds[name].append(time.perf_counter() - started)

    nanoseconds = {
        name: np.percentile(s, [25, 50, 75]) / FLAGS.elements * 1e9 for name, s in seconds.items()
    }
    ratios = {
        f"{a} / {b}": float(np.median(np.array(seconds[a]) / np.array(seconds[b])))
        for a, b in RATIOS
    }
    print(f"{FLAGS.elements:,} gate inputs, {FLAGS.rounds} rounds, ns per gate input")
    rows = [(name, *(f"{q:.2f}" for q in quartiles)) for name, quartiles in nanoseconds.items()]
    print(tabulate(rows, ("", "lower quartile", "median", "upper quartile"), disable_numparse=True))
    print(
        tabulate(
            [(k, f"{v:.2f}") for k, v in ratios.items()],
            ("median ratio", ""),
            disable_numparse=True,
        )
    )
    path = pathlib.Path(FLAGS.output_dir) / "benchmark.json"
    results.write_json(
        path,
        {
            **results.provenance("normal gate inputs, mean -0.112, variance 1.99", 0),
            "elements": FLAGS.elements,
            "ns_quartiles": {
                name: [round(float(v), 4) for v in q] for name, q in nanoseconds.items()
            },
            "ratios": {name: round(value, 3) for name, value in ratios.items()},
        },
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    app.run(main)
