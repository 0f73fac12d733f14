"""Parameters from statistics: against plain numpy on drawn gate inputs, and on trained networks."""

import numpy as np
import pytest
from conftest import plain_loop
from keras import ops

import fs_neurons as fs
from fs_neurons.calibration import expectation, selection
from fs_neurons.calibration.expectation import (
    CENTRES,
    EDGES,
    FARTHEST,
    WIDTHS,
    Responses,
    mixture,
    observed,
    predicted,
)
from fs_neurons.calibration.moments import NORMALIZED, UNKNOWN
from fs_neurons.calibration.selection import (
    choose,
    expected_of_family,
    few,
    outside,
    price_of_spikes,
)
from fs_neurons.calibration.statistics import SiteStatistics
from fs_neurons.network import Site
from fs_neurons.neuron import ChannelParameters
from fs_neurons.neuron.families import at_scale, load_family

TAILS = expectation.TAILS[NORMALIZED]
RELU = Site("site", "relu", ops.relu)
RELU6 = Site("site", "relu(max_value=6)", lambda x: ops.clip(x, 0, 6), 6.0)
SILU = Site("site", "silu", ops.silu)


def statistics(mean, deviation, activation="relu", source=NORMALIZED, axis=-1, **known):
    channels = len(mean)
    known = {"importance": np.ones(channels), "share": 1 / channels, **known}
    mean, deviation = np.asarray(mean, float), np.asarray(deviation, float)
    return SiteStatistics("site", activation, mean, deviation, axis, source, **known)


def gate_inputs(mean, deviation, count=100_001):
    """Gate inputs (count, channels) of the distribution that the selection assumes, and probabilities."""
    widest = max(width for _, width in TAILS)
    z = np.linspace(-6 * widest, 6 * widest, count)[:, None]
    p = (1 - sum(share for share, _ in TAILS)) * np.exp(-(z**2) / 2)
    for share, width in TAILS:
        p += share / width * np.exp(-((z / width) ** 2) / 2)
    return np.asarray(mean) + np.asarray(deviation) * z, p / p.sum()


def silu(x):
    return x / (1 + np.exp(-np.clip(x, -700, 700)))


def test_probabilities():
    mean, deviation = np.array([0.0, -3.0, 100.0, 0.5]), np.array([1.0, 0.3, 40.0, 0.0])
    p = mixture(mean, deviation, TAILS)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    # Cells are up to 2 % wide, and a channel that never varies is as wide as one.
    np.testing.assert_allclose(p @ CENTRES, mean, atol=0.03, rtol=0.01)
    spread = np.sqrt((p * (CENTRES - mean[:, None]) ** 2).sum(axis=1))
    expected = deviation * np.sqrt(1 + sum(share * (width**2 - 1) for share, width in TAILS))
    np.testing.assert_allclose(spread[:3], expected[:3], rtol=0.02)
    assert spread[3] < 0.1
    assert WIDTHS.sum() > 2 * 0.98 * FARTHEST


def test_observed_probabilities():
    x = np.random.default_rng(0).normal(size=(1000, 3)) * [0.1, 3.0, 2000.0] + [0.0, -1.0, 0.0]
    x = np.concatenate([x, [[0.0, -1e9, 1e9]]]).astype(np.float32)
    expected = [np.histogram(np.clip(column, *EDGES[[0, -1]]), EDGES)[0] for column in x.T]
    found = observed(x) * len(x)
    assert found.sum(axis=1) == pytest.approx(len(x))
    # At an edge itself float32 may decide otherwise.
    assert np.abs(np.cumsum(found, axis=1) - np.cumsum(expected, axis=1)).max() <= 1


def test_expected_error_and_spikes():
    members = [at_scale("silu", p, s) for s, p in load_family("silu", 16)][:20]
    mean, deviation = [0.0, -1.0, 2.0], [1.0, 3.0, 0.5]
    expected = Responses.of(ops.silu, members).expected(predicted(statistics(mean, deviation)))
    x, p = gate_inputs(mean, deviation)
    exact = silu(x)
    for i, member in enumerate(members):
        y, _, count = plain_loop(x.astype(np.float32), member)
        # Cells are 0.02 wide, and more in the tails.
        np.testing.assert_allclose(expected.error[:, i], (p * (y - exact) ** 2).sum(0), rtol=0.15)
        bias = (p * (y - exact)).sum(0)
        np.testing.assert_allclose(
            expected.bias[:, i], bias, atol=0.1 * np.sqrt(expected.error[:, i].max())
        )
        np.testing.assert_allclose(expected.spikes[:, i], (p * count).sum(0), rtol=0.02, atol=0.02)
    variance = (p * exact**2).sum(0) - (p * exact).sum(0) ** 2
    np.testing.assert_allclose(expected.variance, variance, rtol=0.02)


def test_wide_channels_get_wide_members():
    deviation = np.array([0.2, 1, 8, 100])
    known = {"importance": deviation**-2.0, "share": 1e-6}  # relative errors count
    chosen = choose(statistics([0, 0, 0, 0], deviation, "silu", **known), SILU, 16)
    assert isinstance(chosen.parameters, ChannelParameters)
    assert chosen.scale is None
    _, high = chosen.parameters.domain  # far below 0, Swish is 0, as sets are beyond their domain
    assert (np.diff(high) >= 0).all()
    assert (high >= 2.5 * np.array([0.2, 1, 8, 100])).all()
    assert chosen.outside < 0.01
    # No set for all channels is better in any of them.
    x, p = gate_inputs([0] * 4, [0.2, 1, 8, 100])
    errors = [
        (p * (plain_loop(x.astype(np.float32), member)[0] - silu(x)) ** 2).sum(axis=0)
        for member in chosen.parameters.members
    ]
    own = np.array(errors)[chosen.parameters.index, np.arange(4)]
    # A mean error counts more than others.
    assert (own <= np.min(errors, axis=0) * 1.5).all()


def test_channels_that_matter_more_get_finer_members():
    known = {"importance": np.array([1.0, 1e3])}
    even, weighted = (
        choose(statistics([-1, -1], [1, 1], "silu", **more), SILU, 16, price=1e-2)
        for more in ({}, known)
    )
    assert isinstance(even.parameters, fs.FSParameters)
    coarse, fine = (weighted.parameters.members[i] for i in weighted.parameters.index)
    x, p = gate_inputs([-1], [1])
    errors = [
        (p * (plain_loop(x.astype(np.float32), member)[0] - silu(x)) ** 2).sum()
        for member in (coarse, fine)
    ]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_price_spends_so_many_spikes(scale):
    sites = [
        statistics([0, -2, 1], [1, 2, 3], "silu", importance=scale * np.ones(3), share=0.2),
        statistics([1.0], [5.0], "silu", importance=np.array([3 * scale]), share=0.4),
        statistics([np.nan], [np.nan], "silu", source=UNKNOWN),
        statistics([0.0], [1.0], "relu"),
    ]
    expected = [expected_of_family(site, 16) for site in sites]
    assert expected[2:] == [None, None]
    for most in (1.0, 2.0):
        price = price_of_spikes(list(zip(sites[:2], expected, strict=False)), most)
        chosen = [choose(site, SILU, 16, price=price) for site in sites[:2]]
        assert 0.6 * chosen[0].spikes + 0.4 * chosen[1].spikes == pytest.approx(most, rel=0.2)
    assert price_of_spikes([]) == 0


def test_single_sets_take_part():
    names = {member.name for member in selection.family("silu", 16).members}
    assert names > {"silu_k16_scale1", "swish_k16", "swish_k16_sparse"}
    assert names == {member.name for member in selection.family("swish", 16).members}


def test_rare_inputs_far_out_count():
    """A channel in which they are as costly as all others gets a set that reaches further."""
    known = statistics([0.0], [1.0], "silu")
    members = selection.family("silu", 16)
    near, far = (
        members.responses.expected(predicted(known, further=further)).error[0]
        for further in ((), ((1e-5, 40.0),))
    )
    reach = [members.members[i].domain[1] for i in (near.argmin(), far.argmin())]
    assert reach[1] > 2 * reach[0]


def test_only_candidates_that_save_something_are_kept():
    costs = np.array([[1.0, 1.0, 9.0], [9.0, 9.0, 1.0], [0.9999, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert few(costs) == [0, 1]


def test_one_set_where_all_channels_want_the_same():
    chosen = choose(statistics([0, 0], [1, 1], "silu", axis=1), SILU, 16)
    assert isinstance(chosen.parameters, fs.FSParameters)
    assert chosen.axis == 1


@pytest.mark.parametrize("K", [4, 8])
@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e4])
def test_ranges_of_relu(K, unit):
    """Within a fifth of the least error of any alpha, whose candidates are a fifth apart; at every scale."""
    mean, deviation = unit * np.array([0.0, 1.0, -2.0]), unit * np.array([1.0, 0.5, 2.0])
    chosen = choose(statistics(mean, deviation), RELU, K, spike_penalty=0.0)
    assert chosen.parameters == fs.relu_parameters(K, 1.0, "nearest")
    x, p = gate_inputs(mean, deviation)

    def error(alpha):
        step = alpha / 2**K
        y = np.clip(np.floor(x / step + 0.5), 0, 2**K - 1) * step
        return (p * (y - np.maximum(x, 0)) ** 2).sum(axis=0)

    best = np.min([error(deviation * alpha) for alpha in np.geomspace(0.5, 20, 40)], axis=0)
    assert (error(chosen.scale.astype(float)) <= best * 1.2).all()


def test_ranges_of_relu6():
    chosen = choose(statistics([0.0, 0.0, 3.0], [0.3, 10.0, 5.0]), RELU6, 8, spike_penalty=0.0)
    assert (chosen.scale <= 6).all()
    assert (chosen.scale[1:] > 5).all()
    assert chosen.scale[0] < 5
    assert chosen.outside < 0.01


def test_a_price_on_spikes():
    wide = statistics([0.0, 1.0], [1.0, 2.0])
    free, priced = (choose(wide, RELU, 8, spike_penalty=p) for p in (0.0, 1e-2))
    assert priced.spikes < free.spikes
    assert priced.error > free.error
    free, priced = (
        choose(statistics([0.0], [0.5], "silu", share=1e-3), SILU, 16, spike_penalty=p)
        for p in (0.0, 1e-1)
    )
    assert priced.spikes < free.spikes


def test_a_site_whose_width_differs_between_its_places_gets_one_set():
    chosen = choose(statistics([0.5], [1.0]), RELU, 6, spike_penalty=0.0)
    assert chosen.scale is None
    assert chosen.parameters.alpha > 1
    assert chosen.parameters.rounding == "nearest"


def test_nothing_is_chosen_where_nothing_is_known():
    assert choose(statistics([np.nan], [np.nan], source=UNKNOWN), RELU, 8) is None
    assert choose(statistics([0.0], [1.0], "elu"), Site("site", "elu", ops.elu)) is None
    assert (
        outside(statistics([np.nan], [np.nan], source=UNKNOWN), ops.relu, fs.relu_parameters())
        is None
    )
    with pytest.raises(FileNotFoundError, match="K = 3"):
        choose(statistics([0.0], [1.0], "silu"), SILU, 3)


def test_share_outside():
    p = fs.relu_parameters(8, 2.0, "nearest")
    found = outside(statistics([0.0, 1.0], [1.0, 1.0]), ops.relu, p)
    x, probabilities = gate_inputs([0.0, 1.0], [1.0, 1.0])
    assert found == pytest.approx((probabilities * (x > 2)).sum(axis=0).mean(), rel=0.03)
    sigmoid = fs.FSParameters(T=[0], h=[0], d=[1], domain=(-8, 8))
    # A single step is right far from 0: nothing is lost beyond the domain.
    assert outside(statistics([0.0], [20.0]), ops.sigmoid, sigmoid) == 0
    channels = ChannelParameters((p, fs.relu_parameters(8, 64.0, "nearest")), [0, 1])
    assert outside(statistics([9.0, 9.0], [1.0, 1.0]), ops.relu, channels) == pytest.approx(
        0.5, rel=0.01
    )


def test_default_steps_and_penalties():
    chosen = choose(statistics([0.0], [1.0]), RELU)
    assert chosen.parameters.K == selection.RELU_STEPS
    assert choose(statistics([0.0], [1.0], "silu"), SILU).parameters.K == 16
