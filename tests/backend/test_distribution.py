"""Two workers on this machine, two devices in one process: counts equal those of one device."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import ROOT
from keras import layers
from PIL import Image

from fs_neurons.backend import distribution
from fs_neurons.data.imagenet import wnids

TIMED = ("seconds", "_per_second", "time_ratio", "date", "command", "strategy")


def command(*arguments):
    """A module, or a program, with its flags."""
    run = () if arguments[0].endswith(".py") else ("-m",)
    return [sys.executable, *run, *arguments]


def environment(**added):
    return {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", **added}


@contextlib.contextmanager
def two_workers(*arguments):
    """Both workers of a job; what still runs at the end is killed."""
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("localhost", 0))
        hosts = [f"localhost:{sock.getsockname()[1]}" for sock in (first, second)]
    workers = []
    for index in range(2):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                command(*arguments, "--strategy=multi_worker"), cwd=ROOT, text=True,
                env=environment(TF_CONFIG=json.dumps(config)),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def finished(workers):
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs[0][1][-3000:]
    return [out for out, _ in outputs]


def alone(*arguments):
    result = subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True,
                            text=True, timeout=300)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def counts(value):
    """Without times, and floats of sums in another order to twelve digits."""
    if isinstance(value, dict):
        return {k: counts(v) for k, v in value.items() if not any(t in k for t in TIMED)}
    if isinstance(value, list):
        return [counts(v) for v in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


@pytest.mark.long
def test_two_workers_measure_table2_to_the_last_count(tmp_path):
    # 7 batches of 16 images, the last of 4: they divide neither by the batch nor by the workers.
    flags = ("experiments.table2", "--data=digits", "--models=resnet8", "--limit=100", "--batch_size=16",
             "--verbosity=-1")  # fmt: skip
    alone(*flags, f"--output_dir={tmp_path}/one")
    with two_workers(*flags, f"--output_dir={tmp_path}/two") as workers:
        chief, other = finished(workers)
    assert "ANN %" in chief and other == ""
    one, two = (json.loads((tmp_path / name / "table2_digits_partial.json").read_text())
                for name in ("one", "two"))  # fmt: skip
    assert counts(two) == counts(one) and two["rows"][0]["spikes_per_image"] > 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small network, and 600 images of which five can't be decoded."""
    root = tmp_path_factory.mktemp("distributed")
    random = np.random.default_rng(0)
    for number in range(600):
        directory = root / "val" / wnids()[number % 10]
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{number}.JPEG"
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
        if number % 120 == 7:
            file.write_bytes(b"damaged")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, activation="swish")(inputs)
    x = layers.Dense(1000)(layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, x).save(root / "mine.keras")
    return root


@pytest.mark.long
def test_a_dead_worker_ends_table1_and_a_rerun_continues(data, tmp_path):
    flags = ("experiments.table1", f"--data={data}/val", f"--model={data}/mine.keras",
             "--preprocessing=tf", "--save_every=2", "--verbosity=-1")  # fmt: skip
    result = tmp_path / "two" / "table1.json"
    with two_workers(*flags, f"--output_dir={tmp_path}/two") as (chief, other):
        deadline = time.monotonic() + 200
        while not result.exists():
            assert chief.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        other.send_signal(signal.SIGKILL)
        _, said = chief.communicate(timeout=200)
    assert chief.returncode == 1 and "another worker" in said and "start all workers again" in said
    assert "Traceback" not in said
    part = json.loads(result.read_text())["rows"][0]
    assert 0 < part["images"] < 595
    with two_workers(*flags, f"--output_dir={tmp_path}/two") as workers:
        chief_said, _ = finished(workers)
    assert "images are in" in chief_said
    alone(*flags, f"--output_dir={tmp_path}/one")
    one, two = (json.loads((tmp_path / name / "table1.json").read_text())["rows"][0]
                for name in ("one", "two"))  # fmt: skip
    assert one["images"] == 595 and one["skipped"] == 5
    assert counts(two) == counts(one)


@pytest.mark.long
def test_two_workers_profile_to_the_last_count(tmp_path):
    snn = tmp_path / "snn.keras"
    alone("fs_neurons", "convert", "digits/resnet8", str(snn))
    flags = ("fs_neurons", "profile", str(snn), "--limit=50", "--batch_size=16")
    alone(*flags, f"--json={tmp_path}/one.json")
    with two_workers(*flags, f"--json={tmp_path}/two.json") as workers:
        chief, other = finished(workers)
    assert "spikes" in chief and other == ""
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert counts(two) == counts(one)


MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
import fs_neurons as fs
from fs_neurons import models
from fs_neurons.backend import distribution
from fs_neurons.data import datasets
from fs_neurons.analysis.evaluation import evaluate

data = datasets.load("digits", "test").take(70)
images = datasets.standardise(data.images).numpy()
found = []
for name in ("one", "mirrored"):
    where = distribution.start(name)
    with where.scope():
        snn = fs.convert(models.pretrained("resnet8", "digits"))
    result = evaluate(snn, data, batch_size=16, distribution=where)
    profile = fs.profile(snn, images, batch_size=16, distribution=where)
    found.append((result.spikes, result.predictions.tolist(), profile.layers[3].total_spikes,
                  profile.layers[3].inputs.histogram.tolist(), profile.spikes))
    print(where.replicas)
assert found[0] == found[1], found
"""


@pytest.mark.long
def test_three_devices_of_a_machine_count_the_same(tmp_path):
    program = tmp_path / "mirrored.py"
    program.write_text(MIRRORED)
    assert alone(str(program)).splitlines() == ["1", "3"]


@pytest.mark.parametrize("config", ["", "not JSON", '{"cluster": {}}', "[1]"])
def test_multi_worker_needs_tf_config(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=r"TF_CONFIG|KERAS_BACKEND"):
        distribution.start("multi_worker")


def test_unknown_strategies_are_refused():
    with pytest.raises(ValueError, match="one, mirrored, multi_worker"):
        distribution.start("many")


def test_one_device_gathers_what_it_has():
    rows = np.arange(6).reshape(3, 2)
    assert (distribution.ONE.gather(rows) == rows).all() and distribution.ONE.is_chief
    assert distribution.ONE.gather_json({"a": [1, 2.5]}) == [{"a": [1, 2.5]}]
    distribution.ONE.check_same("anything", "at all")
