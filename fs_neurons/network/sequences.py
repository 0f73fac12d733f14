"""What an unrolled recurrent layer takes beside its sequences, as layers of the traced graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from fs_neurons.network.keras_internals import parts_of


class SequenceMask(layers.Layer):
    """Keras' mask of sequences (images, steps, ...): true at the steps that count; everywhere where there is none.

    Args:
        outer_axes: between images and steps, see `recurrent.outer_axes`.

    Raises:
        ValueError: the mask is one of other axes, which Keras hands on where a layer takes axes away.
    """

    def __init__(self, outer_axes: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.axes = 2 + outer_axes

    def call(self, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return ops.ones(ops.shape(x)[: self.axes], dtype="bool")
        if len(mask.shape) != self.axes:
            raise ValueError(
                f"{self.name!r} has the shape {mask.shape} for sequences of the shape {x.shape}: a layer before takes"
                " away the steps that it is for, and hands it on"
            )
        return ops.cast(mask, "bool")

    def compute_output_spec(self, x: Any, mask: Any = None) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape[: self.axes], dtype="bool")

    def compute_mask(self, x: Any, previous_mask: Any) -> None:
        return None


class MaskedSequences(layers.Layer):
    """Values with a mask of Keras for the layers behind: (images, steps, ...) and (images, steps) -> the former."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return ops.stop_gradient(
            inputs[0]
        )  # another tensor, which has no mask yet; nobody trains a graph

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return inputs[1]


class InitialState(layers.Layer):
    """Zeros (images, *shape) for as many images as there are sequences.

    Args:
        shape: of the state for one image.
    """

    def __init__(self, shape: tuple[int, ...], **kwargs: Any):
        super().__init__(**kwargs)
        self.shape = shape

    def call(self, x: Any) -> Any:
        return ops.zeros((ops.shape(x)[0], *self.shape), self.compute_dtype)

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((x.shape[0], *self.shape), dtype=self.compute_dtype)


def makes_masks(model: keras.Model) -> bool:
    """Whether some layer of a model masks steps of sequences."""
    return any(
        isinstance(part, layers.Masking) or getattr(part, "mask_zero", False)
        for part in parts_of(model)
    )
