"""The neurons of a site, fitted to its gate inputs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from fs_neurons import neuron
from fs_neurons.calibration.candidates import Candidates
from fs_neurons.calibration.distributions import Distribution
from fs_neurons.calibration.expectation import FAR, observed, predicted
from fs_neurons.calibration.moments import NORMALIZED
from fs_neurons.calibration.own_sets import with_own_sets
from fs_neurons.calibration.ranges import best_alpha, error_exponent
from fs_neurons.calibration.selection import family
from fs_neurons.calibration.settings import Settings
from fs_neurons.calibration.statistics import SiteStatistics
from fs_neurons.layers import FSActivation, fs_layer
from fs_neurons.network import Site
from fs_neurons.neuron import ChannelParameters, FSParameters, NeuronParameters, relu_parameters
from fs_neurons.neuron.families import family_steps

# So many steps are few for other activations than ReLU.
FEW_STEPS = 8
# The least price of a spike where sets are fitted: of those that are as good, the one that spikes less.
LEAST_PRICE = 1.5e-4
# Share of what batch normalization promises in the gate inputs that sets are chosen for: calibration images are rarely
# as varied as those that a network was trained for, and what lies outside the range of a set does harm to what follows.
PRIOR_SHARE = 0.1
# Gate inputs that spikes are counted for.
COUNTED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Neurons:
    """FS-neurons for a site.

    Attributes:
        parameters: T, h and d.
        spikes: spikes per neuron on the gate inputs that they were fitted to.
        scale: (channels,), what T, h and d of each channel are multiplied by, if anything.
        axis: of the channels.
    """

    parameters: NeuronParameters
    spikes: float
    scale: np.ndarray | None = None
    axis: int = -1

    def response(self, x: Any) -> Any:
        if self.scale is None:
            return neuron.response(x, self.parameters)
        return neuron.response(x, self.parameters, ops.convert_to_tensor(self.scale), self.axis)

    def layer(self, activation: str, **kwargs: Any) -> FSActivation:
        """A layer of these neurons; its scale, if any, is to be set once it is built."""
        per_channel = self.scale is not None
        binary = isinstance(self.parameters, FSParameters) and self.parameters.alpha is not None
        if binary or per_channel:
            # Behind FSReLU, pools become pools of its spikes, which not every fitted range allows.
            axis = self.axis
            return FSActivation(
                self.parameters, activation, per_channel=per_channel, axis=axis, **kwargs
            )
        return fs_layer(self.parameters, activation, **kwargs)


def is_relu(site: Site) -> bool:
    """Whether a site is a ReLU, or one that saturates."""
    return site.activation == "relu" or site.max_value is not None


def fit_relu(
    site: Site,
    x: np.ndarray,
    axis: int | None,
    steps: int,
    penalty: float,
    settings: Settings,
    candidates: Candidates,
) -> Neurons:
    """FS-ReLU with the best range per channel; with a price on spikes, T, h and d fitted in its units.

    Args:
        site: a ReLU.
        x: gate inputs (samples, channels); a single channel for one range.
        axis: of the channels; None for one range.
        steps: K.
        penalty: what a spike per neuron costs, in units of the site's relative squared error.
        settings: how to round.
        candidates: of ReLU sites, in units of alpha; for a price on spikes.
    """
    top = np.inf if site.max_value is None else site.max_value
    alpha = best_alpha(x, steps, top, settings.rounding, penalty, error_exponent(steps))
    unit = relu_parameters(steps, 1.0, settings.rounding)
    if penalty:
        # One set for all channels, each in units of its alpha; errors count in their own units.
        weight = np.broadcast_to(alpha**2, x.shape).ravel()
        signal = float(np.mean(np.var(np.clip(x, 0, top), axis=0)) / np.mean(alpha**2))
        inputs = Distribution.of((x / alpha).ravel(), weight)
        unit = candidates.fit(inputs, penalty * signal, [unit])
    spikes = _spikes(x / alpha, unit)
    if axis is None:
        return Neurons(_scaled(unit, float(alpha[0])), spikes)
    return Neurons(unit, spikes, alpha, axis)


class _Alike(NamedTuple):
    """Of a site of which nothing is known: errors of all channels matter alike."""

    importance: np.ndarray
    share: float


def choose_sets(
    candidates: Candidates,
    x: np.ndarray,
    axis: int | None,
    penalty: float,
    statistics: SiteStatistics,
    price: float,
    prior_share: float,
) -> Neurons:
    """The sets that suit the gate inputs of each channel best.

    Args:
        candidates: for the site's activation, where no family is shipped for it.
        x: gate inputs (samples, channels); a single channel for one set.
        axis: of the channels; None for one set.
        penalty: what a spike per neuron costs, in units of the site's relative squared error.
        statistics: of the site without data.
        price: of a spike where sets come from a family, see `selection.choose`.
        prior_share: of what the statistics promise, in the gate inputs that sets are chosen for.
    """
    probabilities = observed(x)
    shipped = candidates.steps in family_steps(candidates.activation)
    same = axis is not None and len(statistics.importance) == x.shape[1]
    if same and statistics.source == NORMALIZED:
        probabilities *= 1 - prior_share
        probabilities += prior_share * predicted(statistics, further=FAR if shipped else ())
    if shipped:
        total = float(statistics.importance.sum()) or 1.0
        alike = _Alike(np.full(x.shape[1], total / x.shape[1]), statistics.share)
        members = family(candidates.activation, candidates.steps)
        expected = members.responses.expected(probabilities)
        weights = statistics if same else alike
        chosen = members.choose(expected, weights, penalty, price)
        sets, index, _ = chosen
        if same and price and candidates.steps <= FEW_STEPS:
            sets, index = with_own_sets(candidates, probabilities, chosen, weights, penalty, price)
    else:
        sets, index = candidates.of_channels(probabilities, max(penalty, LEAST_PRICE))
    if axis is None or len(sets) == 1:
        return Neurons(sets[0], _spikes(x, sets[0]))
    parameters = ChannelParameters(tuple(sets), index, axis)
    return Neurons(parameters, _spikes(x, dataclasses.replace(parameters, axis=-1)))


def _spikes(x: np.ndarray, parameters: NeuronParameters) -> float:
    x = x[:: max(1, x.size // COUNTED)]
    # To a power of two with NaN, which fires no spike: sites share a kernel then.
    padded = np.full((1 << (len(x) - 1).bit_length(), *x.shape[1:]), np.nan, np.float32)
    padded[: len(x)] = x
    count = neuron.spike_count(ops.convert_to_tensor(padded), parameters)
    return float(ops.convert_to_numpy(count).sum(dtype=np.int64) / x.size)


def _scaled(parameters: FSParameters, alpha: float) -> FSParameters:
    """The set for inputs and outputs `alpha` times as large."""
    if parameters.alpha is not None:
        return relu_parameters(
            parameters.K, parameters.alpha * alpha, parameters.rounding or "down"
        )
    return dataclasses.replace(
        parameters,
        T=parameters.T * np.float32(alpha),
        h=parameters.h * np.float32(alpha),
        d=parameters.d * np.float32(alpha),
        domain=(parameters.domain[0] * alpha, parameters.domain[1] * alpha),
        out_of_range="",
        errors={},
    )
