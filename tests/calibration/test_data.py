"""Calibration data: what is taken, and how what is none is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from fs_neurons.calibration.data import MAX_IMAGES, checked_inputs

IMAGES = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def two():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    return keras.Model({"a": a, "b": b}, layers.Concatenate()([a, b]), name="two")


@pytest.fixture(scope="module")
def one():
    inputs = keras.Input((4,), name="a")
    return keras.Model(inputs, layers.Dense(2)(inputs), name="one")


def test_batches_are_put_together(two, one):
    other = np.arange(60).reshape(20, 3)
    batches = [{"a": IMAGES[:12], "b": other[:12]}, {"a": IMAGES[12:], "b": other[12:]}]
    for data in ({"a": IMAGES, "b": other}, batches):
        first, second = checked_inputs(two, data)
        np.testing.assert_array_equal(first, IMAGES)
        np.testing.assert_array_equal(second, other)
        assert second.dtype == np.float32
    (low,) = checked_inputs(one, keras.ops.cast(IMAGES, "bfloat16"))
    np.testing.assert_allclose(low, IMAGES, rtol=1e-2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([IMAGES[:, :3]], r"images from 0 on: shape \(20, 3\), but input 'a' .*takes \(None, 4\)"),
        (IMAGES[:, 0], "are these labels"),
        ([IMAGES, [IMAGES, IMAGES]], "images from 20 on: 2 arrays, but model 'one' has 1 inputs"),
        (np.full((20, 4), "x"), "'a' must be numbers, got <U1"),
        ((IMAGES for _ in range(MAX_IMAGES)), "more than 50,000 images, or never ends"),
        ((IMAGES, np.zeros(20)), r"without labels; got tuple \(inputs and labels"),
        (5, "got int"),
    ],
)
def test_what_is_no_data_is_refused(one, data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        checked_inputs(one, data)


def test_inputs_of_different_length_are_refused(two):
    with pytest.raises(ValueError, match=r"inputs of different length \[20, 19\]"):
        checked_inputs(two, {"a": IMAGES, "b": IMAGES[:19, :3]})
