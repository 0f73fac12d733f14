"""Few-spikes neurons: turns trained Keras networks into spiking ones, about two spikes per neuron.

    import fs_neurons as fs

    snn = fs.convert(model)                              # a new keras.Model; weights unchanged
    print(fs.conversion_report(snn))
    mine = fs.fit("gelu", K=12, domain=(-8, 12))

Stöckl and Maass, 2022; see neuron.py for the equations.
"""

import importlib
from typing import Any

from fs_neurons.conversion import ConversionError, conversion_report, convert, find_sites, verify
from fs_neurons.layers import FSActivation, FSReLU, FSSigmoid, FSSwish, record_spikes
from fs_neurons.neuron import FSParameters, relu_parameters, shift_relu
from fs_neurons.parameters import register
from fs_neurons.pooling import FSMaxPooling2D

__version__ = "0.1.0"

__all__ = [
    "ConversionError",
    "FSActivation",
    "FSMaxPooling2D",
    "FSParameters",
    "FSReLU",
    "FSSigmoid",
    "FSSwish",
    "conversion_report",
    "convert",
    "find_sites",
    "fit",
    "profile",
    "record_spikes",
    "register",
    "relu_parameters",
    "shift_relu",
    "verify",
]


_LAZY = {"fit": "fitting", "profile": "profiling"}


def __getattr__(name: str) -> Any:
    # Imported when first used: fitting needs numba, and none of these are needed to run a network.
    if name in _LAZY:
        return getattr(importlib.import_module(f"fs_neurons.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
