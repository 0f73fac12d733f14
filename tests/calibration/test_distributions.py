"""Distributions that sets are fitted to, against the gate inputs that they are of."""

import numpy as np
import pytest

from fs_neurons.calibration.distributions import Distribution
from fs_neurons.calibration.expectation import observed


def test_cells_become_bins():
    x = np.random.default_rng(0).normal(size=(50_000, 2)).astype(np.float32)
    x[:, 1] += 4
    merged = Distribution.of_cells(observed(x).mean(axis=0))
    low, high = merged.domain
    assert low < x.min() and x.max() < high and high - low < 1.2 * (x.max() - x.min())
    counts, _ = np.histogram(x, len(merged.counts), merged.domain)
    assert np.abs(np.cumsum(merged.counts) - np.cumsum(counts) / counts.sum()).max() < 0.01


def test_distributions_that_differ_little_are_alike():
    x = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
    first, same, wider = (Distribution.of_cells(observed(y)[0]) for y in (x, x + 0.01, 2 * x))
    assert first.like(same) and not first.like(wider)
    assert first.density(np.array([0.0]))[0] == pytest.approx(
        0.4 * np.diff(first.centres)[0], rel=0.1
    )
