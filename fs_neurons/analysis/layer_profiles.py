"""What `profile` gives for one site, and for one pool of spikes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from fs_neurons.analysis.statistics import InputStatistics
from fs_neurons.neuron import NeuronParameters


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One site: a call of an FS layer. Counts are over all images and neurons.

    A gate of a recurrent layer is one site, whose neurons work at every step of a sequence: counts and statistics are
    over all steps that are not masked. Inside of TimeDistributed it has neurons for each entry of that layer's axis.

    Attributes:
        name: of the FS layer, after the models that it is nested in.
        activation: what it stands for.
        parameters: its parameter set.
        shape: of one image.
        images: number of images.
        total_spikes: spikes.
        silent: neurons without a spike.
        below, above: gate inputs x below the domain [low, high) of the parameter set, and x >= high.
        saturated: neurons whose output is at least that at the upper end of the domain.
        synaptic_operations: additions, one per spike and target of its neuron, see `connectivity`.
        fan_out: (smallest, largest) number of targets of a neuron.
        inputs: statistics of the gate inputs.
        steps: length of the sequences that a recurrent layer reads, masked steps included; None elsewhere.
    """

    name: str
    activation: str
    parameters: NeuronParameters
    shape: tuple[int, ...]
    images: int
    total_spikes: int
    silent: int
    below: int
    above: int
    saturated: int
    synaptic_operations: int
    fan_out: tuple[int, int]
    inputs: InputStatistics
    steps: int | None = None

    @property
    def neurons(self) -> int:
        return math.prod(self.shape)

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.total_spikes / self.images

    @property
    def spikes_per_neuron(self) -> float:
        return self.spikes / self.neurons

    @property
    def spikes_per_step(self) -> float:
        """Per neuron and step of a sequence that is not masked; outside of recurrent layers, per neuron."""
        return self.total_spikes / self.inputs.count

    @property
    def silent_share(self) -> float:
        return self.silent / self.inputs.count

    @property
    def outside_share(self) -> float:
        """Of the gate inputs: outside the domain of the parameter set."""
        return (self.below + self.above) / self.inputs.count

    @property
    def saturated_share(self) -> float:
        return self.saturated / self.inputs.count

    def row(self) -> dict[str, Any]:
        """Plain values: for a data frame, or JSON."""
        return {
            "site": self.name,
            "activation": self.activation,
            "parameters": self.parameters.name,
            "K": self.parameters.K,
            "neurons": self.neurons,
            "spikes": self.spikes,
            "spikes_per_neuron": self.spikes_per_neuron,
            "spikes_per_step": self.spikes_per_step,
            "silent_share": self.silent_share,
            "input_mean": self.inputs.mean,
            "input_variance": self.inputs.variance,
            "input_minimum": self.inputs.minimum,
            "input_maximum": self.inputs.maximum,
            "below_share": self.below / self.inputs.count,
            "above_share": self.above / self.inputs.count,
            "saturated_share": self.saturated_share,
            "synaptic_operations": self.synaptic_operations / self.images,
            "smallest_fan_out": self.fan_out[0],
            "largest_fan_out": self.fan_out[1],
            "total_spikes": self.total_spikes,
        }


@dataclasses.dataclass(frozen=True)
class PoolProfile:
    """Max-pooling of spikes, which is a gate: neither its outputs nor its spikes count as those of neurons.

    Its spikes are the binary code of its output; they reach the next layer in place of those that it took.

    Attributes:
        name: of the layer, after the models that it is nested in.
        shape: of its output for one image.
        images: number of images.
        total_spikes: spikes that it handed on, over all images.
        synaptic_operations: additions that these cause, one per spike and target.
        fan_out: (smallest, largest) number of targets of an output.
    """

    name: str
    shape: tuple[int, ...]
    images: int
    total_spikes: int
    synaptic_operations: int
    fan_out: tuple[int, int]

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.total_spikes / self.images

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "pool": self.name,
            "spikes": self.spikes,
            "synaptic_operations": self.synaptic_operations / self.images,
            "smallest_fan_out": self.fan_out[0],
            "largest_fan_out": self.fan_out[1],
            "total_spikes": self.total_spikes,
        }
