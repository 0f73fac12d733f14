"""`compare` against conversions of one site at a time, and against numpy."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.network import graph


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
    ann = ops.convert_to_numpy(model(images)).argmax(-1)
    for site, name in zip(result.sites, ("relu", "silu", "tanh"), strict=True):
        others = {"relu", "silu", "tanh"} - {name}
        chosen = {k: v for k, v in COARSE.items() if k.startswith(name[:1])}
        alone = fs.convert(model, keep=others, **chosen)
        agreeing = (ops.convert_to_numpy(alone(images)).argmax(-1) == ann).mean()
        assert site.accuracy == pytest.approx(agreeing)
    assert result.ann_accuracy == 1
    snn = ops.convert_to_numpy(fs.convert(model, **COARSE)(images))
    assert result.snn_accuracy == (snn.argmax(-1) == ann).mean()
    difference = snn - ops.convert_to_numpy(model(images))
    assert result.logit_error == pytest.approx(
        np.sqrt((difference**2).mean()) / ops.convert_to_numpy(model(images)).std(), rel=1e-5
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
    assert result.ann_accuracy == (ops.convert_to_numpy(model(images)).argmax(-1) == labels).mean()
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


def nested(depth, seed=0):
    """Two branches of nested models, each with a site called "act" and one inside a layer."""
    keras.utils.set_random_seed(seed)

    def block(name, gain, level):
        x = inputs = keras.Input((6,))
        if level:
            x = block(f"inner{level}", gain, level - 1)(x)
        x = layers.Rescaling(gain)(layers.Dense(6)(x))
        x = layers.Activation("relu", name="act")(layers.BatchNormalization()(x))
        return keras.Model(inputs, layers.Dense(6, activation="relu", name="inside")(x), name=name)

    inputs = keras.Input((6,))
    a = block("late", 8.0, depth)
    b = block("early", 0.1, depth)
    y = layers.Add()([b(inputs), a(layers.Activation("relu", name="act")(inputs))])
    return keras.Model(inputs, layers.Dense(3)(y), name="nested")


@pytest.mark.filterwarnings("ignore:gate inputs outside", "ignore:outside what their parameters")
@pytest.mark.parametrize(
    ("depth", "fold"),
    [
        (1, True),
        (2, False),
        *(pytest.param(*x, marks=pytest.mark.long) for x in [(1, False), (2, True)]),
    ],
)
def test_sites_are_paired_by_their_place(depth, fold, images):
    model = nested(depth)
    snn = fs.convert(model, relu=fs.relu_parameters(8, 4.0), fold_batch_norm=fold)
    result = fs.compare(model, snn, images)
    names = [layer.name for layer in fs.profile(snn, images).layers]
    assert [site.name for site in result.sites] == names
    assert names == [site.name for site in fs.simulate(snn, images[:2]).sites]
    # Each site's gate inputs in the original, by its place.
    network = graph.trace(model)
    expected = {}

    def watch(call, tensors):
        outputs = call(tensors)
        if call.name.endswith("act"):
            x = tensors(call.inputs[0])
            expected[call.name] = float((ops.convert_to_numpy(x) >= 4).mean())
        elif call.name.endswith("inside"):  # what is above 4 is so behind the ReLU, too
            expected[call.name] = float((ops.convert_to_numpy(outputs) >= 4).mean())
        return outputs

    network.run(images, watch)
    assert len(expected) == 2 * 2 * (depth + 1) + 1
    shares = {
        re.sub(r"_relu(_\d+)?$", "", site.name): pytest.approx(site.clipped_share, abs=1e-6)
        for site in result.sites
    }
    assert shares == expected
    assert max(expected.values()) > 0.1 and min(expected.values()) == 0


@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
def test_calls_of_a_shared_layer_are_paired_by_what_comes_before(images):
    keras.utils.set_random_seed(0)
    shared = layers.ReLU(name="act")
    inputs = keras.Input((6,))
    long = layers.Dense(6, activation="relu")(layers.BatchNormalization()(layers.Dense(6)(inputs)))
    parts = [shared(20 * layers.Dense(6)(long)), shared(0.01 * inputs)]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(parts)))
    result = fs.compare(model, fs.convert(model, relu=fs.relu_parameters(8, 4.0)), images)
    assert sorted(s.clipped_share > 0.1 for s in result.sites if s.name == "act") == [False, True]
    assert all(s.clipped < 1e-12 for s in result.sites if s.clipped_share == 0)


def test_networks_without_classes_are_compared_by_their_outputs(images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="a")(inputs)
    y = layers.Dense(8, activation="relu", name="b")(x)
    model = keras.Model(inputs, {"value": layers.Dense(1)(y), "map": layers.Dense(4)(x)})
    snn = fs.convert(model, relu=fs.relu_parameters(3, 4.0))
    result = fs.compare(model, snn, images, batch_size=25)
    ann, spiking = (
        {k: ops.convert_to_numpy(v) for k, v in network(images).items()} for network in (model, snn)
    )
    relative = [((ann[k] - spiking[k]) ** 2).mean() / ann[k].var() for k in ann]
    assert result.output_error == pytest.approx(np.sqrt(np.mean(relative)), rel=1e-4)
    assert result.ann_accuracy is result.snn_accuracy is result.sites[0].accuracy is None
    assert result.worst.output_error == max(site.output_error for site in result.sites)
    assert "output error alone" in str(result) and json.loads(result.to_json())["sites"]
    # The first site alone: its layer in the original, and everything behind.
    alone = keras.Model(snn.inputs[0], snn.get_layer("a_relu").output)(images)
    b = model.get_layer("b")(alone)
    outputs = {"value": model.layers[-2](b), "map": model.layers[-1](alone)}
    if outputs["value"].shape[-1] != 1:
        outputs = {"value": model.layers[-1](b), "map": model.layers[-2](alone)}
    relative = [
        ((ann[k] - ops.convert_to_numpy(outputs[k])) ** 2).mean() / ann[k].var() for k in ann
    ]
    assert result.sites[0].output_error == pytest.approx(np.sqrt(np.mean(relative)), rel=1e-4)
    with pytest.raises(ValueError, match="labels are for networks with one output"):
        fs.compare(model, snn, images, np.zeros(60))
