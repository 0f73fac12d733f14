"""Distributions of gate inputs that sets are fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from fs_neurons.calibration.expectation import EDGES

# Bins of a distribution that a set is fitted to.
FINE_BINS = 1024
# Share of the weight for inputs never met, spread evenly over the range of a fit. With more, sites of few
# steps spend their levels there.
SPREAD = 1e-4
# Distributions that differ by less than this (Kolmogorov-Smirnov) are the same.
SAME_DISTRIBUTION = 0.03

# What is rarer than this on either side is left out of the range of a fit.
RARE = 1e-6

Function = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Gate inputs that a set is fitted to: their density and the weight of errors, on equal bins of `domain`."""

    domain: tuple[float, float]
    centres: np.ndarray
    counts: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weight: np.ndarray | None = None) -> Distribution:
        """Of gate inputs, each with its weight."""
        domain = _with_margin(float(x.min()), float(x.max()))
        counts, edges = np.histogram(x, FINE_BINS, domain)
        weights = counts if weight is None else np.histogram(x, edges, weights=weight)[0]
        centres = (edges[1:] + edges[:-1]) / 2
        return cls(domain, centres, counts / counts.sum(), weights / weights.sum())

    @classmethod
    def of_cells(cls, probabilities: np.ndarray) -> Distribution:
        """Of the probabilities (cells,) of gate inputs, see `expectation`."""
        below = np.concatenate([[0.0], np.cumsum(probabilities) / probabilities.sum()])
        first = int(np.searchsorted(below, RARE, side="right")) - 1
        last = int(np.searchsorted(below, 1 - RARE))
        domain = _with_margin(float(EDGES[first]), float(EDGES[last]))
        edges = np.linspace(*domain, FINE_BINS + 1)
        counts = np.diff(np.interp(edges, EDGES, below))
        return cls(domain, (edges[1:] + edges[:-1]) / 2, counts, counts)

    def density(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(x, self.centres, self.counts + SPREAD / len(self.counts)))

    def weight(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(x, self.centres, self.weights + SPREAD / len(self.weights)))

    def like(self, other: Distribution) -> bool:
        at = np.linspace(
            min(self.domain[0], other.domain[0]), max(self.domain[1], other.domain[1]), 2048
        )
        return all(
            np.max(np.abs(self._below(at, mine) - other._below(at, others))) < SAME_DISTRIBUTION
            for mine, others in ((self.counts, other.counts), (self.weights, other.weights))
        )

    def _below(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(x, self.centres, np.cumsum(mass), left=0.0))


def _with_margin(low: float, high: float) -> tuple[float, float]:
    margin = max(0.05 * (high - low), 1e-3 * max(1.0, abs(low), abs(high)))
    return low - margin, high + margin


def as_numpy_function(function: Callable[[Any], Any]) -> Function:
    """An activation as a function of float64 arrays, computed in float32."""
    return lambda x: np.asarray(
        ops.convert_to_numpy(function(ops.convert_to_tensor(x.astype(np.float32)))), float
    )
