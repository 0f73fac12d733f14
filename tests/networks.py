"""A Hypothesis strategy for random Keras networks, sequential and functional, as users build them.

    @given(networks())
    def test_something(network): network.model, network.inputs

Structure and sizes are drawn by Hypothesis, so that a failure shrinks to a small network; weights and inputs come
from a numpy generator seeded by the same draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from keras import layers, ops

from fs_neurons.backend import layer_by_layer

# Name in a call of keras.activations, options: with a set for each of them.
ACTIVATIONS = [
    "relu", "relu6", "silu", "sigmoid", "tanh", "gelu", "elu", "selu", "softplus", "softsign",
    "hard_silu", "hard_sigmoid", "mish", "leaky_relu",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Network:
    """A model with random weights, and two images for each of its inputs."""

    model: keras.Model
    inputs: Any

    def __repr__(self) -> str:
        lines: list[str] = []
        self.model.summary(print_fn=lines.append, expand_nested=True)
        return "\n".join(lines)


class _Builder:
    """Draws layers one after the other; names are counted so that a printed network can be read."""

    def __init__(self, draw: Callable[[Any], Any]):
        self.draw = draw
        self.data_format = draw(
            st.sampled_from(["channels_last", "channels_last", "channels_first"])
        )
        self.dtype = draw(st.sampled_from([None, None, None, "mixed_float16", "float64"]))
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    @property
    def axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def options(self, kind: str, spatial: bool = True) -> dict[str, Any]:
        options: dict[str, Any] = {"name": self.name(kind), "dtype": self.dtype}
        if spatial:
            options["data_format"] = self.data_format
        return options

    # --- activations in every form --------------------------------------------------------------

    def inline(self) -> Any:
        """An `activation=` argument, or none."""
        name = self.draw(st.sampled_from([None, None, *ACTIVATIONS]))
        if name is None:
            return None
        return name if self.draw(st.booleans()) else keras.activations.get(name)

    def activated(self, x: Any) -> Any:
        form = self.draw(st.sampled_from(["layer", "operation", "ops", "relu layer", "class"]))
        if form == "layer":
            activation = self.draw(st.sampled_from(ACTIVATIONS))
            return layers.Activation(activation, **self.options("act", spatial=False))(x)
        if form == "operation":
            return getattr(
                keras.activations, self.draw(st.sampled_from(["relu", "silu", "sigmoid"]))
            )(x)
        if form == "ops":
            names = [
                "relu",
                "relu6",
                "silu",
                "sigmoid",
                "tanh",
                "gelu",
                "elu",
                "softplus",
                "hard_silu",
            ]
            return getattr(ops, self.draw(st.sampled_from(names)))(x)
        if form == "relu layer":
            maximum = self.draw(st.sampled_from([None, 6.0, 1.5]))
            return layers.ReLU(max_value=maximum, **self.options("relu", spatial=False))(x)
        slope = self.draw(st.sampled_from([0.1, 0.2, 0.3]))
        return layers.LeakyReLU(slope, **self.options("leaky", spatial=False))(x)

    # --- blocks on images -----------------------------------------------------------------------

    def convolution(self, x: Any, strides: int | None = None) -> Any:
        """One of the convolutions, whose activation is inline or missing."""
        kind = self.draw(
            st.sampled_from(["conv", "conv", "depthwise", "separable", "transposed", "grouped"])
        )
        common: dict[str, Any] = {
            "kernel_size": self.draw(st.sampled_from([1, 2, 3])),
            "strides": strides or self.draw(st.sampled_from([1, 1, 2])),
            "padding": self.draw(st.sampled_from(["same", "valid"])),
            "use_bias": self.draw(st.booleans()),
            "activation": self.inline(),
            **self.options(kind),
        }
        if min(self.sizes(x)) < 3:
            common["padding"] = "same"
        if self.draw(st.integers(0, 5)) == 0:
            common["activity_regularizer"] = keras.regularizers.L2(1e-3)
        filters = self.draw(st.sampled_from([2, 4, 6]))
        if kind == "depthwise":
            multiplier = self.draw(st.sampled_from([1, 2]))
            return layers.DepthwiseConv2D(depth_multiplier=multiplier, **common)(x)
        if kind == "separable":
            return layers.SeparableConv2D(filters, **common)(x)
        if kind == "transposed":
            return layers.Conv2DTranspose(filters, **{**common, "strides": 1})(x)
        if kind == "grouped" and x.shape[self.axis] % 2 == 0:
            return layers.Conv2D(filters, groups=2, **common)(x)
        return layers.Conv2D(filters, **common)(x)

    def sizes(self, x: Any) -> tuple[int, ...]:
        shape = x.shape[2:] if self.axis == 1 else x.shape[1:-1]
        return tuple(8 if size is None else size for size in shape)

    def normalization(self, x: Any) -> Any:
        if self.draw(st.booleans()):
            return x
        options = self.options("bn", spatial=False)
        center, scale = self.draw(st.booleans()), self.draw(st.booleans())
        return layers.BatchNormalization(axis=self.axis, center=center, scale=scale, **options)(x)

    def pooling(self, x: Any) -> Any:
        if min(self.sizes(x)) < 3:
            return x
        pool = self.draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))
        padding = self.draw(st.sampled_from(["same", "valid"]))
        return pool(self.draw(st.sampled_from([2, 3])), 2, padding, **self.options("pool"))(x)

    def residual(self, x: Any) -> Any:
        channels = x.shape[self.axis]
        options = self.options("conv")
        y = layers.Conv2D(channels, 3, padding="same", activation=self.inline(), **options)(x)
        y = self.normalization(y)
        if self.draw(st.booleans()):
            return self.activated(layers.Add(**self.options("add", spatial=False))([x, y]))
        return self.activated(x + y)

    def squeeze_excite(self, x: Any) -> Any:
        channels = x.shape[self.axis]
        gate = layers.GlobalAveragePooling2D(keepdims=True, **self.options("squeeze"))(x)
        reduced = self.draw(st.sampled_from(["relu", "silu"]))
        gate = layers.Conv2D(2, 1, activation=reduced, **self.options("reduce"))(gate)
        gate = layers.Conv2D(channels, 1, activation="sigmoid", **self.options("expand"))(gate)
        if self.draw(st.booleans()):
            return layers.Multiply(**self.options("gate", spatial=False))([x, gate])
        return x * gate

    def branches(self, x: Any) -> Any:
        parts = [self.activated(self.convolution(x, strides=1)), self.convolution(x, strides=1)]
        sizes = {self.sizes(part) for part in parts}
        if len(sizes) > 1:
            return parts[0]
        return layers.Concatenate(axis=self.axis, **self.options("concat", spatial=False))(parts)

    def shared(self, x: Any) -> Any:
        """A convolution, and perhaps an activation, called twice."""
        options = self.options("shared")
        convolution = layers.Conv2D(x.shape[self.axis], 3, padding="same", **options)
        activation = layers.Activation("relu", **self.options("shared_act", spatial=False))
        return activation(convolution(activation(convolution(x))))

    def nested(self, x: Any) -> Any:
        """A model in the model, sequential or functional, perhaps two deep."""
        channels = x.shape[self.axis]
        options = self.options("inner")
        inner = [
            layers.Conv2D(channels, 3, padding="same", activation=self.inline(), **options),
            layers.Activation("relu", name="act", dtype=self.dtype),
        ]
        if self.draw(st.booleans()):
            block = keras.Sequential([keras.Input(x.shape[1:]), *inner], name=self.name("block"))
        else:
            start = keras.Input(x.shape[1:])
            block = keras.Model(start, inner[1](inner[0](start)), name=self.name("block"))
        if self.draw(st.booleans()):
            start = keras.Input(x.shape[1:])
            block = keras.Model(start, block(start) + start, name=self.name("outer"))
        return block(x)

    def quiet(self, x: Any) -> Any:
        """Layers that do nothing at inference, or next to nothing."""
        rate = layers.Dropout(0.3, **self.options("dropout", spatial=False))
        pad = layers.ZeroPadding2D(1, **self.options("pad"))
        flip = layers.RandomFlip(name=self.name("flip"))
        up = layers.UpSampling2D(2, **self.options("up"))
        choices = [rate, pad, up] if self.axis == 1 or self.dtype else [rate, pad, up, flip]
        return self.draw(st.sampled_from(choices))(x)

    def image_block(self, x: Any) -> Any:
        def plain(x: Any) -> Any:
            return self.activated(self.normalization(self.convolution(x)))

        blocks = [
            plain, plain, self.pooling, self.residual, self.squeeze_excite, self.branches, self.shared,
            self.nested, self.quiet,
        ]  # fmt: skip
        return self.draw(st.sampled_from(blocks))(x)

    # --- heads and vectors ----------------------------------------------------------------------

    def head(self, x: Any) -> Any:
        if len(x.shape) == 4:
            pooled = layers.GlobalAveragePooling2D(**self.options("gap"))
            known = None not in x.shape[1:]
            flat = layers.Flatten(**self.options("flatten"))
            x = flat(x) if known and self.draw(st.booleans()) else pooled(x)
        for _ in range(self.draw(st.integers(0, 2))):
            activation = self.inline()
            x = layers.Dense(5, activation=activation, **self.options("dense", spatial=False))(x)
        activation = self.draw(st.sampled_from([None, "softmax", "sigmoid"]))
        return layers.Dense(3, activation=activation, **self.options("out", spatial=False))(x)

    def sequence_block(self, x: Any) -> Any:
        kind = self.draw(st.sampled_from(["conv", "time distributed", "einsum", "dense"]))
        if kind == "conv":
            y = layers.Conv1D(
                4, 3, padding="causal", activation=self.inline(), name=self.name("conv1d")
            )
            return self.activated(y(x))
        if kind == "time distributed":
            inner = layers.Dense(4, activation=self.inline())
            return layers.TimeDistributed(inner, name=self.name("td"))(x)
        if kind == "einsum":
            shape = (None, 4)
            y = layers.EinsumDense(
                "abc,cd->abd", shape, activation=self.inline(), name=self.name("einsum")
            )
            return y(x)
        return layers.Dense(4, activation=self.inline(), name=self.name("dense"))(x)


@st.composite
def networks(draw: Callable[[Any], Any]) -> Network:
    """Small networks of every kind that `convert` meets, built, with weights away from their initial values."""
    keras.backend.clear_session()
    builder = _Builder(draw)
    kind = draw(
        st.sampled_from(["image", "image", "image", "sequential", "sequence", "two inputs"])
    )
    size, channels = 8, 2
    shape = (channels, size, size) if builder.axis == 1 else (size, size, channels)
    if kind == "sequence":
        start = keras.Input((6, 4))
        x = start
        for _ in range(draw(st.integers(1, 3))):
            x = builder.sequence_block(x)
        x = builder.activated(x)
        model = keras.Model(start, builder.head(layers.GlobalAveragePooling1D()(x)))
        shapes = [(6, 4)]
    elif kind == "sequential":
        parts: list[Any] = [keras.Input(shape)]
        for _ in range(draw(st.integers(1, 3))):
            options = builder.options("conv")
            parts.append(
                layers.Conv2D(4, 3, padding="same", activation=builder.inline(), **options)
            )
            if draw(st.booleans()):
                options = builder.options("bn", spatial=False)
                parts.append(layers.BatchNormalization(axis=builder.axis, **options))
            parts.append(layers.ReLU(**builder.options("relu", spatial=False)))
            if draw(st.booleans()):
                parts.append(layers.MaxPooling2D(2, padding="same", **builder.options("pool")))
        parts.append(layers.GlobalAveragePooling2D(**builder.options("gap")))
        model = keras.Sequential([*parts, layers.Dense(3, dtype=builder.dtype)])
        shapes = [shape]
    else:
        unknown = kind == "image" and builder.axis == -1 and draw(st.integers(0, 4)) == 0
        start = keras.Input((None, None, channels) if unknown else shape)
        x = start
        for _ in range(draw(st.integers(1, 4))):
            x = builder.image_block(x)
        x = builder.activated(x)
        shapes = [shape]
        if kind == "two inputs":
            other = keras.Input((4,))
            y = layers.Dense(3, activation=builder.inline(), name=builder.name("dense"))(other)
            outputs = [builder.head(x), builder.activated(y)]
            model = keras.Model([start, other], outputs)
            shapes = [shape, (4,)]
        else:
            model = keras.Model(start, builder.head(x))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    _randomize(model, random)
    for layer in model._flatten_layers():
        # TensorFlow and Keras may add it along the width, where that has as many entries.
        if getattr(layer, "data_format", None) == "channels_first" and hasattr(layer, "bias"):
            _make_equal(layer.bias)
    arrays = [random.normal(size=(2, *shape)).astype("float32") for shape in shapes]
    inputs = arrays if len(arrays) > 1 else arrays[0]
    try:
        model(inputs, training=False)
        with layer_by_layer():
            model(inputs, training=False)
    except Exception:  # what the backend can't run, such as some convolutions with channels first
        reject()
    return Network(model, inputs)


def _make_equal(bias: Any) -> None:
    if bias is not None:
        bias.assign(np.full(bias.shape, ops.convert_to_numpy(bias)[0]))


def _randomize(model: keras.Model, random: np.random.Generator) -> None:
    """Offsets, and statistics of batch normalization, that are not 0 and 1."""
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if weight.dtype.startswith(("int", "uint")):
            continue
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, value.shape))
        elif value.ndim <= 1:
            weight.assign(0.3 * random.normal(size=value.shape))
