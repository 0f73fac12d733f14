"""Everything that is used of Keras beyond its documented interface; tests/network checks each name.

Nodes: a functional model records each symbolic call of an operation as a node with `operation`, `arguments`,
`input_tensors` and `outputs`; every KerasTensor knows the node that it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers
from keras.src.backend import compute_output_spec
from keras.src.models.functional import functional_like_constructor


def input_structure(model: keras.Model) -> Any:
    """Symbolic inputs of a model, in the structure in which it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def is_rewritable(op: Any) -> bool:
    """Whether an operation is a model whose graph says all that its call() does."""
    graph = isinstance(op, keras.Sequential) or hasattr(op, "operations")
    return isinstance(op, keras.Model) and graph and keeps_call(op)


def operations_of(model: keras.Model) -> list[Any]:
    """Layers and operations of a sequential or functional model, in order of execution."""
    return list(model.layers) if isinstance(model, keras.Sequential) else list(model.operations)


def is_of_keras(cls: type) -> bool:
    """Whether a class is Keras' own, by the module that defines it."""
    return cls.__module__.startswith("keras.")


def keeps_call(layer: Any) -> bool:
    """Whether a subclass of a Keras layer or model still computes what that does."""
    return is_of_keras(next(cls for cls in type(layer).__mro__ if "call" in vars(cls)))


def parts_of(layer: Any, include_self: bool = True) -> list[Any]:
    """A layer or model and all layers inside it: `_flatten_layers`."""
    return list(layer._flatten_layers(include_self=include_self, recursive=True))


def functional_of(model: keras.Model) -> Any:
    """The functional model that computes a model; that of a Sequential is its `_functional`."""
    return model._functional if isinstance(model, keras.Sequential) else model


def is_built(model: keras.Model) -> bool:
    """Whether the graph of a sequential or functional model is known."""
    return bool(model.built) and functional_of(model) is not None


def nodes_of(model: keras.Model) -> list[Any]:
    """Nodes of a built model in order of execution, its inputs left out: `_nodes_by_depth`."""
    by_depth = functional_of(model)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def source_of(tensor: keras.KerasTensor) -> tuple[Any, Any, int]:
    """(operation, node, index among its outputs) that a tensor comes from: `_keras_history`."""
    operation, node, index = tensor._keras_history
    return operation, operation._inbound_nodes[node], index


def nodes_calling(op: Any) -> list[Any]:
    """Nodes of all symbolic calls of an operation, in whatever model: `_inbound_nodes`."""
    return list(op._inbound_nodes)


def run_graph(
    model: keras.Model, inputs: Any, operation_fn: Callable[[Any], Callable[..., Any]]
) -> Any:
    """Runs a functional model with `operation_fn(op)` in place of each op: `_run_through_graph`."""
    return model._run_through_graph(inputs, operation_fn=operation_fn)


def output_spec(function: Callable[..., Any], *inputs: Any) -> Any:
    """Runs a function of tensors symbolically, without computing anything: `compute_output_spec`."""
    return compute_output_spec(function, *inputs)


def functional_class(model: keras.Model) -> type[keras.Model]:
    """The class of a functional model where its constructor takes what that of keras.Model does, by
    `functional_like_constructor`; else keras.Model."""
    return type(model) if functional_like_constructor(type(model)) else keras.Model


def output_shape_of(layer: layers.Lambda) -> Any:
    """The `output_shape` that a Lambda layer was made with: `_output_shape`."""
    return layer._output_shape


def without_quantization(policy: Any) -> Any:
    """The dtype policy that a quantised one, such as "int8_from_float32", was made from."""
    name = getattr(policy, "name", policy)
    return name.rpartition("_from_")[2] if isinstance(name, str) and "_from_" in name else policy


def misplaces_bias(layer: Any, shape: Sequence[int | None]) -> bool:
    """Whether Keras adds the bias of a layer along the last axis of its outputs, though channels come first.

    On TensorFlow, `keras.ops.add` takes a bias for one of the last axis wherever that has as many entries as
    there are channels; it may do so where the size is unknown.

    Args:
        layer: of any kind.
        shape: of its outputs, without the batch.
    """
    first = getattr(layer, "data_format", None) == "channels_first"
    return first and keras.backend.backend() == "tensorflow" and shape[-1] in (None, shape[0])


def patch_tf2onnx() -> None:
    """Makes tf2onnx work with NumPy 2, as Keras does before it exports."""
    from keras.src.export import tf2onnx_lib

    tf2onnx_lib.patch_tf2onnx()
