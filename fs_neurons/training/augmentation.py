"""Batches of an epoch: shuffled, and images cropped and mirrored.

Everything that is random comes from a numpy generator seeded by (seed, epoch), so that an epoch can be
repeated without the ones before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.data.datasets import Dataset, standardise


def augmented_batches(
    data: Dataset, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one epoch: shuffled, standardised, padded, randomly cropped, mirrored where allowed.

    Images are standardised before they are padded with zeros, their mean: black borders would give
    the network statistics in training that it never meets again.

    Yields:
        float32 images (batch, height, width, channels) and int32 labels (batch,). A last batch that
        is not full is left out, unless it is the only one.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(data))
    height, width = data.images.shape[1:3]
    pad = data.padding
    batch_size = min(batch_size, len(data))
    padded = np.zeros(
        (batch_size, height + 2 * pad, width + 2 * pad, data.images.shape[3]), np.float32
    )
    for start in range(0, len(data) - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        padded[:, pad : pad + height, pad : pad + width] = ops.convert_to_numpy(
            standardise(data.images[index])
        )
        offsets = random.integers(0, 2 * pad + 1, size=(batch_size, 2))
        images = np.empty((batch_size, height, width, data.images.shape[3]), np.float32)
        for image, source, (top, left) in zip(images, padded, offsets, strict=True):
            image[...] = source[top : top + height, left : left + width]
        if data.flip:
            mirrored = random.random(batch_size) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        yield images, data.labels[index]


def shuffled_batches(
    inputs: Any, labels: np.ndarray | None, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Batches of one epoch, shuffled.

    Args:
        inputs: arrays (examples, ...) in the structure that a model takes.
        labels: (examples, ...), or None.
        batch_size: examples per batch; a last batch that is not full is left out, unless it is the
            only one.
        seed, epoch: of the order.
    """
    count = len(keras.tree.flatten(inputs)[0])
    order = np.random.default_rng((seed, epoch)).permutation(count)
    batch_size = min(batch_size, count)
    for start in range(0, count - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        batch = keras.tree.map_structure(lambda array: array[index], inputs)  # noqa: B023
        yield batch, None if labels is None else labels[index]
