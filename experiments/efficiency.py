"""The paper's claims on time and spikes: FS-neurons against rate coding, in one network and one harness.

    python -m experiments.efficiency                                  # ResNet20, 1,000 test images
    python -m experiments.efficiency --model=resnet8 --steps=256 --limit=200

The network is converted twice: to FS-neurons, and to integrate-and-fire neurons with soft reset whose
thresholds are the 99.9th percentile of the activations on 500 training images (see fs_neurons/rate_coding.py).
Prints accuracy against time steps and spikes, beside the figures that the paper compares with; writes
efficiency.json and .png to --output_dir.
"""

from __future__ import annotations

from typing import Any

from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from experiments.plotting import ANN, PAPER, SNN, logarithmic, plt, save
from experiments.rate import rate_curve
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets
from fs_neurons.simulation.rate_coding import firing_thresholds

IMAGES = 1000  # of the test set
FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
FLAGS.set_default("limit", IMAGES)
runner.define_relu_flags(FLAGS)
flags.DEFINE_string(
    "model", None, "A ReLU network of Table 2; ResNet20 (digits: ResNet8) when missing.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer("steps", 550, "Time steps of rate coding.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_integer(
    "calibration", 500, "Training images for the thresholds.", lower_bound=1, flag_values=FLAGS
)

# What accuracy is drawn against. In a pipeline an image enters every so many steps; its output comes later.
QUANTITIES = {
    "steps_between_images": "time steps per image, in a pipeline",
    "latency": "time steps from image to output",
    "spikes_per_neuron": "spikes per neuron",
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
DEFAULTS = {"cifar10": "resnet20", "digits": "resnet8"}


def main() -> None:
    data = runner.load_test_set(FLAGS)
    name = FLAGS.model or DEFAULTS[data.name]
    model = runner.pretrained(name, data.name)
    snn = fs.convert(model, relu=fs.relu_parameters(FLAGS.K, FLAGS.alpha))
    images = runner.training_images(FLAGS, data.name, FLAGS.calibration)
    thresholds = firing_thresholds(snn, images)
    ann = evaluate(model, data, batch_size=FLAGS.batch_size)
    spiking = evaluate(snn, data, batch_size=FLAGS.batch_size)
    neurons = fs.conversion_report(snn).neurons
    simulation = fs.simulate(snn, datasets.standardise(data.images[:2]))
    fs_row = {
        "code": f"FS, K={FLAGS.K}",
        "accuracy": 100 * spiking.accuracy,
        "spikes_per_image": spiking.spikes_per_image,
        "spikes_per_neuron": spiking.spikes_per_image / neurons,
        "latency": simulation.latency,
        "steps_between_images": simulation.period,
    }
    curve = rate_curve(snn, data, thresholds, FLAGS.steps, FLAGS.batch_size)
    rows = [fs_row, *(row for row in curve if row["latency"] in _shown(FLAGS.steps))]
    print(f"{name} on {data.name}, {len(data):,} test images: ANN {ann.accuracy:.2%}")
    print(as_table(rows, simulation.period))
    print()
    print(published_table(simulation.period, spiking.spikes_per_image, name))
    complete = FLAGS.limit >= IMAGES and name == DEFAULTS[data.name]
    path = runner.path(FLAGS, "efficiency", data.name, complete)
    save(plot(ann.accuracy, fs_row, curve, name), path.with_suffix(".png"))
    made_by = runner.provenance(data)
    content = {**made_by, "network": name, "neurons": neurons, "ann": 100 * ann.accuracy}
    results.write_json(path.with_suffix(".json"), {**content, "fs": fs_row, "rate": curve})
    print(f"Written to {path}.json and .png")


def _shown(steps: int) -> set[int]:
    return {t for t in (8, 16, 32, 64, 128, 256, 512) if t < steps} | {steps}


def as_table(rows: list[dict[str, Any]], period: int) -> str:
    header = ("code", "steps to the output", "steps between images", "accuracy %", "spikes/image",
              "spikes/neuron", "time between images, of FS")  # fmt: skip
    cells = [
        (
            row["code"], row["latency"], row["steps_between_images"], f"{row['accuracy']:.2f}",
            f"{row['spikes_per_image']:,.0f}", f"{row['spikes_per_neuron']:.2f}",
            f"{row['steps_between_images'] / period:.1f} x",
        )
        for row in rows
    ]  # fmt: skip
    return tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 6))


def published_table(period: int, spikes: float, name: str) -> str:
    """The paper's comparisons: published figures of rate coding over what was measured here."""
    cells = [
        (f"{network}: {steps} steps, FS an image every {period}", f"{steps / period:.1f} x",
         f"about {gain} x" if gain else "")
        for network, steps, gain in paper.RATE_CODING
    ]  # fmt: skip
    cells.append(
        (
            f"ResNet11, rate coding (Lee et al., 2019): more than"
            f" {paper.RATE_CODING_SPIKES / 1e6:.0f} million spikes, {name} here {spikes:,.0f}",
            f"{paper.RATE_CODING_SPIKES / spikes:.0f} x",
            paper.RATE_CODING_SPIKES_GAIN,
        )
    )
    return tabulate(
        cells, ("published rate coding against FS", "ratio", "paper's"), disable_numparse=True
    )


def plot(ann: float, fs_row: dict[str, Any], curve: list[dict[str, Any]], name: str) -> plt.Figure:
    """Accuracy against time steps between images, time steps to the output, and spikes per neuron."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (key, label) in zip(axes, QUANTITIES.items(), strict=True):
        axis.axhline(
            100 * ann, color=ANN, linestyle="--", linewidth=1,
            label=f"{runner.title(name)}, no spikes",
        )  # fmt: skip
        axis.plot(
            [row[key] for row in curve], [row["accuracy"] for row in curve], color=PAPER,
            label="rate coding",
        )  # fmt: skip
        label_of_fs = fs_row["code"].replace("=", " = ")
        axis.plot(fs_row[key], fs_row["accuracy"], "o", color=SNN, label=label_of_fs)
        # Nothing happens before the first spikes reach the output.
        first = next((row[key] for row in curve if row["accuracy"] > 100 * ann / 5), curve[0][key])
        logarithmic(axis, TICKS)
        axis.set(xlabel=label, xlim=(0.6 * min(first, fs_row[key]), 1.4 * curve[-1][key]))
    axes[0].set_ylabel("test accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    runner.run(main, FLAGS)
