"""Figure 1B: an FS-neuron at work: potential against threshold over K steps, spikes, decoded output.

    python -m experiments.figure1
    python -m experiments.figure1 --set=sigmoid_k12_paper --function=sigmoid --x=-1

Writes figure1.png and figure1.json to --output_dir.
"""

from __future__ import annotations

import numpy as np
from absl import flags
from keras import ops

from experiments import results, runner
from experiments.plotting import save
from fs_neurons import neuron
from fs_neurons.analysis.drawing import draw_neuron
from fs_neurons.neuron import sets as parameters

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "set",
    "swish_k16_paper",
    "Parameter set: a name in params/, or a .json file.",
    flag_values=FLAGS,
)
flags.DEFINE_string("function", "silu", "Keras activation that it emulates.", flag_values=FLAGS)
flags.DEFINE_float("x", 1.3, "Gate input.", flag_values=FLAGS)
runner.define_output_flag(FLAGS)


def main() -> None:
    path = runner.path(FLAGS, "figure1")
    chosen = parameters.load(FLAGS.set)
    save(draw_neuron(chosen, FLAGS.x, FLAGS.function), path.with_suffix(".png"))
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
    runner.run(main, FLAGS)
