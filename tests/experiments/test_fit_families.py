"""Families of scaled sets are fitted member by member, and a killed run goes on where it stopped."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import fit_families
from fs_neurons.neuron import families

SHAPE = fit_families.Shape("", (-4.0, 6.0), 0.0, 2.5)
SMALL = fit_families.Family("silu", 3, {SHAPE: {0.5: (1e-3,), 1.0: (1e-3, 1e-4), 2.0: (1e-3,)}})


@pytest.fixture
def fitted_scales(monkeypatch):
    """The scales that were fitted, in order."""
    scales, real = [], fit_families.fit_member

    def recorded(family, scale, shape, arguments):
        scales.append(scale)
        return real(family, scale, shape, arguments)

    monkeypatch.setattr(fit_families, "fit_member", recorded)
    return scales


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch, fitted_scales):
    path = tmp_path / "families" / "silu_k3.json"
    recorded = fit_families.fit_member

    def killed(family, scale, shape, arguments):
        if scale == 2.0:
            raise KeyboardInterrupt
        return recorded(family, scale, shape, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit_families, "fit_member", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_families.fit_family(SMALL, path, effort=300, seed=0, refit=False)
    monkeypatch.setattr(families, "params_dir", lambda: tmp_path)
    assert [member.scale for member in families.load_family("silu", 3)] == [0.5, 1.0, 1.0]
    fit_families.fit_family(SMALL, path, effort=300, seed=0, refit=False)
    assert fitted_scales == [0.5, 1.0, 1.0, 2.0]
    whole = path.read_text()
    members = families.load_family("silu", 3)
    assert [member.scale for member in members] == [0.5, 1.0, 1.0, 2.0]
    assert [member.set.name[-5:] == "_fine" for member in members] == [False, False, True, False]
    assert members[3].set.errors["mse [-4, 6]"] < 0.5 and members[3].set.domain == (-4.0, 6.0)
    # What was fitted in another way is fitted anew, and the rest of the file is kept until then.
    fit_families.fit_family(SMALL, path, effort=300, seed=0, refit=True)
    assert path.read_text() == whole
    fit_families.fit_family(SMALL, path, effort=300, seed=1, refit=False)
    assert fitted_scales == 3 * [0.5, 1.0, 1.0, 2.0]


def test_little_weight_is_far_out():
    u = np.linspace(-8, 96, 104_001)
    weight = fit_families._weight(u, fit_families.FAR)
    far = u > fit_families.FAR.common[1]
    # And less than a hundredth of that from the Gaussian.
    assert weight[far].mean() * 84 == pytest.approx(fit_families.RARE * 84 / 104, rel=1e-2)
    assert weight[~far].min() > 30 * weight[far].max()


def test_scaled_functions():
    u = np.linspace(-8, 12, 101)
    silu = u / (1 + np.exp(-u))
    assert fit_families.scaled_function("silu", 1.0)(u) == pytest.approx(silu)
    assert fit_families.scaled_function("silu", 4.0)(u / 4) == pytest.approx(silu / 4)
    assert fit_families.scaled_function("sigmoid", 4.0)(u / 4) == pytest.approx(
        1 / (1 + np.exp(-u))
    )
    far = np.linspace(3, 12, 50)
    assert fit_families.scaled_function("silu", 32.0)(far) == pytest.approx(far)  # nearly ReLU


def test_windows_are_where_a_standard_deviation_says():
    family = fit_families.FAMILIES["silu_k16"]
    scales = {shape: set(family.spike_penalties[shape]) for shape in fit_families.WINDOWS}
    for shape, of_shape in scales.items():
        assert shape.domain == (shape.mean - 5, shape.mean + 5) and shape.deviation == 1
        assert 2.0**-5 in of_shape
    # 4.5 deviations of 2 below 0, nothing is left of Swish.
    assert [max(of_shape) for of_shape in scales.values()] == [2.0, 2.0, 2.0, 2.0, 2.0, 1.0]
    penalties = family.spike_penalties[next(iter(scales))][2.0**-5]
    # Nearly half of the gate input, whose variance is 1.
    assert penalties == pytest.approx((3e-4 / 4, 1.5e-5 / 4), rel=0.02)


def test_few_steps_have_more_windows():
    windows = fit_families.DENSER_WINDOWS
    assert set(fit_families.WINDOWS) < set(windows)
    assert len({shape.name for shape in windows}) == len(windows) == 20
    for shape, scales in windows.items():
        assert min(scales) == 2.0**-6
        assert all(-7 <= scale * shape.mean <= 9 for scale in scales)


def test_weights_sum_to_one():
    u = np.linspace(-50, 50, 200_001)
    weight = fit_families._weight(u, fit_families.Shape("", (-50.0, 50.0), -3.0, 2.0))
    assert np.trapezoid(weight, u) == pytest.approx(1, abs=1e-3)
