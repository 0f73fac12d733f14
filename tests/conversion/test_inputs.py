"""Inputs as spikes: exact codes, folded normalisation, and what is refused."""

import keras
import numpy as np
import pytest
from conftest import simulated
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.conversion.folding import fold_inputs


def network(*front, shape=(6, 6, 2), padding="same"):
    """Layers in front of a convolution, a site and class scores, with random weights."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape, name="image")
    for layer in front:
        x = layer(x)
    x = layers.Conv2D(4, 3, padding=padding, activation="relu", name="stem")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="scores")(x))


def pixels(count=5, shape=(6, 6, 2)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float32)


def test_pixels_are_coded_without_error():
    model = network(layers.Rescaling(1 / 255))
    plain = fs.convert(model, quality="paper")
    folded, _ = fold_inputs(model)
    coded = fs.convert(model, quality="paper", input_bits=8, input_range=(0, 256), digital="none")
    same = fs.convert(folded, quality="paper")  # the same weights
    np.testing.assert_array_equal(
        ops.convert_to_numpy(coded(pixels())), ops.convert_to_numpy(same(pixels()))
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(coded(pixels())), ops.convert_to_numpy(plain(pixels())), atol=1e-3
    )
    with fs.record_spikes() as records:
        coded(pixels())
    bits = np.unpackbits(pixels().astype(np.uint8).reshape(5, -1), axis=1).sum(axis=1)
    np.testing.assert_array_equal(ops.convert_to_numpy(records[0].spikes), bits)
    row = fs.conversion_report(coded).rows[0]
    assert (row.site, row.activation, row.shape) == ("image_spikes", "input", (6, 6, 2))


def normalization():
    return layers.Normalization(mean=[100.0, 50.0], variance=[900.0, 400.0], name="normal")


FRONTS = {
    "none": list,
    "rescaling": lambda: [layers.Rescaling(1 / 255, name="scale")],
    "shifted": lambda: [layers.Rescaling(1 / 127.5, -1, name="scale")],
    "three": lambda: [
        layers.Rescaling(1 / 255), normalization(), layers.Rescaling([0.5, 2.0], name="last"),
    ],
    "padded": lambda: [normalization(), layers.ZeroPadding2D(((1, 0), (2, 1)))],
    "augmented": lambda: [layers.RandomFlip(), normalization()],
}  # fmt: skip


# Of layers that remain or are left out, and of random weights.
@pytest.mark.filterwarnings(
    "ignore:in front of the first weights", "ignore:left out of the conversion"
)
@pytest.mark.filterwarnings("ignore:gate inputs outside")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("front", FRONTS)
def test_normalisation_goes_into_the_first_weights(front, padding):
    model = network(*FRONTS[front](), padding=padding)
    folded, _ = fold_inputs(model)
    expected, actual = (ops.convert_to_numpy(m(pixels(), training=False)) for m in (model, folded))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    left = [x for x in folded.layers if isinstance(x, (layers.Rescaling, layers.Normalization))]
    borders = padding == "same" or front == "padded"
    offsets = front in ("shifted", "three", "padded", "augmented")
    assert len(left) == (borders and offsets)
    assert all(isinstance(x, layers.Rescaling) and x.scale == 1 for x in left)
    coded = fs.convert(model, input_bits=8, input_range=(0, 256), digital="none")
    assert fs.profile(coded, pixels()).digital_macs == 0


def test_what_cannot_be_folded_is_said():
    inputs = keras.Input((6, 6, 2))
    x = layers.Rescaling(1 / 255, name="twice")(inputs)
    both = [layers.Conv2D(2, 3, activation="relu")(x), layers.Conv2D(2, 3, activation="relu")(x)]
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()(both))))
    with pytest.warns(UserWarning, match="'twice', as its output goes to several layers"):
        fs.convert(model, input_bits=8, input_range=(0, 256))


@pytest.mark.parametrize("sequential", [False, True])
def test_real_numbers_take_the_range_of_the_calibration_data(sequential):
    model = network()
    if sequential:
        model = keras.Sequential([keras.Input((6, 6, 2), name="image"), *model.layers[1:]])
    images = np.random.default_rng(1).normal(0.3, 1, (40, 6, 6, 2)).astype(np.float32)
    snn = fs.convert(model, calibration_data=images, steps=4, input_bits=6)
    coded = next(x for x in snn.layers if isinstance(x, fs.FSInput))
    seen = ops.convert_to_numpy(
        keras.Model(snn.inputs[0], snn.get_layer("image_low").output)(images)
    )
    step = coded.parameters.alpha / 64
    inside = (seen > seen.min()) & (seen < seen.max())
    assert np.abs(seen - images)[inside].max() <= step / 2 * (1 + 1e-4) and inside.mean() > 0.99
    # Better than from the least to the largest number.
    whole = (images.max() - images.min()) / 63
    assert np.mean((seen - images) ** 2) <= whole**2 / 12
    result = simulated(snn, images[:6])
    assert [site.window for site in result.sites] == [1, 2]
    assert fs.compare(model, snn, images[:20]).sites[0].name == "stem_relu"


def test_the_range_of_pixels_is_found():
    images = np.concatenate([pixels(30), np.zeros((1, 6, 6, 2)), np.full((1, 6, 6, 2), 255)])
    snn = fs.convert(network(), calibration_data=images, steps=4, input_bits=8)
    assert next(x for x in snn.layers if isinstance(x, fs.FSInput)).parameters.alpha == 256


def test_saved_and_loaded(tmp_path):
    snn = fs.convert(network(normalization()), input_bits=5, input_range=(-20.0, 270.0))
    snn.save(tmp_path / "snn.keras")
    again = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(pixels())), ops.convert_to_numpy(snn(pixels()))
    )


def test_two_inputs_in_a_dictionary():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    x = layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(4, activation="relu")(x)))
    snn = fs.convert(model, input_bits=4, input_range=(0, 16), digital="none")
    rng = np.random.default_rng(0)
    data = {k: rng.integers(0, 16, (5, n)).astype(np.float32) for k, n in (("a", 3), ("b", 2))}
    np.testing.assert_allclose(
        ops.convert_to_numpy(snn(data)), ops.convert_to_numpy(fs.convert(model)(data)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_bits": 8}, "input_range="),
        ({"input_range": (0, 1)}, "input_bits"),
        ({"input_bits": 0, "input_range": (0, 1)}, "1 to 16"),
        ({"input_bits": 2.5, "input_range": (0, 1)}, "number of bits"),
        ({"input_bits": 8, "input_range": (1, 1)}, "low < high"),
        ({"input_bits": 8, "input_range": (0, np.inf)}, "finite"),
        ({"input_bits": 8, "input_range": 255}, r"\(low, high\)"),
        ({"digital": "some"}, "digital"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fs.convert(network(), **arguments)


def test_an_index_cannot_be_coded():
    x = layers.Embedding(5, 4, name="words")(keras.Input((3,), dtype="int32"))
    model = keras.Sequential([x._keras_history.operation, layers.Dense(2, activation="relu")])
    model.build((None, 3))
    with pytest.raises(fs.ConversionError, match="'words' looks up"):
        fs.convert(model, input_bits=8, input_range=(0, 5))
