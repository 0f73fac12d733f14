"""Recurrent layers as feed-forward networks: the same calls at every step of a sequence.

unrolled = Unrolled(layer, "block/lstm", sequences, states, mask)      # of `RecurrentFS`, or a wrapper of such
unrolled.model, unrolled.inputs, unrolled.steps
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers, ops

from fs_neurons.layers import RecurrentFS
from fs_neurons.network.calls import Value
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.recurrent import DIRECTIONS, directions, is_distributed
from fs_neurons.network.sequences import InitialState, MaskedSequences


def is_unrollable(op: Any) -> bool:
    """Whether this is a recurrent layer whose gates are layers of their own."""
    if is_distributed(op):
        return is_unrollable(op.layer)
    if isinstance(op, layers.Bidirectional):
        return all(isinstance(layer, RecurrentFS) for layer in directions(op))
    return isinstance(op, RecurrentFS)


class Unrolled:
    """A recurrent layer as a functional model, made of Keras' own operations.

    Args:
        layer: a layer for which `is_unrollable` holds, built.
        name: what errors call it.
        sequences: value of the shape (steps, ...); for TimeDistributed, with its axis before.
        states: values of the initial states, in the order of the layer; None for zeros.
        mask: value of the shape of the sequences up to their steps, boolean; None where all count.

    Attributes:
        model: it takes `inputs` and gives what the layer gives.
        inputs: the values among the arguments.
        steps: models of one step of a cell, which `model` calls at each step, with the path to the cell: "",
            "cell_1/", "backward/", and the place along the axis of TimeDistributed, see `calls.Sequence`. They take
            an input, the states and, where there is a mask, whether the step counts, and give an output and new
            states.

    Raises:
        ConversionError: the layer is stateful, or computes in mixed precision.
    """

    def __init__(self, layer: Any, name: str, sequences: Value, states: Any, mask: Value | None):
        self.steps: dict[keras.Model, tuple[str, tuple[int, ...]]] = {}
        given = [] if states is None else keras.tree.flatten(states)
        self.inputs = [sequences, *given, *([] if mask is None else [mask])]
        x, *more = [keras.Input(value.shape, dtype=value.dtype) for value in self.inputs]
        present = None if mask is None else more.pop()
        outputs = self._outputs(layer, name, (), x, more, present)
        self.model = keras.Model([x, *more, *([] if mask is None else [present])], outputs)

    def _outputs(
        self, layer: Any, name: str, entry: tuple[int, ...], x: Any, states: list[Any], mask: Any
    ) -> Any:
        """What a layer, or a wrapper of such, gives for symbolic sequences."""
        if is_distributed(layer):
            _refuse_mixed_precision(layer, name)
            inside = f"{name}/{layer.layer.name}"
            parts = [
                self._outputs(layer.layer, inside, (*entry, i), x[:, i], [], None if mask is None else mask[:, i])
                for i in range(x.shape[1])
            ]  # fmt: skip
            output = ops.stack(parts, axis=1)
            return output if mask is None else MaskedSequences()([output, mask])
        if isinstance(layer, layers.Bidirectional):
            half = len(states) // 2
            forward, backward = (
                self._run(part, f"{name}/{part.name}", f"{direction}/", entry, x, initial, mask)
                for part, direction, initial in zip(
                    directions(layer), DIRECTIONS, (states[:half], states[half:]), strict=True
                )
            )  # fmt: skip
            return _merged(layer, forward, backward, mask)
        return self._run(layer, name, "", entry, x, states, mask)

    def _run(
        self, layer: RecurrentFS, name: str, path: str, entry: tuple[int, ...], sequences: Any,
        states: list[Any], mask: Any,
    ) -> Any:  # fmt: skip
        if layer.stateful:
            raise ConversionError(
                f"{name!r} is stateful: what it gives depends on the batches before. Build it with stateful=False"
                " and pass initial states"
            )
        _refuse_mixed_precision(layer, name)
        zeros = layer.get_initial_state(1)
        if not states:
            # Of one step alone: the others may come later.
            first = sequences[:, -1 if layer.go_backwards else 0]
            states = [InitialState(tuple(x.shape[1:]))(first) for x in keras.tree.flatten(zeros)]
        states = keras.tree.pack_sequence_as(zeros, states)
        stacked = isinstance(layer.cell, layers.StackedRNNCells)
        cells = layer.cell.cells if stacked else [layer.cell]
        shape = tuple(sequences.shape[2:])
        steps = []
        for i, cell in enumerate(cells):
            step = _step(cell, shape, states[i] if stacked else states, mask is not None)
            self.steps[step] = path + (f"cell_{i}/" if stacked else ""), entry
            steps.append(step)
            shape = tuple(step.outputs[0].shape[1:])

        def run(x: Any, states: Any, present: Any) -> tuple[Any, Any]:
            new = []
            for step, own in zip(steps, states if stacked else [states], strict=True):
                x, *after = step([x, *own, *([] if present is None else [present])])
                new.append(after)
            return x, new if stacked else new[0]

        last, returned, states = layer.run(run, sequences, states, mask)
        output = last
        if layer.return_sequences:
            output = returned if mask is None else MaskedSequences()([returned, mask])
        return (output, *states) if layer.return_state else output


def _refuse_mixed_precision(layer: Any, name: str) -> None:
    if layer.compute_dtype != layer.variable_dtype:
        raise ConversionError(
            f"{name!r} computes in {layer.compute_dtype} and has weights in {layer.variable_dtype}, which can't"
            " be unrolled: build it under the dtype policy float32"
        )


def _step(cell: Any, shape: tuple[int, ...], states: Any, masked: bool) -> keras.Model:
    """One step of a cell as a functional model."""
    x = keras.Input(shape)
    before = [keras.Input(tuple(state.shape[1:])) for state in states]
    present = [keras.Input((), dtype="bool")] if masked else []
    with _without_dropout(cell):
        output, after = cell.call(x, before)
    try:
        return keras.Model([x, *before, *present], [output, *keras.tree.flatten(after)])
    except ValueError as error:
        if not masked:
            raise
        # Keras 3.10 takes no input that the outputs do not depend on.
        raise ConversionError(
            f"masked sequences can't be unrolled with Keras {keras.__version__}: install a newer one"
        ) from error


@contextlib.contextmanager
def _without_dropout(cell: Any) -> Iterator[None]:
    """Keras draws masks of dropout even where it does not apply them."""
    rates = {key: vars(cell)[key] for key in ("dropout", "recurrent_dropout")}
    vars(cell).update(dict.fromkeys(rates, 0.0))
    try:
        yield
    finally:
        vars(cell).update(rates)


def _merged(layer: layers.Bidirectional, forward: Any, backward: Any, mask: Any) -> Any:
    """What Bidirectional makes of the outputs of its two layers."""
    states: tuple[Any, ...] = ()
    if layer.return_state:
        (forward, *ahead), (backward, *behind) = forward, backward
        states = (*ahead, *behind)
    masked = layer.return_sequences and mask is not None
    if layer.return_sequences:
        backward = ops.flip(backward, axis=1)
    if layer.merge_mode is None:
        if masked:
            backward = MaskedSequences()([backward, mask])
        return (forward, backward, *states)
    merge = {
        "concat": lambda x, y: ops.concatenate([x, y], axis=-1),
        "sum": ops.add,
        "ave": lambda x, y: (x + y) / 2,
        "mul": ops.multiply,
    }[layer.merge_mode]
    output = merge(forward, backward)
    if masked:
        output = MaskedSequences()([output, mask])
    return (output, *states) if layer.return_state else output
