import keras
import numpy as np
import pytest

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets


@pytest.mark.parametrize(
    ("name", "neurons", "sites"),
    [
        ("resnet50", 475_136, 49),
        ("resnet20", 188_416, 19),
        ("resnet14", 131_072, 13),
        ("resnet8", 73_728, 7),
    ],
)
def test_cifar_resnets_have_the_neurons_of_table_2(name, neurons, sites):
    report = fs.conversion_report(fs.convert(models.build(name)))
    assert report.neurons == neurons
    assert len(report.rows) == sites


def test_squeeze_excite_adds_a_swish_and_a_sigmoid_per_block():
    rows = fs.conversion_report(fs.convert(models.build("se_resnet20_swish"))).rows
    kinds = [row.activation for row in rows]
    assert kinds.count("silu") == 19 + 9 and kinds.count("sigmoid") == 9


def test_projections_only_where_the_shape_changes():
    names = [layer.name for layer in models.resnet_cifar(20).layers]
    assert [n for n in names if n.endswith("shortcut")] == [
        "stage2_block1_shortcut",
        "stage3_block1_shortcut",
    ]


@pytest.mark.parametrize("depth", [0, 2, 9, 21, -4])
def test_depth_must_be_6n_plus_2(depth):
    with pytest.raises(ValueError, match="6n"):
        models.resnet_cifar(depth)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="resnet20"):
        models.build("resnet21")
    with pytest.raises(ValueError, match="digits"):
        models.build("resnet20", "mnist")


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "params_dir", lambda: tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no weights resnet20\.weights\.h5 .* trained for digits are none"
    ):
        models.pretrained("resnet20", "digits")


@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
@pytest.mark.parametrize("name", ["resnet8", "se_resnet8_swish"])
def test_shipped_digit_networks_classify_before_and_after_conversion(name):
    data = datasets.load("digits", "test")
    model = models.pretrained(name, "digits")
    ann = evaluate(model, data, batch_size=100)
    snn = evaluate(fs.convert(model), data, batch_size=100)
    assert ann.accuracy >= 0.98
    assert abs(ann.accuracy - snn.accuracy) <= 0.01
    assert ann.spikes == 0 and snn.spikes > 0
    assert (ann.predictions == snn.predictions).mean() > 0.98


@pytest.mark.long
@pytest.mark.parametrize(("name", "least"), [("resnet8", 0.85), ("resnet20", 0.89)])
def test_shipped_cifar_networks_classify_before_and_after_conversion(name, least, cifar10_dir):
    data = datasets.load("cifar10", "test", cifar10_dir).take(1000)
    model = models.pretrained(name)
    ann, snn = evaluate(model, data), evaluate(fs.convert(model), data)
    assert ann.accuracy >= least
    assert abs(ann.accuracy - snn.accuracy) <= 0.01
    assert 0.5 < snn.spikes_per_image / fs.conversion_report(fs.convert(model)).neurons < 2


def test_networks_survive_a_file(tmp_path):
    model = models.build("se_resnet8_swish", "digits")
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0),
        model.predict(x, verbose=0),
    )
