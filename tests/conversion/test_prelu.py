"""PReLU as two ReLUs: the same values, named after it, kept where asked for."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.network.splitting import split_prelus

FINE = fs.relu_parameters(K=19, alpha=64.0, rounding="nearest")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.normal(size=(20, 6, 6, 3)).astype("float32")


def values(model, x=IMAGES):
    return ops.convert_to_numpy(model(x, training=False))


def network():
    """Slopes per channel behind a convolution, per unit behind a dense layer, and one for all."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, name="conv")(x)
    x = layers.PReLU("uniform", shared_axes=[1, 2], name="first")(x)
    inner = keras.Input((4, 4, 5))
    y = layers.PReLU("uniform", shared_axes=[1, 2, 3], name="act")(inner)
    x = keras.Model(inner, y, name="block")(x)
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))
    x = layers.PReLU("uniform", name="last")(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    for name in ("first", "last"):
        alpha = model.get_layer(name).alpha
        alpha.assign(RANDOM.uniform(-0.3, 0.5, alpha.shape))
    return model


def test_the_split_network_has_the_same_values(tmp_path):
    model = network()
    split = split_prelus(model, lambda site: True)
    np.testing.assert_allclose(values(split), values(model), rtol=1e-5, atol=1e-6)
    assert fs.verify(model) <= 1e-6
    split.save(tmp_path / "split.keras")
    loaded = keras.models.load_model(tmp_path / "split.keras")
    np.testing.assert_array_equal(values(loaded), values(split))


@pytest.mark.filterwarnings("ignore:left as they are in model")
@pytest.mark.parametrize("fold", [False, True])
def test_it_is_converted_site_by_site(fold, tmp_path):
    model = network()
    snn = fs.convert(model, relu=FINE, fold_batch_norm=fold)
    names = ["first/positive", "first/negative", "block/act/positive", "block/act/negative",
             "last/positive", "last/negative"]  # fmt: skip
    assert {row.site for row in fs.conversion_report(snn).rows} == set(names)
    np.testing.assert_allclose(values(snn), values(model), atol=2e-3)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(values(loaded), values(snn))
    assert not fs.profile(snn, IMAGES).left_out
    comparison = fs.compare(model, snn, IMAGES)
    assert {site.name for site in comparison.sites} == set(names)
    assert comparison.output_error < 0.01


def test_without_data_and_calibrated_it_stays_close():
    model = network()
    for arguments in ({}, {"calibration_data": IMAGES, "steps": 6, "correction": "weights"}):
        assert fs.summary(model, fs.convert(model, **arguments), IMAGES).output_error < 0.1


def test_what_is_kept_is_not_split():
    model = network()
    snn = fs.convert(model, relu=FINE, keep_layers=["first"])
    kept = [row.site for row in fs.conversion_report(snn).rows if not row.is_converted]
    assert kept == ["first"] and isinstance(snn.get_layer("first"), layers.PReLU)
    fs.compare(model, snn, IMAGES)
    with pytest.raises(fs.ConversionError, match="kept as asked"):
        fs.convert(model, keep=["prelu"])
