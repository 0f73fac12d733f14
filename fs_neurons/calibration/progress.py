"""A progress bar with the time left and the name of what is at work."""

from __future__ import annotations

import sys
import time

WIDTH, NAME = 30, 40
# Seconds between two updates.
EVERY = 0.1


class Progress:
    """Shows a bar on stderr when called; nothing unless `verbose`.

    progress(3, 40, "conv2")     # the fourth of 40
    progress(40, 40, "")         # the end
    """

    def __init__(self, verbose: bool):
        self._verbose = verbose
        self._begin = self._shown = 0.0

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if done == 0:
            self._begin = now
        if not self._verbose or (0 < done < total and now - self._shown < EVERY):
            return
        self._shown = now
        filled = WIDTH * done // total
        bar = "=" * filled + "." * (WIDTH - filled)
        end = "\n" if done == total else ""
        spent = now - self._begin
        # As if all took the same time, which is what there is to say.
        left = f", {spent * (total - done) / done:.0f}s left" if 0 < done < total else ""
        text = f"{spent:.0f}s{left} {name[:NAME]}"
        sys.stderr.write(f"\r{done}/{total} [{bar}] {text:{NAME + WIDTH}}{end}")
        sys.stderr.flush()
