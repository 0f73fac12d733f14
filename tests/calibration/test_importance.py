"""Importance of errors, against noise that is added to the outputs of activations."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.calibration import importance as module
from fs_neurons.calibration.importance import importances
from fs_neurons.calibration.propagation import propagate
from fs_neurons.network import trace


def found(model):
    graph = trace(model)
    return {site.name: x for site, x in importances(graph, propagate(model, graph)).items()}


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.3, 1.5, w.shape) * rng.choice([-1, 1], w.shape)
                       if "variance" not in v.path else rng.uniform(0.5, 3, w.shape)
                       for v, w in zip(model.weights, model.get_weights(), strict=True)])  # fmt: skip
    return model


def measured(model, site, channel, x, size=1e-3):
    """Variance of the outputs over that of independent errors in one channel, summed over the outputs."""
    inside = keras.Model(model.inputs[0], model.get_layer(site).output)
    y = ops.convert_to_numpy(inside(x))
    tail = keras.Model(inside.output, model.output)
    noise = np.zeros_like(y)
    noise[..., channel] = size * np.random.default_rng(1).choice([-1, 1], noise[..., channel].shape)
    changed, exact = (ops.convert_to_numpy(tail(v)) for v in (y + noise, y))
    return np.square(changed - exact).sum(axis=-1).mean() / size**2


def test_dense_layers_sums_and_products():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3)(x)
    x = layers.BatchNormalization()(x)
    x = first = layers.Activation("silu", name="first")(x)
    x = layers.Dense(3)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Add()([x, first])
    x = layers.Activation("relu", name="second")(x)
    gate = layers.Dense(3)(first)
    x = layers.Multiply(name="product")([x, gate])
    model = randomised(keras.Model(inputs, layers.Dense(5, name="logits")(x)))
    importance = found(model)
    assert set(importance) == {"first", "second"}
    kernel = ops.convert_to_numpy(model.get_layer("logits").kernel)
    graph = trace(model)
    statistics = propagate(model, graph)
    total = statistics.of[graph.outputs].variance.sum()
    (product,) = (call for call in graph.calls if call.name == "product")
    gates = statistics.of[product.inputs[1]]
    expected = np.square(kernel).sum(axis=1) * (gates.variance + gates.mean**2) / total
    assert importance["second"] == pytest.approx(expected)
    assert (importance["first"] > 0).all()


def test_independent_errors_behind_a_convolution(monkeypatch):
    """Where places are not correlated, importance is the variance of the outputs over that of the errors."""
    monkeypatch.setattr(module, "NEIGHBOURS", 0.0)
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(3, 1)(x)
    x = layers.Activation("relu", name="site")(x)
    x = layers.Conv2D(4, 3, padding="valid")(x)
    model = randomised(keras.Model(inputs, layers.BatchNormalization()(x)))
    graph = trace(model)
    total = propagate(model, graph).of[graph.outputs].variance.sum()
    images = np.random.default_rng(0).normal(size=(400, 8, 8, 2)).astype(np.float32)
    expected = [measured(model, "site", channel, images) / total for channel in range(3)]
    assert found(model)["site"] == pytest.approx(expected, rel=0.05)


def test_a_filter_of_differences_makes_small_errors_matter():
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 1)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("silu", name="site")(x)
    x = layers.DepthwiseConv2D(3, name="filter")(x)
    x = layers.BatchNormalization(name="normalization")(x)
    model = keras.Model(inputs, x)
    kernel = np.zeros((3, 3, 2, 1), np.float32)
    kernel[:, :, 0], kernel[1, :2, 1, 0] = 1 / 9, [1, -1]
    model.get_layer("filter").set_weights([kernel, np.zeros(2)])
    variances = np.array([1.0, 0.01])
    model.get_layer("normalization").set_weights([np.ones(2), np.zeros(2), np.zeros(2), variances])
    smooth, edges = found(model)["site"]
    assert edges > 50 * smooth


def test_what_cannot_be_followed_hands_on_relative_errors():
    x = inputs = keras.Input((6, 4))
    x = layers.Dense(4)(x)
    x = layers.Activation("relu", name="site")(x)
    x = layers.LSTM(3)(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    importance = found(model)["site"]
    assert np.isfinite(importance).all() and (importance > 0).all()
    assert len(set(importance)) == 1
