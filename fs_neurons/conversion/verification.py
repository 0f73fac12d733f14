"""Whether the pass itself changes anything: every activation replaced by itself."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.sites import Site, checked_sites
from fs_neurons.network.splitting import split_prelus


def verify(model: keras.Model, inputs: Any = None, tolerance: float = 1e-5) -> float:
    """Replaces every site by its own activation, through the machinery of `convert`, and compares.

    Args:
        model: as for `convert`; activations without a parameter set are verified as well.
        inputs: what to run the model on; two random images (or whatever it takes) when missing.
        tolerance: largest difference allowed, relative to the largest output (at least 1). The default leaves
            room for the kernels of a GPU, which round otherwise: some for whole recurrent layers.

    Returns:
        The largest relative difference between the outputs.

    Raises:
        ConversionError: the rewritten model differs, or can't be built.
        ValueError: the model has inputs of unknown size and `inputs` is missing.
    """
    checked_sites(model)

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        if not site.convertible:
            return None
        own: keras.layers.Layer = layers.Activation(site.function, name=name, dtype=dtype)
        return own

    twin = Rewriter(replacement).rewrite(split_prelus(model, lambda site: True))
    if inputs is None:
        inputs = random_inputs(model)
    worst = 0.0
    expected = keras.tree.flatten(model(inputs, training=False))
    actual = keras.tree.flatten(twin(inputs, training=False))
    for a, b in zip(expected, actual, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        difference = float(np.max(np.abs(a - b), initial=0)) / max(
            1.0, float(np.max(np.abs(a), initial=0))
        )
        worst = max(worst, difference) if np.isfinite(difference) else math.inf
    if not worst <= tolerance:
        raise ConversionError(
            f"model {model.name!r}: rebuilt with its own activations it differs by {worst:.3g}"
            f" (tolerance {tolerance:g}); do not convert it, and report its layers"
        )
    return worst


def random_inputs(model: keras.Model) -> Any:
    random = np.random.default_rng(0)

    def sample(x: Any) -> np.ndarray:
        if None in x.shape[1:]:
            raise ValueError(
                f"input {x.name!r} of model {model.name!r} has unknown size {x.shape}: pass inputs="
            )
        shape = (2, *x.shape[1:])
        if keras.backend.is_float_dtype(x.dtype):
            return random.normal(size=shape).astype("float32")
        return random.integers(0, 2, size=shape).astype(x.dtype)

    return keras.tree.map_structure(sample, input_structure(model))
