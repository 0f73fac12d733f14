import re

import numpy as np
import pytest
from conftest import plain_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from fs_neurons import neuron
from fs_neurons.neuron import FSParameters, relu_parameters, shift_relu
from fs_neurons.neuron import sets as parameters
from fs_neurons.neuron.equations import has_closed_form

SWISH = parameters.load("swish_k16_paper")
SIGMOID = parameters.load("sigmoid_k12_paper")
SPECIAL = np.float32(
    [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e-38, 0.0, -0.0, 25.0, 2.0**-149]
)


def ties(p):
    """Gate inputs at which some membrane potential meets its threshold, and their neighbours."""
    at = np.concatenate([p.T, p.T + p.h, p.T + np.cumsum(p.h) - p.h, np.arange(-3, 300) * p.T[-1]])
    at = at.astype(np.float32)
    return np.concatenate(
        [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
    )


def gate_inputs(p, seed=0):
    random = np.random.default_rng(seed)
    scale = max(1.0, float(np.abs(p.T).max()))
    return np.concatenate(
        [
            np.linspace(-12, 30, 100_001),
            random.normal(0, 2, 20_000) * scale,
            random.uniform(-100, 100, 10_000) * scale,
            ties(p),
            SPECIAL,
        ]
    ).astype(np.float32)


def assert_equal_bit_for_bit(x, p):
    y, train, count = plain_loop(x, p)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(x, p)), y)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.spike_count(x, p)), count)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.spike_train(x, p)), train)
    both, per_image = neuron.response_and_spikes(x[np.newaxis], p)
    np.testing.assert_array_equal(ops.convert_to_numpy(both)[0], y)
    assert int(ops.convert_to_numpy(per_image)[0]) == count.sum(dtype=np.int64)


@pytest.mark.parametrize("p", [SWISH, SIGMOID], ids=lambda p: p.name)
def test_fused_loop_equals_the_plain_loop_bit_for_bit(p):
    assert_equal_bit_for_bit(gate_inputs(p), p)


@pytest.mark.parametrize("K", [1, 2, 5, 10, 16, 23])
@pytest.mark.parametrize("alpha", [25.0, 10.0, 6.0, 1.0, 3.7, np.pi, 1e-3])
def test_relu_equals_the_plain_loop_bit_for_bit_in_closed_form_and_without(K, alpha):
    assert_equal_bit_for_bit(gate_inputs(relu_parameters(K, alpha)), relu_parameters(K, alpha))


def test_closed_form_serves_the_settings_of_the_paper():
    for K, alpha in ((10, 25), (10, 10), (6, 10), (10, 6)):
        assert has_closed_form(relu_parameters(K, alpha))
    assert not has_closed_form(relu_parameters(10, 3.7))
    assert not has_closed_form(SWISH)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(-20, 20, width=32, allow_nan=False)] * 3), min_size=1, max_size=3
    ),
    x=st.lists(st.floats(width=32), min_size=1, max_size=20),
)
def test_any_parameters_and_inputs_equal_the_plain_loop(rows, x):
    T, h, d = np.float32(rows).T
    # subnormal numbers may be flushed to zero by compiled code
    T, h, d = (np.where(np.abs(v) < 1e-30, 0, v) for v in (T, h, d))
    x = np.float32(x)
    x = np.where(np.abs(x) < 1e-30, np.float32(0), x)
    p = FSParameters(T, h, d)
    y, _, count = plain_loop(x, p)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(x, p)), y)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.spike_count(x, p)), count)


def test_relu_is_exact_on_its_grid_and_rounds_down_between():
    K, alpha = 10, 25.0
    p = relu_parameters(K, alpha)
    step = np.float32(alpha / 2**K)
    grid = np.arange(2**K, dtype=np.float32) * step
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(grid, p)), grid)
    below = np.nextafter(grid[1:], np.float32(0))
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(below, p)), grid[:-1])
    outside = ops.convert_to_numpy(neuron.response(np.float32([-1e6, -0.1, 25, 1e6]), p))
    np.testing.assert_array_equal(outside, [0, 0, grid[-1], grid[-1]])


def test_strict_comparison_would_be_one_step_low_on_all_but_one_grid_point():
    p = relu_parameters(10, 25)
    grid = np.arange(1024, dtype=np.float32) * p.T[-1]
    strictly = ops.convert_to_numpy(neuron.response(np.nextafter(grid, np.float32(-1)), p))
    assert (grid - strictly == p.T[-1]).sum() == 1023


@pytest.mark.parametrize("K", [1, 3, 10, 15])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_relu_equals_the_response_on_the_grid(K, dtype):
    n = np.arange(-50, 2**K + 50, dtype=dtype)
    p = relu_parameters(K, 25.0)
    step = p.T[-1]
    expected = ops.convert_to_numpy(neuron.response(n.astype(np.float32) * step, p))
    result = shift_relu(n, K)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(np.float32) * step, expected)


def test_integer_relu_refuses_floats_and_narrow_integers():
    with pytest.raises(TypeError, match="float64"):
        shift_relu(np.ones(3), 4)
    with pytest.raises(TypeError, match="11 bits"):
        shift_relu(np.ones(3, np.int8), 10)


def test_spike_train_has_one_axis_more_and_sums_to_the_response():
    x = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    train = ops.convert_to_numpy(neuron.spike_train(x, SWISH))
    assert train.shape == (2, 3, 4, 16)
    assert set(np.unique(train)) == {0.0, 1.0}
    np.testing.assert_allclose(
        train @ SWISH.d, ops.convert_to_numpy(neuron.response(x, SWISH)), atol=1e-5
    )


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0, 3), (2, 3, 4, 5)])
def test_shapes_are_kept(shape):
    x = np.zeros(shape, np.float32)
    for p in (SWISH, relu_parameters()):
        assert tuple(neuron.response(x, p).shape) == shape
        assert tuple(neuron.spike_count(x, p).shape) == shape


def swish(x):
    return x / (1 + np.exp(-x.astype(np.float64)))


def test_published_swish_has_its_known_errors_and_values():
    x = np.linspace(-8, 12, 2_000_001).astype(np.float32)
    square = (plain_loop(x, SWISH)[0] - swish(x)) ** 2
    inside = np.abs(x) <= 2
    assert square[inside].mean() == pytest.approx(0.00239, abs=5e-6)
    assert square[~inside].mean() == pytest.approx(0.00371, abs=5e-6)
    assert square.mean() == pytest.approx(0.00345, abs=5e-6)
    y, _, count = plain_loop(np.float32([0, 20, -4.12]), SWISH)
    np.testing.assert_allclose(y, [0.0662, 14.25, 0], atol=0.005)
    assert count[0] == 2
    assert len(np.unique(plain_loop(x, SWISH)[0])) == 86  # 106 over all gate inputs


def test_published_swish_fires_2_27_spikes_on_the_inputs_of_figure_5():
    x = np.random.default_rng(0).normal(-0.112, np.sqrt(1.99), 1_000_000).astype(np.float32)
    assert float(ops.convert_to_numpy(neuron.spike_count(x, SWISH)).mean()) == pytest.approx(
        2.27, abs=0.005
    )


def test_published_sigmoid_has_its_known_error():
    x = np.linspace(-10, 10, 1_000_001).astype(np.float32)
    error = (
        ops.convert_to_numpy(neuron.response(x, SIGMOID)) - 1 / (1 + np.exp(-x.astype(np.float64)))
    ) ** 2
    assert error.mean() == pytest.approx(1.44e-4, abs=5e-7)


def test_surrogate_derivative_of_relu_is_near_one_inside_and_zero_far_outside():
    p = relu_parameters(10, 25)
    inside = ops.convert_to_numpy(neuron.surrogate_derivative(np.linspace(0.1, 24, 1000), p))
    assert inside.min() > 0.95 and inside.max() <= 1.0 + 1e-6
    outside = ops.convert_to_numpy(neuron.surrogate_derivative(np.float32([-40, -1, 60]), p))
    np.testing.assert_array_equal(outside, 0)


def test_surrogate_derivative_of_swish_follows_its_derivative():
    x = np.linspace(-4, 4, 4001)
    s = 1 / (1 + np.exp(-x))
    true = s * (1 + x * (1 - s))
    surrogate = ops.convert_to_numpy(neuron.surrogate_derivative(x, SWISH))
    assert np.corrcoef(surrogate, true)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (dict(T=[1, 2], h=[1], d=[1, 2]), "equal length"),
        (dict(T=[], h=[], d=[]), "K >= 1"),
        (dict(T=[[1]], h=[[1]], d=[[1]]), r"shape is \(1, 1\)"),
        (dict(T=[1, np.nan], h=[1, 1], d=[1, 1]), r"T\(2\) is nan"),
        (dict(T=[1], h=[1], d=[1e300]), r"d\(1\) is inf"),
        (dict(T=["a"], h=[1], d=[1]), "not numeric"),
        (dict(T=[1], h=[1], d=[1], domain=(2, 1)), "domain"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_parameters_are_refused_with_their_name(rows, message):
    with pytest.raises(ValueError, match=message) as error:
        FSParameters(**rows, name="mine")
    assert "'mine'" in str(error.value)


@pytest.mark.parametrize("K", [0, -1, 2.5, True, "10"])
def test_relu_refuses_a_bad_K(K):
    with pytest.raises(ValueError, match=re.escape(repr(K))):
        relu_parameters(K, 25)


@pytest.mark.parametrize("alpha", [0, -1, np.nan, np.inf, 1e39, 1e-36])
def test_relu_refuses_a_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        relu_parameters(10, alpha)


def test_parameters_are_immutable_and_compare_by_their_numbers():
    p = relu_parameters(4, 8)
    with pytest.raises(ValueError):
        p.T[0] = 1
    assert p == FSParameters(p.T, p.h, p.d, name="another")
    assert hash(p) == hash(FSParameters(p.T, p.h, p.d))
    assert p != relu_parameters(4, 9)
    assert p.alpha == 8 and SWISH.alpha is None


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("name", ["relu", "swish_k16_paper"])
def test_a_scale_per_channel_is_that_of_inputs_and_outputs(name, axis):
    p = relu_parameters(4, 1.0, "nearest") if name == "relu" else parameters.load(name)
    scale = np.float32([0.1, 1.0, 3.7, 8.0])
    x = np.random.default_rng(0).normal(0, 5, (6, 4, 5, 4)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    along = scale.reshape((-1, 1, 1) if axis == 1 else (-1,))
    expected, *_ = plain_loop(x / along, p)
    y = ops.convert_to_numpy(neuron.response(x, p, ops.convert_to_tensor(scale), axis))
    np.testing.assert_array_equal(y, expected * along)


@pytest.mark.parametrize("p", [relu_parameters(3, 2.0), SWISH])
def test_soft_spikes_are_the_spikes(p):
    x = np.random.default_rng(0).normal(0, 2, (5, 4, 3)).astype("float32")
    y, total = neuron.response_and_soft_spikes(ops.convert_to_tensor(x), p)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(y), ops.convert_to_numpy(neuron.response(x, p))
    )
    exact = ops.convert_to_numpy(neuron.spike_count(x, p)).sum()
    np.testing.assert_array_equal(ops.convert_to_numpy(total), [exact, x.size])
