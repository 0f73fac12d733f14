"""The original network with a mark at each site that was converted, and which mark belongs to which site."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from fs_neurons.layers import INPUT
from fs_neurons.network import ConversionError, Rewriter, Site, checked_sites, graph
from fs_neurons.network.calls import Call
from fs_neurons.network.graph import Graph
from fs_neurons.network.splitting import parts_of_prelu, split_prelus


class Probe(layers.Layer):
    """A site of the original network: computes its activation.

    Attributes:
        function: the activation.
    """

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


@dataclasses.dataclass(frozen=True)
class Pair:
    """A network and its conversion, site by site.

    Attributes:
        original: the original network, with a `Probe` as a layer of its own at every site.
        spiking: the converted network.
        sites: for each site, in order of execution, (call of a probe, call of its FS layer); of a gate of a
            recurrent layer, one such pair per step of the sequence, elsewhere a single one.
    """

    original: Graph
    spiking: Graph
    sites: tuple[tuple[tuple[Call, Call], ...], ...]


def paired(model: keras.Model, snn: keras.Model, inputs: Any = None) -> Pair:
    """Finds the site of a network that each site of its conversion comes from.

    Args:
        model: the original.
        snn: what `convert` made of it.
        inputs: as for `graph.trace`.

    Raises:
        ConversionError: `snn` is no conversion of `model`, or one of them can't be taken apart.
    """
    spiking = graph.trace_spiking(snn, inputs)
    checked_sites(model)
    converted = {call.name for call in spiking.sites if _is_converted(call)}

    def replacement(site: Site, name: str, dtype: Any) -> keras.layers.Layer | None:
        models, slash, _ = site.name.rpartition("/")
        if not site.convertible or f"{models}{slash}{name}" not in converted:
            return None  # kept by the conversion
        return Probe(site.function, name=name, dtype=dtype)

    split = split_prelus(model, lambda site: converted.issuperset(parts_of_prelu(site)))
    original = graph.trace(Rewriter(replacement).rewrite(split), inputs)
    numbers: dict[Any, int] = {}
    probes = dict(_numbered(original, lambda call: isinstance(call.op, Probe), numbers))
    sites = dict(_numbered(spiking, _is_converted, numbers))
    missing = len(sites.keys() ^ probes.keys())
    if missing:
        raise ConversionError(
            f"model {snn.name!r} is no conversion of {model.name!r}: {missing} of its {len(sites)} FS"
            " layers have no counterpart there"
        )
    steps: dict[Any, list[tuple[Call, Call]]] = {}
    for i, call in sites.items():
        key = i if call.sequence is None else call.place
        steps.setdefault(key, []).append((probes[i], call))
    return Pair(original, spiking, tuple(map(tuple, steps.values())))


def _is_converted(call: Call) -> bool:
    """Whether this is a site that was an activation, and not the code of an input."""
    op: Any = call.op
    return call.is_site and op.activation_name != INPUT


def _numbered(
    network: Graph, is_site: Callable[[Call], bool], numbers: dict[Any, int]
) -> Iterator[tuple[int, Call]]:
    """A number for each site by its place in the graph: its name, and the sites and inputs before it.

    Two graphs that share `numbers` give the same ones to the same places, in whatever order branches and
    calls of a shared layer are executed and whatever linear layers are folded into each other.
    """
    before = {value.index: frozenset([-1 - i]) for i, value in enumerate(network.inputs)}
    times: collections.Counter[Any] = collections.Counter()
    for call in network.calls:
        sources = frozenset[int]().union(*(before[value.index] for value in call.inputs))
        if is_site(call):
            place = call.name, sources
            number = numbers.setdefault((place, times[place]), len(numbers))
            times[place] += 1
            yield number, call
            sources = frozenset([number])
        for value in keras.tree.flatten(call.outputs):
            before[value.index] = sources
