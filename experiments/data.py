"""Flags of the experiments that evaluate networks, and the test set that they name."""

from __future__ import annotations

from absl import flags

from experiments import results
from fs_neurons.data import datasets

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "data", "auto", ["auto", *datasets.NAMES], "Data set; auto: CIFAR-10, else digits."
)
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets that holds cifar10/.")
flags.DEFINE_integer("batch_size", 250, "Images per forward pass.", lower_bound=1)
flags.DEFINE_integer("limit", None, "Use only the first so many test images.", lower_bound=1)
flags.DEFINE_string("output_dir", str(results.RESULTS_DIR), "Folder for the results.")


def load_test_set() -> datasets.Dataset:
    """The test set that the flags ask for; says so in one line where it had to fall back to digits.

    Raises:
        datasets.DatasetUnavailable: --data=cifar10, and there is none.
    """
    if FLAGS.data != "auto":
        return datasets.load(FLAGS.data, "test", FLAGS.data_dir).take(FLAGS.limit)
    data, note = datasets.load_auto("test", FLAGS.data_dir)
    if note:
        print(note)
    return data.take(FLAGS.limit)
