"""Whole networks without a multiplication between the image and the class scores."""

import warnings

import keras
import numpy as np
import pytest
from conftest import simulated
from keras import ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.data import datasets

PIXELS = {"input_bits": 8, "input_range": (0, 256), "digital": "none"}


def assert_no_multiplication(snn, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gate inputs: weights may be random
        result = fs.profile(snn, images, batch_size=2)
    assert (result.digital, result.digital_macs, result.multiplier) == ((), 0, False)
    assert result.synaptic_operations > result.spikes
    return result


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
@pytest.mark.parametrize("name", ["resnet8", "se_resnet8_swish"])
def test_trained_networks(name):
    model = models.pretrained(name, "digits")
    images = ops.convert_to_numpy(datasets.standardise(datasets.load("digits", "test").images[:5]))
    snn = fs.convert(model, input_bits=8, input_range=(-1.5, 3), digital="none")
    rounded = np.round((images + 1.5) * 2**8 / 4.5) * 4.5 / 2**8 - 1.5
    expected = ops.convert_to_numpy(fs.convert(model)(rounded.astype(np.float32)))
    assert np.abs(ops.convert_to_numpy(snn(images)) - expected).max() < 0.5
    measured = assert_no_multiplication(snn, images)
    assert simulated(snn, images, atol=1e-4).latency == measured.latency


@pytest.mark.long
@pytest.mark.parametrize("name", models.NETWORKS)
def test_networks_of_table_2(name):
    snn = fs.convert(
        models.build(name, "digits"), input_bits=8, input_range=(-1.5, 3), digital="none"
    )
    images = ops.convert_to_numpy(datasets.standardise(datasets.load("digits", "test").images[:2]))
    assert_no_multiplication(snn, images)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ResNet50", "EfficientNetB0"])
def test_networks_of_keras_applications(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = fs.convert(model, **PIXELS)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    measured = assert_no_multiplication(snn, images)
    scale = max(1.0, float(np.abs(ops.convert_to_numpy(snn(images))).max()))
    assert simulated(snn, images, atol=1e-4 * scale).latency == measured.latency
