"""What `profile` gives: counts site by site, their sums, and tables of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from tabulate import tabulate

from fs_neurons.analysis.energy import OTHERS, Energy, EnergyModel
from fs_neurons.analysis.layer_profiles import LayerProfile, PoolProfile
from fs_neurons.analysis.statistics import InputStatistics

if TYPE_CHECKING:
    import matplotlib.figure


@dataclasses.dataclass(frozen=True, eq=False)
class Profile:
    """What `profile` measured; `str()` is a table.

    Attributes:
        model: name of the model.
        images: number of images.
        layers: one `LayerProfile` per site, in order of execution.
        pools: one `PoolProfile` per call of an FSMaxPooling2D, in order of execution.
        edges: (bins + 1,), between the bins of the histograms.
        macs: multiply-accumulates of the ANN for one image, those with padded zeros left out:
            `connectivity.multiply_accumulates`.
        digital_macs: those of them whose inputs are no spikes, so that they stay: on the image, behind
            another linear layer, and products that are not computed from spikes. 0 without a multiplier.
        digital: calls that need a multiplier, and why, see `network.coding`.
        multiplier: whether a multiplier is used.
        left_out: calls whose operations are not known, "name (class)": they are in no count of
            operations, and there is no energy.
        weighted_layers: dense and convolutional layers on the longest path.
        depth: sites on the longest path.
        energy_model: energy of one operation.
        windows_between_images: see `graph.windows_between_images`.
        shifted_additions: additions of an image that no spikes cause: of shifted sums of integers, see `shifts`.
    """

    model: str
    images: int
    layers: tuple[LayerProfile, ...]
    pools: tuple[PoolProfile, ...]
    edges: np.ndarray
    macs: int
    digital_macs: int
    digital: tuple[str, ...]
    multiplier: bool
    left_out: tuple[str, ...]
    weighted_layers: int
    depth: int
    energy_model: EnergyModel
    windows_between_images: int = 2
    shifted_additions: int = 0

    @property
    def neurons(self) -> int:
        return sum(layer.neurons for layer in self.layers)

    @property
    def total_spikes(self) -> int:
        """Over all images, an exact count."""
        return sum(layer.total_spikes for layer in self.layers)

    @property
    def spikes(self) -> float:
        """Per image."""
        return self.total_spikes / self.images

    @property
    def spikes_per_neuron(self) -> float:
        return self.spikes / self.neurons

    @property
    def spikes_per_step(self) -> float | None:
        """Of recurrent layers, per gate neuron and step of a sequence that is not masked; None without any."""
        gates = [layer for layer in self.layers if layer.steps is not None]
        if not gates:
            return None
        return sum(gate.total_spikes for gate in gates) / sum(gate.inputs.count for gate in gates)

    @property
    def silent_share(self) -> float:
        return sum(layer.silent for layer in self.layers) / self.pooled_inputs.count

    @property
    def outside_share(self) -> float:
        return sum(layer.below + layer.above for layer in self.layers) / self.pooled_inputs.count

    @property
    def saturated_share(self) -> float:
        return sum(layer.saturated for layer in self.layers) / self.pooled_inputs.count

    @property
    def synaptic_operations(self) -> float:
        """Per image, of the spikes of neurons and of max-pooling, and of shifted sums."""
        from_sites = sum(layer.synaptic_operations for layer in self.layers)
        from_spikes = from_sites + sum(pool.synaptic_operations for pool in self.pools)
        return from_spikes / self.images + self.shifted_additions

    @functools.cached_property
    def pooled_inputs(self) -> InputStatistics:
        """Gate inputs of all neurons together."""
        return functools.reduce(InputStatistics.merged, (layer.inputs for layer in self.layers))

    @property
    def site_average(self) -> tuple[float, float]:
        """Mean and variance of the gate inputs as in Figure 5 of the paper.

        The plain averages over sites of their means and of their standard deviations, the latter squared.
        """
        means = [layer.inputs.mean for layer in self.layers]
        deviations = [math.sqrt(layer.inputs.variance) for layer in self.layers]
        return float(np.mean(means)), float(np.mean(deviations)) ** 2

    @property
    def energy(self) -> Energy | None:
        """By `energy_model`, for one image; None where operations are left out."""
        return self.energy_by(self.energy_model)

    def energy_by(self, model: EnergyModel) -> Energy | None:
        """By another model of the energy of an operation, for one image; None as for `energy`."""
        if self.left_out:
            return None
        return Energy.of(
            model, self.macs, self.synaptic_operations, self.digital_macs, self.spikes_per_neuron,
            self.shifted_additions,
        )  # fmt: skip

    @property
    def energies(self) -> tuple[Energy, ...]:
        """By `energy_model`, with memory, and against an ANN of 8 bits; none where operations are left out."""
        return tuple(filter(None, map(self.energy_by, (self.energy_model, *OTHERS))))

    @property
    def K(self) -> int:
        """Time steps of the slowest site: the length of the window in which layers take turns."""
        return max(layer.parameters.K for layer in self.layers)

    @property
    def paper_latency(self) -> int:
        """Time steps from image to output by the paper's formula, layers times K."""
        return self.weighted_layers * self.K

    @property
    def latency(self) -> int:
        """Time steps from image to output as `simulate` takes them.

        A window of K steps in which the first site collects, and one in which each site on the longest
        path fires. Layers without a site of their own take no time.
        """
        return (self.depth + 1) * self.K

    @property
    def period(self) -> int:
        """Time steps between images: each neuron collects for K steps and fires for K steps, in recurrent layers
        once for each step of the sequence."""
        return self.windows_between_images * self.K

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per site: `pandas.DataFrame(result.rows())`."""
        return [layer.row() for layer in self.layers]

    def summary(self) -> dict[str, Any]:
        """Everything but the sites, as plain values; per image unless the name says otherwise."""
        mean, variance = self.site_average
        energy = self.energy
        return {
            "model": self.model,
            "images": self.images,
            "neurons": self.neurons,
            "spikes": self.spikes,
            "total_spikes": self.total_spikes,
            "spikes_per_neuron": self.spikes_per_neuron,
            "spikes_per_step": self.spikes_per_step,
            "silent_share": self.silent_share,
            "outside_share": self.outside_share,
            "saturated_share": self.saturated_share,
            "pooled_input_mean": self.pooled_inputs.mean,
            "pooled_input_variance": self.pooled_inputs.variance,
            "site_average_input_mean": mean,
            "site_average_input_variance": variance,
            "ann_macs": self.macs,
            "synaptic_operations": self.synaptic_operations,
            "shifted_additions": self.shifted_additions,
            "digital_macs": self.digital_macs,
            "digital": list(self.digital),
            "multiplier": self.multiplier,
            "left_out": list(self.left_out),
            "ann_energy_joule": energy.ann if energy else None,
            "snn_energy_joule": energy.snn if energy else None,
            "energy_model": dataclasses.asdict(self.energy_model),
            "energies": [energy.row() for energy in self.energies],
            "latency_steps": self.latency,
            "paper_latency_steps": self.paper_latency,
            "steps_between_images": self.period,
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Everything measured, histograms included, as JSON text."""
        sites = [
            {**layer.row(), "histogram": layer.inputs.histogram.tolist()} for layer in self.layers
        ]
        pools = [pool.row() for pool in self.pools]
        edges = self.edges.tolist()
        content = {**self.summary(), "histogram_edges": edges, "sites": sites, "pools": pools}
        return json.dumps(content, indent=indent, allow_nan=False)

    def __str__(self) -> str:
        header = ("site", "activation", "neurons", "spikes", "/neuron", "silent %", "input mean",
                  "variance", "outside %", "saturated %", "synaptic operations")  # fmt: skip
        table = [
            (
                layer.name, layer.activation, f"{layer.neurons:,}", f"{layer.spikes:,.0f}",
                f"{layer.spikes_per_neuron:.2f}", f"{100 * layer.silent_share:.1f}",
                f"{layer.inputs.mean:.3f}", f"{layer.inputs.variance:.3f}",
                f"{100 * layer.outside_share:.3f}", f"{100 * layer.saturated_share:.3f}",
                f"{layer.synaptic_operations / self.images:,.0f}",
            )
            for layer in self.layers
        ]  # fmt: skip
        table.append(
            (
                "all", "", f"{self.neurons:,}", f"{self.spikes:,.0f}", f"{self.spikes_per_neuron:.2f}",
                f"{100 * self.silent_share:.1f}", f"{self.pooled_inputs.mean:.3f}",
                f"{self.pooled_inputs.variance:.3f}", f"{100 * self.outside_share:.3f}",
                f"{100 * self.saturated_share:.3f}", f"{self.synaptic_operations:,.0f}",
            )
        )  # fmt: skip
        mean, variance = self.site_average
        table_text = tabulate(
            table, header, disable_numparse=True, colalign=("left", "left", *["right"] * 9)
        )
        return "\n".join(
            [
                f"Model {self.model!r}, {self.images:,} images; numbers are per image",
                table_text,
                *(
                    f"max-pooling {pool.name!r} hands on {pool.spikes:,.0f} spikes:"
                    f" {pool.synaptic_operations / pool.images:,.0f} synaptic operations"
                    for pool in self.pools
                ),
                *self._recurrent(),
                f"inputs averaged over sites as in the paper: mean {mean:.3f}, variance {variance:.3f}",
                *self._operations(),
                f"time: {self.latency} steps from image to output (layers x K: {self.paper_latency}), an"
                f" image every {self.period} steps",
            ]
        )

    def _recurrent(self) -> list[str]:
        if self.spikes_per_step is None:
            return []
        return [
            f"recurrent layers: {self.spikes_per_step:.2f} spikes per gate neuron and step of a sequence, masked"
            " steps left out"
        ]

    def _operations(self) -> list[str]:
        one = "no multiplications; layers behind another linear one are one with it"
        digital = f"{self.digital_macs:,} multiply-accumulates" if self.multiplier else one
        counts = f"ANN {self.macs:,} multiply-accumulates; SNN {self.synaptic_operations:,.0f}"
        shifted = f" ({self.shifted_additions:,} of them of shifted sums)"
        counts += f" accumulates{shifted if self.shifted_additions else ''} and {digital}"
        if self.left_out:
            return [
                f"operations, as far as they are known: {counts}",
                f"left out of operations, so that there is no energy: {', '.join(self.left_out)}",
            ]
        energies = [*map(str, self.energies), f"energies: {self.energy_model.source}"]
        return [f"operations: {counts}", *energies]

    def plot(self) -> matplotlib.figure.Figure:
        """Spikes per neuron and distribution of the gate inputs, site by site."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 1.5 + 0.24 * len(self.layers)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        at = np.arange(len(self.layers))
        left.barh(at, [layer.spikes_per_neuron for layer in self.layers], color="#0f5fa8")
        left.set(
            yticks=at, yticklabels=[layer.name for layer in self.layers], title="Spikes per neuron"
        )
        left.tick_params(axis="y", labelsize=7)
        left.invert_yaxis()
        density = np.array(
            [layer.inputs.histogram[1:-1] / layer.inputs.count for layer in self.layers]
        )
        shown = np.flatnonzero(density.max(axis=0) > 1e-4)
        first, last = (shown[0], shown[-1] + 1) if len(shown) else (0, density.shape[1])
        image = right.imshow(
            np.sqrt(density[:, first:last]), aspect="auto", cmap="Blues", interpolation="nearest",
            extent=(self.edges[first], self.edges[last], len(at) - 0.5, -0.5),
        )  # fmt: skip
        right.set(xlabel="gate input", title="Distribution of gate inputs")
        figure.colorbar(image, ax=right, label="square root of the share")
        return figure
