"""Accuracy and spikes of a network over images.

result = evaluate(snn, images, labels, prepare=lambda x: x / 255, batch_size=250)
result = evaluate(snn, datasets.load("cifar10", "test"))
result.accuracy, result.spikes_per_image, result.seconds
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.backend import as_numpy
from fs_neurons.backend.distribution import ONE, Distribution
from fs_neurons.data.batches import filled, iterated
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
    images: Any,
    labels: Any = None,
    *,
    prepare: Callable[[Any], Any] | None = None,
    batch_size: int = 250,
    verbose: bool = False,
    distribution: Distribution = ONE,
) -> Evaluation:
    """Runs a network over images and counts how many it classifies, and spikes where there are FS layers.

    Batches have one size, so that the network is compiled once; the last one is filled up with copies
    whose outputs and spikes are left out.

    Args:
        model: network whose output is one score per class.
        images: array (images, ...); or, without `labels`, an iterable of batches (images, labels), such
            as a tf.data.Dataset or keras.utils.PyDataset; or a `Dataset` of `fs_neurons.data`.
        labels: class of each image, (images,).
        prepare: makes of images what the model takes, in `keras.ops`, compiled with the network. When
            missing, images are taken as they are; those of a `Dataset` are standardised.
        batch_size: images per forward pass of a device, of an array.
        verbose: whether to show a progress bar.
        distribution: of the batches; `model` was made in its scope.

    Raises:
        ValueError: `batch_size` is less than 1, there are no images, labels of another number or shape,
            a batch larger than the first, or the network gives NaN.
        TypeError: neither labels nor batches with labels.
        WorkerLostError: another worker of the distribution is gone.
    """
    name = "the images"
    if isinstance(images, Dataset):
        name, prepare = images.name, prepare or standardise
        images, labels = images.images, images.labels
    forward = distribution.compiled(scores_and_spikes(model, prepare or _as_they_are))
    total = None if labels is None else len(labels)
    bar = keras.utils.Progbar(total, verbose=int(verbose), unit_name="image")
    rounds = iter(_labelled_batches(images, labels, batch_size))
    rows: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    size = seen = 0
    while several := list(itertools.islice(rounds, distribution.replicas)):
        if not size:
            first = several[0][0]
            size = _count(first)
            forward([(first,)] * len(distribution.local))  # compile
            started = time.perf_counter()
        if max(_count(batch) for batch, _ in several) > size:
            raise ValueError(f"a batch of more images follows one of {size}")
        # Replicas that are left over at the end run copies, which count for nothing.
        mine = [several[i][0] if i < len(several) else None for i in distribution.local]
        outputs = forward([(_filled(several[0][0] if b is None else b, size),) for b in mine])
        results = []
        for batch, (scores, spikes) in zip(mine, outputs, strict=True):
            count = 0 if batch is None else _count(batch)
            scores = ops.convert_to_numpy(scores)[:count]
            best = np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1))
            results.append(np.stack([best, per_image(spikes)[:count]], axis=1))
        rows.append(distribution.gather(np.concatenate(results)))
        truth += [classes for _, classes in several]
        bar.add(len(rows[-1]))
        if (rows[-1][:, 0] < 0).any():
            number = seen + int((rows[-1][:, 0] < 0).argmax())
            raise ValueError(f"model {model.name!r} gives NaN on image {number} of {name}")
        seen += len(rows[-1])
    if not size:
        raise ValueError("nothing to do: 0 images")
    seconds = time.perf_counter() - started
    predictions, spikes = np.concatenate(rows).T
    accuracy = float((predictions == np.concatenate(truth)).mean())
    return Evaluation(accuracy, seen, int(spikes.sum()), seconds, predictions)


def _as_they_are(images: Any) -> Any:
    return images


def _labelled_batches(
    images: Any, labels: Any, batch_size: int
) -> Iterator[tuple[Any, np.ndarray]]:
    """Images and labels, batch by batch."""
    if labels is None:
        for number, batch in enumerate(iterated(images)):
            if not isinstance(batch, (tuple, list)) or len(batch) < 2:
                raise TypeError(
                    f"batch {number} is {type(batch).__name__}, not (images, labels): give labels=...,"
                    " or an iterable of such batches"
                )
            yield keras.tree.map_structure(as_numpy, batch[0]), _classes(batch[0], batch[1])
        return
    count = _count(images)
    labels = _classes(images, labels)
    if batch_size < 1 or count == 0:
        raise ValueError(f"nothing to do: {count} images in batches of {batch_size}")
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(lambda x: as_numpy(x[part]), images), labels[part]  # noqa: B023


def _classes(images: Any, labels: Any) -> np.ndarray:
    classes = as_numpy(labels)
    if classes.shape != (_count(images),):
        raise ValueError(
            f"labels must be the class of each image, shape ({_count(images)},); theirs is {classes.shape}"
        )
    return classes


def _count(images: Any) -> int:
    return len(keras.tree.flatten(images)[0])


def _filled(images: Any, size: int) -> Any:
    return keras.tree.map_structure(lambda x: filled(x, size), images)


def scores_and_spikes(
    model: keras.Model, prepare: Callable[[Any], Any] = _as_they_are
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
        count = keras.tree.flatten(images)[0].shape[0]
        none = ops.zeros((1, count), dtype="int32")
        return scores, ops.concatenate([none, *(record.spikes[None] for record in records)])

    return forward


def per_image(spikes: Any) -> np.ndarray:
    """Spikes (layers, images) summed over layers, in int64: a large network can fire more than an int32 counts."""
    return np.asarray(ops.convert_to_numpy(spikes).sum(axis=0, dtype=np.int64))
