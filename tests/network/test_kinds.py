"""The table of kinds against networks whose weights are all one, and against counts by hand."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.analysis.connectivity import fan_out, multiply_accumulates, unknown_calls
from fs_neurons.network import graph, kinds
from fs_neurons.network.kinds import kind_of


def macs_of(shape, *made):
    network = graph.trace(keras.Sequential([keras.Input(shape), *made]))
    return sum(multiply_accumulates(call) for call in network.calls)


def connections(shape, *made):
    """Fan-out of each entry of an input, and what it reaches if all weights are one."""
    model = keras.Sequential([keras.Input(shape), *made])
    network = graph.trace(model)
    model.set_weights(
        [np.ones_like(w) if w.ndim > 1 else np.zeros_like(w) for w in model.get_weights()]
    )
    size = int(np.prod(shape))
    units = np.eye(size, dtype=np.float32).reshape(size, *shape)
    reached = ops.convert_to_numpy(model(units, training=False)).reshape(size, -1).sum(axis=1)
    fan = np.broadcast_to(fan_out(network, network.inputs[0]).weighted, shape).ravel()
    count = sum(multiply_accumulates(call) for call in network.calls)
    return fan, reached, count


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        ((3, 4), lambda: [layers.TimeDistributed(layers.Dense(5))]),
        ((3, 5, 2), lambda: [layers.TimeDistributed(layers.Conv1D(4, 2, padding="same"))]),
        ((2, 3, 4), lambda: [layers.TimeDistributed(layers.TimeDistributed(layers.Dense(5)))]),
        ((5, 6, 2), lambda: [layers.SpectralNormalization(layers.Conv2D(3, 3, strides=2))]),
        ((4, 6), lambda: [layers.TimeDistributed(layers.Reshape((2, 3))), layers.Conv2D(3, 2)]),
        ((3, 4), lambda: [layers.EinsumDense("...x,xy->...y", 5)]),
        ((3, 4), lambda: [layers.EinsumDense("abc,cde->abde", (3, 2, 6))]),
        ((3, 4), lambda: [layers.EinsumDense("abc,bd->acd", (4, 5))]),
    ],
)
def test_weights_behind_wrappers_and_equations(shape, made):
    fan, reached, count = connections(shape, *made())
    assert (fan == reached).all()
    assert count == reached.sum()


@pytest.mark.parametrize(
    "made",
    [
        lambda: [layers.Permute((3, 1, 2)), layers.Flatten()],
        lambda: [layers.Cropping2D(((1, 0), (0, 2)))],
        lambda: [layers.UpSampling2D((2, 3))],
        lambda: [layers.ZeroPadding2D(1), layers.Conv2D(2, 3, strides=2)],
        lambda: [layers.Flatten(), layers.RepeatVector(3), layers.Conv1D(2, 2)],
        lambda: [layers.TimeDistributed(layers.Flatten()), layers.Conv1D(3, 2)],
        lambda: [layers.RandomFlip(), layers.Conv2D(2, 2)],
    ],
)
def test_routes_end_where_the_entries_go(made):
    shape = (4, 5, 2)
    model = keras.Sequential([keras.Input(shape), *made()])
    network = graph.trace(model)
    model.set_weights(
        [np.ones_like(w) if w.ndim > 1 else np.zeros_like(w) for w in model.get_weights()]
    )
    units = np.eye(40, dtype=np.float32).reshape(-1, *shape)
    reached = ops.convert_to_numpy(model(units, training=False)).reshape(40, -1).sum(axis=1)
    total = np.broadcast_to(fan_out(network, network.inputs[0]).total, shape).ravel()
    assert (total == reached).all()


def test_routing_operations():
    inputs = keras.Input((4, 6))
    x = ops.concatenate([ops.transpose(inputs, (0, 2, 1))[:, 1:, ::2], ops.ones((1, 5, 1))], axis=2)
    left, right = ops.split(ops.pad(x, ((0, 0), (1, 0), (0, 0))), 2, axis=1)
    network = graph.trace(keras.Model(inputs, layers.Add()([left, layers.Conv1D(3, 1)(right)])))
    assert "Pad" in unknown_calls(network)[0]
    rows = ops.transpose(inputs, (0, 2, 1))[:, 1:, ::2]
    network = graph.trace(keras.Model(inputs, layers.Conv1D(3, 2)(rows)))
    expected = np.zeros((4, 6), int)
    expected[::2, 1:] = [3, 6, 6, 6, 3]
    assert (fan_out(network, network.inputs[0]).weighted == expected).all()


def test_values_passed_twice_or_joined():
    inputs = keras.Input((3, 2))
    both = layers.Concatenate(axis=1)([inputs, inputs])
    network = graph.trace(keras.Model(inputs, [layers.Conv1D(4, 2)(both), inputs + inputs]))
    fan = fan_out(network, network.inputs[0])
    assert np.broadcast_to(fan.weighted, (3, 2)).tolist() == [[4 + 8] * 2, [8 + 8] * 2, [8 + 4] * 2]
    assert (fan.total == fan.weighted + 2).all()


def lstm_by_hand(length, width, units):
    count = 0
    for _ in range(length):
        for _ in range(4):  # input, forget and output gate, candidate
            count += width * units + units * units
        count += 3 * units  # forget c, input candidate, output tanh(c)
    return count


def test_recurrent_layers():
    assert macs_of((7, 3), layers.LSTM(5)) == lstm_by_hand(7, 3, 5)
    assert macs_of((7, 3), layers.GRU(5)) == 7 * (3 * (3 * 5 + 5 * 5) + 3 * 5)
    assert macs_of((7, 3), layers.SimpleRNN(5)) == 7 * (3 * 5 + 5 * 5)
    assert macs_of((7, 3), layers.Bidirectional(layers.LSTM(5))) == 2 * lstm_by_hand(7, 3, 5)
    network = graph.trace(keras.Sequential([keras.Input((7, 3)), layers.LSTM(5)]))
    assert fan_out(network, network.inputs[0]).weighted.ravel().tolist() == [4 * 5]


def attention_by_hand(queries, keys, width, heads, key_width, value_width, kv_heads):
    projections = queries * width * heads * key_width
    projections += keys * width * kv_heads * (key_width + value_width)
    products = 0
    for _ in range(heads):
        products += queries * keys * key_width + queries * keys * value_width
    return projections + products + queries * heads * value_width * width


def test_attention():
    x, memory = keras.Input((6, 8)), keras.Input((4, 8))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3, value_dim=5)
    network = graph.trace(keras.Model([x, memory], layer(x, memory)))
    expected = attention_by_hand(6, 4, 8, 2, 3, 5, 2)
    assert sum(map(multiply_accumulates, network.calls)) == expected
    fans = [int(fan_out(network, value).weighted.ravel()[0]) for value in network.inputs]
    assert fans == [2 * 3, 2 * (3 + 5)]
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3)
    network = graph.trace(keras.Model(x, layer(x, x)))
    assert sum(map(multiply_accumulates, network.calls)) == attention_by_hand(6, 6, 8, 2, 3, 3, 2)
    assert fan_out(network, network.inputs[0]).weighted.ravel().tolist() == [3 * 2 * 3]
    layer = layers.GroupQueryAttention(3, num_query_heads=4, num_key_value_heads=2)
    network = graph.trace(keras.Model(x, layer(x, x)))
    assert sum(map(multiply_accumulates, network.calls)) == attention_by_hand(6, 6, 8, 4, 3, 3, 2)
    layer = layers.Attention()
    network = graph.trace(keras.Model([x, memory], layer([x, memory])))
    assert sum(map(multiply_accumulates, network.calls)) == 6 * 4 * 8 + 6 * 4 * 8


def connected(inputs, outputs):
    """A model of those inputs that lead to the outputs; older versions of Keras refuse others."""
    for some in (inputs, *([x] for x in inputs)):
        with contextlib.suppress(ValueError):
            return keras.Model(some, outputs)
    raise AssertionError("no input leads to the outputs")


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda x, y: ops.matmul(x, ops.transpose(y, (0, 2, 1))), 6 * 4 * 8),
        (lambda x, y: ops.einsum("bqd,bkd->bqk", x, y), 6 * 4 * 8),
        (lambda x, y: ops.einsum("bqd,de->bqe", x, ops.ones((8, 5))), 6 * 8 * 5),
        (lambda x, y: ops.matmul(x, ops.ones((8, 5))), 6 * 8 * 5),
        (lambda x, y: ops.dot(x, ops.ones((8, 5))), 6 * 8 * 5),
        (lambda x, y: ops.tensordot(x, ops.ones((8, 5)), axes=1), 6 * 8 * 5),
        (lambda x, y: ops.tensordot(x, ops.ones((5, 8)), axes=((2,), (1,))), 6 * 8 * 5),
        (lambda x, y: layers.Dot(axes=2)([x, y]), 6 * 4 * 8),
        (lambda x, y: layers.Multiply()([x, x, x]), 2 * 6 * 8),
        (lambda x, y: layers.Embedding(10, 3)(y[:, :, 0]), 0),
    ],
)
def test_products(make, count):
    x, y = keras.Input((6, 8)), keras.Input((4, 8))
    network = graph.trace(connected([x, y], make(x, y)))
    assert sum(map(multiply_accumulates, network.calls)) == count
    constant = len(network.calls[-1].inputs) == 1 and count
    weighted = fan_out(network, network.inputs[0]).weighted
    assert int(weighted.ravel()[0]) == (5 if constant else 0)
    assert graph.is_linear(network.calls[-1]) == bool(constant)


def test_a_vision_transformer_by_hand():
    tokens, width, hidden, heads, classes, depth = 16, 12, 24, 3, 10, 2
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 4, strides=4)(x)
    x = layers.Reshape((tokens, width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(width)(layers.Dense(hidden, activation="gelu")(y))
    model = keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling1D()(x)))
    block = 4 * tokens * width * width  # queries, keys, values, output
    block += 2 * tokens * tokens * width  # scores and sums
    block += 2 * tokens * width * hidden
    network = graph.trace(model)
    assert unknown_calls(network) == ()
    assert sum(map(multiply_accumulates, network.calls)) == (
        tokens * 4 * 4 * 3 * width + depth * block + width * classes
    )


def test_what_is_not_known_is_named():
    class Own(layers.Layer):
        def call(self, x):
            return 2 * x

    class OwnDense(layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    class Renamed(layers.Dense):
        pass

    made = [
        Own(name="own"), OwnDense(3, name="dense"), Renamed(4, name="renamed"),
        layers.UpSampling2D(2, interpolation="bilinear", name="wide"),
        layers.Lambda(lambda x: x + 1, name="function"),
    ]  # fmt: skip
    network = graph.trace(keras.Sequential([keras.Input((4, 4, 2)), *made]))
    assert unknown_calls(network) == (
        "own (Own)", "dense (OwnDense)", "wide (UpSampling2D)", "function (Lambda)"
    )  # fmt: skip
    assert kind_of(made[1]) is kinds.UNKNOWN
    assert kind_of(made[2]) is kinds.DENSE


@pytest.mark.parametrize("make", [lambda: layers.Conv2D(6, 2, groups=2),
                                  lambda: layers.Conv2DTranspose(5, 2, use_bias=True),
                                  lambda: layers.DepthwiseConv2D(2, depth_multiplier=3),
                                  lambda: layers.SeparableConv2D(5, 2, depth_multiplier=2),
                                  lambda: layers.Dense(3)])  # fmt: skip
def test_scales_fold_into_kernels(make):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
    layer = make()
    y = ops.convert_to_numpy(layer(x))
    before, behind = rng.uniform(1, 2, 4), rng.uniform(1, 2, y.shape[-1])
    expected = ops.convert_to_numpy(layer(x * before.astype(np.float32))) * behind
    first, *rest, bias = layer.get_weights()
    kernels = [first * kind_of(layer).scale_inputs(layer, before), *rest]
    kernels[-1] = kernels[-1] * kind_of(layer).scale_outputs(layer, behind)
    layer.set_weights([*kernels, bias])
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "cls", [cls for cls, kind in kinds.LAYERS.items() if kind is kinds.AUGMENTATION]
)
def test_augmentation_does_nothing_at_inference(cls):
    factors = {"RandomTranslation": (0.2, 0.2), "RandomPosterization": (4,)}
    needed = {"RandomBrightness", "RandomColorDegeneration", "RandomContrast", "RandomHue",
              "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomZoom"}  # fmt: skip
    layer = cls(*factors.get(cls.__name__, (0.2,) if cls.__name__ in needed else ()))
    x = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    assert (ops.convert_to_numpy(layer(x, training=False)) == x).all()
