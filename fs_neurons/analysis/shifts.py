"""Additions behind shifted sums, in a network of integers without a multiplier.

A sum that was complete before `RightShift` is an integer and no spikes. Each constant that it meets is known before any
image: it is added up once, shifted, for each digit of the constant that is not zero, with digits -1, 0 and 1 in the
form that has the fewest. Constants are weights and, where multiples of it are formed for a product, d(t) of the
carrier. These additions are the same for every image.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.analysis.connectivity import multiply_accumulates
from fs_neurons.network import kinds
from fs_neurons.network.calls import Call, Value
from fs_neurons.network.coding import Coding
from fs_neurons.network.kinds import kind_of


def additions_of_shifted_sums(coding: Coding) -> int:
    """For one image; 0 where no sums are shifted."""
    waiting = [call.outputs for call in coding.graph.calls if kind_of(call.op) is kinds.SHIFT]
    seen = set(waiting)
    total = 0
    while waiting:
        value = waiting.pop()
        for call in coding.graph.consumers.get(value.index, ()):
            product = coding.products.get(call)
            if product is not None:
                # What comes out are spikes of the carrier, with these multiples as weights.
                total += _multiples(value, product.source.op.parameters.d)
            elif not (call.is_site or kind_of(call.op) is kinds.SHIFT):
                total += _additions(call, value)
                behind = [x for x in keras.tree.flatten(call.outputs) if x not in seen]
                seen.update(behind)
                waiting += behind
    return total


def digits(values: Any) -> np.ndarray:
    """Nonzero digits of integers, the fewest with digits -1, 0 and 1."""
    n = np.abs(np.rint(np.asarray(values, np.float64))).astype(np.int64)
    bits = np.unpackbits((n ^ (3 * n))[..., None].view(np.uint8), axis=-1)
    return np.asarray(bits.sum(axis=-1, dtype=np.int64))


def _multiples(value: Value, d: np.ndarray) -> int:
    rows = digits(d).reshape(len(d), -1)  # (K, channels) or (K, 1)
    return math.ceil(math.prod(value.shape) * float(rows.sum(axis=0).mean()))


def _additions(call: Call, value: Value) -> int:
    op: Any = call.op
    kind = kind_of(op)
    if kind.weighted:
        kernel = ops.convert_to_numpy(op.kernel)
        return math.ceil((multiply_accumulates(call) or 0) * float(digits(kernel).mean()))
    if kind is kinds.AFFINE:  # a unit as so many of another
        scale = np.broadcast_to(np.asarray(op.scale), value.shape)
        many = digits(scale) if np.array_equal(scale, np.rint(scale)) else np.ones(value.shape)
        return int(np.maximum(many - 1, 0).sum())
    moves = kind.routes is not None or kind is kinds.ACTIVATION
    return 0 if moves else math.prod(value.shape)
