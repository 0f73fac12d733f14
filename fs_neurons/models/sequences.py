"""Small recurrent networks that classify sequences, and their trained weights in params/sequences/.

model = build("spoken_digit_lstm")          # untrained
model = pretrained("trec_bilstm")           # with the weights of params/sequences/
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras
from keras import layers

from fs_neurons.data.sequences import QUESTION_WORDS, SPOKEN_FRAMES
from fs_neurons.files import params_dir


@dataclasses.dataclass(frozen=True)
class SequenceNetwork:
    """A recurrent layer that reads a sequence to its end, and a score for each class.

    Attributes:
        data: name of its data set.
        cell: "LSTM" or "GRU".
        units: of the recurrent layer, in each direction.
        steps: length of a sequence.
        classes: number of classes.
        features: of each entry of a sequence; None where entries are symbols.
        symbols: size of the vocabulary, whose embedding is trained with the network.
        embedding: width of that.
        bidirectional: whether the layer reads the sequence both ways.
        noise: standard deviation of what is added to features in training.
        dropout: share of embeddings, and of inputs of the scores, left out in training.
    """

    data: str
    cell: str
    units: int
    steps: int
    classes: int
    features: int | None = None
    symbols: int | None = None
    embedding: int = 64
    bidirectional: bool = False
    noise: float = 0.0
    dropout: float = 0.3


_SPOKEN: dict[str, Any] = {
    "data": "spoken_digit",
    "steps": SPOKEN_FRAMES,
    "features": 40,
    "classes": 10,
}
NETWORKS = {
    "spoken_digit_lstm": SequenceNetwork(cell="LSTM", units=96, noise=0.3, **_SPOKEN),
    "spoken_digit_gru": SequenceNetwork(cell="GRU", units=96, noise=0.3, **_SPOKEN),
    "trec_bilstm": SequenceNetwork(
        "trec", "LSTM", 64, QUESTION_WORDS, classes=6, symbols=3399, bidirectional=True, dropout=0.5
    ),
    "digits_rows_lstm": SequenceNetwork("digits_rows", "LSTM", 48, 8, classes=10, features=8),
}


def build(name: str) -> keras.Model:
    """The network `name`, untrained; its output is logits. Zeros at the end of a sequence are masked.

    Raises:
        ValueError: no such network.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    recurrent = getattr(layers, network.cell)(network.units, name=network.cell.lower())
    if network.bidirectional:
        recurrent = layers.Bidirectional(recurrent, name="bidirectional")
    if network.symbols is None:
        first = [
            keras.Input((network.steps, network.features), name="sequences"),
            layers.Masking(name="masking"),
            layers.GaussianNoise(network.noise, name="noise"),
        ]
    else:
        first = [
            keras.Input((network.steps,), dtype="int32", name="sequences"),
            layers.Embedding(network.symbols, network.embedding, mask_zero=True, name="embedding"),
            layers.SpatialDropout1D(network.dropout, name="word_dropout"),
        ]
    last = [
        layers.Dropout(network.dropout, name="dropout"),
        layers.Dense(network.classes, name="scores"),
    ]
    return keras.Sequential([*first, recurrent, *last], name=name)


def weights_path(name: str) -> pathlib.Path:
    """Where the trained weights of a network are, or would be."""
    return params_dir() / "sequences" / f"{name}.weights.h5"


def shipped() -> list[str]:
    """Names of the networks with trained weights."""
    return [name for name in NETWORKS if weights_path(name).exists()]


def pretrained(name: str) -> keras.Model:
    """The network `name` with its trained weights.

    Raises:
        ValueError: no such network.
        FileNotFoundError: no weights are shipped for it.
    """
    model = build(name)
    path = weights_path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights {path.name} in {path.parent}; trained are {', '.join(shipped()) or 'none'}"
        )
    model.load_weights(path)
    return model
