"""The FS-neuron: parameters, equations, compiled kernels, and the sets that ship.

`equations` has (1)-(3) of the paper; everything else in the package is built on it.
"""

from fs_neurons.neuron.equations import Form, response_and_count, spike_train
from fs_neurons.neuron.fused import equal_parts, in_parts, run_fused
from fs_neurons.neuron.kernels import (
    response,
    response_and_soft_spikes,
    response_and_spikes,
    spike_count,
    surrogate_derivative,
)
from fs_neurons.neuron.parameters import (
    ChannelParameters,
    FSParameters,
    NeuronParameters,
    Rows,
    relu_parameters,
    shift_relu,
)
from fs_neurons.neuron.sets import register

__all__ = [
    "ChannelParameters",
    "FSParameters",
    "Form",
    "NeuronParameters",
    "Rows",
    "equal_parts",
    "in_parts",
    "register",
    "relu_parameters",
    "response",
    "response_and_count",
    "response_and_soft_spikes",
    "response_and_spikes",
    "run_fused",
    "shift_relu",
    "spike_count",
    "spike_train",
    "surrogate_derivative",
]
