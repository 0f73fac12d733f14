"""fs-neurons plot."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fs_neurons.analysis import drawing
from fs_neurons.cli.inputs import check_picture, function, save_picture
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.sets import load


def run(parsed: argparse.Namespace) -> None:
    """Draws and saves."""
    check_picture(parsed.output)
    chosen = load(parsed.set)
    emulated = None if parsed.function is None else _on_tensors(function(parsed.function))
    if parsed.x is not None:
        figure = drawing.draw_neuron(chosen, parsed.x, emulated)
    else:
        span = parsed.span or _span(chosen)
        figure = drawing.draw_response({chosen.name: chosen}, emulated, span, parsed.function or "")
    save_picture(figure, parsed.output)


def _on_tensors(emulated: str | Callable[[np.ndarray], Any]) -> str | Callable[[Any], Any]:
    """A function of one's own takes numpy arrays; drawings call it with tensors."""
    if isinstance(emulated, str):
        return emulated
    return lambda x: emulated(keras.ops.convert_to_numpy(x).astype(np.float64))


def _span(chosen: FSParameters) -> tuple[float, float]:
    """What to draw when nothing is said: the domain, with something on either side of an open end."""
    low, high = chosen.domain
    high = high if np.isfinite(high) else max(10.0, 2 * low)
    low = low if np.isfinite(low) else -0.4 * abs(high)
    return low, high
