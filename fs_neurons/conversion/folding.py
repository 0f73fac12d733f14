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
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.network import Rewriter
from fs_neurons.network.cloning import clone_of
from fs_neurons.network.keras_internals import (
    functional_of,
    is_rewritable,
    misplaces_bias,
    nodes_of,
)
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
    return _folded(model, _Plan(call_counts(model)))


def fold_inputs(model: keras.Model) -> tuple[keras.Model, FoldingReport]:
    """Folds Normalization, Rescaling and BatchNormalization in front of the first weights into these.

    Where a border is padded with zeros, which an offset does not reach, the scale goes into the weights, and
    what remains is a Rescaling that adds the offset: a constant current of each neuron.

    Args:
        model: as for `fold`; the model of inputs and of nested models alike.

    Returns:
        A new model that computes the same at inference, up to rounding; and a report.
    """
    return _folded(model, _Plan(call_counts(model), inputs_only=True))


def _folded(model: keras.Model, plan: _Plan) -> tuple[keras.Model, FoldingReport]:
    plan.visit(model)
    return _Folder(plan).rewrite(model), FoldingReport(plan.folded, plan.left)


@dataclasses.dataclass(frozen=True)
class _Affine:
    """y = scale x + offset; float64, one entry per channel."""

    scale: np.ndarray
    offset: np.ndarray

    def after(self, other: _Affine) -> _Affine:
        """Of what `other` gives."""
        return _Affine(self.scale * other.scale, self.scale * other.offset + self.offset)


class _Plan:
    """Which layers go, and the new weights of those that take them in; ids are those of layers.

    Args:
        calls: id of a layer -> how often it is called.
        inputs_only: whether only what is in front of the first weights goes.
    """

    def __init__(self, calls: collections.Counter[int], inputs_only: bool = False):
        self.calls = calls
        self.inputs_only = inputs_only
        self.gone: set[int] = set()
        self.weights: dict[int, list[np.ndarray]] = {}  # as `get_weights`, with a bias; float64
        self.offsets: dict[int, np.ndarray] = {}  # what is left of a layer: an offset per channel
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
        if self.inputs_only:
            for chain in self._input_chains(affine):
                self._into_next(*chain)
            return
        for op in affine:
            self._into_previous(op)
        # From the output to the input, so that several in a row go one after the other.
        for op in reversed(affine):
            if id(op) not in self.gone:
                self._into_next(op)

    def _input_chains(self, affine: list[Any]) -> list[list[Any]]:
        """Normalising layers that take an input, each with those that follow it and take nothing else."""
        chains: list[list[Any]] = []
        for op in affine:  # in order of execution
            before = self.before.get(id(op))
            while id(before) in self.gone:
                before = self.before.get(id(before))
            if before is None:
                chains.append([op])
            for chain in chains:
                if chain[-1] is before and self.after.get(id(before)) is not None:
                    chain.append(op)
        return chains

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
        if self._obstacle(target):
            self.left[op.name] = self._obstacle(target)
            return
        affine = _affine_of(op, self.outputs[id(target)], channel_axis(target))
        if affine is None:
            return
        kernels, bias = self._weights_of(target)
        scaled = kernels[-1] * over_outputs(target, affine.scale)
        self.weights[id(target)] = [*kernels[:-1], scaled, bias * affine.scale + affine.offset]
        self._fold(op, target)
        self.after[id(target)] = self.after.get(id(op))

    def _into_next(self, *chain: Any) -> None:
        """Folds a layer into the one behind it; or several in a row, so that at most an offset is left."""
        op = chain[-1]
        target: Any = self.after.get(id(op))
        padded = False
        while target is not None and (_kind(target) is PADDING or id(target) in self.gone):
            padded |= _kind(target) is PADDING
            if self.calls[id(target)] > 1:
                break
            target = self.after.get(id(target))
        reason = next(filter(None, (self._reason_against(part, target) for part in chain)), "")
        if reason:
            self.left.setdefault(op.name, reason)
            return
        affine = _product_of(chain, self.inputs[id(target)], channel_axis(target))
        padding = getattr(target, "padding", "valid")
        padded |= padding != "valid" and set(target.kernel_size) != {1}
        if affine.offset.any() and (padded or _kind(target) is TRANSPOSED):
            rank = len(self.inputs[id(target)].shape)
            on_last = channel_axis(target) % rank == rank - 1
            if not (self.inputs_only and affine.scale.all() and on_last):
                self.left.setdefault(
                    op.name, f"its offset does not reach the padded borders of {target.name!r}"
                )
                return
            self.offsets[id(op)] = affine.offset / affine.scale
            affine = _Affine(affine.scale, np.zeros_like(affine.offset))
        self._scale_inputs(target, affine)
        for part in chain:
            self._fold(part, target)
        self.gone -= self.offsets.keys()

    def _reason_against(self, op: Any, target: Any) -> str:
        """Why a layer can't go into the one behind it; empty if it can, borders left aside."""
        if target is None:
            return "its output goes to several layers, or out of the model"
        if self.calls[id(op)] > 1 or self.calls[id(target)] > 1:
            return f"it or {target.name!r} is called more than once"
        if _kind(target).scale_inputs is None:
            return f"next to it is no dense or convolutional layer, but {target.name!r}"
        if self._obstacle(target):
            return self._obstacle(target)
        affine = _affine_of(op, self.inputs[id(target)], channel_axis(target))
        if affine is None:
            return "it works along another axis than that of the channels"
        return ""

    def _obstacle(self, target: Any) -> str:
        """Why nothing can be folded into the weights of a layer; empty if something can."""
        if getattr(target, "lora_enabled", False):
            return f"{target.name!r} has LoRA weights beside its kernel"
        if getattr(target, "quantization_mode", None):
            return f"the weights of {target.name!r} are quantised ({target.quantization_mode})"
        if misplaces_bias(target, self.outputs[id(target)].shape[1:]):
            return (
                f"{target.name!r} has channels first, and Keras would add its bias along the width, which has as"
                " many entries or is unknown"
            )
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


def _product_of(chain: Sequence[Any], tensor: Any, axis: int) -> _Affine:
    """All of several layers in a row, of which `_affine_of` knows each."""
    affine = [x for op in chain if (x := _affine_of(op, tensor, axis)) is not None]
    return functools.reduce(lambda before, x: x.after(before), affine)


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
        if id(op) in self.plan.offsets:
            offset = self.plan.offsets[id(op)].astype(np.float32).tolist()
            return layers.Rescaling(1.0, offset, name=op.name, dtype=op.dtype_policy)
        if id(op) in self.plan.weights:
            clone = clone_of(op, self.names[id(op)], use_bias=True)
            self.reweighted.append((clone, self.plan.weights[id(op)]))
            return clone
        return super()._new_clone(op)
