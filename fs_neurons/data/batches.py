"""Images as batches of one size, from arrays or from anything that yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from fs_neurons.network.keras_internals import input_structure


class Batch(NamedTuple):
    """Inputs of one size for every batch.

    Attributes:
        inputs: arrays (batch_size, ...) in the structure that the model takes; what is missing of the
            last batch is filled up with copies.
        count: how many of them are images; the others are copies.
    """

    inputs: Any
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs


class Batches:
    """Iterates over `Batch`es of images.

    Args:
        model: the model that is to take them.
        images: array (images, ...), or arrays in the structure that the model takes; or an iterable of
            such batches, such as a tf.data.Dataset or keras.utils.PyDataset, each batch alone or in a
            tuple with its labels.
        batch_size: images per batch; batches of an iterable are kept as they come, and the first one
            sets the size.

    Attributes:
        images: number of images; None for an iterable.

    Raises:
        ValueError: no images, or `batch_size` < 1; while iterating: a batch larger than the first.
    """

    def __init__(self, model: keras.Model, images: Any, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._structure = input_structure(model)
        self._images = images
        self._batch_size = batch_size
        self.images: int | None = None
        if self._is_input(images):
            sizes = {len(array) for array in keras.tree.flatten(images)}
            if len(sizes) != 1 or 0 in sizes:
                raise ValueError(f"nothing to run: the inputs hold {sorted(sizes)} images")
            (self.images,) = sizes

    def __iter__(self) -> Iterator[Batch]:
        size = None
        for inputs in self._parts():
            count = len(keras.tree.flatten(inputs)[0])
            size = size or count
            if count > size:
                raise ValueError(f"a batch of {count} images follows one of {size}")
            yield Batch(keras.tree.map_structure(lambda x: _filled(x, size), inputs), count)  # noqa: B023
        if size is None:
            raise ValueError("nothing to run: no images")

    def _parts(self) -> Iterable[Any]:
        if self.images is not None:
            for start in range(0, self.images, min(self._batch_size, self.images)):
                part = slice(start, start + self._batch_size)
                yield keras.tree.map_structure(lambda x: np.asarray(x[part]), self._images)  # noqa: B023
            return
        batches = self._images
        if isinstance(batches, keras.utils.PyDataset):
            batches = (batches[i] for i in range(len(batches)))
        for batch in batches:
            inputs = batch if self._is_input(batch) else batch[0]
            yield keras.tree.map_structure(np.asarray, inputs)

    def _is_input(self, images: Any) -> bool:
        """Whether these are arrays in the structure of the model's inputs."""
        try:
            keras.tree.assert_same_structure(self._structure, images)
        except (TypeError, ValueError):
            return False
        return all(
            hasattr(array, "shape") and len(array.shape) == len(symbol.shape)
            for array, symbol in zip(
                keras.tree.flatten(images), keras.tree.flatten(self._structure), strict=True
            )
        )


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    return array if len(array) == size else np.resize(array, (size, *array.shape[1:]))
