"""What neurons are multiplied by goes into the weights of the convolutions behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fs_neurons.conversion.onnx_graph import OnnxGraph, attributes

RANK = 4
# Operations of one input that a positive factor of each channel passes through.
_PASSED = frozenset({"Identity", "MaxPool"})


def fold_scales(graph: OnnxGraph) -> None:
    """Leaves out products with a constant for each channel, or one for all, all of whose takers are convolutions."""
    gone: dict[int, list[Any]] = {}
    for node in graph.nodes:
        found = graph.constant_input(node) if node.op_type == "Mul" else None
        if found is None or node.output[0] in graph.outputs:
            continue
        name, factor = found
        if factor.ndim > RANK or (factor <= 0).any():
            continue
        factor = factor.reshape((1,) * (RANK - factor.ndim) + factor.shape)
        targets = _convolutions(graph, node.output[0], factor)
        if not targets:
            continue
        for target, of_channel in targets:
            weights = graph.constants[target.input[1]]
            target.input[1] = graph.constant(_scaled(weights, of_channel, target))
        for taker in graph.takers[node.output[0]]:
            for i, each in enumerate(taker.input):
                if each == node.output[0]:
                    taker.input[i] = name
        gone[id(node)] = []
        graph.takers[name] += graph.takers[node.output[0]]
    graph.replace(gone)


def _convolutions(
    graph: OnnxGraph, name: str, factor: np.ndarray
) -> list[tuple[Any, np.ndarray]] | None:
    """All convolutions that take a value, and its factor as they see it; None where something else does."""
    found: list[tuple[Any, np.ndarray]] = []
    if name in graph.outputs:
        return None
    for taker in graph.takers[name]:
        if taker.op_type == "Conv":
            weights = graph.constants.get(taker.input[1])
            if weights is None or weights.ndim != RANK or factor.size != factor.shape[1]:
                return None
            found.append((taker, factor.ravel()))
            continue
        here = factor
        if taker.op_type == "Transpose" and len(attributes(taker).get("perm", ())) == RANK:
            here = np.transpose(factor, attributes(taker)["perm"])
        elif not (taker.op_type in _PASSED or pads_with_zeros(graph, taker)):
            return None
        behind = _convolutions(graph, taker.output[0], here)
        if not behind:
            return None
        found += behind
    return found


def pads_with_zeros(graph: OnnxGraph, node: Any) -> bool:
    if node.op_type != "Pad" or attributes(node).get("mode", b"constant") != b"constant":
        return False
    return len(node.input) < 3 or not graph.constants.get(node.input[2], np.ones(1)).any()


def _scaled(weights: np.ndarray, factor: np.ndarray, conv: Any) -> np.ndarray:
    """Weights (outputs, inputs / groups, ...) with each input multiplied."""
    groups = attributes(conv).get("group", 1)
    outputs, inputs = weights.shape[:2]
    each = np.broadcast_to(factor, groups * inputs).reshape(groups, inputs)
    each = np.repeat(each, outputs // groups, axis=0)
    return weights * each.reshape(outputs, inputs, *[1] * (weights.ndim - 2))


def of_channels(constant: np.ndarray) -> np.ndarray | None:
    """A constant that is one number, or one for each channel on axis 1 of four: float64, (1,) or (channels,)."""
    if constant.size == 1:
        return constant.astype(np.float64).reshape(1)
    shape = (1,) * (RANK - constant.ndim) + constant.shape
    one_each = constant.ndim <= RANK and constant.size == shape[1]
    return constant.astype(np.float64).ravel() if one_each else None
