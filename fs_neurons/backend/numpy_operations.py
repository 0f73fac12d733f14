"""Functions of numpy arrays as operations of PyTorch on a CPU, which shares the memory of its tensors with numpy.

Registered, so that `torch.compile` and `torch.export` take them as they take operations of PyTorch itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# Of arrays, all float32, and how many threads may be used.
Function = Callable[..., tuple[np.ndarray, np.ndarray]]


def runs_numpy(x: Any) -> bool:
    """Whether `numpy_operation` takes this tensor."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    # Since PyTorch 2.4.
    return hasattr(torch.library, "custom_op") and x.device.type == "cpu"


@functools.cache
def numpy_operation(function: Function) -> Callable[..., tuple[Any, Any]]:
    """A function of float32 arrays that gives two arrays of the shape of the first, as one of tensors.

    It does not carry gradients.

    Args:
        function: takes the arrays, and `threads`.
    """
    import torch

    def run(tensors: list[Any]) -> tuple[Any, Any]:
        arrays = [tensor.detach().numpy() for tensor in tensors]
        y, count = function(*arrays, threads=torch.get_num_threads())
        return torch.from_numpy(y), torch.from_numpy(count)

    operation = torch.library.custom_op(
        f"fs_neurons::{function.__name__}", run, mutates_args=(), device_types="cpu",
        schema="(Tensor[] tensors) -> (Tensor, Tensor)",
    )  # fmt: skip
    operation.register_fake(
        lambda tensors: (torch.empty_like(tensors[0]), torch.empty_like(tensors[0]))
    )
    return lambda *tensors: operation(list(tensors))
