"""Which parameters the neurons of a site get when there are statistics of its gate inputs, but no data.

    statistics = input_statistics(model)
    for site in find_sites(model):
        chosen = choose(statistics[site.name], site)
        chosen.parameters, chosen.scale          # what FSActivation takes, and its weight `scale`
        chosen.outside                           # share of gate inputs that it doesn't cover

Each channel gets the member of a family of sets that has the least expected squared error for its gate
inputs; ReLU, whose one set serves all scales, gets its range alpha. A price on spikes moves the choice to
coarser members.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fs_neurons.calibration.expectation import Expected, Responses
from fs_neurons.calibration.statistics import SiteStatistics
from fs_neurons.network.sites import Site
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters, relu_parameters
from fs_neurons.neuron.families import at_scale, family_steps, load_family

# Steps of ReLU where no number is given.
RELU_STEPS = 8
# What a spike costs where nothing is said: so much that it hardly shows in the outputs of networks. The error
# of ReLU at 8 steps is so small that fewer spikes are worth more.
RELU_PENALTY, FAMILY_PENALTY = 2e-3, 1e-4
# Of the square of a channel's mean error, on top of its part in the squared error: it is the same everywhere, and
# does not average out.
BIAS_WEIGHT = 4.0
# Candidates for alpha: so many per factor of two, between these multiples of the site's standard deviation.
ALPHAS_PER_OCTAVE, LOWEST_ALPHA, HIGHEST_ALPHA = 4, 2.0**-4, 2.0**6


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """Parameters for the neurons of a site.

    Attributes:
        parameters: one set, or one per channel.
        scale: float32 (channels,), each channel's T, h and d are multiplied by it: the weight of
            `FSActivation(parameters, per_channel=True)`; None where there is none.
        axis: of the channels.
        error: expected squared error over the variance of the exact output.
        spikes: expected number per neuron.
        outside: expected share of gate inputs that `parameters` don't cover, see `outside`.
    """

    parameters: NeuronParameters
    scale: np.ndarray | None
    axis: int
    error: float
    spikes: float
    outside: float


def choose(
    statistics: SiteStatistics,
    site: Site,
    steps: int | None = None,
    spike_penalty: float | None = None,
) -> Selection | None:
    """The parameters with the least expected error at a site, channel by channel.

    Args:
        statistics: of the site's gate inputs.
        site: what is replaced.
        steps: K; RELU_STEPS for ReLU and the most that the activation's families have when missing.
        spike_penalty: what one spike per neuron costs, in units of the variance of the site's output;
            RELU_PENALTY or FAMILY_PENALTY when missing.

    Returns:
        None where the statistics are unknown, or the activation has no family.

    Raises:
        FileNotFoundError: the activation has families, but none of so many steps.
    """
    if not statistics.known:
        return None
    if site.activation == "relu" or site.max_value is not None:
        penalty = RELU_PENALTY if spike_penalty is None else spike_penalty
        return _chosen_ranges(statistics, site.max_value, steps or RELU_STEPS, penalty)
    if not family_steps(site.activation):
        return None
    members, responses = _family(site.activation, steps or family_steps(site.activation)[-1])
    expected = responses.expected(statistics)
    index = _cheapest(statistics, expected, FAMILY_PENALTY if spike_penalty is None else spike_penalty)
    used, index_of_used = np.unique(index, return_inverse=True)
    parameters: NeuronParameters = members[used[0]]
    if len(used) > 1:
        parameters = ChannelParameters(
            tuple(members[i] for i in used), index_of_used, statistics.axis
        )
    return Selection(parameters, None, statistics.axis, *_summary(expected, index))


def outside(
    statistics: SiteStatistics, function: Callable[[Any], Any], parameters: NeuronParameters
) -> float | None:
    """Share of a site's gate inputs that parameters don't cover, as its statistics have it.

    A set covers its domain, and what is beyond as far as its error there is at most twice that inside.

    Args:
        statistics: of the site's gate inputs.
        function: what the parameters stand for.
        parameters: one set, or one per channel.

    Returns:
        A number from 0 to 1; None where the statistics are unknown.
    """
    if not statistics.known:
        return None
    if isinstance(parameters, FSParameters):
        return float(Responses.of(function, [parameters]).expected(statistics).outside.mean())
    expected = Responses.of(function, parameters.members).expected(statistics)
    return float(_of_channels(expected.outside, parameters.index).mean())


def _chosen_ranges(
    statistics: SiteStatistics, max_value: float | None, steps: int, spike_penalty: float
) -> Selection:
    # ReLU is the same at every scale: candidates are made once, for a standard deviation of about 1.
    spread = float(np.sqrt(np.mean(np.square(statistics.deviation) + np.square(statistics.mean))))
    unit = 2.0 ** round(np.log2(spread)) if max_value is None and spread > 0 else 1.0
    alphas, responses = _ranges(steps, max_value)
    expected = responses.expected(statistics, unit)
    index = _cheapest(statistics, expected, spike_penalty)
    scale = (unit * alphas[index]).astype(np.float32)
    summary = _summary(expected, index)
    if len(scale) == 1:  # for channels of any number
        alpha = relu_parameters(steps, float(scale[0]), "nearest")
        return Selection(alpha, None, statistics.axis, *summary)
    unit_set = relu_parameters(steps, 1.0, "nearest")
    return Selection(unit_set, scale, statistics.axis, *summary)


def _cheapest(statistics: SiteStatistics, expected: Expected, spike_penalty: float) -> np.ndarray:
    """Number of the set for each channel."""
    error = expected.error + BIAS_WEIGHT * np.square(expected.bias)
    error *= statistics.importance[:, None]
    return np.argmin(error + spike_penalty * statistics.share * expected.spikes, axis=1)


def _summary(expected: Expected, index: np.ndarray) -> tuple[float, float, float]:
    """Error, spikes and share outside of the sets that the channels have."""
    error, spikes, beyond = (
        float(_of_channels(of, index).mean())
        for of in (expected.error, expected.spikes, expected.outside)
    )
    variance = float(expected.variance.mean())
    return error / variance if variance > 0 else 0.0, spikes, beyond


def _of_channels(of: np.ndarray, index: np.ndarray) -> np.ndarray:
    return of[np.arange(len(index)), index]


@functools.lru_cache(maxsize=32)
def _family(activation: str, steps: int) -> tuple[list[FSParameters], Responses]:
    members = [
        at_scale(activation, member, scale)
        for scale, member in load_family(activation, steps)
    ]
    return members, Responses.of(keras.activations.get(activation), members)


@functools.lru_cache(maxsize=32)
def _ranges(steps: int, max_value: float | None) -> tuple[np.ndarray, Responses]:
    octaves = np.log2(HIGHEST_ALPHA / LOWEST_ALPHA)
    highest = HIGHEST_ALPHA if max_value is None else max_value
    alphas = highest * 2.0 ** -(np.arange(octaves * ALPHAS_PER_OCTAVE + 1) / ALPHAS_PER_OCTAVE)
    sets = [relu_parameters(steps, float(np.float32(alpha)), "nearest") for alpha in alphas]
    return alphas, Responses.of(lambda x: keras.ops.clip(x, 0.0, max_value or np.inf), sets)
