"""Keras' own `model.export` to ONNX, which has no fused kernels.

Keras does not tell a layer what it is traced for, and tf2onnx would write a file with kernels that no runtime can
open. So `keras.Model.export` leaves them out for this format, from when this package's layers are loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from fs_neurons.backend import without_kernels

_export: Callable[..., Any] = keras.Model.export


@functools.wraps(_export)
def _export_without_kernels(
    model: keras.Model, filepath: Any, format: str = "tf_saved_model", *args: Any, **kwargs: Any
) -> Any:
    if format != "onnx":
        return _export(model, filepath, format, *args, **kwargs)
    with without_kernels():
        return _export(model, filepath, format, *args, **kwargs)


def leave_kernels_out_of_onnx() -> None:
    """Installs it; once, however often it is called."""
    keras.Model.export = _export_without_kernels
