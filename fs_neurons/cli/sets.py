"""fs-neurons sets."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from fs_neurons.neuron.sets import available, load


def run(parsed: argparse.Namespace) -> None:
    """Prints the table."""
    rows = []
    for name in available():
        loaded = load(name)
        low, high = loaded.domain
        error = next((v for k, v in loaded.errors.items() if k.startswith("mse")), None)
        rows.append((name, loaded.K, f"{low:g} to {high:g}", error))
    print(tabulate(rows, ("set", "K", "domain", "mean squared error"), floatfmt=".2e"))
