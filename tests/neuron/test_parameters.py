import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron import sets as parameters


def test_saved_and_loaded_is_equal_bit_for_bit(tmp_path):
    random = np.random.default_rng(0)
    p = FSParameters(
        *random.normal(size=(3, 9)), name="mine", source="a test", domain=(-8, 12),
        out_of_range="unknown", errors={"mse": 0.1},
    )  # fmt: skip
    parameters.save(p, tmp_path / "mine.json", command="none")
    q = parameters.load(tmp_path / "mine.json")
    assert p == q
    assert (q.name, q.source, q.domain, q.out_of_range, q.errors) == (
        "mine", "a test", (-8.0, 12.0), "unknown", {"mse": 0.1},
    )  # fmt: skip


def test_open_domains_survive_a_file(tmp_path):
    p = relu_parameters(5, 3.7)
    parameters.save(p, tmp_path / "relu.json")
    q = parameters.load(tmp_path / "relu.json")
    assert q == p and q.domain == p.domain and q.alpha == p.alpha


def test_every_shipped_set_loads_and_says_where_it_comes_from():
    assert {"swish_k16_paper", "sigmoid_k12_paper"} <= set(parameters.available())
    for name in parameters.available():
        p = parameters.load(name)
        assert p.name == name and p.source and p.out_of_range


def valid():
    return parameters.to_dict(relu_parameters(2, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format is 99"),
        ({"K": 3}, "K is 3, but T has 2"),
        ({"T": "0.5"}, "T must be a list"),
        ({"T": [0.5, "x"]}, r"T\(2\) must be a number"),
        ({"T": [0.5, None]}, r"T\(2\) must be a number"),
        ({"h": [0.5]}, "equal length"),
        ({"d": [10**400, 1]}, r"d\(1\) must be a number"),
        ({"domain": [1]}, "domain"),
        ({"domain": [2, 1]}, "domain"),
        ({"errors": 3}, "errors"),
        ({"name": 3}, "name must be a text"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_entry(tmp_path, change, message):
    path = tmp_path / "set.json"
    path.write_text(json.dumps({**valid(), **change}))
    with pytest.raises(ValueError, match=message) as error:
        parameters.load(path)
    assert str(path) in str(error.value)


@settings(max_examples=100, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["format", "K", "T", "h", "d", "domain", "name", "errors"]), inner, max_size=8
    ),
    max_leaves=20,
))  # fmt: skip
def test_whatever_a_file_holds_gives_a_set_or_a_value_error(content):
    if isinstance(content, dict):
        content = {**valid(), **content}
    with contextlib.suppress(ValueError):
        assert isinstance(parameters.from_dict(content), FSParameters)


def test_text_that_is_not_json_is_refused(tmp_path):
    for text in ("", "{", "[" * 100_000, "\x00"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json"):
            parameters.load(tmp_path / "bad.json")


def test_a_missing_set_is_reported_with_those_there_are():
    with pytest.raises(FileNotFoundError, match="swish_k16_paper"):
        parameters.load("no_such_set")


def test_registered_sets_are_found_under_both_names_of_swish():
    assert parameters.for_activation("swish") == parameters.for_activation("silu")
    assert parameters.for_activation("swish").K == 16
    assert parameters.for_activation("no_such_activation") is None


def test_register_refuses_what_is_no_set():
    with pytest.raises(TypeError, match="int"):
        parameters.register("gelu", 3)
