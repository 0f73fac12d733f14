"""Figure 6A: accuracy of FS-converted ResNets against the number of time steps K.

    python -m experiments.figure6a                                   # ResNet50, as in the paper
    python -m experiments.figure6a --models=resnet8,resnet20,resnet50
    python -m experiments.figure6a --data=digits

The red cross is the K of Table 2, the lines are the accuracies of the networks themselves. Writes
figure6a.png, .csv and .json (digits: figure6a_digits.*) to --output_dir.
"""

from __future__ import annotations

from typing import Any

import keras
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from experiments.plotting import ANN, plt, save
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list(
    "models", None, "ReLU networks; ResNet50 (digits: ResNet8) when missing.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "largest_K", 14, "Last number of time steps.", lower_bound=2, flag_values=FLAGS
)
flags.DEFINE_float("alpha", paper.ALPHA, "Upper end of the range of FS-ReLU.", flag_values=FLAGS)

DEFAULT = {"cifar10": ["resnet50"], "digits": ["resnet8"]}


def main() -> None:
    fs.relu_parameters(paper.K, FLAGS.alpha)
    data = runner.load_test_set(FLAGS)
    names = FLAGS.models or DEFAULT[data.name]
    networks = {name: runner.pretrained(name, data.name) for name in names}
    rows = [row for name, model in networks.items() for row in measure(name, model, data)]

    title = f"{runner.title(data.name)}, {len(data):,} test images, alpha = {FLAGS.alpha:g}"
    header = ("network", "K", "ANN %", "SNN %", "spikes/neuron")
    shown = [
        [row[key] for key in ("network", "K", "ann", "snn", "spikes_per_neuron")] for row in rows
    ]
    print(f"{title}\n{tabulate(shown, header, floatfmt='.2f')}")
    complete = FLAGS.limit is None and set(names) >= set(DEFAULT[data.name])
    path = runner.path(FLAGS, "figure6a", data.name, complete)
    save(plot(rows, title), path.with_suffix(".png"))
    results.write_csv(path.with_suffix(".csv"), {key: [r[key] for r in rows] for key in rows[0]})
    made_by = runner.provenance(data)
    results.write_json(path.with_suffix(".json"), {**made_by, "alpha": FLAGS.alpha, "rows": rows})
    print(f"Written to {path}.png, .csv and .json")


def measure(name: str, model: keras.Model, data: datasets.Dataset) -> list[dict[str, Any]]:
    """Accuracy in per cent and spikes per neuron for K = 2, 3, ..."""
    how = {"batch_size": FLAGS.batch_size, "verbose": runner.showing()}
    ann = evaluate(model, data, **how)
    rows = []
    for K in range(2, FLAGS.largest_K + 1):
        snn = fs.convert(model, relu=fs.relu_parameters(K, FLAGS.alpha))
        both = runner.accuracy_and_spikes(ann, evaluate(snn, data, **how), snn)
        rows.append({"network": name, "K": K, **both})
    return rows


def plot(rows: list[dict[str, Any]], title: str) -> plt.Figure:
    """Accuracy against K, one curve per network."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    names = list(dict.fromkeys(row["network"] for row in rows))
    for name in names:
        of_network = [row for row in rows if row["network"] == name]
        (curve,) = axes.plot(
            [r["K"] for r in of_network], [r["snn"] for r in of_network], "o-", markersize=4,
            label=f"{runner.title(name)}, FS-neurons",
        )  # fmt: skip
        ann = of_network[0]["ann"]
        axes.axhline(ann, color=curve.get_color(), linestyle="--", linewidth=0.8,
                     label=f"{runner.title(name)}, ANN {ann:.2f} %")  # fmt: skip
    chosen = [row for row in rows if row["K"] == paper.K]
    axes.plot(
        [r["K"] for r in chosen], [r["snn"] for r in chosen], "x", color=ANN, markersize=9,
        markeredgewidth=2, linestyle="", label=f"K = {paper.K}, chosen in the paper", zorder=3,
    )  # fmt: skip
    axes.set(xlabel="time steps K", ylabel="test accuracy (%)", title=f"6A  {title}")
    axes.set_xticks(range(2, FLAGS.largest_K + 1))
    axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    runner.run(main, FLAGS)
