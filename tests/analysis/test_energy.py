"""Energies by hand, and where both networks are even."""

import math

import pytest

from fs_neurons.analysis.energy import HOROWITZ_45NM, INTEGER_45NM, MEMORY_45NM, Energy, EnergyModel


def test_arithmetic_and_bytes_are_added_up():
    model = EnergyModel(mac=5.0, ac=1.0, source="a test", mac_bytes=2, ac_bytes=3, byte=0.5)
    assert (model.per_mac, model.per_ac) == (6.0, 2.5)
    energy = Energy.of(model, macs=100, accumulates=40, digital=10, spikes=2.0)
    assert energy.ann == 600
    assert energy.snn == 40 * 2.5 + 60
    assert energy.ratio == 600 / 160
    # 540 are left for spikes, which take 100 at 2 per neuron.
    assert energy.even_at == pytest.approx(2 * 540 / 100)
    assert "takes more" not in str(energy)


@pytest.mark.parametrize("model", [HOROWITZ_45NM, MEMORY_45NM, INTEGER_45NM])
def test_both_take_the_same_at_the_spikes_where_they_are_even(model):
    first = Energy.of(model, macs=1000, accumulates=900, digital=50, spikes=1.3)
    accumulates = 900 * first.even_at / 1.3
    second = Energy.of(model, 1000, accumulates, 50, first.even_at)
    assert second.ratio == pytest.approx(1)
    assert second.even_at == pytest.approx(first.even_at)


def test_a_loss_is_said():
    energy = Energy.of(MEMORY_45NM, macs=100, accumulates=200, digital=0, spikes=2.0)
    assert energy.ratio < 1 and energy.even_at < 2
    assert "the spiking network takes more" in str(energy)
    assert Energy.of(MEMORY_45NM, macs=100, accumulates=1, digital=120, spikes=1.0).even_at == 0


def test_without_any_spike():
    silent = Energy.of(HOROWITZ_45NM, macs=100, accumulates=0, digital=0, spikes=0.0)
    assert math.isinf(silent.ratio) and math.isinf(silent.even_at)
    assert silent.row()["ratio"] is None
