"""What the experiments that train share: their flags, the progress that they show, the history as CSV."""

from __future__ import annotations

import csv
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
from absl import flags, logging

from fs_neurons.files import write_atomically
from fs_neurons.training import CheckpointError


def define_resume_flag(values: flags.FlagValues) -> None:
    """--resume, for `check_checkpoint`."""
    flags.DEFINE_bool(
        "resume", False, "Continue from the checkpoint of a killed run.", flag_values=values
    )


def check_checkpoint(path: pathlib.Path, resume: bool) -> None:
    """Refuses to replace the checkpoint of a killed run.

    Raises:
        CheckpointError: there is one, and it is not to be resumed.
    """
    if path.exists() and not resume:
        raise CheckpointError(
            f"{path} holds an unfinished run: continue it with --resume, or move it away"
        )


def repeatable() -> None:
    """Operations of TensorFlow give the same in every run from here on."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def log_epoch(row: dict[str, Any]) -> None:
    """Logs a row of the history; an `on_epoch` for training."""
    parts = [f"epoch {row['epoch']}: loss {row['loss']:.4f}"]
    for name in ("train_accuracy", "test_accuracy"):
        if row[name] is not None:
            parts.append(f"{name.replace('_', ' ')} {row[name]:.2%}")
    logging.info("%s, %.0f s", ", ".join(parts), row["seconds"])


def progress_bar() -> Callable[[int, int], None] | None:
    """An `on_step` for training that draws a bar with the time left; None where nobody looks."""
    if not sys.stderr.isatty():
        return None
    bars: list[keras.utils.Progbar] = []

    def show(step: int, steps: int) -> None:
        if not bars:
            bars.append(keras.utils.Progbar(steps))
        bars[0].update(step)

    return show


def minutes(history: list[dict[str, Any]]) -> float:
    """How long the epochs of a history took, those before a kill too."""
    return round(sum(row["seconds"] for row in history) / 60, 1)


def save_weights(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a .weights.h5 file, atomically."""
    partial = path.with_name(f".{path.name.removesuffix('.weights.h5')}.partial.weights.h5")
    model.save_weights(partial)
    partial.replace(path)


def write_history(path: str | os.PathLike[str], history: list[dict[str, Any]]) -> None:
    """Writes the history as CSV, atomically."""
    with write_atomically(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
