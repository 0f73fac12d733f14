"""What the neurons of a trained network will meet, from its weights alone: statistics without data.

    statistics = input_statistics(model)        # of an unconverted model
    print(statistics)                           # a table, one line per activation
    statistics["stem_act"].mean                 # (channels,)

Behind batch normalization, the gate inputs of channel c have mean beta[c] and standard deviation
|gamma[c]|. Everything else passes statistics on: sums of branches add them up, layers with weights and
activations transform them; see `moments` for what that assumes. Behind a layer of which nothing is known,
they are unknown until the next normalization. Recurrent layers are followed step by step, see `recurrence`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from fs_neurons.calibration.importance import importances
from fs_neurons.calibration.moments import ASSUMED, UNKNOWN
from fs_neurons.calibration.propagation import propagate
from fs_neurons.network.graph import some_inputs, trace
from fs_neurons.network.sites import checked_sites

# Standard deviations on either side of the mean that `low` and `high` are away.
REACH = 6.0


@dataclasses.dataclass(frozen=True, eq=False)
class SiteStatistics:
    """Gate inputs of one activation, channel by channel.

    Attributes:
        site: name of the activation, as `find_sites` gives it.
        activation: what it computes.
        mean, deviation: float64 (channels,); NaN where unknown. A single channel where the activation is
            called in several places of different widths.
        axis: of the channels: -1, or 1 with channels first.
        source: "batch normalization"; "propagated" from such through sums, activations and pools;
            "propagated through weights", which is less certain; from an "assumed input"; "unknown".
        importance: float64 (channels,), how much errors of the activation's outputs matter to those of the
            model, see `importance`; alike for gates of recurrent layers.
        share: of the model's neurons, those of one of the channels.
    """

    site: str
    activation: str
    mean: np.ndarray
    deviation: np.ndarray
    axis: int
    source: str
    importance: np.ndarray
    share: float

    @property
    def known(self) -> bool:
        return self.source != UNKNOWN

    @property
    def trusted(self) -> bool:
        """Whether they are known, and rest on no guess about the model's inputs."""
        return self.source not in (UNKNOWN, ASSUMED)

    @property
    def low(self) -> np.ndarray:
        """Six standard deviations below the mean."""
        return self.mean - REACH * self.deviation

    @property
    def high(self) -> np.ndarray:
        """Six standard deviations above the mean."""
        return self.mean + REACH * self.deviation


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """What `input_statistics` gives.

    Attributes:
        sites: in order of execution.
        assumptions: what was assumed of the model's inputs, a sentence each.
    """

    sites: tuple[SiteStatistics, ...]
    assumptions: tuple[str, ...]

    def __getitem__(self, site: str) -> SiteStatistics:
        for statistics in self.sites:
            if statistics.site == site:
                return statistics
        raise KeyError(f"no activation {site!r}; there are {', '.join(s.site for s in self.sites)}")

    def __iter__(self) -> Iterator[SiteStatistics]:
        return iter(self.sites)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the sites of which nothing is known."""
        return tuple(statistics.site for statistics in self.sites if not statistics.known)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per site: the mean over channels, the root mean square of their deviations, and
        the widest range; None where unknown."""
        return [
            {
                "site": s.site,
                "activation": s.activation,
                "channels": len(s.mean),
                "mean": float(s.mean.mean()) if s.known else None,
                "deviation": float(np.sqrt(np.square(s.deviation).mean())) if s.known else None,
                "low": float(s.low.min()) if s.known else None,
                "high": float(s.high.max()) if s.known else None,
                "source": s.source,
            }
            for s in self.sites
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max((len(row["site"]) for row in rows), default=4)
        numbers = ("mean", "deviation", "low", "high")
        lines = [
            f"{'site':{width}}  channels" + "".join(f"{key:>11}" for key in numbers) + "  source"
        ]
        for row in rows:
            cells = ("-" if row[key] is None else f"{row[key]:.2f}" for key in numbers)
            lines.append(
                f"{row['site']:{width}}  {row['channels']:8}"
                + "".join(f"{cell:>11}" for cell in cells)
                + f"  {row['source']}"
            )
        lines.append(
            f"low, high: {REACH:g} standard deviations from the mean, widest channel; no data was used"
        )
        return "\n".join([*lines, *self.assumptions])


def input_statistics(model: keras.Model) -> InputStatistics:
    """Mean and standard deviation of the gate inputs of every activation and channel, without data.

    Args:
        model: trained, not converted; sequential or functional, with nested models of either kind.

    Raises:
        ConversionError: a subclassed model, one that isn't built, or one that was converted before.
        TypeError: not a model.
    """
    sites = checked_sites(model)
    graph = trace(model, some_inputs(model))
    propagation = propagate(model, graph)
    importance, neurons = importances(graph, propagation), propagation.neurons
    found = []
    for site in sites:
        x, axis = propagation.gate_inputs(site)
        # What errors inside of a recurrent layer do is not known: they count alike.
        otherwise = np.full(x.channels, 1 / x.channels if site.gate else 0.0)
        share = neurons.get(site, 0) / max(1, sum(neurons.values())) / x.channels
        found.append(
            SiteStatistics(
                site.name, site.activation, x.mean, np.sqrt(x.variance), axis, x.source,
                importance.get(site, otherwise), share,
            )
        )  # fmt: skip
    assumed = any(statistics.source == ASSUMED for statistics in found)
    return InputStatistics(tuple(found), tuple(propagation.assumptions) if assumed else ())
