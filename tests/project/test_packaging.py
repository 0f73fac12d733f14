"""The wheel and the sdist hold what is needed, and an installed package works away from the source."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT

import fs_neurons as fs


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), the wheel built from the unpacked sdist, as an installer would."""
    pytest.importorskip("wheel")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    _setup(source, "sdist", "--dist-dir", str(folder))
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _setup(unpacked, "bdist_wheel", "--dist-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


def _setup(folder, *arguments):
    command = [sys.executable, "setup.py", "--quiet", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_wheel_holds_parameters_weights_types_and_licence(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    shipped = [
        path for pattern in ("*.json", "*/*.weights.h5", "finetuned/*.keras")
        for path in ROOT.glob(f"params/{pattern}")
    ]  # fmt: skip
    assert len(shipped) > 20
    for path in shipped:
        assert f"fs_neurons/{path.relative_to(ROOT).as_posix()}" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fs_neurons").rglob("*.py")}
    assert {"fs_neurons/py.typed", *modules} <= names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "experiments/")) for name in names)


@pytest.mark.parametrize("url", ["", "https://example.org/fs_neurons"])
def test_the_page_of_a_package_index_has_no_relative_address(url):
    result = subprocess.run(
        [sys.executable, "setup.py", "--long-description"],
        cwd=ROOT, env={**os.environ, "REPOSITORY_URL": url}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    targets = re.findall(r"\]\(([^)]+)\)", result.stdout)
    assert targets and all(target.startswith("https://") for target in targets)
    assert ("raw/main/results/schematic.png" in result.stdout) == bool(url)


@pytest.mark.long
def test_an_installed_package_works_away_from_the_source(built, tmp_path):
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path / "site")
    program = (
        "import fs_neurons as fs; from fs_neurons import models; from fs_neurons.neuron import sets;"
        "assert 'site' in fs.__file__; assert len(sets.available()) > 20;"
        "assert 'resnet20_k3' in models.finetuned();"
        "snn = fs.convert(models.pretrained('resnet8', 'digits'));"
        "print(fs.conversion_report(snn).neurons)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert result.returncode == 0 and result.stdout.split() == ["4608"], result.stderr[-3000:]


def test_one_version_everywhere():
    wheel_version = re.compile(rf"^version: {re.escape(fs.__version__)}$", re.M)
    assert wheel_version.search((ROOT / "CITATION.cff").read_text())
    assert f"## {fs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_command_is_declared(built):
    wheel = zipfile.ZipFile(built[0])
    (entry,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "fs-neurons = fs_neurons.cli:run" in wheel.read(entry).decode()
