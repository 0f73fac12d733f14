"""A Keras model as data: its graph, its sites, what is known of its layers, and how to rebuild it."""

from fs_neurons.network.errors import ConversionError
from fs_neurons.network.graph import Call, Graph, Value, trace, trace_spiking
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import Site, checked_sites, find_sites

__all__ = [
    "Call",
    "ConversionError",
    "Graph",
    "Rewriter",
    "Site",
    "Value",
    "checked_sites",
    "find_sites",
    "trace",
    "trace_spiking",
]
