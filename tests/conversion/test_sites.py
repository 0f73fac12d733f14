"""Which activations are found, under which names, and what the network does beside them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.network import trace

RANDOM = np.random.default_rng(0)
FINE = fs.relu_parameters(K=19, alpha=64.0)


def images(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def values(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def rows(snn, parameters):
    return [r.site for r in fs.conversion_report(snn).rows if r.parameters == parameters]


# --- names --------------------------------------------------------------------------------------


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, activation="relu", name="d"),
         layers.Activation("relu", name="act")], name="s1"
    )  # fmt: skip
    i = keras.Input((4,))
    block = keras.Model(i, inner(layers.ReLU(name="act")(i)), name="block")
    outer = keras.Input((4,))
    x = layers.ReLU(name="act")(block(block(outer)))
    return keras.Model(outer, layers.Dense(3, name="logits")(x))


@pytest.mark.parametrize("backwards", [False, True])
def test_names_are_those_of_the_traced_graph(backwards):
    model = nested()
    if backwards:  # a shared layer is named after each place that it is called from
        x = keras.Input((4,))
        block = model.get_layer("block")
        model = keras.Model(x, block.get_layer("s1")(block(x)))
    snn = fs.convert(model)
    report = [row.site for row in fs.conversion_report(snn).rows]
    assert report == [call.name for call in trace(snn).sites]
    assert {site.name for site in fs.find_sites(model)} <= set(report)
    if not backwards:
        block = ["block/act", "block/s1/d_relu", "block/s1/act"]
        assert report == [*block, *block, "act"]


def test_an_inline_activation_belongs_to_its_layer():
    model = nested()
    site = next(site for site in fs.find_sites(model) if site.name == "block/s1/d_relu")
    assert site.layer == "block/s1/d"
    snn = fs.convert(model, keep_layers=["block/s1/d"])
    assert rows(snn, "kept") == ["block/s1/d"]


def squares(x):
    return ops.relu(x) ** 2


@pytest.mark.parametrize("activation", ["relu", "silu", squares])
@pytest.mark.parametrize("inner", [layers.TimeDistributed, layers.SpectralNormalization])
def test_layers_in_several_wrappers(inner, activation, tmp_path):
    keras.utils.set_random_seed(0)
    shape = (2, 3, 4) if inner is layers.TimeDistributed else (3, 4)
    inputs = keras.Input(shape)
    dense = layers.Dense(5, activation, activity_regularizer="l1")
    x = layers.TimeDistributed(inner(dense), name="wrapped")(inputs)
    x = layers.TimeDistributed(layers.TimeDistributed(layers.ReLU(name="own")))(x[..., None])
    model = keras.Model(inputs, layers.Flatten()(x))
    site, _ = fs.find_sites(model)
    assert site.layer == "wrapped" and site.function is dense.activation
    assert fs.verify(model) <= 1e-6
    x = images(4, *shape)
    snn = fs.convert(model, relu=FINE, unsupported="keep")
    atol = 0.1 if activation == "silu" else 1e-3
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=atol)
    assert len(fs.conversion_report(snn).rows) == 2
    assert fs.simulate(snn, x).spikes.sum() == fs.profile(snn, x).total_spikes
    if activation is not squares:
        snn.save(tmp_path / "snn.keras")
        loaded = keras.models.load_model(tmp_path / "snn.keras")
        np.testing.assert_array_equal(values(loaded, x), values(snn, x))


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation",
    [ops.relu, layers.ReLU(), lambda x: ops.maximum(0.0, x)],
    ids=["operation", "layer", "maximum"],
)
def test_masks_go_on_as_in_the_original(activation, tmp_path):
    inputs = keras.Input((6, 3))
    x = activation(layers.Masking()(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    x = images(4, 6, 3)
    x[:, 3:] = 0
    x[:, :, 0] += 5 * (x[:, :, 0] != 0)
    snn = fs.convert(model, relu=FINE)
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)
    assert fs.verify(model, x) <= 1e-6
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(values(loaded, x), values(snn, x))


# --- augmentation -------------------------------------------------------------------------------


def augmented():
    augmentation = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.RandomFlip(name="flip"), layers.RandomRotation(0.5)],
        name="augmentation",
    )
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            augmentation,
            layers.RandomTranslation(0.3, 0.3, name="shift"),
            layers.Rescaling(0.5, name="scale"),
            layers.RandomContrast(0.9, name="contrast"),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
        ]
    )


def functional_augmented():
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomZoom(0.5, name="shift")(inputs)
    y = layers.Conv2D(3, 3, activation="relu", padding="same", name="conv")(x)
    return keras.Model(inputs, layers.Add()([layers.RandomFlip(name="flip")(y), x]))


@pytest.mark.parametrize("build", [augmented, functional_augmented])
def test_augmentation_is_left_out_with_a_warning(build):
    model = build()
    with pytest.warns(UserWarning, match="do nothing at inference.*'shift'"):
        snn = fs.convert(model, relu=FINE)
    kinds = {type(layer).__name__ for layer in snn._flatten_layers()}
    assert not [kind for kind in kinds if kind.startswith("Random")]
    x = images(2, 8, 8, 3)
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)
    # Nothing of it is left to run in a graph that doesn't say whether it trains.
    np.testing.assert_array_equal(ops.convert_to_numpy(snn(x)), values(snn, x))
    assert fs.verify(model) <= 1e-6


def test_folding_goes_through_augmentation():
    model = augmented()
    with pytest.warns(UserWarning, match="do nothing"):
        snn = fs.convert(model, relu=FINE, fold_batch_norm=True)
    assert [type(layer).__name__ for layer in snn.layers] == ["Conv2D", "FSReLU"]
    x = images(2, 8, 8, 3)
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)


def test_augmentation_of_integers_stays():
    """It turns them into floats, which the layer behind it does not."""
    model = keras.Sequential(
        [keras.Input((8, 8, 3), dtype="uint8"), layers.RandomFlip(), layers.Conv2D(2, 3, activation="relu")]
    )  # fmt: skip
    snn = fs.convert(model, relu=FINE)
    x = RANDOM.integers(0, 9, (2, 8, 8, 3)).astype("uint8")
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)


# --- outputs ------------------------------------------------------------------------------------


def with_head(activation, behind=()):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, "relu"), layers.Dense(2, activation, name="head"), *behind]
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid", "tanh"])
@pytest.mark.parametrize("behind", [(), (layers.Reshape((2, 1)), layers.Dropout(0.5))], ids=len)
def test_an_output_that_is_a_result_stays(activation, behind):
    model = with_head(activation, [type(layer).from_config(layer.get_config()) for layer in behind])
    snn = fs.convert(model, relu=FINE)
    x = images(3, 4)
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)
    assert rows(snn, "kept") == ["head"]
    assert "kept (output)" in str(fs.conversion_report(snn))
    both = fs.convert(model, convert_outputs=True)
    assert rows(both, "kept") == [] and len(fs.conversion_report(both).rows) == 2


def test_a_gate_is_no_output():
    """Neither inside the network nor where its values are an output beside."""
    inputs = keras.Input((4,))
    gate = layers.Dense(4, "sigmoid", name="gate")(inputs)
    outputs = layers.Multiply()([layers.Dense(4, "sigmoid", name="g2")(inputs), gate])
    snn = fs.convert(keras.Model(inputs, [outputs, gate]))
    assert rows(snn, "kept") == []


def test_an_output_of_a_nested_model_is_an_output_where_that_is_last():
    head = with_head("sigmoid")
    first, second = keras.Input((4,)), keras.Input((4,))
    last = keras.Model(first, head(layers.ReLU()(first)))
    inside = keras.Model(second, layers.Dense(2)(with_head("sigmoid")(second)))
    assert rows(fs.convert(last), "kept") == [f"{head.name}/head"]
    assert rows(fs.convert(inside), "kept") == []


def test_a_model_with_nothing_but_its_output_says_what_to_pass():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, "sigmoid", name="head")])
    with pytest.raises(fs.ConversionError, match=r"'head' \(sigmoid\).*convert_outputs=True"):
        fs.convert(model)
    assert len(fs.conversion_report(fs.convert(model, convert_outputs=True)).rows) == 1
    both = with_head("sigmoid")
    with pytest.warns(UserWarning, match=r"sigmoid=.*'head' is its output: convert_outputs=True"):
        fs.convert(both, sigmoid="sigmoid_k12")


# --- what is hidden -----------------------------------------------------------------------------


class Hiding(layers.Layer):
    def call(self, x):
        return ops.relu(x)

    def compute_output_shape(self, shape):
        return shape


class HidingOperation(keras.Operation):
    def call(self, x):
        return ops.relu(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_layers_that_may_hide_an_activation_are_listed(tmp_path):
    inputs = keras.Input((5, 4))
    x = layers.Dense(4, "relu")(inputs)
    x = HidingOperation(name="op")(Hiding(name="own")(layers.Lambda(ops.relu, name="lambda")(x)))
    x = layers.TimeDistributed(Hiding(), name="wrapped")(x)
    model = keras.Model(inputs, x)
    snn = fs.convert(model)
    report = fs.conversion_report(snn)
    assert {row.site: row.activation for row in report.rows[1:]} == {
        "op": "HidingOperation", "own": "Hiding", "lambda": "Lambda", "wrapped": "TimeDistributed",
    }  # fmt: skip
    assert "0 activations kept, 4 layers not looked into" in str(report)
    assert report.neurons == 20


def test_layers_known_to_hide_none_are_not_listed():
    inputs = keras.Input((8, 8, 3))
    x = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(inputs)))
    x = layers.Reshape((16, 3))(x)
    x = layers.Dropout(0.1)(layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)]))
    snn = fs.convert(keras.Model(inputs, layers.LayerNormalization()(x * 2)))
    assert rows(snn, "not looked into") == []


@pytest.mark.parametrize("maximum", [lambda x: ops.maximum(x, 0), lambda x: ops.maximum(0.0, x)])
def test_the_maximum_of_x_and_zero_is_a_relu(maximum):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, maximum(layers.Dense(4)(inputs)))
    (site,) = fs.find_sites(model)
    assert site.activation == "relu"
    x = images(5, 4)
    np.testing.assert_allclose(values(fs.convert(model, relu=FINE), x), values(model, x), atol=1e-3)
    assert fs.verify(model) <= 1e-6


def test_other_maxima_are_none():
    inputs = keras.Input((4,))
    x = ops.maximum(ops.maximum(inputs, 1), -inputs)
    assert fs.find_sites(keras.Model(inputs, x)) == []
