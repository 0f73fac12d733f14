"""Which entries of a source reach which of a value, through linear layers: axis by axis.

    reached = Reached.itself(value)
    reached = reached.through(call, value)       # of the output of a call that takes it
    reached.total(costs)                         # for each entry of the source, the costs of all that it reaches

A new kind of layer is one entry of `_FOLLOW`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from keras import layers

from fs_neurons.network import geometry, kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.kinds import Kind, kind_of


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a value that is reached.

    Attributes:
        source: axis of the source that this one comes from; -1 where it comes from none.
        pairs: (places of the source, places): nonzero where the first reaches the second. A single row
            where all places of the source reach the same.
        weights: number of different weights along this axis.
        stride: places of the source from one place to the next.
    """

    source: int
    pairs: Any
    weights: int = 1
    stride: int = 1

    @property
    def size(self) -> int:
        return int(self.pairs.shape[1])

    def then(self, pairs: Any, taps: int = 1, stride: int = 1, dilation: int = 1) -> Axis:
        """Through a layer with these pairs, the first of them the places of this axis."""
        extended = self.weights + self.stride * dilation * (taps - 1)
        weights = taps if self.weights == 1 else extended
        return Axis(self.source, self.pairs @ pairs, weights, self.stride * stride)

    def everywhere(self, size: int, weights: int | None = None) -> Axis:
        """Each place reaches all of `size` places; with so many weights, or the same ones for all."""
        rows = scipy.sparse.csr_array((self.counts > 0).reshape(-1, 1))
        if rows.count_nonzero() == rows.shape[0]:
            rows = scipy.sparse.csr_array(np.ones((1, 1), bool))
        pairs = rows @ scipy.sparse.csr_array(np.ones((1, size), bool))
        return Axis(self.source, pairs, weights or self.weights, self.stride)

    @property
    def counts(self) -> np.ndarray:
        """How many places each place of the source reaches, or one number for all."""
        return np.asarray(self.pairs.sum(axis=1, dtype=np.int64)).reshape(-1)


class Reached:
    """What the entries of a source reach of a value.

    Attributes:
        rank: axes of the source.
        axes: of the value.
    """

    def __init__(self, rank: int, axes: Sequence[Axis]):
        self.rank = rank
        self.axes = tuple(axes)

    @classmethod
    def itself(cls, value: Value) -> Reached:
        return cls(
            len(value.shape),
            [Axis(i, scipy.sparse.eye_array(n, dtype=bool, format="csr")) for i, n in enumerate(value.shape)],
        )  # fmt: skip

    def total(self, costs: np.ndarray) -> np.ndarray:
        """Sum of the costs of the entries that each entry of the source reaches; broadcasts to the source.

        Args:
            costs: int64, of the rank of the value, broadcasts to it.
        """
        result = np.asarray(costs, np.int64)
        for i, axis in enumerate(self.axes):
            moved = np.moveaxis(result, i, 0)
            if len(moved) == 1:
                summed = axis.counts.reshape((-1,) + (1,) * (moved.ndim - 1)) * moved
            else:
                flat = moved.reshape(len(moved), -1)
                summed = (axis.pairs.astype(np.int64) @ flat).reshape(-1, *moved.shape[1:])
            result = np.moveaxis(summed, 0, i)
        # Axes that come from none have length 1 by now, as have axes of the source that nothing comes from.
        known = [i for i, axis in enumerate(self.axes) if axis.source >= 0]
        result = result.reshape([result.shape[i] for i in known])
        sources = [self.axes[i].source for i in known]
        result = np.transpose(result, np.argsort(sources))
        return np.expand_dims(result, [i for i in range(self.rank) if i not in sources])

    def multiples(self, shape: tuple[int, ...]) -> np.ndarray:
        """Weights behind each entry of a factor, where the source is the product, which has its rank.

        Args:
            shape: of the factor; along axes where it is shorter than the product, one entry serves all
                places with the same weights.

        Returns:
            int64, broadcasts to the factor.
        """
        result = np.ones((1,) * self.rank, np.int64)
        for axis in self.axes:
            if axis.source < 0:
                result = result * axis.size
            elif shape[axis.source] == 1:
                result = result * axis.weights
            else:
                layout = [1] * self.rank
                layout[axis.source] = -1
                result = result * axis.counts.reshape(layout)
        return result

    def through(self, call: Call, value: Value) -> Reached | None:
        """What it reaches of the output of a linear call; None where that is not told axis by axis."""
        output = call.outputs
        if not isinstance(output, Value) or isinstance(call.op, layers.TimeDistributed):
            return None
        follow = _FOLLOW.get(kind_of(call.op))
        if follow is None:
            return self.spread(output) if _keeps_places(call) else None
        return follow(self, call, value, output)

    def spread(self, output: Value) -> Reached | None:
        """To the same places, and all that broadcasting adds."""
        if len(output.shape) != len(self.axes):
            return None
        axes = zip(self.axes, output.shape, strict=True)
        return self.with_axes([a if a.size == size else a.everywhere(size) for a, size in axes])

    def with_axes(self, axes: Sequence[Axis]) -> Reached:
        return Reached(self.rank, axes)


# --- what each kind of layer reaches --------------------------------------------------------------


def _keeps_places(call: Call) -> bool:
    op: Any = call.op
    kind = kind_of(op)
    if kind is kinds.SUM:
        return type(op).__name__ in ("Add", "Subtract", "Average", "Negative")
    return kind in (
        kinds.IDENTITY, kinds.AUGMENTATION, kinds.AFFINE, kinds.ACTIVATION, kinds.PRODUCT,
    )  # fmt: skip


def _spatial(reached: Reached, op: Any) -> tuple[list[int], int]:
    """Places of the spatial axes and of that of the channels."""
    channel = geometry.data_axis(op) % len(reached.axes)
    return [i for i in range(len(reached.axes)) if i != channel], channel


def _windowed(
    reached: Reached, call: Call, output: Value, kernel: Any, strides: Any, dilation: Any,
    different: bool = True, transposed: bool = False,
) -> list[Axis]:  # fmt: skip
    """All axes, the spatial ones through windows; `different` where their entries have weights of their own."""
    op: Any = call.op
    axes = list(reached.axes)
    for i, size, stride, gap in zip(
        _spatial(reached, op)[0], kernel, strides, dilation, strict=True
    ):
        n, m = axes[i].size, output.shape[i]
        at = geometry.axis_pairs(n, m, size, stride, gap, op.padding, transposed)
        taps = size if different else 1
        axes[i] = axes[i].then(_pairs(*at, n, m), taps, 1 if transposed else stride, gap)
    return axes


def _dense(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    units = output.shape[-1]
    return reached.with_axes([*reached.axes[:-1], reached.axes[-1].everywhere(units, units)])


def _convolution(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    op: Any = call.op
    transposed = kind_of(op) is kinds.TRANSPOSED
    axes = _windowed(
        reached, call, output, op.kernel_size, op.strides, op.dilation_rate, transposed=transposed
    )
    channel = _spatial(reached, op)[1]
    groups, filters = getattr(op, "groups", 1), output.shape[channel]
    if groups == 1:
        axes[channel] = axes[channel].everywhere(filters, filters)
    else:
        axes[channel] = axes[channel].then(
            _blocks(axes[channel].size, filters, groups), filters // groups
        )
    return reached.with_axes(axes)


def _depthwise(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    op: Any = call.op
    axes = _windowed(reached, call, output, op.kernel_size, op.strides, op.dilation_rate)
    channel = _spatial(reached, op)[1]
    size = axes[channel].size
    many = op.depth_multiplier
    if kind_of(op) is kinds.SEPARABLE:
        filters = output.shape[channel]
        axes[channel] = axes[channel].everywhere(filters, filters)
    elif many > 1:
        axes[channel] = axes[channel].then(_blocks(size, size * many, size), many)
    return reached.with_axes(axes)


def _average_pooling(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    op: Any = call.op
    ones = (1,) * len(op.pool_size)
    return reached.with_axes(
        _windowed(reached, call, output, op.pool_size, op.strides, ones, different=False)
    )


def _global_average_pooling(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    op: Any = call.op
    spatial, channel = _spatial(reached, op)
    if not op.keepdims:
        return reached.with_axes([reached.axes[channel]])
    return reached.with_axes(
        [a.everywhere(1) if i in spatial else a for i, a in enumerate(reached.axes)]
    )


def _moved(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    """Padding, cropping and upsampling: each place goes to places of its own along the same axis."""
    op: Any = call.op
    axes = list(reached.axes)
    for number, i in enumerate(_spatial(reached, op)[0]):
        n, m = axes[i].size, output.shape[i]
        if kind_of(op) is kinds.UPSAMPLING:
            places = np.arange(m)
            pairs = _pairs(places // (m // n), places, n, m)
        else:
            before = _first(op)[number]
            places = np.arange(n) + (before if kind_of(op) is kinds.PADDING else -before)
            inside = (places >= 0) & (places < m)
            pairs = _pairs(np.flatnonzero(inside), places[inside], n, m)
        axes[i] = axes[i].then(pairs)
    return reached.with_axes(axes)


def _first(op: Any) -> list[int]:
    """Entries that a padding or cropping layer adds or takes away in front of each spatial axis."""
    amounts = op.padding if hasattr(op, "padding") else op.cropping
    if isinstance(amounts, int):
        return [amounts]
    return [pair[0] for pair in amounts] if isinstance(amounts[0], (tuple, list)) else [amounts[0]]


def _concatenation(reached: Reached, call: Call, value: Value, output: Value) -> Reached | None:
    if sum(x is value for x in call.inputs) > 1 or not isinstance(call.op, layers.Concatenate):
        return None
    axis = call.op.axis % (len(output.shape) + 1) - 1
    before = sum(x.shape[axis] for x in call.inputs[: call.inputs.index(value)])
    n, m = value.shape[axis], output.shape[axis]
    axes = list(reached.axes)
    axes[axis] = axes[axis].then(_pairs(np.arange(n), np.arange(n) + before, n, m))
    return reached.with_axes(axes)


def _reshaping(reached: Reached, call: Call, value: Value, output: Value) -> Reached | None:
    """Where axes of length 1 come or go, and where there is a single axis that does not."""
    kept = [axis for axis in reached.axes if axis.size > 1]
    if [axis.size for axis in kept] != [size for size in output.shape if size > 1]:
        return None
    used = {axis.source for axis in kept}
    spare = [axis for axis in reached.axes if axis.source not in used]
    axes = []
    for size in output.shape:
        if size > 1:
            axes.append(kept.pop(0))
        elif spare:
            axes.append(spare.pop(0))
        else:
            axes.append(Axis(-1, scipy.sparse.csr_array(np.ones((1, 1), bool))))
    return reached.with_axes(axes)


def _permutation(reached: Reached, call: Call, value: Value, output: Value) -> Reached:
    op: Any = call.op
    return reached.with_axes([reached.axes[place - 1] for place in op.dims])


def _blocks(n: int, m: int, groups: int) -> Any:
    """Each of n entries reaches all of m that are in its group."""
    block = np.ones((n // groups, m // groups), bool)
    return scipy.sparse.kron(scipy.sparse.eye_array(groups, dtype=bool), block, format="csr")


def _pairs(rows: np.ndarray, columns: np.ndarray, n: int, m: int) -> Any:
    return scipy.sparse.csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, m))


_FOLLOW: dict[Kind, Callable[[Reached, Call, Value, Value], Reached | None]] = {
    kinds.DENSE: _dense,
    kinds.CONVOLUTION: _convolution,
    kinds.TRANSPOSED: _convolution,
    kinds.DEPTHWISE: _depthwise,
    kinds.SEPARABLE: _depthwise,
    kinds.AVERAGE_POOLING: _average_pooling,
    kinds.GLOBAL_AVERAGE_POOLING: _global_average_pooling,
    kinds.PADDING: _moved,
    kinds.CROPPING: _moved,
    kinds.UPSAMPLING: _moved,
    kinds.CONCATENATION: _concatenation,
    kinds.RESHAPING: _reshaping,
    kinds.PERMUTATION: _permutation,
}
