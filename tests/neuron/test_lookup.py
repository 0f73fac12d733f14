"""The lookup of a response equals the step loop on both sides of every breakpoint, and everywhere else."""

import keras
import numpy as np
import pytest
from conftest import on_x86, plain_loop
from keras import ops

from fs_neurons.backend import without_kernels
from fs_neurons.neuron import ChannelParameters, FSParameters, response
from fs_neurons.neuron.families import available_families, load_family
from fs_neurons.neuron.lookup import FARTHEST, MOST_CELLS, NARROWEST, NEAR, lookup_of
from fs_neurons.neuron.sets import available, load
from fs_neurons.neuron.staircase import steps_of

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow"
)
PUBLISHED = [load(name) for name in available()]


def members(family):
    activation, _, K = family.rpartition("_k")
    return [member.set for member in load_family(activation, int(K))]


def looked_up(x, p):
    """The response as formats without kernels have it."""
    with without_kernels():
        return ops.convert_to_numpy(response(ops.convert_to_tensor(x), p))


def reach(p):
    """Gate inputs between which the lookup has every breakpoint, and the larger end of the domain."""
    low, high = p.domain
    at = np.abs(steps_of(p).breakpoints).max()
    if not np.isfinite(high - low):
        return -2 * at, 2 * at, at
    margin = FARTHEST * (high - low)
    return low - margin, high + margin, max(abs(low), abs(high))


def gate_inputs(p, count):
    """Around every breakpoint, and across the domain and far beyond."""
    low, high, end = reach(p)
    at = steps_of(p).breakpoints
    at = at[(at >= low) & (at <= high)]
    random = np.random.default_rng(0)
    parts = [
        at,
        np.nextafter(at, np.float32(np.inf)),
        np.nextafter(at, np.float32(-np.inf)),
        random.uniform(-2 * end, 2 * end, count),
        random.uniform(low, high, count),
        random.normal(0, 1e-3, count // 8),
        [0.0, -0.0],
    ]
    x = np.concatenate(parts).astype(np.float32)
    x = x[(x >= low) & (x <= high)]
    # TensorFlow's processors take subnormal numbers for zero.
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


def assert_equals_its_loop(p, count=2_000):
    """Bit for bit, but at one breakpoint, on steps that together are narrower than what rounding every breakpoint
    may move, and far outside of the domain, where the response stays as it is."""
    x = gate_inputs(p, count)
    x = x[looked_up(x, p) != plain_loop(x, p)[0]]
    at = steps_of(p).breakpoints.astype(np.float64)
    low, high, end = reach(p)
    if len(x):
        scale, _ = lookup_of(p)
        near = np.abs(x[:, None] - at).min(axis=1) <= NEAR / scale
        near &= np.abs(x) * scale < 1
        left_out = np.unique(np.searchsorted(at, x[~near], side="right") - 1)
        assert (left_out >= 0).all()
        width = np.diff(at, append=np.inf)[left_out].sum()
        assert width <= NARROWEST * end * len(at), (p.name, width)
    far, ends = (np.array(each, np.float32) for each in ([-np.inf, np.inf], [low, high]))
    np.testing.assert_array_equal(looked_up(far, p), plain_loop(ends, p)[0])


@pytest.mark.parametrize("p", PUBLISHED, ids=lambda p: p.name)
def test_every_published_set_has_a_lookup_that_equals_its_loop(p):
    if p.alpha is None:
        assert lookup_of(p) is not None
    assert_equals_its_loop(p, count=30_000)


@on_tensorflow  # JAX would compile for the length of every table
@pytest.mark.parametrize("family", available_families())
def test_every_member_of_a_family_has_a_small_lookup_that_equals_its_loop(family):
    sets = members(family)
    cells = [len(lookup_of(p)[1].values) for p in sets]
    assert np.mean(cells) < 4_000
    assert max(cells) < 60_000 < MOST_CELLS
    for p in sets:
        assert_equals_its_loop(p)


def test_random_sets_have_lookups_that_equal_their_loops_or_none():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        K = int(random.integers(1, 8))
        p = FSParameters(*np.round(random.normal(0, 3, (3, K)), int(random.integers(1, 6))))
        if lookup_of(p) is not None:
            found += 1
            assert_equals_its_loop(p)
    assert found >= 20


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


@on_tensorflow
@pytest.mark.skipif(not on_x86(), reason="others make another integer of NaN: see Lookups")
def test_nan_gives_nan():
    one = load("swish_k8")
    both = ChannelParameters((one, load("swish_k8")), [0, 1, 0])
    x = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(looked_up(x, one)).all()
    assert np.isnan(looked_up(x, both)).all()


def test_a_set_with_too_many_steps_has_no_lookup():
    h = 0.6 ** np.arange(20)
    assert lookup_of(FSParameters(h, h, h)) is None
