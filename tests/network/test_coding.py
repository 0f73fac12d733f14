"""Which products are spikes, and what is said to need a multiplier."""

import keras
import numpy as np
import pytest
from conftest import simulated
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import trace


def digital(snn):
    return {call.name: reason for call, reason in Coding(trace(snn)).digital.items()}


CODED = {"input_bits": 8, "input_range": (-4, 4)}


def gated(gate_of_site, multiply=lambda a, b: layers.Multiply(name="gated")([a, b])):
    """A feature map, coded or a sum, times the gate of each channel."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    site = layers.Activation("silu", name="act")(x)
    y = site if gate_of_site else layers.Conv2D(4, 3, padding="same", name="sum")(site)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(gate)
    z = layers.Activation("relu", name="last")(
        layers.Conv2D(5, 1, name="project")(multiply(y, gate))
    )
    z = layers.GlobalAveragePooling2D()(z)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(z))


def flipped(a, b):
    return ops.multiply(b, a)


@pytest.mark.parametrize("multiply", [lambda a, b: layers.Multiply()([a, b]), flipped])
@pytest.mark.parametrize("coded", [True, False])
def test_products_of_spikes(coded, multiply):
    snn = fs.convert(gated(coded, multiply), **CODED, digital="none")
    coding = Coding(trace(snn))
    ((call, product),) = coding.products.items()
    names = {"act": "act", "gate": "gate_sigmoid"}
    assert product.source.name == (names["act"] if coded else names["gate"])
    assert product.is_coded == coded
    assert product.carrier.shape == ((6, 6, 4) if coded else (1, 1, 4))
    # Input 1, act 2, gate 3; multiples of the gate are complete one window later, those of a sum long before.
    assert coding.windows[call.outputs.index] == (4 if coded else 3)
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype(np.float32)
    result = simulated(snn, images)
    measured = fs.profile(snn, images)
    assert measured.latency == result.latency
    assert (measured.digital_macs, measured.digital) == (0, ())
    if coded:  # its spikes wait two windows; those of a gate begin at once
        assert result.delays[call.name] == 2 * result.K
    else:
        assert call.name not in result.delays


@pytest.mark.filterwarnings("ignore:in front of the first weights")
def test_the_product_is_that_of_decoded_values_and_exact_on_grids():
    inputs = keras.Input((6,))
    x = layers.ReLU(name="x")(inputs)
    gate = layers.ReLU(name="gate")(layers.Rescaling(-1.0)(inputs) + 3.0)
    y = layers.ReLU()(layers.Multiply()([x, gate]))
    snn = fs.convert(keras.Model(inputs, y), relu=fs.relu_parameters(8, 4.0), **CODED)
    images = np.random.default_rng(0).integers(-64, 64, (9, 6)).astype(np.float32) / 32
    result = fs.simulate(snn, images)
    assert result.deviation == 0
    np.testing.assert_array_equal(result.outputs, ops.convert_to_numpy(snn(images)))


def test_what_needs_a_multiplier_is_named():
    model = gated(True)
    assert digital(fs.convert(model)) == {"stem": "takes an input as numbers: give input_bits"}
    with pytest.raises(fs.ConversionError, match="'stem' takes an input as numbers"):
        fs.convert(model, digital="none")
    with pytest.raises(fs.ConversionError, match="'gate' is an activation that was kept"):
        fs.convert(model, **CODED, keep=("sigmoid",), digital="none")
    inputs = keras.Input((4,), name="numbers")
    x = layers.Dense(4, activation="relu")(inputs)
    sums = layers.Multiply(name="sums")([layers.Dense(3)(x), layers.Dense(3)(x)])
    with pytest.raises(fs.ConversionError, match="'sums' is a product neither factor"):
        fs.convert(keras.Model(inputs, layers.Dense(2)(sums)), **CODED, digital="none")
    snn = fs.convert(model, **CODED, keep=("sigmoid",))
    with pytest.raises(fs.ConversionError, match="needs a multiplier: 'gate"):
        fs.profile(snn, np.zeros((2, 6, 6, 3), np.float32), multiplier=False)


def test_of_calls_in_a_row_the_first_is_named():
    inputs = keras.Input((4,), name="numbers")
    x = layers.LayerNormalization(name="normal")(layers.Dense(4, activation="relu")(inputs))
    x = layers.Dense(3, name="behind")(layers.Dense(3, name="next")(x))
    snn = fs.convert(keras.Model(inputs, layers.Dense(2)(layers.ReLU()(x))), **CODED)
    assert list(digital(snn)) == ["normal"]


def test_heads_are_behind_the_class_scores_and_other_softmax_is_not():
    inputs = keras.Input((4,), name="numbers")
    x = layers.Dense(4, activation="relu")(inputs)
    head = layers.Reshape((3, 1))(layers.Softmax()(layers.Dense(3)(x)))
    model = keras.Model(inputs, head)
    assert not digital(fs.convert(model, **CODED, digital="none"))
    inside = layers.Dense(2)(layers.Softmax(name="inside")(layers.Dense(3)(x)))
    assert list(digital(fs.convert(keras.Model(inputs, inside), **CODED))) == ["inside"]


def test_max_pooling_of_a_response_that_falls():
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(3, 3, activation="silu")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(fs.ConversionError, match="'pool' hands on the largest values"):
        fs.convert(model, **CODED, digital="none")
