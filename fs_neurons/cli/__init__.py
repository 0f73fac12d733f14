"""The command line: `fs-neurons COMMAND ARGUMENTS`; `fs-neurons --help` lists the commands.

Every command is a call or two into the package, in a module of its own; `arguments` declares what each takes.
Keras and its backend are imported when a command runs, so that help and wrong usage are answered at once. A mistake
gives one line and exit code 2 (wrong usage) or 1 (anything else), never a traceback.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from fs_neurons.cli.arguments import COMMANDS, PROGRAM, parse
from fs_neurons.cli.errors import CommandError, UsageError, one_line, with_flags

__all__ = ["COMMANDS", "FAILED", "INTERRUPTED", "OK", "WRONG_USAGE", "main", "run"]

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; `argv` begins with the name of the program."""
    arguments = list(sys.argv if argv is None else argv)[1:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of libraries to their callers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            parsed = parse(arguments)
            # Keras and its backend start here.
            importlib.import_module("fs_neurons.cli.running").run_command(parsed)
        return OK if arguments else WRONG_USAGE
    except UsageError as error:
        return _complain(error, WRONG_USAGE)
    except CommandError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except SystemExit as end:  # --help and --version
        return OK if arguments and not end.code else WRONG_USAGE


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"{PROGRAM}: warning: {with_flags(one_line(message))}", file=sys.stderr)


def _complain(error: Any, code: int) -> int:
    print(f"{PROGRAM}: {one_line(error)}", file=sys.stderr)
    return code
