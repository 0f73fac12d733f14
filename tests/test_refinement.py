"""Ranges and offsets for the outputs: what they find, and what they leave alone."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons._refinement import refine


def test_a_missing_offset_is_found_and_other_weights_stay():
    inputs = keras.Input((6,))
    site = fs.FSActivation(fs.relu_parameters(8, 1.0, "nearest"), "relu", per_channel=True)
    dense = layers.Dense(6)
    network = keras.Model(inputs, site(dense(inputs)))
    dense.kernel.assign(np.eye(6))
    site.scale.assign(np.full(6, 4.0))
    x = np.random.default_rng(0).uniform(0.5, 3.5, (400, 6)).astype(np.float32)

    def error():
        return float(np.square(np.asarray(network(x)) - (x + 0.05)).mean())

    before = error()
    assert refine(network, [site.scale], [(dense.bias, np.full(6, 20.0))], [x], [x + 0.05], 6)
    assert error() < before / 10
    assert np.asarray(dense.bias) == pytest.approx(0.05, abs=0.02)
    assert (np.asarray(dense.kernel) == np.eye(6)).all()


def test_outputs_that_can_not_come_nearer_are_left_alone():
    inputs = keras.Input((4,))
    site = fs.FSActivation(fs.relu_parameters(3, 1.0), "relu", per_channel=True)
    network = keras.Model(inputs, site(inputs))
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    exact = np.asarray(network(x))
    assert not refine(network, [site.scale], [], [x], [exact], 4)
    assert not refine(network, [site.scale], [], [x], [exact.argmax(axis=1)], 4)
    assert not refine(network, [], [], [x], [exact + 1], 4)
    assert (np.asarray(site.scale) == 1).all()


def test_a_softmax_is_refined_for_what_it_was_given():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    logits = layers.Dense(5, name="logits")(layers.Dense(30, "relu")(inputs))
    model = keras.Model(inputs, layers.Softmax()(5 * logits))
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)

    def centred_logits(network):
        given = np.asarray(keras.Model(network.inputs, network.get_layer("logits").output)(x))
        return given - given.mean(axis=1, keepdims=True)

    errors = []
    for correction in ("weights", "outputs"):
        snn = fs.convert(model, calibration_data=x, steps=3, correction=correction)
        errors.append(np.square(centred_logits(snn) - centred_logits(model)).mean())
    assert errors[1] < errors[0]


def test_networks_with_several_inputs_and_outputs_are_refined():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((5,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(16, "relu")(layers.Concatenate()([a, b]))
    x = layers.Dense(16, "relu")(x)
    model = keras.Model({"a": a, "b": b}, {"p": layers.Dense(2)(x), "q": layers.Dense(4)(x)})
    random = np.random.default_rng(0)
    data = {
        name: random.normal(size=(500, n)).astype(np.float32) for name, n in (("a", 5), ("b", 3))
    }
    wanted = model(data)
    errors = []
    for correction in ("weights", "outputs"):
        snn = fs.convert(model, calibration_data=data, steps=3, correction=correction)
        got = snn(data)
        errors.append(sum(float(ops.mean((got[k] - wanted[k]) ** 2)) for k in wanted))
    assert errors[1] < errors[0]
