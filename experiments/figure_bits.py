"""Figures 6C and 6D carried to whole networks: accuracy against the bits of weights and of parameters.

    python -m experiments.figure_bits                  # CIFAR-10, else digits
    python -m experiments.figure_bits --limit=2000

Networks in integers (`fs.quantize`), with inputs as spikes: on the left, weights of few bits, of the ReLU networks
with FS-ReLU as it is and calibrated to fewer steps; on the right, weights of 8 bits and, for Swish, sets whose T, h and
d are of few bits: those of 2^Q equally spaced values from -8 to 8, as in Figure 6C. Dotted lines are the original
networks. Writes figure_bits.json and .png (digits: figure_bits_digits) to --output_dir, row by row: a killed run goes on
where it stopped.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import chip, results, runner
from experiments.chip import Bits, Conversion
from experiments.plotting import PAPER, SNN, plt, save

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)

NETWORKS = {
    "cifar10": ("resnet8", "resnet20", "se_resnet20_swish"),
    "digits": ("resnet8", "se_resnet8_swish"),
}
WEIGHT_BITS, PARAMETER_BITS = (8, 6, 4), (10, 8, 6, 4)
K, STEPS = 10, 5
COLOURS = (PAPER, SNN, "tab:olive", "tab:green", "tab:purple")


def main() -> None:
    data = runner.load_test_set(FLAGS)
    path = runner.path(FLAGS, "figure_bits", data.name, FLAGS.limit is None).with_suffix(".json")
    training = runner.training_images(FLAGS, data.name, chip.CALIBRATION_IMAGES)
    rows: list[dict[str, Any]] = []
    for name in NETWORKS[data.name]:
        model = runner.pretrained(name, data.name)
        bits = [Bits(), *(Bits(n, chip.PARAMETER_BITS) for n in WEIGHT_BITS)]
        snns = [chip.converted(model, K, training)]
        if not chip.has_gates(model):
            snns.append(chip.calibrated(model, STEPS, training, path))
        rows += chip.measure(model, snns, bits, data, path, FLAGS.batch_size)
        for Q in PARAMETER_BITS if chip.has_gates(model) else ():
            sets = f"swish_k16_q{Q}"
            few = Conversion(sets, 16, fs.convert(model, swish=sets, **chip.CODED), training)
            rows += chip.measure(model, [few], [Bits(8, Q)], data, path, FLAGS.batch_size)
    content = {**runner.provenance(data), "rows": rows}
    results.write_json(path, content)
    header = (
        "network",
        "sets",
        "K",
        "bits of weights",
        "of parameters",
        "ANN %",
        "SNN %",
        "spikes/neuron",
    )
    cells = [
        (
            row["network"], row["sets"], row["K"], row["weight_bits"] or "float", row["parameter_bits"] or "float",
            f"{row['ann']:.2f}", f"{row['snn']:.2f}", f"{row['spikes_per_neuron']:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    print(f"{data.name}, {len(data):,} test images, inputs of {chip.INPUT_BITS} bits")
    print(tabulate(cells, header, disable_numparse=True))
    _draw(rows, path.with_suffix(".png"))
    print(f"Written to {path} and .png")


def _draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    quantised = [row for row in rows if row["weight_bits"]]
    few = [row for row in quantised if row["sets"].startswith(f"{chip.SWISH}_q")]
    curves = dict.fromkeys((row["network"], row["K"]) for row in quantised)
    for colour, (name, steps) in zip(COLOURS, curves, strict=False):
        style = {"ms": 4, "color": colour, "label": f"{runner.title(name)}, K = {steps}"}
        for axes, bits, some in ((left, "weight_bits", quantised), (right, "parameter_bits", few)):
            mine = [row for row in some if (row["network"], row["K"]) == (name, steps)]
            if some is quantised:
                mine = [row for row in mine if row not in few]
            if mine:
                axes.plot([r[bits] for r in mine], [r["snn"] for r in mine], "o-", **style)
                axes.axhline(mine[0]["ann"], linestyle=":", linewidth=1, color=colour)
    left.set(xlabel="bits of weights", ylabel="accuracy in per cent", xticks=WEIGHT_BITS)
    right.set(xlabel="bits of T, h and d; weights of 8", xticks=PARAMETER_BITS)
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    runner.run(main, FLAGS)
