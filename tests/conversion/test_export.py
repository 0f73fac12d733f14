"""Converted networks in other formats, each opened in its runtime and compared with Keras."""

import re

import keras
import numpy as np
import pytest
from conftest import on_x86, with_masks
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.neuron.families import load_family
from fs_neurons.neuron.sets import load

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow"
)
FORMATS = ("onnx", "tf_saved_model", "litert")


def model(*top, activations=("relu", "silu", "sigmoid")):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            *top,
            layers.Conv2D(4, 3, activation=activations[0]),
            layers.MaxPooling2D(),
            layers.Conv2D(4, 2, activation=activations[1]),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation=activations[2]),
            layers.Dense(3),
        ]
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 3, size=(4, 10, 10, 3)).astype(np.float32)


def opened(path, fmt):
    """A function of the images, by the runtime of a format."""
    if fmt == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)
        return lambda x: loaded.serve(x).numpy()
    if fmt == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path)
        (name,) = [value.name for value in session.get_inputs()]
        return lambda x: session.run(None, {name: x})[0]
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    lite = interpreter.Interpreter(str(path))

    def run(x):
        lite.resize_tensor_input(lite.get_input_details()[0]["index"], x.shape)
        lite.allocate_tensors()
        lite.set_tensor(lite.get_input_details()[0]["index"], x)
        lite.invoke()
        return lite.get_tensor(lite.get_output_details()[0]["index"])

    return run


def exported(snn, folder, fmt, export=fs.export):
    if fmt == "onnx":
        pytest.importorskip("tf2onnx")
    if fmt == "litert" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        with pytest.raises(ValueError, match=r"needs Keras 3\.13"):
            fs.export(snn, folder / "snn.tflite", format=fmt)
        pytest.skip("needs Keras 3.13")
    path = folder / {"onnx": "snn.onnx", "litert": "snn.tflite", "tf_saved_model": "saved"}[fmt]
    export(snn, path, format=fmt)
    return path


def channel_network():
    """Sets that differ between channels, a scale of each channel, and both."""
    one = load("swish_k8")
    members = tuple(
        fs.FSParameters(one.T * s, one.h * s, one.d * s, name=f"s{s}") for s in (1.0, 4.0, 0.5)
    )
    p = fs.ChannelParameters(members, [0, 2, 1, 1])
    keras.utils.set_random_seed(0)
    snn = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(4, 3),
            fs.FSSwish(p),
            layers.Conv2D(4, 3),
            fs.FSSwish(p, per_channel=True, name="both"),
            layers.Conv2D(4, 3),
            fs.FSActivation(fs.relu_parameters(5, 1.0, "nearest"), "relu", True, name="scaled"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    snn.get_layer("both").scale.assign([1.5, 0.3, 2.0, 1.0])
    snn.get_layer("scaled").scale.assign([2.5, 1.3, 4.0, 0.7])
    return snn


def normalised():
    scaling = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])
    return fs.convert(model(layers.Rescaling(0.5), scaling))


NETWORKS = {
    "published sets": lambda: fs.convert(model()),
    "accurate sets": lambda: fs.convert(
        model(activations=("relu6", "gelu", "hard_sigmoid")), quality="accurate"
    ),
    "a normalisation that holds constants": normalised,
    "parameters per channel": channel_network,
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_was_never_called_runs_in_every_runtime(name, fmt, images, tmp_path):
    snn = NETWORKS[name]()
    run = opened(exported(snn, tmp_path, fmt), fmt)
    expected = ops.convert_to_numpy(snn(images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(run(images), expected, atol=1e-5)
    np.testing.assert_allclose(run(images[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("fmt", FORMATS)
def test_augmentation_that_stays_takes_no_part(fmt, images, tmp_path):
    stays = model(layers.RandomFlip(), layers.RandomTranslation(0.3, 0.3))
    run = opened(exported(stays, tmp_path, fmt), fmt)
    expected = ops.convert_to_numpy(stays(images, training=False))
    assert np.abs(ops.convert_to_numpy(stays(images, training=True)) - expected).max() > 1e-3
    np.testing.assert_allclose(run(images), expected, atol=1e-5)


def test_keras_own_export_to_onnx_gives_a_valid_file(images, tmp_path):
    snn = fs.convert(model())
    expected = ops.convert_to_numpy(snn(images))

    def export(snn, path, format):
        snn.export(path, format=format, verbose=False)

    run = opened(exported(snn, tmp_path, "onnx", export), "onnx")
    np.testing.assert_allclose(run(images), expected, atol=1e-5)


def test_several_inputs_and_outputs_keep_their_order(images, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = {"left": keras.Input((6,), name="left"), "right": keras.Input((3,), name="right")}
    left = layers.Dense(4, activation="relu")(inputs["left"])
    right = layers.Dense(4, activation="silu")(inputs["right"])
    snn = fs.convert(keras.Model(inputs, [left + right, right]))
    fs.export(snn, tmp_path / "snn.onnx")
    random = np.random.default_rng(0)
    x = {"left": random.normal(size=(5, 6)), "right": random.normal(size=(5, 3))}
    x = {name: values.astype(np.float32) for name, values in x.items()}
    session = onnxruntime.InferenceSession(tmp_path / "snn.onnx")
    for given, expected in zip(session.run(None, x), snn(x), strict=True):
        np.testing.assert_allclose(given, ops.convert_to_numpy(expected), atol=1e-6)


def element_wise(path):
    """Names of operations in an ONNX file, but those that run once, on constants."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    constant = {tensor.name for tensor in graph.initializer}
    kinds = []
    for node in graph.node:
        if node.op_type == "Constant" or (node.input and set(node.input) <= constant):
            constant |= set(node.output)
        else:
            kinds.append(node.op_type)
    return kinds


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        (fs.relu_parameters(10, 25.0), 4),
        (fs.relu_parameters(8, 4.0, "nearest"), 5),
        (load("swish_k8"), 10),
        (load("swish_k16"), 10),
    ],
)
def test_few_operations_equal_to_the_loop(parameters, most, tmp_path):
    snn = keras.Sequential([keras.Input((50,)), fs.FSActivation(parameters)])
    path = exported(snn, tmp_path, "onnx")
    kinds = element_wise(path)
    assert len(kinds) <= most, kinds
    run = opened(path, "onnx")
    x = np.random.default_rng(0).normal(0, 8, (4000, 50)).astype(np.float32)
    grid = np.arange(50, dtype=np.float32)[None] * parameters.h[-1]
    x = np.concatenate([x, grid, np.full((1, 50), np.inf), np.full((1, 50), -np.inf)], dtype="f4")
    y, expected = run(x), ops.convert_to_numpy(snn(x))
    # Where alpha is no power of two, gate inputs just below a multiple of the step get that multiple.
    with np.errstate(invalid="ignore"):
        multiple = np.float64(x) / parameters.h[-1]
        near = np.abs(multiple - np.round(multiple)) < 2.0**-21 * np.abs(multiple)
    if parameters.alpha != 25.0:
        near[:] = False
    np.testing.assert_allclose(y[~near], expected[~near], rtol=1e-6)
    assert np.abs(y - expected)[near].max(initial=0) <= 1.001 * abs(parameters.h[-1])
    np.testing.assert_allclose(y[-3], expected[-3], rtol=1e-6)  # on the multiples themselves
    nan = np.full((1, 50), np.nan, np.float32)
    if parameters.alpha is not None:
        assert np.isnan(run(nan)).all()
    elif on_x86():
        with pytest.raises(Exception, match="GatherElements"):
            run(nan)


def test_sets_by_channel_equal_the_loop_and_share_tables(tmp_path):
    onnx = pytest.importorskip("onnx")
    family = [member.set for member in load_family("silu", 8)]
    few, more = tuple(family[:2]), tuple(family[1:6])
    snn = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            fs.FSActivation(fs.ChannelParameters(few, [0, 1, 1, 0])),
            fs.FSActivation(fs.ChannelParameters(more, [4, 0, 3, 1])),
            fs.FSActivation(family[7]),
        ]
    )
    path = exported(snn, tmp_path, "onnx")
    tables = [t for t in onnx.load(path).graph.initializer if np.prod(t.dims) > 20]
    assert len(tables) == 4  # of all channels' sets, and of the last site's
    x = np.random.default_rng(0).normal(0, 6, (20, 6, 6, 4)).astype(np.float32)
    x[1, 0], x[1, 1] = np.inf, -np.inf
    run = opened(path, "onnx")
    np.testing.assert_array_equal(run(x), ops.convert_to_numpy(snn(np.clip(x, -60, 60))))
    x[0, 0, 0, 0] = np.nan
    if on_x86():
        with pytest.raises(Exception, match="GatherElements"):
            run(x)


def test_nothing_is_between_a_convolution_and_its_clipping(tmp_path):
    """What runtimes then compute at once; steps, and the half that is rounded by, are in weights and biases."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    y = layers.ReLU()(layers.Add()([layers.Conv2D(4, 3, padding="same")(y), x]))
    snn = fs.convert(keras.Model(inputs, layers.GlobalAveragePooling2D()(y)))
    path = exported(snn, tmp_path, "onnx")
    kinds = " ".join(element_wise(path))
    assert re.search("(Conv Clip Floor ){2}Conv (Mul )?Add Clip Floor Mul GlobalAveragePool", kinds)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 2)).astype(np.float32)
    expected = ops.convert_to_numpy(snn(images))
    np.testing.assert_allclose(opened(path, "onnx")(images), expected, atol=0.01)


def test_what_cannot_be_exported_is_refused(tmp_path):
    snn = fs.convert(model())
    with pytest.raises(ValueError, match="onnx, tf_saved_model, litert"):
        fs.export(snn, tmp_path / "x", format="openvino")
    with pytest.raises(TypeError, match=re.escape("list")):
        fs.export([snn], tmp_path / "x")
    with pytest.raises(ValueError, match="not built"):
        fs.export(keras.Sequential([layers.Dense(2)]), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fmt", "masked"),
    [
        ("onnx", False),
        pytest.param("onnx", True, marks=with_masks),
        pytest.param("litert", True, marks=[with_masks, pytest.mark.long]),
    ],
)
def test_recurrent_layers_are_unrolled(fmt, masked, tmp_path):
    keras.utils.set_random_seed(0)
    parts = [
        layers.Bidirectional(layers.GRU(4, return_sequences=True)),
        layers.LSTM(3, go_backwards=True),
        layers.Dense(2),
    ]
    if fmt == "onnx":
        pytest.importorskip("tf2onnx")
    snn = fs.convert(
        keras.Sequential([keras.Input((4, 3)), *([layers.Masking()] if masked else []), *parts])
    )
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    x[0, 2:] = 0
    path = tmp_path / ("snn.onnx" if fmt == "onnx" else "snn.tflite")
    fs.export(snn, path, format=fmt)
    outputs = opened(path, fmt)(x)
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(snn(x)), atol=1e-5)


def test_time_distributed_recurrent_layers_are_unrolled(tmp_path):
    pytest.importorskip("tf2onnx")
    keras.utils.set_random_seed(0)
    each = layers.TimeDistributed(layers.Bidirectional(layers.GRU(2)))
    snn = fs.convert(keras.Sequential([keras.Input((2, 4, 3)), each, layers.LSTM(3)]))
    x = np.random.default_rng(0).normal(size=(5, 2, 4, 3)).astype(np.float32)
    fs.export(snn, tmp_path / "snn.onnx")
    outputs = opened(tmp_path / "snn.onnx", "onnx")(x)
    np.testing.assert_allclose(outputs, ops.convert_to_numpy(snn(x)), atol=1e-5)


def test_recurrent_layers_that_onnx_cannot_have_are_refused_by_name(tmp_path):
    pytest.importorskip("tf2onnx")

    def refused(layer, message, **shape):
        snn = fs.convert(keras.Sequential([keras.Input(**shape), layer]))
        with pytest.raises(fs.ConversionError, match=message):
            fs.export(snn, tmp_path / "snn.onnx")
        assert not list(tmp_path.iterdir())

    refused(layers.GRU(2), "input of known size", shape=(None, 3))
    refused(layers.GRU(2, stateful=True, name="gru"), "'gru' is stateful", batch_shape=(5, 4, 3))
