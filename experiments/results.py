"""Results on disk: one JSON per experiment, with what made it."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from fs_neurons.files import write_atomically

RESULTS_DIR = pathlib.Path(__file__).resolve().parent.parent / "results"


def provenance(data: str, images: int) -> dict[str, Any]:
    """How a result was made: command, data, number of images, date, versions, backend, machine."""
    program = sys.modules["__main__"].__spec__
    return {
        "command": shlex.join(["python", "-m", program.name if program else "?", *sys.argv[1:]]),
        "data": data,
        "images": images,
        "date": datetime.date.today().isoformat(),
        "backend": keras.backend.backend(),
        "versions": {name: importlib.metadata.version(name) for name in ("keras", "numpy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Writes `content` as JSON, atomically."""
    with write_atomically(path) as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def write_csv(path: str | os.PathLike, columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns of equal length as CSV, atomically."""
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
