"""The examples, as a user runs them."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def run(tmp_path):
    def run_example(name, *flags):
        result = subprocess.run(
            [sys.executable, str(ROOT / "examples" / f"{name}.py"), *flags],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run_example


def test_mobilenet_converts_and_fires(run):
    printed = run("convert_mobilenet", "--size=32", "--images=2")
    assert "35 sites" in printed and "relu(max_value=6)" in printed
    spikes = float(re.search(r"^all +[\d,]+ +[\d,]+ +([\d.]+)", printed, re.M)[1])
    assert 0.1 < spikes < 5


def test_a_swish_network_keeps_its_accuracy(run):
    printed = run("swish_network")
    accuracies = [float(a) for a in re.findall(r"([\d.]+)%", printed)]
    assert len(accuracies) == 4 and accuracies[0] > 95
    assert all(abs(a - accuracies[0]) < 2 for a in accuracies)


def test_a_raster_is_drawn_and_every_image_is_classified(run, tmp_path):
    printed = run("spike_raster")
    assert "digits [0 3 6], classified as [0 3 6]" in printed and "every 20 steps" in printed
    assert (tmp_path / "spike_raster.png").read_bytes().startswith(b"\x89PNG")


def test_gelu_is_fitted_registered_and_converted(run, tmp_path):
    printed = run("fit_gelu")
    assert "gelu_k8" in printed and (tmp_path / "gelu_k8.json").exists()
    assert float(printed.split()[-1]) < 0.1
    assert (tmp_path / "gelu_k8.png").read_bytes().startswith(b"\x89PNG")
