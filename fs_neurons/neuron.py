"""The FS-neuron: K time steps, no leak, a threshold that changes from step to step.

    parameters = relu_parameters(K=10, alpha=25)
    y = response(x, parameters)        # sum of d(t) z(t), equation (3)
    z = spike_train(x, parameters)     # (..., K)
    n = spike_count(x, parameters)     # spikes per neuron

A neuron starts with its gate input as membrane potential, v(1) = x, and for t = 1, ..., K

    z(t)   = Theta(v(t) - T(t))        equation (2); Theta(0) = 1
    v(t+1) = v(t) - h(t) z(t)          equation (1)

and its output is the sum of d(t) z(t), equation (3). Theta(0) = 1 is what makes FS-ReLU exact on its
grid, section 1.2.2. All arithmetic is float32.

The step loop is compiled into one kernel. Binary-coded parameters (FS-ReLU) need no loop: their spikes
are the binary digits of floor(x 2^K / alpha). Both give bit for bit what the plain loop gives.

Reference: Stöckl and Maass, "Optimized spiking neurons can classify images with high accuracy through
temporal coding with two spikes", 2022.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops

from fs_neurons._backend import fuse

# A float32 has 24 significant bits: sums of d(t) are exact while alpha's bits and K fit into them.
FLOAT32_BITS = 24
# How FS-ReLU turns a gate input into a multiple of its step, and by how many steps it looks ahead.
ROUNDINGS = {"down": 0.0, "nearest": 0.5}


@dataclasses.dataclass(frozen=True, eq=False)
class FSParameters:
    """Thresholds T(t), resets h(t) and output weights d(t) of an FS-neuron, t = 1, ..., K.

    Attributes:
        T, h, d: float32 arrays of shape (K,), in the units of the gate input (T, h) and of the
            output (d). They are copied and can't be changed afterwards.
        name: what reports and layers call the set.
        source: where it comes from: a publication, a formula or the command that fitted it.
        domain: interval of gate inputs that it was made for.
        out_of_range: what the neuron does for gate inputs outside `domain`.
        errors: measured figures, by name, such as {"mse [-2, 2]": 0.00239}.

    Raises:
        ValueError: T, h, d differ in length, are empty, not one-dimensional or not finite, or the
            domain is not an interval.
    """

    T: np.ndarray
    h: np.ndarray
    d: np.ndarray
    name: str = "unnamed"
    source: str = ""
    domain: tuple[float, float] = (-np.inf, np.inf)
    out_of_range: str = ""
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in ("T", "h", "d"):
            try:
                values = np.array(getattr(self, field), dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise ValueError(f"FS parameters {self.name!r}: {field} is not numeric") from error
            if values.ndim != 1 or len(values) == 0:
                raise ValueError(
                    f"FS parameters {self.name!r}: {field} must be a list of K >= 1 numbers, one"
                    f" per time step; its shape is {values.shape}"
                )
            if not np.isfinite(values).all():
                bad = int(np.flatnonzero(~np.isfinite(values))[0])
                raise ValueError(
                    f"FS parameters {self.name!r}: {field}({bad + 1}) is {values[bad]}; every"
                    " parameter must be finite in float32"
                )
            values.flags.writeable = False
            object.__setattr__(self, field, values)
        if not len(self.T) == len(self.h) == len(self.d):
            raise ValueError(
                f"FS parameters {self.name!r}: T, h and d must have equal length, one entry per time"
                f" step; they have {len(self.T)}, {len(self.h)} and {len(self.d)}"
            )
        if len(self.domain) != 2 or not self.domain[0] < self.domain[1]:
            raise ValueError(
                f"FS parameters {self.name!r}: domain must be (low, high), got {self.domain}"
            )
        object.__setattr__(self, "domain", (float(self.domain[0]), float(self.domain[1])))

    @property
    def K(self) -> int:
        """Number of time steps."""
        return len(self.T)

    @functools.cached_property
    def alpha(self) -> float | None:
        """Upper end of the range of an FS-ReLU (h = d = alpha 2^-t); None for other sets."""
        alpha = 2.0 * float(self.h[0])
        halved = _bit_shifted(alpha, self.K)
        binary = alpha > 0 and np.array_equal(halved, self.h) and np.array_equal(halved, self.d)
        if not binary or self.rounding is None:
            return None
        return alpha

    @functools.cached_property
    def rounding(self) -> str | None:
        """How an FS-ReLU rounds: "down" (T = h), "nearest" (T half a step lower); None for other sets."""
        for rounding in ROUNDINGS:
            if np.array_equal(self.T, _thresholds(self.h, rounding)):
                return rounding
        return None

    def __eq__(self, other: object) -> bool:
        """Equal T, h and d, bit for bit: neurons that behave the same."""
        if not isinstance(other, FSParameters):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> tuple[bytes, bytes, bytes]:
        return self.T.tobytes(), self.h.tobytes(), self.d.tobytes()

    def __repr__(self) -> str:
        return f"FSParameters({self.name!r}, K={self.K}, domain={self.domain})"


def relu_parameters(K: int = 10, alpha: float = 25.0, rounding: str = "down") -> FSParameters:
    """FS-ReLU by bit shifts: T(t) = h(t) = d(t) = alpha 2^-t, section 1.2.2.

    The response is ReLU(x) without error on multiples of alpha 2^-K below alpha, rounded down to the
    next multiple between them, and alpha - alpha 2^-K from there on. With thresholds half a step lower,
    T(t) = alpha (2^-t - 2^-(K+1)), it is rounded to the nearest multiple instead.

    Args:
        K: number of time steps, the bits of the output.
        alpha: upper end of the range.
        rounding: "down", as in the paper, or "nearest".

    Raises:
        ValueError: K is not an integer >= 1, alpha 2^-K is not a positive normal float32, or rounding
            is neither.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if isinstance(K, bool) or not isinstance(K, (int, np.integer)) or K < 1:
        raise ValueError(f"K must be a number of time steps, an integer >= 1, got {K!r}")
    smallest, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    lowest = alpha * 2.0**-K * (1 - ROUNDINGS[rounding])
    if not (np.isfinite(alpha) and alpha <= largest and lowest >= smallest):
        raise ValueError(
            f"alpha must be positive, and alpha 2^-K a normal float32: got alpha={alpha!r}, K={K}"
        )
    halved = _bit_shifted(float(alpha), K)
    suffix = "" if rounding == "down" else f"_{rounding}"
    return FSParameters(
        T=_thresholds(halved, rounding),
        h=halved,
        d=halved,
        name=f"relu_k{K}_alpha{alpha:g}{suffix}",
        source="closed form, Stöckl and Maass, section 1.2.2",
        domain=(-np.inf, float(alpha)),
        out_of_range=f"saturates at alpha (1 - 2^-K) = {float(halved.sum(dtype=np.float64)):g}",
    )


def _bit_shifted(alpha: float, K: int) -> np.ndarray:
    return np.ldexp(np.float32(alpha), -np.arange(1, K + 1)).astype(np.float32)


def _thresholds(h: np.ndarray, rounding: str) -> np.ndarray:
    return h - np.float32(ROUNDINGS[rounding]) * h[-1]


def shift_relu(x: Any, K: int) -> np.ndarray:
    """FS-ReLU on integers, with nothing but compare, subtract and right shift.

    Args:
        x: integer array of gate inputs, in units of alpha 2^-K.
        K: number of time steps.

    Returns:
        Integer array of the same shape and dtype: the output in units of alpha 2^-K, equal to
        `response` bit for bit after multiplication by alpha 2^-K.

    Raises:
        TypeError: x is not of an integer type, or one too small for 2^(K-1).
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.integer) or np.iinfo(x.dtype).max < 2 ** (K - 1):
        raise TypeError(f"shift_relu needs integers of at least {K + 1} bits, got {x.dtype}")
    v = x.copy()
    T = x.dtype.type(2 ** (K - 1))
    for _ in range(K):
        v = np.where(v >= T, v - T, v)
        T = T >> x.dtype.type(1)
    return x - v


# --- public functions ---------------------------------------------------------------------------


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
    x = _float32(x)
    if scale is None:
        return _differentiable(parameters)(x)
    shape = ops.shape(x)
    behind = math.prod(shape[axis % len(shape) + 1 :])
    rows = ops.reshape(x, (-1, scale.shape[0], behind))
    scale = ops.reshape(scale, (-1,))  # a custom gradient takes tensors, not the variable itself
    y = _differentiable_scaled(parameters)(rows, scale)
    return ops.reshape(y, shape)


def spike_train(x: Any, parameters: FSParameters) -> Any:
    """Spikes z(t) in {0, 1}, equation (2).

    Args:
        x: gate inputs, any shape; cast to float32. NaN crosses no threshold and fires no spike.
        parameters: T, h, d.

    Returns:
        float32 tensor of shape (*x.shape, K).
    """
    train = [z for z, _ in _steps(_float32(x), parameters)]
    return ops.cast(ops.stack(train, axis=-1), "float32")


def spike_count(x: Any, parameters: FSParameters) -> Any:
    """Number of spikes per neuron, 0, ..., K.

    Args:
        x: gate inputs, any shape; cast to float32. NaN fires no spike.
        parameters: T, h, d.

    Returns:
        int32 tensor of the same shape.
    """
    x = _float32(x)
    return ops.reshape(_fused_count(parameters)(ops.reshape(x, (-1,))), ops.shape(x))


def response_and_spikes(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    """Response of every neuron and spikes per image, in one pass.

    Args:
        x: gate inputs (images, ...); cast to float32.
        parameters: T, h, d.

    Returns:
        float32 tensor of the same shape and int32 tensor (images,). Carries no gradient.
    """
    x = _float32(x)
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
    x = _float32(x)
    return ops.reshape(_fused_derivative(parameters)(ops.reshape(x, (-1,))), ops.shape(x))


# --- the step loop, and what is compiled from it ------------------------------------------------


def _float32(x: Any) -> Any:
    return ops.cast(ops.convert_to_tensor(x), "float32")


def _steps(v: Any, parameters: FSParameters):
    """Whether z(t) = 1, and potentials v(t), t = 1, ..., K: equations (1) and (2)."""
    for T, h in zip(parameters.T, parameters.h, strict=True):
        z = v >= T
        yield z, v
        v = ops.where(z, v - h, v)  # v - h z, a tenth faster as a selection


def _loop_response(x: Any, parameters: FSParameters) -> Any:
    y = ops.zeros_like(x)
    for d, (z, _) in zip(parameters.d, _steps(x, parameters), strict=True):
        y = ops.where(z, y + d, y)
    return _nan_to_nan(x, y)


def _loop_count(x: Any, parameters: FSParameters) -> Any:
    count = ops.zeros_like(x, dtype="int32")
    for z, _ in _steps(x, parameters):
        count = count + ops.cast(z, "int32")
    return count


def _loop_derivative(x: Any, parameters: FSParameters) -> Any:
    dv = ops.ones_like(x)
    dy = ops.zeros_like(x)
    rows = zip(parameters.T, parameters.h, parameters.d, _steps(x, parameters), strict=True)
    for T, h, d, (_, v) in rows:
        width = abs(h) or abs(d) or np.float32(1)
        dz = ops.maximum(0.0, 1.0 - ops.abs(v - T) / width) / width * dv
        dy = dy + d * dz
        dv = dv - h * dz
    return _nan_to_nan(x, dy)


def _nan_to_nan(x: Any, y: Any) -> Any:
    return ops.where(ops.isnan(x), x, y)


def _has_closed_form(parameters: FSParameters) -> bool:
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


def _binary_code(x: Any, parameters: FSParameters) -> Any:
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


def _closed_response(x: Any, parameters: FSParameters) -> Any:
    return _nan_to_nan(x, _binary_code(x, parameters) * parameters.h[-1])


def _closed_count(x: Any, parameters: FSParameters) -> Any:
    """Population count of the binary code: pairs, nibbles and bytes are summed in parallel."""
    n = ops.cast(_binary_code(x, parameters), "int32")
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
    if _has_closed_form(parameters):
        return _closed_response(x, parameters), _closed_count(x, parameters)
    return _loop_response(x, parameters), _loop_count(x, parameters)


def _response_and_row_sums(x: Any, parameters: FSParameters) -> tuple[Any, Any]:
    y, count = response_and_count(x, parameters)
    return y, ops.sum(count, axis=1)


def _rule(parameters: FSParameters) -> Callable:
    """The response, as a function of gate inputs, in its fastest form."""
    rule = _closed_response if _has_closed_form(parameters) else _loop_response
    return functools.partial(rule, parameters=parameters)


def _scaled_response(x: Any, scale: Any, parameters: FSParameters) -> Any:
    scale = scale[:, None]
    return _rule(parameters)(x / scale) * scale


def _scaled_derivatives(
    x: Any, scale: Any, upstream: Any, parameters: FSParameters
) -> tuple[Any, Any]:
    """Of y = scale R(x / scale) with respect to x and, by the product rule, to scale."""
    x = x / scale[:, None]
    dx = upstream * _loop_derivative(x, parameters)
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
    rule = _closed_count if _has_closed_form(parameters) else _loop_count
    return fuse(functools.partial(rule, parameters=parameters))


@_cached_per_parameters
def _fused_both(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(_response_and_row_sums, parameters=parameters), ranks=(2,))


@_cached_per_parameters
def _fused_derivative(parameters: FSParameters) -> Callable:
    return fuse(functools.partial(_loop_derivative, parameters=parameters))


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
