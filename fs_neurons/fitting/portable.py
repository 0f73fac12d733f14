"""Random numbers and a logarithm that are the same, bit for bit, on every processor.

Libraries choose their logarithm by processor, and random normal numbers are made with it. What is here
needs IEEE additions, multiplications and divisions only.
"""

from __future__ import annotations

import math

import numpy as np

from fs_neurons.backend import native

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = np.uint64(0xFFFF)
LOG_2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476


def new_random(seed: int) -> np.ndarray:
    """State of a SplitMix64 generator: one uint64, which every draw changes."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return np.ascontiguousarray(state)


@native
def next_bits(random: np.ndarray) -> np.uint64:
    """64 random bits."""
    random[0] += _GOLDEN
    z: np.uint64 = random[0]
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


@native
def uniform(random: np.ndarray) -> float:
    """Uniform on [0, 1)."""
    return np.float64(next_bits(random) >> np.uint64(11)) * 2.0**-53


@native
def integer(random: np.ndarray, n: int) -> int:
    """One of 0, ..., n - 1."""
    return int(uniform(random) * n)


@native
def bell(random: np.ndarray) -> float:
    """Mean 0, variance 1, at most 3.5: four uniform numbers added up, nearly Gaussian."""
    bits = next_bits(random)
    total = np.int64(0)
    for _ in range(4):
        total += np.int64(bits & _MASK)
        bits = bits >> np.uint64(16)
    return (total - 131070) * (1.7320508075688772 / 65536.0)


@native
def logarithm(x: float) -> float:
    """Natural logarithm of x > 0, to 1e-15 or so."""
    mantissa, exponent = math.frexp(x)
    if mantissa < SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = 0.0
    for n in range(21, 0, -2):
        series = series * square + 1.0 / n
    return 2.0 * s * series + exponent * LOG_2
