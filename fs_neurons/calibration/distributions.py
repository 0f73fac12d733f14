"""Distributions of gate inputs, and what a parameter set costs under them.

    histograms = Histograms.of(x)                       # x: gate inputs (samples, channels)
    error, spikes = histograms.costs(staircase(parameters), f)

The response of a set is a staircase. Where the density is constant within a bin, the integrals over its
steps are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons.neuron import FSParameters

BINS = 1024
# Bins of a distribution that a set is fitted to.
FINE_BINS = 1024
# Share of the weight for inputs never met, spread evenly over the range of a fit. With more, sites of few
# steps spend their levels there.
SPREAD = 1e-4
# Distributions that differ by less than this (Kolmogorov-Smirnov) are the same.
SAME_DISTRIBUTION = 0.03

# Of the histograms of a channel, the share of what is expected on other images, and how many standard
# deviations of it they reach.
PRIOR_SHARE, REACH = 0.6, 8.0
# How many times wider other images are taken to be: what lies outside of a set's range does more harm.
PRIOR_WIDTH = 1.5

Function = Callable[[np.ndarray], np.ndarray]


class Staircase(NamedTuple):
    """The response of an FS-neuron.

    Attributes:
        cuts: (steps - 1,), ascending: gate inputs at which the spike train changes.
        outputs: (steps,), before the first cut, between them and behind the last.
        spikes: (steps,), number of spikes.
    """

    cuts: np.ndarray
    outputs: np.ndarray
    spikes: np.ndarray


def staircase(parameters: FSParameters) -> Staircase:
    """Gate inputs that share a spike history fire at step t from T(t) + the sum of their h(j) z(j) on."""
    left, right = np.array([-np.inf]), np.array([np.inf])
    offset, y, spikes = np.zeros(1), np.zeros(1), np.zeros(1, int)
    rows = (np.asarray(p, float) for p in (parameters.T, parameters.h, parameters.d))
    for T, h, d in zip(*rows, strict=True):
        threshold = T + offset
        silent, fires = threshold > left, threshold < right
        left, right = (
            np.concatenate([left[silent], np.maximum(left, threshold)[fires]]),
            np.concatenate([np.minimum(right, threshold)[silent], right[fires]]),
        )
        offset, y, spikes = (
            np.concatenate([v[silent], v[fires] + step])
            for v, step in ((offset, h), (y, d), (spikes, 1))
        )
    order = np.argsort(left)
    return Staircase(left[order][1:], y[order], spikes[order])


class Prior(NamedTuple):
    """What a channel will meet on other images than those of the calibration.

    Attributes:
        mean, deviation: (channels,).
    """

    mean: np.ndarray
    deviation: np.ndarray

    def below(self, x: np.ndarray) -> np.ndarray:
        """Share of the gate inputs below x (channels, points): a Laplace distribution, as tails are long."""
        deviation = PRIOR_WIDTH * np.maximum(self.deviation, 1e-6)[:, None]
        u = (x - self.mean[:, None]) * (math.sqrt(2) / deviation)
        return np.asarray(np.where(u < 0, 0.5 * np.exp(-np.abs(u)), 1 - 0.5 * np.exp(-np.abs(u))))


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Gate inputs of each channel of a site, on equal bins of its own range.

    Attributes:
        low, width: (channels,): where the first bin begins, and how wide each bin is.
        shares: (channels, bins): of the gate inputs.
    """

    low: np.ndarray
    width: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, prior: Prior | None = None) -> Histograms:
        """Of gate inputs (samples, channels), and of what else is to be expected of them."""
        low, high = x.min(axis=0).astype(float), x.max(axis=0).astype(float)
        if prior is not None:
            reach = REACH * PRIOR_WIDTH * prior.deviation
            low, high = (
                np.minimum(low, prior.mean - reach),
                np.maximum(high, prior.mean + reach),
            )
        # A channel that is constant has a width all the same.
        width = np.maximum((high - low) / BINS, 1e-6 * np.maximum(1.0, np.abs(low)))
        channels = x.shape[1]
        index = ((x - low.astype(np.float32)) * (1 / width).astype(np.float32)).astype(np.int32)
        np.clip(index, 0, BINS - 1, out=index)
        index += np.arange(channels, dtype=np.int32) * BINS
        counts = np.bincount(index.ravel(), minlength=channels * BINS)
        shares = counts.reshape(channels, BINS) / len(x)
        if prior is not None:
            edges = low[:, None] + np.arange(BINS + 1) * width[:, None]
            others = np.diff(prior.below(edges), axis=1)
            others /= others.sum(axis=1, keepdims=True)
            shares = (1 - PRIOR_SHARE) * shares + PRIOR_SHARE * others
        return cls(low, width, shares)

    @property
    def span(self) -> np.ndarray:
        """(channels,), from the first bin to the last."""
        return np.asarray(self.width * self.shares.shape[1])

    @property
    def centres(self) -> np.ndarray:
        """(channels, bins)."""
        return np.asarray(
            self.low[:, None] + (np.arange(self.shares.shape[1]) + 0.5) * self.width[:, None]
        )

    def tables(self, f: Function) -> Tables:
        """What `Tables.costs` of sets that stand for f need."""
        y = f(self.centres)
        mass, first = (
            np.concatenate([np.zeros((len(y), 1)), np.cumsum(self.shares * part, axis=1)], axis=1)
            for part in (np.ones_like(y), y)
        )
        return Tables(self.low, self.width, mass, first, np.sum(self.shares * y**2, axis=1))

    def merged(self, channels: np.ndarray) -> Distribution:
        """Of some of the channels together."""
        low, width = self.low[channels], self.width[channels]
        domain = _with_margin(float(low.min()), float((low + BINS * width).max()))
        edges = np.linspace(*domain, FINE_BINS + 1)
        below = np.zeros_like(edges)
        for first, bin_width, shares in zip(low, width, self.shares[channels], strict=True):
            ends = first + bin_width * np.arange(BINS + 1)
            below += np.interp(edges, ends, np.concatenate([[0.0], np.cumsum(shares)]))
        counts = np.diff(below) / len(low)
        return Distribution(domain, (edges[1:] + edges[:-1]) / 2, counts, counts)


class Tables(NamedTuple):
    """Integrals up to each edge of the histograms of a site, of the density and of density times f.

    Attributes:
        low, width: as of the histograms.
        mass, first: (channels, bins + 1).
        square: (channels,), the mean of f^2.
    """

    low: np.ndarray
    width: np.ndarray
    mass: np.ndarray
    first: np.ndarray
    square: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Of f, (channels,)."""
        return np.asarray(np.maximum(self.square - self.first[:, -1] ** 2, 1e-30))

    def costs(self, stairs: Staircase) -> tuple[np.ndarray, np.ndarray]:
        """Mean squared error, and spikes per neuron, of each channel with this response."""
        bins = self.mass.shape[1] - 1
        inside = (stairs.cuts > self.low.min()) & (
            stairs.cuts < (self.low + bins * self.width).max()
        )
        # Cuts outside of all histograms tell no gate inputs apart.
        first = int(np.count_nonzero(stairs.cuts <= self.low.min()))
        steps = slice(first, first + int(np.count_nonzero(inside)) + 1)
        cuts, outputs, spikes = stairs.cuts[inside], stairs.outputs[steps], stairs.spikes[steps]
        place = np.clip((cuts - self.low[:, None]) / self.width[:, None], 0, bins)
        index = np.minimum(place.astype(np.int64), bins - 1)
        part = place - index
        index += np.arange(len(self.low))[:, None] * (bins + 1)

        def between(table: np.ndarray) -> np.ndarray:
            flat = table.ravel()
            at = flat[index]
            at += part * (flat[index + 1] - at)
            return np.diff(at, axis=1, prepend=0.0, append=table[:, -1:])

        mass, f = between(self.mass), between(self.first)
        error = self.square + mass @ outputs**2 - 2 * (f @ outputs)
        return np.maximum(error, 0.0), mass @ spikes.astype(float)


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
