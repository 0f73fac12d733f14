"""Functions, weights and densities in the forms in which `fit` takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fs_neurons.backend import as_numpy, with_float64

Function = str | Callable[[np.ndarray], Any] | tuple[Any, Any]
Density = Callable[[np.ndarray], Any] | tuple[float, float]


def as_function(function: Function) -> Callable[[np.ndarray], Any]:
    """The function of a float64 array that a name, a callable or samples stand for.

    Raises:
        ValueError: no Keras activation has that name, or samples make no sense.
        TypeError: neither a name, nor callable, nor samples.
    """
    if isinstance(function, str):
        return _keras_activation(function)
    if callable(function):
        return function
    try:
        x, y = (np.asarray(part, dtype=float) for part in function)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "function must be the name of a Keras activation, callable, or samples (x, y); got"
            f" {function!r}"
        ) from error
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(
            "samples (x, y) must be two lists of equal length >= 2, with ascending x; got shapes"
            f" {x.shape} and {y.shape}"
        )
    return lambda points: np.interp(points, x, y)


def _keras_activation(name: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        activation = keras.activations.get(name)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is not a Keras activation: give the name of one, such as 'swish', or a function"
        ) from error

    def in_float64(x: np.ndarray) -> np.ndarray:
        with with_float64():
            tensor = keras.ops.convert_to_tensor(x, dtype="float64")
            return np.asarray(keras.ops.convert_to_numpy(activation(tensor)))

    return in_float64


def as_density(distribution: Density | None) -> Callable[[np.ndarray], Any]:
    """The density of gate inputs that `fit` takes: a Gaussian by (mean, variance), or uniform when missing.

    Raises:
        ValueError: neither a density nor (mean, variance) with a variance > 0.
    """
    if distribution is None:
        return np.ones_like
    if callable(distribution):
        return distribution
    try:
        mean, variance = map(float, distribution)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"input_distribution must be (mean, variance) or a density, got {distribution!r}"
        ) from error
    if not (np.isfinite(mean) and np.isfinite(variance) and variance > 0):
        raise ValueError(f"input_distribution needs a variance > 0, got {distribution!r}")
    return lambda x: np.exp(-((x - mean) ** 2) / (2 * variance))


def evaluated(function: Callable[[np.ndarray], Any], x: np.ndarray, what: str) -> np.ndarray:
    """function(x) as float64, checked; `what` is what the argument is called.

    Raises:
        ValueError: not one finite number for each of x.
    """
    y = as_numpy(function(x)).astype(float)
    if y.shape != x.shape:
        raise ValueError(
            f"{what} must return as many numbers as it is given, {x.shape}; it returned {y.shape}"
        )
    if not np.isfinite(y).all():
        raise ValueError(
            f"{what} is not finite at x = {x[~np.isfinite(y)][0]:g}; change the domain"
        )
    return y
