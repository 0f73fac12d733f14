"""A network beside its FS-conversion, over images that are streamed.

    tally = Tally()
    for tally in side_by_side(network, snn, open_images("val"), tally):
        ...                                   # after every batch: show it, save it
    tally.snn_top1 / tally.images, tally.spikes / tally.images

A tally is all that there is to save: a run continues from it. Memory does not grow with the images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from fs_neurons.evaluation import compiled_forward
from fs_neurons.imagenet import ImageSource, Sample, stream
from fs_neurons.models.imagenet import Network
from fs_neurons.preprocessing import PREPROCESSINGS

TOP = 5


@dataclasses.dataclass(frozen=True)
class Tally:
    """Counts over the images so far, and seconds of the forward passes without compilation.

    Attributes:
        images: number of images that were classified.
        skipped: number of images that could not be decoded.
        ann_top1, ann_top5, snn_top1, snn_top5: images with the label first, or among the first five.
        agreeing: images that network and conversion give the same first class.
        spikes: of all FS-neurons over all images.
        ann_seconds, snn_seconds: time of the forward passes.
    """

    images: int = 0
    skipped: int = 0
    ann_top1: int = 0
    ann_top5: int = 0
    snn_top1: int = 0
    snn_top5: int = 0
    agreeing: int = 0
    spikes: int = 0
    ann_seconds: float = 0.0
    snn_seconds: float = 0.0

    @property
    def position(self) -> int:
        """Number of the next image of the source."""
        return self.images + self.skipped


def side_by_side(
    network: Network,
    snn: keras.Model,
    source: ImageSource,
    tally: Tally | None = None,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    on_skip: Callable[[str], None] = print,
) -> Iterator[Tally]:
    """Runs a network and its conversion over the images of `source` from where `tally` ends.

    Batches have one size; one that is not full is filled up with copies, which are not counted.

    Args:
        network: what was converted, and how its images are prepared.
        snn: its conversion.
        source: images and labels.
        tally: what an earlier run gave; from the first image when missing.
        batch_size: images per forward pass.
        limit: number of images of the source to stop after; all of them when missing.
        on_skip: is told of every image that can't be used, in a line.

    Yields:
        The tally after every batch.

    Raises:
        ValueError: a network gives NaN, or `batch_size` or `limit` is less than 1.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size and limit must be at least 1, got {batch_size} and {limit}")
    tally = tally or Tally()
    stop = source.count if limit is None else min(limit, source.count)
    if tally.position >= stop:
        return
    prepare = PREPROCESSINGS[network.preprocessing]
    runs = [compiled_forward(model) for model in (network.model, snn)]
    size = (batch_size, network.image_size, network.image_size, 3)
    for run in runs:
        run(np.zeros(size, np.float32))  # compile
    batch: list[Sample] = []
    samples = stream(
        source, lambda image: prepare(image, network.image_size), start=tally.position, stop=stop
    )
    for sample in samples:
        if sample.image is None:
            on_skip(f"skipped {sample.problem}")
            tally = dataclasses.replace(tally, skipped=tally.skipped + 1)
        else:
            batch.append(sample)
        if len(batch) == batch_size:
            tally = _classify(network, snn, runs, batch, size, tally)
            batch = []
            yield tally
    if batch:
        tally = _classify(network, snn, runs, batch, size, tally)
    yield tally


def _classify(network, snn, runs, batch, size, tally) -> Tally:
    count = len(batch)
    images = np.resize(np.stack([sample.image for sample in batch]), size)
    labels = np.array([sample.label for sample in batch]) + network.label_offset
    outputs = []
    for model, run in zip((network.model, snn), runs, strict=True):
        started = time.perf_counter()
        scores, spikes = run(images)
        seconds = time.perf_counter() - started
        if np.isnan(scores[:count]).any():
            names = ", ".join(sample.name for sample in batch)
            raise ValueError(f"model {model.name!r} gives NaN on {names}")
        # A stable order: of equal scores the first class wins, as in argmax.
        best = np.argsort(-scores[:count], axis=1, kind="stable")[:, :TOP]
        hits = best == labels[:, None]
        # Copies that filled the batch up take their share of the time with them.
        outputs.append((best, hits, spikes[:count], seconds * count / len(images)))
    (ann, ann_hits, _, ann_seconds), (fs, fs_hits, spikes, fs_seconds) = outputs
    return Tally(
        images=tally.images + count,
        skipped=tally.skipped,
        ann_top1=tally.ann_top1 + int(ann_hits[:, 0].sum()),
        ann_top5=tally.ann_top5 + int(ann_hits.sum()),
        snn_top1=tally.snn_top1 + int(fs_hits[:, 0].sum()),
        snn_top5=tally.snn_top5 + int(fs_hits.sum()),
        agreeing=tally.agreeing + int((ann[:, 0] == fs[:, 0]).sum()),
        spikes=tally.spikes + int(spikes.sum()),
        ann_seconds=tally.ann_seconds + ann_seconds,
        snn_seconds=tally.snn_seconds + fs_seconds,
    )
