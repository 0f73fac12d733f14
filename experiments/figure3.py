"""Figure 3: the sigmoid function by FS-neurons with K = 12, the published set and the fitted one.

    python -m experiments.figure3

Writes figure3.png, .json, .csv and figure3_parameters.csv to --output_dir.
"""

from __future__ import annotations

import pathlib

import keras
from absl import app, flags

from experiments import results
from experiments.approximation import run
from fs_neurons.neuron import sets as parameters

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    sets = {
        "published": parameters.load("sigmoid_k12_paper"),
        "fitted": parameters.load("sigmoid_k12"),
    }
    path = pathlib.Path(FLAGS.output_dir) / "figure3"
    run(path, keras.activations.sigmoid, "sigmoid", (-10.0, 10.0), sets)


if __name__ == "__main__":
    app.run(main)
