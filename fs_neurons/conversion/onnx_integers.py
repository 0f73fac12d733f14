"""Spikes of FS-ReLU as integers in an ONNX graph: codes of 8 bits, and weights of 8 bits in between.

The output of an FS-ReLU with K <= 8 steps is alpha 2^-K times an integer below 256, its spikes read as a number. In
units of this step its neurons are QuantizeLinear with the scale 1; rounding down is rounding to the nearest half a
step lower, which goes into the bias of the convolution before. Steps go into the weights behind. A convolution
between two such sites has weights of 8 bits, symmetric, with a scale for each output channel. What it adds to a
shortcut has 8 bits too, over the range in which it makes a difference: from where the sum is below 0 whatever the
shortcut is, to where it is above alpha.

Other sites, and convolutions that have none on one side, stay in float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fs_neurons.conversion.onnx_graph import OnnxGraph
from fs_neurons.conversion.onnx_scales import fold_scales, of_channels, pads_with_zeros, scaled
from fs_neurons.conversion.onnx_sites import StandIns
from fs_neurons.neuron.lookup import Code

LARGEST_CODE = 255
LARGEST_WEIGHT = 127
# From rounding down to rounding to the nearest, where halves become even: these are rounded up.
HALF_STEP = -0.5 + 2.0**-14
_KEEP_CODES = frozenset({"MaxPool", "Transpose"})


class Integers(NamedTuple):
    """A value that is a code, as uint8: its name, and the largest code."""

    name: str
    top: int


def to_integers(graph: OnnxGraph, stand_ins: StandIns) -> tuple[int, list[str]]:
    """Makes integers of what can be.

    Returns:
        Number of convolutions with integer weights, and the names of sites that stay in float.
    """
    codes: dict[str, Integers] = {}
    floats: list[str] = []
    for node in list(graph.nodes):
        function = stand_ins.function_of(node)
        if function is None:
            continue
        if isinstance(function, Code) and function.top <= LARGEST_CODE:
            _quantise_site(graph, node, function, codes)
        else:
            floats.append(node.name.split("/")[-2] if "/" in node.name else node.name)
    fold_scales(graph)
    _carry_through_pools(graph, codes)
    count = 0
    for node in list(graph.nodes):
        if node.op_type == "Conv" and node.input[0] in codes and node.input[1] in graph.constants:
            count += _quantise_convolution(graph, node, codes)
    graph.remove_unused()
    return count, floats


def _quantise_site(graph: OnnxGraph, node: Any, code: Code, codes: dict[str, Integers]) -> None:
    new: list[Any] = []
    shifted = scaled(graph, node.input[0], np.ones(1), np.full(1, HALF_STEP), new)
    new += _quantised(graph, shifted, node.output[0], code.top, codes)
    graph.replace({id(node): new})
    graph.remove_unused()  # products that are in the weights now


def _quantised(graph: OnnxGraph, x: str, y: str, top: int, codes: dict[str, Integers]) -> list[Any]:
    """Nodes that make a code of x, as uint8 and as y."""
    one, zero = graph.constant(np.float32(1)), graph.constant(np.uint8(0))
    new = [graph.node("QuantizeLinear", x, one, zero)]
    if (
        top < LARGEST_CODE
    ):  # clipped as integers, as runtimes know convolutions by what follows at once
        new.append(graph.node("Clip", new[0].output[0], zero, graph.constant(np.uint8(top))))
    codes[y] = Integers(new[-1].output[0], top)
    return [*new, graph.node("DequantizeLinear", codes[y].name, one, zero, output=y)]


def _carry_through_pools(graph: OnnxGraph, codes: dict[str, Integers]) -> None:
    """Codes that are pooled, padded or transposed are codes."""
    for node in list(graph.nodes):
        keeps = node.op_type in _KEEP_CODES or pads_with_zeros(graph, node)
        if keeps and node.input[0] in codes and node.output[0] not in graph.outputs:
            old = node.output[0]
            node.output[0] = graph.new_name("pooled")
            top = codes[node.input[0]].top
            quantised = _quantised(graph, node.output[0], old, top, codes)
            graph.replace({id(node): [node, *quantised]})


def _quantise_convolution(graph: OnnxGraph, conv: Any, codes: dict[str, Integers]) -> bool:
    """Gives integer weights to a convolution of codes whose output is quantised, or can be; says whether it does."""
    taker = graph.only_taker(conv.output[0])
    if taker is None:
        return False
    if taker.op_type == "Add":
        if not _quantise_sum(graph, conv, taker, codes):
            return False
    elif taker.op_type != "QuantizeLinear":
        return False
    weights = graph.constants[conv.input[1]].astype(np.float64)
    bias = graph.constants[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weights))
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scale = np.where(largest > 0, largest / LARGEST_WEIGHT, 1).astype(np.float32)
    # A bias of 32 bits is in units of the weights.
    scale = np.maximum(scale, np.float32(np.abs(bias) / 2**30))
    quantised = np.rint(weights / scale.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.int8)
    constants = (quantised, np.rint(bias / scale).astype(np.int32))
    nodes = [
        graph.node("DequantizeLinear", graph.constant(each), graph.constant(scale), axis=0)
        for each in constants
    ]
    del conv.input[1:]
    conv.input.extend(node.output[0] for node in nodes)
    graph.replace({id(conv): [*nodes, conv]})
    return True


def _quantise_sum(graph: OnnxGraph, conv: Any, add: Any, codes: dict[str, Integers]) -> bool:
    """Quantises what a convolution adds to a shortcut of codes; says whether that is what it does."""
    taker = graph.only_taker(add.output[0])
    others = [name for name in add.input if name != conv.output[0]]
    if taker is None or taker.op_type != "QuantizeLinear" or len(others) != 1:
        return False
    (shortcut,) = others
    ratio = np.ones(1)
    product = graph.makers.get(shortcut)
    code = shortcut
    if shortcut not in codes:
        found = graph.constant_input(product) if product is not None else None
        each = of_channels(found[1]) if found is not None else None
        if product is None or product.op_type != "Mul" or found is None or each is None:
            return False
        code, ratio = found[0], each
        if code not in codes or (ratio <= 0).any():
            return False
    (quantised,) = taker.output
    top = next(each.top for each in codes.values() if _makes(graph, quantised, each.name))
    largest = codes[code].top * float(ratio.max())
    scale = np.float32((top + 1 + largest) / LARGEST_CODE)
    zero = np.uint8(np.rint(largest / scale))
    names = graph.constant(scale), graph.constant(zero)
    quantise = graph.node("QuantizeLinear", conv.output[0], *names)
    back = graph.node("DequantizeLinear", quantise.output[0], *names)
    ratio = ratio.astype(np.float32)
    units = ratio if ratio.size > 1 else ratio[0]
    scales = graph.constant(units), graph.constant(np.zeros_like(units, np.uint8))
    in_units = graph.node("DequantizeLinear", codes[code].name, *scales, axis=1)
    del add.input[:]
    add.input.extend((back.output[0], in_units.output[0]))
    graph.replace({id(add): [quantise, back, in_units, add]})
    graph.remove_unused()
    return True


def _makes(graph: OnnxGraph, quantised: str, code: str) -> bool:
    """Whether a code is what QuantizeLinear gives, or that clipped."""
    return quantised in (code, graph.makers[code].input[0])
