"""Table 1 as a user runs it, on a small network that is trained on nothing."""

import json

import keras
import numpy as np
import pytest
from conftest import run_experiment as run
from keras import layers
from PIL import Image

from fs_neurons.data.imagenet import wnids

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(8):
        directory = root / "val" / wnids()[number]
        directory.mkdir(parents=True)
        Image.fromarray(RANDOM.integers(0, 256, (40, 50, 3), np.uint8)).save(directory / "a.JPEG")
    (directory / "b.JPEG").write_bytes(b"damaged")
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, activation="swish")(inputs)
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, gate]))
    keras.Model(inputs, layers.Dense(1000)(x)).save(root / "mine.keras")
    return root


@pytest.mark.filterwarnings("ignore:skipped ")
def test_a_saved_model_is_measured_and_a_run_is_continued(data, tmp_path):
    def table(*flags):
        printed = run("table1", f"--data={data}", f"--model={data}/mine.keras", "--preprocessing=tf",
                      "--verbosity=-1", f"--output_dir={tmp_path}", *flags)  # fmt: skip
        return printed, json.loads((tmp_path / "table1.json").read_text())

    printed, first = table("--limit=4", "--save_every=2")
    row = first["rows"][0]
    assert row["images"] + row["skipped"] == 4 and row["neurons"] == 4 * 30 * 30 + 4
    assert row["paper"] is None and "paper" not in printed.lower()
    assert f"{row['spikes_per_image']:,.0f}" in printed and f"{row['snn_top1']:.2f}" in printed
    printed, whole = table("--batch_size=3")
    assert "the first 4 images are in" in printed and "could not be decoded" in printed
    assert len(whole["rows"]) == 1 and whole["rows"][0]["images"] == 8 and whole["images"] == 8
    assert whole["rows"][0]["skipped"] == 1
    _, both = table("--swish_only", "--limit=2")
    assert [r["run"]["converted"] for r in both["rows"]] == ["all", "Swish only"]
    assert both["rows"][1]["neurons"] == 4 * 30 * 30 and both["rows"][0] == whole["rows"][0]


def test_other_settings_have_rows_of_their_own(data, tmp_path):
    whole = tmp_path / "table1.json"
    whole.write_text("the paper's setting")
    more = tmp_path / "more" / "val" / wnids()[0]
    more.mkdir(parents=True)
    for number in range(20):
        picture = Image.fromarray(RANDOM.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(more / f"{number}.JPEG")

    def table(*flags):
        printed = run("table1", f"--data={more.parents[1]}", f"--model={data}/mine.keras", "--preprocessing=tf",
                      "--limit=3", "--verbosity=-1", f"--output_dir={tmp_path}", *flags)  # fmt: skip
        result = json.loads((tmp_path / "table1_other_settings.json").read_text())
        return printed, [row["run"] for row in result["rows"]]

    printed, runs = table("--quality=accurate", "--steps=16", "--fold")
    assert "mine, accurate sets, without data, K <= 16, folded" in printed
    assert [(r["quality"], r["steps"], r["fold"], r["relu"]) for r in runs] == [
        ("accurate", 16, True, None)
    ]
    printed, runs = table("--calibrate=16", "--steps=8")
    assert "mine, calibrated on 16 images, K = 8" in printed
    assert len(runs) == 2 and runs[1]["calibrate"] == 16 and "quality" not in runs[1]
    assert whole.read_text() == "the paper's setting"


@pytest.mark.long
def test_random_weights_stay_out_of_the_table(data, tmp_path):
    printed = run("table1", f"--data={data}", "--model=resnet50", "--image_size=32",
                  "--random_weights", "--limit=2", f"--output_dir={tmp_path}")  # fmt: skip
    assert "nothing here compares with the paper" in printed and "75.22" not in printed
    assert not (tmp_path / "table1.json").exists()
    row = json.loads((tmp_path / "table1_random_weights.json").read_text())["rows"][0]
    assert row["ann_top1"] is None and row["paper"] is None and row["fs_layers"] == 49


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=a,b", "--checkpoint=c"], "one --model"),
        (["--model=efficientnet-b0", "--checkpoint=/none"], "no checkpoint /none"),
        (["--steps=5"], "--quality=accurate"),
        (["--calibrate=10"], "has 9 images"),
        (["--calibrate=5", "--strategy=mirrored"], "one device"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(data, flags, message, tmp_path):
    given = [f"--model={data}/mine.keras", "--preprocessing=tf", f"--data={data}"]
    out = run("table1", *given, *flags, f"--output_dir={tmp_path}", expect=1)
    assert message in out
