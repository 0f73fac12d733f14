"""Distributions of gate inputs, and the cost of a set under them, against direct computation."""

import numpy as np
import pytest

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.calibration.candidates import few
from fs_neurons.calibration.distributions import PRIOR_SHARE, Histograms, Prior, staircase
from fs_neurons.neuron.sets import load


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("name", ["swish_k16", "swish_k16_paper", "sigmoid_k12", "tanh_k12"])
def test_a_staircase_is_the_response(name):
    parameters = load(name)
    stairs = staircase(parameters)
    assert (np.diff(stairs.cuts) >= 0).all()
    x = np.linspace(-20, 20, 100_001, dtype=np.float32)
    step = np.searchsorted(stairs.cuts, x, side="right")
    # At a cut itself float32 may decide otherwise.
    clear = np.abs(x[:, None] - stairs.cuts).min(axis=1) > 1e-4
    assert stairs.outputs[step][clear] == pytest.approx(
        np.asarray(neuron.response(x, parameters))[clear], abs=1e-5
    )
    assert (stairs.spikes[step] == np.asarray(neuron.spike_count(x, parameters)))[clear].all()


def test_costs_are_those_of_the_gate_inputs():
    random = np.random.default_rng(0)
    x = random.normal(size=(200_000, 3)).astype(np.float32) * np.float32([0.5, 2.0, 30.0]) + 1
    tables = Histograms.of(x).tables(silu)
    for parameters in (load("swish_k16"), fs.relu_parameters(8, 16.0)):
        error, spikes = tables.costs(staircase(parameters))
        y = np.asarray(neuron.response(x, parameters)).astype(float)
        expected = np.square(y - silu(x.astype(float))).mean(axis=0)
        # Within a bin, f is that of its centre.
        assert error == pytest.approx(expected, rel=0.05)
        count = np.asarray(neuron.spike_count(x, parameters)).mean(axis=0)
        assert spikes == pytest.approx(count, rel=0.01)
    assert tables.variance == pytest.approx(silu(x.astype(float)).var(axis=0), rel=1e-3)


def test_what_is_expected_on_other_images_widens_a_histogram():
    x = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    expected = Prior(np.array([0.0, 5.0]), np.array([1.0, 10.0]))
    histograms = Histograms.of(x, expected)
    assert histograms.shares.sum(axis=1) == pytest.approx([1, 1])
    assert histograms.low[1] <= 5 - 80 and histograms.low[1] + histograms.span[1] >= 5 + 80
    mean = (histograms.shares * histograms.centres).sum(axis=1)
    assert mean == pytest.approx(
        (1 - PRIOR_SHARE) * x.mean(axis=0) + PRIOR_SHARE * expected.mean, abs=0.1
    )


def test_merged_channels_are_their_mean():
    x = np.random.default_rng(0).normal(size=(50_000, 3)).astype(np.float32)
    x[:, 1] += 4
    merged = Histograms.of(x).merged(np.array([0, 1]))
    counts, _ = np.histogram(x[:, :2], len(merged.counts), merged.domain)
    assert np.abs(np.cumsum(merged.counts) - np.cumsum(counts) / counts.sum()).max() < 0.01


def test_only_candidates_that_save_something_are_kept():
    costs = np.array([[1.0, 1.0, 9.0], [9.0, 9.0, 1.0], [0.999, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert few(costs) == [0, 1]
