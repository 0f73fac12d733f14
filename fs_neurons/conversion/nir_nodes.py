"""Nodes and edges of a NIR graph, and the windows of K steps in which currents flow along them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fs_neurons.conversion.nir_kernels import channels_first
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import Graph


class Term(NamedTuple):
    """A node whose output is part of a value, and the window in which it flows."""

    node: str
    window: int


class Nodes:
    """The nodes and edges made so far.

    Args:
        network: that becomes a NIR graph.
        structure: of its inputs.
        nir: the package.
    """

    def __init__(self, network: Graph, structure: Any, nir: Any):
        self.network = network
        self.structure = structure
        self.nir = nir
        self.coding = Coding(network)
        self.K = max(call.op.parameters.K for call in network.sites)
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.terms: dict[Value, list[Term]] = {}
        self.pads: dict[Value, list[tuple[int, int]]] = {}
        # Of a flattened value whose entries NIR has in another order: theirs.
        self.order: dict[Value, np.ndarray] = {}

    def add(self, name: str, node: Any, value: Value) -> str:
        """A node that takes a value: all its terms, the early ones through delays."""
        name = name.replace("/", ".")
        self.nodes[name] = node
        at = max(term.window for term in self.terms[value])
        self.edges += [
            (self.delayed(term, at, value, f"{name}.delay{i}"), name)
            for i, term in enumerate(self.terms[value])
        ]
        return name

    def add_holding(self, name: str, node: Any, value: Value, by_edges: bool = True) -> str:
        """A node that holds a value: its terms arrive when they do."""
        name = name.replace("/", ".")
        self.nodes[name] = node
        if by_edges:
            self.edges += [(term.node, name) for term in self.terms[value]]
        return name

    def delayed(self, term: Term, window: int, value: Value, name: str) -> str:
        """The node that hands on a term of a value in this window, one that delays it where it is early."""
        if term.window == window:
            return term.node
        wait = np.full(self._shape(value), float((window - term.window) * self.K), np.float32)
        self.nodes[name] = self.nir.Delay(delay=wait)
        self.edges.append((term.node, name))
        return name

    def _shape(self, value: Value) -> tuple[int, ...]:
        pads = self.pads.get(value, [(0, 0), (0, 0)])
        shape = value.shape
        if len(shape) == 3:
            shape = (shape[0] - sum(pads[0]), shape[1] - sum(pads[1]), shape[2])
        return channels_first(shape)

    def made(self, call: Call, name: str) -> bool:
        self.terms[call.outputs] = [Term(name, int(self.coding.windows[call.outputs.index]))]
        return True

    def behind(self, name: str, node: Any, call: Call) -> str:
        added = self.add(name, node, call.outputs)
        self.made(call, added)
        return added
