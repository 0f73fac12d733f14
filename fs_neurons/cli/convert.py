"""fs-neurons convert."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import keras

from fs_neurons.analysis import summary
from fs_neurons.cli.errors import UsageError, with_flags
from fs_neurons.cli.inputs import images_and_labels, network
from fs_neurons.conversion import conversion_report
from fs_neurons.conversion import convert as convert_network
from fs_neurons.files.models import save_model
from fs_neurons.neuron import relu_parameters

K, ALPHA = 10, 25.0


def run(parsed: argparse.Namespace) -> None:
    """Converts and saves; with images, says how good the result is."""
    sets: dict[str, Any] = {}
    if parsed.K is not None or parsed.alpha is not None:
        sets["relu"] = relu_parameters(
            K if parsed.K is None else parsed.K, ALPHA if parsed.alpha is None else parsed.alpha
        )
    sets.update(parsed.set)
    model = network(parsed.model, parsed.allow_code)
    if parsed.data is None and parsed.labels is not None:
        raise UsageError(f"--labels={parsed.labels}: give the images as well, --data=FILE.npy")
    measured_on = images_and_labels(parsed, model) if parsed.data is not None else None
    snn = convert_network(model, **choices(parsed), **sets)
    write(snn, parsed.output)
    if measured_on is not None:
        result = summary(
            model, snn, *measured_on, batch_size=parsed.batch_size, verbose=sys.stderr.isatty()
        )
        print(f"\n{with_flags(str(result))}")


def choices(parsed: argparse.Namespace) -> dict[str, Any]:
    """The arguments of fs.convert that the flags of `flags.add_sets` stand for."""
    return {
        "quality": parsed.quality,
        "keep": parsed.keep,
        "keep_layers": parsed.keep_layers,
        "unsupported": parsed.unsupported,
        "convert_outputs": parsed.convert_outputs,
        "fold_batch_norm": parsed.fold_batch_norm,
    }


def write(snn: keras.Model, path: str) -> None:
    """Saves a converted network and says what became what."""
    save_model(snn, path)
    print(conversion_report(snn))
    print(f"Written to {path}")
