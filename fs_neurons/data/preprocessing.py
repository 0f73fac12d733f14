"""What is done to an ImageNet photograph before a network sees it, as in the official programs.

    image = PREPROCESSINGS["efficientnet"](decode(data), 600)         # (600, 600, 3), float32

Both official programs resize without anti-aliasing and with the pixel grid of TensorFlow 1, where pixel i
of the result is at i * (old size / new size) of the source: a modern resize shifts and smooths the image.

References: EfficientNet, github.com/tensorflow/tpu, models/official/efficientnet/preprocessing.py (as
published with the paper, with CROP_PADDING = 32); ResNet v1.5, github.com/tensorflow/models,
official/resnet/imagenet_preprocessing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CROP_PADDING = 32  # EfficientNet
SHORT_SIDE, CROP = 256, 224  # ResNet
CHANNEL_MEANS = (123.68, 116.78, 103.94)  # red, green, blue
CAFFE_MEANS = (123.68, 116.779, 103.939)  # those of keras.applications
# Of pixels in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def efficientnet(image: Any, size: int) -> Any:
    """Centre square of size / (size + 32) of the short side, bicubic to `size`; pixels 0 to 255.

    Scaling is done by the networks of keras.applications themselves. Bicubic overshoot is kept, as in
    the official program.

    Args:
        image: uint8 (height, width, 3).
        size: resolution of the network.

    Returns:
        float32 tensor (size, size, 3).
    """
    import tensorflow as tf

    height, width = image.shape[:2]
    side = max(1, int(np.float32(min(height, width)) * np.float32(size / (size + CROP_PADDING))))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = image[top : top + side, left : left + side]
    return tf.raw_ops.ResizeBicubic(images=square[None], size=(size, size))[0]


def centre_crop(image: Any, size: int) -> Any:
    """Short side to 256 (for a crop of 224; in proportion for others), bilinear, then the centre.

    Args:
        image: uint8 (height, width, 3).
        size: resolution of the network.

    Returns:
        float32 tensor (size, size, 3), pixels 0 to 255, red first.
    """
    import tensorflow as tf

    # In float32 and rounded down, as in the official program: 375 x 500 becomes 256 x 341.
    ratio = np.float32(round(size * SHORT_SIDE / CROP)) / np.float32(min(image.shape[:2]))
    height, width = (int(np.float32(side) * ratio) for side in image.shape[:2])
    resized = tf.raw_ops.ResizeBilinear(images=image[None], size=(height, width))[0]
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


def resnet(image: Any, size: int) -> Any:
    """`centre_crop` minus the channel means, red first: the official ResNet."""
    return centre_crop(image, size) - _float32(CHANNEL_MEANS)


def caffe(image: Any, size: int) -> Any:
    """`centre_crop` minus the channel means, blue first: ResNet50 of keras.applications."""
    return _caffe_scaled(centre_crop(image, size))


def augmented_caffe(image: Any, size: int, random: np.random.Generator) -> Any:
    """For training: a random part of the image, mirrored or not, scaled as by `caffe`.

    8 to 100 % of the area at an aspect ratio of 3/4 to 4/3; the centre square where ten draws do not fit
    into the image (Szegedy et al., 2015, section 6).
    """
    import tensorflow as tf

    height, width = image.shape[:2]
    for _ in range(10):
        area = random.uniform(0.08, 1.0) * height * width
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        wide, tall = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            break
    else:
        wide = tall = min(height, width)
    top = random.integers(0, height - tall + 1)
    left = random.integers(0, width - wide + 1)
    part = image[top : top + tall, left : left + wide]
    part = tf.raw_ops.ResizeBilinear(images=part[None], size=(size, size))[0]
    return _caffe_scaled(part[:, :: random.choice((1, -1))])


def symmetric(image: Any, size: int) -> Any:
    """`centre_crop` scaled to [-1, 1]: the "tf" mode of keras.applications."""
    return centre_crop(image, size) / np.float32(127.5) - np.float32(1)


def standardised(image: Any, size: int) -> Any:
    """`centre_crop` standardised by channel: the "torch" mode of keras.applications."""
    pixels = centre_crop(image, size) / np.float32(255)
    return (pixels - _float32(IMAGENET_MEAN)) / _float32(IMAGENET_STD)


def _float32(channels: tuple[float, ...]) -> np.ndarray:
    return np.array(channels, np.float32)


def _caffe_scaled(pixels: Any) -> Any:
    return (pixels - _float32(CAFFE_MEANS))[..., ::-1]


PREPROCESSINGS: dict[str, Callable[[Any, int], Any]] = {
    "efficientnet": efficientnet,
    "resnet": resnet,
    "caffe": caffe,
    "tf": symmetric,
    "torch": standardised,
}
