"""The results page: everything on disk is on it, nothing else is needed, bad files are named."""

import json
import re

import pytest
from conftest import ROOT
from conftest import run_experiment as run
from PIL import Image

from experiments import report, results

MADE_BY = {
    "command": "python -m experiments.table2", "data": "cifar10 <test> set", "images": 10_000,
    "date": "2026-01-02", "backend": "tensorflow", "versions": {"keras": "3"}, "machine": "m",
}  # fmt: skip
ROW = {
    "network": "<b>net", "ann": 91.94, "snn": 91.74, "spikes_per_image": 1234.5,
    "paper": {"ann": 91.58, "snn": 91.45, "spikes": 261_779},
}  # fmt: skip


def test_the_paper_is_beside_what_was_measured():
    assert report.flat(ROW) == {
        "network": "<b>net", "ann": 91.94, "paper: ann": 91.58, "snn": 91.74, "paper: snn": 91.45,
        "difference": -0.2, "paper: difference": -0.13, "spikes_per_image": 1234.5,
        "paper: spikes_per_image": 261_779,
    }  # fmt: skip


def test_the_page_is_whole_and_escaped(tmp_path):
    results.write_json(tmp_path / "table2.json", {**MADE_BY, "rows": [ROW]})
    results.write_json(tmp_path / "something_new.json", {**MADE_BY, "rows": [{"a": 1}]})
    Image.new("RGB", (2000, 10)).save(tmp_path / "table2.png")
    page = report.build(tmp_path)
    assert "<b>net" not in page and "&lt;b&gt;net" in page and "cifar10 &lt;test&gt; set" in page
    assert "261,779" in page and "−0.20" in page and "−0.13" in page and "1,234" in page
    assert "Something new" in page and "python -m experiments.table2" in page
    assert page.count("data:image/png;base64,") == 1 and 'width="1400"' in page
    # Everything else was not run, and the page says why.
    assert page.count("<strong>Not run.</strong>") == len(report.SECTIONS) - 1
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page


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
    table2 = json.loads((ROOT / "results" / "table2.json").read_text())
    for row in table2["rows"]:
        assert f"{row['snn']:.2f}" in page and f"{row['neurons']:,}" in page
