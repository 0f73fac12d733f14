"""Measuring side by side: seconds in turns, their quartiles and ratios, memory, and on which processor.

runs = {"Keras": waiting(model, x), "FS-neurons": waiting(snn, x)}
compared(in_turns(runs, rounds=9), unit=1e3 / len(x), against={"FS-neurons": "Keras"})
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from tabulate import tabulate

Run = Callable[[], Any]

# Instruction set -> bits of its vectors, the widest first, as /proc/cpuinfo names them.
VECTORS = {"avx512f": 512, "avx2": 256, "sse2": 128, "asimd": 128}
QUARTILES = (25, 50, 75)


def waiting(function: Callable[[Any], Any], x: np.ndarray) -> Run:
    """A call of `function` on `x` that waits until its results are there."""
    x = ops.convert_to_tensor(x)
    return lambda: [np.asarray(y[(0,) * len(y.shape)]) for y in keras.tree.flatten(function(x))]


def in_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each in every round, so that whatever else the machine does falls on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return {name: np.array(times) for name, times in seconds.items()}


def seconds_of(run: Run) -> float:
    """Of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def seconds_between(
    consume: Callable[[Iterator[np.ndarray]], Any], batches: Iterable[np.ndarray]
) -> np.ndarray:
    """Seconds from one batch to the next while `consume` takes them, without the first two, which compile."""
    taken: list[float] = []

    def noted() -> Iterator[np.ndarray]:
        for batch in batches:
            taken.append(time.perf_counter())
            yield batch
        taken.append(time.perf_counter())

    consume(noted())
    return np.diff(taken)[2:]


def compared(
    seconds: Mapping[str, np.ndarray], unit: float, against: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Quartiles of each in the given unit, and of its ratio to another, round by round.

    Args:
        seconds: of every round, by name.
        unit: what a second is multiplied by.
        against: name -> name of what it is compared with.

    Returns:
        Name -> quartiles (lower, median, upper); where it is compared, also against, ratio (the
        median) and ratio_spread (lower and upper quartile).
    """
    found: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        quartiles = np.percentile(times, QUARTILES) * unit
        found[name] = {"quartiles": [round(float(q), 5) for q in quartiles]}
        if name in against:
            ratios = np.percentile(times / seconds[against[name]], QUARTILES)
            low, median, high = (round(float(ratio), 3) for ratio in ratios)
            found[name] |= {
                "against": against[name], "ratio": median, "ratio_spread": [low, high],
            }  # fmt: skip
    return found


def as_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What `compared` gave, as text."""
    rows = []
    for name, entry in found.items():
        low, median, high = entry["quartiles"]
        ratio = ""
        if "ratio" in entry:
            ends = " to ".join(f"{end:.2f}" for end in entry["ratio_spread"])
            ratio = f"{entry['ratio']:.2f} x {entry['against']} ({ends})"
        rows.append((name, f"{low:.2f}", f"{median:.2f}", f"{high:.2f}", ratio))
    header = ("", "lower quartile", "median", "upper quartile", "ratio")
    align = ("left", "right", "right", "right", "left")
    return tabulate(rows, header, disable_numparse=True, colalign=align)


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module gives in a process of its own, where nothing has been compiled before."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(run: Run) -> int | None:
    """Bytes that a call has at most beyond what the process holds before it; None where /proc can't tell.

    To be measured by `in_a_process`: frameworks keep what earlier calls have freed, and use it again.
    """
    before = None
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # gives back what earlier calls have freed
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
        before = _status("VmRSS")
    run()
    return None if before is None else _status("VmHWM") - before


def _status(name: str) -> int:
    """An entry of /proc/self/status, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+) kB", status)
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return 1024 * int(found[1])


def processor(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> dict[str, Any]:
    """Name of the processor, bits of its widest vectors, and how many cores this process may use.

    Without /proc/cpuinfo the name is Python's, and the width None.
    """
    path = pathlib.Path(cpuinfo)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count()
    name = re.search(r"model name\s*: *(.+)", text)
    features = re.search(r"(?:flags|Features)\s*: *(.+)", text)
    known = set(features[1].split()) if features else set()
    return {
        "name": name[1].strip() if name else platform.processor() or platform.machine(),
        "vector_bits": next((bits for key, bits in VECTORS.items() if key in known), None),
        "cores": cores,
    }
