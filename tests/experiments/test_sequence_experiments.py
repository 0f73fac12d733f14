"""Training and converting recurrent networks, small but real."""

import json
import runpy
import sys
import wave

import numpy as np
import pytest
from conftest import ROOT
from conftest import run_experiment as run

from experiments import recurrent
from fs_neurons.models import sequences as networks


def test_a_network_is_trained_and_written(tmp_path):
    flags = ("--model=digits_rows_lstm", "--epochs=1", "--limit=96", f"--output_dir={tmp_path}")
    printed = run("train_sequences", *flags)
    summary = json.loads((tmp_path / "digits_rows_lstm.json").read_text())
    assert f"{summary['test_accuracy']:.2%}" in printed and "96 training" in summary["data"]
    assert len((tmp_path / "digits_rows_lstm.csv").read_text().splitlines()) == 2
    model = networks.build("digits_rows_lstm")
    model.load_weights(tmp_path / "digits_rows_lstm.weights.h5")
    assert not (tmp_path / "digits_rows_lstm.backup").exists()


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_shipped_networks_are_small_and_load(name):
    path = networks.weights_path(name)
    assert path.stat().st_size < 2e6
    summary = json.loads(path.with_name(f"{name}.json").read_text())
    assert networks.pretrained(name).count_params() == summary["parameters"]
    least = {"spoken_digit": 0.96, "trec": 0.85, "digits_rows": 0.95}
    assert summary["test_accuracy"] >= least[networks.NETWORKS[name].data]


@pytest.mark.long
def test_the_table_has_a_row_for_each_set(tmp_path, monkeypatch):
    monkeypatch.setattr(recurrent, "SETS", [(12, ""), (12, "sparse"), (8, "calibrated")])
    monkeypatch.setattr(recurrent, "CALIBRATION_SEQUENCES", 100)
    printed = run(
        "recurrent", "--networks=digits_rows_lstm", "--limit=40", f"--output_dir={tmp_path}"
    )
    result = json.loads((tmp_path / "recurrent_partial.json").read_text())
    fitted, sparse, calibrated = result["rows"]
    assert calibrated["sets"] == "calibrated" and calibrated["snn"] >= fitted["ann"] - 5
    assert fitted["neurons"] == 5 * 48 and fitted["ann"] >= 90
    assert fitted["spikes_per_step"] == pytest.approx(
        fitted["spikes_per_sequence"] / (8 * fitted["neurons"])
    )
    assert sparse["spikes_per_step"] < fitted["spikes_per_step"]
    assert f"{sparse['spikes_per_step']:.2f}" in printed
    assert [row["sequences"] for row in result["lengths"]] == [40]
    assert (tmp_path / "recurrent_partial.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="spoken_digit_lstm"):
        networks.build("lstm")


@pytest.fixture
def recording(tmp_path):
    """A second of a tone that rises, at 16 kHz."""
    seconds = np.arange(16000) / 16000
    samples = 8000 * np.sin(2 * np.pi * (300 + 400 * seconds) * seconds)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return tmp_path / "tone.wav"


def test_the_example_reads_a_recording(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / "examples" / "spoken_digits.py")
    monkeypatch.setattr(sys, "argv", [path, str(recording)])
    runpy.run_path(path, run_name="__main__")
    printed = capsys.readouterr().out
    assert "digit " in printed and "480 gate neurons in 61 steps" in printed
    assert (tmp_path / "spoken_digits.png").read_bytes().startswith(b"\x89PNG")
