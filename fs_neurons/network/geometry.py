"""How spikes fan out in each kind of layer, and what multiplications the layer takes: what `kinds` names.

All functions take a call of the layer, wrappers taken off. Those for fan-outs give, for each entry of one
of its input values, the number of targets: an int64 array that broadcasts to the shape of the value.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.network.calls import Call, Value


def data_axis(layer: Any) -> int:
    """Axis of the channels in one image: 0 or -1."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" else -1


def argument(call: Call, name: str) -> Any:
    """What a call passes as an argument of its operation's `call`; None where it passes nothing."""
    args, kwargs = call.arguments
    return inspect.signature(call.op.call).bind_partial(*args, **kwargs).arguments.get(name)


# --- fan-out without weights --------------------------------------------------------------------


def one_each(call: Call, value: Value) -> np.ndarray:
    """A target for each time that the value is passed: x + x takes both of them."""
    return np.full((1,) * len(value.shape), sum(x is value for x in call.inputs), np.int64)


def nothing(call: Call, value: Value) -> np.ndarray:
    return np.zeros((1,) * len(value.shape), np.int64)


def windows(call: Call, value: Value) -> np.ndarray:
    """Windows of average pooling that each entry is in."""
    op: Any = call.op
    rank = len(op.pool_size)
    return _over_axes(op, value, call.outputs, 1, op.pool_size, op.strides, (1,) * rank)


# --- fan-out through weights --------------------------------------------------------------------


def dense_fan_out(call: Call, value: Value) -> np.ndarray:
    op: Any = call.op
    return _uniform(value, op.units)


def convolution_fan_out(call: Call, value: Value) -> np.ndarray:
    op: Any = call.op
    return _of_kernel(call, value, op.filters // getattr(op, "groups", 1))


def transposed_fan_out(call: Call, value: Value) -> np.ndarray:
    op: Any = call.op
    return _of_kernel(call, value, op.filters, transposed=True)


def depthwise_fan_out(call: Call, value: Value) -> np.ndarray:
    """Of a separable convolution: in its depthwise half, which is the one that spikes meet."""
    op: Any = call.op
    return _of_kernel(call, value, op.depth_multiplier)


def einsum_dense_fan_out(call: Call, value: Value) -> np.ndarray:
    op: Any = call.op
    terms, _ = _split(op.equation)
    inputs, kernel = (_letters(term, rank) for term, rank in
                      zip(terms, (1 + len(value.shape), len(op.kernel.shape)), strict=True))  # fmt: skip
    sizes = zip(kernel, op.kernel.shape, strict=True)
    return _uniform(value, math.prod(size for letter, size in sizes if letter not in inputs))


def contraction_fan_out(call: Call, value: Value) -> np.ndarray | None:
    """Of a product with a constant matrix; None for one of two values, which is no sum of spikes."""
    count = contraction_macs(call)
    if len(call.inputs) > 1 or count is None:
        return None
    return _uniform(value, count // math.prod(value.shape))


def attention_fan_out(call: Call, value: Value) -> np.ndarray:
    """In the projections to queries, keys and values."""
    config = call.op.get_config()
    if "num_query_heads" in config:
        width = config["head_dim"]
        heads = config["num_query_heads"], config["num_key_value_heads"]
        widths = [heads[0] * width, heads[1] * width, heads[1] * width]
    else:
        key_width = config["num_heads"] * config["key_dim"]
        values = config["num_heads"] * (config["value_dim"] or config["key_dim"])
        widths = [key_width, key_width, values]
    projected = zip(_queries_keys_values(call), widths, strict=True)
    return _uniform(value, sum(width for x, width in projected if x is value))


def recurrent_fan_out(call: Call, value: Value) -> np.ndarray | None:
    """To the gates of one time step; None for an initial state."""
    if value is not argument(call, "sequences"):
        return None
    return _uniform(value, sum(gates * layer.units for layer, gates in _recurrent_layers(call)))


# --- multiply-accumulates for one image ---------------------------------------------------------


def none(call: Call) -> int:
    """Neither activation functions and normalisations nor scales that go into weights are counted."""
    return 0


def weights_used(fan_out: Callable[[Call, Value], np.ndarray]) -> Callable[[Call], int]:
    """One for each pair of an input and a target; products with padded zeros are left out."""
    return lambda call: sum(
        int(np.broadcast_to(fan_out(call, x), x.shape).sum()) for x in call.inputs
    )


def separable_macs(call: Call) -> int:
    op: Any = call.op
    (value,) = call.inputs
    depthwise = int(np.broadcast_to(depthwise_fan_out(call, value), value.shape).sum())
    channels = value.shape[data_axis(op)] * op.depth_multiplier
    return int(depthwise + math.prod(call.outputs.shape) * channels)


def product_macs(call: Call) -> int:
    """Entry by entry; scaling by a constant goes into weights."""
    return int(math.prod(call.outputs.shape) * max(len(call.inputs) - 1, 0))


def contraction_macs(call: Call) -> int | None:
    """Of matmul, dot, tensordot and einsum; None for more than two operands."""
    op: Any = call.op
    args, kwargs = call.arguments
    name = type(op).__name__
    operands = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]
    if len(operands) != 2 or not call.inputs:
        return None
    first, second = (_full_shape(x) for x in operands)
    if name == "Einsum":
        terms, _ = _split(op.subscripts)
        sizes: dict[Any, int] = {}
        for term, shape in zip(terms, (first, second), strict=True):
            for letter, size in zip(_letters(term, len(shape)), shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        return math.prod(sizes.values())
    if name == "Tensordot":
        axes = op.axes
        contracted = first[len(first) - axes :] if isinstance(axes, int) else [
            first[axis] for axis in np.ravel(axes[0])
        ]  # fmt: skip
    elif isinstance(op, layers.Dot):
        axis = op.axes if isinstance(op.axes, int) else op.axes[0]
        contracted = [first[axis]]
    else:
        contracted = [first[-1]]
    return int(math.prod(call.outputs.shape) * math.prod(contracted))


def dot_attention_macs(call: Call) -> int | None:
    """Scores of queries with keys, and sums of values weighted by them."""
    query, value = argument(call, "inputs")[:2]
    if not all(isinstance(x, Value) and len(x.shape) == 2 for x in (query, value)):
        return None
    return int(query.shape[0] * value.shape[0] * (query.shape[1] + value.shape[1]))


def attention_macs(call: Call) -> int | None:
    """Projections, scores, weighted values and the projection of the output."""
    query, key, value = _queries_keys_values(call)
    if not all(isinstance(x, Value) and len(x.shape) == 2 for x in (query, key, value)):
        return None
    config = call.op.get_config()
    heads = config.get("num_query_heads", config.get("num_heads"))
    key_width = config.get("head_dim", config.get("key_dim"))
    value_width = config.get("value_dim") or key_width
    output = call.outputs if isinstance(call.outputs, Value) else call.outputs[0]
    projections = sum(
        int(np.broadcast_to(attention_fan_out(call, x), x.shape).sum())
        for x in dict.fromkeys((query, key, value))
    )
    pairs = query.shape[0] * key.shape[0] * heads
    behind = math.prod(output.shape) * heads * value_width
    return int(projections + pairs * (key_width + value_width) + behind)


def recurrent_macs(call: Call) -> int | None:
    """Input and recurrent weights, and the products of gates, at every time step."""
    value = argument(call, "sequences")
    if not isinstance(value, Value) or len(value.shape) != 2 or not _recurrent_layers(call):
        return None
    length, width = value.shape
    count = 0
    for layer, gates in _recurrent_layers(call):
        products = 3 if gates > 1 else 0  # of an LSTM and of a GRU
        count += layer.units * (gates * (width + layer.units) + products)
    return length * count


# --- where spikes are routed to -----------------------------------------------------------------


def unchanged(call: Call, value: Value, targets: list[np.ndarray]) -> np.ndarray:
    """Each entry stays at its place."""
    return sum(targets, start=np.zeros((), np.int64))


def moved(call: Call, value: Value, targets: list[np.ndarray]) -> np.ndarray:
    """Sum of the targets over the places that each entry is moved to, found by moving its number there."""
    size = math.prod(value.shape)
    numbers = np.arange(1, size + 1, dtype=np.int32).reshape(1, *value.shape)
    zeros = {x.index: np.zeros((1, *x.shape), np.int32) for x in call.inputs}

    def places(inputs: dict[int, np.ndarray]) -> list[np.ndarray]:
        outputs = call(lambda x: ops.convert_to_tensor(inputs[x.index]))
        return [ops.convert_to_numpy(x)[0].astype(np.int64) for x in keras.tree.flatten(outputs)]

    # What a padding adds is there without the numbers, too.
    before = places(zeros)
    after = places({**zeros, value.index: numbers})
    total = np.zeros(size + 1, np.int64)
    for a, b, target in zip(before, after, targets, strict=True):
        np.add.at(total, (b - a).ravel(), np.broadcast_to(target, b.shape).ravel())
    return total[1:].reshape(value.shape)


# --- folding into kernels -----------------------------------------------------------------------


def over_outputs(layer: Any, values: np.ndarray) -> np.ndarray:
    """One value per output channel, in a shape to multiply the (last) kernel with."""
    return values


def over_transposed_outputs(layer: Any, values: np.ndarray) -> np.ndarray:
    return values[:, None]


def over_depthwise_outputs(layer: Any, values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, layer.depth_multiplier)


def over_inputs(layer: Any, values: np.ndarray) -> np.ndarray:
    """One value per input channel, in a shape to multiply the (first) kernel with."""
    groups = getattr(layer, "groups", 1)
    if groups > 1:
        # Output channel o sees the inputs of its own group.
        return values.reshape(groups, -1).repeat(layer.filters // groups, axis=0).T
    return values[:, None]


def over_transposed_inputs(layer: Any, values: np.ndarray) -> np.ndarray:
    return values


# --- parts --------------------------------------------------------------------------------------


def _uniform(value: Value, count: int) -> np.ndarray:
    return np.full((1,) * len(value.shape), count, np.int64)


def _of_kernel(call: Call, value: Value, per_place: int, transposed: bool = False) -> np.ndarray:
    op: Any = call.op
    return _over_axes(
        op, value, call.outputs, per_place, op.kernel_size, op.strides, op.dilation_rate, transposed
    )


def _over_axes(
    op: Any, value: Value, output: Value, per_place: int, kernel: Any, strides: Any, dilation: Any,
    transposed: bool = False,
) -> np.ndarray:  # fmt: skip
    """`per_place` times the (output, tap) pairs of each entry, which are a product over the axes."""
    rank = len(kernel)
    first = data_axis(op) + 1  # spatial axis
    result = np.full((1,) * (rank + 1), per_place, np.int64)
    for axis in range(rank):
        at = axis + first
        counts = _axis_fan_out(
            value.shape[at], output.shape[at], kernel[axis], strides[axis], dilation[axis], op.padding,
            transposed,
        )  # fmt: skip
        result = result * counts.reshape([-1 if i == at else 1 for i in range(rank + 1)])
    return result


def _axis_fan_out(
    size: int, out: int, kernel: int, stride: int, dilation: int, padding: str, transposed: bool
) -> np.ndarray:
    """Along one axis: (output, kernel tap) pairs that each of `size` inputs takes part in."""
    if transposed:
        # The gradient of a convolution from `out` to `size`: the same pairs, seen from its outputs.
        before = _pad_before(out, size, kernel, stride, dilation, padding)
        at = np.arange(size)[:, None] * stride + np.arange(kernel) * dilation - before
        return np.asarray(((at >= 0) & (at < out)).sum(axis=1))
    before = _pad_before(size, out, kernel, stride, dilation, padding)
    at = np.arange(out)[:, None] * stride + np.arange(kernel) * dilation - before
    return np.bincount(at[(at >= 0) & (at < size)], minlength=size).astype(np.int64)


def axis_pairs(
    size: int, out: int, kernel: int, stride: int, dilation: int, padding: str, transposed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis of a convolution: each input and output that a tap connects."""
    inputs, outputs = (out, size) if transposed else (size, out)
    before = _pad_before(inputs, outputs, kernel, stride, dilation, padding)
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - before
    place, tap = np.nonzero((at >= 0) & (at < inputs))
    pair = at[place, tap], place
    return (pair[1], pair[0]) if transposed else pair


def _pad_before(size: int, out: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    extent = (kernel - 1) * dilation + 1
    if padding == "causal":
        return extent - 1
    return max(0, (out - 1) * stride + extent - size) // 2 if padding == "same" else 0


def _split(equation: str) -> tuple[list[str], str]:
    terms, _, result = equation.replace(" ", "").partition("->")
    return terms.split(","), result


def _letters(term: str, rank: int) -> list[Any]:
    """Names of the axes; those behind an ellipsis are numbers, counted from its end."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    hidden = rank - len(before) - len(after)
    return [*before, *range(-hidden, 0), *after]


def _full_shape(operand: Any) -> tuple[int, ...]:
    """With a batch of one, where it is a value."""
    return (1, *operand.shape) if isinstance(operand, Value) else tuple(operand.shape)


def _queries_keys_values(call: Call) -> tuple[Value, Value, Value]:
    query, value = argument(call, "query"), argument(call, "value")
    key = argument(call, "key")
    return query, (value if key is None else key), value


def _recurrent_layers(call: Call) -> list[tuple[Any, int]]:
    """Recurrent layers, one or two of them, and their weights per unit and input; none if not known."""
    op: Any = call.op
    gates = {layers.LSTM: 4, layers.GRU: 3, layers.SimpleRNN: 1}
    both = [op.forward_layer, op.backward_layer] if isinstance(op, layers.Bidirectional) else [op]
    known = [(layer, gates[type(layer)]) for layer in both if type(layer) in gates]
    return known if len(known) == len(both) else []
