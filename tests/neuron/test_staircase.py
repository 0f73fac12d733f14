"""The table of a response equals the step loop on both sides of every breakpoint, and everywhere else."""

import numpy as np
import pytest
from conftest import plain_loop
from keras import ops

from fs_neurons.neuron import ChannelParameters, FSParameters
from fs_neurons.neuron.sets import available, load
from fs_neurons.neuron.staircase import staircase_response, steps_of

SETS = [load(name) for name in available()]


def gate_inputs(p):
    """Around every breakpoint, across and far beyond the domain."""
    at = steps_of(p).breakpoints
    wide = np.abs(at).max() + 1
    random = np.random.default_rng(0)
    parts = [
        at,
        np.nextafter(at, np.float32(np.inf)),
        np.nextafter(at, np.float32(-np.inf)),
        np.linspace(-20, 30, 50_001),
        random.normal(0, 1, 10_000) * wide,
        random.normal(0, 1e-3, 1_000),
        [np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 0.0, -0.0],
    ]
    x = np.concatenate(parts).astype(np.float32)
    # TensorFlow's processors take subnormal numbers for zero.
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


@pytest.mark.parametrize("p", SETS, ids=lambda p: p.name)
def test_every_shipped_set_has_a_table_that_equals_its_loop(p):
    x = gate_inputs(p)
    y = staircase_response(ops.convert_to_tensor(x), p)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), plain_loop(x, p)[0])


def test_random_sets_have_tables_that_equal_their_loops_or_none():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        K = int(random.integers(1, 8))
        p = FSParameters(*np.round(random.normal(0, 3, (3, K)), int(random.integers(1, 6))))
        y = staircase_response(ops.convert_to_tensor(np.zeros(1, np.float32)), p)
        if y is not None:
            found += 1
            x = gate_inputs(p)
            y = staircase_response(ops.convert_to_tensor(x), p)
            np.testing.assert_array_equal(ops.convert_to_numpy(y), plain_loop(x, p)[0])
    assert found >= 15


@pytest.mark.parametrize("axis", [-1, 1])
def test_tables_that_differ_between_channels(axis):
    one = load("swish_k12") if "swish_k12" in available() else load("swish_k16")
    members = [
        FSParameters(one.T * s, one.h * s, one.d * s, name=f"s{s}") for s in (1.0, 4.0, 0.25, 3.0)
    ]
    p = ChannelParameters(tuple(members), [0, 3, 1, 1, 3, 0], axis)
    x = np.random.default_rng(0).normal(0, 6, (50, 6, 40, 6)).astype(np.float32)
    at = np.concatenate([steps_of(member).breakpoints for member in members])
    x.reshape(-1)[: 20 * len(at)] = np.random.default_rng(1).permutation(np.tile(at, 20))
    x[0, :, 0, :] = np.nan
    y = staircase_response(ops.convert_to_tensor(x), p)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), plain_loop(x, p)[0])


def test_a_set_with_too_many_steps_has_no_table():
    h = 0.6 ** np.arange(20)
    p = FSParameters(h, h, h)
    assert staircase_response(ops.convert_to_tensor(np.zeros(3, np.float32)), p) is None
