"""Residual networks for small images: the 6n+2 ResNets of Table 2.

    model = resnet_cifar(20)                                          # ReLU, 32 x 32 x 3
    model = resnet_cifar(20, activation="swish", squeeze_excite=True) # Swish and sigmoid gates

Version 1 blocks (He et al., 2016, section 4.2): two 3x3 convolutions, each followed by batch
normalisation, the activation after the addition, and a 1x1 projection where the shape changes.
Every convolution but the projections is followed by one activation site, so that a network of
depth 50 has 475,136 neurons, as in the paper.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

STAGE_FILTERS = (16, 32, 64)
SQUEEZE_RATIO = 4


def resnet_cifar(
    depth: int,
    *,
    activation: str = "relu",
    squeeze_excite: bool = False,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
) -> keras.Model:
    """A residual network of `depth` = 6n + 2 layers for small images; its output is logits.

    Args:
        depth: number of weighted layers on the longest path, 6n + 2 (8, 14, 20, 50, ...).
        activation: name of the Keras activation at every site of the trunk.
        squeeze_excite: adds a squeeze-excite gate (Hu et al., 2018) to every block: `activation`
            after the squeeze, a sigmoid after the excitation.
        input_shape: height, width, channels.
        classes: number of classes.
        name: name of the model; derived from the arguments when missing.

    Raises:
        ValueError: `depth` is not 6n + 2 with n >= 1.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, ..., 50), got {depth}")

    inputs = keras.Input(input_shape, name="image")
    x = _convolution(inputs, STAGE_FILTERS[0], 3, 1, "stem")
    x = layers.Activation(activation, name="stem_act")(x)
    for stage, filters in enumerate(STAGE_FILTERS, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            x = _block(x, filters, stride, activation, squeeze_excite, f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(classes, name="logits")(x)
    if name is None:
        name = f"resnet{depth}" if activation == "relu" else f"resnet{depth}_{activation}"
        name = f"se_{name}" if squeeze_excite else name
    return keras.Model(inputs, logits, name=name)


def _block(
    x: Any, filters: int, stride: int, activation: str, squeeze_excite: bool, name: str
) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _convolution(x, filters, 1, stride, f"{name}_shortcut")
    x = _convolution(x, filters, 3, stride, f"{name}_conv1")
    x = layers.Activation(activation, name=f"{name}_act1")(x)
    x = _convolution(x, filters, 3, 1, f"{name}_conv2")
    if squeeze_excite:
        x = _squeeze_excite(x, filters, activation, f"{name}_se")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation(activation, name=f"{name}_act2")(x)


def _squeeze_excite(x: Any, filters: int, activation: str, name: str) -> Any:
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    gate = layers.Conv2D(filters // SQUEEZE_RATIO, 1, activation=activation, name=f"{name}_reduce")(
        gate
    )
    gate = layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_expand")(gate)
    return layers.Multiply(name=f"{name}_excite")([x, gate])


def _convolution(x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
