"""A network beside its FS-conversion, over images that are streamed.

    tally = Tally()
    for tally in side_by_side(network, snn, open_images("val"), tally):
        ...                                   # after every batch: show it, save it
    tally.snn_top1 / tally.images, tally.spikes / tally.images

A tally is all that there is to save: a run continues from it. Memory does not grow with the images.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.analysis.evaluation import per_image, scores_and_spikes
from fs_neurons.backend.distribution import ONE, Distribution
from fs_neurons.data.imagenet import ImageSource, Sample, stream
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.models.imagenet import Network

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

    def plus(self, counts: np.ndarray) -> Tally:
        """With int64 counts in the order of the attributes, times in nanoseconds."""
        added = [*map(int, counts[:8]), counts[8] / 1e9, counts[9] / 1e9]
        return Tally(*(a + b for a, b in zip(dataclasses.astuple(self), added, strict=True)))

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
    on_skip: Callable[[str], Any] = warnings.warn,
    distribution: Distribution = ONE,
) -> Iterator[Tally]:
    """Runs a network and its conversion over the images of `source` from where `tally` ends.

    Batches have one size; one that is not full is filled up with copies, which are not counted.

    Args:
        network: what was converted, and how its images are prepared.
        snn: its conversion.
        source: images and labels.
        tally: what an earlier run gave; from the first image when missing.
        batch_size: images per forward pass of a device.
        limit: number of images of the source to stop after; all of them when missing.
        on_skip: called with a line about every image that can't be used; a warning when missing.
        distribution: of the batches; the models were made in its scope. Each worker loads the images of
            its own batches.

    Yields:
        The tally after every batch of every device.

    Raises:
        ValueError: a network gives NaN, or `batch_size` or `limit` is less than 1.
        WorkerLostError: another worker of the distribution is gone.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size and limit must be at least 1, got {batch_size} and {limit}")
    tally = tally or Tally()
    first = tally.position
    stop = source.count if limit is None else min(limit, source.count)
    if first >= stop:
        return
    prepare = PREPROCESSINGS[network.preprocessing]
    models = network.model, snn
    runs = [distribution.compiled(scores_and_spikes(model)) for model in models]
    size = (batch_size, network.image_size, network.image_size, 3)
    for run in runs:
        run([(np.zeros(size, np.float32),)] * len(distribution.local))  # compile
    samples = stream(
        source,
        lambda image: prepare(image, network.image_size),
        start=first,
        stop=stop,
        wanted=lambda n: (n - first) // batch_size % distribution.replicas in distribution.local,
    )
    for start in range(first, stop, batch_size * distribution.replicas):
        batches = []
        for replica in distribution.local:
            count = min(batch_size, max(0, stop - start - replica * batch_size))
            batches.append(list(itertools.islice(samples, count)))
        for sample in itertools.chain(*batches):
            if sample.image is None:
                on_skip(f"skipped {sample.problem}")
        counts = _classify(network, runs, batches, size)
        total = distribution.gather(counts).sum(axis=0)
        for model, images in zip(models, total[-len(models) :], strict=True):
            if images:
                here = [s.name for batch in batches for s in batch if s.image is not None]
                raise ValueError(
                    f"model {model.name!r} gives NaN on {', '.join(here) or 'an image'}"
                )
        tally = tally.plus(total)
        yield tally


def _classify(
    network: Network, runs: list[Any], batches: list[list[Sample]], size: tuple[int, ...]
) -> np.ndarray:
    """Row by row what each batch adds to a tally, times in nanoseconds; then images with NaN by model."""
    usable = [[sample for sample in batch if sample.image is not None] for batch in batches]
    images = [[s.image for s in batch if s.image is not None] for batch in batches]
    inputs = [
        (np.resize(np.stack(batch), size) if batch else np.zeros(size, np.float32),)
        for batch in images
    ]
    outputs, nanoseconds = [], []
    for run in runs:
        started = time.perf_counter_ns()
        results = [tuple(map(ops.convert_to_numpy, result)) for result in run(inputs)]
        nanoseconds.append(time.perf_counter_ns() - started)
        outputs.append(results)
    rows = []
    for batch, good, *results in zip(batches, usable, *outputs, strict=True):
        count = len(good)
        labels = np.array([sample.label for sample in good], int) + network.label_offset
        # A stable order: of equal scores the first class wins, as in argmax.
        best = [
            np.argsort(-scores[:count], axis=1, kind="stable")[:, :TOP] for scores, _ in results
        ]
        hits = [ranked == labels[:, None] for ranked in best]
        rows.append(
            [
                count,
                len(batch) - count,
                *(int(n) for hit in hits for n in (hit[:, 0].sum(), hit.sum())),
                int((best[0][:, 0] == best[1][:, 0]).sum()),
                int(per_image(results[1][1])[:count].sum()),
                # Copies that filled the batch up take their share of the time with them.
                *(spent * count // size[0] for spent in nanoseconds),
                *(int(np.isnan(scores[:count]).any(axis=1).sum()) for scores, _ in results),
            ]
        )
    return np.array(rows, np.int64)
