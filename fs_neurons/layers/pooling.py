"""Max-pooling of FS-neurons: what it computes, and the spikes that it does so with.

Of two neurons of one set, the one with the larger gate input is the first to fire alone: as long as both fire
together, its potential stays the larger one. So the largest of a window is known step by step: all its neurons begin
as candidates; at step t the pool fires if any candidate does, and then the candidates that did not fire drop out.
What is left has the spike train of the largest gate input, and so has the pool: `max_spikes`. Where the response
never falls, its output is the largest of the outputs, bit for bit, and a forward pass computes just that.
FS-ReLU is the plainest case: its spikes are the binary digits of its output, the most significant first.

`convert` puts `FSMaxPooling2D` where max-pooling follows neurons whose response never falls, directly or through
zero padding, which is silence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.backend import fuse, kernels_left_out
from fs_neurons.layers.activation import FSActivation, FSReLU
from fs_neurons.neuron import FSParameters, NeuronParameters, relu_parameters
from fs_neurons.neuron.sets import from_config, to_config
from fs_neurons.neuron.staircase import steps_of

# Up to here every code is tried out before a pool is built; the paper's largest K is 16.
MOST_STEPS = 16


def max_spikes(trains: Iterable[Sequence[Any]]) -> Iterator[Any]:
    """Spikes of the largest of several binary codes, step by step.

    Args:
        trains: for every time step, boolean tensors of one shape, one per candidate.

    Yields:
        The spikes of the pool at each step, a boolean tensor.
    """
    alive: list[Any] | None = None
    for spikes in trains:
        if alive is None:
            alive = [ops.ones_like(z) for z in spikes]
        fires = functools.reduce(
            ops.logical_or, (ops.logical_and(a, z) for a, z in zip(alive, spikes, strict=True))
        )
        yield fires
        silent = ops.logical_not(fires)
        alive = [
            ops.logical_and(a, ops.logical_or(z, silent))
            for a, z in zip(alive, spikes, strict=True)
        ]


@keras.saving.register_keras_serializable(package="fs_neurons")
class FSMaxPooling2D(layers.MaxPooling2D):
    """Max-pooling of the outputs of a layer of FS-neurons, which `spikes` does on their spikes.

    Where the channels of that layer have a scale, which is positive, its set is given without the scale.

    NaN gives NaN. The pool is a gate, not a neuron: it is neither counted as neurons nor its output as spikes.

    Args:
        K: number of time steps, of an FS-ReLU.
        alpha: upper end of its range.
        pool_size: height and width of the windows.
        kwargs: of keras.layers.MaxPooling2D, such as strides, padding and data_format.
        parameters: the set of other neurons, in place of K and alpha.

    Raises:
        ValueError: as `relu_parameters`, or float32 outputs of that FS-ReLU do not tell its spikes; or the
            response for `parameters` falls.
    """

    def __init__(
        self,
        K: int | None = None,
        alpha: float | None = None,
        pool_size: Any = (2, 2),
        parameters: NeuronParameters | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, **kwargs)
        self.parameters: NeuronParameters
        self.is_binary = parameters is None
        if parameters is not None:
            if isinstance(parameters, Mapping):  # from a saved model
                parameters = from_config(parameters)
            reason = obstacle_to_pooling(parameters)
            if reason:
                raise ValueError(f"FSMaxPooling2D: {reason}; use keras.layers.MaxPooling2D")
            self.parameters = parameters
            return
        if K is None or alpha is None:
            raise ValueError("FSMaxPooling2D takes K and alpha of an FS-ReLU, or parameters")
        # The outputs that it takes are multiples of the step, up to rounding where channels have a scale.
        self.parameters = relu_parameters(K, alpha, "nearest")
        if not _recoverable(self.parameters):
            raise ValueError(
                f"FSMaxPooling2D: the spikes of an FS-ReLU with K={K}, alpha={alpha!r} can't be recovered"
                " from its float32 output; use keras.layers.MaxPooling2D"
            )

    def call(self, x: Any) -> Any:
        if kernels_left_out():  # other runtimes pool NaN as they do
            return ops.cast(super().call(x), self.compute_dtype)
        # Pooling may lose NaN, but not infinity, which no FS-ReLU gives.
        y = _replaced(super().call(_replaced(x, np.nan, np.inf)), np.inf, np.nan)
        return ops.cast(y, self.compute_dtype)

    def spikes(self, currents: Any) -> Any:
        """The currents that the pool passes on, step by step, from those that reach it.

        Args:
            currents: d(t) z(t) of the neurons, (steps, images, ...), of known size; steps from K on are
                silent. A scale of its channels may be in them.

        Returns:
            d(t) z(t) of the pool, (steps, ...).
        """
        arriving = [self._windows(currents[t]) for t in range(self.parameters.K)]
        trains = ([ops.not_equal(current, 0) for current in windows] for windows in arriving)
        steps = []
        for windows, fires in zip(arriving, max_spikes(trains), strict=True):
            # All currents of a channel at a step are equal.
            current = functools.reduce(lambda a, b: ops.where(ops.not_equal(a, 0), a, b), windows)
            steps.append(ops.where(fires, current, ops.zeros_like(current)))
        silence = [ops.zeros_like(steps[0])] * (currents.shape[0] - len(steps))
        return ops.stack(steps + silence)

    def largest(self, x: Any) -> Any:
        """The largest gate input of each window, in any unit: its spikes are those of the pool."""
        return super().call(x)

    def _windows(self, x: Any) -> list[Any]:
        """The members of all windows: one tensor of the shape of the output per place in a window."""
        axes = (1, 2) if self.data_format == "channels_last" else (2, 3)
        padding = [(0, 0)] * 4
        counts = []
        for axis, pool, stride in zip(axes, self.pool_size, self.strides, strict=True):
            size = x.shape[axis]
            if self.padding == "same":
                count = -(-size // stride)
                total = max(0, (count - 1) * stride + pool - size)
                padding[axis] = (total // 2, total - total // 2)
            else:
                count = (size - pool) // stride + 1
            counts.append(count)
        # Silent neurons all around: a code of zero is never above another.
        x = ops.pad(x, padding)
        windows = []
        for offsets in itertools.product(*(range(pool) for pool in self.pool_size)):
            index = [slice(None)] * 4
            for axis, offset, count, stride in zip(
                axes, offsets, counts, self.strides, strict=True
            ):
                index[axis] = slice(offset, offset + (count - 1) * stride + 1, stride)
            windows.append(x[tuple(index)])
        return windows

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.is_binary:
            assert isinstance(self.parameters, FSParameters)
            return {**config, "K": self.parameters.K, "alpha": self.parameters.alpha}
        return {**config, "parameters": to_config(self.parameters)}


def spiking_pool(pool: Any, source: Any) -> FSMaxPooling2D | None:
    """The layer that takes the place of a max-pooling layer behind `source`.

    Args:
        pool: layer of a network.
        source: layer whose output it pools.

    Returns:
        None where `source` is no layer of FS-neurons, or one whose spikes can't be pooled; `pool` is no
        MaxPooling2D; or outputs are not kept in float32.
    """
    if type(pool) is not layers.MaxPooling2D or not isinstance(source, FSActivation):
        return None
    if not source.compute_dtype == pool.compute_dtype == "float32":
        return None
    parameters = source.parameters
    known: dict[str, Any] = {"parameters": to_config(parameters)}
    if isinstance(source, FSReLU):
        alpha = source.parameters.alpha
        assert alpha is not None  # it takes no other set
        if _recoverable(relu_parameters(parameters.K, alpha, "nearest")):
            known = {"K": parameters.K, "alpha": alpha}
    if "parameters" in known and obstacle_to_pooling(parameters):
        return None
    spiking: FSMaxPooling2D = FSMaxPooling2D.from_config({**pool.get_config(), **known})
    return spiking


def obstacle_to_pooling(parameters: NeuronParameters) -> str:
    """Why the spikes of neurons don't tell the largest output of a window; empty if they do.

    Far below all thresholds the response of any neuron is 0, so that one that never falls is nowhere negative.
    """
    members = (parameters,) if isinstance(parameters, FSParameters) else parameters.used
    for member in members:
        if member.alpha is not None:
            continue
        steps = steps_of(member)
        if not member.d.all():
            return f"spikes of {member.name!r} at some steps are worth nothing"
        if steps is None or not (np.diff(steps.values) > 0).all():
            return f"the response of {member.name!r} falls somewhere"
    return ""


def _replaced(x: Any, old: float, new: float) -> Any:
    """x with `new` in place of `old`, either NaN or infinity; the gradient passes through."""

    def forward(x: Any) -> tuple[Any, Any]:
        flat = ops.reshape(ops.cast(x, "float32"), (-1,))
        y = ops.reshape(_replacement(old, new)(flat), ops.shape(x))
        return y, lambda *args, upstream=None: args[0] if upstream is None else upstream

    return ops.custom_gradient(forward)(x)


@functools.cache
def _replacement(old: float, new: float) -> Callable[[Any], Any]:
    is_old = ops.isnan if np.isnan(old) else ops.isinf
    return fuse(lambda x: ops.where(is_old(x), np.float32(new), x), [(None,)])


@functools.lru_cache(maxsize=32)
def _recoverable(parameters: FSParameters) -> bool:
    """Whether every float32 output of an FS-ReLU, put in again, gives the spikes that it came from."""
    if parameters.K > MOST_STEPS:
        return False
    digits = np.arange(2**parameters.K)[:, None] >> np.arange(parameters.K)[::-1] & 1
    v = np.zeros(len(digits), np.float32)
    for d, z in zip(parameters.d, digits.T, strict=True):
        v += d * z.astype(np.float32)
    for T, h, z in zip(parameters.T, parameters.h, digits.T, strict=True):
        if ((v >= T) != z).any():
            return False
        v -= h * z.astype(np.float32)
    return True
