"""The state of a run on disk, from which it continues as if it had never stopped.

run = fingerprint(model, recipe, seed=0, data="digits, 1198 examples", teacher=None)
save("run.npz", run, arrays, history)       # atomic: a kill at any moment leaves the file before
arrays, history = load("run.npz", run)      # CheckpointError unless it is the same run
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from fs_neurons.files import write_atomically
from fs_neurons.training.recipe import Recipe

FORMAT = 2
# Where the configuration of a model has the names of its layers.
NAMED_IN = ("name", "keras_history", "input_layers", "output_layers")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from: truncated, or made by a different run."""


def digest(arrays: Iterable[np.ndarray], text: str = "") -> str:
    """Twelve hexadecimal digits that tell arrays, and a text, from others."""
    total = hashlib.sha256(text.encode())
    for array in arrays:
        total.update(f"{array.dtype} {array.shape};".encode())
        total.update(np.ascontiguousarray(array).view(np.uint8).data)
    return total.hexdigest()[:12]


def fingerprint(
    model: keras.Model, recipe: Recipe, *, seed: int, data: str, teacher: keras.Model | None
) -> dict[str, Any]:
    """What must agree for a checkpoint to be continued, by name.

    Of the model that is its architecture (the checkpoint holds its weights), of the teacher its
    weights too.
    """
    return {
        "format": FORMAT,
        "backend": keras.backend.backend(),
        "model": _described(model, ()),
        "teacher": None if teacher is None else _described(teacher, teacher.get_weights()),
        "data": data,
        "seed": seed,
        **{f"recipe.{name}": value for name, value in dataclasses.asdict(recipe).items()},
    }


def save(
    path: str | os.PathLike[str],
    run: dict[str, Any],
    arrays: dict[str, np.ndarray],
    history: list[dict[str, Any]],
) -> None:
    """Replaces `path` atomically by the state of a run.

    Args:
        path: of the checkpoint.
        run: its `fingerprint`.
        arrays: the state, by name; "meta" is taken.
        history: one row per finished epoch.
    """
    meta = np.array(json.dumps({"run": run, "history": history}))
    content: dict[str, Any] = {"meta": meta, **arrays}
    with write_atomically(path, "wb") as file:
        np.savez(file, **content)


def load(
    path: str | os.PathLike[str], run: dict[str, Any]
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Arrays and history that `save` wrote.

    Raises:
        CheckpointError: the file is truncated, no checkpoint, or that of another run; the message
            says what differs.
    """
    path = pathlib.Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        found, history = dict(meta["run"]), list(meta["history"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint of fs_neurons ({error}); nothing was"
            " overwritten: move it away to start anew"
        ) from error
    if found.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of fs_neurons (format {found.get('format')}, not"
            f" {FORMAT}); nothing was overwritten: move it away to start anew"
        )
    differences = [
        f"{key} is {run.get(key)!r} here and {found.get(key)!r} there"
        for key in sorted(run.keys() | found.keys())
        if found.get(key) != run.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"{path} belongs to another run: {'; '.join(differences)}. Nothing was overwritten:"
            " repeat the settings of that run, or choose another checkpoint file"
        )
    return arrays, history


def _described(model: keras.Model, arrays: Iterable[np.ndarray]) -> str:
    """The size of a model, and a digest of its architecture and of arrays."""
    # Not model.to_json(), which differs between a compiled model and one that is not.
    config = _without_names(keras.saving.serialize_keras_object(model.get_config()), {})
    shapes = [tuple(weight.shape) for weight in model.weights]
    return f"{model.count_params():,} weights, {digest(arrays, f'{shapes} {json.dumps(config)}')}"


def _without_names(config: Any, numbers: dict[str, int], key: str = "") -> Any:
    """Names of layers become numbers: Keras makes new ones whenever a model is built again."""
    if isinstance(config, dict):
        return {k: _without_names(value, numbers, k) for k, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_without_names(value, numbers, key) for value in config]
    if isinstance(config, str) and key in NAMED_IN:
        return numbers.setdefault(config, len(numbers))
    return config
