"""A Keras model as a flat list of calls, through nested models, and what can be said of each of them.

    graph = trace(model)
    for call in graph.calls: print(call.name, call.op, call.inputs, call.outputs)

A call is *linear* when its operation is a linear map plus a constant, so that it can be applied to spikes
one step at a time; what isn't (max-pooling, products of two tensors, softmax, ...) needs complete values.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.layers import FSActivation
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Sequence, Value
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure, is_rewritable, parts_of, run_graph
from fs_neurons.network.kinds import applies_activation, kind_of, unwrapped
from fs_neurons.network.recurrent import outer_axes
from fs_neurons.network.sequences import MaskedSequences, SequenceMask, makes_masks
from fs_neurons.network.unrolling import Unrolled, is_unrollable

__all__ = [
    "Call", "Graph", "Value", "depth", "is_linear", "is_weighted", "some_inputs", "trace", "trace_spiking",
]  # fmt: skip

# Sizes that a model leaves open are taken for this, where they are of no importance.
OPEN_SIZE = 224


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

    @functools.cached_property
    def last_uses(self) -> dict[int, int]:
        """Index of a value -> place of the last call that takes it; number of calls for an output."""
        last = {value.index: i for i, call in enumerate(self.calls) for value in call.needs}
        ends = keras.tree.flatten(self.outputs)
        return {**last, **{value.index: len(self.calls) for value in ends}}

    @functools.cached_property
    def consumers(self) -> dict[int, list[Call]]:
        """Index of a value -> calls that take it."""
        found: dict[int, list[Call]] = collections.defaultdict(list)
        for call in self.calls:
            for value in dict.fromkeys(call.inputs):
                found[value.index].append(call)
        return found

    def run(
        self, inputs: Any, each: Callable[[Call, Callable[[Value], Any]], Any] = Call.__call__
    ) -> Any:
        """Runs the model at inference, call by call.

        Args:
            inputs: arrays or tensors in the structure that the model takes.
            each: (call, tensor of each value) -> outputs of the call; runs it unless something else is
                to take its place.

        Returns:
            What the model gives, in its structure.
        """
        tensors: dict[int, Any] = {}
        for value, x in zip(self.inputs, keras.tree.flatten(inputs), strict=True):
            tensors[value.index] = ops.convert_to_tensor(x, value.dtype)
        for i, call in enumerate(self.calls):
            outputs = each(call, lambda value: tensors[value.index])
            flat = keras.tree.flatten(call.outputs), keras.tree.flatten(outputs)
            tensors.update((value.index, x) for value, x in zip(*flat, strict=True))
            for value in dict.fromkeys(call.needs):
                if self.last_uses[value.index] == i:
                    del tensors[value.index]
        return keras.tree.map_structure(lambda value: tensors[value.index], self.outputs)


def trace(model: keras.Model, inputs: Any = None) -> Graph:
    """Lists the calls of a sequential or functional model, without computing anything.

    A recurrent layer whose gates are layers of their own is unrolled: its calls are those of every step, and of
    every sequence that TimeDistributed takes apart.

    Args:
        model: sequential or functional, with nested models of either kind.
        inputs: arrays in the structure that the model takes; they give sizes that it leaves open.

    Raises:
        ConversionError: a subclassed model, a size that stays unknown, FS-neurons inside a layer that can't be
            taken apart, or a recurrent layer that is stateful or computes in mixed precision.
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
    masks = makes_masks(model)
    numbers = itertools.count()  # of calls of recurrent layers
    step: dict[str, Any] = {}  # of a recurrent layer, while its calls are listed
    steps_of: dict[
        Value, list[Value]
    ] = {}  # what a recurrent layer gives at each step, by its whole output

    def new_value(name: str, shape: tuple[int | None, ...], dtype: str) -> Value:
        if None in shape[1:]:
            raise ConversionError(
                f"the shape of {name!r} is {tuple(shape)}: give images, or build model {model.name!r}"
                " with an input of known size"
            )
        values.append(Value(len(values), tuple(int(size or 0) for size in shape[1:]), dtype))
        return values[-1]

    def visit(op: Any, prefix: str, *args: Any, **kwargs: Any) -> Any:
        if is_rewritable(op):
            # A nested model: of what it is called with only its input matters.
            return run(op, prefix if op is model else f"{prefix}{op.name}/", args[0])
        name = f"{prefix}{op.name}"
        if is_unrollable(op):
            arguments = inspect.signature(op.call).bind(*args, **kwargs).arguments
            return unroll(op, prefix, name, arguments)
        _refuse_hidden_neurons(op, name)
        symbolic = keras.tree.map_structure(
            lambda x: keras.KerasTensor((None, *x.shape), x.dtype) if isinstance(x, Value) else x,
            (args, kwargs),
        )
        specs = op.compute_output_spec(*symbolic[0], **symbolic[1])
        if any(None in x.shape[1:] for x in keras.tree.flatten(specs)):
            # The layer was built with open sizes, and these stay open in what it says of its output.
            tried = Call(name, op, (args, kwargs), None)
            specs = tried(lambda x: ops.zeros((1, *x.shape), x.dtype))
        outputs = keras.tree.map_structure(
            lambda x: new_value(name, tuple(x.shape), keras.backend.standardize_dtype(x.dtype)),
            specs,
        )
        calls.append(Call(name, op, (args, kwargs), outputs, **step))
        return outputs

    def run(part: keras.Model, prefix: str, x: Any) -> Any:
        if isinstance(part, keras.Sequential):
            for layer in part.layers:
                x = visit(layer, prefix, x)
            return x
        return run_graph(part, x, lambda op: functools.partial(visit, op, prefix))

    def unroll(layer: Any, prefix: str, name: str, arguments: dict[str, Any]) -> Any:
        sequences, states = next(iter(arguments.values())), arguments.get("initial_state")
        mask = next(iter(keras.tree.flatten(arguments.get("mask"))), None)
        if mask is None and states is None and masks:  # as Keras passes it on
            look_up = SequenceMask(outer_axes(layer), name=f"{layer.name}_mask")
            mask = visit(look_up, prefix, sequences)
        if mask is not None and len(mask.shape) != 1 + outer_axes(layer):
            raise ConversionError(
                f"{name!r} gets a mask of the shape {mask.shape} for sequences of the shape {sequences.shape}: a layer"
                " before takes away the steps that it is for, and hands it on"
            )
        unrolled = Unrolled(layer, name, sequences, states, mask)
        number = next(numbers)

        def operation(op: Any) -> Callable[..., Any]:
            if op in unrolled.steps:
                path, entry = unrolled.steps[op]
                return functools.partial(run_step, op, f"{name}/{path}", Sequence(number, entry))
            return functools.partial(routed, op, f"{name}/")

        return run_graph(unrolled.model, unrolled.inputs, operation)

    def routed(op: Any, prefix: str, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Visits an operation on sequences; a single step of what a layer gives does not wait for the others."""
        before = steps_of.get(x) if isinstance(x, Value) else None
        if before is not None and type(op).__name__ == "GetItem" and args[0][0] == slice(None):
            return before[args[0][1]]
        outputs = visit(op, prefix, x, *args, **kwargs)
        if type(op).__name__ == "Stack":
            steps_of[outputs] = list(x)
        elif isinstance(op, MaskedSequences) and x[0] in steps_of:
            steps_of[outputs] = steps_of[x[0]]
        return outputs

    def run_step(
        part: keras.Model, prefix: str, sequence: Sequence, inputs: Any, **ignored: Any
    ) -> Any:
        present = inputs[-1] if inputs[-1].dtype == "bool" else None
        step.update(sequence=sequence, present=present)
        try:
            return run(part, prefix, inputs)
        finally:
            step.clear()

    flat = [
        new_value(symbol.name, array.shape, symbol.dtype)
        for symbol, array in zip(symbols, arrays, strict=True)
    ]
    structure = keras.tree.pack_sequence_as(input_structure(model), flat)
    outputs = visit(model, "", structure)
    return Graph(tuple(values), tuple(flat), tuple(calls), outputs)


def some_inputs(model: keras.Model) -> Any:
    """Zeros, one image, in the structure that the model takes; sizes that it leaves open are OPEN_SIZE."""

    def some(symbol: Any) -> np.ndarray:
        shape = [OPEN_SIZE if size is None else size for size in symbol.shape[1:]]
        return np.broadcast_to(np.float32(0), (1, *shape))

    return keras.tree.map_structure(some, input_structure(model))


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
    if any(isinstance(part, FSActivation) for part in parts_of(op)):
        raise ConversionError(
            f"{name!r} ({type(op).__name__}) holds FS-neurons in a call() of its own, which can't be taken"
            " apart: apply its layers in a functional or sequential model"
        )


# --- what is linear -----------------------------------------------------------------------------


def is_weighted(call: Call) -> bool:
    """Whether this is a dense or convolutional layer."""
    return kind_of(unwrapped(call.op)).weighted


def is_linear(call: Call) -> bool:
    """Whether a call is a linear map of its inputs, all of them together, plus a constant."""
    op: Any = unwrapped(call.op)
    kind = kind_of(op)
    if kind in (kinds.PRODUCT, kinds.CONTRACTION):
        # x * constant and x / constant; constant / x is not linear, nor a product of two tensors.
        divides = "Divide" in type(op).__name__ and not isinstance(call.arguments[0][0], Value)
        return len(call.inputs) == 1 and not divides
    if kind is kinds.ACTIVATION:
        return isinstance(op, layers.Activation) and not applies_activation(op)
    if kind.splittable and applies_activation(op):
        return False
    # A quantised layer rounds what it is given.
    return kind.linear and getattr(op, "quantization_mode", None) is None


def windows_between_images(graph: Graph, windows: np.ndarray) -> int:
    """Windows of K steps from an image to the next: a neuron collects during one and fires during the next.

    Gates of a recurrent layer do so at every step of a sequence, and begin the next sequence behind the last.

    Args:
        graph: of a network with FS-neurons.
        windows: in which each value flows, int array (values,), see `coding.Coding`.
    """
    busy: dict[Any, list[int]] = collections.defaultdict(list)
    for call in graph.sites:
        if call.sequence is not None:
            busy[id(call.op), call.sequence].append(int(windows[call.outputs.index]))
    return 2 + max((max(taken) - min(taken) for taken in busy.values()), default=0)


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
