"""The analog and the spiking network as one graph, with a placeholder at each site."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from fs_neurons.calibration.neurons import Neurons
from fs_neurons.layers import FSActivation, FSMaxPooling2D
from fs_neurons.network import Site, graph
from fs_neurons.network.channels import channel_axes
from fs_neurons.network.graph import Call, Graph, Value
from fs_neurons.network.kinds import channel_axis
from fs_neurons.network.recurrent import cells_of, copy_all_weights, is_recurrent
from fs_neurons.network.rewriting import Rewriter
from fs_neurons.network.structure import named_operations
from fs_neurons.neuron import FSParameters


class Placeholder(keras.layers.Layer):
    """Stands at a site until its neurons are fitted, and hands on its input."""

    def __init__(self, site: Site, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        return x


@dataclasses.dataclass(frozen=True)
class Pair:
    """Both networks: one graph and one set of weights, but two functions at each site.

    Attributes:
        model: the original, which is never changed.
        graph: of a copy with placeholders; corrections change the weights of its layers.
        axes: of the channels of each site's gate inputs, counted with the batch; None where the
            layers before it don't tell, or the places of a shared site disagree.
        copies: layers with weights, each with its copy.
    """

    model: keras.Model
    graph: Graph
    axes: Mapping[Site, int | None]
    copies: list[tuple[Any, Any]]

    @classmethod
    def of(cls, model: keras.Model, chosen: Mapping[Site, FSParameters], inputs: Any) -> Pair:
        """
        Args:
            model: to be calibrated.
            chosen: sites to replace.
            inputs: arrays in the structure that the model takes; they give sizes that it leaves open.
        """
        rewriter = Rewriter(
            lambda site, name, dtype: (
                Placeholder(site, name=name, dtype=dtype) if site in chosen else None
            )
        )
        copy = rewriter.rewrite(model)
        traced = graph.trace(copy, inputs)
        return cls(model, traced, _site_axes(copy, traced), list(rewriter.pairs))

    def site(self, call: Call) -> Site | None:
        """The site that a call stands at."""
        return call.op.site if isinstance(call.op, Placeholder) else None

    @property
    def sites(self) -> list[Call]:
        """Calls at sites."""
        return [call for call in self.graph.calls if self.site(call) is not None]

    @property
    def uses(self) -> collections.Counter[int]:
        """How often each operation is called, by id."""
        return collections.Counter(id(call.op) for call in self.graph.calls)

    def analog(self, call: Call, tensors: Callable[[Value], Any]) -> Any:
        """What a call gives in the analog network, from the values that it takes."""
        site = self.site(call)
        return call(tensors) if site is None else site.function(tensors(call.inputs[0]))

    def spiking(
        self, call: Call, tensors: Callable[[Value], Any], neurons: Mapping[Site, Neurons]
    ) -> Any:
        """What a call gives in the spiking network; the neurons of its site are known by then."""
        site = self.site(call)
        if site is None:
            return call(tensors)
        y = neurons[site].response(tensors(call.inputs[0]))
        return keras.ops.cast(y, call.op.compute_dtype)

    def analog_graph(self, spiking: Graph) -> Graph:
        """A graph of what `with_neurons` gave, with the original activations and pools."""

        def original(call: Call, mine: Call) -> Any:
            site = self.site(mine)
            if site is not None:
                return site.function
            return mine.op if isinstance(call.op, FSMaxPooling2D) else call.op

        calls = (
            dataclasses.replace(call, op=original(call, mine))
            for call, mine in zip(spiking.calls, self.graph.calls, strict=True)
        )
        return dataclasses.replace(spiking, calls=tuple(calls))

    def reset(self) -> None:
        """Gives all layers their original weights."""
        for original, copy in self.copies:
            copy_all_weights(original, copy, original.name)

    def with_neurons(
        self, neurons: Mapping[Site, Neurons]
    ) -> tuple[keras.Model, list[tuple[Any, Any]]]:
        """A new model with these neurons at its sites, and the weights that layers have now.

        Returns:
            The model, and the layers of the original that have weights, each with that of the new model.
        """
        layers: list[tuple[FSActivation, Neurons]] = []

        def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
            if site not in neurons:
                return None
            layer = neurons[site].layer(site.activation, name=name, dtype=dtype)
            layers.append((layer, neurons[site]))
            return layer

        rewriter = Rewriter(replacement)
        snn = rewriter.rewrite(self.model)
        for (original, corrected), (_, new) in zip(self.copies, rewriter.pairs, strict=True):
            copy_all_weights(corrected, new, original.name)
        for layer, fitted in layers:
            if fitted.scale is not None:
                layer.scale.assign(fitted.scale)
        return snn, list(rewriter.pairs)


def _site_axes(model: keras.Model, copy: Graph) -> dict[Site, int | None]:
    axes = channel_axes(copy, keeping=(Placeholder,))
    of_gates = {
        id(gate): channel_axis(cell)
        for _, op in named_operations(model)
        if is_recurrent(op)
        for _, cell in cells_of(op)
        for gate in getattr(cell, "gates", {}).values()
    }
    places: dict[Site, set[tuple[int, int] | None]] = {}
    for call in copy.calls:
        if isinstance(call.op, Placeholder):
            (value,) = call.inputs
            of_gate = of_gates.get(id(call.op))
            axis = axes[value] if of_gate is None else of_gate % (len(value.shape) + 1)
            channels = None if axis is None else (axis, value.shape[axis - 1])
            places.setdefault(call.op.site, set()).add(channels)
    return {
        site: next(iter(found))[0] if len(found) == 1 and None not in found else None  # type: ignore[index]
        for site, found in places.items()
    }
