"""`simulate` against a loop over every time step, and against the network itself."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.network import graph


def spike_counts(snn, images):
    """(sites, images), by the network itself."""
    with fs.record_spikes() as records:
        snn(images)
    return np.array([ops.convert_to_numpy(record.spikes) for record in records])


def assert_same(snn, images, **arguments):
    result = fs.simulate(snn, images, **arguments)
    outputs = keras.tree.map_structure(ops.convert_to_numpy, snn(images))
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4), result.outputs, outputs
    )
    counts = np.array([site.spikes for site in result.sites])
    assert (counts == spike_counts(snn, images)).all()
    return result


# --- step by step -------------------------------------------------------------------------------

K, ALPHA = 5, 4.0


def dyadic(rng, *shape):
    """Weights in steps of 1/8: all sums are exact in floating point, in any order."""
    return (rng.integers(-8, 9, shape) / 8).astype(np.float32)


def two_branches():
    """Sites a, b = dense(a), c = dense(a + b): the spikes of a wait for those of b."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((3,))
    a = layers.Dense(4, activation="relu", name="a")(inputs)
    b = layers.Dense(4, activation="relu", name="b")(a)
    c = layers.Dense(5, activation="relu", name="c")(layers.Add(name="sum")([a, b]))
    model = keras.Model(inputs, layers.Dense(2, name="out")(c))
    model.set_weights([dyadic(rng, *w.shape) for w in model.get_weights()])
    return model


def test_every_spike_is_that_of_a_loop_over_time():
    model = two_branches()
    images = dyadic(np.random.default_rng(1), 4, 3)
    result = fs.simulate(
        fs.convert(model, relu=fs.relu_parameters(K, ALPHA)), images, batch_size=3, raster=True
    )
    # One network, one clock; what has been sent is in `lines` until its time has come.
    weights = {layer.name: layer.get_weights() for layer in model.layers if layer.get_weights()}
    T = ALPHA * 2.0 ** -np.arange(1, K + 1)
    potential = {name: np.zeros(len(weights[name][1])) for name in "abc"}
    windows = {"a": 1, "b": 2, "c": 3}
    outputs = np.zeros((4, 2))
    lines = []  # (step of arrival, layer, value)
    spikes = set()
    steps = (3 + 1) * K + 3 * 2 * K
    for step in range(steps):
        image, phase = divmod(step, 2 * K)
        if phase == 0 and image < 4:
            for name in weights:  # constants arrive with the first step of the window before
                at = step + (windows.get(name, 4) - 1) * K
                lines.append((at, name, image, weights[name][1].astype(float)))
            lines.append((step, "a", image, images[image] @ weights["a"][0]))
        for name, window in windows.items():
            image, t = divmod(step - window * K, 2 * K)
            if not (0 <= image < 4 and t < K):
                continue
            z = potential[name] >= T[t]
            potential[name] -= T[t] * z
            spikes.update((name, image, step, int(i)) for i in np.flatnonzero(z))
            sent = T[t] * z
            if name == "a":
                lines.append((step, "b", image, sent @ weights["b"][0]))
                lines.append((step + K, "c", image, sent @ weights["c"][0]))
            elif name == "b":
                lines.append((step, "c", image, sent @ weights["c"][0]))
            else:
                lines.append((step, "out", image, sent @ weights["out"][0]))
            if t == K - 1:
                potential[name][:] = 0  # what is left of this image
        for at, name, image, value in lines:
            if at == step and name == "out":
                outputs[image] += value
            elif at == step:
                potential[name] += value
        lines = [line for line in lines if line[0] > step]
    names = {f"{name}_relu": name for name in "abc"}
    simulated = {
        (names[site.name], int(i), int(s), int(n))
        for site in result.sites
        for i, s, n in zip(site.raster.image, site.raster.step, site.raster.neuron, strict=True)
    }
    assert len(spikes) > 30
    assert simulated == spikes
    assert (result.outputs == outputs).all()
    assert result.steps == steps
    assert result.delays == {"sum": K}
    assert result.in_flight == 2
    at_step = np.bincount([step for _, _, step, _ in spikes], minlength=steps)
    assert (result.activity().sum(axis=0) == at_step).all()


def test_currents_of_spikes_are_what_the_layers_make_of_them():
    # The sums of currents are compared with gate inputs on the way: a layer that only claims to be linear
    # is found out.
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="relu")(inputs)
    x = layers.Softmax()(x)
    snn = fs.convert(keras.Model(inputs, layers.Dense(3, activation="relu", name="last")(x)))
    images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert_same(snn, images)
    linear = graph.is_linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "is_linear", lambda call: "softmax" in call.name or linear(call))
        with pytest.raises(fs.ConversionError, match=r"last_relu.*not linear"):
            fs.simulate(snn, images)


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
@pytest.mark.parametrize("name", ["resnet8", "se_resnet8_swish"])
def test_trained_networks(name):
    from fs_neurons.data import datasets

    snn = fs.convert(models.pretrained(name, "digits"))
    images = ops.convert_to_numpy(datasets.standardise(datasets.load("digits", "test").images[:7]))
    result = assert_same(snn, images)
    assert np.abs(result.outputs - ops.convert_to_numpy(snn(images))).max() == 0
    assert result.deviation < 1e-5


@pytest.mark.long
def test_mobilenet_v2():
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    result = assert_same(fs.convert(model), images, batch_size=2)
    assert result.depth == 35


def test_spiking_max_pooling_passes_digits_on():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    snn = fs.convert(model)
    assert any(isinstance(layer, fs.FSMaxPooling2D) for layer in snn.layers)
    assert_same(snn, np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32))


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["dense", "swish", "relu", "add", "concatenate", "multiply", "norm",
                               "average"]), st.integers(0, 99), st.integers(0, 99)),
    min_size=3, max_size=9,
)  # fmt: skip


@pytest.mark.long
@given(operations=OPERATIONS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs(operations):
    keras.utils.set_random_seed(1)
    values = [keras.Input((6,))]
    for kind, i, j in operations:
        a, b = values[i % len(values)], values[j % len(values)]
        if kind == "multiply":  # products of products grow beyond any range
            a, b = ops.tanh(a), ops.sigmoid(b)
        y = {
            "dense": lambda: layers.Dense(6, activation="relu", bias_initializer="normal")(a),  # noqa: B023
            "swish": lambda: layers.Activation("silu")(layers.Dense(6)(a)),  # noqa: B023
            "relu": lambda: layers.ReLU()(a),  # noqa: B023
            "add": lambda: layers.Add()([a, b]),  # noqa: B023
            "concatenate": lambda: layers.Dense(6)(layers.Concatenate()([a, b])),  # noqa: B023
            "multiply": lambda: layers.Multiply()([a, b]),  # noqa: B023
            "norm": lambda: layers.BatchNormalization()(a),  # noqa: B023
            "average": lambda: layers.Average()([a, b]) * 0.5,  # noqa: B023
        }[kind]()
        values.append(y)
    used = layers.Dense(3, activation="relu")(values[-1])
    snn = fs.convert(keras.Model(values[0], [used, values[-1]]))
    images = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    result = fs.simulate(snn, images)
    for a, b in zip(result.outputs, snn(images), strict=True):
        assert np.abs(a - ops.convert_to_numpy(b)).max() <= 1e-4
    counts = np.array([site.spikes for site in result.sites])
    assert (counts == spike_counts(snn, images)).all()


def test_batches_do_not_matter_and_bad_input_is_refused():
    snn = fs.convert(two_branches(), relu=fs.relu_parameters(K, ALPHA))
    images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    one, all_at_once = (fs.simulate(snn, images, batch_size=n, raster=True) for n in (1, 5))
    for a, b in zip(one.sites, all_at_once.sites, strict=True):
        assert (a.counts == b.counts).all()
        assert set(zip(a.raster.step, a.raster.neuron, strict=True)) == set(
            zip(b.raster.step, b.raster.neuron, strict=True)
        )
    assert fs.simulate(snn, images).sites[0].raster is None
    images[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"'a_relu' are not finite on images 0\.\.4"):
        fs.simulate(snn, images)
    with pytest.raises(fs.ConversionError, match="convert it first"):
        fs.simulate(two_branches(), images)


@pytest.mark.filterwarnings("ignore:left out of the conversion")
def test_augmentation_layers_do_nothing():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.RandomTranslation(0.4, 0.4, seed=0)(layers.RandomFlip(seed=0)(inputs))
    x = layers.Conv2D(3, 3, activation="relu")(x)
    snn = fs.convert(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    result = fs.simulate(snn, images)
    with fs.record_spikes() as records:
        outputs = ops.convert_to_numpy(snn(images, training=False))
    assert np.abs(result.outputs - outputs).max() <= 1e-5
    assert (result.sites[0].spikes == ops.convert_to_numpy(records[0].spikes)).all()


def test_low_precision_is_refused_for_what_it_is():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        snn = fs.convert(two_branches())
    finally:
        keras.config.set_dtype_policy(policy)
    with pytest.raises(fs.ConversionError, match=r"'a' computes in bfloat16.*policy is float32"):
        fs.simulate(snn, np.ones((2, 3), np.float32))


def test_wrapped_layers_are_linear():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 3))
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(inputs)
    x = layers.SpectralNormalization(layers.Dense(4, bias_initializer="normal"))(x)
    x = layers.ReLU()(ops.matmul(x, np.random.default_rng(1).normal(size=(4, 3)).astype("float32")))
    snn = fs.convert(keras.Model(inputs, layers.Flatten()(x)))
    result = assert_same(snn, np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32))
    # Linear all the way: with the first spikes of the window, not at its end.
    network = graph.trace(snn)
    between = [c for c in network.calls[1:-2] if not c.is_site]
    assert all(map(graph.is_linear, between)) and result.deviation < 1e-5
