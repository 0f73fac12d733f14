"""What flows through a network, for all batches at once: in memory as far as there is room, else on disk.

Running all batches through one call before the next lets what comes later be adjusted to what came
before, at the cost of a single forward pass.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.network.graph import Call, Graph, Value

# What does not fit goes to temporary files.
MEMORY_BYTES = 1_000_000_000


class Store:
    """Tensors by batch and value of a graph, in memory up to `limit` bytes, the others in temporary files."""

    def __init__(self, limit: int = MEMORY_BYTES):
        self._limit, self._used = limit, 0
        self._tensors: dict[tuple[int, int], Any] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fs_neurons_")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def put(self, batch: int, values: Any, tensors: Any) -> None:
        """Keeps a structure of tensors, those of a structure of values."""
        flat = keras.tree.flatten(values), keras.tree.flatten(tensors)
        for value, tensor in zip(*flat, strict=True):
            size = _bytes(tensor)
            if self._used + size <= self._limit:
                self._used += size
            else:
                path = pathlib.Path(self._folder.name) / f"{batch}_{value.index}.npy"
                np.save(path, ops.convert_to_numpy(tensor))
                tensor = path
            self._tensors[batch, value.index] = tensor

    def get(self, batch: int, value: Value) -> Any:
        kept = self._tensors[batch, value.index]
        return ops.convert_to_tensor(np.load(kept)) if isinstance(kept, pathlib.Path) else kept

    def of(self, batch: int) -> Callable[[Value], Any]:
        """The tensors of a batch, as a function of the value."""
        return functools.partial(self.get, batch)

    def drop(self, values: Iterable[Value]) -> None:
        """Forgets the tensors of all batches for these values."""
        gone = {value.index for value in values}
        for key in [key for key in self._tensors if key[1] in gone]:
            kept = self._tensors.pop(key)
            if isinstance(kept, pathlib.Path):
                kept.unlink()
            else:
                self._used -= _bytes(kept)


def last_uses(graph: Graph) -> dict[Call, list[Value]]:
    """Values that nothing reads after a call, by call; those that nothing reads at all go with their own."""
    last: dict[Value, Call] = {}
    for call in graph.calls:
        for value in [*call.inputs, *keras.tree.flatten(call.outputs)]:
            last[value] = call
    uses: dict[Call, list[Value]] = {call: [] for call in graph.calls}
    for value, call in last.items():
        uses[call].append(value)
    return uses


def _bytes(tensor: Any) -> int:
    dtype = np.dtype(keras.backend.standardize_dtype(tensor.dtype))
    return int(np.prod(tensor.shape)) * dtype.itemsize
