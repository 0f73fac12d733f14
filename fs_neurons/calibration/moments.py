"""Mean and variance of every channel of a tensor, and what becomes of them on the way through a network.

Values are taken for Gaussian. Channels and branches are taken for independent; values of one channel are
not: at two places of a window they have the correlation NEIGHBOURS, at two places of an image DISTANT on
average.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

# Measured on ResNets and EfficientNet-B0 at the inputs of their convolutions and pools.
NEIGHBOURS, DISTANT = 0.7, 0.2
# Quadrature over a Gaussian, in standard deviations: the trapezoidal rule, which a kink hardly disturbs.
NODES = np.linspace(-8.0, 8.0, 2049)
DENSITY = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()

# Where statistics come from, best first; what is computed from several has the worst of theirs.
NORMALIZED, PROPAGATED, WEIGHTED, ASSUMED, UNKNOWN = SOURCES = (
    "batch normalization", "propagated", "propagated through weights", "assumed input", "unknown",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of a tensor, channel by channel, over images and positions.

    Attributes:
        mean, variance: float64 (channels,); NaN where unknown.
        axis: of the channels, counted with the batch, 1 or more.
        source: one of SOURCES.
    """

    mean: np.ndarray
    variance: np.ndarray
    axis: int
    source: str

    @property
    def channels(self) -> int:
        return len(self.mean)

    def derived(
        self, mean: Any, variance: Any, axis: int | None = None, source: str = PROPAGATED
    ) -> Moments:
        """Statistics that were computed from these."""
        return Moments(
            np.asarray(mean, float),
            np.asarray(variance, float),
            self.axis if axis is None else axis,
            _worst(source, self.source),
        )

    def along(self, axis: int, shape: Sequence[int]) -> Moments:
        """Statistics of the same tensor along another axis.

        Args:
            axis: counted with the batch, or from the end.
            shape: of the tensor, without the batch.
        """
        axis %= len(shape) + 1
        return self if axis == self.axis else self.reshaped(shape, shape, axis)

    def reshaped(self, old: Sequence[int], new: Sequence[int], axis: int) -> Moments:
        """Statistics along `axis` once the tensor of shape `old` is put into shape `new`."""
        layout = [1] * len(old)
        layout[self.axis - 1] = -1
        mean, variance = (
            np.moveaxis(np.broadcast_to(x.reshape(layout), old).reshape(new), axis - 1, 0)
            for x in (self.mean, self.variance)
        )
        return self.derived(*pooled(mean, variance), axis)


def unknown(channels: int, axis: int) -> Moments:
    """NaN for every channel."""
    return Moments(np.full(channels, np.nan), np.full(channels, np.nan), axis, UNKNOWN)


def constant(value: np.ndarray, axis: int) -> Moments:
    """Of an array without the batch, such as a weight that is added to every image."""
    mean = np.moveaxis(np.asarray(value, float), axis - 1, 0)
    return Moments(*pooled(mean, np.zeros_like(mean)), axis, NORMALIZED)


def mixture(parts: Sequence[Moments]) -> Moments:
    """Of values that belong to one of `parts` as often as to another.

    Parts of different widths are pooled into a single channel.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.channels for part in parts}) > 1:
        parts = [part.derived(*pooled(part.mean[None], part.variance[None])) for part in parts]
    mean, variance = (
        np.stack([getattr(part, name) for part in parts], axis=1) for name in ("mean", "variance")
    )
    return Moments(*pooled(mean, variance), parts[0].axis, _worst(*(p.source for p in parts)))


def pooled(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments for each entry of the first axis, from those of all its entries along the others."""
    mean, variance = (x.reshape(len(x), -1) for x in (mean, variance))
    return mean.mean(axis=1), variance.mean(axis=1) + mean.var(axis=1)


# --- arithmetic ---------------------------------------------------------------------------------


def affine(x: Moments, scale: Any, offset: Any) -> Moments:
    """Of scale x + offset; numbers, or arrays (channels,)."""
    return x.derived(x.mean * scale + offset, x.variance * np.square(scale))


def total(parts: Sequence[Moments], signs: Sequence[float]) -> Moments:
    """Of the sum of independent tensors, each times its sign."""
    return _combined(
        parts,
        sum(sign * part.mean for sign, part in zip(signs, parts, strict=True)),
        sum(sign**2 * part.variance for sign, part in zip(signs, parts, strict=True)),
    )


def product(parts: Sequence[Moments]) -> Moments:
    """Of the product of independent tensors, such as a feature map and its gate."""
    mean = functools.reduce(np.multiply, [part.mean for part in parts])
    square = functools.reduce(np.multiply, [part.variance + part.mean**2 for part in parts])
    return _combined(parts, mean, np.maximum(square - mean**2, 0.0))


def concatenated(parts: Sequence[Moments]) -> Moments:
    """Of tensors put side by side along their channels."""
    return _combined(
        parts,
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.variance for part in parts]),
    )


def average(x: Moments, positions: int, correlation: float) -> Moments:
    """Of the mean of several positions."""
    return x.derived(x.mean, x.variance * (correlation + (1 - correlation) / positions))


def maximum(x: Moments, positions: int) -> Moments:
    """Of the largest of several neighbours: a part that they share, and the largest of what they don't."""
    below = np.cumsum(DENSITY) - DENSITY / 2
    weights = DENSITY * below ** (positions - 1)
    weights = weights / weights.sum()
    mean = float(weights @ NODES)
    variance = float(weights @ NODES**2) - mean**2
    return x.derived(
        x.mean + np.sqrt((1 - NEIGHBOURS) * x.variance) * mean,
        x.variance * (NEIGHBOURS + (1 - NEIGHBOURS) * variance),
    )


def through(function: Callable[[Any], Any], x: Moments) -> Moments:
    """Of an element-wise function of Gaussian values, by quadrature."""
    at = x.mean[:, None] + np.sqrt(x.variance)[:, None] * NODES
    y = ops.convert_to_numpy(function(ops.convert_to_tensor(at.astype(np.float32)))).astype(float)
    mean = y @ DENSITY
    return x.derived(mean, np.square(y - mean[:, None]) @ DENSITY)


def weighted(x: Moments, kernel: np.ndarray, bias: Any, axis: int) -> Moments:
    """Of a convolution or, with a single tap, of a matrix product.

    Args:
        x: of its input.
        kernel: (taps, groups, inputs, outputs), the last two per group.
        bias: a number or an array (groups x outputs,).
        axis: of the output's channels.
    """
    mean, variance = (part.reshape(kernel.shape[1], -1) for part in (x.mean, x.variance))
    summed = kernel.sum(axis=0)
    apart, together = np.square(kernel).sum(axis=0), np.square(summed)
    correlation = NEIGHBOURS if len(kernel) > 1 else 0.0
    spread = (1 - correlation) * apart + correlation * together
    return x.derived(
        np.einsum("gi,gio->go", mean, summed).ravel() + bias,
        np.einsum("gi,gio->go", variance, spread).ravel(),
        axis,
        WEIGHTED,
    )


def _combined(parts: Sequence[Moments], mean: Any, variance: Any) -> Moments:
    source = _worst(PROPAGATED, *(part.source for part in parts))
    return Moments(mean, variance, parts[0].axis, source)


def _worst(*sources: str) -> str:
    return max(sources, key=SOURCES.index)
