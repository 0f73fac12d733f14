"""Converted networks in other formats, through Keras' own `export`."""

import keras
import numpy as np
import pytest
from keras import layers

import fs_neurons as fs

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow"
)


@pytest.fixture(scope="module")
def snn():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(4, 2, activation="silu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="sigmoid"),
            layers.Dense(3),
        ]
    )
    return fs.convert(model)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 10, 10, 1)).astype(np.float32)


def test_saved_model(snn, images, tmp_path):
    import tensorflow as tf

    snn.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert np.abs(loaded.serve(images).numpy() - np.asarray(snn(images))).max() <= 1e-5


def test_onnx(snn, images, tmp_path):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    snn.export(tmp_path / "snn.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "snn.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images})
    assert np.abs(outputs - np.asarray(snn(images))).max() <= 1e-5


def test_litert(snn, images, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    snn.export(tmp_path / "snn.tflite", format="litert", verbose=False)
    model = interpreter.Interpreter(str(tmp_path / "snn.tflite"))
    model.resize_tensor_input(model.get_input_details()[0]["index"], images.shape)
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], images)
    model.invoke()
    outputs = model.get_tensor(model.get_output_details()[0]["index"])
    assert np.abs(outputs - np.asarray(snn(images))).max() <= 1e-5
