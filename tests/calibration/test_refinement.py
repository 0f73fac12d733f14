"""Weights and ranges adjusted together: what is found, and what is left alone."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models, neuron
from fs_neurons.calibration.refinement import _relative_error, refine
from fs_neurons.data import datasets
from fs_neurons.network import graph


def networks(layer, site):
    """A layer before a site as a graph, and the same with a ReLU at the site."""
    inputs = keras.Input((layer.units,))
    spiking = graph.trace(keras.Model(inputs, site(layer(inputs))))
    calls = [dataclasses.replace(c, op=ops.relu) if c.is_site else c for c in spiking.calls]
    return spiking, dataclasses.replace(spiking, calls=tuple(calls))


def test_a_missing_offset_is_found_and_other_weights_stay():
    site = fs.FSActivation(fs.relu_parameters(8, 1.0, "nearest"), "relu", per_channel=True)
    dense = layers.Dense(6)
    spiking, analog = networks(dense, site)
    dense.kernel.assign(np.eye(6))
    site.scale.assign(np.full(6, 4.0))
    x = np.random.default_rng(0).uniform(0.5, 3.5, (400, 6)).astype(np.float32)
    originals = [(dense.bias, np.full(6, 0.05, np.float32))]
    offsets = [(dense.bias, np.full(6, 20.0))]
    assert refine(spiking, analog, originals, [site.scale], offsets, [x], 8.0)
    assert ops.convert_to_numpy(dense.bias) == pytest.approx(0.05, abs=0.02)
    assert (ops.convert_to_numpy(dense.kernel) == np.eye(6)).all()


def test_what_can_not_come_nearer_is_left_alone(short_refinement):
    site = fs.FSActivation(fs.relu_parameters(3, 1.0), "relu", per_channel=True)
    dense = layers.Dense(4, use_bias=False)
    spiking, analog = networks(dense, site)
    dense.kernel.assign(np.eye(4))
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    weights = [(dense.kernel, np.ones(4))]
    assert not refine(spiking, spiking, [], [site.scale], weights, [x], 3.0)
    assert not refine(spiking, analog, [(dense.kernel, 2 * np.eye(4))], [], [], [x], 3.0)
    assert (ops.convert_to_numpy(site.scale) == 1).all()
    assert (ops.convert_to_numpy(dense.kernel) == np.eye(4)).all()


@pytest.mark.long
def test_a_network_stays_within_its_budget_of_spikes():
    """Where weights are wrong and the range of a site is too large: a smaller one means more spikes, less error."""
    keras.utils.set_random_seed(0)
    site = fs.FSActivation(fs.relu_parameters(4, 1.0, "nearest"), "relu", per_channel=True)
    dense = layers.Dense(40)
    spiking, analog = networks(dense, site)
    x = np.random.default_rng(0).normal(size=(1000, 40)).astype(np.float32)
    site.scale.assign(np.full(40, 6.0))

    def spikes():
        count = neuron.spike_count(site.in_units(dense(x)), site.parameters)
        return float(ops.mean(ops.cast(count, "float32")))

    before = spikes()
    right = ops.convert_to_numpy(dense.kernel).copy()
    wrong = right + np.random.default_rng(1).normal(0, 0.03, right.shape)
    found = {}
    for budget in (before, 4.0):
        dense.kernel.assign(wrong)
        site.scale.assign(np.full(40, 6.0))
        weights = [(dense.kernel, np.full(40, 0.1))]
        assert refine(spiking, analog, [(dense.kernel, right)], [site.scale], weights, [x], budget)
        found[budget] = spikes()
    assert 0.9 * before < found[before] < 1.01 * before
    assert found[4.0] > 1.05 * before


@pytest.mark.long
def test_gate_inputs_of_a_trained_network_come_nearer_on_other_images():
    model = models.pretrained("resnet8", "digits")
    calibrating, others = (
        ops.convert_to_numpy(datasets.standardise(datasets.load("digits", split).take(n).images))
        for split, n in (("train", 300), ("test", 300))
    )
    sites = [site.name for site in fs.find_sites(model)]

    def gate_inputs(network):
        before = [network.get_layer(name).input for name in sites]
        return [ops.convert_to_numpy(x) for x in keras.Model(network.inputs[0], before)(others)]

    wanted = gate_inputs(model)
    errors, spikes = [], []
    for correction in ("weights", "joint"):
        snn = fs.convert(model, calibration_data=calibrating, steps=3, correction=correction)
        given = gate_inputs(snn)
        errors.append(
            np.mean([((y - x) ** 2).mean() / x.var() for x, y in zip(wanted, given, strict=True)])
        )
        spikes.append(fs.profile(snn, calibrating).spikes_per_neuron)
    assert errors[1] < errors[0]
    assert spikes[1] < 1.01 * spikes[0]


def test_a_softmax_is_compared_by_what_it_was_given():
    random = np.random.default_rng(0)
    wanted, given = random.normal(0, 3, (2, 50, 7)).astype(np.float32)

    def error(*logits, softmax):
        return float(_relative_error(*map(ops.convert_to_tensor, logits), softmax))

    expected = error(*(y - y.mean(axis=1, keepdims=True) for y in (wanted, given)), softmax=False)
    shifted = given + random.normal(size=(50, 1)).astype(np.float32)
    found = error(*(ops.softmax(y) for y in (wanted, shifted)), softmax=True)
    assert found == pytest.approx(expected, rel=1e-4)


def classifier(last):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(30, "relu")(layers.Dense(30, "relu")(inputs))
    logits = layers.Dense(5, name="logits")(x)
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    return keras.Model(inputs, last(logits)), x


def test_logits_under_a_softmax_come_nearer():
    model, x = classifier(layers.Softmax())

    def centred_logits(network):
        network = keras.Model(network.inputs[0], network.get_layer("logits").output)
        given = ops.convert_to_numpy(network(x))
        return given - given.mean(axis=1, keepdims=True)

    errors = []
    for correction in ("weights", "joint"):
        # As many spikes as there are steps: for the error alone.
        snn = fs.convert(
            model, calibration_data=x, steps=3, target_spikes=3.0, correction=correction
        )
        errors.append(np.square(centred_logits(snn) - centred_logits(model)).mean())
    assert errors[1] < errors[0]


def test_outputs_without_a_derivative_leave_the_gate_inputs():
    model, x = classifier(lambda logits: ops.argmax(logits, axis=-1))
    by_weights, joint = (
        fs.convert(model, calibration_data=x, steps=6, correction=correction)
        for correction in ("weights", "joint")
    )
    assert (
        ops.convert_to_numpy(by_weights.get_weights()[0])
        != ops.convert_to_numpy(joint.get_weights()[0])
    ).any()
    assert np.mean(ops.convert_to_numpy(joint(x)) == ops.convert_to_numpy(model(x))) > 0.9


@pytest.mark.long
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
    for correction in ("weights", "joint"):
        snn = fs.convert(
            model, calibration_data=data, steps=3, target_spikes=3.0, correction=correction
        )
        got = snn(data)
        errors.append(sum(float(ops.mean((got[k] - wanted[k]) ** 2)) for k in wanted))
    assert errors[1] < errors[0]
