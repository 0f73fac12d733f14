"""Mean outputs of sites."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.calibration import calibrator, centring


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype(np.float32)


def features(branch):
    """Mean activations behind a normalization, which something else takes as well if asked."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    normalized = layers.BatchNormalization(name="norm", beta_initializer="ones")(
        layers.Conv2D(5, 3, padding="same")(inputs)
    )
    x = layers.GlobalAveragePooling2D()(layers.Activation("silu")(normalized))
    return keras.Model(inputs, [x, normalized] if branch else x)


def test_outputs_have_their_mean(images, monkeypatch):
    model = features(branch=False)
    exact = ops.convert_to_numpy(model(images))

    def mean_error():
        snn = fs.convert(model, calibration_data=images, steps=8)
        return np.abs((ops.convert_to_numpy(snn(images)) - exact).mean(axis=0)).max()

    centred = mean_error()
    monkeypatch.setattr(calibrator, "centre", lambda *_: None)
    assert centred < 0.3 * mean_error()


def test_layers_with_an_offset_make_up_for_what_comes_before_them(images, monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization()(layers.Conv2D(5, 3)(inputs))
    x = layers.BatchNormalization()(layers.Conv2D(5, 3)(layers.Activation("silu", name="first")(x)))
    x = layers.GlobalAveragePooling2D()(layers.Activation("silu", name="last")(x))
    model = keras.Model(inputs, layers.Dropout(0.2)(x))
    centred = []
    monkeypatch.setattr(calibrator, "centre", lambda pair, call, *_: centred.append(call.name))
    fs.convert(model, calibration_data=images, steps=8)
    assert centred == ["last"]
    # With many steps, there is hardly a mean error.
    fs.convert(model, calibration_data=images, steps=16)
    assert centred == ["last"]


def test_what_others_take_stays(images):
    model = features(branch=True)
    snn = fs.convert(model, calibration_data=images, steps=8, correction="mean")
    for exact, y in zip(
        model.get_layer("norm").weights, snn.get_layer("norm").weights, strict=True
    ):
        assert ops.convert_to_numpy(y) == pytest.approx(ops.convert_to_numpy(exact), abs=1e-5)


@pytest.mark.parametrize("slope, expected", [(1.0, -0.1), (0.5, -0.2), (1e-4, 0.0)])
def test_a_shift_makes_up_for_the_mean_error(slope, expected):
    x = np.random.default_rng(1).normal(size=(5000, 1)).astype(np.float32)
    site = SimpleNamespace(function=lambda x: slope * x)
    neurons = SimpleNamespace(response=lambda x: slope * x + 0.1)
    found = centring.shift(site, neurons, x, x)
    # Less than what is missing, and little where it would take a shift beyond all gate inputs.
    assert found[0] == pytest.approx(expected, rel=0.2, abs=0.01)


def test_sets_of_the_last_site_are_for_what_was_measured_alone(images, monkeypatch):
    model = features(branch=False)
    norm = model.get_layer("norm")
    # It promises inputs much wider than those that calibration meets.
    norm.gamma.assign(np.full(5, 3.0))
    norm.moving_variance.assign(norm.moving_variance * 1000)
    exact = ops.convert_to_numpy(model(images))
    monkeypatch.setattr(calibrator, "centre", lambda *_: None)

    def error():
        snn = fs.convert(model, calibration_data=images, steps=8)
        return np.square(ops.convert_to_numpy(snn(images)) - exact).mean()

    last = error()
    monkeypatch.setattr(calibrator, "is_last", lambda *_: False)
    assert last < 0.3 * error()
