"""Figure 3: the sigmoid function by FS-neurons with K = 12, the published set and the fitted one.

    python -m experiments.figure3

Writes figure3.png, .json, .csv and figure3_parameters.csv to --output_dir.
"""

from __future__ import annotations

import keras
from absl import flags

from experiments import runner
from experiments.approximation import published_and_fitted, run

FLAGS = flags.FlagValues()
runner.define_output_flag(FLAGS)


def main() -> None:
    path = runner.path(FLAGS, "figure3")
    sets = published_and_fitted("sigmoid_k12")
    run(path, keras.activations.sigmoid, "sigmoid", (-10.0, 10.0), sets)


if __name__ == "__main__":
    runner.run(main, FLAGS)
