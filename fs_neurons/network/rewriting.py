"""Rebuilding a Keras model with other operations at its sites."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import spiking_pool
from fs_neurons.network.keras_internals import is_rewritable, parts_of
from fs_neurons.network.kinds import ACTIVATIONS, WRAPPERS
from fs_neurons.network.sites import Site, base_name, walk


class Rewriter:
    """Builds a new model in which `replacement(site, name, dtype)` takes the place of each site.

    Layers are cloned once, however often they are called; an inline activation becomes a companion
    layer that is called after its layer.
    """

    def __init__(self, replacement: Callable[[Site, str, Any], keras.layers.Layer | None]):
        self.replacement = replacement
        self.clones: dict[int, Any] = {}  # id of the original -> its clone
        self.companions: dict[int, keras.layers.Layer] = {}  # id of a clone -> what follows it
        self.replacements: set[int] = set()  # ids of clones that are replacements themselves
        self.shared: set[int] = set()  # ids of operations, and of clones, called more than once
        self.pairs: list[tuple[Any, Any]] = []  # layers whose weights are to be copied

    def rewrite(self, model: keras.Model) -> keras.Model:
        # 1. One replacement per site, by the operation that it belongs to.
        self.sites = {id(op): site for op, site in walk(model)}
        self.taken = {part.name for part in parts_of(model)}
        # 2. The graph, on cloned layers.
        new = self._model(model)
        # 3. Weights, statistics included, layer by layer: their order in the model may have changed.
        for original, clone in self.pairs:
            copy_weights(original, clone)
        return new

    def _model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        nodes = (node for depth in model._nodes_by_depth.values() for node in depth)
        calls = collections.Counter(id(node.operation) for node in nodes)
        self.shared.update(op for op, count in calls.items() if count > 1)
        return keras.models.clone_model(model, clone_function=self._clone, call_function=self._call)

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        (x,) = model.inputs
        new_layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)]
        source = None
        for layer in model.layers:
            clone = self._clone(layer)
            clone = spiking_pool(clone, source) or clone
            new_layers.append(clone)
            if not isinstance(clone, layers.ZeroPadding2D):
                source = self.companions.get(id(clone), clone)
            if id(clone) in self.companions:
                new_layers.append(self.companions[id(clone)])
        new = keras.Sequential(new_layers, name=model.name, trainable=model.trainable)
        if model.compiled:
            new.compile_from_config(model.get_compile_config())
        return new

    def _call(self, clone: Any, *args: Any, **kwargs: Any) -> Any:
        if id(clone) in self.replacements:
            # Of what the original was called with, only its input means anything to an activation.
            return clone(args[0] if args else next(iter(kwargs.values())))
        if type(clone) is layers.MaxPooling2D:
            # A pool that is called at several places may have other inputs there: it stays.
            pool = None if id(clone) in self.shared else spiking_pool(clone, _source(args[0]))
            return (pool or clone)(*args, **kwargs)
        y = clone(*args, **kwargs)
        return self.companions[id(clone)](y) if id(clone) in self.companions else y

    def _clone(self, op: Any) -> Any:
        if id(op) not in self.clones:
            self.clones[id(op)] = self._new_clone(op)
            if id(op) in self.shared:
                self.shared.add(id(self.clones[id(op)]))
        return self.clones[id(op)]

    def _new_clone(self, op: Any) -> Any:
        if is_rewritable(op):
            return self._model(op)
        site = self.sites.get(id(op))
        dtype = getattr(op, "dtype_policy", None)
        if site is not None:
            inner = op.layer if isinstance(op, WRAPPERS) else op
            is_activation = isinstance(inner, ACTIVATIONS) or not isinstance(op, layers.Layer)
            name = (
                op.name
                if is_activation
                else self._free_name(f"{op.name}_{base_name(site.activation)}")
            )
            new = self.replacement(site, name, dtype)
            if new is not None and is_activation:
                self.replacements.add(id(new))
                return new
            if new is not None:
                clone = self._paired_clone(op, linear=True)
                self.companions[id(clone)] = new
                return clone
        return self._paired_clone(op)

    def _paired_clone(self, op: Any, linear: bool = False) -> Any:
        if isinstance(op, layers.Lambda):
            # Its function can't go through a configuration; it has no weights.
            return layers.Lambda(
                op.function, output_shape=op._output_shape, mask=op.mask, arguments=op.arguments, name=op.name
            )  # fmt: skip
        config = op.get_config()
        if linear:
            inner = config["layer"]["config"] if isinstance(op, WRAPPERS) else config
            inner["activation"] = "linear"
        clone = type(op).from_config(config)
        if isinstance(op, layers.Layer):
            self.pairs.append((op, clone))
        return clone

    def _free_name(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            candidate, number = f"{name}_{number}", number + 1
        self.taken.add(candidate)
        return candidate


def _source(x: keras.KerasTensor) -> Any:
    """The operation that a tensor comes from, before any zero padding."""
    operation, node, _ = x._keras_history
    while isinstance(operation, layers.ZeroPadding2D):
        operation, node, _ = operation._inbound_nodes[node].input_tensors[0]._keras_history
    return operation


def copy_weights(original: keras.layers.Layer, clone: keras.layers.Layer) -> None:
    clone.set_weights(original.get_weights())
    for part in parts_of(clone):
        if isinstance(part, layers.Normalization):
            part.finalize_state()  # derives what it computes with from its weights
