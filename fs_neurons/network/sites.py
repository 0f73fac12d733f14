"""Which activations a model has, and where.

for site in find_sites(model): print(site.name, site.activation, site.convertible or site.reason)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import FSActivation
from fs_neurons.network.activations import (
    Activation,
    activation_of,
    base_name,
    relu_of_maximum,
)
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import (
    is_built,
    is_of_keras,
    is_rewritable,
    keeps_call,
    nodes_calling,
    parts_of,
)
from fs_neurons.network.kinds import ACTIVATIONS, kind_of, unwrapped
from fs_neurons.network.recurrent import Gate, gates_of, is_recurrent
from fs_neurons.network.structure import named_operations, output_operations

# Activations whose values are a result, such as a probability, where they are the model's output.
_HEADS = ("sigmoid", "hard_sigmoid", "sparse_sigmoid", "log_sigmoid", "tanh", "hard_tanh")


@dataclasses.dataclass(frozen=True)
class Site:
    """One activation of a model.

    Attributes:
        name: of the layer of FS-neurons that takes its place, after the models that it is nested in, as
            in the traced graph. For an inline activation that is a layer of its own: "block/conv_relu".
        activation: canonical name with its options, such as "silu" or "relu(max_value=6)".
        function: the callable that computes it.
        max_value: where a ReLU saturates; None for everything else.
        convertible: whether a layer of FS-neurons can take its place.
        reason: why not; or why the activation is not the function that its name says.
        layer: name of the layer or operation that it belongs to; "block/conv" for an inline activation.
        is_output: whether this is the output of the model and a result: sigmoid, tanh or a relative.
        drops_mask: whether it hands on no Keras mask, as operations do.
        gate: of a recurrent layer, with what it is inside of: "forget", "backward/forget"; else empty.
    """

    name: str
    activation: str
    function: Callable[[Any], Any]
    max_value: float | None = None
    convertible: bool = True
    reason: str = ""
    layer: str = ""
    is_output: bool = False
    drops_mask: bool = False
    gate: str = ""


def find_sites(model: keras.Model) -> list[Site]:
    """All activations of a model that are not FS-neurons, linear or softmax; shared ones once.

    Raises:
        ConversionError: the model is subclassed, or not built.
    """
    return [site for _, site in walk(model)]


def walk(model: keras.Model) -> Iterator[tuple[Any, Site]]:
    """The operation and the site of every activation, in order."""
    if not is_rewritable(model):
        raise ConversionError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}): its call() can't be"
            " rewritten. Build it from keras.Input with the functional API, or convert the functional"
            " models that it is made of"
        )
    if not is_built(model):
        raise ConversionError(
            f"model {model.name!r} is not built: call it on an input, or begin it with keras.Input,"
            " before converting it"
        )
    outputs = output_operations(model)
    taken = {part.name for part in parts_of(model)}
    for name, op in named_operations(model):
        if is_recurrent(op):
            yield from ((op, _site_of_gate(name, gate)) for gate in gates_of(op))
            continue
        activation = activation_at(op)
        if activation is None or activation.stays:
            continue
        site_name = name
        if _is_inline(op) and activation.convertible:
            path, slash, own = name.rpartition("/")
            site_name = f"{path}{slash}{_free_name(own, activation.name, taken)}"
        yield op, Site(
            site_name,
            activation.name,
            activation.function,
            activation.max_value,
            activation.convertible,
            activation.reason,
            name,
            is_output=id(op) in outputs and base_name(activation.name) in _HEADS,
            drops_mask=not isinstance(op, layers.Layer),
        )  # fmt: skip


def checked_sites(model: Any) -> list[Site]:
    """The sites of a model that was not converted before.

    Raises:
        TypeError: this is no Keras model.
        ConversionError: as `find_sites`, or the model has FS-neurons.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model, got {type(model).__name__}")
    sites = find_sites(model)
    converted = [layer.name for layer in parts_of(model) if isinstance(layer, FSActivation)]
    if converted:
        raise ConversionError(
            f"model {model.name!r} was converted before: it has FS layers ({', '.join(converted[:3])},"
            " ...). Convert the original model"
        )
    return sites


def activation_at(op: Any) -> Activation | None:
    """The activation that an operation applies to its input or, as an argument, to its output."""
    if not isinstance(op, layers.Layer):
        return _relu_by_maximum(op) or activation_of(op)
    inner = unwrapped(op)
    if isinstance(inner, (FSActivation, *ACTIVATIONS)):
        return activation_of(inner)
    if kind_of(inner).splittable:
        return activation_of(inner.activation)
    hidden = sorted({name for part in parts_of(op) for name in _hidden_activations(part)})
    if not hidden:
        return None
    reason = f"inside a {type(op).__name__} layer, which can't be taken apart"
    return Activation(", ".join(hidden), op, convertible=False, reason=reason)


def unseen_layers(model: keras.Model) -> list[tuple[str, Any]]:
    """Name and layer of what may apply activations that nobody can see: Lambda layers, and layers and
    operations with a call() of their own. Those that have a site are not among them."""
    return [
        (name, op)
        for name, op in named_operations(model)
        if _is_unseen(op) and not is_recurrent(op) and activation_at(op) is None
    ]


def _site_of_gate(layer: str, gate: Gate) -> Site:
    activation = gate.activation
    return Site(
        f"{layer}/{gate.path}", activation.name, activation.function, activation.max_value,
        activation.convertible, activation.reason, layer, gate=gate.path,
    )  # fmt: skip


def _is_unseen(op: Any) -> bool:
    if not isinstance(op, layers.Layer):
        return not is_of_keras(type(op))
    return any(
        isinstance(part, layers.Lambda)
        or not (keeps_call(part) or type(part).__module__.startswith("fs_neurons."))
        for part in parts_of(op)
    )


def _is_inline(op: Any) -> bool:
    """Whether a site at this operation is its `activation=` argument."""
    return isinstance(op, layers.Layer) and not isinstance(unwrapped(op), ACTIVATIONS)


def _relu_by_maximum(op: Any) -> Activation | None:
    if not (type(op).__name__ == "Maximum" and is_of_keras(type(op))):
        return None
    calls = [keras.tree.flatten((n.arguments.args, n.arguments.kwargs)) for n in nodes_calling(op)]
    return activation_of(keras.activations.relu) if all(map(relu_of_maximum, calls)) else None


def _hidden_activations(layer: Any) -> Iterator[str]:
    targets = [layer] if isinstance(layer, ACTIVATIONS) else []
    targets += [getattr(layer, key, None) for key in ("activation", "recurrent_activation")]
    for target in targets:
        if callable(target):
            activation = activation_of(target)
            if activation is not None and not activation.stays:
                yield activation.name


def _free_name(layer: str, activation: str, taken: set[str]) -> str:
    """A name for the layer that follows another one."""
    letters = re.sub(r"\W", "", base_name(activation).rpartition(".")[2])
    name = candidate = f"{layer}_{letters}"
    number = 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate
