"""pyplot in the style of all figures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fs_neurons.analysis.drawing import ANN, PAPER, SNN, STYLE
from fs_neurons.files import write_atomically

__all__ = ["ANN", "PAPER", "SNN", "logarithmic", "plt", "save"]

plt.rcParams.update(STYLE)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, atomically, and closes it."""
    with write_atomically(path, "wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)


def logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """Makes the x axis logarithmic, with plain numbers at these ticks and at no others."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
