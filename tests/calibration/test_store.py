"""What flows through both networks, with little memory and with much."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from fs_neurons.calibration import store as store_module
from fs_neurons.calibration.store import Store
from fs_neurons.network import graph


def network(dtype):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 2))
    x = layers.Conv2D(8, 3, dtype=dtype)(inputs)
    y = layers.Conv2D(8, 3, padding="same", dtype=dtype)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(layers.Add(dtype=dtype)([x, y]))
    return keras.Model(inputs, layers.Dense(3, dtype=dtype)(x))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("memory", [1, 600_000, 2_000_000_000])
def test_all_images_reach_the_end_and_each_call_once(dtype, memory):
    model = network(dtype)
    traced = graph.trace(model)
    images = np.random.default_rng(0).normal(size=(40, 16, 16, 2)).astype(np.float32)
    met = {"analog": [], "spiking": []}

    def runner(name):
        def run(call, tensors):
            met[name].append((call.name, tensors(call.inputs[0]).shape[0]))
            return call(tensors)

        return run

    store = Store(traced, [images], runner("analog"), runner("spiking"), memory)
    # As if values were larger: batches of ten images.
    store._waiting = [[part] for part in np.split(images, 4)]
    at_first = None
    for place in range(len(traced.calls)):
        store.admit(place)
        at_first = at_first or store.images
        store.run_analog(place)
        store.run_spiking(place)
    assert at_first == {1: 10, 600_000: 30 if dtype == "mixed_bfloat16" else 10}.get(memory, 40)
    expected = ops.convert_to_numpy(ops.cast(model(images), "float32"))
    for lane in (store.analog, store.spiking):
        given = [lane.get(batch, traced.outputs) for batch in store.batches]
        given = np.concatenate([ops.convert_to_numpy(ops.cast(y, "float32")) for y in given])
        assert given == pytest.approx(expected[: len(given)], abs=0.02)
    assert store.images == (10 if memory == 1 else 40)
    for calls in met.values():
        for call in traced.calls:
            assert sum(size for name, size in calls if name == call.name) == store.images


def test_batches_of_small_values_are_joined(monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 2))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.Conv2D(8, 3, strides=4)(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    traced = graph.trace(model)
    images = np.random.default_rng(0).normal(size=(40, 32, 32, 2)).astype(np.float32)
    # Four images of the first layer's output.
    monkeypatch.setattr(store_module, "BATCH_BYTES", 4 * 32 * 32 * 8 * 4)
    sizes = []

    def run(call, tensors):
        sizes.append(tensors(call.inputs[0]).shape[0])
        return call(tensors)

    store = Store(traced, [images], run, run)
    for place in range(len(traced.calls)):
        store.admit(place)
        store.run_analog(place)
        store.run_spiking(place)
    # What the second layer takes is large, what the pooling takes is not.
    assert sizes == [4] * 40 + [40] * 4
    for lane in (store.analog, store.spiking):
        (given,) = (ops.convert_to_numpy(lane.get(i, traced.outputs)) for i in store.batches)
        np.testing.assert_allclose(given, ops.convert_to_numpy(model(images)), rtol=1e-4, atol=1e-5)
