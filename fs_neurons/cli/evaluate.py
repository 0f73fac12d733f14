"""fs-neurons evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from fs_neurons.analysis.evaluation import per_image, scores_and_spikes
from fs_neurons.backend import compiled
from fs_neurons.cli.inputs import images_and_labels, network, write_json
from fs_neurons.conversion import conversion_report
from fs_neurons.data.batches import Batches
from fs_neurons.network import ConversionError


def run(parsed: argparse.Namespace) -> None:
    """Measures and prints."""
    model = network(parsed.model, parsed.allow_code)
    images, labels = images_and_labels(parsed, model)
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ValueError(f"model {model.name!r} must have one output, one score per class")
    scores, spikes = _run_over(model, images, parsed.batch_size)
    if not np.isfinite(scores).all():
        raise ValueError(f"model {model.name!r} gives scores that are not finite on these images")
    measured: dict[str, Any] = {"model": parsed.model, "images": len(images)}
    said = [f"{len(images):,} images"]
    if labels is not None:
        measured["accuracy"] = float((scores.argmax(axis=1) == labels).mean())
        said.append(f"accuracy {measured['accuracy']:.2%}")
    try:
        neurons = conversion_report(model).neurons
    except ConversionError:
        said.append("no FS-neurons")
    else:
        measured["neurons"] = neurons
        measured["spikes_per_image"] = float(spikes.mean())
        said.append(f"{measured['spikes_per_image']:,.1f} spikes per image")
        if neurons is not None:  # known where the sizes of images are
            measured["spikes_per_neuron"] = measured["spikes_per_image"] / neurons
            said.append(f"{measured['spikes_per_neuron']:.3f} per neuron")
    print(f"{parsed.model}: {', '.join(said)}")
    write_json(json.dumps(measured, indent=2), parsed.json)


def _run_over(
    model: keras.Model, images: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (images, classes), and spikes of each image."""
    forward = compiled(scores_and_spikes(model))
    bar = keras.utils.Progbar(len(images), verbose=int(sys.stderr.isatty()), unit_name="image")
    scores, spikes = [], []
    for inputs, count in Batches(model, images, batch_size):
        y, z = forward(ops.convert_to_tensor(inputs, model.inputs[0].dtype))
        scores.append(ops.convert_to_numpy(y)[:count])
        spikes.append(per_image(z)[:count])
        bar.add(count)
    return np.concatenate(scores), np.concatenate(spikes)
