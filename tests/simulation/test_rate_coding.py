"""Integrate-and-fire neurons against a numpy loop."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.simulation.rate_coding import firing_thresholds, simulate_rate


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((5,))
    x = layers.Dense(8, activation="relu", bias_initializer="normal")(x)
    x = layers.Dense(6, activation="relu", bias_initializer="normal")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


def test_thresholds_are_percentiles_of_activations(model, images):
    snn = fs.convert(model)
    hidden = keras.Model(model.inputs[0], [layer.output for layer in model.layers[1:3]])
    expected = [np.percentile(ops.convert_to_numpy(y), 90) for y in hidden(images)]
    assert firing_thresholds(snn, images, 90) == pytest.approx(expected, rel=1e-6)


def test_every_step_equals_a_numpy_loop(model, images):
    snn = fs.convert(model)
    thresholds = firing_thresholds(snn, images)
    parts = [layer.get_weights() for layer in model.layers[1:]]
    potentials = [np.zeros((9, 8)), np.zeros((9, 6))]
    total, spikes = np.zeros((9, 3)), np.zeros(9, int)
    for t, step in enumerate(simulate_rate(snn, images, thresholds, 40), 1):
        x = images
        for v, (kernel, bias), threshold in zip(potentials, parts[:2], thresholds, strict=True):
            v += x @ kernel + bias
            z = v >= threshold
            v -= threshold * z
            spikes += z.sum(axis=1)
            x = threshold * z
        total += x @ parts[2][0] + parts[2][1]
        np.testing.assert_allclose(step.outputs, total / t, atol=1e-4)
        assert (step.spikes == spikes).all()


def test_rates_approach_the_network(model, images):
    snn = fs.convert(model)
    thresholds = [100 / 99 * t for t in firing_thresholds(snn, images, 100)]
    errors = [
        np.abs(step.outputs - ops.convert_to_numpy(model(images))).max()
        for step in simulate_rate(snn, images, thresholds, 400)
    ]
    assert errors[399] < errors[39] / 4 < errors[3] / 4
    assert errors[399] < 0.05


def test_other_networks_are_refused(model, images):
    with pytest.raises(ValueError, match="2 positive thresholds"):
        next(simulate_rate(fs.convert(model), images, [1.0], 1))
    swish = keras.Sequential([keras.Input((5,)), layers.Dense(3, activation="silu", name="wave")])
    with pytest.raises(fs.ConversionError, match="wave_silu"):
        firing_thresholds(fs.convert(swish), images)
    with pytest.raises(fs.ConversionError, match="convert it first"):
        firing_thresholds(model, images)


class Counted(layers.Layer):
    """Hands its input on, and counts how often it is told to."""

    times = 0

    def call(self, x):
        self.times += 1
        return x

    def compute_output_shape(self, shape):
        return shape


def test_a_network_is_compiled_once_and_follows_its_weights(images):
    keras.utils.set_random_seed(0)
    counted = Counted()
    snn = keras.Sequential(
        [keras.Input((5,)), counted, layers.Dense(4), fs.FSReLU(), layers.Dense(2)]
    )
    first = [step.outputs for step in simulate_rate(snn, images, [1.0], 5)]
    times = counted.times
    again = [step.outputs for step in simulate_rate(snn, images, [1.0], 5)]
    if keras.backend.backend() != "torch":  # which compiles nothing
        assert counted.times == times
    np.testing.assert_array_equal(first, again)
    snn.layers[-1].set_weights([2 * w for w in snn.layers[-1].get_weights()])
    doubled = [step.outputs for step in simulate_rate(snn, images, [1.0], 5)]
    np.testing.assert_allclose(doubled, 2 * np.array(first), rtol=1e-5)
    other = [step.outputs for step in simulate_rate(snn, images, [0.5], 5)]
    assert np.abs(np.subtract(other, doubled)).max() > 0
