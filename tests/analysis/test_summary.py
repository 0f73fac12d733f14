"""`summary`: its numbers are those of the parts that it is made of, and its advice works."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.cli.errors import with_flags

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(50, 6)).astype("float32")
LABELS = RANDOM.integers(0, 4, 50)


def network(*behind, outputs=4):
    keras.utils.set_random_seed(1)
    first = layers.Dense(12, activation="relu", name="first")
    return keras.Sequential(
        [keras.Input((6,)), first, *behind, layers.Dense(outputs, name="last")], name="small"
    )  # fmt: skip


def values(model):
    return ops.convert_to_numpy(model(IMAGES, training=False))


def test_numbers_equal_those_of_the_parts():
    model = network()
    snn = fs.convert(model, relu=fs.relu_parameters(2, 0.5))
    result = fs.summary(model, snn, IMAGES, LABELS, batch_size=20)
    before, after = values(model), values(snn)
    assert result.images == 50 and result.sites == 1
    assert result.ann_accuracy == (before.argmax(-1) == LABELS).mean()
    assert result.snn_accuracy == (after.argmax(-1) == LABELS).mean()
    assert result.agreement == (before.argmax(-1) == after.argmax(-1)).mean() < 1
    assert result.output_error == pytest.approx(
        np.sqrt(((after - before) ** 2).mean()) / before.std(), rel=1e-5
    )
    with pytest.warns(UserWarning, match="outside"):
        profile = fs.profile(snn, IMAGES)
    assert result.profile.total_spikes == profile.total_spikes
    assert result.outside_share == pytest.approx(profile.outside_share)
    assert result.outside_share > 0.01
    text = str(result)
    assert f"{result.ann_accuracy:.2%}, {result.snn_accuracy:.2%}" in text
    assert "everything that is left is linear" in text
    assert "larger alpha" in text and "fs.finetune(snn, images, teacher=model)" in text


def test_without_labels_there_is_no_accuracy():
    model = network()
    result = fs.summary(model, fs.convert(model), IMAGES)
    assert result.ann_accuracy is None and result.agreement is not None
    assert "accuracy" not in str(result)


def test_outputs_that_are_no_classes_have_no_agreement():
    model = network(outputs=1)
    snn = fs.convert(model)
    result = fs.summary(model, snn, IMAGES)
    assert result.agreement is None and 0 < result.output_error < 0.1
    with pytest.raises(ValueError, match="one output of shape"):
        fs.summary(model, snn, IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"shape \(50,\); theirs is \(49,\)"):
        fs.summary(network(), fs.convert(network()), IMAGES, LABELS[1:])


def test_outputs_that_are_no_classes_are_judged_by_their_error():
    model = network(outputs=1)
    result = fs.summary(model, fs.convert(model, relu=fs.relu_parameters(1, 1.0)), IMAGES)
    assert result.output_error > 0.1
    assert "as good as before" not in str(result)


def test_batches_give_what_arrays_give():
    model = network()
    snn = fs.convert(model)
    expected = fs.summary(model, snn, IMAGES)
    batches = [IMAGES[:20], IMAGES[20:40], IMAGES[40:]]
    result = fs.summary(model, snn, batches)
    assert result.agreement == expected.agreement
    assert result.profile.total_spikes == expected.profile.total_spikes
    with pytest.raises(TypeError, match="once only"):
        fs.summary(model, snn, iter(batches))


def test_a_relu_that_saturates_is_not_outside_its_range():
    x = inputs = keras.Input((6,))
    x = layers.ReLU(max_value=0.5)(layers.Dense(8)(x))
    model = keras.Model(inputs, layers.Dense(4)(x))
    result = fs.summary(model, fs.convert(model), IMAGES)
    assert result.profile.outside_share > 0.01 and result.outside_share == 0


class Hiding(layers.Layer):
    """A call() of its own."""

    def call(self, x):
        return ops.maximum(x, 0)


def test_what_did_not_become_spiking_is_named_with_the_reason():
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, "relu", name="taken")(x)
    x = layers.Dense(8, lambda x: ops.elu(x, 0.3), name="odd")(x)
    x = layers.Dense(8, "tanh", name="asked")(x)
    x = layers.Activation("relu", name="seen")(ops.maximum(x, 0.0))
    x = Hiding(name="own")(x)
    x = layers.Lambda(lambda x: ops.relu(x), name="any", output_shape=(8,))(x)
    x = layers.LayerNormalization(name="norm")(x * layers.Dense(8, "sigmoid", name="gate")(x))
    y = layers.Reshape((4, 2))(2 * x)
    y = layers.MultiHeadAttention(1, 2, name="heads")(y, y)
    y = layers.LSTM(5, name="memory")(y)
    model = keras.Model(inputs, layers.Dense(4, "softmax", name="classes")(y))
    snn = fs.convert(model, keep=["tanh"], unsupported="keep")
    result = fs.summary(model, snn, IMAGES)
    found = {part.name: (part.kind, part.reason) for part in result.remaining}
    assert "taken" not in found and not any("maximum" in name for name in found)
    assert found["asked"] == ("tanh", "kept as asked for")
    assert found["odd"][1] == "there is no parameter set for it"
    assert found["own"][0] == "Hiding" and "call()" in found["own"][1]
    assert found["any"][0] == "Lambda"
    assert found["norm"][0] == "LayerNormalization"
    assert "softmax" in found["heads"][1]
    assert found["memory"] == ("tanh", "kept as asked for")
    assert found["classes"] == (
        "softmax", "normalises over the classes; the output of the model, which is a result"
    )  # fmt: skip
    products = [part for part in result.remaining if part.kind == "Multiply"]
    assert len(products) == 1  # not the one by a constant
    advice = "\n".join(result.advice)
    assert 'unsupported="fit"' in advice and "'own', 'any'" in advice
    assert "tanh could be converted: leave keep" in advice


def test_the_advice_to_fit_works():
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, "relu")(x)
    x = layers.Activation(lambda x: ops.elu(x, 0.3), name="odd")(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    before = fs.summary(model, fs.convert(model, unsupported="keep"), IMAGES)
    assert [part.name for part in before.remaining] == ["odd"]
    with pytest.warns(UserWarning, match="fitted a set"):
        snn = fs.convert(model, unsupported="fit")
    assert not fs.summary(model, snn, IMAGES).remaining


def test_advice_on_the_command_line_names_flags():
    text = with_flags(
        "convert(model, calibration_data=..., steps=5); convert(model, calibration_data=...);"
        ' fs.compare(model, snn, images); convert(model, unsupported="fit"); leave keep and keep_layers out'
    )
    assert text == (
        "fs-neurons calibrate MODEL OUT.keras --steps=5; fs-neurons calibrate MODEL OUT.keras;"
        " fs-neurons compare MODEL SNN; --unsupported=fit; leave --keep and --keep_layers out"
    )
