"""Additions behind shifted sums, counted by hand."""

import keras
import numpy as np
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.analysis.shifts import additions_of_shifted_sums, digits
from fs_neurons.layers import RightShift
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import trace


def test_digits():
    """1, 2, 3 = 4 - 1, 6 = 8 - 2, 7 = 8 - 1, 11 = 8 + 4 - 1, 85 = 1010101 in binary."""
    found = digits([0, 1, 2, 3, 6, -7, 11, 85])
    np.testing.assert_array_equal(found, [0, 1, 1, 2, 2, 2, 3, 4])


def test_gates_of_a_shifted_sum():
    rng = np.random.default_rng(0)
    inputs = keras.Input((4, 4, 2))
    spikes = fs.FSInput(4, 16.0)(inputs)
    x = RightShift(2)(layers.Conv2D(2, 1, name="sum")(spikes))
    y = RightShift(3)(ops.sum(x, axis=(1, 2), keepdims=True))
    gate = fs.FSActivation(fs.relu_parameters(3, 8.0), "sigmoid")(
        layers.Conv2D(2, 1, name="weights")(y)
    )
    model = keras.Model(inputs, layers.Conv2D(1, 1)(layers.Multiply()([x, gate])))
    model.set_weights([rng.integers(-9, 9, w.shape) for w in model.get_weights()])
    weights = digits(model.get_layer("weights").kernel).sum()
    multiples = 3 * 4 * 4 * 2  # each d(t) has one digit
    expected = 4 * 4 * 2 + weights + multiples
    assert additions_of_shifted_sums(Coding(trace(model))) == expected
    images = rng.integers(0, 16, (3, 4, 4, 2)).astype(np.float32)
    result = fs.profile(model, images)
    from_spikes = sum(layer.synaptic_operations for layer in result.layers) / 3
    assert (result.shifted_additions, result.digital_macs) == (expected, 0)
    assert result.synaptic_operations == from_spikes + expected
    # A spike of a pixel reaches the sum of two channels and nothing beyond it.
    assert result.layers[0].fan_out == (2, 2)
    assert fs.profile(model, images, multiplier=True).shifted_additions == 0
