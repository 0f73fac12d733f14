"""fs-neurons compare."""

from __future__ import annotations

import argparse
import sys

from fs_neurons.analysis import compare as compare_networks
from fs_neurons.cli.inputs import images_and_labels, network, write_json


def run(parsed: argparse.Namespace) -> None:
    """Compares and prints."""
    model = network(parsed.model, parsed.allow_code)
    snn = network(parsed.snn, parsed.allow_code)
    images, labels = images_and_labels(parsed, model)
    result = compare_networks(
        model, snn, images, labels, batch_size=parsed.batch_size, verbose=sys.stderr.isatty()
    )
    print(result)
    write_json(result.to_json(), parsed.json)
