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
from fs_neurons.neuron.lookup import Code, Lookup, Lookups

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
        table = function.table if isinstance(function, Lookups) else None
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
    found = [each for each in stand_ins.functions if isinstance(each, Lookups)]
    # One pair of tables for all sites.
    sets = tuple(dict.fromkeys(each for lookups in found for each in lookups.sets))
    number = {each: i for i, each in enumerate(sets)}
    for node in list(graph.nodes):
        for inner in _inside(node):
            if stand_ins.function_of(inner) is not None:
                raise RuntimeError(
                    f"FS-neurons are inside of {node.name}, a {node.op_type} of ONNX"
                )
        function = stand_ins.function_of(node)
        if function is None:
            continue
        u, y = node.input[0], node.output[0]
        if isinstance(function, Code):
            replacements[id(node)] = _code(graph, function, u, y)
        elif isinstance(function, Lookup):
            replacements[id(node)] = _one_set(graph, function, u, y)
        elif isinstance(function, Lookups):
            add = graph.only_taker(y)
            tables = graph.constant_input(add) if add is not None else None
            if add is None or add.op_type != "Add" or tables is None:
                raise RuntimeError(f"the tables of site {node.name} are lost in tf2onnx")
            numbers = np.array([number[each] for each in function.sets])
            lookups = Lookups(sets, numbers[tables[1].astype(np.int64)])
            replacements[id(node)] = []
            replacements[id(add)] = _sets(graph, lookups, u, add.output[0])
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
    """Clipped first, as above. Cells below 0 are at the end of the tables, where negative indices count from."""
    nodes = _Nodes(graph)
    shifts, values = (np.roll(table, lookup.low) for table in (lookup.shifts, lookup.values))
    clipped = nodes("Clip", u, np.float32(lookup.low + 1), np.float32(lookup.high))
    flat = nodes("Reshape", clipped, _FLAT)
    shift = nodes("GatherElements", shifts, nodes("Cast", flat, to=_INT32), axis=0)
    cell = nodes("Cast", nodes("Add", flat, shift), to=_INT32)
    value = nodes("GatherElements", values, cell, axis=0)
    nodes("Reshape", value, nodes("Shape", clipped), output=y)
    return nodes.made


def _sets(graph: OnnxGraph, lookups: Lookups, u: str, y: str) -> list[Any]:
    nodes = _Nodes(graph)
    low, high, zero = lookups.cells()
    clipped = nodes("Min", nodes("Max", u, np.float32(low + 1)), np.float32(high))
    shape = nodes("Shape", clipped)

    def at(table: np.ndarray, u: str) -> str:
        place = nodes("Add", nodes("Cast", u, to=_INT32), zero)
        return nodes("GatherElements", table, nodes("Reshape", place, _FLAT), axis=0)

    shift = nodes("Reshape", at(lookups.shifts, clipped), shape)
    nodes("Reshape", at(lookups.values, nodes("Add", clipped, shift)), shape, output=y)
    return nodes.made


class _Nodes:
    """Makes nodes one behind the other, of names of values and of constants."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.made: list[Any] = []

    def __call__(self, kind: str, *inputs: str | np.ndarray | np.generic, **options: Any) -> str:
        names = (each if isinstance(each, str) else self.graph.constant(each) for each in inputs)
        self.made.append(self.graph.node(kind, *names, **options))
        return str(self.made[-1].output[0])


_FLAT = np.array([-1], np.int64)
_INT32 = 6  # onnx.TensorProto.INT32
