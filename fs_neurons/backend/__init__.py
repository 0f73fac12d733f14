"""The one place that knows which Keras backend runs: compiled kernels, devices and workers."""

from fs_neurons.backend.kernels import (
    bincount,
    compiled,
    fuse,
    kernels_left_out,
    outlived_its_trace,
    with_gradients,
    without_kernels,
)

__all__ = [
    "bincount",
    "compiled",
    "fuse",
    "kernels_left_out",
    "outlived_its_trace",
    "with_gradients",
    "without_kernels",
]
