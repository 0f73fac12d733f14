"""What names of networks, images, labels and functions stand for."""

from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fs_neurons import models
from fs_neurons.cli.errors import UsageError
from fs_neurons.data import datasets
from fs_neurons.files import write_atomically
from fs_neurons.files.models import SUFFIX, load_model

PICTURES = ("png", "svg", "pdf")


def network(name: str, allow_code: bool) -> keras.Model:
    """A .keras file, or a shipped network as DATA/NAME.

    Raises:
        ValueError, FileNotFoundError: no such file or network; the message lists the shipped ones.
    """
    data, _, known = name.partition("/")
    if data in models.INPUT_SHAPES and not pathlib.Path(name).exists():
        if known in (*models.shipped(data), *models.finetuned(data)):
            return models.pretrained(known, data)
    elif name.endswith(SUFFIX) or pathlib.Path(name).exists():
        return load_model(name, allow_code=allow_code)
    raise ValueError(
        f"no network {name!r}: give a {SUFFIX} file, or one of {', '.join(shipped_networks())}"
    )


def shipped_networks() -> list[str]:
    """DATA/NAME of every network that is shipped."""
    return [
        f"{data}/{name}"
        for data in models.INPUT_SHAPES
        for name in (*models.shipped(data), *models.finetuned(data))
    ]


def images_and_labels(
    parsed: argparse.Namespace, model: keras.Model, split: str = "test"
) -> tuple[np.ndarray, np.ndarray | None]:
    """What --data, --labels, --data_dir and --limit ask for, checked against the inputs of the model.

    Returns:
        Images (n, ...) as the model takes them, and labels (n,) or None.

    Raises:
        UsageError: neither a data set nor a .npy file.
        FileNotFoundError, ValueError, DatasetUnavailable: no such file or data set, or not what fits.
    """
    name = parsed.data or _data_of(parsed.model)
    given = getattr(parsed, "labels", None)
    labels = None
    if name in datasets.NAMES:
        if given is not None:
            raise UsageError(f"--labels={given}: those of {name} are known, leave it out")
        data = datasets.load(name, split, parsed.data_dir).take(parsed.limit)
        images = keras.ops.convert_to_numpy(datasets.standardise(data.images))
        labels = data.labels
    else:
        images = _array(name, "--data", f"{', '.join(datasets.NAMES)}, or a .npy file")
        if images.ndim < 2:
            raise ValueError(f"{name}: holds {images.dtype} {images.shape}; images come first")
        images = images[: parsed.limit]
        if given is not None:
            labels = _array(given, "--labels", "a .npy file")[: parsed.limit]
            if labels.shape != (len(images),):
                raise ValueError(
                    f"{given}: holds labels of shape {labels.shape} for {len(images)} images"
                )
    _check_shape(model, images)
    return images, labels


def _data_of(model: str) -> str:
    """The data set of a shipped network, else digits."""
    data = model.partition("/")[0]
    return data if data in datasets.NAMES else "digits"


def _array(path: str, flag: str, expected: str) -> np.ndarray:
    if pathlib.Path(path).suffix != ".npy":
        raise UsageError(f"{flag}={path}: give {expected}")
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array of numbers ({error})") from error
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{path}: holds {array.dtype} {array.shape}; give numbers, images first")
    return np.asarray(array)


def _check_shape(model: keras.Model, images: np.ndarray) -> None:
    if len(model.inputs) != 1:
        raise ValueError(
            f"model {model.name!r} has {len(model.inputs)} inputs, which the command line can't give;"
            " Python can"
        )
    expected = model.inputs[0].shape[1:]
    given = images.shape[1:]
    if len(expected) != len(given) or any(
        e not in (None, g) for e, g in zip(expected, given, strict=True)
    ):
        raise ValueError(
            f"model {model.name!r} takes images of shape {expected}, these are {given}"
        )


def function(name: str) -> str | Callable[[np.ndarray], Any]:
    """A Keras activation's name as it is; MODULE:FUNCTION imported.

    Raises:
        UsageError: no such function.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon:
        if not callable(getattr(keras.activations, name, None)):
            raise UsageError(
                f"--function={name}: no Keras activation; give one, such as gelu, or MODULE:FUNCTION"
            )
        return name
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found: Callable[[np.ndarray], Any] = getattr(module, function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--function={name}: {error}") from error
    if not callable(found):
        raise UsageError(f"--function={name}: is not a function")
    return found


def write_json(text: str, path: str | None) -> None:
    """Where --json asks for it."""
    if path is None:
        return
    with write_atomically(path) as file:
        file.write(text + "\n")
    print(f"Written to {path}")


def check_picture(path: str | None) -> None:
    """Before anything is measured.

    Raises:
        UsageError: no kind of picture that can be written.
    """
    if path is not None and pathlib.Path(path).suffix.removeprefix(".") not in PICTURES:
        raise UsageError(f"{path}: a picture is a .png, .svg or .pdf file")


def save_picture(figure: Any, path: str) -> None:
    """Writes a figure in the format that the path names."""
    check_picture(path)
    kind = pathlib.Path(path).suffix.removeprefix(".")
    with write_atomically(path, "wb") as file:
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight")
    print(f"Written to {path}")
