"""A network on its way to a chip: inputs as spikes, integers of few bits, a file, and what it all costs.

    python -m experiments.chip                          # ResNet20 on CIFAR-10, else ResNet8 on digits
    python -m experiments.chip --networks=resnet8,resnet14,resnet20

Accuracy of the network with K steps and calibrated to fewer, in floating point and with weights of several bits; then
spikes, additions, energy and the size of the NIR file (with the package nir) of the first. Writes chip.json and chip.png,
accuracy against bits (digits: chip_digits), to --output_dir.
"""

from __future__ import annotations

import importlib.util
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from experiments.plotting import PAPER, SNN, plt, save
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list("networks", [], "Networks; ResNet20, or ResNet8 for digits.", flag_values=FLAGS)
flags.DEFINE_list(
    "weight_bits", ["8", "7", "6", "5", "4", "3"], "Bits of weights.", flag_values=FLAGS
)
flags.DEFINE_integer("K", 10, "Time steps without calibration.", flag_values=FLAGS)
flags.DEFINE_integer(
    "steps", 5, "Time steps of the calibrated network; 0 for none.", flag_values=FLAGS
)
flags.DEFINE_integer("profiled", 100, "Images of the profile.", lower_bound=1, flag_values=FLAGS)

INPUT_BITS, CALIBRATION_IMAGES = 8, 500
# Of standardised images.
INPUT_RANGE = (-3.0, 3.0)


def main() -> None:
    data = runner.load_test_set(FLAGS)
    networks = FLAGS.networks or ["resnet20" if data.name == "cifar10" else "resnet8"]
    training = runner.training_images(FLAGS, data.name, CALIBRATION_IMAGES)
    bits = [int(n) for n in FLAGS.weight_bits]
    rows, chips = [], []
    for name in networks:
        model = runner.pretrained(name, data.name)
        ann = evaluate(model, data, batch_size=FLAGS.batch_size)
        for K, snn in _converted(model, training):
            for weight_bits in (None, *bits):
                chip = snn if weight_bits is None else fs.quantize(snn, weight_bits)
                result = evaluate(chip, data, batch_size=FLAGS.batch_size)
                measured = runner.accuracy_and_spikes(ann, result, chip)
                rows.append({"network": name, "K": K, "weight_bits": weight_bits, **measured})
                chips.append(chip)
    print(f"{data.name}, {len(data):,} test images, inputs of {INPUT_BITS} bits")
    header = ("network", "K", "weights", "ANN %", "SNN %", "spikes/neuron")
    print(tabulate([_cells(row) for row in rows], header, disable_numparse=True))
    costs = _costs(chips[1], data)
    print(tabulate(costs.items(), disable_numparse=True))
    whole = FLAGS.limit is None and len(FLAGS.networks) == 0
    path = runner.path(FLAGS, "chip", data.name, whole)
    _draw(rows, path.with_suffix(".png"))
    made_by = runner.provenance(data)
    results.write_json(path.with_suffix(".json"), {**made_by, "rows": rows, "chip": costs})
    print(f"Written to {path}.json and .png")


def _draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Accuracy against the bits of weights; a line for each network in floating point."""
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for key in dict.fromkeys((row["network"], row["K"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["K"]) == key]
        curve = [(row["weight_bits"], row["snn"]) for row in mine if row["weight_bits"]]
        style = {"color": SNN if key[1] == FLAGS.K else PAPER, "markersize": 4}
        axes.plot(*zip(*curve, strict=True), "o-", label=f"{key[0]}, K = {key[1]}", **style)
        axes.axhline(mine[0]["snn"], linestyle=":", linewidth=1, color=style["color"])
    axes.set(xlabel="bits of weights", ylabel="accuracy in per cent", title="Weights as integers")
    axes.legend()
    save(figure, path)


def _converted(model: keras.Model, training: np.ndarray) -> list[tuple[int, keras.Model]]:
    """The network without calibration and with it; inputs in a range that few pixels leave."""
    coded = {"input_bits": INPUT_BITS, "input_range": INPUT_RANGE, "digital": "none"}
    relu = fs.relu_parameters(FLAGS.K, 25.0)
    snns = [(FLAGS.K, fs.convert(model, relu=relu, **coded))]
    if FLAGS.steps:
        snns.append(
            (FLAGS.steps, fs.convert(model, calibration_data=training, steps=FLAGS.steps, **coded))
        )
    return snns


def _costs(chip: keras.Model, data: datasets.Dataset) -> dict[str, Any]:
    images = np.asarray(datasets.standardise(data.images[: FLAGS.profiled]))
    profile = fs.profile(chip, images, multiplier=False)
    energies = {f"ANN / SNN, {e.model.name}": round(e.ratio, 3) for e in profile.energies}
    even = {
        f"spikes per neuron where both are even, {e.model.name}": round(e.even_at, 3)
        for e in profile.energies
    }
    return {
        "neurons": profile.neurons,
        "spikes per image": round(profile.spikes),
        "additions per image": round(profile.synaptic_operations),
        "digital multiplications": profile.digital_macs,
        "multiplications of the ANN": profile.macs,
        "steps from image to class": profile.latency,
        **energies,
        **even,
        "bytes of the NIR file": _file_size(chip),
    }


def _file_size(chip: keras.Model) -> int | None:
    """None where the package nir is missing."""
    if importlib.util.find_spec("nir") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "chip.nir"
        fs.export(chip, path, format="nir")
        return path.stat().st_size


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    bits = "float" if row["weight_bits"] is None else f"{row['weight_bits']} bits"
    return (
        row["network"], str(row["K"]), bits, f"{row['ann']:.2f}", f"{row['snn']:.2f}",
        f"{row['spikes_per_neuron']:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    runner.run(main, FLAGS)
