"""Activations are told by what they compute."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.network.activations import activation_of, is_element_wise

partial = functools.partial


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (keras.activations.relu, "relu"),
        (ops.relu, "relu"),
        (ops.swish, "silu"),
        (keras.activations.get("hard_swish"), "hard_silu"),
        (layers.ReLU(), "relu"),
        (layers.ReLU(max_value=6), "relu(max_value=6)"),
        (layers.ReLU(max_value=float("inf")), "relu"),
        (layers.Activation("relu6"), "relu(max_value=6)"),
        (layers.ReLU(negative_slope=0.25), "leaky_relu(negative_slope=0.25)"),
        (layers.LeakyReLU(), "leaky_relu(negative_slope=0.3)"),
        (layers.LeakyReLU(0.2), "leaky_relu"),
        (layers.LeakyReLU(0.0), "relu"),
        (layers.ELU(0.5), "elu(alpha=0.5)"),
        (keras.activations.gelu, "gelu"),
        (ops.gelu, "gelu(approximate=True)"),
        (partial(ops.gelu, approximate=False), "gelu"),
        (partial(keras.activations.relu, max_value=1), "relu(max_value=1)"),
        (partial(partial(ops.celu, alpha=2.0), alpha=3.0), "celu(alpha=3)"),
        (partial(keras.activations.squareplus, b=2), "squareplus(b=2)"),
        (
            partial(ops.threshold, threshold=1, default_value=0),
            "threshold(default_value=0, threshold=1)",
        ),
        (layers.LeakyReLU(0.1), "leaky_relu(negative_slope=0.1)"),
    ],
)
def test_names_have_every_option_that_is_not_the_default(target, name):
    assert activation_of(target).name == name


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (ops.relu, "relu"),
        (keras.activations.silu, "silu"),
        (lambda x: keras.activations.relu(x, max_value=2), "relu(max_value=2)"),
        (lambda x: ops.squareplus(x, b=1), "squareplus(b=1)"),
        (ops.squareplus, "squareplus"),
        (lambda x: ops.hard_shrink(x, 0.1), "hard_shrink(threshold=0.1)"),
        (lambda x: ops.elu(x, 0.5), "elu(alpha=0.5)"),
        (ops.hard_tanh, "hard_tanh"),
    ],
)
def test_operations_too(call, name):
    y = call(keras.Input((3,)))
    assert activation_of(y._keras_history.operation).name == name


def test_what_is_no_activation():
    y = keras.Input((3,)) + 1
    assert activation_of(y._keras_history.operation) is None
    assert activation_of(layers.Softmax()).stays and activation_of(ops.softmax).stays


def named(name, function):
    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", lambda x: ops.clip(x, -1, 1)),
        ("gelu", lambda x: 2 * ops.gelu(x)),
        ("swish", lambda x: x * ops.sigmoid(2 * x)),
        ("sigmoid", lambda x: ops.sigmoid(x) - 0.5),
        ("linear", lambda x: ops.relu(x)),
        ("softmax", lambda x: ops.maximum(x, 0)),
        ("relu", lambda x: x[:1]),
        ("tanh", lambda x: 1 / 0),
    ],
)
def test_a_function_with_a_name_of_keras_is_not_taken_for_that(name, function):
    activation = activation_of(named(name, function))
    assert activation.name == f"{__name__}.{name}"
    assert "it is not Keras'" in activation.reason
    assert not activation.stays and activation.convertible


def test_a_function_with_a_name_of_keras_and_its_values_is():
    assert activation_of(named("relu", lambda x: ops.maximum(x, 0))).name == "relu"
    assert activation_of(named("swish", lambda x: x * ops.sigmoid(x))).name == "silu"
    assert activation_of(named("relu6", lambda x: ops.clip(x, 0, 6))).max_value == 6
    assert activation_of(named("softmax", lambda x: keras.activations.softmax(x))).stays


def test_classes_with_a_call_of_their_own():
    class ReLU(layers.ReLU):
        def call(self, x):
            return super().call(x) + 1

    class Relu(keras.Operation):
        def call(self, x):
            return ops.maximum(x, -1)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    class Mine(layers.Activation):
        def call(self, x):
            return 2 * super().call(x)

    for target in (ReLU(), Relu()):
        activation = activation_of(target)
        assert activation.name == f"{__name__}.{type(target).__name__}"
        assert "it is not Keras' relu" in activation.reason
    assert activation_of(Mine("relu")).name == "Mine"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (keras.activations.glu, "halves the channels"),
        (keras.activations.sparsemax, "normalises"),
        (layers.ReLU(max_value=0), "always zero"),
        (layers.PReLU(), "trained weights"),
    ],
)
def test_what_no_neuron_computes(target, reason):
    activation = activation_of(target)
    assert reason in activation.reason and not activation.convertible


def test_element_wise():
    assert is_element_wise(ops.relu) and is_element_wise(lambda x: x * np.float32(2))
    for function in (ops.softmax, ops.glu, lambda x: x - ops.mean(x, axis=0), lambda x: 1 / 0):
        assert not is_element_wise(function)
