import functools

import keras
import numpy as np
import pytest
from keras import ops

from fs_neurons.backend import (
    Padding,
    as_numpy,
    compiled,
    fuse,
    fuse_element_wise,
    in_one_loop,
    without_kernels,
)

FUSES = keras.backend.backend() != "torch"


def length_of_the_kernel(x):
    return ops.zeros_like(x) + ops.cast(ops.shape(x)[0], "float32")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), 2**14), ((0, 3), 2**14), ((2, 5, 7), 2**14), ((2**14,), 2**14), ((3, 5462), 2**15)],
)
def test_arrays_of_many_sizes_share_kernels_of_few_lengths(shape, expected):
    n = int(np.prod(shape))
    kernel = fuse_element_wise(length_of_the_kernel, [])
    x = ops.ones(shape)
    for padding, length in ((Padding.ARRAY, expected if FUSES else n), (Padding.NONE, n)):
        y = ops.convert_to_numpy(kernel(padding, (), x))
        np.testing.assert_array_equal(y, np.full(shape, length))
    with without_kernels():
        y = ops.convert_to_numpy(kernel(Padding.ARRAY, (), x))
    if keras.backend.backend() != "jax":
        np.testing.assert_array_equal(y, np.full(shape, n))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX knows all sizes")
def test_a_batch_of_unknown_size_is_padded_as_well():
    import tensorflow as tf

    kernel = fuse_element_wise(lambda x: (length_of_the_kernel(x), -x), [])
    lengths = {
        Padding.ARRAY: {0: 2**14, 4: 2**14, 3300: 2**15, 7000: 2**16},
        Padding.BATCH: {0: 0, 1: 5, 2: 10, 3: 20, 4: 20, 100: 640},
        Padding.NONE: {7: 35},
    }
    for padding, expected in lengths.items():
        traced = compiled(functools.partial(kernel, padding, ())).get_concrete_function(
            tf.TensorSpec((None, 5), "float32")
        )
        assert [tuple(y.shape) for y in traced.outputs] == [(None, 5)] * 2
        for images, length in expected.items():
            x = np.arange(5 * images, dtype=np.float32).reshape(images, 5)
            lengths_seen, negative = traced(tf.constant(x))
            assert (lengths_seen.numpy() == length).all()
            np.testing.assert_array_equal(negative, -x)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX knows all sizes")
def test_inner_axes_are_not_padded():
    import tensorflow as tf

    def scaled_lengths(x, scale):
        return length_of_the_kernel(x) * scale[:, None]

    kernel = fuse_element_wise(scaled_lengths, [(None,)], inner_rank=2)
    scale = np.arange(3, dtype=np.float32)
    lengths = {
        Padding.ARRAY: {0: 2**11, 4: 2**11, 700: 2**12},
        Padding.BATCH: {0: 0, 1: 5, 3: 20, 100: 640},
        Padding.NONE: {7: 35},
    }
    for padding, expected in lengths.items():
        call = functools.partial(kernel, padding, (3, 2))
        traced = compiled(call).get_concrete_function(
            tf.TensorSpec((None, 5, 3, 2), "float32"), tf.TensorSpec((3,), "float32")
        )
        for images, length in expected.items():
            x = tf.zeros((images, 5, 3, 2))
            for run in (traced, call):
                if run is traced or padding is Padding.ARRAY:
                    y = run(x, tf.constant(scale)).numpy()
                    np.testing.assert_array_equal(
                        y, np.broadcast_to(length * scale[:, None], x.shape)
                    )


def test_arrays_in_one_loop_keep_every_bit():
    special = [-0.0, 0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-3, -3.4e38]
    x = np.float32(special * 5).reshape(4, 5, 2)
    count = np.arange(40).reshape(x.shape) - 20
    others = np.int8(count), np.int32(count * 2**20)

    def arrays(x):
        return (x, *map(ops.convert_to_tensor, others), x + 1)

    fused = fuse(lambda x: in_one_loop(*arrays(x)), [(None,) * 3])
    for y, expected in zip(fused(ops.convert_to_tensor(x)), (x, *others, x + 1), strict=True):
        y = ops.convert_to_numpy(y)
        assert y.dtype == expected.dtype
        if expected is x:
            np.testing.assert_array_equal(y.view(np.int32), x.view(np.int32))
        np.testing.assert_array_equal(y, expected)


def test_arrays_are_not_copied_and_tensors_become_arrays():
    x = np.arange(3.0, dtype=np.float32)
    assert as_numpy(x) is x
    for given in (ops.convert_to_tensor(x), keras.Variable(x), [0, 1, 2]):
        array = as_numpy(given)
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, x)
