"""The last step of calibration: ranges and offsets that bring the outputs nearest to those of the analog network.

What came before looked at one layer at a time. Here a few passes of Adam over the calibration data, through the
surrogate gradient, move the logarithm of every range alpha and every offset; other weights stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons._backend import with_gradients

PASSES, IMAGES = 5, 25
# Of the logarithm of a range, and of an offset in units of the deviation of its channel.
RANGE_RATE, OFFSET_RATE = 0.01, 0.003
# A batch has no more neurons than these, for the memory of its backward pass.
NEURONS = 50_000_000


def refine(
    network: keras.Model,
    ranges: Sequence[keras.Variable],
    offsets: Sequence[tuple[keras.Variable, np.ndarray]],
    inputs: Sequence[Any],
    wanted: Sequence[Any],
    neurons: int,
) -> bool:
    """Least squares for the outputs of a converted network, over its ranges and offsets.

    Of a softmax, what counts is what it was given, less the mean over classes.

    Args:
        network: it is changed in place.
        ranges: positive weights, the scales of its FS layers.
        offsets: other weights, each with the unit of its changes.
        inputs: of the network, a structure of arrays per batch.
        wanted: outputs for each batch.
        neurons: number of FS-neurons.

    Returns:
        Whether it changed: not where there is nothing to change, nor where the outputs came no nearer, as
        was seen with one or two steps, for which the surrogate gradient is coarse.
    """
    differentiable = all(
        "float" in keras.backend.standardize_dtype(y.dtype) for y in keras.tree.flatten(wanted[0])
    )
    if not differentiable or not (ranges or offsets):
        return False
    inputs, outputs = _joined(inputs), _joined(wanted)
    softmax = keras.tree.map_structure(_are_probabilities, outputs)
    outputs = keras.tree.map_structure(
        lambda y, s: ops.convert_to_numpy(_comparable(y, s)), outputs, softmax
    )
    changed = _Changed(network, ranges, offsets, softmax)
    images = len(keras.tree.flatten(inputs)[0])
    size = max(1, min(IMAGES, images, NEURONS // neurons))
    updates = PASSES * (images // size)
    rising = max(1, updates // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, updates - rising, warmup_target=RANGE_RATE, warmup_steps=rising
    )
    # Where the outputs are small, so are their gradients.
    changed.compile(
        keras.optimizers.Adam(rate, beta_2=0.99, epsilon=1e-12),
        loss="mse",
        jit_compile=keras.backend.backend() == "jax",
    )
    before = _error(changed, inputs, outputs, size)
    shuffled = _shuffled(inputs, outputs, images, size)
    with with_gradients():
        changed.fit(shuffled, steps_per_epoch=updates, epochs=1, shuffle=False, verbose=0)
    if not _error(changed, inputs, outputs, size) < before:
        return False
    for variable, value in changed.values():
        variable.assign(value)
    return True


class _Changed(keras.Model):
    """A network with changes to some of its weights, which are the weights of this model."""

    def __init__(self, network, ranges, offsets, softmax):
        super().__init__(name="changed")
        ranges = [(v, self._change(v)) for v in ranges]
        offsets = [
            (v, self._change(v), np.float32(unit * OFFSET_RATE / RANGE_RATE)) for v, unit in offsets
        ]

        # Closures: as attributes, the network and its weights would be trained too.
        def values() -> list[tuple[keras.Variable, Any]]:
            return [(v, v * ops.exp(change)) for v, change in ranges] + [
                (v, v + ops.cast(ops.multiply(change, unit), v.dtype))
                for v, change, unit in offsets
            ]

        def run(inputs: Any) -> Any:
            with keras.StatelessScope(state_mapping=values()):
                outputs = network(inputs, training=False)
            return keras.tree.map_structure(_comparable, outputs, softmax)

        self.values, self._run = values, run
        self.built = True

    def _change(self, variable: keras.Variable) -> keras.Variable:
        return self.add_weight(variable.shape, "zeros", dtype="float32")

    def call(self, inputs: Any) -> Any:
        return self._run(inputs)


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool(
        outputs.ndim > 1
        and outputs.shape[-1] > 1
        and (outputs >= 0).all()
        and np.allclose(outputs.sum(axis=-1, dtype=float), 1, atol=0.01)
    )


def _comparable(outputs: Any, softmax: bool) -> Any:
    """Outputs, those of a softmax as what it was given less the mean."""
    if not softmax:
        return outputs
    logits = ops.log(ops.maximum(ops.cast(outputs, "float32"), 1e-30))
    return logits - ops.mean(logits, axis=-1, keepdims=True)


def _joined(batches: Sequence[Any]) -> Any:
    """One structure of arrays from those of batches."""
    return keras.tree.map_structure(
        lambda *parts: np.concatenate([ops.convert_to_numpy(part) for part in parts]), *batches
    )


def _error(model: keras.Model, inputs: Any, outputs: Any, size: int) -> float:
    """Squared error; infinite where it is NaN."""
    losses = model.evaluate(inputs, outputs, batch_size=size, verbose=0, return_dict=True)
    return float(np.nan_to_num(losses["loss"], nan=np.inf))


def _shuffled(inputs: Any, outputs: Any, images: int, size: int) -> Iterator[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    for _ in range(PASSES):
        order = rng.permutation(images)
        for i in range(0, images - size + 1, size):
            batch = order[i : i + size]
            yield keras.tree.map_structure(lambda x, batch=batch: x[batch], (inputs, outputs))
