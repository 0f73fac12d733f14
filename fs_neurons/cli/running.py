"""Runs a parsed command; from here on Keras and its backend are needed."""

from __future__ import annotations

import argparse
import importlib

from fs_neurons.backend.distribution import WorkerLostError
from fs_neurons.cli.errors import CommandError, with_flags
from fs_neurons.data.datasets import DatasetUnavailable

# What bad files, flags and models raise; anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, DatasetUnavailable, WorkerLostError)


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
