"""The activations inside of recurrent layers, and how such a layer is made anew with layers at its gates.

for gate in gates_of(layer): print(gate.path, gate.activation)     # "forget", "backward/candidate", "cell_1/output"
new = gated_clone(layer, "block/lstm", {"forget": FSSigmoid()})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import GatedCell, RecurrentFS
from fs_neurons.layers.recurrent import CELLS
from fs_neurons.network.activations import Activation, activation_of
from fs_neurons.network.cloning import clone_of, config_of, copy_weights
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import is_of_keras

DIRECTIONS = ("forward", "backward")


@dataclasses.dataclass(frozen=True)
class Gate:
    """An activation that the cell of a recurrent layer applies.

    Attributes:
        path: its name inside of the layer: "forget", "backward/forget", "cell_1/forget".
        activation: what it is; one that is not convertible stands for a cell that is not Keras'.
    """

    path: str
    activation: Activation


def is_recurrent(op: Any) -> bool:
    """Whether this is a layer that runs a cell over a sequence, or TimeDistributed around one."""
    if isinstance(op, layers.TimeDistributed):
        return is_recurrent(op.layer)
    return isinstance(op, (layers.RNN, layers.Bidirectional))


def gates_of(layer: Any) -> Iterator[Gate]:
    """The activations of a recurrent layer that are not linear and no layers of FS-neurons.

    A gate of another name stands for a cell, or layer, whose call() is its own.
    """
    for path, cell in cells_of(layer):
        arguments = gate_arguments(cell)
        if arguments is None:
            reason = "a call() of its own inside of a recurrent layer, which can't be taken apart"
            name = type(cell).__name__
            yield Gate(path + cell.name, Activation(name, cell, convertible=False, reason=reason))
            continue
        for name, argument in arguments.items():
            own = cell.gates.get(name) if isinstance(cell, GatedCell) else None
            activation = activation_of(own or getattr(cell, argument))
            if activation is not None and not activation.stays:
                yield Gate(path + name, activation)


def cells_of(layer: Any) -> Iterator[tuple[str, Any]]:
    """Every cell of a recurrent layer, after the path to it: "", "backward/", "cell_1/"."""
    if is_distributed(layer):
        yield from cells_of(layer.layer)
    elif isinstance(layer, layers.Bidirectional):
        for direction, part in zip(DIRECTIONS, directions(layer), strict=True):
            yield from ((f"{direction}/{path}", cell) for path, cell in cells_of(part))
    elif not _is_plain(layer):
        yield "", layer  # whatever its call() does with a cell
    elif isinstance(layer.cell, layers.StackedRNNCells) and is_of_keras(type(layer.cell)):
        yield from ((f"cell_{i}/", cell) for i, cell in enumerate(layer.cell.cells))
    else:
        yield "", layer.cell


def is_distributed(layer: Any) -> bool:
    """Whether this is TimeDistributed, not a subclass with a call() of its own."""
    return isinstance(layer, layers.TimeDistributed) and is_of_keras(type(layer))


def outer_axes(layer: Any) -> int:
    """Axes between the batch and the sequence that TimeDistributed takes apart; 0 for other layers."""
    return 1 + outer_axes(layer.layer) if is_distributed(layer) else 0


def fs_gates(layer: Any) -> Iterator[tuple[str, Any]]:
    """Path and layer of every gate that has one of its own."""
    for path, cell in cells_of(layer):
        if isinstance(cell, GatedCell):
            yield from ((path + name, gate) for name, gate in cell.gates.items())


def directions(layer: layers.Bidirectional) -> tuple[Any, Any]:
    """The layers that read a sequence from its beginning and from its end."""
    return layer.forward_layer, layer.backward_layer


def gate_arguments(cell: Any) -> dict[str, str] | None:
    """Gates of a cell in order, each with the argument that is its activation; None for one that is not known."""
    gated = type(cell) if isinstance(cell, GatedCell) else CELLS.get(type(cell))
    return None if gated is None else gated.GATES


def gated_clone(layer: Any, name: str, gates: Mapping[str, keras.layers.Layer]) -> Any:
    """A new recurrent layer of the same configuration, without its weights, with layers at some gates.

    Args:
        layer: the original.
        name: what errors call it.
        gates: layer by path, see `gates_of`; the other gates keep their activation.

    Raises:
        ConversionError: a part of it can't be made from its configuration.
    """
    if is_distributed(layer):
        inner = gated_clone(layer.layer, f"{name}/{layer.layer.name}", gates)
        return layers.TimeDistributed(
            inner, name=layer.name, dtype=layer.dtype_policy, trainable=layer.trainable
        )
    if not isinstance(layer, layers.Bidirectional):
        clone = _clone_of_rnn(layer, name)
    else:
        forward, backward = (
            _clone_of_rnn(part, f"{name}/{part.name}") for part in directions(layer)
        )
        clone = layers.Bidirectional(
            forward, merge_mode=layer.merge_mode, backward_layer=backward, name=layer.name,
            dtype=layer.dtype_policy, trainable=layer.trainable,
            activity_regularizer=layer.activity_regularizer,
        )  # fmt: skip
    # Only now, as Keras makes some parts anew from their configuration, which not every gate has.
    for (path, original), (_, cell) in zip(cells_of(layer), cells_of(clone), strict=True):
        if isinstance(cell, GatedCell):
            cell.install({gate: gates[path + gate] for gate in cell.GATES if path + gate in gates})
            # Only what some gate still applies, so that a function without any is not saved.
            left = {cell.GATES[gate] for gate in cell.GATES.keys() - cell.gates.keys()}
            vars(cell).update({argument: getattr(original, argument) for argument in left})
    return clone


def copy_all_weights(original: Any, clone: Any, name: str) -> None:
    """Copies the weights of a layer; of a recurrent one those of its cells, and what it remembers: gates keep theirs.

    Raises:
        ConversionError: the clone has other weights.
    """
    if not is_recurrent(original):
        copy_weights(original, clone, name)
        return
    for (_, cell), (_, new) in zip(cells_of(original), cells_of(clone), strict=True):
        # The first weights of a gated cell are those of the cell, then come those of its gates.
        own = len(cell.weights)
        if [w.shape for w in new.weights[:own]] != [w.shape for w in cell.weights]:
            raise ConversionError(
                f"layer {name!r} ({type(original).__name__}), made anew from its configuration, has other"
                " weights. Make all weights in its build()"
            )
        for target, source in zip(new.weights, cell.weights, strict=False):
            target.assign(source)
    for part, new_part in zip(rnns(original), rnns(clone), strict=True):
        states = zip(
            keras.tree.flatten(part.states), keras.tree.flatten(new_part.states), strict=True
        )
        for source, target in states if part.states is not None else ():
            target.assign(source)


def rnns(layer: Any) -> list[Any]:
    """The layers that run a cell: one, or the two of Bidirectional."""
    if is_distributed(layer):
        return rnns(layer.layer)
    parts = directions(layer) if isinstance(layer, layers.Bidirectional) else (layer,)
    return [part for part in parts if isinstance(part, layers.RNN)]


def _is_plain(layer: Any) -> bool:
    """Whether a layer runs its cell as Keras does."""
    return isinstance(layer, RecurrentFS) or (
        isinstance(layer, layers.RNN) and is_of_keras(type(layer))
    )


def _clone_of_rnn(layer: Any, name: str) -> Any:
    if not _is_plain(layer):
        return clone_of(layer, name)
    stack = layer.cell
    if isinstance(stack, layers.StackedRNNCells):
        cells = [_clone_of_cell(cell, f"{name}/{cell.name}") for cell in stack.cells]
        cell = layers.StackedRNNCells(cells, name=stack.name, dtype=stack.dtype_policy)
    else:
        cell = _clone_of_cell(stack, name)
    if not (isinstance(cell, (GatedCell, layers.StackedRNNCells))):
        return clone_of(layer, name)
    return RecurrentFS(
        cell, return_sequences=layer.return_sequences, return_state=layer.return_state,
        go_backwards=layer.go_backwards, stateful=layer.stateful, unroll=layer.unroll,
        zero_output_for_mask=layer.zero_output_for_mask, name=layer.name, dtype=layer.dtype_policy,
        trainable=layer.trainable, activity_regularizer=layer.activity_regularizer,
    )  # fmt: skip


def _clone_of_cell(cell: Any, name: str) -> Any:
    gated = type(cell) if isinstance(cell, GatedCell) else CELLS.get(type(cell))
    if gated is None:
        return clone_of(cell, name)
    config = {**config_of(cell, name, linear=True), "gates": None}
    if hasattr(cell, "implementation"):
        config["implementation"] = cell.implementation
    return gated.from_config(config)
