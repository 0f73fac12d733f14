"""What the type checker of a user sees: the package as it is installed, Keras without types."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """\
import fs_neurons as fs

mine = fs.fit("gelu", K=12, domain=(-8, 12))
reveal_type(mine)
reveal_type(mine.T)
def all_of_it(model, images):
    snn = fs.convert(model, gelu=mine)
    reveal_type(fs.profile(snn, images))
    reveal_type(fs.profile(snn, images).spikes_per_neuron)
    reveal_type(fs.compare(model, snn, images))
    reveal_type(fs.simulate(snn, images))
    reveal_type(fs.conversion_report(snn))
    reveal_type(fs.verify(model))
    reveal_type(fs.ConversionError("text"))
fs.fit("gelu", K="12", domain=(-8, 12))
"""
EXPECTED = [
    r"fs_neurons\.neuron\.parameters\.FSParameters",
    r"numpy\.ndarray\[.*\]",
    r"fs_neurons\.analysis\.results\.Profile",
    r"(builtins\.)?float",
    r"fs_neurons\.analysis\.comparison\.Comparison",
    r"fs_neurons\.simulation\.spikes\.Simulation",
    r"fs_neurons\.conversion\.report\.ConversionReport",
    r"(builtins\.)?float",
    r"fs_neurons\.network\.errors\.ConversionError",
]


@pytest.mark.long
def test_users_see_the_types_of_the_public_functions(tmp_path):
    pytest.importorskip("mypy")
    # As pip would put it there: a package with py.typed, and neither mypy.ini nor stubs beside it.
    (tmp_path / "fs_neurons").symlink_to(ROOT / "fs_neurons", target_is_directory=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs",
         "--ignore-missing-imports", "--follow-imports=silent", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    revealed = re.findall(r'Revealed type is "(.*)"', result.stdout)
    assert len(revealed) == len(EXPECTED), result.stdout + result.stderr
    for text, pattern in zip(revealed, EXPECTED, strict=True):
        assert re.fullmatch(pattern, text), text
    (error,) = re.findall(r"error: (.*)", result.stdout)
    assert 'Argument "K" to "fit" has incompatible type "str"; expected "int"' in error
