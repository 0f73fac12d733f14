"""Which site of a converted network loses accuracy, and why.

    print(compare(model, snn, images, labels))

At every site the outputs of the FS-neurons are compared with the activations of the original network, and
the difference is taken apart. *Clipped* and *resolution* are the site's own: the error of its FS-neurons on
the gate inputs of the original network, outside and inside the domain of their parameter set. *Accumulated*
comes from the sites before it: what its exact activation makes of the gate inputs that arrive.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from tabulate import tabulate

from fs_neurons.analysis.twin import Pair, paired
from fs_neurons.backend import as_numpy, compiled
from fs_neurons.data.batches import Batches
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.errors import ConversionError

CAUSES = ("clipped", "resolution", "accumulated")


@dataclasses.dataclass(frozen=True)
class SiteComparison:
    """One site. Errors are means over neurons and images, in the unit of the activation, squared.

    Attributes:
        name: of the FS layer, after the models that it is nested in.
        parameters: name of its parameter set.
        error: mean squared error of its outputs against the activations of the original network.
        relative_error: `error` over the mean square of these activations.
        cosine: mean over images of the cosine similarity of the two.
        clipped_share: share of the original's gate inputs outside the domain of the set.
        clipped: error of its own on these.
        resolution: error of its own on all others.
        accumulated: error of its exact activation on the gate inputs that arrive.
        output_error: of the outputs of the original network with only this site converted, see
            `Comparison`.
        accuracy: share of images that this network classifies as the labels say, or as the original
            does where there are no labels; None where outputs are not one score per class.
    """

    name: str
    parameters: str
    error: float
    relative_error: float
    cosine: float
    clipped_share: float
    clipped: float
    resolution: float
    accumulated: float
    output_error: float
    accuracy: float | None

    @property
    def cause(self) -> str:
        """The largest part of the error: "clipped", "resolution" or "accumulated"."""
        return max(CAUSES, key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found; `str()` is a table.

    Attributes:
        sites: one `SiteComparison` per site, in order of execution.
        images: number of images.
        labelled: whether accuracies are against labels; if not, against the original network.
        ann_accuracy, snn_accuracy: of the original and of the converted network; None where outputs are
            not one score per class.
        output_error: root mean square difference of the outputs of the two networks, relative to the
            original's standard deviation; of several outputs, the root mean square.
    """

    sites: tuple[SiteComparison, ...]
    images: int
    labelled: bool
    ann_accuracy: float | None
    snn_accuracy: float | None
    output_error: float

    @property
    def logit_error(self) -> float:
        """`output_error`."""
        return self.output_error

    @property
    def worst(self) -> SiteComparison:
        """The site that costs most when it is the only one converted; of equal ones, the largest own error.

        It costs accuracy, or, where there is none, error of the outputs.
        """
        return min(
            self.sites,
            key=lambda s: (
                -s.output_error if s.accuracy is None else s.accuracy,
                -(s.clipped + s.resolution),
            ),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per site: `pandas.DataFrame(result.rows())`."""
        return [{**dataclasses.asdict(site), "cause": site.cause} for site in self.sites]

    def to_json(self, indent: int | None = 2) -> str:
        """Everything, as JSON text."""
        content = {
            **dataclasses.asdict(self), "logit_error": self.output_error, "sites": self.rows()
        }  # fmt: skip
        return json.dumps(content, indent=indent, allow_nan=False)

    def __str__(self) -> str:
        against = "accuracy" if self.labelled else "agreement"
        alone = f"{against} alone %" if self.ann_accuracy is not None else "output error alone"
        header = ("site", "parameters", "mean squared error", "relative", "cosine", "clipped %",
                  "cause", alone)  # fmt: skip
        table = [
            (
                site.name, site.parameters, f"{site.error:.3g}", f"{site.relative_error:.3g}",
                f"{site.cosine:.4f}", f"{100 * site.clipped_share:.3f}", site.cause, _cost(site),
            )
            for site in self.sites
        ]  # fmt: skip
        accuracies = ""
        if self.ann_accuracy is not None and self.snn_accuracy is not None:
            accuracies = (
                f"{against} of the original {self.ann_accuracy:.2%}, converted"
                f" {self.snn_accuracy:.2%}; "
            )
        unit = "" if self.ann_accuracy is None else " %"
        return "\n".join(
            [
                tabulate(table, header, disable_numparse=True),
                f"{self.images:,} images: {accuracies}error of the outputs {self.output_error:.3g} of"
                " their standard deviation",
                f"costs most alone: {self.worst.name!r}, {_cost(self.worst)}{unit}",
            ]
        )


def _cost(site: SiteComparison) -> str:
    if site.accuracy is None:
        return f"{site.output_error:.3g}"
    return f"{100 * site.accuracy:.2f}"


def compare(
    model: keras.Model,
    snn: keras.Model,
    images: Any,
    labels: Any = None,
    *,
    batch_size: int = 100,
    verbose: bool = False,
) -> Comparison:
    """Compares a converted network with the original, site by site.

    Args:
        model: the original.
        snn: what `convert` made of it.
        images: what the model takes, (images, ...); or an iterable of batches.
        labels: class of each image, (images,), for networks with one output, one score per class; where
            missing, the classes that `model` gives count.
        batch_size: images per forward pass, of an array.
        verbose: whether to show a progress bar.

    Raises:
        ConversionError: `snn` is no conversion of `model`.
        ValueError: no images, labels of another number or without scores for classes, or outputs that
            are not finite.
    """
    batches = Batches(model, images, batch_size)
    pair: Pair | None = None
    sums: Any = 0.0
    squares: Any = 0.0
    scores: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    classes: list[np.ndarray] = []
    bar = keras.utils.Progbar(batches.images, verbose=int(verbose), unit_name="image")
    for inputs, count in batches:
        if pair is None:
            pair = paired(model, snn, inputs)
            forward, single = compiled(_forward(pair)), compiled(_single(pair))
            rows = np.eye(len(pair.sites), dtype=bool)
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        ann, spiking, measured = forward(inputs)
        ann, spiking = (_first(outputs, count) for outputs in (ann, spiking))
        scores.append((ann, spiking))
        # (sites, quantities, images) -> sums over images, in float64; the last one counts
        sums = sums + np.array(
            [
                ops.convert_to_numpy(x)[..., :count].sum(axis=(0, -1), dtype=np.float64)
                for x in measured
            ]
        )
        alone = [_first(single(inputs, row), count) for row in rows]
        squares = squares + np.array([_squares(ann, outputs) for outputs in alone])
        if are_scores(ann):
            classes.append(np.stack([outputs[0].argmax(-1) for outputs in alone]))
        bar.add(count)
    assert pair is not None  # Batches has at least one
    ann, spiking = ([np.concatenate(x) for x in zip(*part, strict=True)]
                    for part in zip(*scores, strict=True))  # fmt: skip
    if not all(np.isfinite(x).all() for x in (*ann, *spiking)):
        raise ValueError("the networks give outputs that are not finite on these images")
    images_seen = len(ann[0])
    accuracies = _accuracies(ann, spiking, classes, labels, len(pair.sites))
    variances = np.array([float(x.var()) or 1.0 for x in ann])
    sizes = np.array([x.size for x in ann])
    errors = np.sqrt((squares / sizes / variances).mean(axis=1))
    sites = []
    per_site = zip(pair.sites, sums, errors, accuracies[2:], strict=True)
    for steps, row, output_error, accuracy in per_site:
        call = steps[0][1]
        row = row[:-1] / row[-1]
        error, square, cosine, share, clipped, resolution, accumulated = map(float, row)
        layer: Any = call.op
        sites.append(
            SiteComparison(
                call.name, layer.parameters.name, error, error / square if square else 0.0, cosine,
                share, clipped, resolution, accumulated, float(output_error), accuracy,
            )
        )  # fmt: skip
    return Comparison(
        sites=tuple(sites),
        images=images_seen,
        labelled=labels is not None,
        ann_accuracy=accuracies[0],
        snn_accuracy=accuracies[1],
        output_error=float(np.sqrt((_squares(ann, spiking) / sizes / variances).mean())),
    )


def _first(outputs: Any, count: int) -> list[np.ndarray]:
    """All outputs, without copies behind the images."""
    return [
        ops.convert_to_numpy(ops.cast(x, "float32"))[:count] for x in keras.tree.flatten(outputs)
    ]


def _squares(ann: list[np.ndarray], outputs: list[np.ndarray]) -> np.ndarray:
    """Sum of squared differences, output by output."""
    return np.array(
        [
            float(np.square((y - x).astype(np.float64)).sum())
            for x, y in zip(ann, outputs, strict=True)
        ]
    )


def are_scores(ann: list[np.ndarray]) -> bool:
    """Whether outputs are one score per class."""
    return len(ann) == 1 and ann[0].ndim == 2 and ann[0].shape[1] > 1


def _accuracies(
    ann: list[np.ndarray],
    spiking: list[np.ndarray],
    alone: list[np.ndarray],
    labels: Any,
    sites: int,
) -> list[float | None]:
    """Of the original, the converted network, and the original with each site alone converted."""
    if not are_scores(ann):
        if labels is not None:
            raise ValueError(
                "labels are for networks with one output of shape (images, classes); without them, the"
                " errors of the outputs are compared"
            )
        return [None] * (2 + sites)
    truth = ann[0].argmax(-1) if labels is None else as_numpy(labels)
    if truth.shape != (len(ann[0]),):
        raise ValueError(f"labels have shape {truth.shape}, for {len(ann[0])} images")
    predictions = [ann[0].argmax(-1), spiking[0].argmax(-1), *np.concatenate(alone, axis=1)]
    return [float((found == truth).mean()) for found in predictions]


# --- runs of both networks ----------------------------------------------------------------------


def _forward(pair: Pair) -> Callable[[Any], tuple[Any, Any, Any]]:
    """inputs -> outputs of both networks, and of each site (steps, quantities, images)."""

    def forward(inputs: Any) -> tuple[Any, Any, Any]:
        met: dict[Call, tuple[Any, Any]] = {}
        shown: dict[Call, Any] = {}
        watched = {call for steps in pair.sites for both in steps for call in both}

        def watch(call: Call, tensors: Callable[[Value], Any]) -> Any:
            outputs = call(tensors)
            if call in watched:
                present = None if call.present is None else tensors(call.present)
                met[call] = tensors(call.inputs[0]), outputs
                shown[call] = present
            return outputs

        ann = pair.original.run(inputs, watch)
        spiking = pair.spiking.run(inputs, watch)
        mine, theirs = ([tuple(x.shape) for x in keras.tree.flatten(y)] for y in (ann, spiking))
        if mine != theirs:
            raise ConversionError("the networks have outputs of different shapes")
        measured = [
            ops.stack(
                [
                    _counted(_measure(probe.op, site.op, *met[probe], *met[site]), shown[site])
                    for probe, site in steps
                ]
            )
            for steps in pair.sites
        ]
        return ann, spiking, measured

    return forward


def _single(pair: Pair) -> Callable[[Any, Any], Any]:
    """(inputs, bool for each site) -> outputs of the original with these sites converted."""
    places = {probe: (i, site.op) for i, steps in enumerate(pair.sites) for probe, site in steps}

    def single(inputs: Any, spiking: Any) -> Any:
        def either(call: Call, tensors: Callable[[Value], Any]) -> Any:
            if call not in places:
                return call(tensors)
            probe: Any = call.op
            i, site = places[call]
            x = tensors(call.inputs[0])
            return ops.cond(
                spiking[i],
                lambda: ops.cast(site.call(x), probe.compute_dtype),
                lambda: ops.cast(probe.function(x), probe.compute_dtype),
            )

        return pair.original.run(inputs, either)

    return single


def _counted(quantities: Any, present: Any) -> Any:
    """The same before a one for each image, all zero where its sequence is masked: (quantities + 1, images)."""
    one = ops.ones_like(quantities[:1])
    everything = ops.concatenate([quantities, one])
    if present is None:
        return everything
    return ops.where(present[None], everything, ops.zeros_like(everything))


def _measure(probe: Any, site: Any, x: Any, exact: Any, arrived: Any, output: Any) -> Any:
    """The quantities of `SiteComparison` for each image: tensor (7, images).

    Args:
        probe, site: layers of the original and of the converted network.
        x, exact: gate inputs and activations of the original network.
        arrived, output: gate inputs and outputs of the FS-neurons.
    """

    def flat(tensor: Any) -> Any:
        tensor = ops.cast(tensor, "float32")
        return ops.reshape(tensor, (ops.shape(tensor)[0], -1))

    def mean(tensor: Any) -> Any:
        return ops.mean(tensor, axis=1)

    gate_inputs = ops.cast(site.in_units(x), "float32")
    low, high = map(ops.convert_to_tensor, site.parameters.limits(len(x.shape)))
    outside = flat(ops.logical_or(gate_inputs < low, gate_inputs >= high))
    own = ops.square(flat(site.call(x)) - flat(exact))
    accumulated = ops.square(flat(probe.function(arrived)) - flat(exact))
    exact, output = flat(exact), flat(output)
    norms = ops.sqrt(mean(ops.square(exact)) * mean(ops.square(output)))
    cosine = ops.where(norms > 0, mean(exact * output) / ops.maximum(norms, 1e-30), 1.0)
    return ops.stack(
        [
            mean(ops.square(output - exact)),
            mean(ops.square(exact)),
            cosine,
            mean(outside),
            mean(own * outside),
            mean(own * (1 - outside)),
            mean(accumulated),
        ]
    )
