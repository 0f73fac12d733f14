"""A copy of one layer or operation, weights left out."""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import layers

from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import is_of_keras, output_shape_of, parts_of
from fs_neurons.network.kinds import WRAPPERS


def clone_of(op: Any, name: str, /, linear: bool = False, **changes: Any) -> Any:
    """A new layer or operation of the same configuration.

    Args:
        op: the original.
        name: what errors call it.
        linear: leaves out the activation of a layer, and the activity regulariser, which is on its output.
        changes: entries of the configuration to replace.

    Raises:
        ConversionError: the layer can't be made from its configuration.
    """
    if isinstance(op, layers.Lambda):
        # Its function can't go through a configuration; it has no weights.
        return layers.Lambda(
            op.function, output_shape=output_shape_of(op), mask=op.mask, arguments=op.arguments,
            name=op.name,
        )  # fmt: skip
    function = _own_function(_inner(op))
    config = {**config_of(op, name, linear or function is not None), **changes}
    if linear:
        inner, part = config, op
        while _is_wrapper(part):
            inner, part = inner["layer"]["config"], part.layer
        inner["activity_regularizer"] = None
    # Keras finds the classes of layers inside of others by name.
    classes = {
        type(part).__name__: type(part)
        for part in (parts_of(op) if isinstance(op, layers.Layer) else [])
        if not is_of_keras(type(part))
    }
    try:
        with keras.saving.custom_object_scope(classes):
            clone = type(op).from_config(config)
    except Exception as error:  # whatever the constructor of someone else's layer raises
        raise _unclonable(op, name, error) from error
    if function is not None and not linear:
        _inner(clone).activation = function
    return clone


def copy_weights(original: keras.layers.Layer, clone: keras.layers.Layer, name: str) -> None:
    """Copies weights and statistics.

    Raises:
        ConversionError: the clone has other weights.
    """
    try:
        clone.set_weights(original.get_weights())
    except ValueError as error:
        raise ConversionError(
            f"layer {name!r} ({type(original).__name__}), made anew from its configuration, has other"
            f" weights: {_first_line(error)}. Make all weights in its build()"
        ) from error
    for part in parts_of(clone):
        if isinstance(part, layers.Normalization):
            part.finalize_state()  # derives what it computes with from its weights


def _inner(op: Any) -> Any:
    while _is_wrapper(op):
        op = op.layer
    return op


def _is_wrapper(op: Any) -> bool:
    return isinstance(op, WRAPPERS)


def _own_function(layer: Any) -> Any:
    """The activation of a layer if a configuration can't hold it: a function that isn't Keras'."""
    function = vars(layer).get("activation") if isinstance(layer, layers.Layer) else None
    named = str(getattr(function, "__module__", "")).startswith("keras.")
    partial = isinstance(function, functools.partial)
    plain = callable(function) and not isinstance(function, keras.Operation)
    return function if partial or (plain and not named) else None


def config_of(op: Any, name: str, linear: bool) -> Any:
    """The configuration of a layer or operation, with linear activations if asked for.

    Raises:
        ConversionError: it has none.
    """
    source = _linear_view(op) if linear else op
    try:
        return source.get_config()
    except Exception as error:  # NotImplementedError of Keras, or whatever a layer raises
        raise _unclonable(op, name, error) from error


def _linear_view(op: Any) -> Any:
    """The same object with linear activations, good for reading its configuration: the original is not
    touched."""
    view = object.__new__(type(op))
    vars(view).update(vars(op))
    if _is_wrapper(op):
        vars(view)["layer"] = _linear_view(op.layer)
    else:
        vars(view)["activation"] = keras.activations.linear
        if "recurrent_activation" in vars(view):
            vars(view)["recurrent_activation"] = keras.activations.linear
    return view


def _unclonable(op: Any, name: str, error: Exception) -> ConversionError:
    return ConversionError(
        f"layer {name!r} ({type(op).__name__}) can't be made anew from its configuration: "
        f"{_first_line(error)}. Give its class a get_config() that returns every argument of its"
        " constructor, and register what it names with keras.saving.register_keras_serializable()"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".:") if lines else type(error).__name__
