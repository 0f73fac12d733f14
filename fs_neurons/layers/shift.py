"""Integers without their lowest bits: what becomes of a sum that is too large for what is behind it.

y = RightShift(bits=4)(x)     # round(x / 16)

`quantize` puts it behind sums, never behind spikes. It takes a complete sum, and no multiplier: half of 2^bits is
added, and the lowest bits are dropped.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="fs_neurons")
class RightShift(layers.Layer):
    """Divides integers by 2^bits and rounds to the nearest, halves upwards.

    Exact in float32 as long as the integers are below 2^23.

    Args:
        bits: that are dropped, at least 1.
        kwargs: of keras.layers.Layer.

    Raises:
        ValueError: no such number of bits.
    """

    def __init__(self, bits: int, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        if isinstance(bits, bool) or not isinstance(bits, int) or bits < 1:
            raise ValueError(f"RightShift drops at least 1 bit, got {bits!r}")
        self.bits = bits
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        return ops.floor(x * 2.0**-self.bits + 0.5)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits}
