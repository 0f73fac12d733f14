"""Functions of gate inputs and parameters as compiled kernels.

y = run_fused(function, x, parameters)        # function(form, gate inputs, rows of T, h and d)

T, h and d are arguments of the kernels, one row per step and one column per channel: all sets of equal K share
a kernel, so that compiled code does not grow with the number of sets. Kernels take the gate inputs as
(images, before, channels, behind), axes that are not needed having length 1; where those of all images are treated
alike, as (entries, channels, behind), or flat if all channels are, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops, tree

from fs_neurons.backend import (
    Padding,
    compiles_kernels,
    fuse,
    fuse_element_wise,
    power_of_two,
    runs_numpy,
)
from fs_neurons.neuron.equations import Form, fastest_form
from fs_neurons.neuron.native_loop import NATIVE
from fs_neurons.neuron.parameters import ChannelParameters, NeuronParameters, Rows

# One for each function, form and K in use.
MOST_KERNELS = 64
# Sites of so few neurons, such as those between dense layers, share kernels of a few lengths.
SMALL = 2**12
# Of small sites whose channels have sets of their own: these are padded to a power of two, at least this.
FEWEST_CHANNELS = 2**8


def run_fused(
    function: Callable[..., Any],
    x: Any,
    parameters: NeuronParameters,
    *others: Any,
    axis: int | None = None,
    per_image: bool = False,
) -> Any:
    """Runs `function(form, x, rows, *others)` as one compiled kernel, made once per form and K.

    Args:
        function: of a `Form`, gate inputs (images, before, channels, behind), their `Rows` and `others`;
            a function of a module, as kernels are kept by its identity. With neither `others` nor `per_image` it
            is element-wise, and gets them as (entries, channels, behind), or flat where all channels have the
            same set.
        x: float32 gate inputs, any shape.
        parameters: T, h, d.
        others: float32 tensors.
        axis: of the channels, where `parameters` are the same for all but `others` are not.
        per_image: whether the first axis of x is that of the images; else all of them are one.

    Returns:
        What `function` gives; what has the shape of the gate inputs gets that of x.

    Raises:
        ValueError: x has another number of channels than `parameters`.
    """
    form, K = NATIVE if runs_numpy(x) else fastest_form(parameters), parameters.K
    # (3, K, channels), or (3, K, 1) where all channels have the same set.
    values = np.reshape((parameters.T, parameters.h, parameters.d), (3, K, -1))
    if isinstance(parameters, ChannelParameters):
        axis = parameters.axis
        _check_channels(x.shape, parameters)
    if not others and not per_image:
        if axis is None:
            kernel = _shared_kernel(function, form, K, inner_rank=0)
            return kernel(_padding(x.shape), (), x, ops.convert_to_tensor(values))
        behind = x.shape[axis % len(x.shape) + 1 :]
        if None not in behind and 0 not in behind:
            return _channel_wise(function, form, x, values, tuple(behind))
    rows, shape = ops.convert_to_tensor(values), ops.shape(x)
    kernel = _kernel(function, form, K, tuple(len(o.shape) for o in others))
    results = kernel(ops.reshape(x, _blocks(shape, axis, per_image)), rows, *others)
    if isinstance(results, tuple):
        return tuple(ops.reshape(r, shape) if len(r.shape) == 4 else r for r in results)
    return ops.reshape(results, shape)


@functools.lru_cache(maxsize=MOST_KERNELS)
def _kernel(
    function: Callable[..., Any], form: Form, K: int, ranks: tuple[int, ...]
) -> Callable[..., Any]:
    def on_rows(x: Any, rows: Any, *others: Any) -> Any:
        return function(form, x, Rows(*ops.unstack(rows[..., None])), *others)

    return fuse(on_rows, [(None,) * 4, (3, K, None), *((None,) * rank for rank in ranks)])


def _channel_wise(
    function: Callable[..., Any], form: Form, x: Any, values: np.ndarray, behind: tuple[int, ...]
) -> Any:
    """`function` of gate inputs whose channels, with axes of sizes `behind` after theirs, have sets of their own."""
    _, K, channels = values.shape
    padding = _padding(x.shape)
    more = 0
    if padding is Padding.ARRAY and not behind and compiles_kernels():
        more = power_of_two(channels, FEWEST_CHANNELS) - channels
        x = ops.pad(x, [*[[0, 0]] * (len(x.shape) - 1), [0, more]])
        values = np.pad(values, [(0, 0), (0, 0), (0, more)])
    inner = channels + more, math.prod(behind)
    kernel = _shared_kernel(function, form, K, inner_rank=2)
    results = kernel(padding, inner, x, ops.convert_to_tensor(values))
    return tree.map_structure(lambda r: r[..., :channels] if more else r, results)


@functools.lru_cache(maxsize=MOST_KERNELS)
def _shared_kernel(
    function: Callable[..., Any], form: Form, K: int, inner_rank: int
) -> Callable[..., Any]:
    """Of flat gate inputs with one set, or of (entries, channels, behind): sites of several sizes share it."""

    def on_rows(x: Any, rows: Any) -> Any:
        return function(form, x, Rows(*ops.unstack(rows[..., None] if inner_rank else rows)))

    return fuse_element_wise(on_rows, [(3, K, None if inner_rank else 1)], inner_rank)


def _padding(shape: Any) -> Padding:
    """None where all sizes are known, for it costs a copy; batches of any size are to compile nothing anew."""
    if is_small(shape):
        return Padding.ARRAY
    return Padding.BATCH if shape[0] is None else Padding.NONE


def is_small(shape: Any) -> bool:
    """Whether gate inputs of this shape share kernels of a few lengths."""
    return None not in shape[1:] and math.prod(shape[1:]) <= SMALL


def _blocks(shape: Any, axis: int | None, per_image: bool) -> tuple[Any, ...]:
    """(images, before, channels, behind) of gate inputs."""
    first = int(per_image)
    if axis is None:
        return math.prod(shape[:first]), 1, 1, math.prod(shape[first:])
    axis %= len(shape)
    if axis < first:
        raise ValueError(f"axis {axis} of gate inputs of shape {shape} is that of the images")
    before, behind = shape[first:axis], shape[axis + 1 :]
    return math.prod(shape[:first]), math.prod(before), shape[axis], math.prod(behind)


def _check_channels(shape: Any, parameters: ChannelParameters) -> None:
    rank = len(shape)
    channels = shape[parameters.axis] if -rank <= parameters.axis < rank else "missing"
    if channels not in (None, parameters.channels):
        raise ValueError(
            f"FS parameters {parameters.name!r} are for {parameters.channels} channels on axis"
            f" {parameters.axis}; the shape of the gate inputs is {tuple(shape)}"
        )


def equal_parts(shape: Any, most: int) -> int:
    """Into how many equal parts the neurons of an image can be cut, gate inputs having the shape (images, ...)."""
    known = math.prod(size for size in shape[1:] if size is not None)
    return max(parts for parts in range(1, most + 1) if known % parts == 0)


def in_parts(x: Any, parts: int) -> list[Any]:
    """So many equal parts of (images, before, channels, behind), each (images, neurons / parts).

    What is computed over parts is element-wise, which XLA on a CPU does far better than sums within a row.
    """
    images, *size = ops.shape(x)
    cut = ops.reshape(x, (images, parts, math.prod(size) // parts))
    return list(ops.unstack(cut, parts, axis=1))
