"""The one place that knows which Keras backend runs.

`fuse` turns an element-wise function of `keras.ops` into one compiled kernel: XLA on TensorFlow and
JAX, the plain function on PyTorch. `compiled` does so with a whole forward pass, by TensorFlow's own graph.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import functools
import importlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

# Arrays are padded to 2^14 numbers or more: some microseconds against the tenth of a second that compiling takes.
SHORTEST = 2**14
# Of one kernel: paddings and inner sizes.
MOST_TRACED = 256

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


def compiles_kernels() -> bool:
    """Whether `fuse` compiles here, once per concrete shape, so that sizes are better shared."""
    return keras.backend.backend() != "torch" and not kernels_left_out()


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

        jitted: Callable[..., Any] = jax.jit(function)
        return jitted
    return function


def _without_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an object of its own: TensorFlow takes functions of the same code, such as closures over
    different parameter sets, for one that is traced again and again, and warns."""
    return functools.partial(function)


class Padding(enum.Enum):
    """Up to which length an array is padded, so that arrays of several lengths share a kernel.

    NONE: not at all; a kernel is compiled for each length.
    ARRAY: a power of two, SHORTEST at least.
    BATCH: a power of two along the first axis; on TensorFlow, where alone its size may be unknown.
    """

    NONE = enum.auto()
    ARRAY = enum.auto()
    BATCH = enum.auto()


def fuse_element_wise(
    function: Callable[..., Any], shapes: Sequence[Sequence[int | None]], inner_rank: int = 0
) -> Callable[..., Any]:
    """As `fuse`, for what treats all entries of its first argument alike, or all that differ in the outer axes alone.

    Args:
        function: takes a float32 tensor (entries, *inner) and others, returns such a tensor or a tuple of them.
        shapes: of the other arguments.
        inner_rank: number of inner axes.

    Returns:
        A function of a `Padding`, the inner sizes, a tensor of any shape that is (entries, *inner) in the same
        order, and the others. On PyTorch and in `without_kernels` nothing is padded.
    """
    kernel = fuse(function, [(None,) * (1 + inner_rank), *shapes])

    def call(padding: Padding, inner: tuple[int, ...], x: Any, *others: Any) -> Any:
        ops = keras.ops
        if not compiles_kernels():
            padding = Padding.NONE
        entries = ops.reshape(x, (-1, *inner))
        n = room = ops.shape(entries)[0]
        if keras.backend.backend() == "jax" and not isinstance(n, int):
            padding = Padding.NONE  # a symbol, as in a trace of shapes
        if padding is Padding.ARRAY:
            room = power_of_two(n, max(1, SHORTEST // power_of_two(math.prod(inner))))
        elif padding is Padding.BATCH and keras.backend.backend() == "tensorflow":
            images = _shape(x)[0]
            room = n // ops.maximum(images, 1) * power_of_two(images)
        if room is not n:
            entries = ops.pad(entries, [[0, room - n], *[[0, 0]] * inner_rank])
        results = kernel(entries, *others)
        if room is not n:
            results = keras.tree.map_structure(lambda r: r[:n], results)
        return keras.tree.map_structure(lambda r: _reshaped(r, _shape(x)), results)

    if keras.backend.backend() != "tensorflow":
        return call
    import tensorflow as tf

    # Of unknown sizes: traced once, not at each place where it is called.
    signature = [tf.TensorSpec(shape, tf.float32) for shape in (None, *shapes)]

    @functools.lru_cache(maxsize=MOST_TRACED)
    def traced(padding: Padding, inner: tuple[int, ...]) -> Callable[..., Any]:
        function: Callable[..., Any] = tf.function(
            functools.partial(call, padding, inner), input_signature=signature, autograph=False
        )
        return function

    def run(padding: Padding, inner: tuple[int, ...], x: Any, *others: Any) -> Any:
        if kernels_left_out() or x.shape.is_fully_defined():
            return call(padding, inner, x, *others)
        results = traced(padding, inner)(x, *others)
        for result in keras.tree.flatten(results):
            result.set_shape(x.shape)
        return results

    return run


def _shape(x: Any) -> Any:
    """Its shape; on TensorFlow a tensor unless it is known, as there even the rank may be unknown."""
    if keras.backend.backend() != "tensorflow" or x.shape.is_fully_defined():
        return keras.ops.shape(x)
    import tensorflow as tf

    return tf.shape(x)


def _reshaped(x: Any, shape: Any) -> Any:
    if keras.backend.backend() != "tensorflow":
        return keras.ops.reshape(x, shape)
    import tensorflow as tf

    return tf.reshape(x, shape)


def power_of_two(n: Any, least: int = 1) -> Any:
    """The smallest one that is at least n, an integer or a scalar tensor, and `least`."""
    if isinstance(n, int):
        return max(least, 1 << max(n - 1, 0).bit_length())
    powers = least << np.arange(31 - least.bit_length(), dtype=np.int32)
    return gather(powers, keras.ops.sum(keras.ops.cast(n > powers, "int32")))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traces a function of tensors into one graph of the backend; on PyTorch it is returned unchanged."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        traced: Callable[..., Any] = tf.function(_without_code(function), autograph=False)
        return traced
    if backend == "jax":
        import jax

        jitted: Callable[..., Any] = jax.jit(function)
        return jitted
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

    gradients: contextlib.AbstractContextManager[Any] = torch.enable_grad()
    return gradients


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

        # What tf.math.bincount calls, without looking for the largest code first.
        none = tf.zeros((0,), tf.int32)
        return tf.raw_ops.DenseBincount(input=codes, size=bins, weights=none)
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


def as_numpy(x: Any) -> np.ndarray:
    """An array, a tensor on any device or a list of numbers as a numpy array; arrays are not copied."""
    return np.asarray(keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x)


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
