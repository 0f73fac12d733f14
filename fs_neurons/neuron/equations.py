"""Equations (1)-(3): the FS-neuron as a step loop, and the closed form of its binary-coded special case.

A neuron starts with its gate input as membrane potential, v(1) = x, and for t = 1, ..., K

    z(t)   = Theta(v(t) - T(t))        equation (2); Theta(0) = 1
    v(t+1) = v(t) - h(t) z(t)          equation (1)

and its output is the sum of d(t) z(t), equation (3). Theta(0) = 1 is what makes FS-ReLU exact on its
grid, section 1.2.2. All arithmetic is float32.

Binary-coded parameters (FS-ReLU) need no loop: their spikes are the binary digits of
floor(x 2^K / alpha). Both forms give the same result, bit for bit. Nothing here is compiled; `kernels`
does that.

Reference: Stöckl and Maass, "Optimized spiking neurons can classify images with high accuracy through
temporal coding with two spikes", 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.neuron.parameters import ROUNDINGS, FSParameters

# A float32 has 24 significant bits: sums of d(t) are exact while alpha's bits and K fit into them.
FLOAT32_BITS = 24


def float32(x: Any) -> Any:
    return ops.cast(ops.convert_to_tensor(x), "float32")


def steps(v: Any, parameters: FSParameters) -> Iterator[tuple[Any, Any]]:
    """Whether z(t) = 1, and potentials v(t), t = 1, ..., K: equations (1) and (2)."""
    for T, h in zip(parameters.T, parameters.h, strict=True):
        z = v >= T
        yield z, v
        v = ops.where(z, v - h, v)  # v - h z, a tenth faster as a selection


def spike_train(x: Any, parameters: FSParameters) -> Any:
    """Spikes z(t) in {0, 1}, equation (2).

    Args:
        x: gate inputs, any shape; cast to float32. NaN crosses no threshold and fires no spike.
        parameters: T, h, d.

    Returns:
        float32 tensor of shape (*x.shape, K).
    """
    train = [z for z, _ in steps(float32(x), parameters)]
    return ops.cast(ops.stack(train, axis=-1), "float32")


def loop_response(x: Any, parameters: FSParameters) -> Any:
    y = ops.zeros_like(x)
    for d, (z, _) in zip(parameters.d, steps(x, parameters), strict=True):
        y = ops.where(z, y + d, y)
    return nan_to_nan(x, y)


def loop_count(x: Any, parameters: FSParameters) -> Any:
    count = ops.zeros_like(x, dtype="int32")
    for z, _ in steps(x, parameters):
        count = count + ops.cast(z, "int32")
    return count


def loop_derivative(x: Any, parameters: FSParameters) -> Any:
    dv = ops.ones_like(x)
    dy = ops.zeros_like(x)
    rows = zip(parameters.T, parameters.h, parameters.d, steps(x, parameters), strict=True)
    for T, h, d, (_, v) in rows:
        width = abs(h) or abs(d) or np.float32(1)
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


def binary_code(x: Any, parameters: FSParameters) -> Any:
    """floor(x 2^K / alpha), or its nearest integer, within 0, ..., 2^K - 1: its digits are the spikes."""
    step = parameters.h[-1]
    ahead = np.float32(ROUNDINGS[parameters.rounding or "down"])
    top = np.float32(2**parameters.K - 1)
    code = ops.clip(x * (np.float32(1) / step) + ahead, np.float32(-1), top + np.float32(1))
    code = ops.floor(code)
    # The product above is rounded; (half) multiples of the step are exact, so comparing with them is too.
    code = (
        code
        + ops.cast(x >= (code + (1 - ahead)) * step, "float32")
        - ops.cast(x < (code - ahead) * step, "float32")
    )
    return ops.where(ops.isnan(x), np.float32(0), ops.clip(code, np.float32(0), top))


def closed_response(x: Any, parameters: FSParameters) -> Any:
    return nan_to_nan(x, binary_code(x, parameters) * parameters.h[-1])


def closed_count(x: Any, parameters: FSParameters) -> Any:
    """Population count of the binary code: pairs, nibbles and bytes are summed in parallel."""
    n = ops.cast(binary_code(x, parameters), "int32")
    shift, mask = ops.right_shift, ops.bitwise_and
    n = n - mask(shift(n, 1), 0x55555555)
    n = mask(n, 0x33333333) + mask(shift(n, 2), 0x33333333)
    n = mask(n + shift(n, 4), 0x0F0F0F0F)
    return shift(n * 0x01010101, 24)


def response_and_count(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    """Response and number of spikes of every neuron; not fused, to be a part of a larger kernel.

    Args:
        x: float32 tensor of gate inputs, any shape.
        parameters: T, h, d.

    Returns:
        float32 and int32 tensors of the same shape.
    """
    if has_closed_form(parameters):
        return closed_response(x, parameters), closed_count(x, parameters)
    return loop_response(x, parameters), loop_count(x, parameters)
