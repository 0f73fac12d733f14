"""The one place that knows which Keras backend runs: compiled kernels, devices and workers."""

from fs_neurons.backend.kernels import (
    bincount,
    compiled,
    fuse,
    outlived_its_trace,
    with_gradients,
)

__all__ = ["bincount", "compiled", "fuse", "outlived_its_trace", "with_gradients"]
