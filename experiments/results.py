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

# What `provenance` gives, and of which type.
PROVENANCE = {
    "command": str, "data": str, "images": int, "date": str, "backend": str, "versions": dict,
    "machine": str,
}  # fmt: skip


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


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_json` wrote, provenance checked.

    Raises:
        ValueError: not JSON, or not the result of an experiment; the message names file and entry.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a result is a JSON object")
    for key, kind in PROVENANCE.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path}: {key} is {content.get(key)!r}, not a {kind.__name__}")
    return content


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
