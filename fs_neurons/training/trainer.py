"""Training of small image networks, resumable after a kill at any moment.

    recipe = RECIPES["fast"].changed(epochs=40)
    train(model, load("cifar10", "train"), load("cifar10", "test"), recipe, checkpoint="resnet8.npz")

Everything that decides what a step sees (order, crops, flips, learning rate) follows from the seed and
the number of the epoch, and a checkpoint holds everything else, so that a resumed run repeats an
uninterrupted one bit for bit on the same machine. (On TensorFlow, some operations give the same only
after `tf.config.experimental.enable_op_determinism()`.)
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.backend import with_gradients
from fs_neurons.backend.training import jit_compile
from fs_neurons.data.datasets import Dataset, standardise
from fs_neurons.training import checkpoints
from fs_neurons.training.average import MovingAverage
from fs_neurons.training.checkpoints import CheckpointError
from fs_neurons.training.recipe import Recipe
from fs_neurons.training.sources import Source, dataset_source
from fs_neurons.training.trainee import Trainee, as_logits, twin

EVALUATION_BATCH = 500


def train(
    model: keras.Model,
    train_set: Dataset,
    test_set: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    teacher: keras.Model | None = None,
    evaluate_every: int = 5,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains `model` in place.

    Args:
        model: network with logits as output.
        train_set: images to train on.
        test_set: images whose accuracy goes into the history; never used to choose weights.
        recipe: see `RECIPES`.
        seed: of order, crops, flips and dropout; set Keras' own seed before building the model.
        checkpoint: file that is replaced atomically after each epoch; None keeps none.
        resume: continue from `checkpoint` when it exists.
        teacher: network whose logits are learned in place of the labels, or besides them; see `Trainee`.
        evaluate_every: epochs between measurements of test accuracy; the last is always measured.
        on_epoch: called with each row of the history: those of a resumed checkpoint first, then new ones
            after the checkpoint is written.
        on_step: called after each step with the number of steps done and of all steps of the run.

    Returns:
        The history: one row per epoch with epoch, learning_rate, loss, train_accuracy,
        test_accuracy (None where not measured) and seconds. Where the recipe keeps an average, the
        test accuracy of the last row is that of the averaged weights, `test_accuracy_last_step` the
        one before averaging.

    Raises:
        CheckpointError: `checkpoint` is truncated or belongs to a different run, or exists while
            `resume` is false.
        ValueError: the recipe has a target of spikes and `model` no FS layer, or there is nothing to
            train.
        FloatingPointError: the loss is no longer finite.
    """
    return run_epochs(
        model,
        recipe,
        dataset_source(train_set, recipe.batch_size, seed),
        seed=seed,
        teacher=teacher,
        checkpoint=checkpoint,
        resume=resume,
        measure=lambda: accuracy(model, test_set),
        measure_every=evaluate_every,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def run_epochs(
    model: keras.Model,
    recipe: Recipe,
    source: Source,
    *,
    seed: int,
    teacher: keras.Model | None = None,
    probabilities: bool = False,
    taught_probabilities: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    measure: Callable[[], float] | None = None,
    measure_every: int = 1,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains `model` in place on any batches; arguments, results and errors as for `train`, and:

    Args:
        source: of inputs and labels; without labels, the teacher is all there is to learn from.
        seed: of `source` and of dropout.
        probabilities: whether the model's outputs are those of a softmax, and
        taught_probabilities: the teacher's.
        measure: the test accuracy of `model`, measured in every `measure_every`th epoch and in the last.
    """
    trainee = Trainee(model, recipe, probabilities=probabilities, seed=seed)
    average = MovingAverage(min(1.0, 1.0 / (recipe.average_epochs * source.steps)))
    averaged = recipe.average_from < 1.0
    taught = None if teacher is None else _Teacher(teacher, recipe.policy, taught_probabilities)
    on_epoch = on_epoch or _nothing
    history: list[dict[str, Any]] = []
    if checkpoint is not None:
        run = checkpoints.fingerprint(
            model, recipe, seed=seed, data=source.describe(), teacher=teacher
        )
        if pathlib.Path(checkpoint).exists():
            if not resume:
                raise CheckpointError(
                    f"{checkpoint} holds an unfinished run: continue it with resume=True, or move it"
                    " away"
                )
            arrays, history = checkpoints.load(checkpoint, run)
            trainee.restore(arrays)
            average.restore(arrays)
            for row in history:
                on_epoch(row)

    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        row = _epoch(trainee, average, taught, source, epoch, on_step or _nothing)
        last = epoch + 1 == recipe.epochs
        if measure is not None and (last or (epoch + 1) % measure_every == 0):
            trainee.write_to(model)
            row["test_accuracy"] = measure()
            if last and averaged:
                average.write_to(model)
                row["test_accuracy_last_step"] = row["test_accuracy"]
                row["test_accuracy"] = measure()
        row["seconds"] = round(time.perf_counter() - started, 2)
        history.append(row)
        if checkpoint is not None:
            checkpoints.save(checkpoint, run, {**trainee.state(), **average.state()}, history)
        on_epoch(row)
    (average if averaged else trainee).write_to(model)
    return history


def _epoch(
    trainee: Trainee,
    average: MovingAverage,
    taught: _Teacher | None,
    source: Source,
    epoch: int,
    on_step: Callable[[int, int], None],
) -> dict[str, Any]:
    """All steps of one epoch; its row of the history, so far as training knows it.

    Raises:
        ValueError: the source has more or fewer batches than it said.
        FloatingPointError: the loss is no longer finite.
    """
    recipe = trainee.recipe
    results: list[dict[str, float]] = []
    total = source.steps * recipe.epochs
    for inputs, labels in source.batches(epoch):
        step = epoch * source.steps + len(results)
        targets = {} if labels is None else {"labels": labels}
        if taught is not None:
            targets["taught"] = taught(inputs)
        trainee.optimizer.learning_rate = recipe.rate_at(step / total)
        with with_gradients():
            results.append(trainee.train_on_batch(inputs, targets, return_dict=True))
        # Started by the last step at the latest.
        if recipe.average_from < 1.0 and (step / total >= recipe.average_from or step + 1 == total):
            average.update(trainee.network)
        on_step(step + 1, total)
    if len(results) != source.steps:
        raise ValueError(f"epoch {epoch + 1} had {len(results)} batches in place of {source.steps}")
    loss = _mean(results, "loss")
    if loss is None or not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss} in epoch {epoch + 1}: use a lower learning rate"
        )
    return {
        "epoch": epoch + 1,
        "learning_rate": recipe.rate_at(epoch / recipe.epochs),
        "loss": loss,
        "train_accuracy": _mean(results, "accuracy"),
        "test_accuracy": None,
        "test_accuracy_last_step": None,
    }


def accuracy(model: keras.Model, data: Dataset) -> float:
    """Share of images in [0, 1] whose largest output is at their label; images are standardised."""
    # A whole number of equal batches, the last one padded: one compiled graph.
    batches = -(-len(data) // EVALUATION_BATCH)
    batch = -(-len(data) // batches)
    right = 0
    for start in range(0, len(data), batch):
        images, labels = data.images[start : start + batch], data.labels[start : start + batch]
        padded = np.resize(images, (batch, *images.shape[1:]))
        logits = ops.convert_to_numpy(model.predict_on_batch(standardise(padded)))
        right += int((logits[: len(labels)].argmax(axis=1) == labels).sum())
    return right / len(data)


class _Teacher:
    """The logits of a network, from a copy of it in the dtype policy of the recipe."""

    def __init__(self, model: keras.Model, policy: str | None, probabilities: bool):
        self._twin = twin(model, policy)
        self._twin.compile(jit_compile=jit_compile())
        self._probabilities = probabilities

    def __call__(self, inputs: Any) -> np.ndarray:
        outputs = as_logits(self._twin.predict_on_batch(inputs), self._probabilities)
        return np.asarray(ops.convert_to_numpy(outputs))


def _nothing(*_: Any) -> None:
    """The callback of those who gave none."""


def _mean(results: list[dict[str, float]], name: str) -> float | None:
    """None where there is no such result."""
    values = [result[name] for result in results if name in result]
    return float(np.mean(values)) if values else None
