"""The layers that train faster than Keras' own do the same."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.backend.training import training_class

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="batch normalization is fused on TensorFlow"
)

IMAGES = np.random.default_rng(0).normal(1.0, 2.0, (6, 5, 4, 3)).astype(np.float32)


def results(layer, images):
    """Outputs, gradients and moving statistics of one training step."""
    import tensorflow as tf

    random = np.random.default_rng(1)
    layer.build(images.shape)
    layer.set_weights([random.uniform(0.5, 2.0, w.shape) for w in layer.weights])
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = ops.sum(ops.sin(ops.cast(y, "float32")))
    variables = [v.value for v in layer.trainable_variables]
    gradients = tape.gradient(loss, [x, *variables])
    return [ops.convert_to_numpy(value) for value in (y, *gradients, *layer.get_weights())]


def compare(layer, images=IMAGES):
    fused = training_class(layer).from_config(layer.get_config())
    for mine, expected in zip(results(fused, images), results(layer, images), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "epsilon": 1e-2},
        {"axis": 3},
        {"axis": 1},
        {"scale": False},
        {"center": False},
        {"scale": False, "center": False},
        {"trainable": False},
    ],
)
def test_fused_batch_normalization_trains_like_keras_own(options):
    compare(layers.BatchNormalization(**options))


def test_fused_batch_normalization_of_vectors_and_sequences_is_keras_own():
    compare(layers.BatchNormalization(), IMAGES[:, 0, 0])
    compare(layers.BatchNormalization(), IMAGES[:, 0])


def test_other_layers_keep_their_class():
    class Mine(layers.BatchNormalization):
        pass

    for layer in (Mine(), layers.Dense(3), layers.BatchNormalization(renorm=True)):
        assert training_class(layer) is type(layer)
    assert training_class(layers.BatchNormalization()) is not layers.BatchNormalization
