"""Expected error, spikes and coverage of parameter sets for gate inputs of which only statistics are known.

Gate inputs of real networks have heavier tails than a Gaussian: those of a channel are taken for a mixture
of several with the same mean, see TAILS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.calibration.moments import NORMALIZED, PROPAGATED
from fs_neurons.calibration.statistics import SiteStatistics
from fs_neurons.neuron import FSParameters

Tails = Sequence[tuple[float, float]]

# Shares of the wider Gaussians, and their standard deviations over the predicted one: as measured on EfficientNet-B0
# behind batch normalization, and as suits ResNets behind sums, whose branches are not independent. More where
# statistics went through weights without a normalization behind them, which adds an error of their own.
TAILS: dict[str, Tails] = {
    NORMALIZED: ((0.1, 2.5), (0.0001, 7.0)),
    PROPAGATED: ((0.2, 3.0), (0.002, 7.0)),
}
UNCERTAIN_TAILS: Tails = ((0.3, 3.0),)
# For images unlike those of the training: a few channels meet fifty times their standard deviation there, and what is
# clipped then does more harm than all other errors.
FAR: Tails = ((3e-7, 40.0),)
# Cells of gate inputs: this fine near 0, in proportion further out, and so far. What a response does is averaged
# over so many places in each.
FINEST, GROWTH, FARTHEST = 0.02, 0.02, 4096.0
PLACES_PER_CELL = 16


_NEAR = np.arange(0.0, 1.0, FINEST)
_HALF = np.concatenate([_NEAR, np.exp(np.arange(0.0, np.log(FARTHEST), GROWTH))])
EDGES = np.concatenate([-_HALF[:0:-1], _HALF])
WIDTHS = np.diff(EDGES)
CENTRES = EDGES[:-1] + WIDTHS / 2
PLACES = EDGES[:-1, None] + WIDTHS[:, None] * (np.arange(PLACES_PER_CELL) + 0.5) / PLACES_PER_CELL


class Expected(NamedTuple):
    """What is expected of several sets, in each channel.

    Attributes:
        variance: of the exact output, (channels,).
        error: expected squared error, (channels, sets).
        bias: expected error, (channels, sets).
        spikes: per neuron, (channels, sets).
        outside: share of gate inputs that a set doesn't cover, (channels, sets).
    """

    variance: np.ndarray
    error: np.ndarray
    bias: np.ndarray
    spikes: np.ndarray
    outside: np.ndarray

    def of_sets(self, kept: Sequence[int]) -> Expected:
        """Of some of the sets."""
        return Expected(self.variance, *(of[:, kept] for of in self[1:]))


@dataclasses.dataclass(frozen=True, eq=False)
class Responses:
    """What several sets do on average in each cell.

    Attributes:
        exact, square: of the function that they stand for and of its square, (cells,).
        error, bias: squared difference from it, and the difference itself, (cells, sets).
        spikes: (cells, sets).
        outside: share that a set doesn't cover, (cells, sets).
    """

    exact: np.ndarray
    square: np.ndarray
    error: np.ndarray
    bias: np.ndarray
    spikes: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, function: Callable[[Any], Any], sets: Sequence[FSParameters]) -> Responses:
        """Of sets that stand for an element-wise function.

        A set covers its domain, and what is beyond as far as its error is at most twice that inside.
        """
        x = ops.convert_to_tensor(PLACES.astype(np.float32))
        exact = ops.convert_to_numpy(function(x)).astype(float)
        error, bias, spikes, outside = [], [], [], []
        for parameters in sets:
            y = ops.convert_to_numpy(neuron.response(x, parameters)).astype(float)
            count = ops.convert_to_numpy(neuron.spike_count(x, parameters))
            low, high = parameters.domain
            inside = (low <= PLACES) & (high >= PLACES)
            largest = np.abs(y - exact)[inside].max(initial=0.0)
            error.append(np.square(y - exact).mean(axis=1))
            bias.append((y - exact).mean(axis=1))
            spikes.append(count.mean(axis=1))
            outside.append((~inside & (np.abs(y - exact) > 2 * largest)).mean(axis=1))
        columns = (np.stack(rows, axis=1) for rows in (error, bias, spikes, outside))
        return cls(exact.mean(axis=1), np.square(exact).mean(axis=1), *columns)

    def expected(self, probabilities: np.ndarray) -> Expected:
        """Over gate inputs.

        Args:
            probabilities: (channels, cells), see `predicted` and `observed`.
        """
        mean = probabilities @ self.exact
        variance = np.maximum(probabilities @ self.square - mean**2, 0.0)
        of_sets = (self.error, self.bias, self.spikes, self.outside)
        return Expected(variance, *(probabilities @ of for of in of_sets))


def predicted(statistics: SiteStatistics, unit: float = 1.0, further: Tails = ()) -> np.ndarray:
    """Probabilities (channels, cells) of a site's gate inputs in multiples of `unit`, from what is known of them.

    Args:
        statistics: of the site.
        unit: of the probabilities.
        further: Gaussians besides those of TAILS.
    """
    tails = (*TAILS.get(statistics.source, UNCERTAIN_TAILS), *further)
    return mixture(statistics.mean / unit, statistics.deviation / unit, tails)


def observed(x: np.ndarray) -> np.ndarray:
    """Probabilities (channels, cells) of gate inputs (samples, channels)."""
    size = np.abs(x)
    far = len(_NEAR) + np.log(np.maximum(size, 1.0)) / np.float32(GROWTH)
    place = np.where(size < 1, size / np.float32(FINEST), far).astype(np.int32)
    place = np.minimum(place, len(_HALF) - 2)
    middle, cells = len(_HALF) - 1, len(CENTRES)
    place = np.where(x >= 0, middle + place, middle - 1 - place)
    place += np.arange(x.shape[1], dtype=np.int32) * cells
    counts = np.bincount(place.ravel(), minlength=x.shape[1] * cells)
    return counts.reshape(-1, cells) / len(x)


def mixture(mean: np.ndarray, deviation: np.ndarray, tails: Tails) -> np.ndarray:
    """Probabilities (channels, cells) of a Gaussian and wider ones, each with a share and a width.

    Channels that vary less than a cell is wide are taken to vary as much.
    """
    mean = np.clip(mean, -FARTHEST / 2, FARTHEST / 2)
    distance = np.maximum(FINEST, GROWTH * np.abs(mean))
    deviation = np.maximum(deviation, distance)
    z = (CENTRES - mean[:, None]) / deviation[:, None]
    density = (1 - sum(share for share, _ in tails)) * np.exp(-(z**2) / 2)
    for share, width in tails:
        density += share / width * np.exp(-((z / width) ** 2) / 2)
    probabilities = density * WIDTHS
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))
