"""What of a converted model is computed as before, by no FS-neurons, and why.

for part in remaining_parts(snn): print(part.name, part.kind, part.reason)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from fs_neurons.network.keras_internals import nodes_calling
from fs_neurons.network.kinds import CONTRACTION, PRODUCT, UNKNOWN, kind_of, unwrapped
from fs_neurons.network.sites import Site, activation_at, find_sites, unseen_layers
from fs_neurons.network.structure import named_operations, output_operations
from fs_neurons.neuron.sets import for_activation


@dataclasses.dataclass(frozen=True)
class RemainingPart:
    """A part of a converted model that is neither linear nor FS-neurons.

    Attributes:
        name: of the layer or operation, after the models that it is nested in.
        kind: the activation, or the class of the layer.
        reason: why it is as it was.
        site: of an activation that FS-neurons might take the place of.
        is_unseen: whether its call() is its own, so that it may apply activations that nobody can see.
    """

    name: str
    kind: str
    reason: str
    site: Site | None = None
    is_unseen: bool = False


def remaining_parts(snn: keras.Model) -> list[RemainingPart]:
    """Everything that a conversion left: activations, layers that may hide some, and products, maxima and
    normalisations, which no FS-neuron computes; in order of execution.

    Raises:
        ConversionError: as `find_sites`.
    """
    sites = {site.layer: site for site in find_sites(snn)}
    unseen = {name for name, _ in unseen_layers(snn)}
    outputs = output_operations(snn)
    found = []
    for name, op in named_operations(snn):
        if name in sites:
            site = sites[name]
            found.append(RemainingPart(name, site.activation, _why_kept(site), site))
        elif name in unseen:
            reason = "its call() is its own and may apply activations"
            found.append(RemainingPart(name, type(op).__name__, reason, is_unseen=True))
        else:
            found += (
                RemainingPart(name, what, reason)
                for what, reason in _digital(op, id(op) in outputs)
            )
    return found


def _why_kept(site: Site) -> str:
    if site.is_output:
        return "the output of the model, which is a result"
    return site.reason or (
        "kept as asked for" if has_set(site) else "there is no parameter set for it"
    )


def has_set(site: Site) -> bool:
    """Whether a parameter set is registered for an activation; a ReLU that saturates has one in any case."""
    return site.max_value is not None or for_activation(site.activation) is not None


def _digital(op: Any, is_output: bool) -> Iterator[tuple[str, str]]:
    """What else of an operation is no sum of products with weights."""
    kind = kind_of(unwrapped(op))
    if kind.digital and not _is_by_a_constant(op):
        yield type(op).__name__, kind.digital
    elif kind is UNKNOWN and not isinstance(op, keras.layers.InputLayer):
        yield type(op).__name__, "nothing is known of this kind of layer"
    activation = activation_at(op)
    if activation is not None and activation.stays and activation.name != "linear":
        where = "; the output of the model, which is a result" if is_output else ""
        yield activation.name, f"normalises over the classes{where}"


def _is_by_a_constant(op: Any) -> bool:
    """Whether an operation multiplies a tensor by constants only, so that it is linear."""
    return kind_of(op) in (PRODUCT, CONTRACTION) and all(
        len(node.input_tensors) == 1 for node in nodes_calling(op)
    )
