"""Which site of a converted model became what."""

from __future__ import annotations

import dataclasses
import math

import keras
from tabulate import tabulate

from fs_neurons.layers import SiteRecord, collect_records
from fs_neurons.network.errors import ConversionError
from fs_neurons.network.keras_internals import input_structure
from fs_neurons.network.sites import find_sites
from fs_neurons.neuron import response


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One site of a converted model; `parameters` is "kept" where it stayed as it was."""

    site: str
    activation: str
    parameters: str
    shape: tuple[int | None, ...] | None
    neurons: int | None


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """Which site became what; `str()` is a table.

    Attributes:
        model: name of the model.
        rows: one row per site and call, in order of execution; then those that were kept.
    """

    model: str
    rows: tuple[ReportRow, ...]

    @property
    def neurons(self) -> int | None:
        """FS-neurons of one image: sites times their feature maps; None if a size is unknown."""
        counts = [row.neurons for row in self.rows if row.parameters != "kept"]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def __str__(self) -> str:
        table = [
            (
                row.site,
                row.activation,
                row.parameters,
                " x ".join("?" if n is None else str(n) for n in row.shape or ()),
                "" if row.neurons is None else f"{row.neurons:,}",
            )
            for row in self.rows
        ]
        header = ("site", "activation", "parameter set", "shape", "neurons")
        align = ("left", "left", "left", "right", "right")
        converted = sum(row.parameters != "kept" for row in self.rows)
        neurons = "?" if self.neurons is None else f"{self.neurons:,}"
        return (
            f"Model {self.model!r}: {converted} sites, {neurons} FS-neurons,"
            f" {len(self.rows) - converted} activations kept\n"
            + tabulate(table, header, colalign=align, disable_numparse=True)
        )


def conversion_report(model: keras.Model) -> ConversionReport:
    """Lists the FS layers of a converted model, and the activations that stayed.

    Args:
        model: what `convert` returned, also after saving and loading.

    Raises:
        ConversionError: the model has no FS layer.
    """
    rows = []
    for record in trace_sites(model):
        shape = record.shape[1:]
        known = [size for size in shape if size is not None]
        neurons = math.prod(known) if len(known) == len(shape) else None
        layer = record.layer
        rows.append(
            ReportRow(
                layer.name, layer.activation_name or "?", layer.parameters.name, shape, neurons
            )
        )
    if not rows:
        raise ConversionError(f"model {model.name!r} has no FS layer: convert it first")
    for site in find_sites(model):
        rows.append(ReportRow(site.name, site.activation, "kept", None, None))
    return ConversionReport(model.name, tuple(rows))


def trace_sites(model: keras.Model) -> list[SiteRecord]:
    """Calls of FS layers in order of execution, without computing anything."""

    class Run(keras.Operation):
        def call(self, inputs):
            records.clear()  # PyTorch's backend calls it several times to find unknown sizes
            return model(inputs, training=False)

    inputs = keras.tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, x.dtype), input_structure(model)
    )
    with collect_records(lambda x, parameters: (response(x, parameters), None)) as records:
        Run().compute_output_spec(inputs)
    return records
