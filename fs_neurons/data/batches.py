"""Images as batches of one size, from arrays or from anything that yields batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from fs_neurons.backend import as_numpy
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
        ValueError: no images, arrays that do not fit the inputs of the model, or `batch_size` < 1; while
            iterating: likewise, or a batch larger than the first.
        TypeError: neither arrays nor an iterable; while iterating: a batch without arrays.
    """

    def __init__(self, model: keras.Model, images: Any, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._model = model.name
        self._structure = input_structure(model)
        self._batch_size = batch_size
        self.images: int | None = None
        self._images = self._as_inputs(images)
        if self._images is not None:
            self._check_shapes(self._images)
            self.images = _count(self._images)
        elif isinstance(images, (Iterable, keras.utils.PyDataset)):
            self._images = images
        else:
            raise TypeError(
                f"images must be {self._expected()}, or an iterable of such batches; got"
                f" {type(images).__name__}"
            )

    def __iter__(self) -> Iterator[Batch]:
        size = None
        for inputs in self._parts():
            count = _count(inputs)
            size = size or count
            if count > size:
                raise ValueError(f"a batch of {count} images follows one of {size}")
            yield Batch(keras.tree.map_structure(lambda x: filled(x, size), inputs), count)  # noqa: B023
        if size is None:
            raise ValueError("nothing to run: no images")

    def _parts(self) -> Iterator[Any]:
        if self.images is not None:
            for start in range(0, self.images, min(self._batch_size, self.images)):
                part = slice(start, start + self._batch_size)
                yield keras.tree.map_structure(lambda x: as_numpy(x[part]), self._images)  # noqa: B023
            return
        for number, batch in enumerate(iterated(self._images)):
            inputs = self._as_inputs(batch)
            if inputs is None and isinstance(batch, (tuple, list)) and batch:
                inputs = self._as_inputs(batch[0])  # with labels
            if inputs is None:
                raise TypeError(
                    f"batch {number} must be {self._expected()}, alone or in a tuple with labels; got"
                    f" {type(batch).__name__}"
                )
            self._check_shapes(inputs, f"batch {number}: ")
            yield keras.tree.map_structure(as_numpy, inputs)

    def _as_inputs(self, images: Any) -> Any:
        """Arrays in the structure of the model's inputs; None if these are none."""
        if hasattr(images, "shape"):
            flat = [images]
            if len(keras.tree.flatten(self._structure)) != 1:
                return None
            return keras.tree.pack_sequence_as(self._structure, flat)
        try:
            keras.tree.assert_same_structure(self._structure, images)
        except (TypeError, ValueError):
            return None
        arrays = all(hasattr(array, "shape") for array in keras.tree.flatten(images))
        return images if arrays else None

    def _check_shapes(self, inputs: Any, where: str = "") -> None:
        pairs = zip(keras.tree.flatten(self._structure), keras.tree.flatten(inputs), strict=True)
        for symbol, array in pairs:
            sizes = zip(symbol.shape[1:], array.shape[1:], strict=False)
            fits = all(size in (None, given) for size, given in sizes)
            if len(array.shape) != len(symbol.shape) or not fits:
                raise ValueError(
                    f"{where}input {symbol.name!r} of model {self._model!r} takes arrays of shape"
                    f" {_shape_of(symbol)}, got {tuple(array.shape)}"
                )

    def _expected(self) -> str:
        shapes = keras.tree.map_structure(_shape_of, self._structure)
        several = len(keras.tree.flatten(self._structure)) > 1
        return f"{'arrays' if several else 'an array'} of shape {shapes}"


def filled(array: np.ndarray, size: int) -> np.ndarray:
    """An array with copies behind it, so that there are `size` rows."""
    return array if len(array) == size else np.resize(array, (size, *array.shape[1:]))


def iterated(batches: Any) -> Iterator[Any]:
    """The batches of an iterable, or of a keras.utils.PyDataset, each once."""
    if isinstance(batches, keras.utils.PyDataset):
        return (batches[i] for i in range(len(batches)))
    return iter(batches)


def _count(inputs: Any) -> int:
    sizes = {len(array) for array in keras.tree.flatten(inputs)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"nothing to run: the inputs hold {sorted(sizes)} images")
    return sizes.pop()


def _shape_of(symbol: keras.KerasTensor) -> str:
    sizes = ("any" if size is None else str(size) for size in symbol.shape[1:])
    return f"({', '.join(('images', *sizes))})"
