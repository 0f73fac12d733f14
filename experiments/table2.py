"""Table 2: accuracy and spikes of FS-converted networks, beside the paper's figures.

    python -m experiments.table2                         # CIFAR-10 where it is, else digits
    python -m experiments.table2 --data=cifar10 --models=resnet20 --K=6 --alpha=10
    python -m experiments.table2 --data=digits
    python -m experiments.table2 --strategy=multi_worker   # on every worker, with its TF_CONFIG

Writes table2.json and table2.png (digits: table2_digits.*) to --output_dir.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from experiments.plotting import ANN, SNN, plt, save
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.backend.distribution import ONE, Distribution, WorkerLostError
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
runner.define_strategy_flag(FLAGS)
runner.define_relu_flags(FLAGS)
flags.DEFINE_list(
    "models", None, "Networks, of those in the table; all of them when missing.",
    flag_values=FLAGS,
)  # fmt: skip

NETWORKS = {
    "cifar10": ("resnet50", "resnet20", "resnet14", "resnet8", "se_resnet20_swish"),
    "digits": ("resnet8", "se_resnet8_swish"),
}


def main() -> None:
    distribution = runner.start(FLAGS.strategy)
    relu = fs.relu_parameters(FLAGS.K, FLAGS.alpha)
    data = runner.load_test_set(FLAGS)
    names = _networks(data.name)
    rows, missing = [], []
    try:
        run = f"{', '.join(names)} on {data.name}, {len(data)} images, {relu.name}"
        distribution.check_same("what they measure", run)
        for name in names:
            try:
                with distribution.scope():
                    model = runner.pretrained(name, data.name)
            except FileNotFoundError as error:
                missing.append(str(error))
                continue
            rows += measure(name, model, data, relu, distribution)
    except WorkerLostError as error:
        raise WorkerLostError(f"{error}; nothing was written: start all workers again") from error
    if not distribution.is_chief:
        return

    for line in missing:
        print(line)
    if not rows:
        raise FileNotFoundError("no network has weights")
    print(as_table(rows, data, relu))
    complete = FLAGS.limit is None and {row["network"] for row in rows} >= set(NETWORKS[data.name])
    path = runner.path(FLAGS, "table2", data.name, complete)
    made_by = runner.provenance(data)
    results.write_json(
        path.with_suffix(".json"), {**made_by, "K": FLAGS.K, "alpha": FLAGS.alpha, "rows": rows}
    )
    save(plot(rows, data.name), path.with_suffix(".png"))
    print(f"Written to {path}.json and .png")


def measure(
    name: str,
    model: keras.Model,
    data: datasets.Dataset,
    relu: fs.FSParameters,
    distribution: Distribution = ONE,
) -> list[dict[str, Any]]:
    """The network and its FS-conversions over all images of `data`, one row each."""
    how: dict[str, Any] = {
        "batch_size": FLAGS.batch_size,
        "verbose": distribution.is_chief and runner.showing(),
        "distribution": distribution,
    }
    ann = evaluate(model, data, **how)
    published = paper.TABLE2.get(name) if data.name == "cifar10" else None
    rows = []
    for converted, arguments in _conversions(model, relu).items():
        with distribution.scope():
            snn = fs.convert(model, quality="paper", **arguments)
        result = evaluate(snn, data, **how)
        rows.append(
            {
                "network": name,
                "converted": converted,
                **runner.accuracy_and_spikes(ann, result, snn),
                "ann_images_per_second": round(len(data) / ann.seconds, 1),
                "snn_images_per_second": round(len(data) / result.seconds, 1),
                "time_ratio": round(result.seconds / ann.seconds, 3),
                "paper": dataclasses.asdict(published) if published else None,
            }
        )
    return rows


def _conversions(model: keras.Model, relu: fs.FSParameters) -> dict[str, dict[str, Any]]:
    """Which activations are replaced -> arguments of `fs.convert`."""
    if "relu" in {site.activation for site in fs.find_sites(model)}:
        return {"ReLU": {"relu": relu}}
    # The released program of the paper leaves the squeeze-excite sigmoids as they are.
    return {"Swish": {"keep": ("sigmoid",)}, "Swish, sigmoid": {}}


def as_table(rows: list[dict[str, Any]], data: datasets.Dataset, relu: fs.FSParameters) -> str:
    """The table as text; with the paper's figures where they were measured on the same data."""
    with_paper = data.name == "cifar10"
    header = ["network", "converted", "ANN %", "SNN %", "difference", "neurons", "spikes/image", "spikes/neuron",
              "ANN images/s", "SNN images/s", "time SNN/ANN"]  # fmt: skip
    if with_paper:
        header += ["paper: ANN %", "SNN %", "neurons", "spikes"]
    lines = []
    for row in rows:
        line = [
            row["network"], row["converted"],
            f"{row['ann']:.2f}", f"{row['snn']:.2f}", f"{row['snn'] - row['ann']:+.2f}",
            f"{row['neurons']:,}", f"{row['spikes_per_image']:,.0f}", f"{row['spikes_per_neuron']:.2f}",
            f"{row['ann_images_per_second']:,.0f}", f"{row['snn_images_per_second']:,.0f}",
            f"{row['time_ratio']:.2f}",
        ]  # fmt: skip
        if with_paper:
            line += _paper_cells(row["paper"])
        lines.append(line)
    title = (
        f"{data.name}, {len(data):,} test images; FS-ReLU with K={relu.K}, alpha={relu.alpha:g};"
        " FS-Swish K=16 and FS-sigmoid K=12 as published"
    )
    align = ["left"] * 2 + ["right"] * (len(header) - 2)
    return f"{title}\n{tabulate(lines, header, colalign=align, disable_numparse=True)}"


def _paper_cells(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["-"] * 4
    return [f"{row['ann']:.2f}", f"{row['snn']:.2f}", f"{row['neurons']:,}", f"{row['spikes']:,}"]


def plot(rows: list[dict[str, Any]], data: str) -> plt.Figure:
    """Accuracy of network and FS-conversion, and spikes per neuron."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 1.4 + 0.45 * len(rows)), sharey=True, layout="constrained"
    )
    at = range(len(rows))[::-1]
    # Points, not bars: the axis of accuracies does not begin at zero.
    left.plot([r["ann"] for r in rows], at, "o", color=ANN, markersize=8, label="ANN")
    left.plot([r["snn"] for r in rows], at, "o", color=SNN, markersize=5, label="FS-neurons")
    right.barh(list(at), [r["spikes_per_neuron"] for r in rows], 0.5, color=SNN)
    for y, row in zip(at, rows, strict=True):
        left.annotate(f"{row['ann']:.2f} → {row['snn']:.2f}", (row["ann"], y), (0, 9),
                      textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
        right.text(
            row["spikes_per_neuron"] - 0.08, y, f"{row['spikes_per_neuron']:.2f}", va="center",
            ha="right", color="white", fontsize=8,
        )  # fmt: skip
    with_paper = [(y, r["paper"]) for y, r in zip(at, rows, strict=True) if r["paper"]]
    if with_paper:
        heights = [y for y, _ in with_paper]
        marks = {"marker": "|", "linestyle": "", "markersize": 14, "markeredgewidth": 2}
        for key, color, label in (
            ("ann", "#e8a0a3", "ANN in the paper"), ("snn", "#7fb0dc", "FS-neurons in the paper")
        ):  # fmt: skip
            left.plot([p[key] for _, p in with_paper], heights, **marks, color=color, label=label,
                      zorder=1)  # fmt: skip
        right.plot(
            [p["spikes"] / p["neurons"] for _, p in with_paper], heights, **marks, color="#7fb0dc"
        )
    shown = [
        value
        for r in rows
        for value in (
            r["ann"],
            r["snn"],
            *([r["paper"]["ann"], r["paper"]["snn"]] if r["paper"] else []),
        )
    ]
    left.set(yticks=list(at), yticklabels=[_label(r) for r in rows], ylim=(-0.6, len(rows) - 0.3))
    left.set(
        xlim=(min(shown) - 1, min(max(shown) + 1, 100)),
        xlabel="test accuracy (%)",
        title=f"Accuracy, {runner.title(data)}",
    )
    left.grid(axis="x", linewidth=0.3)
    right.set(xlabel="spikes per neuron and image", title="Spikes")
    right.set_xlim(0, 1.2 * max(r["spikes_per_neuron"] for r in rows))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def _label(row: dict[str, Any]) -> str:
    name = runner.title(row["network"]).removesuffix(", Swish")
    return name if row["converted"] == "ReLU" else f"{name}\n{row['converted']}"


def _networks(data: str) -> tuple[str, ...]:
    chosen = tuple(FLAGS.models or NETWORKS[data])
    unknown = [name for name in chosen if name not in NETWORKS[data]]
    if unknown:
        raise ValueError(
            f"--models={','.join(unknown)}: not in the table of {data}; choose from"
            f" {', '.join(NETWORKS[data])}"
        )
    return chosen


if __name__ == "__main__":
    runner.run(main, FLAGS)
