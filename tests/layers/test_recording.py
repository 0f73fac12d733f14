"""Recording spikes: gradients as outside, and compiled functions layer by layer."""

import concurrent.futures

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


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.parametrize("compiled_before", [False, True])
def test_compiled_functions_are_recorded_too(snn, compiled_before):
    run = compiled(lambda x: snn(x, training=False))
    if compiled_before:
        snn.predict(X, verbose=0)
        run(ops.convert_to_tensor(X))
    with fs.record_spikes() as records:
        snn(X)
        predicted = snn.predict(X, batch_size=3, verbose=0)
        run(ops.convert_to_tensor(X))
    np.testing.assert_allclose(predicted, ops.convert_to_numpy(snn(X)), rtol=1e-5, atol=1e-6)
    found = [ops.convert_to_numpy(record.spikes).tolist() for record in records]
    count = plain_loop(X, snn.layers[0].parameters)[2].sum(axis=1).tolist()
    assert found[-4:] == [count, count[:3], count[3:], count]
    # Behind the block they are compiled again, and nothing is recorded.
    snn.predict(X, verbose=0)
    assert len(records) == 4


def test_blocks_inside_of_blocks_and_of_other_threads(snn):
    run, x = compiled(lambda x: snn(x, training=False)), ops.convert_to_tensor(X)
    run(x)

    def block(_):
        with fs.record_spikes() as outer:
            with fs.record_spikes() as inner:
                run(x)
            run(x)
        return len(inner), len(outer)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert set(pool.map(block, range(6))) == {(1, 1)}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        assert not tf.config.functions_run_eagerly()


def test_a_block_without_fs_layers_says_what_to_call():
    with (
        pytest.raises(RuntimeError, match=r"no FS layer was called.* model\(images\)"),
        fs.record_spikes(),
    ):
        layers.Dense(2)(X)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="traces by tf.data")
def test_layers_that_are_only_traced_are_told(snn):
    import tensorflow as tf

    with pytest.raises(RuntimeError, match="never get a value"), fs.record_spikes():
        list(tf.data.Dataset.from_tensors(X).map(lambda x: snn(x)))


def test_an_error_in_the_block_comes_through():
    with pytest.raises(KeyError, match="mine"), fs.record_spikes():
        raise KeyError("mine")
