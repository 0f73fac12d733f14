"""The results page: everything on disk is on it, nothing else is needed, bad files are named."""

import json
import re

import pytest
from conftest import ROOT
from conftest import run_experiment as run
from PIL import Image

from experiments import claims, report, results, tables

MADE_BY = {
    "command": "python -m experiments.table2", "data": "cifar10 <test> set", "images": 10_000,
    "date": "2026-01-02", "backend": "tensorflow", "versions": {"keras": "3"}, "machine": "m",
}  # fmt: skip
ROW = {
    "network": "<b>net", "ann": 91.94, "snn": 91.74, "spikes_per_image": 1234.5,
    "paper": {"ann": 91.58, "snn": 91.45, "spikes": 261_779},
}  # fmt: skip


def test_the_paper_is_beside_what_was_measured():
    assert tables.flat(ROW) == {
        "network": "<b>net", "ann": 91.94, "paper: ann": 91.58, "snn": 91.74, "paper: snn": 91.45,
        "difference": -0.2, "paper: difference": -0.13, "spikes_per_image": 1234.5,
        "paper: spikes_per_image": 261_779,
    }  # fmt: skip
    table = tables.table([tables.flat(ROW)])
    assert [column.heading for column in table.columns] == [
        "network", "ANN %", "FS %", "difference", "spikes/image",
    ]  # fmt: skip
    ((_, ann, *_, spikes),) = table.rows
    assert (ann.text, ann.paper, ann.number) == ("91.94", "91.58", True)
    assert (spikes.text, spikes.paper) == ("1,234", "261,779")


def test_networks_are_written_as_in_text():
    for name, text in {
        "resnet20": "ResNet20",
        "se_resnet20_swish": "SE-ResNet20, Swish",
        "efficientnet_b0": "EfficientNet-B0",
        "efficientnet-b7": "EfficientNet-B7",
        "trec_bilstm": "TREC, bidirectional LSTM",
        "spoken_digit_gru": "spoken digits, GRU",
    }.items():
        assert tables.shown("network", name) == text


def test_numbers_of_a_column_have_equal_decimals():
    table = tables.table([{"mse": 0.58155}, {"mse": 0.00123}, {"mse": 0.1}, {"mse": None}])
    assert [row[0].text for row in table.rows] == ["0.5816", "0.0012", "0.1000", ""]
    assert tables.shown("mse", -1234.5) == "−1,234" and tables.shown("K", 10) == "10"
    table = tables.table([{"value": 5e-8}, {"value": 1.0}])
    assert [row[0].text for row in table.rows] == ["0.00000", "1.00000"]


def test_rows_are_sorted_by_what_they_are_of():
    rows = [
        {"network": network, "method": method, "K": K}
        for network in ("resnet20", "resnet8") for K in (10, 3) for method in ("rate", "exact")
    ]  # fmt: skip
    assert [tuple(row.values()) for row in tables.in_order(rows)] == [
        ("resnet8", "rate", 3), ("resnet8", "rate", 10), ("resnet8", "exact", 3),
        ("resnet8", "exact", 10), ("resnet20", "rate", 3), ("resnet20", "rate", 10),
        ("resnet20", "exact", 3), ("resnet20", "exact", 10),
    ]  # fmt: skip


def test_nothing_nested_is_shown_as_json():
    nested = {
        "rounds": 5,
        "spikes": [1, 0, 1],
        "networks": {
            "resnet20": {
                "batch": 256,
                "ms_per_image": {
                    "ANN": {"quartiles": [1.0, 2.0, 3.0]},
                    "FS": {"quartiles": [1.5, 2.5, 3.5], "ratio": 1.25},
                },
                "peak_bytes": {"ANN": 2**20, "FS": 3 * 2**20},
            }
        },
    }
    facts, found = tables.content({**MADE_BY, **nested})
    assert facts == [("rounds", "5"), ("spikes", "1 0 1")]
    assert [table.title for table in found] == [
        "Networks: ResNet20", "Networks: ResNet20: milliseconds per image",
        "Networks: ResNet20: Peak memory, MiB",
    ]  # fmt: skip
    times = found[1]
    assert [c.heading for c in times.columns] == [
        "", "lower quartile", "median", "upper quartile", "ratio",
    ]  # fmt: skip
    assert [cell.text for cell in times.rows[1]] == ["FS", "1.5", "2.5", "3.5", "1.25"]
    assert [cell.text for cell in found[2].rows[0]] == ["1.0", "3.0"]


def test_named_values_inside_of_rows_are_a_table_of_their_own():
    rows = [
        {"label": label, "error": error, "blocks": [{"layer": "a", "error": error}, {"layer": "b", "error": 0.5}]}
        for label, error in (("published", 0.25), ("fitted", 0.125))
    ]  # fmt: skip
    _, (plain, blocks) = tables.content({**MADE_BY, "rows": rows})
    assert [c.heading for c in plain.columns] == ["converted", "error"]
    assert blocks.title == "Blocks"
    assert [c.heading for c in blocks.columns] == ["layer", "published", "fitted"]
    assert [[cell.text for cell in row] for row in blocks.rows] == [
        ["a", "0.25", "0.12"], ["b", "0.50", "0.50"],
    ]  # fmt: skip


def test_the_page_is_whole_and_escaped(tmp_path):
    results.write_json(tmp_path / "table2.json", {**MADE_BY, "rows": [{**ROW, "converted": "x"}]})
    results.write_json(tmp_path / "something_new.json", {**MADE_BY, "rows": [{"a": 1}]})
    results.write_json(tmp_path / "table2_partial.json", {**MADE_BY, "rows": [{"partial": 1}]})
    Image.new("RGB", (2000, 10)).save(tmp_path / "table2.png")
    page = report.build(tmp_path)
    assert "<b>net" not in page and "&lt;b&gt;net" in page and "cifar10 &lt;test&gt; set" in page
    assert "261,779" in page and "−0.20" in page and "−0.13" in page and "1,234" in page
    assert "Something new" in page and "python -m experiments.table2" in page
    assert "partial" not in page
    assert page.count("data:image/png;base64,") == 1 and 'width="1400"' in page
    # Everything else was not run, and the page says why.
    assert page.count("<strong>Not run.</strong>") == len(report.SECTIONS) - 1
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page


def test_without_results_every_claim_says_why():
    judged = claims.claims({})
    assert len(judged) >= 12 and {claim.verdict for claim in judged} == {claims.NOT_RUN}
    assert all(claim.measured and claim.text and claim.where for claim in judged)
    stems = {section.stem for section in report.SECTIONS}
    assert all(claim.stem in stems for claim in judged)


def test_a_verdict_is_never_better_than_its_numbers():
    row = {"network": "resnet20", "converted": "ReLU", "ann": 91.6, "spikes_per_image": 1e5}
    finetuned = {"network": "resnet20", "K": 4, "snn": 91.5, "spikes_per_neuron": 0.6}

    def verdict(snn, spikes, *further):
        found = {"table2": {"rows": [{**row, "snn": snn, "spikes_per_neuron": spikes}]}}
        if further:
            found["finetune"] = {"rows": list(further)}
        (claim,) = (c for c in claims.claims(found) if c.text.startswith("ResNet20"))
        return claim.verdict

    assert verdict(91.4, 1.40) == claims.REPRODUCED
    assert verdict(90.9, 1.40) == claims.DIFFERENT  # half a point below the paper's 91.45
    assert verdict(91.4, 1.60) == claims.DIFFERENT  # the paper's 1.39 by more than a tenth
    assert verdict(91.4, 1.40, finetuned) == claims.EXCEEDED
    assert verdict(91.4, 1.40, {**finetuned, "snn": 91.4}) == claims.REPRODUCED
    assert verdict(90.9, 1.40, finetuned) == claims.DIFFERENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON"),
        ("[]", "JSON object"),
        (json.dumps({**MADE_BY, "images": "x"}), "images"),
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path, content, message):
    (tmp_path / "table2.json").write_text(content)
    with pytest.raises(ValueError, match=rf"table2\.json.*{message}"):
        report.build(tmp_path)


def test_the_script_writes_the_page_or_one_line(tmp_path):
    assert "index.html" in run("report", f"--output_dir={tmp_path}")
    assert (tmp_path / "index.html").read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "table1.json").write_text("{}")
    assert "table1.json: command is None" in run("report", f"--output_dir={tmp_path}", expect=1)


def test_the_shipped_results_make_a_light_page(tmp_path):
    page = report.build(ROOT / "results")
    assert len(page.encode()) < 2_000_000
    for section in report.SECTIONS:
        assert f'id="{section.stem}"' in page
    assert not re.search(r"[{\[](&#34;|\")", page.split("</style>")[1])  # no JSON
    assert page.index('class="claims"') < page.index("<nav>")
    table2 = json.loads((ROOT / "results" / "table2.json").read_text())
    for row in table2["rows"]:
        assert f"{row['snn']:.2f}" in page and f"{row['neurons']:,}" in page
