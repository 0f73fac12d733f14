"""Data sets of sequences: splits, padding, vocabulary."""

import os
import pathlib

import numpy as np
import pytest
from conftest import ROOT

from fs_neurons.data import datasets, sequences


def prepared(name):
    for folder in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared" / "tensorflow_datasets"):
        if folder and (pathlib.Path(folder) / name).is_dir():
            return str(folder)
    pytest.skip(f"needs {name}: set TFDS_DATA_DIR to a tensorflow-datasets folder that holds it")


def test_rows_of_digits_are_split_and_joined_without_overlap():
    train, validation, test = (sequences.load("digits_rows", s) for s in sequences.SPLITS)
    assert len(train) + len(validation) + len(test) == 1797 and len(validation) == 120
    whole = sequences.joined(train, validation)
    assert len(whole) == 1198 and whole.sequences.shape == (1198, 8, 8)
    assert not (whole.sequences == 0).any()  # which is the mark of a masked step
    pixels = datasets.load("digits", "test").images[..., 0]
    np.testing.assert_array_equal(test.sequences * 16 - 1, pixels)
    assert (test.take(7).lengths == 8).all() and len(test.take(7)) == 7
    with pytest.raises(ValueError, match="at least 1"):
        test.take(0)


def test_words_and_vocabulary():
    assert sequences.words_of("Who won in 1984, 12 times?") == [
        "who", "won", "in", "#", ",", "#", "times", "?",
    ]  # fmt: skip
    vocabulary = sequences.vocabulary_of(["a b b", "b a c ?", "? d"])
    assert vocabulary == {"b": 2, "?": 3, "a": 4}  # c and d occur once


def test_padding_cuts_off_and_fills_up():
    whole, lengths = sequences.padded([np.ones((2, 3)), np.full((5, 3), 2.0)], 4)
    assert lengths.tolist() == [2, 4] and whole.shape == (2, 4, 3)
    assert whole[:, :, 0].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]


def test_spoken_digits_are_split_by_recording():
    folder = prepared("spoken_digit")
    test = sequences.load("spoken_digit", "test", folder)
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert test.sequences.shape == (500, sequences.SPOKEN_FRAMES, 40)
    for row, length in zip(test.sequences, test.lengths, strict=True):
        assert row[:length].any(axis=1).all() and not row[length:].any()


@pytest.mark.parametrize("name", ["spoken_digit", "trec"])
def test_what_is_not_there_says_how_to_get_it(name, tmp_path, monkeypatch):
    def unreachable(host):
        raise OSError(f"{host} does not answer")

    monkeypatch.setattr(sequences, "require_host", unreachable)
    with pytest.raises(datasets.DatasetUnavailable, match=f"holds {name}/.*internet"):
        sequences.load(name, "test", tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="spoken_digit"):
        sequences.load("speech", "test")
    with pytest.raises(ValueError, match="validation"):
        sequences.load("trec", "dev")
