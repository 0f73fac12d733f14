"""Profile and simulation of networks whose channels have ranges of their own, as `convert` makes them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs


@pytest.fixture(scope="module")
def network():
    """A network with batch normalization of very different channels and max-pooling; its conversion; images."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.ZeroPadding2D(1),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(2.0 ** random.integers(-3, 4, layer.gamma.shape))
            layer.beta.assign(random.normal(size=layer.beta.shape))
    return model, fs.convert(model), random.normal(size=(5, 12, 12, 3)).astype("float32")


def test_gate_inputs_are_given_as_they_arrive(network):
    model, snn, images = network
    first = fs.profile(snn, images).layers[0]
    x = ops.convert_to_numpy(keras.Model(model.inputs[0], model.layers[1].output)(images))
    assert first.inputs.mean == pytest.approx(x.mean(), abs=1e-4)
    assert first.inputs.variance == pytest.approx(x.var(), rel=1e-4)
    assert first.inputs.minimum == pytest.approx(x.min(), rel=1e-5)
    assert first.inputs.maximum == pytest.approx(x.max(), rel=1e-5)
    assert first.inputs.histogram.sum() == x.size


def test_a_pool_counts_the_spikes_of_the_largest_code(network):
    _, snn, images = network
    site, pool = (
        next(layer for layer in snn.layers if isinstance(layer, kind))
        for kind in (fs.FSReLU, fs.FSMaxPooling2D)
    )
    y = ops.convert_to_numpy(keras.Model(snn.inputs[0], pool.output)(images))
    scale = ops.convert_to_numpy(site.scale)
    codes = np.rint(y / scale * 2**site.parameters.K).astype(int)
    expected = sum(int(code).bit_count() for code in codes.ravel())
    (counted,) = fs.profile(snn, images).pools
    assert counted.total_spikes == expected


def test_the_simulation_gives_the_outputs_of_the_network(network):
    _, snn, images = network
    simulation = fs.simulate(snn, images)
    np.testing.assert_allclose(
        simulation.outputs, ops.convert_to_numpy(snn(images, training=False)), atol=1e-4
    )
    spikes = [site.total_spikes for site in fs.profile(snn, images).layers]
    assert [int(site.spikes.sum()) for site in simulation.sites] == spikes
