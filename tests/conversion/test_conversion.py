import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import neuron
from fs_neurons.network.keras_internals import input_structure

RANDOM = np.random.default_rng(0)


def randomise(model):
    """Weights and statistics that no initialiser gives, so that a lost one shows."""
    model.set_weights(
        [RANDOM.uniform(0.1, 0.5, w.shape).astype(w.dtype) for w in model.get_weights()]
    )
    return model


def sequential():
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, activation="relu"), layers.BatchNormalization(),
         layers.Activation("relu"), layers.Dense(5), layers.ReLU(), layers.Dense(3, activation="softmax")]
    )  # fmt: skip


def residual():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="silu", name="conv")(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    y = layers.SeparableConv2D(4, 3, padding="same", activation="relu")(y)
    x = layers.ReLU(max_value=6, name="six")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def squeeze_excite():
    inputs = keras.Input((6, 6, 4))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    gate = layers.Conv2D(2, 1, activation="swish")(gate)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    return keras.Model(inputs, layers.Multiply()([inputs, gate]))


def operations():
    inputs = keras.Input((5,))
    x = ops.relu(layers.Dense(4)(inputs))
    x = keras.activations.silu(layers.Dense(4)(x)) + ops.relu6(x)
    return keras.Model(inputs, ops.sigmoid(keras.activations.relu(x, max_value=2.0)))


def shared_layers():
    dense = layers.Dense(4, activation="relu", name="shared")
    act = layers.Activation("relu", name="shared_act")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], [act(dense(dense(a))), layers.Concatenate()([dense(b), act(b)])])


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, activation="relu", name="d")], name="seq"
    )
    i = keras.Input((4,))
    block = keras.Model(
        i, layers.Add()([inner(layers.Dense(4, activation="silu", name="d")(i)), i]), name="block"
    )
    outer = keras.Input((4,))
    x = layers.Dense(4, activation="relu", name="d")(outer)
    return keras.Model(outer, inner(block(block(x))))


def nested_in_sequential():
    i = keras.Input((4,))
    block = keras.Model(i, ops.relu(layers.Dense(4, activation="relu")(i)), name="block")
    return randomise(
        keras.Sequential(
            [keras.Input((4,)), block, layers.Dense(4, activation="sigmoid"), block.layers[1]]
        )
    )


def dictionaries():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(3, activation="relu")(layers.Add()([a, b]))
    return keras.Model({"a": a, "b": b}, {"x": x, "y": layers.Dense(2, activation="sigmoid")(x)})


def wrapped():
    inputs = keras.Input((7, 4))
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(inputs)
    x = layers.TimeDistributed(layers.Activation("sigmoid"))(x)
    return keras.Model(inputs, layers.Lambda(lambda t: t * 2.0, name="double")(x))


def normalised():
    norm = layers.Normalization()
    norm.adapt(RANDOM.normal(3, 5, (100, 4)))
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3, activation="relu")(norm(inputs)))


TOPOLOGIES = [
    sequential, residual, squeeze_excite, operations, shared_layers, nested, nested_in_sequential,
    dictionaries, wrapped, normalised,
]  # fmt: skip


@pytest.fixture(params=TOPOLOGIES, ids=lambda build: build.__name__)
def model(request):
    keras.utils.set_random_seed(0)
    built = request.param()
    return built if request.param is normalised else randomise(built)


def test_rewriting_with_its_own_activations_changes_nothing(model):
    assert fs.verify(model) <= 1e-6


def some_inputs(model, images=3):
    return keras.tree.map_structure(
        lambda x: RANDOM.normal(size=(images, *x.shape[1:])).astype("float32"),
        input_structure(model),
    )


def outputs(model, inputs):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(inputs, training=False))]


def test_the_model_is_untouched_and_its_weights_are_carried_over(model):
    names = [layer.name for layer in model.layers]
    before = [w.copy() for w in model.get_weights()]
    inputs = some_inputs(model)
    expected = outputs(model, inputs)
    snn = fs.convert(model, quality="paper")
    assert [layer.name for layer in model.layers] == names
    for w, v in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(w, v)
    assert not {id(layer) for layer in model._flatten_layers()} & {
        id(x) for x in snn._flatten_layers()
    }
    carried = sorted(w.tobytes() for w in snn.get_weights())
    assert carried == sorted(w.tobytes() for w in before)
    snn.set_weights([np.zeros_like(w) for w in snn.get_weights()])
    for a, b in zip(expected, outputs(model, inputs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "build", [sequential, residual, operations, shared_layers, nested, nested_in_sequential,
              dictionaries, wrapped, normalised], ids=lambda build: build.__name__,
)  # fmt: skip
def test_with_many_steps_the_outputs_are_those_of_the_model(build):
    """FS-ReLU differs from ReLU by less than alpha 2^-K: a site left out or doubled would show."""
    model = build()
    keep = {"silu", "sigmoid"}
    snn = fs.convert(model, keep=keep, relu=fs.relu_parameters(K=19, alpha=64.0))
    rows = fs.conversion_report(snn).rows
    assert {row.activation for row in rows if row.parameters == "kept"} <= keep
    inputs = some_inputs(model)
    for a, b in zip(outputs(model, inputs), outputs(snn, inputs), strict=True):
        np.testing.assert_allclose(b, a, atol=5e-3)
        assert np.abs(a).max() > 0.01


def test_converted_model_survives_a_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    try:
        keras.models.load_model(tmp_path / "model.keras")
    except ValueError as error:
        pytest.skip(f"Keras can't load the model before conversion either: {str(error)[:80]}")
    snn = fs.convert(model)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    inputs = some_inputs(model)
    for a, b in zip(outputs(snn, inputs), outputs(loaded, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert str(fs.conversion_report(loaded)) == str(fs.conversion_report(snn))


def test_one_dense_layer_computes_the_response_of_its_weighted_sums():
    model = randomise(keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="swish")]))
    x = RANDOM.normal(size=(5, 4)).astype("float32")
    kernel, bias = model.get_weights()
    snn = fs.convert(model, quality="paper")
    sums = ops.convert_to_numpy(snn.layers[0](x))
    np.testing.assert_allclose(sums, x @ kernel + bias, rtol=1e-5)
    np.testing.assert_array_equal(
        outputs(snn, x)[0], ops.convert_to_numpy(neuron.response(sums, fs.FSSwish().parameters))
    )


def test_sites_and_their_names():
    keras.backend.clear_session()
    report = fs.conversion_report(fs.convert(residual(), quality="paper"))
    assert [
        (row.site, row.activation, row.parameters, row.shape, row.neurons) for row in report.rows
    ] == [
        ("conv_silu", "silu", "swish_k16_paper", (8, 8, 4), 256),
        ("depthwise_conv2d_relu", "relu(max_value=6)", "relu_k10_alpha6", (8, 8, 4), 256),
        ("separable_conv2d_relu", "relu", "relu_k10_alpha25", (8, 8, 4), 256),
        ("six", "relu(max_value=6)", "relu_k10_alpha6", (8, 8, 4), 256),
    ]
    assert report.neurons == 1024
    text = str(report)
    assert "4 sites, 1,024 FS-neurons, 0 activations kept" in text and "swish_k16_paper" in text


def test_a_shared_site_is_one_layer_and_counts_at_each_call():
    snn = fs.convert(shared_layers())
    assert fs.conversion_report(snn).neurons == 5 * 4
    assert len({id(x) for x in snn._flatten_layers() if isinstance(x, fs.FSActivation)}) == 2


def test_linear_and_softmax_stay():
    snn = fs.convert(sequential())
    assert snn.layers[-1].activation is keras.activations.softmax
    np.testing.assert_allclose(outputs(snn, some_inputs(snn))[0].sum(axis=1), 1, rtol=1e-5)


def test_relu6_saturates_at_six():
    snn = fs.convert(keras.Sequential([keras.Input((2,)), layers.ReLU(max_value=6)]))
    np.testing.assert_allclose(outputs(snn, np.float32([[3, 50]]))[0], [[3, 6]], atol=6 / 1024)


def test_chosen_sets_replace_the_registered_ones(tmp_path):
    from fs_neurons.neuron import sets as parameters

    mine = fs.FSParameters([0.5], [0.5], [1], name="mine")
    parameters.save(mine, tmp_path / "mine.json")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, "swish"),
            layers.Dense(2, "gelu"),
            layers.ReLU(max_value=4),
        ]
    )
    snn = fs.convert(
        model, swish=str(tmp_path / "mine.json"), gelu=mine, relu=fs.relu_parameters(K=3, alpha=10)
    )
    names = [row.parameters for row in fs.conversion_report(snn).rows]
    assert names == ["mine", "mine", "relu_k3_alpha4"]


def test_quality_chooses_between_published_and_fitted_sets():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2, "swish"), layers.Dense(2, "sigmoid")]
    )
    chosen = {
        quality: [
            row.parameters
            for row in fs.conversion_report(
                fs.convert(model, quality=quality, convert_outputs=True)
            ).rows
        ]
        for quality in ("paper", "accurate", "sparse")
    }
    assert chosen == {
        "paper": ["swish_k16_paper", "sigmoid_k12_paper"],
        "accurate": ["swish_k16", "sigmoid_k12"],
        "sparse": ["swish_k16_sparse", "sigmoid_k12_sparse"],
    }
    with pytest.raises(ValueError, match="quality"):
        fs.convert(model, quality="best")


@pytest.mark.parametrize(
    "activation",
    [layers.Activation(name) for name in
     ("gelu", "tanh", "elu", "selu", "mish", "softplus", "softsign", "hard_sigmoid", "hard_silu",
      "leaky_relu", "relu6")]
    + [layers.LeakyReLU(0.1), layers.LeakyReLU(0.3), layers.ELU(), layers.Activation(ops.gelu)],
    ids=lambda layer: f"{layer.name}",
)  # fmt: skip
def test_fitted_activations_are_converted_as_well_as_their_sets_say(activation):
    """Its error over the domain is the one that its set was shipped with: the right set, rightly used."""
    model = keras.Sequential([keras.Input((1,)), activation])
    snn = fs.convert(model, convert_outputs=True)
    parameters = snn.layers[0].parameters
    if parameters.alpha is not None:  # relu6: rounded down on [0, 6], one step low from 6 to 12
        low, high, expected = -8.0, 12.0, (6 / 1024) ** 2 * (6 / 3 + 6) / 20
    else:
        low, high = parameters.domain
        expected = parameters.errors[f"mse [{low:g}, {high:g}]"]
    x = np.linspace(low, high, 200_001, dtype="float32")[:, np.newaxis]
    error = ((outputs(snn, x)[0] - outputs(model, x)[0]).astype(np.float64) ** 2).mean()
    assert error <= 1.02 * expected < 2e-3


def test_compiled_models_can_be_evaluated_after_conversion():
    model = sequential()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    snn = fs.convert(model)
    assert len(snn.evaluate(RANDOM.normal(size=(4, 8)), np.zeros(4), verbose=0)) == 2


# --- refusals -----------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2, activation="relu")

    def call(self, x):
        return self.dense(x)


class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, activation="relu")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + 1


class OwnDense(layers.Dense):
    def call(self, x):
        return self.activation(super().call(x)) * 2


def test_a_subclassed_model_is_refused():
    model = Subclassed()
    model(np.zeros((1, 2)))
    with pytest.raises(fs.ConversionError, match=r"subclassed.*functional API"):
        fs.convert(model)


def test_a_functional_model_with_a_call_of_its_own_is_refused():
    class Doubling(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    inputs = keras.Input((3,))
    model = Doubling(inputs, layers.Dense(2, activation="relu")(inputs))
    with pytest.raises(fs.ConversionError, match="Doubling"):
        fs.convert(model)
    outer = keras.Model(inputs, layers.ReLU()(model(inputs)))
    with pytest.raises(fs.ConversionError, match="relu: inside a Doubling"):
        fs.convert(outer)


def test_an_activation_without_a_set_is_refused_by_name_or_kept():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, activation=keras.activations.exponential, name="odd"),
            layers.ReLU(),
        ]
    )
    with pytest.raises(fs.ConversionError, match=r"'odd'.*exponential.*keep"):
        fs.convert(model, quality="paper")
    snn = fs.convert(model, quality="paper", unsupported="keep")
    assert [row.parameters for row in fs.conversion_report(snn).rows] == [
        "relu_k10_alpha25",
        "kept",
    ]


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Block(name="mine"), "Block"),
        (OwnDense(3, activation="relu", name="mine"), "OwnDense"),
        (layers.PReLU("uniform", name="mine"), "trained weights"),
    ],
)
def test_activations_inside_a_layer_are_refused_or_kept(layer, name):
    model = keras.Sequential([keras.Input((4, 3)), layer, layers.ReLU()])
    with pytest.raises(fs.ConversionError, match=f"'mine'.*{name}"):
        fs.convert(model)
    report = fs.conversion_report(fs.convert(model, unsupported="keep"))
    assert [row.site for row in report.rows if row.parameters == "kept"] == ["mine"]
    assert fs.verify(model) <= 1e-6


def test_a_model_with_nothing_to_convert_is_refused():
    with pytest.raises(fs.ConversionError, match="no activation"):
        fs.convert(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))


def test_a_second_conversion_is_refused():
    snn = fs.convert(sequential())
    with pytest.raises(fs.ConversionError, match="converted before"):
        fs.convert(snn)


def test_an_unbuilt_model_is_refused():
    with pytest.raises(fs.ConversionError, match="not built"):
        fs.convert(keras.Sequential([layers.Dense(2, activation="relu")]))


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"keras.Model"):
        fs.convert(layers.Dense(3))
    with pytest.raises(TypeError, match="sigmod"):
        fs.convert(sequential(), sigmod=fs.relu_parameters())
    with pytest.raises(ValueError, match="unsupported"):
        fs.convert(sequential(), unsupported="ignore")
    with pytest.raises(TypeError, match="keep"):
        fs.convert(sequential(), keep="relu")
    with pytest.raises(fs.ConversionError, match="convert it first"):
        fs.conversion_report(sequential())


def test_a_swap_that_matches_nothing_warns():
    with pytest.warns(UserWarning, match="silu"):
        fs.convert(sequential(), swish="swish_k16_paper")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fs.convert(sequential(), relu=fs.relu_parameters())


def test_verify_notices_a_difference():
    model = sequential()
    calls = []

    def drifting(x):
        calls.append(1)
        return x + len(calls)

    i = keras.Input((2,))
    odd = keras.Model(i, layers.Activation(drifting)(layers.Dense(2)(i)))
    with pytest.raises(fs.ConversionError, match="differs"):
        fs.verify(odd)
    assert fs.verify(model) == 0


def test_the_report_says_where_statistics_were_missing(tmp_path):
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="first", activation="relu")(x)
    x = layers.LayerNormalization()(x)
    x = layers.ReLU(name="second")(x)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    x = layers.ReLU(name="third")(x)
    snn = fs.convert(keras.Model(inputs, x))
    reasons = [row.reason for row in fs.conversion_report(snn).rows]
    assert reasons == ["statistics assumed", "statistics unknown", ""]
    assert "(statistics unknown)" in str(fs.conversion_report(snn))
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    assert [row.reason for row in fs.conversion_report(loaded).rows] == reasons
    # What was asked for needs no statistics.
    given = fs.convert(keras.Model(inputs, x), relu=fs.relu_parameters(8, 4.0))
    assert {row.reason for row in fs.conversion_report(given).rows} == {""}


def test_verify_asks_for_inputs_of_unknown_size():
    i = keras.Input((None, None, 3), name="picture")
    model = keras.Model(i, layers.Conv2D(2, 3, activation="relu")(i))
    with pytest.raises(ValueError, match=r"picture.*inputs="):
        fs.verify(model)
    assert fs.verify(model, RANDOM.normal(size=(1, 9, 9, 3)).astype("float32")) == 0


# --- keras.applications -------------------------------------------------------------------------

FAMILIES = {
    "ResNet50": 49, "ResNet50V2": 49, "MobileNet": 27, "MobileNetV2": 35, "MobileNetV3Small": 42,
    "EfficientNetB0": 65, "EfficientNetV2B0": 71, "DenseNet121": 121, "VGG16": 15, "InceptionV3": 94,
    "Xception": 35, "NASNetMobile": 192, "ConvNeXtTiny": 18,
}  # fmt: skip
SMALLEST = {"InceptionV3": 75, "Xception": 71}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_keras_applications_are_rebuilt_exactly_and_converted(family):
    if family == "NASNetMobile" and keras.backend.backend() == "torch":
        pytest.skip("Keras does not offer NASNetMobile on PyTorch")
    size = SMALLEST.get(family, 32)
    model = getattr(keras.applications, family)(
        weights=None, input_shape=(size, size, 3), classes=10
    )
    # Statistics and offsets as after training: freshly made ones would hide a batch norm left behind.
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([RANDOM.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    assert fs.verify(model) <= 1e-6
    snn = fs.convert(model, unsupported="keep")
    report = fs.conversion_report(snn)
    assert len(report.rows) == FAMILIES[family]
    keras.backend.clear_session()
