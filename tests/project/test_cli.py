"""The command line, in this process: what it prints and writes, its exit codes, its one-line errors."""

import argparse
import json
import re
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

import fs_neurons as fs
from fs_neurons import cli, fitting, models
from fs_neurons.analysis import evaluate
from fs_neurons.backend import distribution
from fs_neurons.calibration import Settings
from fs_neurons.cli import flags as cli_flags
from fs_neurons.cli.errors import with_flags
from fs_neurons.conversion.substitution import UNSUPPORTED
from fs_neurons.data import datasets
from fs_neurons.neuron import sets as parameters

OK, FAILED, WRONG_USAGE = 0, 1, 2


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = cli.main(["fs-neurons", *shlex.split(line)])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_convert_and_profile_give_what_the_package_gives(call, tmp_path):
    code, printed, _ = call("convert digits/resnet8 out/snn.keras --K=6 --alpha=10")
    assert code == OK and "7 sites, 4,608 FS-neurons" in printed and "relu_k6_alpha10" in printed
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    code, printed, _ = call(
        "profile out/snn.keras --data=images.npy --limit=5 --json=p.json --plot=p.png"
    )
    snn = keras.models.load_model(tmp_path / "out" / "snn.keras")
    expected = fs.profile(snn, images[:5])
    assert code == OK and str(expected) in printed
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(expected.to_json())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_convert_with_images_ends_with_a_summary(call, tmp_path):
    code, printed, _ = call("convert digits/resnet8 snn.keras --data=digits --limit=50")
    model = models.pretrained("resnet8", "digits")
    test = datasets.load("digits", "test").take(50)
    images = keras.ops.convert_to_numpy(datasets.standardise(test.images))
    snn = keras.models.load_model(tmp_path / "snn.keras")
    expected = str(fs.summary(model, snn, images, test.labels)).partition("what to do next")[0]
    assert code == OK and expected in printed
    assert "fs-neurons calibrate MODEL OUT.keras --steps=4" in printed
    code, _, said = call("convert digits/resnet8 snn.keras --labels=labels.npy")
    assert code == WRONG_USAGE and "--data=FILE.npy" in said


def test_flags_of_one_call_are_forgotten_by_the_next(call):
    assert "relu_k6" in call("convert digits/resnet8 a.keras --K=6")[1]
    assert "relu_k10_alpha25" in call("convert digits/resnet8 a.keras --quality=paper")[1]


def test_sets_and_kept_activations_reach_convert(call):
    printed = call("convert digits/se_resnet8_swish s.keras --set=swish=swish_k8 --keep=sigmoid")[1]
    assert "swish_k8" in printed and "kept" in printed and "swish_k16" not in printed
    for quality, published in (("paper", True), ("accurate", False)):
        printed = call(f"convert digits/se_resnet8_swish s.keras --quality={quality}")[1]
        assert ("sigmoid_k12_paper" in printed) == published and "sigmoid_k1" in printed


def test_a_set_that_matches_nothing_gives_a_warning_in_one_line(call):
    code, _, errors = call("convert digits/resnet8 a.keras --set=silu=swish_k8")
    assert (
        code == OK
        and errors.startswith("fs-neurons: warning: --set=silu=SET was")
        and errors.count("\n") == 1
    )


def test_fit_writes_the_set_that_fs_fit_finds(call, tmp_path):
    (tmp_path / "my_functions.py").write_text("def bump(x):\n    return 1 / (1 + x * x)\n")
    line = "fit bump.json --function=my_functions:bump --domain=-3,3 --K=5 --effort=1000"
    code, printed, _ = call(line)
    fitted = parameters.load(tmp_path / "bump.json")
    expected = fs.fit(lambda x: 1 / (1 + x * x), 5, (-3, 3), effort=1000, verbose=False)
    assert code == OK and fitted == expected and fitted.name == "bump"
    assert f"{fitted.errors['mse [-3, 3]']:.3g}" in printed
    assert call("plot bump.json b.png --function=my_functions:bump")[0] == OK
    assert call("plot bump.json b.svg --function=my_functions:bump --x=0.5")[0] == OK


def test_every_shipped_set_is_listed(call):
    code, printed, _ = call("sets")
    assert code == OK and all(name in printed for name in parameters.available())


def test_networks_lists_what_is_shipped_and_evaluate_takes_it(call):
    code, printed, _ = call("networks")
    assert code == OK
    for data in models.INPUT_SHAPES:
        for name in (*models.shipped(data), *models.finetuned(data)):
            assert f"{data}/{name} " in printed
    assert "cifar10/resnet20_k3" in printed and "fine-tuned at K = 3" in printed
    assert isinstance(models.pretrained("resnet8_k2"), keras.Model)


def test_calibrate_is_convert_with_training_images(call, tmp_path):
    code, printed, _ = call(
        "calibrate digits/resnet8 snn.keras --steps=3 --correction=mean --limit=200"
    )
    assert code == OK and "Calibrated on 200 images" in printed and "7 sites" in printed
    images = datasets.standardise(datasets.load("digits", "train").take(200).images)
    expected = fs.convert(
        models.pretrained("resnet8", "digits"), calibration_data=np.asarray(images), steps=3,
        correction="mean",
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 1)).astype("float32")
    found = keras.models.load_model(tmp_path / "snn.keras")
    assert np.array_equal(found.predict(x, verbose=0), expected.predict(x, verbose=0))


def test_evaluate_gives_accuracy_where_there_are_labels(call, tmp_path):
    test = datasets.load("digits", "test").take(50)
    model = models.pretrained("resnet8", "digits")
    snn = fs.convert(model)
    snn.save(tmp_path / "snn.keras")
    expected = evaluate(snn, test)
    line = "evaluate snn.keras --data=digits --limit=50 --batch_size=7 --json=e.json"
    code, printed, _ = call(line)
    measured = json.loads((tmp_path / "e.json").read_text())
    assert code == OK and f"accuracy {expected.accuracy:.2%}" in printed
    assert measured["accuracy"] == expected.accuracy
    assert measured["spikes_per_image"] == expected.spikes_per_image
    assert measured["spikes_per_neuron"] == expected.spikes_per_image / 4608

    np.save(tmp_path / "x.npy", np.asarray(datasets.standardise(test.images)))
    assert "accuracy" not in call("evaluate snn.keras --data=x.npy")[1]
    wrong = (test.labels + (np.arange(50) < 10)) % 10
    np.save(tmp_path / "y.npy", wrong)
    share = (expected.predictions == wrong).mean()
    assert f"accuracy {share:.2%}" in call("evaluate snn.keras --data=x.npy --labels=y.npy")[1]
    assert "no FS-neurons" in call("evaluate digits/resnet8 --limit=5")[1]
    np.save(tmp_path / "y.npy", wrong[:3])
    assert "for 50 images" in call("evaluate snn.keras --data=x.npy --labels=y.npy")[2]


def test_compare_gives_what_the_package_gives(call, tmp_path):
    model = models.pretrained("resnet8", "digits")
    snn = fs.convert(model, relu=fs.relu_parameters(4, 8))
    snn.save(tmp_path / "snn.keras")
    test = datasets.load("digits", "test").take(20)
    images = keras.ops.convert_to_numpy(datasets.standardise(test.images))
    code, printed, _ = call("compare digits/resnet8 snn.keras --limit=20 --json=c.json")
    expected = fs.compare(model, snn, images, test.labels)
    assert code == OK and str(expected) in printed
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(expected.to_json())


def test_simulate_writes_every_spike(call, tmp_path):
    call("convert digits/resnet8 snn.keras --K=4 --alpha=8")
    code, printed, _ = call("simulate snn.keras spikes.csv --limit=2")
    test = datasets.load("digits", "test").take(2)
    snn = keras.models.load_model(tmp_path / "snn.keras")
    result = fs.simulate(snn, datasets.standardise(test.images), raster=True)
    header, *rows = [line.split(",") for line in (tmp_path / "spikes.csv").read_text().splitlines()]
    assert header == ["image", "site", "step", "neuron"]
    expected = {
        (str(image), site.name, str(step), str(index))
        for site in result.sites
        for image, step, index in zip(
            site.raster.image, site.raster.step, site.raster.neuron, strict=True
        )
    }
    assert len(rows) == len(expected) == result.spikes.sum() and set(map(tuple, rows)) == expected
    assert code == OK and f"{len(rows):,} spikes" in printed
    assert f"an image every {result.period} steps" in printed and "accuracy" in printed


def test_help_shows_every_command_and_flag(call):
    code, printed, _ = call("--help")
    assert code == OK and all(re.search(rf"^    {name}\s", printed, re.M) for name in cli.COMMANDS)
    for name, (declare, positional, _) in cli.COMMANDS.items():
        code, printed, _ = call(f"{name} --help")
        assert code == OK and f"fs-neurons {name} {positional}".strip() in printed
        parser = argparse.ArgumentParser()
        declare(parser)
        flags = [word for action in parser._actions for word in action.option_strings]
        assert all(flag in printed for flag in flags)
    assert call("")[0] == WRONG_USAGE and call("help")[0] == OK
    assert call("convert")[0] == WRONG_USAGE
    assert call("--version")[1] == f"fs-neurons {fs.__version__}\n"


def test_choices_are_those_of_the_package():
    assert cli_flags.QUALITIES == parameters.QUALITIES
    assert set(cli_flags.STRATEGIES) == set(distribution.STRATEGIES)
    assert cli_flags.UNSUPPORTED == UNSUPPORTED
    assert set(cli_flags.METHODS) == set(fitting.EFFORT)
    assert set(cli_flags.DATA_SETS) == set(datasets.NAMES)
    for name in cli_flags.CORRECTIONS:
        Settings(correction=name)
    for name in cli_flags.GRANULARITIES:
        Settings(granularity=name)
    with pytest.raises(ValueError, match=", ".join(cli_flags.CORRECTIONS)):
        Settings(correction="nothing")
    with pytest.raises(ValueError, match=f"{', '.join(cli_flags.GRANULARITIES)}, got"):
        Settings(granularity="nothing")


def test_help_and_version_import_neither_keras_nor_a_backend():
    """In a child: here they are imported already."""
    for line in (["--version"], ["--help"], ["convert", "--help"], ["convert"]):
        program = (
            f"import sys; from fs_neurons import cli; cli.main(['fs-neurons', *{line}]);"
            "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize(
    ("message", "advised"),
    [
        ("If you trust it: load_model(path, allow_code=True)", "If you trust it: --allow_code"),
        ('as they are: convert(model, unsupported="keep")', "as they are: --unsupported=keep"),
        ("pass one, convert(model, gelu=...), or", "pass one, --set=gelu=SET, or"),
        (
            'pass one, convert(model, cos=...), or register one, fs.register("cos", fs.fit(function, K=12,'
            ' domain=(-8, 12))), or let convert fit one, convert(model, unsupported="fit");',
            "pass one, --set=cos=SET, or let convert fit one, --unsupported=fit;",
        ),
        ("or with calibration_data=..., which fits", "or with fs-neurons calibrate, which fits"),
        ("to convert that too, convert(model, convert_outputs=True)", "to convert that too, --convert_outputs"),
        ("or relu=fs.relu_parameters(K, alpha)", "or --K and --alpha"),
        ("give target_spikes or spike_penalty, not both", "give --target_spikes or --spike_penalty, not both"),
        ("target_spikes must be a number > 0", "--target_spikes must be a number > 0"),
    ],
)  # fmt: skip
def test_advice_names_flags(message, advised):
    assert with_flags(message) == advised


def test_the_package_itself_knows_no_flags():
    for path in (ROOT / "fs_neurons").rglob("*.py"):
        if "cli" not in path.parts and path.parts[-2] != "training":
            found = re.findall(r"[^-#]--[a-z]\w+", path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found}"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("nonsense", WRONG_USAGE, "convert, calibrate, evaluate"),
        ("convert one.keras", WRONG_USAGE, "MODEL OUT.keras"),
        ("convert digits/resnet8 a.keras --bogus=1", WRONG_USAGE, "bogus"),
        ("convert digits/resnet8 a.keras --K=0", WRONG_USAGE, "--K: must be at least 1"),
        ("convert digits/resnet8 a.keras --set=relu", WRONG_USAGE, "ACTIVATION=SET"),
        ("convert digits/resnet8 a.keras --set=blah=swish_k8", FAILED, "blah"),
        ("convert digits/resnet8 a.keras --set=relu=nowhere", FAILED, "nowhere"),
        ("convert digits/resnet8 a.keras --alpha=-1", FAILED, "alpha"),
        ("convert digits/resnet50 a.keras", FAILED, "cifar10/resnet20_k3"),
        ("evaluate resnet20", FAILED, "digits/resnet8"),
        ("convert digits/resnet8 a.h5", FAILED, "must end in .keras"),
        ("convert nowhere.keras a.keras", FAILED, "no such file"),
        ("profile digits/resnet8", FAILED, "convert it first"),
        ("profile digits/resnet8 --data=elsewhere", WRONG_USAGE, ".npy"),
        ("profile digits/resnet8 --data=nowhere.npy", FAILED, "no such file"),
        ("evaluate digits/resnet8 --labels=y.npy", WRONG_USAGE, "leave it out"),
        ("evaluate digits/resnet8 --data=nowhere.npy", FAILED, "no such file"),
        ("compare digits/resnet8 digits/resnet8 --limit=2", FAILED, "no FS layer"),
        ("simulate digits/resnet8 spikes.txt", WRONG_USAGE, ".csv"),
        ("calibrate digits/resnet8 a.keras --steps=0", WRONG_USAGE, "--steps: must be at least 1"),
        ("calibrate digits/resnet8 a.keras --correction=no", WRONG_USAGE, "weights"),
        (
            "calibrate digits/resnet8 a.keras --limit=50 --target_spikes=-1",
            FAILED,
            "--target_spikes must",
        ),
        ("profile digits/resnet8 --plot=p.bmp", WRONG_USAGE, ".png"),
        ("fit f.txt --function=gelu", WRONG_USAGE, ".json"),
        ("fit f.json --function=nope", WRONG_USAGE, "no Keras activation"),
        ("fit f.json --function=json:nope", WRONG_USAGE, "nope"),
        ("fit f.json --function=gelu --domain=1", WRONG_USAGE, "LOW,HIGH"),
        ("fit f.json --function=gelu --domain=2,1", FAILED, "low < high"),
        ("plot swish_k16 p.bmp", WRONG_USAGE, ".png"),
        ("plot nowhere p.png", FAILED, "swish_k16_paper"),
        ("plot swish_k16 p.png --x=nan", FAILED, "finite"),
    ],
)
def test_a_mistake_gives_one_line_and_an_exit_code(call, tmp_path, line, code, message):
    found, printed, errors = call(line)
    assert found == code and not printed
    assert errors.startswith("fs-neurons: ") and errors.count("\n") == 1 and message in errors
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".keras", ".json", ".png")]


def test_images_that_do_not_fit_the_network_are_refused(call, tmp_path):
    call("convert digits/resnet8 snn.keras")
    for images, message in (
        (np.zeros((2, 9, 9, 1)), "takes images of shape (8, 8, 1)"),
        (np.array([["a"]]), "give numbers"),
        (np.array([{}], dtype=object), "not an array of numbers"),
    ):
        np.save(tmp_path / "x.npy", images)
        code, _, errors = call("profile snn.keras --data=x.npy")
        assert code == FAILED and message in errors


def test_it_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "fs_neurons", "nonsense"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == WRONG_USAGE and "Traceback" not in result.stderr
