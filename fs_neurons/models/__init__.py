"""Networks of the paper by name, and their trained weights in params/.

model = build("resnet20", "cifar10")        # untrained
model = pretrained("resnet20", "cifar10")   # with the weights of params/cifar10/
snn = pretrained("resnet20_k3", "cifar10")  # converted with K = 3 and fine-tuned, of params/finetuned/
"""

from __future__ import annotations

import functools
import pathlib

import keras

from fs_neurons.files import params_dir
from fs_neurons.files.models import load_model
from fs_neurons.models.resnet_cifar import resnet_cifar

__all__ = [
    "INPUT_SHAPES", "NETWORKS", "build", "finetuned", "finetuned_path", "pretrained", "resnet_cifar",
    "shipped", "weights_path",
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


def finetuned_path(name: str, data: str = "cifar10") -> pathlib.Path:
    """Where a fine-tuned network, such as "resnet20_k3", is or would be."""
    prefix = "" if data == "cifar10" else f"{data}_"
    return params_dir() / "finetuned" / f"{prefix}{name}.keras"


def finetuned(data: str = "cifar10") -> list[str]:
    """Names of the fine-tuned spiking networks for a data set: NETWORK_kK, K time steps."""
    return [
        f"{network}_k{K}"
        for network in NETWORKS
        for K in range(1, 21)
        if finetuned_path(f"{network}_k{K}", data).exists()
    ]


def pretrained(name: str, data: str = "cifar10") -> keras.Model:
    """The network `name` with its trained weights, or the fine-tuned spiking network of that name.

    Raises:
        ValueError: no such network or data set.
        FileNotFoundError: no weights are shipped; the message lists the networks that have some.
    """
    if name not in NETWORKS and name in finetuned(data):
        return load_model(finetuned_path(name, data))
    model = build(name, data)
    path = weights_path(name, data)
    if not path.exists():
        raise FileNotFoundError(
            f"no weights {path.name} in {path.parent}; trained for {data} are"
            f" {', '.join(shipped(data) + finetuned(data)) or 'none'}"
        )
    model.load_weights(path)
    return model
