"""What networks run: the equations compiled into one kernel per parameter set, with a surrogate gradient.

y = response(x, parameters)        # sum of d(t) z(t), equation (3)
n = spike_count(x, parameters)     # spikes per neuron
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.backend import fuse
from fs_neurons.neuron.equations import (
    closed_count,
    closed_response,
    float32,
    has_closed_form,
    loop_count,
    loop_derivative,
    loop_response,
    response_and_count,
)
from fs_neurons.neuron.parameters import FSParameters


def response(x: Any, parameters: FSParameters, scale: Any = None, axis: int = -1) -> Any:
    """Output of FS-neurons, equation (3): the sum of d(t) z(t).

    Differentiable with a surrogate: see `surrogate_derivative`.

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d.
        scale: float32 tensor (channels,): T, h and d of channel c are multiplied by scale[c], which
            gives scale R(x / scale), where R is the response without it.
        axis: of the channels.

    Returns:
        float32 tensor of the same shape. NaN gives NaN.
    """
    x = float32(x)
    if scale is None:
        return _differentiable(parameters)(x)
    shape = ops.shape(x)
    behind = math.prod(shape[axis % len(shape) + 1 :])
    rows = ops.reshape(x, (-1, scale.shape[0], behind))
    scale = ops.reshape(scale, (-1,))  # a custom gradient takes tensors, not the variable itself
    y = _differentiable_scaled(parameters)(rows, scale)
    return ops.reshape(y, shape)


def spike_count(x: Any, parameters: FSParameters) -> Any:
    """Number of spikes per neuron, 0, ..., K.

    Args:
        x: gate inputs, any shape; cast to float32. NaN fires no spike.
        parameters: T, h, d.

    Returns:
        int32 tensor of the same shape.
    """
    x = float32(x)
    return ops.reshape(_fused_count(parameters)(ops.reshape(x, (-1,))), ops.shape(x))


def response_and_spikes(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    """Response of every neuron and spikes per image, in one pass.

    Args:
        x: gate inputs (images, ...); cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensor of the same shape and int32 tensor (images,). Carries no gradient.
    """
    x = float32(x)
    shape = ops.shape(x)
    y, spikes = _fused_both(parameters)(ops.reshape(x, (shape[0], -1)))
    return ops.reshape(y, shape), spikes


def response_and_soft_spikes(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    """The response, and how many spikes all neurons fire, with the gradient of the surrogate.

    The number of spikes is the response of neurons whose every spike counts 1.

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensors, of the same shape and (2,): spikes and neurons.
    """
    z = response(x, dataclasses.replace(parameters, d=np.ones(parameters.K)))
    return response(x, parameters), ops.stack([ops.sum(z), ops.sum(ops.ones_like(z))])


def surrogate_derivative(x: Any, parameters: FSParameters) -> Any:
    """Derivative of the response with a triangle in place of the derivative of Theta.

    dz(t)/dv(t) = max(0, 1 - |v(t) - T(t)| / w(t)) / w(t) with width w(t) = |h(t)| (|d(t)| where h(t)
    is 0), carried through equations (1)-(3). With this width the derivative of FS-ReLU lies in [0, 1].

    Args:
        x: gate inputs, any shape; cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensor of the same shape.
    """
    x = float32(x)
    return ops.reshape(_fused_derivative(parameters)(ops.reshape(x, (-1,))), ops.shape(x))


# --- what is compiled -----------------------------------------------------------------------------


def _response_and_row_sums(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    y, count = response_and_count(x, parameters)
    return y, ops.sum(count, axis=1)


def _rule(parameters: FSParameters) -> Callable:
    """The response, as a function of gate inputs, in its fastest form."""
    rule = closed_response if has_closed_form(parameters) else loop_response
    return functools.partial(rule, parameters=parameters)


def _scaled_response(x: Any, scale: Any, parameters: FSParameters) -> Any:
    scale = scale[:, None]
    return _rule(parameters)(x / scale) * scale


def _scaled_derivatives(
    x: Any, scale: Any, upstream: Any, parameters: FSParameters
) -> tuple[Any, Any]:
    """Of y = scale R(x / scale) with respect to x and, by the product rule, to scale."""
    x = x / scale[:, None]
    dx = upstream * loop_derivative(x, parameters)
    return dx, ops.sum(upstream * _rule(parameters)(x) - dx * x, axis=(0, 2))


def _cached_per_parameters(build: Callable[[FSParameters], Callable]) -> Callable:
    # Sites with the same parameters share a kernel.
    return functools.lru_cache(maxsize=None)(build)


@_cached_per_parameters
def _fused_response(parameters: FSParameters) -> Callable:
    return fuse(_rule(parameters))


@_cached_per_parameters
def _fused_scaled_response(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(_scaled_response, parameters=parameters), ranks=(3, 1))


@_cached_per_parameters
def _fused_scaled_derivatives(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(_scaled_derivatives, parameters=parameters), ranks=(3, 1, 3))


@_cached_per_parameters
def _fused_count(parameters: FSParameters) -> Callable:
    rule = closed_count if has_closed_form(parameters) else loop_count
    return fuse(functools.partial(rule, parameters=parameters))


@_cached_per_parameters
def _fused_both(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(_response_and_row_sums, parameters=parameters), ranks=(2,))


@_cached_per_parameters
def _fused_derivative(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(loop_derivative, parameters=parameters))


@_cached_per_parameters
def _differentiable(parameters: FSParameters) -> Callable:
    @ops.custom_gradient
    def forward(x):
        y = ops.reshape(_fused_response(parameters)(ops.reshape(x, (-1,))), ops.shape(x))

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream * surrogate_derivative(x, parameters)

        return y, backward

    return forward


@_cached_per_parameters
def _differentiable_scaled(parameters: FSParameters) -> Callable:
    @ops.custom_gradient
    def forward(x, scale):
        y = _fused_scaled_response(parameters)(x, scale)

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return _fused_scaled_derivatives(parameters)(x, scale, upstream)

        return y, backward

    return forward
