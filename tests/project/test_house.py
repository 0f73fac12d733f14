"""Rules of the house that no linter checks."""

import ast
import configparser

import pytest
from conftest import ROOT

PACKAGE = ROOT / "fs_neurons"
FILES = sorted(PACKAGE.rglob("*.py"))
INTERNALS = PACKAGE / "network" / "keras_internals.py"
MOST_LINES = 400


def called_names(tree):
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {getattr(call, "attr", getattr(call, "id", "")) for call in calls}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MOST_LINES
    assert ast.get_docstring(tree)
    assert "print" not in called_names(tree) or path.parent.name == "cli"
    assert not {"_getframe", "currentframe"} & called_names(tree)
    assert "keras.src" not in text or path == INTERNALS


def test_mypy_is_strict_and_no_error_is_switched_off():
    config = configparser.ConfigParser()
    config.read(ROOT / "mypy.ini")
    assert config.sections() == ["mypy"]
    assert set(config["mypy"]) == {
        "python_version", "strict", "ignore_missing_imports", "follow_imports", "mypy_path"
    }  # fmt: skip
    assert config["mypy"]["strict"] == "True"
