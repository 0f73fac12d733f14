"""Fitting: what the search finds, how sets are measured, and what is refused."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from keras import ops

from fs_neurons import neuron
from fs_neurons.fitting import (
    bptt,
    describe_out_of_range,
    fit,
    fitter,
    measure,
    respond,
    search,
    settling,
)
from fs_neurons.fitting.portable import new_random
from fs_neurons.fitting.problem import build_problem
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron.sets import load

DOMAIN = (-8.0, 12.0)
PAPER_INPUTS = (-0.112, 1.99)
QUICK = {"effort": 20_000, "time_budget": np.inf, "verbose": False}


def swish(x):
    return x / (1 + np.exp(-x))


def emphasis(x):
    return np.where(np.abs(x) <= 2, 4.0, 1.0)


def problem_of(bits=None, penalty=0.0):
    return build_problem(
        swish, DOMAIN, spike_penalty=penalty, input_distribution=PAPER_INPUTS, bits=bits
    )


# --- measuring ------------------------------------------------------------------------------------


def test_published_swish_set_is_measured_as_published():
    errors = measure(
        load("swish_k16_paper"), "swish", DOMAIN, inside=(-2, 2), input_distribution=PAPER_INPUTS
    )
    assert errors["mse [-2, 2]"] == pytest.approx(0.00239, abs=1e-5)
    assert errors["mse outside [-2, 2]"] == pytest.approx(0.00371, abs=1e-5)
    assert errors["mse [-8, 12]"] == pytest.approx(0.00345, abs=1e-5)
    assert errors["spikes, N(-0.112, 1.99)"] == pytest.approx(2.27, abs=0.005)


def test_relu_is_measured_without_error_on_its_grid():
    x = np.arange(1024) * 25 / 1024
    relu = relu_parameters(K=10, alpha=25)
    y, spikes = respond(x.astype(np.float32), relu)
    assert np.array_equal(y, x)
    assert np.array_equal(spikes, ops.convert_to_numpy(neuron.spike_count(x, relu)))


def test_measuring_computes_what_the_neuron_does():
    x = np.linspace(-20, 20, 10_001).astype(np.float32)
    swish_set = load("swish_k16_paper")
    y, spikes = respond(x, swish_set)
    assert np.array_equal(y, ops.convert_to_numpy(neuron.response(x, swish_set)))
    assert np.array_equal(spikes, ops.convert_to_numpy(neuron.spike_count(x, swish_set)))


# --- search ---------------------------------------------------------------------------------------


def test_descent_never_makes_it_worse_and_improves_the_published_set():
    problem, paper = problem_of(), load("swish_k16_paper")
    state = search.new_state(paper.T, paper.h)
    search.evaluate(problem, state)
    before = state.loss[0]
    search.descend(problem, state, 3000, 0.01)
    assert state.loss[0] < 0.4 * before
    again = search.new_state(state.T, state.h)
    search.evaluate(problem, again)
    assert again.loss[0] == state.loss[0]


@pytest.mark.parametrize("bits", [None, 5])
def test_best_only_ever_improves(bits):
    problem = problem_of(bits=bits)
    progress = search.search(problem, 8, [], 60_000, new_random(0))
    # The search without grid, which comes first, reports values rounded to the grid.
    losses = [float(state.loss[0]) for _, state in progress]
    final = losses[len(losses) // 2 :]
    assert all(later <= earlier for earlier, later in itertools.pairwise(final))
    assert losses[-1] < 0.8 * losses[0]


def test_twelve_steps_beat_the_published_sixteen():
    """With every seed, in a sixteenth of the default effort. Fits are the same on every processor."""
    for seed in range(4):
        fitted = fit(
            "swish", 12, DOMAIN, weight=emphasis, spike_penalty=8e-4, seed=seed,
            input_distribution=PAPER_INPUTS, effort=60_000, time_budget=np.inf, verbose=False,
        )  # fmt: skip
        errors = measure(fitted, "swish", DOMAIN, inside=(-2, 2), input_distribution=PAPER_INPUTS)
        assert errors["mse [-2, 2]"] < 0.00239
        assert errors["mse outside [-2, 2]"] < 0.00371
        assert errors["spikes, N(-0.112, 1.99)"] < 2.27


def test_errors_are_those_of_the_returned_set():
    fitted = fit("tanh", 5, (-4, 4), **QUICK)
    x = np.linspace(-4, 4, 100_001)
    y = ops.convert_to_numpy(neuron.response(x, fitted))
    assert fitted.errors["mse [-4, 4]"] == pytest.approx(np.mean((y - np.tanh(x)) ** 2), rel=1e-3)
    assert fitted.errors["largest error [-4, 4]"] == pytest.approx(
        np.max(np.abs(y - np.tanh(x))), rel=1e-2
    )


def test_a_spike_penalty_saves_spikes():
    spikes = [
        fit("swish", 8, DOMAIN, spike_penalty=penalty, input_distribution=PAPER_INPUTS, **QUICK)
        .errors["spikes, N(-0.112, 1.99)"]
        for penalty in (0.0, 0.02)
    ]  # fmt: skip
    assert spikes[1] < spikes[0]


def test_a_weight_moves_the_error_elsewhere():
    inside = [
        measure(fit("swish", 6, DOMAIN, weight=weight, **QUICK), "swish", DOMAIN, inside=(-2, 2))
        for weight in (None, lambda x: np.where(np.abs(x) <= 2, 100.0, 1.0))
    ]
    assert inside[1]["mse [-2, 2]"] < inside[0]["mse [-2, 2]"]
    assert inside[1]["mse outside [-2, 2]"] > inside[0]["mse outside [-2, 2]"]


def test_starts_are_never_lost():
    relu = relu_parameters(K=8, alpha=12)
    fitted = fit("relu", 8, DOMAIN, starts=(relu,), **QUICK)
    assert fitted.errors["mse [-8, 12]"] <= measure(relu, "relu", DOMAIN)["mse [-8, 12]"]


@pytest.mark.parametrize("method", ["exact", "bptt"])
@pytest.mark.parametrize("bits", [3, 6])
def test_quantised_values_are_on_the_grid(method, bits):
    quick = {**QUICK, "effort": 10_000 if method == "exact" else 5}
    fitted = fit("swish", 6, DOMAIN, bits=bits, method=method, **quick)
    grid = np.linspace(-8, 8, 2**bits).astype(np.float32)
    for values in (fitted.T, fitted.h, fitted.d):
        assert np.isclose(values[:, None], grid, rtol=0, atol=1e-6).any(axis=1).all()


def test_fitting_on_the_grid_beats_rounding():
    free = fit("swish", 8, DOMAIN, **QUICK)
    step = 16 / (2**5 - 1)
    rounded = FSParameters(
        *(
            np.rint((np.clip(part, -8, 8) + 8) / step) * step - 8
            for part in (free.T, free.h, free.d)
        )
    )
    fitted = fit("swish", 8, DOMAIN, bits=5, **QUICK)
    key = "mse [-8, 12]"
    assert fitted.errors[key] < measure(rounded, "swish", DOMAIN)[key]


@pytest.mark.parametrize("method,effort", [("exact", 12_000), ("bptt", 8)])
@pytest.mark.parametrize("bits", [None, 4])
def test_the_same_seed_gives_the_same_set(method, effort, bits):
    quick = {**QUICK, "effort": effort, "method": method, "bits": bits}
    first, second = (fit("swish", 6, DOMAIN, seed=3, **quick) for _ in range(2))
    assert first == second
    assert first != fit("swish", 6, DOMAIN, seed=4, **quick)


def test_samples_a_callable_and_a_name_are_one_function():
    x = np.linspace(*DOMAIN, 20_001)
    # So few steps that every search finds the best set.
    sampled, called, named = (
        fit(function, 3, DOMAIN, **QUICK).errors["mse [-8, 12]"]
        for function in ((x, swish(x)), swish, "silu")
    )
    assert sampled == pytest.approx(called, rel=1e-3)
    assert named == pytest.approx(called, rel=1e-3)


def test_the_time_budget_ends_the_search_with_the_best_so_far(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(fitter.time, "monotonic", lambda: next(clock))
    fitted = fit("swish", 8, DOMAIN, effort=10**9, time_budget=20, verbose=False)
    assert fitted.errors["mse [-8, 12]"] < 0.1


def test_an_interrupt_keeps_the_best_so_far(monkeypatch):
    real = search.search

    def interrupted(*args):
        for i, step in enumerate(real(*args)):
            yield step
            if i == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(search, "search", interrupted)
    assert fit("swish", 8, DOMAIN, **QUICK).errors["mse [-8, 12]"] < 1.0


def test_progress_is_shown(capsys):
    fit("swish", 4, DOMAIN, **{**QUICK, "verbose": True})
    assert "objective" in capsys.readouterr().out


# --- outside the domain ---------------------------------------------------------------------------


@pytest.mark.parametrize("function, low", [("sigmoid", 0), ("tanh", -1)])
def test_with_a_guard_the_response_saturates(function, low):
    guarded = fit(function, 6, (-6, 6), guard=True, **QUICK)
    x = np.linspace(6, 900, 20_001)
    assert ops.convert_to_numpy(neuron.response(x, guarded)) == pytest.approx(1, abs=0.1)
    assert ops.convert_to_numpy(neuron.response(-x, guarded)) == pytest.approx(low, abs=0.1)


def test_below_the_domain_the_response_keeps_its_value():
    fitted = fit("tanh", 6, (-4, 4), **QUICK)
    x = np.linspace(-500, -4, 1001)
    assert np.ptp(ops.convert_to_numpy(neuron.response(x, fitted))) == 0
    assert ops.convert_to_numpy(neuron.response(x, fitted))[0] == pytest.approx(-1, abs=0.1)


def test_out_of_range_describes_what_happens():
    x = np.linspace(-3000, 3000, 600_001)
    fitted = fit("tanh", 6, (-4, 4), **QUICK)
    y = ops.convert_to_numpy(neuron.response(x, fitted))
    below, above = fitted.out_of_range.split("; ")
    for text, values, last in ((below, y[x < -4], y[0]), (above, y[x > 4], y[-1])):
        found = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", text)][1:]
        assert min(found[0], found[0 if len(found) == 1 else 1]) == pytest.approx(
            values.min(), abs=2e-3
        )
        assert found[min(2, len(found) - 1)] == pytest.approx(last, abs=2e-3)


def test_out_of_range_of_many_intervals_is_described():
    text = describe_out_of_range(relu_parameters(K=14, alpha=25), (0, 5))
    assert text == "below 0: 0; above 5: 4.999 to 25, and 25 from 25 on"
    text = describe_out_of_range(relu_parameters(K=24, alpha=25), (0, 5))
    assert text == "below 0: 0; above 5: changes more than 262,144 times"


def test_resets_are_no_larger_than_they_need_be():
    """The last reset changes nothing, and large ones often do the same as small ones."""
    problem = problem_of()
    found = load("swish_k16")
    x = np.linspace(-8, 12, 100_001)
    h = found.h.copy()
    h[-1] = 100.0
    for t in range(found.K - 1):
        larger = h.copy()
        larger[t] *= 4
        responses = (
            respond(x, FSParameters(found.T, resets, found.d))[0] for resets in (h, larger)
        )
        h = larger if np.array_equal(*responses) else h
    assert (h != found.h).sum() > 1
    state = search.new_state(found.T, h)
    search.evaluate(problem, state)
    smaller = settling.settled(state, problem)
    assert np.abs(state.h).max() > 90 and np.abs(smaller.h).max() < 30 and smaller.h[-1] == 0
    before, after = (FSParameters(s.T, s.h, s.d) for s in (state, smaller))
    assert np.array_equal(respond(x, before)[0], respond(x, after)[0])
    beyond = np.linspace(12, 1000, 100_001)
    assert respond(beyond, after)[0].max() <= respond(beyond, before)[0].max()
    assert respond(beyond, after)[0].min() >= respond(beyond, before)[0].min()


# --- the paper's method ---------------------------------------------------------------------------


@pytest.mark.long
def test_the_papers_method_reaches_its_order_of_error():
    fitted = fit("swish", 16, DOMAIN, method="bptt", effort=200, time_budget=np.inf, verbose=False)
    assert fitted.errors["mse [-8, 12]"] < 0.03


def test_backward_pass_gives_the_gradient_of_d():
    problem, rng = problem_of(penalty=0.01), np.random.default_rng(0)
    samples = bptt._sample(problem)
    values = rng.normal(size=(3, 6, 2)).astype(np.float32)
    run = bptt._forward(samples.x, *values)
    gradient = bptt._backward(problem, samples, values, run, penalty=0.1)
    for t in range(6):
        moved = [values.copy(), values.copy()]
        moved[0][2, t] += 0.1
        moved[1][2, t] -= 0.1
        up, down = (bptt._objective(problem, samples, bptt._forward(samples.x, *v)) for v in moved)
        assert (up - down) / 0.2 == pytest.approx(gradient[2, t], rel=1e-2, abs=1e-3)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"K": 0}, "K must be"),
        ({"K": 2.5}, "K must be"),
        ({"K": True}, "K must be"),
        ({"domain": (3, 3)}, "domain must be"),
        ({"domain": (-np.inf, 3)}, "domain must be"),
        ({"domain": (1, 2, 3)}, "domain must be"),
        ({"spike_penalty": -1.0}, "spike_penalty must be"),
        ({"bits": 0}, "bits must be"),
        ({"guard": True, "method": "bptt"}, "exact method only"),
        ({"guard": -0.1}, "guard"),
        ({"method": "annealing"}, "method must be one of exact, bptt"),
        ({"starts": (relu_parameters(5),)}, "starts must have K = 4"),
        ({"starts": (relu_parameters(4),), "method": "bptt"}, "exact method only"),
        ({"effort": 0}, "effort must be"),
        ({"seed": -1}, "seed must be"),
        ({"time_budget": 0}, "time_budget must be"),
        ({"function": "swosh"}, "'swosh' is not a Keras activation"),
        ({"function": lambda x: x[:-1]}, "as many numbers"),
        ({"function": np.log}, "not finite at x"),
        ({"function": ([1, 0], [0, 1])}, "ascending"),
        ({"weight": lambda x: -np.ones_like(x)}, "weight must be >= 0"),
        ({"weight": np.zeros_like}, "weight must be >= 0"),
        ({"input_distribution": (0, -1)}, "variance > 0"),
        ({"input_distribution": 5}, "mean, variance"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_arguments_are_refused(change, message):
    arguments = {"function": "swish", "K": 4, "domain": DOMAIN, **QUICK, **change}
    with pytest.raises(ValueError, match=message):
        fit(**arguments)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="callable, or samples"):
        fit(5, 4, DOMAIN, **QUICK)
