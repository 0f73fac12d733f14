"""Recurrent networks of FS-neurons: accuracy and spikes of every gate neuron and step against K.

    python -m experiments.recurrent                                  # spoken digits and questions, else rows of digits
    python -m experiments.recurrent --networks=digits_rows_lstm

Every gate gets a fitted set of K steps, sigmoid and tanh alike, or at K = 12 the sparse ones; or each of its units the
set that suits it best, calibrated on some of the training sequences. Writes recurrent.png and recurrent.json to
--output_dir, the rows of a network once it is measured: a run that was killed goes on there, if nothing was changed.
"""

from __future__ import annotations

import pathlib
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import ops
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from experiments.plotting import plt, save
from fs_neurons.data import sequences
from fs_neurons.data.datasets import DatasetUnavailable
from fs_neurons.data.sequences import SequenceDataset
from fs_neurons.layers import record_spikes
from fs_neurons.models import sequences as networks

FLAGS = flags.FlagValues()
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_list(
    "networks", [], "Networks; all whose data and weights are there when empty.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_size", 250, "Sequences per forward pass.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "limit", None, "Use only the first so many test sequences.", lower_bound=1, flag_values=FLAGS
)
runner.define_output_flag(FLAGS)

# Sets of every gate: number of steps, and how they are marked.
STEPS = (4, 6, 8, 10, 12, 16)
SPARSE, CALIBRATED = "sparse", "calibrated"
SETS = [(K, "") for K in STEPS] + [(12, SPARSE)] + [(K, CALIBRATED) for K in STEPS]
CALIBRATION_SEQUENCES = 1000  # drawn from those for training
SHOWN = (12, "")  # in the figure of lengths
BINS = 5  # of lengths, with the same number of sequences each


def main() -> None:
    complete = FLAGS.limit is None and not FLAGS.networks
    path = runner.path(FLAGS, "recurrent", complete=complete).with_suffix(".json")
    before = _measured_before(path) if complete else {}
    rows, lengths, data_names = [], [], []
    for name in FLAGS.networks or networks.shipped():
        try:
            data = sequences.load(networks.NETWORKS[name].data, "test", FLAGS.data_dir)
        except DatasetUnavailable as error:
            if FLAGS.networks:
                raise
            print(f"{name} left out: {error}")
            continue
        data = data.take(FLAGS.limit)
        data_names.append(f"{data.name} ({len(data)})")
        of_network, of_lengths = before.get(name) or measure(name, data)
        rows += of_network
        lengths += of_lengths
        made_by = results.provenance(
            f"test sequences of {', '.join(dict.fromkeys(data_names))}",
            sum(r["sequences"] for r in lengths),
        )
        results.write_json(path, {**made_by, "rows": rows, "lengths": lengths})
    if not rows:
        raise DatasetUnavailable("no data set of any network is there; give --data_dir")
    print_tables(rows, lengths)
    save(plot(rows, lengths), path.with_suffix(".png"))
    print(f"Written to {path} and .png")


def _measured_before(path: pathlib.Path) -> dict[str, tuple[list[Any], list[Any]]]:
    """Rows by network of a run of the same sources, whether it came to its end or not."""
    content = results.read_json(path) if path.exists() else {}
    commit = results.commit()
    if commit is None or "changes" in commit or content.get(results.COMMIT) != commit:
        return {}
    return {
        name: tuple(
            [row for row in content[key] if row["network"] == name] for key in ("rows", "lengths")
        )  # type: ignore[misc]
        for name in {row["network"] for row in content["rows"]}
    }


def print_tables(rows: list[dict[str, Any]], lengths: list[dict[str, Any]]) -> None:
    """Accuracy and spikes of each set, and errors by length."""
    header = (
        "network",
        "K",
        "sets",
        "ANN %",
        "SNN %",
        "difference",
        "same class %",
        "spikes/neuron/step",
    )
    cells = [
        (
            row["network"], row["K"], row["sets"] or "fitted", f"{row['ann']:.2f}", f"{row['snn']:.2f}",
            f"{row['snn'] - row['ann']:+.2f}", f"{row['agreement']:.2f}", f"{row['spikes_per_step']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    print(
        tabulate(
            cells, header, disable_numparse=True, colalign=("left", "right", "left", *["right"] * 5)
        )
    )
    header = ("network", "steps of a sequence", "sequences", "error of the outputs", "same class %")
    cells = [
        (
            row["network"], f"{row['shortest']}..{row['longest']}", row["sequences"],
            f"{row['error']:.3f}", f"{row['agreement']:.2f}",
        )
        for row in lengths
    ]  # fmt: skip
    print(f"\nK = {SHOWN[0]} by length; errors relative to the standard deviation of the outputs")
    print(tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 4)))


def measure(name: str, data: SequenceDataset) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each set, and for each range of lengths."""
    model = networks.pretrained(name)
    training = calibration_sequences(name)
    expected = model.predict(data.sequences, FLAGS.batch_size, verbose=0)
    rows, lengths = [], []
    for K, marked in SETS:
        if marked == CALIBRATED:
            snn = fs.convert(model, calibration_data=training, steps=K)
        else:
            suffix = f"_{marked}" if marked else ""
            snn = fs.convert(model, sigmoid=f"sigmoid_k{K}{suffix}", tanh=f"tanh_k{K}{suffix}")
        scores, spikes = run(snn, data)
        neurons = fs.conversion_report(snn).neurons
        assert neurons is not None  # the lengths of sequences are known
        rows.append(
            {
                "network": name, "K": K, "sets": marked, "neurons": neurons,
                "ann": accuracy(expected, data), "snn": accuracy(scores, data),
                "agreement": agreement(expected, scores),
                "spikes_per_step": spikes / (neurons * int(data.lengths.sum())),
                "spikes_per_sequence": spikes / len(data),
            }
        )  # fmt: skip
        if (K, marked) == SHOWN:
            lengths = by_length(name, data, expected, scores)
    return rows, lengths


def calibration_sequences(name: str) -> np.ndarray:
    """Some of the sequences that a network was trained on, the same ones each time."""
    data = sequences.load(networks.NETWORKS[name].data, "train", FLAGS.data_dir)
    order = np.random.default_rng(0).permutation(len(data))
    return data.sequences[np.sort(order[:CALIBRATION_SEQUENCES])]


def run(model: keras.Model, data: SequenceDataset) -> tuple[np.ndarray, int]:
    """Scores (sequences, classes) and spikes over all sequences, masked steps left out."""
    scores, total = [], 0
    for start in range(0, len(data), FLAGS.batch_size):
        batch = data.sequences[start : start + FLAGS.batch_size]
        with record_spikes() as records:
            scores.append(ops.convert_to_numpy(model(batch, training=False)))
        total += sum(int(ops.convert_to_numpy(ops.sum(record.spikes))) for record in records)
    return np.concatenate(scores), total


def accuracy(scores: np.ndarray, data: SequenceDataset) -> float:
    return runner.percent(float((scores.argmax(axis=1) == data.labels).mean()))


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return runner.percent(float((a.argmax(axis=1) == b.argmax(axis=1)).mean()))


def by_length(
    name: str, data: SequenceDataset, expected: np.ndarray, scores: np.ndarray
) -> list[dict[str, Any]]:
    """Errors of the outputs for the shortest sequences to the longest."""
    inner = np.unique(np.quantile(data.lengths, np.linspace(0, 1, BINS + 1)[1:-1]))
    places = np.searchsorted(inner, data.lengths)  # up to and including each of them
    rows = []
    for place in np.unique(places):
        chosen = places == place
        error = np.sqrt(np.mean((scores[chosen] - expected[chosen]) ** 2)) / expected.std()
        rows.append(
            {
                "network": name, "shortest": int(data.lengths[chosen].min()),
                "longest": int(data.lengths[chosen].max()), "sequences": int(chosen.sum()),
                "mean_length": float(data.lengths[chosen].mean()), "error": float(error),
                "agreement": agreement(expected[chosen], scores[chosen]),
            }
        )  # fmt: skip
    return rows


def of_sets(rows: list[dict[str, Any]], network: str, marked: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["network"] == network and row["sets"] == marked]


def plot(rows: list[dict[str, Any]], lengths: list[dict[str, Any]]) -> plt.Figure:
    """Accuracy against K, and errors against the length of the sequence."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    for name in dict.fromkeys(row["network"] for row in rows):
        fitted = of_sets(rows, name, "")
        (curve,) = left.plot(
            [row["K"] for row in fitted], [row["snn"] for row in fitted], "o-", markersize=4
        )
        color = curve.get_color()
        calibrated = of_sets(rows, name, CALIBRATED)
        left.plot(
            [row["K"] for row in calibrated], [row["snn"] for row in calibrated], "^:", color=color,
            markersize=4, linewidth=0.8,
        )  # fmt: skip
        left.axhline(fitted[0]["ann"], color=color, linestyle="--", linewidth=0.8)
        sparse = of_sets(rows, name, SPARSE)
        left.plot(
            [row["K"] for row in sparse],
            [row["snn"] for row in sparse],
            "x",
            color=color,
            markersize=8,
        )
        of_network = [row for row in lengths if row["network"] == name]
        right.plot(
            [row["mean_length"] for row in of_network], [row["error"] for row in of_network], "o-",
            color=color, markersize=4, label=runner.title(name),
        )  # fmt: skip
    left.set(
        xlabel="time steps K",
        ylabel="test accuracy (%)",
    )
    left.set_title("dashed: original; triangles: calibrated; crosses: sparse", fontsize=8)
    right.set(
        xlabel="steps of the sequence", ylabel="error / deviation of the outputs",
        title=f"K = {SHOWN[0]}",
    )  # fmt: skip
    right.set_ylim(bottom=0)
    right.legend(fontsize=7)  # of both
    return figure


if __name__ == "__main__":
    runner.run(main, FLAGS)
