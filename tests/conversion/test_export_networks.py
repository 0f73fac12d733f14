"""Networks of Tables 1 and 2, MobileNetV2 and one with squeeze-and-excitation, in ONNX Runtime and in Keras."""

import keras
import numpy as np
import pytest
from keras import ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.models.imagenet import RANDOM, load_network

pytest.importorskip("tf2onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="exports go through TensorFlow"
    ),
    pytest.mark.long,
]


def mobilenet():
    return keras.applications.MobileNetV2((96, 96, 3), weights=None)


NETWORKS = {
    **{
        name: lambda name=name: models.build(name)
        for name in ("resnet8", "resnet14", "resnet20", "resnet50", "se_resnet20_swish")
    },
    "resnet50 of ImageNet": lambda: load_network("resnet50", RANDOM, image_size=224).model,
    "efficientnet-b0": lambda: load_network("efficientnet-b0", RANDOM, image_size=96).model,
    "efficientnet-b7": lambda: load_network("efficientnet-b7", RANDOM, image_size=64).model,
    "mobilenet_v2": mobilenet,
}


@pytest.mark.parametrize("quality", ["paper", "accurate"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_onnx_runtime_is_that_in_keras(name, quality, tmp_path):
    keras.utils.set_random_seed(0)
    snn = fs.convert(NETWORKS[name](), quality=quality, fold_batch_norm=True)
    fs.export(snn, tmp_path / "snn.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "snn.onnx")
    x = np.random.default_rng(0).uniform(0, 1, (2, *snn.input_shape[1:])).astype(np.float32)
    (given,) = session.run(None, {session.get_inputs()[0].name: x})
    expected = ops.convert_to_numpy(snn(x))
    # A sum that is rounded the other way moves a gate input over a threshold here and there.
    assert np.abs(given - expected).max() <= 0.05 * max(np.ptp(expected), 1e-3)
