"""Figures 2, 3 and 4: an activation function, its emulation by FS-neurons, and T, h, d over time."""

from __future__ import annotations

import pathlib

import numpy as np
from keras import ops
from tabulate import tabulate

import fs_neurons as fs
from experiments.plotting import ANN, SNN, plt, save
from experiments.results import write_csv
from fs_neurons import neuron

GRID_POINTS = 20_001


def run(
    path: pathlib.Path,
    function,
    label: str,
    span: tuple[float, float],
    sets: dict[str, fs.FSParameters],
) -> None:
    """Draws the figure and prints what `draw` measured; takes the same arguments."""
    measured = draw(path, function, label, span, sets)
    header = ("set", "mean squared error", "mean spikes over the span")
    print(tabulate(measured, header, floatfmt=".3g"))
    print(f"Written to {path}.png, {path}.csv and {path}_parameters.csv")


def draw(
    path: pathlib.Path,
    function,
    label: str,
    span: tuple[float, float],
    sets: dict[str, fs.FSParameters],
) -> list[tuple[str, float, float]]:
    """Draws panels A (function red, emulation blue) and B (T, h, d) for each set, with CSV beside.

    Args:
        path: of the picture, without ending; PNG and two CSV files (response, parameters) are written.
        function: takes and gives a float tensor.
        label: name of the function in the legend.
        span: range of gate inputs.
        sets: title -> parameters, one row of panels each.

    Returns:
        Title, mean squared error over the span and mean spikes over the span, per set.
    """
    x = np.linspace(*span, GRID_POINTS).astype(np.float32)
    target = ops.convert_to_numpy(function(ops.convert_to_tensor(x)))
    columns = {"gate_input": x, label: target}
    figure, axes = plt.subplots(len(sets), 2, figsize=(9, 3.1 * len(sets)), squeeze=False)
    measured = []
    for (title, parameters), (left, right) in zip(sets.items(), axes, strict=True):
        y = ops.convert_to_numpy(neuron.response(x, parameters))
        spikes = ops.convert_to_numpy(neuron.spike_count(x, parameters))
        columns[f"{parameters.name}_response"], columns[f"{parameters.name}_spikes"] = y, spikes
        error = float(((y - target).astype(np.float64) ** 2).mean())
        measured.append((title, error, float(spikes.mean())))
        left.plot(x, target, color=ANN, label=label)
        left.plot(x, y, color=SNN, linewidth=1, label=f"FS-neuron, K = {parameters.K}")
        left.set(xlabel="gate input x", ylabel="output", title=f"A  {title}, mse {error:.2e}")
        left.legend()
        steps = np.arange(1, parameters.K + 1)
        for key, marker in (("T", "o"), ("h", "s"), ("d", "^")):
            right.plot(
                steps,
                getattr(parameters, key),
                marker=marker,
                markersize=4,
                linewidth=1,
                label=f"{key}(t)",
            )
        right.set(
            xlabel="time step t", title="B  parameters", xticks=steps[:: 1 + parameters.K // 17]
        )
        right.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
        right.legend()
    figure.tight_layout()
    save(figure, path.with_suffix(".png"))
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
    return measured
