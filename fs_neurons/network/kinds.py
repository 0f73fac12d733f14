"""What is known of each kind of Keras layer."""

from __future__ import annotations

from keras import layers

# Activations that are not those of neurons: nothing to replace, or a normalisation over classes.
STAY = ("linear", "softmax", "log_softmax")
# Layers that apply their `activation` to their output and to nothing else, so that it can be split off.
SPLITTABLE = tuple(
    cls
    for name in [
        "Dense",
        "EinsumDense",
        "Conv1D",
        "Conv2D",
        "Conv3D",
        "Conv1DTranspose",
        "Conv2DTranspose",
        "Conv3DTranspose",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
    ]
    for cls in [getattr(layers, name)]
)
ACTIVATIONS = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU, layers.Softmax
)  # fmt: skip
WRAPPERS = (layers.TimeDistributed, layers.SpectralNormalization)


def _classes(*names: str) -> tuple[type, ...]:
    return tuple(getattr(layers, name) for name in names)


# Layers that hand on their input at inference.
IDENTITIES = _classes(
    "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
)  # fmt: skip
# Layers that scale each channel and add a constant.
CHANNEL_SCALINGS = _classes("BatchNormalization", "Normalization", "Rescaling")
WEIGHTED = SPLITTABLE
POOLINGS = _classes("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
PADDINGS = _classes("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
CROPPINGS = _classes("Cropping1D", "Cropping2D", "Cropping3D")
UPSAMPLINGS = _classes("UpSampling1D", "UpSampling2D", "UpSampling3D")
RESHAPINGS = _classes("Reshape", "Flatten")
LINEAR_LAYERS = (
    *IDENTITIES, *CHANNEL_SCALINGS, *WEIGHTED, *POOLINGS, *PADDINGS, *CROPPINGS, *UPSAMPLINGS,
    *RESHAPINGS,
    *_classes(
        "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "Permute",
        "RepeatVector", "Add", "Subtract", "Average", "Concatenate",
    ),
)  # fmt: skip
LINEAR_OPERATIONS = (
    "Add", "Subtract", "Negative", "Mean", "Sum", "Reshape", "Transpose", "Concatenate", "Stack",
    "Squeeze", "ExpandDims", "GetItem", "Flip", "Identity",
)  # fmt: skip
PRODUCTS = ("Multiply", "Divide", "TrueDivide")
