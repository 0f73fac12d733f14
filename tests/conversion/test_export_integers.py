"""Exports with spikes and weights of 8 bits: exact where the weights have 8 bits, close where they do not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs

pytest.importorskip("tf2onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow"
)
STEP = 0.25


def neurons(K, name, step=STEP):
    return fs.FSReLU(K, step * 2**K, name=name)


def network(K, residual=False):
    """Two convolutions between sites, whose weights are multiples of 1/63 that 8 bits hold."""
    inputs = keras.Input((12, 12, 3))
    x = first = neurons(K, "first")(layers.Conv2D(8, 3, padding="same", name="stem")(inputs))
    if not residual:
        x = layers.MaxPooling2D()(x)
    x = neurons(K, "second")(layers.Conv2D(8, 3, padding="same", name="a")(x))
    x = layers.Conv2D(8, 3, padding="same", name="b")(x)
    if residual:
        x = layers.Add()([x, first])
    x = neurons(K, "third")(x)
    snn = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    random = np.random.default_rng(0)
    for name, unit in (("stem", 64), ("a", 63), ("b", 63)):
        kernel, bias = snn.get_layer(name).get_weights()
        kernel = random.integers(-12, 13, kernel.shape)
        kernel[0, 0, 0] = 127  # so that the scale of every channel is 1 / 63
        # Halves of a unit: no sum of integers is on a threshold.
        bias = random.integers(-200, 200, bias.shape) + (0.5 if unit == 63 else 0)
        snn.get_layer(name).set_weights([kernel / unit, bias * STEP / unit])
    return snn


def images(n=6):
    return np.random.default_rng(1).integers(-20, 21, (n, 12, 12, 3)).astype(np.float32)


def exported(snn, path):
    """A function of images, and how many convolutions it has with integers."""
    fs.export(snn, path, integers=True)
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    return lambda x: session.run(None, {name: x})[0], kinds.count("QLinearConv")


@pytest.mark.parametrize("K", [8, 5])
def test_weights_of_8_bits_give_the_network_itself(K, tmp_path):
    snn = network(K)
    run, count = exported(snn, tmp_path / "snn.onnx")
    assert count == 2
    expected = ops.convert_to_numpy(snn(images()))
    assert np.ptp(expected) > STEP
    np.testing.assert_allclose(run(images()), expected, rtol=1e-5)


@pytest.mark.parametrize("K", [8, 6])
def test_a_sum_with_a_shortcut_is_as_precise_as_8_bits_of_its_range(K, tmp_path):
    snn = network(K, residual=True)
    run, count = exported(snn, tmp_path / "snn.onnx")
    assert count == 2
    expected = ops.convert_to_numpy(snn(images()))
    # What is added has steps of (2^K + 2^K) / 255, or less; the site rounds to 1.
    step = STEP * max(2 ** (K + 1) / 255, 1)
    assert np.ptp(expected) > 5 * step
    np.testing.assert_allclose(run(images()), expected, atol=step)


def trained_like(*top):
    """A converted network with batch normalisation folded, and a range for each channel."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((12, 12, 3))
    x = skip = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x)))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, skip]))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x)))
    for layer in top:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def test_ranges_of_channels_go_into_weights(tmp_path):
    snn = fs.convert(trained_like(), fold_batch_norm=True)
    run, count = exported(snn, tmp_path / "snn.onnx")
    assert count == 3
    x = images() / 20
    expected = ops.convert_to_numpy(snn(x))
    assert np.abs(run(x) - expected).max() < 0.1 * np.ptp(expected)


def test_what_stays_in_float_is_said(tmp_path):
    snn = fs.convert(trained_like(layers.Activation("silu", name="smooth")), fold_batch_norm=True)
    with pytest.warns(UserWarning, match="smooth"):
        run, count = exported(snn, tmp_path / "snn.onnx")
    assert count == 3
    x = images() / 20
    expected = ops.convert_to_numpy(snn(x))
    assert np.abs(run(x) - expected).max() < 0.1 * np.ptp(expected)


def test_what_has_no_integers_is_refused(tmp_path):
    many = fs.convert(trained_like(), fold_batch_norm=True, relu=fs.relu_parameters(10, 25.0))
    with pytest.raises(ValueError, match="K <= 8"):
        fs.export(many, tmp_path / "snn.onnx", integers=True)
    with pytest.raises(ValueError, match="is for format 'onnx'"):
        fs.export(network(8), tmp_path / "snn.tflite", format="litert", integers=True)
    assert not list(tmp_path.iterdir())
