"""Statistics of gate inputs that are streamed through."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class InputStatistics:
    """Gate inputs, over neurons and images.

    Attributes:
        count: how many.
        mean, variance: of them.
        minimum, maximum: of them.
        histogram: int64 array (bins + 2,): below the range, per bin, above it.
    """

    count: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    histogram: np.ndarray

    def merged(self, other: InputStatistics) -> InputStatistics:
        """Of both together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        difference = other.mean - self.mean
        squares = self.variance * self.count + other.variance * other.count
        squares += difference**2 * self.count * other.count / count
        return InputStatistics(
            count,
            self.mean + difference * other.count / count,
            squares / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.histogram + other.histogram,
        )
