"""The paper's fit: backpropagation through time with a triangular pseudo-derivative, section 1.2.1.

A neuron is run over samples of its gate input. In the backward pass

    dz(t) / ds(t) = max(0, 1 - |s(t)|),     s(t) = (v(t) - T(t)) / (|v(t)| + 1)

takes the place of the derivative of Theta, and a penalty on |s(t)| > 1 keeps potentials where it isn't 0.
Adam, from many random starts, which are the rows of one array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fs_neurons.fitting.problem import Problem
from fs_neurons.fitting.search import State

RESTARTS, SAMPLES = 100, 512
# Drawn anew at every step, as in the published program.
LEARNING_RATES, PENALTIES = (0.09, 0.5), (0.08, 0.12)
MOMENTUM, SQUARES, TINY = 0.9, 0.999, 1e-8  # Adam


class _Samples(NamedTuple):
    """Gate inputs and what they should give, float32 (SAMPLES,); weight and density sum to 1."""

    x: np.ndarray
    f: np.ndarray
    weight: np.ndarray
    density: np.ndarray


class _Pass(NamedTuple):
    """Forward pass: outputs (restarts, samples); z, v and s (K, restarts, samples)."""

    y: np.ndarray
    z: np.ndarray
    v: np.ndarray
    s: np.ndarray


def search(problem: Problem, K: int, steps: int, seed: int) -> Iterator[tuple[int, State]]:
    """Trains RESTARTS neurons at once.

    Initial values are drawn from U(-1, 1) for T, U(-1, 0) for h and U(-0.5, 1) for d. On a grid,
    training is without it, and what counts is the objective after rounding to it.

    Args:
        problem: what is fitted.
        K: number of time steps.
        steps: number of gradient steps.
        seed: of the random numbers.

    Yields:
        (steps so far, best state so far), after every step.
    """
    rng = np.random.default_rng(seed)
    samples = _sample(problem)
    low, high = np.array([-1, -1, -0.5]), np.array([1, 0, 1])
    values = (low + (high - low) * rng.random((K, RESTARTS, 3))).transpose(2, 0, 1)
    values = np.ascontiguousarray(values, np.float32)
    mean, square = np.zeros_like(values), np.zeros_like(values)
    best = State(np.zeros(K), np.zeros(K), np.zeros(K), np.full(1, np.inf))
    mean_left, square_left = 1.0, 1.0  # what the zeros at the start still weigh
    for step in range(1, steps + 1):
        run = _forward(samples.x, *values)
        rounded = _on_grid(problem, values.astype(float))
        result = run if problem.step == 0 else _forward(samples.x, *rounded.astype(np.float32))
        losses = _objective(problem, samples, result)
        winner = int(np.argmin(losses))
        if losses[winner] < best.loss[0]:
            T, h, d = np.ascontiguousarray(rounded[:, :, winner])
            best = State(T, h, d, losses[winner : winner + 1])
        gradient = _backward(problem, samples, values, run, _between(rng, PENALTIES))
        mean += (1 - MOMENTUM) * (gradient - mean)
        square += (1 - SQUARES) * (gradient**2 - square)
        mean_left *= MOMENTUM
        square_left *= SQUARES
        rate = np.float32(_between(rng, LEARNING_RATES) / (1 - mean_left))
        values -= rate * mean / (np.sqrt(square / np.float32(1 - square_left)) + TINY)
        yield step, best


def _between(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * rng.random()


def _on_grid(problem: Problem, values: np.ndarray) -> np.ndarray:
    """The values closest to these that T, h and d may take."""
    if problem.step == 0.0:
        return values
    steps = np.rint((np.clip(values, -problem.bound, problem.bound) + problem.bound) / problem.step)
    return np.asarray(steps * problem.step - problem.bound)


def _sample(problem: Problem) -> _Samples:
    edges = problem.low + np.arange(SAMPLES + 1) * ((problem.high - problem.low) / SAMPLES)
    cells = problem.tables[:, 3:].reshape(SAMPLES, -1, 3)
    weight, weight_f, density = sum(cells.transpose(1, 2, 0))  # in an order that is given
    f = weight_f / np.maximum(weight, np.finfo(float).tiny)
    x = (edges[1:] + edges[:-1]) / 2
    return _Samples(*(part.astype(np.float32) for part in (x, f, weight, density)))


def _forward(x: np.ndarray, T: np.ndarray, h: np.ndarray, d: np.ndarray) -> _Pass:
    """Equations (1) to (3) for T, h, d of shape (K, restarts)."""
    K, restarts = T.shape
    z, v, s = np.empty((3, K, restarts, len(x)), np.float32)
    y = np.zeros((restarts, len(x)), np.float32)
    potential = np.broadcast_to(x, y.shape)
    for t in range(K):
        v[t] = potential
        s[t] = (potential - T[t, :, None]) / (np.abs(potential) + 1)
        z[t] = s[t] >= 0
        y += d[t, :, None] * z[t]
        potential = potential - h[t, :, None] * z[t]
    return _Pass(y, z, v, s)


def _objective(problem: Problem, samples: _Samples, run: _Pass) -> np.ndarray:
    """Error + spike_penalty * spikes of every restart."""
    error = ((run.y - samples.f) ** 2 * samples.weight).sum(axis=1)
    return np.asarray(
        error + problem.spike_penalty * (run.z.sum(axis=0) * samples.density).sum(axis=1)
    )


def _backward(
    problem: Problem, samples: _Samples, values: np.ndarray, run: _Pass, penalty: float
) -> np.ndarray:
    """Gradient, (3, K, restarts), of the objective + penalty * sum over t of (mean max(|s| - 1, 0))^2."""
    _, h, d = values[..., None]
    gradient = np.empty_like(values)
    dy = 2 * (run.y - samples.f) * samples.weight
    dspikes = problem.spike_penalty * samples.density
    dv = np.zeros_like(run.y)
    for t in reversed(range(len(h))):
        z, v, s = run.z[t], run.v[t], run.s[t]
        gradient[1, t] = -(dv * z).sum(axis=1)
        gradient[2, t] = (dy * z).sum(axis=1)
        dz = dy * d[t] + dspikes - dv * h[t]
        beyond = np.maximum(np.abs(s) - 1, 0)
        dbeyond = 2 * penalty * beyond.mean(axis=1, keepdims=True) / beyond.shape[1]
        ds = dz * np.maximum(1 - np.abs(s), 0) + dbeyond * np.sign(s) * (beyond > 0)
        ds /= np.abs(v) + 1
        gradient[0, t] = -ds.sum(axis=1)
        dv += ds * (1 - s * np.sign(v))
    return gradient
