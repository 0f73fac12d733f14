"""What experiments.pareto measured, drawn: a headline, and what each ingredient of calibration is worth."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

import fs_neurons as fs
from experiments import runner
from experiments.plotting import ANN, PAPER, SNN, logarithmic, plt
from fs_neurons import models
from fs_neurons.network import graph

Row = Mapping[str, Any]

# Network by network in the headline; of each method the look and the label.
SERIES: dict[str, dict[str, Any]] = {
    "paper": {"color": "black", "marker": "s", "linestyle": "", "label": "paper's setting, K = 10"},
    "calibrated": {"color": SNN, "marker": "o", "label": "calibrated, K = 5, 4, 3"},
    "finetuned": {"color": "#2b8a3e", "marker": "D", "label": "fine-tuned, K = 4, 3, 2"},
    "rate": {"color": PAPER, "marker": ".", "label": "rate coding"},
    "published": {
        "color": "tab:orange", "marker": "*", "linestyle": "", "markersize": 7,
        "label": "published elsewhere, not measured here",
    },
}  # fmt: skip
# Points of accuracy below the network itself that the headline still shows.
FRAME = 12
TICKS = (0.5, 1, 2, 5, 10, 30, 100, 300)
INGREDIENTS = {
    "paper": "α = 25",
    "layer": "α per layer",
    "nearest": "+ rounding",
    "channel": "+ α per channel",
    "mean": "+ mean",
    "deviation": "+ deviation",
    "calibrated": "weights instead",
    "refined": "+ all together",
}


def drawings(rows: Sequence[Row], published: Sequence[Any], data: str) -> dict[str, plt.Figure]:
    """The pictures, by the stem of their file: "pareto", and "ablation" where there is something to draw.

    Args:
        rows: of pareto.json.
        published: results of others, with `network`, `steps` and `accuracy`.
        data: name of the data set.
    """
    names = [name for name in models.NETWORKS if any(row["network"] == name for row in rows)]
    plain = [name for name in names if "swish" not in name] or names
    figures = {"pareto": headline(rows, published, plain, data)}
    if any(row["method"] in INGREDIENTS and row["network"] in plain for row in rows):
        figures["ablation"] = ablation(rows, plain)
    return figures


@functools.cache
def windows(name: str, data: str) -> int:
    """Windows of K steps from image to output: one per site on the longest path, and one to begin with."""
    network = graph.trace_spiking(fs.convert(models.build(name, data), quality="paper"))
    ends = [value.index for value in keras.tree.flatten(network.outputs)]
    return int(graph.depth(network, lambda call: call.is_site)[ends].max()) + 1


def headline(
    rows: Sequence[Row], published: Sequence[Any], names: Sequence[str], data: str
) -> plt.Figure:
    """Accuracy against steps per image, steps to the output and spikes per neuron; a column per network."""
    quantities: dict[str, Callable[[Row], float]] = {
        "time steps per image,\nin a pipeline": lambda r: (
            r["K"] if r["method"] == "rate" else 2 * r["K"]
        ),
        "time steps from\nimage to output": lambda r: (
            r["K"] if r["method"] == "rate" else windows(r["network"], data) * r["K"]
        ),
        "spikes per neuron": lambda r: r["spikes_per_neuron"],
    }
    figure, axes = plt.subplots(
        3, len(names), figsize=(max(2.2 * len(names), 5), 7), sharex="row", sharey="col",
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, name in zip(axes.T, names, strict=True):
        here = [row for row in rows if row["network"] == name]
        ann = here[0]["ann"]
        for axis, (label, quantity) in zip(column, quantities.items(), strict=True):
            axis.axhline(
                ann, color=ANN, linestyle="--", linewidth=1, label="network without spikes"
            )
            for method, points in _series(here).items():
                points = sorted(points, key=quantity)
                axis.plot(
                    [quantity(row) for row in points], [row["snn"] for row in points],
                    **{"markersize": 5, "linewidth": 1.2, **SERIES[method]},
                )  # fmt: skip
            logarithmic(axis, TICKS)
            axis.set(xlabel=label, ylim=(ann - FRAME, ann + 1.5))
            axis.grid(axis="y", linewidth=0.3)
        for axis in column[:2]:
            marks = [mark for mark in published if mark.network == name]
            axis.plot(
                [mark.steps for mark in marks], [mark.accuracy for mark in marks], **SERIES["published"]
            )  # fmt: skip
        column[0].set_title(runner.title(name))
    for row_of_axes in axes:
        points = [
            x for axis in row_of_axes for line in axis.get_lines()[1:] for x in line.get_xdata()
        ]
        if points:  # ticks alone would make the axis wider
            row_of_axes[0].set_xlim(0.8 * min(points), 1.25 * max(points))
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy (%)")
    entries: dict[str, Any] = {}
    for axis in axes.ravel():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if len(handle.get_xdata()):
                entries.setdefault(label, handle)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of one network by series; of calibrated ones those that `convert` gives at each K."""
    refined = {row["K"] for row in rows if row["method"] == "refined" and row["K"] <= 4}
    series: dict[str, list[Row]] = {}
    for row in rows:
        method, K = row["method"], row["K"]
        if method == "refined" or (method == "calibrated" and K in refined):
            method = "calibrated" if method == "refined" and K in refined else ""
        if method == "paper" and max(r["K"] for r in rows if r["method"] == "paper") != K:
            method = ""
        if method in SERIES:
            series.setdefault(method, []).append(row)
    return {method: series[method] for method in SERIES if method in series}


def ablation(rows: Sequence[Row], names: Sequence[str]) -> plt.Figure:
    """Points of accuracy lost after each ingredient of calibration, a panel for each K, a line per network."""
    measured = {
        (row["network"], row["method"], row["K"]): row["ann"] - row["snn"]
        for row in rows if row["method"] in INGREDIENTS and row["network"] in names
    }  # fmt: skip
    steps = sorted({K for _, method, K in measured if method != "paper"}, reverse=True) or sorted(
        {K for _, _, K in measured}, reverse=True
    )
    steps = [K for K in steps if K <= 5] or steps
    figure, axes = plt.subplots(
        1, len(steps), figsize=(max(3 * len(steps), 4), 3.6), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    order = list(INGREDIENTS)
    for axis, K in zip(axes[0], steps, strict=True):
        for number, name in enumerate(names):
            points = [(order.index(m), loss) for (n, m, k), loss in measured.items()
                      if n == name and k == K]  # fmt: skip
            if points:
                axis.plot(
                    *zip(*sorted(points), strict=True), marker="os^D"[number % 4], markersize=4,
                    linewidth=1.2, label=runner.title(name),
                )  # fmt: skip
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_title(f"K = {K}")
        axis.set_xticks(
            range(len(order)), INGREDIENTS.values(), rotation=60, ha="right", fontsize=8
        )
        axis.axhline(0, color="#888888", linewidth=0.8)
        axis.grid(axis="y", linewidth=0.3)
    axes[0, 0].set_ylabel("points of accuracy lost")
    axes[0, -1].legend(fontsize=8)
    return figure
