"""Integers without their lowest bits: what becomes of a sum that is too large for what is behind it.

y = RightShift(bits=4)(x)         # round(x / 16)
y = RightShift(bits=[4, 0])(x)    # of two channels, the second as it is

`quantize` puts it behind sums, never behind spikes. It takes a complete sum, and no multiplier: half of 2^bits is
added, and the lowest bits are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable(package="fs_neurons")
class RightShift(layers.Layer):
    """Divides integers by 2^bits and rounds to the nearest, halves upwards.

    Exact in float32 as long as the integers are below 2^23.

    Args:
        bits: that are dropped: one number, or one for each channel, of the last axis.
        kwargs: of keras.layers.Layer.

    Raises:
        ValueError: no such numbers of bits.
    """

    def __init__(self, bits: int | Sequence[int], **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        numbers = np.asarray(bits)
        if numbers.dtype.kind not in "iu" or numbers.ndim > 1 or numbers.min(initial=0) < 0:
            raise ValueError(f"RightShift drops a number of bits, or one per channel, got {bits!r}")
        self.bits = numbers
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        unit = ops.convert_to_tensor(np.float32(2) ** -self.bits.astype(np.float32))
        return ops.floor(x * unit + 0.5)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits.tolist()}
