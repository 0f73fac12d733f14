import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import ops

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.neuron import sets as parameters

X = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
LAYERS = {
    "FSReLU": lambda **k: fs.FSReLU(**k),
    "FSReLU K=3": lambda **k: fs.FSReLU(K=3, alpha=4.0, **k),
    "FSSwish": lambda **k: fs.FSSwish(**k),
    "FSSigmoid": lambda **k: fs.FSSigmoid(**k),
    "FSActivation": lambda **k: fs.FSActivation(
        fs.FSParameters([0, 1], [1, 0.5], [2, 3], name="two"), **k
    ),
}


@pytest.fixture(params=LAYERS, ids=str)
def make(request):
    return LAYERS[request.param]


def test_layer_computes_the_response(make):
    layer = make()
    y, _, _ = plain_loop(X, layer.parameters)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(X)), y)


def test_saved_model_loads_with_its_parameters(make, tmp_path):
    model = keras.Sequential([keras.Input((5, 6)), make(name="site")])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("site")
    assert type(layer) is type(model.get_layer("site"))
    assert layer.parameters == model.get_layer("site").parameters
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float32", "float64"])
def test_arithmetic_is_float32_whatever_the_policy(make, policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told so before anything else")
    layer = make(dtype=policy)
    y = layer(ops.convert_to_tensor(X, dtype=layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    x = ops.convert_to_numpy(ops.cast(ops.cast(X, layer.compute_dtype), "float32"))
    expected = ops.cast(plain_loop(x, layer.parameters)[0], layer.compute_dtype)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(y, "float32")),
        ops.convert_to_numpy(ops.cast(expected, "float32")),
    )


def test_nan_gives_nan(make):
    y = ops.convert_to_numpy(make()(np.float32([[np.nan, 1.0]])))
    assert np.isnan(y[0, 0]) and np.isfinite(y[0, 1])


def test_spikes_are_recorded_per_call_and_image():
    layer = fs.FSSwish()
    with fs.record_spikes() as records:
        layer(X)
        layer(X[:2])
    expected = plain_loop(X, layer.parameters)[2].reshape(4, -1).sum(axis=1)
    assert [record.layer for record in records] == [layer, layer]
    np.testing.assert_array_equal(ops.convert_to_numpy(records[0].spikes), expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(records[1].spikes), expected[:2])
    layer(X)
    assert len(records) == 2


def test_a_model_of_fs_neurons_trains_further():
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(512, 8)).astype(np.float32)
    y = (x[:, :1] * x[:, 1:2] > 0).astype(np.float32)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32), fs.FSReLU(K=6, alpha=4), keras.layers.Dense(32),
         fs.FSSwish(), keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )  # fmt: skip
    first = model.layers[0].get_weights()[0].copy()
    model.fit(x, y, epochs=30, batch_size=64, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.85
    assert np.abs(model.layers[0].get_weights()[0] - first).max() > 0.01


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="uses TensorFlow's gradient tape"
)
def test_gradient_is_the_surrogate_derivative():
    import tensorflow as tf

    p = parameters.load("swish_k16_paper")
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(3.0 * neuron.response(x, p))
    np.testing.assert_allclose(
        tape.gradient(y, x),
        3.0 * ops.convert_to_numpy(neuron.surrogate_derivative(X, p)),
        rtol=1e-6,
    )


def test_masks_pass_through():
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(10, 3, mask_zero=True)(inputs)
    x = fs.FSReLU()(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    full, _ = model.predict(np.int32([[1, 2, 0, 0], [1, 2, 3, 4]]), verbose=0)
    unmasked = model.layers[-2](model.layers[1](np.int32([[1, 2, 0, 0]])))
    np.testing.assert_allclose(full, ops.convert_to_numpy(unmasked)[0, :2].mean(axis=0), rtol=1e-6)


def test_constructors_refuse_what_is_no_set():
    with pytest.raises(FileNotFoundError, match="no_such"):
        fs.FSSwish("no_such")
    with pytest.raises(TypeError, match="list"):
        fs.FSActivation([1, 2, 3])
    with pytest.raises(ValueError, match="alpha"):
        fs.FSReLU(alpha=-1)


def test_layers_print_what_they_are():
    assert repr(fs.FSReLU(K=4, alpha=8, name="site")) == "FSReLU('relu_k4_alpha8', name='site')"


def test_scale_of_a_channel_in_mixed_precision_and_its_gradient():
    p = fs.relu_parameters(3, 1.0, "nearest")
    x = np.linspace(-1, 9, 24, dtype=np.float32).reshape(2, 4, 3)
    scale = np.float32([0.7, 2.0, 8.0])
    layer, half = (fs.FSActivation(p, "relu", per_channel=True, dtype=dtype)
                   for dtype in ("float32", "mixed_bfloat16"))  # fmt: skip
    for each in (layer, half):
        each.build(x.shape)
        each.scale.assign(scale)
    rounded = ops.cast(ops.cast(x, "bfloat16"), "float32")
    expected = ops.cast(layer(rounded), "bfloat16")
    assert (ops.convert_to_numpy(ops.cast(half(x) == expected, "int32")) == 1).all()
    assert layer.trainable_variables == [layer.scale]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="uses TensorFlow's gradient tape"
)
def test_gradients_of_inputs_and_scale_are_those_of_the_composition():
    import tensorflow as tf

    p = fs.relu_parameters(3, 1.0, "nearest")
    x = tf.constant(np.random.default_rng(0).normal(1, 2, (5, 4, 3)).astype(np.float32))
    layer = fs.FSActivation(p, "relu", per_channel=True)
    layer.build(x.shape)
    layer.scale.assign([0.7, 2.0, 8.0])
    gradients = []
    for respond in (
        layer,
        lambda x: layer.out_of_units(neuron.response(layer.in_units(x), p)),
    ):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(respond(x)))
        gradients.append(tape.gradient(loss, [x, layer.scale.value]))
    for fused, composed in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, composed, rtol=1e-5, atol=1e-6)


def test_binary_coded_sets_make_an_fs_relu_for_relu_only(tmp_path):
    p = fs.relu_parameters(6, 4.0)
    kinds = {name: type(fs.layers.fs_layer(p, name)) for name in ("relu", "relu(max_value=4)")}
    assert set(kinds.values()) == {fs.FSReLU}
    assert type(fs.layers.fs_layer(p, "silu")) is fs.FSSwish
    site = fs.layers.fs_layer(p, "softplus", name="site")
    assert type(site) is fs.FSActivation
    site.parameters = parameters.load("swish_k8")  # as calibration does
    model = keras.Sequential([keras.Input((5, 6)), site])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("site").parameters == site.parameters


def test_fs_relu_refuses_parameters_that_are_not_binary_coded():
    layer = fs.FSReLU(name="site")
    with pytest.raises(ValueError, match=r"'site'.*'swish_k8'.*FSActivation"):
        layer.parameters = parameters.load("swish_k8")
    with pytest.raises(TypeError, match=r"'site'.*FSActivation"):
        layer.parameters = fs.ChannelParameters((layer.parameters,), [0, 0])
    layer.parameters = fs.relu_parameters(3, 2.0, "nearest")
    assert layer.get_config()["alpha"] == 2.0 and layer.get_config()["rounding"] == "nearest"
