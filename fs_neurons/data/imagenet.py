"""ImageNet from where it is: images are read one by one, and memory does not grow with their number.

    source = open_images("val")                       # class folders: val/n01440764/*.JPEG
    source = open_images("tfds:imagenet_v2")          # 10,000 images, downloaded when missing
    for sample in stream(source, prepare=lambda image: efficientnet(image, 600)):
        sample.image, sample.label                    # or sample.problem: why it can't be used

The label of a class is the place of its WordNet id (wnid) among the sorted 1000. Images that can't be
decoded are reported by name, never raised: one bad file does not end a run over 50,000.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib.resources
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from fs_neurons.data.datasets import DatasetUnavailable, require_host

CLASSES = 1000
DEFAULT = "tfds:imagenet_v2"
# Data sets of tensorflow-datasets: name -> split by use.
TFDS_SPLITS = {
    "imagenet2012": {"validation": "validation", "train": "train"},
    "imagenet_v2": {"validation": "test"},
}
IMAGENET_V2_HOST = "huggingface.co"
FOLDERS = {"validation": ("val", "validation"), "train": ("train",)}
THREADS, AHEAD = 4, 16
SHUFFLED = 5000  # encoded images that are mixed at a time, about 0.6 GB


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Encoded images with labels, in a fixed order that mixes the classes.

    Attributes:
        name: for reports.
        count: number of images, good and bad.
        notes: what was left out when the source was opened, one line each.
        items: `items(start, seed)` gives (name, label, function that reads the bytes), from the image
            with this number on; another seed is another order.
    """

    name: str
    count: int
    notes: tuple[str, ...]
    items: Callable[[int, int], Iterator[tuple[str, int, Callable[[], bytes]]]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image of a stream: `image` as prepared, or None and the `problem` in a line."""

    name: str
    label: int
    image: np.ndarray | None
    problem: str = ""


@functools.cache
def wnids() -> tuple[str, ...]:
    """WordNet ids of the 1000 classes, sorted; the place of one is its label."""
    package = importlib.resources.files("tensorflow_datasets")
    names = (package / "datasets" / "imagenet2012" / "labels.txt").read_text().split()
    return tuple(sorted(names))


def open_images(
    data: str = DEFAULT, split: str = "validation", data_dir: str | os.PathLike[str] | None = None
) -> ImageSource:
    """Opens a source of ImageNet images; nothing is decoded yet.

    Args:
        data: "tfds:imagenet2012", "tfds:imagenet_v2" (validation only), or a folder of class folders
            named by wnid, or one that holds such a folder as val/ or train/. Any subset of the
            classes will do.
        split: "validation" or "train".
        data_dir: folder of tensorflow-datasets, for "tfds:..." only; its usual one when missing.

    Raises:
        ValueError: no such split or tensorflow-datasets name.
        DatasetUnavailable: the images are not there and can't be downloaded.
    """
    if split not in FOLDERS:
        raise ValueError(f"split must be one of {', '.join(FOLDERS)}, got {split!r}")
    if data.startswith("tfds:"):
        return _open_tfds(data.removeprefix("tfds:"), split, data_dir)
    return open_folder(data, split)


def open_folder(folder: str | os.PathLike[str], split: str = "validation") -> ImageSource:
    """Opens a folder of class folders; see `open_images`."""
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise DatasetUnavailable(
            f"no folder {folder}: give a folder of class folders such as val/n01440764/*.JPEG,"
            f" or one of {', '.join(f'tfds:{name}' for name in TFDS_SPLITS)}"
        )
    root = next((folder / name for name in FOLDERS[split] if (folder / name).is_dir()), folder)
    index = {wnid: label for label, wnid in enumerate(wnids())}
    unknown, files = [], []
    for child in sorted(root.iterdir()):
        if child.is_dir() and child.name in index:
            files += [
                (file, index[child.name])
                for file in sorted(child.iterdir())
                if file.is_file() and not file.name.startswith(".")
            ]
        elif child.is_dir() and not child.name.startswith("."):
            unknown.append(child.name)
    if not files:
        raise DatasetUnavailable(
            f"{root} holds no image in a folder named by one of the 1000 wnids, such as n01440764"
            + (f"; its folders are {', '.join(unknown[:3])}, ..." if unknown else "")
        )

    # Classes mixed, always in the same way: any first part is a fair sample, and a run can resume.
    def items(start: int, seed: int) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
        for number in np.random.default_rng(seed).permutation(len(files))[start:]:
            file, label = files[number]
            yield f"{file.parent.name}/{file.name}", label, file.read_bytes

    notes: tuple[str, ...] = ()
    if unknown:
        listed = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        notes = (f"{len(unknown)} folders of {root} are no ImageNet class, left out: {listed}",)
    return ImageSource(str(folder), len(files), notes, items)


def _open_tfds(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> ImageSource:
    if name not in TFDS_SPLITS or split not in TFDS_SPLITS[name]:
        offered = ", ".join(f"tfds:{n}" for n, splits in TFDS_SPLITS.items() if split in splits)
        raise ValueError(f"tfds:{name}: no such data set for {split}; choose {offered} or a folder")
    import tensorflow_datasets as tfds

    data_dir = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        prepared = pathlib.Path(builder.data_path).is_dir()
        if not prepared:
            if name == "imagenet_v2":
                require_host(IMAGENET_V2_HOST)
            builder.download_and_prepare()
        # Encoded: decoding here would raise at the first bad image.
        images = builder.as_dataset(
            split=TFDS_SPLITS[name][split],
            decoders={"image": tfds.decode.SkipDecoding()},
            shuffle_files=False,
        )
    except Exception as error:  # whatever tensorflow-datasets or the network raises
        reason = " ".join(str(error).split()) or type(error).__name__
        manual = (
            " ImageNet2012 is downloaded by hand, after registration at image-net.org, to"
            f" {data_dir}/downloads/manual."
            if name == "imagenet2012"
            else ""
        )
        raise DatasetUnavailable(
            f"no tfds:{name} in {data_dir} ({type(error).__name__}: {reason[:200]}).{manual} Or give"
            " a folder of class folders, a data_dir of tensorflow-datasets, or connect to the internet"
        ) from error

    def items(start: int, seed: int) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
        # On disk they are mixed already, always in the same way.
        ordered = images.shuffle(SHUFFLED, seed=seed) if seed else images
        for example in ordered.skip(start).as_numpy_iterator():
            data = example["image"]
            yield (
                example["file_name"].decode(),
                int(example["label"]),
                functools.partial(bytes, data),
            )

    return ImageSource(f"tfds:{name}", len(images), (), items)


def decode(data: bytes) -> Any:
    """Decodes JPEG, PNG, GIF or BMP, whatever its file is called.

    Greyscale and CMYK become RGB, transparency is dropped, of a film the first picture is taken. It is
    TensorFlow's decoder, which the official networks were trained and evaluated with.

    Returns:
        uint8 tensor (height, width, 3).

    Raises:
        ValueError: not an image, or truncated.
    """
    import tensorflow as tf

    try:
        return tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        reason = error.message.split("[Op:")[0].strip().splitlines()
        raise ValueError(reason[0] if reason else "not an image") from error


def stream(
    source: ImageSource,
    prepare: Callable[[Any], Any],
    *,
    start: int = 0,
    stop: int | None = None,
    wanted: Callable[[int], bool] = lambda number: True,
    seed: int = 0,
    threads: int = THREADS,
) -> Iterator[Sample]:
    """Reads, decodes and prepares images in order, a few ahead of what is asked for.

    Args:
        source: what `open_images` gave.
        prepare: takes a decoded image (height, width, 3) and returns what the network takes.
        start: number of the first image.
        stop: number of the image after the last; to the end when missing.
        wanted: whether the image of that number is to be loaded; all are when missing.
        seed: of the order; 0 is that of every evaluation.
        threads: that decode and prepare.

    Yields:
        One Sample per wanted image, the unusable ones included.
    """

    def load(name: str, label: int, read: Callable[[], bytes]) -> Sample:
        try:
            return Sample(name, label, np.asarray(prepare(decode(read()))))
        except (OSError, ValueError) as error:
            return Sample(name, label, None, f"{name}: {error}")

    items = source.items(start, seed)
    if stop is not None:
        items = itertools.islice(items, max(0, stop - start))
    waiting: collections.deque[Future[Sample]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for number, item in enumerate(items, start):
                if not wanted(number):
                    continue
                waiting.append(pool.submit(load, *item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
