"""What a conversion gained and cost, what it left out, and what to do next.

print(summary(model, snn, images, labels))
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from tabulate import tabulate

from fs_neurons.analysis.comparison import are_scores
from fs_neurons.analysis.profiling import measured, range_advice, share_outside, sites_outside
from fs_neurons.analysis.results import Profile
from fs_neurons.backend import as_numpy, compiled
from fs_neurons.conversion import ConversionReport, conversion_report
from fs_neurons.data.batches import Batches
from fs_neurons.network.activations import is_element_wise
from fs_neurons.network.remaining import RemainingPart, has_set, remaining_parts

# From this loss of accuracy, this share of images in another class, or this error of outputs that are no classes on,
# there is something to do.
ACCURACY_LOST, CLASSES_CHANGED, OUTPUTS_CHANGED = 0.01, 0.02, 0.1
# So few time steps are worth no advice to take fewer.
FEW_STEPS = 4
# Names that are listed of parts of a kind.
LISTED = 3


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summary` found; `str()` is a short table.

    Attributes:
        images: number of images.
        ann_accuracy, snn_accuracy: share of images that the original and the converted network classify
            as the labels say; None without labels.
        agreement: share of images that both put into the same class; None where the output is not one
            score per class.
        output_error: root mean square difference of the outputs, relative to the standard deviation of the
            original's; of several outputs, the root mean square.
        profile: of the converted network on these images.
        report: which site became what.
        remaining: what did not become spiking, and why.
        advice: what to do next, most important first, as arguments of `convert` and other functions.
    """

    images: int
    ann_accuracy: float | None
    snn_accuracy: float | None
    agreement: float | None
    output_error: float
    profile: Profile
    report: ConversionReport
    remaining: tuple[RemainingPart, ...]
    advice: tuple[str, ...]

    @property
    def sites(self) -> int:
        """Calls of layers of FS-neurons."""
        return len(self.profile.layers)

    @property
    def spikes_per_neuron(self) -> float:
        """For each image."""
        return self.profile.spikes_per_neuron

    @property
    def outside_share(self) -> float:
        """Share of gate inputs outside the domain of their parameter set, but for ReLUs that saturate there."""
        layers = self.profile.layers
        outside = sum(share_outside(layer) * layer.inputs.count for layer in layers)
        return outside / sum(layer.inputs.count for layer in layers)

    def __str__(self) -> str:
        rows = list(self._rows())
        lines = [
            f"Model {self.profile.model!r} on {self.images:,} images",
            tabulate(rows, tablefmt="plain", disable_numparse=True),
            "",
            "did not become spiking:" if self.remaining else "everything that is left is linear",
            *(f"- {text}" for text in _grouped(self.remaining)),
            "",
            "what to do next:",
            *(f"- {text}" for text in self.advice),
        ]
        return "\n".join(lines)

    def _rows(self) -> Iterator[tuple[str, str]]:
        if self.ann_accuracy is not None and self.snn_accuracy is not None:
            yield "accuracy, before and after", f"{self.ann_accuracy:.2%}, {self.snn_accuracy:.2%}"
        if self.agreement is not None:
            yield "same class as before", f"{self.agreement:.2%}"
        yield "error of the outputs", f"{self.output_error:.3g} of their standard deviation"
        yield "sites converted", f"{self.sites}, with {self.profile.neurons:,} neurons"
        yield "time steps", f"{self.profile.K}"
        yield "spikes per neuron", f"{self.spikes_per_neuron:.2f}"
        worst = max(self.profile.layers, key=share_outside)
        most = share_outside(worst)
        at = f", most at {worst.name!r}, {most:.2%}" if most else ""
        yield "inputs outside range", f"{self.outside_share:.2%}{at}"


def summary(
    model: keras.Model,
    snn: keras.Model,
    images: Any,
    labels: Any = None,
    *,
    batch_size: int = 100,
    verbose: bool = False,
) -> Summary:
    """Says how good a conversion is, what it left as it was, and what to do next.

    Args:
        model: the original.
        snn: what `convert` made of it.
        images: what the model takes, (images, ...); or an iterable over batches that can be gone through
            twice, such as a tf.data.Dataset.
        labels: class of each image, (images,), for networks with one output, one score per class.
        batch_size: images per forward pass, of an array.
        verbose: whether to show a progress bar.

    Raises:
        ConversionError: `snn` has no FS-neurons, or can't be taken apart.
        ValueError: no images, labels of another number or without scores for classes, outputs of
            different shapes, or outputs that are not finite.
        TypeError: an iterator, which can be gone through once.
    """
    if isinstance(images, Iterator):
        raise TypeError(
            f"images is a {type(images).__name__}, which can be gone through once only: give arrays, or an"
            " iterable such as a tf.data.Dataset"
        )
    report = conversion_report(snn)
    original, converted = _Outputs(), _Outputs()
    forward = compiled(lambda inputs: model(inputs, training=False))
    for inputs, count in Batches(model, images, batch_size):
        original.add(forward(keras.tree.map_structure(ops.convert_to_tensor, inputs)), count)
    profile = measured(snn, images, batch_size, verbose=verbose, on_outputs=converted.add)
    before, after = original.arrays, converted.arrays
    shapes = [[x.shape for x in outputs] for outputs in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{snn.name!r} is no conversion of {model.name!r}: outputs have shapes {shapes[1]}, not"
            f" {shapes[0]}"
        )
    if not all(np.isfinite(x).all() for x in (*before, *after)):
        raise ValueError("the networks give outputs that are not finite on these images")
    classes = _classes(before, after)
    accuracies: list[float | None] = [None, None]
    if labels is not None:
        accuracies = _accuracies(classes, labels, len(before[0]))
    agreement = None if classes is None else float((classes[0] == classes[1]).mean())
    error = _error(before, after)
    remaining = tuple(remaining_parts(snn))
    return Summary(
        images=len(before[0]),
        ann_accuracy=accuracies[0],
        snn_accuracy=accuracies[1],
        agreement=agreement,
        output_error=error,
        profile=profile,
        report=report,
        remaining=remaining,
        advice=tuple(_advice(remaining, profile, _is_worse(accuracies, agreement, error))),
    )


class _Outputs:
    """Outputs of a model, batch by batch."""

    def __init__(self) -> None:
        self._batches: list[list[np.ndarray]] = []

    def add(self, outputs: Any, count: int) -> None:
        """Adds those of a batch, without the copies behind its images."""
        flat = [ops.convert_to_numpy(ops.cast(x, "float32")) for x in keras.tree.flatten(outputs)]
        self._batches.append([x[:count] for x in flat])

    @property
    def arrays(self) -> list[np.ndarray]:
        """All outputs in float32, (images, ...) each."""
        return [np.concatenate(parts) for parts in zip(*self._batches, strict=True)]


def _classes(
    before: list[np.ndarray], after: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The class of each image by both networks; None where there are no scores of classes."""
    if not are_scores(before):
        return None
    return before[0].argmax(-1), after[0].argmax(-1)


def _accuracies(
    classes: tuple[np.ndarray, np.ndarray] | None, labels: Any, images: int
) -> list[float | None]:
    if classes is None:
        raise ValueError(
            "labels are for networks with one output of shape (images, classes); without them, the errors"
            " of the outputs are compared"
        )
    truth = as_numpy(labels)
    if truth.shape != (images,):
        raise ValueError(
            f"labels must be the class of each image, shape ({images},); theirs is {truth.shape}"
        )
    return [float((found == truth).mean()) for found in classes]


def _error(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    relative = [
        np.square(y - x, dtype=np.float64).mean() / (float(x.var()) or 1.0)
        for x, y in zip(before, after, strict=True)
    ]
    return float(np.sqrt(np.mean(relative)))


def _grouped(parts: Sequence[RemainingPart]) -> Iterator[str]:
    """A line for all parts of a kind that remain for the same reason."""

    def key(part: RemainingPart) -> tuple[str, str]:
        return part.kind, part.reason

    for (kind, reason), group in itertools.groupby(sorted(parts, key=key), key):
        names = [repr(part.name) for part in group]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        yield f"{kind}: {reason} ({', '.join(names[:LISTED])}{more})"


# --- what to do next ----------------------------------------------------------------------------


def _is_worse(
    accuracies: Sequence[float | None], agreement: float | None, output_error: float
) -> bool:
    """Whether a converted network lost something that is worth a remedy."""
    ann, snn = accuracies
    if agreement is None:
        return output_error > OUTPUTS_CHANGED
    return 1 - agreement > CLASSES_CHANGED or (
        ann is not None and snn is not None and ann - snn > ACCURACY_LOST
    )


def _advice(remaining: Sequence[RemainingPart], profile: Profile, is_worse: bool) -> Iterator[str]:
    outside = sites_outside(profile.layers)
    can_calibrate = profile.spikes_per_step is None  # no recurrent layers
    if outside:
        yield (
            f"{len(outside)} sites have more than 1 % of their inputs outside range: convert with"
            f" {', or with '.join(range_advice(outside))}"
        )
    if is_worse:
        calibrate = "calibrate, convert(model, calibration_data=...); "
        yield (
            f"{calibrate if can_calibrate and not outside else ''}fs.compare(model, snn, images) says which site costs most;"
            " fs.finetune(snn, images, teacher=model) trains it further"
        )
    yield from _about_remaining(remaining)
    if outside or is_worse:
        return
    if profile.K > FEW_STEPS and can_calibrate:
        steps = max(profile.K // 2, FEW_STEPS)
        yield (
            "it is as good as before; for fewer time steps and spikes: convert(model,"
            f" calibration_data=..., steps={steps})"
        )
    else:
        yield "nothing: it is as good as before"


def _about_remaining(remaining: Sequence[RemainingPart]) -> Iterator[str]:
    sites = [part.site for part in remaining if part.site is not None]
    open_sites = [site for site in sites if site.convertible and not site.is_output]
    without = sorted({site.activation for site in open_sites if not has_set(site)})
    if any(is_element_wise(s.function) for s in open_sites if s.activation in without):
        yield (
            f"no parameter set for {', '.join(without)}: let convert fit them, convert(model,"
            ' unsupported="fit")'
        )
    asked = sorted({s.activation for s in open_sites} - set(without))
    if asked:
        yield f"{', '.join(asked)} could be converted: leave keep and keep_layers out"
    unseen = [repr(part.name) for part in remaining if part.is_unseen]
    if unseen:
        yield (
            f"look into {', '.join(unseen[:LISTED])}{', ...' if len(unseen) > LISTED else ''}: an activation"
            " in there becomes spiking once it is a layer of its own, such as keras.layers.ReLU"
        )
