"""Loading models: what is no .keras file, is damaged or holds code gives an error and runs nothing."""

import json
import random
import zipfile

import keras
import numpy as np
import pytest

import fs_neurons as fs
from fs_neurons.files.models import load_model, save_model
from fs_neurons.neuron import sets as parameters


def small():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="relu")])


def rewritten(path, target, change):
    """Copies a .keras file with another configuration."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = json.dumps(change(json.loads(content))).encode()
            new.writestr(name, content)


def test_a_converted_network_survives_a_file(tmp_path):
    snn = fs.convert(small())
    save_model(snn, tmp_path / "new" / "snn.keras")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    assert np.array_equal(load_model(tmp_path / "new" / "snn.keras")(x), snn(x))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["snn.keras"]


def test_code_in_a_file_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="allow_code"):
        load_model(tmp_path / "model.keras")
    trusted = load_model(tmp_path / "model.keras", allow_code=True)
    assert np.array_equal(trusted(np.zeros((1, 3), np.float32)), np.ones((1, 3)))


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("pathlib", "Path.touch")],
)
def test_a_configuration_that_names_other_code_is_refused(tmp_path, module, name):
    small().save(tmp_path / "model.keras")
    mark = tmp_path / "ran"
    call = {
        "module": module,
        "class_name": name,
        "config": {"command": f"touch {mark}", "args": ["touch", str(mark)]},
        "registered_name": None,
    }
    for place in (
        lambda config: call,
        lambda config: {**config, "config": {**config["config"], "layers": [call]}},
        lambda config: {**config, "compile_config": {"optimizer": call, "loss": call}},
    ):
        rewritten(tmp_path / "model.keras", tmp_path / "hostile.keras", place)
        try:
            load_model(tmp_path / "hostile.keras")
        except ValueError as error:
            assert "hostile.keras" in str(error)
        assert not mark.exists()


@pytest.mark.parametrize("path", ["model.h5", "folder", "model.pkl"])
def test_other_formats_are_refused_by_name(tmp_path, path):
    (tmp_path / path).write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"give a \.keras file"):
        load_model(tmp_path / path)
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        save_model(small(), tmp_path / path)


def test_damaged_files_are_refused(tmp_path):
    small().save(tmp_path / "model.keras")
    whole = (tmp_path / "model.keras").read_bytes()
    path = tmp_path / "damaged.keras"
    dice = random.Random(0)
    for content in (b"", b"PK", whole[: len(whole) // 2], b"\x80\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.keras"):
            load_model(path)
    for _ in range(20):
        content = bytearray(whole)
        for _ in range(8):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content)
        try:
            load_model(path)
        except ValueError as error:
            assert "damaged.keras" in str(error)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere.keras")


def test_a_converted_network_with_bad_parameters_is_refused(tmp_path):
    relu = fs.relu_parameters(K=4, alpha=8)
    not_binary_coded = fs.FSParameters(relu.T, relu.h, 1.01 * relu.d, name="relu_like")
    fs.convert(small(), relu=not_binary_coded).save(tmp_path / "snn.keras")

    def without_numbers(config):
        text = json.dumps(config)
        start = text.index('"T": [') + len('"T": [')
        return json.loads(text[:start] + '"x", ' + text[start:])

    rewritten(tmp_path / "snn.keras", tmp_path / "bad.keras", without_numbers)
    with pytest.raises(ValueError, match=r"T\(1\) must be a number"):
        load_model(tmp_path / "bad.keras")


def test_whatever_bytes_a_parameter_file_holds_give_a_set_or_a_value_error(tmp_path):
    parameters.save(parameters.load("swish_k8"), tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    path = tmp_path / "fuzzed.json"
    dice = random.Random(0)
    for _ in range(2000):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(content))
            change = dice.choice(
                [bytes([dice.randrange(256)]), b"", b"-", b"1e999", b"NaN", b"null", b"[", b'"']
            )
            content[at : at + dice.choice([0, 1, 10])] = change
        path.write_bytes(content)
        try:
            loaded = parameters.load(path)
        except ValueError as error:
            assert "fuzzed.json" in str(error)
        else:
            assert all(np.isfinite(part).all() for part in (loaded.T, loaded.h, loaded.d))
