"""`import fs_neurons` alone: what it starts, what it offers, and that saved networks load after it.

In children: what was imported before, and in which order, is what these tests are about.
"""

import subprocess
import sys

import pytest
from conftest import ROOT

import fs_neurons as fs
from fs_neurons import models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "snn.keras"
    fs.convert(models.pretrained("resnet8", "digits")).save(path)
    return path


def python(program):
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_neither_keras_nor_its_backends_are_started():
    heavy = ("keras", "tensorflow", "jax", "torch", "numba", "matplotlib", "numpy")
    program = (
        f"import sys, fs_neurons, fs_neurons.cli; print(*(m for m in {heavy} if m in sys.modules))"
    )
    assert python(program) == "\n"


@pytest.mark.parametrize(
    "imports",
    [
        "import fs_neurons, keras",
        pytest.param(
            "import fs_neurons, tensorflow; keras = tensorflow.keras", marks=pytest.mark.long
        ),
        pytest.param("import fs_neurons.neuron, keras", marks=pytest.mark.long),
        pytest.param("import fs_neurons.files.models, keras", marks=pytest.mark.long),
        pytest.param("import keras, fs_neurons", marks=pytest.mark.long),
        pytest.param("from keras import models; import fs_neurons, keras", marks=pytest.mark.long),
        pytest.param(
            "import tensorflow, fs_neurons; keras = tensorflow.keras", marks=pytest.mark.long
        ),
    ],
)
def test_a_saved_network_loads_whatever_is_imported_first(saved, imports):
    load = f"model = keras.models.load_model({str(saved)!r}); print(len(model.layers))"
    again = "import fs_neurons as fs; assert isinstance(model.layers[3], keras.layers.Layer)"
    same = "assert any(type(layer) is fs.FSReLU for layer in model.layers)"
    assert int(python(f"{imports}; {load}; {again}; {same}")) > 7


def test_every_public_name_is_there():
    for name in fs.__all__:
        assert getattr(fs, name).__name__ == name and name in dir(fs)
    assert fs.neuron.FSParameters is fs.FSParameters
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fs.nothing  # noqa: B018
