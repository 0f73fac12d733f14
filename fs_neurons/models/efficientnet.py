"""EfficientNet B0 to B7, with the weights of keras.applications or of an official TensorFlow checkpoint.

    model = efficientnet("b7", weights="imagenet")                    # AutoAugment, by Keras
    model = efficientnet("b7", weights="efficientnet-b7-randaug/")    # that of the paper

Checkpoints: github.com/tensorflow/tpu, models/official/efficientnet. keras.applications takes the
constants that normalise its input from its own weight file: a network built for other weights leaves the
input as it is and classifies at random. Here they are set.

Reference: Tan and Le, 2019.
"""

from __future__ import annotations

import os
import pathlib
import re

import keras
import numpy as np
from keras import layers

from fs_neurons.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
AVERAGE = "/ExponentialMovingAverage"


def efficientnet(
    variant: str, weights: str | os.PathLike[str] | None = None, image_size: int | None = None
) -> keras.Model:
    """EfficientNet with logits as output; takes pixels from 0 to 255.

    Args:
        variant: "b0" to "b7".
        weights: "imagenet" for those of keras.applications, the path of an official checkpoint (a
            prefix such as folder/model.ckpt, or its folder), or None for random ones.
        image_size: height and width of its images; that of the variant when missing.

    Raises:
        ValueError: no such variant, "imagenet" with another size, or a checkpoint that does not fit.
        FileNotFoundError: no checkpoint there.
    """
    if variant not in SIZES:
        raise ValueError(f"unknown EfficientNet {variant!r}; choose one of {', '.join(SIZES)}")
    build = getattr(keras.applications, f"EfficientNet{variant.upper()}")
    size = image_size or SIZES[variant]
    model: keras.Model = build(
        weights="imagenet" if weights == "imagenet" else None,
        input_shape=(size, size, 3),
        classifier_activation=None,
        name=f"efficientnet-{variant}",
    )
    if weights != "imagenet":
        _normalise_input(model)
        if weights is not None:
            load_checkpoint(model, weights)
    return model


def load_checkpoint(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads an official checkpoint, exponential moving averages where it has them.

    Args:
        model: `efficientnet` of the same variant.
        path: checkpoint prefix, or the folder that holds one.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the checkpoint is of another variant, or is damaged; the message names variables.
    """
    import tensorflow as tf

    prefix = _checkpoint_prefix(path)
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(f"{prefix} can't be read as a TensorFlow checkpoint: {error}") from error
    roots = {match[0] for name in shapes if (match := re.match(r"efficientnet-[^/]+(?=/)", name))}
    if len(roots) != 1:
        raise ValueError(
            f"{prefix} is no EfficientNet checkpoint: expected variables efficientnet-bN/..., found"
            f" {', '.join(sorted(shapes)[:3]) or 'none'}"
        )
    root = roots.pop()
    blocks = {int(m[1]) for name in shapes if (m := re.match(rf"{root}/blocks_(\d+)/", name))}
    norm = "tpu_batch_normalization"
    if not any(f"/{norm}/" in name for name in shapes):
        norm = "batch_normalization"

    expected = _block_count(model)
    if len(blocks) != expected:
        raise ValueError(
            f"{prefix} holds {root} with {len(blocks)} blocks, but {model.name} has {expected}: give"
            " the name of its variant"
        )
    for layer, names in _official_names(model, norm).items():
        values = []
        for name, weight in zip(names, layer.weights, strict=True):
            name = f"{root}/{name}"
            name = name + AVERAGE if name + AVERAGE in shapes else name
            if name not in shapes:
                raise ValueError(f"{prefix} has no variable {name} for layer {layer.name}")
            if tuple(shapes[name]) != tuple(weight.shape):
                raise ValueError(
                    f"{prefix}: variable {name} has shape {tuple(shapes[name])}, but layer {layer.name}"
                    f" of {model.name} needs {tuple(weight.shape)}: give the name of its variant"
                )
            value = reader.get_tensor(name)
            if not np.isfinite(value).all():
                raise ValueError(f"{prefix}: variable {name} has values that are not finite")
            values.append(value)
        layer.set_weights(values)


def _checkpoint_prefix(path: str | os.PathLike[str]) -> str:
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) == 1:
            return str(found[0].with_suffix(""))
        what = "no checkpoint" if not found else f"{len(found)} checkpoints"
        raise FileNotFoundError(
            f"{what} (*.index) in folder {path}: give one, as FOLDER/model.ckpt"
        )
    if not path.with_name(f"{path.name}.index").exists():
        raise FileNotFoundError(
            f"no checkpoint {path} (it would be {path.name}.index and {path.name}.data-...): unpack the"
            " .tar.gz and give its folder, or the path without the ending .index"
        )
    return str(path)


def _block_count(model: keras.Model) -> int:
    return sum(layer.name.endswith("_dwconv") for layer in model.layers)


def _official_names(model: keras.Model, norm: str) -> dict[layers.Layer, list[str]]:
    """Layers with trained weights -> variables of the checkpoint, in the order of the weights.

    A block counts its convolutions and normalisations in order of execution (conv2d, conv2d_1); the
    first stage has no expanding convolution, so that its projection is conv2d.
    """

    def batch_norm(scope: str, number: int = 0) -> list[str]:
        scope = f"{scope}/{norm}" + (f"_{number}" if number else "")
        return [f"{scope}/{key}" for key in ("gamma", "beta", "moving_mean", "moving_variance")]

    names = {
        "stem_conv": ["stem/conv2d/kernel"],
        "stem_bn": batch_norm("stem"),
        "top_conv": ["head/conv2d/kernel"],
        "top_bn": batch_norm("head"),
        "predictions": ["head/dense/kernel", "head/dense/bias"],
    }
    present = {layer.name for layer in model.layers}
    blocks = [
        layer.name.removesuffix("dwconv") for layer in model.layers if layer.name.endswith("dwconv")
    ]
    for number, block in enumerate(blocks):
        scope = f"blocks_{number}"
        expands = int(f"{block}expand_conv" in present)
        if expands:
            names[f"{block}expand_conv"] = [f"{scope}/conv2d/kernel"]
            names[f"{block}expand_bn"] = batch_norm(scope)
        names[f"{block}dwconv"] = [f"{scope}/depthwise_conv2d/depthwise_kernel"]
        names[f"{block}bn"] = batch_norm(scope, expands)
        names[f"{block}se_reduce"] = [f"{scope}/se/conv2d/{key}" for key in ("kernel", "bias")]
        names[f"{block}se_expand"] = [f"{scope}/se/conv2d_1/{key}" for key in ("kernel", "bias")]
        names[f"{block}project_conv"] = [
            f"{scope}/conv2d_1/kernel" if expands else f"{scope}/conv2d/kernel"
        ]
        names[f"{block}project_bn"] = batch_norm(scope, expands + 1)
    return {model.get_layer(layer): variables for layer, variables in names.items()}


def _normalise_input(model: keras.Model) -> None:
    (layer,) = (part for part in model.layers if isinstance(part, layers.Normalization))
    mean, deviation = np.array([IMAGENET_MEAN, IMAGENET_STD], np.float32)
    layer.set_weights([mean, np.square(deviation), np.int32(0)])
    layer.finalize_state()
