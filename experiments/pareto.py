"""Accuracy against steps and spikes: what each ingredient of calibration is worth, and what is left to gain.

    python -m experiments.pareto                                      # every network that has weights
    python -m experiments.pareto --models=resnet20 --steps=5,4,3
    python -m experiments.pareto --models=resnet8 --method=paper --method=calibrated

From the paper's setting to calibration in full, one ingredient after the other; the fine-tuned networks of
experiments/finetune.py, where there are any; rate coding in the same networks; published results. All are
measured on the test set, rate coding on the first --rate_images of it. Calibration takes the first --images
training images, without their labels. Writes pareto.json, where rows of other runs stay, pareto.png, the
headline, and ablation.png, the ingredients one by one, to --output_dir.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from experiments.pareto_drawings import drawings
from experiments.plotting import save
from experiments.rate import rate_curve
from experiments.tables import METHOD_NAMES
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.calibration import Settings, calibrate
from fs_neurons.data import datasets
from fs_neurons.simulation.rate_coding import firing_thresholds

# In the order of the table, every one with what the one before has; of Swish networks, "paper" and "calibrated"
# are measured only.
RELU_METHODS = {
    "paper": None,
    "layer": Settings(granularity="layer", rounding="down", correction="none"),
    "nearest": Settings(granularity="layer", correction="none"),
    "channel": Settings(correction="none"),
    "mean": Settings(correction="mean"),
    "deviation": Settings(correction="affine"),
    "calibrated": Settings(correction="weights"),
    "refined": Settings(correction="joint"),
}
METHODS = (*RELU_METHODS, "priced", "fitted", "finetuned", "rate")

IMAGES, RATE_IMAGES = 1000, 500
FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list(
    "models", None, "Networks; all that have weights when missing.", flag_values=FLAGS
)
flags.DEFINE_multi_enum(
    "method", None, METHODS, "What to measure, may be repeated; all when missing.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_list("steps", ["5", "4", "3"], "Numbers of steps of ReLU networks.", flag_values=FLAGS)
flags.DEFINE_integer(
    "images", IMAGES, "Training images to calibrate on.", lower_bound=16, flag_values=FLAGS
)
flags.DEFINE_integer(
    "rate_images", RATE_IMAGES, "Test images of rate coding.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "rate_steps", 128, "Time steps of rate coding.", lower_bound=2, flag_values=FLAGS
)

PRICE, PRICED_STEPS = 0.03, (6, 5, 4)
SWISH_SETTINGS: tuple[dict[str, Any], ...] = (
    {"steps": 16, "spike_penalty": 3e-3},
    {"steps": 12, "spike_penalty": 2e-3},
    {"steps": 10, "spike_penalty": 2e-3},
    {"steps": 8},
)


class Published(NamedTuple):
    """A published result on CIFAR-10: accuracy in per cent after so many time steps."""

    network: str
    steps: int
    accuracy: float
    source: str


QCFS = "Bu et al., Optimal ANN-SNN conversion, ICLR 2022, table 2 (ANN 91.77 %)"
DIET = "Rathi and Roy, DIET-SNN, IEEE TNNLS 2023 (arXiv:2008.03658)"
PUBLISHED = (
    Published("resnet20", 2, 73.20, QCFS),
    Published("resnet20", 4, 83.75, QCFS),
    Published("resnet20", 8, 89.55, QCFS),
    Published("resnet20", 16, 91.62, QCFS),
    Published("resnet20", 5, 91.78, DIET),
    Published("resnet20", 10, 92.54, DIET),
)


def main() -> None:
    data = runner.load_test_set(FLAGS)
    images = runner.training_images(FLAGS, data.name, FLAGS.images)
    complete = FLAGS.limit is None and FLAGS.images >= IMAGES and FLAGS.rate_images >= RATE_IMAGES
    path = runner.path(FLAGS, "pareto", data.name, complete)
    file = path.with_suffix(".json")
    published = PUBLISHED if data.name == "cifar10" else ()
    rows = results.rows_of(file)
    for name in FLAGS.models or models.shipped(data.name):
        for row in measure(name, runner.pretrained(name, data.name), data, images):
            print(as_table([row]).splitlines()[-1], flush=True)
            made_by = runner.provenance(data)
            content = {**made_by, "published": [mark._asdict() for mark in published]}
            rows = results.merge_rows(file, [row], _key, content)
    if not rows:
        raise ValueError(
            f"none of {', '.join(FLAGS.method or METHODS)} can be measured with these networks on"
            f" {data.name}; experiments.finetune makes fine-tuned ones, and --data takes another data set"
        )
    print(f"{data.name}, {len(data):,} test images, calibrated on {len(images):,} training images")
    print(as_table(sorted(rows, key=_key)))
    for stem, figure in drawings(rows, published, data.name).items():
        save(figure, path.with_name(path.name.replace("pareto", stem)).with_suffix(".png"))
    print(f"Written to {path}.json and .png, and to ablation.png beside it")


def measure(
    name: str, model: keras.Model, data: datasets.Dataset, images: np.ndarray
) -> Iterator[dict[str, Any]]:
    """A row for every method and number of steps."""
    ann = evaluate(model, data, batch_size=FLAGS.batch_size).accuracy
    for method in FLAGS.method or METHODS:
        if method == "rate":
            yield from rate_rows(name, model, data, images, ann)
            continue
        for K, convert in conversions(name, model, images, method, data.name):
            started = time.perf_counter()
            snn = convert()
            seconds = time.perf_counter() - started
            result = evaluate(snn, data, batch_size=FLAGS.batch_size)
            spikes = result.spikes_per_image / fs.conversion_report(snn).neurons
            yield _row(name, method, K, ann, result.accuracy, spikes, len(data), seconds)


def conversions(
    name: str, model: keras.Model, images: np.ndarray, method: str, data: str
) -> Iterator[tuple[int, Any]]:
    """Number of steps, and a function that gives the converted network."""
    swish = any(site.activation == "silu" for site in fs.find_sites(model))
    steps = [int(K) for K in FLAGS.steps]
    if method == "finetuned":
        for spiking in models.finetuned(data):
            network, _, K = spiking.rpartition("_k")
            if network == name:
                yield int(K), functools.partial(models.pretrained, spiking, data)
    elif swish and method == "paper":
        yield 16, lambda: fs.convert(model, quality="paper")
    elif swish and method == "fitted":
        yield 16, lambda: fs.convert(model, swish="swish_k16", sigmoid="sigmoid_k12")
        yield 10, lambda: fs.convert(model, swish="swish_k10", sigmoid="sigmoid_k12")
        yield 8, lambda: fs.convert(model, swish="swish_k8", sigmoid="sigmoid_k8")
    elif swish and method == "calibrated":
        for setting in SWISH_SETTINGS:
            yield setting["steps"], lambda: fs.convert(model, calibration_data=images, **setting)  # noqa: B023
    elif not swish and method == "paper":
        for K in sorted({paper.K, *steps}, reverse=True):
            yield K, lambda: fs.convert(model, relu=fs.relu_parameters(K, paper.ALPHA))  # noqa: B023
    elif not swish and method == "priced":
        for K in PRICED_STEPS:
            setting = {"calibration_data": images, "steps": K, "spike_penalty": PRICE}
            yield K, functools.partial(fs.convert, model, **setting)
    elif not swish and method in RELU_METHODS:
        chosen = dict.fromkeys(fs.find_sites(model), fs.relu_parameters())
        for K in steps:
            settings = dataclasses.replace(RELU_METHODS[method], steps=K)
            yield K, lambda: calibrate(model, chosen, images, settings)  # noqa: B023


def rate_rows(
    name: str, model: keras.Model, data: datasets.Dataset, images: np.ndarray, ann: float
) -> Iterator[dict[str, Any]]:
    """Rate coding after 8, 16, 32, ... steps, for ReLU networks."""
    if any(site.activation != "relu" for site in fs.find_sites(model)):
        return
    snn = fs.convert(model, quality="paper")
    thresholds = firing_thresholds(snn, images[:500])
    few = data.take(min(FLAGS.rate_images, len(data)))
    curve = rate_curve(snn, few, thresholds, FLAGS.rate_steps, FLAGS.batch_size)
    shown = {2**n for n in range(3, 16)} | {FLAGS.rate_steps}
    for row in curve:
        if row["latency"] in shown:
            yield _row(
                name, "rate", row["latency"], ann, row["accuracy"] / 100, row["spikes_per_neuron"],
                len(few), 0.0,
            )  # fmt: skip


def _row(
    name: str, method: str, K: int, ann: float, accuracy: float, spikes: float, images: int,
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    return {
        "network": name,
        "method": method,
        "K": K,
        "ann": runner.percent(ann),
        "snn": runner.percent(accuracy),
        "spikes_per_neuron": spikes,
        "images": images,
        "conversion_seconds": round(seconds, 1),
    }


def _key(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return list(models.NETWORKS).index(row["network"]), METHODS.index(row["method"]), -row["K"]


def as_table(rows: list[dict[str, Any]]) -> str:
    header = ("network", "method", "K", "ANN %", "SNN %", "difference", "spikes/neuron", "images",
              "seconds")  # fmt: skip
    cells = [
        (
            row["network"], METHOD_NAMES[row["method"]], row["K"], f"{row['ann']:.2f}", f"{row['snn']:.2f}",
            f"{row['snn'] - row['ann']:+.2f}", f"{row['spikes_per_neuron']:.2f}",
            f"{row['images']:,}", f"{row['conversion_seconds']:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    align = ("left", "left", *["right"] * 7)
    return tabulate(cells, header, disable_numparse=True, colalign=align)


if __name__ == "__main__":
    runner.run(main, FLAGS)
