"""Data sets as arrays of uint8 images and integer labels.

test = load("cifar10", "test")              # through tensorflow-datasets
test = load("digits", "test")               # ships inside scikit-learn: nothing is downloaded
images = standardise(test.images[:128])     # what the networks of Table 2 expect
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

CIFAR10_HOST = "www.cs.toronto.edu"
CONNECT_SECONDS = 10.0


class DatasetUnavailable(RuntimeError):  # noqa: N818
    """The data set is neither on this machine nor can it be downloaded; the message says what to pass."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels of one split, in memory.

    Attributes:
        name: name of the data set.
        split: "train" or "test".
        images: uint8, (images, height, width, channels).
        labels: int32, (images,).
        padding: pixels of the pad-and-crop augmentation used in training.
        flip: whether a mirrored image keeps its label.
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    padding: int
    flip: bool

    def __len__(self) -> int:
        return len(self.images)

    def take(self, limit: int | None) -> Dataset:
        """The first `limit` images; all of them for None.

        Raises:
            ValueError: `limit` is less than 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {limit}")
        return dataclasses.replace(self, images=self.images[:limit], labels=self.labels[:limit])


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads one split of "cifar10" or "digits".

    Args:
        name: "cifar10" or "digits".
        split: "train" or "test".
        data_dir: folder of tensorflow-datasets; the environment variable TFDS_DATA_DIR, else the
            usual `~/tensorflow_datasets`, when missing. CIFAR-10 is downloaded there when it is not
            there yet. Not used for digits.

    Raises:
        ValueError: unknown name or split.
        DatasetUnavailable: CIFAR-10 is not there and can't be downloaded.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(_LOADERS)}")
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return _LOADERS[name](split, data_dir)


def load_auto(
    split: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Dataset, str | None]:
    """CIFAR-10 where it is found or can be downloaded, else digits.

    Returns:
        The data set, and None or one line that says why it is digits and how to get CIFAR-10.
    """
    try:
        return load("cifar10", split, data_dir), None
    except DatasetUnavailable as error:
        return load("digits", split), f"Falling back to the embedded digits: {error}"


def standardise(images: Any) -> Any:
    """Per-image standardisation: zero mean, unit variance over all pixels and channels of an image.

    The standard deviation is at least 1 / sqrt(pixels x channels), so that a uniform image gives zeros.

    Args:
        images: (images, height, width, channels), any number type.

    Returns:
        float32 tensor of the same shape.
    """
    images = ops.cast(images, "float32")
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    deviation = ops.std(images, axis=(1, 2, 3), keepdims=True)
    floor = 1.0 / math.sqrt(math.prod(images.shape[1:]))
    return (images - mean) / ops.maximum(deviation, floor)


def _load_cifar10(split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    # Imported here: tensorflow-datasets needs TensorFlow, and digits must load without it.
    import tensorflow_datasets as tfds

    folder = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    try:
        prepared = (folder / "cifar10").is_dir()
        if not prepared:
            require_host(CIFAR10_HOST)
        arrays = tfds.as_numpy(
            tfds.load("cifar10", split=split, data_dir=folder, batch_size=-1, download=not prepared)
        )
    except Exception as error:  # whatever tensorflow-datasets or the network raises
        reason = str(error).strip().splitlines() or [""]
        raise DatasetUnavailable(
            f"no CIFAR-10 in {folder} ({type(error).__name__}: {reason[0]}); give a data_dir,"
            " a tensorflow-datasets folder that holds cifar10/, or connect to the internet"
        ) from error
    images, labels = arrays["image"], arrays["label"].astype(np.int32)
    return Dataset("cifar10", split, images, labels, padding=4, flip=True)


def _load_digits(split: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Every third image is held out: no random generator, so the split can never change.
    held_out = np.arange(len(digits.target)) % 3 == 0
    chosen = held_out if split == "test" else ~held_out
    images = digits.images[chosen, :, :, np.newaxis].astype(np.uint8)
    return Dataset(
        "digits", split, images, digits.target[chosen].astype(np.int32), padding=1, flip=False
    )


_LOADERS: dict[str, Callable[[str, str | os.PathLike[str] | None], Dataset]] = {
    "cifar10": _load_cifar10,
    "digits": _load_digits,
}
NAMES = tuple(_LOADERS)


def require_host(host: str) -> None:
    """Fails within seconds where a download would hang for minutes."""
    if any(
        os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    ):
        return
    errors: queue.Queue[OSError | None] = queue.Queue()

    def connect() -> None:
        try:
            with socket.create_connection((host, 443), timeout=CONNECT_SECONDS):
                errors.put(None)
        except OSError as error:
            errors.put(error)

    # In a thread of its own: looking up a name has no time-out.
    threading.Thread(target=connect, daemon=True).start()
    try:
        error = errors.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"{host} does not answer")
    if error is not None:
        raise error
