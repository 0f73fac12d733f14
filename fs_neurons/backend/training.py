"""What makes Keras' training fast on each backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def jit_compile() -> bool | str:
    """For `Model.compile`: on a CPU, XLA runs whole networks several times slower than TensorFlow does."""
    return "auto" if keras.backend.backend() == "jax" else False


def training_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The class that trains a layer fastest; takes the same configuration, has the same weights."""
    if (
        keras.backend.backend() == "tensorflow"
        and type(layer) is keras.layers.BatchNormalization
        and not layer.renorm
        and not layer.synchronized
    ):
        return FusedBatchNormalization
    return type(layer)


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization that trains on images in one TensorFlow operation.

    Keras' own is several operations on TensorFlow, which makes a training step of a ResNet nearly twice
    as slow. Gives the same outputs and moving statistics; where the operation does not apply, it is
    Keras' own.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        channels_last = len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not (training and self.trainable and channels_last and mask is None):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        channels = (inputs.shape[-1],)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.ones(channels) if self.gamma is None else ops.cast(self.gamma, "float32"),
            offset=ops.zeros(channels) if self.beta is None else ops.cast(self.beta, "float32"),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation divides the sum of squares by n - 1, Keras by n.
        n = ops.cast(tf.size(inputs) / inputs.shape[-1], "float32")
        variance = variance * ((n - 1) / n)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving + (1.0 - self.momentum) * (batch - moving))
        return outputs
