"""What is known of each kind of Keras layer: one table, which every other room reads.

    kind = kind_of(layer)
    kind.linear, kind.weighted, kind.splittable, kind.routes
    channel_axis(layer)

A new kind of layer is one entry of `LAYERS`. A subclass that has a call() of its own is of no known kind, and
so is everything that is not listed: whoever needs to know more refuses it or says that it is left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import layers

from fs_neurons.network.keras_internals import keeps_call


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is known of a kind of layer or operation.

    Attributes:
        name: of the kind.
        linear: whether it is a linear map of its inputs, all of them together, plus a constant, once its
            activation is split off.
        weighted: whether each input is multiplied by weights and added up: dense and convolutional layers.
        splittable: whether it applies its `activation` to its output and to nothing else.
        routes: whether it hands each input on to places of its own, scaled at most, without adding.
        spatial: whether it works on the axes beside that of the channels, which its `data_format` names.
    """

    name: str
    linear: bool = False
    weighted: bool = False
    splittable: bool = False
    routes: bool = False
    spatial: bool = False


def _weighted(name: str, spatial: bool = True) -> Kind:
    return Kind(name, linear=True, weighted=True, splittable=True, spatial=spatial)


DENSE = _weighted("dense", spatial=False)
EINSUM = _weighted("einsum", spatial=False)
CONVOLUTION = _weighted("convolution")
TRANSPOSED = _weighted("transposed convolution")
DEPTHWISE = _weighted("depthwise convolution")
SEPARABLE = _weighted("separable convolution")
# Hands on its input at inference.
IDENTITY = Kind("identity", linear=True, routes=True)
# Changes its input in training and hands it on at inference: no part of a network of neurons.
AUGMENTATION = Kind("augmentation", linear=True, routes=True)
# Scales each channel and adds a constant.
AFFINE = Kind("normalization", linear=True, routes=True)
PADDING = Kind("padding", linear=True, routes=True, spatial=True)
CROPPING = Kind("cropping", linear=True, routes=True, spatial=True)
UPSAMPLING = Kind("upsampling", linear=True, routes=True, spatial=True)
RESHAPING = Kind("reshaping", linear=True, routes=True)
PERMUTATION = Kind("permutation", linear=True, routes=True)
REPETITION = Kind("repetition", linear=True)
CONCATENATION = Kind("concatenation", linear=True, routes=True)
AVERAGE_POOLING = Kind("average pooling", linear=True, spatial=True)
GLOBAL_AVERAGE_POOLING = Kind("global average pooling", linear=True, spatial=True)
MAX_POOLING = Kind("max pooling", spatial=True)
SUM = Kind("sum", linear=True)
PRODUCT = Kind("product")
# Applies an activation function and nothing else.
ACTIVATION = Kind("activation")
# Wraps a layer, which `unwrapped` gives.
WRAPPER = Kind("wrapper")
UNKNOWN = Kind("unknown")

# RandomCrop is not among them: at inference it resizes. Some are missing in older versions of Keras.
_AUGMENTATION = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom",
)  # fmt: skip

LAYERS: dict[type, Kind] = {
    layers.Dense: DENSE,
    layers.EinsumDense: EINSUM,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), CONVOLUTION),
    **dict.fromkeys(
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), TRANSPOSED
    ),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), DEPTHWISE),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), SEPARABLE),
    **dict.fromkeys(
        (
            layers.Identity, layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D,
            layers.SpatialDropout3D, layers.GaussianNoise, layers.GaussianDropout,
            layers.AlphaDropout, layers.ActivityRegularization,
        ),
        IDENTITY,
    ),
    **{getattr(layers, name): AUGMENTATION for name in _AUGMENTATION if hasattr(layers, name)},
    **dict.fromkeys((layers.BatchNormalization, layers.Normalization, layers.Rescaling), AFFINE),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), PADDING),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), CROPPING),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), UPSAMPLING),
    **dict.fromkeys((layers.Reshape, layers.Flatten), RESHAPING),
    layers.Permute: PERMUTATION,
    layers.RepeatVector: REPETITION,
    layers.Concatenate: CONCATENATION,
    **dict.fromkeys(
        (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), AVERAGE_POOLING
    ),
    **dict.fromkeys(
        (
            layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D,
            layers.GlobalAveragePooling3D,
        ),
        GLOBAL_AVERAGE_POOLING,
    ),
    **dict.fromkeys(
        (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), MAX_POOLING
    ),
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Average), SUM),
    layers.Multiply: PRODUCT,
    **dict.fromkeys(
        (
            layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU,
            layers.Softmax,
        ),
        ACTIVATION,
    ),
    **dict.fromkeys((layers.TimeDistributed, layers.SpectralNormalization), WRAPPER),
}  # fmt: skip
# Operations of keras.ops, by the name of their class.
OPERATIONS: dict[str, Kind] = {
    **dict.fromkeys(("Add", "Subtract", "Negative", "Mean", "Sum"), SUM),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), RESHAPING),
    **dict.fromkeys(("Transpose", "Stack", "GetItem", "Flip"), Kind("routing", linear=True)),
    "Concatenate": Kind("concatenation by an operation", linear=True),
    "Identity": IDENTITY,
    **dict.fromkeys(("Multiply", "Divide", "TrueDivide"), PRODUCT),
}

# Activations that are not those of neurons: nothing to replace, or a normalisation over classes.
STAY = ("linear", "softmax", "log_softmax")


def kind_of(op: Any) -> Kind:
    """The kind of a layer or operation; UNKNOWN where its call() is its own or nothing is known of it."""
    if not isinstance(op, layers.Layer):
        known = type(op).__module__.startswith("keras.")
        return OPERATIONS.get(type(op).__name__, UNKNOWN) if known else UNKNOWN
    if not keeps_call(op):
        return UNKNOWN
    return next((LAYERS[cls] for cls in type(op).__mro__ if cls in LAYERS), UNKNOWN)


def unwrapped(layer: Any) -> Any:
    """The layer inside of wrappers; the layer itself where there are none."""
    while kind_of(layer) is WRAPPER:
        layer = layer.layer
    return layer


def channel_axis(layer: Any) -> int:
    """Axis of the channels in the output of a layer, counted with the batch."""
    if isinstance(layer, layers.TimeDistributed):
        inner = channel_axis(layer.layer)
        return inner + 1 if inner > 0 else inner
    layer = unwrapped(layer)
    if isinstance(layer, layers.BatchNormalization):
        return int(layer.axis)
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def applies_activation(layer: Any) -> bool:
    """Whether a layer of a splittable kind has an activation other than linear."""
    return getattr(layer, "activation", None) not in (None, keras.activations.linear)


def _of(*kinds: Kind) -> tuple[type, ...]:
    return tuple(cls for cls, kind in LAYERS.items() if kind in kinds)


SPLITTABLE = WEIGHTED = _of(*(kind for kind in LAYERS.values() if kind.weighted))
ACTIVATIONS = _of(ACTIVATION)
WRAPPERS = _of(WRAPPER)
IDENTITIES = _of(IDENTITY)
CHANNEL_SCALINGS = _of(AFFINE)
POOLINGS = _of(AVERAGE_POOLING)
PADDINGS = _of(PADDING)
CROPPINGS = _of(CROPPING)
UPSAMPLINGS = _of(UPSAMPLING)
RESHAPINGS = _of(RESHAPING)
LINEAR_LAYERS = tuple(cls for cls, kind in LAYERS.items() if kind.linear)
LINEAR_OPERATIONS = tuple(name for name, kind in OPERATIONS.items() if kind.linear)
PRODUCTS = tuple(name for name, kind in OPERATIONS.items() if kind is PRODUCT)
