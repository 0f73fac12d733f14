"""Nodes and edges of a NIR graph, and the windows of K steps in which currents flow along them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fs_neurons.conversion.nir_kernels import channels_first
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import Graph

INPUT, OUTPUT = "input", "output"


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
        name = self._free(name)
        self.nodes[name] = node
        return self.connected(name, value)

    def connected(self, name: str, value: Value) -> str:
        at = max(term.window for term in self.terms[value])
        for i, term in enumerate(self.terms[value]):
            self.edges.append((self._delayed(term, at, value, f"{name}.delay{i}"), name))
        return name

    def outside(
        self, call: Call, metadata: dict[str, Any], **factors: tuple[Value, list[Term]]
    ) -> bool:
        """What is not computed in the graph: leaves it by Output nodes and comes back by an Input node.

        Args:
            call: that is computed.
            metadata: of the Input node.
            factors: what leaves, value and terms, by the entry of the metadata that names its node; the carrier
                leaves in the window of the call.
        """
        name = self._free(call.name)
        for what, (value, terms) in factors.items():
            metadata[what] = f"{name}.{what}"
            shape = np.array(channels_first(value.shape))
            self.nodes[metadata[what]] = self.nir.Output(output_type={"output": shape})
            for term in terms:
                window = metadata["window"] if what == "carrier" else term.window
                source = self._delayed(term, window, value, f"{name}.{what}.delay")
                self.edges.append((source, metadata[what]))
        shape = np.array(channels_first(call.outputs.shape))
        self.nodes[name] = self.nir.Input(input_type={"input": shape}, metadata=metadata)
        return self.made(call, name)

    def _free(self, name: str) -> str:
        name = name.replace("/", ".")
        while name in self.nodes:
            name += "_"
        return name

    def _delayed(self, term: Term, window: int, value: Value, name: str) -> str:
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
