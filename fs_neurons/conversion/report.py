"""Which site of a converted model became what."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import keras
from tabulate import tabulate

from fs_neurons.layers import SiteRecord, collect_records, shapes_only
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure, output_spec
from fs_neurons.network.recurrent import fs_gates, is_recurrent, outer_axes
from fs_neurons.network.sites import find_sites, unseen_layers
from fs_neurons.network.structure import named_calls

KEPT, NOT_LOOKED_INTO = "kept", "not looked into"


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One call of a site of a converted model.

    Attributes:
        site: its name in the traced graph, after the models that it is nested in.
        activation: name of the activation function, or of the class of a layer that was not looked into.
        parameters: name of the parameter set; "kept" where the activation stayed as it was, and "not looked
            into" for Lambda layers and others with a call() of their own, which may apply activations.
        shape: of one image; None where nothing was converted.
        neurons: of one image; None if a size is unknown. Gates of a recurrent layer are the same neurons at every
            step of the sequence, and others for each entry of the axis of TimeDistributed.
        reason: why an activation was kept, if that is known; or a note on the choice of the parameters.
    """

    site: str
    activation: str
    parameters: str
    shape: tuple[int | None, ...] | None
    neurons: int | None
    reason: str = ""

    @property
    def is_converted(self) -> bool:
        """Whether these are FS-neurons."""
        return self.parameters not in (KEPT, NOT_LOOKED_INTO)


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """Which site became what; `str()` is a table.

    Attributes:
        model: name of the model.
        rows: one row per site and call, in order of execution; then activations that were kept, and layers
            that were not looked into.
    """

    model: str
    rows: tuple[ReportRow, ...]

    @property
    def neurons(self) -> int | None:
        """FS-neurons of one image: sites times their feature maps; None if a size is unknown."""
        counts = [row.neurons for row in self.rows if row.is_converted]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def __str__(self) -> str:
        table = [
            (
                row.site,
                row.activation,
                f"{row.parameters} ({row.reason})" if row.reason else row.parameters,
                " x ".join("?" if n is None else str(n) for n in row.shape or ()),
                "" if row.neurons is None else f"{row.neurons:,}",
            )
            for row in self.rows
        ]
        header = ("site", "activation", "parameter set", "shape", "neurons")
        align = ("left", "left", "left", "right", "right")
        kinds = [row.parameters if not row.is_converted else "" for row in self.rows]
        neurons = "?" if self.neurons is None else f"{self.neurons:,}"
        unseen = kinds.count(NOT_LOOKED_INTO)
        head = (
            f"Model {self.model!r}: {kinds.count('')} sites, {neurons} FS-neurons,"
            f" {kinds.count(KEPT)} activations kept"
            + (f", {unseen} layers not looked into" if unseen else "")
        )
        body: str = tabulate(table, header, colalign=align, disable_numparse=True)
        return f"{head}\n{body}"


def conversion_report(model: keras.Model) -> ConversionReport:
    """Lists the FS layers of a converted model, the activations that stayed and the layers that may hide some.

    Args:
        model: what `convert` returned, also after saving and loading.

    Raises:
        ConversionError: the model has no FS layer.
    """
    records = trace_sites(model)
    if not records:
        raise ConversionError(f"model {model.name!r} has no FS layer: convert it first")
    # Name of each call of a layer, and the axes that TimeDistributed takes apart before it calls it.
    calls = collections.defaultdict[int, collections.deque[tuple[str, tuple[int | None, ...]]]](
        collections.deque
    )
    for name, node in named_calls(model):
        op = node.operation
        calls[id(op)].append((name, ()))
        for path, gate in fs_gates(op) if is_recurrent(op) else ():
            outer = tuple(node.input_tensors[0].shape[1 : 1 + outer_axes(op)])
            calls[id(gate)].append((f"{name}/{path}", outer))
    total = collections.Counter(id(record.layer) for record in records)
    often = {key: total[key] // len(found) for key, found in calls.items()}
    times = collections.Counter[int]()
    rows = []
    for record in records:
        layer, key = record.layer, id(record.layer)
        # An FS layer inside of a layer with a call() of its own is not in the graph.
        waiting = calls[key] or [(layer.name, ())]
        name, outer = waiting[0]
        sizes = [size for size in outer if size is not None]
        times[key] += 1
        if times[key] < (math.prod(sizes) if len(sizes) == len(outer) else often[key]):
            continue  # a row for all of them
        times[key] = 0
        if len(waiting) > 1:
            calls[key].popleft()
        shape = (*outer, *record.shape[1:])
        known = [size for size in shape if size is not None]
        neurons = math.prod(known) if len(known) == len(shape) else None
        activation = layer.activation_name or "?"
        rows.append(ReportRow(name, activation, layer.parameters.name, shape, neurons, layer.note))
    for site in find_sites(model):
        # Short reasons only: why it can't be converted is said by `convert`.
        reason = "output" if site.is_output else ""
        name = site.name if site.gate else site.layer
        rows.append(ReportRow(name, site.activation, KEPT, None, None, reason))
    for name, op in unseen_layers(model):
        rows.append(ReportRow(name, type(op).__name__, NOT_LOOKED_INTO, None, None))
    return ConversionReport(model.name, tuple(rows))


def trace_sites(model: keras.Model) -> list[SiteRecord]:
    """Calls of FS layers in order of execution, without computing anything."""

    def run(inputs: Any) -> Any:
        records.clear()  # PyTorch's backend calls it several times to find unknown sizes
        return model(inputs, training=False)

    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, x.dtype), input_structure(model)
    )
    with collect_records(shapes_only) as records:
        output_spec(run, inputs)
    return records
