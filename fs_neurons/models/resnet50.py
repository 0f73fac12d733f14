"""ResNet50 as in Table 1: version 1.5, with average pooling in place of max-pooling.

    model = resnet50()                                        # 9,608,704 neurons at 224 x 224
    adopt_weights(model, keras.applications.ResNet50(weights="imagenet", classifier_activation=None))

Version 1.5 has the stride of a block on its 3x3 convolution instead of on the first 1x1 one. Layers carry
the names of keras.applications.ResNet50 (version 1, max-pooling), whose weights are where fine-tuning
starts from.

Reference: He et al., 2016, Table 1; github.com/tensorflow/models, official/resnet, version 1.5.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

BLOCKS, FILTERS = (3, 4, 6, 3), (64, 128, 256, 512)
EPSILON = 1.001e-5  # that of keras.applications, whose statistics are taken over


def resnet50(
    classes: int = 1000, image_size: int = 224, name: str = "resnet50-v1.5-avgpool"
) -> keras.Model:
    """ResNet50, version 1.5, average pooling; untrained, its output is logits.

    Args:
        classes: number of classes.
        image_size: height and width of its images.
        name: name of the model.
    """
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = _convolution(inputs, 64, 7, 2, "conv1_conv", "conv1_bn")
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool1_pool")(x)
    for stage, (blocks, filters) in enumerate(zip(BLOCKS, FILTERS, strict=True), start=2):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 2 and block == 1 else 1
            x = _block(x, filters, stride, f"conv{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="predictions")(x), name=name)


def adopt_weights(model: keras.Model, stock: keras.Model) -> None:
    """Copies the weights of keras.applications.ResNet50 into a `resnet50`, by layer name.

    Stock convolutions have biases, which batch normalisation takes away again: they go into its mean.
    Each layer then computes what it did in `stock`; the pooling and the strides are what is left to
    fine-tuning.

    Raises:
        ValueError: a layer is missing in `stock` or has other shapes.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        try:
            weights = stock.get_layer(layer.name).get_weights()
            if isinstance(layer, layers.Conv2D):
                weights = weights[:1]
            elif isinstance(layer, layers.BatchNormalization):
                convolution = stock.get_layer(layer.name.removesuffix("bn") + "conv")
                weights[2] = weights[2] - convolution.get_weights()[1]
            layer.set_weights(weights)
        except ValueError as error:
            raise ValueError(
                f"model {stock.name!r} has no weights for layer {layer.name!r}: expected"
                f" keras.applications.ResNet50 with {model.output_shape[-1]} classes ({error})"
            ) from error


def _block(x: Any, filters: int, stride: int, name: str) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != 4 * filters:
        shortcut = _convolution(x, 4 * filters, 1, stride, f"{name}_0_conv", f"{name}_0_bn")
    for number, (kernel, width, step) in enumerate(
        ((1, filters, 1), (3, filters, stride), (1, 4 * filters, 1)), start=1
    ):
        x = _convolution(x, width, kernel, step, f"{name}_{number}_conv", f"{name}_{number}_bn")
        if number < 3:
            x = layers.Activation("relu", name=f"{name}_{number}_relu")(x)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _convolution(x: Any, filters: int, kernel: int, stride: int, name: str, norm_name: str) -> Any:
    padding = "same"
    if stride > 1 and kernel > 1:
        # The same padding on both sides, whatever the size of the image.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        padding = "valid"
    x = layers.Conv2D(
        filters, kernel, stride, padding, use_bias=False,
        kernel_initializer="he_normal", name=name,
    )(x)  # fmt: skip
    return layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, name=norm_name)(x)
