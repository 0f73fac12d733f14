"""What each parameter set for Swish and the sigmoid does to a trained Swish network.

    python -m experiments.swish_sets                  # CIFAR-10 where data and weights are, else digits
    python -m experiments.swish_sets --data=digits

Writes swish_sets.json (digits: swish_sets_digits.json) to --output_dir.
"""

from __future__ import annotations

import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)

NETWORKS = {"cifar10": "se_resnet20_swish", "digits": "se_resnet8_swish"}
SETS = {
    "published, K=16": {"quality": "paper"},
    "fitted, K=16": {"swish": "swish_k16", "sigmoid": "sigmoid_k12"},
    "fitted, sparse, K=16": {"swish": "swish_k16_sparse", "sigmoid": "sigmoid_k12"},
    "fitted, K=10": {"swish": "swish_k10", "sigmoid": "sigmoid_k12"},
    "fitted, K=8": {"swish": "swish_k8", "sigmoid": "sigmoid_k8"},
    "by channel, K=16": {},
    "by channel, sparse, K=16": {"quality": "sparse"},
    "by channel, K=12": {"steps": 12},
    "by channel, K=8": {"steps": 8},
}


def main() -> None:
    data = runner.load_test_set(FLAGS)
    model = runner.pretrained(NETWORKS[data.name], data.name)
    ann = evaluate(model, data, batch_size=FLAGS.batch_size)
    scores = model.predict(np.asarray(datasets.standardise(data.images)), verbose=0)
    rows = []
    for label, arguments in SETS.items():
        snn = fs.convert(model, **arguments)
        result = evaluate(snn, data, batch_size=FLAGS.batch_size)
        difference = snn.predict(np.asarray(datasets.standardise(data.images)), verbose=0) - scores
        rows.append(
            {
                "sets": label,
                **runner.accuracy_and_spikes(ann, result, snn),
                "logit_error": float(np.sqrt((difference**2).mean()) / scores.std()),
            }
        )
    print(f"{model.name} on {data.name}, {len(data):,} test images: ANN {ann.accuracy:.2%}")
    header = ("sets", "SNN %", "agrees with ANN %", "error of logits", "spikes/neuron")
    cells = [
        (
            row["sets"],
            f"{row['snn']:.2f}",
            f"{row['agreement']:.2f}",
            f"{row['logit_error']:.3f}",
            f"{row['spikes_per_neuron']:.2f}",
        )
        for row in rows
    ]
    print(tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 4)))
    print(
        "error of logits: root mean square, relative to the standard deviation of the ANN's logits"
    )
    path = runner.path(FLAGS, "swish_sets", data.name, FLAGS.limit is None).with_suffix(".json")
    made_by = runner.provenance(data)
    results.write_json(
        path,
        {**made_by, "network": model.name, "ann": runner.percent(ann.accuracy), "rows": rows},
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    runner.run(main, FLAGS)
