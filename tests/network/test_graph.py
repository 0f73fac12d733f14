"""A traced graph computes what the model does."""

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.network import graph


def test_a_graph_runs_at_inference():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip(seed=1)(x)
    x = layers.RandomTranslation(0.3, 0.3, seed=1)(x)
    x = layers.Dropout(0.5)(x)
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.RandomContrast(0.5), layers.BatchNormalization()]
    )
    x = ops.mean(inner(x), axis=(1, 2))
    model = keras.Model(inputs, {"a": layers.Dense(4)(x), "b": x})
    images = np.random.default_rng(0).uniform(size=(5, 8, 8, 3)).astype(np.float32)
    result, expected = graph.trace(model).run(images), model(images, training=False)
    for name in "ab":
        assert (ops.convert_to_numpy(result[name]) == ops.convert_to_numpy(expected[name])).all()


def test_layers_inside_of_a_layer_are_told_too():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__()
            self.flip = layers.RandomTranslation(0.4, 0.4, seed=0)

        def call(self, x):
            return self.flip(x)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((8, 8, 1)), Own()])
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    assert (ops.convert_to_numpy(graph.trace(model).run(images)) == images).all()


def test_each_call_can_be_replaced_and_values_are_freed():
    inputs = keras.Input((3,))
    a = layers.Dense(4, name="a")(inputs)
    model = keras.Model(inputs, layers.Add(name="sum")([layers.Dense(4, name="b")(a), a]))
    network = graph.trace(model)
    assert [network.last_uses[value.index] for value in network.values] == [0, 2, 2, 3]
    assert [call.name for call in network.consumers[1]] == ["b", "sum"]
    seen = []

    def each(call, tensors):
        seen.append(call.name)
        return 0 * tensors(call.inputs[0]) if call.name == "b" else call(tensors)

    images = np.ones((2, 3), np.float32)
    result = network.run(images, each)
    assert seen == ["a", "b", "sum"]
    expected = ops.convert_to_numpy(model.get_layer("a")(images))
    assert (ops.convert_to_numpy(result) == expected).all()


def test_open_sizes_are_taken_from_images():
    inputs = keras.Input((None, None, 3))
    x = layers.EinsumDense("abcd,de->abce", (None, None, 5))(inputs)
    x = layers.Conv2D(2, 3, strides=2, padding="same")(x)
    model = keras.Model(inputs, [x, ops.mean(x, axis=1)])
    network = graph.trace(model, np.zeros((4, 6, 7, 3), np.float32))
    assert [value.shape for value in network.outputs] == [(3, 4, 2), (4, 2)]


def test_what_is_linear():
    inputs = keras.Input((4,))
    made = {
        "double": 2 * inputs, "half": inputs / 2, "over": 2 / inputs, "square": inputs * inputs,
        "wrapped": layers.SpectralNormalization(layers.Dense(3))(inputs),
        "curved": layers.SpectralNormalization(layers.Dense(3, activation="relu"))(inputs),
        "identity": layers.Activation("linear")(inputs), "sum": inputs + inputs,
        "softmax": layers.Softmax()(inputs),
    }  # fmt: skip
    linear = {
        name: graph.is_linear(graph.trace(keras.Model(inputs, x)).calls[-1])
        for name, x in made.items()
    }
    assert {name for name, yes in linear.items() if yes} == {
        "double", "half", "wrapped", "identity", "sum"
    }  # fmt: skip
