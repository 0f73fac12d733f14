"""What a network is trained on: batches of every epoch from arrays, a data set, or batches as they come."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from fs_neurons.backend import as_numpy
from fs_neurons.data.datasets import Dataset
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.training.augmentation import augmented_batches, shuffled_batches
from fs_neurons.training.checkpoints import digest

Batch = tuple[Any, "np.ndarray | None"]


@dataclasses.dataclass(frozen=True)
class Source:
    """Batches of inputs and labels.

    Attributes:
        steps: batches per epoch.
        batches: those of an epoch, from its number; labels are None where there are none.
        describe: gives a text that distinguishes the source from others.
    """

    steps: int
    batches: Callable[[int], Iterable[Batch]]
    describe: Callable[[], str]


def source_of(model: keras.Model, data: Any, labels: Any, batch_size: int, seed: int) -> Source:
    """The source of data in any of the forms that `finetune` takes.

    Raises:
        ValueError: the data are empty, of none of these forms, or don't fit the labels or the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(data, Dataset):
        if labels is not None:
            raise ValueError("labels are for arrays; a Dataset has its own")
        return dataset_source(data, batch_size, seed)
    if is_input(model, data):
        inputs = keras.tree.map_structure(as_numpy, data)
        return _array_source(model, inputs, labels, batch_size, seed)
    if labels is not None:
        raise ValueError(
            "labels are for arrays in the structure of the network's inputs; batches have their own:"
            " give each batch as a tuple (inputs, labels)"
        )
    return _batch_source(model, data)


def dataset_source(data: Dataset, batch_size: int, seed: int) -> Source:
    """Images of a data set, cropped and mirrored."""
    return Source(
        max(1, len(data) // batch_size),
        lambda epoch: augmented_batches(data, batch_size, seed, epoch),
        lambda: f"{data.name}, {len(data)} images, {digest((data.images, data.labels))}",
    )


def is_input(model: keras.Model, data: Any) -> bool:
    """Whether these are arrays in the structure of the model's inputs; a single one may be bare."""
    if hasattr(data, "shape"):
        return len(keras.tree.flatten(input_structure(model))) == 1
    try:
        keras.tree.assert_same_structure(input_structure(model), data)
    except (TypeError, ValueError):
        return False
    return all(hasattr(array, "shape") for array in keras.tree.flatten(data))


def check_inputs(model: keras.Model, inputs: Any) -> None:
    """Compares the shapes of arrays with those that a model takes.

    Raises:
        ValueError: they differ.
    """
    if not is_input(model, inputs):
        raise ValueError(f"the data don't have the structure of the inputs of {model.name!r}")
    symbols = keras.tree.flatten(input_structure(model))
    for array, symbol in zip(keras.tree.flatten(inputs), symbols, strict=True):
        wanted = symbol.shape[1:]
        if len(array.shape) != len(wanted) + 1 or any(
            size not in (None, given) for given, size in zip(array.shape[1:], wanted, strict=True)
        ):
            raise ValueError(
                f"{model.name!r} takes inputs of shape {tuple(symbol.shape)}, the data have"
                f" {tuple(array.shape)}"
            )


def _array_source(
    model: keras.Model, inputs: Any, labels: Any, batch_size: int, seed: int
) -> Source:
    check_inputs(model, inputs)
    arrays = keras.tree.flatten(inputs)
    if labels is not None:
        labels = as_numpy(labels)
        arrays = [*arrays, labels]
    sizes = {len(array) if array.ndim else 0 for array in arrays}
    if len(sizes) > 1 or sizes == {0}:
        raise ValueError(f"inputs and labels must be equally many and some, got {sorted(sizes)}")
    (count,) = sizes
    return Source(
        max(1, count // batch_size),
        lambda epoch: shuffled_batches(inputs, labels, batch_size, seed, epoch),
        lambda: f"{count} examples, {digest(arrays)}",
    )


def _batch_source(model: keras.Model, batches: Any) -> Source:
    try:
        steps = len(batches)
    except TypeError:
        steps = 0
    if steps < 1:
        raise ValueError(
            "data must be arrays in the structure of the network's inputs, or batches with a known"
            " length of at least one that can be iterated over again, such as a keras.utils.PyDataset"
        )

    def of_epoch(epoch: int) -> Iterator[Batch]:
        indexed = isinstance(batches, keras.utils.PyDataset)
        items = (batches[i] for i in range(steps)) if indexed else itertools.islice(batches, steps)
        for item in items:
            pair = (item,) if is_input(model, item) else tuple(item)
            if len(pair) > 2:
                raise ValueError("give batches as (inputs, labels); sample weights are not used")
            inputs, labels = pair if len(pair) == 2 else (pair[0], None)
            inputs = keras.tree.map_structure(as_numpy, inputs)
            check_inputs(model, inputs)
            yield inputs, None if labels is None else as_numpy(labels)
        if indexed:
            batches.on_epoch_end()

    return Source(steps, of_epoch, lambda: f"{steps} batches")
