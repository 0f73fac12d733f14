"""Figures 2, 3 and 4: an activation function, its emulation by FS-neurons, and T, h, d over time."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops
from tabulate import tabulate

import fs_neurons as fs
from experiments.plotting import save
from experiments.results import provenance, write_csv, write_json
from fs_neurons import neuron
from fs_neurons.analysis.drawing import draw_response, grid, mean_squared_error
from fs_neurons.neuron.sets import load


def published_and_fitted(name: str) -> dict[str, fs.FSParameters]:
    """The paper's set and the shipped one of the same length, such as "swish_k16", for `run`."""
    return {"published": load(f"{name}_paper"), "fitted": load(name)}


def run(
    path: pathlib.Path,
    function: Callable[[Any], Any],
    label: str,
    span: tuple[float, float],
    sets: dict[str, fs.FSParameters],
    parts: dict[str, tuple[float, float]] | None = None,
    published: dict[str, dict[str, float]] | None = None,
) -> None:
    """Draws the figure, prints its errors, and writes PNG, JSON and two CSV files (response, parameters).

    Args:
        path: of the picture, without ending.
        function: takes and gives a float tensor.
        label: name of the function in the legend.
        span: range of gate inputs.
        sets: title -> parameters, one row of panels each.
        parts: title -> part of the span on which, and outside of which, errors are measured as well.
        published: title -> errors that the paper gives for that set, by the names used in the JSON.
    """
    save(draw_response(sets, function, span, label), path.with_suffix(".png"))
    x = grid(span)
    target = ops.convert_to_numpy(function(ops.convert_to_tensor(x)))
    columns = {"gate_input": x, label: target}
    rows = []
    for title, parameters in sets.items():
        y = ops.convert_to_numpy(neuron.response(x, parameters))
        spikes = ops.convert_to_numpy(neuron.spike_count(x, parameters))
        columns[f"{parameters.name}_response"], columns[f"{parameters.name}_spikes"] = y, spikes
        row = {"set": title, "K": parameters.K, "mse": mean_squared_error(y, target)}
        for name, (low, high) in (parts or {}).items():
            part = (x >= low) & (x <= high)
            row[f"mse_in_{name}"] = mean_squared_error(y[part], target[part])
            row[f"mse_outside_{name}"] = mean_squared_error(y[~part], target[~part])
        row["mean_spikes"] = float(spikes.mean())
        rows.append({**row, "paper": (published or {}).get(title)})
    made_by = provenance(f"{len(x):,} gate inputs from {span[0]:g} to {span[1]:g}", images=0)
    write_json(
        path.with_suffix(".json"),
        {**made_by, "function": label, "rows": rows},
    )
    write_csv(path.with_suffix(".csv"), columns)
    write_csv(
        path.with_name(f"{path.name}_parameters.csv"),
        {
            key: np.concatenate([np.broadcast_to(value(p), p.K) for p in sets.values()])
            for key, value in (
                ("set", lambda p: p.name), ("t", lambda p: np.arange(1, p.K + 1)),
                ("T", lambda p: p.T), ("h", lambda p: p.h), ("d", lambda p: p.d),
            )
        },
    )  # fmt: skip
    shown = [{key: value for key, value in row.items() if key != "paper"} for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".3g"))
    print(f"Written to {path}.png, .json, .csv and {path}_parameters.csv")
