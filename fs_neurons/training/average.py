"""The exponential moving average of a network's weights, on every backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.backend import compiled


class MovingAverage:
    """Starts with the weights of the first `update`, and moves towards those of each later one.

    Keras' optimizers keep one too, from the first step on and without what is not trained, such as the
    statistics of batch normalization.

    Args:
        share: of the way that one update moves, in (0, 1].
    """

    def __init__(self, share: float):
        self._share = ops.convert_to_tensor(share, "float32")
        self._values: list[Any] = []
        self._moved = compiled(_moved)

    def update(self, model: keras.Model) -> None:
        """Takes in the weights of `model`."""
        weights = [weight.value for weight in model.weights]
        if self._values:
            self._values = self._moved(self._values, weights, self._share)
        else:
            self._values = [ops.copy(ops.stop_gradient(weight)) for weight in weights]

    def write_to(self, model: keras.Model) -> None:
        """Gives `model` the averaged weights."""
        model.set_weights([ops.convert_to_numpy(value) for value in self._values])

    def state(self) -> dict[str, np.ndarray]:
        """All that the next update depends on, by name."""
        return {f"average_{i}": ops.convert_to_numpy(v) for i, v in enumerate(self._values)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes back what `state` gave."""
        names = [f"average_{i}" for i in range(len(state))]
        self._values = [ops.convert_to_tensor(state[name]) for name in names if name in state]


def _moved(values: list[Any], weights: list[Any], share: Any) -> list[Any]:
    return [
        value + ops.cast(share, value.dtype) * (ops.stop_gradient(weight) - value)
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))
        else ops.stop_gradient(weight)  # a counter
        for value, weight in zip(values, weights, strict=True)
    ]
