"""The experiments as a user runs them, small but real."""

import concurrent.futures
import json
import re

import pytest
from absl import flags
from conftest import run_experiment as run

import fs_neurons as fs
from experiments import epochs, fit_parameters, pareto, results, runner, table2
from fs_neurons import models
from fs_neurons.analysis.evaluation import evaluate
from fs_neurons.data import datasets
from fs_neurons.files import params_dir
from fs_neurons.files.models import load_model


def test_table2_on_digits_prints_and_writes_the_same_numbers(tmp_path):
    printed = run("table2", "--data=digits", f"--output_dir={tmp_path}")
    result = json.loads((tmp_path / "table2_digits.json").read_text())
    assert result["images"] == 599 and "experiments.table2" in result["command"]
    assert [(row["network"], row["converted"]) for row in result["rows"]] == [
        ("resnet8", "ReLU"),
        ("se_resnet8_swish", "Swish"),
        ("se_resnet8_swish", "Swish, sigmoid"),
    ]
    for row in result["rows"]:
        assert row["ann"] >= 98 and abs(row["snn"] - row["ann"]) <= 1
        assert f"{row['snn']:.2f}" in printed and f"{row['neurons']:,}" in printed
        assert row["spikes_per_neuron"] == pytest.approx(row["spikes_per_image"] / row["neurons"])
    assert "paper" not in printed
    assert (tmp_path / "table2_digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:outside what their parameters cover")
def test_table2_on_cifar10_puts_the_paper_beside(tmp_path, cifar10_dir):
    printed = run(
        "table2", f"--data_dir={cifar10_dir}", "--models=resnet8", "--limit=300", "--K=4", "--alpha=8",
        f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert "103,753" in printed and "87.22" in printed and "K=4, alpha=8" in printed
    row = json.loads((tmp_path / "table2_partial.json").read_text())["rows"][0]
    assert row["neurons"] == 73_728 and row["paper"]["spikes"] == 103_753


def test_table2_falls_back_to_digits_in_one_line(tmp_path, monkeypatch):
    def unreachable(host):
        raise OSError(f"{host} does not answer")

    monkeypatch.setattr(datasets, "require_host", unreachable)
    printed = run("table2", f"--data_dir={tmp_path}/none", "--limit=50", f"--output_dir={tmp_path}")
    assert printed.startswith("Falling back") and "does not answer" in printed.splitlines()[0]
    assert (tmp_path / "table2_digits_partial.json").exists()


@pytest.mark.parametrize("fewer", ["--limit=20", "--models=resnet8"])
def test_less_than_the_table_never_replaces_it(tmp_path, fewer):
    whole = tmp_path / "table2_digits.json"
    whole.write_text("the whole table")
    printed = run("table2", "--data=digits", f"--output_dir={tmp_path}", fewer)
    assert whole.read_text() == "the whole table" and "table2_digits_partial.json" in printed
    assert results.read_json(tmp_path / "table2_digits_partial.json")["rows"]


def test_a_run_leaves_no_flags_behind(tmp_path):
    run("figure4", "--alpha=10", f"--output_dir={tmp_path}")
    run("figure4", f"--output_dir={tmp_path}")
    result = results.read_json(tmp_path / "figure4.json")
    assert result["rows"][0]["set"] == "alpha = 25"
    assert result["command"] == f"python -m experiments.figure4 --output_dir={tmp_path}"


def test_every_result_has_commit_and_versions(tmp_path):
    run("figure4", f"--output_dir={tmp_path}")
    result = results.read_json(tmp_path / "figure4.json")
    assert set(result["versions"]) >= {"keras", "tensorflow", "numpy", "numba"}
    assert result["commit"] == results.commit()
    if (results.ROOT / ".git").exists():
        assert re.match(r"[0-9a-f]{40}( with changes)?$", result["commit"])


def test_every_result_that_is_kept_says_which_commit_made_it():
    paths = [p for p in results.RESULTS_DIR.glob("*.json") if not p.stem.endswith("_partial")]
    assert len(paths) > 15
    for path in paths:
        result = results.read_json(path)
        rows = [row for row in result.get("rows", ()) if "command" in row]
        assert all(part.get("commit") for part in (result, *rows)), path.name


def test_rows_of_runs_at_the_same_time_all_stay(tmp_path):
    path = tmp_path / "rows.json"
    made_by = results.provenance("nothing", 0)

    def add(number):
        for step in range(5):
            row = {"number": number, "step": step}
            results.merge_rows(path, [row], lambda row: (row["number"], row["step"]), made_by)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    rows = results.rows_of(path)
    assert sorted((row["number"], row["step"]) for row in rows) == [
        (number, step) for number in range(8) for step in range(5)
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_rows_keep_what_made_them(tmp_path):
    path = tmp_path / "rows.json"
    for number, command in ((1, "first"), (2, "second"), (2, "third")):
        made_by = {**results.provenance("nothing", 0), "command": command}
        results.merge_rows(path, [{"number": number}], lambda row: row["number"], made_by)
    rows = results.rows_of(path)
    assert [row["command"] for row in rows] == ["first", "third"]
    for row in rows:
        assert row["commit"] == results.commit() and row["versions"] == results.versions()


def test_help_lists_the_flags_of_the_experiment():
    """What absl's --help prints for the program; two of its flags would be another experiment's."""
    with runner.beside_absl(table2.FLAGS):
        text = flags.FLAGS.main_module_help()
    for flag in ("data", "models", "K", "limit", "output_dir", "strategy"):
        assert re.search(rf"--{flag}:", text), text
    assert "--largest_K" not in text and "--rate_images" not in text
    assert "K" not in flags.FLAGS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=digits", "--models=resnet50"], "--models=resnet50"),
        (["--data=digits", "--alpha=-1"], "alpha"),
        (["--data=digits", "--K=0"], "K"),
        (["--data=mnist"], "data"),
        (["stray"], "stray"),
    ],
)
def test_table2_refuses_wrong_flags_in_a_line(arguments, message, tmp_path):
    assert message in run("table2", *arguments, f"--output_dir={tmp_path}", expect=1)


@pytest.mark.long
def test_figure6a_rises_to_the_accuracy_of_the_network(tmp_path):
    run("figure6a", "--data=digits", "--largest_K=10", "--alpha=10", f"--output_dir={tmp_path}")
    result = json.loads((tmp_path / "figure6a_digits.json").read_text())
    accuracy = {row["K"]: row["snn"] for row in result["rows"]}
    assert list(accuracy) == list(range(2, 11))
    assert accuracy[2] < 50 and abs(accuracy[10] - result["rows"][0]["ann"]) <= 0.5
    assert len((tmp_path / "figure6a_digits.csv").read_text().splitlines()) == 10
    assert (tmp_path / "figure6a_digits.png").read_bytes().startswith(b"\x89PNG")


def test_figure6a_names_the_network_without_weights(tmp_path):
    given = ("--data=digits", "--models=resnet50", f"--output_dir={tmp_path}")
    assert "--model=resnet50 --data=digits" in run("figure6a", *given, expect=1)


def test_training_script_writes_weights_history_and_summary(tmp_path, monkeypatch):
    # It holds for the rest of the process, and other tests draw without a seed.
    monkeypatch.setattr(epochs, "repeatable", lambda: None)
    run("train_cifar10", "--data=digits", "--epochs=2", "--limit=256", f"--output_dir={tmp_path}")
    summary = json.loads((tmp_path / "resnet8.json").read_text())
    assert "--epochs=2" in summary["command"] and 0 <= summary["test_accuracy"] <= 1
    assert len((tmp_path / "resnet8.csv").read_text().splitlines()) == 3
    assert (tmp_path / "resnet8.weights.h5").exists()
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("script", ["train_cifar10", "finetune"])
def test_a_killed_training_is_not_begun_anew(script, tmp_path, monkeypatch):
    monkeypatch.setattr(epochs, "repeatable", lambda: None)
    for stem in ("resnet8", "digits_resnet8_k3"):
        (tmp_path / f"{stem}.checkpoint.npz").write_bytes(b"a state")
    folder = "models_dir" if script == "finetune" else "output_dir"
    message = run(script, "--data=digits", f"--{folder}={tmp_path}", expect=1)
    assert message.startswith(f"{script}: ") and "--resume" in message


def test_networks_trained_on_less_are_apart_from_the_shipped_ones():
    assert runner.params_path(None, "finetuned") == params_dir() / "finetuned"
    assert runner.params_path(None, "cifar10", complete=False).name == "cifar10_partial"
    assert str(runner.params_path("mine", "cifar10", complete=False)) == "mine"


def test_figure1_writes_the_spikes_that_it_draws(tmp_path):
    printed = run(
        "figure1", "--set=sigmoid_k8", "--function=sigmoid", "--x=-1", f"--output_dir={tmp_path}"
    )
    result = json.loads((tmp_path / "figure1.json").read_text())
    assert f"{sum(result['spikes'])} spikes" in printed and len(result["spikes"]) == 8
    assert abs(result["output"] - 0.269) < 0.02 and result["set"] == "sigmoid_k8"
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_figure2_puts_the_paper_beside(tmp_path):
    run("figure2", f"--output_dir={tmp_path}")
    published, fitted = json.loads((tmp_path / "figure2.json").read_text())["rows"]
    assert published["mse_in_main_region"] == pytest.approx(0.00239, abs=1e-5)
    assert published["paper"]["mse_in_main_region"] == 0.0023 and fitted["paper"] is None
    assert fitted["mse"] < published["mse"] / 5


def test_figure6_fits_replace_the_complete_ones_only_when_they_are(tmp_path, monkeypatch):
    fits = tmp_path / "fits" / "figure6b.json"
    fits.parent.mkdir()
    fits.write_text("complete")
    monkeypatch.setattr(runner, "params_dir", lambda: tmp_path)
    monkeypatch.setitem(fit_parameters.FIGURES, "6b", ("swish", (-8.0, 12.0), "K", (2, 3)))
    for method in fit_parameters.FIGURE_EFFORT:
        monkeypatch.setitem(fit_parameters.FIGURE_EFFORT, method, 20)
    given = ("--panel=b", "--refit", f"--output_dir={tmp_path}")
    printed = run("figure6", *given, "--effort=10")
    assert fits.read_text() == "complete" and "figure6b_partial" in printed
    run("figure6", *given)
    assert [point["K"] for point in json.loads(fits.read_text())["points"]] == [2, 2, 3, 3]
    rows = results.rows_of(tmp_path / "figure6b.json")
    assert {row["method"] for row in rows} == {"exact", "bptt"}


def test_efficiency_compares_with_rate_coding(tmp_path):
    printed = run(
        "efficiency", "--data=digits", "--limit=30", "--steps=24", f"--output_dir={tmp_path}"
    )
    content = json.loads((tmp_path / "efficiency_digits_partial.json").read_text())
    assert content["fs"]["steps_between_images"] == 20 and content["fs"]["latency"] == 80
    spikes = [row["spikes_per_image"] for row in content["rate"]]
    assert len(spikes) == 24 and spikes == sorted(spikes) and spikes[-1] > 0
    assert "27.5 x" in printed and "125.0 x" in printed
    assert (tmp_path / "efficiency_digits_partial.png").stat().st_size > 10_000


@pytest.mark.long
def test_finetune_writes_a_network_that_gives_the_numbers_of_its_row(tmp_path):
    whole = tmp_path / "finetune_digits.json"
    whole.write_text("of all training images")
    printed = run("finetune", "--data=digits", "--steps=1", "--epochs=4", "--training_limit=400",
                  "--images=100", f"--models_dir={tmp_path}", f"--output_dir={tmp_path}",
                  "--verbosity=-1")  # fmt: skip
    assert whole.read_text() == "of all training images"
    (row,) = results.rows_of(tmp_path / "finetune_digits_partial.json")
    snn = load_model(tmp_path / "digits_resnet8_k1.keras")
    result = evaluate(snn, datasets.load("digits", "test"))
    assert 100 * result.accuracy == pytest.approx(row["snn"], abs=1e-3)
    neurons = fs.conversion_report(snn).neurons
    assert result.spikes_per_image / neurons == pytest.approx(row["spikes_per_neuron"])
    assert row["snn"] > row["calibrated"] and f"{row['snn']:.2f}" in printed
    assert {site.parameters.K for site in snn.layers if isinstance(site, fs.FSActivation)} == {1}
    assert not list(tmp_path.glob("*.npz"))


def test_pareto_says_that_there_is_nothing_to_measure(tmp_path):
    message = run(
        "pareto", "--data=digits", "--method=finetuned", f"--output_dir={tmp_path}", expect=1
    )
    assert "none of finetuned" in message and not list(tmp_path.iterdir())


@pytest.mark.long
def test_pareto_keeps_rows_of_other_runs(tmp_path):
    given = ("--data=digits", "--models=resnet8", "--images=50", "--limit=50", "--rate_steps=16",
             "--rate_images=20", f"--output_dir={tmp_path}", "--verbosity=-1")  # fmt: skip
    run("pareto", *given, "--steps=3", "--method=layer", "--method=rate")
    printed = run("pareto", *given, "--steps=4,3", "--method=layer", "--method=calibrated")
    rows = json.loads((tmp_path / "pareto_digits_partial.json").read_text())["rows"]
    assert {(row["method"], row["K"]) for row in rows} == {
        ("layer", 3), ("layer", 4), ("calibrated", 3), ("calibrated", 4), ("rate", 8), ("rate", 16),
    }  # fmt: skip
    for row in rows:
        assert f"{row['snn']:.2f}" in printed and f"{row['spikes_per_neuron']:.2f}" in printed
    assert (tmp_path / "pareto_digits_partial.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("network", "method", "steps"),
    [
        ("resnet8", "paper", [10, 5, 4, 3]),
        ("resnet8", "priced", [6, 5, 4]),
        ("resnet8", "refined", [5, 4, 3]),
        ("resnet8", "fitted", []),
        ("se_resnet8_swish", "calibrated", [16, 12, 10, 8]),
        ("se_resnet8_swish", "fitted", [16, 10, 8]),
        ("se_resnet8_swish", "priced", []),
    ],
)
def test_pareto_measures_every_method_at_its_steps(network, method, steps):
    model = models.pretrained(network, "digits")
    with runner.beside_absl(pareto.FLAGS):
        found = [K for K, _ in pareto.conversions(network, model, None, method, "digits")]
    assert found == steps


@pytest.mark.long
def test_networks_without_data(tmp_path):
    printed = run(
        "without_data",
        "--data=digits",
        "--networks=resnet8",
        "--limit=100",
        f"--output_dir={tmp_path}",
    )
    assert "resnet8" in printed
    rows = json.loads((tmp_path / "without_data_digits_partial.json").read_text())["rows"]
    assert [row["K"] for row in rows] == [10, 8, 6, 5]
    assert all(row["ann"] - row["snn"] < 5 for row in rows)


@pytest.mark.long
def test_a_chip(tmp_path):
    arguments = (
        "chip", "--data=digits", "--limit=40", "--networks=resnet8", "--steps=0", "--profiled=5",
        f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert "digital multiplications" in run(*arguments)
    content = json.loads((tmp_path / "chip_digits_partial.json").read_text())
    assert [row["weight_bits"] for row in content["rows"]] == [None, 8]
    assert content["rows"][1]["digital multiplications"] == 0
    again = run(*arguments, "--weight_bits=8,4")  # what is there stays
    after = json.loads((tmp_path / "chip_digits_partial.json").read_text())["rows"]
    assert after[:2] == content["rows"] and [row["weight_bits"] for row in after] == [None, 8, 4]
    assert "4 bits" in again


@pytest.mark.long
def test_bits_of_weights_and_parameters(tmp_path):
    arguments = ("figure_bits", "--data=digits", "--limit=40", f"--output_dir={tmp_path}")
    printed = run(*arguments)
    rows = json.loads((tmp_path / "figure_bits_digits_partial.json").read_text())["rows"]
    assert len(rows) == 4 + 4 + 4 + 4 and (tmp_path / "figure_bits_digits_partial.png").exists()
    eight = [row["snn"] for row in rows if row["weight_bits"] == 8 and row["parameter_bits"] == 8]
    assert min(eight) > 90
    assert run(*arguments) == printed  # from the file
