"""Measuring side by side, on clocks and processors that are made up; and the benchmark, small."""

import itertools
import os

import keras
import numpy as np
import pytest
from conftest import run_experiment as run

from experiments import benchmark, results, timing
from fs_neurons import models


def test_ratios_are_those_of_each_round():
    seconds = {"stock": np.array([1.0, 2.0, 4.0]), "spiking": np.array([2.0, 2.0, 6.0])}
    found = timing.compared(seconds, 10, {"spiking": "stock"})
    assert found["stock"] == {"quartiles": [15.0, 20.0, 30.0]}
    assert found["spiking"] == {
        "quartiles": [20.0, 20.0, 40.0], "against": "stock", "ratio": 1.5, "ratio_spread": [1.25, 1.75],
    }  # fmt: skip
    assert "1.50 x stock (1.25 to 1.75)" in timing.as_table(found)


def test_calls_are_in_turns(monkeypatch):
    monkeypatch.setattr(timing.time, "perf_counter", itertools.count(0.0, 0.5).__next__)
    calls = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = timing.in_turns(runs, 3)
    assert calls == ["a", "b"] * 3 and seconds["a"].tolist() == [0.5] * 3


def test_time_between_batches_leaves_out_what_compiles(monkeypatch):
    clock = iter([0.0, 9.0, 11.0, 12.0, 14.0])
    monkeypatch.setattr(timing.time, "perf_counter", clock.__next__)
    assert timing.seconds_between(list, [np.zeros(1)] * 4).tolist() == [1.0, 2.0]


def test_a_process_of_its_own_gives_back_what_a_function_returns():
    assert timing.in_a_process(os.getpid) != os.getpid()


def test_memory_is_what_a_call_needs_and_gives_back():
    peak = timing.peak_memory(lambda: np.ones(2**23).sum())
    if peak is None:
        pytest.skip("needs /proc of Linux")
    assert peak >= 60 * 2**20


@pytest.mark.parametrize(
    ("features", "bits"),
    [("sse2 avx2 avx512f", 512), ("fpu sse2 avx avx2", 256), ("sse2 avx", 128), ("fpu", None)],
)
def test_processor_has_name_and_width_of_its_vectors(tmp_path, features, bits):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {features}\n")
    found = timing.processor(cpuinfo)
    assert (found["name"], found["vector_bits"]) == ("Some CPU", bits) and found["cores"] >= 1
    assert timing.processor(tmp_path / "none")["vector_bits"] is None


def tiny(name):
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, strides=4),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ],
        name=name,
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(models, "build", tiny)
    monkeypatch.setitem(benchmark.NETWORKS, "resnet20", benchmark.Setting(2, 32))
    monkeypatch.setattr(timing, "in_a_process", lambda function, *arguments: function(*arguments))
    for name, value in {
        "FIT_EFFORT": 1_000, "CALIBRATION_IMAGES": 16, "SIMULATED_IMAGES": 2, "PROFILED_BATCH": 2,
        "PROFILED_BATCHES": 4, "FIRST_CALLS": {"resnet20": ((2, 1), 1)},
    }.items():  # fmt: skip
        monkeypatch.setattr(benchmark, name, value)


@pytest.mark.long
def test_benchmark_writes_what_it_prints_and_replaces_no_complete_one(tmp_path, small):
    whole = tmp_path / "benchmark.json"
    whole.write_text("everything")
    rows = "resnet20,fit,simulate,profile,neurons"
    given = ("--elements=10000", "--rounds=1", f"--rows={rows}", f"--output_dir={tmp_path}")
    printed = run("benchmark", *given)
    assert whole.read_text() == "everything" and "benchmark_partial.json" in printed
    content = results.read_json(tmp_path / "benchmark_partial.json")
    assert set(content["processor"]) == {"name", "vector_bits", "cores"}
    network = content["networks"]["resnet20"]
    assert (network["batch"], network["size"]) == (2, 32)
    assert list(network["ms_per_image"]) == [
        benchmark.KERAS, benchmark.PLAIN, benchmark.FOLDED, benchmark.COUNTED,
    ]  # fmt: skip
    for entry in list(network["ms_per_image"].values())[1:]:
        assert entry["against"] == benchmark.KERAS and entry["ratio"] > 0
        assert f"{entry['ratio']:.2f} x Keras" in printed
    assert [title.partition(":")[0] for title in content["seconds"]] == ["fit", "simulate"]
    ((name, ratio),) = content["figures"].items()
    assert (
        "swish_k16" in name and f"{name}: {ratio:.3f}" in printed and ratio > 1
    )  # so little effort
    assert content["profile_ms_per_image"]["profile"]["against"] == "forward pass"
    # How many times is for a quiet machine and ten million elements.
    assert content["ns_per_gate_input"]["FS-Swish K=16, unrolled"]["against"] == "FS-Swish K=16"


def test_first_calls_are_those_of_each_size_of_a_batch(monkeypatch, capsys):
    calls = {
        False: iter([([2.0, 1.0], 10), ([2.0, 1.0], 20)]),
        True: iter([([3.0, 1.0], None)] * 2),
    }
    monkeypatch.setattr(
        timing, "in_a_process", lambda function, name, convert: next(calls[convert])
    )
    found, peaks = benchmark.time_first_calls("efficientnet-b0", rounds=2)
    assert list(found) == ["batch of 8", "then a batch of 5"]
    first, other = found.values()
    assert first[benchmark.FOLDED]["ratio"] == 1.5 and other[benchmark.FOLDED]["ratio"] == 1.0
    assert list(peaks.values()) == [20, None] and "1.50 x Keras" in capsys.readouterr().out


def test_the_first_call_is_measured_for_each_size_of_a_batch(small):
    seconds, _ = benchmark.first_calls("resnet20", convert=True)
    assert len(seconds) == 2 and min(seconds) > 0


def test_benchmark_knows_its_rows(tmp_path):
    message = run("benchmark", "--rows=resnet21", f"--output_dir={tmp_path}", expect=1)
    assert "--rows=resnet21" in message and "resnet20" in message
