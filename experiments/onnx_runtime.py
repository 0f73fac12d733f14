"""Networks in ONNX Runtime, on one thread: as exported, converted, and with spikes as integers."""

from __future__ import annotations

import pathlib
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

import fs_neurons as fs
from experiments import timing

ORIGINAL, CONVERTED, INTEGERS = "original", "FS-neurons, folded", "FS-neurons, folded, integers"


def time_in_onnx_runtime(
    stock: keras.Model, images: np.ndarray, rounds: int, integers: bool
) -> dict[str, dict[str, Any]]:
    """Milliseconds per image of a network in all its versions.

    Args:
        stock: the network that is converted.
        images: one batch.
        rounds: timed calls of each.
        integers: whether the network has FS-ReLUs, which can be integers.
    """
    snn = fs.convert(stock, fold_batch_norm=True)
    networks = {ORIGINAL: (stock, False), CONVERTED: (snn, False)}
    if integers:
        networks[INTEGERS] = (snn, True)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            label: _session(model, pathlib.Path(folder) / "network.onnx", as_integers, images)
            for label, (model, as_integers) in networks.items()
        }
    for run in runs.values():
        run()
    against = dict.fromkeys(list(runs)[1:], ORIGINAL)
    return timing.compared(timing.in_turns(runs, rounds), 1e3 / len(images), against)


def _session(
    model: keras.Model, path: pathlib.Path, integers: bool, images: np.ndarray
) -> timing.Run:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sites that stay in float
        fs.export(model, path, integers=integers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})
