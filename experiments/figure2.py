"""Figure 2: the Swish function by FS-neurons with K = 16, the published set and the fitted one.

    python -m experiments.figure2

Writes figure2.png, .json, .csv and figure2_parameters.csv to --output_dir.
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
        "published": parameters.load("swish_k16_paper"),
        "fitted": parameters.load("swish_k16"),
    }
    path = pathlib.Path(FLAGS.output_dir) / "figure2"
    run(
        path, keras.activations.silu, "Swish", (-8.0, 12.0), sets,
        parts={"main_region": (-2.0, 2.0)},
        paper={  # section 1.2.1
            "published": {"mse_in_main_region": 0.0023, "mse_outside_main_region": 0.0064}
        },
    )  # fmt: skip


if __name__ == "__main__":
    app.run(main)
