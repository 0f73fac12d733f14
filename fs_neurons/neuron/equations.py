"""Equations (1)-(3): the FS-neuron as a step loop, and the closed form of its binary-coded special case.

A neuron starts with its gate input as membrane potential, v(1) = x, and for t = 1, ..., K

    z(t)   = Theta(v(t) - T(t))        equation (2); Theta(0) = 1
    v(t+1) = v(t) - h(t) z(t)          equation (1)

and its output is the sum of d(t) z(t), equation (3). Theta(0) = 1 is what makes FS-ReLU exact on its
grid, section 1.2.2. All arithmetic is float32.

Binary-coded parameters (FS-ReLU) need no loop: their spikes are the binary digits of
floor(x 2^K / alpha). Both forms give the same result, bit for bit. Nothing here is compiled; `kernels`
does that. T, h and d come as `Rows`: numbers, or arrays that differ between channels.

Reference: Stöckl and Maass, "Optimized spiking neurons can classify images with high accuracy through
temporal coding with two spikes", 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.backend import selected_sums
from fs_neurons.neuron.parameters import FSParameters, NeuronParameters, Rows

# A float32 has 24 significant bits: sums of d(t) are exact while alpha's bits and K fit into them.
FLOAT32_BITS = 24


def float32(x: Any) -> Any:
    return ops.cast(ops.convert_to_tensor(x), "float32")


def rows_for(x: Any, parameters: NeuronParameters) -> Rows:
    """T, h and d as tensors that broadcast with gate inputs x."""
    return Rows(*map(ops.convert_to_tensor, parameters.rows(len(x.shape))))


def steps(v: Any, rows: Rows) -> Iterator[tuple[Any, Any]]:
    """Whether z(t) = 1, and potentials v(t), t = 1, ..., K: equations (1) and (2)."""
    for T, h in zip(ops.unstack(rows.T), ops.unstack(rows.h), strict=True):
        z = v >= T
        yield z, v
        v = ops.where(z, v - h, v)  # v - h z, a tenth faster as a selection


def spike_train(x: Any, parameters: NeuronParameters) -> Any:
    """Spikes z(t) in {0, 1}, equation (2).

    Args:
        x: gate inputs, any shape; cast to float32. NaN crosses no threshold and fires no spike.
        parameters: T, h, d.

    Returns:
        float32 tensor of shape (*x.shape, K).
    """
    x = float32(x)
    train = [z for z, _ in steps(x, rows_for(x, parameters))]
    return ops.cast(ops.stack(train, axis=-1), "float32")


def loop_response(x: Any, rows: Rows) -> Any:
    y = ops.zeros_like(x)
    for (z, _), d in zip(steps(x, rows), ops.unstack(rows.d), strict=True):
        y = ops.where(z, y + d, y)
    return nan_to_nan(x, y)


def loop_count(x: Any, rows: Rows) -> Any:
    count = ops.zeros_like(x, dtype="int32")
    for z, _ in steps(x, rows):
        count = count + ops.cast(z, "int32")
    return count


def loop_both(x: Any, rows: Rows) -> tuple[Any, Any]:
    """Response, and number of spikes as float32."""
    spikes = zip((z for z, _ in steps(x, rows)), ops.unstack(rows.d), strict=True)
    y, count = selected_sums(spikes, x)
    return nan_to_nan(x, y), count


def loop_derivative(x: Any, rows: Rows) -> Any:
    dv = ops.ones_like(x)
    dy = ops.zeros_like(x)
    for (_, v), T, h, d in zip(steps(x, rows), *map(ops.unstack, rows), strict=True):
        width = ops.where(h != 0, ops.abs(h), ops.where(d != 0, ops.abs(d), np.float32(1)))
        dz = ops.maximum(0.0, 1.0 - ops.abs(v - T) / width) / width * dv
        dy = dy + d * dz
        dv = dv - h * dz
    return nan_to_nan(x, dy)


def nan_to_nan(x: Any, y: Any) -> Any:
    return ops.where(ops.isnan(x), x, y)


def has_closed_form(parameters: FSParameters) -> bool:
    """Binary coded, and every point up to alpha where the response changes is a float32."""
    if (
        parameters.alpha is None
        or parameters.alpha * 2.0**-parameters.K < np.finfo(np.float32).tiny
    ):
        return False
    mantissa = int(np.ldexp(np.frexp(parameters.alpha)[0], FLOAT32_BITS))
    significant = FLOAT32_BITS - (mantissa & -mantissa).bit_length() + 1
    half_steps = parameters.rounding == "nearest"
    return significant + parameters.K + half_steps <= FLOAT32_BITS


def binary_code(x: Any, rows: Rows) -> Any:
    """floor(x 2^K / alpha), or its nearest integer, within 0, ..., 2^K - 1: its digits are the spikes."""
    step = rows.h[-1]
    # Thresholds are those of "down", or half a step lower; half a step is exact, and so is this.
    ahead = (step - rows.T[-1]) / step
    top = np.float32(2**rows.K - 1)
    code = ops.clip(x * (np.float32(1) / step) + ahead, np.float32(-1), top + np.float32(1))
    code = ops.floor(code)
    # The product above is rounded; (half) multiples of the step are exact, so comparing with them is too.
    code = (
        code
        + ops.cast(x >= (code + (1 - ahead)) * step, "float32")
        - ops.cast(x < (code - ahead) * step, "float32")
    )
    return ops.where(ops.isnan(x), np.float32(0), ops.clip(code, np.float32(0), top))


def closed_response(x: Any, rows: Rows) -> Any:
    return nan_to_nan(x, binary_code(x, rows) * rows.h[-1])


def closed_count(x: Any, rows: Rows) -> Any:
    """Population count of the binary code: pairs, nibbles and bytes are summed in parallel."""
    n = ops.cast(binary_code(x, rows), "int32")
    shift, mask = ops.right_shift, ops.bitwise_and
    n = n - mask(shift(n, 1), 0x55555555)
    n = mask(n, 0x33333333) + mask(shift(n, 2), 0x33333333)
    n = mask(n + shift(n, 4), 0x0F0F0F0F)
    return shift(n * 0x01010101, 24)


def closed_both(x: Any, rows: Rows) -> tuple[Any, Any]:
    return closed_response(x, rows), ops.cast(closed_count(x, rows), "float32")


@dataclasses.dataclass(frozen=True)
class Form:
    """How response and number of spikes are computed, as functions of gate inputs and `Rows`; `both` gives float32."""

    response: Callable[[Any, Rows], Any]
    count: Callable[[Any, Rows], Any]
    both: Callable[[Any, Rows], tuple[Any, Any]]


LOOP = Form(loop_response, loop_count, loop_both)
CLOSED = Form(closed_response, closed_count, closed_both)


def fastest_form(parameters: NeuronParameters) -> Form:
    """The closed form where every set has one, else the loop."""
    sets = (parameters,) if isinstance(parameters, FSParameters) else parameters.used
    return CLOSED if all(map(has_closed_form, sets)) else LOOP


def response_and_count(x: Any, parameters: NeuronParameters) -> tuple[Any, Any]:
    """Response and number of spikes of every neuron; not fused.

    Args:
        x: float32 tensor of gate inputs, any shape.
        parameters: T, h, d.

    Returns:
        float32 and int32 tensors of the same shape.
    """
    form, rows = fastest_form(parameters), rows_for(x, parameters)
    return form.response(x, rows), form.count(x, rows)
