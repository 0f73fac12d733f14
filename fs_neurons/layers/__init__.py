"""Keras layers of FS-neurons, max-pooling of their spikes, recurrent layers, shifts of integers, and the recording of all."""

from fs_neurons.layers.activation import FSActivation, FSReLU, FSSigmoid, FSSwish, fs_layer
from fs_neurons.layers.coding import INPUT, FSInput
from fs_neurons.layers.exporting import leave_kernels_out_of_onnx
from fs_neurons.layers.pooling import FSMaxPooling2D, spiking_pool
from fs_neurons.layers.recording import (
    Measure,
    SiteRecord,
    collect_records,
    record_spikes,
    shapes_only,
    soft_spikes_per_neuron,
)
from fs_neurons.layers.recurrent import GatedCell, RecurrentFS
from fs_neurons.layers.shift import RightShift

__all__ = [
    "INPUT",
    "FSActivation",
    "FSInput",
    "FSMaxPooling2D",
    "FSReLU",
    "FSSigmoid",
    "FSSwish",
    "GatedCell",
    "Measure",
    "RecurrentFS",
    "RightShift",
    "SiteRecord",
    "collect_records",
    "fs_layer",
    "record_spikes",
    "shapes_only",
    "soft_spikes_per_neuron",
    "spiking_pool",
]

leave_kernels_out_of_onnx()
