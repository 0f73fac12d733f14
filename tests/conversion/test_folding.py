"""Folded networks against the originals; what can't be folded stays and is listed."""

import keras
import numpy as np
import pytest
from conftest import convolves_channels_first
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.conversion.folding import fold


def trained(model, seed=0):
    """The model with weights and statistics as after training."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [
                    random.uniform(0.2, 2, w.shape)
                    if v.path.endswith(("gamma", "variance"))
                    else random.normal(0, 1, w.shape)
                    for v, w in zip(layer.weights, layer.get_weights(), strict=True)
                ]
            )
        elif not isinstance(layer, keras.Model) and layer.get_weights():
            layer.set_weights([random.normal(0, 0.3, w.shape) for w in layer.get_weights()])
    return model


def assert_equal(model, folded, count=3):
    shape = (count, *model.inputs[0].shape[1:])
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for a, b in zip(
        keras.tree.flatten(model(x, training=False)),
        keras.tree.flatten(folded(x, training=False)),
        strict=True,
    ):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(a).max())


def normalisers(model):
    kinds = (layers.BatchNormalization, layers.Normalization, layers.Rescaling)
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, kinds)]


LINEAR = {
    "conv": lambda bias, padding: layers.Conv2D(4, 3, padding=padding, use_bias=bias),
    "strided": lambda bias, padding: layers.Conv2D(6, 2, 2, padding, use_bias=bias),
    "grouped": lambda bias, padding: layers.Conv2D(6, 3, padding=padding, use_bias=bias, groups=2),
    "depthwise": lambda bias, padding: layers.DepthwiseConv2D(
        3, padding=padding, use_bias=bias, depth_multiplier=2
    ),
    "separable": lambda bias, padding: layers.SeparableConv2D(
        5, 3, padding=padding, use_bias=bias, depth_multiplier=2
    ),
    "transposed": lambda bias, padding: layers.Conv2DTranspose(
        3, 3, padding=padding, use_bias=bias
    ),
    "pointwise": lambda bias, padding: layers.Conv2D(4, 1, padding=padding, use_bias=bias),
    "dense": lambda bias, padding: layers.Dense(5, use_bias=bias),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
def test_normalisation_behind_a_layer(kind, bias):
    model = trained(
        keras.Sequential(
            [
                keras.Input((7, 6, 4)),
                LINEAR[kind](bias, "same"),
                layers.BatchNormalization(scale=bias),
                layers.BatchNormalization(center=bias),
                layers.ReLU(),
            ]
        )
    )
    folded, report = fold(model)
    assert normalisers(folded) == [] and not report.left and len(report.folded) == 2
    assert_equal(model, folded)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", LINEAR)
def test_normalisation_in_front_of_a_layer(kind, padding):
    model = trained(
        keras.Sequential(
            [
                keras.Input((7, 6, 4)),
                layers.ReLU(),
                layers.BatchNormalization(name="front"),
                LINEAR[kind](False, padding),
                layers.ReLU(),
            ]
        )
    )
    folded, report = fold(model)
    assert_equal(model, folded)
    safe = kind in ("dense", "pointwise") or (padding == "valid" and kind != "transposed")
    assert (normalisers(folded) == []) == safe
    if not safe:
        assert "offset does not reach the padded borders" in report.left["front"]


def test_scaling_alone_goes_through_padding_and_preprocessing_in_one():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3]),
            layers.Rescaling([1.0, 2.0, 3.0]),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, activation="relu", name="stem"),
        ]
    )
    folded, report = fold(trained(model))
    assert_equal(model, folded)
    first, second, third = (layer.name for layer in model.layers[:3])
    assert report.folded == {third: "stem"}
    assert set(report.left) == {first, second}  # the mean does not reach the padded border
    assert normalisers(folded) == [first, second]


def test_branches_shared_layers_and_other_axes_stay():
    inputs = keras.Input((6, 6, 4))
    shared = layers.BatchNormalization(name="shared")
    a = layers.Conv2D(4, 1, name="a")(inputs)
    b = layers.Conv2D(4, 1, name="b")(inputs)
    c = layers.Conv2D(4, 1, name="two_targets")(inputs)
    rows = layers.BatchNormalization(axis=1, name="rows")(layers.Conv2D(4, 1, name="d")(inputs))
    inline = layers.Conv2D(4, 1, activation="relu", name="inline")(inputs)
    outputs = [
        layers.Add()([shared(a), shared(b)]),
        layers.Add()([c, layers.BatchNormalization(name="one_target")(c)]),
        layers.ReLU()(rows),
        layers.ReLU()(layers.BatchNormalization(name="behind_relu")(inline)),
        layers.BatchNormalization(name="last")(layers.Conv2D(4, 1, name="e")(inputs)),
    ]
    model = trained(keras.Model(inputs, outputs))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert report.folded == {"last": "e"}
    assert set(report.left) == {"shared", "one_target", "rows", "behind_relu"}
    assert "called more than once" in report.left["shared"]
    assert "shared" in str(report)


def test_nested_models():
    inner = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()]
    )
    inputs = keras.Input((4, 4, 3))
    model = trained(keras.Model(inputs, layers.ReLU()(inner(inner(inputs)))))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert len(report.folded) == 1 and normalisers(folded) == []


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "EfficientNetB0"])
def test_networks_of_keras_applications(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=7)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            count = layer.gamma.shape[0]
            random = np.random.default_rng(count)
            layer.set_weights(
                [random.uniform(0.8, 1.2, count), random.normal(0, 0.1, count),
                 random.normal(0, 0.1, count), random.uniform(0.8, 1.2, count)]
            )  # fmt: skip
    folded, report = fold(model)
    assert_equal(model, folded, count=2)
    assert not [x for x in folded.layers if isinstance(x, layers.BatchNormalization)]
    assert not [name for name in report.left if "bn" in name]


def test_convert_folds(tmp_path):
    model = trained(
        keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(4, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )
    )
    snn = fs.convert(model, fold_batch_norm=True, relu=fs.relu_parameters(16, 64))
    assert [type(layer).__name__ for layer in snn.layers] == [
        "Conv2D",
        "FSReLU",
        "Flatten",
        "Dense",
    ]
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype(np.float32)
    assert np.abs(ops.convert_to_numpy(snn(x)) - ops.convert_to_numpy(model(x))).max() < 0.02
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert (ops.convert_to_numpy(loaded(x)) == ops.convert_to_numpy(snn(x))).all()
    front = keras.Sequential(
        [keras.Input((4,)), layers.BatchNormalization(name="loose"), layers.ReLU()]
    )
    with pytest.warns(UserWarning, match="'loose', next to it is no dense"):
        fs.convert(front, fold_batch_norm=True)


CHAIN = st.lists(
    st.sampled_from(["norm", "dense", "relu", "scale", "drop"]), min_size=1, max_size=7
)


@given(kinds=CHAIN)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_chain(kinds):
    make = {
        "norm": layers.BatchNormalization,
        "dense": lambda: layers.Dense(5),
        "relu": layers.ReLU,
        "scale": lambda: layers.Rescaling(1.5, 0.5),
        "drop": lambda: layers.Dropout(0.3),
    }
    model = trained(keras.Sequential([keras.Input((5,)), *(make[kind]() for kind in kinds)]))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert len(report.folded) + len(report.left) == len(normalisers(model))
    assert len(normalisers(folded)) == len(report.left)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="must be a sequential or functional"):
        fold(layers.Dense(3))
    with pytest.raises(ValueError, match="not built"):
        fold(keras.Sequential([layers.Dense(3)]))


def test_a_layer_shared_between_a_nested_model_and_its_parent_stays():
    shared = layers.Conv2D(4, 1, name="shared")
    i = keras.Input((4, 4, 4))
    inner = keras.Model(i, layers.ReLU()(layers.BatchNormalization(name="norm")(shared(i))))
    inputs = keras.Input((4, 4, 4))
    model = trained(keras.Model(inputs, layers.Add()([inner(inputs), shared(inputs)])))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert set(report.left) == {"norm"}


def test_a_nested_model_in_two_places_is_folded_once():
    block = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, name="dense"), layers.BatchNormalization(name="norm")]
    )
    i = keras.Input((3,))
    inner = keras.Model(i, layers.ReLU()(block(i)))
    inputs = keras.Input((3,))
    model = trained(keras.Model(inputs, layers.Add()([inner(inputs), block(inputs)])))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert report.folded == {"norm": "dense"}


def test_an_activation_that_is_only_called_linear_stands_in_between():
    def linear(x):
        return keras.ops.relu(x)

    model = trained(
        keras.Sequential([keras.Input((3,)), layers.Dense(3, linear), layers.BatchNormalization()])
    )
    folded, report = fold(model)
    assert_equal(model, folded)
    assert report.folded == {}


def test_branches_behind_augmentation():
    inputs = keras.Input((4, 4, 3))
    flipped = layers.RandomFlip()(layers.Conv2D(3, 1, name="conv")(inputs))
    outputs = layers.Add()([layers.BatchNormalization(name="norm")(flipped), flipped])
    model = trained(keras.Model(inputs, outputs))
    folded, report = fold(model)
    assert_equal(model, folded)
    assert report.folded == {}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="as TensorFlow adds a bias")
@pytest.mark.parametrize("use_bias", [False, True])
def test_no_bias_is_folded_into_a_layer_that_would_add_it_along_the_width(use_bias):
    """With channels first, and as many filters as the width."""
    if not convolves_channels_first():
        pytest.skip("no convolutions with channels first here")
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((2, 5, 4))
    for filters in (4, 6):
        x = layers.Conv2D(
            filters, 3, padding="same", data_format="channels_first", use_bias=use_bias,
            bias_initializer="random_normal",
        )(x)  # fmt: skip
        x = layers.ReLU()(layers.BatchNormalization(axis=1, beta_initializer="random_normal")(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D(data_format="channels_first")(x))
    folded, report = fold(model)
    first, second = (x.name for x in model.layers if isinstance(x, layers.BatchNormalization))
    assert list(report.folded) == [second] and "along the width" in report.left[first]
    images = np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(
        ops.convert_to_numpy(folded(images)), ops.convert_to_numpy(model(images)), atol=1e-5
    )
