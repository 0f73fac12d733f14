"""Ranges of FS-ReLU."""

from __future__ import annotations

import numpy as np

# Candidates for alpha, as shares of the largest gate input of a channel, and bins of its histogram.
ALPHAS, BINS = np.geomspace(0.04, 1.3, 96), 512


def error_exponent(steps: int) -> float:
    """Exponent of the error that alpha minimises.

    More than the 2 of least squares counts large errors, those of saturation, heavier: unlike rounding
    errors they do not average out, and the fewer the steps the more there are of them.
    """
    return 2 + 8 / steps**2


def best_alpha(
    x: np.ndarray,
    K: int,
    top: float = np.inf,
    rounding: str = "nearest",
    spike_penalty: float = 0.0,
    exponent: float = 2.0,
) -> np.ndarray:
    """Range of an FS-ReLU per channel for the least mean error, plus what its spikes cost.

    Args:
        x: gate inputs (samples, channels).
        K: number of time steps.
        top: where the ReLU saturates.
        rounding: "nearest" or "down".
        spike_penalty: cost of a spike per neuron, in units of the error that a constant would make.
        exponent: of the error; 2 for least squares.

    Returns:
        alpha, float32 (channels,); that of the average channel for channels that are never positive.
    """
    largest = x.max(axis=0).astype(float)
    alive = largest > 0
    if not alive.any():
        return np.ones(x.shape[1], np.float32)
    largest = np.where(alive, largest, 1.0)
    # Histograms over (0, largest]; what is not positive costs nothing.
    bin_of = np.ceil(x / largest * BINS).astype(int) - 1
    hist = np.stack([np.bincount(b[b >= 0], minlength=BINS)[:BINS] for b in bin_of.T]) / len(x)
    centre = (np.arange(BINS) + 0.5) / BINS
    wanted = np.minimum(centre, np.minimum(top / largest, 2.0)[:, None])
    y = np.clip(x, 0, top)
    signal = max(float(np.mean(np.abs(y - y.mean(axis=0)) ** exponent)), 1e-30)
    ones = np.array([n.bit_count() for n in range(2**K)])
    ahead = 0.5 if rounding == "nearest" else 0.0
    cost = np.empty((len(ALPHAS), x.shape[1]))
    for i, alpha in enumerate(ALPHAS):
        code = np.clip(centre * (2**K / alpha) + ahead, 0, 2**K - 1).astype(int)
        error = np.abs(wanted - code * (alpha / 2**K)) ** exponent
        error = np.sum(hist * error, axis=1) * largest**exponent
        cost[i] = error / signal + spike_penalty * (hist @ ones[code])
    alpha = largest * ALPHAS[cost.argmin(axis=0)]
    alpha[~alive] = alpha[alive].mean()
    return np.asarray(alpha.astype(np.float32))
