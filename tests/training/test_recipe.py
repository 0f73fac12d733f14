import dataclasses

import pytest

from fs_neurons.training import RECIPES


def test_learning_rates_of_the_recipes():
    paper, fast = RECIPES["paper"], RECIPES["fast"]
    assert [paper.rate_at(e / 182) for e in (0, 90, 91, 135, 137, 181)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )
    assert [fast.rate_at(p) for p in (0, 0.1, 0.2, 0.6)] == pytest.approx([0, 0.075, 0.15, 0.075])


def test_changed_keeps_what_is_not_given():
    recipe = RECIPES["fast"].changed(epochs=3, learning_rate=0.5)
    assert recipe == dataclasses.replace(RECIPES["fast"], epochs=3, learning_rate=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"schedule": "one-cycle"},
        {"average_from": 1.5},
        {"label_share": -0.1},
        {"momentum": 2.0},
        {"learning_rate": -0.1},
        {"weight_decay": float("nan")},
        {"target_spikes": -1.0},
        {"average_epochs": 0.0},
        {"policy": "mixed_float16"},
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(RECIPES["fast"], **wrong)
