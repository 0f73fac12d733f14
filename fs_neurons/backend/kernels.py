"""The one place that knows which Keras backend runs.

`fuse` turns an element-wise function of `keras.ops` into one compiled kernel: XLA on TensorFlow and
JAX, the plain function on PyTorch. `compiled` does so with a whole forward pass, by TensorFlow's own graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

# Of an element-wise function and its input: what stands in for the function in a trace.
StandIn = Callable[[Callable[[Any], Any], Any], Any]

_kernels_left_out: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "fs_neurons_kernels_left_out", default=False
)
_stand_in: contextvars.ContextVar[StandIn | None] = contextvars.ContextVar(
    "fs_neurons_stand_in", default=None
)


@contextlib.contextmanager
def without_kernels(stand_in: StandIn | None = None) -> Iterator[None]:
    """In it nothing is fused: what is traced consists of plain operations that any format has.

    Args:
        stand_in: what `element_wise` traces in place of a function; the function itself where missing.
    """
    tokens = _kernels_left_out.set(True), _stand_in.set(stand_in)
    try:
        yield
    finally:
        _kernels_left_out.reset(tokens[0])
        _stand_in.reset(tokens[1])


def element_wise(function: Callable[[Any], Any], x: Any) -> Any:
    """function(x), or what stands in for it inside `without_kernels`."""
    stand_in = _stand_in.get()
    return function(x) if stand_in is None else stand_in(function, x)


def kernels_left_out() -> bool:
    """Whether this is inside `without_kernels`."""
    return _kernels_left_out.get()


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
        # Concrete, so that it stays one kernel inside `layer_by_layer`.
        kernel = functools.cache(fused.get_concrete_function)
        return lambda *args: function(*args) if kernels_left_out() else kernel()(*args)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def _without_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an object of its own: TensorFlow takes functions of the same code, such as closures over
    different parameter sets, for one that is traced again and again, and warns."""
    return functools.partial(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function of tensors into one graph of the backend; on PyTorch it is returned unchanged."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced: Callable[..., Any] = tf.function(_without_code(function), autograph=False)
        return traced
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


@contextlib.contextmanager
def layer_by_layer() -> Iterator[None]:
    """In it, compiled functions run layer by layer, even those that were compiled before, such as the one
    behind `model.predict`. It does nothing where it is entered while a function is traced."""
    with contextlib.ExitStack() as stack:
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            if tf.executing_eagerly():
                stack.enter_context(_eagerness.block())
        elif backend == "jax":
            import jax

            if not isinstance(jax.numpy.add(0, 0), jax.core.Tracer):
                stack.enter_context(jax.disable_jit())
        yield


class _Eagerness:
    """TensorFlow's switch is one for all threads: it goes back with the last block that needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = False

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        import tensorflow as tf

        with self._lock:
            if not self._blocks:
                self._before = tf.config.functions_run_eagerly()
            self._blocks += change
            tf.config.run_functions_eagerly(self._before or self._blocks > 0)


_eagerness = _Eagerness()


def with_gradients() -> contextlib.AbstractContextManager[Any]:
    """Where gradients are taken, even inside torch.no_grad()."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.enable_grad()


def with_float64() -> contextlib.AbstractContextManager[Any]:
    """Where tensors may be float64: JAX makes float32 of them elsewhere."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    # Until 2025 it was in jax.experimental.
    name = "jax" if hasattr(importlib.import_module("jax"), "enable_x64") else "jax.experimental"
    context: contextlib.AbstractContextManager[Any] = importlib.import_module(name).enable_x64(True)
    return context


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


def gather(table: Any, indices: Any) -> Any:
    """Rows of a table (n, ...) at int32 indices 0, ..., n - 1, in one operation where the backend has one."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(table, indices)  # keras.ops.take adds ten for indices below 0
    return keras.ops.take(keras.ops.convert_to_tensor(table), indices, axis=0)


def outlived_its_trace(x: Any) -> bool:
    """Whether x is a symbolic tensor of a function whose tracing has ended, so that it will never have a value."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.is_symbolic_tensor(x):
            return False
        graph = tf.compat.v1.get_default_graph()
        while graph is not None and graph is not x.graph:
            graph = getattr(graph, "outer_graph", None)
        return graph is None
    if backend == "jax":
        import jax

        if not isinstance(x, jax.core.Tracer):
            return False
        try:
            x + 0
        except jax.errors.UnexpectedTracerError:
            return True
    return False
