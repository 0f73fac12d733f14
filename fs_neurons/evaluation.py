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

from fs_neurons.datasets import Dataset, standardise
from fs_neurons.layers import record_spikes


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
) -> Evaluation:
    """Runs `model` over all images of `data`, standardised, and counts spikes where there are FS layers.

    Batches have one size, so that the network is compiled once; the last one is filled up with copies
    whose outputs and spikes are left out.

    Args:
        model: network whose output is one score per class.
        data: images and labels.
        batch_size: images per forward pass.
        verbose: whether to show a progress bar.

    Raises:
        ValueError: `batch_size` is less than 1, `data` is empty, or the network gives NaN.
    """
    if batch_size < 1 or len(data) == 0:
        raise ValueError(f"nothing to do: {len(data)} images in batches of {batch_size}")
    batch_size = min(batch_size, len(data))
    forward = compiled_forward(model, standardise)
    forward(data.images[:1].repeat(batch_size, axis=0))  # compile
    predictions = np.empty(len(data), np.int64)
    spikes = 0
    bar = keras.utils.Progbar(len(data), verbose=int(verbose), unit_name="image")
    started = time.perf_counter()
    for start in range(0, len(data), batch_size):
        images = data.images[start : start + batch_size]
        count = len(images)
        scores, spikes_per_image = forward(np.resize(images, (batch_size, *images.shape[1:])))
        if np.isnan(scores[:count]).any():
            raise ValueError(
                f"model {model.name!r} gives NaN on images {start}..{start + count - 1}"
            )
        predictions[start : start + count] = scores[:count].argmax(axis=1)
        spikes += int(spikes_per_image[:count].sum(dtype=np.int64))
        bar.add(count)
    seconds = time.perf_counter() - started
    accuracy = float((predictions == data.labels).mean())
    return Evaluation(accuracy, len(data), spikes, seconds, predictions)


def compiled_forward(
    model: keras.Model, prepare: Callable[[Any], Any] = lambda images: images
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Runs `model` through the backend's compiler, and counts spikes where there are FS layers.

    Args:
        model: network whose output is one score per class.
        prepare: applied to the images first, in the same compiled function.

    Returns:
        A function of a batch of images that gives scores and int64 spikes per image, as numpy arrays.
    """

    def forward(images: Any) -> tuple[Any, Any]:
        with record_spikes() as records:
            scores = model(prepare(images), training=False)
        none = ops.zeros((1, images.shape[0]), dtype="int32")
        return scores, ops.concatenate([none, *(record.spikes[None] for record in records)])

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        forward = tf.function(forward, autograph=False)
    elif backend == "jax":
        import jax

        forward = jax.jit(forward)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, spikes = forward(ops.convert_to_tensor(images))
        # Summed over layers in int64: a large network can fire more than an int32 counts.
        return ops.convert_to_numpy(scores), ops.convert_to_numpy(spikes).sum(0, dtype=np.int64)

    return run
