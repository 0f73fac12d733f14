"""Which function an activation is, whatever it is called.

    activation_of(keras.layers.ReLU(max_value=6))      # Activation("relu(max_value=6)", max_value=6.0)
    activation_of(functools.partial(keras.ops.elu, alpha=0.5))           # Activation("elu(alpha=0.5)")

Keras' functions, layers and operations are recognised by identity; a function of someone else that has the name of
one of Keras' is taken for it only if both have the same values. Every option that isn't the default of the
function in keras.activations is part of the name.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.layers import FSActivation
from fs_neurons.network.keras_internals import is_of_keras, keeps_call
from fs_neurons.network.kinds import ACTIVATIONS, STAY
from fs_neurons.neuron.sets import canonical_name

# Keras' classes whose name is not that of their function in camel case.
_CLASSES = {"re_lu": "relu", "leaky_re_lu": "leaky_relu", "p_re_lu": "prelu"}
_NOT_ELEMENT_WISE = {
    "glu": "it halves the channels, so it isn't an element-wise function",
    "sparsemax": "it normalises over the channels, so it isn't an element-wise function",
}
# Inputs on which functions of one name are compared; several per row, for those that normalise.
_GRID = np.concatenate(
    [np.linspace(-12, 12, 2401), [-1e3, -100.0, -30.0, 30.0, 100.0, 1e3, 1e-3]]
).astype(np.float32).reshape(-1, 4)  # fmt: skip
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        name: canonical, with its options, such as "silu" or "relu(max_value=6)".
        function: the callable that computes it.
        max_value: where a ReLU saturates; None for everything else.
        convertible: whether a layer of FS-neurons can take its place.
        reason: why not; or why it is not the function that its name says.
    """

    name: str
    function: Callable[[Any], Any]
    max_value: float | None = None
    convertible: bool = True
    reason: str = ""

    @property
    def stays(self) -> bool:
        """Whether there is nothing to replace: linear, or a normalisation over classes."""
        return self.name in STAY


def base_name(activation: str) -> str:
    """The name without options."""
    return activation.split("(")[0]


def activation_of(target: Any) -> Activation | None:
    """What a function, layer or operation computes; None for FS-neurons and for what is no activation."""
    if isinstance(target, FSActivation):
        return None
    if isinstance(target, layers.Activation) and keeps_call(target):
        return activation_of(target.activation)
    if isinstance(target, keras.Operation):
        return _of_operation(target)
    return _of_function(target)


def shared_slopes(prelu: layers.PReLU) -> np.ndarray | None:
    """The slopes of a PReLU along its last axis, (channels,) or (1,); None if they differ along others."""
    if not prelu.built:
        return None
    slopes = ops.convert_to_numpy(prelu.alpha)
    rows = slopes.reshape(-1, slopes.shape[-1])
    return rows[0] if (rows == rows[0]).all() else None


def relu_of_maximum(arguments: list[Any]) -> bool:
    """Whether the arguments of keras.ops.maximum are one tensor and zero, so that it is a ReLU."""
    tensors = [x for x in arguments if isinstance(x, keras.KerasTensor)]
    others = [x for x in arguments if not isinstance(x, keras.KerasTensor)]
    if len(tensors) != 1 or len(others) != 1 or np.ndim(others[0]) != 0:
        return False
    return bool(float(others[0]) == 0)


def is_element_wise(function: Callable[[Any], Any]) -> bool:
    """Whether a function works on each entry by itself, as far as some values tell."""
    rows = _GRID[: len(_GRID) // 4 * 4]
    try:
        results = [
            ops.convert_to_numpy(function(ops.convert_to_tensor(np.ascontiguousarray(x))))
            for x in (rows, rows.reshape(4, -1))
        ]
    except Exception:  # whatever someone else's function raises
        return False
    if results[0].shape != rows.shape or results[1].shape != (4, rows.size // 4):
        return False
    return bool(np.array_equal(results[0], results[1].reshape(rows.shape), equal_nan=True))


def difference_between(function: Callable[[Any], Any], other: Callable[[Any], Any]) -> str:
    """Empty if two functions agree in float32; else what tells them apart."""
    try:
        expected = ops.convert_to_numpy(other(ops.convert_to_tensor(_GRID)))
        actual = ops.convert_to_numpy(function(ops.convert_to_tensor(_GRID)))
    except Exception as error:  # whatever someone else's function raises
        return f"it can't be evaluated on its own ({type(error).__name__})"
    if actual.shape != expected.shape:
        return f"its output for shape {_GRID.shape} has shape {actual.shape}"
    difference = np.abs(actual.astype(np.float64) - expected) / (1 + np.abs(expected))
    difference = np.where(np.isnan(difference) & (actual != expected), np.inf, difference)
    worst = np.unravel_index(np.nanargmax(difference), difference.shape)
    if not difference[worst] > _TOLERANCE:
        return ""
    return f"at x = {_GRID[worst]:g} it is {actual[worst]:.4g}, Keras' is {expected[worst]:.4g}"


# --- by what it is ------------------------------------------------------------------------------


def _of_operation(op: keras.Operation) -> Activation | None:
    """A layer or operation."""
    name = _snake_case(type(op).__name__)
    name = _CLASSES.get(name, name)
    is_layer = isinstance(op, layers.Layer)
    own = not keeps_call(op) if is_layer else not is_of_keras(type(op))
    # An operation's call() computes; a layer is called as a whole.
    function = op if is_layer else op.call
    if own:
        if not is_layer and canonical_name(name) not in keras_activations():
            return None  # an operation of any kind
        if is_layer and op.weights:
            reason = f"a {type(op).__name__} layer with weights of its own"
            return Activation(_qualified(type(op)), function, convertible=False, reason=reason)
        return _of_someone_else(type(op), name, function)
    if isinstance(op, layers.PReLU):
        reason = (
            "its slopes are trained weights that differ within a channel, or channels are not last"
        )
        if shared_slopes(op) is not None:
            reason = "its slopes differ between channels: it becomes two ReLUs, of x and of -x"
        return Activation("prelu", function, convertible=False, reason=reason)
    name = canonical_name(name)
    if name not in keras_activations():
        # An ordinary operation or layer (add, reshape, matmul, ...) is no activation.
        return Activation(name, function) if isinstance(op, ACTIVATIONS) else None
    return _named(name, vars(op), function)


def _of_function(target: Any) -> Activation:
    function = target
    given: dict[str, Any] = {}
    while isinstance(function, functools.partial) and not function.args:
        given = {**function.keywords, **given}
        function = function.func
    known = _keras_functions().get(id(function))
    if known is not None:
        defaults = {key: p.default for key, p in _options_of(function).items()}
        return _named(known, {**defaults, **given}, target)
    named = function if hasattr(function, "__name__") else type(function)
    activation = _of_someone_else(named, named.__name__, target)
    name = activation.name
    if given and name not in keras_activations():
        name = _with_options(name, given)
    return dataclasses.replace(activation, name=name)


def _of_someone_else(owner: Any, name: str, function: Callable[[Any], Any]) -> Activation:
    """A function that isn't Keras', under its own name.

    If that is one of Keras' too, and the values are the same, it is taken for that; if they are not, the
    module is added to its name.

    Args:
        owner: the function or class that has a `__name__` and a module.
        name: the same in Keras' style.
        function: what computes it.
    """
    known = canonical_name(name)
    reference = keras_activations().get(known)
    if reference is None:
        return Activation(owner.__name__, function)
    difference = difference_between(function, reference)
    if not difference:
        return _named(known, {}, function)
    reason = f"it is not Keras' {known}: {difference}"
    return Activation(_qualified(owner), function, reason=reason)


def _qualified(owner: Any) -> str:
    return f"{owner.__module__}.{owner.__name__}"


def _named(name: str, given: dict[str, Any], function: Callable[[Any], Any]) -> Activation:
    """Keras' function of that name with some of its options."""
    options = {
        key: given.get(key, parameter.default)
        for key, parameter in _options_of(keras_activations()[name]).items()
        if given.get(key, parameter.default) != parameter.default
    }
    if name in STAY:
        return Activation(name, function)
    if name == "relu6":
        name, options = "relu", {"max_value": 6.0}
    if options.get("max_value") == math.inf:
        del options["max_value"]
    if name == "relu" and set(options) == {"negative_slope"}:
        name = "leaky_relu"
        default = _options_of(keras.activations.leaky_relu)["negative_slope"].default
        options = {key: slope for key, slope in options.items() if slope != default}
    elif name == "leaky_relu" and options.get("negative_slope") == 0:
        name, options = "relu", {}
    max_value = None
    reason = _NOT_ELEMENT_WISE.get(name, "")
    if name == "relu" and set(options) == {"max_value"}:
        max_value = float(options["max_value"])
        if not max_value > 0:
            reason = "its output is always zero"
    return Activation(_with_options(name, options), function, max_value, not reason, reason)


def _with_options(name: str, options: dict[str, Any]) -> str:
    if not options:
        return name
    listed = ", ".join(f"{key}={_text(value)}" for key, value in sorted(options.items()))
    return f"{name}({listed})"


def _text(value: Any) -> str:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return f"{float(value):g}"
    return str(value)


# --- Keras' own ---------------------------------------------------------------------------------


@functools.cache
def keras_activations() -> dict[str, Callable[[Any], Any]]:
    """Keras' activation functions by their canonical name."""
    found = vars(keras.activations).values()
    return {f.__name__: f for f in found if inspect.isfunction(f) and _takes_a_tensor(f)}


@functools.cache
def _keras_functions() -> dict[int, str]:
    """Names of Keras' activation functions, and of the operations that compute them, by their id."""
    everything = [*vars(keras.activations).values(), *vars(ops).values(), *vars(ops.nn).values()]
    return {
        id(f): f.__name__
        for f in everything
        if inspect.isfunction(f) and f.__name__ in keras_activations()
    }


def _takes_a_tensor(function: Callable[..., Any]) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "x"


def _options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(function).parameters)
    del parameters["x"]
    return parameters


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
