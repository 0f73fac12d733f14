"""The style of all figures."""

from __future__ import annotations

import os

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fs_neurons.files import write_atomically

ANN = "#c1272d"  # the function, or the network, that is emulated: red as in the paper
SNN = "#0f5fa8"  # FS-neurons: blue as in the paper
PAPER = "#8a8a8a"

plt.rcParams.update(
    {
        "figure.dpi": 150,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }
)


def save(figure: plt.Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, atomically, and closes it."""
    with write_atomically(path, "wb") as file:
        figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)
