"""A schematic as in the paper's Figure 1: an artificial neuron, and the FS-neuron that takes its place.

The spikes drawn are those of the shipped Swish set for four gate inputs.

    python -m experiments.schematic
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import flags
from matplotlib.patches import Circle, FancyArrowPatch

from experiments import runner
from experiments.plotting import ANN, SNN, plt, save
from fs_neurons import neuron
from fs_neurons.neuron import sets

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "set", "swish_k16_paper", "Parameter set whose spikes are drawn.", flag_values=FLAGS
)
flags.DEFINE_float("x", 0.2, "Gate input of the neuron that is drawn.", flag_values=FLAGS)
flags.DEFINE_list(
    "senders", ["1.8", "-0.2", "0.7"], "Gate inputs of the three neurons before it.",
    flag_values=FLAGS,
)  # fmt: skip
runner.define_output_flag(FLAGS)

INPUTS = 3
GREY = "#777777"


def main() -> None:
    parameters = sets.load(FLAGS.set)
    gate_inputs = [*map(float, FLAGS.senders), FLAGS.x]
    trains = keras.ops.convert_to_numpy(neuron.spike_train(gate_inputs, parameters))
    *senders, spikes = trains
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
    _draw_neuron(left, "Artificial neuron", "$f(x)$", ANN)
    for row in range(INPUTS):
        left.text(-2.75, 1.0 - row, f"$x_{row + 1}$", ha="right", va="center", fontsize=13)
    left.text(2.2, 0, r"$y = f\,(\Sigma_i\, w_i x_i + b)$", va="center", fontsize=13)
    _draw_neuron(right, "FS-neuron", r"$v,\ T(t)$", SNN)
    for row, sender in enumerate(senders):
        _draw_spikes(right, sender, start=-4.35, y=1.0 - row - 0.12, width=1.5, colour=GREY)
    _draw_spikes(right, spikes, start=2.1, y=-0.12, width=2.6, colour=SNN)
    for t in np.flatnonzero(spikes):
        at = 2.1 + 2.6 * (t + 0.5) / parameters.K
        right.text(at, 0.42, f"$d({t + 1})$", ha="center", va="bottom", fontsize=9, color=SNN)
    right.text(
        2.1, -0.4,
        rf"$y = \Sigma_t\, d(t)\, z(t)$" f"\n{int(spikes.sum())} spikes in {parameters.K} steps",
        ha="left", va="top", fontsize=11, linespacing=1.5,
    )  # fmt: skip
    path = runner.path(FLAGS, "schematic").with_suffix(".png")
    save(figure, path)
    print(f"Written to {path}")


def _draw_neuron(axes: Any, title: str, inside: str, colour: str) -> None:
    """A neuron with weighted inputs on its left and an output on its right."""
    axes.add_patch(Circle((0, 0), 0.75, facecolor="white", edgecolor=colour, linewidth=2.5))
    axes.text(0, 0, inside, ha="center", va="center", fontsize=13)
    for row in range(INPUTS):
        start, end = np.array([-2.65, 1.0 - row]), np.array([0.0, 0.0])
        tip = end + 0.78 * (start - end) / np.linalg.norm(start - end)
        axes.add_patch(FancyArrowPatch(start, tip, arrowstyle="-|>", mutation_scale=12, color=GREY))
        at = start + 0.42 * (tip - start)
        axes.text(at[0], at[1] + 0.08, f"$w_{row + 1}$", ha="center", va="bottom", fontsize=11)
    axes.add_patch(
        FancyArrowPatch((0.78, 0), (2.0, 0), arrowstyle="-|>", mutation_scale=12, color=colour)
    )
    axes.set(xlim=(-4.5, 5.3), ylim=(-1.6, 1.6), title=title, aspect="equal")
    axes.axis("off")


def _draw_spikes(
    axes: Any, train: np.ndarray, start: float, y: float, width: float, colour: str
) -> None:
    """A time line with a stroke for every spike."""
    axes.plot([start, start + width], [y, y], color=colour, linewidth=1)
    for t in range(len(train)):
        at = start + width * (t + 0.5) / len(train)
        height = 0.5 if train[t] else 0.06
        axes.plot([at, at], [y, y + height], color=colour, linewidth=2 if train[t] else 0.8)


if __name__ == "__main__":
    runner.run(main, FLAGS)
