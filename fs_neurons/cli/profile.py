"""fs-neurons profile."""

from __future__ import annotations

import argparse
import sys

from fs_neurons.analysis import profile as profile_network
from fs_neurons.backend.distribution import start
from fs_neurons.cli.inputs import (
    check_picture,
    images_and_labels,
    network,
    save_picture,
    write_json,
)


def run(parsed: argparse.Namespace) -> None:
    """Measures, prints, and writes what was asked for."""
    check_picture(parsed.plot)
    distribution = start(parsed.strategy)
    with distribution.scope():
        snn = network(parsed.model, parsed.allow_code)
    images, _ = images_and_labels(parsed, snn)
    distribution.check_same(
        "what they profile", f"{snn.count_params()} parameters, images {images.shape}"
    )
    result = profile_network(
        snn,
        images,
        batch_size=parsed.batch_size,
        distribution=distribution,
        verbose=distribution.is_chief and sys.stderr.isatty(),
    )
    if not distribution.is_chief:
        return
    print(result)
    write_json(result.to_json(), parsed.json)
    if parsed.plot:
        save_picture(result.plot(), parsed.plot)
