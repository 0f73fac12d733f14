"""What is known of each kind of Keras layer: one table, which every other room reads.

    kind = kind_of(layer)
    kind.linear, kind.weighted, kind.splittable, kind.fan_out, kind.macs, ...
    channel_axis(layer)

A new kind of layer is one entry of `LAYERS`, a new operation of `keras.ops` one of `OPERATIONS`. A subclass
that has a call() of its own is of no known kind, and so is everything that is not listed: whoever needs to
know more refuses it or says that it is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from fs_neurons.layers import FSActivation, FSMaxPooling2D, RecurrentFS, RightShift
from fs_neurons.network import geometry
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.sequences import InitialState, MaskedSequences, SequenceMask

FanOut = Callable[[Call, Value], np.ndarray | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """What is known of a kind of layer or operation.

    Attributes:
        name: of the kind.
        linear: whether it is a linear map of its inputs, all of them together, plus a constant, once its
            activation is split off.
        weighted: whether each input is multiplied by weights and added up: dense and convolutional layers.
        splittable: whether it applies its `activation` to its output and to nothing else.
        spatial: whether it works on the axes beside that of the channels, which its `data_format` names.
        routes: for a kind that hands each input on to places of its own, scaled at most, without
            adding: (call, value, targets of each output) -> targets of each entry of the value.
        fan_out: (call, value) -> targets of each entry of the value that have weights of their own; None
            for a kind without weights, or from a call where the value meets none.
        additions: likewise, targets of each entry where there are no weights.
        macs: call -> multiply-accumulates for one image; None where they are not known.
        scale_inputs, scale_outputs: (layer, one value per channel) -> values in a shape to multiply the
            first, or last, kernel with, to fold a scale in front of or behind the layer; None where a
            scale can't be folded.
        digital: for a kind that is neither linear nor neurons, why it stays as it is among them.
    """

    name: str
    linear: bool = False
    weighted: bool = False
    splittable: bool = False
    spatial: bool = False
    routes: Callable[[Call, Value, list[np.ndarray]], np.ndarray] | None = None
    fan_out: FanOut | None = None
    additions: Callable[[Call, Value], np.ndarray] = geometry.one_each
    macs: Callable[[Call], int | None] | None = geometry.none
    scale_inputs: Callable[[Any, np.ndarray], np.ndarray] | None = None
    scale_outputs: Callable[[Any, np.ndarray], np.ndarray] | None = None
    digital: str = ""


def _weighted(name: str, fan_out: Callable[[Call, Value], np.ndarray], **known: Any) -> Kind:
    known = {"spatial": True, "macs": geometry.weights_used(fan_out), **known}
    return Kind(name, linear=True, weighted=True, splittable=True, fan_out=fan_out, **known)


def _moves(name: str, **known: Any) -> Kind:
    return Kind(name, linear=True, routes=geometry.moved, **known)


_FOLDED = {"scale_inputs": geometry.over_inputs, "scale_outputs": geometry.over_outputs}
_DEPTHWISE = {**_FOLDED, "scale_outputs": geometry.over_depthwise_outputs}

DENSE = _weighted("dense", geometry.dense_fan_out, spatial=False, **_FOLDED)
EINSUM = _weighted("einsum", geometry.einsum_dense_fan_out, spatial=False)
CONVOLUTION = _weighted("convolution", geometry.convolution_fan_out, **_FOLDED)
TRANSPOSED = _weighted(
    "transposed convolution", geometry.transposed_fan_out,
    scale_inputs=geometry.over_transposed_inputs, scale_outputs=geometry.over_transposed_outputs,
)  # fmt: skip
DEPTHWISE = _weighted("depthwise convolution", geometry.depthwise_fan_out, **_DEPTHWISE)
SEPARABLE = _weighted(
    "separable convolution", geometry.depthwise_fan_out, macs=geometry.separable_macs, **_FOLDED
)
# Hands on its input at inference.
IDENTITY = Kind("identity", linear=True, routes=geometry.unchanged)
# Changes its input in training only.
AUGMENTATION = Kind("augmentation", linear=True, routes=geometry.unchanged)
# Scales each channel and adds a constant.
AFFINE = Kind("normalization", linear=True, routes=geometry.unchanged)
PADDING = _moves("padding", spatial=True)
CROPPING = _moves("cropping", spatial=True)
UPSAMPLING = _moves("upsampling", spatial=True)
INTERPOLATION = Kind("interpolation", linear=True, spatial=True, macs=None)
RESHAPING = _moves("reshaping")
PERMUTATION = _moves("permutation")
REPETITION = _moves("repetition")
CONCATENATION = _moves("concatenation")
# Operations that move entries.
ROUTING = _moves("routing")
AVERAGE_POOLING = Kind(
    "average pooling", linear=True, spatial=True, additions=geometry.windows
)  # fmt: skip
GLOBAL_AVERAGE_POOLING = Kind("global average pooling", linear=True, spatial=True)
MAX_POOLING = Kind(
    "max pooling",
    spatial=True,
    digital="takes the maximum of values, not of spikes of neurons whose response never falls",
)
GLOBAL_MAX_POOLING = Kind(
    "global max pooling", spatial=True, digital="takes the maximum of a whole feature map"
)
# Hands on spikes: a gate, which adds nothing.
SPIKING_POOLING = Kind("max pooling of spikes", spatial=True, additions=geometry.nothing)
SUM = Kind("sum", linear=True)
PRODUCT = Kind(
    "product",
    macs=geometry.product_macs,
    digital="multiplies two tensors, by additions where one is the spikes of a site",
)
# Drops the lowest bits of integers; takes complete sums, and no multiplier.
SHIFT = Kind("shift")
# A product of matrices; linear where one of them is constant.
CONTRACTION = Kind(
    "contraction", fan_out=geometry.contraction_fan_out, macs=geometry.contraction_macs,
    digital="multiplies two matrices",
)  # fmt: skip
DOT_ATTENTION = Kind(
    "dot-product attention", macs=geometry.dot_attention_macs,
    digital="multiplies queries, keys and values, and has a softmax",
)  # fmt: skip
ATTENTION = Kind(
    "attention", fan_out=geometry.attention_fan_out, macs=geometry.attention_macs,
    digital="multiplies queries, keys and values, and has a softmax",
)  # fmt: skip
RECURRENT = Kind(
    "recurrent", fan_out=geometry.recurrent_fan_out, macs=geometry.recurrent_macs,
    digital="hands a state from step to step",
)  # fmt: skip
LOOK_UP = Kind("look-up")
# Normalises each image by its own mean or variance.
IMAGE_NORMALIZATION = Kind(
    "normalization of each image", digital="normalises each input by its own mean or variance"
)
# Applies an activation function and nothing else.
ACTIVATION = Kind("activation")
# Any other function without weights, entry by entry or along an axis.
FUNCTION = Kind("function", digital="is no activation function")
NEURONS = Kind("FS-neurons")
# Wraps a layer, which `unwrapped` gives.
WRAPPER = Kind("wrapper")
UNKNOWN = Kind("unknown", macs=None)


def _of_classes(kind: Kind, *names: str) -> dict[type, Kind]:
    """Layers by name, as not every version of Keras has all of them."""
    return {getattr(layers, name): kind for name in names if hasattr(layers, name)}


LAYERS: dict[type, Kind] = {
    FSActivation: NEURONS,
    FSMaxPooling2D: SPIKING_POOLING,
    RightShift: SHIFT,
    layers.Dense: DENSE,
    layers.EinsumDense: EINSUM,
    **_of_classes(CONVOLUTION, "Conv1D", "Conv2D", "Conv3D"),
    **_of_classes(TRANSPOSED, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    **_of_classes(DEPTHWISE, "DepthwiseConv1D", "DepthwiseConv2D"),
    **_of_classes(SEPARABLE, "SeparableConv1D", "SeparableConv2D"),
    **_of_classes(
        IDENTITY, "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
        "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
    ),
    MaskedSequences: IDENTITY,
    **_of_classes(
        AUGMENTATION, "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness",
        "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
        "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue",
        "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
        "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
    ),
    **_of_classes(AFFINE, "BatchNormalization", "Normalization", "Rescaling"),
    **_of_classes(PADDING, "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    **_of_classes(CROPPING, "Cropping1D", "Cropping2D", "Cropping3D"),
    **_of_classes(UPSAMPLING, "UpSampling1D", "UpSampling2D", "UpSampling3D"),
    **_of_classes(RESHAPING, "Reshape", "Flatten"),
    layers.Permute: PERMUTATION,
    layers.RepeatVector: REPETITION,
    layers.Concatenate: CONCATENATION,
    **_of_classes(AVERAGE_POOLING, "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    **_of_classes(
        GLOBAL_AVERAGE_POOLING, "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "GlobalAveragePooling3D",
    ),
    **_of_classes(MAX_POOLING, "MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
    **_of_classes(
        GLOBAL_MAX_POOLING, "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"
    ),
    **_of_classes(SUM, "Add", "Subtract", "Average"),
    layers.Multiply: PRODUCT,
    layers.Dot: CONTRACTION,
    layers.Attention: DOT_ATTENTION,
    **_of_classes(ATTENTION, "MultiHeadAttention", "GroupQueryAttention"),
    **_of_classes(RECURRENT, "LSTM", "GRU", "SimpleRNN", "Bidirectional"),
    RecurrentFS: RECURRENT,
    layers.Embedding: LOOK_UP,
    **_of_classes(
        IMAGE_NORMALIZATION, "LayerNormalization", "GroupNormalization", "UnitNormalization",
        "RMSNormalization",
    ),
    **_of_classes(ACTIVATION, "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax"),
    **_of_classes(FUNCTION, "Maximum", "Minimum", "Masking"),
    **dict.fromkeys((SequenceMask, InitialState), FUNCTION),
    **_of_classes(WRAPPER, "TimeDistributed", "SpectralNormalization"),
}  # fmt: skip
# Operations of keras.ops, by the name of their class.
OPERATIONS: dict[str, Kind] = {
    **dict.fromkeys(("Add", "Subtract", "Negative", "Mean", "Sum"), SUM),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), RESHAPING),
    **dict.fromkeys(
        (
            "Transpose", "Moveaxis", "Swapaxes", "Flip", "Roll", "Rot90", "Concatenate", "Stack",
            "GetItem", "Split",
        ),
        ROUTING,
    ),
    **dict.fromkeys(("Identity", "Copy", "StopGradient"), IDENTITY),
    **dict.fromkeys(("Multiply", "Divide", "TrueDivide"), PRODUCT),
    **dict.fromkeys(("Matmul", "Einsum", "Dot", "Tensordot"), CONTRACTION),
    **dict.fromkeys(
        (
            "Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Softplus", "Softsign", "SoftShrink",
            "SparsePlus", "Silu", "Squareplus", "LogSigmoid", "LeakyRelu", "HardSigmoid",
            "HardSilu", "Elu", "Selu", "Gelu", "Celu", "Glu", "TanhShrink", "HardTanh",
            "HardShrink", "Tanh", "Threshold", "Softmax", "LogSoftmax", "Sparsemax",
        ),
        ACTIVATION,
    ),
    **dict.fromkeys(("LayerNorm", "RMSNorm", "Normalize"), IMAGE_NORMALIZATION),
    **dict.fromkeys(
        (
            "Absolute", "Clip", "Cast", "Exp", "Log", "Log1p", "Expm1", "Maximum", "Minimum", "Power",
            "Reciprocal", "Rsqrt", "Sqrt", "Square", "Max", "Min", "Amax", "Amin", "Argmax",
            "Argmin", "Logsumexp", "Erf", "Sign", "Where", "Equal", "NotEqual", "Greater",
            "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalNot", "LogicalOr", "ZerosLike",
            "OnesLike", "Var", "Std",
        ),
        FUNCTION,
    ),
}  # fmt: skip

# Activations that are not those of neurons: nothing to replace, or a normalisation over classes.
STAY = ("linear", "softmax", "log_softmax")


def kind_of(op: Any) -> Kind:
    """The kind of a layer or operation; UNKNOWN where its call() is its own or nothing is known of it."""
    if not isinstance(op, layers.Layer):
        known = type(op).__module__.startswith("keras.")
        return OPERATIONS.get(type(op).__name__, UNKNOWN) if known else UNKNOWN
    for cls in type(op).__mro__:
        if cls in LAYERS:
            interpolates = getattr(op, "interpolation", "nearest") != "nearest"
            return INTERPOLATION if LAYERS[cls] is UPSAMPLING and interpolates else LAYERS[cls]
        if "call" in vars(cls):
            break  # a subclass that computes something of its own
    return UNKNOWN


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


ACTIVATIONS = _of(ACTIVATION)
WRAPPERS = _of(WRAPPER)
