"""Inputs of a network as spikes: FS-neurons that fire the binary code of a pixel, or of any other number.

    x = keras.Input((32, 32, 3))
    x = FSInput(K=8, alpha=256)(x)     # an 8-bit pixel, exactly

`convert(model, input_bits=8, input_range=(0, 256))` puts it behind the inputs of a model.
"""

from __future__ import annotations

import keras

from fs_neurons.layers.activation import FSReLU

# What neurons that code an input stand for, in place of an activation.
INPUT = "input"


@keras.saving.register_keras_serializable(package="fs_neurons")
class FSInput(FSReLU):
    """FS-neurons that code an input in binary, the most significant bit first: T = h = d = alpha 2^-t.

    Multiples of alpha 2^-K in [0, alpha) are coded without error, other numbers as the nearest of them.

    Args:
        K: number of time steps, the bits of the code.
        alpha: upper end of the range, which begins at 0.
        rounding: "nearest" or "down".

    Raises:
        ValueError: as `relu_parameters`.
    """

    def __init__(
        self,
        K: int = 8,
        alpha: float = 256.0,
        rounding: str = "nearest",
        activation: str = INPUT,
        **kwargs: object,
    ):
        super().__init__(K, alpha, rounding, activation, **kwargs)
