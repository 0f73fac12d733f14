"""A functional or sequential Keras model, nested ones included, as a list of operations in order.

Running all batches through one operation before the next lets what comes later be adjusted to what
came before, at the cost of a single forward pass.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

# Intermediate results beyond this go to temporary files.
MEMORY_BYTES = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of an operation.

    Attributes:
        operation: layer or operation.
        arguments: what it is called with, on symbolic tensors.
        inputs: slot of each symbolic tensor, by id.
        outputs: slots of its results, flattened.
        last_used: slots that no later step reads.
    """

    operation: Any
    arguments: Any
    inputs: dict[int, int]
    outputs: tuple[int, ...]
    last_used: tuple[int, ...] = ()

    def run(self, values: dict[int, Any], operation: Callable | None = None) -> dict[int, Any]:
        """Results by slot, from values by slot, of the step's or another operation."""
        tensors = {key: values[slot] for key, slot in self.inputs.items()}
        args, kwargs = self.arguments.fill_in(tensors)
        results = keras.tree.flatten((operation or self.operation)(*args, **kwargs))
        return dict(zip(self.outputs, results, strict=True))


@dataclasses.dataclass(frozen=True)
class Program:
    """The steps of a model; inputs have the slots 0, 1, ..., `outputs` are the slots of its results."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def calls(self) -> dict[int, int]:
        """How often each operation is called, by id."""
        counts: dict[int, int] = {}
        for step in self.steps:
            counts[id(step.operation)] = counts.get(id(step.operation), 0) + 1
        return counts


def program(model: keras.Model, is_graph: Callable[[Any], bool]) -> Program:
    """Flattens a model.

    Args:
        model: functional or sequential, built.
        is_graph: whether an operation is a model to be flattened too, rather than called.
    """
    steps: list[Step] = []
    slots = len(model.inputs)

    def flatten(graph: Any, inputs: list[int]) -> list[int]:
        nonlocal slots
        if isinstance(graph, keras.Sequential):
            graph = graph._functional
        slot = {id(x): i for x, i in zip(graph.inputs, inputs, strict=True)}
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                read = {id(x): slot[id(x)] for x in node.arguments.keras_tensors}
                if is_graph(node.operation):
                    first = keras.tree.flatten(node.arguments.args or node.arguments.kwargs)
                    written = flatten(node.operation, [slot[id(x)] for x in first])
                else:
                    written = list(range(slots, slots + len(node.outputs)))
                    slots += len(written)
                    steps.append(Step(node.operation, node.arguments, read, tuple(written)))
                slot.update(zip(map(id, node.outputs), written, strict=True))
        return [slot[id(x)] for x in graph.outputs]

    outputs = flatten(model, list(range(slots)))
    kept, freed = set(outputs), []
    for step in reversed(steps):
        last = {*step.inputs.values(), *step.outputs} - kept
        kept |= last
        freed.append(dataclasses.replace(step, last_used=tuple(last)))
    return Program(tuple(reversed(freed)), tuple(outputs))


class Values:
    """Values by batch and slot, in memory up to `limit` bytes, the others in temporary files."""

    def __init__(self, limit: int = MEMORY_BYTES):
        self._limit, self._used = limit, 0
        self._values: dict[tuple[int, int], Any] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fs_neurons_")

    def __enter__(self) -> Values:
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def put(self, batch: int, slot: int, value: Any) -> None:
        size = _bytes(value)
        if self._used + size <= self._limit:
            self._used += size
        else:
            path = pathlib.Path(self._folder.name) / f"{batch}_{slot}.npy"
            np.save(path, ops.convert_to_numpy(value))
            value = path
        self._values[batch, slot] = value

    def get(self, batch: int, slot: int) -> Any:
        value = self._values[batch, slot]
        return ops.convert_to_tensor(np.load(value)) if isinstance(value, pathlib.Path) else value

    def drop(self, batch: int, slot: int) -> None:
        value = self._values.pop((batch, slot))
        if isinstance(value, pathlib.Path):
            value.unlink()
        else:
            self._used -= _bytes(value)


def _bytes(value: Any) -> int:
    return (
        int(np.prod(value.shape)) * np.dtype(keras.backend.standardize_dtype(value.dtype)).itemsize
    )
