"""What `fs.convert(model)` does without data: the paper's networks with ranges from their own weights.

    python -m experiments.without_data                    # CIFAR-10 where data and weights are, else digits
    python -m experiments.without_data --networks=resnet20

Writes without_data.json (digits: without_data_digits.json) to --output_dir.
"""

from __future__ import annotations

from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list("networks", [], "Networks; all that are shipped when empty.", flag_values=FLAGS)

# Time steps tried: for ReLU networks, and for those with Swish.
STEPS = {"relu": (10, 8, 6, 5), "silu": (16, 12, 8)}


def main() -> None:
    data = runner.load_test_set(FLAGS)
    shipped = models.shipped(data.name)
    rows = []
    for name in FLAGS.networks or shipped:
        model = runner.pretrained(name, data.name)
        ann = evaluate(model, data, batch_size=FLAGS.batch_size)
        swish = any(site.activation == "silu" for site in fs.find_sites(model))
        for K in STEPS["silu" if swish else "relu"]:
            snn = fs.convert(model, steps=K)
            result = evaluate(snn, data, batch_size=FLAGS.batch_size)
            measured = runner.accuracy_and_spikes(ann, result, snn)
            rows.append({"network": name, "K": K, **measured})
    header = ("network", "K", "ANN %", "SNN %", "difference", "spikes/neuron")
    cells = [
        (
            row["network"], str(row["K"]), f"{row['ann']:.2f}", f"{row['snn']:.2f}",
            f"{row['snn'] - row['ann']:+.2f}", f"{row['spikes_per_neuron']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    print(f"Without data, {data.name}, {len(data):,} test images")
    print(tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 5)))
    whole = FLAGS.limit is None and not FLAGS.networks
    path = runner.path(FLAGS, "without_data", data.name, whole).with_suffix(".json")
    made_by = runner.provenance(data)
    results.write_json(path, {**made_by, "rows": rows})
    print(f"Written to {path}")


if __name__ == "__main__":
    runner.run(main, FLAGS)
