"""Trains the recurrent networks of `fs_neurons.models.sequences` on spoken digits, questions, or rows of digits.

    python -m experiments.train_sequences --model=spoken_digit_lstm
    python -m experiments.train_sequences --model=trec_bilstm --validate      # on the validation part, for settings

Writes NAME.weights.h5, NAME.csv (one row per epoch) and NAME.json (command, accuracies, versions) to --output_dir
(params/sequences). A killed run is continued by the same command.
"""

from __future__ import annotations

import math
import platform
import time

import keras
import numpy as np
from absl import flags

from experiments import epochs, results, runner
from fs_neurons.data import sequences
from fs_neurons.data.sequences import SequenceDataset
from fs_neurons.models import sequences as networks

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "model", "spoken_digit_lstm", list(networks.NETWORKS), "Network to train.", flag_values=FLAGS
)
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_integer("epochs", 16, "Epochs.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 32, "Sequences per step.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float(
    "learning_rate", 2e-3, "At the beginning; it falls to 0 along a cosine.", lower_bound=0, flag_values=FLAGS
)  # fmt: skip
flags.DEFINE_float("weight_decay", 1e-2, "Of AdamW.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_float(
    "smoothing", 0.1, "Share of each label that is spread over all classes.", lower_bound=0, flag_values=FLAGS
)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Seed of initial weights and order.", flag_values=FLAGS)
flags.DEFINE_bool(
    "validate", False, "Leave the validation part out of training, measure on it and write nothing.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "limit", None, "Use only the first so many sequences for training.", lower_bound=1, flag_values=FLAGS
)  # fmt: skip
flags.DEFINE_string(
    "output_dir", None, "Folder for the results; params/sequences when missing.", flag_values=FLAGS
)


def main() -> None:
    epochs.repeatable()
    keras.utils.set_random_seed(FLAGS.seed)
    data = networks.NETWORKS[FLAGS.model].data
    train, validation, test = (
        sequences.load(data, split, FLAGS.data_dir) for split in sequences.SPLITS
    )
    if not FLAGS.validate:
        train, validation = sequences.joined(train, validation), test
    train = train.take(FLAGS.limit)
    model = networks.build(FLAGS.model)
    compile_model(model, len(train))
    if FLAGS.validate:
        history = fit(model, train, validation, [])
        print(f"{FLAGS.model}: validation accuracy {history['val_accuracy'][-1]:.2%}")
        return
    output = runner.params_path(FLAGS.output_dir, "sequences", complete=FLAGS.limit is None)
    backup, log = output / f"{FLAGS.model}.backup", output / f"{FLAGS.model}.csv"
    output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    fit(model, train, test, [
        keras.callbacks.CSVLogger(log, append=backup.exists()),
        keras.callbacks.BackupAndRestore(backup),
    ])  # fmt: skip
    accuracy = model.evaluate(*arrays(test), batch_size=500, verbose=0, return_dict=True)[
        "accuracy"
    ]
    weights = output / f"{FLAGS.model}.weights.h5"
    trained = networks.build(FLAGS.model)  # without the state of the optimizer
    trained.set_weights(model.get_weights())
    epochs.save_weights(trained, weights)
    results.write_json(
        output / f"{FLAGS.model}.json",
        {
            "model": FLAGS.model,
            "data": f"{data}, {len(train)} training and {len(test)} test sequences",
            "test_accuracy": round(accuracy, 6),
            "parameters": model.count_params(),
            "minutes": round((time.monotonic() - started) / 60, 1),
            "command": results.command(),
            "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, {platform.machine()}",
        },
    )
    print(f"{FLAGS.model}: test accuracy {accuracy:.2%}, written to {weights}")


def compile_model(model: keras.Model, examples: int) -> None:
    """AdamW on a learning rate that falls along a cosine, and smoothed labels."""
    steps = FLAGS.epochs * math.ceil(examples / FLAGS.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=FLAGS.weight_decay, clipnorm=1.0),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=FLAGS.smoothing),
        metrics=["accuracy"],
    )


def fit(
    model: keras.Model,
    train: SequenceDataset,
    measured: SequenceDataset,
    callbacks: list[keras.callbacks.Callback],
) -> dict[str, list[float]]:
    """Keras' own training loop."""
    history = model.fit(
        *arrays(train), batch_size=FLAGS.batch_size, epochs=FLAGS.epochs, callbacks=callbacks,
        validation_data=arrays(measured), validation_batch_size=500,
        verbose="auto" if runner.showing() else 0,
    )  # fmt: skip
    return dict(history.history)


def arrays(data: SequenceDataset) -> tuple[np.ndarray, np.ndarray]:
    """Sequences, and their labels one-hot, as the loss takes them."""
    return data.sequences, keras.utils.to_categorical(data.labels, data.classes)


if __name__ == "__main__":
    runner.run(main, FLAGS)
