"""A network in training: a Keras model with its loss and Keras' own SGD.

trainee = Trainee(model, recipe)
trainee.train_on_batch(images, {"labels": labels, "taught": teacher_logits}, return_dict=True)
trainee.write_to(model)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.backend.training import jit_compile, training_class
from fs_neurons.layers import (
    FSActivation,
    FSMaxPooling2D,
    collect_records,
    soft_spikes_per_neuron,
)
from fs_neurons.network.keras_internals import parts_of
from fs_neurons.training.recipe import Recipe

# Distillation temperature; above 1, small outputs of the teacher also matter.
TEMPERATURE = 2.0
# What a spike per neuron beyond the target adds to the loss.
SPIKE_COST = 2.0


class Trainee(keras.Model):
    """A copy of a classifier in the dtype policy of a recipe, compiled for `train_on_batch`.

    Targets are a dictionary of "labels", integers (batch, ...), and "taught", the teacher's logits
    (batch, ..., classes), either or both. With both, `label_share` of the loss is that of the labels.
    The teacher's is the cross-entropy of its softmax and the network's, both with logits divided by
    TEMPERATURE, times TEMPERATURE squared (Hinton, Vinyals and Dean, 2015).

    Args:
        model: network with logits as output; stays as it is. Regularizers of its layers are not used.
        recipe: learning rate, momentum, weight decay, policy, target of spikes.
        probabilities: whether the outputs are those of a softmax, of which the logits are the logarithm.
        seed: of random layers that have none, such as dropout.

    Raises:
        ValueError: the recipe has a target of spikes and `model` no FS layer, `model` has nothing to
            train, or it is a subclassed model, whose layers Keras can't copy.
    """

    def __init__(
        self, model: keras.Model, recipe: Recipe, *, probabilities: bool = False, seed: int = 0
    ):
        super().__init__(name=model.name)
        self.recipe = recipe
        if recipe.target_spikes is not None and not any(
            isinstance(layer, FSActivation) for layer in parts_of(model)
        ):
            raise ValueError(
                f"target_spikes needs a converted network; {model.name!r} has no FS layer"
            )
        self.network = twin(model, recipe.policy, seed)
        self.probabilities = probabilities
        if not self.network.trainable_variables:
            raise ValueError(f"{model.name!r} has nothing to train: no trainable weight")
        optimizer = keras.optimizers.SGD(
            float(recipe.learning_rate), momentum=float(recipe.momentum), nesterov=recipe.nesterov
        )
        self.compile(optimizer, jit_compile=jit_compile())
        self.optimizer.build(self.trainable_variables)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Any]:
        """The logits and, with a target of spikes, spikes per neuron."""
        if self.recipe.target_spikes is None:
            return {"logits": self._logits(inputs, training)}
        with collect_records(neuron.response_and_soft_spikes) as records:
            logits = self._logits(inputs, training)
        return {"logits": logits, "spikes": soft_spikes_per_neuron(records)}

    def _logits(self, inputs: Any, training: bool | None) -> Any:
        return as_logits(self.network(inputs, training=training), self.probabilities)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The loss of the data, and L2 on all trainable weights."""
        weights = ops.sum(
            ops.stack([ops.sum(ops.square(weight)) for weight in self.trainable_variables])
        )
        # Its gradient is weight_decay x weight; Keras' SGD would decay weights without momentum.
        return self._data_loss(y, y_pred) + 0.5 * self.recipe.weight_decay * weights

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Loss without weight decay, and the share of labels that were right."""
        metrics = {"loss": self._data_loss(y, y_pred)}
        if "labels" in y:
            hits = ops.equal(ops.argmax(y_pred["logits"], axis=-1), ops.cast(y["labels"], "int32"))
            metrics["accuracy"] = ops.mean(ops.cast(hits, "float32"))
        return metrics

    def _data_loss(self, y: dict[str, Any], y_pred: dict[str, Any]) -> Any:
        logits, recipe = y_pred["logits"], self.recipe
        loss: Any = 0.0
        if "labels" in y:
            share = recipe.label_share if "taught" in y else 1.0
            labels = ops.sparse_categorical_crossentropy(y["labels"], logits, from_logits=True)
            loss = loss + share * ops.mean(labels)
        if "taught" in y:
            share = 1.0 - recipe.label_share if "labels" in y else 1.0
            target = ops.softmax(y["taught"] / TEMPERATURE)
            taught = ops.categorical_crossentropy(target, logits / TEMPERATURE, from_logits=True)
            loss = loss + share * TEMPERATURE**2 * ops.mean(taught)
        if recipe.target_spikes is not None:
            loss = loss + SPIKE_COST * ops.maximum(y_pred["spikes"] - recipe.target_spikes, 0.0)
        return loss

    def write_to(self, model: keras.Model) -> None:
        """Gives `model` the weights of this copy."""
        model.set_weights([ops.convert_to_numpy(weight) for weight in self.network.weights])

    def state(self) -> dict[str, np.ndarray]:
        """All that the next step depends on, by name."""
        return {name: ops.convert_to_numpy(value) for name, value in self._variables_by_name()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes back what `state` gave."""
        for name, variable in self._variables_by_name():
            variable.assign(state[name])

    def _variables_by_name(self) -> Iterator[tuple[str, Any]]:
        # Variables of the network are its weights, and the seeds of random layers.
        for kind, variables in (
            ("network", self.network.variables),
            ("optimizer", self.optimizer.variables),
        ):
            for i, variable in enumerate(variables):
                yield f"{kind}_{i}", variable


def twin(model: keras.Model, policy: str | None, seed: int = 0) -> keras.Model:
    """A copy of a model with its weights, for training.

    Args:
        model: a functional or sequential model.
        policy: dtype policy of the copy; None leaves each layer its own.
        seed: of random layers that have none, such as dropout.
    """
    seeds = itertools.count(seed)

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if policy is not None:
            config["dtype"] = policy
        if "seed" in config and config["seed"] is None:
            config["seed"] = next(seeds)
        if type(layer) is FSMaxPooling2D:
            # Has the same outputs but no gradient.
            for own in ("K", "alpha", "parameters"):
                config.pop(own, None)
            return keras.layers.MaxPooling2D.from_config(config)
        return training_class(layer).from_config(config)

    result: keras.Model = keras.models.clone_model(model, clone_function=copy, recursive=True)
    result.set_weights(model.get_weights())
    return result


def as_logits(outputs: Any, probabilities: bool) -> Any:
    """Outputs of a network as float32 logits; those of a softmax but for a constant."""
    outputs = ops.cast(outputs, "float32")
    return ops.log(ops.maximum(outputs, 1e-30)) if probabilities else outputs
