"""The one place that knows which Keras backend runs.

`fuse` turns an element-wise function of `keras.ops` into one compiled kernel: XLA on TensorFlow and
JAX, the plain function on PyTorch. `compiled` does so with a whole forward pass, by TensorFlow's own graph.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import keras


def fuse(
    function: Callable[..., Any], shapes: Sequence[Sequence[int | None]]
) -> Callable[..., Any]:
    """Compiles `function` into one kernel per concrete shape.

    Args:
        function: takes float32 tensors, returns a tensor or a tuple of tensors.
        shapes: of each argument. The function is traced once, for any length of axes that are None.

    Returns:
        A function of the same arguments; it does not carry gradients.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = _without_code(function)
        signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
        fused = tf.function(function, input_signature=signature, jit_compile=True, autograph=False)
        return lambda *args: function(*args) if _traced_for_onnx() else fused(*args)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def _without_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an object of its own: TensorFlow takes functions of the same code, such as closures over
    different parameter sets, for one that is traced again and again, and warns."""
    return functools.partial(function)


def _traced_for_onnx() -> bool:
    """Whether `model.export(..., format="onnx")` is tracing: ONNX has no compiled kernels, but all of their
    operations. Keras does not tell its layers in another way; other formats take the kernels as they are.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "keras.src.export.onnx":
            return True
        frame = frame.f_back
    return False


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function of tensors into one graph of the backend; as it is on PyTorch."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(_without_code(function), autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def with_gradients() -> contextlib.AbstractContextManager:
    """Where gradients are taken, even inside torch.no_grad()."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.enable_grad()


def bincount(codes: Any, bins: int) -> Any:
    """Number of entries 0, ..., bins - 1 in an int32 tensor of shape (n,); inside `compiled` too."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.math.bincount(codes, minlength=bins, maxlength=bins)
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.bincount(codes, length=bins)
    # PyTorch refuses codes below 0, such as those made of NaN, which the others leave out.
    return keras.ops.bincount(keras.ops.where(codes < 0, bins, codes), minlength=bins + 1)[:bins]
