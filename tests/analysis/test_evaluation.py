import dataclasses

import keras
import numpy as np
import pytest
from conftest import plain_loop
from keras import ops

import fs_neurons as fs
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

DATA = datasets.load("digits", "test").take(50)


def snn_of_one_layer():
    keras.utils.set_random_seed(1)
    return fs.convert(
        keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Conv2D(3, 3, activation="swish"),
             keras.layers.Flatten(), keras.layers.Dense(10)]
        )
    )  # fmt: skip


def test_spikes_equal_those_of_the_plain_loop_exactly():
    snn = snn_of_one_layer()
    gate_inputs = ops.convert_to_numpy(snn.layers[0](datasets.standardise(DATA.images)))
    expected = plain_loop(gate_inputs, snn.layers[1].parameters)[2].sum()
    assert evaluate(snn, DATA, batch_size=50).spikes == expected


@pytest.mark.parametrize("batch_size", [1, 7, 50, 400])
def test_batches_that_do_not_divide_change_nothing(batch_size):
    snn = snn_of_one_layer()
    result = evaluate(snn, DATA, batch_size=batch_size)
    whole = evaluate(snn, DATA, batch_size=50)
    assert result.images == 50 and result.spikes == whole.spikes
    np.testing.assert_array_equal(result.predictions, whole.predictions)


def test_accuracy_is_the_share_of_right_predictions():
    model = models.pretrained("resnet8", "digits")
    scores = model.predict(datasets.standardise(DATA.images), verbose=0)
    assert evaluate(model, DATA).accuracy == (scores.argmax(axis=1) == DATA.labels).mean()


def test_a_network_that_gives_nan_is_refused():
    snn = snn_of_one_layer()
    snn.layers[-1].set_weights([w * np.nan for w in snn.layers[-1].get_weights()])
    with pytest.raises(ValueError, match="NaN"):
        evaluate(snn, DATA)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="0 images"):
        evaluate(
            snn_of_one_layer(),
            dataclasses.replace(DATA, images=DATA.images[:0], labels=DATA.labels[:0]),
        )
    with pytest.raises(ValueError, match="batches of 0"):
        evaluate(snn_of_one_layer(), DATA, batch_size=0)


def test_arrays_and_batches_give_what_a_dataset_gives():
    snn = snn_of_one_layer()
    whole = evaluate(snn, DATA, batch_size=20)
    prepared = ops.convert_to_numpy(datasets.standardise(DATA.images))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            part = slice(20 * i, 20 * i + 20)
            return prepared[part], DATA.labels[part]

    others = [
        evaluate(snn, DATA.images, DATA.labels, prepare=datasets.standardise, batch_size=20),
        evaluate(snn, prepared, DATA.labels, batch_size=20),
        evaluate(snn, ops.convert_to_tensor(prepared), ops.convert_to_tensor(DATA.labels)),
        evaluate(snn, Batches()),
        evaluate(snn, [(DATA.images, DATA.labels)], prepare=datasets.standardise),
    ]
    for other in others:
        assert (other.accuracy, other.images, other.spikes) == (whole.accuracy, 50, whole.spikes)
        np.testing.assert_array_equal(other.predictions, whole.predictions)


def test_several_inputs_are_evaluated():
    keras.utils.set_random_seed(0)
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(4)(keras.layers.Concatenate()([a, b])))
    rng = np.random.default_rng(0)
    images = {"a": rng.normal(size=(9, 3)), "b": rng.normal(size=(9, 2))}
    images = {key: x.astype(np.float32) for key, x in images.items()}
    found = evaluate(model, images, np.zeros(9), batch_size=4).predictions
    np.testing.assert_array_equal(found, ops.convert_to_numpy(model(images)).argmax(-1))


def test_labels_that_do_not_fit_are_refused():
    snn = snn_of_one_layer()
    with pytest.raises(ValueError, match=r"shape \(50,\); theirs is \(3,\)"):
        evaluate(snn, DATA.images, DATA.labels[:3])
    with pytest.raises(ValueError, match=r"theirs is \(50, 10\)"):
        evaluate(snn, DATA.images, np.zeros((50, 10)))
    with pytest.raises(TypeError, match=r"batch 0 is ndarray, not \(images, labels\)"):
        evaluate(snn, DATA.images)
    with pytest.raises(ValueError, match="0 images"):
        evaluate(snn, [])
    batches = [(DATA.images[:3], DATA.labels[:3]), (DATA.images, DATA.labels)]
    with pytest.raises(ValueError, match="more images follows one of 3"):
        evaluate(snn, batches, prepare=datasets.standardise)
