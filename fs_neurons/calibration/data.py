"""Calibration data: checked, and cut into batches of inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.network.keras_internals import input_structure

MIN_IMAGES, MAX_IMAGES = 16, 50_000

# One array (images, ...) for each input of the model.
Inputs = list[np.ndarray]


def checked_inputs(model: keras.Model, data: Any) -> Inputs:
    """Calibration data as one array for each input of the model.

    Args:
        model: that the data is for.
        data: an array of inputs (a list or dictionary of them for several inputs), or an iterable over
            batches of such.

    Returns:
        Arrays (images, ...), in the order of `keras.tree.flatten` and of the types that the model takes.

    Raises:
        TypeError, ValueError: the data isn't inputs of the model, holds labels or NaN, is too little or
            never ends, or its images differ in size.
    """
    expected = keras.tree.flatten(input_structure(model))
    parts: list[Inputs] = []
    images = 0
    for part in _parts(model, data, len(expected)):
        arrays = _checked_part(model, part, expected, images)
        if parts and [x.shape[1:] for x in arrays] != [x.shape[1:] for x in parts[0]]:
            raise ValueError(
                f"calibration_data: images from {images} on have shape"
                f" {_shapes(arrays)}, those before {_shapes(parts[0])}; all need the same size"
            )
        images += len(arrays[0])
        if images > MAX_IMAGES:
            raise ValueError(
                f"calibration_data has more than {MAX_IMAGES:,} images, or never ends: 500 to 1,000 do"
            )
        parts.append(arrays)
    if images < MIN_IMAGES:
        raise ValueError(
            f"calibration_data has {images} images; at least {MIN_IMAGES} are needed, and 500 to 1,000"
            " are better"
        )
    return parts[0] if len(parts) == 1 else [np.concatenate(x) for x in zip(*parts, strict=True)]


def batches(inputs: Inputs, size: int) -> list[Inputs]:
    """Parts of (nearly) equal size, at most `size` images each."""
    count = -(-len(inputs[0]) // size)
    return [list(part) for part in zip(*(np.array_split(x, count) for x in inputs), strict=True)]


def _parts(model: keras.Model, data: Any, inputs: int) -> Iterator[Any]:
    whole = _is_array(data) or (
        inputs > 1 and isinstance(data, (list, tuple, Mapping))
        and len(keras.tree.flatten(data)) == inputs and all(map(_is_array, keras.tree.flatten(data)))
    )  # fmt: skip
    if not whole and (
        isinstance(data, (str, bytes, tuple, Mapping)) or not isinstance(data, Iterable)
    ):
        raise TypeError(
            f"calibration_data must be an array of inputs of model {model.name!r}, or an iterable over"
            f" batches of them, without labels; got {type(data).__name__}"
            + (" (inputs and labels? pass the inputs alone)" if isinstance(data, tuple) else "")
        )
    return iter([data]) if whole else itertools.islice(data, MAX_IMAGES + 1)


def _is_array(data: Any) -> bool:
    return hasattr(data, "shape") and hasattr(data, "dtype")


def _shapes(arrays: Inputs) -> str:
    return ", ".join(str(x.shape[1:]) for x in arrays)


def _checked_part(model: keras.Model, part: Any, expected: list[Any], first: int) -> Inputs:
    arrays = keras.tree.flatten(part)
    where = f"calibration_data, images from {first} on"
    if len(arrays) != len(expected):
        raise ValueError(
            f"{where}: {len(arrays)} arrays, but model {model.name!r} has {len(expected)} inputs;"
            " labels are not needed"
        )
    checked = [
        _checked_array(model, array, x, first, where)
        for array, x in zip(arrays, expected, strict=True)
    ]
    if len({len(array) for array in checked}) > 1:
        raise ValueError(f"{where}: inputs of different length {[len(a) for a in checked]}")
    return checked


def _checked_array(model: keras.Model, array: Any, x: Any, first: int, where: str) -> np.ndarray:
    array = ops.convert_to_numpy(array) if _is_array(array) else np.asarray(array)
    fits = array.ndim == len(x.shape) and all(
        n in (None, m) for n, m in zip(x.shape[1:], array.shape[1:], strict=False)
    )
    if not fits:
        labels = array.ndim <= 2 and array.ndim < len(x.shape)
        raise ValueError(
            f"{where}: shape {array.shape}, but input {x.name!r} of model {model.name!r} takes"
            f" {x.shape}" + ("; are these labels? Only inputs are needed" if labels else "")
        )
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{where}: input {x.name!r} must be numbers, got {array.dtype}")
    checked: np.ndarray = array.astype(x.dtype)
    # NumPy does not know bfloat16.
    numbers = checked if checked.dtype.kind in "iuf" else checked.astype(np.float32)
    bad = ~np.isfinite(numbers).reshape(len(checked), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"{where}: image {first + int(bad.argmax())} has NaN or infinite values")
    return checked
