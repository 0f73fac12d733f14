"""Additions without a multiplier, against linear maps whose entries are counted."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.analysis.reach import Additions
from fs_neurons.network.coding import Coding
from fs_neurons.network.graph import trace

SHAPE = (6, 7, 3)
K = 4


def conv(filters=4, kernel=3, strides=1, padding="same", **options):
    return layers.Conv2D(filters, kernel, strides, padding, **options)


CHAINS = {
    "pooled dense": lambda: [layers.GlobalAveragePooling2D(), layers.Dense(4)],
    "two convolutions": lambda: [conv(), conv(2, 2, 2)],
    "strided": lambda: [conv(strides=2), conv(5, (3, 2), padding="valid")],
    "grouped": lambda: [conv(6, groups=3), conv(4, 1, groups=2)],
    "separable": lambda: [layers.SeparableConv2D(4, 3), layers.DepthwiseConv2D(2, depth_multiplier=2)],
    "dilated": lambda: [conv(dilation_rate=2), layers.ZeroPadding2D(((1, 0), (0, 2))), conv(3, 2)],
    "transposed": lambda: [layers.Conv2DTranspose(3, 3, 2), layers.Cropping2D(1)],
    "upsampled": lambda: [layers.UpSampling2D(2), conv(2, 2, 2)],
    "averages": lambda: [layers.AveragePooling2D(3, 2, "same"), conv(2, 1), layers.BatchNormalization()],
    "kept": lambda: [
        layers.GlobalAveragePooling2D(keepdims=True), conv(5, 1), layers.Reshape((5,)), layers.Dense(3),
    ],
    "reshaped": lambda: [
        layers.GlobalAveragePooling2D(), layers.Reshape((1, 1, 3)), conv(5, 1), conv(2, 1),
    ],
    "flattened": lambda: [layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(4)],
}  # fmt: skip


@pytest.mark.parametrize("to_site", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_every_target_of_layers_in_a_row(name, to_site):
    x = start = keras.Input(SHAPE)
    for layer in CHAINS[name]():
        x = layer(x)
    linear = keras.Model(start, x)
    outputs = layers.ReLU()(x) if to_site else x
    model = keras.Model(start, outputs)
    targets = targets_of(linear)
    inputs = keras.Input(SHAPE, name="image")
    y = fs.FSReLU(K, 1.0, name="site")(inputs)
    snn = keras.Model(inputs, fs.convert(model)(y) if to_site else model(y))
    coding = Coding(trace(snn))
    site = next(call for call in coding.graph.calls if call.name == "site")
    additions = np.broadcast_to(Additions(coding).of(site.outputs), SHAPE)
    np.testing.assert_array_equal(additions, targets)


def targets_of(linear):
    """Outputs that each entry of the input has a weight to: weights are positive, so that none cancel."""
    rng = np.random.default_rng(0)
    for variable in linear.weights:
        kernel = len(variable.shape) > 1 or variable.path.endswith(("gamma", "variance"))
        value = rng.uniform(0.5, 1, variable.shape) if kernel else np.zeros(variable.shape)
        variable.assign(value)
    size = int(np.prod(SHAPE))
    outputs = ops.convert_to_numpy(linear(np.eye(size, dtype=np.float32).reshape(size, *SHAPE)))
    return (outputs > 0).reshape(size, -1).sum(axis=1).reshape(SHAPE)


def additions_of(model):
    coding = Coding(trace(fs.convert(model, input_bits=8, input_range=(-4, 4), digital="none")))
    reach = Additions(coding)
    return {
        call.name: np.broadcast_to(reach.of(call.outputs), call.outputs.shape)
        for call in coding.graph.sites
    }


def test_branches_of_a_residual_block_that_is_linear():
    inputs = keras.Input((4,), name="image")
    a = layers.Dense(5, activation="relu", name="a")(inputs)
    block = layers.Dense(3, name="project")(a)
    b = layers.Dense(7, activation="relu", name="b")(block)
    total = layers.Add()([block, layers.Dense(3)(b)])
    model = keras.Model(inputs, layers.Dense(2, activation="relu", name="c")(total))
    found = additions_of(model)
    # From a: 7 neurons of b, and the 2 of c.
    assert {name: set(x.ravel()) for name, x in found.items()} == {
        "image_spikes": {5}, "a_relu": {9}, "b_relu": {2}, "c_relu": {1},
    }  # fmt: skip


def squeeze_excite(coded):
    inputs = keras.Input((6, 6, 3), name="image")
    x = conv(4, 1, activation="relu", name="a")(inputs)
    y = x if coded else conv(4, 3, name="sum")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = conv(2, 1, activation="relu", name="reduce")(gate)
    gate = conv(4, 1, activation="sigmoid", name="gate")(gate)
    z = conv(5, 1, name="project")(layers.Multiply()([y, gate]))
    return keras.Model(inputs, conv(6, 1, activation="relu", name="last")(z))


def test_multiples_of_a_gate_are_formed_once_per_channel():
    found = additions_of(squeeze_excite(True))
    steps = fs.relu_parameters(10).K
    # 2 of reduce; 6 of last, behind project.
    assert set(found["a_relu"].ravel()) == {2 + 6}
    # 6 weights of each channel, K multiples.
    assert set(found["gate_sigmoid"].ravel()) == {6 * steps}


def test_multiples_of_a_sum_are_made_by_the_spikes_that_it_sums():
    found = additions_of(squeeze_excite(False))
    K = 12  # of the sigmoid
    inside = 9 * 4  # entries of the sum that a spike in the middle reaches
    assert found["a_relu"][2, 2, 0] == 2 + inside * 6 * K
    assert found["a_relu"][0, 0, 0] == 2 + 4 * 4 * 6 * K
    assert set(found["gate_sigmoid"].ravel()) == {36 * 6}


def test_the_profile_counts_them():
    images = np.random.default_rng(0).normal(size=(5, 6, 6, 3)).astype(np.float32)
    model = squeeze_excite(True)
    snn = fs.convert(model, input_bits=8, input_range=(-4, 4))
    without, plain = fs.profile(snn, images), fs.profile(snn, images, multiplier=True)
    fans = additions_of(model)
    for site in without.layers:
        fan = fans[site.name]
        assert site.fan_out == (fan.min(), fan.max())
    assert (without.multiplier, plain.multiplier) == (False, True)
    assert (without.digital_macs, without.digital) == (0, ())
    # Behind sums and products: reduce, project and last.
    assert plain.digital_macs == 4 * 2 + 36 * 4 * 5 + 36 * 5 * 6
    assert "no multiplications" in str(without) and "no multiplications" not in str(plain)
