"""Fine-tuning on ImageNet: killed, continued, and used."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, run_in_a_child
from conftest import run_experiment as run
from PIL import Image

from fs_neurons.data.imagenet import wnids
from fs_neurons.data.preprocessing import augmented_caffe
from fs_neurons.models.imagenet import load_network

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(6):
        for split in ("train", "val"):
            directory = root / split / wnids()[number]
            directory.mkdir(parents=True)
            picture = RANDOM.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(picture).save(directory / "a.JPEG")
    (directory / "b.JPEG").write_bytes(b"damaged")
    return root


@pytest.mark.long
def test_a_killed_run_on_two_devices_is_continued(data, tmp_path):
    flags = [f"--data={data}", "--weights=random", "--image_size=32", "--batch_size=4", "--round=1",
             "--epochs=2", "--devices=2", f"--output_dir={tmp_path}"]  # fmt: skip
    metadata = tmp_path / "resnet50-v1.5-avgpool.backup" / "training_metadata.json"
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.train_imagenet", *flags],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while not metadata.exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert "--resume" in run("train_imagenet", *flags, expect=1)
    assert "--batch_size=4" in run("train_imagenet", *flags, "--batch_size=2", "--resume", expect=1)
    # TensorFlow splits a processor into devices only before it starts.
    printed = run_in_a_child("train_imagenet", *flags, "--resume")
    assert "Epoch 1/2" not in printed and "Epoch 2/2" in printed
    summary = json.loads((tmp_path / "resnet50-v1.5-avgpool.json").read_text())
    assert summary["steps"] == 2 and summary["devices"] == 2 and 0 <= summary["top1"] <= 100
    rows = (tmp_path / "resnet50-v1.5-avgpool.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows][-1] == "1"
    assert not metadata.parent.exists()
    weights = tmp_path / "resnet50-v1.5-avgpool.weights.h5"
    assert weights.stat().st_size < 110e6
    load_network("resnet50-v1.5-avgpool", weights, image_size=32)


@pytest.mark.parametrize("shape", [(90, 60, 3), (1, 50, 3), (7, 7, 3)])
def test_augmented_images_are_parts_of_the_image(shape):
    image = RANDOM.integers(0, 256, shape, np.uint8)
    random = np.random.default_rng(0)
    seen = [np.asarray(augmented_caffe(image, 32, random)) for _ in range(20)]
    lows = image.min(axis=(0, 1)) - np.array([123.68, 116.779, 103.939])
    highs = image.max(axis=(0, 1)) - np.array([123.68, 116.779, 103.939])
    for prepared in seen:
        assert prepared.shape == (32, 32, 3) and prepared.dtype == np.float32
        blue_last = prepared[..., ::-1]
        assert (blue_last >= lows - 1e-3).all() and (blue_last <= highs + 1e-3).all()
    assert len({prepared.tobytes() for prepared in seen}) > 5


def test_half_of_the_augmented_images_are_mirrored():
    image = np.tile(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], (50, 1, 3))
    random = np.random.default_rng(0)
    rising = [np.asarray(augmented_caffe(image, 16, random)) for _ in range(200)]
    assert 0.4 < np.mean([prepared[0, -1, 0] > prepared[0, 0, 0] for prepared in rising]) < 0.6
