"""What the tests of training share: a network and a few digits that train in a second."""

import keras
import numpy as np

from fs_neurons import training
from fs_neurons.data import datasets
from fs_neurons.training import RECIPES

TRAIN = datasets.load("digits", "train").take(192)
TEST = datasets.load("digits", "test").take(100)
RECIPE = RECIPES["fast"].changed(epochs=3)


def network(seed=0, filters=8, activation="relu"):
    """Convolution, batch normalization, dropout: 8 x 8 digits to ten logits."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(filters, 3, strides=2, use_bias=False, name="convolution"),
            layers.BatchNormalization(name="normalization"),
            layers.Activation(activation, name="activation"),
            layers.Flatten(name="flatten"),
            layers.Dropout(0.1, name="dropout"),
            layers.Dense(10, name="logits"),
        ],
        name="tiny",
    )


def trained(recipe=RECIPE, model=None, **kwargs):
    model = model or network()
    history = training.train(model, TRAIN, TEST, recipe, **kwargs)
    return model, history


def assert_same_weights(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
