"""What each command takes: parsers that need neither Keras nor its backend."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

import fs_neurons
from fs_neurons.cli.errors import UsageError
from fs_neurons.cli.flags import (
    CORRECTIONS,
    GRANULARITIES,
    METHODS,
    STRATEGIES,
    add_allow_code,
    add_images,
    add_json,
    add_labels,
    add_sets,
    assignment,
    at_least,
    pair,
)

PROGRAM = "fs-neurons"


class _Parser(argparse.ArgumentParser):
    """Mistakes are raised, and the program itself prints them in its way."""

    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().split())
        raise UsageError(f"{message}; {usage}; {self.prog} --help says more")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments as attributes; `command` is the name of the command.

    Raises:
        UsageError: wrong arguments.
        SystemExit: after --help or --version, or without any argument.
    """
    parser = _overview()
    if not arguments or arguments[0] == "help":
        parser.print_help()
        raise SystemExit(0)
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UsageError(f"no command {arguments[0]!r}: give one of {', '.join(COMMANDS)}")
    return parser.parse_args(arguments)


def _overview() -> _Parser:
    parser = _Parser(
        PROGRAM,
        usage=f"{PROGRAM} COMMAND ARGUMENTS [flags]",
        description="Turns trained Keras networks into spiking ones, with about two spikes per neuron.",
        epilog=OVERVIEW,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {fs_neurons.__version__}",
        help="show the version and exit",
    )  # fmt: skip
    commands = parser.add_subparsers(
        title="commands", metavar="", dest="command", required=True, prog=PROGRAM
    )
    for name, (declare, usage, description) in COMMANDS.items():
        summary = description.split("\n", 1)[0]
        command = commands.add_parser(
            name,
            usage=" ".join([PROGRAM, name, usage, "[flags]"]).replace("  ", " "),
            help=summary[:1].lower() + summary[1:].rstrip("."),
            description=description,
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        declare(command)
    return parser


OVERVIEW = """\
to begin with, a network that is shipped with the package:

  fs-neurons convert digits/resnet8 snn.keras
  fs-neurons profile snn.keras --data=digits

fs-neurons COMMAND --help says what a command takes."""


# --- commands -----------------------------------------------------------------------------------


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("output", metavar="OUT.keras")
    add_sets(parser)
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="ACTIVATION=SET",
        help="a shipped set or a .json file for an activation; may be repeated",
    )  # fmt: skip
    parser.add_argument("--K", type=at_least(1), help="time steps of FS-ReLU; default: 10")
    parser.add_argument(
        "--alpha", type=float, help="upper end of the range of FS-ReLU; default: 25"
    )
    add_images(parser, limit=1000, default="none, so that nothing is measured")
    add_labels(parser)
    add_allow_code(parser)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("output", metavar="OUT.keras")
    add_images(parser, limit=1000)
    parser.add_argument("--steps", type=at_least(1), metavar="K", help="time steps of all sites")
    parser.add_argument(
        "--granularity", choices=GRANULARITIES, default="channel",
        help="whether ReLUs get their range per channel or per layer; default: channel",
    )  # fmt: skip
    parser.add_argument(
        "--spike_penalty", type=at_least(0, float), default=0.0, metavar="COST",
        help="what a spike costs, relative to the squared error of its site; 0.01 to 0.1 save spikes",
    )  # fmt: skip
    parser.add_argument(
        "--target_spikes", type=float, metavar="SPIKES", help="spikes per neuron to come down to"
    )
    parser.add_argument(
        "--correction", choices=CORRECTIONS,
        help="how errors are compensated for; default: joint with few steps, else weights",
    )  # fmt: skip
    add_sets(parser)
    add_allow_code(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    add_images(parser)
    add_labels(parser)
    add_json(parser)
    add_allow_code(parser)


def _profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    add_images(parser)
    parser.add_argument(
        "--strategy", choices=STRATEGIES, default="one",
        help="one device, all GPUs of this machine, or the workers that TF_CONFIG names; default: one",
    )  # fmt: skip
    add_json(parser)
    parser.add_argument("--plot", metavar="PICTURE", help="write a picture to this file")
    add_allow_code(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("snn", metavar="SNN")
    add_images(parser)
    add_labels(parser)
    add_json(parser)
    add_allow_code(parser)


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("output", metavar="OUT.csv")
    add_images(parser, limit=1)
    add_allow_code(parser)


def _fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT.json")
    parser.add_argument(
        "--function", default="silu", help="Keras activation, or MODULE:FUNCTION; default: silu"
    )
    parser.add_argument("--K", type=at_least(1), default=12, help="time steps; default: 12")
    parser.add_argument(
        "--domain", type=pair, default=(-8.0, 12.0), metavar="LOW,HIGH",
        help="of gate inputs, as --domain=-8,12, the default",
    )  # fmt: skip
    parser.add_argument(
        "--spike_penalty", type=at_least(0, float), default=0.0, metavar="COST",
        help="cost of a spike, as mean squared error; default: 0",
    )  # fmt: skip
    parser.add_argument(
        "--guard", action="store_true", help="ask the response to saturate outside the domain"
    )
    parser.add_argument(
        "--method", choices=METHODS, default="exact", help="how to fit; default: exact"
    )
    parser.add_argument(
        "--effort", type=at_least(1), metavar="N",
        help="evaluations, or gradient steps for bptt; default: 2,000,000 or 2,000",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="of starts and moves; default: 0"
    )
    parser.add_argument(
        "--time_budget", type=at_least(0, float), default=60.0, metavar="SECONDS",
        help="at most; default: 60",
    )  # fmt: skip
    parser.add_argument("--name", help="of the set; default: that of OUT")


def _plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", metavar="SET")
    parser.add_argument("output", metavar="OUT")
    parser.add_argument("--function", help="what the set emulates, drawn beside it")
    parser.add_argument("--x", type=float, help="gate input of the one neuron to draw")
    parser.add_argument(
        "--span", type=pair, metavar="LOW,HIGH",
        help="what to draw, as --span=-2,2; default: the set's domain",
    )  # fmt: skip


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


# Name -> flags, positional arguments, and what it does: the first line is its summary.
COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str, str]] = {
    "convert": (_convert, "MODEL OUT.keras", """\
Replaces every activation of a trained network by FS-neurons, and prints which became what.

MODEL is a .keras file, or one of the networks shipped with the package, such as digits/resnet8 or
cifar10/resnet20. OUT is the .keras file to write; it loads again after `import fs_neurons`. With --data it
ends with a summary: accuracy before and after, spikes, what did not become spiking, and what to do next.

examples:
  fs-neurons convert digits/resnet8 snn.keras --data=digits
  fs-neurons convert model.keras snn.keras --quality=paper
  fs-neurons convert model.keras snn.keras --K=6 --alpha=10 --keep=sigmoid
  fs-neurons convert model.keras snn.keras --set=gelu=gelu_k12 --set=silu=mine.json"""),
    "calibrate": (_calibrate, "MODEL OUT.keras", """\
Converts a network with FS-neurons fitted to its own gate inputs: few time steps, no labels.

Images are the training images of a data set, standardised as the shipped networks expect, or a .npy
file that holds just what the network takes, images first. 500 to 1,000 do.

examples:
  fs-neurons calibrate digits/resnet8 snn.keras --steps=4
  fs-neurons calibrate model.keras snn.keras --data=images.npy --steps=5 --target_spikes=0.8"""),
    "evaluate": (_evaluate, "MODEL", """\
Runs a network over images and prints its accuracy and its spikes.

MODEL is any network with one score per class, converted or not; accuracy is left out where there are no
labels.

examples:
  fs-neurons evaluate digits/resnet8
  fs-neurons evaluate snn.keras --data=images.npy --labels=labels.npy"""),
    "profile": (_profile, "MODEL", """\
Runs a converted network over images and prints spikes, inputs, operations and energy per site.

MODEL is what `fs-neurons convert` wrote. Images are those of a data set, standardised as the shipped
networks expect, or a .npy file that holds just what the network takes, images first.

examples:
  fs-neurons profile snn.keras --data=digits
  fs-neurons profile snn.keras --data=images.npy --json=profile.json --plot=profile.png"""),
    "compare": (_compare, "MODEL SNN", """\
Compares a converted network with the original: which site loses accuracy, and why.

examples:
  fs-neurons compare digits/resnet8 snn.keras
  fs-neurons compare model.keras snn.keras --data=images.npy --json=comparison.json"""),
    "simulate": (_simulate, "MODEL OUT.csv", """\
Runs a converted network step by step, and writes every spike as a row: image, site, step, neuron.

Steps count from the entry of the first image; a neuron is an index in the flattened shape of its site.

example:
  fs-neurons simulate snn.keras spikes.csv --data=digits --limit=2"""),
    "fit": (_fit, "OUT.json", """\
Finds T, h and d of an FS-neuron for a function, and writes them as a parameter set.

OUT is a .json file, which `fs-neurons convert --set=NAME=OUT` and fs.register take. The function is
a Keras activation by name, or MODULE:FUNCTION, a Python function of a numpy array that is imported
from the current folder or from what is installed.

examples:
  fs-neurons fit gelu.json --function=gelu --K=12
  fs-neurons fit bump.json --function=my_functions:bump --domain=-3,3 --K=10"""),
    "plot": (_plot, "SET OUT", """\
Draws a parameter set: its response and T, h, d; or, with --x, one neuron over its time steps.

SET is the name of a shipped set (`fs-neurons sets` lists them) or a .json file, OUT a picture: .png,
.svg or .pdf.

examples:
  fs-neurons plot swish_k16 swish.png --function=silu
  fs-neurons plot swish_k16_paper neuron.png --function=silu --x=1.3"""),
    "sets": (_nothing, "", "Lists the parameter sets that are shipped, with their time steps and domains."),
    "networks": (_nothing, "", """\
Lists the networks that are shipped: trained ones, and fine-tuned spiking ones.

Each name can be given as MODEL to the other commands."""),
}  # fmt: skip
