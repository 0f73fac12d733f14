"""Families of scaled sets: files, scales, and what the members compute."""

from __future__ import annotations

import json

import numpy as np
import pytest
from keras import ops

from fs_neurons import neuron
from fs_neurons.neuron import families
from fs_neurons.neuron.families import at_scale, family_steps, load_family


@pytest.mark.parametrize("name", families.available_families())
def test_members_approximate_their_function(name):
    activation, _, K = name.rpartition("_k")
    for scale, member in load_family(activation, int(K)):
        set_ = at_scale(activation, member, scale)
        low, high = set_.domain
        assert (low, high) == tuple(scale * end for end in member.domain)
        x = np.linspace(low, high, 100_001).astype(np.float32)
        y = ops.convert_to_numpy(neuron.response(x, set_)).astype(float)
        unit = 1.0 if activation in families.BOUNDED else scale
        error = np.mean((y - reference(activation)(x.astype(float))) ** 2) / unit**2
        key = "mse [{:g}, {:g}]".format(*member.domain)
        assert error == pytest.approx(member.errors[key], rel=1e-2, abs=1e-7)


def reference(activation):
    from math import erf

    return {
        "silu": lambda x: x / (1 + np.exp(-x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
        # As Keras computes it by default, not the approximation by tanh.
        "gelu": lambda x: x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2,
    }[activation]


def test_scaling_multiplies_what_it_should():
    member = next(member.set for member in load_family("swish", 16) if member.scale == 2.0)
    wide = at_scale("silu", member, 2.0)
    for field in ("T", "h", "d"):
        assert np.array_equal(getattr(wide, field), 2 * getattr(member, field))
    x = np.linspace(-30, 30, 10_001).astype(np.float32)
    # Bit for bit: powers of two are exact.
    expected = 2 * ops.convert_to_numpy(neuron.response(x / 2, member))
    assert np.array_equal(ops.convert_to_numpy(neuron.response(x, wide)), expected)
    bounded = at_scale("sigmoid", member, 2.0)
    assert np.array_equal(bounded.d, member.d) and np.array_equal(bounded.T, wide.T)


def test_steps_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "params_dir", lambda: tmp_path)
    assert family_steps("silu") == ()
    folder = tmp_path / "families"
    folder.mkdir()
    for name in ("silu_k16", "silu_k8", "hard_silu_k12", "silu_k16_old"):
        (folder / f"{name}.json").write_text("{}")
    assert family_steps("silu") == family_steps("swish") == (8, 16)


def test_no_such_family():
    with pytest.raises(FileNotFoundError, match=r"'tanh' with K = 3: there are .*silu_k16"):
        load_family("tanh", 3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 2}, "format is 2"),
        ({"K": 8}, "K is 8, expected 16"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
        ({"scales_output": False}, "scales_output is False"),
        ({"members": []}, "members must be"),
        ({"members": [3]}, "members must be"),
        ({"members": [{"scale": 3.0}]}, "power of two"),
        ({"members": [{"scale": -1.0}]}, "power of two"),
        ({"members": [{"scale": 1.0, "set": None}]}, "a parameter set is a JSON object"),
    ],
)
def test_bad_files_are_refused(change, message, tmp_path, monkeypatch):
    path = families.params_dir() / "families" / "silu_k16.json"
    content = {**json.loads(path.read_text()), **change}
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "silu_k16.json").write_text(json.dumps(content))
    monkeypatch.setattr(families, "params_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=f"silu_k16.json: .*{message}"):
        load_family("silu", 16)
