"""Fine-tunes ResNet50 with average pooling in place of max-pooling on ImageNet: the network of Table 1.

    python -m experiments.train_imagenet --data=tfds:imagenet2012
    python -m experiments.train_imagenet --data=imagenet --epochs=30 --batch_size=512   # train/, val/

Starts from the weights of keras.applications.ResNet50, whose max-pooling and strides differ, and trains on
all GPUs of the machine (tf.distribute). Writes resnet50-v1.5-avgpool.weights.h5, .csv (one row per round of
--round steps) and .json to --output_dir; a killed run is continued from its last round by the same
command with --resume. Then:

    python -m experiments.table1 --model=resnet50-v1.5-avgpool --checkpoint=OUTPUT.weights.h5
"""

from __future__ import annotations

import json
import math
import pathlib
import shutil
import sys
from collections.abc import Iterator

import keras
import numpy as np
from absl import flags

from experiments import epochs, results, runner
from fs_neurons.data import imagenet, preprocessing
from fs_neurons.files import params_dir
from fs_neurons.models.imagenet import AVERAGE_POOLED, load_network
from fs_neurons.models.resnet50 import adopt_weights, resnet50

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "data", "tfds:imagenet2012", "tfds:imagenet2012, or a folder with train/ and val/.",
    flag_values=FLAGS,
)  # fmt: skip
runner.define_data_dir_flag(FLAGS)
flags.DEFINE_string(
    "weights", "imagenet", "Start: imagenet (keras.applications), random, or a .weights.h5.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "epochs", 20, "Passes over the training images.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_size", 256, "Images per step, over all devices.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate", 0.02, "Its first value; falls to zero as a cosine.", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "weight_decay", 1e-4, "Share of the weights taken off per unit of learning rate.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "image_size", 224, "Height and width of the images.", lower_bound=32, flag_values=FLAGS
)
flags.DEFINE_integer(
    "round", 1000, "Steps after which the state of the run is saved.", lower_bound=1,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "devices", None, "CPU only: devices to split it into.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "threads", 16, "That decode and crop images.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
    "output_dir", str(params_dir() / "imagenet"), "Folder for the results.", flag_values=FLAGS
)
epochs.define_resume_flag(FLAGS)

# What must agree for a run to be continued.
RUN_FLAGS = ("data", "weights", "epochs", "batch_size", "learning_rate", "weight_decay", "image_size",
             "round")  # fmt: skip
MOMENTUM = 0.9


def main() -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError("tf.distribute needs KERAS_BACKEND=tensorflow")
    output = pathlib.Path(FLAGS.output_dir) / AVERAGE_POOLED
    train_set = imagenet.open_images(FLAGS.data, "train", FLAGS.data_dir)
    test_set = imagenet.open_images(FLAGS.data, "validation", FLAGS.data_dir)
    backup = prepare_run(output)
    strategy = make_strategy()
    steps = train_set.count // FLAGS.batch_size
    if steps < 1 or FLAGS.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"--batch_size={FLAGS.batch_size} must be a multiple of {strategy.num_replicas_in_sync}"
            f" devices and at most the {train_set.count} training images"
        )
    with strategy.scope():
        model = starting_model()
        compile_model(model, FLAGS.epochs * steps)
    for note in (*train_set.notes, *test_set.notes):
        print(note)

    per_round = min(FLAGS.round, steps)
    rounds = math.ceil(FLAGS.epochs * steps / per_round)
    history = output.with_suffix(output.suffix + ".csv")
    model.fit(
        batches(train_set, training=True),
        epochs=rounds,
        steps_per_epoch=per_round,
        validation_data=batches(test_set, training=False),
        # About once per pass, and after the last round.
        validation_freq=sorted({*range(steps // per_round, rounds, steps // per_round), rounds}),
        callbacks=[
            # Deleted only after the results are written.
            keras.callbacks.BackupAndRestore(
                str(backup), double_checkpoint=True, delete_checkpoint=False
            ),
            keras.callbacks.CSVLogger(str(history), append=FLAGS.resume),
        ],
        verbose=1 if sys.stderr.isatty() else 2,
    )
    measured = model.evaluate(batches(test_set, training=False), verbose=0, return_dict=True)
    weights = output.with_name(f"{output.name}.weights.h5")
    # Without the optimiser, which is saved with a model.
    trained = resnet50(image_size=FLAGS.image_size)
    trained.set_weights(model.get_weights())
    epochs.save_weights(trained, weights)
    results.write_json(
        output.with_name(f"{output.name}.json"),
        {
            **results.provenance(train_set.name, train_set.count),
            "validation_images": test_set.count,
            "top1": round(100 * measured["top1"], 4),
            "top5": round(100 * measured["top5"], 4),
            "steps": rounds * per_round,
            "devices": strategy.num_replicas_in_sync,
        },
    )
    shutil.rmtree(backup)
    print(f"top-1 {measured['top1']:.2%}, top-5 {measured['top5']:.2%}, written to {weights}")


def prepare_run(output: pathlib.Path) -> pathlib.Path:
    """The folder of the run's state, with the flags of the run in it.

    Raises:
        ValueError: there is a killed run and no --resume, or one with other flags, or none to resume.
    """
    backup = output.with_name(f"{output.name}.backup")
    run_file = backup / "run.json"
    run = {name: FLAGS[name].value for name in RUN_FLAGS}
    if not FLAGS.resume:
        if backup.exists():
            raise ValueError(
                f"{backup} is that of a killed run: continue it with --resume, or remove it"
            )
        results.write_json(run_file, run)
        return backup
    if not run_file.exists():
        raise ValueError(f"nothing to resume: no {run_file}")
    found = json.loads(run_file.read_text(encoding="utf-8"))
    different = [f"--{key}={found.get(key)}" for key in run if found.get(key) != run[key]]
    if different:
        raise ValueError(
            f"{backup} belongs to a run with {' '.join(different)}: give the same flags"
        )
    return backup


def make_strategy():
    """All GPUs of the machine, or its CPU as --devices devices."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    count = FLAGS.devices or 1
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(count)],
        # Collective operations between the halves of one processor mostly wait for each other.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def starting_model() -> keras.Model:
    """ResNet50 with average pooling and the weights that --weights asks for."""
    keras.utils.set_random_seed(0)
    if FLAGS.weights != "imagenet":
        return load_network(AVERAGE_POOLED, FLAGS.weights, image_size=FLAGS.image_size).model
    model = resnet50(image_size=FLAGS.image_size)
    adopt_weights(model, load_network("resnet50").model)
    return model


def compile_model(model: keras.Model, steps: int) -> None:
    """Stochastic gradient descent with momentum, its rate falling to zero over `steps`."""
    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, steps),
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=FLAGS.weight_decay or None,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy("top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, "top5"),
        ],
    )


def batches(source: imagenet.ImageSource, training: bool):
    """tf.data.Dataset of (images, labels): endless and augmented for training, else one pass."""
    import tensorflow as tf

    size = FLAGS.image_size
    entropy = np.random.default_rng()

    def samples() -> Iterator[imagenet.Sample]:
        if not training:
            yield from imagenet.stream(
                source, lambda image: preprocessing.caffe(image, size), threads=FLAGS.threads
            )
        while training:
            yield from imagenet.stream(
                source,
                # A generator of its own for every image: they are not made for several threads.
                lambda image: preprocessing.augmented_caffe(image, size, np.random.default_rng()),
                seed=int(entropy.integers(1, 2**31)),
                threads=FLAGS.threads,
            )

    def usable() -> Iterator[tuple[np.ndarray, int]]:
        for sample in samples():
            if sample.image is None:
                print(f"skipped {sample.problem}", file=sys.stderr)
            else:
                yield sample.image, sample.label

    signature = (tf.TensorSpec((size, size, 3), tf.float32), tf.TensorSpec((), tf.int32))
    data = tf.data.Dataset.from_generator(usable, output_signature=signature)
    data = data.batch(FLAGS.batch_size, drop_remainder=training).prefetch(tf.data.AUTOTUNE)
    # Batches are split over devices; files would be, if they could.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


if __name__ == "__main__":
    runner.run(main, FLAGS)
