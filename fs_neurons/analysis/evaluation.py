"""Accuracy and spikes of a network over a data set.

result = evaluate(snn, load("cifar10", "test"), batch_size=250)
result.accuracy, result.spikes_per_image, result.seconds
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.backend.distribution import ONE, Distribution
from fs_neurons.data.datasets import Dataset, standardise
from fs_neurons.layers import collect_records
from fs_neurons.neuron import response_and_spikes


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        accuracy: share of images in [0, 1] whose largest output is at their label.
        images: number of images.
        spikes: spikes of all FS-neurons over all images, an exact count; 0 for a network without any.
        seconds: wall-clock time of the forward passes, without compilation.
        predictions: int64 array (images,).
    """

    accuracy: float
    images: int
    spikes: int
    seconds: float
    predictions: np.ndarray

    @property
    def spikes_per_image(self) -> float:
        return self.spikes / self.images


def evaluate(
    model: keras.Model,
    data: Dataset,
    *,
    batch_size: int = 250,
    verbose: bool = False,
    distribution: Distribution = ONE,
) -> Evaluation:
    """Runs `model` over all images of `data`, standardised, and counts spikes where there are FS layers.

    Batches have one size, so that the network is compiled once; the last one is filled up with copies
    whose outputs and spikes are left out.

    Args:
        model: network whose output is one score per class.
        data: images and labels.
        batch_size: images per forward pass of a device.
        verbose: whether to show a progress bar.
        distribution: of the batches; `model` was made in its scope.

    Raises:
        ValueError: `batch_size` is less than 1, `data` is empty, or the network gives NaN.
        WorkerLostError: another worker of the distribution is gone.
    """
    if batch_size < 1 or len(data) == 0:
        raise ValueError(f"nothing to do: {len(data)} images in batches of {batch_size}")
    batch_size = min(batch_size, len(data))
    size = (batch_size, *data.images.shape[1:])
    forward = distribution.compiled(scores_and_spikes(model, standardise))
    forward([(np.resize(data.images[:1], size),)] * len(distribution.local))  # compile
    rows: list[np.ndarray] = []
    bar = keras.utils.Progbar(len(data), verbose=int(verbose), unit_name="image")
    started = time.perf_counter()
    for start in range(0, len(data), batch_size * distribution.replicas):
        firsts = [start + batch_size * replica for replica in distribution.local]
        batches = [data.images[first : first + batch_size] for first in firsts]
        outputs = forward([(np.resize(images, size),) for images in batches])
        results = []
        for images, (scores, spikes) in zip(batches, outputs, strict=True):
            scores = ops.convert_to_numpy(scores)[: len(images)]
            best = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
            results.append(np.stack([best, per_image(spikes)[: len(images)]], axis=1))
        rows.append(distribution.gather(np.concatenate(results)))
        bar.add(len(rows[-1]))
        if (rows[-1][:, 0] < 0).any():
            number = start + int((rows[-1][:, 0] < 0).argmax())
            raise ValueError(f"model {model.name!r} gives NaN on image {number} of {data.name}")
    seconds = time.perf_counter() - started
    predictions, spikes = np.concatenate(rows).T
    accuracy = float((predictions == data.labels).mean())
    return Evaluation(accuracy, len(data), int(spikes.sum()), seconds, predictions)


def scores_and_spikes(
    model: keras.Model, prepare: Callable[[Any], Any] = lambda images: images
) -> Callable[[Any], tuple[Any, Any]]:
    """A forward pass that counts spikes where there are FS layers, to be compiled.

    Args:
        model: network whose output is one score per class.
        prepare: applied to the images first, in the same function.

    Returns:
        A function of a batch of images that gives scores and int32 spikes (1 + layers, images), the
        first row zeros.
    """

    def forward(images: Any) -> tuple[Any, Any]:
        with collect_records(response_and_spikes) as records:
            scores = model(prepare(images), training=False)
        none = ops.zeros((1, images.shape[0]), dtype="int32")
        return scores, ops.concatenate([none, *(record.spikes[None] for record in records)])

    return forward


def per_image(spikes: Any) -> np.ndarray:
    """Spikes (layers, images) summed over layers, in int64: a large network can fire more than an int32 counts."""
    return ops.convert_to_numpy(spikes).sum(axis=0, dtype=np.int64)
