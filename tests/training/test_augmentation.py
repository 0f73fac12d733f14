import keras
import numpy as np
from tiny import TRAIN

from fs_neurons.data import datasets
from fs_neurons.training import augmented_batches
from fs_neurons.training.augmentation import shuffled_batches


def test_batches_are_crops_of_standardised_images_and_repeat_for_a_seed():
    batches = list(augmented_batches(TRAIN, 90, seed=3, epoch=2))
    assert len(batches) == 2 and batches[0][0].shape == (90, 8, 8, 1)
    again = list(augmented_batches(TRAIN, 90, seed=3, epoch=2))
    other = list(augmented_batches(TRAIN, 90, seed=3, epoch=1))
    np.testing.assert_array_equal(batches[1][0], again[1][0])
    assert (batches[0][1] != other[0][1]).any()
    sources = keras.ops.convert_to_numpy(datasets.standardise(TRAIN.images))
    padded = np.pad(sources, ((0, 0), (1, 1), (1, 1), (0, 0)))
    crops = np.stack([padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
    crops = crops.reshape(-1, 64)
    for image in batches[0][0].reshape(-1, 64):  # the mean over a batch may differ in the last bit
        assert np.abs(crops - image).max(axis=1).min() < 1e-5


def test_shuffled_batches_hold_every_example_once_with_its_label():
    inputs = {"a": np.arange(10), "b": 10 * np.arange(10)}
    batches = list(shuffled_batches(inputs, np.arange(10), 5, seed=0, epoch=1))
    assert sorted(np.concatenate([labels for _, labels in batches])) == list(range(10))
    for batch, labels in batches:
        np.testing.assert_array_equal(batch["a"], labels)
        np.testing.assert_array_equal(batch["b"], 10 * labels)
    (first, labels), _ = shuffled_batches(inputs, None, 5, seed=0, epoch=1)
    np.testing.assert_array_equal(first["a"], batches[0][0]["a"])
    assert labels is None


def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one():
    assert [len(x) for x, _ in shuffled_batches(np.arange(10), None, 4, 0, 0)] == [4, 4]
    assert [len(x) for x, _ in shuffled_batches(np.arange(3), None, 4, 0, 0)] == [3]
