"""Which axis of each value holds its channels."""

import keras
import pytest
from keras import layers, ops

from fs_neurons.network import graph
from fs_neurons.network.channels import channel_axes


def conv(**kwargs):
    return layers.Conv2D(5, 3, **kwargs)


FIRST = {"data_format": "channels_first"}


@pytest.mark.parametrize(
    ("shape", "operations", "expected"),
    [
        ((8, 8, 3), [conv(), layers.ReLU()], 3),
        ((3, 8, 8), [conv(**FIRST), layers.ReLU()], 1),
        ((3, 8, 8), [conv(**FIRST), layers.BatchNormalization(axis=1), ops.relu], 1),
        (
            (3, 8, 8),
            [conv(**FIRST), layers.ZeroPadding2D(**FIRST), layers.MaxPooling2D(**FIRST)],
            1,
        ),
        ((3, 8, 8), [conv(**FIRST), layers.GlobalAveragePooling2D(**FIRST), ops.silu], 1),
        ((3, 8, 8), [conv(**FIRST), layers.GlobalMaxPooling2D(**FIRST, keepdims=True)], 1),
        ((3, 8, 8), [conv(**FIRST), layers.Dropout(0.5), layers.Activation("gelu")], 1),
        ((3, 8, 8), [conv(**FIRST), layers.Permute((2, 3, 1)), layers.ReLU()], 3),
        ((8, 8, 3), [conv(), layers.Reshape((36, 5)), layers.ReLU()], 2),
        ((3, 3, 3), [conv(), layers.Flatten(), layers.ReLU()], 1),
        ((8, 8, 3), [conv(), layers.Flatten(), layers.ReLU()], None),
        ((8, 8, 3), [conv(), lambda x: x + x, layers.ReLU()], 3),
        ((8, 8, 3), [conv(), lambda x: ops.sort(x, axis=1), layers.ReLU()], None),
        ((8, 8, 3), [layers.ReLU()], None),
        ((7, 4), [layers.TimeDistributed(layers.Dense(5)), layers.ReLU()], 2),
        ((7, 4), [layers.EinsumDense("abc,cd->abd", (None, 5)), layers.ReLU()], 2),
        ((7, 4), [layers.EinsumDense("abc,cd->adb", (5, None)), layers.ReLU()], None),
    ],
)
def test_the_axis_is_handed_on(shape, operations, expected):
    x = inputs = keras.Input(shape)
    for operation in operations:
        x = operation(x)
    traced = graph.trace(keras.Model(inputs, x))
    assert channel_axes(traced)[traced.outputs] == expected


def test_branches_that_meet_have_to_agree():
    inputs = keras.Input((5, 5, 5))
    first, last = conv(padding="same", **FIRST)(inputs), conv(padding="same")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(last)
    for x, expected in [
        (layers.Add()([last, last]), 3),
        (layers.Add()([first, last]), None),
        (layers.Concatenate(axis=1)([first, first]), 1),
        (layers.Multiply()([last, gate]), 3),
        (layers.Multiply()([last, layers.GlobalAveragePooling2D()(last)]), 3),
    ]:
        traced = graph.trace(keras.Model(inputs, x))
        assert channel_axes(traced)[traced.outputs] == expected
