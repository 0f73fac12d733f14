"""Results on disk: one JSON per experiment, with what made it."""

from __future__ import annotations

import contextlib
import contextvars
import csv
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

try:
    import fcntl
except ImportError:  # Windows, where folders can't be locked
    fcntl = None  # type: ignore[assignment]

from fs_neurons.files import write_atomically

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS_DIR = ROOT / "results"

# What `provenance` gives, and of which type.
PROVENANCE = {
    "command": str, "data": str, "images": int, "date": str, "backend": str, "versions": dict,
    "machine": str,
}  # fmt: skip
# Given too, but not by earlier versions.
COMMIT = "commit"
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy", "numba")
SOURCES = ("fs_neurons", "experiments", "params")  # what a result depends on
# What a row keeps of its own run, in a file whose rows come from several.
OF_A_ROW = ("command", "date", COMMIT, "versions")

# The command of the experiment that runs, where it isn't that of the process.
running: contextvars.ContextVar[str | None] = contextvars.ContextVar("running", default=None)


def command() -> str:
    """The command line that repeats what runs now."""
    program = sys.modules["__main__"].__spec__
    return running.get() or shlex.join(
        ["python", "-m", program.name if program else "?", *sys.argv[1:]]
    )


def provenance(data: str, images: int) -> dict[str, Any]:
    """How a result was made: command, data, number of images, date, commit, versions, backend, machine."""
    return {
        "command": command(),
        "data": data,
        "images": images,
        "date": datetime.date.today().isoformat(),
        COMMIT: commit(),
        "backend": keras.backend.backend(),
        "versions": versions(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
    }


def commit() -> str | None:
    """The git commit of the sources, "... with changes" if they differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *SOURCES)
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Of the packages that results depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
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


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON, atomically."""
    with write_atomically(path) as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def write_csv(path: str | os.PathLike[str], columns: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns of equal length as CSV, atomically."""
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def rows_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a result; none where there is no such file.

    Raises:
        ValueError: the file is not the result of an experiment.
    """
    return list(read_json(path)["rows"]) if path.exists() else []


def merge_rows(
    path: pathlib.Path,
    new: Sequence[Mapping[str, Any]],
    key: Callable[[Mapping[str, Any]], Any],
    content: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Puts rows into the result at `path`, in place of those with the same key; all others stay.

    Several processes may do so at once: none loses a row of another. Each row says by which command, when and
    by which commit and versions it was made; the file says so of the last run.

    Args:
        path: of the JSON file.
        new: rows to add.
        key: what tells a row from others, such as its network and K.
        content: everything but the rows, with what `provenance` gives.

    Returns:
        All rows that are in the file now.

    Raises:
        ValueError: the file is not the result of an experiment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = {name: content[name] for name in OF_A_ROW}
    with _locked(path.parent):
        keys = {key(row) for row in new}
        rows = [row for row in rows_of(path) if key(row) not in keys]
        rows += [{**row, **made_by} for row in new]
        write_json(path, {**content, "rows": rows})
    return rows


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """One at a time: waits for others, and leaves no file behind, not even after a kill."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
