"""Calibration against numpy, on a trained network, and its refusals."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import convolves_channels_first
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models, neuron
from fs_neurons.calibration import Settings, calibrate, corrections
from fs_neurons.calibration.neurons import Neurons
from fs_neurons.calibration.pair import Pair
from fs_neurons.calibration.ranges import best_alpha
from fs_neurons.calibration.store import Store
from fs_neurons.data import datasets


@pytest.fixture(scope="module")
def images():
    training = datasets.load("digits", "train").take(200)
    return ops.convert_to_numpy(datasets.standardise(training.images))


@pytest.fixture(scope="module")
def model():
    return models.pretrained("resnet8", "digits")


@pytest.fixture(scope="module")
def small():
    """Two convolutions, batch normalization between them, for the same images."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    for filters in (6, 8):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def spikes_per_neuron(snn, images):
    with fs.record_spikes() as records:
        snn(images)
    spikes = sum(int(ops.convert_to_numpy(record.spikes).sum()) for record in records)
    return spikes / len(images) / fs.conversion_report(snn).neurons


def logit_error(snn, model, images):
    difference = ops.convert_to_numpy(snn(images)) - ops.convert_to_numpy(model(images))
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
    y = ops.convert_to_numpy(neuron.response(x, fs.relu_parameters(K, alpha, "nearest")))
    assert (y == expected.astype(np.float32)).all()


def test_channels_have_their_own_scale(tmp_path):
    inputs = keras.Input((4, 3))
    site = fs.FSActivation(fs.relu_parameters(4, 1.0), "relu", per_channel=True, name="site")
    model = keras.Model(inputs, site(inputs))
    scale = np.array([0.5, 2.0, 8.0], np.float32)
    site.scale.assign(scale)
    x = np.random.default_rng(0).normal(0, 4, (5, 4, 3)).astype(np.float32)
    expected = np.clip(np.floor(x / scale * 16), 0, 15) / 16 * scale
    assert ops.convert_to_numpy(model(x)) == pytest.approx(expected)
    model.save(tmp_path / "scaled.keras")
    loaded = keras.models.load_model(tmp_path / "scaled.keras")
    assert (ops.convert_to_numpy(loaded(x)) == ops.convert_to_numpy(model(x))).all()


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


@pytest.mark.long
def test_few_steps_after_calibration_do_better_than_before(model, images):
    test = datasets.load("digits", "test").take(200)
    held_out = ops.convert_to_numpy(datasets.standardise(test.images))
    before = fs.convert(model, relu=fs.relu_parameters(4, 25.0))
    by_layer = fs.convert(model, calibration_data=images, steps=4, granularity="layer")
    by_channel = fs.convert(model, calibration_data=images, steps=4)
    errors = [logit_error(snn, model, held_out) for snn in (before, by_layer, by_channel)]
    assert errors[2] < errors[1] < errors[0] / 4
    hits = [
        (ops.convert_to_numpy(network(held_out)).argmax(1) == test.labels).mean()
        for network in (model, by_channel)
    ]
    assert hits[1] >= hits[0] - 0.01
    assert spikes_per_neuron(by_channel, held_out) < 1.0


def test_channel_means_are_those_of_the_network(model, images):
    snn = fs.convert(model, calibration_data=images, steps=3, correction="weights")
    name = next(x.name for x in model.layers if isinstance(x, layers.BatchNormalization))
    means = []
    for network in (model, snn):
        part = keras.Model(network.inputs[0], network.get_layer(name).output)
        means.append(ops.convert_to_numpy(part(images)).mean(axis=(0, 1, 2)))
    assert means[1] == pytest.approx(means[0], abs=1e-3)


def test_least_squares_equal_those_of_numpy(monkeypatch):
    monkeypatch.setattr(corrections, "RIDGES", (1e-12,))
    random = np.random.default_rng(0)
    x, noise = random.normal(2, 1, (300, 5)), random.normal(0, 0.1, (300, 3))
    y = x @ random.normal(size=(5, 3)) + 4 + noise
    fit = corrections.LeastSquares(5, 3)
    for half in range(2):
        fit.add(x[half::2], y[half::2], half)
    expected, *_ = np.linalg.lstsq(np.c_[x, np.ones(300)], y, rcond=None)
    assert fit.solve() == pytest.approx(expected, abs=1e-6)


def test_what_half_of_the_images_can_not_predict_is_left_alone():
    random = np.random.default_rng(0)
    fit = corrections.LeastSquares(40, 3)
    for half in range(2):
        fit.add(random.normal(size=(50, 40)), random.normal(size=(50, 3)), half)
    assert fit.solve() is None


def refitted(model, name, x):
    """The kernel of a layer behind a site whose neurons give half of what they should."""
    half = dataclasses.replace(fs.relu_parameters(12, 32.0), d=fs.relu_parameters(12, 16.0).d)
    (site,) = fs.find_sites(model)
    pair = Pair.of(model, {site: half}, x[:1])
    neurons = {site: Neurons(half, 0.0)}
    store = Store(
        pair.graph, [x], pair.analog, lambda call, tensors: pair.spiking(call, tensors, neurons)
    )
    for place, call in enumerate(pair.graph.calls):
        store.admit(place)
        store.run_analog(place)
        if call.op.name == name:
            assert corrections.refit(call, store)
            return ops.convert_to_numpy(call.op.kernel)
        store.run_spiking(place)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_refitted_convolution_gives_what_the_original_gave(padding):
    """Behind a site that halves its output the weights have to double."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 7, 2))
    x = layers.Conv2D(3, 2, strides=2, activation="relu")(inputs)
    conv = layers.Conv2D(4, (2, 3), strides=(1, 2), padding=padding, use_bias=False, name="conv")
    model = keras.Model(inputs, conv(x))
    x = np.random.default_rng(0).normal(size=(64, 9, 7, 2)).astype(np.float32)
    kernel = refitted(model, "conv", x)
    assert kernel == pytest.approx(2 * ops.convert_to_numpy(conv.kernel), rel=0.05, abs=0.05)


@pytest.mark.parametrize("padding", ["causal", "same"])
def test_a_convolution_over_time_with_dilation_is_refitted(padding):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((20, 2))
    x = layers.Conv1D(3, 2, activation="relu")(inputs)
    conv = layers.Conv1D(4, 3, dilation_rate=2, padding=padding, name="conv")
    model = keras.Model(inputs, conv(x))
    x = np.random.default_rng(0).normal(size=(64, 20, 2)).astype(np.float32)
    kernel = refitted(model, "conv", x)
    assert kernel == pytest.approx(2 * ops.convert_to_numpy(conv.kernel), rel=0.05, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "refined"),
    [
        ({"steps": 3}, True),
        ({"steps": 4}, False),
        pytest.param({"steps": 5, "spike_penalty": 0.01}, True, marks=pytest.mark.long),
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
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    by_weights, by_default = (
        fs.convert(model, calibration_data=x, correction=correction, **arguments)
        for correction in ("weights", None)
    )
    changed = {
        before.name
        for before, after in zip(by_weights.weights, by_default.weights, strict=True)
        if (ops.convert_to_numpy(before) != ops.convert_to_numpy(after)).any()
    }
    assert changed == ({"kernel", "beta", "bias", "scale"} if refined else set())


def test_calibrated_networks_are_simulated_compared_and_saved(model, images, tmp_path):
    snn = fs.convert(model, calibration_data=images, steps=4, correction="weights")
    result = fs.simulate(snn, images[:4])
    assert np.abs(result.outputs - ops.convert_to_numpy(snn(images[:4]))).max() <= 1e-4
    with fs.record_spikes() as records:
        snn(images[:4])
    assert (result.spikes == sum(ops.convert_to_numpy(r.spikes) for r in records)).all()
    comparison = fs.compare(model, snn, images[:50])
    assert all(site.relative_error < 0.1 for site in comparison.sites)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert (ops.convert_to_numpy(loaded(images[:9])) == ops.convert_to_numpy(snn(images[:9]))).all()


def test_a_target_of_spikes_is_met(small, images, short_refinement):
    free = fs.convert(small, calibration_data=images, steps=4)
    target = 0.8 * spikes_per_neuron(free, images)
    snn = fs.convert(small, calibration_data=images, steps=4, target_spikes=target)
    assert 0.9 * target <= spikes_per_neuron(snn, images) <= 1.05 * target


@pytest.mark.long
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
        fs.convert(model, granularity="layer")
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


def test_channels_are_those_of_the_layer_before():
    """Whatever the image format of Keras is."""
    if not convolves_channels_first():
        pytest.skip("no convolutions with channels first here")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3, 8, 6)),
            layers.Conv2D(5, 3, data_format="channels_first"),
            layers.BatchNormalization(axis=1),
            layers.ReLU(),
            layers.Conv2D(4, 3, data_format="channels_first", activation="silu"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(50, 3, 8, 6)).astype(np.float32)
    snn = fs.convert(model, calibration_data=x, steps=8)
    relu, silu = (layer for layer in snn.layers if isinstance(layer, fs.FSActivation))
    assert (relu.scale.shape, relu.axis) == ((5,), 1)
    assert getattr(silu.parameters, "channels", 4) == 4 and silu.axis in (1, -1)
    error = ops.convert_to_numpy(snn(x)) - ops.convert_to_numpy(model(x))
    assert np.square(error).mean() < 0.05 * ops.convert_to_numpy(model(x)).var()


def test_images_of_several_sizes_are_refused_and_open_sizes_are_not():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    random = np.random.default_rng(0)
    small, large = (random.normal(size=(20, n, n, 3)).astype(np.float32) for n in (8, 10))
    with pytest.raises(ValueError, match=r"images from 20 on have shape .10, 10, 3.,.* same size"):
        fs.convert(model, calibration_data=[small, large], steps=6)
    snn = fs.convert(model, calibration_data=[small, small], steps=6)
    assert ops.convert_to_numpy(snn(large)) == pytest.approx(
        ops.convert_to_numpy(model(large)), abs=0.05
    )


def test_a_binary_coded_set_at_another_site_than_relu_gives_way(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="silu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).normal(size=(50, 8, 8, 2)).astype(np.float32)
    (site,) = fs.find_sites(model)
    snn = calibrate(model, {site: fs.relu_parameters(8, 4.0)}, x, Settings(correction="none"))
    exact, given = (ops.convert_to_numpy(network(x)) for network in (model, snn))
    assert np.std(given - exact) < 0.1 * np.std(exact)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert (ops.convert_to_numpy(loaded(x)) == ops.convert_to_numpy(snn(x))).all()


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_max_pooling_behind_a_calibrated_site_is_that_of_its_outputs(granularity):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    y = layers.ReLU(name="site")(layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, [y, layers.MaxPooling2D()(y)])
    x = 9 * np.random.default_rng(0).normal(size=(50, 8, 8, 2)).astype(np.float32)
    snn = fs.convert(model, calibration_data=x, steps=5, granularity=granularity)
    outputs, pooled = map(ops.convert_to_numpy, snn(x))
    assert (pooled == outputs.reshape(50, 3, 2, 3, 2, 4).max(axis=(2, 4))).all()


@pytest.mark.filterwarnings("ignore:left out of the conversion")
def test_augmentation_takes_no_part(short_refinement):
    results = []
    for augmented in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        x = layers.RandomFlip()(inputs) if augmented else inputs
        x = layers.Conv2D(4, 3, activation="relu")(x)
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
        model.set_weights(results[0][0]) if results else None
        images = np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype(np.float32)
        snn = fs.convert(model, calibration_data=images, steps=4)
        results.append(
            (model.get_weights()[-4:], ops.convert_to_numpy(snn(images, training=False)))
        )
    assert (results[0][1] == results[1][1]).all()


def test_channels_of_other_activations_get_the_set_for_their_range(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    dense = layers.Dense(8, "silu")
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.diag(2.0 ** np.arange(-2, 6)), np.zeros(8)])
    x = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)

    def errors(snn):
        y = ops.convert_to_numpy(model(x[2000:]))
        return np.square(ops.convert_to_numpy(snn(x[2000:])) - y).mean(axis=0) / y.var(axis=0)

    by_channel, by_layer = (
        fs.convert(model, calibration_data=x[:2000], steps=16, granularity=granularity)
        for granularity in ("channel", "layer")
    )
    assert 2 * errors(by_channel).max() < errors(by_layer).max()
    assert len(by_channel.layers[-1].parameters.members) > 3
    by_channel.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert (ops.convert_to_numpy(loaded(x)) == ops.convert_to_numpy(by_channel(x))).all()


def test_a_shared_site_is_fitted_to_all_its_places():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    relu = layers.ReLU()
    a, b = layers.Dense(5), layers.Dense(5)
    model = keras.Model(inputs, [relu(a(inputs)), relu(b(inputs))])
    b.set_weights([100 * w for w in b.get_weights()])
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    snn = fs.convert(model, calibration_data=x, steps=10)
    large = ops.convert_to_numpy(model(x)[1])
    assert ops.convert_to_numpy(snn(x)[1]) == pytest.approx(large, abs=0.05 * float(large.max()))


def test_progress_is_shown_where_wanted(capsys):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(9, "relu", name="hidden")])
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    (site,) = fs.find_sites(model)
    calibrate(model, {site: fs.relu_parameters()}, x, Settings())
    assert capsys.readouterr() == ("", "")
    calibrate(model, {site: fs.relu_parameters()}, x, Settings(), verbose=True)
    out, err = capsys.readouterr()
    assert out == "" and "hidden" in err and err.endswith("\n")
