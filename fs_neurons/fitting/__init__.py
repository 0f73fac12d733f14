"""Finds T, h and d of an FS-neuron for a given function, and measures how well a set fits it."""

from fs_neurons.fitting.fitter import EFFORT, fit
from fs_neurons.fitting.functions import as_function
from fs_neurons.fitting.measuring import GRID_POINTS, describe_out_of_range, measure, respond

__all__ = [
    "EFFORT",
    "GRID_POINTS",
    "as_function",
    "describe_out_of_range",
    "fit",
    "measure",
    "respond",
]
