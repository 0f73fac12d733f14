"""fs-neurons calibrate."""

from __future__ import annotations

import argparse

from fs_neurons.cli.convert import choices, write
from fs_neurons.cli.inputs import images_and_labels, network
from fs_neurons.conversion import convert


def run(parsed: argparse.Namespace) -> None:
    """Calibrates and saves."""
    model = network(parsed.model, parsed.allow_code)
    images, _ = images_and_labels(parsed, model, split="train")
    snn = convert(
        model,
        calibration_data=images,
        steps=parsed.steps,
        granularity=parsed.granularity,
        spike_penalty=parsed.spike_penalty,
        target_spikes=parsed.target_spikes,
        correction=parsed.correction,
        **choices(parsed),
    )
    print(f"Calibrated on {len(images):,} images")
    write(snn, parsed.output)
