"""Files on disk: where shipped parameters are, and writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def params_dir() -> pathlib.Path:
    """The folder `params`: inside an installed package, beside it in a source tree."""
    installed = _PACKAGE / "params"
    return installed if installed.is_dir() else _PACKAGE.parent / "params"


@contextlib.contextmanager
def write_atomically(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` that takes its place when the block ends without error.

    A reader sees the old file or the new one, whole, and a kill at any moment leaves the old one.
    Missing folders are made.

    Args:
        path: file to write or replace.
        mode: "w" (text, UTF-8) or "wb".
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give what any new file would get.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
