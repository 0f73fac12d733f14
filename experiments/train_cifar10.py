"""Trains the networks of Table 2 on CIFAR-10, or small ones on scikit-learn's digits.

    python -m experiments.train_cifar10 --model=resnet20 --recipe=fast
    python -m experiments.train_cifar10 --model=resnet20 --recipe=paper       # 182 epochs
    python -m experiments.train_cifar10 --model=resnet8 --data=digits

Writes NAME.weights.h5, NAME.csv (one row per epoch) and NAME.json (command, accuracies, versions) to
--output_dir. A killed run is continued by the same command with --resume.
"""

from __future__ import annotations

import json
import pathlib
import platform
import shlex
import sys

import keras
from absl import app, flags

from experiments import epochs
from fs_neurons import models, training
from fs_neurons.data import datasets
from fs_neurons.files import params_dir, write_atomically

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "resnet8", sorted(models.NETWORKS), "Network to train.")
flags.DEFINE_enum("data", "cifar10", sorted(models.INPUT_SHAPES), "Data set to train on.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets that holds cifar10/.")
flags.DEFINE_enum(
    "recipe", "fast", sorted(training.RECIPES), "How to train: see fs_neurons/training/recipe.py."
)
flags.DEFINE_integer("epochs", None, "Epochs, instead of the recipe's.", lower_bound=1)
flags.DEFINE_float(
    "learning_rate", None, "Peak learning rate, instead of the recipe's.", lower_bound=0
)
flags.DEFINE_float(
    "weight_decay", None, "L2 factor on all weights, instead of the recipe's.", lower_bound=0
)
flags.DEFINE_integer("seed", 0, "Seed of initial weights, order and augmentation.")
flags.DEFINE_integer("limit", None, "Use only the first so many training images.", lower_bound=1)
flags.DEFINE_string("output_dir", None, "Folder for the results; params/DATA when missing.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    epochs.repeatable()
    keras.utils.set_random_seed(FLAGS.seed)

    recipe = training.RECIPES[FLAGS.recipe].changed(
        epochs=FLAGS.epochs, learning_rate=FLAGS.learning_rate, weight_decay=FLAGS.weight_decay
    )
    output = pathlib.Path(FLAGS.output_dir) if FLAGS.output_dir else params_dir() / FLAGS.data
    checkpoint = output / f"{FLAGS.model}.checkpoint.npz"
    model = models.build(FLAGS.model, FLAGS.data)
    try:
        epochs.check_checkpoint(checkpoint)
        train_set = datasets.load(FLAGS.data, "train", FLAGS.data_dir).take(FLAGS.limit)
        test_set = datasets.load(FLAGS.data, "test", FLAGS.data_dir)
        history = training.train(
            model,
            train_set,
            test_set,
            recipe,
            seed=FLAGS.seed,
            checkpoint=checkpoint,
            resume=FLAGS.resume,
            on_epoch=epochs.log_epoch,
            on_step=epochs.progress_bar(),
        )
    except (datasets.DatasetUnavailable, training.CheckpointError) as error:
        sys.exit(f"train_cifar10: {error}")

    measured = [row["test_accuracy"] for row in history if row["test_accuracy"] is not None]
    summary = {
        "model": FLAGS.model,
        "data": f"{FLAGS.data}, {len(train_set)} training and {len(test_set)} test images",
        "test_accuracy": history[-1]["test_accuracy"],
        "best_test_accuracy_seen": max(measured),
        "parameters": model.count_params(),
        "minutes": round(sum(row["seconds"] for row in history) / 60, 1),
        "command": shlex.join(["python", "-m", "experiments.train_cifar10", *sys.argv[1:]]),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, {platform.machine()}",
    }
    weights = output / f"{FLAGS.model}.weights.h5"
    partial = output / f".{FLAGS.model}.partial.weights.h5"
    model.save_weights(partial)
    partial.replace(weights)
    epochs.write_history(output / f"{FLAGS.model}.csv", history)
    with write_atomically(output / f"{FLAGS.model}.json") as file:
        json.dump(summary, file, indent=2)
        file.write("\n")
    checkpoint.unlink()
    print(
        f"{FLAGS.model} on {FLAGS.data}: test accuracy {summary['test_accuracy']:.2%}, written to {weights}"
    )


if __name__ == "__main__":
    app.run(main)
