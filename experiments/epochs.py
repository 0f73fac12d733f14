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

FLAGS = flags.FLAGS
flags.DEFINE_bool("resume", False, "Continue from the checkpoint of a killed run.")


def check_checkpoint(path: pathlib.Path) -> None:
    """Refuses to replace the checkpoint of a killed run.

    Raises:
        CheckpointError: there is one, and no --resume.
    """
    if path.exists() and not FLAGS.resume:
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


def write_history(path: str | os.PathLike[str], history: list[dict[str, Any]]) -> None:
    """Writes the history as CSV, atomically."""
    with write_atomically(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
