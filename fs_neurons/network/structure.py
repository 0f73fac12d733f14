"""What a model is made of, through nested models, without its shapes being known.

    for name, op in named_operations(model): ...

Names are those of the traced graph: an operation's own, after the models that it is nested in.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

from fs_neurons.network.keras_internals import (
    functional_of,
    is_rewritable,
    nodes_calling,
    nodes_of,
    operations_of,
    source_of,
)
from fs_neurons.network.kinds import AUGMENTATION, IDENTITY, RESHAPING, kind_of


def named_operations(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Name and operation of every layer and operation that is no model itself; shared ones once."""
    seen: set[int] = set()

    def visit(op: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if id(op) in seen:
            return
        seen.add(id(op))
        if is_rewritable(op):
            for child in operations_of(op):
                yield from visit(child, prefix if op is model else f"{prefix}{op.name}/")
        else:
            yield f"{prefix}{op.name}", op

    yield from visit(model, "")


def named_calls(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Name and node of every call in order of execution, as in the traced graph."""

    def visit(part: keras.Model, prefix: str) -> Iterator[tuple[str, Any]]:
        for node in nodes_of(part):
            op = node.operation
            if is_rewritable(op):
                yield from visit(op, f"{prefix}{op.name}/")
            else:
                yield f"{prefix}{op.name}", node

    yield from visit(model, "")


def call_counts(model: keras.Model) -> collections.Counter[int]:
    """Number of calls of each operation, by its id, in the model and all that are nested in it.

    The calls inside a nested model count once, however often that is called.
    """
    counts: collections.Counter[int] = collections.Counter()
    seen: set[int] = set()

    def visit(part: keras.Model) -> None:
        if id(part) in seen:
            return
        seen.add(id(part))
        for node in nodes_of(part):
            counts[id(node.operation)] += 1
            if is_rewritable(node.operation):
                visit(node.operation)

    visit(model)
    return counts


def output_operations(model: keras.Model) -> set[int]:
    """Ids of the operations that compute the model's outputs and nothing else.

    Layers behind them that change no value, such as reshaping, are looked through.
    """
    found: set[int] = set()

    def visit(part: Any, tensor: Any) -> None:
        if any(tensor is x for node in nodes_of(part) for x in node.input_tensors):
            return  # it goes on inside the network too
        follow(part, tensor)

    def follow(part: Any, tensor: Any) -> None:
        op, node, index = source_of(tensor)
        if is_rewritable(op):
            inner = functional_of(op)
            visit(inner, inner.outputs[index])
        elif kind_of(op) in (IDENTITY, RESHAPING) and len(node.input_tensors) == 1:
            consumers = [n for n in nodes_of(part) for x in n.input_tensors
                         if x is node.input_tensors[0]]  # fmt: skip
            if len(consumers) == 1:
                follow(part, node.input_tensors[0])
        else:
            found.add(id(op))

    network = functional_of(model)
    for tensor in network.outputs:
        visit(network, tensor)
    return found


def is_idle(op: Any) -> bool:
    """Whether this is augmentation, a layer or a model of such layers: it hands on its input at inference."""
    if is_rewritable(op):
        parts = [part for part in operations_of(op) if not isinstance(part, layers.InputLayer)]
        return len(op.inputs) == 1 and bool(parts) and all(map(is_idle, parts))
    # One that turns integers into floats does something after all.
    return kind_of(op) is AUGMENTATION and all(
        len(node.input_tensors) == len(node.outputs) == 1
        and node.input_tensors[0].dtype == node.outputs[0].dtype
        for node in nodes_calling(op)
    )


def idle_layers(model: keras.Model) -> list[str]:
    """Names of the layers that are idle at inference."""
    return [name for name, op in named_operations(model) if is_idle(op)]
