"""Figure 4: ReLU by FS-neurons, K = 10 and alpha = 25 as in its caption.

    python -m experiments.figure4
    python -m experiments.figure4 --K=10 --alpha=10      # as in the text

Writes figure4.png, figure4.csv and figure4_parameters.csv to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys

import keras
from absl import app, flags

import fs_neurons as fs
from experiments import results
from experiments.approximation import run

FLAGS = flags.FLAGS
flags.DEFINE_integer("K", 10, "Time steps.", lower_bound=1)
flags.DEFINE_float("alpha", 25.0, "Upper end of the range.")
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        relu = fs.relu_parameters(FLAGS.K, FLAGS.alpha)
    except ValueError as error:
        sys.exit(f"figure4: {error}")
    span = (-0.4 * FLAGS.alpha, 1.2 * FLAGS.alpha)
    path = pathlib.Path(FLAGS.output_dir) / "figure4"
    run(path, keras.activations.relu, "ReLU", span, {f"alpha = {FLAGS.alpha:g}": relu})


if __name__ == "__main__":
    app.run(main)
