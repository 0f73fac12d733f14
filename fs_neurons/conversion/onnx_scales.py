"""What gate inputs and responses are multiplied by goes into the weights of convolutions before and behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from fs_neurons.conversion.onnx_graph import OnnxGraph, attributes

RANK = 4
# Of a factor or an offset, in steps of the neurons: float32 codes are exact without it.
NEGLIGIBLE = 2.0**-21
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
    return np.asarray(weights * each.reshape(outputs, inputs, *[1] * (weights.ndim - 2)))


def of_channels(constant: np.ndarray) -> np.ndarray | None:
    """A constant that is one number, or one for each channel on axis 1 of four: float64, (1,) or (channels,)."""
    if constant.size == 1:
        return constant.astype(np.float64).reshape(1)
    shape = (1,) * (RANK - constant.ndim) + constant.shape
    one_each = constant.ndim <= RANK and constant.size == shape[1]
    return constant.astype(np.float64).ravel() if one_each else None


def scaled(
    graph: OnnxGraph, name: str, factor: np.ndarray, offset: np.ndarray, new: list[Any]
) -> str:
    """factor x + offset of a value with one taker, by changing what it comes from; new nodes where that can't be.

    Args:
        factor, offset: (1,) or (channels,), float64.
    """
    maker = graph.makers.get(name)
    alone = graph.only_taker(name) is not None
    found = graph.constant_input(maker) if maker is not None else None
    each = of_channels(found[1]) if found is not None else None
    if maker is not None and found is not None and each is not None:
        if maker.op_type == "Mul" and (alone or not offset.any()):
            # Where others take the product as well, they keep it.
            if alone:
                return scaled(graph, found[0], factor * each, offset, new)
            return _emitted(graph, found[0], factor * each, offset, new)
        if maker.op_type == "Add" and alone:
            return scaled(graph, found[0], factor, offset + factor * each, new)
    elif maker is not None and maker.op_type == "Add" and alone:
        branches = list(maker.input)
        first = 0 if _is_own_convolution(graph, branches[0]) else 1
        for i in (first, 1 - first):
            maker.input[i] = _branch(graph, branches[i], factor, offset * (i == first), maker)
        graph.index()
        return name
    if maker is not None and _is_own_convolution(graph, name):
        _scale_convolution(graph, maker, factor, offset)
        return name
    return _emitted(graph, name, factor, offset, new)


def _branch(graph: OnnxGraph, name: str, factor: np.ndarray, offset: np.ndarray, add: Any) -> str:
    """One of two summands."""
    new: list[Any] = []
    result = scaled(graph, name, factor, offset, new)
    if new:
        graph.replace({id(add): [*new, add]})
    return result


def _emitted(
    graph: OnnxGraph, name: str, factor: np.ndarray, offset: np.ndarray, new: list[Any]
) -> str:
    for kind, values, neutral in (("Mul", factor, 1), ("Add", offset, 0)):
        if (np.abs(values - neutral) > NEGLIGIBLE).any():
            shaped = values.astype(np.float32)
            shaped = shaped[0] if shaped.size == 1 else shaped.reshape(1, -1, 1, 1)
            new.append(graph.node(kind, name, graph.constant(shaped)))
            name = new[-1].output[0]
    return name


def _is_own_convolution(graph: OnnxGraph, name: str) -> bool:
    """Whether a value comes from a convolution of known weights and goes to one node alone."""
    maker = graph.makers.get(name)
    return (
        maker is not None
        and maker.op_type == "Conv"
        and all(weights in graph.constants for weights in maker.input[1:])
        and graph.only_taker(name) is not None
    )


def _scale_convolution(graph: OnnxGraph, conv: Any, factor: np.ndarray, offset: np.ndarray) -> None:
    weights = graph.constants[conv.input[1]].astype(np.float64)
    bias = graph.constants[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weights))
    weights = weights * factor.reshape(-1, *[1] * (weights.ndim - 1))
    new = [
        graph.constant(values.astype(np.float32)) for values in (weights, bias * factor + offset)
    ]
    del conv.input[1:]
    conv.input.extend(new)
