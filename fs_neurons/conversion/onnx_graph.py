"""An ONNX model as a graph that can be rewritten: constants, who makes a value, and who takes it."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np


class OnnxGraph:
    """Nodes and constants of a model; `finish` writes both back.

    Attributes:
        nodes: in order of execution.
        constants: float and integer arrays by name.
        outputs: names of the values that the model gives.
    """

    def __init__(self, model: Any):
        from onnx import numpy_helper

        self.model = model
        self.constants: dict[str, np.ndarray] = {
            each.name: numpy_helper.to_array(each) for each in model.graph.initializer
        }
        self.nodes: list[Any] = []
        for node in model.graph.node:
            value = attributes(node).get("value") if node.op_type == "Constant" else None
            if value is not None:
                self.constants[node.output[0]] = numpy_helper.to_array(value)
            else:
                self.nodes.append(node)
        self.outputs = {each.name for each in model.graph.output}
        self._names: dict[Any, str] = {}
        self._count = 0
        self.index()

    def index(self) -> None:
        """Finds makers and takers anew, after nodes were changed."""
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.takers: dict[str, list[Any]] = collections.defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.takers[name].append(node)

    def constant(self, values: Any) -> str:
        """Name of a constant, the same for equal ones."""
        values = np.asarray(values)
        key = values.dtype.str, values.shape, values.tobytes()
        if key not in self._names:
            self._names[key] = self.new_name("constant")
            self.constants[self._names[key]] = values
        return self._names[key]

    def new_name(self, what: str) -> str:
        self._count += 1
        return f"fs_{what}_{self._count}"

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> Any:
        """A node of one output that is not in the graph yet."""
        from onnx import helper

        output = output or self.new_name(kind)
        return helper.make_node(kind, list(inputs), [output], name=f"{output}_node", **attributes)

    def only_taker(self, name: str) -> Any | None:
        """The node that takes a value, where nothing else does."""
        takers = self.takers[name]
        return takers[0] if len(takers) == 1 and name not in self.outputs else None

    def constant_input(self, node: Any) -> tuple[str, np.ndarray] | None:
        """Of a node of two inputs: the one that varies, by name, and the constant; None for other nodes."""
        if len(node.input) != 2:
            return None
        for varies, constant in (tuple(node.input), tuple(node.input)[::-1]):
            if constant in self.constants and varies not in self.constants:
                return varies, self.constants[constant]
        return None

    def replace(self, replacements: dict[int, list[Any]]) -> None:
        """Puts nodes in the places of others, by the ids of these."""
        self.nodes = [new for node in self.nodes for new in replacements.get(id(node), [node])]
        self.index()

    def remove_unused(self) -> None:
        """Leaves out nodes that nothing takes."""
        used, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                kept.append(node)
                used.update(node.input)
        self.nodes = kept[::-1]
        self.index()

    def finish(self) -> Any:
        """The model, with the constants that are used."""
        from onnx import numpy_helper

        used = {name for node in self.nodes for name in node.input} | self.outputs
        graph = self.model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(
            numpy_helper.from_array(values, name)
            for name, values in self.constants.items()
            if name in used
        )
        return self.model


def attributes(node: Any) -> dict[str, Any]:
    """Attributes of a node by name."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
