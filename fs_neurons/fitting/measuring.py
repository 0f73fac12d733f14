"""How well a parameter set fits a function, and what it does outside its domain."""

from __future__ import annotations

import numpy as np

from fs_neurons.fitting.functions import Density, Function, as_density, as_function, evaluated
from fs_neurons.fitting.staircase import enumerate_intervals, new_staircase
from fs_neurons.neuron import FSParameters

GRID_POINTS = 400_001
# Intervals outside the domain that are described; buffers start small and grow.
FEWEST_INTERVALS, MOST_INTERVALS = 16, 2**18


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
    error = np.abs(y.astype(float) - evaluated(as_function(function), x.astype(float), "function"))
    span = _span(domain)
    errors = {f"mse {span}": np.mean(error**2)}
    if inside is not None:
        part = (x >= inside[0]) & (x <= inside[1])
        errors[f"mse {_span(inside)}"] = np.mean(error[part] ** 2)
        errors[f"mse outside {_span(inside)}"] = np.mean(error[~part] ** 2)
    errors[f"largest error {span}"] = np.max(error)
    density = evaluated(as_density(input_distribution), x.astype(float), "input_distribution")
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
    far = float(sum(np.abs(part.astype(float)).sum() for part in (parameters.T, parameters.h)))
    low, high = domain
    # Beyond these ends no threshold is crossed.
    below = _staircase_of(parameters, min(-far, low) - 1, low)
    above = _staircase_of(parameters, high, max(far, high) + 1)
    return (
        f"below {low:g}: {_describe(below, outwards=-1)};"
        f" above {high:g}: {_describe(above, outwards=1)}"
    )


def _staircase_of(
    parameters: FSParameters, low: float, high: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Cuts within [low, high), and the output between them; None where there are too many."""
    T, h, d = (part.astype(float) for part in (parameters.T, parameters.h, parameters.d))
    intervals, n = FEWEST_INTERVALS, 0
    while n == 0:
        intervals *= 4
        if intervals > MOST_INTERVALS:
            return None
        stairs = new_staircase(len(T), intervals)
        n = enumerate_intervals(T, h, low, high, stairs)
    fired = (stairs.spikes[0, :n, None] >> np.arange(len(T), dtype=np.uint64)) & np.uint64(1)
    return stairs.edge[0, 1:n].copy(), (fired * d).sum(axis=1)


def _describe(staircase: tuple[np.ndarray, np.ndarray] | None, outwards: int) -> str:
    """Outputs from the domain outwards, in words."""
    if staircase is None:
        return f"changes more than {MOST_INTERVALS:,} times"
    cuts, y = (part[::outwards] for part in staircase)
    if len(y) == 1:
        return f"{y[0]:.4g}"
    return f"{y.min():.4g} to {y.max():.4g}, and {y[-1]:.4g} from {cuts[-1]:.4g} on"


def respond(x: np.ndarray, parameters: FSParameters) -> tuple[np.ndarray, np.ndarray]:
    """Response and number of spikes in float32, as FS-neurons compute them."""
    v, y, count = x, np.zeros_like(x), np.zeros_like(x)
    for T, h, d in zip(parameters.T, parameters.h, parameters.d, strict=True):
        z = (v >= T).astype(np.float32)
        y, count, v = y + d * z, count + z, v - h * z
    return y, count


def _span(interval: tuple[float, float]) -> str:
    return "[{:g}, {:g}]".format(*interval)
