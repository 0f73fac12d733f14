"""Fine-tuning of a converted network through the surrogate gradient.

    snn = fs.convert(model, calibration_data=x[:1000], steps=3)
    tuned = fs.finetune(snn, x, teacher=model, epochs=5)                   # no labels needed
    tuned = fs.finetune(snn, x, y, teacher=model, target_spikes=0.5)       # at most 0.5 spikes per neuron

What is learned are the weights and, where the network was calibrated, the range of every channel.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.layers import FSActivation
from fs_neurons.network.keras_internals import parts_of
from fs_neurons.training.recipe import Recipe
from fs_neurons.training.sources import Batch, check_inputs, source_of
from fs_neurons.training.trainer import run_epochs

# Share of the labels in the loss beside a teacher.
LABEL_SHARE = 0.3
# Examples that tell what kind of outputs a network has.
SAMPLE = 32


def finetune(
    snn: keras.Model,
    data: Any,
    labels: Any = None,
    *,
    teacher: keras.Model | None = None,
    target_spikes: float | None = None,
    epochs: int = 10,
    learning_rate: float = 0.015,
    label_share: float | None = None,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    policy: str | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> keras.Model:
    """Trains a converted classifier further; a new model, `snn` stays as it is.

    One cycle of stochastic gradient descent with Nesterov momentum; the result is an exponential moving
    average over the last part of the run. Layers whose `trainable` is False stay as they are.

    Args:
        snn: what `convert` returned; its one output are logits, or probabilities of a softmax.
        data: what the network takes, as arrays (examples, ...), shuffled in every epoch; or a
            `fs_neurons.data.datasets.Dataset`, whose images are standardised, cropped and mirrored; or
            batches with a length, such as a keras.utils.PyDataset or a tf.data.Dataset, each of inputs
            alone or a tuple of inputs and labels, iterated over anew in every epoch.
        labels: integers (examples,), for arrays.
        teacher: network whose outputs are learned, usually the one that was converted.
        target_spikes: average spikes per neuron, beyond which spikes add to the loss; None for any number.
        epochs: passes over the data.
        learning_rate: its peak value.
        label_share: share of the labels in the loss where there are both labels and a teacher; 0.3 when
            None.
        weight_decay: L2 factor on all trainable weights.
        batch_size: examples per step; batches keep their own size.
        policy: Keras dtype policy in training, such as "mixed_bfloat16"; None leaves each layer its own.
        seed: of order, augmentation and dropout.
        checkpoint: file that is replaced atomically after each epoch and stays at the end; None keeps none.
        resume: continue from `checkpoint` when it exists. The run repeats an uninterrupted one bit for bit
            where the batches do.
        on_epoch: called with a dictionary after each epoch, and for those of a resumed checkpoint: epoch,
            learning_rate, loss, train_accuracy (None without labels) and seconds.
        on_step: called after each step with the number of steps done and of all steps of the run.

    Raises:
        ValueError: neither labels nor a teacher, no FS layer in `snn`, shapes or labels that don't fit,
            outputs that are not a classifier's, or a number out of its range.
        CheckpointError: as for `fs_neurons.training.train`.
        FloatingPointError: the loss is no longer finite.
    """
    if not any(isinstance(layer, FSActivation) for layer in parts_of(snn)):
        raise ValueError(f"{snn.name!r} has no FS layer: fine-tune what fs.convert returned")
    source = source_of(snn, data, labels, batch_size, seed)
    first = next(iter(source.batches(0)), None)
    if first is None:
        raise ValueError("the data have no batch")
    inputs, first_labels = first
    if first_labels is None and teacher is None:
        raise ValueError("nothing to learn: give labels, or teacher=the network that was converted")
    sample = keras.tree.map_structure(lambda array: array[:SAMPLE], inputs)
    shape, probabilities = _outputs(snn, sample)
    taught_shape, taught_probabilities = shape, False
    if teacher is not None:
        check_inputs(teacher, sample)
        taught_shape, taught_probabilities = _outputs(teacher, sample)
    if teacher is not None and taught_shape != shape:
        raise ValueError(
            f"outputs of {snn.name!r} have shape {shape}, of the teacher {teacher.name!r} {taught_shape}"
        )
    next(_checked([first], shape))
    recipe = Recipe(
        epochs=epochs,
        learning_rate=float(learning_rate),
        schedule="one_cycle",
        nesterov=True,
        weight_decay=float(weight_decay),
        average_from=0.6,
        policy=policy,
        batch_size=batch_size,
        average_epochs=0.5,
        label_share=LABEL_SHARE if label_share is None else float(label_share),
        target_spikes=target_spikes if target_spikes is None else float(target_spikes),
    )
    tuned: keras.Model = keras.models.clone_model(snn)
    tuned.set_weights(snn.get_weights())
    run_epochs(
        tuned,
        recipe,
        dataclasses.replace(source, batches=lambda epoch: _checked(source.batches(epoch), shape)),
        seed=seed,
        teacher=teacher,
        probabilities=probabilities,
        taught_probabilities=taught_probabilities,
        checkpoint=checkpoint,
        resume=resume,
        on_epoch=on_epoch,
        on_step=on_step,
    )
    return tuned


def _outputs(model: keras.Model, inputs: Any) -> tuple[tuple[int, ...], bool]:
    """Shape of the outputs for one example, and whether they are probabilities of a softmax.

    Raises:
        ValueError: they are not a classifier's.
    """
    outputs = model(inputs, training=False)
    if not hasattr(outputs, "shape"):
        raise ValueError(
            f"{model.name!r} has several outputs; fine-tuning takes one, of a classifier"
        )
    values = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    if values.ndim < 2 or values.shape[-1] < 2:
        raise ValueError(
            f"outputs of {model.name!r} have shape {values.shape}; fine-tuning takes a classifier, with"
            " an output for each of at least two classes"
        )
    if (values >= 0).all() and (values <= 1).all():
        if not np.allclose(values.sum(axis=-1), 1.0, atol=0.02):
            raise ValueError(
                f"outputs of {model.name!r} lie between 0 and 1 but don't add up to 1, as those of a"
                " sigmoid; fine-tuning takes logits or a softmax"
            )
        return values.shape[1:], True
    return values.shape[1:], False


def _checked(batches: Iterable[Batch], shape: tuple[int, ...]) -> Iterator[Batch]:
    """The batches; labels as int32 of the shape of the outputs without the classes.

    Raises:
        ValueError: labels don't fit, or only some batches have any.
    """
    classes, some = shape[-1], None
    for inputs, labels in batches:
        if some is not None and some != (labels is not None):
            raise ValueError("some batches have labels, others have none")
        some = labels is not None
        if labels is None:
            yield inputs, None
            continue
        wanted = (len(labels), *shape[:-1])
        fits = labels.shape in (wanted, (*wanted, 1)) and np.issubdtype(labels.dtype, np.integer)
        if not fits or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be integers from 0 to {classes - 1} of shape {wanted}; got"
                f" {labels.dtype} {labels.shape} from {labels.min()} to {labels.max()}"
            )
        yield inputs, labels.reshape(wanted).astype(np.int32)
