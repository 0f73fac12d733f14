"""PReLU as two ReLUs: prelu(x) = relu(x) - a relu(-x), with the trained slopes a as a linear layer.

    model = split_prelus(model, chosen)       # before the sites of a model are looked for

FS-neurons of one layer share their function up to a scale, which slopes that differ between channels forbid; those
of the two ReLUs do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from fs_neurons.network.activations import shared_slopes
from fs_neurons.network.keras_internals import nodes_calling
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import Site, find_sites


def split_prelus(model: keras.Model, chosen: Callable[[Site], bool]) -> keras.Model:
    """The model with two ReLUs in place of every PReLU that has one slope for each channel, channels last.

    Args:
        model: sequential or functional; built.
        chosen: which sites are to be split.

    Returns:
        A new model of the same weights; `model` itself where there is nothing to split.
    """

    def splits(site: Site) -> bool:
        return _slopes(site) is not None and chosen(site)

    if not any(map(splits, find_sites(model))):
        return model
    return Rewriter(
        lambda site, name, dtype: _two_relus(site, name, dtype) if splits(site) else None
    ).rewrite(model)


def parts_of_prelu(site: Site) -> tuple[str, str]:
    """Names of the two sites that a PReLU becomes."""
    return f"{site.layer}/positive", f"{site.layer}/negative"


def _slopes(site: Site) -> Any:
    return shared_slopes(site.function) if isinstance(site.function, layers.PReLU) else None


def _two_relus(site: Site, name: str, dtype: Any) -> keras.Model:
    """A model of the name of the PReLU, so that its parts are named after it."""
    (value,) = nodes_calling(site.function)[0].input_tensors
    x = keras.Input(batch_shape=value.shape, dtype=value.dtype)
    positive = layers.ReLU(name="positive", dtype=dtype)(x)
    y = layers.Rescaling(-1.0, name="negated", dtype=dtype)(x)
    y = layers.ReLU(name="negative", dtype=dtype)(y)
    y = layers.Rescaling(-_slopes(site), name="slopes", dtype=dtype)(y)
    return keras.Model(x, layers.Add(name="sum", dtype=dtype)([positive, y]), name=name)
