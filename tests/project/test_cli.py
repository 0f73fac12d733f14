"""The command line, in this process: what it prints and writes, its exit codes, its one-line errors."""

import json
import shlex
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT

import fs_neurons as fs
from fs_neurons import cli
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


def test_flags_of_one_call_are_forgotten_by_the_next(call):
    assert "relu_k6" in call("convert digits/resnet8 a.keras --K=6")[1]
    assert "relu_k10_alpha25" in call("convert digits/resnet8 a.keras")[1]


def test_sets_and_kept_activations_reach_convert(call):
    printed = call("convert digits/se_resnet8_swish s.keras --set=swish=swish_k8 --keep=sigmoid")[1]
    assert "swish_k8" in printed and "kept" in printed and "swish_k16" not in printed
    assert "sigmoid_k12 " in call("convert digits/se_resnet8_swish s.keras --quality=accurate")[1]


def test_a_set_that_matches_nothing_gives_a_warning_in_one_line(call):
    code, _, errors = call("convert digits/resnet8 a.keras --set=silu=swish_k8")
    assert (
        code == OK and errors.startswith("fs-neurons: warning: silu=") and errors.count("\n") == 1
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


def test_help_shows_every_command_and_flag(call):
    code, printed, _ = call("--help")
    assert code == OK and all(name in printed for name in cli.COMMANDS)
    for name, command in cli.COMMANDS.items():
        code, printed, _ = call(f"{name} --help")
        assert code == OK and f"fs-neurons {name}" in printed
        assert all(f"--{flag}" in printed for flag in command.flags if flag != "help")
    assert call("")[0] == WRONG_USAGE
    assert call("--version")[1] == f"fs-neurons {fs.__version__}\n"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("nonsense", WRONG_USAGE, "convert, profile, fit"),
        ("convert one.keras", WRONG_USAGE, "MODEL OUT.keras"),
        ("convert digits/resnet8 a.keras --bogus=1", WRONG_USAGE, "bogus"),
        ("convert digits/resnet8 a.keras --K=0", WRONG_USAGE, "--K=0"),
        ("convert digits/resnet8 a.keras --set=relu", WRONG_USAGE, "ACTIVATION=SET"),
        ("convert digits/resnet8 a.keras --set=blah=swish_k8", FAILED, "blah"),
        ("convert digits/resnet8 a.keras --set=relu=nowhere", FAILED, "nowhere"),
        ("convert digits/resnet8 a.keras --alpha=-1", FAILED, "alpha"),
        ("convert digits/resnet50 a.keras", FAILED, "train_cifar10"),
        ("convert digits/resnet8 a.h5", FAILED, "must end in .keras"),
        ("convert nowhere.keras a.keras", FAILED, "no such file"),
        ("profile digits/resnet8", FAILED, "convert it first"),
        ("profile digits/resnet8 --data=elsewhere", WRONG_USAGE, ".npy"),
        ("profile digits/resnet8 --data=nowhere.npy", FAILED, "no such file"),
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
