import json

import numpy as np
import pytest
from tiny import RECIPE, TRAIN, network, trained

from fs_neurons.training import CheckpointError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "c.npz"
    trained(checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def checkpoint(finished, tmp_path):
    path = tmp_path / "c.npz"
    path.write_bytes(finished)
    return path


def test_a_truncated_checkpoint_is_refused_and_left_alone(checkpoint, finished):
    for cut in (0, 10, len(finished) // 2, len(finished) - 1):
        checkpoint.write_bytes(finished[:cut])
        with pytest.raises(CheckpointError, match="truncated"):
            trained(checkpoint=checkpoint, resume=True)
        assert checkpoint.read_bytes() == finished[:cut]


def test_a_damaged_checkpoint_is_refused(checkpoint, finished):
    content = bytearray(finished)
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated"):
        trained(checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": RECIPE.changed(epochs=4)}, r"recipe.epochs is 4 here and 3 there"),
        ({"seed": 5}, "seed is 5 here and 0 there"),
        ({"model": network(filters=4)}, r"model is '.* weights, \w+' here and '.*' there"),
        ({"model": network(activation="relu6")}, r"model is '(.*,) \w+' here and '\1 \w+' there"),
        ({"teacher": network()}, r"teacher is '.* weights, \w+' here and None there"),
    ],
    ids=["recipe", "seed", "size", "activation", "teacher"],
)
def test_the_checkpoint_of_another_run_is_refused_with_what_differs(
    checkpoint, finished, changes, message
):
    with pytest.raises(CheckpointError, match=message):
        trained(**changes, checkpoint=checkpoint, resume=True)
    assert checkpoint.read_bytes() == finished


def test_other_data_of_the_same_size_are_refused(checkpoint, monkeypatch):
    labels = TRAIN.labels.copy()
    labels[0] += 1
    monkeypatch.setitem(TRAIN.__dict__, "labels", labels)
    with pytest.raises(CheckpointError, match="data is"):
        trained(checkpoint=checkpoint, resume=True)


def test_a_run_with_a_teacher_is_not_resumed_without_it_or_with_another_of_its_name(tmp_path):
    path = tmp_path / "c.npz"
    trained(RECIPE.changed(epochs=1), teacher=network(seed=1), checkpoint=path)
    recipe = RECIPE.changed(epochs=1)
    with pytest.raises(CheckpointError, match=r"teacher is None here and '.*' there"):
        trained(recipe, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match=r"teacher is '(.*,) \w+' here and '\1 \w+' there"):
        trained(recipe, teacher=network(seed=2), checkpoint=path, resume=True)
    trained(recipe, teacher=network(seed=1), checkpoint=path, resume=True)


def test_other_files_and_those_of_another_version_are_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        trained(checkpoint=tmp_path / "foreign.npz", resume=True)
    meta = json.dumps({"run": {"format": 1}, "history": []})
    np.savez(tmp_path / "old.npz", meta=np.array(meta), weight_0=np.ones(3))
    with pytest.raises(CheckpointError, match="another version"):
        trained(checkpoint=tmp_path / "old.npz", resume=True)


def test_an_unfinished_run_is_not_overwritten_without_resume(checkpoint, finished):
    with pytest.raises(CheckpointError, match="resume=True"):
        trained(checkpoint=checkpoint)
    assert checkpoint.read_bytes() == finished
