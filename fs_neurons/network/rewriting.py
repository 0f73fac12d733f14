"""Rebuilding a Keras model with other layers at its sites.

def replacement(site, name, dtype):
    return FSReLU(name=name, dtype=dtype) if site.activation == "relu" else None
snn = Rewriter(replacement).rewrite(model)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import FSActivation, spiking_pool
from fs_neurons.network.cloning import clone_of
from fs_neurons.network.keras_internals import (
    functional_class,
    input_structure,
    is_rewritable,
    run_graph,
    source_of,
    without_quantization,
)
from fs_neurons.network.kinds import ACTIVATIONS, unwrapped
from fs_neurons.network.recurrent import copy_all_weights, gated_clone, is_recurrent
from fs_neurons.network.sites import Site, walk
from fs_neurons.network.structure import call_counts, is_idle, named_operations

# What takes the place of a site, given its own name and dtype policy; None keeps the activation.
Replacement = Callable[[Site, str, Any], keras.layers.Layer | None]


class Rewriter:
    """Builds a new model with other layers at its sites, the weights those of the original.

    Layers are cloned once, however often they are called; an inline activation becomes a companion
    layer that is called after its layer. Max-pooling behind FS-neurons becomes that of spikes where their response never falls. Augmentation
    is left out, since it does nothing at inference.

    Args:
        replacement: gives the layer for each site, or None where the activation stays.
    """

    def __init__(self, replacement: Replacement):
        self.replacement = replacement
        self.sites: dict[int, list[Site]] = {}  # id of an operation -> its site, those of its gates
        self.names: dict[int, str] = {}  # id of an operation -> its name in the traced graph
        self.clones: dict[int, Any] = {}  # id of the original -> its clone
        self.companions: dict[int, keras.layers.Layer] = {}  # id of a clone -> what follows it
        self.replacements: set[int] = set()  # ids of clones that are replacements themselves
        self.shared: set[int] = set()  # ids of operations, and of clones, called more than once
        self.pairs: list[tuple[Any, Any]] = []  # layers whose weights are to be copied

    def rewrite(self, model: keras.Model) -> keras.Model:
        """The new model; it shares nothing with `model`.

        Raises:
            ConversionError: a subclassed model, not built, or a layer that can't be cloned.
        """
        # 1. One replacement per site, by the operation that it belongs to.
        self.sites = {}
        for op, site in walk(model):
            self.sites.setdefault(id(op), []).append(site)
        self.names = {id(op): name for name, op in named_operations(model)}
        self.shared = {op for op, count in call_counts(model).items() if count > 1}
        # 2. The graph, on cloned layers.
        new = self._model(model)
        # 3. Weights, statistics included, layer by layer: their order in the model may have changed.
        for original, clone in self.pairs:
            copy_all_weights(original, clone, self.names[id(original)])
        # 4. Optimizer, loss and metrics.
        _carry_compile_state(model, new)
        return new

    def skips(self, op: Any) -> bool:
        """Whether a layer is left out, so that its input takes the place of its output."""
        return is_idle(op)

    def input_layers(self, model: keras.Model, x: keras.KerasTensor) -> list[keras.layers.Layer]:
        """Layers to put behind an input of the model, or of one that is nested in it."""
        return []

    def _model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            input_structure(model),
        )

        def entered(x: keras.KerasTensor, new: Any) -> Any:
            for layer in self.input_layers(model, x):
                new = layer(new)
            return new

        starts = keras.tree.map_structure(entered, input_structure(model), inputs)
        outputs = run_graph(model, starts, self._caller)
        return functional_class(model)(inputs, outputs, name=model.name)

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        (x,) = model.inputs
        new_layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)]
        new_layers += self.input_layers(model, x)
        source = None
        for layer in model.layers:
            if self.skips(layer):
                continue
            clone = self._clone(layer)
            if id(clone) not in self.shared:
                clone = spiking_pool(clone, source) or clone
            new_layers.append(clone)
            if not isinstance(clone, layers.ZeroPadding2D):
                source = self.companions.get(id(clone), clone)
            if id(clone) in self.companions:
                new_layers.append(self.companions[id(clone)])
        return keras.Sequential(new_layers, name=model.name, trainable=model.trainable)

    def _caller(self, op: Any) -> Callable[..., Any]:
        """What is called in place of an operation."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.skips(op):
                return _tensor_among(args, kwargs)
            clone = self._clone(op)
            if id(clone) in self.replacements:
                # Of what the original was called with, only its input means anything to an activation.
                return clone(_tensor_among(args, kwargs))
            if type(clone) is layers.MaxPooling2D:
                # A pool that is called at several places may have other inputs there: it stays.
                shared = id(clone) in self.shared
                pool = None if shared else spiking_pool(clone, _origin(args[0]))
                return (pool or clone)(*args, **kwargs)
            y = clone(*args, **kwargs)
            return self.companions[id(clone)](y) if id(clone) in self.companions else y

        return call

    def _clone(self, op: Any) -> Any:
        if id(op) not in self.clones:
            self.clones[id(op)] = self._new_clone(op)
            if id(op) in self.shared:
                self.shared.add(id(self.clones[id(op)]))
        return self.clones[id(op)]

    def _new_clone(self, op: Any) -> Any:
        if is_rewritable(op):
            return self._model(op)
        new = {site.gate: self._replacement_of(site, op) for site in self.sites.get(id(op), ())}
        if is_recurrent(op):
            return self._paired_clone(
                op, gates={gate: x for gate, x in new.items() if x is not None}
            )
        return self._split_clone(op, new.get(""))

    def _split_clone(self, op: Any, new: keras.layers.Layer | None) -> Any:
        """A clone without its activation, which `new` follows; or `new` itself for an activation alone."""
        if new is None:
            return self._paired_clone(op)
        if isinstance(unwrapped(op), ACTIVATIONS) or not isinstance(op, layers.Layer):
            self.replacements.add(id(new))
            return new
        clone = self._paired_clone(op, linear=True)
        self.companions[id(clone)] = new
        return clone

    def _replacement_of(self, site: Site, op: Any) -> keras.layers.Layer | None:
        policy = without_quantization(getattr(op, "dtype_policy", None))
        new = self.replacement(site, site.name.rpartition("/")[2], policy)
        if new is None:
            return None
        if site.drops_mask:
            _drop_mask(new)
        regularizer = getattr(unwrapped(op), "activity_regularizer", None)
        if regularizer is not None and not site.gate:
            # It is on the output of the activation; an object without state.
            new.activity_regularizer = regularizer
        return new

    def _paired_clone(
        self, op: Any, linear: bool = False, gates: dict[str, keras.layers.Layer] | None = None
    ) -> Any:
        name = self.names[id(op)]
        clone = gated_clone(op, name, gates) if gates else clone_of(op, name, linear)
        if isinstance(op, layers.Layer) and not isinstance(op, layers.Lambda):
            self.pairs.append((op, clone))
        return clone


def _tensor_among(args: Any, kwargs: Any) -> Any:
    tensors = (x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor))
    return next(tensors)


def _origin(tensor: keras.KerasTensor) -> Any:
    """The operation that a tensor comes from, before any zero padding."""
    operation, node, _ = source_of(tensor)
    while isinstance(operation, layers.ZeroPadding2D):
        operation, node, _ = source_of(node.input_tensors[0])
    return operation


def _drop_mask(layer: keras.layers.Layer) -> None:
    """Makes a layer hand on no mask, as the operation that it replaces."""
    if isinstance(layer, FSActivation):
        layer.passes_mask = False  # saved with the layer
    else:
        layer.compute_mask = lambda inputs, previous_mask=None: None


def _carry_compile_state(model: keras.Model, new: keras.Model) -> None:
    if not model.compiled:
        return
    try:
        new.compile_from_config(model.get_compile_config())
    except Exception as error:  # whatever someone else's loss or metric raises
        reason = " ".join(str(error).split())[:160]
        warnings.warn(
            f"model {model.name!r} was compiled with a loss, metric or optimizer that Keras can't make"
            f" anew ({reason}): the new model is not compiled; call compile() on it where that is needed",
            stacklevel=4,
        )
