"""Which activations a model has, and where."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import FSActivation
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import is_rewritable, keeps_call, operations_of, parts_of
from fs_neurons.network.kinds import ACTIVATIONS, SPLITTABLE, STAY, WRAPPERS
from fs_neurons.neuron.sets import canonical_name

# Arguments that change what an activation computes, and the value that changes nothing.
_OPTIONS = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0, "approximate": False}


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


def find_sites(model: keras.Model) -> list[Site]:
    """All activations of a model that are not FS-neurons, linear or softmax; shared ones once.

    Raises:
        ConversionError: the model is subclassed, or not built.
    """
    return [site for _, site in walk(model)]


def walk(model: keras.Model) -> Iterator[tuple[Any, Site]]:
    seen: set[int] = set()

    def visit(op: Any, prefix: str) -> Iterator[tuple[Any, Site]]:
        if id(op) in seen:
            return
        seen.add(id(op))
        if is_rewritable(op):
            for child in operations_of(op):
                yield from visit(child, prefix if op is model else f"{prefix}{op.name}/")
        else:
            site = site_of(op, f"{prefix}{op.name}")
            if site is not None:
                yield op, site

    if not is_rewritable(model):
        raise ConversionError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}): its call() can't be"
            " rewritten. Build it from keras.Input with the functional API, or convert the functional"
            " models that it is made of"
        )
    yield from visit(model, "")


def site_of(op: Any, name: str) -> Site | None:
    """The activation that an operation applies to its input or, as an argument, to its output."""
    if isinstance(op, FSActivation):
        return None
    if isinstance(op, ACTIVATIONS) or not isinstance(op, layers.Layer):
        return _described(op, name)
    inner = op.layer if isinstance(op, WRAPPERS) else op
    if isinstance(inner, ACTIVATIONS):
        return _described(inner, name)
    if isinstance(inner, SPLITTABLE) and keeps_call(inner):
        return _described(inner.activation, name)
    hidden = sorted({label for part in parts_of(op) for label in _hidden_activations(part)})
    if not hidden:
        return None
    return Site(
        name, ", ".join(hidden), op, convertible=False,
        reason=f"inside a {type(op).__name__} layer, which can't be taken apart",
    )  # fmt: skip


def _hidden_activations(layer: Any) -> Iterator[str]:
    targets = [layer] if isinstance(layer, ACTIVATIONS) else []
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
        if not isinstance(target, ACTIVATIONS) and not hasattr(keras.activations, activation):
            return None
        function = target if isinstance(target, layers.Layer) else target.call
    else:
        activation = getattr(target, "__name__", type(target).__name__)
        function = target
    activation = {"re_lu": "relu", "leaky_re_lu": "leaky_relu", "p_re_lu": "prelu"}.get(
        activation, activation
    )
    activation = canonical_name(activation)
    if activation in STAY:
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


def base_name(activation: str) -> str:
    return activation.split("(")[0]


def checked_sites(model: Any) -> list[Site]:
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
