"""Batch normalisation folded into the dense and convolutional layers next to it.

    folded, report = fold(model)
    print(report)                        # what went where, and what had to stay, with the reason

At inference batch normalisation is y = s x + o, channel by channel; so are Normalization and Rescaling. Behind
a linear layer, s scales its weights and o joins its bias. In front of one, s scales its weights too, and o
adds up to a constant: but not at a border that is padded with zeros, where there is no o. What is left of the
network is weights and activations.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.network import Rewriter
from fs_neurons.network.cloning import clone_of
from fs_neurons.network.keras_internals import functional_of, is_rewritable, nodes_of
from fs_neurons.network.kinds import (
    AFFINE,
    DEPTHWISE,
    LAYERS,
    PADDING,
    SEPARABLE,
    TRANSPOSED,
    UNKNOWN,
    Kind,
    applies_activation,
    channel_axis,
)
from fs_neurons.network.structure import call_counts, is_idle


@dataclasses.dataclass(frozen=True)
class FoldingReport:
    """What `fold` did.

    Attributes:
        folded: name of a normalising layer -> name of the layer that it was folded into.
        left: name of a normalising layer that stayed -> why.
    """

    folded: dict[str, str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} layers folded into their neighbours, {len(self.left)} left"]
        return "\n".join(lines + [f"  {name}: {reason}" for name, reason in self.left.items()])


def fold(model: keras.Model) -> tuple[keras.Model, FoldingReport]:
    """Folds BatchNormalization, Normalization and Rescaling into dense and convolutional layers.

    Args:
        model: sequential or functional, with nested models of either kind; built.

    Returns:
        A new model that shares nothing with `model` and computes the same at inference, up to
        rounding; and a report. Augmentation, which does nothing at inference, is left out of it.

    Raises:
        TypeError: not a sequential or functional model.
        ValueError: the model is not built.
    """
    if not is_rewritable(model):
        raise TypeError(f"can't fold {model!r}: it must be a sequential or functional keras.Model")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built: call it on an input first")
    plan = _Plan(call_counts(model))
    plan.visit(model)
    return _Folder(plan).rewrite(model), FoldingReport(plan.folded, plan.left)


@dataclasses.dataclass(frozen=True)
class _Affine:
    """y = scale x + offset; float64, one entry per channel."""

    scale: np.ndarray
    offset: np.ndarray


class _Plan:
    """Which layers go, and the new weights of those that take them in; ids are those of layers."""

    def __init__(self, calls: collections.Counter[int]):
        self.calls = calls  # id of a layer -> how often it is called
        self.gone: set[int] = set()
        self.weights: dict[int, list[np.ndarray]] = {}  # as `get_weights`, with a bias; float64
        self.folded: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.seen: set[int] = set()  # ids of models
        self.inputs: dict[int, Any] = {}  # id of a layer -> the tensor that it takes
        self.outputs: dict[int, Any] = {}  # id of a layer -> the tensor that it gives
        # id of a layer -> the only layer that its input comes from
        self.before: dict[int, Any] = {}
        self.after: dict[int, Any] = {}  # id of a layer -> the only layer that its output goes to

    def visit(self, model: keras.Model) -> None:
        if id(model) in self.seen:
            return
        self.seen.add(id(model))
        nodes = nodes_of(model)
        consumers = collections.defaultdict(list)
        source = {}
        for node in nodes:
            for tensor in node.input_tensors:
                consumers[id(tensor)].append(node.operation)
            for tensor in node.outputs:
                source[id(tensor)] = node.operation
        ends = {id(tensor) for tensor in functional_of(model).outputs}
        for node in nodes:
            op = node.operation
            if len(node.input_tensors) == 1:
                self.inputs[id(op)] = node.input_tensors[0]
                self.before[id(op)] = source.get(id(node.input_tensors[0]))
            self.outputs[id(op)] = node.outputs[0]
            if len(node.outputs) == 1 and id(node.outputs[0]) not in ends:
                targets = consumers[id(node.outputs[0])]
                self.after[id(op)] = targets[0] if len(targets) == 1 else None
        operations = list({id(node.operation): node.operation for node in nodes}.values())
        self.gone.update(id(op) for op in operations if is_idle(op) and self.calls[id(op)] == 1)
        for op in operations:
            if is_rewritable(op):
                self.visit(op)
        affine = [op for op in operations if _kind(op) is AFFINE]
        for op in affine:
            self._into_previous(op)
        # From the output to the input, so that several in a row go one after the other.
        for op in reversed(affine):
            if id(op) not in self.gone:
                self._into_next(op)

    def _into_previous(self, op: Any) -> None:
        target = self.before.get(id(op))
        while id(target) in self.gone and self.after.get(id(target)) is not None:
            target = self.before.get(id(target))
        if target is None or self.after.get(id(target)) is None:
            return
        shared = self.calls[id(op)] > 1 or self.calls[id(target)] > 1
        over_outputs = _kind(target).scale_outputs
        if shared or over_outputs is None or applies_activation(target):
            return
        if _obstacle(target):
            self.left[op.name] = _obstacle(target)
            return
        affine = _affine_of(op, self.outputs[id(target)], channel_axis(target))
        if affine is None:
            return
        kernels, bias = self._weights_of(target)
        scaled = kernels[-1] * over_outputs(target, affine.scale)
        self.weights[id(target)] = [*kernels[:-1], scaled, bias * affine.scale + affine.offset]
        self._fold(op, target)
        self.after[id(target)] = self.after.get(id(op))

    def _into_next(self, op: Any) -> None:
        target, padded = self.after.get(id(op)), False
        while target is not None and (_kind(target) is PADDING or id(target) in self.gone):
            padded |= _kind(target) is PADDING
            if self.calls[id(target)] > 1:
                break
            target = self.after.get(id(target))
        reason = self._reason_against(op, target, padded)
        if reason:
            self.left.setdefault(op.name, reason)
            return
        affine = _affine_of(op, self.inputs[id(target)], channel_axis(target))
        assert affine is not None
        self._scale_inputs(target, affine)
        self._fold(op, target)

    def _reason_against(self, op: Any, target: Any, padded: bool) -> str:
        """Why a layer can't go into the one behind it; empty if it can."""
        if target is None:
            return "its output goes to several layers, or out of the model"
        if self.calls[id(op)] > 1 or self.calls[id(target)] > 1:
            return f"it or {target.name!r} is called more than once"
        if _kind(target).scale_inputs is None:
            return f"next to it is no dense or convolutional layer, but {target.name!r}"
        if _obstacle(target):
            return _obstacle(target)
        affine = _affine_of(op, self.inputs[id(target)], channel_axis(target))
        if affine is None:
            return "it works along another axis than that of the channels"
        padding = getattr(target, "padding", "valid")
        padded |= padding != "valid" and set(target.kernel_size) != {1}
        if affine.offset.any() and (padded or _kind(target) is TRANSPOSED):
            return f"its offset does not reach the padded borders of {target.name!r}"
        return ""

    def _fold(self, op: Any, target: Any) -> None:
        self.gone.add(id(op))
        self.left.pop(op.name, None)
        self.folded[op.name] = target.name

    def _weights_of(self, target: Any) -> tuple[list[np.ndarray], np.ndarray]:
        """Kernels (two of a separable convolution) and bias."""
        if id(target) not in self.weights:
            kernels = [w.astype(np.float64) for w in target.get_weights()]
            if not target.use_bias:
                kernels.append(np.zeros(self.outputs[id(target)].shape[channel_axis(target)]))
            self.weights[id(target)] = kernels
        *kernels, bias = self.weights[id(target)]
        return kernels, bias

    def _scale_inputs(self, target: Any, affine: _Affine) -> None:
        kernels, bias = self._weights_of(target)
        first = kernels[0]
        over_inputs = _kind(target).scale_inputs
        assert over_inputs is not None  # it has no reason against
        offset = first * over_inputs(target, affine.offset)
        first = first * over_inputs(target, affine.scale)
        taps = tuple(range(first.ndim - 2))
        if _kind(target) is DEPTHWISE:
            constant = offset.sum(axis=taps).ravel()
        elif _kind(target) is SEPARABLE:
            constant = offset.sum(axis=taps).ravel() @ kernels[1].reshape(-1, len(bias))
        elif _kind(target) is TRANSPOSED:
            constant = 0.0  # only without an offset
        else:
            constant = offset.sum(axis=(*taps, -2))
        self.weights[id(target)] = [first, *kernels[1:], bias + constant]


def _kind(op: Any) -> Kind:
    """The kind of a layer that is no subclass: one may compute its weights in another way."""
    return LAYERS.get(type(op), UNKNOWN)


def _obstacle(target: Any) -> str:
    """Why nothing can be folded into the weights of a layer; empty if something can."""
    if getattr(target, "lora_enabled", False):
        return f"{target.name!r} has LoRA weights beside its kernel"
    if getattr(target, "quantization_mode", None):
        return f"the weights of {target.name!r} are quantised ({target.quantization_mode})"
    return ""


def _affine_of(op: Any, tensor: Any, axis: int) -> _Affine | None:
    """Scale and offset of a normalising layer along an axis of `tensor`; None along other axes."""
    channels = tensor.shape[axis]
    if isinstance(op, layers.Rescaling):
        scale, offset = np.asarray(op.scale, np.float64), np.asarray(op.offset, np.float64)
        if axis != -1 and (scale.size > 1 or offset.size > 1):
            return None
    else:
        axes = op.axis if isinstance(op.axis, (tuple, list)) else (op.axis,)
        rank = len(tensor.shape)
        if [a % rank for a in axes] not in ([axis % rank], []):
            return None
        if isinstance(op, layers.BatchNormalization):
            mean, variance = (ops.convert_to_numpy(w) for w in (op.moving_mean, op.moving_variance))
            scale = 1 / np.sqrt(variance.astype(np.float64) + op.epsilon)
            scale = scale * ops.convert_to_numpy(op.gamma) if op.scale else scale
            offset = -mean * scale + (ops.convert_to_numpy(op.beta) if op.center else 0.0)
        else:
            mean, variance = (ops.convert_to_numpy(w).ravel() for w in (op.mean, op.variance))
            scale = 1 / np.maximum(np.sqrt(variance.astype(np.float64)), keras.config.epsilon())
            offset = -mean * scale
            if op.invert:
                scale, offset = 1 / scale, mean.astype(np.float64)
    if scale.size not in (1, channels) or offset.size not in (1, channels):
        return None
    return _Affine(*(np.broadcast_to(x.ravel(), channels) for x in (scale, offset)))


class _Folder(Rewriter):
    """Rebuilds a model without the layers that are gone, with the new weights."""

    def __init__(self, plan: _Plan):
        super().__init__(lambda *_: None)
        self.plan = plan
        self.reweighted: list[tuple[Any, list[np.ndarray]]] = []

    def rewrite(self, model: keras.Model) -> keras.Model:
        new = super().rewrite(model)
        for clone, weights in self.reweighted:
            clone.set_weights([w.astype(np.float32) for w in weights])
        return new

    def skips(self, op: Any) -> bool:
        return id(op) in self.plan.gone or super().skips(op)

    def _new_clone(self, op: Any) -> Any:
        if id(op) in self.plan.weights:
            clone = clone_of(op, self.names[id(op)], use_bias=True)
            self.reweighted.append((clone, self.plan.weights[id(op)]))
            return clone
        return super()._new_clone(op)
