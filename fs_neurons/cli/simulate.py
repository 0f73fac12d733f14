"""fs-neurons simulate."""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys

import numpy as np

from fs_neurons.cli.errors import UsageError
from fs_neurons.cli.inputs import images_and_labels, network
from fs_neurons.files import write_atomically
from fs_neurons.simulation import Simulation
from fs_neurons.simulation import simulate as simulate_network

COLUMNS = ("image", "site", "step", "neuron")


def run(parsed: argparse.Namespace) -> None:
    """Simulates, prints a summary and writes the events."""
    if pathlib.Path(parsed.output).suffix != ".csv":
        raise UsageError(f"{parsed.output}: events are written to a .csv file")
    snn = network(parsed.model, parsed.allow_code)
    images, labels = images_and_labels(parsed, snn)
    result = simulate_network(
        snn, images, batch_size=parsed.batch_size, raster=True, verbose=sys.stderr.isatty()
    )
    _write_events(result, parsed.output)
    print(
        f"{result.images:,} images, {int(result.spikes.sum()):,} spikes,"
        f" {result.spikes_per_neuron:.3f} per neuron and image"
    )
    print(
        f"output after {result.latency} steps, an image every {result.period} steps,"
        f" {result.K} steps a window"
    )
    if labels is not None and np.ndim(result.outputs) == 2:
        print(f"accuracy {float((result.outputs.argmax(axis=1) == labels).mean()):.2%}")
    print(f"Written to {parsed.output}")


def _write_events(result: Simulation, path: str) -> None:
    """A row per spike, ordered by image, then by step, then by site and neuron."""
    rasters = [(i, site.raster) for i, site in enumerate(result.sites) if site.raster is not None]
    site, image, step, neuron = np.concatenate(
        [np.stack([np.full_like(r.image, i), r.image, r.step, r.neuron]) for i, r in rasters],
        axis=1,
    )
    names = [activity.name for activity in result.sites]
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for event in np.lexsort((neuron, site, step, image)):
            writer.writerow((image[event], names[site[event]], step[event], neuron[event]))
