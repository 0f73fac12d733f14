"""Figure 4: ReLU by FS-neurons, K = 10 and alpha = 25 as in its caption.

    python -m experiments.figure4
    python -m experiments.figure4 --K=10 --alpha=10      # as in the text

Errors are those below alpha, in the range, and from there on, where the neuron saturates. Writes figure4.png, .json, .csv and figure4_parameters.csv to --output_dir.
"""

from __future__ import annotations

import keras
import numpy as np
from absl import flags

import fs_neurons as fs
from experiments import runner
from experiments.approximation import run

FLAGS = flags.FlagValues()
runner.define_relu_flags(FLAGS)
runner.define_output_flag(FLAGS)


def main() -> None:
    relu = fs.relu_parameters(FLAGS.K, FLAGS.alpha)
    span = (-0.4 * FLAGS.alpha, 1.2 * FLAGS.alpha)
    path = runner.path(FLAGS, "figure4")
    run(
        path, keras.activations.relu, "ReLU", span, {f"alpha = {FLAGS.alpha:g}": relu},
        parts={"range": (span[0], float(np.nextafter(FLAGS.alpha, 0)))},
    )  # fmt: skip


if __name__ == "__main__":
    runner.run(main, FLAGS)
