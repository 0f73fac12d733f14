"""NIR files: stock readers read them, and a program of their own gives every spike that the network fires."""

import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.conversion.nir_format import forms
from fs_neurons.data import datasets

nir = pytest.importorskip("nir")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_nir", ROOT / "examples" / "run_nir.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits():
    return ops.convert_to_numpy(datasets.standardise(datasets.load("digits", "test").images[:10]))


def ran(runner, path, capsys):
    code = runner.main([str(path)])
    return code, capsys.readouterr()


def test_every_spike_of_a_network_in_integers(tmp_path, runner, digits, capsys):
    snn = fs.convert(models.pretrained("resnet8", "digits"), input_bits=8, input_range=(-1.5, 3))
    chip = fs.quantize(snn)
    path = tmp_path / "folder" / "resnet8.nir"
    fs.export(chip, path, format="nir", images=digits)
    code, text = ran(runner, path, capsys)
    assert code == 0, text
    assert "int64" in text.out and text.out.count(" 0 of them other than in the file") == 10
    with fs.record_spikes() as records:
        chip(digits)
    totals = np.sum([ops.convert_to_numpy(record.spikes) for record in records], axis=0)
    found = [int(x.replace(",", "")) for x in re.findall(r"([\d,]+) spikes", text.out)]
    assert found == totals.tolist()
    graph = nir.read(path)
    assert sum(isinstance(node, nir.Threshold) for node in graph.nodes.values()) == len(records)
    assert any(isinstance(node, nir.Delay) for node in graph.nodes.values())


@pytest.mark.filterwarnings("ignore:weights of model.*rounded more coarsely")
@pytest.mark.parametrize("integers", [True, False])
def test_every_spike_of_a_network_with_products(tmp_path, runner, digits, capsys, integers):
    model = models.pretrained("se_resnet8_swish", "digits")
    snn = fs.convert(model, input_bits=8, input_range=(-1.5, 3), digital="none")
    path = tmp_path / "se.nir"
    images = digits if integers else digits[:2]
    fs.export(fs.quantize(snn) if integers else snn, path, format="nir", images=images)
    code, text = ran(runner, path, capsys)
    assert code == 0, text
    assert ("int64" in text.out) == integers
    assert text.out.count(" 0 of them other than in the file") == len(images)
    outside = [x.metadata for x in nir.read(path).nodes.values() if isinstance(x, nir.Input)]
    assert sum("carrier" in metadata for metadata in outside) == 3
    assert any("shift" in metadata for metadata in outside) == integers


@pytest.mark.parametrize("square", [True, False])
def test_products_of_spikes_with_spikes(tmp_path, runner, capsys, square):
    """Whose carrier waits; or one factor is a map for all channels."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, activation="silu")(inputs)
    y = x if square else layers.Conv2D(1, 1, activation="sigmoid")(x)
    x = layers.Conv2D(2, 3, activation="tanh")(layers.Multiply()([x, y]))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    snn = fs.convert(model, input_bits=6, input_range=(-2, 2), digital="none")
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype(np.float32)
    for network in (snn, fs.quantize(snn)):
        fs.export(network, tmp_path / "net.nir", format="nir", images=images)
        code, text = ran(runner, tmp_path / "net.nir", capsys)
        assert code == 0, text


def layered(*parts):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 4), name="image")
    for part in parts:
        x = part(x)
    x = layers.Activation("silu")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="scores")(x))


PARTS = {
    "strided": lambda: [layers.Conv2D(5, 3, 2, "same")],
    "padded": lambda: [layers.ZeroPadding2D(((1, 0), (1, 0))), layers.Conv2D(5, 2, 2)],
    "grouped": lambda: [
        layers.Conv2D(6, 3, groups=2),
        layers.DepthwiseConv2D(2, depth_multiplier=2),
    ],
    "averages": lambda: [layers.AveragePooling2D(2), layers.BatchNormalization()],
    "pooled": lambda: [layers.Conv2D(5, 3), layers.GlobalAveragePooling2D(keepdims=True)],
}


@pytest.mark.parametrize("name", PARTS)
def test_layers_in_floating_point(tmp_path, runner, name, capsys):
    snn = fs.convert(layered(*PARTS[name]()), input_bits=6, input_range=(-2, 2))
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 4)).astype(np.float32)
    path = tmp_path / "net.nir"
    fs.export(snn, path, format="nir", images=images)
    code, text = ran(runner, path, capsys)
    assert code == 0, text
    assert "float64" in text.out


def test_other_images(tmp_path, runner, capsys):
    snn = fs.convert(layered(layers.Conv2D(5, 3)), input_bits=6, input_range=(-2, 2))
    images = np.random.default_rng(1).normal(size=(2, 6, 6, 4)).astype(np.float32)
    path = tmp_path / "net.nir"
    fs.export(snn, path, format="nir")
    np.save(tmp_path / "x.npy", np.moveaxis(images, -1, 1))
    assert runner.main([str(path), f"--images={tmp_path / 'x.npy'}"]) == 0
    classes = [int(x) for x in re.findall(r"class (\d)", capsys.readouterr().out)]
    assert classes == ops.convert_to_numpy(snn(images)).argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda x: layers.Multiply(name="gated")([layers.Conv2D(4, 1)(x)] * 2), "gated"),
        (lambda x: layers.ReLU(name="flat")(layers.Flatten()(layers.Conv2D(4, 1)(x))), "flat"),
        (lambda x: layers.MaxPooling2D(name="pool")(x), "pool"),
        (lambda x: layers.Concatenate(name="joined")([x, x]), "joined"),
        (lambda x: layers.Conv2D(2, (1, 2), name="wide")(x), "wide"),
    ],
)
def test_what_has_no_node_is_refused_and_nothing_is_written(tmp_path, build, name):
    inputs = keras.Input((6, 6, 4))
    x = build(layers.Conv2D(4, 3, activation="relu")(inputs))
    snn = fs.convert(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    with pytest.raises(fs.ConversionError, match=f"'{name}'"):
        fs.export(snn, tmp_path / "net.nir", format="nir")
    assert not list(tmp_path.iterdir())


def test_images_of_another_size_are_refused(tmp_path):
    snn = fs.convert(layered(layers.Conv2D(5, 3)), input_bits=6, input_range=(-2, 2))
    with pytest.raises(ValueError, match=r"images have the shape \(2, 5, 6, 4\)"):
        fs.export(snn, tmp_path / "net.nir", format="nir", images=np.zeros((2, 5, 6, 4)))
    assert not list(tmp_path.iterdir())


def test_truncated_and_foreign_files(tmp_path, runner, capsys):
    path = tmp_path / "net.nir"
    fs.export(fs.convert(layered(), input_bits=4, input_range=(-2, 2)), path, format="nir")
    (tmp_path / "half.nir").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "text.nir").write_text("no HDF5")
    shape = np.array([2])
    other = nir.NIRGraph.from_list(
        nir.Input({"input": shape}), nir.Threshold(np.ones(2)), nir.Output({"output": shape})
    )
    nir.write(tmp_path / "other.nir", other)
    for name in ("half", "text", "other", "missing"):
        code, text = ran(runner, tmp_path / f"{name}.nir", capsys)
        assert code == 2 and len(text.err.strip().splitlines()) == 1 and "can't be run" in text.err
    assert runner.main([str(path)]) == 2  # no images
    assert "give --images" in capsys.readouterr().err


def test_the_table_of_the_documentation():
    rows = [f"| {kind} | {nodes} | {kept} |" for kind, nodes, kept in forms()]
    assert "\n".join(rows) in (ROOT / "docs" / "chip.md").read_text()
