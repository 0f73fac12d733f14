"""What a command ends with when it can't do what was asked."""

from __future__ import annotations

from typing import Any


class UsageError(Exception):
    """Wrong arguments; the message says what is expected."""


class CommandError(Exception):
    """A file, a model or a value that can't be used; the message says which, and what to do."""


def one_line(message: Any) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())
