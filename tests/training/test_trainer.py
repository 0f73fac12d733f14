import dataclasses
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from tiny import RECIPE, TEST, TRAIN, assert_same_weights, network, trained

import fs_neurons as fs
from fs_neurons import models, training
from fs_neurons.training import Recipe, augmented_batches
from fs_neurons.training.trainee import SPIKE_COST, TEMPERATURE, Trainee


class StoppedError(Exception):
    pass


def test_a_run_fills_the_history_and_calls_back():
    rows, steps = [], []
    recipe = dataclasses.replace(RECIPE, epochs=4, batch_size=64)
    model, history = trained(
        recipe, evaluate_every=2, on_epoch=rows.append, on_step=lambda *step: steps.append(step)
    )
    assert rows == history and [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["test_accuracy"] is None for row in history] == [True, False, True, False]
    assert history[-1]["test_accuracy"] == training.accuracy(model, TEST)
    assert [row["test_accuracy_last_step"] is None for row in history] == [True] * 3 + [False]
    assert steps == [(step, 12) for step in range(1, 13)]


def test_training_says_nothing_by_itself(capfd):
    trained()
    out, err = capfd.readouterr()
    assert "epoch" not in out + err and "step" not in out + err


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def linear_network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("label_share", [None, 0.0, 0.3])
def test_a_linear_network_trains_as_plain_numpy_does(nesterov, label_share):
    """Momentum, L2, the schedule, labels and teacher in the loss, the average."""
    recipe = Recipe(
        3, 0.1, "one_cycle", nesterov, 0.01, 0.5, "float32",
        batch_size=64, average_epochs=1.5, label_share=label_share or 0.0,
    )  # fmt: skip
    model, teacher = linear_network(0), linear_network(1)
    weights = [w.astype(np.float64) for w in model.get_weights()]
    taught_by = teacher.get_weights()
    velocity, average, losses = [0.0, 0.0], None, []
    for epoch in range(3):
        for step, (images, labels) in enumerate(augmented_batches(TRAIN, 64, 0, epoch)):
            x = images.reshape(len(images), -1).astype(np.float64)
            logits, truth = x @ weights[0] + weights[1], np.eye(10)[labels]
            share = 1.0 if label_share is None else label_share
            gradient = share * (softmax(logits) - truth)
            loss = share * -(truth * np.log(softmax(logits))).sum(axis=1).mean()
            if label_share is not None:
                target = softmax((x @ taught_by[0] + taught_by[1]) / TEMPERATURE)
                soft = softmax(logits / TEMPERATURE)
                gradient += (1 - share) * TEMPERATURE * (soft - target)
                loss += (1 - share) * TEMPERATURE**2 * -(target * np.log(soft)).sum(axis=1).mean()
            gradient /= len(x)
            losses.append(loss)
            progress = (3 * epoch + step) / 9
            rate = recipe.rate_at(progress)
            for i, g in enumerate((x.T @ gradient, gradient.sum(axis=0))):
                g = g + 0.01 * weights[i]
                velocity[i] = 0.9 * velocity[i] - rate * g
                weights[i] = weights[i] + (
                    0.9 * velocity[i] - rate * g if nesterov else velocity[i]
                )
            if progress >= 0.5:
                average = average or weights
                average = [a + (w - a) / 4.5 for a, w in zip(average, weights, strict=True)]
    history = training.train(
        model, TRAIN, TEST, recipe, teacher=None if label_share is None else teacher
    )
    for found, expected in zip(model.get_weights(), average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    found = [row["loss"] for row in history]
    np.testing.assert_allclose(found, np.reshape(losses, (3, 3)).mean(axis=1), rtol=1e-4)
    for found, expected in zip(teacher.get_weights(), taught_by, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_average_has_the_statistics_of_batch_normalization_too():
    """All of the run averaged with share 1: the weights of the last step, in all kinds of weights."""
    recipe = dataclasses.replace(RECIPE, average_from=0.0, average_epochs=1e-9)
    averaged, history = trained(recipe)
    last, _ = trained(dataclasses.replace(recipe, average_from=1.0))
    for a, b in zip(averaged.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert history[-1]["test_accuracy"] == history[-1]["test_accuracy_last_step"]


def test_a_run_of_few_steps_ends_with_its_last_weights_not_its_first():
    """Two steps, the average from the third on."""
    recipe = dataclasses.replace(RECIPE, epochs=2, average_from=0.99)
    averaged, _ = trained(recipe)
    last, _ = trained(dataclasses.replace(recipe, average_from=1.0))
    assert_same_weights(averaged, last)


def test_frozen_layers_stay_as_they_are():
    model = network()
    for layer in model.layers[:2]:
        layer.trainable = False
    before = model.get_weights()
    trained(model=model)
    same = [np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    # Batch normalization that is frozen keeps its statistics.
    names = [weight.path for weight in model.weights]
    assert [name for name, s in zip(names, same, strict=True) if not s] == [
        "tiny/logits/kernel",
        "tiny/logits/bias",
    ]


def test_a_network_trains_against_spikes_beyond_the_target():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    ann = keras.Sequential(
        [keras.Input((5,)), layers.Dense(7), layers.ReLU(), layers.Dense(3)], name="ann"
    )
    snn = fs.convert(ann, relu=fs.relu_parameters(K=1, alpha=2.0))
    kernel, bias = snn.layers[0].get_weights()
    head = snn.layers[-1]
    head.set_weights([np.zeros((7, 3)), np.zeros(3)])  # no gradient but that of the spikes
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    v = x @ kernel + bias
    spikes = (v >= 1.0).mean()
    assert 0.05 < spikes < 0.95  # K = 1, alpha = 2: T = h = d = 1
    recipe = Recipe(
        1, 0.1, "steps", False, 0.0, 1.0, "float32", momentum=0.0, target_spikes=0.02
    )  # fmt: skip
    trainee = Trainee(snn, recipe)
    labels = np.zeros(20, np.int32)
    result = trainee.train_on_batch(x, {"labels": labels}, return_dict=True)
    assert result["loss"] == pytest.approx(np.log(3) + SPIKE_COST * (spikes - 0.02), rel=1e-5)
    trainee.write_to(snn)
    derivative = np.maximum(0.0, 1.0 - np.abs(v - 1.0)) * SPIKE_COST / v.size
    np.testing.assert_allclose(
        snn.layers[0].get_weights()[0], kernel - 0.1 * x.T @ derivative, rtol=1e-4, atol=1e-6
    )
    enough = Trainee(snn, dataclasses.replace(recipe, target_spikes=1.0))
    result = enough.train_on_batch(x, {"labels": labels}, return_dict=True)
    assert result["loss"] < np.log(3)


def test_a_target_of_spikes_is_refused_without_fs_layers():
    with pytest.raises(ValueError, match=r"'tiny' has no FS layer"):
        trained(dataclasses.replace(RECIPE, target_spikes=0.5))


def test_a_network_without_trainable_weights_is_refused():
    model = network()
    model.trainable = False
    with pytest.raises(ValueError, match="'tiny' has nothing to train"):
        trained(model=model)


def test_a_loss_that_is_not_finite_ends_the_run_before_its_checkpoint(tmp_path):
    model = network()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        trained(model=model, checkpoint=tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_a_residual_network_trains_in_bfloat16():
    keras.utils.set_random_seed(0)
    model = models.build("resnet8", "digits")
    before = model.get_weights()
    _, history = trained(RECIPE.changed(epochs=2), model=model)
    assert np.isfinite(history[0]["loss"])
    assert model.dtype_policy.name == "float32" and model.layers[1].compute_dtype == "float32"
    for a, b in zip(before, model.get_weights(), strict=True):
        assert b.dtype == np.float32 and not np.array_equal(a, b)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path, stop_after):
    def stop(row):
        if row["epoch"] == stop_after:
            raise StoppedError

    whole, history = trained(teacher=network(seed=1))
    with pytest.raises(StoppedError):
        trained(teacher=network(seed=1), checkpoint=tmp_path / "c.npz", on_epoch=stop)
    resumed, again = trained(
        model=network(seed=2), teacher=network(seed=1), checkpoint=tmp_path / "c.npz", resume=True
    )
    assert_same_weights(whole, resumed)
    for row, other in zip(history, again, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


CHILD = """
import os, signal
import conftest  # it has a GPU compute as here
from tiny import trained

replace, count = os.replace, 0

def replace_once(source, target):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_once
trained(checkpoint={path!r})
"""


def test_a_process_killed_while_it_writes_resumes_to_the_same_weights(tmp_path):
    """SIGKILL when the checkpoint of the second epoch is written but not yet in its place."""
    path = tmp_path / "c.npz"
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(path=str(path))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    assert len(list(tmp_path.iterdir())) == 2  # the first checkpoint, and what was being written
    whole, history = trained()
    rows, steps = [], []
    resumed, again = trained(
        checkpoint=path, resume=True, on_epoch=rows.append, on_step=lambda *step: steps.append(step)
    )
    assert rows == again and steps == [(2, 3), (3, 3)]
    assert_same_weights(whole, resumed)
    for row, other in zip(history, again, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}
