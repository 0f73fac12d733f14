"""The lookup of a response equals the step loop on both sides of every breakpoint, and everywhere else."""

import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import ops

from fs_neurons.backend import without_kernels
from fs_neurons.neuron import ChannelParameters, FSParameters, response
from fs_neurons.neuron.families import available_families, load_family
from fs_neurons.neuron.lookup import NARROWEST, lookup_of
from fs_neurons.neuron.sets import available, load
from fs_neurons.neuron.staircase import steps_of

SETS = [load(name) for name in available()]


def looked_up(x, p):
    """The response as formats without kernels have it."""
    with without_kernels():
        return ops.convert_to_numpy(response(ops.convert_to_tensor(x), p))


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
        [np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 0.0, -0.0],
    ]
    x = np.concatenate(parts).astype(np.float32)
    # TensorFlow's processors take subnormal numbers for zero.
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


def outside_narrow_steps(x, p):
    """Gate inputs that are on no step of a few float32 numbers, which lookups leave out."""
    at = steps_of(p).breakpoints
    reach = max([abs(end) for end in p.domain if np.isfinite(end)] or [np.abs(at).max()])
    narrow = np.flatnonzero(np.diff(at) <= NARROWEST * reach)
    inside = [(x >= at[i]) & (x < at[i + 1]) for i in narrow]
    return x[~np.any(inside, axis=0)] if inside else x


@pytest.mark.parametrize("p", SETS, ids=lambda p: p.name)
def test_every_shipped_set_has_a_lookup_that_equals_its_loop(p):
    if lookup_of(p) is None:
        assert (
            p.K <= 6
        )  # breakpoints close to 0 and far out: the loop is written out, which is short
        return
    x = outside_narrow_steps(gate_inputs(p), p)
    assert len(x) > 60_000
    np.testing.assert_array_equal(looked_up(x, p), plain_loop(x, p)[0])


def test_members_of_the_families_have_a_lookup():
    members = []
    for name in available_families():
        activation, _, K = name.rpartition("_k")
        members += [member.set for member in load_family(activation, int(K))]
    assert len(members) > 30
    # Of the others, the loop is written out.
    assert sum(lookup_of(p) is None for p in members) <= 0.05 * len(members)


def test_random_sets_have_lookups_that_equal_their_loops_or_none():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        K = int(random.integers(1, 8))
        p = FSParameters(*np.round(random.normal(0, 3, (3, K)), int(random.integers(1, 6))))
        if lookup_of(p) is not None:
            found += 1
            x = outside_narrow_steps(gate_inputs(p), p)
            np.testing.assert_array_equal(looked_up(x, p), plain_loop(x, p)[0])
    assert found >= 15


@pytest.mark.parametrize("axis", [-1, 1])
def test_lookups_that_differ_between_channels(axis):
    one = load("swish_k16")
    members = [
        FSParameters(one.T * s, one.h * s, one.d * s, name=f"s{s}") for s in (1.0, 4.0, 0.25, 3.0)
    ]
    p = ChannelParameters(tuple(members), [0, 3, 1, 1, 3, 0], axis)
    x = np.random.default_rng(0).normal(0, 6, (50, 6, 40, 6)).astype(np.float32)
    at = np.concatenate([steps_of(member).breakpoints for member in members])
    x.reshape(-1)[: 20 * len(at)] = np.random.default_rng(1).permutation(np.tile(at, 20))
    np.testing.assert_array_equal(looked_up(x, p), plain_loop(x, p)[0])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow")
def test_nan_gives_nan():
    one = load("swish_k8")
    both = ChannelParameters((one, load("swish_k8")), [0, 1, 0])
    x = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(looked_up(x, one)).all()
    assert np.isnan(looked_up(x, both)).all()


def test_a_set_with_too_many_steps_has_no_lookup():
    h = 0.6 ** np.arange(20)
    assert lookup_of(FSParameters(h, h, h)) is None
