"""Training of small image networks, resumable after a kill at any moment.

    recipe = RECIPES["fast"].changed(epochs=40)
    train(model, load("cifar10", "train"), load("cifar10", "test"), recipe, checkpoint="resnet8.npz")

One step of stochastic gradient descent is written once per backend (TensorFlow, JAX); everything
that decides what a step sees (order, crops, flips, learning rate) comes from numpy generators
seeded by (seed, epoch), so that a run resumed from a checkpoint repeats an uninterrupted one.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from fs_neurons import neuron
from fs_neurons.data.datasets import Dataset, standardise
from fs_neurons.files import write_atomically
from fs_neurons.layers import collect_records, soft_spikes_per_neuron

EVALUATION_BATCH = 500
# Of the softmax of a teacher: the ratios of its small outputs count as well.
TEMPERATURE = 2.0
# In the loss, of a spike per neuron beyond the target.
SPIKE_COST = 2.0


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from: truncated, or made by a different run."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum; how the learning rate moves; what is averaged.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: its peak value.
        schedule: "steps" (divided by 10 at one half and at three quarters of the run, the paper's)
            or "one_cycle" (linear warm-up over the first fifth, then linear to zero).
        nesterov: Nesterov momentum.
        momentum: decay of the velocity.
        weight_decay: L2 factor on all trainable weights: the gradient gains weight_decay x weight.
            Scales and offsets of batch normalisation are included: they set the size of the
            activations, and a larger activation costs an FS-ReLU more spikes.
        average_from: share of the run after which an exponential moving average of all weights is
            kept and becomes the result; 1.0 for none.
        average_epochs: time constant of that average.
        policy: Keras dtype policy of the training graph; weights are float32 in either case.
        label_share: of the loss where there is a teacher; the rest is the teacher's.
        target_spikes: average spikes per neuron of a network with FS layers, beyond which every
            further spike per neuron adds SPIKE_COST to the loss; None for any number.
    """

    epochs: int
    learning_rate: float
    schedule: str
    nesterov: bool
    weight_decay: float
    average_from: float
    policy: str
    batch_size: int = 128
    momentum: float = 0.9
    average_epochs: float = 2.0
    label_share: float = 0.0
    target_spikes: float | None = None

    def changed(
        self,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
    ) -> Recipe:
        """The same recipe with other epochs, peak learning rate or weight decay; None keeps them."""
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        given: dict[str, Any] = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        }
        return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None})

    def rate_at(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1) of the run."""
        if self.schedule == "steps":
            return self.learning_rate * (
                1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
            )
        warm_up = 0.2
        if progress < warm_up:
            return self.learning_rate * progress / warm_up
        return self.learning_rate * (1.0 - progress) / (1.0 - warm_up)


# "paper": 182 epochs, learning rate 0.1 divided by 10 at epochs 91 and 136 (TensorFlow models' ResNet).
# "fast": one cycle with bfloat16 arithmetic, for machines with a few CPU cores.
RECIPES = {
    "paper": Recipe(182, 0.1, "steps", False, 2e-4, 1.0, "float32"),
    "fast": Recipe(45, 0.15, "one_cycle", True, 5e-4, 0.6, "mixed_bfloat16"),
}


def train(
    model: keras.Model,
    train_set: Dataset,
    test_set: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    teacher: keras.Model | None = None,
    evaluate_every: int = 5,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """Trains `model` in place.

    Args:
        model: network with logits as output.
        train_set: images to train on.
        test_set: images whose accuracy goes into the history; never used to choose weights.
        recipe: see `RECIPES`.
        seed: of order, crops and flips; set Keras' own seed before building the model.
        checkpoint: file that is replaced atomically after each epoch; None keeps none.
        resume: continue from `checkpoint` when it exists.
        teacher: network whose outputs are learned in place of the labels, or besides them: the loss is
            the cross-entropy of its softmax and the model's, both with logits divided by TEMPERATURE,
            times TEMPERATURE squared (Hinton, Vinyals and Dean, 2015).
        evaluate_every: epochs between measurements of test accuracy; the last is always measured.
        on_epoch: called with each new row of the history.
        verbose: whether to show a progress bar per epoch.

    Returns:
        The history: one row per epoch with epoch, learning_rate, loss, train_accuracy,
        test_accuracy (None where not measured) and seconds. Where the recipe keeps an average, the
        test accuracy of the last row is that of the averaged weights, `test_accuracy_last_step` the
        one before averaging.

    Raises:
        CheckpointError: `checkpoint` is truncated or belongs to a different run, or exists while
            `resume` is false.
        ValueError: the recipe has a target of spikes and `model` no FS layer.
        FloatingPointError: the loss is no longer finite.
    """
    run = _fingerprint(model, train_set, recipe, seed)
    if teacher is not None:
        run["teacher"] = teacher.name
    steps_per_epoch = max(1, len(train_set) // recipe.batch_size)
    stepper = _stepper(model, recipe, steps_per_epoch, teacher)
    history: list[dict[str, Any]] = []
    path = pathlib.Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        if not resume:
            raise CheckpointError(
                f"{path} holds an unfinished run: continue it with --resume, or move it away"
            )
        arrays, history = _load_checkpoint(path, run)
        stepper.restore(arrays)

    total_steps = steps_per_epoch * recipe.epochs
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        bar = keras.utils.Progbar(
            steps_per_epoch,
            verbose=int(verbose),
            unit_name=f"step (epoch {epoch + 1}/{recipe.epochs})",
        )
        losses, hits = [], []
        batches = augmented_batches(train_set, recipe.batch_size, seed, epoch)
        for step, (images, labels) in enumerate(batches, start=epoch * steps_per_epoch):
            progress = step / total_steps
            loss, hit = stepper.step(
                images, labels, recipe.rate_at(progress), average=progress >= recipe.average_from
            )
            losses.append(loss)
            hits.append(hit)
            bar.add(1)
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "learning_rate": recipe.rate_at(epoch / recipe.epochs),
            "loss": float(np.mean([float(loss) for loss in losses])),
            "train_accuracy": float(np.mean([float(hit) for hit in hits])),
            "test_accuracy": None,
            "test_accuracy_last_step": None,
        }
        last = epoch + 1 == recipe.epochs
        if last or (epoch + 1) % evaluate_every == 0:
            stepper.write_to(model, averaged=False)
            row["test_accuracy"] = accuracy(model, test_set)
        if last and recipe.average_from < 1.0:
            stepper.write_to(model, averaged=True)
            row["test_accuracy_last_step"] = row["test_accuracy"]
            row["test_accuracy"] = accuracy(model, test_set)
        row["seconds"] = round(time.perf_counter() - started, 2)
        history.append(row)
        if not np.isfinite(row["loss"]):
            raise FloatingPointError(
                f"the loss is {row['loss']} in epoch {epoch + 1}: lower the learning rate"
            )
        if path is not None:
            _save_checkpoint(path, run, stepper.arrays(), history)
        if on_epoch is not None:
            on_epoch(row)
    stepper.write_to(model, averaged=recipe.average_from < 1.0)
    return history


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


def augmented_batches(data: Dataset, batch_size: int, seed: int, epoch: int):
    """Batches of one epoch, shuffled, standardised, padded, randomly cropped, mirrored where allowed.

    Images are standardised before they are padded with zeros, their mean: black borders would give
    the network statistics in training that it never meets again.

    Yields:
        float32 images (batch, height, width, channels) and int32 labels (batch,). A last batch that
        is not full is left out, unless it is the only one.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(data))
    height, width = data.images.shape[1:3]
    pad = data.padding
    batch_size = min(batch_size, len(data))
    padded = np.zeros(
        (batch_size, height + 2 * pad, width + 2 * pad, data.images.shape[3]), np.float32
    )
    for start in range(0, len(data) - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        padded[:, pad : pad + height, pad : pad + width] = ops.convert_to_numpy(
            standardise(data.images[index])
        )
        offsets = random.integers(0, 2 * pad + 1, size=(batch_size, 2))
        images = np.empty((batch_size, height, width, data.images.shape[3]), np.float32)
        for image, source, (top, left) in zip(images, padded, offsets, strict=True):
            image[...] = source[top : top + height, left : left + width]
        if data.flip:
            mirrored = random.random(batch_size) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        yield images, data.labels[index]


def log_epoch(row: dict[str, Any]) -> None:
    """Logs a row of the history; an `on_epoch` for `train`."""
    test = "" if row["test_accuracy"] is None else f", test accuracy {row['test_accuracy']:.2%}"
    logging.info(
        "epoch %d: loss %.4f, train accuracy %.2f%%%s, %.0f s",
        row["epoch"], row["loss"], 100 * row["train_accuracy"], test, row["seconds"],
    )  # fmt: skip


def write_history(path: str | os.PathLike, history: list[dict[str, Any]]) -> None:
    """Writes the history as CSV, atomically."""
    with write_atomically(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


# --- one step of gradient descent, on TensorFlow and on JAX -------------------------------------


def _stepper(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int, teacher: keras.Model | None = None
) -> _Stepper:
    if keras.backend.backend() == "tensorflow":
        return _TensorFlowStepper(model, recipe, steps_per_epoch, teacher)
    if keras.backend.backend() == "jax":
        return _JaxStepper(model, recipe, steps_per_epoch, teacher)
    raise RuntimeError("training runs on the TensorFlow and JAX backends: set KERAS_BACKEND")


def _loss_and_hits(
    network: Callable[[], Any], labels: Any, taught: Any, recipe: Recipe
) -> tuple[Any, Any]:
    """Loss and share of correct answers of a batch, whose logits `network` computes."""
    if recipe.target_spikes is None:
        logits, beyond = network(), 0.0
    else:
        with collect_records(neuron.response_and_soft_spikes) as records:
            logits = network()
        if not records:
            raise ValueError("target_spikes is for converted networks; this one has no FS layer")
        beyond = ops.maximum(soft_spikes_per_neuron(records) - recipe.target_spikes, 0.0)
    logits = ops.cast(logits, "float32")
    loss = ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    if taught is not None:
        target = ops.softmax(ops.cast(taught, "float32") / TEMPERATURE)
        soft = ops.categorical_crossentropy(target, logits / TEMPERATURE, from_logits=True)
        loss = recipe.label_share * loss + (1 - recipe.label_share) * TEMPERATURE**2 * ops.mean(
            soft
        )
    hits = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
    return loss + SPIKE_COST * beyond, ops.mean(ops.cast(hits, "float32"))


def _descend(recipe: Recipe, weight, velocity, gradient, rate):
    """Momentum update of one weight; returns the new weight and velocity."""
    gradient = gradient + recipe.weight_decay * weight
    velocity = recipe.momentum * velocity - rate * gradient
    ahead = recipe.momentum * velocity - rate * gradient if recipe.nesterov else velocity
    return weight + ahead, velocity


class _Stepper:
    """What both backends share: a training twin of the model in the recipe's dtype policy."""

    def __init__(
        self, model: keras.Model, recipe: Recipe, steps_per_epoch: int, teacher: keras.Model | None
    ):
        self.recipe = recipe
        self.teacher = teacher and self._twin(teacher)
        self.average_share = min(1.0, 1.0 / (recipe.average_epochs * steps_per_epoch))
        self.twin = self._twin(model)
        # The order of Model.get_weights(), which is that of the model written back to.
        position = {id(variable): i for i, variable in enumerate(self.twin.weights)}
        self.trainable_at = [position[id(v)] for v in self.twin.trainable_variables]
        self.other_at = [position[id(v)] for v in self.twin.non_trainable_variables]

    def step(self, images: Any, labels: Any, rate: float, average: bool) -> tuple[Any, Any]:
        """One step at the learning rate `rate`: loss and correct ones of the batch."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole state, by name."""
        raise NotImplementedError

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes back what `arrays` gave."""
        raise NotImplementedError

    def _twin(self, model: keras.Model) -> keras.Model:
        twin = keras.models.clone_model(model, clone_function=self._clone_layer)
        twin.set_weights(model.get_weights())
        return twin

    def _clone_layer(self, layer):
        config = {**layer.get_config(), "dtype": self.recipe.policy}
        return layer.__class__.from_config(config)

    def taught(self, images: Any) -> Any:
        """Logits of the teacher; None without one."""
        return None if self.teacher is None else self.teacher(images, training=False)

    def write_to(self, model: keras.Model, averaged: bool) -> None:
        arrays = self.arrays()
        kind = "average" if averaged else "weight"
        model.set_weights([arrays[f"{kind}_{i}"] for i in range(len(self.twin.weights))])


class _TensorFlowStepper(_Stepper):
    def __init__(
        self, model: keras.Model, recipe: Recipe, steps_per_epoch: int, teacher: keras.Model | None
    ):
        import tensorflow as tf

        super().__init__(model, recipe, steps_per_epoch, teacher)
        weights = [v.value for v in self.twin.weights]
        self.velocity = [tf.Variable(tf.zeros_like(v.value)) for v in self.twin.trainable_variables]
        self.average = [tf.Variable(weight) for weight in weights]
        self.averaging = tf.Variable(False)

        @tf.function
        def step(images, labels, rate, average):
            trainable = [v.value for v in self.twin.trainable_variables]
            taught = self.taught(images)
            with tf.GradientTape() as tape:
                loss, hits = _loss_and_hits(
                    lambda: self.twin(images, training=True), labels, taught, recipe
                )
            gradients = tape.gradient(loss, trainable)
            for weight, velocity, gradient in zip(trainable, self.velocity, gradients, strict=True):
                new, moved = _descend(recipe, weight, velocity, gradient, rate)
                velocity.assign(moved)
                weight.assign(new)
            if average:
                # The first averaged step starts the average, the others move it.
                share = tf.where(self.averaging, self.average_share, 1.0)
                for mean, weight in zip(self.average, weights, strict=True):
                    mean.assign_add(share * (weight - mean))
                self.averaging.assign(True)
            return loss, hits

        self._step = step
        self._constant = tf.constant

    def _clone_layer(self, layer):
        # Keras' own batch normalisation is several operations on TensorFlow, and twice as slow.
        if type(layer) is keras.layers.BatchNormalization:
            config = {**layer.get_config(), "dtype": self.recipe.policy}
            return _FusedBatchNormalization.from_config(config)
        return super()._clone_layer(layer)

    def step(self, images, labels, rate: float, average: bool):
        return self._step(images, labels, self._constant(rate, "float32"), average)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            **{f"weight_{i}": v.numpy() for i, v in enumerate(self.twin.weights)},
            **{f"velocity_{i}": v.numpy() for i, v in enumerate(self.velocity)},
            **{f"average_{i}": v.numpy() for i, v in enumerate(self.average)},
            "averaging": self.averaging.numpy(),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        for kind, variables in (
            ("weight", self.twin.weights),
            ("velocity", self.velocity),
            ("average", self.average),
        ):
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{kind}_{i}"])
        self.averaging.assign(bool(arrays["averaging"]))


class _FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis in one TensorFlow operation, for training only."""

    def call(self, inputs, training=None, mask=None):
        import tensorflow as tf

        if not training:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.value.assign_add((1.0 - self.momentum) * (batch - moving.value))
        return outputs


class _JaxStepper(_Stepper):
    def __init__(
        self, model: keras.Model, recipe: Recipe, steps_per_epoch: int, teacher: keras.Model | None
    ):
        import jax
        import jax.numpy as jnp

        super().__init__(model, recipe, steps_per_epoch, teacher)
        # Copies: the step gives its buffers away, those of the twin must live on.
        self.state: dict[str, Any] = {
            "trainable": [jnp.array(v.value) for v in self.twin.trainable_variables],
            "other": [jnp.array(v.value) for v in self.twin.non_trainable_variables],
            "velocity": [jnp.zeros_like(v.value) for v in self.twin.trainable_variables],
            "average": [jnp.array(v.value) for v in self.twin.weights],
            "averaging": jnp.array(False),
        }

        def loss_of(trainable, other, images, labels):
            def network():
                nonlocal other
                logits, other = self.twin.stateless_call(trainable, other, images, training=True)
                return logits

            loss, hits = _loss_and_hits(network, labels, self.taught(images), recipe)
            return loss, (hits, other)

        def step(state, images, labels, rate, average):
            (loss, (hits, other)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                state["trainable"], state["other"], images, labels
            )
            pairs = [
                _descend(recipe, *items, rate)
                for items in zip(state["trainable"], state["velocity"], gradients, strict=True)
            ]
            new = {**state, "other": other}
            new["trainable"] = [weight for weight, _ in pairs]
            new["velocity"] = [velocity for _, velocity in pairs]
            if average:
                share = jnp.where(state["averaging"], self.average_share, 1.0)
                new["average"] = [
                    mean + share * (weight - mean)
                    for mean, weight in zip(state["average"], self._weights(new), strict=True)
                ]
                new["averaging"] = jnp.array(True)
            return new, loss, hits

        self._step = jax.jit(step, static_argnames="average", donate_argnums=0)

    def _weights(self, state) -> list:
        """Trainable and other weights in the order of Model.weights."""
        weights: list[Any] = [None] * len(self.twin.weights)
        for at, kind in ((self.trainable_at, "trainable"), (self.other_at, "other")):
            for i, weight in zip(at, state[kind], strict=True):
                weights[i] = weight
        return weights

    def step(self, images, labels, rate: float, average: bool):
        self.state, loss, hits = self._step(
            self.state, images, labels, np.float32(rate), average=average
        )
        return loss, hits

    def arrays(self) -> dict[str, np.ndarray]:
        weights = self._weights(self.state)
        return {
            **{f"weight_{i}": np.asarray(v) for i, v in enumerate(weights)},
            **{f"velocity_{i}": np.asarray(v) for i, v in enumerate(self.state["velocity"])},
            **{f"average_{i}": np.asarray(v) for i, v in enumerate(self.state["average"])},
            "averaging": np.asarray(self.state["averaging"]),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        import jax.numpy as jnp

        self.state = {
            "trainable": [jnp.array(arrays[f"weight_{i}"]) for i in self.trainable_at],
            "other": [jnp.array(arrays[f"weight_{i}"]) for i in self.other_at],
            "velocity": [jnp.array(arrays[f"velocity_{i}"]) for i in range(len(self.trainable_at))],
            "average": [jnp.array(arrays[f"average_{i}"]) for i in range(len(self.twin.weights))],
            "averaging": jnp.array(bool(arrays["averaging"])),
        }


# --- checkpoints --------------------------------------------------------------------------------


def _fingerprint(model: keras.Model, data: Dataset, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What must agree for a checkpoint to be continued."""
    shapes = str([tuple(weight.shape) for weight in model.weights]) + model.to_json()
    return {
        "format": 1,
        "model": f"{model.name}-{hashlib.sha256(shapes.encode()).hexdigest()[:12]}",
        "data": f"{data.name}, {len(data)} images",
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
    }


def _save_checkpoint(path, run, arrays, history) -> None:
    meta = json.dumps({"run": run, "history": history})
    with write_atomically(path, "wb") as file:
        np.savez(file, meta=np.array(meta), **arrays)


def _load_checkpoint(path: pathlib.Path, run: dict[str, Any]):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        found, history = meta["run"], meta["history"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint of this project ({error}); nothing was"
            " overwritten: move it away to start anew"
        ) from error
    if found != run:
        different = sorted(key for key in run if found.get(key) != run[key])
        raise CheckpointError(
            f"{path} belongs to another run: its {', '.join(different)} differ"
            f" (there {[found.get(key) for key in different]}, here {[run[key] for key in different]});"
            " nothing was overwritten: give the same flags, or another output folder"
        )
    return arrays, history
