"""Statistics of gate inputs without data: against closed forms, numpy, and what networks meet."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.calibration import moments
from fs_neurons.calibration.moments import NORMALIZED, PROPAGATED, UNKNOWN, Moments
from fs_neurons.calibration.statistics import input_statistics
from fs_neurons.conversion.folding import fold
from fs_neurons.data import datasets
from fs_neurons.layers import FSActivation
from fs_neurons.network.rewriting import Rewriter


def normalization(channels, seed=0, **options):
    """Batch normalization as after training."""
    random = np.random.default_rng(seed)
    layer = layers.BatchNormalization(name=f"bn{seed}", **options)
    layer.build((None, *[None] * 2, channels))
    for weight, values in (
        (layer.gamma, random.uniform(-2, 2, channels)),
        (layer.beta, random.normal(size=channels)),
        (layer.moving_mean, random.normal(size=channels)),
        (layer.moving_variance, random.uniform(0.5, 2, channels)),
    ):
        weight.assign(values.astype(np.float32))
    return layer


def of_normalization(layer):
    """What is behind it, written out: mean and standard deviation."""
    variance = np.asarray(layer.moving_variance, float)
    share = np.sqrt(variance / (variance + layer.epsilon))
    return np.asarray(layer.beta, float), np.abs(np.asarray(layer.gamma, float)) * share


def statistics_of(inputs, outputs):
    """Of the only site."""
    (site,) = input_statistics(keras.Model(inputs, outputs))
    return site


def gaussian(mean, variance, axis=3):
    return Moments(np.atleast_1d(float(mean)), np.atleast_1d(float(variance)), axis, NORMALIZED)


# --- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.7])
@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.0])
def test_relu_of_a_gaussian(mean, deviation):
    x = moments.through(keras.ops.relu, gaussian(mean, deviation**2))
    r = mean / deviation
    density = math.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    below = (1 + math.erf(r / math.sqrt(2))) / 2
    expected = mean * below + deviation * density
    square = (mean**2 + deviation**2) * below + mean * deviation * density
    # The quadrature is off by at most 1e-5 at a kink.
    assert x.mean == pytest.approx(expected, rel=1e-5, abs=1e-5 * deviation)
    assert x.variance == pytest.approx(square - expected**2, rel=1e-4, abs=1e-5 * deviation**2)


def test_other_activations_of_a_gaussian():
    x = moments.through(keras.ops.exp, gaussian(0.2, 0.25))
    # Log-normal; float32 at the nodes.
    assert x.mean == pytest.approx(math.exp(0.2 + 0.125), rel=1e-5)
    assert x.variance == pytest.approx((math.exp(0.25) - 1) * math.exp(0.4 + 0.25), rel=1e-4)
    assert moments.through(keras.ops.tanh, gaussian(0, 1)).mean == pytest.approx(0, abs=1e-7)
    nothing = moments.through(keras.ops.relu, moments.unknown(2, 3))
    assert np.isnan(nothing.mean).all()
    assert nothing.source == UNKNOWN


def test_products_and_sums():
    x, gate = gaussian(1.5, 4.0), gaussian(0.5, 0.25)
    product = moments.product([x, gate])
    assert product.mean == 0.75
    assert product.variance == 4 * 0.25 + 4 * 0.5**2 + 0.25 * 1.5**2
    difference = moments.total([x, gate], [1, -1])
    assert (difference.mean, difference.variance) == (1.0, 4.25)
    assert difference.source == PROPAGATED


def test_the_largest_of_several():
    x = moments.maximum(gaussian(3.0, 4.0), 4)
    random = np.random.default_rng(0)
    common, own = random.normal(size=(200_000, 1)), random.normal(size=(200_000, 4))
    shared = moments.NEIGHBOURS
    drawn = 3 + 2 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own).max(axis=1)
    # The mean of 200,000 is within 0.02 of its limit, ten times its standard error.
    assert x.mean == pytest.approx(drawn.mean(), abs=0.02)
    assert x.variance == pytest.approx(drawn.var(), rel=0.05)


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"epsilon": 0.5}])
def test_behind_batch_normalization(options):
    x = inputs = keras.Input((4, 4, 3))
    bn = layers.BatchNormalization(**options)
    x = bn(x)
    if bn.scale:
        bn.gamma.assign(np.array([-2.0, 0.5, 0.0], np.float32))
    if bn.center:
        bn.beta.assign(np.array([1.0, 0.0, -3.0], np.float32))
    bn.moving_variance.assign(np.array([1.0, 0.5, 2.0], np.float32))
    found = statistics_of(inputs, layers.ReLU(name="site")(x))
    variance = np.array([1.0, 0.5, 2.0])
    gamma = np.array([2.0, 0.5, 0.0]) if bn.scale else np.ones(3)
    np.testing.assert_array_equal(found.mean, [1, 0, -3] if bn.center else [0, 0, 0])
    expected = gamma * np.sqrt(variance / (variance + bn.epsilon))
    np.testing.assert_allclose(found.deviation, expected, rtol=1e-7)
    assert (found.source, found.axis) == (NORMALIZED, -1)
    np.testing.assert_array_equal(found.high, found.mean + 6 * found.deviation)


def test_branches_add_up_through_nested_models():
    inputs = keras.Input((4, 4, 3))
    first, second = normalization(3, 1), normalization(3, 2)
    branch = keras.Sequential([keras.Input((4, 4, 3)), second], name="branch")
    x = layers.Add()([first(inputs), branch(inputs)])
    found = statistics_of(inputs, layers.Activation("silu", name="site")(x))
    means, deviations = zip(*(of_normalization(bn) for bn in (first, second)), strict=True)
    np.testing.assert_allclose(found.mean, sum(means), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, np.hypot(*deviations), rtol=1e-6)
    assert found.source == PROPAGATED


@pytest.mark.parametrize("build", [
    lambda: layers.Dense(5, activation="relu", name="site"),
    lambda: layers.Conv2D(5, 1, activation="relu", name="site"),
    lambda: layers.Conv2D(4, 1, groups=2, activation="relu", name="site"),
    lambda: layers.Conv2DTranspose(5, 1, activation="relu", name="site"),
    lambda: layers.DepthwiseConv2D(1, depth_multiplier=2, activation="relu", name="site"),
    lambda: layers.EinsumDense("abcd,de->abce", (4, 4, 5), bias_axes="e", activation="relu", name="site"),
    lambda: layers.TimeDistributed(layers.Dense(5, activation="relu"), name="site"),
])  # fmt: skip
def test_a_single_tap_is_exact(build):
    """Each output is a weighted sum of independent channels: mean and variance are those of the layer."""
    inputs = keras.Input((4, 4, 4))
    bn, site = normalization(4), build()
    outputs = site(bn(inputs))
    inner = getattr(site, "layer", site)
    bias = np.linspace(-1, 1, inner.bias.shape[0]).astype(np.float32)
    inner.bias.assign(bias)
    found = statistics_of(inputs, outputs)
    mean, deviation = of_normalization(bn)
    linear = type(inner).from_config({**inner.get_config(), "activation": "linear"})
    linear.build((None, 4, 4, 4))
    linear.set_weights(inner.get_weights())
    ones = np.ones((1, 4, 4, 1))
    expected = ops.convert_to_numpy(linear((ones * mean).astype(np.float32)))[0, 0, 0]
    np.testing.assert_allclose(found.mean, expected, rtol=1e-5, atol=1e-6)
    linear.set_weights([np.square(inner.get_weights()[0]), np.zeros_like(bias)])
    expected = ops.convert_to_numpy(linear((ones * deviation**2).astype(np.float32)))[0, 0, 0]
    np.testing.assert_allclose(np.square(found.deviation), expected, rtol=1e-5)


def test_taps_are_correlated():
    """Of one channel with variance 1: independent taps give the sum of squares, equal ones its square."""
    inputs = keras.Input((8, 8, 1))
    bn = layers.BatchNormalization(epsilon=0)
    site = layers.Conv2D(1, (1, 2), activation="relu", name="site")
    outputs = site(bn(inputs))
    site.kernel.assign(np.array([3.0, 1.0], np.float32).reshape(1, 2, 1, 1))
    variance = (1 - moments.NEIGHBOURS) * (9 + 1) + moments.NEIGHBOURS * (3 + 1) ** 2
    assert statistics_of(inputs, outputs).deviation == pytest.approx(np.sqrt(variance))


def test_a_transposed_convolution_meets_every_tap_once():
    inputs = keras.Input((4, 4, 1))
    bn = layers.BatchNormalization(epsilon=0)
    site = layers.Conv2DTranspose(1, 2, strides=2, activation="relu", name="site")
    outputs = site(bn(inputs))
    bn.beta.assign(np.ones(1, np.float32))
    taps = np.array([1.0, 2.0, 3.0, 6.0])
    site.kernel.assign(taps.astype(np.float32).reshape(2, 2, 1, 1))
    found = statistics_of(inputs, outputs)
    assert found.mean == pytest.approx(taps.mean())
    assert found.deviation**2 == pytest.approx(np.mean(taps**2) + taps.var())


def test_pools_and_gates():
    """Squeeze-excite: the gate is independent of what it multiplies."""
    inputs = keras.Input((4, 4, 2))
    bn = normalization(2)
    x = bn(inputs)
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Activation("sigmoid", name="gate")(pooled)
    x = layers.ReLU(name="site")(layers.Multiply()([x, gate]))
    found = input_statistics(keras.Model(inputs, x))
    mean, deviation = of_normalization(bn)
    share = moments.DISTANT + (1 - moments.DISTANT) / 16
    np.testing.assert_allclose(found["gate"].mean, mean)
    np.testing.assert_allclose(found["gate"].deviation, deviation * np.sqrt(share), rtol=1e-6)
    after = moments.through(
        keras.ops.sigmoid, Moments(mean, found["gate"].deviation ** 2, 3, PROPAGATED)
    )
    np.testing.assert_allclose(found["site"].mean, mean * after.mean, rtol=1e-6)
    expected = (deviation**2 + mean**2) * (after.variance + after.mean**2) - (
        mean * after.mean
    ) ** 2
    np.testing.assert_allclose(found["site"].deviation ** 2, expected, rtol=1e-5)


def test_shapes():
    """Concatenated, flattened, reshaped, permuted: every channel keeps its own statistics."""
    inputs = keras.Input((2, 3, 2))
    first, second = normalization(2, 1), normalization(2, 2)
    means = [of_normalization(bn)[0] for bn in (first, second)]
    x = layers.Concatenate(name="both")([first(inputs), second(inputs)])
    x = layers.ZeroPadding2D((0, 1))(layers.Dropout(0.5)(x))
    a = layers.ReLU(name="a")(x)
    b = layers.ReLU(name="b")(layers.Permute((3, 1, 2))(x))
    c = layers.ReLU(name="c")(layers.Flatten()(x))
    d = layers.ReLU(name="d")(layers.Reshape((1, 10, 4))(x))
    e = layers.ReLU(name="e")(layers.Concatenate(axis=1)([first(inputs), second(inputs)]))
    found = input_statistics(keras.Model(inputs, [a, b, c, d, e]))
    expected = np.concatenate(means)
    np.testing.assert_allclose(found["a"].mean, expected)
    np.testing.assert_allclose(found["b"].mean, expected)
    assert found["b"].axis == 1
    np.testing.assert_allclose(found["c"].mean, np.tile(expected, 10))
    np.testing.assert_allclose(found["d"].mean, expected)
    np.testing.assert_allclose(found["e"].mean, np.mean(means, axis=0))


def test_operations():
    inputs = keras.Input((2, 3, 2))
    bn = normalization(2)
    mean, deviation = of_normalization(bn)
    x = bn(inputs)
    y = keras.ops.relu(2.0 * x - np.array([1.0, 3.0], np.float32))
    z = keras.ops.relu(-(x / 4.0) + x)
    model = keras.Model(inputs, [y, z])
    y, z = input_statistics(model)
    np.testing.assert_allclose(y.mean, 2 * mean - [1, 3], rtol=1e-6)
    np.testing.assert_allclose(y.deviation, 2 * deviation, rtol=1e-6)
    np.testing.assert_allclose(z.mean, mean * 0.75, rtol=1e-6)


@pytest.mark.parametrize("front, mean, deviation, assumed", [
    (lambda x: x, 0.0, 1.0, True),
    (lambda x: layers.Rescaling(1 / 127.5, -1.0)(x), 115 / 127.5 - 1, 58 / 127.5, True),
    (lambda x: layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6])(x), 0.0, 1.0, False),
])  # fmt: skip
def test_what_is_assumed_of_inputs(front, mean, deviation, assumed):
    inputs = keras.Input((4, 4, 3), name="image")
    x = layers.ReLU(name="site")(front(inputs))
    found = input_statistics(keras.Model(inputs, x))
    np.testing.assert_allclose(found["site"].mean, np.full(3, mean), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["site"].deviation, np.full(3, deviation), rtol=1e-6)
    assert (found["site"].source == "assumed input") == assumed
    assert ("'image'" in str(found)) == assumed


class Cube(layers.Layer):
    def call(self, x):
        return x**3


def test_unknown_until_the_next_normalization():
    inputs = keras.Input((4, 4, 2))
    x = Cube()(normalization(2)(inputs))
    x = layers.ReLU(name="first")(layers.Conv2D(3, 3)(x))
    x = layers.ReLU(name="second")(normalization(3, 1)(layers.Conv2D(3, 1)(x)))
    found = input_statistics(keras.Model(inputs, x))
    assert found.unknown == ("first",)
    assert np.isnan(found["first"].mean).all()
    assert [row["mean"] is None for row in found.rows()] == [True, False]
    assert "unknown" in str(found).splitlines()[1]
    assert found["second"].source == NORMALIZED
    with pytest.raises(KeyError, match="first, second"):
        found["third"]


def test_a_shared_site_meets_all_its_inputs():
    inputs = keras.Input((4, 4, 2))
    site = layers.ReLU(name="site")
    first, second = normalization(2, 1), normalization(2, 2)
    narrow = layers.ReLU(name="narrow")
    x = layers.Conv2D(3, 1)(site(second(site(first(inputs)))))
    x = narrow(normalization(3, 3)(narrow(x)))
    found = input_statistics(keras.Model(inputs, [x, narrow(second(inputs))]))
    (m1, s1), (m2, s2) = map(of_normalization, (first, second))
    np.testing.assert_allclose(found["site"].mean, (m1 + m2) / 2)
    expected = (s1**2 + s2**2) / 2 + (m1 - m2) ** 2 / 4
    np.testing.assert_allclose(found["site"].deviation ** 2, expected, rtol=1e-6)
    assert found["narrow"].mean.shape == (1,)


def test_open_sizes_and_folded_networks():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, use_bias=False)(inputs)
    model = keras.Model(inputs, layers.ReLU(name="site")(normalization(4)(x)))
    before = input_statistics(model)["site"]
    after = input_statistics(fold(model)[0])["site"]
    assert before.source == NORMALIZED
    assert after.source == "assumed input"  # the statistics went with the layer: take them before


def test_a_converted_model_is_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, activation="relu")(inputs))
    with pytest.raises(fs.ConversionError, match="converted before"):
        input_statistics(fs.convert(model))
    with pytest.raises(TypeError, match=r"keras\.Model"):
        input_statistics("model.keras")


# --- against what networks meet -----------------------------------------------------------------


class Recorder(FSActivation):
    """Keeps the gate inputs that it meets; computes the original activation."""

    def __init__(self, site, met, **kwargs):
        super().__init__(fs.relu_parameters(), **kwargs)
        self.function, self.keep = site.function, lambda x: met.setdefault(site.name, []).append(x)

    def call(self, x):
        if not isinstance(x, keras.KerasTensor):
            self.keep(keras.ops.convert_to_numpy(x))
        return self.function(x)


def measured(model, images):
    """Mean and standard deviation of the gate inputs of every site, by channel."""
    met = {}
    recorder = Rewriter(lambda site, name, _: Recorder(site, met, name=name)).rewrite(model)
    recorder(images, training=False)
    merged = {name: np.concatenate(parts).astype(float) for name, parts in met.items()}
    return {
        name: (x.mean(axis=tuple(range(x.ndim - 1))), x.std(axis=tuple(range(x.ndim - 1))))
        for name, x in merged.items()
    }


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20_swish"])
def test_trained_networks_meet_what_is_predicted(name, cifar10_dir):
    model = models.pretrained(name, "cifar10")
    images = datasets.load("cifar10", "test", cifar10_dir).images[:50]
    found = input_statistics(model)
    for site, (mean, deviation) in measured(model, datasets.standardise(images)).items():
        predicted = found[site]
        spread = np.sqrt(np.mean(deviation**2))
        off = np.sqrt(np.mean((predicted.mean - mean) ** 2)) / spread
        ratio = np.sqrt(np.mean(predicted.deviation**2)) / spread
        if predicted.source == NORMALIZED:
            # Exact for the training images; 50 test images differ from them by their sampling.
            assert off < 0.25, site
            assert 0.8 < ratio < 1.25, site
        elif predicted.source == PROPAGATED:
            # Branches of a residual network are not quite independent.
            assert off < 0.3, site
            assert 0.6 < ratio < 1.3, site
        else:
            # Behind a global average: how far positions are correlated is an assumption.
            assert off < 1.5, site
            assert 0.25 < ratio < 4, site
