"""What each parameter set for Swish and the sigmoid does to a trained Swish network.

    python -m experiments.swish_sets                  # CIFAR-10 where data and weights are, else digits
    python -m experiments.swish_sets --data=digits

Writes swish_sets.json (digits: swish_sets_digits.json) to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from absl import app, flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results
from experiments.data import load_test_set
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

FLAGS = flags.FLAGS

NETWORKS = {"cifar10": "se_resnet20_swish", "digits": "se_resnet8_swish"}
SETS = {
    "published, K=16": {"quality": "paper"},
    "accurate, K=16": {"quality": "accurate"},
    "sparse, K=16": {"quality": "sparse"},
    "fitted, K=10": {"quality": "accurate", "swish": "swish_k10"},
    "fitted, K=8": {"quality": "accurate", "swish": "swish_k8", "sigmoid": "sigmoid_k8"},
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        data = load_test_set()
        model = models.pretrained(NETWORKS[data.name], data.name)
    except (datasets.DatasetUnavailable, FileNotFoundError) as error:
        sys.exit(f"swish_sets: {error}; or pass --data=digits")
    ann = evaluate(model, data, batch_size=FLAGS.batch_size)
    scores = model.predict(np.asarray(datasets.standardise(data.images)), verbose=0)
    rows = []
    for label, arguments in SETS.items():
        snn = fs.convert(model, **arguments)
        result = evaluate(snn, data, batch_size=FLAGS.batch_size)
        difference = snn.predict(np.asarray(datasets.standardise(data.images)), verbose=0) - scores
        neurons = fs.conversion_report(snn).neurons
        rows.append(
            {
                "sets": label,
                "snn": round(100 * result.accuracy, 4),
                "agreement": round(100 * float((result.predictions == ann.predictions).mean()), 4),
                "logit_error": float(np.sqrt((difference**2).mean()) / scores.std()),
                "spikes_per_neuron": result.spikes_per_image / neurons,
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
    stem = "swish_sets" if data.name == "cifar10" else f"swish_sets_{data.name}"
    path = pathlib.Path(FLAGS.output_dir) / f"{stem}.json"
    made_by = results.provenance(f"{data.name} test set", len(data))
    results.write_json(
        path,
        {**made_by, "network": model.name, "ann": round(100 * ann.accuracy, 4), "rows": rows},
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    app.run(main)
