"""Rounding with error feedback against the definition: each weight where the squared error of the sum is least."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.conversion.rounding import DAMPING, Feedback, observed
from fs_neurons.network.graph import trace


def rounded_by_definition(kernel, steps, largest, moments):
    """Weights that are not yet rounded go to where the error is least, before each is rounded."""
    powers = np.diag(moments)
    moments = moments + DAMPING * powers.mean() * np.eye(len(powers))
    order = list(np.argsort(-powers, kind="stable"))
    whole = np.zeros_like(kernel)
    for channel in range(kernel.shape[1]):
        w, step = kernel[:, channel], steps[:, channel]
        errors = np.zeros(len(w))  # rounded minus real
        for i, at in enumerate(order):
            done, rest = order[:i], order[i:]
            moved = -np.linalg.solve(
                moments[np.ix_(rest, rest)], moments[np.ix_(rest, done)] @ errors[done]
            )
            whole[at, channel] = np.clip(np.rint((w[at] + moved[0]) / step[at]), -largest, largest)
            errors[at] = whole[at, channel] * step[at] - w[at]
    return whole


@pytest.mark.parametrize("largest", [7, 127])
def test_each_weight_makes_up_for_those_before(largest):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 9)) @ rng.normal(size=(9, 9))
    kernel = rng.normal(size=(9, 4))
    steps = rng.uniform(0.5, 1, (9, 1)) * np.abs(kernel).max(axis=0) / largest
    feedback = Feedback.of(x.T @ x)
    whole = feedback.rounded(kernel.reshape(3, 3, 1, 4), steps.reshape(3, 3, 1, 4), largest)
    expected = rounded_by_definition(kernel, steps, largest, x.T @ x)
    np.testing.assert_array_equal(whole, expected.reshape(3, 3, 1, 4))
    assert np.abs(whole).max() == largest


def test_inputs_that_tell_nothing_of_each_other_are_rounded_to_the_nearest():
    kernel = np.random.default_rng(0).normal(size=(6, 5))
    steps = np.full((6, 5), 0.2)
    for powers in (np.arange(1.0, 7), np.zeros(6)):
        whole = Feedback.of(np.diag(powers)).rounded(kernel, steps, 7)
        np.testing.assert_array_equal(whole, np.clip(np.rint(kernel / 0.2), -7, 7))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_moments_are_those_of_what_each_filter_sees(padding, monkeypatch):
    monkeypatch.setattr("fs_neurons.conversion.rounding.ENTRIES_AT_ONCE", 1000)
    inputs = keras.Input((6, 5, 2))
    x = layers.Conv2D(3, (3, 2), 2, padding, name="convolution")(inputs)
    x = layers.DepthwiseConv2D(1, name="depthwise")(x)
    x = layers.Conv2D(6, 1, groups=3, name="groups")(x)
    network = trace(keras.Model(inputs, layers.Dense(2, name="dense")(layers.Flatten()(x))))
    images = np.random.default_rng(0).normal(size=(7, 6, 5, 2)).astype(np.float32)
    seen = {call.name: each for call, each in observed(network, images).items()}
    assert list(seen) == ["convolution", "depthwise", "groups", "dense"]
    assert seen["depthwise"].feedback is seen["groups"].feedback is None
    if padding == "same":  # one more row below, one more column on the right
        images = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    rows = [
        images[:, i : i + 3, j : j + 2].reshape(7, -1)
        for i in range(0, images.shape[1] - 2, 2)
        for j in range(0, images.shape[2] - 1, 2)
    ]
    rows = np.concatenate(rows).astype(np.float64)
    expected, found = Feedback.of(rows.T @ rows), seen["convolution"].feedback
    np.testing.assert_array_equal(found.order, expected.order)
    np.testing.assert_allclose(found.factor, expected.factor, rtol=1e-4, atol=1e-6)
    kernel, bias = (np.asarray(w, np.float64) for w in network.calls[0].op.get_weights())
    outputs = (rows @ kernel.reshape(12, 3) + bias).reshape(-1, 7, 3)
    means = outputs[:, ::2].mean(axis=(0, 1))  # of every other image
    np.testing.assert_allclose(seen["convolution"].mean, means, rtol=1e-4, atol=1e-6)


def test_networks_of_few_bits_stay_closer_to_theirs():
    """Sums of inputs that go together: rounding errors of the nearest add up, where feedback takes them back."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    model = keras.Model(inputs, layers.Dense(4)(layers.Dense(32, activation="relu")(inputs)))
    snn = fs.convert(model, relu=fs.relu_parameters(8, 8.0), input_bits=8, input_range=(0.0, 1.0))
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (300, 1)) + rng.uniform(-0.1, 0.1, (300, 64))
    images = np.clip(images, 0, 0.99).astype(np.float32)
    y = ops.convert_to_numpy(snn(images))
    errors = [
        np.std(ops.convert_to_numpy(fs.quantize(snn, 3, calibration_data=data)(images)) - y)
        for data in (None, images)
    ]
    assert errors[1] < errors[0] / 2
