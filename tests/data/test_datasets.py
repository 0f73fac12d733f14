import socket
import time

import numpy as np
import pytest
from keras import ops

from fs_neurons.data import datasets


def test_digits_are_split_into_two_thirds_and_one_third_without_overlap():
    train, test = datasets.load("digits", "train"), datasets.load("digits", "test")
    assert (len(train), len(test)) == (1198, 599)
    assert train.images.shape[1:] == (8, 8, 1) and train.images.dtype == np.uint8
    assert train.images.max() == 16 and set(test.labels) == set(range(10))
    images = {image.tobytes() for image in train.images}
    assert not images & {image.tobytes() for image in test.images}


def test_cifar10_is_whole(cifar10_dir):
    test = datasets.load("cifar10", "test", cifar10_dir)
    assert test.images.shape == (10_000, 32, 32, 3) and test.images.dtype == np.uint8
    assert np.bincount(test.labels).tolist() == [1000] * 10


def test_standardised_images_have_mean_zero_and_variance_one_each():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    x = ops.convert_to_numpy(datasets.standardise(images)).reshape(3, -1)
    np.testing.assert_allclose(x.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=1), 1, rtol=1e-5)
    expected = images[0] - images[0].mean()
    np.testing.assert_allclose(x[0], (expected / images[0].std()).ravel(), rtol=1e-4, atol=1e-5)


def test_a_uniform_image_gives_zeros():
    x = ops.convert_to_numpy(datasets.standardise(np.full((1, 4, 4, 3), 7, np.uint8)))
    np.testing.assert_array_equal(x, 0)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_without_data_and_network_the_message_says_what_to_pass(tmp_path, no_network):
    with pytest.raises(datasets.DatasetUnavailable, match="data_dir") as error:
        datasets.load("cifar10", "test", tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_auto_falls_back_to_digits_and_says_so(tmp_path, no_network):
    data, note = datasets.load_auto("test", tmp_path)
    assert data.name == "digits"
    assert "digits" in note and "data_dir" in note and "\n" not in note


def test_a_server_that_never_answers_is_given_up(tmp_path, no_network, monkeypatch):
    def hang(*args, **kwargs):
        time.sleep(5)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(datasets, "CONNECT_SECONDS", 0.2)
    with pytest.raises(datasets.DatasetUnavailable, match="does not answer"):
        datasets.load("cifar10", "test", tmp_path)


def test_auto_prefers_cifar10(cifar10_dir):
    data, note = datasets.load_auto("test", cifar10_dir)
    assert data.name == "cifar10" and note is None


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="cifar10, digits"):
        datasets.load("mnist", "test")
    with pytest.raises(ValueError, match="validation"):
        datasets.load("digits", "validation")
    with pytest.raises(ValueError, match="0"):
        datasets.load("digits", "test").take(0)
    assert len(datasets.load("digits", "test").take(None)) == 599
    assert len(datasets.load("digits", "test").take(7)) == 7
