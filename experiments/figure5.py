"""Figure 5: spikes of an FS-neuron against its gate input, and the gate inputs that occur.

    python -m experiments.figure5                                     # ImageNetV2, weights by Keras
    python -m experiments.figure5 --data=val --checkpoint=efficientnet-b7-randaug
    python -m experiments.figure5 --swish_model=digits/se_resnet8_swish --relu_model=cifar10/resnet20

Panel A: FS-Swish with K = 16; panel B: FS-ReLU with K = 6 and alpha = 10. Over them the Gaussian of the
gate inputs that the paper publishes and, where network and images are there, that of the measured ones. Mean and
variance are given both ways: as in the paper, the plain average over sites of their means and of their
standard deviations (squared), and pooled over all neurons. Writes figure5.png, .csv and .json to --output_dir.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
from absl import flags
from keras import ops
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from experiments.plotting import ANN, PAPER, SNN, plt, save
from fs_neurons import models, neuron
from fs_neurons.data import datasets, imagenet
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.models.imagenet import load_network
from fs_neurons.neuron import sets as parameters

LIMIT = 50
FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "swish_model",
    "efficientnet-b7",
    "Network of panel A: of Table 1, or cifar10/NAME or digits/NAME.",
    flag_values=FLAGS,
)
flags.DEFINE_string("relu_model", "resnet50", "Network of panel B, likewise.", flag_values=FLAGS)
flags.DEFINE_string("checkpoint", None, "Official checkpoint of --swish_model.", flag_values=FLAGS)
flags.DEFINE_string("data", imagenet.DEFAULT, "ImageNet images, as for table1.", flag_values=FLAGS)
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_integer("limit", LIMIT, "Images to measure on.", lower_bound=1, flag_values=FLAGS)
runner.define_output_flag(FLAGS)

SPAN, POINTS = (-8.0, 12.0), 4001


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel: parameters, the activation that they emulate, the network whose gate inputs are published."""

    title: str
    parameters: fs.FSParameters
    activation: str
    published_for: str

    @property
    def published(self) -> tuple[float, float]:
        """Mean and variance."""
        return paper.GATE_INPUTS[self.published_for]


PANELS = (
    Panel("A  FS-Swish, K = 16", parameters.load("swish_k16_paper"), "silu", "EfficientNet-B7"),
    Panel(f"B  FS-ReLU, K = {paper.FIGURE5_K}, alpha = {paper.FIGURE5_ALPHA:g}",
          fs.relu_parameters(paper.FIGURE5_K, paper.FIGURE5_ALPHA), "relu", "ResNet50"),
)  # fmt: skip


class Inputs(NamedTuple):
    """Mean and variance of gate inputs: averaged over sites as in the paper, and over all neurons."""

    by_site: tuple[float, float]
    pooled: tuple[float, float]


def main() -> None:
    names = (FLAGS.swish_model, FLAGS.relu_model)
    x = np.linspace(*SPAN, POINTS).astype(np.float32)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows, report, columns = [], [], {"gate_input": x}
    for panel, name, left in zip(PANELS, names, axes, strict=True):
        spikes = ops.convert_to_numpy(neuron.spike_count(x, panel.parameters))
        columns[f"spikes_{panel.activation}"] = spikes
        left.step(x, spikes, color=SNN, where="mid")
        left.set(xlabel="gate input x", title=panel.title)
        left.set_ylabel("spikes", color=SNN)
        right = left.twinx()
        right.spines["right"].set_visible(True)
        right.set_ylabel("density of gate inputs")
        curves = [(f"{panel.published_for}, published", panel.published, PAPER, "--")]
        try:
            measured, images = measure(name)
            curves.append((f"{name}, measured", measured.by_site, ANN, "-"))
            curves.append((f"{name}, measured, pooled", measured.pooled, ANN, ":"))
        except (FileNotFoundError, ValueError, datasets.DatasetUnavailable) as error:
            images = 0
            print(f"{panel.title}: only the published inputs are drawn: {error}")
        for label, (mean, variance), color, style in curves:
            density = gaussian(x, mean, variance)
            columns[f"{panel.activation}: {label}"] = density
            right.plot(x, density, style, color=color, label=label)
            mean_spikes = expected_spikes(panel.parameters, mean, variance)
            rows.append(
                (panel.title, label, f"{mean:.3f}", f"{variance:.3f}", f"{mean_spikes:.2f}")
            )
            report.append(
                {"panel": panel.title, "inputs": label, "mean": mean, "variance": variance,
                 "mean_spikes": mean_spikes, "images": images if "measured" in label else None}
            )  # fmt: skip
        right.set_ylim(bottom=0)
        right.legend(fontsize=7)
    header = ("panel", "gate inputs", "mean", "variance", "mean spikes under it")
    print(tabulate(rows, header, disable_numparse=True))
    complete = len(rows) == 3 * len(PANELS) and FLAGS.limit >= LIMIT
    path = runner.path(FLAGS, "figure5", complete=complete)
    save(figure, path.with_suffix(".png"))
    results.write_csv(path.with_suffix(".csv"), columns)
    made_by = results.provenance(", ".join(names), FLAGS.limit)
    results.write_json(path.with_suffix(".json"), {**made_by, "curves": report})
    print(f"Written to {path}.png, .csv and .json")


def gaussian(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    """Density of the normal distribution."""
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def expected_spikes(p: fs.FSParameters, mean: float, variance: float) -> float:
    """Mean number of spikes under normally distributed gate inputs."""
    x = mean + np.sqrt(variance) * np.linspace(-8, 8, 200_001)
    weights = gaussian(x, mean, variance)
    spikes = ops.convert_to_numpy(neuron.spike_count(x.astype(np.float32), p))
    return float((weights * spikes).sum() / weights.sum())


def measure(name: str) -> tuple[Inputs, int]:
    """Gate inputs of all FS-neurons in the converted network `name`, squeeze-excite gates included.

    Returns:
        The statistics and the number of images.

    Raises:
        FileNotFoundError, ValueError, DatasetUnavailable: no such network, weights or images.
    """
    model, images = load(name)
    result = fs.profile(fs.convert(model, quality="paper"), (image[None] for image in images))
    pooled = result.pooled_inputs
    return Inputs(result.site_average, (pooled.mean, pooled.variance)), result.images


def load(name: str) -> tuple[keras.Model, Iterator[np.ndarray]]:
    """A trained network and images prepared for it."""
    data, _, network_name = name.rpartition("/")
    if data in models.INPUT_SHAPES:
        model = models.pretrained(network_name, data)
        test = datasets.load(data, "test", FLAGS.data_dir).take(FLAGS.limit)
        return model, iter(ops.convert_to_numpy(datasets.standardise(test.images)))
    checkpoint = FLAGS.checkpoint if name == FLAGS.swish_model else None
    network = load_network(name, checkpoint or "imagenet")
    source = imagenet.open_images(FLAGS.data, data_dir=FLAGS.data_dir)
    prepare = PREPROCESSINGS[network.preprocessing]
    samples = imagenet.stream(
        source, lambda image: prepare(image, network.image_size), stop=FLAGS.limit
    )
    return network.model, (sample.image for sample in samples if sample.image is not None)


if __name__ == "__main__":
    runner.run(main, FLAGS)
