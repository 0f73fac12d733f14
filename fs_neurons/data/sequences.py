"""Data sets of sequences as arrays: spoken digits, questions, and images read row by row.

train = load("spoken_digit", "train")       # log-mel features, through tensorflow-datasets
test = load("trec", "test")                 # word numbers, through tensorflow-datasets
rows = load("digits_rows", "test")          # ships inside scikit-learn: nothing is downloaded
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fs_neurons.data import datasets
from fs_neurons.data.audio import log_mel
from fs_neurons.data.datasets import DatasetUnavailable, require_host

SPLITS = ("train", "validation", "test")
SPOKEN_RATE = 8000
SPOKEN_FRAMES = 64  # a second; longer recordings, one in a hundred, are cut off there
# Recordings of each speaker and digit by their index in the file name: 0 to 49.
SPOKEN_INDICES = {"test": range(10), "validation": range(10, 15), "train": range(15, 50)}
QUESTION_WORDS = 32
# Every tenth of the questions for training, and of the digits, is the validation part.
_VALIDATION = 10
PADDING, UNKNOWN = 0, 1
_HOSTS = {"spoken_digit": "github.com", "trec": "cogcomp.seas.upenn.edu"}


@dataclasses.dataclass(frozen=True)
class SequenceDataset:
    """Sequences and labels of one split, in memory.

    Attributes:
        name: name of the data set.
        split: "train", "validation" or "test".
        sequences: float32 (sequences, steps, features) or int32 (sequences, steps), filled up with zeros at the
            end; an entry of zeros alone is nowhere else.
        lengths: int32 (sequences,), steps before the zeros.
        labels: int32 (sequences,).
        classes: number of classes.
        symbols: of the vocabulary, padding and unknown included; None for features.
    """

    name: str
    split: str
    sequences: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    classes: int
    symbols: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, limit: int | None) -> SequenceDataset:
        """The first `limit` sequences; all of them for None.

        Raises:
            ValueError: `limit` is less than 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise ValueError(f"limit must be at least 1 sequence, got {limit}")
        return self.chosen(slice(limit))

    def chosen(self, which: Any) -> SequenceDataset:
        """The sequences that an index, mask or slice chooses."""
        parts: dict[str, Any] = {
            key: getattr(self, key)[which] for key in ("sequences", "lengths", "labels")
        }
        return dataclasses.replace(self, **parts)


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> SequenceDataset:
    """Loads one split; "validation" is what is set aside of the data for training to choose settings by.

    "spoken_digit" is the Free Spoken Digit Dataset: ten digits by five speakers, 50 recordings of each at 8 kHz. It has
    no split of its own: of each speaker and digit, recordings 0 to 9 are for testing, 500 in all, and 10 to 14 for
    validation. "trec" has 5,452 questions for training and 500 for testing, of six classes; words that occur once among
    the former are unknown. "digits_rows" is scikit-learn's digits, eight rows of eight pixels.

    Args:
        name: "spoken_digit", "trec" or "digits_rows".
        split: "train", "validation" or "test".
        data_dir: as for `datasets.load`.

    Raises:
        ValueError: unknown name or split.
        DatasetUnavailable: the data set is neither there nor can it be downloaded.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(_LOADERS)}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return _LOADERS[name](split, data_dir)


def joined(first: SequenceDataset, second: SequenceDataset) -> SequenceDataset:
    """Two parts of one data set, one behind the other, under the name of the first."""
    parts: dict[str, Any] = {
        key: np.concatenate([getattr(first, key), getattr(second, key)])
        for key in ("sequences", "lengths", "labels")
    }
    return dataclasses.replace(first, **parts)


def words_of(question: str) -> list[str]:
    """Lower-case words and punctuation marks, in order; numbers by their digits are all one word."""
    return re.findall(r"[a-z]+|#|[^\w\s]", re.sub(r"\d+", "#", question.lower()))


def vocabulary_of(questions: Iterable[str]) -> dict[str, int]:
    """Number of each word that occurs at least twice, the most frequent first; 0 and 1 are left out."""
    counts = collections.Counter(word for question in questions for word in words_of(question))
    frequent = sorted((-count, word) for word, count in counts.items() if count > 1)
    return {word: UNKNOWN + 1 + i for i, (_, word) in enumerate(frequent)}


def padded(sequences: Sequence[np.ndarray], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences cut off or filled up with zeros to `steps`, and how long they are then."""
    lengths = np.array([min(len(sequence), steps) for sequence in sequences], np.int32)
    whole = np.zeros((len(sequences), steps, *sequences[0].shape[1:]), sequences[0].dtype)
    for row, sequence, length in zip(whole, sequences, lengths, strict=True):
        row[:length] = sequence[:length]
    return whole, lengths


def _load_spoken_digit(split: str, data_dir: str | os.PathLike[str] | None) -> SequenceDataset:
    chosen = []
    for example in _examples("spoken_digit", "train", data_dir):
        digit, speaker, index = pathlib.PurePath(example["audio/filename"].decode()).stem.split("_")
        if int(index) in SPOKEN_INDICES[split]:
            features = log_mel(example["audio"], SPOKEN_RATE)
            chosen.append(((int(index), speaker, int(digit)), features))
    chosen.sort(key=lambda pair: pair[0])  # whatever the order in the file
    sequences, lengths = padded([features for _, features in chosen], SPOKEN_FRAMES)
    labels = np.array([digit for (_, _, digit), _ in chosen], np.int32)
    return SequenceDataset("spoken_digit", split, sequences, lengths, labels, classes=10)


def _load_trec(split: str, data_dir: str | os.PathLike[str] | None) -> SequenceDataset:
    examples = {
        part: [(x["text"].decode("latin-1"), int(x["label-coarse"])) for x in
               _examples("trec", part, data_dir)]
        for part in {"train", "test" if split == "test" else "train"}
    }  # fmt: skip
    train = sorted(examples["train"])  # whatever the order in the file
    vocabulary = vocabulary_of(text for text, _ in train)
    if split == "test":
        chosen = sorted(examples["test"])
    else:
        chosen = [
            x for i, x in enumerate(train) if (i % _VALIDATION == 0) == (split == "validation")
        ]
    numbers = [
        np.array([vocabulary.get(word, UNKNOWN) for word in words_of(text)], np.int32)
        for text, _ in chosen
    ]
    sequences, lengths = padded(numbers, QUESTION_WORDS)
    labels = np.array([label for _, label in chosen], np.int32)
    symbols = UNKNOWN + 1 + len(vocabulary)
    return SequenceDataset("trec", split, sequences, lengths, labels, classes=6, symbols=symbols)


def _load_digits_rows(split: str, data_dir: str | os.PathLike[str] | None) -> SequenceDataset:
    digits = datasets.load("digits", "test" if split == "test" else "train")
    # An empty row is 1/16 as well: zeros alone mean that there is no row.
    rows = ((digits.images[..., 0] + 1) / 16).astype(np.float32)
    lengths = np.full(len(rows), rows.shape[1], np.int32)
    whole = SequenceDataset("digits_rows", split, rows, lengths, digits.labels, classes=10)
    if split == "test":
        return whole
    set_aside = np.arange(len(whole)) % _VALIDATION == 0
    return whole.chosen(set_aside if split == "validation" else ~set_aside)


def _examples(
    name: str, split: str, data_dir: str | os.PathLike[str] | None
) -> Iterable[dict[str, Any]]:
    """Examples of tensorflow-datasets as numpy values."""
    # Imported here: tensorflow-datasets needs TensorFlow, and digits must load without it.
    import tensorflow_datasets as tfds

    folder = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    try:
        prepared = (folder / name).is_dir()
        if not prepared:
            require_host(_HOSTS[name])
        return list(
            tfds.as_numpy(tfds.load(name, split=split, data_dir=folder, download=not prepared))
        )
    except Exception as error:  # whatever tensorflow-datasets or the network raises
        reason = str(error).strip().splitlines() or [""]
        raise DatasetUnavailable(
            f"no {name} in {folder} ({type(error).__name__}: {reason[0]}); give a data_dir,"
            f" a tensorflow-datasets folder that holds {name}/, or connect to the internet"
        ) from error


_LOADERS: dict[str, Callable[[str, str | os.PathLike[str] | None], SequenceDataset]] = {
    "spoken_digit": _load_spoken_digit,
    "trec": _load_trec,
    "digits_rows": _load_digits_rows,
}
NAMES = tuple(_LOADERS)
