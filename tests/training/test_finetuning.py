import keras
import numpy as np
import pytest
from tiny import TRAIN, assert_same_weights, network

import fs_neurons as fs
from fs_neurons.data import datasets
from fs_neurons.training import CheckpointError, finetune

X = keras.ops.convert_to_numpy(datasets.standardise(TRAIN.images))
Y = TRAIN.labels
ANN = network(seed=1)
SNN = fs.convert(ANN, relu=fs.relu_parameters(K=2, alpha=4.0))
FAST = {"epochs": 2, "batch_size": 64}


def probabilities_of(model, name="probabilities"):
    return keras.Sequential([keras.Input((8, 8, 1)), model, keras.layers.Softmax()], name=name)


def test_a_network_that_agrees_with_its_teacher_trains_to_itself():
    """Of two equal networks without batch statistics or dropout, the gradient is zero."""
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10), fs.FSReLU(4, 8.0)]
    )
    rows = []
    tuned = finetune(model, X, teacher=model, weight_decay=0.0, on_epoch=rows.append, **FAST)
    for a, b in zip(tuned.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["train_accuracy"] is None


def test_it_trains_a_new_network_and_leaves_the_others_alone():
    before = [model.get_weights() for model in (SNN, ANN)]
    tuned = finetune(SNN, X, Y, teacher=ANN, target_spikes=0.1, **FAST)
    for model, weights in zip((SNN, ANN), before, strict=True):
        for a, b in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert fs.conversion_report(tuned).rows == fs.conversion_report(SNN).rows
    assert not np.array_equal(tuned.get_weights()[0], SNN.get_weights()[0])


def test_it_trains_alike_on_arrays_and_on_the_same_batches():
    from fs_neurons.training.augmentation import shuffled_batches

    class SameBatches(keras.utils.PyDataset):
        epoch = -1  # one batch is looked at first

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return list(shuffled_batches(X, Y, 64, 0, max(self.epoch, 0)))[index]

        def on_epoch_end(self):
            self.epoch += 1

    batches = SameBatches()
    batches.epoch = 0
    assert_same_weights(finetune(SNN, X, Y, **FAST), finetune(SNN, batches, epochs=2))
    with_column = finetune(SNN, X, Y[:, None].astype(np.int64), **FAST)
    assert_same_weights(finetune(SNN, X, Y, **FAST), with_column)


def test_a_softmax_at_the_end_trains_as_the_logits_in_front_of_it_do():
    logits = finetune(SNN, X, Y, teacher=ANN, **FAST)
    softmax = finetune(probabilities_of(SNN), X, Y, teacher=probabilities_of(ANN), **FAST)
    for a, b in zip(logits.get_weights(), softmax.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_network_trains_through_the_max_pooling_of_its_spikes():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    pooled = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.ReLU(), layers.MaxPooling2D(),
         layers.Flatten(), layers.Dense(10)]
    )  # fmt: skip
    snn = fs.convert(pooled, relu=fs.relu_parameters(K=4, alpha=4.0))
    assert any(isinstance(layer, fs.FSMaxPooling2D) for layer in snn.layers)
    plain = keras.models.clone_model(
        pooled,
        clone_function=lambda layer: (
            fs.FSReLU(4, 4.0)
            if isinstance(layer, layers.ReLU)
            else type(layer).from_config(layer.get_config())
        ),
    )
    plain.set_weights(snn.get_weights())
    tuned = finetune(snn, X, Y, **FAST)
    assert not np.array_equal(tuned.get_weights()[0], snn.get_weights()[0])
    assert_same_weights(tuned, finetune(plain, X, Y, **FAST))


def test_the_seed_alone_decides_what_it_trains_to():
    first = finetune(SNN, TRAIN, teacher=ANN, seed=1, **FAST)
    keras.utils.set_random_seed(5)
    assert_same_weights(first, finetune(SNN, TRAIN, teacher=ANN, seed=1, **FAST))
    other = finetune(SNN, TRAIN, teacher=ANN, seed=2, **FAST)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_it_trains_on_from_a_checkpoint_of_the_same_data_only(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(row):
        raise StoppedError

    path = tmp_path / "c.npz"
    whole = finetune(SNN, X, Y, teacher=ANN, **FAST)
    with pytest.raises(StoppedError):
        finetune(SNN, X, Y, teacher=ANN, checkpoint=path, on_epoch=stop, **FAST)
    with pytest.raises(CheckpointError, match="data is"):
        finetune(SNN, X, Y[::-1], teacher=ANN, checkpoint=path, resume=True, **FAST)
    with pytest.raises(CheckpointError, match="teacher is None here"):
        finetune(SNN, X, Y, checkpoint=path, resume=True, **FAST)
    assert_same_weights(
        whole, finetune(SNN, X, Y, teacher=ANN, checkpoint=path, resume=True, **FAST)
    )


TWO_OUTPUTS = keras.Model(SNN.inputs[0], [SNN.outputs[0], SNN.outputs[0]], name="two")
SIGMOID = keras.Sequential(
    [keras.Input((8, 8, 1)), SNN, keras.layers.Activation("sigmoid")], name="sigmoid"
)
ONE_OUTPUT = keras.Sequential([keras.Input((8, 8, 1)), SNN, keras.layers.Dense(1)], name="one")
OTHER_TEACHER = keras.Sequential(
    [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(9)], name="other"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SNN, X), "give labels, or teacher="),
        ((ANN, X, Y), "'tiny' has no FS layer"),
        ((SNN, X[:, :7], Y), r"'tiny' takes inputs of shape \(None, 8, 8, 1\), the data have \(192, 7"),
        ((SNN, X, Y[:5]), r"equally many and some, got \[5, 192\]"),
        ((SNN, X[:0], Y[:0]), r"equally many and some, got \[0\]"),
        ((SNN, X, np.eye(10)[Y]), r"integers from 0 to 9 of shape \(128,\); got float64 \(128, 10\)"),
        ((SNN, X, Y + 1), "integers from 0 to 9"),
        ((SNN, X, Y - 1), "integers from 0 to 9"),
        ((SNN, TRAIN, Y), "a Dataset has its own"),
        ((SNN, [(X, Y)], Y), "batches have their own"),
        ((SNN, iter([(X, Y)])), "known length"),
        ((SNN, [(X, Y, Y)]), "sample weights are not used"),
        ((SNN, []), "known length"),
        ((TWO_OUTPUTS, X, Y), "'two' has several outputs"),
        ((SIGMOID, X, Y), "as those of a sigmoid"),
        ((ONE_OUTPUT, X, Y), "at least two classes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        finetune(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": OTHER_TEACHER}, r"of the teacher 'other' \(9,\)"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"label_share": 1.5}, "label_share must be between 0 and 1"),
        ({"target_spikes": -1}, "target_spikes must be at least 0"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        finetune(SNN, X, Y, **arguments)


def test_batches_fewer_than_their_length_are_refused_when_it_trains():
    class Fewer(list):
        def __len__(self):
            return 3

    with pytest.raises(ValueError, match="epoch 1 had 1 batches in place of 3"):
        finetune(SNN, Fewer([(X, Y)]), epochs=1)


def test_batches_some_of_which_have_labels_are_refused_when_it_trains():
    with pytest.raises(ValueError, match="some batches have labels, others have none"):
        finetune(SNN, [(X, Y), X], teacher=ANN, epochs=1)
