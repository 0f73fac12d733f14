import csv
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT

import fs_neurons as fs
from fs_neurons import models, training
from fs_neurons.data import datasets
from fs_neurons.training import RECIPES, CheckpointError, Recipe, augmented_batches

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="trains on TensorFlow and JAX"
)

TRAIN = datasets.load("digits", "train").take(256)
TEST = datasets.load("digits", "test").take(100)
RECIPE = RECIPES["fast"].changed(epochs=3)


class KilledError(Exception):
    pass


def network(name="resnet8"):
    keras.utils.set_random_seed(0)
    return models.build(name, "digits")


def trained(recipe=RECIPE, **kwargs):
    model = network()
    history = training.train(model, TRAIN, TEST, recipe, verbose=False, **kwargs)
    return model, history


def assert_same_weights(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_training_lowers_the_loss_and_fills_the_history():
    model, history = trained(RECIPES["paper"].changed(epochs=8))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert history[-1]["test_accuracy"] == training.accuracy(model, TEST)
    assert [row["test_accuracy"] is None for row in history] == [True] * 4 + [False] + [
        True
    ] * 2 + [False]


@pytest.mark.parametrize("stop_after", [1, 2])
def test_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path, stop_after):
    def kill(row):
        if row["epoch"] == stop_after:
            raise KilledError

    whole, history = trained()
    with pytest.raises(KilledError):
        trained(checkpoint=tmp_path / "c.npz", on_epoch=kill)
    resumed, again = trained(checkpoint=tmp_path / "c.npz", resume=True)
    assert_same_weights(whole, resumed)
    for row, other in zip(history, again, strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "c.npz"
    trained(checkpoint=path)
    return path


def test_a_truncated_checkpoint_is_refused_and_left_alone(checkpoint):
    whole = checkpoint.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="truncated"):
            trained(checkpoint=checkpoint, resume=True)
        assert checkpoint.read_bytes() == whole[:cut]


def test_a_damaged_checkpoint_is_refused(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated"):
        trained(checkpoint=checkpoint, resume=True)


def test_a_foreign_checkpoint_is_refused_and_left_alone(checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match="recipe"):
        trained(RECIPE.changed(epochs=4), checkpoint=checkpoint, resume=True)
    with pytest.raises(CheckpointError, match="seed"):
        trained(seed=5, checkpoint=checkpoint, resume=True)
    with pytest.raises(CheckpointError, match="model"):
        training.train(
            network("se_resnet8_swish"), TRAIN, TEST, RECIPE, checkpoint=checkpoint, resume=True
        )
    np.savez(checkpoint.parent / "foreign.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        trained(checkpoint=checkpoint.parent / "foreign.npz", resume=True)
    assert checkpoint.read_bytes() == before


def test_an_unfinished_run_is_not_overwritten_without_resume(checkpoint):
    with pytest.raises(CheckpointError, match="--resume"):
        trained(checkpoint=checkpoint)


def test_learning_rates_of_the_recipes():
    paper, fast = RECIPES["paper"], RECIPES["fast"]
    assert [paper.rate_at(e / 182) for e in (0, 90, 91, 135, 137, 181)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert [fast.rate_at(p) for p in (0, 0.1, 0.2, 0.6)] == pytest.approx([0, 0.075, 0.15, 0.075])


def test_nesterov_momentum_is_that_of_keras():
    recipe = Recipe(1, 0.1, "steps", True, 0.0, 1.0, "float32")
    variable = keras.Variable([1.0, -2.0])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    optimizer.build([variable])
    weight, velocity = np.float32([1, -2]), np.zeros(2, np.float32)
    for step in range(4):
        gradient = np.float32([0.5 + step, 1.0])
        weight, velocity = training._descend(recipe, weight, velocity, gradient, 0.1)
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weight, rtol=1e-5)


def test_fused_batch_normalisation_trains_like_keras_own():
    """The twin that trains on TensorFlow gives the outputs and moving statistics of stock Keras."""
    recipe = Recipe(1, 0.0, "steps", False, 0.0, 1.0, "float32")
    model, reference = network(), network()
    images, labels = next(iter(augmented_batches(TRAIN, 128, 0, 0)))
    stepper = training._stepper(model, recipe, 2)
    stepper.step(images, labels, 0.0, average=False)
    stepper.write_to(model, averaged=False)
    reference(images, training=True)
    for a, b in zip(model.get_weights(), reference.get_weights(), strict=True):
        # FusedBatchNorm averages unbiased variances: n / (n - 1) of 512 values at the least
        np.testing.assert_allclose(a, b, rtol=3e-3, atol=1e-5)


def test_batches_are_crops_of_standardised_images_and_repeat_for_a_seed():
    batches = list(augmented_batches(TRAIN, 100, seed=3, epoch=2))
    assert len(batches) == 2 and batches[0][0].shape == (100, 8, 8, 1)
    again = list(augmented_batches(TRAIN, 100, seed=3, epoch=2))
    other = list(augmented_batches(TRAIN, 100, seed=3, epoch=1))
    np.testing.assert_array_equal(batches[1][0], again[1][0])
    assert (batches[0][1] != other[0][1]).any()
    sources = keras.ops.convert_to_numpy(datasets.standardise(TRAIN.images))
    padded = np.pad(sources, ((0, 0), (1, 1), (1, 1), (0, 0)))
    crops = {
        padded[i, y : y + 8, x : x + 8].tobytes()
        for i in range(len(padded)) for y in range(3) for x in range(3)
    }  # fmt: skip
    found = [image.tobytes() in crops for image in batches[0][0]]
    assert np.mean(found) > 0.95  # the batch mean of a few differs in the last bit


def test_a_diverging_run_ends_with_a_message():
    with pytest.raises(FloatingPointError, match="learning rate"):
        trained(Recipe(3, 1e30, "steps", False, 0.0, 1.0, "float32"))


def test_history_is_a_csv_file(tmp_path):
    _, history = trained()
    training.write_history(tmp_path / "h.csv", history)
    with open(tmp_path / "h.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and float(rows[2]["loss"]) == pytest.approx(history[2]["loss"], rel=1e-4)
    assert rows[0]["test_accuracy"] == ""


def test_a_killed_process_resumes_to_the_same_weights(tmp_path):
    """SIGKILL at random moments; the checkpoint is whole each time, and the end is the same."""
    command = [sys.executable, "-m", "experiments.train_cifar10", "--data=digits", "--model=resnet8",
               "--epochs=25", "--limit=256"]  # fmt: skip

    def start(folder, *more):
        return subprocess.Popen(
            [*command, f"--output_dir={folder}", *more], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read().decode()[-2000:]
    killed = tmp_path / "killed"
    moments = random.Random(0)
    kills = 0
    for _ in range(2):
        process = start(killed, "--resume")
        before = _stamp(killed)
        while process.poll() is None and _stamp(killed) == before:
            time.sleep(0.005)  # until a checkpoint was written
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    last = start(killed, "--resume")
    assert last.wait() == 0, last.stderr.read().decode()[-2000:]
    a, b = network(), network()
    a.load_weights(tmp_path / "whole" / "resnet8.weights.h5")
    b.load_weights(killed / "resnet8.weights.h5")
    assert_same_weights(a, b)


def _stamp(folder):
    path = folder / "resnet8.checkpoint.npz"
    return path.stat().st_mtime_ns if path.exists() else None


def test_a_teacher_takes_the_place_of_the_labels():
    teacher = models.pretrained("resnet8", "digits")
    train_set, test_set = (datasets.load("digits", split) for split in ("train", "test"))
    wrong = dataclasses.replace(train_set, labels=(train_set.labels + 1) % 10)
    student = keras.models.clone_model(teacher)
    random = np.random.default_rng(0)
    student.set_weights([w * random.normal(1, 0.3, w.shape) for w in teacher.get_weights()])
    before = training.accuracy(student, test_set)
    recipe = training.RECIPES["fast"].changed(epochs=3, learning_rate=0.02)
    training.train(student, wrong, test_set, recipe, teacher=teacher, verbose=False)
    assert before < 0.9 < 0.97 < training.accuracy(student, test_set)


def spikes_per_neuron(snn):
    return fs.profile(
        snn, keras.ops.convert_to_numpy(datasets.standardise(TEST.images))
    ).spikes_per_neuron


def test_training_comes_down_to_the_target_of_spikes():
    ann = models.pretrained("resnet8", "digits")
    images = keras.ops.convert_to_numpy(datasets.standardise(TRAIN.images))
    spikes = {}
    for target in (None, 0.4):
        snn = fs.convert(ann, calibration_data=images, steps=3)
        recipe = Recipe(8, 0.05, "one_cycle", True, 0.0, 1.0, "float32", 32, target_spikes=target)
        training.train(snn, TRAIN, TEST, recipe, teacher=ann, verbose=False)
        spikes[target] = spikes_per_neuron(snn)
    assert spikes[0.4] < 1.1 * 0.4 < 0.5 < spikes[None]


def test_a_target_of_spikes_is_refused_without_fs_layers():
    with pytest.raises(ValueError, match="no FS layer"):
        trained(dataclasses.replace(RECIPE, target_spikes=0.5))
