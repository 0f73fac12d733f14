"""All results on one page: the paper's claims and what became of them, tables, figures, how each was made.

    python -m experiments.report

Reads --output_dir/*.json and the pictures of the same names, measures nothing, and writes index.html there: one
file that needs no network and no other file. Partial results are left out.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from absl import flags
from PIL import Image

import fs_neurons as fs
from experiments import claims, paper, results, runner
from experiments.tables import PAPER_KEYS, Table, content, table
from fs_neurons.files import write_atomically

FLAGS = flags.FlagValues()
runner.define_output_flag(FLAGS)

TEMPLATE = pathlib.Path(__file__).with_name("report.html")
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
        pictures: names, without ending, of those that the result has beside NAME.png.
    """

    stem: str
    title: str
    text: str = ""
    absent: str = ""
    paper: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[str] = ()


TABLE1_PAPER = tuple(
    {
        "network": name,
        **{f"paper: {PAPER_KEYS.get(k, k)}": v for k, v in dataclasses.asdict(row).items()},
    }
    for name, row in (
        ("EfficientNet-B7", paper.EFFICIENTNET_B7),
        ("ResNet50", paper.RESNET50),
    )
)
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
    Section("figure_bits", "Figures 6C and 6D for whole networks",
            "Accuracy of networks in integers against the bits of weights and of parameters; dotted: the originals.",
            "make figure_bits measures it."),
    Section("chip", "Ready for a chip",
            "Inputs as spikes, everything an integer, no multiplier: accuracy, and what it costs.",
            "make chip measures it."),
    Section("efficiency", "Time and spikes against rate coding",
            "The same network with FS-neurons and with integrate-and-fire neurons: accuracy against time"
            " steps and spikes.",
            "make efficiency measures it."),
    Section("without_data", "Converted without data",
            "Ranges told from the networks' own weights, for several numbers of steps.",
            "make without_data measures it."),
    Section("pareto", "Fewer steps, fewer spikes",
            "Calibrated and fine-tuned networks, rate coding in the same networks, and published results, which"
            " are not measured here. In a pipeline FS-neurons take 2 K steps for an image. Below, what each"
            " ingredient of calibration is worth.",
            "make pareto measures it.", pictures=("ablation",)),
    Section("finetune", "Fine-tuned at very few steps",
            "Calibrated networks, trained further through the surrogate gradient.",
            "python -m experiments.finetune trains and measures it."),
    Section("efficientnet_b0", "A real EfficientNet-B0",
            "A network of other authors: error of its features on photographs, and what a linear probe makes of"
            " them, for each way to convert it.",
            "make efficientnet measures it."),
    Section("benchmark", "Time and memory", "Quartiles of the time per gate input, in nanoseconds, and per"
            " image, in milliseconds; and ratios, measured side by side.",
            "make benchmark measures it."),
)  # fmt: skip


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
    found = {
        path.stem: results.read_json(path)
        for path in sorted(folder.glob("*.json"))
        if not path.stem.endswith("_partial")
    }
    known = {section.stem for section in SECTIONS}
    further = [Section(stem, _further_title(stem)) for stem in found if stem not in known]
    judged = claims.claims(found)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        version=fs.__version__,
        date=datetime.date.today().isoformat(),
        claims=judged,
        counts=collections.Counter(claim.verdict for claim in judged),
        sections=[_shown(s, found.get(s.stem), folder) for s in (*SECTIONS, *further)],
        longest=LONGEST_TABLE,
    )


def _further_title(stem: str) -> str:
    name, _, data = stem.rpartition("_")
    titles = {section.stem: section.title for section in SECTIONS}
    if name in titles:
        return f"{titles[name].split(':')[0]}, {data}"
    return stem.replace("_", " ").capitalize()


@dataclasses.dataclass(frozen=True)
class Shown:
    """A section as the template takes it."""

    section: Section
    run: bool
    pictures: Sequence[Picture] = ()
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    provenance: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    data: str
    width: int
    height: int


def _shown(section: Section, result: Mapping[str, Any] | None, folder: pathlib.Path) -> Shown:
    if result is None:
        return Shown(section, False, tables=[table(section.paper)] if section.paper else [])
    files = [folder / f"{stem}.png" for stem in (section.stem, *section.pictures)]
    facts, tables = content(result)
    return Shown(
        section,
        True,
        [_picture(file) for file in files if file.is_file()],
        facts,
        tables,
        _provenance(result),
    )


def _provenance(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    entries = {
        "command": result["command"],
        "fits": result.get("fits_made_by", ""),
        "data": result["data"],
        "images": f"{result['images']:,}" if result["images"] else "",
        "date": result["date"],
        "commit": result.get(results.COMMIT) or "",
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "backend": result["backend"],
        "machine": result["machine"],
    }
    return [(name, text) for name, text in entries.items() if text]


def _picture(path: pathlib.Path) -> Picture:
    """With few colours: a quarter of the bytes, and the same to the eye.

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
    return Picture(base64.b64encode(buffer.getvalue()).decode(), *picture.size)


if __name__ == "__main__":
    runner.run(main, FLAGS)
