"""Finds T, h and d of an FS-neuron for a given function.

    parameters = fit("swish", K=16, domain=(-8, 12))
    parameters = fit(np.sin, K=12, domain=(-3, 3), spike_penalty=1e-3, input_distribution=(0, 1))
    parameters = fit("sigmoid", K=12, domain=(-10, 10), bits=6)       # values on a grid, figure 6D
    parameters = fit("swish", K=16, domain=(-8, 12), method="bptt")   # as in the paper
    parameters.errors                                                 # measured in float32

The exact method minimises

    integral of weight (f - response)^2 + spike_penalty * expected number of spikes

whose value, gradient and best d are computed without approximation: see `staircase`. It draws many
coarse-to-fine starts, descends from each, anneals the best of them and polishes the winner: `search`.

Reference: Stöckl and Maass, 2022, sections 1.2.1 and 1.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fs_neurons.fitting import bptt, search
from fs_neurons.fitting.search import State
from fs_neurons.fitting.staircase import MAX_STEPS, Problem, enumerate_intervals, new_staircase
from fs_neurons.neuron import FSParameters

Function = str | Callable[[np.ndarray], Any] | tuple[Any, Any]
Density = Callable[[np.ndarray], Any] | tuple[float, float]

EFFORT = {"exact": 2_000_000, "bptt": 2_000}
CELLS, POINTS_PER_CELL = 8192, 8
GRID_POINTS = 400_001
BOUND = 8.0  # quantised parameters lie in [-8, 8], section 1.5
MAX_BITS = 24  # a float32 tells no more values apart
FAR = (
    1000.0  # how far beyond the domain the guard reaches, and thresholds of steps that always fire
)
# Weight of either side beyond the domain, against that of the domain, equal for every factor of two.
DEFAULT_GUARD, GUARD_CELLS = 0.05, 256


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

    The same arguments give the same result as long as the time budget isn't reached: `effort` says
    what is done, `time_budget` only ends it early. So does an interrupt (Ctrl-C). Either way the best
    found so far is returned.

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
        time_budget: in seconds.
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
    low, high = map(float, domain)
    problem = _problem(
        as_function(function), low, high, weight, spike_penalty, input_distribution, bits,
        DEFAULT_GUARD if guard is True else float(guard),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    effort = EFFORT[method] if effort is None else effort
    if method == "exact":
        states = [search.new_state(start.T, start.h) for start in starts]
        progress = search.search(problem, K, states, effort, rng)
    else:
        progress = bptt.search(problem, K, effort, rng)
    best = _settled(_run(progress, effort, time_budget, verbose), problem)
    fitted = FSParameters(best.T, best.h, best.d, name=name)
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


def measure(
    parameters: FSParameters,
    function: Function,
    domain: tuple[float, float],
    *,
    inside: tuple[float, float] | None = None,
    input_distribution: Density | None = None,
) -> dict[str, float]:
    """Errors and spikes of a set, in float32 on a dense grid.

    Args:
        parameters: the set.
        function, domain, input_distribution: as for `fit`.
        inside: part of the domain that is also measured by itself, as is the rest.

    Returns:
        "mse [low, high]", mean squared error on the domain; "mse [a, b]" and "mse outside [a, b]"
        for the part; "largest error [low, high]"; "spikes, N(mean, variance)", the expected number
        of spikes under the input distribution.
    """
    x = np.linspace(*domain, GRID_POINTS).astype(np.float32)
    y, spikes = respond(x, parameters)
    error = np.abs(y.astype(float) - _values(as_function(function), x.astype(float), "function"))
    span = _span(domain)
    errors = {f"mse {span}": np.mean(error**2)}
    if inside is not None:
        part = (x >= inside[0]) & (x <= inside[1])
        errors[f"mse {_span(inside)}"] = np.mean(error[part] ** 2)
        errors[f"mse outside {_span(inside)}"] = np.mean(error[~part] ** 2)
    errors[f"largest error {span}"] = np.max(error)
    density = _values(_as_density(input_distribution), x.astype(float), "input_distribution")
    if input_distribution is None:
        distribution = "uniform"
    elif callable(input_distribution):
        distribution = "given density"
    else:
        distribution = "N({:g}, {:g})".format(*input_distribution)
    errors[f"spikes, {distribution}"] = np.average(spikes, weights=density)
    return {key: float(value) for key, value in errors.items()}


def describe_out_of_range(parameters: FSParameters, domain: tuple[float, float]) -> str:
    """In words, what the response does on either side of the domain, all the way out."""
    far = float(sum(np.abs(part).sum() for part in (parameters.T, parameters.h)))
    ends = (min(-far, domain[0]) - 1, max(far, domain[1]) + 1)  # beyond, no threshold is crossed
    edges, y = _enumerate(parameters, *ends)
    below, above = y[edges[:-1] < domain[0]][::-1], y[edges[1:] > domain[1]]
    cuts = edges[1:-1]
    first, last = cuts[: len(below) - 1][::-1], cuts[len(y) - len(above) :]
    return f"below {domain[0]:g}: {_describe(below, first)}; above {domain[1]:g}: {_describe(above, last)}"


def _describe(y: np.ndarray, changes: np.ndarray) -> str:
    """Outputs y from the domain outwards, in words."""
    if len(y) == 1:
        return f"{y[0]:.4g}"
    return f"{y.min():.4g} to {y.max():.4g}, and {y[-1]:.4g} from {changes[-1]:.4g} on"


def _enumerate(parameters: FSParameters, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the intervals of [low, high), and the output on each of them."""
    T, h, d = (part.astype(float) for part in (parameters.T, parameters.h, parameters.d))
    stairs = new_staircase()
    n = enumerate_intervals(T, h, low, high, stairs)
    y = ((stairs.spikes[:n, None] >> np.arange(len(T))) & 1) @ d
    return stairs.edge[: n + 1], y


def _settled(best: State, problem: Problem) -> State:
    """Makes the response keep its value below the range of the fit, which it needs not do by itself.

    A step that fires everywhere in the range may as well have a threshold far below it. One that
    fires nowhere is switched off, lest it fires beyond. On the range the response stays the same.
    """
    if problem.step > 0.0:
        return best
    settled = best.copy()
    stairs = new_staircase()
    n = enumerate_intervals(best.T, best.h, problem.grid[0], problem.grid[-1], stairs)
    always = np.bitwise_and.reduce(stairs.spikes[:n])
    ever = np.bitwise_or.reduce(stairs.spikes[:n])
    for t in range(len(best.T)):
        if (always >> t) & 1:
            settled.T[t] = problem.grid[0] - FAR
        elif not (ever >> t) & 1:
            settled.T[t], settled.h[t], settled.d[t] = problem.grid[-1] + FAR, 0.0, 0.0
    return settled


def respond(x: np.ndarray, parameters: FSParameters) -> tuple[np.ndarray, np.ndarray]:
    """Response and number of spikes in float32, as neuron.py computes them."""
    v, y, count = x, np.zeros_like(x), np.zeros_like(x)
    for T, h, d in zip(parameters.T, parameters.h, parameters.d, strict=True):
        z = (v >= T).astype(np.float32)
        y, count, v = y + d * z, count + z, v - h * z
    return y, count


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
    from keras.utils import Progbar

    bar = Progbar(effort, stateful_metrics=["objective"])
    return lambda done, best: bar.update(min(done, effort), [("objective", float(best.loss[0]))])


# --- arguments ----------------------------------------------------------------------------------


def _check(
    K, domain, spike_penalty, bits, guard, starts, method, effort, seed, time_budget
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


def as_function(function: Function) -> Callable[[np.ndarray], Any]:
    if isinstance(function, str):
        return _keras_activation(function)
    if callable(function):
        return function
    try:
        x, y = (np.asarray(part, dtype=float) for part in function)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "function must be the name of a Keras activation, callable, or samples (x, y); got"
            f" {function!r}"
        ) from error
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not (np.diff(x) > 0).all():
        raise ValueError(
            "samples (x, y) must be two lists of equal length >= 2, with ascending x; got shapes"
            f" {x.shape} and {y.shape}"
        )
    return lambda points: np.interp(points, x, y)


def _keras_activation(name: str) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    try:
        activation = keras.activations.get(name)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is not a Keras activation: give the name of one, such as 'swish', or a function"
        ) from error
    return lambda x: keras.ops.convert_to_numpy(
        activation(keras.ops.convert_to_tensor(x, dtype="float64"))
    )


def _as_density(distribution: Density | None) -> Callable[[np.ndarray], Any]:
    if distribution is None:
        return np.ones_like
    if callable(distribution):
        return distribution
    try:
        mean, variance = map(float, distribution)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"input_distribution must be (mean, variance) or a density, got {distribution!r}"
        ) from error
    if not (np.isfinite(mean) and np.isfinite(variance) and variance > 0):
        raise ValueError(f"input_distribution needs a variance > 0, got {distribution!r}")
    return lambda x: np.exp(-((x - mean) ** 2) / (2 * variance))


def _values(function: Callable[[np.ndarray], Any], x: np.ndarray, what: str) -> np.ndarray:
    """function(x), checked."""
    y = np.asarray(function(x), dtype=float)
    if y.shape != x.shape:
        raise ValueError(
            f"{what} must return as many numbers as it is given, {x.shape}; it returned {y.shape}"
        )
    if not np.isfinite(y).all():
        raise ValueError(
            f"{what} is not finite at x = {x[~np.isfinite(y)][0]:g}; change the domain"
        )
    return y


def _problem(
    function: Callable[[np.ndarray], Any],
    low: float,
    high: float,
    weight: Callable[[np.ndarray], Any] | None,
    spike_penalty: float,
    input_distribution: Density | None,
    bits: int | None,
    guard: float,
) -> Problem:
    """Integrals of weight, weight f and density; weight and density integrate to 1 on the domain."""
    points = CELLS * POINTS_PER_CELL
    x = low + (np.arange(points) + 0.5) * (high - low) / points
    f = _values(function, x, "function")
    w = _non_negative(np.ones_like if weight is None else weight, x, "weight")
    p = _non_negative(_as_density(input_distribution), x, "input_distribution")
    w, p = w / w.sum(), p / p.sum()
    square = float(np.sum(w * f**2))
    cells = np.stack([part.reshape(CELLS, -1).sum(axis=1) for part in (w, w * f, p)], axis=1)
    grid = np.linspace(low, high, CELLS + 1)
    if guard:
        beyond = np.geomspace((high - low) / 100, FAR, GUARD_CELLS)
        grid = np.concatenate([low - beyond[::-1], grid, high + beyond])
        left, right = _values(function, np.array([low, high]), "function")
        share = guard / GUARD_CELLS
        below, above = ([[share, share * end, 0.0]] * GUARD_CELLS for end in (left, right))
        cells = np.concatenate([below, cells, above])
        square += guard * (left**2 + right**2)
    tables = np.concatenate([np.zeros((1, 3)), np.cumsum(cells, axis=0)])
    step = 0.0 if bits is None else 2 * BOUND / (2**bits - 1)
    return Problem(low, high, grid, tables, square, float(spike_penalty), BOUND, step)


def _non_negative(function: Callable[[np.ndarray], Any], x: np.ndarray, what: str) -> np.ndarray:
    y = _values(function, x, what).copy()
    if (y < 0).any() or not y.any():
        raise ValueError(f"{what} must be >= 0, and > 0 somewhere on the domain")
    return y


def _span(interval: tuple[float, float]) -> str:
    return "[{:g}, {:g}]".format(*interval)
