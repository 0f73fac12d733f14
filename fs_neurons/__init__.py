"""Few-spikes neurons: turns trained Keras networks into spiking ones, about two spikes per neuron.

    import fs_neurons as fs

    snn = fs.convert(model)                              # a new keras.Model; weights unchanged
    print(fs.conversion_report(snn))
    mine = fs.fit("gelu", K=12, domain=(-8, 12))

Stöckl and Maass, 2022; see neuron/equations.py for equations (1)-(3).
"""

import importlib
from typing import TYPE_CHECKING, Any

from fs_neurons.conversion import conversion_report, convert, verify
from fs_neurons.layers import (
    FSActivation,
    FSMaxPooling2D,
    FSReLU,
    FSSigmoid,
    FSSwish,
    record_spikes,
)
from fs_neurons.network import ConversionError, find_sites
from fs_neurons.neuron import ChannelParameters, FSParameters, register, relu_parameters, shift_relu

if TYPE_CHECKING:
    from fs_neurons.analysis import compare, profile
    from fs_neurons.fitting import fit
    from fs_neurons.simulation import simulate

__version__ = "0.1.0"

__all__ = [
    "ChannelParameters",
    "ConversionError",
    "FSActivation",
    "FSMaxPooling2D",
    "FSParameters",
    "FSReLU",
    "FSSigmoid",
    "FSSwish",
    "compare",
    "conversion_report",
    "convert",
    "find_sites",
    "fit",
    "profile",
    "record_spikes",
    "register",
    "relu_parameters",
    "shift_relu",
    "simulate",
    "verify",
]

# Imported when first used: fitting needs numba, and none of these is needed to run a network.
_LAZY = {
    "compare": "analysis",
    "fit": "fitting",
    "profile": "analysis",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"fs_neurons.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
