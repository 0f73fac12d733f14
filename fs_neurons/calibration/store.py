"""What flows through both networks, for as many images as memory has room for.

All images go through one call before the next, so that what comes later is adjusted to what came before
at the cost of a single forward pass. Where values are large, as in the first layers of a network for
large images, only some images take part; the others catch up as soon as values are small enough, and batches
are joined. Each image goes through each call once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.calibration.data import Inputs, batches
from fs_neurons.network.graph import Call, Graph, Value

# Of all values that are alive, and of the largest value of a batch.
MEMORY_BYTES, BATCH_BYTES = 2_000_000_000, 32_000_000
MOST_IMAGES = 100

# Runs a call on the tensors that it asks for.
Run = Callable[[Call, Callable[[Value], Any]], Any]


class Lane:
    """Values of one network, by batch."""

    def __init__(self, run: Run):
        self._run = run
        self._tensors: dict[tuple[int, int], Any] = {}

    def put(self, batch: int, values: Any, tensors: Any) -> None:
        flat = keras.tree.flatten(values), keras.tree.flatten(tensors)
        for value, tensor in zip(*flat, strict=True):
            self._tensors[batch, value.index] = tensor

    def get(self, batch: int, value: Value) -> Any:
        return self._tensors[batch, value.index]

    def run(self, batch: int, call: Call) -> None:
        self.put(batch, call.outputs, self._run(call, functools.partial(self.get, batch)))

    def drop(self, batch: int, values: list[Value]) -> None:
        for value in values:
            del self._tensors[batch, value.index]

    def has_images(self, batch: int, images: int) -> bool:
        """Whether all its tensors have so many, in the first dimension."""
        return all(
            tuple(x.shape[:1]) == (images,) for (i, _), x in self._tensors.items() if i == batch
        )

    def join(self, count: int) -> None:
        """Makes one of so many batches that follow each other; the last may be of fewer."""
        parts: dict[tuple[int, int], list[Any]] = {}
        for (batch, index), tensor in sorted(self._tensors.items(), key=lambda item: item[0]):
            parts.setdefault((batch // count, index), []).append(tensor)
        self._tensors = {
            key: ops.concatenate(tensors) if len(tensors) > 1 else tensors[0]
            for key, tensors in parts.items()
        }


class Store:
    """Values of the analog and of the spiking network.

    Args:
        graph: of both.
        inputs: calibration data.
        analog, spiking: run a call of either network.
        memory: bytes that values may take.
    """

    def __init__(
        self, graph: Graph, inputs: Inputs, analog: Run, spiking: Run, memory: int = MEMORY_BYTES
    ):
        self.analog, self.spiking = Lane(analog), Lane(spiking)
        self._graph = graph
        self._last_read = _last_read(graph)
        alive = _alive(graph)
        # For each call, how many images have room from there on, in both networks, and how many a batch may have.
        self._room = [memory // (2 * peak) for peak in _largest_from_here(map(sum, alive))]
        self._most = [
            min(MOST_IMAGES, max(1, BATCH_BYTES // size))
            for size in _largest_from_here(map(max, alive))
        ]
        self._waiting = batches(inputs, _batch_size(len(inputs[0]), self._most[0]))
        self._sizes: list[int] = []

    @property
    def batches(self) -> range:
        """Numbers of the batches that take part."""
        return range(len(self._sizes))

    @property
    def images(self) -> int:
        """How many images take part."""
        return sum(self._sizes)

    def admit(self, place: int) -> None:
        """Lets further images take part from call number `place` on, as far as there is room."""
        while self._waiting and (
            not self._sizes or self.images + len(self._waiting[0][0]) <= self._room[place]
        ):
            batch, arrays = len(self._sizes), self._waiting.pop(0)
            self._sizes.append(len(arrays[0]))
            for lane in (self.analog, self.spiking):
                lane.put(batch, self._graph.inputs, [ops.convert_to_tensor(x) for x in arrays])
                for call, dead in zip(self._graph.calls[:place], self._last_read, strict=False):
                    lane.run(batch, call)
                    lane.drop(batch, dead)
        if not self._waiting:
            self._join(place)

    def _join(self, place: int) -> None:
        """Makes few batches of many once values are small: each costs time, however small it is."""
        count = _batch_size(len(self._sizes), self._most[place] // max(self._sizes))
        lanes = (self.analog, self.spiking)
        if count < 2 or not all(
            lane.has_images(batch, size) for lane in lanes for batch, size in enumerate(self._sizes)
        ):
            return
        for lane in lanes:
            lane.join(count)
        firsts = range(0, len(self._sizes), count)
        self._sizes = [sum(self._sizes[first : first + count]) for first in firsts]

    def run_analog(self, place: int) -> None:
        """Runs call number `place` in the analog network."""
        for batch in self.batches:
            self.analog.run(batch, self._graph.calls[place])

    def run_spiking(self, place: int) -> None:
        """Runs it in the spiking network; what nothing reads after it is forgotten in both."""
        for batch in self.batches:
            self.spiking.run(batch, self._graph.calls[place])
            for lane in (self.analog, self.spiking):
                lane.drop(batch, self._last_read[place])


def _batch_size(items: int, most: int) -> int:
    """At most so many; all batches of one size, if it isn't much smaller: kernels are compiled for each size."""
    sizes = (size for size in range(most, most // 2, -1) if items % size == 0)
    return next(sizes, most)


def _last_read(graph: Graph) -> list[list[Value]]:
    """For each call, the values that nothing reads after it; those that nothing reads at all among them."""
    last = graph.last_uses
    return [
        [v for v in {*call.needs, *keras.tree.flatten(call.outputs)} if last.get(v.index, i) == i]
        for i, call in enumerate(graph.calls)
    ]


def _alive(graph: Graph) -> list[list[int]]:
    """For each call, the bytes of every value that is needed then or made."""
    alive = {value.index: _bytes(value) for value in graph.inputs}
    found = []
    for call, dead in zip(graph.calls, _last_read(graph), strict=True):
        alive |= {value.index: _bytes(value) for value in keras.tree.flatten(call.outputs)}
        found.append(list(alive.values()))
        for value in dead:
            del alive[value.index]
    return found


def _largest_from_here(sizes: Iterable[int]) -> list[int]:
    return list(itertools.accumulate(reversed(list(sizes)), max))[::-1]


def _bytes(value: Value) -> int:
    dtype = np.dtype(keras.backend.standardize_dtype(value.dtype))
    return max(1, math.prod(value.shape)) * int(dtype.itemsize)
