"""All results on one page: tables and figures, the paper beside what was measured, how each was made.

    python -m experiments.report

Reads --output_dir/*.json and the pictures of the same names, measures nothing, and writes index.html there: one
file that needs no network and no other file.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import html
import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from PIL import Image

import fs_neurons as fs
from experiments import results, runner
from fs_neurons.files import write_atomically

FLAGS = flags.FlagValues()
runner.define_output_flag(FLAGS)

COLORS = 64  # of a picture on the page: curves and text need no more
LARGEST_PICTURE = 1400  # pixels across
LONGEST_TABLE = 20  # rows; longer ones are folded


@dataclasses.dataclass(frozen=True)
class Section:
    """A table or figure of the page.

    Attributes:
        stem: NAME.json and NAME.png of the result.
        title: heading.
        text: what is to be seen.
        absent: why it may not have been run, and how to run it.
        paper: rows of the paper, shown where nothing was measured.
    """

    stem: str
    title: str
    text: str = ""
    absent: str = ""
    paper: Sequence[Mapping[str, Any]] = ()


TABLE1_PAPER = (
    {"network": "EfficientNet-B7", "paper: ann_top1": 85.0, "paper: ann_top5": 97.2,
     "paper: snn_top1": 83.57, "paper: snn_top5": 96.7, "paper: neurons": "259M",
     "paper: spikes_per_image": "554.9M"},
    {"network": "ResNet50", "paper: ann_top1": 75.22, "paper: ann_top5": 92.4,
     "paper: snn_top1": 75.10, "paper: snn_top5": 92.36, "paper: neurons": "9.6M",
     "paper: spikes_per_image": "14.045M"},
)  # fmt: skip
SECTIONS = (
    Section(
        "table1", "Table 1: ImageNet",
        "EfficientNet-B7 and ResNet50 before and after conversion.",
        "It needs the public weights of these networks and the images of ImageNet, which could not be"
        " downloaded where the other results were made: make table1 downloads ImageNetV2 and the weights,"
        " make table1 IMAGENET=FOLDER takes images that are there. These are the paper's figures:",
        TABLE1_PAPER,
    ),
    Section(
        "table2", "Table 2: CIFAR-10",
        "FS-ReLU with K = 10 and α = 25, all test images; networks trained anew, the paper's figures beside.",
        "make table2 measures it where CIFAR-10 is or can be downloaded.",
    ),
    Section(
        "swish_sets", "Parameter sets for Swish and the sigmoid",
        "What each set does to a trained squeeze-excite ResNet with Swish. The error of the logits is relative"
        " to their standard deviation.",
        "make swish_sets measures it.",
    ),
    Section(
        "figure1", "Figure 1: an FS-neuron at work",
        "Its potential against the threshold over K steps, its spikes, and what they add up to.",
        "make figure1 draws it.",
    ),
    Section(
        "figure2", "Figure 2: Swish",
        "The function and its emulation, and T, h, d over time: the published set and a fitted one. Errors in"
        " the main region [−2, 2] and outside it, as in the paper.",
        "make figure2 draws it.",
    ),
    Section("figure3", "Figure 3: sigmoid", "As Figure 2.", "make figure3 draws it."),
    Section("figure4", "Figure 4: ReLU", "FS-ReLU is exact on its grid, and saturates at α.",
            "make figure4 draws it."),
    Section(
        "figure5", "Figure 5: spikes and gate inputs",
        "Spikes of an FS-neuron against its gate input, and the gate inputs that occur: the paper's and the"
        " measured ones.",
        "The networks of the paper need ImageNet weights; make figure5 draws it where they are.",
    ),
    Section("figure6a", "Figure 6A: accuracy against the number of steps", "", "make figure6a measures it."),
    Section("figure6b", "Figure 6B: error of Swish against the number of steps", "",
            "make figure6b draws it."),
    Section("figure6c", "Figure 6C: error of Swish against the bits of T, h and d", "",
            "make figure6c draws it."),
    Section("figure6d", "Figure 6D: error of the sigmoid against the bits of T, h and d", "",
            "make figure6d draws it."),
    Section("efficiency", "Time and spikes against rate coding",
            "The same network with FS-neurons and with integrate-and-fire neurons: accuracy against time"
            " steps and spikes.",
            "make efficiency measures it."),
    Section("pareto", "Fewer steps, fewer spikes",
            "What each ingredient of calibration is worth, fine-tuned networks, rate coding in the same"
            " networks, and published results, which are not measured here.",
            "make pareto measures it."),
    Section("finetune", "Fine-tuned at very few steps",
            "Calibrated networks, trained further through the surrogate gradient.",
            "python -m experiments.finetune trains and measures it."),
    Section("benchmark", "Time and memory", "Quartiles of the time per gate input, in nanoseconds, and per"
            " image, in milliseconds; and ratios, measured side by side.",
            "make benchmark measures it."),
)  # fmt: skip

# Key of a row -> heading of its column; keys that are not here are shown with spaces for underscores.
HEADINGS = {
    "ann": "ANN %", "snn": "FS %", "difference": "difference", "agreement": "agreement %",
    "ann_top1": "ANN top-1 %", "ann_top5": "ANN top-5 %", "snn_top1": "FS top-1 %",
    "snn_top5": "FS top-5 %", "ann_images_per_second": "ANN images/s",
    "snn_images_per_second": "FS images/s", "time_ratio": "time FS/ANN", "spikes_per_image": "spikes/image",
    "spikes_per_neuron": "spikes/neuron", "fs_layers": "FS layers", "mse": "mean squared error",
    "logit_error": "error of logits",
}  # fmt: skip
# Names that the paper's figures have, where they differ from those of the measured ones.
PAPER_KEYS = {"spikes": "spikes_per_image", "layers": "fs_layers"}
HIDDEN = ("tally", "sha256", "command")
PER_CENT = ("ann", "snn", "difference", "agreement", "ann_top1", "ann_top5", "snn_top1", "snn_top5")


def main() -> None:
    folder = pathlib.Path(FLAGS.output_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    page = build(folder)
    path = folder / "index.html"
    with write_atomically(path) as file:
        file.write(page)
    print(f"Written to {path}, {len(page.encode()) / 1000:,.0f} kB")


def build(folder: pathlib.Path) -> str:
    """The page, from the results in a folder.

    Raises:
        ValueError: a file is no result; the message names it.
    """
    known = {section.stem for section in SECTIONS}
    found = {path.stem: results.read_json(path) for path in sorted(folder.glob("*.json"))}
    further = [Section(stem, _further_title(stem)) for stem in found if stem not in known]
    sections = [*SECTIONS, *further]
    body = "\n".join(_section(s, found.get(s.stem), folder) for s in sections)
    missing = [s.title.split(":")[0] for s in SECTIONS if s.stem not in found]
    links = "".join(f'<li><a href="#{_e(s.stem)}">{_e(s.title)}</a></li>' for s in sections)
    return PAGE.format(
        version=_e(fs.__version__),
        date=datetime.date.today().isoformat(),
        links=links,
        missing=f"<p><strong>Not run:</strong> {_e(', '.join(missing))}; why is said there.</p>"
        if missing
        else "",
        body=body,
    )


def _further_title(stem: str) -> str:
    name, _, data = stem.rpartition("_")
    titles = {section.stem: section.title for section in SECTIONS}
    if name in titles:
        return f"{titles[name].split(':')[0]}, {data}"
    return stem.replace("_", " ").capitalize()


def _section(section: Section, result: Mapping[str, Any] | None, folder: pathlib.Path) -> str:
    parts = [f'<section id="{_e(section.stem)}"><h2>{_e(section.title)}</h2>']
    if result is None:
        parts.append(f'<p class="absent"><strong>Not run.</strong> {_e(section.absent)}</p>')
        parts += [table(section.paper)] if section.paper else []
        return "\n".join([*parts, "</section>"])
    if section.text:
        parts.append(f"<p>{_e(section.text)}</p>")
    picture = folder / f"{section.stem}.png"
    if picture.is_file():
        parts.append(_picture(picture, section.title))
    parts.append(_tables(result))
    parts.append(_provenance(result))
    return "\n".join([*parts, "</section>"])


def _tables(result: Mapping[str, Any]) -> str:
    """Lists of rows, and mappings from a name to numbers, as tables; other entries in a line."""
    tables, values = [], []
    for key, value in result.items():
        if key in results.PROVENANCE or key == "fits_made_by" or value is None:
            continue
        if _are_rows(value):
            tables.append(table([flat(row) for row in value]))
        elif isinstance(value, Mapping):
            tables.append(table([{key: name, **_cells(entry)} for name, entry in value.items()]))
        else:
            values.append(f"{_heading(key)}: {_e(_shown(key, value))}")
    line = [f'<p class="values">{"; ".join(values)}</p>'] if values else []
    return "\n".join(line + tables)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(r, Mapping) for r in value)


def _cells(entry: Any) -> dict[str, Any]:
    """Numbers of a named entry: quartiles, or one value."""
    if isinstance(entry, list) and len(entry) == 3:
        return dict(zip(("lower quartile", "median", "upper quartile"), entry, strict=True))
    return dict(entry) if isinstance(entry, Mapping) else {"value": entry}


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


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as an HTML table, one column per key that occurs; a long one is folded."""
    keys = list(dict.fromkeys(key for row in _longest_first(rows) for key in row))
    head = "".join(
        f'<th scope="col"{_class(key)}>{_heading(key.removeprefix("paper: "), key)}</th>'
        for key in keys
    )
    lines = []
    for row in rows:
        cells = []
        for key in keys:
            value = row.get(key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            text = _e(_shown(key.removeprefix("paper: "), value))
            cells.append(f"<td{_class(key, number)}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    body = f'<div class="wide" tabindex="0">{body}</div>'
    if len(rows) > LONGEST_TABLE:
        return f"<details><summary>{len(rows)} rows</summary>{body}</details>"
    return body


def _longest_first(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """So that columns only some rows have stay beside what they belong to."""
    return sorted(rows, key=len, reverse=True)


def _class(key: str, number: bool = False) -> str:
    names = [*(["paper"] if key.startswith("paper: ") else []), *(["number"] if number else [])]
    return f' class="{" ".join(names)}"' if names else ""


def _heading(key: str, full: str = "") -> str:
    text = HEADINGS.get(key, key.replace("_", " "))
    return _e(f"paper: {text}" if full.startswith("paper: ") else text)


def _shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and key in PER_CENT:
        return f"{value:+.2f}".replace("-", "−") if key == "difference" else f"{value:.2f}"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _provenance(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    entries = {
        "command": f"<code>{_e(result['command'])}</code>",
        "fits": f"<code>{_e(result['fits_made_by'])}</code>" if "fits_made_by" in result else "",
        "data": _e(result["data"]),
        "images": f"{result['images']:,}" if result["images"] else "",
        "date": _e(result["date"]),
        "versions": _e(versions),
        "backend": _e(result["backend"]),
        "machine": _e(result["machine"]),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in entries.items() if text)
    return f"<details><summary>How this was made</summary><dl>{rows}</dl></details>"


def _picture(path: pathlib.Path, title: str) -> str:
    """A PNG inside the page, with few colours: a quarter of the bytes, and the same to the eye.

    Raises:
        ValueError: the file is no picture.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: not a picture") from error
    picture.thumbnail((LARGEST_PICTURE, 10 * LARGEST_PICTURE))
    buffer = io.BytesIO()
    picture.quantize(COLORS).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    width, height = picture.size
    return f'<img src="data:image/png;base64,{data}" alt="{_e(title)}" width="{width}" height="{height}">'


def _e(text: Any) -> str:
    return html.escape(str(text))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fs_neurons: results</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto;
  max-width: 70rem; padding: 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; }}
h2 {{ font-size: 1.25rem; margin: 0 0 .5rem; }}
section {{ border-top: 1px solid #ccc; padding: 1.5rem 0; }}
nav ul {{ columns: 18rem; padding-left: 1.2rem; }}
a {{ color: #0f5fa8; }}
img {{ max-width: 100%; height: auto; display: block; margin: 1rem 0; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: bottom; }}
th {{ border-bottom-color: #888; }}
td.number {{ text-align: right; white-space: nowrap; }}
.paper {{ background: #f3f1ea; }}
.absent {{ border-left: 4px solid #c1272d; padding-left: .8rem; }}
.values, footer {{ color: #555; font-size: .9rem; }}
summary {{ cursor: pointer; color: #0f5fa8; }}
dl {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; font-size: .9rem; }}
dt {{ color: #555; }}
dd {{ margin: 0; }}
</style>
</head>
<body>
<header>
<h1>Optimized spiking neurons: the paper and its reproduction</h1>
<p>Stöckl and Maass, <em>Optimized spiking neurons can classify images with high accuracy through temporal
coding with two spikes</em> (2022), reproduced with fs_neurons {version}. Every number below was read from a
result on disk; what the paper gives is <span class="paper">shaded</span>.</p>
{missing}
<nav><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer><p>Made by <code>python -m experiments.report</code> on {date}.</p></footer>
</body>
</html>
"""


if __name__ == "__main__":
    runner.run(main, FLAGS)
