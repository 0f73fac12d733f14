"""Runs a parsed command; from here on Keras and its backend are needed."""

from __future__ import annotations

import argparse
import importlib
import re

from fs_neurons.backend.distribution import WorkerLostError
from fs_neurons.cli.errors import CommandError
from fs_neurons.data.datasets import DatasetUnavailable

# What bad files, flags and models raise; anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, DatasetUnavailable, WorkerLostError)

# What the package advises to pass in Python -> the flag.
_ADVICE = (
    (r"(?:fs\.)?\b(?:convert|load_model)\((?:model|path), (.+?)\)", r"\1"),
    (r'\bunsupported="keep"', "--keep_unsupported"),
    (r"\ballow_code=True", "--allow_code"),
    (r"\bfold_batch_norm=True", "--fold_batch_norm"),
    (r"\brelu=(?:fs\.)?relu_parameters\(K, alpha\)", "--K and --alpha"),
    (r'\bkeep=\("(\w+)",?\)', r"--keep=\1"),
    (r"\bcalibration_data\b", "images (fs-neurons calibrate)"),
    (r"\b(data_dir|target_spikes|spike_penalty|granularity|correction|quality|batch_size)\b(?=( or .*)?(=| must|, not both))",
     r"--\1"),
    (r"(?<!-)(?<!\w)(?!(?:K|alpha|name|set)=)(\w+)=\.\.\.", r"--set=\1=SET"),
)  # fmt: skip


def run_command(parsed: argparse.Namespace) -> None:
    """Runs the command of that name, a module of this package.

    Raises:
        UsageError: wrong arguments.
        CommandError: for one of `USER_ERRORS`.
    """
    command = importlib.import_module(f"fs_neurons.cli.{parsed.command}")
    try:
        command.run(parsed)
    except USER_ERRORS as error:
        raise CommandError(with_flags(str(error))) from error


def with_flags(message: str) -> str:
    """A message of the package with flags in place of Python arguments."""
    for pattern, flag in _ADVICE:
        message = re.sub(pattern, flag, message)
    return message
