"""Results as tables for people: columns in words, equal decimals, rows in order, the paper below what was measured."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import results, runner

# Key of a row -> heading of its column; keys that are not here are shown with spaces for underscores.
HEADINGS = {
    "ann": "ANN %", "snn": "FS %", "difference": "difference", "agreement": "agreement %",
    "ann_top1": "ANN top-1 %", "ann_top5": "ANN top-5 %", "snn_top1": "FS top-1 %",
    "snn_top5": "FS top-5 %", "spikes_per_image": "spikes/image",
    "spikes_per_neuron": "spikes/neuron", "fs_layers": "FS layers", "mse": "mean squared error",
    "mse_in_main_region": "error in [−2, 2]", "mse_outside_main_region": "error outside [−2, 2]",
    "mse_in_range": "error below α", "mse_outside_range": "error from α on",
    "logit_error": "error of logits", "accuracy": "accuracy %", "calibrated": "calibrated %",
    "calibrated_spikes_per_neuron": "calibrated: spikes/neuron", "alpha": "α", "Q": "bits Q",
    "ns_per_gate_input": "Nanoseconds per gate input", "ms_per_image": "milliseconds per image",
    "peak_bytes": "Peak memory, MiB", "profile_ms_per_image": "fs.profile, milliseconds per image",
    "first_call_seconds": "First calls, seconds", "ratio_spread": "quartiles of the ratio",
    "fs": "FS-neurons", "rate": "Rate coding after each step", "published": "Published elsewhere",
    "gate_input": "gate input", "latency": "steps to the output", "conversion_seconds": "seconds to convert",
    "probe": "accuracy of the probe %", "probe_original": "accuracy of the probe on the original %",
    "probe_images": "images of the probe, training and test", "label": "converted", "value": "",
}  # fmt: skip
# Method of a row -> its name.
METHOD_NAMES = {
    "exact": "exact fit",
    "bptt": "the paper's method (BPTT)",
    "paper": "paper's setting",
    "layer": "range per layer",
    "nearest": "+ rounding to nearest",
    "channel": "+ range per channel",
    "mean": "+ mean of each channel",
    "deviation": "+ deviation of each channel",
    "calibrated": "weights by least squares instead",
    "refined": "+ all weights and ranges together",
    "priced": "price of spikes",
    "fitted": "fitted sets",
    "finetuned": "fine-tuned",
    "rate": "rate coding",
}
# Decimals that all numbers of a column have; where missing, as many as its smallest number needs.
DECIMALS = {
    "ann": 2, "snn": 2, "difference": 2, "agreement": 2, "ann_top1": 2, "ann_top5": 2, "snn_top1": 2,
    "snn_top5": 2, "accuracy": 2, "calibrated": 2, "spikes_per_neuron": 2,
    "calibrated_spikes_per_neuron": 2, "mean_spikes": 2, "ratio": 2, "ratio_spread": 3, "spikes_per_image": 0,
    "alpha": 1, "conversion_seconds": 0,
    "probe": 2, "probe_original": 2, "feature_error": 2, "median_feature_error": 2, "learning_rate": 3, "label_share": 1, "target_spikes": 2, "minutes": 0,
}  # fmt: skip
MOST_DECIMALS = 5
# Names that the paper's figures have, where they differ from those of the measured ones.
PAPER_KEYS = {"spikes": "spikes_per_image", "layers": "fs_layers"}
# Times are left to the benchmark, which measures them side by side.
HIDDEN = (
    "tally", "sha256", "fingerprint", "ann_images_per_second", "snn_images_per_second", "time_ratio",
    *results.OF_A_ROW,
)  # fmt: skip
SIGNED = ("difference",)
# By which rows are sorted, where they have them; others stay in the order of the result.
SORTED_BY = ("run", "network", "converted", "method", "code", "K", "Q", "steps")
QUARTILES = ("lower quartile", "median", "upper quartile")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a cell shows: the measured value, the paper's below, and whether they are numbers."""

    text: str
    paper: str = ""
    number: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its heading, and whether the paper gives something there."""

    heading: str
    paper: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: a title that may be empty, columns, and a list of cells per row."""

    title: str
    columns: list[Column]
    rows: list[list[Cell]]


def content(result: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[Table]]:
    """What a result holds beside its provenance: single values as (name, text), and tables."""
    rest = {
        key: value
        for key, value in result.items()
        if key not in (*results.PROVENANCE, results.COMMIT, "fits_made_by") and value is not None
    }
    facts = [(heading(key), shown(key, value)) for key, value in rest.items() if _is_fact(value)]
    tables: list[Table] = []
    for key, value in rest.items():
        if not _is_fact(value):
            tables += _tables(key, value, _capital(heading(key)) if key != "rows" else "")
    return facts, tables


def _tables(key: str, value: Any, title: str) -> list[Table]:
    """Lists of rows and mappings of entries are tables; what is nested deeper is several."""
    if isinstance(value, Mapping):
        if key.startswith("peak"):
            value = {name: entry / 2**20 for name, entry in value.items()}
        if all(_is_fact(entry) for entry in value.values()):
            return [table([value], title)]
        if all(_is_entry(entry) for entry in value.values()):
            return [table([{"": name, **_cells(entry)} for name, entry in value.items()], title)]
        single = {name: entry for name, entry in value.items() if _is_fact(entry)}
        tables = [table([single], title)] if single else []
        for name, entry in value.items():
            if not _is_fact(entry):
                part = HEADINGS.get(name) or runner.title(name).replace("_", " ")
                tables += _tables(name, entry, f"{title}: {part}")
        return tables
    rows = in_order(value)
    nested = [k for k in dict.fromkeys(k for row in rows for k in row) if _is_nested(rows, k)]
    plain = [{k: v for k, v in row.items() if k not in nested} for row in rows]
    further = [_across(rows, k) for k in nested]
    return [table([flat(row) for row in plain], title), *further]


def _is_nested(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a key holds a list of named values, such as the error of each block."""
    lists = [row.get(key) for row in rows]
    return all(isinstance(entries, list) for entries in lists) and all(
        isinstance(entry, Mapping) and len(entry) == 2 for entries in lists for entry in entries
    )


def _across(rows: Sequence[Mapping[str, Any]], key: str) -> Table:
    """Named values inside of rows: a row per name, a column per row, headed by the first entry of that."""
    cells: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        for entry in row[key]:
            (what, name), (_, value) = entry.items()
            cells.setdefault(name, {what: name})[str(number)] = value
    result = table(list(cells.values()), _capital(heading(key)))
    headings = [result.columns[0].heading, *(str(next(iter(row.values()))) for row in rows)]
    return dataclasses.replace(result, columns=[Column(text, False) for text in headings])


def _is_fact(value: Any) -> bool:
    """A value, or a few of them, that fit into a line."""
    if isinstance(value, (list, tuple)):
        return not any(isinstance(entry, (Mapping, list, tuple)) for entry in value)
    return not isinstance(value, Mapping)


def _is_entry(value: Any) -> bool:
    """A named entry of a table: quartiles, or flat numbers."""
    return _is_fact(value) or (
        isinstance(value, Mapping) and all(_is_fact(entry) for entry in value.values())
    )


def _cells(entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        cells: dict[str, Any] = {}
        for key, value in entry.items():
            cells |= _cells(value) if key == "quartiles" else {key: value}
        return cells
    if isinstance(entry, (list, tuple)) and len(entry) == 3:
        return dict(zip(QUARTILES, entry, strict=True))
    return {"value": entry}


def in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows sorted by what they are of, numbers in names by their size; methods as they come."""
    order = list(dict.fromkeys(str(row.get("method")) for row in rows))

    def key(row: Mapping[str, Any]) -> list[Any]:
        row = {**row, **{"network": (row.get("run") or {}).get("network", row.get("network"))}}
        return [
            order.index(str(row.get("method"))) if name == "method" else _natural(row.get(name))
            for name in SORTED_BY
            if name != "run"
        ]

    return sorted(rows, key=key)


def _natural(value: Any) -> list[tuple[int, float, str]]:
    """ "resnet8" before "resnet14"."""
    if value is None:
        return []
    if isinstance(value, (int, float)):
        return [(0, float(value), "")]
    parts = re.split(r"(\d+)", str(value))
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in parts if part]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as plain cells: the difference added, and each figure of the paper behind the measured one."""
    row = {key: value for key, value in row.items() if key not in HIDDEN}
    run, paper = row.pop("run", {}), row.pop("paper", None) or {}
    paper = {PAPER_KEYS.get(key, key): value for key, value in paper.items()}
    cells: dict[str, Any] = {k: v for k, v in run.items() if k not in HIDDEN}
    for values in (row, paper):
        if isinstance(values.get("ann"), float) and isinstance(values.get("snn"), float):
            values["difference"] = round(values["snn"] - values["ann"], 4)
    if "difference" in row:
        row = _moved_behind(row, "difference", "snn")
    for key, value in row.items():
        cells[key] = value
        if key in paper:
            cells[f"paper: {key}"] = paper[key]
    return cells


def _moved_behind(row: dict[str, Any], moved: str, key: str) -> dict[str, Any]:
    value = row.pop(moved)
    keys = list(row)
    at = keys.index(key) + 1
    return {**{k: row[k] for k in keys[:at]}, moved: value, **{k: row[k] for k in keys[at:]}}


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Rows as a table, one column per key that occurs; "paper: KEY" goes below KEY."""
    keys = [
        key
        for key in dict.fromkeys(key for row in _longest_first(rows) for key in row)
        if any(row.get(key) is not None for row in rows)
    ]
    of_paper = {key.removeprefix("paper: ") for key in keys if key.startswith("paper: ")}
    measured = list(dict.fromkeys(key.removeprefix("paper: ") for key in keys))
    columns = [Column(heading(key), key in of_paper) for key in measured]
    decimals = {
        key: decimals_of(key, [row.get(k) for row in rows for k in (key, f"paper: {key}")])
        for key in measured
    }
    cells = [
        [
            Cell(
                shown(key, row.get(key), decimals[key]),
                shown(key, row.get(f"paper: {key}"), decimals[key]),
                any(_is_number(row.get(k)) for k in (key, f"paper: {key}")),
            )
            for key in measured
        ]
        for row in rows
    ]
    return Table(title, columns, cells)


def _longest_first(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """So that columns only some rows have stay beside what they belong to."""
    return sorted(rows, key=len, reverse=True)


def heading(key: str) -> str:
    """A key in words."""
    return HEADINGS.get(key, key.replace("_", " "))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def decimals_of(key: str, values: Iterable[Any]) -> int:
    """Decimals that all numbers of a column are shown with: two digits of the smallest, within reason."""
    numbers = [abs(value) for value in values if isinstance(value, float) and value]
    if key in DECIMALS:
        return DECIMALS[key]
    if not numbers or max(numbers) >= 1000:
        return 0
    digits = 1 - math.floor(math.log10(min(numbers)))
    return max(0, min(digits, MOST_DECIMALS if max(numbers) < 100 else 2))


def shown(key: str, value: Any, decimals: int | None = None) -> str:
    """A value as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if decimals is None:  # a value by itself: four digits
            digits = 3 - math.floor(math.log10(abs(value))) if value else 0
            decimals = DECIMALS.get(key, max(0, min(digits, MOST_DECIMALS)))
        text = f"{value:{'+' if key in SIGNED else ''},.{decimals}f}"
        return text.replace("-", "−")
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−") if key not in ("seed", "size") else str(value)
    if isinstance(value, (list, tuple)):
        return " ".join(shown(key, entry) for entry in value)
    if key == "network":
        return runner.title(value)
    return METHOD_NAMES.get(value, str(value)) if key == "method" else str(value)
