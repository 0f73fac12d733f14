"""Runs a converted network in discrete time, and draws every spike of three images on their way through it.

    python examples/spike_raster.py

Writes spike_raster.png: time steps to the right, the neurons of all sites upwards. While an image is deeper
in the network, the next one enters.
"""

import keras
import numpy as np
from matplotlib.figure import Figure

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.analysis.drawing import SNN
from fs_neurons.data import datasets
from fs_neurons.simulation import Simulation

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
    """Every spike as a dot, in the colour of its image."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    bottom, middles = 0, []
    for site in result.sites:
        for image, color in enumerate(COLORS):
            of_image = site.raster.image == image
            x, y = site.raster.step[of_image], bottom + site.raster.neuron[of_image]
            axes.plot(x, y, ",", color=color)
        middles.append(bottom + site.neurons / 2)
        bottom += site.neurons
        axes.axhline(bottom, color="#cccccc", linewidth=0.5)
    for step in range(0, result.steps + 1, result.K):
        axes.axvline(step, color="#eeeeee", linewidth=0.5, zorder=0)
    axes.set(xlabel="time step", ylim=(0, bottom), yticks=middles, xlim=(0, result.steps))
    axes.set_yticklabels([site.name for site in result.sites], fontsize=7)
    axes.set_title("Spikes of three images; a window is K steps", loc="left", fontsize=10)
    return figure


if __name__ == "__main__":
    main()
