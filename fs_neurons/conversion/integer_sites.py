"""FS-neurons as integers: T and h in units of the potential, d in a unit of its own or a binary code."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from typing import Any

import numpy as np

from fs_neurons.conversion.integers import as_float64
from fs_neurons.conversion.rounding import Feedback
from fs_neurons.network.calls import Call
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters

# From this step on, in units of the potential, it is rounded to the nearest; a smaller one upwards, so that no range
# becomes much narrower.
FINE_STEP = 8
# For which responses are kept: normal, as behind batch normalization.
GATE_INPUTS = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])
# Relative error below which d of few bits are the same numbers.
EXACT = 1e-5


@dataclasses.dataclass(frozen=True)
class IntegerNeurons:
    """T, h and d of a site as integers.

    Attributes:
        T, h: (K, channels), in units of the potential.
        d: (K, channels), in units of the output.
        unit: (channels,), of the output.
        domain: (channels,) each, in units of the potential.
        is_binary: whether their spikes are a binary code.
        name: of the set.
    """

    T: np.ndarray
    h: np.ndarray
    d: np.ndarray
    unit: np.ndarray
    domain: tuple[np.ndarray, np.ndarray]
    is_binary: bool
    name: str

    def largest_potential(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(channels,), the largest magnitude of potentials that start in [low, high]: resets may lead beyond."""
        worst = np.maximum(np.abs(low), np.abs(high))
        for T, h in zip(self.T, self.h, strict=True):
            fires, rests = high >= T, low < T
            lows = np.where(fires, np.maximum(low, T) - h, np.inf), np.where(rests, low, np.inf)
            highs = (
                np.where(fires, high - h, -np.inf),
                np.where(rests, np.minimum(high, T), -np.inf),
            )
            low, high = np.minimum(*lows), np.maximum(*highs)
            worst = np.maximum(worst, np.maximum(np.abs(low), np.abs(high)))
        return np.asarray(worst)

    def parameters(self) -> NeuronParameters:
        """One set for all channels that have the same."""
        K = len(self.T)
        columns = np.concatenate([self.T, self.h, self.d, *(end[None] for end in self.domain)])
        unique, index = np.unique(columns, axis=1, return_inverse=True)
        members = tuple(
            FSParameters(
                T=column[:K], h=column[K : 2 * K], d=column[2 * K : 3 * K], name=self.name,
                source="integers", domain=(column[-2], column[-1]),
            )
            for column in unique.T
        )  # fmt: skip
        return members[0] if len(members) == 1 else ChannelParameters(members, np.ravel(index))


def integer_neurons(layer: Any, unit: np.ndarray, largest: int) -> IntegerNeurons:
    """The neurons of a layer as integers.

    Args:
        layer: of FS-neurons, whose channels are on the last axis.
        unit: (channels,), of the potential.
        largest: that d may be where it is not a binary code.
    """
    p, channels = layer.parameters, len(unit)
    scale = np.ones(channels) if layer.scale is None else as_float64(layer.scale)
    T, h = (_per_channel(values, channels) * scale for values in (p.T, p.h))
    spikes = integer_spikes(layer, channels, largest)
    if spikes is None:
        step = h[-1] / unit
        m = np.maximum(np.where(step < FINE_STEP, np.ceil(step), np.rint(step)), 1)
        worth = np.broadcast_to(_shifts(p.K)[:, None], h.shape)
        ahead = np.rint((h[-1] - T[-1]) / h[-1] * 2) / 2  # steps that it looks ahead: 0 or 1/2
        return IntegerNeurons(
            np.ceil((worth - ahead) * m), worth * m, worth, m * unit,
            (np.full(channels, -np.inf), m * 2.0**p.K), True, f"{p.name if isinstance(p, FSParameters) else p.used[0].name}_int",
        )  # fmt: skip
    low, high = (np.broadcast_to(np.ravel(end), channels) * scale / unit for end in p.domain)
    return IntegerNeurons(
        np.rint(T / unit), np.rint(h / unit), *spikes, (low, high), False,
        f"{p.name}_int",
    )  # fmt: skip


def channels_are_last(call: Call) -> bool:
    """Whether neurons of a site are the same, or differ only along the last axis."""
    op: Any = call.op
    differ = op.per_channel or isinstance(op.parameters, ChannelParameters)
    return not differ or getattr(op, "axis", -1) in (-1, len(call.outputs.shape))


def integer_spikes(layer: Any, channels: int, largest: int) -> tuple[np.ndarray, np.ndarray] | None:
    """d of neurons as integers, (K, channels), and their unit, (channels,); None for a binary code.

    Args:
        layer: of FS-neurons, whose channels are on the last axis.
        channels: how many.
        largest: that d may be.
    """
    p = layer.parameters
    if _is_binary(p):
        return None
    members, index = (
        ((p,), np.zeros(channels, int))
        if isinstance(p, FSParameters)
        else (p.members, np.asarray(p.index))
    )
    rounded = {i: _rounded_spikes(members[i], largest) for i in np.unique(index)}
    d = np.stack([rounded[i][0] for i in index], axis=1)
    unit = np.array([rounded[i][1] for i in index])
    return d, unit * (1.0 if layer.scale is None else as_float64(layer.scale))


def spike_error(layer: Any, largest: int) -> float:
    """By how much responses change, relative to their root mean square, if d may be `largest`; the largest of all
    channels, and 0 for a binary code."""
    p = layer.parameters
    if _is_binary(p):
        return 0.0
    members = (p,) if isinstance(p, FSParameters) else p.used
    return max(_rounded_spikes(member, largest)[2] for member in members)


@functools.lru_cache(maxsize=1024)
def _rounded_spikes(parameters: FSParameters, largest: int) -> tuple[np.ndarray, float, float]:
    """d as integers, (K,), their unit, with which the squared error of responses is least, and that error, relative.

    Rounding errors make up for each other, as those of weights. Of units that are as good, the largest.
    """
    p = parameters
    v, spikes = np.clip(GATE_INPUTS, *p.domain), []
    for T, h in zip(p.T.astype(float), p.h.astype(float), strict=True):
        spikes.append(v >= T)
        v = v - h * spikes[-1]
    z = np.array(spikes, np.float64)
    moments = z @ z.T / GATE_INPUTS.size
    d = p.d.astype(np.float64)
    levels = np.arange(1, largest + 1)
    units = (np.abs(d).max() or 1.0) / levels
    kernel = np.broadcast_to(d[:, None], (p.K, largest))
    whole = Feedback.of(moments).rounded(kernel, np.broadcast_to(units, kernel.shape), largest)
    error = whole * units - kernel
    squared = np.einsum("tm,ts,sm->m", error, moments, error)
    power = d @ moments @ d or 1.0
    at = int(np.argmax(squared <= squared.min() + EXACT**2 * power))
    return whole[:, at], float(units[at]), float(np.sqrt(max(squared[at], 0) / power))


def _is_binary(parameters: NeuronParameters) -> bool:
    members = (parameters,) if isinstance(parameters, FSParameters) else parameters.used
    return all(member.alpha is not None for member in members)


def coded_in_integers(parameters: FSParameters) -> FSParameters:
    """Of neurons that code an input: thresholds in its unit, spikes that are shifts."""
    d = _shifts(parameters.K).astype(np.float32)
    return dataclasses.replace(parameters, d=d, name=f"{parameters.name}_int")


def _shifts(K: int) -> np.ndarray:
    return np.ldexp(1.0, K - np.arange(1, K + 1))


def _per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """(K,) or (K, channels) -> (K, channels), float64."""
    rows = np.reshape(values, (len(values), -1)).astype(np.float64)
    return np.broadcast_to(rows, (len(values), channels))
