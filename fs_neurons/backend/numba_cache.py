"""Compilation of loops over numbers, kept between processes.

Numba's cache of a function is renewed when the file that holds it changes, but not when a function
changes that it calls from another file. Here it is renewed when any file of its folder changes.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def native(function: _Function) -> _Function:
    """`numba.njit`, cached on disk where a folder can be written to.

    It runs without Python's lock. Nothing here may relax IEEE arithmetic (`fastmath`): with it, results would differ by processor.
    """
    dispatcher: Any
    try:
        dispatcher = numba.njit(cache=True, nogil=True)(function)
        index = dispatcher._cache._cache_file  # noqa: SLF001
        index._source_stamp = (index._source_stamp, _digest(_folder_of(function)))  # noqa: SLF001
    except (RuntimeError, AttributeError):
        # No folder can be written to, or another version of Numba keeps its cache differently.
        dispatcher = numba.njit(nogil=True)(function)
    return cast(_Function, dispatcher)


def _folder_of(function: Callable[..., Any]) -> pathlib.Path:
    return pathlib.Path(function.__code__.co_filename).parent


@functools.cache
def _digest(folder: pathlib.Path) -> str:
    sources = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
