"""Networks of the paper by name, and their trained weights in params/.

model = build("resnet20", "cifar10")        # untrained
model = pretrained("resnet20", "cifar10")   # with the weights of params/cifar10/
"""

from __future__ import annotations

import functools
import pathlib

import keras

from fs_neurons.files import params_dir
from fs_neurons.models.resnet_cifar import resnet_cifar

__all__ = [
    "INPUT_SHAPES", "NETWORKS", "build", "pretrained", "resnet_cifar", "shipped", "weights_path",
]  # fmt: skip

NETWORKS = {
    "resnet8": functools.partial(resnet_cifar, 8),
    "resnet14": functools.partial(resnet_cifar, 14),
    "resnet20": functools.partial(resnet_cifar, 20),
    "resnet50": functools.partial(resnet_cifar, 50),
    "se_resnet8_swish": functools.partial(resnet_cifar, 8, activation="swish", squeeze_excite=True),
    "se_resnet20_swish": functools.partial(
        resnet_cifar, 20, activation="swish", squeeze_excite=True
    ),
}

# Height, width and channels of each data set's images.
INPUT_SHAPES = {"cifar10": (32, 32, 3), "digits": (8, 8, 1)}


def build(name: str, data: str = "cifar10") -> keras.Model:
    """The network `name` for the images of `data`, untrained; its output is logits.

    Raises:
        ValueError: no such network or data set.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    if data not in INPUT_SHAPES:
        raise ValueError(f"unknown data set {data!r}; choose one of {', '.join(INPUT_SHAPES)}")
    return NETWORKS[name](input_shape=INPUT_SHAPES[data], name=name)


def weights_path(name: str, data: str = "cifar10") -> pathlib.Path:
    """Where the trained weights of a network are, or would be."""
    return params_dir() / data / f"{name}.weights.h5"


def shipped(data: str = "cifar10") -> list[str]:
    """Names of the networks with trained weights for a data set."""
    return [name for name in NETWORKS if weights_path(name, data).exists()]


def pretrained(name: str, data: str = "cifar10") -> keras.Model:
    """The network `name` with its trained weights.

    Raises:
        ValueError: no such network or data set.
        FileNotFoundError: no weights are shipped; the message names the command that trains them.
    """
    model = build(name, data)
    path = weights_path(name, data)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights {path.name} in {path.parent}: train them with"
            f" python -m experiments.train_cifar10 --model={name} --data={data}"
        )
    model.load_weights(path)
    return model
