"""Figure 5: spikes of an FS-neuron against its gate input, and the gate inputs that occur.

    python -m experiments.figure5                                     # ImageNetV2, weights by Keras
    python -m experiments.figure5 --data=val --checkpoint=efficientnet-b7-randaug
    python -m experiments.figure5 --swish_model=digits/se_resnet8_swish --relu_model=cifar10/resnet20
    python -m experiments.figure5 --swish_model=mine.keras --data=FOLDER --limit=100

Panel A: FS-Swish with K = 16; panel B: FS-ReLU with K = 6 and alpha = 10. Below them the Gaussian of the
gate inputs that the paper publishes and, where network and images are there, the measured ones: their histogram
over all neurons, and two Gaussians. One has mean and variance as in the paper, the plain average over sites of
their means and of their standard deviations (squared), the other those of all neurons. Writes figure5.png, .csv
and .json to --output_dir.
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
from fs_neurons.files.models import SUFFIX, load_model
from fs_neurons.models.imagenet import load_network
from fs_neurons.neuron import sets as parameters

LIMIT = 50
FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "swish_model",
    "efficientnet-b7",
    "Network of panel A: of Table 1, cifar10/NAME, digits/NAME, or a .keras file.",
    flag_values=FLAGS,
)
flags.DEFINE_string("relu_model", "resnet50", "Network of panel B, likewise.", flag_values=FLAGS)
flags.DEFINE_string("checkpoint", None, "Official checkpoint of --swish_model.", flag_values=FLAGS)
flags.DEFINE_string("data", imagenet.DEFAULT, "ImageNet images, as for table1.", flag_values=FLAGS)
flags.DEFINE_enum(
    "preprocessing", "efficientnet", list(PREPROCESSINGS), "Of images for a .keras file.",
    flag_values=FLAGS,
)  # fmt: skip
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
    """Gate inputs of a network.

    Attributes:
        by_site: mean and variance, averaged over sites as in the paper.
        pooled: mean and variance over all neurons.
        edges, density: (bins + 1,) and (bins,), histogram over all neurons; its area is the share in the span.
        images: number of images.
    """

    by_site: tuple[float, float]
    pooled: tuple[float, float]
    edges: np.ndarray
    density: np.ndarray
    images: int


def main() -> None:
    names = (FLAGS.swish_model, FLAGS.relu_model)
    x = np.linspace(*SPAN, POINTS).astype(np.float32)
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 5.2), sharex=True, height_ratios=(3, 4), layout="constrained"
    )
    rows, report, columns = [], [], {"gate_input": x}
    for panel, name, (top, bottom) in zip(PANELS, names, axes.T, strict=True):
        spikes = ops.convert_to_numpy(neuron.spike_count(x, panel.parameters))
        columns[f"spikes_{panel.activation}"] = spikes
        top.step(x, spikes, color=SNN, where="mid", linewidth=1)
        top.set(title=panel.title, ylabel="spikes")
        top.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
        curves = [(f"{panel.published_for} on ImageNet, published", panel.published, PAPER, "--")]
        images = 0
        try:
            measured = measure(name)
        except (FileNotFoundError, ValueError, datasets.DatasetUnavailable) as error:
            print(f"{panel.title}: only the published inputs are drawn: {error}")
        else:
            images, short = measured.images, runner.title(name)
            bottom.stairs(
                measured.density, measured.edges, fill=True, color=ANN, alpha=0.25,
                label=f"{short}, measured",
            )  # fmt: skip
            bins = np.searchsorted(measured.edges, x, side="right").clip(1, len(measured.density))
            columns[f"{panel.activation}: {short}, measured"] = measured.density[bins - 1]
            curves.append((f"{short}, Gaussian averaged over sites", measured.by_site, ANN, "-"))
            curves.append((f"{short}, Gaussian of all neurons", measured.pooled, ANN, ":"))
        for label, (mean, variance), color, style in curves:
            density = gaussian(x, mean, variance)
            columns[f"{panel.activation}: {label}"] = density
            bottom.plot(x, density, style, color=color, label=label, linewidth=1.2)
            mean_spikes = expected_spikes(panel.parameters, mean, variance)
            rows.append(
                (panel.title, label, f"{mean:.3f}", f"{variance:.3f}", f"{mean_spikes:.2f}")
            )
            report.append(
                {"panel": panel.title, "inputs": label, "mean": mean, "variance": variance,
                 "mean_spikes": mean_spikes, "images": None if "published" in label else images}
            )  # fmt: skip
        # The histogram of ReLUs has a peak at its mode that would press everything else to the ground.
        bottom.set_ylim(0, 1.3 * max(gaussian(np.array([m]), m, v)[0] for _, (m, v), *_ in curves))
        bottom.set(xlabel="gate input x", ylabel="density of gate inputs")
        bottom.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22))
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


def measure(name: str) -> Inputs:
    """Gate inputs of all FS-neurons in the converted network `name`, squeeze-excite gates included.

    Raises:
        FileNotFoundError, ValueError, DatasetUnavailable: no such network, weights or images.
    """
    model, images = load(name)
    snn = fs.convert(model, quality="paper")
    result = fs.profile(snn, (image[None] for image in images), histogram_range=SPAN)
    pooled = result.pooled_inputs
    density = pooled.histogram[1:-1] / pooled.count / np.diff(result.edges)
    return Inputs(
        result.site_average, (pooled.mean, pooled.variance), result.edges, density, result.images
    )


def load(name: str) -> tuple[keras.Model, Iterator[np.ndarray]]:
    """A trained network and images prepared for it."""
    data, _, network_name = name.rpartition("/")
    if data in models.INPUT_SHAPES:
        model = models.pretrained(network_name, data)
        test = datasets.load(data, "test", FLAGS.data_dir).take(FLAGS.limit)
        return model, iter(ops.convert_to_numpy(datasets.standardise(test.images)))
    if name.endswith(SUFFIX):
        model = load_model(name)
        size, preprocessing = model.inputs[0].shape[1], FLAGS.preprocessing
    else:
        checkpoint = FLAGS.checkpoint if name == FLAGS.swish_model else None
        network = load_network(name, checkpoint or "imagenet")
        model, size, preprocessing = network.model, network.image_size, network.preprocessing
    source = imagenet.open_images(FLAGS.data, data_dir=FLAGS.data_dir)
    prepare = PREPROCESSINGS[preprocessing]
    samples = imagenet.stream(source, lambda image: prepare(image, size), stop=FLAGS.limit)
    return model, (sample.image for sample in samples if sample.image is not None)


if __name__ == "__main__":
    runner.run(main, FLAGS)
