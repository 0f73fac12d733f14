"""The one place that knows which Keras backend runs.

`fuse` turns an element-wise function of `keras.ops` into one compiled kernel: XLA on TensorFlow and
JAX, the plain function on PyTorch. `compiled` does so with a whole forward pass, by TensorFlow's own graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras


def fuse(function: Callable[..., Any], ranks: Sequence[int] = (1,)) -> Callable[..., Any]:
    """Compiles `function` into one kernel per concrete shape.

    Args:
        function: takes float32 tensors, returns a tensor or a tuple of tensors.
        ranks: rank of each argument. The function is traced once, for any length of its axes.

    Returns:
        A function of the same arguments; it does not carry gradients.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # A partial object has no code of its own: TensorFlow would otherwise take the kernels of
        # different parameter sets for one function that is traced again and again, and warn.
        function = functools.partial(function)
        signature = [tf.TensorSpec([None] * rank, tf.float32) for rank in ranks]
        return tf.function(function, input_signature=signature, jit_compile=True, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function of tensors into one graph of the backend; as it is on PyTorch."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def bincount(codes: Any, bins: int) -> Any:
    """Number of entries 0, ..., bins - 1 in an int32 tensor of shape (n,); inside `compiled` too."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.math.bincount(codes, minlength=bins, maxlength=bins)
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.bincount(codes, length=bins)
    return keras.ops.bincount(codes, minlength=bins)
