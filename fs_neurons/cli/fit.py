"""fs-neurons fit."""

from __future__ import annotations

import argparse
import pathlib
import sys

from tabulate import tabulate

import fs_neurons as fs
from fs_neurons.cli.errors import UsageError
from fs_neurons.cli.inputs import function
from fs_neurons.neuron.sets import save


def run(parsed: argparse.Namespace) -> None:
    """Fits and saves."""
    path = pathlib.Path(parsed.output)
    if path.suffix != ".json":
        raise UsageError(f"{parsed.output}: a parameter set is a .json file")
    fitted = fs.fit(
        function(parsed.function),
        parsed.K,
        parsed.domain,
        spike_penalty=parsed.spike_penalty,
        guard=parsed.guard,
        method=parsed.method,
        effort=parsed.effort,
        seed=parsed.seed,
        time_budget=parsed.time_budget,
        name=parsed.name or path.stem,
        verbose=sys.stderr.isatty(),
    )
    save(fitted, path, activation=parsed.function.rpartition(":")[2])
    print(tabulate(fitted.errors.items(), ("measured", fitted.name), floatfmt=".3g"))
    print(f"out of range: {fitted.out_of_range}")
    print(f"Written to {parsed.output}")
