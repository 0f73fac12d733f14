"""Trains the networks of Table 2 on CIFAR-10, or small ones on scikit-learn's digits.

    python -m experiments.train_cifar10 --model=resnet20 --recipe=fast
    python -m experiments.train_cifar10 --model=resnet20 --recipe=paper       # 182 epochs
    python -m experiments.train_cifar10 --model=resnet8 --data=digits

Writes NAME.weights.h5, NAME.csv (one row per epoch) and NAME.json (command, accuracies, versions) to
--output_dir (params/DATA; with --limit, params/DATA_partial). A killed run is continued by the same command with --resume.
"""

from __future__ import annotations

import platform

import keras
from absl import flags

from experiments import epochs, results, runner
from fs_neurons import models, training
from fs_neurons.data import datasets

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "model", "resnet8", sorted(models.NETWORKS), "Network to train.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "data", "cifar10", sorted(models.INPUT_SHAPES), "Data set to train on.", flag_values=FLAGS
)
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_enum(
    "recipe", "fast", sorted(training.RECIPES), "How to train: see fs_neurons/training/recipe.py.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "epochs", None, "Epochs, instead of the recipe's.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate", None, "Peak learning rate, instead of the recipe's.", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "weight_decay", None, "L2 factor on all weights, instead of the recipe's.", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "seed", 0, "Seed of initial weights, order and augmentation.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "limit", None, "Use only the first so many training images.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
    "output_dir", None, "Folder for the results; params/DATA when missing.", flag_values=FLAGS
)
epochs.define_resume_flag(FLAGS)


def main() -> None:
    epochs.repeatable()
    keras.utils.set_random_seed(FLAGS.seed)

    recipe = training.RECIPES[FLAGS.recipe].changed(
        epochs=FLAGS.epochs, learning_rate=FLAGS.learning_rate, weight_decay=FLAGS.weight_decay
    )
    output = runner.params_path(FLAGS.output_dir, FLAGS.data, complete=FLAGS.limit is None)
    checkpoint = output / f"{FLAGS.model}.checkpoint.npz"
    model = models.build(FLAGS.model, FLAGS.data)
    epochs.check_checkpoint(checkpoint, FLAGS.resume)
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
    measured = [row["test_accuracy"] for row in history if row["test_accuracy"] is not None]
    summary = {
        "model": FLAGS.model,
        "data": f"{FLAGS.data}, {len(train_set)} training and {len(test_set)} test images",
        "test_accuracy": history[-1]["test_accuracy"],
        "best_test_accuracy_seen": max(measured),
        "parameters": model.count_params(),
        "minutes": epochs.minutes(history),
        "command": results.command(),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, {platform.machine()}",
    }
    weights = output / f"{FLAGS.model}.weights.h5"
    epochs.save_weights(model, weights)
    epochs.write_history(output / f"{FLAGS.model}.csv", history)
    results.write_json(output / f"{FLAGS.model}.json", summary)
    checkpoint.unlink()
    accuracy = summary["test_accuracy"]
    print(f"{FLAGS.model} on {FLAGS.data}: test accuracy {accuracy:.2%}, written to {weights}")


if __name__ == "__main__":
    runner.run(main, FLAGS)
