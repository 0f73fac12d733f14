"""Which site of a converted network loses accuracy, and why.

    print(compare(model, snn, images, labels))

At every site the outputs of the FS-neurons are compared with the activations of the original network, and
the difference is taken apart. *Clipped* and *resolution* are the site's own: the error of its FS-neurons on
the gate inputs of the original network, outside and inside the domain of their parameter set. *Accumulated*
comes from the sites before it: what its exact activation makes of the gate inputs that arrive.
"""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from tabulate import tabulate

from fs_neurons import neuron
from fs_neurons.backend import compiled
from fs_neurons.data.batches import Batches
from fs_neurons.layers import FSActivation, record_spikes
from fs_neurons.network import ConversionError, Rewriter, Site, checked_sites
from fs_neurons.neuron import NeuronParameters

CAUSES = ("clipped", "resolution", "accumulated")


@dataclasses.dataclass(frozen=True)
class SiteComparison:
    """One site. Errors are means over neurons and images, in the unit of the activation, squared.

    Attributes:
        name: of the FS layer.
        parameters: name of its parameter set.
        error: mean squared error of its outputs against the activations of the original network.
        relative_error: `error` over the mean square of these activations.
        cosine: mean over images of the cosine similarity of the two.
        clipped_share: share of the original's gate inputs outside the domain of the set.
        clipped: error of its own on these.
        resolution: error of its own on all others.
        accumulated: error of its exact activation on the gate inputs that arrive.
        accuracy: share of images that the original network with only this site converted classifies as
            the labels say, or as the original does where there are no labels.
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
    accuracy: float

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
        ann_accuracy, snn_accuracy: of the original and of the converted network.
        logit_error: root mean square difference of the outputs, relative to the original's standard
            deviation.
    """

    sites: tuple[SiteComparison, ...]
    images: int
    labelled: bool
    ann_accuracy: float
    snn_accuracy: float
    logit_error: float

    @property
    def worst(self) -> SiteComparison:
        """The site that costs most when it is the only one converted; of equal ones, the largest own error."""
        return min(self.sites, key=lambda s: (s.accuracy, -(s.clipped + s.resolution)))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per site: `pandas.DataFrame(result.rows())`."""
        return [{**dataclasses.asdict(site), "cause": site.cause} for site in self.sites]

    def to_json(self, indent: int | None = 2) -> str:
        """Everything, as JSON text."""
        content = {**dataclasses.asdict(self), "sites": self.rows()}
        return json.dumps(content, indent=indent, allow_nan=False)

    def __str__(self) -> str:
        against = "accuracy" if self.labelled else "agreement"
        header = ("site", "parameters", "mean squared error", "relative", "cosine", "clipped %",
                  "cause", f"{against} alone %")  # fmt: skip
        table = [
            (
                site.name, site.parameters, f"{site.error:.3g}", f"{site.relative_error:.3g}",
                f"{site.cosine:.4f}", f"{100 * site.clipped_share:.3f}", site.cause,
                f"{100 * site.accuracy:.2f}",
            )
            for site in self.sites
        ]  # fmt: skip
        return "\n".join(
            [
                tabulate(table, header, disable_numparse=True),
                f"{self.images:,} images: {against} of the original {self.ann_accuracy:.2%}, converted"
                f" {self.snn_accuracy:.2%}; error of the outputs {self.logit_error:.3g} of their standard"
                " deviation",
                f"costs most alone: {self.worst.name!r}, {self.worst.accuracy:.2%}",
            ]
        )


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
        model: the original; one output, one score per class.
        snn: what `convert` made of it.
        images: what the model takes, (images, ...); or an iterable of batches.
        labels: class of each image, (images,); where missing, the classes that `model` gives count.
        batch_size: images per forward pass, of an array.
        verbose: whether to show a progress bar.

    Raises:
        ConversionError: `snn` is no conversion of `model`, or there is more than one output.
        ValueError: no images, labels of another number, or outputs that are not finite.
    """
    twin = _with_probes(model, snn)
    batches = Batches(model, images, batch_size)
    forward = _compiled_forward(model, twin, snn)
    single = _compiled_single(twin)
    names: list[tuple[str, str]] = []
    sums: np.ndarray | float = 0.0
    scores: list[tuple[np.ndarray, np.ndarray]] = []
    classes: list[np.ndarray] = []
    bar = keras.utils.Progbar(batches.images, verbose=int(verbose), unit_name="image")
    for inputs, count in batches:
        inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        ann, spiking, measured = forward(inputs, names)
        scores.append(tuple(ops.convert_to_numpy(x)[:count] for x in (ann, spiking)))
        # (sites, quantities, images) -> sums over images, in float64
        sums = sums + ops.convert_to_numpy(measured)[..., :count].sum(axis=-1, dtype=np.float64)
        alone = np.eye(len(sums), dtype=bool)
        classes.append(
            np.stack(
                [ops.convert_to_numpy(single(inputs, row)).argmax(-1)[:count] for row in alone]
            )
        )
        bar.add(count)
    ann, spiking = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    if not (np.isfinite(ann).all() and np.isfinite(spiking).all()):
        raise ValueError("the networks give outputs that are not finite on these images")
    truth = ann.argmax(-1) if labels is None else np.asarray(labels)
    if truth.shape != (len(ann),):
        raise ValueError(f"labels have shape {truth.shape}, for {len(ann)} images")
    accuracies = (np.concatenate(classes, axis=1) == truth).mean(axis=1)
    sites = []
    for (name, parameters), row, accuracy in zip(names, sums / len(ann), accuracies, strict=True):
        error, square, cosine, share, clipped, resolution, accumulated = map(float, row)
        sites.append(
            SiteComparison(
                name, parameters, error, error / square if square else 0.0, cosine, share, clipped,
                resolution, accumulated, float(accuracy),
            )
        )  # fmt: skip
    spread = float(ann.std()) or 1.0
    return Comparison(
        sites=tuple(sites),
        images=len(ann),
        labelled=labels is not None,
        ann_accuracy=float((ann.argmax(-1) == truth).mean()),
        snn_accuracy=float((spiking.argmax(-1) == truth).mean()),
        logit_error=float(np.sqrt(np.mean((spiking - ann) ** 2))) / spread,
    )


# --- the original network with a switch at every site -------------------------------------------


@dataclasses.dataclass
class _Pass:
    """A run through the twin: which sites spike, bool (sites,), none if missing; and what they met."""

    spiking: Any = None
    met: list[tuple[_Probe, Any, Any]] = dataclasses.field(default_factory=list)


_pass: contextvars.ContextVar[_Pass | None] = contextvars.ContextVar(
    "fs_neurons_pass", default=None
)


class _Probe(layers.Layer):
    """A site that computes its activation, or its FS-neurons where the pass says so."""

    def __init__(self, function: Callable[[Any], Any], site: FSActivation, **kwargs: Any):
        super().__init__(**kwargs)
        self.function = function
        self.site = site

    def call(self, x: Any) -> Any:
        current = _pass.get()
        if current is None or current.spiking is None:
            exact = self.function(x)
            if current is not None:
                current.met.append((self, x, exact))
            return exact
        spikes = current.spiking[len(current.met)]
        current.met.append((self, x, None))
        return ops.cond(
            spikes,
            lambda: ops.cast(self.site.call(x), self.compute_dtype),
            lambda: ops.cast(self.function(x), self.compute_dtype),
        )


def _run(
    twin: keras.Model, inputs: Any, spiking: Any = None
) -> tuple[Any, list[tuple[_Probe, Any, Any]]]:
    current = _Pass(spiking)
    token = _pass.set(current)
    try:
        return twin(inputs, training=False), current.met
    finally:
        _pass.reset(token)


def _with_probes(model: keras.Model, snn: keras.Model) -> keras.Model:
    """`model` with a `_Probe` wherever `snn` has a layer of FS-neurons."""
    converted = collections.defaultdict(collections.deque)
    for layer in snn._flatten_layers():
        if isinstance(layer, FSActivation):
            converted[layer.name].append(layer)
    total = sum(map(len, converted.values()))
    if not total:
        raise ConversionError(f"model {snn.name!r} has no FS layer: convert it first")
    if len(model.outputs) != 1 or len(snn.outputs) != 1:
        raise ConversionError("compare() takes networks with one output, one score per class")
    checked_sites(model)
    found = 0

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        nonlocal found
        if not site.convertible or not converted[name]:
            return None  # kept by the conversion
        found += 1
        return _Probe(site.function, converted[name].popleft(), name=name, dtype=dtype)

    twin = Rewriter(replacement).rewrite(model)
    if found != total:
        raise ConversionError(
            f"model {snn.name!r} is no conversion of {model.name!r}: {total - found} of its {total} FS"
            " layers have no counterpart there"
        )
    return twin


def _compiled_forward(model: keras.Model, twin: keras.Model, snn: keras.Model) -> Callable:
    """(inputs, names to fill in) -> outputs of both networks, and (sites, quantities, images)."""
    names: list[tuple[str, str]] = []

    def forward(inputs: Any) -> tuple[Any, Any, Any]:
        ann = model(inputs, training=False)
        _, original = _run(twin, inputs)

        def keep(x: Any, parameters: NeuronParameters) -> tuple[Any, Any]:
            y = neuron.response(x, parameters)
            return y, (x, y)

        with record_spikes(keep) as records:
            spiking = snn(inputs, training=False)
        names[:] = [(record.layer.name, record.layer.parameters.name) for record in records]
        measured = [
            _measure(probe, x, exact, *record.spikes)
            for (probe, x, exact), record in zip(original, records, strict=True)
        ]
        return ann, spiking, ops.stack(measured)

    run = compiled(forward)

    def forward_with_names(inputs: Any, result_names: list) -> tuple[Any, Any, Any]:
        result = run(inputs)
        result_names[:] = names
        return result

    return forward_with_names


def _compiled_single(twin: keras.Model) -> Callable[[Any, Any], Any]:
    return compiled(lambda inputs, spiking: _run(twin, inputs, spiking)[0])


def _measure(probe: _Probe, x: Any, exact: Any, arrived: Any, output: Any) -> Any:
    """The quantities of `SiteComparison` for each image: tensor (7, images)."""

    def flat(tensor: Any) -> Any:
        tensor = ops.cast(tensor, "float32")
        return ops.reshape(tensor, (ops.shape(tensor)[0], -1))

    def mean(tensor: Any) -> Any:
        return ops.mean(tensor, axis=1)

    site = probe.site
    gate_inputs = ops.cast(site.in_units(x), "float32")
    low, high = site.parameters.limits(len(x.shape))
    outside = flat(ops.logical_or(gate_inputs < low, gate_inputs >= high))
    own = ops.square(flat(site.call(x)) - flat(exact))
    accumulated = ops.square(flat(probe.function(site.out_of_units(arrived))) - flat(exact))
    exact, output = flat(exact), flat(site.out_of_units(output))
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
