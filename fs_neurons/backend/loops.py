"""Several results of one loop, where XLA would make a loop of each: for functions that `kernels.fuse` compiles."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import keras

from fs_neurons.backend.kernels import kernels_left_out


def in_one_loop(*arrays: Any) -> tuple[Any, ...]:
    """The same arrays, of equal shape, computed in one loop; for functions that `fuse` compiles.

    XLA on a CPU makes a loop for each output, and computes anew in it what they have in common. But a reduction of
    several arrays is one loop: here, over an axis of two entries of which the second is zero. It is -0.0 of
    floating-point numbers, the one that changes no bit of what it is added to.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow" and not kernels_left_out():
        import tensorflow as tf
        from tensorflow.compiler.tf2xla.python import xla

        dtypes = tuple(a.dtype for a in arrays)
        first = tf.reshape(tf.range(2) == 0, [2] + [1] * len(arrays[0].shape))
        zeros = [tf.constant(-0.0 if dtype.is_floating else 0, dtype) for dtype in dtypes]
        pairs = [tf.where(first, a[None], zero) for a, zero in zip(arrays, zeros, strict=True)]
        return tuple(xla.variadic_reduce(pairs, zeros, [0], _addition(dtypes)))
    if backend == "jax":
        import jax.numpy as jnp
        from jax import lax

        first = lax.iota(jnp.int32, 2).reshape(2, *[1] * arrays[0].ndim) == 0
        zeros = [
            jnp.array(-0.0 if jnp.issubdtype(a.dtype, jnp.floating) else 0, a.dtype) for a in arrays
        ]
        pairs = [jnp.where(first, a[None], zero) for a, zero in zip(arrays, zeros, strict=True)]
        return tuple(
            lax.reduce(tuple(pairs), tuple(zeros), lambda *both: tuple(map(lax.add, *both)), (0,))
        )
    return arrays


def selected_sums(steps: Iterable[tuple[Any, Any]], like: Any) -> tuple[Any, Any]:
    """The sum of addends where their mask is true, and the number of these, as float32.

    Args:
        steps: masks of the shape of `like`, and addends that broadcast with it, in the order of addition.
        like: float32 tensor.

    TensorFlow and JAX add them as one complex number. Two sums apart, XLA computes one after the other, and has to
    keep the masks of all steps for the second, which are more than a processor has registers for.
    """
    backend = keras.backend.backend()
    if backend == "torch" or kernels_left_out():
        total, number = keras.ops.zeros_like(like), keras.ops.zeros_like(like)
        for mask, addend in steps:
            total = keras.ops.where(mask, total + addend, total)
            number = number + keras.ops.cast(mask, "float32")
        return total, number
    if backend == "tensorflow":
        import tensorflow as tf

        combine, where, real, imag = tf.complex, tf.where, tf.math.real, tf.math.imag
    else:
        import jax.numpy as jnp
        from jax import lax

        combine, where, real, imag = lax.complex, jnp.where, lax.real, lax.imag
    sums = combine(keras.ops.zeros_like(like), keras.ops.zeros_like(like))
    for mask, addend in steps:
        sums = where(mask, sums + combine(addend, keras.ops.ones_like(addend)), sums)
    return real(sums), imag(sums)


@functools.lru_cache(maxsize=16)
def _addition(dtypes: tuple[Any, ...]) -> Any:
    """TensorFlow's function that adds scalars of these types, each to that of the other operand."""
    import tensorflow as tf

    def add(*both: Any) -> list[Any]:
        return [a + b for a, b in zip(both[: len(dtypes)], both[len(dtypes) :], strict=True)]

    with tf.init_scope():
        function = tf.function(add, autograph=False)
        return function.get_concrete_function(*[tf.TensorSpec((), t) for t in 2 * dtypes])
