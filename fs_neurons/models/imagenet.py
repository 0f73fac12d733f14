"""The networks of Table 1 by name, and any saved Keras model.

network = load_network("efficientnet-b7")                       # weights of keras.applications
network = load_network("efficientnet-b7", "efficientnet-b7-randaug/")
network = load_network("my_model.keras", image_size=256, preprocessing="torch")
network.model, network.image_size, network.preprocessing
"""

from __future__ import annotations

import dataclasses
import os
import pathlib

import keras

from fs_neurons.data.imagenet import CLASSES
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.files.models import load_model
from fs_neurons.models.efficientnet import SIZES, efficientnet
from fs_neurons.models.resnet50 import resnet50

AVERAGE_POOLED = "resnet50-v1.5-avgpool"
NAMES = (*(f"efficientnet-{variant}" for variant in SIZES), "resnet50", AVERAGE_POOLED)
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and what its images go through.

    Attributes:
        name: for tables.
        weights: where the weights are from, for reports.
        model: its output is one score per class: 1000 classes, or 1001 with a background class first.
        image_size: height and width of its images.
        preprocessing: a name in `preprocessing.PREPROCESSINGS`.
    """

    name: str
    weights: str
    model: keras.Model
    image_size: int
    preprocessing: str

    @property
    def label_offset(self) -> int:
        """Place of the first ImageNet class among the outputs: 1 behind a background class."""
        return int(self.model.output_shape[-1]) - CLASSES


def load_network(
    name: str,
    weights: str | os.PathLike[str] = "imagenet",
    *,
    image_size: int | None = None,
    preprocessing: str | None = None,
    logits: str | None = None,
) -> Network:
    """Builds or loads a network.

    Args:
        name: one of `NAMES`, or the path of a saved Keras model (.keras or .h5).
        weights: for names: "imagenet" (keras.applications), "random", or a checkpoint: for
            EfficientNets an official TensorFlow one or a Keras .weights.h5, for ResNets a .weights.h5.
        image_size: height and width of its images; the network's own when missing.
        preprocessing: a name in `PREPROCESSINGS`; that of the network when missing.
        logits: for saved models: name of the layer whose output is the scores, when it is not the
            model's own output.

    Raises:
        ValueError: no such name, arguments that do not go together, weights that do not fit.
        FileNotFoundError: no such file.
        OSError: the weights of keras.applications are not there and can't be downloaded.
    """
    if preprocessing is not None and preprocessing not in PREPROCESSINGS:
        raise ValueError(
            f"unknown preprocessing {preprocessing!r}; choose one of {', '.join(PREPROCESSINGS)}"
        )
    weights = os.fspath(weights)
    if name in NAMES:
        if logits is not None:
            raise ValueError("logits is for saved models only")
        network = _build(name, weights, image_size)
    else:
        network = _open(name, image_size, logits)
        if weights != "imagenet":
            raise ValueError(f"{name} holds its own weights, leave out: {weights}")
    if preprocessing is not None:
        network = dataclasses.replace(network, preprocessing=preprocessing)
    if not network.preprocessing:
        raise ValueError(
            f"{name}: give the preprocessing of its images, one of {', '.join(PREPROCESSINGS)}"
        )
    shape = network.model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] not in (CLASSES, CLASSES + 1):
        raise ValueError(
            f"{name}: its output must be (images, 1000) scores, or 1001 with a background class first,"
            f" not {shape}; where it has several outputs, give the name of the layer as logits"
        )
    return network


def _build(name: str, weights: str, image_size: int | None) -> Network:
    variant = name.removeprefix("efficientnet-")
    preprocessing, size = ("efficientnet", SIZES[variant]) if variant in SIZES else ("caffe", 224)
    size = image_size or size
    keras_file = weights.endswith(".h5")
    if keras_file and not pathlib.Path(weights).is_file():
        raise FileNotFoundError(f"no weights {weights}")
    if weights == "imagenet":
        if name == AVERAGE_POOLED:
            raise ValueError(
                f"{name} has no published weights: give the .weights.h5 file of a trained one"
            )
        try:
            model = _new_model(name, size, weights)
        except ValueError:
            raise
        except Exception as error:  # Keras raises no narrower one where a download fails
            raise FileNotFoundError(
                f"{name}: its weights are not in ~/.keras/models and can't be downloaded"
                f" ({str(error).splitlines()[0][:200]}); connect to the internet, or give a checkpoint"
            ) from error
        return Network(name, "keras.applications", model, size, preprocessing)
    if variant in SIZES and not keras_file and weights != RANDOM:
        model = efficientnet(variant, weights, size)
    elif keras_file or weights == RANDOM:
        model = _new_model(name, size, None)
    else:
        raise ValueError(f"{name}: its checkpoint must be a Keras .weights.h5, not {weights}")
    if keras_file:
        model.load_weights(weights)
    return Network(name, weights, model, size, preprocessing)


def _new_model(name: str, size: int, weights: str | None) -> keras.Model:
    """The network `name` with the weights of keras.applications, or with random ones for None."""
    if name == AVERAGE_POOLED:
        return resnet50(image_size=size)
    if name == "resnet50":
        stock: keras.Model = keras.applications.ResNet50(
            weights=weights, input_shape=(size, size, 3), classifier_activation=None, name=name
        )
        return stock
    return efficientnet(name.removeprefix("efficientnet-"), weights, size)


def _open(path: str, image_size: int | None, logits: str | None) -> Network:
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is neither a file nor one of the networks {', '.join(NAMES)}"
        )
    model = load_model(file)
    if logits is not None:
        names = [layer.name for layer in model.layers]
        if logits not in names:
            raise ValueError(f"{path} has no layer {logits!r}; its last is {names[-1]!r}")
        model = keras.Model(model.input, model.get_layer(logits).output, name=model.name)
    shape = model.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"{path}: its input must be (images, height, width, 3), not {shape}")
    sizes = {side for side in (*shape[1:3], image_size) if side is not None}
    if len(sizes) != 1:
        raise ValueError(
            f"{path}: its images are {shape[1]} x {shape[2]}"
            + (f", not {image_size} x {image_size}" if image_size else ": give an image_size")
        )
    return Network(file.stem, str(path), model, sizes.pop(), "")
