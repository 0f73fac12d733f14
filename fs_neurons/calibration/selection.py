"""Which parameters the neurons of a site get when there are statistics of its gate inputs, but no data.

    statistics = input_statistics(model)
    for site in find_sites(model):
        chosen = choose(statistics[site.name], site)
        chosen.parameters, chosen.scale          # what FSActivation takes, and its weight `scale`
        chosen.outside                           # share of gate inputs that it doesn't cover

Each channel gets the member of a family of sets that costs least for its gate inputs; ReLU, whose one set serves
all scales, gets its range alpha. What counts is the expected squared error, as much as it matters to the outputs of
the network, and a price on spikes: so that they are spent where they do most. Calibration chooses from families in
the same way, for measured gate inputs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import keras
import numpy as np

from fs_neurons.calibration.expectation import FAR, Expected, Responses, predicted
from fs_neurons.calibration.statistics import SiteStatistics
from fs_neurons.network.sites import Site
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters, relu_parameters
from fs_neurons.neuron.families import at_scale, family_steps, load_family
from fs_neurons.neuron.sets import canonical_name, shipped

# Steps of ReLU where no number is given.
RELU_STEPS = 8
# What a spike of ReLU costs where nothing is said, in units of the variance of a site's output. The error at 8 steps
# is so small that fewer spikes are worth more.
RELU_PENALTY = 2e-3
# Expected spikes per neuron, on average over the sites whose sets come from families; and the prices among which the one
# that gives them is searched.
SPIKES = 1.83
PRICES, ROUNDS = (1e-12, 1e6), 40
# Members of a family per site, and how much of its cost a further one has to save.
MOST_MEMBERS, LEAST_GAIN = 24, 0.0003
# Of the square of a channel's mean error, on top of its part in the squared error: it is the same everywhere, and
# does not average out.
BIAS_WEIGHT = 20.0
# Candidates for alpha: so many per factor of two, between these multiples of the site's standard deviation.
ALPHAS_PER_OCTAVE, LOWEST_ALPHA, HIGHEST_ALPHA = 4, 2.0**-4, 2.0**6


class Weighted(Protocol):
    """How much errors at a site matter, and how many neurons it has: as of SiteStatistics."""

    @property
    def importance(self) -> np.ndarray: ...

    @property
    def share(self) -> float: ...


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


def can_choose(site: Site) -> bool:
    """Whether there are sets to choose from for the activation of a site."""
    relu = site.activation == "relu" or site.max_value is not None
    return relu or bool(family_steps(site.activation))


def expected_of_family(statistics: SiteStatistics, steps: int) -> Expected | None:
    """What is expected of the members of the family of a site's activation.

    Args:
        statistics: of the site's gate inputs.
        steps: K.

    Returns:
        None where the statistics are unknown, or there is no family of so many steps.
    """
    if not statistics.known or steps not in family_steps(statistics.activation):
        return None
    return family(statistics.activation, steps).expected(statistics)


def choose(
    statistics: SiteStatistics,
    site: Site,
    steps: int | None = None,
    spike_penalty: float | None = None,
    price: float = 0.0,
    expected: Expected | None = None,
) -> Selection | None:
    """The parameters with the least expected error at a site, channel by channel.

    Args:
        statistics: of the site's gate inputs.
        site: what is replaced.
        steps: K; RELU_STEPS for ReLU and the most that the activation's families have when missing.
        spike_penalty: what one spike per neuron costs, in units of the variance of the site's output;
            RELU_PENALTY when missing for ReLU, and nothing for others.
        price: what a spike for each neuron of the network costs, in units of the variance of its outputs, where
            sets come from families; see `price_of_spikes`.
        expected: what `expected_of_family` gives, where it was asked before.

    Returns:
        None where the statistics are unknown, or the activation has no family.

    Raises:
        FileNotFoundError: the activation has families, but none of so many steps.
    """
    if not (statistics.known and can_choose(site)):
        return None
    if site.activation == "relu" or site.max_value is not None:
        penalty = RELU_PENALTY if spike_penalty is None else spike_penalty
        return _chosen_ranges(statistics, site.max_value, steps or RELU_STEPS, penalty)
    members = family(site.activation, steps or family_steps(site.activation)[-1])
    if expected is None:
        expected = members.expected(statistics)
    penalty = 0.0 if spike_penalty is None else spike_penalty
    sets, index, of_sets = members.choose(expected, statistics, penalty, price)
    parameters: NeuronParameters = sets[0]
    if len(sets) > 1:
        parameters = ChannelParameters(tuple(sets), index, statistics.axis)
    return Selection(parameters, None, statistics.axis, *_summary(of_sets, index))


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Members of a family at their scales, and what they do."""

    members: list[FSParameters]
    responses: Responses

    def expected(self, statistics: SiteStatistics) -> Expected:
        """What is expected of all members at a site whose statistics are known."""
        return self.responses.expected(predicted(statistics, further=FAR))

    def choose(
        self, expected: Expected, statistics: Weighted, spike_penalty: float, price: float
    ) -> tuple[list[FSParameters], np.ndarray, Expected]:
        """The members that cost least, channel by channel.

        Args:
            expected: of all members at a site.
            statistics: of the site, for the importance of its channels.
            spike_penalty, price: as for `choose`.

        Returns:
            At most MOST_MEMBERS members, the number of its member for each channel, and what is expected of them.
        """
        of_spikes = cost_of_spikes(expected, statistics, spike_penalty, price)
        costs = costs_of(expected, statistics.importance, of_spikes)
        kept = few(costs.T)
        part = expected.of_sets(kept)
        return [self.members[i] for i in kept], costs[:, kept].argmin(axis=1), part


def price_of_spikes(
    expected: Iterable[tuple[SiteStatistics, Expected]], most_spikes: float = SPIKES
) -> float:
    """The price with which sets from families spend so many spikes per neuron, as statistics have it.

    Args:
        expected: statistics of sites, and what is expected of the members of their families.
        most_spikes: on average over neurons.
    """
    sites = [
        (costs_of(of_members, site.importance, 0.0), of_members.spikes, site.share)
        for site, of_members in expected
    ]
    neurons = sum(share * len(costs) for costs, _, share in sites)
    if not neurons:
        return 0.0

    def spikes(price: float) -> float:
        return sum(
            share * float(_of_channels(count, (costs + price * share * count).argmin(axis=1)).sum())
            for costs, count, share in sites
        )

    low, high = np.log(PRICES)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if spikes(np.exp(middle)) > most_spikes * neurons:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def costs_of(expected: Expected, importance: np.ndarray, of_spikes: float) -> np.ndarray:
    """Of each set in each channel, (channels, sets), in units of the variance of the network's outputs.

    Args:
        expected: of the sets.
        importance: of errors in each channel.
        of_spikes: what one spike per neuron of a channel costs, see `cost_of_spikes`.
    """
    error = expected.error + BIAS_WEIGHT * np.square(expected.bias)
    return np.asarray(importance[:, None] * error + of_spikes * expected.spikes)


def cost_of_spikes(
    expected: Expected, statistics: Weighted, spike_penalty: float, price: float
) -> float:
    """What one spike per neuron of a channel costs at a site.

    Args:
        expected: of any sets.
        statistics: of the site.
        spike_penalty: what it costs in units of the variance of the site's output.
        price: what one spike for each neuron of the network costs, in units of the variance of its outputs.
    """
    of_site = float(np.mean(statistics.importance * expected.variance))
    return spike_penalty * of_site + price * statistics.share


def few(costs: np.ndarray) -> list[int]:
    """Candidates that are kept: one after the other, the one that saves most, while that is worth it.

    Args:
        costs: (candidates, channels).
    """
    kept = [int(costs.sum(axis=1).argmin())]
    best = costs[kept[0]]
    while len(kept) < MOST_MEMBERS:
        totals = np.minimum(costs, best).sum(axis=1)
        following = int(totals.argmin())
        if not totals[following] < (1 - LEAST_GAIN) * best.sum():
            break
        kept.append(following)
        best = np.minimum(best, costs[following])
    return sorted(kept)


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
    probabilities = predicted(statistics)
    if isinstance(parameters, FSParameters):
        return float(Responses.of(function, [parameters]).expected(probabilities).outside.mean())
    expected = Responses.of(function, parameters.members).expected(probabilities)
    return float(_of_channels(expected.outside, parameters.index).mean())


def _chosen_ranges(
    statistics: SiteStatistics, max_value: float | None, steps: int, spike_penalty: float
) -> Selection:
    # ReLU is the same at every scale: candidates are made once, for a standard deviation of about 1.
    spread = float(np.sqrt(np.mean(np.square(statistics.deviation) + np.square(statistics.mean))))
    unit = 2.0 ** round(np.log2(spread)) if max_value is None and spread > 0 else 1.0
    alphas, responses = _ranges(steps, max_value)
    expected = responses.expected(predicted(statistics, unit))
    of_spikes = cost_of_spikes(expected, statistics, spike_penalty, 0.0)
    index = costs_of(expected, statistics.importance, of_spikes).argmin(axis=1)
    scale = (unit * alphas[index]).astype(np.float32)
    summary = _summary(expected, index)
    if len(scale) == 1:  # for channels of any number
        alpha = relu_parameters(steps, float(scale[0]), "nearest")
        return Selection(alpha, None, statistics.axis, *summary)
    unit_set = relu_parameters(steps, 1.0, "nearest")
    return Selection(unit_set, scale, statistics.axis, *summary)


def _summary(expected: Expected, index: np.ndarray) -> tuple[float, float, float]:
    """Error, spikes and share outside of the sets that the channels have."""
    error, spikes, beyond = (
        float(_of_channels(of, index).mean())
        for of in (expected.error, expected.spikes, expected.outside)
    )
    variance = float(expected.variance.mean())
    return error / variance if variance > 0 else 0.0, spikes, beyond


def _of_channels(of: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.asarray(of[np.arange(len(index)), index])


@functools.lru_cache(maxsize=32)
def family(activation: str, steps: int) -> Family:
    """Members with so many steps, and the other sets that are shipped: these are for [-8, 12] or the like.

    Raises:
        FileNotFoundError: there are none.
    """
    scaled = load_family(activation, steps)
    members = [at_scale(activation, member.set, member.scale) for member in scaled]
    members += shipped(canonical_name(activation), steps)
    return Family(members, Responses.of(keras.activations.get(activation), members))


@functools.lru_cache(maxsize=32)
def _ranges(steps: int, max_value: float | None) -> tuple[np.ndarray, Responses]:
    octaves = np.log2(HIGHEST_ALPHA / LOWEST_ALPHA)
    highest = HIGHEST_ALPHA if max_value is None else max_value
    alphas = highest * 2.0 ** -(np.arange(octaves * ALPHAS_PER_OCTAVE + 1) / ALPHAS_PER_OCTAVE)
    sets = [relu_parameters(steps, float(np.float32(alpha)), "nearest") for alpha in alphas]
    return alphas, Responses.of(lambda x: keras.ops.clip(x, 0.0, max_value or np.inf), sets)
