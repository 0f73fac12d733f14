"""The one place that knows which Keras backend runs: compiled kernels, devices and workers."""

from fs_neurons.backend.kernels import (
    Padding,
    as_numpy,
    bincount,
    compiled,
    compiles_kernels,
    element_wise,
    fuse,
    fuse_element_wise,
    gather,
    kernels_left_out,
    layer_by_layer,
    outlived_its_trace,
    power_of_two,
    with_float64,
    with_gradients,
    without_kernels,
)
from fs_neurons.backend.loops import in_one_loop, selected_sums
from fs_neurons.backend.numba_cache import native
from fs_neurons.backend.numpy_operations import numpy_operation, runs_numpy

__all__ = [
    "Padding",
    "as_numpy",
    "bincount",
    "compiled",
    "compiles_kernels",
    "element_wise",
    "fuse",
    "fuse_element_wise",
    "gather",
    "in_one_loop",
    "kernels_left_out",
    "layer_by_layer",
    "native",
    "numpy_operation",
    "outlived_its_trace",
    "power_of_two",
    "runs_numpy",
    "selected_sums",
    "with_float64",
    "with_gradients",
    "without_kernels",
]
