"""Drawings of FS-neurons: one neuron at work, and how well a set emulates a function.

    draw_neuron(load("swish_k16"), x=1.3, function="silu").savefig("neuron.png")
    draw_response({"fitted": load("swish_k16")}, "silu", (-8, 12)).savefig("swish.png")

Nothing here touches matplotlib's global state or needs a display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import matplotlib
import numpy as np
from keras import ops
from matplotlib.figure import Figure

from fs_neurons import neuron
from fs_neurons.neuron import FSParameters

ANN = "#c1272d"  # the function, or the network, that is emulated: red as in the paper
SNN = "#0f5fa8"  # FS-neurons: blue as in the paper
PAPER = "#8a8a8a"
STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
GRID_POINTS = 20_001

Function = str | Callable[[Any], Any]


def draw_neuron(parameters: FSParameters, x: float, function: Function | None = None) -> Figure:
    """One FS-neuron over its K steps, as in Figure 1B: potential against threshold, spikes, output.

    Args:
        parameters: T, h, d.
        x: gate input.
        function: what the neuron emulates, a Keras activation by name or a function of a float tensor;
            its value at x is drawn beside the output.

    Raises:
        ValueError: x is not finite, or no activation has that name.
    """
    if not np.isfinite(x):
        raise ValueError(f"the gate input must be finite, got {x}")
    K = parameters.K
    steps = np.arange(1, K + 1)
    z = ops.convert_to_numpy(neuron.spike_train(np.float32(x), parameters))
    v = x - np.concatenate([[0.0], np.cumsum(parameters.h * z)])[:-1]  # equation (2)
    output = np.cumsum(parameters.d * z)
    fired = z > 0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(5, 2, 4))
        top.stairs(v, _edges(K), color=SNN, baseline=None, label="potential v(t)")
        top.stairs(
            parameters.T,
            _edges(K),
            color=ANN,
            baseline=None,
            linestyle="--",
            label="threshold T(t)",
        )
        top.plot(steps[fired], v[fired], "o", color=SNN, markersize=4, label="v(t) ≥ T(t): a spike")
        low, high = _limits(np.append(parameters.T, x))
        top.set(
            title=f"{parameters.name}: gate input x = {x:g}", ylabel="potential", ylim=(low, high)
        )
        if v.min() < low:  # a reset that switches the neuron off
            t, late = int(v.argmin()) + 1, v.argmin() >= K / 2
            top.annotate(
                f"v({t}) = {v.min():.3g}".replace("-", "−"), (t - 0.5, low), fontsize=7, color=SNN,
                xytext=(-4 if late else 4, 2), ha="right" if late else "left",
                textcoords="offset points",
            )  # fmt: skip
        middle.vlines(steps[fired], 0, 1, color=SNN, linewidth=2)
        for t in steps[fired]:
            middle.annotate(
                f"{parameters.d[t - 1]:.2g}".replace("-", "−"), (t, 1), xytext=(0, 2), ha="center",
                fontsize=7, textcoords="offset points",
            )  # fmt: skip
        middle.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
        middle.set(ylim=(0, 1.6), yticks=[])
        middle.set(ylabel="z(t)", title="spikes, and what each one counts, d(t)")
        bottom.stairs(output, _edges(K), color=SNN, baseline=None, label="Σ d(t) z(t) so far")
        if function is not None:
            target = float(_values(function, np.array([x], np.float32))[0])
            bottom.axhline(target, color=ANN, linestyle="--", label=f"f(x) = {target:.4g}")
        spikes = int(z.sum())
        bottom.set(
            title=f"output {output[-1]:.4g} with {spikes} spike{'' if spikes == 1 else 's'}",
            xlabel="time step t", ylabel="output", xlim=(0.5, K + 0.5), xticks=_ticks(K),
        )  # fmt: skip
        for axes in (top, bottom):
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_response(
    sets: Mapping[str, FSParameters],
    function: Function | None,
    span: tuple[float, float],
    label: str = "f(x)",
) -> Figure:
    """A function, its emulation and the error (A), and T, h, d over time (B), as in Figures 2 to 4.

    The mean squared error in a title is that inside the domain of the set.

    Args:
        sets: title -> parameters, one block of panels each.
        function: as for `draw_neuron`.
        span: range of gate inputs.
        label: name of the function in the legend.

    Raises:
        ValueError: no sets, an empty span, or no activation of that name.
    """
    low, high = span
    if not sets or not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"nothing to draw: {len(sets)} sets over {span}")
    x = grid(span)
    target = None if function is None else _values(function, x)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.9 * len(sets)), layout="constrained")
        blocks = figure.add_gridspec(len(sets), 1)
        for row, (title, parameters) in enumerate(sets.items()):
            panels = blocks[row].subgridspec(2, 2, height_ratios=(5, 3))
            response = figure.add_subplot(panels[:, 0] if target is None else panels[0, 0])
            y = ops.convert_to_numpy(neuron.response(x, parameters))
            if target is None:
                response.set_xlabel("gate input x")
            else:
                response.plot(x, target, color=ANN, label=label)
                residual = figure.add_subplot(panels[1, 0], sharex=response)
                title = f"{title}: {_draw_error(residual, x, y - target, parameters)}"
                response.tick_params(labelbottom=False)
            response.plot(x, y, color=SNN, linewidth=1, label=f"FS-neuron, K = {parameters.K}")
            response.set(ylabel="output", title=f"A  {title}")
            response.legend()
            _draw_parameters(figure, panels, parameters)
    return figure


def _draw_error(axes: Any, x: np.ndarray, error: np.ndarray, parameters: FSParameters) -> str:
    """The error of a response; says how large it is inside the domain, which sets the scale."""
    low, high = parameters.domain
    inside = (x >= low) & ((x < high) | (high == x[-1]))
    axes.axhline(0, color=ANN, linewidth=0.8)
    axes.plot(x, error, color=SNN, linewidth=0.8)
    largest = float(np.abs(error[inside]).max(initial=0.0))
    if largest > 0:
        axes.set_ylim(-1.25 * largest, 1.25 * largest)
    axes.set(xlabel="gate input x", ylabel="error")
    where = ""
    if high < x[-1]:
        axes.axvline(high, color=PAPER, linestyle=":", linewidth=0.8)
        where = f" for x < {high:g}"
    if low > x[0]:
        axes.axvline(low, color=PAPER, linestyle=":", linewidth=0.8)
        where = f" for {low:g} ≤ x" + (f" < {high:g}" if where else "")
    # In float64, as `mean_squared_error` has it.
    return f"mean squared error {np.mean(error[inside].astype(np.float64) ** 2):.3g}{where}"


def _draw_parameters(figure: Figure, panels: Any, parameters: FSParameters) -> None:
    """T, h and d over time; h, which may reach further, apart, unless all three are the same."""
    steps = np.arange(1, parameters.K + 1)
    if np.array_equal(parameters.T, parameters.h) and np.array_equal(parameters.T, parameters.d):
        groups: list[tuple[Any, dict[str, str]]] = [(panels[:, 1], {"T": "T(t) = h(t) = d(t)"})]
    else:
        groups = [(panels[0, 1], {"T": "T(t)", "d": "d(t)"}), (panels[1, 1], {"h": "h(t)"})]
    looks = {"T": ("o", ANN), "d": ("^", SNN), "h": ("s", "#2b8a3e")}
    for number, (place, curves) in enumerate(groups):
        axes = figure.add_subplot(place)
        for key, label in curves.items():
            marker, color = looks[key]
            values = getattr(parameters, key)
            axes.plot(steps, values, marker, ls="-", ms=4, lw=1, color=color, label=label)
        axes.axhline(0, color="#cccccc", linewidth=0.6, zorder=0)
        axes.set_xticks(_ticks(parameters.K))
        if number == 0:
            axes.set_title("B  parameters")
        if number == len(groups) - 1:
            axes.set_xlabel("time step t")
        else:
            axes.tick_params(labelbottom=False)
        axes.legend()


def grid(span: tuple[float, float]) -> np.ndarray:
    """Gate inputs at which responses are drawn and measured, float32."""
    return np.linspace(*span, GRID_POINTS).astype(np.float32)


def mean_squared_error(y: np.ndarray, target: np.ndarray) -> float:
    """Of a response, in float64."""
    return float(((y - target).astype(np.float64) ** 2).mean())


def _values(function: Function, x: np.ndarray) -> np.ndarray:
    f = keras.activations.get(function)
    return np.asarray(ops.convert_to_numpy(f(ops.convert_to_tensor(x))), np.float32)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that shows all values, with some room around them."""
    room = 0.15 * max(float(np.ptp(values)), 1e-6)
    return float(values.min()) - room, float(values.max()) + room


def _edges(K: int) -> np.ndarray:
    return np.arange(K + 1) + 0.5


def _ticks(K: int) -> np.ndarray:
    return np.arange(1, K + 1)[:: 1 + K // 17]
