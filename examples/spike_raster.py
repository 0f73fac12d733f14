"""Runs a converted network in discrete time, and draws the spikes of three images on their way through it.

    python examples/spike_raster.py

Writes spike_raster.png: time steps to the right, the sites of the network upwards. While an image is deeper in
the network, the next one enters.
"""

import keras
import numpy as np
from matplotlib.figure import Figure

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.analysis.drawing import SNN
from fs_neurons.data import datasets
from fs_neurons.simulation import Simulation

SHOWN = 30  # neurons of each site
COLORS = (SNN, "#c1272d", "#2b8a3e")  # one per image


def main() -> None:
    test = datasets.load("digits", "test").take(len(COLORS))
    images = keras.ops.convert_to_numpy(datasets.standardise(test.images))
    snn = fs.convert(models.pretrained("resnet8", "digits"))
    result = fs.simulate(snn, images, raster=True)

    assert np.array_equal(result.outputs, keras.ops.convert_to_numpy(snn(images)))
    print(f"digits {test.labels}, classified as {result.outputs.argmax(axis=1)}")
    print(f"{result.spikes} spikes, {result.spikes_per_neuron:.2f} per neuron")
    print(f"{result.latency} steps from image to output, an image every {result.period} steps")
    raster(result).savefig("spike_raster.png", dpi=150)


def raster(result: Simulation) -> Figure:
    """Spikes of some neurons of each site as strokes, in the colour of their image."""
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots()
    for row, site in enumerate(result.sites):
        # At even distances, so that all parts of the feature map are there.
        shown = np.linspace(0, site.neurons - 1, SHOWN).round().astype(int)
        place = np.full(site.neurons, -1)
        place[shown] = np.arange(SHOWN)
        for image, color in enumerate(COLORS):
            chosen = (site.raster.image == image) & (place[site.raster.neuron] >= 0)
            heights = row + 0.9 * (place[site.raster.neuron[chosen]] + 0.5) / SHOWN
            label = f"image {image + 1}" if row == 0 else None
            axes.plot(site.raster.step[chosen], heights, "o", ms=1.6, color=color, label=label)
        axes.axhline(row - 0.05, color="#cccccc", linewidth=0.5)
    for step in range(0, result.steps + 1, result.K):
        axes.axvline(step - 0.5, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set(
        xlabel=f"time step; a window is {result.K} steps", xlim=(-0.5, result.steps - 0.5),
        ylim=(-0.05, len(result.sites)), yticks=np.arange(len(result.sites)) + 0.45,
    )  # fmt: skip
    names = [f"{site.name}\n{SHOWN} of {site.neurons:,} neurons" for site in result.sites]
    axes.set_yticklabels(names, fontsize=8)
    axes.legend(loc="lower right", markerscale=4, frameon=False)
    return figure


if __name__ == "__main__":
    main()
