"""`compare` against conversions of one site at a time, and against numpy."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import fs_neurons as fs


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((6,))
    x = layers.Dense(12, activation="relu", name="first")(x)
    x = layers.Dense(12, activation="silu", name="second")(x)
    x = layers.Dense(12, activation="tanh", name="third")(x)
    return keras.Model(inputs, layers.Dense(4)(x), name="mixed")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 2, (60, 6)).astype(np.float32)


COARSE = {"relu": fs.relu_parameters(3, 2.0), "swish": "swish_k8"}


def test_accuracy_alone_is_that_of_a_conversion_of_this_site(model, images):
    result = fs.compare(model, fs.convert(model, **COARSE), images, batch_size=25)
    ann = np.asarray(model(images)).argmax(-1)
    for site, name in zip(result.sites, ("relu", "silu", "tanh"), strict=True):
        others = {"relu", "silu", "tanh"} - {name}
        chosen = {k: v for k, v in COARSE.items() if k.startswith(name[:1])}
        alone = fs.convert(model, keep=others, **chosen)
        agreeing = (np.asarray(alone(images)).argmax(-1) == ann).mean()
        assert site.accuracy == pytest.approx(agreeing)
    assert result.ann_accuracy == 1
    snn = np.asarray(fs.convert(model, **COARSE)(images))
    assert result.snn_accuracy == (snn.argmax(-1) == ann).mean()
    difference = snn - np.asarray(model(images))
    assert result.logit_error == pytest.approx(
        np.sqrt((difference**2).mean()) / np.asarray(model(images)).std(), rel=1e-5
    )


def test_errors_equal_numpy(model, images):
    snn = fs.convert(model, **COARSE)
    first = fs.compare(model, snn, images).sites[0]
    kernel, bias = model.get_layer("first").get_weights()
    x = images @ kernel + bias
    exact = np.maximum(x, 0)
    y = np.clip(np.floor(x * 4), 0, 7) / 4  # FS-ReLU: three steps, up to 2
    outside = (x < -np.inf) | (x >= 2)
    assert first.error == pytest.approx(((y - exact) ** 2).mean(), rel=1e-4)
    assert first.relative_error == pytest.approx(
        ((y - exact) ** 2).mean() / (exact**2).mean(), rel=1e-4
    )
    norms = np.linalg.norm(y, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = np.where(norms > 0, (y * exact).sum(axis=1) / np.maximum(norms, 1e-9), 1)
    assert first.cosine == pytest.approx(cosine.mean(), rel=1e-4)
    assert first.clipped_share == pytest.approx(outside.mean(), abs=0.2)
    assert first.clipped + first.resolution == pytest.approx(first.error, rel=1e-4)
    assert first.accumulated == 0  # nothing before it


@pytest.mark.parametrize(
    ("relu", "cause"),
    [(fs.relu_parameters(10, 0.5), "clipped"), (fs.relu_parameters(3, 16.0), "resolution")],
)
def test_causes_are_told_apart(model, images, relu, cause):
    snn = fs.convert(model, relu=relu, quality="accurate")
    result = fs.compare(model, snn, images)
    assert result.sites[0].cause == cause
    assert result.sites[1].cause == "accumulated"


def test_shared_and_kept_sites_and_labels(images):
    keras.utils.set_random_seed(0)
    shared = layers.Dense(6, activation="relu", name="shared")
    x = inputs = keras.Input((6,))
    x = layers.Activation("sigmoid", name="kept")(shared(shared(x)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    snn = fs.convert(model, keep=("sigmoid",))
    labels = np.arange(60) % 3
    result = fs.compare(model, snn, images, labels)
    assert [site.name for site in result.sites] == ["shared_relu", "shared_relu"]
    assert result.labelled
    assert result.ann_accuracy == (np.asarray(model(images)).argmax(-1) == labels).mean()
    text = str(result)
    assert "shared_relu" in text and "accuracy alone" in text
    assert json.loads(result.to_json())["sites"][1]["cause"] in (
        "clipped", "resolution", "accumulated"
    )  # fmt: skip


def test_wrong_arguments_are_refused(model, images):
    snn = fs.convert(model)
    with pytest.raises(fs.ConversionError, match="no FS layer"):
        fs.compare(model, model, images)
    other = keras.Sequential([keras.Input((6,)), layers.Dense(4, activation="relu")])
    with pytest.raises(fs.ConversionError, match="no conversion of"):
        fs.compare(other, snn, images)
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), for 60 images"):
        fs.compare(model, snn, images, np.zeros(3))
