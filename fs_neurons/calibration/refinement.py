"""The last step of calibration: weights and ranges that bring all of a network nearest to the analog one.

What came before looked at one layer at a time. Here a few passes of Adam over the calibration data, through the
surrogate gradient, move all kernels, offsets and ranges alpha together, so that what comes later makes up for
errors that stay before it.
"""

from __future__ import annotations

import collections
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.backend import with_gradients
from fs_neurons.calibration.corrections import Moments, offset_of
from fs_neurons.layers import FSActivation, record_spikes, soft_spikes_per_neuron
from fs_neurons.network.graph import Graph, Value
from fs_neurons.network.kinds import channel_axis
from fs_neurons.neuron import response_and_soft_spikes

# Variables, each with a value or the unit of its changes.
Weights = Sequence[tuple[keras.Variable, np.ndarray]]

PASSES, IMAGES = 10, 25
# Of the logarithm of a range, and of a weight in its unit.
RANGE_RATE, WEIGHT_RATE = 0.01, 0.003
# What spikes beyond the budget add to the error, both relative: an error with 1 % too many counts as 10 % more.
SPIKE_COST = 10.0
# A batch has no more neurons than these, for the memory of its backward pass.
NEURONS = 50_000_000


def refine_network(
    spiking: Graph,
    analog: Graph,
    copies: Iterable[tuple[Any, Any]],
    inputs: Sequence[np.ndarray],
    most_spikes: float,
) -> bool:
    """`refine` with all kernels, offsets and ranges of a network.

    Args:
        spiking, analog, inputs, most_spikes: as for `refine`.
        copies: layers of the original network, each with its copy in the converted one.
    """
    originals = [
        (variable, ops.convert_to_numpy(value))
        for original, copy in copies
        for variable, value in zip(copy.weights, original.weights, strict=True)
    ]
    called = {id(call.op): call.op for call in spiking.calls}
    kernels = [
        (weight, _rms_of_channels(weight))
        for layer in called.values()
        for weight in getattr(layer, "weights", ())
        if len(weight.shape) > 1 and "float" in weight.dtype
    ]
    ranges = [s.scale for s in called.values() if isinstance(s, FSActivation) and s.per_channel]
    weights = kernels + _offsets(analog, originals, inputs)
    return refine(spiking, analog, originals, ranges, weights, inputs, most_spikes)


def _rms_of_channels(kernel: keras.Variable) -> np.ndarray:
    squares = np.square(ops.convert_to_numpy(ops.cast(kernel, "float32")))
    return np.asarray(np.sqrt(squares.mean(axis=tuple(range(squares.ndim - 1)))))


def _offsets(
    analog: Graph, originals: Weights, inputs: Sequence[np.ndarray]
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Offsets of layers that are called once, with the standard deviation of their channels."""
    uses = collections.Counter(id(call.op) for call in analog.calls)
    first = [ops.convert_to_tensor(x[:IMAGES]) for x in inputs]
    values = _run(analog, [(v, ops.convert_to_tensor(x)) for v, x in originals], first)
    found = []
    for call in analog.calls:
        offset = offset_of(call.op) if uses[id(call.op)] == 1 else None
        if offset is not None:
            moments = Moments()
            moments.add(values[call.outputs], channel_axis(call.op))
            found.append((offset, np.sqrt(moments.variance)))
    return found


def refine(
    spiking: Graph,
    analog: Graph,
    originals: Weights,
    ranges: Sequence[keras.Variable],
    weights: Weights,
    inputs: Sequence[np.ndarray],
    most_spikes: float,
) -> bool:
    """Least squares for gate inputs and outputs of a converted network, over its weights and ranges.

    The squared error of every site's gate inputs and of every output counts relative to their variance in
    the analog network. Of a softmax, what counts is what it was given, less the mean over classes.

    Args:
        spiking: a converted network; its weights are changed in place.
        analog: the same values, with the original activations at the sites.
        originals: weights of the network, and what they are in the analog one.
        ranges: weights to change that are positive, the scales of FS layers.
        weights: other weights to change, each with the unit of its changes.
        inputs: an array (images, ...) for every input of the network.
        most_spikes: average spikes per neuron that the network is to stay below.

    Returns:
        Whether it changed: not where there is nothing to change, nor where the error became no smaller.
    """
    if not (ranges or weights):
        return False
    images = len(inputs[0])
    neurons = sum(math.prod(call.inputs[0].shape) for call in spiking.sites)
    size = max(1, min(IMAGES, images, NEURONS // neurons))
    first = [x[:size] for x in inputs]
    pair = _Pair(spiking, analog, originals, ranges, weights, first, most_spikes)
    updates = PASSES * (images // size)
    rising = max(1, updates // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, updates - rising, warmup_target=RANGE_RATE, warmup_steps=rising
    )
    # Where errors are small, so are their gradients.
    pair.compile(
        keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12),
        jit_compile=keras.backend.backend() == "jax",
    )
    before = _error(pair, inputs, size)
    with with_gradients(), warnings.catch_warnings():
        # Of weights behind which nothing is compared, such as logits under an argmax.
        warnings.filterwarnings("ignore", message="Gradients do not exist")
        pair.fit(
            _shuffled(inputs, size), steps_per_epoch=updates, epochs=1, shuffle=False, verbose=0
        )
    if not _error(pair, inputs, size) < before:
        return False
    for variable, value in pair.changed():
        variable.assign(value)
    return True


class _Pair(keras.Model):
    """The spiking network beside the analog one: its weights are changes to those of the spiking one, its loss the
    error that these leave."""

    def __init__(
        self,
        spiking: Graph,
        analog: Graph,
        originals: Weights,
        ranges: Sequence[keras.Variable],
        weights: Weights,
        first: Sequence[np.ndarray],
        most_spikes: float,
    ) -> None:
        super().__init__(name="pair")
        logarithms = [(v, self._change(v)) for v in ranges]
        changes = [(v, self._change(v), unit * (WEIGHT_RATE / RANGE_RATE)) for v, unit in weights]
        unchanged = [(v, ops.convert_to_tensor(value)) for v, value in originals]
        observed = [call.inputs[0] for call in spiking.sites]
        outputs = keras.tree.flatten(spiking.outputs)
        given = _run(analog, unchanged, map(ops.convert_to_tensor, first))
        softmax = {v for v in outputs if _are_probabilities(ops.convert_to_numpy(given[v]))}
        observed += [v for v in outputs if "float" in v.dtype]

        # Closures: as attributes, the network and its weights would be trained too.
        def changed() -> list[tuple[keras.Variable, Any]]:
            return [(v, v * ops.exp(change)) for v, change in logarithms] + [
                (v, v + ops.cast(change * unit, v.dtype)) for v, change, unit in changes
            ]

        def loss(inputs: Sequence[Any]) -> Any:
            wanted = _run(analog, unchanged, inputs)
            with record_spikes(response_and_soft_spikes) as records:
                given = _run(spiking, changed(), inputs)
            error = sum(_relative_error(wanted[v], given[v], v in softmax) for v in observed)
            beyond = ops.maximum(soft_spikes_per_neuron(records) / most_spikes - 1, 0.0)
            return error * (1 + SPIKE_COST * beyond)

        self.changed, self._loss = changed, loss
        self.built = True

    def _change(self, variable: keras.Variable) -> keras.Variable:
        return self.add_weight(variable.shape, "zeros", dtype="float32")

    def call(self, inputs: Sequence[Any]) -> None:
        self.add_loss(self._loss(inputs))


def _run(graph: Graph, weights: Any, inputs: Iterable[Any]) -> dict[Value, Any]:
    """All values of a network whose weights are others."""
    values = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(state_mapping=weights):
        for call in graph.calls:
            outputs = keras.tree.flatten(call(values.__getitem__))
            values.update(zip(keras.tree.flatten(call.outputs), outputs, strict=True))
    return values


def _relative_error(wanted: Any, given: Any, softmax: bool) -> Any:
    wanted, given = (ops.cast(y, "float32") for y in (ops.stop_gradient(wanted), given))
    if softmax:
        wanted, given = (ops.log(ops.maximum(y, 1e-30)) for y in (wanted, given))
        wanted, given = (y - ops.mean(y, axis=-1, keepdims=True) for y in (wanted, given))
    return ops.mean(ops.square(given - wanted)) / (ops.var(wanted) + 1e-12)


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool(
        outputs.ndim > 1
        and outputs.shape[-1] > 1
        and (outputs >= 0).all()
        and np.allclose(outputs.sum(axis=-1, dtype=float), 1, atol=0.01)
    )


def _error(pair: keras.Model, inputs: Sequence[np.ndarray], size: int) -> float:
    """The loss; infinite where it is NaN."""
    losses = pair.evaluate(tuple(inputs), batch_size=size, verbose=0, return_dict=True)
    return float(np.nan_to_num(losses["loss"], nan=np.inf))


def _shuffled(inputs: Sequence[np.ndarray], size: int) -> Iterator[tuple[tuple[np.ndarray, ...]]]:
    rng = np.random.default_rng(0)
    images = len(inputs[0])
    for _ in range(PASSES):
        order = rng.permutation(images)
        for i in range(0, images - size + 1, size):
            yield (tuple(x[order[i : i + size]] for x in inputs),)
