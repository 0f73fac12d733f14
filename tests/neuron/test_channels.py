"""Parameter sets that differ between channels, against a plain numpy loop for each channel."""

import keras
import numpy as np
import pytest
from conftest import gradient, plain_loop
from keras import ops

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.neuron import ChannelParameters, FSParameters, relu_parameters
from fs_neurons.neuron.sets import from_config, load, to_config

SWISH = load("swish_k8")


def scaled(s, domain=(-8.0, 12.0)):
    """The set for silu(s u) / s, and y = s f(x / s) of it."""
    return FSParameters(
        SWISH.T * s, SWISH.h * s, SWISH.d * s, name=f"swish_s{s:g}", domain=np.multiply(domain, s)
    )


MEMBERS = (scaled(1.0), scaled(4.0), scaled(0.25))
RELU = tuple(relu_parameters(4, alpha, "nearest") for alpha in (1.0, 8.0, 3.7))
BINARY = tuple(relu_parameters(4, alpha) for alpha in (1.0, 8.0, 2.0))
INDEX = [0, 2, 1, 1, 0]
# Shapes of gate inputs, and the axis with five channels.
SHAPES = [
    ((7, 4, 3, 5), -1),
    ((7, 5, 4, 3), 1),
    ((2, 3, 5, 2), -2),
    ((6, 5), 1),
    ((6, 5), -1),
    ((2, 5, 0), 1),
    ((2, 3, 5, 2, 2), 2),
    ((6, 5, 1, 1), 1),
]


def gate_inputs(shape, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(0, 6, shape).astype(np.float32)
    # Thresholds themselves, and what is not finite.
    at = np.concatenate([np.concatenate([p.T, p.T + p.h]) for p in (*MEMBERS, *BINARY)])
    flat = x.reshape(-1)
    places = random.permutation(flat.size)[: flat.size // 3]
    flat[places] = random.choice(at, len(places))
    if flat.size:
        flat[:3] = [np.nan, np.inf, -np.inf]
    return x


@pytest.mark.parametrize(
    ("shape", "axis", "members"),
    [
        *((*shape, MEMBERS) for shape in SHAPES),
        *((*shape, members) for shape in SHAPES[:2] for members in (RELU, BINARY)),
    ],
)
def test_all_functions_equal_the_plain_loop_of_each_channel(shape, axis, members):
    p = ChannelParameters(members, INDEX, axis)
    x = gate_inputs(shape)
    y, train, count = plain_loop(x, p)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(x, p)), y)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.spike_count(x, p)), count)
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.spike_train(x, p)), train)
    both, per_image = neuron.response_and_spikes(x, p)
    np.testing.assert_array_equal(ops.convert_to_numpy(both), y)
    expected = count.reshape(len(x), -1).sum(axis=1, dtype=np.int64)
    np.testing.assert_array_equal(ops.convert_to_numpy(per_image), expected)
    parts = neuron.response_and_count(ops.convert_to_tensor(x), p)
    for part, expected in zip(parts, (y, count), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(part), expected)
    soft, total = neuron.response_and_soft_spikes(x, p)
    np.testing.assert_array_equal(ops.convert_to_numpy(soft), y)
    np.testing.assert_array_equal(ops.convert_to_numpy(total), [count.sum(), x.size])


def test_a_single_row_of_channels():
    p = ChannelParameters(MEMBERS, INDEX)
    x = np.float32([3, -1, 7, 20, 0.3])
    np.testing.assert_array_equal(ops.convert_to_numpy(neuron.response(x, p)), plain_loop(x, p)[0])


@pytest.mark.parametrize(("shape", "axis"), SHAPES[:3])
def test_surrogate_derivative_is_that_of_each_channel(shape, axis):
    p = ChannelParameters(MEMBERS, INDEX, axis)
    x = np.random.default_rng(1).normal(0, 5, shape).astype(np.float32)
    derivative = np.moveaxis(ops.convert_to_numpy(neuron.surrogate_derivative(x, p)), axis, 0)
    for part, result, i in zip(np.moveaxis(x, axis, 0), derivative, INDEX, strict=True):
        expected = ops.convert_to_numpy(neuron.surrogate_derivative(part.copy(), MEMBERS[i]))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), SHAPES[:2])
@pytest.mark.parametrize("members", [MEMBERS, BINARY], ids=["swish", "closed form"])
def test_a_scale_of_each_channel_multiplies_its_set(shape, axis, members):
    p = ChannelParameters(members, INDEX, axis)
    scale = np.float32([0.3, 1.0, 2.7, 4.0, 1.1])
    x = gate_inputs(shape)
    along = scale.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    expected = plain_loop(x / along, p)[0] * along
    y = neuron.response(x, p, ops.convert_to_tensor(scale))
    np.testing.assert_array_equal(ops.convert_to_numpy(y), expected)
    layer = fs.FSActivation(p, per_channel=True, axis=axis)
    layer.build(shape)
    layer.scale.assign(scale)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), expected)


@pytest.mark.parametrize(("shape", "axis"), SHAPES[:2])
def test_it_trains_with_the_surrogate(shape, axis):
    p = ChannelParameters(MEMBERS, INDEX, axis)
    x = np.random.default_rng(1).normal(0, 5, shape).astype(np.float32)
    (dx,) = gradient(lambda x: 3.0 * neuron.response(x, p), x)
    expected = 3.0 * ops.convert_to_numpy(neuron.surrogate_derivative(x, p))
    np.testing.assert_allclose(ops.convert_to_numpy(dx), expected, rtol=1e-6)


def test_gradient_of_spikes_is_that_of_a_set_whose_spikes_count_one_each_trains():
    p = ChannelParameters(MEMBERS, INDEX)
    ones = [FSParameters(m.T, m.h, np.ones(m.K)) for m in MEMBERS]
    x = np.random.default_rng(1).normal(0, 5, (6, 5)).astype(np.float32)
    (dx,) = gradient(lambda x: neuron.response_and_soft_spikes(x, p)[1][:1], x)
    expected = neuron.surrogate_derivative(x, ChannelParameters(ones, INDEX))
    np.testing.assert_allclose(
        ops.convert_to_numpy(dx), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kind", ["silu", "sigmoid", "relu", "gelu"])
def test_a_saved_layer_keeps_its_sets(kind, data_format, tmp_path):
    last = data_format == "channels_last"
    p = ChannelParameters(MEMBERS, INDEX, -1 if last else 1)
    x = gate_inputs((2, 4, 4, 5) if last else (2, 5, 4, 4))
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            fs.layers.fs_layer(p, kind, name="site", per_channel=kind == "relu"),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    site = loaded.get_layer("site")
    assert type(site) is type(model.get_layer("site"))
    assert site.parameters == p and site.parameters.members == MEMBERS
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), plain_loop(x, p)[0])


def test_a_configuration_keeps_domains_and_names():
    p = ChannelParameters((*RELU, *BINARY), [5, 0, 1], axis=1)
    q = from_config(to_config(p))
    assert q == p and q.axis == 1 and q.name == p.name
    assert [m.domain for m in q.members] == [m.domain for m in p.members]
    with pytest.raises(ValueError, match="members"):
        from_config({"members": 3})
    with pytest.raises(ValueError, match="index"):
        from_config({**to_config(p), "index": [0, 6]})


def test_what_it_offers():
    p = ChannelParameters(MEMBERS, INDEX)
    assert p.K == 8 and p.channels == 5
    for name in ("T", "h", "d"):
        values = getattr(p, name)
        assert values.shape == (8, 5) and values.dtype == np.float32
        np.testing.assert_array_equal(values[:, 1], getattr(MEMBERS[2], name))
    low, high = p.domain
    np.testing.assert_array_equal(low, [-8, -2, -32, -32, -8])
    np.testing.assert_array_equal(high, [12, 3, 48, 48, 12])
    assert p.name == "swish_s1 .. swish_s0.25 (3 sets)"
    assert ChannelParameters(MEMBERS, [1, 1]).name == "swish_s4"
    with pytest.raises(ValueError):
        p.index[0] = 1


def test_equal_means_that_neurons_behave_the_same():
    p = ChannelParameters(MEMBERS, INDEX)
    other = ChannelParameters(MEMBERS[::-1], [2, 0, 1, 1, 2])
    assert p == other and hash(p) == hash(other)
    assert p != ChannelParameters(MEMBERS, [0, 2, 1, 1, 1])
    assert p != ChannelParameters(MEMBERS, INDEX, axis=1)
    assert p != MEMBERS[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((), [0]), ValueError, "missing"),
        (((SWISH, RELU[0]), [0, 1]), ValueError, "K is 4, 8"),
        (((SWISH, "swish"), [0, 1]), TypeError, "str"),
        ((MEMBERS, [0, 3]), ValueError, r"0\.\.2"),
        ((MEMBERS, [-1]), ValueError, r"0\.\.2"),
        ((MEMBERS, [0.5]), ValueError, "index"),
        ((MEMBERS, [[0]]), ValueError, "index"),
        ((MEMBERS, []), ValueError, "index"),
        ((MEMBERS, [0], "channels"), ValueError, "axis"),
    ],
)
def test_bad_members_and_indices_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ChannelParameters(*arguments)


def test_another_number_of_channels_is_refused():
    p = ChannelParameters(MEMBERS, INDEX)
    with pytest.raises(ValueError, match="5 channels"):
        neuron.response(np.zeros((2, 4), np.float32), p)
    with pytest.raises(ValueError, match=r"'site'.*5 channels"):
        fs.FSActivation(p, name="site")(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="same axis"):
        neuron.response(np.zeros((5, 5), np.float32), p, np.ones(5, np.float32), axis=0)
    with pytest.raises(ValueError, match="images"):
        neuron.response_and_spikes(
            np.zeros((5, 5), np.float32), ChannelParameters(MEMBERS, INDEX, 0)
        )


def test_sets_of_equal_K_share_their_kernels():
    from fs_neurons.neuron import fused

    def made():
        caches = fused._kernel, fused._shared_kernel
        return [cache.cache_info().misses for cache in caches]

    x = np.zeros((2, 5), np.float32)
    counts = []
    for s in np.linspace(2, 3, 20):
        neuron.response(x, scaled(s))
        neuron.response(x, ChannelParameters((scaled(s), SWISH), INDEX[:1] * 5))
        counts.append(made())
    assert counts == counts[:1] * len(counts)
