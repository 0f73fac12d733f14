"""Recurrent layers whose gates are layers of FS-neurons.

    cell = FSLSTMCell(64, gates={"forget": FSSigmoid(), "candidate": FSActivation("tanh_k12")})
    y = RecurrentFS(cell, return_sequences=True)(x)

A cell of Keras applies its activation functions at several places, its gates. In a gated cell each of them may have
a layer of its own; what a cell computes and keeps beside is Keras'. `convert` puts `RecurrentFS` over gated cells where a
network has SimpleRNN, LSTM, GRU, ConvLSTM, or RNN over such cells or a stack of them. Saved models load after
`import fs_neurons`.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import keras
from keras import layers, ops

from fs_neurons import neuron
from fs_neurons.layers.recording import Measure, SiteRecord, records_now, shapes_only

# The one cell that Keras does not make public stands beside the layer that it is for.
ConvLSTMCell: Any = vars(sys.modules[layers.ConvLSTM2D.__base__.__module__])["ConvLSTMCell"]

_register = keras.saving.register_keras_serializable(package="fs_neurons")

_RECURRENT, _OWN = "recurrent_activation", "activation"
_LSTM = {
    "input": _RECURRENT,
    "forget": _RECURRENT,
    "candidate": _OWN,
    "output": _RECURRENT,
    "cell": _OWN,
}
_GRU = {"update": _RECURRENT, "reset": _RECURRENT, "candidate": _OWN}


class GatedCell(layers.Layer):
    """What the gated cells have in common; beside it they are Keras' cells.

    Args:
        gates: layer, or its serialised configuration, by the name of a gate; a gate without a layer of its own keeps
            the activation function of the cell.

    Attributes:
        GATES: gate -> argument of the cell that is its activation function, in the order in which the cell applies
            them.

    Raises:
        ValueError: the cell has no such gate.
    """

    GATES: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, gates: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gates: dict[str, Any] = {}
        self.install(gates or {})

    def install(self, gates: Mapping[str, Any]) -> None:
        """Gives gates layers, before the cell is built."""
        unknown = sorted(gates.keys() - self.GATES.keys())
        if unknown:
            raise ValueError(
                f"cell {self.name!r} ({type(self).__name__}) has no gate {unknown[0]!r}; it has"
                f" {', '.join(self.GATES)}"
            )
        for name in self.GATES:
            if name in gates:
                gate = gates[name]
                is_layer = isinstance(gate, keras.Operation)
                self.gates[name] = gate if is_layer else keras.saving.deserialize_keras_object(gate)

    def build(self, input_shape: Any) -> None:
        input_shape = tuple(input_shape)  # a list in a saved model
        super().build(input_shape)
        shape = self.gate_shape(input_shape)
        for gate in self.gates.values():
            if not gate.built:
                gate.build(shape)

    def gate_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Of the inputs of a gate."""
        return (input_shape[0], self.units)

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        own = {argument: getattr(self, argument) for argument in set(self.GATES.values())}
        turns = {
            argument: _Turns([self.gates.get(name, function) for name, given in self.GATES.items() if given == argument])
            for argument, function in own.items()
        }  # fmt: skip
        # Not by assignment: Keras would track the functions as parts of the layer.
        vars(self).update(turns)
        try:
            result = super().call(inputs, states, training=training)
        finally:
            vars(self).update(own)
        if any(turn.left for turn in turns.values()):
            raise RuntimeError(_unknown_cell(self))
        return result

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if hasattr(self, "implementation"):
            config["implementation"] = self.implementation
        gates = {
            name: keras.saving.serialize_keras_object(gate) for name, gate in self.gates.items()
        }
        return {**config, "gates": gates}


class _Turns:
    """An activation function that is another one each time that it is applied."""

    def __init__(self, functions: list[Callable[[Any], Any]]):
        self.left = functions

    def __call__(self, x: Any) -> Any:
        return self.left.pop(0)(x)


def _unknown_cell(cell: GatedCell) -> str:
    return (
        f"cell {cell.name!r}: this version of Keras ({keras.__version__}) applies the activations of a"
        f" {type(cell).__name__.removeprefix('FS')} at other places than {', '.join(cell.GATES)}"
    )


@_register
class FSSimpleRNNCell(GatedCell, layers.SimpleRNNCell):
    """h = state(W x + U h + b)."""

    GATES: ClassVar[dict[str, str]] = {"state": _OWN}


@_register
class FSLSTMCell(GatedCell, layers.LSTMCell):
    """c = forget(.) c + input(.) candidate(.), h = output(.) cell(c), with an affine map of x and h at each dot."""

    GATES: ClassVar[dict[str, str]] = _LSTM


@_register
class FSGRUCell(GatedCell, layers.GRUCell):
    """h = z h + (1 - z) candidate(.), z = update(.), with reset(.) on h or its product with weights."""

    GATES: ClassVar[dict[str, str]] = _GRU


@_register
class FSConvLSTMCell(GatedCell, ConvLSTMCell):  # type: ignore[misc]  # Keras has no types
    """As FSLSTMCell, with convolutions along as many axes as `kernel_size` has."""

    GATES: ClassVar[dict[str, str]] = _LSTM

    def __init__(self, *, kernel_size: tuple[int, ...], **kwargs: Any):
        # Keras' own configuration of the cell leaves it out.
        super().__init__(rank=len(kernel_size), kernel_size=tuple(kernel_size), **kwargs)

    def gate_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape: tuple[int | None, ...] = self.compute_output_shape(input_shape)[0]
        return shape


# The gated cell of each cell of Keras.
CELLS: dict[type, type[GatedCell]] = {
    layers.SimpleRNNCell: FSSimpleRNNCell,
    layers.LSTMCell: FSLSTMCell,
    layers.GRUCell: FSGRUCell,
    ConvLSTMCell: FSConvLSTMCell,
}
# What records while a recurrent layer runs: not what Keras computes beside the steps of the sequence.
_recording: contextvars.ContextVar[tuple[list[SiteRecord], Measure] | None] = contextvars.ContextVar(
    "fs_neurons_recording", default=None
)  # fmt: skip


_without_loops: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "fs_neurons_without_loops", default=False
)


@contextlib.contextmanager
def without_loops() -> Iterator[None]:
    """Recurrent layers go through their sequences step by step, as tracers need it that look into no loop."""
    token = _without_loops.set(True)
    try:
        yield
    finally:
        _without_loops.reset(token)


@_register
class RecurrentFS(layers.RNN):
    """keras.layers.RNN over a gated cell, or over StackedRNNCells of them.

    Inside `record_spikes` the sequence is run step by step, since nothing that is recorded leaves a compiled loop.
    """

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        tokens = [
            (_recording, _recording.set(records_now.get())),
            (records_now, records_now.set(None)),
        ]
        try:
            return super().call(
                sequences, initial_state=initial_state, mask=mask, training=training
            )
        finally:
            for variable, token in tokens:
                variable.reset(token)

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> Any:
        recording = _recording.get()
        looks_at_shapes = recording is not None and recording[1] is shapes_only
        if looks_at_shapes:
            self._step(recording, sequences[:, 0], initial_state, None, training)
        if looks_at_shapes or (recording is None and not _without_loops.get()):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        if sequences.shape[1] is None:
            raise ValueError(
                f"layer {self.name!r} is to run step by step, which needs sequences of known length: build the"
                " model with an input of known size"
            )

        def step(x: Any, states: Any, present: Any) -> tuple[Any, Any]:
            return self._step(recording, x, states, present, training)

        return self.run(step, sequences, initial_state, keras.tree.flatten(mask)[0])

    def run(
        self,
        step: Callable[[Any, Any, Any], tuple[Any, Any]],
        sequences: Any,
        states: Any,
        mask: Any,
    ) -> tuple[Any, Any, Any]:
        """The loop over a sequence of known length, as Keras' compiled one computes it.

        Args:
            step: (input, states, which of the sequences are not masked) -> (output, states).
            sequences: (images, steps, ...).
            states: a list as the cell has them.
            mask: (images, steps), or None.

        Returns:
            The last output, all that are returned (images, steps, ...), and the last states.
        """
        order = range(sequences.shape[1])
        outputs: list[Any] = []
        before: Any = None
        for t in reversed(order) if self.go_backwards else order:
            present = None if mask is None else ops.cast(mask[:, t], "bool")
            output, new = step(sequences[:, t], states, present)
            if present is not None:
                if self.zero_output_for_mask or before is None:
                    before = self._before_the_first(output, states)
                output = _where(present, output, before)
                new = keras.tree.map_structure(
                    lambda a, b: _where(present, a, b),  # noqa: B023
                    keras.tree.pack_sequence_as(states, keras.tree.flatten(new)), states,
                )  # fmt: skip
            states = new
            before = output
            outputs.append(output)
        returned = outputs if self.return_sequences else outputs[-1:]
        return outputs[-1], ops.stack(returned, axis=1), states

    def _before_the_first(self, output: Any, states: Any) -> Any:
        """What a masked step gives that has none before it: zeros; on JAX, Keras takes the initial state."""
        if keras.backend.backend() != "jax" or self.zero_output_for_mask:
            return ops.zeros_like(output)
        last = states[-1] if keras.tree.is_nested(states[0]) else states
        return last[0]

    def _step(
        self,
        recording: tuple[list[SiteRecord], Measure] | None,
        x: Any,
        states: Any,
        present: Any,
        training: bool,
    ) -> tuple[Any, Any]:
        seen: list[SiteRecord] = []
        token = records_now.set(None if recording is None else (seen, recording[1]))
        try:
            output, new = self.cell(x, states, training=training)
        finally:
            records_now.reset(token)
        if recording is not None:
            records, measure = recording
            if present is not None:
                seen = [_masked(record, present, measure) for record in seen]
            records += seen
        return output, new if keras.tree.is_nested(new) else [new]

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        if not isinstance(self.cell, ConvLSTMCell):
            return super().compute_output_shape(sequences_shape, initial_state_shape)
        batch, steps, *step = sequences_shape
        state = tuple(self.cell.gate_shape((batch, *step)))
        output = (batch, steps, *state[1:]) if self.return_sequences else state
        return (output, state, state) if self.return_state else output

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        masks = super().compute_mask(inputs, mask)
        # Keras does not know how many states a convolutional cell has.
        is_short = self.return_state and isinstance(self.cell, ConvLSTMCell)
        return [masks[0], None, None] if is_short else masks


def _where(present: Any, x: Any, y: Any) -> Any:
    """Entries of x (images, ...) where a sequence is present (images,), else of y."""
    return ops.where(ops.reshape(present, (-1,) + (1,) * (len(x.shape) - 1)), x, y)


def _masked(record: SiteRecord, present: Any, measure: Measure) -> SiteRecord:
    """A record of a step at which only some sequences take part."""
    spikes = record.spikes
    if measure is neuron.response_and_spikes:
        spikes = spikes * ops.cast(present, spikes.dtype)
    return SiteRecord(record.layer, record.shape, spikes, present)
