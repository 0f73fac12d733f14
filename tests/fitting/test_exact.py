"""Staircases: intervals, error, spikes, best d and gradient against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_neurons.fitting.moves import coarse_to_fine
from fs_neurons.fitting.portable import new_random
from fs_neurons.fitting.problem import build_problem
from fs_neurons.fitting.staircase import (
    MAX_INTERVALS,
    enumerate_intervals,
    list_steps,
    new_staircase,
    objective,
)

DOMAIN = (-8.0, 12.0)
PAPER_INPUTS = (-0.112, 1.99)


def swish(x):
    return x / (1 + np.exp(-x))


def emphasis(x):
    return np.where(np.abs(x) <= 2, 4.0, 1.0)


def problem_of(function=swish, domain=DOMAIN, weight=None, penalty=0.0, guard=0.0):
    return build_problem(
        function, domain, weight=weight, spike_penalty=penalty, input_distribution=PAPER_INPUTS,
        guard=guard,
    )  # fmt: skip


def exactly(problem, T, h):
    """Objective, error, spikes, d and gradient."""
    T, h = np.array(T, float), np.array(h, float)
    d, gradient = np.zeros(len(T)), np.zeros((2, len(T)))
    values = objective(problem, T, h, d, new_staircase(len(T), MAX_INTERVALS), gradient)
    return *values, d, gradient


def brute_force(x, T, h):
    """Spike trains (len(x), K) in float64, equations (1) and (2)."""
    v, z = x.copy(), []
    for threshold, reset in zip(T, h, strict=True):
        z.append(v >= threshold)
        v = v - reset * z[-1]
    return np.stack(z, axis=-1).astype(float)


numbers = st.floats(-6, 10, allow_subnormal=False)
neurons = st.integers(1, 7).flatmap(
    lambda K: st.tuples(st.lists(numbers, min_size=K, max_size=K), st.lists(numbers, min_size=K, max_size=K))
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(neurons)
def test_intervals_are_those_on_which_the_spike_train_is_constant(Th):
    T, h = map(np.array, Th)
    stairs = new_staircase(len(T), MAX_INTERVALS)
    n = enumerate_intervals(T, h, *DOMAIN, stairs)
    edges = stairs.edge[0, : n + 1]
    assert edges[0] == DOMAIN[0] and edges[-1] == DOMAIN[1] and (np.diff(edges) > 0).all()
    x = np.random.default_rng(0).uniform(*DOMAIN, 2000)
    # A rounding error from a cut, either side is right.
    x = x[np.abs(x[:, None] - edges).min(axis=1) > 1e-9]
    bits = (stairs.spikes[0, :n, None] >> np.arange(len(T), dtype=np.uint64)) & np.uint64(1)
    found = bits[np.searchsorted(edges, x, side="right") - 1]
    assert np.array_equal(found, brute_force(x, T, h))


@settings(max_examples=25, deadline=None)
@given(neurons, st.sampled_from([None, emphasis]))
def test_error_and_spikes_are_those_of_a_dense_grid(Th, weight):
    T, h = map(np.array, Th)
    problem = problem_of(weight=weight, penalty=0.01)
    loss, error, spikes, d, _ = exactly(problem, T, h)
    x = np.linspace(*DOMAIN, 50_001)
    x = (x[1:] + x[:-1]) / 2
    z = brute_force(x, T, h)
    w = np.ones_like(x) if weight is None else weight(x)
    density = np.exp(-((x - PAPER_INPUTS[0]) ** 2) / (2 * PAPER_INPUTS[1]))
    assert error == pytest.approx(
        np.average((swish(x) - z @ d) ** 2, weights=w), rel=1e-3, abs=2e-3
    )
    assert spikes == pytest.approx(np.average(z.sum(axis=1), weights=density), abs=4e-3)
    assert loss == pytest.approx(error + 0.01 * spikes)


@settings(max_examples=60, deadline=None)
@given(neurons)
def test_d_is_the_least_squares_solution(Th):
    T, h = map(np.array, Th)
    _, error, _, d, _ = exactly(problem_of(), T, h)
    x = np.linspace(*DOMAIN, 50_001)
    z = brute_force(x, T, h)
    best, *_ = np.linalg.lstsq(z, swish(x), rcond=1e-6)
    assert error <= np.mean((swish(x) - z @ best) ** 2) + 2e-3
    assert np.mean((swish(x) - z @ d) ** 2) <= np.mean((swish(x) - z @ best) ** 2) + 2e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_gradient_agrees_with_finite_differences(K, seed):
    rng = np.random.default_rng(seed)
    problem = problem_of(weight=emphasis, penalty=0.05)
    x = np.zeros((2, K))
    coarse_to_fine(problem, x[0], x[1], new_random(seed))
    x += 0.1 * rng.normal(size=(2, K))  # so that no two cuts coincide
    gradient = exactly(problem, *x)[-1]
    size = 1e-6
    for index in np.ndindex(x.shape):
        loss, differences = exactly(problem, *x)[0], []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * size
            differences.append(sign * (exactly(problem, *moved)[0] - loss) / size)
        # Where the weight jumps there are two one-sided derivatives; one of them must be the gradient.
        nearest = min(differences, key=lambda slope: abs(slope - gradient[index]))
        assert nearest == pytest.approx(gradient[index], rel=0.02, abs=2e-3)


def test_a_staircase_with_too_many_intervals_costs_infinitely_much():
    T = h = 20 * 0.5 ** np.arange(1, 14)
    assert MAX_INTERVALS < 2**13
    assert exactly(problem_of(domain=(0.0, 20.0)), T, h)[0] == np.inf


def test_steps_are_listed_in_ascending_order():
    steps = np.zeros(62, np.uint64)
    for expected in ([], [0], [61], [3, 5, 40], list(range(62))):
        count = list_steps(np.uint64(sum(1 << t for t in expected)), steps)
        assert steps[:count].tolist() == expected


@settings(max_examples=25, deadline=None)
@given(neurons)
def test_the_guard_asks_for_the_values_at_the_ends_all_the_way_out(Th):
    T, h = map(np.array, Th)
    plain, guarded = problem_of(), problem_of(guard=0.5)
    _, error, _, d, _ = exactly(guarded, T, h)
    # The same d, measured by hand: the domain as without a guard, and each side by log-distance.
    distances = guarded.grid[-1] - DOMAIN[1]
    assert distances >= 1000 and guarded.grid[0] == pytest.approx(DOMAIN[0] - distances)
    edges = guarded.grid
    outside = np.concatenate(
        [
            np.arange(plain.cells * 0, guarded.first_cell),
            np.arange(len(edges) - 1 - guarded.first_cell, len(edges) - 1),
        ]
    )
    # Finely within each cell, as the weight is constant there.
    x = (
        edges[outside, None]
        + (np.arange(200) + 0.5) / 200 * (edges[outside + 1] - edges[outside])[:, None]
    )
    target = np.where(x < 0, swish(DOMAIN[0]), swish(DOMAIN[1]))
    strays = np.mean((brute_force(x.ravel(), T, h) @ d - target.ravel()) ** 2)
    inside = np.linspace(*DOMAIN, 50_001)
    inside = (inside[1:] + inside[:-1]) / 2
    expected = np.mean((brute_force(inside, T, h) @ d - swish(inside)) ** 2) + 2 * 0.5 * strays
    assert error == pytest.approx(expected, rel=2e-2, abs=5e-3)
