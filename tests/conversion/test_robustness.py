"""Models that were compiled, quantised, regularised or made of layers of one's own."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import fs_neurons as fs

FINE = fs.relu_parameters(K=19, alpha=64.0)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def values(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def small(*behind, **arguments):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, "relu", name="mine", **arguments), *behind, layers.Dense(3)]
    )  # fmt: skip


# --- compile state ------------------------------------------------------------------------------


def my_loss(y, prediction):
    return ops.mean(ops.square(y - prediction))


class MyLoss(keras.losses.Loss):
    def call(self, y, prediction):
        return my_loss(y, prediction)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize(
    "loss", [my_loss, lambda y, p: my_loss(y, p), MyLoss()], ids=["function", "lambda", "class"]
)
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("fold", [False, True])
def test_a_loss_of_ones_own_does_not_stand_in_the_way(loss, functional, fold):
    model = small(layers.BatchNormalization())
    if functional:
        model = keras.Model(model.inputs[0], model.outputs)
    model.compile("sgd", loss)
    with pytest.warns(UserWarning, match="the new model is not compiled"):
        snn = fs.convert(model, relu=FINE, fold_batch_norm=fold)
    assert not snn.compiled and model.compiled
    np.testing.assert_allclose(values(snn, images(3, 4)), values(model, images(3, 4)), atol=1e-3)


@pytest.mark.parametrize("functional", [False, True])
def test_a_known_loss_is_carried_over(functional):
    model = small()
    if functional:
        model = keras.Model(model.inputs[0], model.outputs)
    model.compile(keras.optimizers.Adam(0.25), "mse", metrics=["mae"])
    snn = fs.convert(model)
    assert snn.loss == "mse" and float(ops.convert_to_numpy(snn.optimizer.learning_rate)) == 0.25
    assert snn.optimizer is not model.optimizer
    assert len(snn.evaluate(images(4, 4), images(4, 3), verbose=0)) == 2


# --- layers of one's own ------------------------------------------------------------------------


class Scaled(layers.Layer):
    """Without get_config: Keras doesn't know `factor`."""

    def __init__(self, factor, table=None, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.table = factor, table

    def call(self, x):
        return self.factor * x


class NoConfig(layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, x):
        return x * self.size

    def get_config(self):
        return super().get_config()


class Failing(NoConfig):
    def get_config(self):
        raise NotImplementedError("implement me")


class Configured(Scaled):
    def get_config(self):
        return {**super(Scaled, self).get_config(), "factor": self.factor}

    def compute_output_shape(self, shape):
        return shape


class Forgetful(layers.Layer):
    """Its configuration says less than its weights."""

    def __init__(self, weights=1, **kwargs):
        super().__init__(**kwargs)
        self.number = weights

    def build(self, shape):
        self.factors = [self.add_weight((1,), name=f"w{i}") for i in range(self.number)]

    def call(self, x):
        return x * sum(self.factors)

    def get_config(self):
        return {"name": self.name}


def test_a_layer_whose_weights_get_lost_is_named():
    with pytest.raises(fs.ConversionError, match=r"'short' \(Forgetful\).*other weights"):
        fs.convert(small(Forgetful(3, name="short")))


@pytest.mark.parametrize("layer", [NoConfig(2, name="scale"), Failing(2, name="scale")])
def test_a_layer_without_a_configuration_is_named(layer):
    inner = keras.Sequential([keras.Input((6,)), layer], name="block")
    with pytest.raises(
        fs.ConversionError, match=rf"'block/scale' \({type(layer).__name__}\).*get_config"
    ):
        fs.convert(small(inner))


def test_layers_of_ones_own_need_no_registration():
    """Nor do those inside of Keras' wrappers, and activations."""

    def act(x):
        return 2 * ops.relu(x)

    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(Configured(3.0))(layers.Dense(4, act, name="own")(inputs))
    model = keras.Model(inputs, layers.ReLU()(layers.TimeDistributed(layers.Dense(4, act))(x)))
    snn = fs.convert(model, relu=FINE, unsupported="keep")
    x = images(2, 5, 4)
    np.testing.assert_allclose(values(snn, x), values(model, x), atol=1e-3)
    assert model.get_layer("own").activation is act


# --- regularisers, quantisation, LoRA -----------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        lambda r: layers.Dense(4, "relu", activity_regularizer=r),
        lambda r: layers.ReLU(activity_regularizer=r),
        lambda r: layers.TimeDistributed(layers.Dense(4, "relu", activity_regularizer=r)),
    ],
)
def test_an_activity_regulariser_stays_on_the_output_of_the_activation(layer, tmp_path):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layer(keras.regularizers.L1(0.5))(inputs))
    snn = fs.convert(model, relu=FINE)
    x = images(3, 5, 4)
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    losses = []
    for network in (model, snn, loaded):
        network(x)
        losses.append([float(ops.convert_to_numpy(loss)) for loss in network.losses])
    if "time" not in model.layers[1].name:  # TimeDistributed itself loses it
        assert losses[0]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
        np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)
    regularised = [x for x in snn._flatten_layers() if x.activity_regularizer is not None]
    assert [type(x) for x in regularised] == [fs.FSReLU]


@pytest.mark.parametrize("fold", [False, True])
def test_lora_weights_are_carried_over(fold):
    model = small(layers.BatchNormalization(name="norm"), layers.Dense(5, name="next"))
    for name in ("mine", "next"):
        model.get_layer(name).enable_lora(2)
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.1, 0.4, w.shape) for w in model.get_weights()])
    if fold:
        with pytest.warns(UserWarning, match="'norm', 'next' has LoRA weights"):
            snn = fs.convert(model, relu=FINE, fold_batch_norm=True)
    else:
        snn = fs.convert(model, relu=FINE)
    np.testing.assert_allclose(values(snn, images(3, 4)), values(model, images(3, 4)), atol=1e-3)


@pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method implemented")
@pytest.mark.parametrize("fold", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_quantised_model_is_converted(fold, tmp_path):
    model = small(layers.BatchNormalization(name="norm"), layers.Dense(5, name="next"))
    model.quantize("int8")
    if fold:
        with pytest.warns(
            UserWarning, match=r"'norm', the weights of 'next' are quantised \(int8\)"
        ):
            snn = fs.convert(model, relu=FINE, fold_batch_norm=True)
    else:
        snn = fs.convert(model, relu=FINE)
    x = images(5, 4)
    # The codes of the layer behind turn by one where the small error of a neuron takes them over an edge.
    assert np.abs(values(snn, x) - values(model, x)).max() < 0.02
    assert fs.verify(model) <= 1e-6
    snn.save(tmp_path / "snn.keras")
    loaded = keras.models.load_model(tmp_path / "snn.keras")
    np.testing.assert_array_equal(values(loaded, x), values(snn, x))
