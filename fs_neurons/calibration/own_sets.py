"""Sets of their own for the channels that cost most.

With few steps, none of a family's sets is as good for a channel as one that is fitted to its gate inputs. A fit takes a
tenth of a second: as much as the few channels are worth that a network's first layers have.
"""

from __future__ import annotations

import keras
import numpy as np

from fs_neurons.calibration.candidates import Candidates
from fs_neurons.calibration.distributions import Distribution
from fs_neurons.calibration.expectation import Expected, Responses
from fs_neurons.calibration.selection import Weighted, cost_of_spikes, costs_of
from fs_neurons.neuron import FSParameters

# So many of a site at most, for channels whose set costs more than this part of the variance of the network's outputs.
MOST_OWN, LEAST_COST = 32, 2e-6
# Sets that a fit starts from.
STARTS = 3


def with_own_sets(
    candidates: Candidates,
    probabilities: np.ndarray,
    chosen: tuple[list[FSParameters], np.ndarray, Expected],
    statistics: Weighted,
    spike_penalty: float,
    price: float,
) -> tuple[list[FSParameters], np.ndarray]:
    """The sets of a site, and those that are fitted to single channels behind them.

    Args:
        candidates: for the site's activation.
        probabilities: of its gate inputs (channels, cells), see `expectation`.
        chosen: what `Family.choose` gave for them.
        statistics, spike_penalty, price: that it was given.

    Returns:
        Sets, and the number of its set for each channel.
    """
    given, index, of_given = chosen
    of_spikes = cost_of_spikes(of_given, statistics, spike_penalty, price)
    costs = costs_of(of_given, statistics.importance, of_spikes)
    sets, index, function = list(given), index.copy(), keras.activations.get(candidates.activation)
    cost = costs.min(axis=1)
    # Where errors don't matter, what costs are the spikes.
    worth = (cost > LEAST_COST) & (statistics.importance > np.finfo(np.float32).tiny)
    dearest = np.argsort(-cost, kind="stable")[:MOST_OWN]
    for channel in dearest[worth[dearest]]:
        importance = statistics.importance[channel : channel + 1]
        starts = [given[i] for i in costs[channel].argsort()[:STARTS]]
        inputs = Distribution.of_cells(probabilities[channel])
        own = candidates.fit_own(inputs, of_spikes / float(importance[0]), starts)
        of_own = Responses.of(function, [own]).expected(probabilities[channel : channel + 1])
        if costs_of(of_own, importance, of_spikes)[0, 0] < cost[channel]:
            index[channel] = len(sets)
            sets.append(own)
    return sets, index
