"""Finds T, h and d of an FS-neuron for a given function.

    parameters = fit("swish", K=16, domain=(-8, 12))
    parameters = fit(np.sin, K=12, domain=(-3, 3), spike_penalty=1e-3, input_distribution=(0, 1))
    parameters = fit("sigmoid", K=12, domain=(-10, 10), bits=6)       # values on a grid, figure 6D
    parameters = fit("swish", K=16, domain=(-8, 12), method="bptt")   # as in the paper
    parameters.errors                                                 # measured in float32

The exact method minimises

    integral of weight (f - response)^2 + spike_penalty * expected number of spikes

whose value, gradient and best d are computed without approximation: see `staircase`. It draws many
coarse-to-fine starts, descends from each, anneals the best of them and polishes the winner: see `search`.
All arithmetic is the same on every processor: see `portable`, and `problem` for the function's values.

Reference: Stöckl and Maass, 2022, sections 1.2.1 and 1.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from keras.utils import Progbar

from fs_neurons.fitting import bptt, search
from fs_neurons.fitting.functions import Density, Function, as_function
from fs_neurons.fitting.measuring import describe_out_of_range, measure
from fs_neurons.fitting.portable import new_random
from fs_neurons.fitting.problem import build_problem
from fs_neurons.fitting.search import State
from fs_neurons.fitting.settling import settled
from fs_neurons.fitting.staircase import MAX_STEPS
from fs_neurons.neuron import FSParameters

# For K = 16, 15 seconds on one core: well within the default time budget on a slow one, too.
EFFORT = {"exact": 2_000_000, "bptt": 2_000}
MAX_BITS = 24  # more than a float32 can represent
# Weight of either side beyond the domain, against that of the domain, equal for every factor of two.
DEFAULT_GUARD = 0.05


def fit(
    function: Function,
    K: int,
    domain: tuple[float, float],
    *,
    weight: Callable[[np.ndarray], Any] | None = None,
    spike_penalty: float = 0.0,
    input_distribution: Density | None = None,
    bits: int | None = None,
    guard: bool | float = False,
    starts: Sequence[FSParameters] = (),
    method: str = "exact",
    effort: int | None = None,
    seed: int = 0,
    time_budget: float = 60.0,
    name: str = "fitted",
    verbose: bool = True,
) -> FSParameters:
    """Fits an FS-neuron to a function.

    The same arguments give the same T, h and d on every processor, bit for bit, as long as the time
    budget isn't reached: `effort` says what is done, `time_budget` only ends it early. So does an
    interrupt (Ctrl-C). Either way the best found so far is returned.

    Args:
        function: name of a Keras activation, a function of a float64 array, or samples (x, y) with
            ascending x, between which it is linear.
        K: number of time steps.
        domain: (low, high), range of gate inputs.
        weight: importance of gate inputs, a function of a float64 array; 1 when missing.
        spike_penalty: what one spike costs, in units of the mean squared error.
        input_distribution: of the gate inputs, to count spikes: (mean, variance) of a Gaussian, or a
            density, a function of a float64 array; uniform when missing.
        bits: Q, restricts T, h and d to 2^Q equally spaced values from -8 to 8 inclusive.
        guard: asks the response to stay at f(low) and f(high) outside the domain, up to 1,000 away, so
            that it saturates there instead of oscillating; for the exact method. A number is the weight of
            either side, where the domain has 1; True means 0.05.
        starts: sets of K steps to start from, besides random ones; for the exact method.
        method: "exact", or "bptt" for the paper's backpropagation through time.
        effort: evaluations of the objective (exact, 2,000,000 when missing) or gradient steps of
            100 neurons trained at once (bptt, 2,000 when missing).
        seed: of random starts and moves.
        time_budget: in seconds, not counting the compilation when it is used for the first time.
        name: of the result.
        verbose: shows a progress bar.

    Returns:
        The best set found, with `errors` from `measure` and `out_of_range` filled in.

    Raises:
        ValueError: an argument makes no sense, or function, weight or density isn't finite on the
            domain.
        TypeError: function is neither a name, nor callable, nor samples.
    """
    _check(K, domain, spike_penalty, bits, guard, starts, method, effort, seed, time_budget)
    problem = build_problem(
        as_function(function),
        domain,
        weight=weight,
        spike_penalty=spike_penalty,
        input_distribution=input_distribution,
        bits=bits,
        guard=DEFAULT_GUARD if guard is True else float(guard),
    )
    effort = EFFORT[method] if effort is None else effort
    if method == "exact":
        search.prepare(problem)
        states = [search.new_state(start.T, start.h) for start in starts]
        progress = search.search(problem, K, states, effort, new_random(seed))
    else:
        progress = bptt.search(problem, K, effort, seed)
    best = settled(_run(progress, effort, time_budget, verbose), problem)
    fitted = FSParameters(best.T, best.h, best.d, name=name)
    low, high = map(float, domain)
    return FSParameters(
        best.T,
        best.h,
        best.d,
        name=name,
        source=f"fitted by the {method} method, seed {seed}, effort {effort}",
        domain=(low, high),
        out_of_range=describe_out_of_range(fitted, (low, high)),
        errors=measure(fitted, function, (low, high), input_distribution=input_distribution),
    )


def _run(
    progress: Iterator[tuple[int, State]], effort: int, time_budget: float, verbose: bool
) -> State:
    """Follows a search to its end, the end of the time budget or an interrupt; the best state."""
    best: State | None = None
    deadline = time.monotonic() + time_budget
    show = _progress_bar(effort) if verbose else None
    try:
        for done, best in progress:
            if show is not None:
                show(done, best)
            if time.monotonic() > deadline:
                break
    except KeyboardInterrupt:
        if best is None:
            raise
    assert best is not None  # every search reports at least once
    return best


def _progress_bar(effort: int) -> Callable[[int, State], None]:
    bar = Progbar(effort, stateful_metrics=["objective"])
    return lambda done, best: bar.update(min(done, effort), [("objective", float(best.loss[0]))])


# --- arguments ----------------------------------------------------------------------------------


def _check(
    K: Any,
    domain: Any,
    spike_penalty: Any,
    bits: Any,
    guard: Any,
    starts: Any,
    method: Any,
    effort: Any,
    seed: Any,
    time_budget: Any,
) -> None:
    if not (_is_integer(K) and 1 <= K <= MAX_STEPS):
        raise ValueError(f"K must be a number of time steps, 1 to {MAX_STEPS}, got {K!r}")
    if len(domain) != 2 or not np.isfinite(domain).all() or not domain[0] < domain[1]:
        raise ValueError(f"domain must be (low, high) with finite low < high, got {domain!r}")
    if not (np.isfinite(spike_penalty) and spike_penalty >= 0):
        raise ValueError(f"spike_penalty must be a number >= 0, got {spike_penalty!r}")
    if not (bits is None or (_is_integer(bits) and 1 <= bits <= MAX_BITS)):
        raise ValueError(f"bits must be None or an integer from 1 to {MAX_BITS}, got {bits!r}")
    if method not in EFFORT:
        raise ValueError(f"method must be one of {', '.join(EFFORT)}, got {method!r}")
    if starts and method != "exact":
        raise ValueError(f"starts are for the exact method only; method is {method!r}")
    if not (np.isfinite(guard) and guard >= 0):
        raise ValueError(f"guard must be True, False or a weight >= 0, got {guard!r}")
    if guard and method != "exact":
        raise ValueError(f"guard is for the exact method only; method is {method!r}")
    for start in starts:
        if start.K != K:
            raise ValueError(f"starts must have K = {K} steps; {start.name!r} has {start.K}")
    if not (effort is None or (_is_integer(effort) and effort >= 1)):
        raise ValueError(f"effort must be None or an integer >= 1, got {effort!r}")
    if not (_is_integer(seed) and seed >= 0):
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    if not time_budget > 0:
        raise ValueError(f"time_budget must be a number of seconds > 0, got {time_budget!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
