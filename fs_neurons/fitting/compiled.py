"""Compilation of the inner loops, kept between processes.

Numba's cache of a function is renewed when the file that holds it changes, but not when a function
changes that it calls from another file. Here it is renewed when any file of this folder changes.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """`numba.njit`, cached on disk where a folder can be written to.

    Nothing here may relax IEEE arithmetic (`fastmath`): with it, results would differ by processor.
    """
    dispatcher: Any
    try:
        dispatcher = numba.njit(cache=True)(function)
        index = dispatcher._cache._cache_file  # noqa: SLF001
        index._source_stamp = (index._source_stamp, _digest())  # noqa: SLF001
    except (RuntimeError, AttributeError):
        # No folder can be written to, or another version of Numba keeps its cache differently.
        dispatcher = numba.njit(function)
    return cast(_Function, dispatcher)


@functools.cache
def _digest() -> str:
    sources = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
