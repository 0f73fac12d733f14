"""What the experiments share: flags, errors in one line, file names, the test set, accuracy and spikes.

FLAGS = flags.FlagValues()                # of this experiment alone: many can be imported at once
runner.define_data_flags(FLAGS)

def main() -> None: ...

if __name__ == "__main__":
    runner.run(main, FLAGS)
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags
from absl.testing import flagsaver

import fs_neurons as fs
from experiments import paper, results
from fs_neurons import models
from fs_neurons.analysis.evaluation import Evaluation
from fs_neurons.backend import distribution
from fs_neurons.data import datasets
from fs_neurons.files import params_dir
from fs_neurons.files.models import SUFFIX, load_model, save_model
from fs_neurons.training import CheckpointError

# What bad flags, files and models raise; anything else is a defect and keeps its traceback.
USER_ERRORS = (
    ValueError, FileNotFoundError, datasets.DatasetUnavailable, distribution.WorkerLostError,
    CheckpointError,
)  # fmt: skip


# --- flags --------------------------------------------------------------------------------------


def define_output_flag(values: flags.FlagValues) -> None:
    """--output_dir."""
    flags.DEFINE_string(
        "output_dir", str(results.RESULTS_DIR), "Folder for the results.", flag_values=values
    )


def define_data_dir_flag(values: flags.FlagValues) -> None:
    """--data_dir."""
    flags.DEFINE_string(
        "data_dir", None, "Folder of tensorflow-datasets, such as the one that holds cifar10/.",
        flag_values=values,
    )  # fmt: skip


def define_data_flags(values: flags.FlagValues, batch_size: int = 250) -> None:
    """--data, --data_dir, --batch_size, --limit and --output_dir, for `load_test_set`."""
    flags.DEFINE_enum(
        "data", "auto", ["auto", *datasets.NAMES], "Data set; auto: CIFAR-10, else digits.",
        flag_values=values,
    )  # fmt: skip
    define_data_dir_flag(values)
    flags.DEFINE_integer(
        "batch_size", batch_size, "Images per forward pass.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "limit", None, "Use only the first so many test images.", lower_bound=1, flag_values=values
    )
    define_output_flag(values)


def define_relu_flags(values: flags.FlagValues) -> None:
    """--K and --alpha of FS-ReLU, for `fs.relu_parameters`."""
    flags.DEFINE_integer("K", paper.K, "Time steps of FS-ReLU.", lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "alpha", paper.ALPHA, "Upper end of the range of FS-ReLU.", flag_values=values
    )


def define_strategy_flag(values: flags.FlagValues) -> None:
    """--strategy, for `start`."""
    flags.DEFINE_enum(
        "strategy",
        "one",
        distribution.STRATEGIES,
        "One device, all GPUs of this machine, or the workers that TF_CONFIG names.",
        flag_values=values,
    )


# --- running ------------------------------------------------------------------------------------


def run(main: Callable[[], None], values: flags.FlagValues) -> None:
    """Runs an experiment as a program, with absl's own flags beside its own; ends the process.

    What is wrong with flags, files or data ends it with one line and exit code 1; --verbosity=1 gives
    the traceback instead.
    """
    name = sys.modules["__main__"].__spec__.name  # python -m experiments.NAME
    with beside_absl(values):
        app.run(lambda argv: _call(main, name, argv))


def run_here(
    main: Callable[[], None], values: flags.FlagValues, name: str, argv: Sequence[str]
) -> None:
    """Does in this process what `python -m NAME ARGV` does; the flags are as before when it ends.

    Raises:
        flags.Error: wrong flags.
        app.UsageError: arguments that are no flags.
        SystemExit: with a message, for one of `USER_ERRORS`.
    """
    token = results.running.set(shlex.join(["python", "-m", name, *argv]))
    try:
        with flagsaver.flagsaver(), beside_absl(values), _restored(values):
            _call(main, name, flags.FLAGS([name, *argv]))
    finally:
        results.running.reset(token)


@contextlib.contextmanager
def beside_absl(values: flags.FlagValues) -> Iterator[None]:
    """Adds an experiment's flags to those of the process, where absl parses them and --help lists them."""
    flags.FLAGS.append_flag_values(values)
    for name in values:
        flags.FLAGS.register_flag_by_module(sys.argv[0], values[name])
    values.mark_as_parsed()  # a flag is one object in both
    try:
        yield
    finally:
        flags.FLAGS.remove_flag_values(values)


@contextlib.contextmanager
def _restored(values: flags.FlagValues) -> Iterator[None]:
    saved = flagsaver.save_flag_values(values)
    try:
        yield
    finally:
        flagsaver.restore_flag_values(saved, values)


def _call(main: Callable[[], None], name: str, argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        main()
    except USER_ERRORS as error:
        if flags.FLAGS["verbosity"].value > 0:
            raise
        sys.exit(f"{name.rpartition('.')[2]}: {error}")


def start(name: str) -> distribution.Distribution:
    """The distribution of --strategy; call it before anything else that uses TensorFlow."""
    try:
        return distribution.start(name)
    except ValueError as error:
        raise ValueError(f"--strategy: {error}") from error


def showing() -> bool:
    """Whether progress is shown: where somebody looks at it."""
    return sys.stderr.isatty()


def progress(images: int | None, **options: Any) -> keras.utils.Progbar:
    """A progress bar over images, silent where nobody looks."""
    return keras.utils.Progbar(
        images, **{"verbose": int(showing()), "unit_name": "image", **options}
    )


# --- data, networks, files ----------------------------------------------------------------------


def load_test_set(values: flags.FlagValues) -> datasets.Dataset:
    """The test set that the flags ask for; says so in one line where it had to fall back to digits.

    Raises:
        datasets.DatasetUnavailable: --data=cifar10, and there is none.
    """
    if values.data != "auto":
        return datasets.load(values.data, "test", values.data_dir).take(values.limit)
    data, note = datasets.load_auto("test", values.data_dir)
    if note:
        print(note)
    return data.take(values.limit)


def training_images(values: flags.FlagValues, data: str, count: int) -> np.ndarray:
    """The first training images of a data set, standardised, for calibration: float32 (count, ...)."""
    training = datasets.load(data, "train", values.data_dir).take(count)
    return np.asarray(datasets.standardise(training.images))


def pretrained(name: str, data: str) -> keras.Model:
    """A trained network of the data set.

    Raises:
        ValueError: no such network.
        FileNotFoundError: it has no weights; the message says which command trains it.
    """
    try:
        return models.pretrained(name, data)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: python -m experiments.train_cifar10 --model={name} --data={data}"
        ) from error


def path(
    values: flags.FlagValues, stem: str, data: str = "cifar10", complete: bool = True
) -> pathlib.Path:
    """Where a result goes, without ending: --output_dir/STEM[_DATA][_partial].

    Args:
        values: flags with --output_dir.
        stem: name of the experiment.
        data: name of the data set; CIFAR-10, the paper's, isn't named.
        complete: whether all images and networks were measured; if not, the file is another one, so
            that it never replaces the complete result.
    """
    parts = [stem, *([] if data == "cifar10" else [data]), *([] if complete else ["partial"])]
    return pathlib.Path(values.output_dir) / "_".join(parts)


def params_path(folder: str | None, name: str, complete: bool = True) -> pathlib.Path:
    """Folder for networks: the one given, else params/NAME; params/NAME_partial if trained on less than all."""
    return pathlib.Path(folder) if folder else params_dir() / (name + "_partial" * (not complete))


def kept(path: pathlib.Path, make: Callable[[], keras.Model]) -> keras.Model:
    """The network in a file; it is made first where there is none, as that takes minutes."""
    if not path.exists():
        save_model(make(), path)
    return load_model(path)


def fingerprint(model: keras.Model, ignored: str = "") -> str:
    """Of everything that determines what a network computes.

    Args:
        ignored: pattern of what does not count, such as numbers that Keras gives to operations without a name.
    """
    text = re.sub(ignored, "", model.to_json()) if ignored else model.to_json()
    digest = hashlib.sha256(text.encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


# --- rows ---------------------------------------------------------------------------------------


def provenance(test_set: datasets.Dataset) -> dict[str, Any]:
    """`results.provenance` of what was measured on a test set."""
    return results.provenance(f"{test_set.name} test set", len(test_set))


def percent(share: float) -> float:
    """Per cent with four decimals: exact to the image for up to a million of them."""
    return round(100 * share, 4)


def title(name: str) -> str:
    """A network or data set as it is written in text: "cifar10/resnet20" is "ResNet20 on CIFAR-10"."""
    data, _, name = name.removesuffix(SUFFIX).rpartition("/")
    if data in datasets.NAMES:
        name += f" on {data}"
    words = {
        "resnet": "ResNet", "efficientnet_b": "EfficientNet-B", "efficientnet-b": "EfficientNet-B",
        "se_": "SE-", "_swish": ", Swish",
        "mobilenet": "MobileNet", "cifar": "CIFAR-", "spoken_digit": "spoken digits", "trec": "TREC",
        "digits_rows": "rows of digits", "_bilstm": ", bidirectional LSTM", "_lstm": ", LSTM", "_gru": ", GRU",
    }  # fmt: skip
    for short, long in words.items():
        name = name.replace(short, long)
    return name


def accuracy_and_spikes(
    ann: Evaluation, spiking: Evaluation, snn: keras.Model
) -> dict[str, float | int]:
    """What both networks do on the same images, as entries of a row: per cent, and spikes."""
    neurons = fs.conversion_report(snn).neurons
    return {
        "ann": percent(ann.accuracy),
        "snn": percent(spiking.accuracy),
        "agreement": percent(float((ann.predictions == spiking.predictions).mean())),
        "neurons": neurons,
        "spikes_per_image": spiking.spikes_per_image,
        "spikes_per_neuron": spiking.spikes_per_image / neurons,
    }
