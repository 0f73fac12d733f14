"""The examples, as a user runs them, in this process."""

import re
import runpy
import sys

import matplotlib
import pytest
from absl import flags
from conftest import ROOT

from fs_neurons.neuron import sets


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in an empty folder; what it registers and defines is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sets, "_registry", {q: dict(s) for q, s in sets._registry.items()})
    matplotlib.use("Agg")

    def run_example(name, *arguments):
        path = str(ROOT / "examples" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        before = set(flags.FLAGS)
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            assert not end.code
        finally:
            for flag in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, flag)
        return capsys.readouterr().out

    return run_example


@pytest.mark.long
def test_mobilenet_converts_and_fires(run):
    printed = run("convert_mobilenet", "--size=32", "--images=2")
    assert "35 sites" in printed and "relu(max_value=6)" in printed
    spikes = float(re.search(r"^all +[\d,]+ +[\d,]+ +([\d.]+)", printed, re.M)[1])
    assert 0.1 < spikes < 5


@pytest.mark.long
def test_a_swish_network_keeps_its_accuracy(run):
    printed = run("swish_network")
    accuracies = [float(a) for a in re.findall(r"([\d.]+)%", printed)]
    assert len(accuracies) == 4 and accuracies[0] > 95
    assert all(abs(a - accuracies[0]) < 2 for a in accuracies)


def test_a_raster_is_drawn_and_every_image_is_classified(run, tmp_path):
    printed = run("spike_raster")
    assert "digits [0 3 6], classified as [0 3 6]" in printed and "every 16 steps" in printed
    assert (tmp_path / "spike_raster.png").read_bytes().startswith(b"\x89PNG")


def test_gelu_is_fitted_registered_and_converted(run, tmp_path):
    printed = run("fit_gelu")
    assert "gelu_k8" in printed and (tmp_path / "gelu_k8.json").exists()
    assert float(printed.split()[-1]) < 0.1
    assert (tmp_path / "gelu_k8.png").read_bytes().startswith(b"\x89PNG")
