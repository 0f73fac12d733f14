"""Which set an activation gets, and what is said where there is none."""

import functools
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.conversion import choosing
from fs_neurons.neuron import sets


def dense(activation, name="mine", last=True):
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, activation, name=name), *([layers.ReLU()] if last else [])]
    )  # fmt: skip


def chosen(model, **arguments):
    report = fs.conversion_report(fs.convert(model, **{"quality": "paper", **arguments}))
    return [row.parameters for row in report.rows]


@pytest.fixture
def registry(monkeypatch):
    copy = {quality: dict(known) for quality, known in sets._registry.items()}
    monkeypatch.setattr(sets, "_registry", copy)


def relu(x):
    return ops.clip(x, -1, 1)


def linear(x):
    return ops.relu(x)


def my_act(x):
    return ops.relu(x) ** 2


@pytest.mark.parametrize("function", [relu, linear, functools.partial(relu)])
def test_a_function_that_only_has_the_name_of_keras_is_refused_or_kept(function):
    model = dense(function)
    name = getattr(function, "func", function).__name__
    with pytest.raises(fs.ConversionError, match=f"'mine' .*it is not Keras' {name}: at x = "):
        fs.convert(model)
    snn = fs.convert(model, unsupported="keep", relu=fs.relu_parameters(19, 64.0))
    assert [r.site for r in fs.conversion_report(snn).rows if r.parameters == "kept"] == ["mine"]
    x = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    expected, actual = (ops.convert_to_numpy(m(x)) for m in (model, snn))
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    assert fs.verify(model) <= 1e-6


def test_functions_of_the_user_are_registered_by_name(registry):
    mine = fs.FSParameters([0.5], [0.5], [1], name="squares")
    with pytest.raises(fs.ConversionError, match=r"'mine' \(my_act\)"):
        fs.convert(dense(my_act))
    assert chosen(dense(my_act), my_act=mine)[0] == "squares"
    fs.register("my_act", mine)
    assert chosen(dense(my_act))[0] == "squares"


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (functools.partial(ops.squareplus, b=2), "squareplus(b=2)"),
        (
            functools.partial(ops.threshold, threshold=1, default_value=0),
            "threshold(default_value=0, threshold=1)",
        ),
        (functools.partial(ops.elu, alpha=0.5), "elu(alpha=0.5)"),
        (keras.activations.sparsemax, "isn't an element-wise function"),
        (functools.partial(ops.leaky_relu, negative_slope=0.01), "leaky_relu(negative_slope=0.01)"),
    ],
)
def test_options_without_a_set_are_refused_by_name(activation, name):
    with pytest.raises(fs.ConversionError, match=re.escape(name)):
        fs.convert(dense(activation))
    assert chosen(dense(activation), unsupported="keep") == ["relu_k10_alpha25", "kept"]


def test_glu_is_refused_by_name():
    inputs = keras.Input((4,))
    x = ops.relu(ops.glu(layers.Dense(4)(inputs)))
    with pytest.raises(fs.ConversionError, match=r"glu.*halves the channels"):
        fs.convert(keras.Model(inputs, x))


def test_a_partial_relu_keeps_its_largest_value():
    assert chosen(dense(functools.partial(ops.relu6))) == ["relu_k10_alpha6", "relu_k10_alpha25"]
    model = dense(functools.partial(keras.activations.relu, max_value=1))
    assert chosen(model) == ["relu_k10_alpha1", "relu_k10_alpha25"]


def test_a_leaky_relu_without_a_slope_is_a_relu():
    assert chosen(dense(layers.LeakyReLU(0.0))) == ["relu_k10_alpha25"] * 2
    assert chosen(dense(layers.LeakyReLU(0.2))) == ["leaky_relu_0.2_k12", "relu_k10_alpha25"]


def test_both_ways_to_compute_gelu_get_its_set():
    model = dense(ops.gelu)
    (site, _) = fs.find_sites(model)
    assert site.activation == "gelu(approximate=True)"
    assert chosen(model)[0] == "gelu_k12"
    parameters = fs.convert(model).layers[1].parameters
    error, _ = choosing._errors(parameters, ops.gelu)
    low, high = parameters.domain
    assert error**2 <= 1.02 * parameters.errors[f"mse [{low:g}, {high:g}]"]


# --- keep ---------------------------------------------------------------------------------------


def test_keep_knows_relu6_and_refuses_what_is_misspelt():
    model = dense("relu6")
    assert chosen(model, keep=["relu6"]) == ["relu_k10_alpha25", "kept"]
    assert chosen(model, keep=["relu(max_value=6)"]) == ["relu_k10_alpha25", "kept"]
    assert chosen(model, keep=["silu"]) == ["relu_k10_alpha6", "relu_k10_alpha25"]
    with pytest.raises(ValueError, match=r"'sigmod'.*relu, relu\(max_value=6\)"):
        fs.convert(model, keep=["sigmod"])
    with pytest.raises(fs.ConversionError, match=r"kept as asked for: 'mine'"):
        fs.convert(model, keep=["relu"])


def test_layers_are_kept_by_name():
    assert chosen(dense("relu"), keep_layers=["mine"]) == ["relu_k10_alpha25", "kept"]
    assert chosen(dense("relu"), keep_layers=["mine_relu"]) == ["relu_k10_alpha25", "kept"]
    with pytest.raises(ValueError, match=r"'min'; close names: mine"):
        fs.convert(dense("relu"), keep_layers=["min"])
    with pytest.raises(TypeError, match="keep_layers must be a list"):
        fs.convert(dense("relu"), keep_layers="mine")


# --- sets given by the caller -------------------------------------------------------------------


def test_rounding_goes_on_to_relus_that_saturate():
    names = chosen(dense("relu6"), relu=fs.relu_parameters(4, 10, "nearest"))
    assert names == ["relu_k4_alpha6_nearest", "relu_k4_alpha10_nearest"]


def test_a_relu_set_that_is_not_binary_coded_is_said_not_to_go_there():
    ramp = fs.FSParameters([6, 3, 1], [6, 3, 1], [6, 3, 1], name="ramp", domain=(-8, 10))
    with pytest.warns(UserWarning, match=r"'mine' saturates at 6.*'ramp'.*relu_parameters\(3, 6\)"):
        assert chosen(dense("relu6"), relu=ramp) == ["relu_k3_alpha6", "ramp"]
    assert chosen(dense("relu6"), relu6=ramp) == ["ramp", "relu_k10_alpha25"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"relu": "swish_k16_paper"}, "is for silu"),
        ({"relu": "sigmoid_k12_paper"}, "is for sigmoid"),
        ({"relu": "relu6_k12"}, "is for relu6"),
        ({"swish": "gelu_k12"}, "is for gelu"),
    ],
)
def test_a_set_that_plainly_is_for_another_function_is_refused(arguments, what):
    model = dense("swish")
    with pytest.raises(ValueError, match=what):
        fs.convert(model, **arguments)


def test_a_set_that_is_as_wrong_as_none_is_refused():
    negative = fs.FSParameters([1], [1], [-3], name="negative", domain=(0, 8))
    with pytest.raises(ValueError, match="'negative': that set is for another function"):
        fs.convert(dense("relu"), relu=negative)


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.01, 3, 1e4])
def test_coarse_sets_are_fine(K, alpha):
    for rounding in ("down", "nearest"):
        fs.convert(dense("relu"), relu=fs.relu_parameters(K, alpha, rounding))


@pytest.mark.parametrize(
    "name", ["swish_k8", "swish_k16_q4", "swish_k16_sparse", "swish_k16_dense"]
)
def test_sets_for_the_same_function_are_fine(name):
    assert chosen(dense("swish"), swish=name)[0] == name


def test_a_set_for_leaky_relu_goes_where_its_slope_is():
    model = keras.Sequential(
        [keras.Input((3,)), layers.LeakyReLU(0.1, name="a"), layers.LeakyReLU(0.3, name="b")]
    )
    names = chosen(model, leaky_relu="leaky_relu_0.1_k12")
    assert names == ["leaky_relu_0.1_k12", "leaky_relu_0.3_k12"]
    other = keras.Sequential([keras.Input((3,)), layers.LeakyReLU(0.01), layers.ReLU()])
    with pytest.raises(ValueError, match=r"leaky_relu"):
        fs.convert(other, leaky_relu="leaky_relu_0.3_k12")


@pytest.mark.parametrize("arguments", [{"quality": "paper"}, {"relu": fs.relu_parameters(8)}])
def test_a_set_of_more_steps_than_a_site_may_have_is_refused(arguments):
    model = dense("relu")
    with pytest.raises(fs.ConversionError, match=r"'mine' \(relu\).* steps, more than steps=5"):
        fs.convert(model, steps=5, **arguments)
    assert len(chosen(model, steps=10, **arguments)) == 2


# --- advice -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation", [layers.LeakyReLU(0.01), lambda x: ops.relu(x) * 0.5, "mine"]
)
def test_the_advice_works(activation, registry):
    model = dense(my_act if activation == "mine" else activation)
    with pytest.raises(fs.ConversionError) as error:
        fs.convert(model)
    text = str(error.value)
    function = fs.find_sites(model)[0].function
    values = lambda x: ops.convert_to_numpy(function(ops.convert_to_tensor(x, "float32")))  # noqa: E731
    (advice,) = re.findall(r"fs\.register\(.*?\)\)(?=, or)", text)
    advice = advice.replace("domain=(-8, 12)", "domain=(-8, 12), effort=2_000, verbose=False")
    eval(advice, {"fs": fs, "function": values})
    assert chosen(model)[0] == "fitted"


def test_what_convert_fits_is_as_good_as_it_says(monkeypatch):
    monkeypatch.setattr(choosing, "FIT_EFFORT", 2_000)
    twice = layers.Dense(3, layers.LeakyReLU(0.01))
    model = keras.Sequential(
        [keras.Input((3,)), twice, layers.Dense(3, my_act), layers.LeakyReLU(0.01)]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        snn = fs.convert(model, unsupported="fit")
    said = [str(w.message) for w in caught if "fitted a set of 12 steps" in str(w.message)]
    assert len(said) == 2 and "leaky_relu(negative_slope=0.01)" in said[0] and "my_act" in said[1]
    names = [row.parameters for row in fs.conversion_report(snn).rows]
    assert names == ["leaky_relu(negative_slope=0.01)_k12", "my_act_k12", "leaky_relu(negative_slope=0.01)_k12"]  # fmt: skip
    x = np.linspace(-8, 12, 4001, dtype="float32")[:, np.newaxis]
    error = ops.convert_to_numpy(snn.layers[-1](x)) - np.where(x > 0, x, 0.01 * x)
    stated = float(re.search(r"square error (\S+)", said[0])[1])
    np.testing.assert_allclose(np.sqrt((error**2).mean()), stated, rtol=0.06)


def test_what_can_not_be_fitted_is_refused():
    with pytest.raises(fs.ConversionError, match="sparsemax"):
        fs.convert(dense(keras.activations.sparsemax), unsupported="fit")
    per_neuron = keras.Sequential([keras.Input((4, 3)), layers.PReLU("uniform")])
    with pytest.raises(fs.ConversionError, match="trained weights"):
        fs.convert(per_neuron, unsupported="fit")


@pytest.mark.parametrize("largest", [0, 1e-45])
def test_a_relu_without_a_range_is_named(largest):
    model = keras.Sequential([keras.Input((3,)), layers.ReLU(), layers.ReLU(largest, name="flat")])
    with pytest.raises(fs.ConversionError, match="'flat'"):
        fs.convert(model)


def test_a_relu_with_an_infinite_range_is_a_relu():
    assert chosen(dense(layers.ReLU(float("inf")))) == ["relu_k10_alpha25"] * 2


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("silu", r"without data there are sets of 8, .*16 steps, none of at most 6"),
        ("elu", r"no set of at most 6 steps without data, only one of 12.*elu=\.\.\."),
    ],
)
def test_fewer_steps_than_there_are_sets_for_are_refused(activation, message):
    normalized = layers.BatchNormalization()
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3), normalized, layers.Activation(activation, name="mine")]
    )
    with pytest.raises(fs.ConversionError, match=f"'mine'.*{message}"):
        fs.convert(model, steps=6, convert_outputs=True)
