"""What conversion does to a real EfficientNet-B0, block by block, with and without data.

    python -m experiments.efficientnet                                  # the network beside the project
    python -m experiments.efficientnet --model=mine.keras --data=PHOTOGRAPHS --probe=0

Any trained network of images will do: `--model` names its .keras file, `--data` a folder of photographs
(sub-folders are searched). Measured on these, for the published sets, the fitted ones, ranges without data
and calibration: the error of each block's output and of the features, the network's widest output, and
the spikes. With `--probe`, CIFAR-10 scaled up tells what the features are still good for: their error on the
first 1,500 test images, and the accuracy there of a logistic regression (standardised features, C = 0.01) that was
fitted to the original's features of the first 4,000 training images.

Writes MODEL.json and .png to --output_dir. A killed run goes on where it stopped: rows are written one by
one, features in parts, to MODEL_features/.
"""

from __future__ import annotations

import collections
import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import flags
from keras import ops
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabulate import tabulate

import fs_neurons as fs
from experiments import results, runner
from experiments.plotting import ANN, PAPER, SNN, plt, save
from fs_neurons.data import datasets, imagenet
from fs_neurons.data.preprocessing import PREPROCESSINGS
from fs_neurons.files import write_atomically
from fs_neurons.files.models import load_model
from fs_neurons.network import trace
from fs_neurons.network.kinds import ACTIVATION, AFFINE, SUM, applies_activation, kind_of

FLAGS = flags.FlagValues()
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
DEFAULT_MODEL = SHARED / "networks" / "efficientnet_b0.keras"
DEFAULT_DATA = SHARED / "imagenet_sample" / "val"
flags.DEFINE_string(
    "model", None, "A .keras file; EfficientNet-B0 when missing.", flag_values=FLAGS
)
flags.DEFINE_string("data", None, "Folder of photographs.", flag_values=FLAGS)
flags.DEFINE_enum(
    "preprocessing", "efficientnet", list(PREPROCESSINGS), "Of the photographs.", flag_values=FLAGS
)
flags.DEFINE_integer("limit", None, "Only so many photographs.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "calibrate", 300, "CIFAR-10 images to calibrate on; 0: no calibration.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "probe", 4000, "CIFAR-10 images to train the probe on; 0: no probe.", flag_values=FLAGS
)
flags.DEFINE_string(
    "data_dir", None, "Folder of tensorflow-datasets that holds cifar10/.", flag_values=FLAGS
)
runner.define_output_flag(FLAGS)

PROBE_TESTS, PART, BATCH = 1500, 100, 10
# Inverse strength of the regularization of the probe.
PROBE_C = 0.01
# Label -> arguments of `convert`; and those of conversions that have calibration data as well.
CONVERSIONS: dict[str, dict[str, Any]] = {
    "published": {"quality": "paper"},
    "accurate sets": {"quality": "accurate", "swish": "swish_k16", "sigmoid": "sigmoid_k12"},
    "without data": {"quality": "accurate"},
    "without data, K = 8": {"quality": "accurate", "steps": 8},
}
CALIBRATED: dict[str, dict[str, Any]] = {
    "calibrated": {"steps": 16},
    "calibrated, K = 8": {"steps": 8},
}
LABELS = (*CONVERSIONS, *CALIBRATED)
COLOURS = dict(
    zip(LABELS, (PAPER, "tab:olive", SNN, "tab:cyan", "tab:green", "tab:brown"), strict=True)
)


def main() -> None:
    file = _existing(FLAGS.model, DEFAULT_MODEL, "--model=FILE, a trained network as .keras")
    folder = _existing(FLAGS.data, DEFAULT_DATA, "--data=FOLDER, one of photographs")
    model = load_model(file)
    photographs = _photographs(folder, model.inputs[0].shape[1:3])
    complete = FLAGS.limit is None and FLAGS.probe > 0 and FLAGS.calibrate > 0
    path = runner.path(FLAGS, file.stem, complete=complete)
    content = {
        **results.provenance(f"photographs in {folder.name}", len(photographs)),
        "network": model.name,
        "probe_images": [FLAGS.probe, PROBE_TESTS],
    }
    rows = {row["fingerprint"]: row for row in _rows_before(path.with_suffix(".json"), content)}
    probe = _probe(model, path.with_name(f"{file.stem}_features")) if FLAGS.probe else None
    content |= {"probe_original": probe(model)["probe"] if probe else None, "rows": []}
    converted = []
    for label in LABELS if FLAGS.calibrate else CONVERSIONS:
        snn = _converted(model, label, path)
        fingerprint = runner.fingerprint(snn)
        row = rows.get(fingerprint) or {"label": label, "fingerprint": fingerprint}
        content["rows"].append(row)
        if "feature_error" not in row:
            row |= _compared(model, snn, photographs)
        results.write_json(path.with_suffix(".json"), content)
        converted.append((row, snn))
    for row, snn in converted if probe else ():
        row |= probe(snn)
        results.write_json(path.with_suffix(".json"), content)
    print(f"{model.name}, {len(photographs)} photographs in {folder}")
    print(_table(content))
    print(
        "error: norm of the difference over the norm, mean over the photographs, or the probe's images"
    )
    save(_figure(content["rows"]), path.with_suffix(".png"))
    print(f"Written to {path}.json and .png")


def _existing(given: str | None, default: pathlib.Path, what: str) -> pathlib.Path:
    path = pathlib.Path(given or default)
    if not path.exists():
        raise FileNotFoundError(f"no {path}: give {what}")
    return path


def _rows_before(path: pathlib.Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a run that was cut short, if it was on the same images."""
    if not path.exists():
        return []
    before = results.read_json(path)
    same = all(
        before.get(key) == content[key] for key in ("data", "images", "network", "probe_images")
    )
    return before["rows"] if same else []


# --- images -------------------------------------------------------------------------------------


def _photographs(folder: pathlib.Path, size: tuple[int | None, int | None]) -> np.ndarray:
    if None in size or size[0] != size[1]:
        raise ValueError(f"--model takes images of {size}; a square of a known size is needed")
    files = sorted(
        file for file in folder.rglob("*")
        if file.suffix.lower() in (".jpeg", ".jpg", ".png")
    )[: FLAGS.limit]  # fmt: skip
    if not files:
        raise FileNotFoundError(f"--data={folder} holds no .jpeg, .jpg or .png")
    prepare = PREPROCESSINGS[FLAGS.preprocessing]
    return np.stack(
        [np.asarray(prepare(imagenet.decode(file.read_bytes()), size[0])) for file in files]
    )


def _scaled_up(split: str, count: int, model: keras.Model, first: int = 0) -> np.ndarray:
    """CIFAR-10, bicubic, in the size of the network; pixels 0 to 255."""
    images = datasets.load("cifar10", split, FLAGS.data_dir).images[first : first + count]
    scaled = ops.image.resize(
        images.astype(np.float32), model.inputs[0].shape[1:3], interpolation="bicubic"
    )
    return np.clip(ops.convert_to_numpy(scaled), 0, 255)


# --- networks -----------------------------------------------------------------------------------


def _converted(model: keras.Model, label: str, results_path: pathlib.Path) -> keras.Model:
    """The converted network; calibrated ones are kept in files beside the results."""
    if label in CONVERSIONS:
        return fs.convert(model, **CONVERSIONS[label])
    arguments = CALIBRATED[label]

    def calibrate() -> keras.Model:
        images = _scaled_up("train", FLAGS.calibrate, model)
        return fs.convert(model, calibration_data=images, **arguments)

    kept = f"{results_path.stem}_k{arguments['steps']}_{FLAGS.calibrate}_calibrated.keras"
    return runner.kept(results_path.with_name(kept), calibrate)


def _features(model: keras.Model) -> Any:
    """The widest output."""
    return max(model.outputs, key=lambda x: int(np.prod(x.shape[1:])))


def blocks(model: keras.Model) -> list[str]:
    """Names of the layers that blocks end with: sums of branches, and normalizations that no activation and
    no sum follows. Nested models are not looked into."""
    calls = trace(model).calls
    consumers = collections.defaultdict(list)
    for call in calls:
        for value in call.inputs:
            consumers[value].append(call)
    number = collections.Counter(call.name for call in calls)
    names = []
    for call in calls:
        kind = kind_of(call.op)
        (output, *_) = keras.tree.flatten(call.outputs)
        after = [kind_of(c.op) for c in consumers[output]]
        ends = kind is SUM or (kind is AFFINE and not any(k in (ACTIVATION, SUM) for k in after))
        layer = isinstance(call.op, keras.layers.Layer) and "/" not in call.name
        if ends and layer and number[call.name] == 1 and not applies_activation(call.op):
            names.append(call.name)
    # What comes before the first weight is no block.
    weighted = [i for i, call in enumerate(calls) if kind_of(call.op).weighted]
    start = {call.name for call in calls[: weighted[0]]} if weighted else set()
    return [name for name in names if name not in start]


def _compared(model: keras.Model, snn: keras.Model, images: np.ndarray) -> dict[str, Any]:
    """Error of every block and of the features, and spikes.

    The error of one image is the norm of the difference over the norm of what the original gives.
    """
    names = blocks(model)
    original, spiking = (
        keras.Model(m.inputs[0], [*(m.get_layer(name).output for name in names), _features(m)])
        for m in (model, snn)
    )
    errors: list[list[np.ndarray]] = [[] for _ in range(len(names) + 1)]
    spikes = neurons = 0
    bar = runner.progress(len(images))
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        with fs.record_spikes() as records:
            found = spiking(batch, training=False)
        for parts, exact, y in zip(errors, original(batch, training=False), found, strict=True):
            exact, y = (ops.convert_to_numpy(x).reshape(len(batch), -1) for x in (exact, y))
            parts.append(_relative_errors(y, exact))
        spikes += sum(int(ops.convert_to_numpy(record.spikes).sum()) for record in records)
        neurons += sum(math.prod(record.shape) for record in records)
        bar.update(min(first + BATCH, len(images)))
    *of_blocks, of_features = (np.concatenate(parts) for parts in errors)
    return {
        "feature_error": float(of_features.mean()),
        "median_feature_error": float(np.median(of_features)),
        "spikes_per_neuron": spikes / neurons,
        "blocks": [
            {"layer": name, "error": float(error.mean())}
            for name, error in zip(names, of_blocks, strict=True)
        ],
    }


def _relative_errors(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Of each image, norm of the difference over the norm of what is exact."""
    return np.asarray(np.linalg.norm(y - exact, axis=1) / np.linalg.norm(exact, axis=1))


# --- what the features are still good for ---------------------------------------------------------


def _probe(original: keras.Model, path: pathlib.Path) -> Callable[[keras.Model], dict[str, float]]:
    """Of a network's features, kept in `path`: their error, and the accuracy, per cent, of what was fitted to those
    of the original."""
    labels = {
        split: datasets.load("cifar10", split, FLAGS.data_dir).labels for split in ("train", "test")
    }

    def features(network: keras.Model, split: str, count: int) -> np.ndarray:
        return _features_of(network, split, count, path / runner.fingerprint(network))

    regression = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, max_iter=1000))
    regression.fit(features(original, "train", FLAGS.probe), labels["train"][: FLAGS.probe])
    exact = features(original, "test", PROBE_TESTS)

    def measured(network: keras.Model) -> dict[str, float]:
        found = features(network, "test", PROBE_TESTS)
        right = regression.predict(found) == labels["test"][:PROBE_TESTS]
        return {
            "probe_feature_error": float(_relative_errors(found, exact).mean()),
            "probe": runner.percent(float(right.mean())),
        }

    return measured


def _features_of(network: keras.Model, split: str, count: int, folder: pathlib.Path) -> np.ndarray:
    """Features (count, width) of the first images, part by part from `folder` or the network."""
    extractor = keras.Model(network.inputs[0], _features(network))
    parts = []
    bar = runner.progress(count)
    for first in range(0, count, PART):
        size = min(PART, count - first)
        path = folder / f"{split}_{first}_{size}.npy"
        if not path.exists():
            images = _scaled_up(split, size, network, first)
            batches = np.array_split(images, -(-size // BATCH))
            values = [ops.convert_to_numpy(extractor(x, training=False)) for x in batches]
            with write_atomically(path, "wb") as file:
                np.save(file, np.concatenate(values).reshape(size, -1))
        parts.append(np.load(path))
        bar.update(first + size)
    return np.concatenate(parts)


# --- results --------------------------------------------------------------------------------------


def _table(content: dict[str, Any]) -> str:
    header = (
        "conversion",
        "error of the features",
        "median",
        "spikes/neuron",
        "CIFAR-10",
        "probe %",
    )
    original = content.get("probe_original")
    cells = [("none", "", "", "", "", "" if original is None else f"{original:.2f}")]
    for row in content["rows"]:
        probe = (
            (f"{row['probe_feature_error']:.3f}", f"{row['probe']:.2f}")
            if "probe" in row
            else ("", "")
        )
        cells.append(
            (
                row["label"], f"{row['feature_error']:.3f}", f"{row['median_feature_error']:.3f}",
                f"{row['spikes_per_neuron']:.2f}", *probe,
            )
        )  # fmt: skip
    return tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 5))


def _figure(rows: list[dict[str, Any]]) -> Any:
    """Error of each block's output along the depth of the network; the features last."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for row in rows:
        errors = [*(block["error"] for block in row["blocks"]), row["feature_error"]]
        axis.plot(range(1, len(errors) + 1), errors, "o-", ms=3, label=row["label"],
                  color=COLOURS[row["label"]])  # fmt: skip
    axis.axhline(1.0, color=ANN, linestyle=":")
    axis.set(xlabel="block; the features last", ylabel="relative error", ylim=(0, None))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure


if __name__ == "__main__":
    runner.run(main, FLAGS)
