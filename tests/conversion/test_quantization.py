"""Networks in integers against a loop in 64-bit integers, and against the networks that they come from."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.analysis import evaluate
from fs_neurons.conversion import quantization
from fs_neurons.conversion.integer_sites import integer_spikes
from fs_neurons.conversion.integers import common_unit
from fs_neurons.data import datasets
from fs_neurons.layers import RightShift
from fs_neurons.network.graph import trace
from fs_neurons.neuron import spike_train

CODED = {"input_bits": 8, "input_range": (0, 256)}
# Ranges of few steps, of which some gate inputs lie outside: what is quantized are the numbers that there are.
clipped = pytest.mark.filterwarnings("ignore:outside what their parameters cover")


def block(x, filters, stride):
    y = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
    if stride > 1:
        x = layers.BatchNormalization()(layers.Conv2D(filters, 1, stride)(x))
    return layers.ReLU()(layers.Add()([x, y]))


def residual(pool=False, head=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7, 6, 2), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    if pool:
        x = layers.MaxPooling2D(2, padding="same")(x)
    x = block(block(x, 4, 1), 6, 2)
    x = layers.DepthwiseConv2D(2, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation=head, name="scores")(x), name="net")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith(("gamma", "variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "bias", "mean")):
            variable.assign(rng.normal(0, 0.2, variable.shape))
        else:  # the same on every device
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(0, np.sqrt(2 / fan_in), variable.shape))
    return model


def pixels(count=6, shape=(7, 6, 2)):
    return np.random.default_rng(1).integers(0, 256, (count, *shape)).astype(np.float32)


def integers(x):
    x = np.asarray(x, np.float64)
    np.testing.assert_array_equal(x, np.rint(x))
    assert np.abs(x).max() < 2**24
    return x.astype(np.int64)


def run_in_integers(model, images):
    """All values of a quantised network by name, in 64-bit integers; outputs before their unit."""
    network = trace(model)
    values = {network.inputs[0]: integers(images)}
    for call in network.calls:
        if call.name == "unit":
            continue
        values[call.outputs] = compute(call.op, [values[v] for v in call.inputs])
    return {call.name: values[call.outputs] for call in network.calls if call.name != "unit"}


def compute(op, inputs):
    x = inputs[0]
    if isinstance(op, fs.FSActivation):
        h, d = (
            integers(v).reshape(op.parameters.K, -1) for v in (op.parameters.h, op.parameters.d)
        )
        coded = isinstance(op, fs.FSInput)  # which has thresholds between the pixels
        T = op.parameters.T if coded else integers(op.parameters.T)
        T = T.reshape(op.parameters.K, -1)
        v, y = x.copy(), np.zeros_like(x)
        for t in range(op.parameters.K):
            z = v >= T[t]
            y += d[t] * z
            v -= h[t] * z
        return y
    if isinstance(op, layers.MaxPooling2D):  # 2 x 2, of an odd size
        x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        n, height, width, channels = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    if isinstance(op, layers.Rescaling):
        return x * integers(op.scale) + integers(op.offset)
    if isinstance(op, layers.Add):
        return sum(inputs)
    if isinstance(op, layers.Multiply):
        return inputs[0] * inputs[1]
    if isinstance(op, RightShift):
        return (x + (1 << op.bits >> 1)) >> op.bits
    if isinstance(op, layers.Reshape):
        return x.reshape(-1, *op.target_shape)
    if isinstance(op, layers.Dense):
        return x @ integers(op.kernel) + integers(op.bias)
    if isinstance(op, (layers.Conv2D, layers.DepthwiseConv2D)):
        return convolve(op, x)
    assert type(op).__name__ == "Sum", op
    return x.sum(axis=(1, 2), keepdims=op.keepdims)


def convolve(op, x):
    kernel, bias = integers(op.kernel), integers(op.bias)
    if isinstance(op, layers.DepthwiseConv2D):
        kernel = kernel[..., 0][..., None] * np.eye(kernel.shape[2], dtype=np.int64)
    (a, b), stride = kernel.shape[:2], op.strides[0]
    sizes = x.shape[1:3]
    if op.padding == "same":
        totals = [
            max(0, (-(-n // stride) - 1) * stride + k - n)
            for n, k in zip(sizes, (a, b), strict=True)
        ]
        x = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in totals), (0, 0)))
    rows = range(0, x.shape[1] - a + 1, stride)
    columns = range(0, x.shape[2] - b + 1, stride)
    return np.stack(
        [
            np.stack(
                [np.tensordot(x[:, i : i + a, j : j + b], kernel, 3) + bias for j in columns], 1
            )
            for i in rows
        ],
        axis=1,
    )


def assert_every_number_is_an_integer(chip, limit=2**24):
    """Below a limit, and the same as in a loop of 64-bit integers; no value needs a multiplier."""
    expected = run_in_integers(chip, pixels())
    assert max(np.abs(x).max() for x in expected.values()) < limit
    inner = [x for x in chip.layers if x.name in expected]
    probe = keras.Model(chip.inputs[0], [layer.output for layer in inner])
    for layer, y in zip(inner, probe(pixels()), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(y), expected[layer.name])
    unit = chip.get_layer("unit").scale
    np.testing.assert_array_equal(
        ops.convert_to_numpy(chip(pixels())),
        (expected["scores"] * np.float32(unit)).astype(np.float32),
    )
    assert fs.simulate(chip, pixels()).deviation == 0
    measured = fs.profile(chip, pixels())
    assert (measured.digital, measured.digital_macs) == ((), 0)


@clipped
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("pool", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_number_is_that_of_64_bit_integers(bits, pool):
    snn = fs.convert(
        residual(pool), relu=fs.relu_parameters(6, 4.0, "nearest"), **CODED, digital="none"
    )
    chip = fs.quantize(snn, weight_bits=bits)
    assert (
        max(np.abs(integers(w)).max() for w in chip.get_weights() if w.ndim > 1)
        == 2 ** (bits - 1) - 1
    )
    assert_every_number_is_an_integer(chip)


def squeeze_excite(of_spikes, activation="silu"):
    """Gates of sums, as in SE-ResNet, or of spikes, as in EfficientNet."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7, 6, 2), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.Conv2D(6, 3, padding="same", activation=activation)(x)
    y = layers.Conv2D(6, 3, padding="same", activation=activation if of_spikes else None)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=not of_spikes)(y)
    if of_spikes:
        gate = layers.Reshape((1, 1, 6))(gate)
    gate = layers.Conv2D(3, 1, activation=activation)(gate)
    gate = layers.Conv2D(6, 1, activation="sigmoid")(gate)
    y = layers.Multiply()([y, gate])
    if of_spikes:
        y = layers.Conv2D(6, 1)(y)
    y = layers.Activation(activation, name="last")(layers.Add()([x, y]))
    y = layers.GlobalAveragePooling2D()(y)
    model = keras.Model(inputs, layers.Dense(3, name="scores")(y), name="se")
    rng = np.random.default_rng(0)
    fan_in = [w.size / w.shape[-1] for w in model.get_weights()]
    weights = zip(model.get_weights(), fan_in, strict=True)
    model.set_weights([rng.normal(0, 1.5 / np.sqrt(n), w.shape) for w, n in weights])
    return model


@pytest.mark.filterwarnings("ignore:weights of model.*rounded more coarsely")
@pytest.mark.parametrize("potential_bits", [25, 20])
@pytest.mark.parametrize("of_spikes", [False, True])
def test_products_are_those_of_64_bit_integers(tmp_path, of_spikes, potential_bits):
    snn = fs.convert(squeeze_excite(of_spikes), **CODED, digital="none")
    chip = fs.quantize(snn, potential_bits=potential_bits)
    assert any(isinstance(layer, RightShift) for layer in chip.layers)
    assert_every_number_is_an_integer(chip, 2 ** (potential_bits - 1))
    a, b = ops.convert_to_numpy(snn(pixels())), ops.convert_to_numpy(chip(pixels()))
    if potential_bits == 25:
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.1 * a.std()
        chip.save(tmp_path / "chip.keras")
        again = keras.models.load_model(tmp_path / "chip.keras")
        np.testing.assert_array_equal(ops.convert_to_numpy(again(pixels())), b)


@pytest.mark.filterwarnings("ignore:weights of model.*rounded more coarsely")
@pytest.mark.filterwarnings("ignore:d of model.*rounded so that")
@pytest.mark.parametrize("of_spikes", [False, True])
def test_more_bits_of_parameters_do_not_harm(of_spikes):
    """Potentials have bits for weights, d and products together: none takes them from the others."""
    snn = fs.convert(squeeze_excite(of_spikes), swish="swish_k16", **CODED, digital="none")
    images = pixels(40)
    y = ops.convert_to_numpy(snn(images))
    errors = [
        np.std(ops.convert_to_numpy(fs.quantize(snn, parameter_bits=b)(images)) - y)
        for b in (4, 6, 8, 10, 13, 16)
    ]
    assert max(errors[3:]) < 0.05 * y.std()
    assert max(errors[3:]) < errors[0]


def test_d_that_are_too_coarse_are_said_to_be():
    snn = fs.convert(squeeze_excite(False), swish="swish_k16", **CODED)
    with pytest.warns(UserWarning, match=r"d of model 'se' .* more parameter_bits"):
        fs.quantize(snn, parameter_bits=4)


@pytest.mark.parametrize("bits", [4, 6, 8, 10])
def test_parameters_of_few_bits_stay_what_they_are(bits):
    neurons = fs.FSActivation(f"swish_k16_q{bits}", "swish")
    d, unit = integer_spikes(neurons, 3, 2 ** (bits - 1) - 1)
    integers(d)
    np.testing.assert_allclose(d * unit, neurons.parameters.d[:, None] + np.zeros(3), rtol=1e-4)


def test_spikes_are_rounded_so_that_responses_are_kept():
    p = fs.FSActivation("swish_k16", "swish").parameters
    x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    z = ops.convert_to_numpy(spike_train(x, p)).astype(np.float64)
    wanted = ops.convert_to_numpy(fs.FSActivation(p, "swish")(x))
    for largest, share in ((31, 0.8), (127, 0.95)):
        d, unit = integer_spikes(fs.FSActivation(p, "swish"), 1, largest)
        nearest = np.abs(p.d).max() / largest
        errors = [
            np.square(z @ some - wanted).mean()
            for some in (d[:, 0] * unit, np.rint(p.d / nearest) * nearest)
        ]
        assert np.abs(d).max() <= largest
        assert errors[0] < share * errors[1]


def test_units_of_sums_are_those_of_each_channel():
    a, b = np.array([1.0, 3.0, 1.0, 5.0]), np.array([1.5, 1.0, 0.25, 5.0])
    unit, factors = common_unit([a, b])
    np.testing.assert_allclose(unit, [0.5, 1.0, 0.25, 5.0])
    np.testing.assert_array_equal(factors, [[2, 3, 4, 1], [3, 1, 1, 1]])


@clipped
def test_biases_that_harm_are_not_kept(monkeypatch):
    snn = fs.convert(residual(), relu=fs.relu_parameters(6, 4.0), **CODED)
    images = pixels(17)
    monkeypatch.setattr(quantization, "fitted_offsets", lambda *_: {})
    expected = ops.convert_to_numpy(fs.quantize(snn, calibration_data=images)(images))
    monkeypatch.setattr(
        quantization, "fitted_offsets",
        lambda chip, inputs, made, seen: {call: np.full(len(x.mean), 0.5) for call, x in seen.items()},
    )  # fmt: skip
    found = ops.convert_to_numpy(fs.quantize(snn, calibration_data=images)(images))
    np.testing.assert_array_equal(found, expected)


@clipped
def test_biases_keep_the_mean_of_each_channel():
    snn = fs.convert(residual(), relu=fs.relu_parameters(6, 4.0), **CODED)
    images = pixels(40)
    chip = fs.quantize(snn, weight_bits=3, calibration_data=images)
    assert_every_number_is_an_integer(chip)
    half = images[::2]  # which they are fitted to
    means = [ops.convert_to_numpy(x(half)).mean(axis=0) for x in (snn, fs.quantize(snn, 3), chip)]
    unit = chip.get_layer("unit").scale
    assert np.abs(means[2] - means[0]).max() <= unit < np.abs(means[1] - means[0]).max()


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_many_bits_change_little(activation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="numbers")
    x = layers.Dense(20, activation=activation)(inputs)
    x = layers.Dense(10, activation=activation)(
        layers.Concatenate()([x, layers.Dense(5, activation="relu")(inputs)])
    )
    model = keras.Model(inputs, layers.Dense(4)(x))
    snn = fs.convert(model, relu=fs.relu_parameters(8, 8.0), input_bits=8, input_range=(-3.0, 3.1))
    chip = fs.quantize(snn, weight_bits=10, parameter_bits=10)
    images = np.random.default_rng(0).uniform(-3, 3, (200, 6)).astype(np.float32)
    a, b = ops.convert_to_numpy(snn(images)), ops.convert_to_numpy(chip(images))
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.03 * a.std()
    assert fs.simulate(chip, images[:9]).deviation == 0


def test_per_channel_ranges_and_saving(tmp_path):
    data = datasets.standardise(datasets.load("digits", "train").images[:200])
    data, test = ops.convert_to_numpy(data), datasets.load("digits", "test")
    model = models.pretrained("resnet8", "digits")
    snn = fs.convert(model, calibration_data=data, steps=5, input_bits=8, digital="none")
    chip = fs.quantize(snn)
    a, b = (evaluate(network, test) for network in (snn, chip))
    assert b.accuracy >= a.accuracy - 0.005
    assert b.spikes == pytest.approx(a.spikes, rel=0.02)
    chip.save(tmp_path / "chip.keras")
    again = keras.models.load_model(tmp_path / "chip.keras")
    images = ops.convert_to_numpy(datasets.standardise(test.images[:20]))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(images)), ops.convert_to_numpy(chip(images))
    )


def test_heads_stay_behind_the_class_scores():
    chip = fs.quantize(fs.convert(residual(head="softmax"), **CODED))
    np.testing.assert_allclose(ops.convert_to_numpy(chip(pixels())).sum(axis=1), 1, atol=1e-5)


@clipped
def test_weights_are_coarser_where_sums_could_leave_the_range():
    snn = fs.convert(residual(), relu=fs.relu_parameters(10, 4.0), **CODED)
    with pytest.warns(UserWarning, match="rounded more coarsely"):
        chip = fs.quantize(snn, weight_bits=10, potential_bits=21)
    worst = 0
    for layer in chip.layers:
        if isinstance(layer, layers.Conv2D) and layer.input.shape[-1] > 2:
            kernel = integers(layer.kernel)
            for part in (np.maximum(kernel, 0), np.maximum(-kernel, 0)):
                worst = max(worst, 1023 * part.sum(axis=(0, 1, 2)).max())
    assert 2**18 < worst < 2**20
    expected = run_in_integers(chip, pixels())
    unit = np.float32(chip.get_layer("unit").scale)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(chip(pixels())), (expected["scores"] * unit).astype(np.float32)
    )
    a, b = ops.convert_to_numpy(snn(pixels())), ops.convert_to_numpy(chip(pixels()))
    assert np.abs(a - b).max() < 0.1 * a.std()


def test_what_has_no_integer_form_is_named():
    model = residual()
    with pytest.raises(fs.ConversionError, match="takes an input as numbers"):
        fs.quantize(fs.convert(model))
    with pytest.raises(fs.ConversionError, match=r"potentials behind .* stay below 512"):
        fs.quantize(fs.convert(model, **CODED), potential_bits=10)
    x = inputs = keras.Input((4,), name="numbers")
    sums = [layers.Dense(4)(layers.Dense(4, activation="relu")(x)) for _ in range(2)]
    gated = layers.Multiply(name="gated")(sums)  # neither factor of which is spikes
    with pytest.raises(fs.ConversionError, match=r"no integer form of 'gated' \(Multiply\)"):
        fs.quantize(fs.convert(keras.Model(inputs, layers.Dense(2)(gated)), **CODED))
    with pytest.raises(TypeError, match=r"expected a keras\.Model"):
        fs.quantize("model.keras")
    few = pixels(20)
    few[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 3 has NaN"):
        fs.quantize(fs.convert(model, **CODED), calibration_data=few)
    with pytest.raises(ValueError, match="weight_bits must be 2 to 16"):
        fs.quantize(fs.convert(model, **CODED), weight_bits=1)
