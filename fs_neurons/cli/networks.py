"""fs-neurons networks."""

from __future__ import annotations

import argparse
import json
import pathlib

from tabulate import tabulate

from fs_neurons import models


def run(parsed: argparse.Namespace) -> None:
    """Prints the table."""
    rows = []
    for data, shape in models.INPUT_SHAPES.items():
        size = " x ".join(map(str, shape))
        for name in models.shipped(data):
            accuracy = _accuracy(models.weights_path(name, data))
            rows.append((f"{data}/{name}", size, "trained", accuracy))
        for name in models.finetuned(data):
            K = name.rpartition("_k")[2]
            rows.append((f"{data}/{name}", size, f"spiking, fine-tuned at K = {K}", ""))
    print(tabulate(rows, ("network", "images", "", "test accuracy"), disable_numparse=True))


def _accuracy(weights: pathlib.Path) -> str:
    """What was measured when it was trained; empty where that isn't beside the weights."""
    summary = weights.with_name(weights.name.replace(".weights.h5", ".json"))
    if not summary.is_file():
        return ""
    return f"{json.loads(summary.read_text(encoding='utf-8'))['test_accuracy']:.2%}"
