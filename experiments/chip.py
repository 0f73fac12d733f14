"""Networks on their way to a chip: inputs as spikes, integers of few bits, a file, and what it all costs.

    python -m experiments.chip                          # all that are shipped, on CIFAR-10, else digits
    python -m experiments.chip --networks=resnet8,resnet20

Accuracy of each network in floating point and with weights and parameters of few bits, with the sets that conversion
takes by itself and calibrated to fewer steps (ReLU); then spikes, additions, energy and the size of the NIR file
(with the package nir) of each. Writes chip.json (digits: chip_digits.json) to --output_dir, row by row: a
killed run goes on where it stopped, and rows of networks that are not asked for stay.
"""

from __future__ import annotations

import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from fs_neurons import models
from fs_neurons.analysis.evaluation import Evaluation, evaluate
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list("networks", [], "Networks; all that are shipped when empty.", flag_values=FLAGS)
flags.DEFINE_list("weight_bits", ["8"], "Bits of weights.", flag_values=FLAGS)
flags.DEFINE_integer("K", 10, "Time steps of FS-ReLU without calibration.", flag_values=FLAGS)
flags.DEFINE_integer(
    "steps", 5, "Time steps of calibrated ReLU networks; 0 for none.", flag_values=FLAGS
)
flags.DEFINE_integer("profiled", 100, "Images of the profile.", lower_bound=1, flag_values=FLAGS)

INPUT_BITS, CALIBRATION_IMAGES = 8, 500
PARAMETER_BITS = 8
# The sets that conversion takes by itself reach further than d of 8 bits is fine.
SWISH, SWISH_STEPS = "swish_k16", 16
# The range is one of standardised images: few pixels leave it.
CODED: dict[str, Any] = {
    "input_bits": INPUT_BITS, "input_range": (-3.0, 3.0), "digital": "none",
}  # fmt: skip


class Conversion(NamedTuple):
    """A converted network; its integers are fitted to `data`, training images without labels, if there are any."""

    sets: str
    K: int
    snn: keras.Model
    data: np.ndarray | None = None


class Bits(NamedTuple):
    """Of weights and of parameters; None is floating point."""

    weights: int | None = None
    parameters: int | None = None


def main() -> None:
    data = runner.load_test_set(FLAGS)
    networks = FLAGS.networks or models.shipped(data.name)
    path = runner.path(FLAGS, "chip", data.name, FLAGS.limit is None).with_suffix(".json")
    bits = [Bits(), *(Bits(int(n), PARAMETER_BITS) for n in FLAGS.weight_bits)]
    training = runner.training_images(FLAGS, data.name, CALIBRATION_IMAGES)
    written: list[dict[str, Any]] = []
    for name in networks:
        model = runner.pretrained(name, data.name)
        snns = [converted(model, FLAGS.K, training)]
        if FLAGS.steps and not has_gates(model):
            snns.append(calibrated(model, FLAGS.steps, training, path))
        written += measure(model, snns, bits, data, path, FLAGS.batch_size, FLAGS.profiled)
    print(f"{data.name}, {len(data):,} test images, inputs of {INPUT_BITS} bits")
    print(tabulate(_table(written), disable_numparse=True))
    print(f"Written to {path}")


def measure(
    model: keras.Model,
    snns: Sequence[Conversion],
    bits: Sequence[Bits],
    data: datasets.Dataset,
    path: pathlib.Path,
    batch_size: int,
    profiled: int = 0,
) -> Iterator[dict[str, Any]]:
    """Rows of conversions of a network, in the file at `path` as soon as they are known; those that are there
    stay.

    Args:
        model: the original.
        snns: its conversions, with coded inputs.
        bits: of what each is measured with.
        data: test images.
        path: of the JSON file.
        batch_size: images per forward pass.
        profiled: images of a profile of the first with integers of each conversion; 0 for none.
    """
    ann: Evaluation | None = None
    for conversion in snns:
        costs = profiled
        for some in bits:
            chip = conversion.snn if some.weights is None else _quantized(conversion, some)
            found = runner.fingerprint(chip, r"(?<=sum)_\d+")
            images, costs = (costs, 0) if some.weights else (0, costs)
            row = _known(path, found, len(data), images)
            if row is None:
                ann = ann or evaluate(model, data, batch_size=batch_size)
                result = evaluate(chip, data, batch_size=batch_size)
                row = {
                    "network": model.name, "sets": conversion.sets, "K": conversion.K,
                    "weight_bits": some.weights, "parameter_bits": some.parameters,
                    **runner.accuracy_and_spikes(ann, result, chip),
                    "images": len(data), "commit": results.commit(), "fingerprint": found,
                    **(_costs(chip, data, images) if images else {}),
                }  # fmt: skip
                results.merge_rows(path, [row], _key, runner.provenance(data))
            yield row


def _known(
    path: pathlib.Path, fingerprint: str, images: int, profiled: int
) -> dict[str, Any] | None:
    """A row that an earlier run has written."""
    for row in results.rows_of(path):
        same = (row["fingerprint"], row["images"]) == (fingerprint, images)
        if same and (_is_profiled(row) or not profiled):
            return row
    return None


def _is_profiled(row: dict[str, Any]) -> bool:
    return "additions per image" in row


def _key(row: Any) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("network", "sets", "K", "weight_bits", "parameter_bits"))


def converted(model: keras.Model, K: int, training: np.ndarray) -> Conversion:
    """Everything a spike: FS-ReLU of K steps; one set for Swish, and for gates what conversion takes by itself."""
    if has_gates(model):
        snn = fs.convert(model, swish=SWISH, **CODED)
        return Conversion(SWISH, SWISH_STEPS, snn, training)
    snn = fs.convert(model, relu=fs.relu_parameters(K, 25.0), **CODED)
    return Conversion("FS-ReLU", K, snn, training)


def has_gates(model: keras.Model) -> bool:
    return any(site.activation == "sigmoid" for site in fs.find_sites(model))


def calibrated(
    model: keras.Model, steps: int, training: np.ndarray, path: pathlib.Path
) -> Conversion:
    """Calibrated to few steps; kept in a file beside the results, as it takes minutes."""
    file = path.with_name(f"{path.stem}_{model.name}_k{steps}_calibrated.keras")
    snn = runner.kept(
        file, lambda: fs.convert(model, calibration_data=training, steps=steps, **CODED)
    )
    return Conversion("calibrated", steps, snn, training)


def _quantized(conversion: Conversion, bits: Bits) -> keras.Model:
    assert bits.weights is not None
    return fs.quantize(
        conversion.snn, bits.weights, bits.parameters or PARAMETER_BITS,
        calibration_data=conversion.data,
    )  # fmt: skip


def _costs(chip: keras.Model, data: datasets.Dataset, count: int) -> dict[str, Any]:
    images = np.asarray(datasets.standardise(data.images[:count]))
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


def _table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A column for each network, bits and K; what was profiled of it below its accuracy."""
    bits = ["float" if row["weight_bits"] is None else f"{row['weight_bits']} bits" for row in rows]
    table = [
        ["network", *(row["network"] for row in rows)],
        ["K", *(str(row["K"]) for row in rows)],
        ["weights", *bits],
        *(
            [title, *(f"{row[key]:.2f}" for row in rows)]
            for title, key in (
                ("ANN %", "ann"), ("SNN %", "snn"), ("spikes per neuron", "spikes_per_neuron"),
            )
        ),
    ]  # fmt: skip
    # What it costs is named in words.
    costs = dict.fromkeys(what for row in rows for what in row if " " in what)
    return table + [[what, *(str(row.get(what, "")) for row in rows)] for what in costs]


if __name__ == "__main__":
    runner.run(main, FLAGS)
