"""Parameter sets fitted to gate inputs: of sites whose function no family is shipped for, and of single channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fs_neurons.calibration.distributions import Distribution, Function
from fs_neurons.calibration.expectation import CENTRES
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.sets import shipped

# Effort of the first fit of a function, of those that start from fits before it, and of one for a single channel.
FIRST_EFFORT, NEXT_EFFORT, OWN_EFFORT = 300_000, 40_000, 12_000
# Weight of either side beyond the range of a fit.
GUARD = 1e-5
# Fitted sets per site.
MOST_FITS = 8


@dataclasses.dataclass(frozen=True)
class Fit:
    """A set, and the distribution of gate inputs that it was fitted to."""

    inputs: Distribution
    parameters: FSParameters


class Candidates:
    """Sets for one activation function and number of steps: those fitted so far.

    Args:
        activation: name, with its options.
        function: the activation itself.
        steps: K.
    """

    def __init__(self, activation: str, function: Function, steps: int):
        self.activation, self.function, self.steps = activation, function, steps
        self.fits: list[Fit] = []

    def of_channels(
        self, probabilities: np.ndarray, price: float
    ) -> tuple[list[FSParameters], np.ndarray]:
        """Sets fitted to channels of like range, in powers of two.

        Args:
            probabilities: of the gate inputs, (channels, cells); see `expectation`.
            price: of a spike per neuron, in units of the variance of a channel's outputs.

        Returns:
            At most MOST_FITS sets, and the number of its set for each channel.
        """
        reach = np.where(probabilities > 0, np.abs(CENTRES), 0.0).max(axis=1)
        octave = np.round(np.log2(reach)).astype(int)
        # Ranges that few channels have go with the next larger ones.
        octave = np.maximum(octave, octave.max() - MOST_FITS + 1)
        octaves, index = np.unique(octave, return_inverse=True)
        y = self.function(CENTRES)
        signal = float(np.mean(probabilities @ y**2 - (probabilities @ y) ** 2))
        sets = [
            self.fit(Distribution.of_cells(probabilities[octave == o].mean(axis=0)), price * signal)
            for o in octaves
        ]
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
        parameters = self._fitted(
            inputs,
            penalty,
            [*(starts or shipped(self.activation, self.steps)), *before[-3:]],
            NEXT_EFFORT if before or starts else FIRST_EFFORT,
            f"{self.activation}_k{self.steps}_calibrated{len(self.fits) + 1}",
        )
        self.fits.append(Fit(inputs, parameters))
        return parameters

    def fit_own(
        self, inputs: Distribution, penalty: float, starts: Sequence[FSParameters]
    ) -> FSParameters:
        """T, h and d for a single channel, from sets that are nearly right.

        Args:
            inputs, penalty, starts: as for `fit`.
        """
        name = f"{self.activation}_k{self.steps}_own"
        return self._fitted(inputs, penalty, starts, OWN_EFFORT, name)

    def _fitted(
        self,
        inputs: Distribution,
        penalty: float,
        starts: Sequence[FSParameters],
        effort: int,
        name: str,
    ) -> FSParameters:
        # Only fitting needs numba.
        from fs_neurons import fitting

        return fitting.fit(
            self.function,
            self.steps,
            inputs.domain,
            weight=inputs.weight,
            input_distribution=inputs.density,
            spike_penalty=penalty,
            guard=GUARD,
            starts=starts,
            effort=effort,
            name=name,
            verbose=False,
        )
