"""Counting spikes while a network runs.

with record_spikes() as spikes:               # spikes per image of every FS layer that runs
    logits = model(images)
for record in spikes: ...
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from fs_neurons import neuron
from fs_neurons.backend import layer_by_layer, outlived_its_trace
from fs_neurons.neuron import NeuronParameters

if TYPE_CHECKING:
    from fs_neurons.layers.activation import FSActivation


@dataclasses.dataclass(frozen=True)
class SiteRecord:
    """One FS layer that ran inside `record_spikes`.

    Attributes:
        layer: the FS layer.
        shape: shape of its input, the batch first; entries may be None.
        spikes: int32 tensor (images,) of spikes per image, or what `measure` gave.
        present: at a step of a sequence in a recurrent layer with a mask, boolean tensor (images,), false where the
            step is masked: nothing happens there, and no spike is counted. A `measure` of one's own measures it all
            the same. None elsewhere.
    """

    layer: FSActivation
    shape: tuple[int | None, ...]
    spikes: Any
    present: Any = None


# Runs FS-neurons and measures something: (gate inputs, parameters) -> (outputs, what was measured). Gate inputs
# have the layer's own shape, and are over the scale of their channel where it has one.
Measure = Callable[[Any, NeuronParameters], tuple[Any, Any]]
_ADVICE = "call the model itself, model(images), or put record_spikes() inside the function that is compiled"
records_now: contextvars.ContextVar[tuple[list[SiteRecord], Measure] | None] = (
    contextvars.ContextVar("fs_neurons_records", default=None)
)


def shapes_only(x: Any, parameters: NeuronParameters) -> tuple[Any, Any]:
    """A `measure` that measures nothing. A recurrent layer then records one step of its sequence."""
    return neuron.response(x, parameters), None


@contextlib.contextmanager
def collect_records(measure: Measure) -> Iterator[list[SiteRecord]]:
    """As `record_spikes`, without its checks: for code that is traced itself, or needs no FS layer."""
    records: list[SiteRecord] = []
    token = records_now.set((records, measure))
    try:
        yield records
    finally:
        records_now.reset(token)


@contextlib.contextmanager
def record_spikes(
    measure: Measure = neuron.response_and_spikes,
) -> Iterator[list[SiteRecord]]:
    """Collects a `SiteRecord` for every call of an FS layer inside the block, in order of execution.

    Outputs and gradients are those of the same calls outside the block. A layer that runs twice is recorded
    twice, and a gate of a recurrent layer at every step of the sequence, where masked sequences fire no spike.
    Works eagerly, and inside `tf.function` and `jax.jit` when the block is part of the traced function, which
    returns the counts. Functions that are called in the block, such as `model.predict`, run
    layer by layer, though they were compiled before: slower, and recorded batch by batch.

    Args:
        measure: what to do with gate inputs and parameters instead of counting spikes per image; gives
            the neurons' outputs and what the record is to hold.

    Raises:
        RuntimeError: at the end of the block, if no FS layer was called, or one while a function was
            traced that has ended since, so that its spikes have no value.
    """
    with layer_by_layer(), collect_records(measure) as records:
        yield records
    if not records:
        raise RuntimeError(f"no FS layer was called inside record_spikes(): {_ADVICE}")
    for record in records:
        if any(outlived_its_trace(x) for x in keras.tree.flatten(record.spikes)):
            raise RuntimeError(
                f"inside record_spikes(), layer {record.layer.name!r} was called while a function was"
                f" traced, and its spikes never get a value: {_ADVICE}"
            )


def soft_spikes_per_neuron(records: list[SiteRecord]) -> Any:
    """Spikes per neuron of records made with `neuron.response_and_soft_spikes`, a float32 scalar.

    Raises:
        ValueError: some of them are of sequences with masked steps, whose spikes are among them.
    """
    for record in records:
        if record.present is not None:
            raise ValueError(
                f"layer {record.layer.name!r} is part of a sequence with masked steps, whose spikes can't be"
                " penalised: train on sequences of one length, or without a penalty on spikes"
            )
    spikes, neurons = ops.unstack(sum(record.spikes for record in records))
    return spikes / neurons
