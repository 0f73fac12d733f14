"""What networks run: the equations compiled into kernels, with a surrogate gradient.

y = response(x, parameters)        # sum of d(t) z(t), equation (3)
n = spike_count(x, parameters)     # spikes per neuron

What is compiled, and how often: see `fused`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.backend import (
    element_wise,
    in_one_loop,
    kernels_left_out,
)
from fs_neurons.neuron.equations import (
    Form,
    float32,
    loop_derivative,
    loop_response,
    rows_for,
)
from fs_neurons.neuron.fused import equal_parts, in_parts, is_small, run_fused
from fs_neurons.neuron.lookup import Code, Lookup, Lookups, lookup_of
from fs_neurons.neuron.parameters import ChannelParameters, FSParameters, NeuronParameters, Rows

# Spikes of so many neurons are summed in the kernel: those of up to 31 steps then fit into a byte.
MOST_PARTS = 8


def response(
    x: Any, parameters: NeuronParameters, scale: Any = None, axis: int | None = None
) -> Any:
    """Output of FS-neurons, equation (3): the sum of d(t) z(t).

    Differentiable with a surrogate: see `surrogate_derivative`.

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d; of `ChannelParameters`, those of each channel.
        scale: float32 tensor (channels,): T, h and d of channel c are multiplied by scale[c], which
            gives scale R(x / scale), where R is the response without it.
        axis: of the channels of `scale`; that of the parameters, or the last, where missing.

    Returns:
        float32 tensor of the same shape. NaN gives NaN.

    Raises:
        ValueError: x has another number of channels than `parameters`, or `scale` another axis.
    """
    x = float32(x)
    if kernels_left_out():
        return _plain_response(x, parameters, scale, axis)
    if scale is None:
        y = run_fused(_response, ops.stop_gradient(x), parameters)
        return _with_surrogate(x, y, parameters)
    axis = _scale_axis(parameters, axis, len(x.shape))
    scale = ops.reshape(scale, (-1,))  # a custom gradient takes tensors, not the variable itself
    given = ops.stop_gradient(x), ops.stop_gradient(scale)
    y = run_fused(_scaled_response, given[0], parameters, given[1], axis=axis)
    return _with_scaled_surrogate(x, scale, y, parameters, axis)


def spike_count(x: Any, parameters: NeuronParameters) -> Any:
    """Number of spikes per neuron, 0, ..., K.

    Args:
        x: gate inputs, any shape; cast to float32. NaN fires no spike.
        parameters: T, h, d.

    Returns:
        int32 tensor of the same shape.

    Raises:
        ValueError: x has another number of channels than `parameters`.
    """
    return run_fused(_count, float32(x), parameters)


def response_and_spikes(x: Any, parameters: NeuronParameters) -> tuple[Any, Any]:
    """Response of every neuron and spikes per image, in one pass.

    The response is differentiable as that of `response`.

    Args:
        x: gate inputs (images, ...); cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensor of the same shape and int32 tensor (images,).

    Raises:
        ValueError: x has another number of channels than `parameters`.
    """
    x = float32(x)
    values = ops.stop_gradient(x)
    if isinstance(parameters, FSParameters) and is_small(x.shape):
        y, count = run_fused(_response_and_count, values, parameters)
        images, *size = ops.shape(x)
        spikes = ops.reshape(count, (images, math.prod(size)))
    else:
        function = _response_and_spikes(equal_parts(x.shape, MOST_PARTS))
        y, spikes = run_fused(function, values, parameters, per_image=True)
    return _with_surrogate(x, y, parameters), ops.sum(ops.cast(spikes, "int32"), axis=1)


def response_and_soft_spikes(x: Any, parameters: NeuronParameters) -> tuple[Any, Any]:
    """The response, and how many spikes all neurons fire, with the gradient of the surrogate.

    The number of spikes is the response of neurons whose every spike counts 1.

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensors, of the same shape and (2,): spikes and neurons.

    Raises:
        ValueError: x has another number of channels than `parameters`.
    """
    x = float32(x)
    y, count = run_fused(_response_and_count, ops.stop_gradient(x), parameters)
    y = _with_surrogate(x, y, parameters)
    z = _with_surrogate(x, count, parameters, _soft_count_derivative)
    return y, ops.stack([ops.sum(z), ops.sum(ops.ones_like(z))])


def surrogate_derivative(x: Any, parameters: NeuronParameters) -> Any:
    """Derivative of the response with a triangle in place of the derivative of Theta.

    dz(t)/dv(t) = max(0, 1 - |v(t) - T(t)| / w(t)) / w(t) with width w(t) = |h(t)| (|d(t)| where h(t)
    is 0), carried through equations (1)-(3). With this width the derivative of FS-ReLU lies in [0, 1].

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensor of the same shape.

    Raises:
        ValueError: x has another number of channels than `parameters`.
    """
    return run_fused(_derivative, float32(x), parameters)


# --- what is compiled -----------------------------------------------------------------------------


def _scale_axis(parameters: NeuronParameters, axis: int | None, rank: int) -> int:
    if not isinstance(parameters, ChannelParameters):
        return -1 if axis is None else axis
    if axis is not None and axis % rank != parameters.axis % rank:
        raise ValueError(
            f"scale is for axis {axis}, but FS parameters {parameters.name!r} for axis"
            f" {parameters.axis}: give both for the same axis"
        )
    return parameters.axis


def _response(form: Form, x: Any, rows: Rows) -> Any:
    return form.response(x, rows)


def _count(form: Form, x: Any, rows: Rows) -> Any:
    return form.count(x, rows)


def _response_and_count(form: Form, x: Any, rows: Rows) -> tuple[Any, Any]:
    return in_one_loop(*form.both(x, rows))


@functools.lru_cache(maxsize=MOST_PARTS)
def _response_and_spikes(parts: int) -> Callable[..., tuple[Any, Any]]:
    """The response, and the spikes of an image (images, neurons / parts), summed over so many parts of it."""

    def function(form: Form, x: Any, rows: Rows) -> tuple[Any, Any]:
        dtype = "uint8" if rows.K * parts < 2**8 else "int32"
        y, count = form.both(x, rows)
        y, count = in_one_loop(y, ops.cast(count, dtype))
        return y, functools.reduce(ops.add, in_parts(count, parts))

    return function


def _derivative(form: Form, x: Any, rows: Rows) -> Any:
    return loop_derivative(x, rows)


def _soft_count_derivative(form: Form, x: Any, rows: Rows) -> Any:
    """Of the number of spikes: the response where every d(t) is 1."""
    return loop_derivative(x, rows._replace(d=ops.ones_like(rows.d)))


def _scaled_response(form: Form, x: Any, rows: Rows, scale: Any) -> Any:
    scale = scale[:, None]
    return form.response(x / scale, rows) * scale


def _scaled_derivatives(
    form: Form, x: Any, rows: Rows, upstream: Any, scale: Any
) -> tuple[Any, Any]:
    """Of y = scale R(x / scale) with respect to x and, by the product rule, to scale."""
    upstream = ops.reshape(upstream, ops.shape(x))
    x = x / scale[:, None]
    dx = upstream * loop_derivative(x, rows)
    return dx, ops.sum(upstream * form.response(x, rows) - dx * x, axis=(0, 1, 3))


# --- for formats without kernels -----------------------------------------------------------------


def _plain_response(x: Any, parameters: NeuronParameters, scale: Any, axis: int | None) -> Any:
    """The response in few operations, the scale in constants that have to be there anyway."""
    if scale is not None:
        shape = [1] * len(x.shape)
        shape[_scale_axis(parameters, axis, len(shape))] = -1
        scale = ops.reshape(scale, shape)
    if isinstance(parameters, FSParameters) and parameters.alpha is not None:
        return _rounded(x, parameters, 1 if scale is None else scale)
    found = _lookup(parameters, len(x.shape))
    if found is not None:
        factor, lookup = found
        y = element_wise(lookup, x * (factor if scale is None else factor / scale))
    else:
        y = loop_response(x if scale is None else x / scale, rows_for(x, parameters))
    return y if scale is None else y * scale


def _rounded(x: Any, parameters: FSParameters, scale: Any) -> Any:
    """FS-ReLU as a rounding to multiples of alpha 2^-K.

    Exact where alpha is a power of two and there is no scale. Else x 2^K / alpha is itself rounded, upwards so
    that multiples keep their code, and gate inputs just below one (by 2^-22 of it) get the code of the next.
    """
    p = parameters
    step = p.h[-1] * scale
    exact = isinstance(scale, int) and np.frexp(p.h[-1])[0] == 0.5
    code = x * (np.float32(1 if exact else 1 + 2.0**-23) / step)
    if p.rounding == "nearest":
        # tf2onnx takes no scalar here.
        code = code + ops.convert_to_tensor(np.full(1, 0.5, np.float32))
    return element_wise(Code(2**p.K - 1), code) * step


def _lookup(parameters: NeuronParameters, rank: int) -> tuple[Any, Lookup | Lookups] | None:
    """What gate inputs are multiplied by, and the lookup that then gives the response; None where there is none."""
    if isinstance(parameters, FSParameters):
        return lookup_of(parameters)
    used, index = np.unique(parameters.index, return_inverse=True)
    found = [lookup_of(parameters.members[i]) for i in used]
    sets = [each for each in found if each is not None]
    if len(sets) < len(found):
        return None
    if len(sets) == 1:
        return sets[0]
    factors = np.array([scale for scale, _ in sets], np.float32)[index]
    factor = ops.convert_to_tensor(parameters.broadcast(factors[None], rank)[0])
    table = parameters.broadcast(index[None], rank)[0]
    return factor, Lookups(tuple(lookup for _, lookup in sets), table)


# --- gradients ------------------------------------------------------------------------------------


def _with_surrogate(
    x: Any, y: Any, parameters: NeuronParameters, derivative: Callable[..., Any] = _derivative
) -> Any:
    """y, which was computed from x without gradient, with the gradient of the surrogate."""

    def attached(x: Any, y: Any) -> tuple[Any, Callable[..., Any]]:
        def backward(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
            if upstream is None:
                (upstream,) = args
            return upstream * run_fused(derivative, x, parameters), ops.zeros_like(upstream)

        return y, backward

    return ops.custom_gradient(attached)(x, y)


def _with_scaled_surrogate(
    x: Any, scale: Any, y: Any, parameters: NeuronParameters, axis: int
) -> Any:
    def attached(x: Any, scale: Any, y: Any) -> tuple[Any, Callable[..., Any]]:
        def backward(*args: Any, upstream: Any = None) -> tuple[Any, Any, Any]:
            if upstream is None:
                (upstream,) = args
            flat = ops.reshape(upstream, (-1,))
            dx, dscale = run_fused(_scaled_derivatives, x, parameters, flat, scale, axis=axis)
            return dx, dscale, ops.zeros_like(upstream)

        return y, backward

    return ops.custom_gradient(attached)(x, scale, y)
