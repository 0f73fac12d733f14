"""Calibrated networks: accuracy and spikes with few steps, beside the paper's setting.

    python -m experiments.calibration                                 # every network of Table 2
    python -m experiments.calibration --models=resnet20 --steps=5,4,3

Calibrates on the first 1,000 training images, without their labels, and measures on the test set. Networks
of Swish are calibrated with the set's own number of steps too, and with a price on spikes. Writes
calibration.json to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Any

import keras
import numpy as np
from absl import app, flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results
from experiments.data import load_test_set
from fs_neurons import datasets, models
from fs_neurons.evaluation import evaluate

FLAGS = flags.FLAGS
flags.DEFINE_list("models", None, "Networks; all that have weights by default.")
flags.DEFINE_list("steps", ["5", "4", "3"], "Numbers of steps of ReLU networks.")
flags.DEFINE_integer("images", 1000, "Training images to calibrate on.", lower_bound=16)

SWISH_SETTINGS: tuple[dict[str, Any], ...] = (
    {"steps": 16, "spike_penalty": 3e-3},
    {"steps": 8, "spike_penalty": 2e-3},
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        data = load_test_set()
        training = datasets.load(data.name, "train", FLAGS.data_dir).take(FLAGS.images)
        images = np.asarray(datasets.standardise(training.images))
        rows = []
        for name in FLAGS.models or trained(data.name):
            rows += measure(name, models.pretrained(name, data.name), data, images)
    except (datasets.DatasetUnavailable, FileNotFoundError, ValueError) as error:
        sys.exit(f"calibration: {error}")
    print(f"{data.name}, {len(data):,} test images, calibrated on {len(images):,} training images")
    header = ("network", "setting", "ANN %", "SNN %", "difference", "spikes/neuron", "seconds")
    cells = [
        (
            row["network"], row["setting"], f"{row['ann']:.2f}", f"{row['snn']:.2f}",
            f"{row['snn'] - row['ann']:+.2f}", f"{row['spikes_per_neuron']:.2f}",
            f"{row['calibration_seconds']:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    align = ("left", "left", *["right"] * 5)
    print(tabulate(cells, header, disable_numparse=True, colalign=align))
    stem = "calibration" if data.name == "cifar10" else f"calibration_{data.name}"
    path = pathlib.Path(FLAGS.output_dir) / f"{stem}.json"
    made_by = results.provenance(f"{data.name} test set", len(data))
    results.write_json(path, {**made_by, "calibration_images": len(images), "rows": rows})
    print(f"Written to {path}")


def trained(data: str) -> list[str]:
    """Networks whose weights are shipped."""
    found = []
    for name in models.NETWORKS:
        try:
            models.pretrained(name, data)
        except FileNotFoundError:
            continue
        found.append(name)
    return found


def measure(
    name: str, model: keras.Model, data: datasets.Dataset, images: np.ndarray
) -> list[dict[str, Any]]:
    """The paper's setting, then the calibrated ones."""
    ann = evaluate(model, data, batch_size=FLAGS.batch_size).accuracy
    swish = any(site.activation == "silu" for site in fs.find_sites(model))
    settings = SWISH_SETTINGS if swish else tuple({"steps": int(K)} for K in FLAGS.steps)
    rows = []
    for arguments in ({}, *settings):
        started = time.perf_counter()
        snn = fs.convert(model, **({"calibration_data": images, **arguments} if arguments else {}))
        seconds = time.perf_counter() - started if arguments else 0.0
        result = evaluate(snn, data, batch_size=FLAGS.batch_size)
        neurons = fs.conversion_report(snn).neurons
        label = ", ".join(f"{key}={value}" for key, value in arguments.items())
        rows.append(
            {
                "network": name,
                "setting": label or "published",
                "ann": round(100 * ann, 4),
                "snn": round(100 * result.accuracy, 4),
                "spikes_per_neuron": result.spikes_per_image / neurons,
                "calibration_seconds": round(seconds, 1),
            }
        )
    return rows


if __name__ == "__main__":
    app.run(main)
