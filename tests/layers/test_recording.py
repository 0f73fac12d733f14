"""Recording spikes: gradients as outside, and around compiled functions an error instead of nothing."""

import keras
import numpy as np
import pytest
from conftest import gradient, plain_loop
from keras import layers, ops

import fs_neurons as fs
from fs_neurons.backend import compiled

X = np.random.default_rng(0).normal(0, 2, (4, 6)).astype(np.float32)


@pytest.fixture
def snn():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), fs.FSSwish("swish_k8"), layers.Dense(3)])


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_those_outside_and_it_trains(per_channel):
    layer = fs.FSActivation("swish_k8", per_channel=per_channel)
    layer.build(X.shape)

    def recorded(x):
        with fs.record_spikes() as records:
            y = layer(x)
        assert len(records) == 1
        return y * y

    (inside,) = gradient(recorded, X)
    (outside,) = gradient(lambda x: layer(x) * layer(x), X)
    assert np.abs(ops.convert_to_numpy(inside)).max() > 0.1
    np.testing.assert_allclose(
        ops.convert_to_numpy(inside), ops.convert_to_numpy(outside), rtol=1e-6
    )


def test_in_a_compiled_function_that_gives_the_counts(snn):
    def run(x):
        with fs.record_spikes() as records:
            y = snn(x)
        return y, [record.spikes for record in records]

    y, (spikes,) = compiled(run)(ops.convert_to_tensor(X))
    count = plain_loop(X, snn.layers[0].parameters)[2].sum(axis=1)
    np.testing.assert_array_equal(ops.convert_to_numpy(spikes), count)
    np.testing.assert_allclose(
        ops.convert_to_numpy(y), ops.convert_to_numpy(snn(X)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="predict calls every layer there")
def test_around_predict_it_says_what_to_call(snn):
    with (
        pytest.raises(RuntimeError, match=r"call\s+the model itself, model\(images\)"),
        fs.record_spikes(),
    ):
        snn.predict(X, verbose=0)  # compiled in here
    fresh = keras.models.clone_model(snn)
    fresh.predict(X, verbose=0)
    with pytest.raises(RuntimeError, match="no FS layer was called"), fs.record_spikes():
        fresh.predict(X, verbose=0)  # compiled before
    with pytest.raises(RuntimeError, match="no FS layer was called"), fs.record_spikes():
        layers.Dense(2)(X)


def test_an_error_in_the_block_comes_through():
    with pytest.raises(KeyError, match="mine"), fs.record_spikes():
        raise KeyError("mine")
