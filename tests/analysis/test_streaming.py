"""A network beside its conversion over streamed images."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

import fs_neurons as fs
from fs_neurons.analysis.evaluation import per_image, scores_and_spikes
from fs_neurons.analysis.side_by_side import Tally, side_by_side
from fs_neurons.data.imagenet import open_images, stream, wnids
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.layers import activation
from fs_neurons.models.imagenet import Network

RANDOM = np.random.default_rng(0)


def make_network(classes=1000):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 5, 4, activation="relu")(inputs)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(classes)(x))
    return Network("small", "random", model, 32, "tf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirteen photographs of noise, two of them damaged."""
    pytest.importorskip("tensorflow_datasets", reason="the names of the classes are in it")
    root = tmp_path_factory.mktemp("val")
    for number in range(13):
        directory = root / wnids()[10 * number]
        directory.mkdir()
        file = directory / "image.JPEG"
        Image.fromarray(RANDOM.integers(0, 256, (40, 50, 3), np.uint8)).save(file, "PNG")
        if number in (3, 8):
            file.write_bytes(file.read_bytes()[:99])
    return root


def timeless(tally):
    return dataclasses.replace(tally, ann_seconds=0, snn_seconds=0)


@pytest.mark.parametrize("offset", [0, 1])
def test_counts_equal_those_of_one_pass_in_numpy(folder, offset):
    network = make_network(1000 + offset)
    snn = fs.convert(network.model, relu=fs.relu_parameters(3, 1.0))
    source = open_images(str(folder))
    prepare = PREPROCESSINGS["tf"]
    good = [s for s in stream(source, lambda image: prepare(image, 32)) if s.image is not None]
    images, labels = np.stack([s.image for s in good]), np.array([s.label for s in good]) + offset
    ann, snn_scores = network.model.predict(images, verbose=0), snn.predict(images, verbose=0)
    with fs.record_spikes() as records:
        snn(images)

    def ranks(scores):
        return (scores > scores[np.arange(len(labels)), labels][:, None]).sum(axis=1)

    skipped = []
    *_, tally = side_by_side(network, snn, source, batch_size=4, on_skip=skipped.append)
    assert timeless(tally) == Tally(
        images=11,
        skipped=2,
        ann_top1=(ranks(ann) < 1).sum(),
        ann_top5=(ranks(ann) < 5).sum(),
        snn_top1=(ranks(snn_scores) < 1).sum(),
        snn_top5=(ranks(snn_scores) < 5).sum(),
        agreeing=(ann.argmax(1) == snn_scores.argmax(1)).sum(),
        spikes=int(keras.ops.convert_to_numpy(records[0].spikes).sum()),
    )
    assert len(skipped) == 2 and all("image.JPEG" in line for line in skipped)
    assert tally.ann_seconds > 0 and tally.snn_seconds > 0


def test_hits_are_those_of_the_label(folder):
    """A network that always ranks the classes 0, 10, 20, ... first."""
    network = make_network()
    kernel, bias = network.model.layers[-1].get_weights()
    bias = -np.arange(1000, dtype=np.float32)
    bias[1:] -= 1000 * (np.arange(1, 1000) % 10 > 0)
    network.model.layers[-1].set_weights([kernel * 0, bias])
    *_, tally = side_by_side(network, fs.convert(network.model), open_images(str(folder)),
                             on_skip=lambda line: None)  # fmt: skip
    # Image 3 can't be decoded: labels 0, 10, 20, 40 are among the first five.
    assert (tally.ann_top1, tally.ann_top5, tally.snn_top1, tally.snn_top5) == (1, 4, 1, 4)
    assert tally.agreeing == tally.images == 11


@pytest.mark.parametrize("first", [1, 4, 7, 12])
def test_a_killed_run_continues_to_the_same_counts(folder, first):
    network, source = make_network(), open_images(str(folder))
    snn = fs.convert(network.model)
    quiet = {"batch_size": 2, "on_skip": lambda line: None}
    *_, whole = side_by_side(network, snn, source, **quiet)
    # Whatever tally a kill left is whole: it stands for the images before its position.
    for tally in side_by_side(network, snn, source, limit=first, **quiet):
        *_, continued = side_by_side(network, snn, source, tally, **quiet)
        assert timeless(continued) == timeless(whole)
    assert tally.position == first
    assert list(side_by_side(network, snn, source, whole, **quiet)) == []


def test_nan_and_wrong_arguments_are_refused(folder):
    network, source = make_network(), open_images(str(folder))
    snn = fs.convert(network.model)
    with pytest.raises(ValueError, match="at least 1"):
        next(side_by_side(network, snn, source, batch_size=0))
    snn.layers[-1].set_weights([w * np.nan for w in snn.layers[-1].get_weights()])
    with pytest.raises(ValueError, match=r"NaN on n\d+/image"):
        list(side_by_side(network, snn, source, on_skip=lambda line: None))


def test_spikes_beyond_an_int32_are_counted(monkeypatch):
    network = make_network()
    snn = fs.convert(network.model)
    record = activation.SiteRecord
    monkeypatch.setattr(
        activation,
        "SiteRecord",
        lambda layer, shape, spikes: record(layer, shape, spikes * 0 + np.int32(2**31 - 1)),
    )
    inputs = keras.Input((32, 32, 3))
    twice = keras.Model(inputs, [snn(inputs), snn(inputs)][1] + snn(inputs))
    _, spikes = scores_and_spikes(twice)(np.zeros((2, 32, 32, 3), np.float32))
    assert per_image(spikes).tolist() == [2 * (2**31 - 1)] * 2
