"""Table 1: EfficientNet-B7 and ResNet50 on ImageNet before and after FS-conversion, the paper beside.

    python -m experiments.table1                                      # ImageNetV2, weights by Keras
    python -m experiments.table1 --data=tfds:imagenet2012 --model=efficientnet-b7 \\
        --checkpoint=efficientnet-b7-randaug                          # as in the paper
    python -m experiments.table1 --data=val --model=efficientnet-b0 --limit=500 --swish_only
    python -m experiments.table1 --data=val --model=mine.keras --preprocessing=torch
    python -m experiments.table1 --data=val --quality=accurate --fold           # fitted sets, without data
    python -m experiments.table1 --data=val --calibrate=300 --steps=8
    python -m experiments.table1 --strategy=multi_worker              # on every worker, with its TF_CONFIG

Images are streamed. Writes table1.json to --output_dir after every --save_every images; the same command
continues a killed run there, and takes a finished one as it is (--restart measures anew). With
--random_weights the networks are run end to end without training, to test and to time them: accuracies
then mean nothing and are left out, and table1_random_weights.json is written.

The table is the paper's: published sets, weights unchanged. Conversions in other settings (--quality, --steps,
--calibrate, --fold) have rows of their own, named after these, in table1_other_settings.json. --calibrate takes
images of the data themselves, at even distances and without their labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import keras
import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import paper, results, runner
from fs_neurons.analysis.side_by_side import Tally, side_by_side
from fs_neurons.backend.distribution import Distribution, WorkerLostError
from fs_neurons.conversion.report import ConversionReport
from fs_neurons.data import imagenet
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.models.imagenet import NAMES, RANDOM, Network, load_network
from fs_neurons.neuron.sets import QUALITIES

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "data",
    imagenet.DEFAULT,
    "tfds:imagenet2012, tfds:imagenet_v2, or a folder of class folders (val/n01440764/*.JPEG).",
    flag_values=FLAGS,
)
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_list(
    "model",
    ["efficientnet-b7", "resnet50"],
    f"Networks: {', '.join(NAMES)}, or the path of a saved Keras model.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "checkpoint",
    None,
    "Weights of the one --model: an official EfficientNet checkpoint (folder or prefix), or .weights.h5.",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "random_weights", False, "Untrained networks, to test and to time.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "image_size",
    None,
    "Resolution; the network's own when missing.",
    lower_bound=32,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "preprocessing",
    None,
    list(PREPROCESSINGS),
    "Of a saved model; a named one has its own.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "logits", None, "Layer of a saved model whose output is the class scores.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "swish_only",
    False,
    "Leave sigmoids as they are, as the official README does.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "quality", "paper", QUALITIES, "Which parameters, as for fs.convert.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "calibrate", 0, "Images to calibrate on; 0: no calibration.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
    "steps", None, "K of all sites when calibrated; without data, the largest K of a site.",
    lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool("fold", False, "Fold batch normalisation into weights.", flag_values=FLAGS)
runner.define_relu_flags(FLAGS)
flags.DEFINE_integer("batch_size", 1, "Images per forward pass.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("limit", None, "Stop after so many images.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "save_every", 100, "Images after which results are written.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_bool(
    "restart", False, "Measure anew what is in the results already.", flag_values=FLAGS
)
runner.define_output_flag(FLAGS)
runner.define_strategy_flag(FLAGS)


def main() -> None:
    if FLAGS.checkpoint and (len(FLAGS.model) != 1 or FLAGS.random_weights):
        raise ValueError("--checkpoint is the weights of one network: give one --model, trained")
    if FLAGS.steps and FLAGS.quality == "paper" and not FLAGS.calibrate:
        raise ValueError(
            "--steps: the published sets have their own number of steps; give --quality=accurate or"
            " --calibrate=N as well, or --K for ReLU"
        )
    if FLAGS.calibrate and FLAGS.strategy != "one":
        raise ValueError("--calibrate runs on one device: leave --strategy out")
    distribution = runner.start(FLAGS.strategy)
    stem = "table1_random_weights" if FLAGS.random_weights else "table1"
    if _settings() and not FLAGS.random_weights:
        stem = "table1_other_settings"
    # A run with --limit continues what is there; one that begins anew must not replace more than it measures.
    complete = not (FLAGS.restart and FLAGS.limit)
    path = runner.path(FLAGS, stem, complete=complete).with_suffix(".json")
    relu = fs.relu_parameters(FLAGS.K, FLAGS.alpha)
    rows = _read_rows(path) if distribution.is_chief else []
    source = imagenet.open_images(FLAGS.data, data_dir=FLAGS.data_dir)
    for note in source.notes:
        print(note)
    measured, missing = [], []
    weights = RANDOM if FLAGS.random_weights else FLAGS.checkpoint or "imagenet"
    for name in FLAGS.model:
        keras.utils.set_random_seed(0)
        try:
            with distribution.scope():
                network = load_network(
                    name,
                    weights,
                    image_size=FLAGS.image_size,
                    preprocessing=FLAGS.preprocessing,
                    logits=FLAGS.logits,
                )
            measured.append(measure(network, source, relu, rows, path, distribution))
        except FileNotFoundError as error:
            missing.append(str(error))
        except WorkerLostError as error:
            raise WorkerLostError(
                f"{error}; what was done is in {path} of the first worker: start all workers again to"
                " continue"
            ) from error
        keras.backend.clear_session()
    if not measured:
        raise FileNotFoundError("; ".join(missing))
    if not distribution.is_chief:
        return
    for line in missing:
        print(line)
    print(as_table(measured))
    print(f"Written to {path}")


def measure(
    network: Network,
    source: imagenet.ImageSource,
    relu: fs.FSParameters,
    rows: list[dict[str, Any]],
    path: pathlib.Path,
    distribution: Distribution,
) -> dict[str, Any]:
    """One row, continued from the one of the same run among `rows`, which the chief writes with the others."""
    arguments: dict[str, Any] = {"keep": ("sigmoid",)} if FLAGS.swish_only else {}
    arguments |= {"quality": FLAGS.quality, "steps": FLAGS.steps, "fold_batch_norm": FLAGS.fold}
    converts_relu = any(site.activation == "relu" for site in fs.find_sites(network.model))
    takes_relu = converts_relu and FLAGS.quality == "paper" and not FLAGS.calibrate
    if takes_relu:
        arguments["relu"] = relu
    if FLAGS.calibrate:
        arguments["calibration_data"] = _calibration_images(network, source)
    with distribution.scope():
        snn = fs.convert(network.model, verbose=runner.showing(), **arguments)
    report = fs.conversion_report(snn)
    run = {
        "network": network.name,
        "weights": network.weights,
        "sha256": _digest(network.model),
        "data": source.name,
        "images_in_data": source.count,
        "image_size": network.image_size,
        "preprocessing": network.preprocessing,
        "converted": "Swish only" if FLAGS.swish_only else "all",
        "relu": relu.name if takes_relu else None,
        **_settings(),
    }
    distribution.check_same("network or data", json.dumps([run, FLAGS.batch_size, FLAGS.limit]))
    row = next((r for r in rows if r["run"] == run), None)
    if row is None:
        row = {"run": run, "tally": dataclasses.asdict(Tally())}
        rows.append(row)
    if FLAGS.restart:
        row["tally"] = dataclasses.asdict(Tally())
    # What the chief has: the others may not see its file.
    done = tally = Tally(**distribution.gather_json(row["tally"])[0])
    if done.position and distribution.is_chief:
        print(f"{network.name}: the first {done.position:,} images are in {path} already")

    def save(tally: Tally) -> None:
        if not distribution.is_chief:
            return
        row.update(tally=dataclasses.asdict(tally), **_summary(network, report, tally))
        row["command"] = results.command()
        made_by = results.provenance(source.name, tally.images)
        results.write_json(path, {**made_by, "rows": [r for r in rows if r["tally"]["images"]]})

    stop = min(source.count, FLAGS.limit or source.count)
    bar = runner.progress(
        stop, verbose=int(distribution.is_chief and runner.showing()),
        stateful_metrics=["ann", "snn", "agreement"],
    )  # fmt: skip
    saved = done.position
    for tally in side_by_side(
        network, snn, source, done, batch_size=FLAGS.batch_size, limit=FLAGS.limit,
        distribution=distribution,
    ):  # fmt: skip
        if not tally.images:
            continue
        shown = [(key, getattr(tally, count) / tally.images) for key, count in (
            ("ann", "ann_top1"), ("snn", "snn_top1"), ("agreement", "agreeing"))]  # fmt: skip
        bar.update(tally.position, shown[2:] if network.weights == RANDOM else shown)
        if tally.position - saved >= FLAGS.save_every or tally.position >= stop:
            save(tally)
            saved = tally.position
    if not tally.images:
        raise ValueError(f"none of the {tally.skipped} images of {source.name} could be decoded")
    return row


def _settings() -> dict[str, Any]:
    """The settings of the conversion that are not the paper's."""
    return {
        name: FLAGS[name].value
        for name in ("quality", "steps", "calibrate", "fold")
        if FLAGS[name].value != FLAGS[name].default
    }


def _calibration_images(network: Network, source: imagenet.ImageSource) -> np.ndarray:
    """--calibrate images of the data, at even distances, as the network takes them.

    Raises:
        ValueError: there are too few.
    """
    if FLAGS.calibrate > source.count:
        raise ValueError(f"--calibrate={FLAGS.calibrate}: {source.name} has {source.count} images")
    chosen = {number * source.count // FLAGS.calibrate for number in range(FLAGS.calibrate)}
    prepare = PREPROCESSINGS[network.preprocessing]
    samples = imagenet.stream(
        source, lambda image: prepare(image, network.image_size), wanted=chosen.__contains__
    )
    images = [sample.image for sample in samples if sample.image is not None]
    if not images:
        raise ValueError(f"none of the images of {source.name} to calibrate on could be decoded")
    return np.stack(images)


def _summary(network: Network, report: ConversionReport, tally: Tally) -> dict[str, Any]:
    """What the table shows, in per cent and per image."""
    n = tally.images
    random = network.weights == RANDOM
    accuracies = {
        key: None if random else round(100 * getattr(tally, key) / n, 4)
        for key in ("ann_top1", "ann_top5", "snn_top1", "snn_top5")
    }
    return {
        **accuracies,
        "agreement": round(100 * tally.agreeing / n, 4),
        "images": n,
        "skipped": tally.skipped,
        "parameters": network.model.count_params(),
        "fs_layers": sum(row.parameters != "kept" for row in report.rows),
        "neurons": report.neurons,
        "spikes_per_image": tally.spikes / n,
        "ann_seconds_per_image": round(tally.ann_seconds / n, 4),
        "time_ratio": round(tally.snn_seconds / tally.ann_seconds, 3),
        "paper": None if random else _paper(network),
    }


def _paper(network: Network) -> dict[str, Any] | None:
    row = paper.TABLE1.get(network.name)
    return dataclasses.asdict(row) if row else None


def as_table(rows: list[dict[str, Any]]) -> str:
    """The table as text; below each network the paper's figures, which are those of ImageNet2012."""

    def accuracy(top1: float | None, top5: float | None) -> str:
        return "-" if top1 is None else f"{top1:.2f} ({top5:.2f})"

    lines = []
    for row in rows:
        lines.append((
            _name(row["run"]), f"{row['images']:,}", f"{row['parameters'] / 1e6:.1f}M",
            accuracy(row["ann_top1"], row["ann_top5"]), accuracy(row["snn_top1"], row["snn_top5"]),
            f"{row['agreement']:.2f}", row["fs_layers"], f"{row['neurons']:,}",
            f"{row['spikes_per_image']:,.0f}", f"{row['time_ratio']:.2f}",
        ))  # fmt: skip
        if row["paper"]:
            published = paper.Table1Row(**row["paper"])
            lines.append((
                "  paper, ImageNet2012", "50,000", published.parameters,
                accuracy(published.ann_top1, published.ann_top5),
                accuracy(published.snn_top1, published.snn_top5),
                "", published.layers, published.neurons, published.spikes, "",
            ))  # fmt: skip
    header = ("network", "images", "parameters", "ANN top-1 (top-5) %", "SNN top-1 (top-5) %",
              "agreement %", "layers", "neurons", "spikes/image", "time SNN/ANN")  # fmt: skip
    text = [
        f"Images: {rows[0]['run']['data']}",
        tabulate(lines, header, colalign=["left"] + ["right"] * 9, disable_numparse=True),
    ]
    skipped = sum(row["skipped"] for row in rows)
    if skipped:
        text.append(f"{skipped} images could not be decoded and are not counted")
    if rows[0]["run"]["weights"] == RANDOM:
        text.append("Random weights: nothing here compares with the paper")
    elif any(row["paper"] for row in rows):
        text.append(
            "Paper: spikes are a mean over its first images; its layers of ResNet50 include the output;"
            " its ResNet50 is resnet50-v1.5-avgpool"
        )
    return "\n".join(text)


def _name(run: dict[str, Any]) -> str:
    """A network and everything that is not the paper's setting."""
    parts = [run["network"]]
    if run["converted"] == "Swish only":
        parts.append("Swish only")
    if run.get("calibrate"):
        parts.append(f"calibrated on {run['calibrate']} images")
    elif run.get("quality"):
        parts.append(f"{run['quality']} sets, without data")
    if run.get("steps"):
        parts.append(f"K = {run['steps']}" if run.get("calibrate") else f"K <= {run['steps']}")
    if run.get("fold"):
        parts.append("folded")
    return ", ".join(parts)


def _read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            Tally(**row["tally"])
            _ = row["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no result of this experiment ({error}): move it away, or pass --output_dir"
        ) from error
    return rows


def _digest(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    runner.run(main, FLAGS)
