"""README and docs: every Python block and fs-neurons line runs, every link, target and script is there."""

import functools
import importlib
import json
import re
import shlex

import keras
import matplotlib
import pytest
from conftest import ROOT

import fs_neurons as fs
from fs_neurons import cli
from fs_neurons.calibration import calibrator
from fs_neurons.data import datasets
from fs_neurons.neuron import sets as parameters

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


@pytest.fixture(autouse=True)
def untouched_registry(monkeypatch):
    copy = {quality: dict(sets) for quality, sets in parameters._registry.items()}
    monkeypatch.setattr(parameters, "_registry", copy)


@pytest.fixture
def smaller_networks(monkeypatch):
    """What the blocks show does not depend on the depth of EfficientNet, the last adjustment or the number of images."""
    from keras.src.applications.efficientnet import EfficientNet

    shallow = functools.partial(EfficientNet, 0.25, 0.1, 32)
    monkeypatch.setattr(keras.applications, "EfficientNetB0", shallow)
    # Adjusting all weights together takes longest; it is tested for its own.
    monkeypatch.setattr(calibrator, "refine_network", lambda *_: False)
    take = datasets.Dataset.take
    monkeypatch.setattr(
        datasets.Dataset, "take", lambda self, limit: take(self, min(limit or 100, 100))
    )


# Pages that show what happens with ranges that are too small, and in front of a nested model.
@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
@pytest.mark.filterwarnings("ignore:in front of the first weights")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_the_other(
    page, tmp_path, monkeypatch, capsys, smaller_networks
):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    if page == PAGES[0]:  # README, which shows what it prints
        (shown,) = blocks(page, "text")
        assert shown and set(shown.splitlines()) <= set(printed)


def rows_of(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())["rows"]


def test_the_pages_have_blocks():
    assert len(PAGES) > 5 and sum(len(blocks(page, "python")) for page in PAGES) > 15


def test_the_table_on_top_is_the_measured_one():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [row for row in rows_of("table2") if row["paper"]]
    assert len(rows) == 4
    for row in rows:
        paper, name = row["paper"], row["network"].replace("resnet", "ResNet")
        spikes = paper["spikes"] / paper["neurons"]
        line = (
            f"| {name} | {row['ann']:.2f} % ({paper['ann']:.2f}) | {row['snn']:.2f} %"
            f" ({paper['snn']:.2f}) | {row['spikes_per_neuron']:.2f} ({spikes:.2f}) |"
        )
        assert line in text
    swish = {row["sets"]: row for row in rows_of("swish_sets")}
    default = next(
        row
        for row in rows_of("without_data")
        if (row["network"], row["K"]) == ("se_resnet20_swish", 16)
    )
    calibrated = next(
        row for row in rows_of("pareto")
        if (row["network"], row["method"], row["K"]) == ("se_resnet20_swish", "calibrated", 16)
    )  # fmt: skip
    for label, row in {
        "SE-ResNet20 with Swish, published sets": swish["published, K=16"],
        "the same, accurate sets": swish["fitted, K=16"],
        "the same, by channel (default)": default,
        "the same, calibrated": calibrated,
    }.items():
        accuracies = f"91.28 % | {row['snn']:.2f} %"
        assert f"| {label} | {accuracies} | {row['spikes_per_neuron']:.2f} |" in text
    features = {row["label"]: row for row in rows_of("efficientnet_b0")}
    for label, row in {
        "EfficientNet-B0, published sets": features["published"],
        "the same, by channel (default)": features["without data"],
    }.items():
        error = f"features {100 * row['feature_error']:.0f} % off"
        assert f"| {label} | | {error} | {row['spikes_per_neuron']:.2f} |" in text


def test_the_front_page_is_short():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.split()) <= 700 and len(re.findall(r"^\| ---", text, re.M)) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_run_one_after_the_other(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fs-neurons"]:
                assert cli.main(words) == cli.OK, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_targets_and_scripts_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    targets = set(re.findall(r"^([a-z0-9_]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in re.findall(r"`make ([^`]+)`|^make ([^#\n]+)", text, re.M):
        words = " ".join(line).split()
        assert all(word in targets for word in words if "=" not in word and word != "help"), line
    for module in re.findall(r"python -m experiments\.(\w+)", text):
        assert (ROOT / "experiments" / f"{module}.py").exists(), module


def test_the_api_reference_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: (fs_neurons\.[\w.]+)\.(\w+)$", text, re.M)
    assert set(fs.__all__) <= {name for _, name in named}
    for module, name in named:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_tables_of_the_conversion_guide_name_shipped_sets():
    text = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:swish|sigmoid)_k\w+)`", text))
    assert len(named) >= 5 and named <= set(parameters.available())
    for name in ("gelu", "elu", "selu", "mish", "softplus", "hard_silu", "tanh", "softsign",
                 "hard_sigmoid"):  # fmt: skip
        assert f"{name}_k12" in parameters.available() and name in text
