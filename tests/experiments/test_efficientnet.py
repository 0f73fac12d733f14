"""The experiment on a real EfficientNet, run on a small network and drawn photographs."""

import keras
import numpy as np
import pytest
from keras import layers

from experiments import efficientnet, results, runner

NAME = "experiments.efficientnet"


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = layers.Activation("silu")(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.BatchNormalization(name="projection")(layers.Conv2D(4, 1)(x))
    x = layers.Add(name="sum")(
        [x, layers.BatchNormalization(name="branch")(layers.Conv2D(4, 1)(y))]
    )
    features = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(inputs, [layers.Dense(1, name="logit")(features), features], name="small")


@pytest.fixture
def folder(tmp_path, network):
    network.save(tmp_path / "small.keras")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3))
        (tmp_path / "photographs" / str(i)).mkdir(parents=True)
        keras.utils.save_img(tmp_path / "photographs" / str(i) / "a.png", pixels, scale=False)
    return tmp_path


def run(folder, *more):
    runner.run_here(
        efficientnet.main, efficientnet.FLAGS, NAME,
        [f"--model={folder}/small.keras", f"--data={folder}/photographs",
         f"--output_dir={folder}/results", *more],
    )  # fmt: skip


def test_blocks(network):
    # Neither what an activation follows, nor what is added to something.
    assert efficientnet.blocks(network) == ["projection", "sum"]


@pytest.mark.filterwarnings("ignore:sigmoid=... was given")
def test_rows_and_resuming(folder, monkeypatch, capsys):
    run(folder, "--probe=0", "--calibrate=0")
    assert "3 photographs" in capsys.readouterr().out
    path = folder / "results" / "small_partial.json"
    content = results.read_json(path)
    assert path.with_suffix(".png").exists()
    assert [row["label"] for row in content["rows"]] == [
        "published",
        "accurate sets",
        "without data",
        "without data, K = 8",
    ]
    for row in content["rows"]:
        assert [block["layer"] for block in row["blocks"]] == ["projection", "sum"]
        assert 0 < row["feature_error"] < 1
        assert 0 < row["spikes_per_neuron"] < 16
    # Ranges fit what these channels meet, sets for [-8, 12] do not.
    assert content["rows"][2]["feature_error"] < content["rows"][0]["feature_error"]

    def fails(*_):
        raise AssertionError("measured once more")

    monkeypatch.setattr(efficientnet, "_compared", fails)
    run(folder, "--probe=0", "--calibrate=0")
    assert results.read_json(path)["rows"] == content["rows"]
    with pytest.raises(AssertionError, match="once more"):  # on other images
        run(folder, "--probe=0", "--calibrate=0", "--limit=2")


@pytest.mark.long
def test_probe_and_calibration(folder, cifar10_dir, monkeypatch):
    monkeypatch.setattr(efficientnet, "PROBE_TESTS", 20)
    run(folder, "--probe=110", "--calibrate=16", f"--data_dir={cifar10_dir}")
    content = results.read_json(folder / "results" / "small.json")
    assert content["probe_images"] == [110, 20]
    labels = [row["label"] for row in content["rows"]]
    assert labels[4:] == ["calibrated", "calibrated, K = 8"]
    for K in (16, 8):
        assert (folder / "results" / f"small_k{K}_16_calibrated.keras").exists()
    assert all(0 <= row["probe"] <= 100 for row in content["rows"])
    errors = {row["label"]: row["probe_feature_error"] for row in content["rows"]}
    for label in labels[4:]:
        assert 0 < errors[label] < errors["published"]
    # Four features per image, a file for each hundred; the probe is fitted to those of the original.
    parts = sorted((folder / "results" / "small_features").glob("*/train_*.npy"))
    assert {np.load(part).shape for part in parts} == {(100, 4), (10, 4)}
    assert len(parts) == 2
    assert len(list((folder / "results" / "small_features").glob("*/test_*.npy"))) == 7


@pytest.mark.parametrize("missing", ["--model=none.keras", "--data=none"])
def test_missing_files_are_named(folder, missing):
    flag = missing.partition("=")[0]
    with pytest.raises(SystemExit, match=f"none.*{flag}=F"):
        run(folder, missing)
