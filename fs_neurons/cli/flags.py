"""Values and flags that several commands have.

Choices that the package knows are written out here, as importing it takes seconds; a test compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

QUALITIES = ("paper", "accurate", "sparse")
UNSUPPORTED = ("raise", "keep", "fit")
GRANULARITIES = ("channel", "layer")
CORRECTIONS = ("none", "mean", "affine", "weights", "joint")
METHODS = ("bptt", "exact")
STRATEGIES = ("one", "mirrored", "multi_worker")
DATA_SETS = ("cifar10", "digits")


# --- values -------------------------------------------------------------------------------------


def at_least(minimum: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A number that is no less than `minimum`."""

    def convert(text: str) -> Any:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        return value

    convert.__name__ = f"{kind.__name__} value"
    return convert


def pair(text: str) -> tuple[float, float]:
    """LOW,HIGH."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be LOW,HIGH, got {text}") from None
    return low, high


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name for name in text.split(",") if name]


def assignment(text: str) -> tuple[str, str]:
    """ACTIVATION=SET."""
    activation, _, name = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(
            f"give ACTIVATION=SET, such as --set=silu=swish_k10, not {text}"
        )
    return activation, name


# --- flags that several commands have -----------------------------------------------------------


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """--allow_code."""
    parser.add_argument(
        "--allow_code", action="store_true",
        help="load Lambda layers too: runs the code stored in the file; only for files that you trust",
    )  # fmt: skip


def add_sets(parser: argparse.ArgumentParser) -> None:
    """What `fs.convert` takes about activations, beside their sets."""
    parser.add_argument(
        "--quality", choices=QUALITIES, default="accurate",
        help="fitted sets and ranges, channel by channel (accurate), those with fewer spikes (sparse), or"
        " the published sets (paper); default: accurate",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=names, default=[], metavar="NAMES",
        help="activations that stay, such as sigmoid; several with commas",
    )  # fmt: skip
    parser.add_argument(
        "--keep_layers", type=names, default=[], metavar="NAMES",
        help="layers whose activation stays, such as block/conv; several with commas",
    )  # fmt: skip
    parser.add_argument(
        "--unsupported", choices=UNSUPPORTED, default="raise",
        help="what has no parameter set: refuse it (raise), leave it (keep), or fit a set; default: raise",
    )  # fmt: skip
    parser.add_argument(
        "--keep_unsupported", dest="unsupported", action="store_const", const="keep",
        help="the same as --unsupported=keep",
    )  # fmt: skip
    parser.add_argument(
        "--convert_outputs", action="store_true",
        help="convert a sigmoid or tanh that is the output as well",
    )  # fmt: skip
    parser.add_argument(
        "--fold_batch_norm", action="store_true",
        help="put batch normalisation into the weights next to it",
    )  # fmt: skip


def add_images(
    parser: argparse.ArgumentParser,
    limit: int | None = None,
    default: str = "that of a shipped MODEL, else digits",
) -> None:
    """Where images come from, and how many.

    Args:
        parser: of a command.
        limit: how many images are used where --limit is missing; None for all.
        default: what --data is where it is missing, in words.
    """
    parser.add_argument(
        "--data", default=None,
        help=f"{', '.join(DATA_SETS)}, or a .npy file of images; default: {default}",
    )  # fmt: skip
    parser.add_argument(
        "--data_dir", default=None, metavar="FOLDER",
        help="folder of tensorflow-datasets that holds cifar10/; default: TFDS_DATA_DIR",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=at_least(1), default=limit, metavar="N",
        help="use only the first N images" + (f"; default: {limit}" if limit else ""),
    )  # fmt: skip
    parser.add_argument(
        "--batch_size", type=at_least(1), default=100, metavar="N",
        help="images per forward pass; default: 100",
    )  # fmt: skip


def add_labels(parser: argparse.ArgumentParser) -> None:
    """--labels."""
    parser.add_argument(
        "--labels", default=None, metavar="FILE.npy",
        help="class of each image, for images from a file; those of a data set are known",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", metavar="FILE", help="write everything measured to this file")
