"""What a graph is made of: values that flow, and calls that make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers

from fs_neurons.layers import FSActivation


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor that flows through the model.

    Attributes:
        index: its place in `Graph.values`.
        shape: of one image.
        dtype: of its entries.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str


class Sequence(NamedTuple):
    """What runs over a sequence: a recurrent layer each time that it is called.

    Attributes:
        number: of the call of the layer.
        entry: of TimeDistributed, the place along its axis; one index for each that is inside of another. Neurons
            are others at each place. Empty elsewhere.
    """

    number: int
    entry: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation; a shared layer has several.

    Attributes:
        name: of the operation, after the models that it is nested in.
        op: the layer or operation.
        arguments: (args, kwargs) with `Value`s in place of tensors.
        outputs: its value, or a structure of values.
        sequence: of which this is one of several steps, at each of which the same neurons work; None outside.
        present: value that is true for images whose sequence is not masked at this step; None if all are.
    """

    name: str
    op: keras.Operation
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: Any
    sequence: Sequence | None = None
    present: Value | None = None

    @property
    def inputs(self) -> list[Value]:
        """Values among the arguments, in order; one that is passed twice is there twice."""
        return [x for x in keras.tree.flatten(self.arguments) if isinstance(x, Value)]

    @property
    def needs(self) -> list[Value]:
        """`inputs`, and `present`."""
        return self.inputs if self.present is None else [*self.inputs, self.present]

    @property
    def place(self) -> tuple[str, int, int | None]:
        """Of a site: the same at all steps of a sequence, and of all sequences that TimeDistributed takes apart."""
        return self.name, id(self.op), self.sequence and self.sequence.number

    @property
    def is_site(self) -> bool:
        """Whether this is a layer of FS-neurons."""
        return isinstance(self.op, FSActivation)

    def __call__(self, tensors: Callable[[Value], Any]) -> Any:
        """Runs the operation, at inference, with `tensors(value)` in place of each value."""
        args, kwargs = keras.tree.map_structure(
            lambda x: tensors(x) if isinstance(x, Value) else x, self.arguments
        )
        if isinstance(self.op, layers.Layer):
            # Not left to the defaults: Keras' augmentation layers train unless told otherwise. A layer
            # whose call() has no such argument hands it on to the layers inside.
            kwargs = {**kwargs, "training": False}
        return self.op(*args, **kwargs)
