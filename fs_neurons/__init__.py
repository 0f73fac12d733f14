"""Few-spikes neurons: turns trained Keras networks into spiking ones, about two spikes per neuron.

    import fs_neurons as fs

    snn = fs.convert(model)                              # a new keras.Model; weights unchanged
    print(fs.conversion_report(snn))
    mine = fs.fit("gelu", K=12, domain=(-8, 12))

Stöckl and Maass, 2022; see neuron/equations.py for equations (1)-(3).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fs_neurons.registration import register_with_keras

if TYPE_CHECKING:
    from fs_neurons.analysis import compare, profile, summary
    from fs_neurons.calibration import input_statistics
    from fs_neurons.conversion import conversion_report, convert, export, quantize, verify
    from fs_neurons.fitting import fit
    from fs_neurons.layers import (
        FSActivation,
        FSInput,
        FSMaxPooling2D,
        FSReLU,
        FSSigmoid,
        FSSwish,
        record_spikes,
    )
    from fs_neurons.network import ConversionError, find_sites
    from fs_neurons.neuron import (
        ChannelParameters,
        FSParameters,
        register,
        relu_parameters,
        shift_relu,
    )
    from fs_neurons.simulation import simulate
    from fs_neurons.training import finetune

__version__ = "0.1.0"

__all__ = [
    "ChannelParameters",
    "ConversionError",
    "FSActivation",
    "FSInput",
    "FSMaxPooling2D",
    "FSParameters",
    "FSReLU",
    "FSSigmoid",
    "FSSwish",
    "compare",
    "conversion_report",
    "convert",
    "export",
    "find_sites",
    "finetune",
    "fit",
    "input_statistics",
    "profile",
    "quantize",
    "record_spikes",
    "register",
    "relu_parameters",
    "shift_relu",
    "simulate",
    "summary",
    "verify",
]

# Name -> the room that it is in. Imported when first used, so that what needs no network doesn't wait for Keras
# and its backend.
_ROOMS = {
    "ChannelParameters": "neuron",
    "ConversionError": "network",
    "FSActivation": "layers",
    "FSInput": "layers",
    "FSMaxPooling2D": "layers",
    "FSParameters": "neuron",
    "FSReLU": "layers",
    "FSSigmoid": "layers",
    "FSSwish": "layers",
    "compare": "analysis",
    "conversion_report": "conversion",
    "convert": "conversion",
    "export": "conversion",
    "find_sites": "network",
    "finetune": "training",
    "fit": "fitting",
    "input_statistics": "calibration",
    "profile": "analysis",
    "quantize": "conversion",
    "record_spikes": "layers",
    "register": "neuron",
    "relu_parameters": "neuron",
    "shift_relu": "neuron",
    "simulate": "simulation",
    "summary": "analysis",
    "verify": "conversion",
}
_PARTS = {
    *_ROOMS.values(), "backend", "calibration", "cli", "data", "families", "files", "models", "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        value = getattr(importlib.import_module(f"fs_neurons.{_ROOMS[name]}"), name)
    elif name in _PARTS:
        value = importlib.import_module(f"fs_neurons.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_PARTS})


register_with_keras()
