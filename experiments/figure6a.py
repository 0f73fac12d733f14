"""Figure 6A: accuracy of FS-converted ResNets against the number of time steps K.

    python -m experiments.figure6a                                   # ResNet50, as in the paper
    python -m experiments.figure6a --models=resnet8,resnet20,resnet50
    python -m experiments.figure6a --data=digits

The red cross is the K of Table 2, the lines are the accuracies of the networks themselves. Writes
figure6a.png, .csv and .json (digits: figure6a_digits.*) to --output_dir.
"""

from __future__ import annotations

import pathlib
import sys

import keras
from absl import app, flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results
from experiments.data import load_test_set
from experiments.plotting import ANN, plt, save
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

FLAGS = flags.FLAGS
flags.DEFINE_list("models", None, "ReLU networks; ResNet50 (digits: ResNet8) when missing.")
flags.DEFINE_integer("largest_K", 14, "Last number of time steps.", lower_bound=2)
flags.DEFINE_float("alpha", 25.0, "Upper end of the range of FS-ReLU.")

CHOSEN_K = 10  # of Table 2
DEFAULT = {"cifar10": ["resnet50"], "digits": ["resnet8"]}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        fs.relu_parameters(CHOSEN_K, FLAGS.alpha)
        data = load_test_set()
        networks = {
            name: models.pretrained(name, data.name) for name in FLAGS.models or DEFAULT[data.name]
        }
    except (ValueError, datasets.DatasetUnavailable, FileNotFoundError) as error:
        sys.exit(f"figure6a: {error}")
    rows = [row for name, model in networks.items() for row in measure(name, model, data)]

    title = f"{data.name}, {len(data):,} test images, alpha = {FLAGS.alpha:g}"
    header = ("network", "K", "ANN %", "SNN %", "spikes/neuron")
    print(f"{title}\n{tabulate([list(row.values()) for row in rows], header, floatfmt='.2f')}")
    stem = "figure6a" if data.name == "cifar10" else f"figure6a_{data.name}"
    path = pathlib.Path(FLAGS.output_dir) / stem
    save(plot(rows, title), path.with_suffix(".png"))
    results.write_csv(path.with_suffix(".csv"), {key: [r[key] for r in rows] for key in rows[0]})
    made_by = results.provenance(f"{data.name} test set", len(data))
    results.write_json(path.with_suffix(".json"), {**made_by, "alpha": FLAGS.alpha, "rows": rows})
    print(f"Written to {path}.png, .csv and .json")


def measure(name: str, model: keras.Model, data: datasets.Dataset) -> list[dict]:
    """Accuracy in per cent and spikes per neuron for K = 2, 3, ..."""
    ann = evaluate(model, data, batch_size=FLAGS.batch_size, verbose=sys.stderr.isatty())
    rows = []
    for K in range(2, FLAGS.largest_K + 1):
        snn = fs.convert(model, relu=fs.relu_parameters(K, FLAGS.alpha))
        result = evaluate(snn, data, batch_size=FLAGS.batch_size, verbose=sys.stderr.isatty())
        neurons = fs.conversion_report(snn).neurons
        rows.append(
            {
                "network": name,
                "K": K,
                "ann": round(100 * ann.accuracy, 4),
                "snn": round(100 * result.accuracy, 4),
                "spikes_per_neuron": result.spikes_per_image / neurons,
            }
        )
    return rows


def plot(rows: list[dict], title: str) -> plt.Figure:
    """Accuracy against K, one curve per network."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    names = list(dict.fromkeys(row["network"] for row in rows))
    for name in names:
        of_network = [row for row in rows if row["network"] == name]
        (curve,) = axes.plot(
            [r["K"] for r in of_network], [r["snn"] for r in of_network], "o-", markersize=4,
            label=f"{name}, FS-neurons",
        )  # fmt: skip
        ann = of_network[0]["ann"]
        axes.axhline(ann, color=curve.get_color(), linestyle="--", linewidth=0.8,
                     label=f"{name}, ANN {ann:.2f} %")  # fmt: skip
    chosen = [row for row in rows if row["K"] == CHOSEN_K]
    axes.plot(
        [r["K"] for r in chosen], [r["snn"] for r in chosen], "x", color=ANN, markersize=9,
        markeredgewidth=2, linestyle="", label=f"K = {CHOSEN_K}, chosen", zorder=3,
    )  # fmt: skip
    axes.set(xlabel="time steps K", ylabel="test accuracy (%)", title=f"6A  {title}")
    axes.set_xticks(range(2, FLAGS.largest_K + 1))
    axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    app.run(main)
