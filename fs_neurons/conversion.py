"""The layer-substitution pass: every activation of a trained Keras model becomes a layer of FS-neurons.

    snn = convert(model)                                      # the paper's setting
    snn = convert(model, relu=relu_parameters(K=6, alpha=10), swish="my_swish.json")
    print(conversion_report(snn))                             # which site became what
    snn = convert(model, calibration_data=images, steps=5)    # fitted to the model's own inputs
    verify(model)                                             # the pass itself changes nothing

A site is an `Activation` or `ReLU` layer (or a relative), an operation such as `keras.ops.relu(x)`, or the
`activation=` argument of a dense or convolutional layer, which is split into the linear layer and a layer
of FS-neurons. Weights are carried over unchanged; the input model is never touched. Max-pooling behind
FS-ReLU is computed from its spikes: see pooling.py.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from tabulate import tabulate

from fs_neurons.layers import FSActivation, SiteRecord, fs_layer, record_spikes
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.parameters import as_parameters, canonical_name, for_activation, registered
from fs_neurons.pooling import spiking_pool

# Activations that are not those of neurons: nothing to replace, or a normalisation over classes.
_STAY = ("linear", "softmax", "log_softmax")
# Layers that apply their `activation` to their output and to nothing else, so that it can be split off.
_SPLITTABLE = tuple(
    cls
    for name in [
        "Dense",
        "EinsumDense",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "Conv1DTranspose",
        "Conv2DTranspose",
        "Conv3DTranspose",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
    ]
    for cls in [getattr(layers, name)]
)
_ACTIVATION_LAYERS = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Softmax
)  # fmt: skip
_WRAPPERS = (layers.TimeDistributed, layers.SpectralNormalization)
# Arguments that change what an activation computes, and the value that changes nothing.
_OPTIONS = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0, "approximate": False}


class ConversionError(ValueError):
    """A model that can't be converted; the message names the layers and says what to do."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One activation of a model.

    Attributes:
        name: layer or operation, after the models that it is nested in.
        activation: canonical name with its options, such as "silu" or "relu(max_value=6)".
        function: the callable that computes it.
        max_value: where a ReLU saturates; None for everything else.
        convertible: whether a layer of FS-neurons can take its place; if not, `reason` says why.
    """

    name: str
    activation: str
    function: Callable[[Any], Any]
    max_value: float | None = None
    convertible: bool = True
    reason: str = ""


def convert(
    model: keras.Model,
    *,
    quality: str = "paper",
    keep: Collection[str] = (),
    unsupported: str = "raise",
    fold_batch_norm: bool = False,
    calibration_data: Any = None,
    steps: int | None = None,
    granularity: str = "channel",
    spike_penalty: float = 0.0,
    target_spikes: float | None = None,
    correction: str | None = None,
    **activations: FSParameters | str,
) -> keras.Model:
    """Replaces every activation of `model` by FS-neurons, weights unchanged unless it is calibrated.

    Args:
        model: Sequential or functional, with nested models of either kind; built.
        quality: which parameter sets to take: "paper" for the published ones, "accurate" for the
            fitted ones, "sparse" for those with the fewest spikes; see `parameters.for_activation`.
        keep: names of activations that stay as they are, such as ("sigmoid",).
        unsupported: what to do about activations that have no parameter set or sit where they can't
            be replaced: "raise", or "keep" them as they are; `conversion_report` lists them.
        fold_batch_norm: whether batch normalisation goes into the weights next to it, see `folding.fold`;
            what has to stay is warned of.
        calibration_data: unlabelled inputs that the model was trained for, preprocessed as it takes
            them: an array (a list or dictionary of them for several inputs) or an iterable over
            batches. Fits every site to its own gate inputs and the weights of the layers in between to
            what these gave before; see `calibration`. 500 to 1,000 images do.
        steps: K of all calibrated sites; that of the uncalibrated sets when missing.
        granularity: whether calibrated ReLUs get their range per "channel" or per "layer".
        spike_penalty: what a spike costs in calibration, relative to the squared error of its site;
            0.01 to 0.1 save spikes at little cost.
        target_spikes: spikes per neuron that calibration is to reach, by the least such penalty.
        correction: how calibration makes up for errors, one of `calibration.CORRECTIONS`; when missing,
            "joint" with up to four steps, or eight with a price on spikes, else "weights".
        activations: parameter sets by activation name, relu=..., swish=..., gelu=..., each FSParameters,
            the name of a set or a path; instead of the registered ones. The set for relu also gives
            the number of steps of ReLUs that saturate, such as ReLU6.

    Returns:
        A new model that shares nothing with `model`.

    Raises:
        ConversionError: a subclassed model, an unsupported activation, nothing to convert, or a model
            that was converted before.
        TypeError, ValueError, FileNotFoundError: wrong arguments, or calibration data that holds
            labels, NaN or too few images.
    """
    calibrated = _calibration_settings(
        calibration_data, activations, steps=steps, granularity=granularity,
        spike_penalty=spike_penalty, target_spikes=target_spikes, correction=correction,
    )  # fmt: skip
    if unsupported not in ("raise", "keep"):
        raise ValueError(f"unsupported must be 'raise' or 'keep', got {unsupported!r}")
    if isinstance(keep, str):
        raise TypeError(f"keep must be a list of activation names, got {keep!r}")
    chosen = _chosen_parameters(activations)
    if fold_batch_norm:
        model = _folded(model)
    kept = {canonical_name(name) for name in keep}
    sites = [site for site in _checked_sites(model) if _base_name(site.activation) not in kept]
    parameters_of: dict[Site, FSParameters] = {}
    refused: list[Site] = []
    for site in sites:
        parameters = _parameters_for(site, chosen, quality) if site.convertible else None
        if parameters is None:
            refused.append(site)
        else:
            parameters_of[site] = parameters
    if refused and unsupported == "raise":
        raise ConversionError(_refusal(refused))
    if not parameters_of:
        raise ConversionError(
            f"model {model.name!r} has no activation that could be converted"
            + (f": {_listing(refused)}" if refused else "; its layers are all linear")
        )
    found = {_base_name(site.activation) for site in parameters_of}
    for name in sorted(chosen.keys() - found):
        warnings.warn(
            f"{name}=... was given, but model {model.name!r} has no such activation to convert"
            f" (it has {', '.join(sorted(found))})",
            stacklevel=2,
        )

    if calibrated is not None:
        from fs_neurons.calibration import calibrate

        return calibrate(model, parameters_of, calibration_data, calibrated)

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        parameters = parameters_of.get(site)
        if parameters is None:
            return None
        return fs_layer(parameters, site.activation, name=name, dtype=dtype)

    return _Rewriter(replacement).rewrite(model)


def _folded(model: keras.Model) -> keras.Model:
    from fs_neurons.folding import fold  # which is built on the pass below

    _checked_sites(model)
    model, report = fold(model)
    if report.left:
        warnings.warn(
            f"left as they are in model {model.name!r}: "
            + "; ".join(f"{name!r}, {reason}" for name, reason in report.left.items()),
            stacklevel=3,
        )
    return model


def _calibration_settings(data: Any, activations: dict[str, Any], **arguments: Any) -> Any:
    """Settings of a calibration; None where there is none. Refuses what would be ignored."""
    from fs_neurons.calibration import Settings

    settings = Settings(**arguments)
    if data is None:
        if settings != Settings():
            raise ValueError(
                "steps, granularity, spike_penalty, target_spikes and correction are settings of a"
                " calibration: give calibration_data as well, or relu=fs.relu_parameters(K, alpha)"
            )
        return None
    if activations:
        raise ValueError(
            f"{', '.join(sorted(activations))}=... and calibration_data: calibration chooses the"
            " parameter sets itself; give one or the other"
        )
    return settings


def verify(model: keras.Model, inputs: Any = None, tolerance: float = 1e-6) -> float:
    """Replaces every site by its own activation, through the machinery of `convert`, and compares.

    Args:
        model: as for `convert`; activations without a parameter set are verified as well.
        inputs: what to run the model on; two random images (or whatever it takes) when missing.
        tolerance: largest difference allowed, relative to the largest output (at least 1).

    Returns:
        The largest relative difference between the outputs.

    Raises:
        ConversionError: the rewritten model differs, or can't be built.
        ValueError: the model has inputs of unknown size and `inputs` is missing.
    """
    _checked_sites(model)

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        if not site.convertible:
            return None
        return layers.Activation(site.function, name=name, dtype=dtype)

    twin = _Rewriter(replacement).rewrite(model)
    if inputs is None:
        inputs = _random_inputs(model)
    worst = 0.0
    expected = keras.tree.flatten(model(inputs, training=False))
    actual = keras.tree.flatten(twin(inputs, training=False))
    for a, b in zip(expected, actual, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        difference = float(np.max(np.abs(a - b), initial=0)) / max(
            1.0, float(np.max(np.abs(a), initial=0))
        )
        worst = max(worst, difference) if np.isfinite(difference) else math.inf
    if not worst <= tolerance:
        raise ConversionError(
            f"model {model.name!r}: rebuilt with its own activations it differs by {worst:.3g}"
            f" (tolerance {tolerance:g}); do not convert it, and report its layers"
        )
    return worst


# --- the report ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One site of a converted model; `parameters` is "kept" where it stayed as it was."""

    site: str
    activation: str
    parameters: str
    shape: tuple[int | None, ...] | None
    neurons: int | None


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """Which site became what; `str()` is a table.

    Attributes:
        model: name of the model.
        rows: one row per site and call, in order of execution; then those that were kept.
    """

    model: str
    rows: tuple[ReportRow, ...]

    @property
    def neurons(self) -> int | None:
        """FS-neurons of one image: sites times their feature maps; None if a size is unknown."""
        counts = [row.neurons for row in self.rows if row.parameters != "kept"]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def __str__(self) -> str:
        table = [
            (
                row.site,
                row.activation,
                row.parameters,
                " x ".join("?" if n is None else str(n) for n in row.shape or ()),
                "" if row.neurons is None else f"{row.neurons:,}",
            )
            for row in self.rows
        ]
        header = ("site", "activation", "parameter set", "shape", "neurons")
        align = ("left", "left", "left", "right", "right")
        converted = sum(row.parameters != "kept" for row in self.rows)
        neurons = "?" if self.neurons is None else f"{self.neurons:,}"
        return (
            f"Model {self.model!r}: {converted} sites, {neurons} FS-neurons,"
            f" {len(self.rows) - converted} activations kept\n"
            + tabulate(table, header, colalign=align, disable_numparse=True)
        )


def conversion_report(model: keras.Model) -> ConversionReport:
    """Lists the FS layers of a converted model, and the activations that stayed.

    Args:
        model: what `convert` returned, also after saving and loading.

    Raises:
        ConversionError: the model has no FS layer.
    """
    rows = []
    for record in trace_sites(model):
        shape = record.shape[1:]
        known = [size for size in shape if size is not None]
        neurons = math.prod(known) if len(known) == len(shape) else None
        layer = record.layer
        rows.append(
            ReportRow(
                layer.name, layer.activation_name or "?", layer.parameters.name, shape, neurons
            )
        )
    if not rows:
        raise ConversionError(f"model {model.name!r} has no FS layer: convert it first")
    for site in find_sites(model):
        rows.append(ReportRow(site.name, site.activation, "kept", None, None))
    return ConversionReport(model.name, tuple(rows))


def trace_sites(model: keras.Model) -> list[SiteRecord]:
    """Calls of FS layers in order of execution, without computing anything."""

    class Run(keras.Operation):
        def call(self, inputs):
            records.clear()  # PyTorch's backend calls it several times to find unknown sizes
            return model(inputs, training=False)

    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, x.dtype), input_structure(model)
    )
    with record_spikes() as records:
        Run().compute_output_spec(inputs)
    return records


def input_structure(model: keras.Model) -> Any:
    """Symbolic inputs of a model, in the structure in which it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


# --- finding sites ------------------------------------------------------------------------------


def find_sites(model: keras.Model) -> list[Site]:
    """All activations of a model that are not FS-neurons, linear or softmax; shared ones once.

    Raises:
        ConversionError: the model is subclassed, or not built.
    """
    return [site for _, site in _walk(model)]


def _walk(model: keras.Model) -> Iterator[tuple[Any, Site]]:
    seen: set[int] = set()

    def visit(op: Any, prefix: str) -> Iterator[tuple[Any, Site]]:
        if id(op) in seen:
            return
        seen.add(id(op))
        if _is_rewritable(op):
            for child in _operations(op):
                yield from visit(child, prefix if op is model else f"{prefix}{op.name}/")
        else:
            site = _site_of(op, f"{prefix}{op.name}")
            if site is not None:
                yield op, site

    if not _is_rewritable(model):
        raise ConversionError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}): its call() can't be"
            " rewritten. Build it from keras.Input with the functional API, or convert the functional"
            " models that it is made of"
        )
    yield from visit(model, "")


def _is_rewritable(op: Any) -> bool:
    """Whether an operation is a model whose graph says all that its call() does."""
    graph = isinstance(op, keras.Sequential) or hasattr(op, "operations")
    return isinstance(op, keras.Model) and graph and _keeps_call(op)


def _operations(model: keras.Model) -> list[Any]:
    return list(model.layers) if isinstance(model, keras.Sequential) else list(model.operations)


def _site_of(op: Any, name: str) -> Site | None:
    """The activation that an operation applies to its input or, as an argument, to its output."""
    if isinstance(op, FSActivation):
        return None
    if isinstance(op, _ACTIVATION_LAYERS) or not isinstance(op, layers.Layer):
        return _described(op, name)
    inner = op.layer if isinstance(op, _WRAPPERS) else op
    if isinstance(inner, _ACTIVATION_LAYERS):
        return _described(inner, name)
    if isinstance(inner, _SPLITTABLE) and _keeps_call(inner):
        return _described(inner.activation, name)
    hidden = sorted({label for part in _parts(op) for label in _hidden_activations(part)})
    if not hidden:
        return None
    return Site(
        name, ", ".join(hidden), op, convertible=False,
        reason=f"inside a {type(op).__name__} layer, which can't be taken apart",
    )  # fmt: skip


def _keeps_call(layer: Any) -> bool:
    """Whether a subclass of a Keras layer or model still computes what that does."""
    owner = next(cls for cls in type(layer).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith("keras.")


def _parts(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(include_self=True, recursive=True))


def _hidden_activations(layer: Any) -> Iterator[str]:
    targets = [layer] if isinstance(layer, _ACTIVATION_LAYERS) else []
    targets += [getattr(layer, key, None) for key in ("activation", "recurrent_activation")]
    for target in targets:
        if callable(target) and not isinstance(target, FSActivation):
            site = _described(target, "")
            if site is not None:
                yield site.activation


def _described(target: Any, name: str) -> Site | None:
    """A Site for an activation function, layer or operation; None if it stays or is none."""
    if isinstance(target, layers.Activation):
        return _described(target.activation, name)
    if isinstance(target, FSActivation):
        return None
    if isinstance(target, keras.Operation):
        activation = _snake_case(type(target).__name__)
        # An ordinary operation (add, reshape, matmul, ...) is no activation.
        if not isinstance(target, _ACTIVATION_LAYERS) and not hasattr(
            keras.activations, activation
        ):
            return None
        function = target if isinstance(target, layers.Layer) else target.call
    else:
        activation = getattr(target, "__name__", type(target).__name__)
        function = target
    activation = {"re_lu": "relu", "leaky_re_lu": "leaky_relu", "p_re_lu": "prelu"}.get(
        activation, activation
    )
    activation = canonical_name(activation)
    if activation in _STAY:
        return None
    options: dict[str, Any] = {
        key: value
        for key, neutral in _OPTIONS.items()
        if (value := getattr(target, key, neutral)) != neutral
    }
    if activation in ("elu", "celu") and getattr(target, "alpha", 1.0) != 1.0:
        options["alpha"] = target.alpha
    if activation == "relu6":
        activation, options = "relu", {"max_value": 6.0}
    if activation == "relu" and "negative_slope" in options and len(options) == 1:
        activation = "leaky_relu"
    options = {key: float(v) if not isinstance(v, bool) else v for key, v in options.items()}
    max_value = options.get("max_value") if activation == "relu" and len(options) == 1 else None
    if options:
        listed = ", ".join(
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in options.items()
        )
        activation = f"{activation}({listed})"
    if isinstance(target, layers.PReLU):
        return Site(
            name, "prelu", function, convertible=False, reason="its slopes are trained weights"
        )
    return Site(name, activation, function, max_value)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _base_name(activation: str) -> str:
    return activation.split("(")[0]


def _checked_sites(model: Any) -> list[Site]:
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model, got {type(model).__name__}")
    sites = find_sites(model)
    converted = [layer.name for layer in model._flatten_layers() if isinstance(layer, FSActivation)]
    if converted:
        raise ConversionError(
            f"model {model.name!r} was converted before: it has FS layers ({', '.join(converted[:3])},"
            " ...). Convert the original model"
        )
    if not model.built:
        raise ConversionError(
            f"model {model.name!r} is not built: call it on an input, or begin it with keras.Input,"
            " before converting it"
        )
    return sites


def _chosen_parameters(activations: dict[str, FSParameters | str]) -> dict[str, FSParameters]:
    chosen = {}
    for name, value in activations.items():
        known = canonical_name(name)
        if known not in registered() and not hasattr(keras.activations, known):
            raise TypeError(
                f"convert() got {name}=..., which is neither an argument nor an activation;"
                f" registered activations: {', '.join(registered())}"
            )
        chosen[known] = as_parameters(value)
    return chosen


def _parameters_for(
    site: Site, chosen: dict[str, FSParameters], quality: str
) -> FSParameters | None:
    if site.max_value is not None:
        relu = chosen.get("relu") or for_activation("relu", quality)
        return relu and relu_parameters(relu.K, site.max_value)
    return chosen.get(site.activation) or for_activation(site.activation, quality)


def _listing(sites: list[Site]) -> str:
    return "; ".join(
        f"{site.name!r} ({site.activation}{': ' + site.reason if site.reason else ''})"
        for site in sites
    )


def _refusal(refused: list[Site]) -> str:
    without = sorted({_base_name(site.activation) for site in refused if site.convertible})
    text = f"{len(refused)} activations can't be converted: {_listing(refused)}."
    if without:
        text += (
            f" No parameter set for {', '.join(without)}: pass one, convert(model, {without[0]}=...), or"
            f" register(name, parameters); sets exist for {', '.join(registered())}."
        )
    return text + ' To leave them as they are: convert(model, unsupported="keep")'


# --- rewriting ----------------------------------------------------------------------------------


class _Rewriter:
    """Builds a new model in which `replacement(site, name, dtype)` takes the place of each site.

    Layers are cloned once, however often they are called; an inline activation becomes a companion
    layer that is called after its layer.
    """

    def __init__(self, replacement: Callable[[Site, str, Any], keras.layers.Layer | None]):
        self.replacement = replacement
        self.clones: dict[int, Any] = {}  # id of the original -> its clone
        self.companions: dict[int, keras.layers.Layer] = {}  # id of a clone -> what follows it
        self.replacements: set[int] = set()  # ids of clones that are replacements themselves
        self.shared: set[int] = set()  # ids of operations, and of clones, called more than once
        self.pairs: list[tuple[Any, Any]] = []  # layers whose weights are to be copied

    def rewrite(self, model: keras.Model) -> keras.Model:
        # 1. One replacement per site, by the operation that it belongs to.
        self.sites = {id(op): site for op, site in _walk(model)}
        self.taken = {part.name for part in _parts(model)}
        # 2. The graph, on cloned layers.
        new = self._model(model)
        # 3. Weights, statistics included, layer by layer: their order in the model may have changed.
        for original, clone in self.pairs:
            _copy_weights(original, clone)
        return new

    def _model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        nodes = (node for depth in model._nodes_by_depth.values() for node in depth)
        calls = collections.Counter(id(node.operation) for node in nodes)
        self.shared.update(op for op, count in calls.items() if count > 1)
        return keras.models.clone_model(model, clone_function=self._clone, call_function=self._call)

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        (x,) = model.inputs
        new_layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)]
        source = None
        for layer in model.layers:
            clone = self._clone(layer)
            clone = spiking_pool(clone, source) or clone
            new_layers.append(clone)
            if not isinstance(clone, layers.ZeroPadding2D):
                source = self.companions.get(id(clone), clone)
            if id(clone) in self.companions:
                new_layers.append(self.companions[id(clone)])
        new = keras.Sequential(new_layers, name=model.name, trainable=model.trainable)
        if model.compiled:
            new.compile_from_config(model.get_compile_config())
        return new

    def _call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        if id(clone) in self.replacements:
            # Of what the original was called with, only its input means anything to an activation.
            return clone(args[0] if args else next(iter(kwargs.values())))
        if type(clone) is layers.MaxPooling2D:
            # A pool that is called at several places may have other inputs there: it stays.
            pool = None if id(clone) in self.shared else spiking_pool(clone, _source(args[0]))
            return (pool or clone)(*args, **kwargs)
        y = clone(*args, **kwargs)
        return self.companions[id(clone)](y) if id(clone) in self.companions else y

    def _clone(self, op: Any) -> Any:
        if id(op) not in self.clones:
            self.clones[id(op)] = self._new_clone(op)
            if id(op) in self.shared:
                self.shared.add(id(self.clones[id(op)]))
        return self.clones[id(op)]

    def _new_clone(self, op: Any) -> Any:
        if _is_rewritable(op):
            return self._model(op)
        site = self.sites.get(id(op))
        dtype = getattr(op, "dtype_policy", None)
        if site is not None:
            inner = op.layer if isinstance(op, _WRAPPERS) else op
            is_activation = isinstance(inner, _ACTIVATION_LAYERS) or not isinstance(
                op, layers.Layer
            )
            name = (
                op.name
                if is_activation
                else self._free_name(f"{op.name}_{_base_name(site.activation)}")
            )
            new = self.replacement(site, name, dtype)
            if new is not None and is_activation:
                self.replacements.add(id(new))
                return new
            if new is not None:
                clone = self._paired_clone(op, linear=True)
                self.companions[id(clone)] = new
                return clone
        return self._paired_clone(op)

    def _paired_clone(self, op: Any, linear: bool = False) -> Any:
        if isinstance(op, layers.Lambda):
            # Its function can't go through a configuration; it has no weights.
            return layers.Lambda(
                op.function, output_shape=op._output_shape, mask=op.mask, arguments=op.arguments, name=op.name
            )  # fmt: skip
        config = op.get_config()
        if linear:
            inner = config["layer"]["config"] if isinstance(op, _WRAPPERS) else config
            inner["activation"] = "linear"
        clone = type(op).from_config(config)
        if isinstance(op, layers.Layer):
            self.pairs.append((op, clone))
        return clone

    def _free_name(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate


def _source(x: keras.KerasTensor) -> Any:
    """The operation that a tensor comes from, before any zero padding."""
    operation, node, _ = x._keras_history
    while isinstance(operation, layers.ZeroPadding2D):
        operation, node, _ = operation._inbound_nodes[node].input_tensors[0]._keras_history
    return operation


def _copy_weights(original: keras.layers.Layer, clone: keras.layers.Layer) -> None:
    clone.set_weights(original.get_weights())
    for part in _parts(clone):
        if isinstance(part, layers.Normalization):
            part.finalize_state()  # derives what it computes with from its weights


def _random_inputs(model: keras.Model) -> Any:
    random = np.random.default_rng(0)

    def sample(x):
        if None in x.shape[1:]:
            raise ValueError(
                f"input {x.name!r} of model {model.name!r} has unknown size {x.shape}: pass inputs="
            )
        shape = (2, *x.shape[1:])
        if keras.backend.is_float_dtype(x.dtype):
            return random.normal(size=shape).astype("float32")
        return random.integers(0, 2, size=shape).astype(x.dtype)

    return keras.tree.map_structure(sample, input_structure(model))
