"""Sites of FS-neurons in an ONNX graph: one node stands in for each while it is traced, and becomes a few.

tf2onnx moves transpositions through activations that it knows, and leaves those it doesn't know between two of
them. So a site is traced as LeakyReLU with a slope that no network has, its number, and is written out afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fs_neurons.conversion.onnx_graph import OnnxGraph, attributes
from fs_neurons.conversion.onnx_scales import scaled
from fs_neurons.neuron.lookup import Code, Lookup

FIRST_SLOPE = 4096


class StandIns:
    """Traces element-wise functions of FS-neurons as stand-ins, and finds them in a graph."""

    def __init__(self) -> None:
        self.functions: list[Callable[[Any], Any]] = []

    def __call__(self, function: Callable[[Any], Any], u: Any) -> Any:
        """The stand-in, for `backend.without_kernels`."""
        import tensorflow as tf

        self.functions.append(function)
        y = tf.raw_ops.LeakyRelu(features=u, alpha=float(FIRST_SLOPE + len(self.functions) - 1))
        table = function.table if isinstance(function, Lookup) else None
        # Where channels have tables of their own, these move with the axes as any constant does.
        return y if table is None else y + np.float32(table)

    def function_of(self, node: Any) -> Callable[[Any], Any] | None:
        """What a node stands for; None where it is one of the network's own."""
        if node.op_type != "LeakyRelu":
            return None
        slope = attributes(node).get("alpha", 0.01)
        return self.functions[int(slope) - FIRST_SLOPE] if slope >= FIRST_SLOPE else None


def fold_units(graph: OnnxGraph, stand_ins: StandIns) -> None:
    """Puts the step of each FS-ReLU, and the half that it is rounded by, into the weights before.

    A runtime clips inside a convolution only what follows it at once.
    """
    for node in list(graph.nodes):
        if isinstance(stand_ins.function_of(node), Code):
            new: list[Any] = []
            node.input[0] = scaled(graph, node.input[0], np.ones(1), np.zeros(1), new)
            graph.replace({id(node): [*new, node]})
            graph.remove_unused()  # products that are in the weights now


def write_out(graph: OnnxGraph, stand_ins: StandIns) -> None:
    """Puts the operations of each site in the place of its stand-in.

    Raises:
        RuntimeError: a stand-in is inside of a loop, or its tables are lost.
    """
    replacements: dict[int, list[Any]] = {}
    for node in list(graph.nodes):
        for inner in _inside(node):
            if stand_ins.function_of(inner) is not None:
                raise RuntimeError(
                    f"FS-neurons are inside of {node.name}, a {node.op_type} of ONNX"
                )
        function = stand_ins.function_of(node)
        if function is None:
            continue
        if isinstance(function, Code):
            replacements[id(node)] = _code(graph, function, node.input[0], node.output[0])
        elif isinstance(function, Lookup) and function.table is None:
            replacements[id(node)] = _one_set(graph, function, node.input[0], node.output[0])
        elif isinstance(function, Lookup):
            add = graph.only_taker(node.output[0])
            tables = graph.constant_input(add) if add is not None else None
            if add is None or add.op_type != "Add" or tables is None:
                raise RuntimeError(f"the tables of site {node.name} are lost in tf2onnx")
            table = tables[1].astype(np.int64)
            replacements[id(node)] = []
            replacements[id(add)] = _sets(graph, function, table, node.input[0], add.output[0])
    graph.replace(replacements)


def _inside(node: Any) -> Iterator[Any]:
    """Nodes of the graphs that a loop or a branch holds."""
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield inner
            yield from _inside(inner)


def _code(graph: OnnxGraph, code: Code, u: str, y: str) -> list[Any]:
    """Clipped first, which runtimes do in the convolution before; both ends are integers."""
    bounds = (graph.constant(np.float32(end)) for end in (0, code.top))
    clipped = graph.node("Clip", u, *bounds)
    return [clipped, graph.node("Floor", clipped.output[0], output=y)]


def _one_set(graph: OnnxGraph, lookup: Lookup, u: str, y: str) -> list[Any]:
    """Cells below 0 at the end of the tables, where negative indices count from."""
    low, high = int(lookup.lows[0]), int(lookup.highs[0])
    tables = [graph.constant(np.roll(table, low)) for table in (lookup.shifts, lookup.values)]
    bounds = (graph.constant(np.float32(end)) for end in (low + 1, high))
    nodes = [graph.node("Clip", u, *bounds)]
    lowest = graph.constant(np.int32(low))

    def then(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(graph.node(kind, *inputs, **attributes))
        return str(nodes[-1].output[0])

    def at(table: str, u: str) -> str:
        cell = then("Max", then("Cast", u, to=_INT32), lowest)
        return then("GatherElements", table, cell, axis=0)

    clipped = str(nodes[0].output[0])
    flat = then("Reshape", clipped, graph.constant(np.array([-1], np.int64)))
    values = at(tables[1], then("Add", flat, at(tables[0], flat)))
    nodes.append(graph.node("Reshape", values, then("Shape", clipped), output=y))
    return nodes


def _sets(graph: OnnxGraph, lookup: Lookup, table: np.ndarray, u: str, y: str) -> list[Any]:
    nodes: list[Any] = []

    def then(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(graph.node(kind, *inputs, **attributes))
        return str(nodes[-1].output[0])

    low, high, first = (each[table] for each in (lookup.lows, lookup.highs, lookup.first))
    above = then("Max", u, graph.constant(np.float32(low + 1)))
    clipped = then("Min", above, graph.constant(np.float32(high)))
    shape, flat = then("Shape", clipped), graph.constant(np.array([-1], np.int64))

    def at(values: np.ndarray, u: str) -> str:
        cell = then("Max", then("Cast", u, to=_INT32), graph.constant(low))
        place = then("Reshape", then("Add", cell, graph.constant(first)), flat)
        return then("GatherElements", graph.constant(values), place, axis=0)

    shifts = then("Reshape", at(lookup.shifts, clipped), shape)
    values = at(lookup.values, then("Add", clipped, shifts))
    nodes.append(graph.node("Reshape", values, shape, output=y))
    return nodes


_INT32 = 6  # onnx.TensorProto.INT32
