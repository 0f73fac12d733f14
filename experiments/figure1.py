"""Figure 1B: an FS-neuron at work: potential against threshold over K steps, spikes, decoded output.

    python -m experiments.figure1
    python -m experiments.figure1 --set=sigmoid_k12_paper --function=sigmoid --x=-1

Writes figure1.png and figure1.json to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from absl import app, flags
from keras import ops

from experiments import results
from experiments.plotting import save
from fs_neurons import neuron
from fs_neurons.analysis.drawing import draw_neuron
from fs_neurons.neuron import sets as parameters

FLAGS = flags.FLAGS
flags.DEFINE_string("set", "swish_k16_paper", "Parameter set: a name in params/, or a .json file.")
flags.DEFINE_string("function", "silu", "Keras activation that it emulates.")
flags.DEFINE_float("x", 1.3, "Gate input.")
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    path = pathlib.Path(FLAGS.output_dir) / "figure1"
    try:
        chosen = parameters.load(FLAGS.set)
        save(draw_neuron(chosen, FLAGS.x, FLAGS.function), path.with_suffix(".png"))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"figure1: {error}")
    x = np.float32(FLAGS.x)
    spikes = ops.convert_to_numpy(neuron.spike_train(x, chosen)).astype(int)
    output = float(ops.convert_to_numpy(neuron.response(x, chosen)))
    results.write_json(
        path.with_suffix(".json"),
        {
            **results.provenance("one gate input", images=0),
            "set": chosen.name,
            "gate_input": float(FLAGS.x),
            "output": output,
            "spikes": spikes.tolist(),
        },
    )
    print(f"{chosen.name}, x = {x:g}: output {output:.4g} with {spikes.sum()} spikes")
    print(f"Written to {path}.png and .json")


if __name__ == "__main__":
    app.run(main)
