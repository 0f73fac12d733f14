"""Few-spikes neurons: turns trained Keras networks into spiking ones, about two spikes per neuron.

import fs_neurons as fs

snn = fs.convert(model)              # a new keras.Model; weights unchanged
print(fs.conversion_report(snn))
"""

from fs_neurons.conversion import ConversionError, conversion_report, convert, verify
from fs_neurons.layers import FSActivation, FSReLU, FSSigmoid, FSSwish, record_spikes
from fs_neurons.neuron import FSParameters, relu_parameters, shift_relu
from fs_neurons.parameters import register

__version__ = "0.1.0"

__all__ = [
    "ConversionError",
    "FSActivation",
    "FSParameters",
    "FSReLU",
    "FSSigmoid",
    "FSSwish",
    "conversion_report",
    "convert",
    "record_spikes",
    "register",
    "relu_parameters",
    "shift_relu",
    "verify",
]
