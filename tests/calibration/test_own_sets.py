"""Sets that are fitted to single channels."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import fs_neurons as fs
from fs_neurons.calibration import own_sets, selection
from fs_neurons.calibration.candidates import Candidates
from fs_neurons.calibration.expectation import mixture

silu = SimpleNamespace(
    candidates=Candidates("silu", lambda x: x / (1 + np.exp(-x)), 8),
    members=selection.family("silu", 8),
)


def chosen(importance):
    """Of three channels with means and deviations that no set was made for."""
    mean, deviation = np.array([-1.43, 0.2, 1.0]), np.array([0.47, 0.11, 0.9])
    probabilities = mixture(mean, deviation, ())
    statistics = SimpleNamespace(importance=np.array(importance), share=0.0)
    expected = silu.members.responses.expected(probabilities)
    return probabilities, silu.members.choose(expected, statistics, 1e-3, 0.0), statistics


def test_channels_that_matter_get_what_costs_less():
    probabilities, before, statistics = chosen([1.0, 1.0, 0.0])
    sets, index = own_sets.with_own_sets(
        silu.candidates, probabilities, before, statistics, 1e-3, 0.0
    )
    given, index_before, _ = before
    own = index >= len(given)
    assert own.any() and not own[2] and index[2] == index_before[2]
    assert sets[: len(given)] == given and len(sets) == len(given) + own.sum()
    assert all(p.K == 8 for p in sets)
    responses = selection.Responses.of(keras.activations.silu, sets)
    expected = responses.expected(probabilities)
    of_spikes = selection.cost_of_spikes(expected, statistics, 1e-3, 0.0)
    costs = selection.costs_of(expected, statistics.importance, of_spikes)
    channels = np.arange(3)
    assert (costs[channels, index] < costs[channels, index_before])[own].all()


def test_only_so_many_of_a_site(monkeypatch):
    monkeypatch.setattr(own_sets, "MOST_OWN", 1)
    probabilities, before, statistics = chosen([1.0, 1.0, 1.0])
    sets, _ = own_sets.with_own_sets(silu.candidates, probabilities, before, statistics, 1e-3, 0.0)
    assert len(sets) <= len(before[0]) + 1


@pytest.mark.parametrize("steps", [8, 16])
def test_networks_with_few_steps_have_them(steps):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Activation("silu", name="site"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    images = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype(np.float32)
    snn = fs.convert(model, calibration_data=images, steps=steps)
    names = [p.name for p in snn.get_layer("site").parameters.members]
    assert any("own" in name for name in names) == (steps == 8)
