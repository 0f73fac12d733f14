"""Parameter sets that a site may choose from, and new ones fitted where there are none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fs_neurons.calibration.distributions import (
    Distribution,
    Function,
    Histograms,
    Staircase,
    staircase,
)
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.families import at_scale, family_steps, load_family
from fs_neurons.neuron.sets import shipped

# Effort of the first fit of a function and of those that start from fits before it.
FIRST_EFFORT, NEXT_EFFORT = 300_000, 40_000
# Weight of either side beyond the range of a fit.
GUARD = 1e-5
# Sets per site, and how much of its cost a further set has to save.
MOST_SETS, LEAST_GAIN = 8, 0.01
# Of a channel, in units of the mean over channels, for its relative error to count in full.
LEAST_VARIANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Fit:
    """A set, and the distribution of gate inputs that it was fitted to."""

    inputs: Distribution
    parameters: FSParameters


class Candidates:
    """Sets for one activation function and number of steps: members of its family, and those fitted so far.

    Args:
        activation: name, with its options.
        function: the activation itself.
        steps: K.
    """

    def __init__(self, activation: str, function: Function, steps: int):
        self.activation, self.function, self.steps = activation, function, steps
        self.fits: list[Fit] = []

    @functools.cached_property
    def family(self) -> list[FSParameters]:
        """Members of the shipped family at their scales; none where none is shipped for these steps."""
        if self.steps not in family_steps(self.activation):
            return []
        return [
            at_scale(self.activation, member, scale)
            for scale, member in load_family(self.activation, self.steps)
        ]

    @functools.cached_property
    def _stairs(self) -> list[Staircase]:
        return [staircase(parameters) for parameters in self.family]

    def choose(self, histograms: Histograms, price: float) -> tuple[list[FSParameters], np.ndarray]:
        """The sets that cost least, channel by channel.

        Args:
            histograms: gate inputs of a site.
            price: of a spike per neuron, in units of the variance of a channel's outputs. Relative errors
                count, as the layer behind a site may scale each channel by itself, but those of channels
                that hardly vary do not.

        Returns:
            At most MOST_SETS sets, and the number of its set for each channel.
        """
        tables = histograms.tables(self.function)
        signal = float(tables.variance.mean())
        if not self.family:
            return self._fitted(histograms, price * signal)
        scale = tables.variance + LEAST_VARIANCE * signal
        costs = np.stack(
            [error / scale + price * spikes for error, spikes in map(tables.costs, self._stairs)]
        )
        kept = few(costs)
        return [self.family[i] for i in kept], costs[kept].argmin(axis=0)

    def _fitted(
        self, histograms: Histograms, penalty: float
    ) -> tuple[list[FSParameters], np.ndarray]:
        """Sets fitted to channels of like range, in powers of two."""
        reach = np.maximum(np.abs(histograms.low), np.abs(histograms.low + histograms.span))
        octave = np.round(np.log2(reach)).astype(int)
        # Ranges that few channels have go with the next larger ones.
        octave = np.maximum(octave, octave.max() - MOST_SETS + 1)
        octaves, index = np.unique(octave, return_inverse=True)
        sets = [self.fit(histograms.merged(np.flatnonzero(octave == o)), penalty) for o in octaves]
        return sets, index

    def fit(
        self, inputs: Distribution, penalty: float, starts: Sequence[FSParameters] = ()
    ) -> FSParameters:
        """T, h and d for a distribution of gate inputs; a set from before where it was fitted to the like.

        Args:
            inputs: what the set is for.
            penalty: what a spike costs, in units of squared error.
            starts: sets to start from; the shipped ones where there are none.
        """
        for fit in self.fits:
            if inputs.like(fit.inputs):
                return fit.parameters
        before = [fit.parameters for fit in self.fits]
        # Only fitting needs numba.
        from fs_neurons import fitting

        parameters = fitting.fit(
            self.function,
            self.steps,
            inputs.domain,
            weight=inputs.weight,
            input_distribution=inputs.density,
            spike_penalty=penalty,
            guard=GUARD,
            starts=[*(starts or shipped(self.activation, self.steps)), *before[-3:]],
            effort=NEXT_EFFORT if before or starts else FIRST_EFFORT,
            name=f"{self.activation}_k{self.steps}_calibrated{len(self.fits) + 1}",
            verbose=False,
        )
        self.fits.append(Fit(inputs, parameters))
        return parameters


def few(costs: np.ndarray) -> list[int]:
    """Candidates that are kept: one after the other, the one that saves most, while that is worth it.

    Args:
        costs: (candidates, channels).
    """
    kept = [int(costs.sum(axis=1).argmin())]
    best = costs[kept[0]]
    while len(kept) < MOST_SETS:
        totals = np.minimum(costs, best).sum(axis=1)
        following = int(totals.argmin())
        if not totals[following] < (1 - LEAST_GAIN) * best.sum():
            break
        kept.append(following)
        best = np.minimum(best, costs[following])
    return sorted(kept)
