"""Calibration against numpy, on a trained network, and its refusals."""

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import fs_neurons as fs
from fs_neurons import models, neuron
from fs_neurons.calibration import calibrator as calibration
from fs_neurons.calibration.calibrator import Settings, best_alpha
from fs_neurons.data import datasets


@pytest.fixture(scope="module")
def images():
    training = datasets.load("digits", "train").take(200)
    return np.asarray(datasets.standardise(training.images))


@pytest.fixture(scope="module")
def model():
    return models.pretrained("resnet8", "digits")


def spikes_per_neuron(snn, images):
    with fs.record_spikes() as records:
        snn(images)
    spikes = sum(int(np.asarray(record.spikes).sum()) for record in records)
    return spikes / len(images) / fs.conversion_report(snn).neurons


def logit_error(snn, model, images):
    difference = np.asarray(snn(images)) - np.asarray(model(images))
    return float(np.sqrt((difference**2).mean()))


@given(
    K=st.integers(1, 8),
    alpha=st.sampled_from([1.0, 3.0, 8.0]),
    x=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_rounding_to_nearest(K, alpha, x):
    x = np.array(x, np.float32)
    step = alpha / 2**K
    expected = np.clip(np.floor(x / step + 0.5), 0, 2**K - 1) * step
    y = np.asarray(neuron.response(x, fs.relu_parameters(K, alpha, "nearest")))
    assert (y == expected.astype(np.float32)).all()


def test_channels_have_their_own_scale(tmp_path):
    inputs = keras.Input((4, 3))
    site = fs.FSActivation(fs.relu_parameters(4, 1.0), "relu", per_channel=True, name="site")
    model = keras.Model(inputs, site(inputs))
    scale = np.array([0.5, 2.0, 8.0], np.float32)
    site.scale.assign(scale)
    x = np.random.default_rng(0).normal(0, 4, (5, 4, 3)).astype(np.float32)
    expected = np.clip(np.floor(x / scale * 16), 0, 15) / 16 * scale
    assert np.asarray(model(x)) == pytest.approx(expected)
    model.save(tmp_path / "scaled.keras")
    loaded = keras.models.load_model(tmp_path / "scaled.keras")
    assert (np.asarray(loaded(x)) == np.asarray(model(x))).all()


def test_best_alpha_is_near_the_best_of_a_fine_search():
    random = np.random.default_rng(0)
    x = np.stack([random.normal(0, 1, 20_000), random.exponential(3, 20_000)], axis=1)
    x = x.astype(np.float32)
    found = best_alpha(x, 4, np.inf, "nearest", 0.0, 2.0)
    for channel, alpha in zip(x.T, found, strict=True):

        def error(a, channel=channel):
            step = a / 16
            y = np.clip(np.floor(channel / step + 0.5), 0, 15) * step
            return ((y - np.maximum(channel, 0)) ** 2).mean()

        best = min(error(a) for a in np.linspace(0.02, 1.3, 400) * channel.max())
        assert error(alpha) <= 1.05 * best


def test_few_steps_after_calibration_do_better_than_before(model, images):
    test = datasets.load("digits", "test").take(200)
    held_out = np.asarray(datasets.standardise(test.images))
    before = fs.convert(model, relu=fs.relu_parameters(4, 25.0))
    by_layer = fs.convert(model, calibration_data=images, steps=4, granularity="layer")
    by_channel = fs.convert(model, calibration_data=images, steps=4)
    errors = [logit_error(snn, model, held_out) for snn in (before, by_layer, by_channel)]
    assert errors[2] < errors[1] < errors[0] / 4
    hits = [
        (np.asarray(network(held_out)).argmax(1) == test.labels).mean()
        for network in (model, by_channel)
    ]
    assert hits[1] >= hits[0] - 0.01
    assert spikes_per_neuron(by_channel, held_out) < 1.0


def test_channel_means_are_those_of_the_network(model, images):
    snn = fs.convert(model, calibration_data=images, steps=3, correction="weights")
    name = next(x.name for x in model.layers if isinstance(x, layers.BatchNormalization))
    means = []
    for network in (model, snn):
        part = keras.Model(network.inputs, network.get_layer(name).output)
        means.append(np.asarray(part(images)).mean(axis=(0, 1, 2)))
    assert means[1] == pytest.approx(means[0], abs=1e-3)


def test_least_squares_equal_those_of_numpy(monkeypatch):
    monkeypatch.setattr(calibration, "RIDGES", (1e-12,))
    random = np.random.default_rng(0)
    x, noise = random.normal(2, 1, (300, 5)), random.normal(0, 0.1, (300, 3))
    y = x @ random.normal(size=(5, 3)) + 4 + noise
    fit = calibration._LeastSquares(5, 3)
    for half in range(2):
        fit.add(x[half::2], y[half::2], half)
    expected, *_ = np.linalg.lstsq(np.c_[x, np.ones(300)], y, rcond=None)
    assert fit.solve() == pytest.approx(expected, abs=1e-6)


def test_what_half_of_the_images_can_not_predict_is_left_alone():
    random = np.random.default_rng(0)
    fit = calibration._LeastSquares(40, 3)
    for half in range(2):
        fit.add(random.normal(size=(50, 40)), random.normal(size=(50, 3)), half)
    assert fit.solve() is None


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_refitted_convolution_gives_what_the_original_gave(padding):
    """Behind a site that halves its output the weights have to double."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 2))
    x = layers.Conv2D(3, 2, strides=2, activation="relu")(inputs)
    conv = layers.Conv2D(4, (2, 3), strides=(1, 2), padding=padding, use_bias=False, name="conv")
    model = keras.Model(inputs, conv(x))
    half = dataclasses.replace(fs.relu_parameters(12, 32.0), d=fs.relu_parameters(12, 16.0).d)
    x = np.random.default_rng(0).normal(size=(64, 9, 7, 2)).astype(np.float32)
    (site,) = fs.find_sites(model)
    run = calibration._Calibration(model, {site: half}, [[x]], Settings(steps=12))
    run._fit = lambda layer, call, spiking: setattr(layer, "parameters", half)
    snn = run.run()
    assert np.asarray(snn.get_layer("conv").kernel) == pytest.approx(
        2 * np.asarray(conv.kernel), rel=0.05, abs=0.05
    )


@pytest.mark.parametrize(
    ("arguments", "refined"),
    [
        ({"steps": 4}, True),
        ({"steps": 5}, False),
        ({"steps": 5, "spike_penalty": 0.01}, True),
        ({"steps": 9, "spike_penalty": 0.01}, False),
    ],
)
def test_few_steps_end_with_all_weights_and_ranges_together(arguments, refined):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(30, "relu"),
            layers.BatchNormalization(),
            layers.Dense(30, "relu"),
            layers.Dropout(0.5),
        ]
    )
    x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    by_weights, by_default = (
        fs.convert(model, calibration_data=x, correction=correction, **arguments)
        for correction in ("weights", None)
    )
    changed = {
        before.name
        for before, after in zip(by_weights.weights, by_default.weights, strict=True)
        if (np.asarray(before) != np.asarray(after)).any()
    }
    assert changed == ({"kernel", "beta", "bias", "scale"} if refined else set())


def test_calibrated_networks_are_simulated_compared_and_saved(model, images, tmp_path):
    snn = fs.convert(model, calibration_data=images, steps=4)
    result = fs.simulate(snn, images[:4])
    assert np.abs(result.outputs - np.asarray(snn(images[:4]))).max() <= 1e-4
    with fs.record_spikes() as records:
        snn(images[:4])
    assert (result.spikes == sum(np.asarray(r.spikes) for r in records)).all()
    comparison = fs.compare(model, snn, images[:50])
    assert all(site.relative_error < 0.1 for site in comparison.sites)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert (np.asarray(loaded(images[:9])) == np.asarray(snn(images[:9]))).all()


def test_a_target_of_spikes_is_met(model, images):
    target = 0.6
    snn = fs.convert(model, calibration_data=images[:100], steps=4, target_spikes=target)
    assert spikes_per_neuron(snn, images[:100]) <= 1.05 * target


def test_a_small_price_of_spikes_costs_no_accuracy(model, images):
    """The fitted sets are as good as FS-ReLU on the inputs that there are, whatever the largest is."""
    free, cheap = (
        fs.convert(model, calibration_data=images, steps=4, spike_penalty=penalty)
        for penalty in (0.0, 1e-6)
    )
    assert logit_error(cheap, model, images) < 1.1 * logit_error(free, model, images)


def test_other_activations_are_fitted_to_their_inputs():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(30, "silu"), layers.Dense(4)])
    x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    snn = fs.convert(model, calibration_data=x[:1000], steps=8)
    before = fs.convert(model, swish="swish_k8")
    assert logit_error(snn, model, x[1000:]) < logit_error(before, model, x[1000:]) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be"),
        ({"granularity": "pixel"}, "granularity must be one of"),
        ({"correction": "all"}, "correction must be one of none, mean"),
        ({"spike_penalty": -1}, "spike_penalty must be"),
        ({"target_spikes": 1, "spike_penalty": 1}, "not both"),
        ({"relu": "swish_k8"}, "one or the other"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        fs.convert(model, calibration_data=images, **arguments)


def test_data_that_can_not_calibrate_is_refused(model, images):
    with pytest.raises(ValueError, match="give calibration_data as well"):
        fs.convert(model, steps=4)
    with pytest.raises(ValueError, match="give calibration_data as well"):
        fs.convert(model, correction="weights")
    with pytest.raises((TypeError, ValueError), match="label"):
        fs.convert(model, calibration_data=(images, np.zeros(len(images))), steps=4)
    with pytest.raises(ValueError, match="at least 16"):
        fs.convert(model, calibration_data=images[:3], steps=4)
    broken = images.copy()
    broken[7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fs.convert(model, calibration_data=broken, steps=4)
