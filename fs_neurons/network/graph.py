"""A Keras model as a flat list of calls, through nested models, and what can be said of each of them.

    graph = trace(model)
    for call in graph.calls: print(call.name, call.op, call.inputs, call.outputs)

A call is *linear* when its operation is a linear map plus a constant, so that it can be applied to spikes
one step at a time; what isn't (max-pooling, products of two tensors, softmax, ...) needs complete values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from fs_neurons.layers import FSActivation
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure, is_rewritable, keeps_call
from fs_neurons.network.kinds import LINEAR_LAYERS, LINEAR_OPERATIONS, PRODUCTS, WEIGHTED


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor that flows through the model.

    Attributes:
        index: its place in `Graph.values`.
        shape: of one image.
        dtype: of its entries.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation; a shared layer has several.

    Attributes:
        name: of the operation, after the models that it is nested in.
        op: the layer or operation.
        arguments: (args, kwargs) with `Value`s in place of tensors.
        outputs: its value, or a structure of values.
    """

    name: str
    op: keras.Operation
    arguments: tuple[tuple, dict]
    outputs: Any

    @property
    def inputs(self) -> list[Value]:
        """Values among the arguments, in order."""
        return [x for x in keras.tree.flatten(self.arguments) if isinstance(x, Value)]

    @property
    def is_site(self) -> bool:
        """Whether this is a layer of FS-neurons."""
        return isinstance(self.op, FSActivation)

    def __call__(self, tensors: Callable[[Value], Any]) -> Any:
        """Runs the operation with `tensors(value)` in place of each value among its arguments."""
        args, kwargs = keras.tree.map_structure(
            lambda x: tensors(x) if isinstance(x, Value) else x, self.arguments
        )
        return self.op(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """Calls in order of execution.

    Attributes:
        values: everything that flows.
        inputs: values of the model's inputs, flat.
        calls: every call, of nested models too.
        outputs: the model's output, or structure of outputs.
    """

    values: tuple[Value, ...]
    inputs: tuple[Value, ...]
    calls: tuple[Call, ...]
    outputs: Any

    @property
    def sites(self) -> list[Call]:
        """Calls of FS layers."""
        return [call for call in self.calls if call.is_site]


def trace(model: keras.Model, inputs: Any = None) -> Graph:
    """Lists the calls of a sequential or functional model, without computing anything.

    Args:
        model: sequential or functional, with nested models of either kind.
        inputs: arrays in the structure that the model takes; they give sizes that it leaves open.

    Raises:
        ConversionError: a subclassed model, a size that stays unknown, or FS-neurons inside a layer that
            can't be taken apart.
    """
    if not is_rewritable(model):
        raise ConversionError(
            f"model {model.name!r} is a subclassed model ({type(model).__name__}): its call() can't be"
            " taken apart. Build it from keras.Input with the functional API"
        )
    symbols = keras.tree.flatten(input_structure(model))
    arrays = symbols if inputs is None else keras.tree.flatten(inputs)
    values: list[Value] = []
    calls: list[Call] = []

    def new_value(name: str, shape: tuple, dtype: str) -> Value:
        if None in shape[1:]:
            raise ConversionError(
                f"the shape of {name!r} is {tuple(shape)}: give images, or build model {model.name!r}"
                " with an input of known size"
            )
        values.append(Value(len(values), tuple(shape[1:]), dtype))
        return values[-1]

    def visit(op: Any, prefix: str, *args: Any, **kwargs: Any) -> Any:
        if is_rewritable(op):
            # A nested model: of what it is called with only its input matters.
            return run(op, prefix if op is model else f"{prefix}{op.name}/", args[0])
        name = f"{prefix}{op.name}"
        _refuse_hidden_neurons(op, name)
        symbolic = keras.tree.map_structure(
            lambda x: keras.KerasTensor((None, *x.shape), x.dtype) if isinstance(x, Value) else x,
            (args, kwargs),
        )
        specs = op.compute_output_spec(*symbolic[0], **symbolic[1])
        outputs = keras.tree.map_structure(lambda x: new_value(name, x.shape, x.dtype), specs)
        calls.append(Call(name, op, (args, kwargs), outputs))
        return outputs

    def run(part: keras.Model, prefix: str, x: Any) -> Any:
        if isinstance(part, keras.Sequential):
            for layer in part.layers:
                x = visit(layer, prefix, x)
            return x
        return part._run_through_graph(
            x, operation_fn=lambda op: functools.partial(visit, op, prefix)
        )

    flat = [
        new_value(symbol.name, array.shape, symbol.dtype)
        for symbol, array in zip(symbols, arrays, strict=True)
    ]
    structure = keras.tree.pack_sequence_as(input_structure(model), flat)
    outputs = visit(model, "", structure)
    return Graph(tuple(values), tuple(flat), tuple(calls), outputs)


def trace_spiking(model: keras.Model, inputs: Any = None) -> Graph:
    """As `trace`, of a model with FS-neurons.

    Raises:
        ConversionError: as `trace`, or the model has no FS-neurons.
    """
    graph = trace(model, inputs)
    if not graph.sites:
        raise ConversionError(f"model {model.name!r} has no FS layer: convert it first")
    return graph


def _refuse_hidden_neurons(op: Any, name: str) -> None:
    if isinstance(op, FSActivation) or not isinstance(op, layers.Layer):
        return
    if any(isinstance(part, FSActivation) for part in op._flatten_layers(include_self=False)):
        raise ConversionError(
            f"{name!r} ({type(op).__name__}) holds FS-neurons in a call() of its own, which can't be taken"
            " apart: apply its layers in a functional or sequential model"
        )


# --- what is linear -----------------------------------------------------------------------------


def is_weighted(call: Call) -> bool:
    """Whether this is a dense or convolutional layer."""
    return isinstance(call.op, WEIGHTED)


def is_linear(call: Call) -> bool:
    """Whether a call is a linear map of its inputs, all of them together, plus a constant."""
    op = call.op
    if not isinstance(op, layers.Layer):
        name = type(op).__name__
        # x * constant and x / constant; constant / x is not linear, nor a product of two tensors.
        scaling = name in PRODUCTS and isinstance(call.arguments[0][0], Value)
        return name in LINEAR_OPERATIONS or (scaling and len(call.inputs) == 1) or (
            name == "Multiply" and len(call.inputs) == 1
        )  # fmt: skip
    if not keeps_call(op):
        return False
    if isinstance(op, layers.TimeDistributed):
        return is_linear(dataclasses.replace(call, op=op.layer))
    if isinstance(op, layers.Activation):
        return getattr(op.activation, "__name__", "") == "linear"
    if isinstance(op, WEIGHTED):
        return getattr(op.activation, "__name__", "") == "linear"
    return isinstance(op, LINEAR_LAYERS)


def depth(graph: Graph, counts: Callable[[Call], bool]) -> np.ndarray:
    """Largest number of calls for which `counts` holds on any path from an input to each value.

    Returns:
        int array (values,).
    """
    depths = np.zeros(len(graph.values), int)
    for call in graph.calls:
        before = max((depths[value.index] for value in call.inputs), default=0)
        for value in keras.tree.flatten(call.outputs):
            depths[value.index] = before + counts(call)
    return depths
