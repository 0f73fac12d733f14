"""Fine-tuning of calibrated networks at very few steps, through the surrogate gradient.

    python -m experiments.finetune --models=resnet20 --steps=3
    python -m experiments.finetune --models=resnet8 --data=digits --steps=2 --epochs=3

Calibrates each network on training images, then trains what was converted further: weights and, unless
--nolearn_ranges, the range alpha of every channel. What it learns are the outputs of the network that it came
from and, for --label_share of the loss, the labels; with --label_share=0 it needs none. With
--target_spikes, spikes beyond so many per neuron add to the loss. Writes NAME_kK.keras to --models_dir and a row
per network and K to finetune.json in --output_dir, where rows of other runs stay. With --limit the row is in
finetune_partial.json; so it is where the training images are limited, and the network in params/finetuned_partial.
A killed run is continued by the same command with --resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from experiments import epochs, results, runner
from fs_neurons import models, training
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets
from fs_neurons.files.models import save_model

IMAGES = 1000  # to calibrate on
FLAGS = flags.FlagValues()
runner.define_data_flags(FLAGS)
flags.DEFINE_list("models", ["resnet8"], "Networks to fine-tune.", flag_values=FLAGS)
flags.DEFINE_list("steps", ["3"], "Numbers of steps K.", flag_values=FLAGS)
flags.DEFINE_integer(
    "epochs", 10, "Passes over the training set.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate", None, "Peak learning rate; that of RECIPES when missing.", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "label_share", None, "Share of the labels in the loss; that of RECIPES when missing.",
    lower_bound=0, upper_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "target_spikes", None, "Average spikes per neuron to come down to; any number when missing.",
    lower_bound=0, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
    "learn_ranges", True, "Whether the ranges alpha are trained too.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "images", IMAGES, "Training images to calibrate on.", lower_bound=16, flag_values=FLAGS
)
flags.DEFINE_integer(
    "training_limit", None, "Use only the first so many training images.", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Seed of order and augmentation.", flag_values=FLAGS)
flags.DEFINE_string(
    "models_dir", None, "Folder for the networks; params/finetuned when missing.",
    flag_values=FLAGS,
)  # fmt: skip
epochs.define_resume_flag(FLAGS)

# Peak learning rate and share of the labels that did best at K = 3 among the few that were tried.
RECIPES = {"cifar10/resnet8": (0.1, 0.7), "cifar10/resnet14": (0.03, 0.3)}
OTHER_RECIPE = (0.015, 0.3)


def main() -> None:
    test_set = runner.load_test_set(FLAGS)
    train_set = datasets.load(test_set.name, "train", FLAGS.data_dir).take(FLAGS.training_limit)
    complete = FLAGS.limit is None and _trained_on_all()
    path = runner.path(FLAGS, "finetune", test_set.name, complete).with_suffix(".json")
    made_by = runner.provenance(test_set)
    rows: list[dict[str, Any]] = []
    for name in FLAGS.models:
        for K in map(int, FLAGS.steps):
            row = finetuned(name, K, train_set, test_set)
            rows = results.merge_rows(path, [row], _key, made_by)
    print(f"{test_set.name}, {len(test_set):,} test images")
    print(as_table(rows))
    print(f"Written to {path}")


def _trained_on_all() -> bool:
    """Whether the networks are those of the results, or made of fewer training images."""
    return FLAGS.training_limit is None and FLAGS.images >= IMAGES


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["network"], row["K"]


def finetuned(
    name: str, K: int, train_set: datasets.Dataset, test_set: datasets.Dataset
) -> dict[str, Any]:
    """Calibrates, trains and saves one network; its row."""
    folder = runner.params_path(FLAGS.models_dir, "finetuned", _trained_on_all())
    path = folder / models.finetuned_path(f"{name}_k{K}", train_set.name).name
    checkpoint = path.with_suffix(".checkpoint.npz")
    epochs.check_checkpoint(checkpoint, FLAGS.resume)
    model = runner.pretrained(name, train_set.name)
    ann = evaluate(model, test_set, batch_size=FLAGS.batch_size)
    images = np.asarray(datasets.standardise(train_set.take(FLAGS.images).images))
    # Ranges and offsets are trained below.
    snn = fs.convert(model, calibration_data=images, steps=K, correction="weights")
    calibrated = evaluate(snn, test_set, batch_size=FLAGS.batch_size)
    if not FLAGS.learn_ranges:
        for layer in snn.layers:
            layer.trainable = not isinstance(layer, fs.FSActivation)
    learning_rate, label_share = RECIPES.get(f"{train_set.name}/{name}", OTHER_RECIPE)
    if FLAGS.learning_rate is not None:
        learning_rate = FLAGS.learning_rate
    if FLAGS.label_share is not None:
        label_share = FLAGS.label_share
    history: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        history.append(row)
        epochs.log_epoch(row)

    snn = training.finetune(
        snn,
        train_set,
        teacher=model,
        target_spikes=FLAGS.target_spikes,
        epochs=FLAGS.epochs,
        learning_rate=learning_rate,
        label_share=label_share,
        policy="mixed_bfloat16",
        seed=FLAGS.seed,
        checkpoint=checkpoint,
        resume=FLAGS.resume,
        on_epoch=note,
        on_step=epochs.progress_bar(),
    )
    tuned = evaluate(snn, test_set, batch_size=FLAGS.batch_size)
    save_model(snn, path)
    checkpoint.unlink()
    neurons = fs.conversion_report(snn).neurons
    return {
        "network": name,
        "K": K,
        "ann": runner.percent(ann.accuracy),
        "calibrated": runner.percent(calibrated.accuracy),
        "calibrated_spikes_per_neuron": calibrated.spikes_per_image / neurons,
        "snn": runner.percent(tuned.accuracy),
        "spikes_per_neuron": tuned.spikes_per_image / neurons,
        "epochs": FLAGS.epochs,
        "learning_rate": learning_rate,
        "label_share": label_share,
        "target_spikes": FLAGS.target_spikes,
        "training_images": len(train_set),
        "minutes": epochs.minutes(history),
    }


def as_table(rows: list[dict[str, Any]]) -> str:
    header = ("network", "K", "ANN %", "calibrated %", "spikes/neuron", "fine-tuned %", "difference",
              "spikes/neuron", "epochs", "minutes")  # fmt: skip
    cells = [
        (
            row["network"], row["K"], f"{row['ann']:.2f}", f"{row['calibrated']:.2f}",
            f"{row['calibrated_spikes_per_neuron']:.2f}", f"{row['snn']:.2f}",
            f"{row['snn'] - row['ann']:+.2f}", f"{row['spikes_per_neuron']:.2f}", row["epochs"],
            f"{row['minutes']:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return tabulate(cells, header, disable_numparse=True, colalign=("left", *["right"] * 9))


if __name__ == "__main__":
    runner.run(main, FLAGS)
