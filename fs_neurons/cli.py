"""The command line: `fs-neurons COMMAND ARGUMENTS`; `fs-neurons --help` lists the commands.

Every command is a call or two into the package. A mistake gives one line and exit code 2 (wrong usage) or 1
(anything else), never a traceback.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from absl import flags
from tabulate import tabulate

import fs_neurons as fs
from fs_neurons import fitting, models
from fs_neurons.analysis import drawing
from fs_neurons.backend.distribution import STRATEGIES, STRATEGY_HELP, WorkerLostError, start
from fs_neurons.data import datasets
from fs_neurons.files import write_atomically
from fs_neurons.files.models import load_model, save_model
from fs_neurons.neuron import sets as parameters

PROGRAM = "fs-neurons"
OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
# What bad files, flags and models raise; anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, datasets.DatasetUnavailable, WorkerLostError)


class UsageError(Exception):
    """Wrong arguments; the message says what is expected."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: what it does, its positional arguments, its flags.

    Attributes:
        run: takes the positional arguments and the parsed flags; its docstring is the help.
        arguments: names of the positional arguments.
        flags: of this command.
    """

    run: Callable[..., None]
    arguments: tuple[str, ...]
    flags: flags.FlagValues

    @property
    def summary(self) -> str:
        return self.description.splitlines()[0]

    @property
    def description(self) -> str:
        return inspect.getdoc(self.run) or ""

    @property
    def usage(self) -> str:
        return " ".join([PROGRAM, self.run.__name__, *self.arguments, "[flags]"])

    @property
    def help(self) -> str:
        described = [self.flags[name] for name in sorted(self.flags) if name != "help"]
        lines = [f"usage: {self.usage}", "", self.description]
        if described:
            rows = [(f"  --{flag.name}", f"{_text(flag)}{_default(flag)}") for flag in described]
            lines += ["", "flags:", tabulate(rows, tablefmt="plain")]
        return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; `argv` begins with the name of the program."""
    arguments = list(sys.argv if argv is None else argv)[1:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of libraries to their callers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            return _dispatch(arguments)
    except (UsageError, flags.Error) as error:
        return _complain(error, WRONG_USAGE)
    except USER_ERRORS as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "-help", "help"):
        print(_overview())
        return OK if arguments else WRONG_USAGE
    if arguments[0] == "--version":
        print(f"{PROGRAM} {fs.__version__}")
        return OK
    command = COMMANDS.get(arguments[0])
    if command is None:
        raise UsageError(f"no command {arguments[0]!r}: give one of {', '.join(COMMANDS)}")
    if {"-h", "--help", "-help"} & set(arguments[1:]):
        print(command.help)
        return OK
    given = copy.deepcopy(command.flags)
    positional = given(arguments)[1:]
    if len(positional) != len(command.arguments):
        raise UsageError(f"usage: {command.usage}; {PROGRAM} {arguments[0]} --help says more")
    command.run(*positional, flag=given)
    return OK


def _overview() -> str:
    rows = [(f"  {name}", command.summary) for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Turns trained Keras networks into spiking ones, with about two spikes per neuron.",
            "",
            f"usage: {PROGRAM} COMMAND ARGUMENTS [flags]",
            "",
            tabulate(rows, tablefmt="plain"),
            "",
            "To begin with, a network that is shipped with the package:",
            "",
            f"  {PROGRAM} convert digits/resnet8 snn.keras",
            f"  {PROGRAM} profile snn.keras --data=digits",
            "",
            f"{PROGRAM} COMMAND --help says what a command takes.",
        ]
    )


def _text(flag: flags.Flag) -> str:
    return flag.help.split(";\n")[0]  # without what absl adds about repeating it


def _default(flag: flags.Flag) -> str:
    if flag.default in (None, [], False):
        return ""
    value = flag.default
    return f" Default: {','.join(map(str, value)) if isinstance(value, list) else value}."


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"{PROGRAM}: warning: {_one_line(message)}", file=sys.stderr)


def _complain(error: Any, code: int) -> int:
    print(f"{PROGRAM}: {_one_line(error)}", file=sys.stderr)
    return code


def _one_line(message: Any) -> str:
    return " ".join(str(message).split())


# --- commands -----------------------------------------------------------------------------------


def convert(model_name: str, output: str, flag: flags.FlagValues) -> None:
    """Replaces every activation of a trained network by FS-neurons, and prints which became what.

    MODEL is a .keras file, or one of the networks shipped with the package, such as digits/resnet8 or
    cifar10/resnet20. OUT is the .keras file to write; it loads again after `import fs_neurons`.

    examples:
      fs-neurons convert digits/resnet8 snn.keras
      fs-neurons convert model.keras snn.keras --quality=accurate
      fs-neurons convert model.keras snn.keras --K=6 --alpha=10 --keep=sigmoid
      fs-neurons convert model.keras snn.keras --set=gelu=gelu_k12 --set=silu=mine.json
    """
    sets: dict[str, Any] = {}
    if flag["K"].present or flag["alpha"].present:
        sets["relu"] = fs.relu_parameters(flag.K, flag.alpha)
    for entry in flag.set:
        activation, _, name = entry.partition("=")
        if not name:
            raise UsageError(f"--set={entry}: give ACTIVATION=SET, such as --set=silu=swish_k10")
        sets[activation] = name
    model = _network(model_name, flag.allow_code)
    snn = fs.convert(
        model,
        quality=flag.quality,
        keep=flag.keep,
        unsupported="keep" if flag.keep_unsupported else "raise",
        fold_batch_norm=flag.fold_batch_norm,
        **sets,
    )
    save_model(snn, output)
    print(fs.conversion_report(snn))
    print(f"Written to {output}")


def profile(model_name: str, flag: flags.FlagValues) -> None:
    """Runs a converted network over images and prints spikes, inputs, operations and energy per site.

    MODEL is what `fs-neurons convert` wrote. Images are those of a data set, standardised as the shipped
    networks expect, or a .npy file that holds just what the network takes, images first.

    examples:
      fs-neurons profile snn.keras --data=digits
      fs-neurons profile snn.keras --data=images.npy --json=profile.json --plot=profile.png
    """
    distribution = start(flag.strategy)
    with distribution.scope():
        snn = _network(model_name, flag.allow_code)
    images = _images(flag.data, flag.data_dir, flag.limit)
    _check_shape(snn, images)
    distribution.check_same(
        "what they profile", f"{snn.count_params()} parameters, images {images.shape}"
    )
    result = fs.profile(
        snn, images, batch_size=flag.batch_size, distribution=distribution,
        verbose=distribution.is_chief and sys.stderr.isatty(),
    )  # fmt: skip
    if not distribution.is_chief:
        return
    print(result)
    if flag.json:
        with write_atomically(flag.json) as file:
            file.write(result.to_json() + "\n")
        print(f"Written to {flag.json}")
    if flag.plot:
        _save_picture(result.plot(), flag.plot)


def fit(output: str, flag: flags.FlagValues) -> None:
    """Finds T, h and d of an FS-neuron for a function, and writes them as a parameter set.

    OUT is a .json file, which `fs-neurons convert --set=NAME=OUT` and fs.register take. The function is
    a Keras activation by name, or MODULE:FUNCTION, a Python function of a numpy array that is imported
    from the current folder or from what is installed.

    examples:
      fs-neurons fit gelu.json --function=gelu --K=12
      fs-neurons fit bump.json --function=my_functions:bump --domain=-3,3 --K=10
    """
    if pathlib.Path(output).suffix != ".json":
        raise UsageError(f"{output}: a parameter set is a .json file")
    fitted = fs.fit(
        _function(flag.function),
        flag.K,
        _pair(flag.domain, "--domain"),
        spike_penalty=flag.spike_penalty,
        guard=flag.guard,
        method=flag.method,
        effort=flag.effort,
        seed=flag.seed,
        time_budget=flag.time_budget,
        name=flag.name or pathlib.Path(output).stem,
        verbose=sys.stderr.isatty(),
    )
    parameters.save(fitted, output, activation=flag.function.rpartition(":")[2])
    print(tabulate(fitted.errors.items(), ("measured", fitted.name), floatfmt=".3g"))
    print(f"out of range: {fitted.out_of_range}")
    print(f"Written to {output}")


def plot(name: str, output: str, flag: flags.FlagValues) -> None:
    """Draws a parameter set: its response and T, h, d; or, with --x, one neuron over its time steps.

    SET is the name of a shipped set (`fs-neurons sets` lists them) or a .json file, OUT a picture: .png,
    .svg or .pdf.

    examples:
      fs-neurons plot swish_k16 swish.png --function=silu
      fs-neurons plot swish_k16_paper neuron.png --function=silu --x=1.3
    """
    chosen = parameters.load(name)
    function = None if flag.function is None else _on_arrays(_function(flag.function))
    if flag.x is not None:
        figure = drawing.draw_neuron(chosen, flag.x, function)
    else:
        span = _pair(flag.span, "--span") if flag.span else _span(chosen)
        figure = drawing.draw_response({chosen.name: chosen}, function, span, flag.function or "")
    _save_picture(figure, output)


def sets(flag: flags.FlagValues) -> None:
    """Lists the parameter sets that are shipped, with their time steps and domains."""
    rows = []
    for name in parameters.available():
        loaded = parameters.load(name)
        low, high = loaded.domain
        error = next((v for k, v in loaded.errors.items() if k.startswith("mse")), None)
        rows.append((name, loaded.K, f"{low:g} to {high:g}", error))
    print(tabulate(rows, ("set", "K", "domain", "mean squared error"), floatfmt=".2e"))


# --- what flags and arguments stand for ---------------------------------------------------------


def _network(name: str, allow_code: bool) -> keras.Model:
    data, _, network = name.partition("/")
    if network in models.NETWORKS and data in models.INPUT_SHAPES:
        return models.pretrained(network, data)
    return load_model(name, allow_code=allow_code)


def _images(data: str, data_dir: str | None, limit: int | None) -> np.ndarray:
    if data in datasets.NAMES:
        test = datasets.load(data, "test", data_dir).take(limit)
        return keras.ops.convert_to_numpy(datasets.standardise(test.images))
    if pathlib.Path(data).suffix != ".npy":
        raise UsageError(f"--data={data}: give {', '.join(datasets.NAMES)}, or a .npy file")
    if not pathlib.Path(data).is_file():
        raise FileNotFoundError(f"{data}: no such file")
    try:
        images = np.load(data, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{data}: not an array of numbers ({error})") from error
    if images.ndim < 2 or not np.issubdtype(images.dtype, np.number):
        raise ValueError(f"{data}: holds {images.dtype} {images.shape}; give numbers, images first")
    return images[:limit]


def _check_shape(model: keras.Model, images: np.ndarray) -> None:
    if len(model.inputs) != 1:
        raise ValueError(
            f"model {model.name!r} has {len(model.inputs)} inputs; use fs.profile from Python"
        )
    expected = model.inputs[0].shape[1:]
    given = images.shape[1:]
    if len(expected) != len(given) or any(
        e not in (None, g) for e, g in zip(expected, given, strict=True)
    ):
        raise ValueError(
            f"model {model.name!r} takes images of shape {expected}, these are {given}"
        )


def _function(name: str) -> str | Callable[[np.ndarray], Any]:
    """A Keras activation's name as it is; MODULE:FUNCTION imported."""
    module_name, colon, function_name = name.partition(":")
    if not colon:
        if not callable(getattr(keras.activations, name, None)):
            raise UsageError(
                f"--function={name}: no Keras activation; give one, such as gelu, or MODULE:FUNCTION"
            )
        return name
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--function={name}: {error}") from error
    if not callable(function):
        raise UsageError(f"--function={name}: is not a function")
    return function


def _on_arrays(function: str | Callable) -> str | Callable:
    """A function of one's own takes numpy arrays; drawings call it with tensors."""
    if isinstance(function, str):
        return function
    return lambda x: function(keras.ops.convert_to_numpy(x).astype(np.float64))


def _pair(values: list[str], flag_name: str) -> tuple[float, float]:
    try:
        low, high = map(float, values)
    except ValueError:
        raise UsageError(f"{flag_name} must be LOW,HIGH, got {','.join(values)}") from None
    return low, high


def _span(chosen: fs.FSParameters) -> tuple[float, float]:
    """What to draw when nothing is said: the domain, with something on either side of an open end."""
    low, high = chosen.domain
    high = high if np.isfinite(high) else max(10.0, 2 * low)
    low = low if np.isfinite(low) else -0.4 * abs(high)
    return low, high


def _save_picture(figure: Any, path: str) -> None:
    kind = pathlib.Path(path).suffix.removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise UsageError(f"{path}: a picture is a .png, .svg or .pdf file")
    with write_atomically(path, "wb") as file:
        figure.savefig(file, format=kind, dpi=150, bbox_inches="tight")
    print(f"Written to {path}")


# --- flags --------------------------------------------------------------------------------------


_CONVERT, _PROFILE, _FIT, _PLOT, _SETS = (flags.FlagValues() for _ in range(5))

for _values in (_CONVERT, _PROFILE):
    flags.DEFINE_bool(
        "allow_code", False,
        "Load Lambda layers too: runs the code stored in MODEL. Only for files that you trust.",
        flag_values=_values,
    )  # fmt: skip

flags.DEFINE_enum(
    "quality", "paper", list(parameters.QUALITIES),
    "Published sets (paper), fitted ones (accurate), those with the fewest spikes (sparse).",
    flag_values=_CONVERT,
)  # fmt: skip
flags.DEFINE_integer("K", 10, "Time steps of FS-ReLU.", lower_bound=1, flag_values=_CONVERT)
flags.DEFINE_float("alpha", 25.0, "Upper end of the range of FS-ReLU.", flag_values=_CONVERT)
flags.DEFINE_multi_string(
    "set", [], "ACTIVATION=SET, a shipped set or a .json file; may be repeated.",
    flag_values=_CONVERT,
)  # fmt: skip
flags.DEFINE_list("keep", [], "Activations that stay, such as sigmoid.", flag_values=_CONVERT)
flags.DEFINE_bool(
    "fold_batch_norm", False, "Put batch normalisation into the weights next to it.",
    flag_values=_CONVERT,
)  # fmt: skip
flags.DEFINE_bool(
    "keep_unsupported", False, "Leave what has no parameter set as it is, instead of refusing.",
    flag_values=_CONVERT,
)  # fmt: skip

flags.DEFINE_string(
    "data", "digits", "digits, cifar10, or a .npy file of images.", flag_values=_PROFILE
)
flags.DEFINE_string(
    "data_dir", None,
    "Folder of tensorflow-datasets that holds cifar10/; TFDS_DATA_DIR when missing.",
    flag_values=_PROFILE,
)  # fmt: skip
flags.DEFINE_integer(
    "limit", None, "Use only the first so many images.", lower_bound=1, flag_values=_PROFILE
)
flags.DEFINE_integer(
    "batch_size", 100, "Images per forward pass.", lower_bound=1, flag_values=_PROFILE
)
flags.DEFINE_enum("strategy", "one", STRATEGIES, STRATEGY_HELP, flag_values=_PROFILE)
flags.DEFINE_string("json", None, "Write everything measured to this file.", flag_values=_PROFILE)
flags.DEFINE_string("plot", None, "Write a picture to this file.", flag_values=_PROFILE)

flags.DEFINE_string("function", "silu", "Keras activation, or MODULE:FUNCTION.", flag_values=_FIT)
flags.DEFINE_integer("K", 12, "Time steps.", lower_bound=1, flag_values=_FIT)
flags.DEFINE_list("domain", ["-8", "12"], "LOW,HIGH of gate inputs.", flag_values=_FIT)
flags.DEFINE_float(
    "spike_penalty", 0.0, "Cost of a spike, as mean squared error.", lower_bound=0,
    flag_values=_FIT,
)  # fmt: skip
flags.DEFINE_bool(
    "guard", False, "Ask the response to saturate outside the domain.", flag_values=_FIT
)
flags.DEFINE_enum("method", "exact", sorted(fitting.EFFORT), "How to fit.", flag_values=_FIT)
flags.DEFINE_integer(
    "effort", None, "Evaluations, or gradient steps for bptt; 2,000,000 or 2,000 when missing.",
    lower_bound=1, flag_values=_FIT,
)  # fmt: skip
flags.DEFINE_integer("seed", 0, "Seed of starts and moves.", lower_bound=0, flag_values=_FIT)
flags.DEFINE_float("time_budget", 60.0, "Seconds, at most.", lower_bound=0, flag_values=_FIT)
flags.DEFINE_string("name", None, "Name of the set; that of OUT when missing.", flag_values=_FIT)

flags.DEFINE_string("function", None, "What the set emulates, drawn beside it.", flag_values=_PLOT)
flags.DEFINE_float("x", None, "Gate input of the one neuron to draw.", flag_values=_PLOT)
flags.DEFINE_list("span", [], "LOW,HIGH to draw; the set's domain when missing.", flag_values=_PLOT)

COMMANDS = {
    "convert": Command(convert, ("MODEL", "OUT.keras"), _CONVERT),
    "profile": Command(profile, ("MODEL",), _PROFILE),
    "fit": Command(fit, ("OUT.json",), _FIT),
    "plot": Command(plot, ("SET", "OUT"), _PLOT),
    "sets": Command(sets, (), _SETS),
}


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
