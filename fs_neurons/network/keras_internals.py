"""Private names of Keras, and what they are used for."""

from __future__ import annotations

from typing import Any

import keras


def input_structure(model: keras.Model) -> Any:
    """Symbolic inputs of a model, in the structure in which it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def is_rewritable(op: Any) -> bool:
    """Whether an operation is a model whose graph says all that its call() does."""
    graph = isinstance(op, keras.Sequential) or hasattr(op, "operations")
    return isinstance(op, keras.Model) and graph and keeps_call(op)


def operations_of(model: keras.Model) -> list[Any]:
    return list(model.layers) if isinstance(model, keras.Sequential) else list(model.operations)


def keeps_call(layer: Any) -> bool:
    """Whether a subclass of a Keras layer or model still computes what that does."""
    owner = next(cls for cls in type(layer).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith("keras.")


def parts_of(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(include_self=True, recursive=True))


def patch_tf2onnx() -> None:
    """Makes tf2onnx work with NumPy 2, as Keras does before it exports."""
    from keras.src.export import tf2onnx_lib

    tf2onnx_lib.patch_tf2onnx()
