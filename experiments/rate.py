"""Accuracy and spikes of a network with rate coding, after every time step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import fs_neurons as fs
from experiments import runner
from fs_neurons.data import datasets
from fs_neurons.simulation.rate_coding import simulate_rate


def rate_curve(
    snn: keras.Model, data: datasets.Dataset, thresholds: list[float], steps: int, batch_size: int
) -> list[dict[str, Any]]:
    """A row per time step 1, ..., `steps`, over all images of `data`."""
    neurons = fs.conversion_report(snn).neurons
    hits = np.zeros(steps, np.int64)
    spikes = np.zeros(steps, np.int64)
    bar = runner.progress(len(data))
    for start in range(0, len(data), batch_size):
        images = datasets.standardise(data.images[start : start + batch_size])
        labels = data.labels[start : start + batch_size]
        for t, after in enumerate(simulate_rate(snn, images, thresholds, steps)):
            hits[t] += int((after.outputs.argmax(axis=1) == labels).sum())
            spikes[t] += int(after.spikes.sum())
        bar.add(len(labels))
    return [
        {
            "code": "rate",
            "accuracy": 100 * int(hits[t]) / len(data),
            "spikes_per_image": int(spikes[t]) / len(data),
            "spikes_per_neuron": int(spikes[t]) / len(data) / neurons,
            "latency": t + 1,
            "steps_between_images": t + 1,
        }
        for t in range(steps)
    ]
