"""fs-neurons evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np

from fs_neurons.analysis import evaluate as evaluate_network
from fs_neurons.cli.inputs import images_and_labels, network, write_json
from fs_neurons.conversion import conversion_report
from fs_neurons.network import ConversionError


def run(parsed: argparse.Namespace) -> None:
    """Measures and prints."""
    model = network(parsed.model, parsed.allow_code)
    images, labels = images_and_labels(parsed, model)
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ValueError(f"model {model.name!r} must have one output, one score per class")
    unknown = np.zeros(len(images), np.int64)
    result = evaluate_network(
        model,
        images,
        unknown if labels is None else labels,
        batch_size=parsed.batch_size,
        verbose=sys.stderr.isatty(),
    )
    measured: dict[str, Any] = {"model": parsed.model, "images": result.images}
    said = [f"{result.images:,} images"]
    if labels is not None:
        measured["accuracy"] = result.accuracy
        said.append(f"accuracy {result.accuracy:.2%}")
    try:
        neurons = conversion_report(model).neurons
    except ConversionError:
        said.append("no FS-neurons")
    else:
        measured["neurons"] = neurons
        measured["spikes_per_image"] = result.spikes_per_image
        said.append(f"{result.spikes_per_image:,.1f} spikes per image")
        if neurons is not None:  # known where the sizes of images are
            measured["spikes_per_neuron"] = result.spikes_per_image / neurons
            said.append(f"{measured['spikes_per_neuron']:.3f} per neuron")
    print(f"{parsed.model}: {', '.join(said)}")
    write_json(json.dumps(measured, indent=2), parsed.json)
