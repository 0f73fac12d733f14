"""Files on disk: where shipped parameters are, and writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO, Any

_BINARY = getattr(os, "O_BINARY", 0)  # Windows: no translation of line ends below Python's own
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def params_dir() -> pathlib.Path:
    """The folder `params`: inside an installed package, beside it in a source tree."""
    installed = _PACKAGE / "params"
    return installed if installed.is_dir() else _PACKAGE.parent / "params"


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the block ends without error.

    A reader sees the old file or the new one, whole, and a kill at any moment leaves the old one.
    Missing folders are made.

    Args:
        path: file to write or replace.
        mode: "w" (text, UTF-8) or "wb".
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # The permissions of any new file; those of the tempfile module would be private ones.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        with open(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
