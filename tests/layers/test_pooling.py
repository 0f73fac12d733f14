"""Max-pooling from spikes equals max-pooling of decoded outputs."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.layers.pooling import max_spikes, obstacle_to_pooling

RANDOM = np.random.default_rng(0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 63), min_size=1, max_size=9))
def test_candidates_drop_out_until_the_largest_code_is_left(codes):
    def digits(code):
        return [np.array([code >> t & 1 == 1]) for t in reversed(range(6))]

    trains = zip(*(digits(code) for code in codes), strict=True)
    fired = [bool(ops.convert_to_numpy(z)[0]) for z in max_spikes([list(t) for t in trains])]
    assert sum(z << t for z, t in zip(fired, reversed(range(6)), strict=True)) == max(codes)


def test_spikes_do_not_wait_for_later_ones():
    """What the pool has fired by step t depends on spikes up to t only: it needs no decoding."""

    def trains():
        yield [np.array([True]), np.array([False])]
        yield [np.array([False]), np.array([True])]
        raise AssertionError("asked for a third step")

    pool = max_spikes(trains())
    assert [bool(ops.convert_to_numpy(next(pool))[0]) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("pool", "strides"), [((2, 2), None), ((3, 3), 2), ((2, 3), (1, 2)), ((1, 1), 3)]
)
def test_equal_to_max_pooling_of_outputs(pool, strides, padding, data_format):
    x = RANDOM.normal(3, 6, (2, 7, 8, 3)).astype("float32")
    y = ops.convert_to_numpy(fs.FSReLU(K=5, alpha=8)(x))
    layer = fs.FSMaxPooling2D(
        5, 8.0, pool_size=pool, strides=strides, padding=padding, data_format=data_format
    )
    strides = pool if strides is None else np.broadcast_to(strides, 2)
    expected = reference(y, pool, strides, padding)
    if data_format == "channels_first":
        y, expected = np.moveaxis(y, 3, 1), np.moveaxis(expected, 3, 1)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(y)), expected)
    assert layer.compute_output_shape(y.shape) == expected.shape


def reference(y, pool, strides, padding):
    """Loops over windows; what lies outside of the image takes no part."""
    sizes = y.shape[1:3]
    if padding == "same":
        counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        firsts = [
            -(max(0, (c - 1) * s + p - n) // 2)
            for n, c, s, p in zip(sizes, counts, strides, pool, strict=True)
        ]
    else:
        counts = [(n - p) // s + 1 for n, p, s in zip(sizes, pool, strides, strict=True)]
        firsts = [0, 0]
    out = np.empty((y.shape[0], *counts, y.shape[3]), y.dtype)
    for i, j in np.ndindex(*counts):
        top, left = firsts[0] + i * strides[0], firsts[1] + j * strides[1]
        window = y[:, max(0, top) : top + pool[0], max(0, left) : left + pool[1]]
        out[:, i, j] = window.max(axis=(1, 2))
    return out


@pytest.mark.parametrize("alpha", [25.0, 1.0, 6.0])
def test_every_output_keeps_its_code(alpha):
    top = int(np.ceil(alpha))
    y = fs.FSReLU(K=10, alpha=alpha)(
        np.linspace(-1, top, 4096, dtype="float32").reshape(1, 64, 64, 1)
    )
    pooled = fs.FSMaxPooling2D(10, alpha, pool_size=1)(y)
    np.testing.assert_array_equal(ops.convert_to_numpy(pooled), ops.convert_to_numpy(y))


def test_nan_is_not_pooled_away():
    x = RANDOM.uniform(0, 8, (1, 8, 8, 3)).astype("float32")
    for sign, at in ((1, (0, 0, 1, 0)), (-1, (0, 5, 2, 1)), (1, (0, 7, 7, 2))):
        x[at] = np.copysign(np.float32(np.nan), np.float32(sign))
    y = ops.convert_to_numpy(fs.FSMaxPooling2D(4, 8.0)(x))
    expected = x.reshape(1, 4, 2, 4, 2, 3).max(axis=(2, 4))
    assert np.isnan(expected).sum() == 3
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("pool", "strides"), [((2, 2), None), ((3, 2), (2, 1))])
@pytest.mark.parametrize(("K", "alpha"), [(5, 8.0), (10, 25.0)])
def test_spikes_add_up_to_the_output_bit_by_bit(K, alpha, pool, strides, padding, data_format):
    x = RANDOM.normal(3, 9, (2, 7, 8, 3)).astype("float32")
    if data_format == "channels_first":
        x = np.moveaxis(x, 3, 1)
    relu = fs.FSReLU(K=K, alpha=alpha)
    layer = fs.FSMaxPooling2D(
        K, alpha, pool_size=pool, strides=strides, padding=padding, data_format=data_format
    )
    z = np.moveaxis(ops.convert_to_numpy(fs.neuron.spike_train(x, relu.parameters)), -1, 0)
    d = relu.parameters.d.reshape(-1, 1, 1, 1, 1)
    arriving = np.concatenate([d * z, 0 * z[:2]])  # a slower network waits two steps more
    passed_on = ops.convert_to_numpy(layer.spikes(ops.convert_to_tensor(arriving)))
    assert len(passed_on) == K + 2 and not passed_on[K:].any()
    y = ops.convert_to_numpy(layer(relu(x)))
    assert y.any()
    np.testing.assert_array_equal(passed_on.sum(axis=0, dtype=np.float32), y)
    fired = ops.convert_to_numpy(fs.neuron.spike_train(y, relu.parameters))
    np.testing.assert_array_equal(np.moveaxis(passed_on[:K] > 0, 0, -1), fired)


def test_images_of_any_size():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.MaxPooling2D(3, 2, name="pool")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    snn = fs.convert(model)
    assert pools(snn) == [fs.FSMaxPooling2D]
    for size in (9, 12, 16):
        images = RANDOM.normal(0, 4, (2, size, size + 1, 3)).astype("float32")
        y = ops.convert_to_numpy(snn(images))
        site = next(layer for layer in snn.layers if isinstance(layer, fs.FSReLU))
        outputs = ops.convert_to_numpy(keras.Model(snn.inputs[0], site.output)(images))
        expected = reference(outputs, (3, 3), (2, 2), "valid").mean(axis=(1, 2))
        np.testing.assert_allclose(y, expected, rtol=1e-5)
        np.testing.assert_allclose(snn.predict(images, verbose=0), expected, rtol=1e-5)


def test_codes_that_float32_does_not_keep_are_refused():
    with pytest.raises(ValueError, match="MaxPooling2D"):
        fs.FSMaxPooling2D(30, 25.0)
    fs.FSMaxPooling2D(10, 0.3)  # rounding to the nearest code tells what rounding down does not
    with pytest.raises(ValueError, match="alpha"):
        fs.FSMaxPooling2D(4, -1.0)


def functional(*between, activation="relu"):
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(4, 3, activation=activation)(inputs)
    for layer in between:
        x = layer(x)
    x = layers.MaxPooling2D(3, 2, name="pool")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def pools(model):
    return [
        type(layer) for layer in model._flatten_layers() if isinstance(layer, layers.MaxPooling2D)
    ]


@pytest.mark.parametrize("make", [
    functional,
    lambda: functional(layers.ZeroPadding2D(1)),
    lambda: functional(layers.ZeroPadding2D(((0, 1), (2, 0))), layers.ZeroPadding2D(1)),
    lambda: functional(layers.ReLU(), activation=None),
    lambda: functional(ops.relu6, activation=None),
    lambda: keras.Sequential(
        [keras.Input((9, 9, 3)), layers.Conv2D(4, 3, activation="relu"), layers.ZeroPadding2D(1),
         layers.MaxPooling2D(3, 2, name="pool"), layers.Flatten(), layers.Dense(2)]
    ),
])  # fmt: skip
def test_convert_pools_spikes_where_they_come_from_fs_relu(make, tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = make()
    snn = fs.convert(model)
    assert pools(snn) == [fs.FSMaxPooling2D] and pools(model) == [layers.MaxPooling2D]
    x = RANDOM.normal(0, 4, (3, 9, 9, 3)).astype("float32")
    snn.save(tmp_path / "snn.keras")
    y = keras.models.load_model(tmp_path / "snn.keras").predict(x, verbose=0)
    monkeypatch.setattr("fs_neurons.network.rewriting.spiking_pool", lambda *_: None)
    plain = fs.convert(model)
    assert pools(plain) == [layers.MaxPooling2D] and y.any()
    np.testing.assert_array_equal(y, plain.predict(x, verbose=0))


@pytest.mark.parametrize("make", [
    lambda: functional(activation="swish"),
    lambda: functional(layers.BatchNormalization()),
    lambda: functional(layers.AveragePooling2D(2)),
    lambda: functional(layers.ReLU(dtype="mixed_bfloat16"), activation=None),
])  # fmt: skip
def test_other_max_pooling_stays(make):
    assert pools(fs.convert(make())) == [layers.MaxPooling2D]


def test_a_shared_pool_stays():
    pool = layers.MaxPooling2D(2)
    inputs = keras.Input((8, 8, 3))
    x = layers.Concatenate()([pool(layers.ReLU()(inputs)), pool(inputs)])
    model = keras.Model(inputs, x)
    assert pools(fs.convert(model)) == [layers.MaxPooling2D]


def test_verify_accepts_networks_with_pools():
    assert fs.verify(functional(layers.ZeroPadding2D(1))) == 0


RISING = fs.FSParameters([5, 2.2, 1, 0.4], [5, 2.2, 1, 0.4], [6, 2.5, 1.5, 0.5], name="rising")
DOUBLE = fs.FSParameters(2 * RISING.T, 2 * RISING.h, RISING.d, name="double")
# Its first spike counts less than nothing, and there is none far below.
NEGATIVE = fs.FSParameters([-1e6, 5, 2, 1], [0, 5, 2, 1], [-1, 5, 2, 1], name="negative")
WORTHLESS = fs.FSParameters([5, 2, 1, 0.4], [5, 2, 1, 0.4], [5, 0, 1, 0.4], name="worthless")
FALLING = fs.FSParameters([5, 2, 1, 0.4], [5, 2, 1, 0.4], [5, -2, 1, 0.4], name="falling")


def pooled_network(parameters, padded, **options):
    inputs = keras.Input((7, 6, 4), name="image")
    x = fs.FSActivation(parameters, "mine", name="site", **options)(inputs)
    x = layers.ZeroPadding2D(((1, 0), (0, 2)), name="pad")(x) if padded else x
    x = layers.MaxPooling2D(3, 2, "same", name="pool")(x)
    x = layers.ReLU()(layers.Conv2D(3, 2)(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    return fs.network.Rewriter(lambda *_: None).rewrite(model), model


@pytest.mark.parametrize(
    ("parameters", "padded", "options"),
    [
        (RISING, True, {}),
        (RISING, False, {}),
        (fs.ChannelParameters((RISING, DOUBLE), [0, 1, 1, 0]), True, {}),
        (fs.relu_parameters(5, 1.0, "nearest"), True, {"per_channel": True}),
        (fs.relu_parameters(18, 7.0), False, {}),
    ],
)
def test_any_response_that_never_falls(parameters, padded, options):
    snn, model = pooled_network(parameters, padded, **options)
    assert pools(snn) == [fs.FSMaxPooling2D]
    if options:
        snn.get_layer("site").scale.assign([3.0, 5.0, 7.0, 9.0])
        model.get_layer("site").scale.assign([3.0, 5.0, 7.0, 9.0])
    images = RANDOM.normal(3, 4, (4, 7, 6, 4)).astype("float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(snn(images)), ops.convert_to_numpy(model(images))
    )
    result = fs.simulate(snn, images)
    np.testing.assert_allclose(result.outputs, ops.convert_to_numpy(snn(images)), atol=1e-4)
    # The spikes of a pool are those of the largest gate input.
    site = snn.get_layer("site")
    x = np.pad(
        ops.convert_to_numpy(site.in_units(images)),
        ((0, 0), (1, 0), (0, 2), (0, 0)),
        constant_values=-np.inf,
    )
    x = layers.MaxPooling2D(3, 2, "same")(x if padded else site.in_units(images))
    count = ops.convert_to_numpy(fs.neuron.spike_count(x, parameters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (pool,) = fs.profile(snn, images, batch_size=3).pools
    assert pool.total_spikes == count.sum()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (NEGATIVE, "falls somewhere"),
        (WORTHLESS, "worth nothing"),
        (FALLING, "falls somewhere"),
        (fs.ChannelParameters((RISING, FALLING), [0, 1, 1, 0]), "'falling' falls"),
    ],
)
def test_other_responses_are_not_pooled_by_spikes(parameters, reason):
    assert pools(pooled_network(parameters, False)[0]) == [layers.MaxPooling2D]
    assert reason in obstacle_to_pooling(parameters)
    with pytest.raises(ValueError, match=reason):
        fs.FSMaxPooling2D(parameters=parameters)


def test_pools_of_other_neurons_are_saved(tmp_path):
    snn, _ = pooled_network(fs.ChannelParameters((RISING, DOUBLE), [0, 1, 1, 0]), True)
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    x = RANDOM.normal(3, 4, (2, 7, 6, 4)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(again(x)), ops.convert_to_numpy(snn(x)))
    with pytest.raises(ValueError, match="K and alpha"):
        fs.FSMaxPooling2D()
