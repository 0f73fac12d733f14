"""Figure 2: the Swish function by FS-neurons with K = 16, the published set and the fitted one.

    python -m experiments.figure2

Writes figure2.png, .json, .csv and figure2_parameters.csv to --output_dir.
"""

from __future__ import annotations

import keras
from absl import flags

from experiments import paper, runner
from experiments.approximation import published_and_fitted, run

FLAGS = flags.FlagValues()
runner.define_output_flag(FLAGS)


def main() -> None:
    run(
        runner.path(FLAGS, "figure2"), keras.activations.silu, "Swish", (-8.0, 12.0),
        published_and_fitted("swish_k16"),
        parts={"main_region": paper.MAIN_REGION},
        published={"published": paper.SWISH_ERRORS},
    )  # fmt: skip


if __name__ == "__main__":
    runner.run(main, FLAGS)
