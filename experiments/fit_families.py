"""Fits the families of scaled sets, params/families/*.json: see fs_neurons/neuron/families.py.

    python -m experiments.fit_families                                 # all
    python -m experiments.fit_families --families=silu_k16,silu_k8 --effort=200000

A family is written after each of its members, and a member that is there with the same arguments is kept:
a run that was killed goes on where it stopped. --refit makes all anew.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

from experiments import runner
from fs_neurons import fitting
from fs_neurons.files import params_dir, write_atomically
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.families import BOUNDED, FOLDER, FORMAT
from fs_neurons.neuron.sets import to_dict

# Weight of either side beyond the domain: enough to saturate there, and no more, as it costs accuracy inside.
GUARD = 0.005
# Share of the weight of gate inputs that is spread over the domain; the rest is the Gaussian of a shape.
FLOOR = 0.25
# Of what is spread over the whole domain.
RARE = 3e-4


@dataclasses.dataclass(frozen=True)
class Shape:
    """Which gate inputs members are for, in units of their scale.

    Attributes:
        name: at the end of the names of members.
        domain: that they cover.
        mean, deviation: of the gate inputs within it.
        common: where all but rare gate inputs are; the whole domain when missing.
        effort: of that of a member, how much one of these gets.
    """

    name: str
    domain: tuple[float, float]
    mean: float
    deviation: float
    common: tuple[float, float] | None = None
    effort: float = 1.0


@dataclasses.dataclass(frozen=True)
class Family:
    """What is fitted at all scales.

    Attributes:
        activation, K: as in the file's name.
        spike_penalties: of each member, by its shape and scale, a power of two.
    """

    activation: str
    K: int
    spike_penalties: dict[Shape, dict[float, tuple[float, ...]]]

    @property
    def members(self) -> list[tuple[float, Shape, float]]:
        """Scale, shape and penalty of each, by ascending scale."""
        return sorted(
            (
                (scale, shape, penalty)
                for shape, by_scale in self.spike_penalties.items()
                for scale, penalties in by_scale.items()
                for penalty in penalties
            ),
            key=lambda member: member[0],
        )


WIDE = Shape("", (-8.0, 12.0), 0.0, 2.5)
# Of channels that are mostly negative, or mostly positive.
LOW, HIGH = Shape("_low", (-8.0, 4.0), -3.0, 2.0), Shape("_high", (-2.0, 12.0), 5.0, 2.5)
# Of channels that rarely meet inputs far above all others: as wide as WIDE, mostly negative, or narrower.
FAR = Shape("_far", (-8.0, 96.0), 0.0, 2.5, (-8.0, 12.0))
FAR_LOW = Shape("_far_low", (-8.0, 96.0), -3.0, 2.0, (-8.0, 4.0))
FAR_NEAR = Shape("_far_near", (-8.0, 96.0), 0.0, 1.5, (-5.0, 6.0))
SYMMETRIC = Shape("", (-8.0, 8.0), 0.0, 2.5)


def _window(mean: float, deviation: float) -> Shape:
    """Of channels that meet a narrow range, `mean` standard deviations from 0, in units of the scale."""
    reach = 5.0
    ends = (deviation * (mean - reach), deviation * (mean + reach))
    name = f"_at{mean:g}" + ("" if deviation == 1.0 else "_wide")
    return Shape(name, ends, deviation * mean, deviation, effort=0.25)


# Gate inputs further out are those of ReLU, or of 0.
LOWEST, HIGHEST = -7.0, 9.0


def _windows(
    means: tuple[float, ...], deviations: tuple[float, ...], octaves: range
) -> dict[Shape, tuple[float, ...]]:
    """Windows, and their scales: those at which a range is narrow or Swish is bent in it."""
    shapes = [_window(mean, deviation) for deviation in deviations for mean in means]
    scales = [2.0**octave for octave in octaves]
    return {
        shape: tuple(scale for scale in scales if LOWEST <= scale * shape.mean <= HIGHEST)
        for shape in shapes
    }


MEANS = (0.0, -1.5, 1.5, -3.0, 3.0, -4.5)
WINDOWS = _windows(MEANS, (1.0,), range(-5, 2))
# With few steps, a set does well only very near the range that it was fitted to.
DENSER_WINDOWS = _windows((*MEANS, -0.75, 0.75, 5.0, -6.5), (1.0, 1.4), range(-6, 3))

# Small scales have large errors and take many spikes, large ones (nearly ReLU) the opposite.
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
OF_WIDE = (2.4e-3, 2.4e-3, 5e-4, 3e-4, 1.6e-4, 6e-5, 6e-5, 6e-5)
OF_LOW = (1e-3, 6e-4, 3e-4, 8e-5, 4e-5)
OF_FAR = OF_WIDE[:5]
# These are for small errors alone.
OF_FAR_LOW, OF_FAR_NEAR = (
    tuple(penalty / 8 for penalty in penalties) for penalties in (OF_LOW[:4], OF_WIDE[:3])
)
OF_HIGH = (1e-3, 1e-3, 5e-4, 3e-4, 1.6e-4)
OF_GELU = (3.2e-3, 2.4e-3, 1e-3, 6e-4, 3.2e-4, 1.2e-4, 1.2e-4, 1.2e-4)


def scaled_function(activation: str, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """f_s of an activation, as fs_neurons/neuron/families.py defines it."""
    f = fitting.as_function(activation)
    output = 1.0 if activation in BOUNDED else scale
    return lambda u: f(scale * u) / output


def _silu(
    K: int,
    factor: float,
    windows: dict[Shape, tuple[float, ...]],
    of_windows: tuple[float, float],
    further: dict[Shape, tuple[float, ...]] | None = None,
) -> Family:
    """Members with few spikes, and with more spikes and smaller errors.

    Args:
        K: number of steps.
        factor: of the penalties.
        windows: shapes of narrow ranges, and their scales.
        of_windows: their penalties, in units of the variance of a window's output.
        further: shapes and their penalties.
    """
    shapes = {WIDE: OF_WIDE, LOW: OF_LOW, HIGH: OF_HIGH, FAR: OF_FAR, **(further or {})}
    members: dict[Shape, dict[float, tuple[float, ...]]] = {
        shape: {
            scale: (factor * penalty, factor * penalty / 8)
            for scale, penalty in zip(SCALES, penalties, strict=False)
        }
        for shape, penalties in shapes.items()
    }
    for shape, scales in windows.items():
        members[shape] = {
            scale: tuple(float(f"{part * _variance(shape, scale):.2g}") for part in of_windows)
            for scale in scales
        }
    return Family("silu", K, members)


def _variance(shape: Shape, scale: float) -> float:
    """Of the output of Swish in a window, in units of the scale."""
    u = np.linspace(*shape.domain, 1001)
    density = np.exp(-(((u - shape.mean) / shape.deviation) ** 2) / 2)
    y = scaled_function("silu", scale)(u)
    return float(np.average((y - np.average(y, weights=density)) ** 2, weights=density))


FAMILIES = {
    f"{family.activation}_k{family.K}": family
    for family in (
        _silu(16, 1.0, WINDOWS, (3e-4, 1.5e-5), {FAR_LOW: OF_FAR_LOW, FAR_NEAR: OF_FAR_NEAR}),
        _silu(12, 2.0, WINDOWS, (8e-4, 4e-5)),
        _silu(8, 5.0, DENSER_WINDOWS, (3e-3, 2e-4)),
        Family(
            "gelu", 12, {WIDE: {s: (p,) for s, p in zip(SCALES, OF_GELU, strict=True)}}
        ),
        # A guarded sigmoid serves every wider range: it saturates. Gates are few, so that spikes hardly count.
        Family("sigmoid", 16, {SYMMETRIC: dict.fromkeys((0.25, 0.5, 1.0), (1e-6,))}),
        Family(
            "sigmoid", 12, {SYMMETRIC: {0.25: (8e-5, 4e-6), 0.5: (6e-5, 4e-6), 1.0: (2.5e-5, 4e-6)}}
        ),
        Family(
            "sigmoid", 8,
            {SYMMETRIC: {0.25: (2e-4, 1e-5), 0.5: (1.5e-4, 1e-5), 1.0: (6.25e-5, 1e-5)}},
        ),
        Family(
            "tanh", 12, {SYMMETRIC: {0.25: (5e-4, 1e-5), 0.5: (4e-4, 1e-5), 1.0: (2e-4, 1e-5)}}
        ),
        Family(
            "tanh", 8, {SYMMETRIC: {0.25: (8e-4, 2e-5), 0.5: (6e-4, 2e-5), 1.0: (3e-4, 2e-5)}}
        ),
    )
}  # fmt: skip

FLAGS = flags.FlagValues()
flags.DEFINE_list("families", list(FAMILIES), "Which to fit.", flag_values=FLAGS)
flags.DEFINE_integer(
    "effort", 1_200_000, "Evaluations per member.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("seed", 0, "Seed of starts and moves.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_bool("refit", False, "Fit anew what is there already.", flag_values=FLAGS)
flags.DEFINE_string(
    "output_dir", None, "Folder for the results; params when missing.", flag_values=FLAGS
)


def main() -> None:
    if unknown := [name for name in FLAGS.families if name not in FAMILIES]:
        raise app.UsageError(f"no family {unknown[0]!r}: give {', '.join(FAMILIES)}")
    output = pathlib.Path(FLAGS.output_dir) if FLAGS.output_dir else params_dir()
    for name in FLAGS.families:
        path = output / FOLDER / f"{name}.json"
        fit_family(FAMILIES[name], path, FLAGS.effort, FLAGS.seed, FLAGS.refit)


def fit_family(family: Family, path: pathlib.Path, effort: int, seed: int, refit: bool) -> None:
    """Fits all members, and writes the file after each."""
    before = []
    if path.is_file() and not refit:
        before = json.loads(path.read_text())["members"]
    rows: list[dict[str, Any]] = []
    for scale, shape, penalty in family.members:
        arguments = {
            "effort": round(effort * shape.effort), "seed": seed, "spike_penalty": penalty, "guard": GUARD,
            "domain": list(shape.domain), "weight": [shape.mean, shape.deviation],
        }  # fmt: skip
        row = next((r for r in before if (r["scale"], r["fit"]) == (scale, arguments)), None)
        if row is None:
            fitted = fit_member(family, scale, shape, arguments)
            row = {"scale": scale, "fit": arguments, "set": to_dict(fitted)}
            figures = ", ".join(f"{key}: {value:.3g}" for key, value in fitted.errors.items())
            print(f"{fitted.name}: {figures}; {fitted.out_of_range}", flush=True)
        rows.append(row)
        others = [r for r in before if r["fit"] not in [mine["fit"] for mine in rows]]
        _write(path, family, sorted([*rows, *others], key=lambda r: r["scale"]))
    _write(path, family, rows)


def _write(path: pathlib.Path, family: Family, rows: list[dict[str, Any]]) -> None:
    content = {
        "format": FORMAT,
        "activation": family.activation,
        "K": family.K,
        "scales_output": family.activation not in BOUNDED,
        "members": rows,
    }
    with write_atomically(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


def fit_member(
    family: Family, scale: float, shape: Shape, arguments: dict[str, Any]
) -> FSParameters:
    """Fits f_s, and measures it over the domain and under the gate inputs that it is for."""
    f = scaled_function(family.activation, scale)
    chosen = {key: arguments[key] for key in ("effort", "seed", "spike_penalty", "guard")}
    variance = shape.deviation**2
    fine = "_fine" if arguments["spike_penalty"] < max(family.spike_penalties[shape][scale]) else ""
    fitted = fitting.fit(
        f, family.K, shape.domain, weight=functools.partial(_weight, shape=shape),
        input_distribution=(shape.mean, variance), time_budget=np.inf,
        verbose=runner.showing(), **chosen,
        name=f"{family.activation}_k{family.K}_scale{scale:g}{shape.name}{fine}",
    )  # fmt: skip
    return dataclasses.replace(
        fitted, errors=_measured(fitted, f, shape.domain, shape.mean, variance)
    )


def _weight(u: np.ndarray, shape: Shape) -> np.ndarray:
    """Density of the mixture: (1 - FLOOR) N(mean, deviation^2) + FLOOR uniform, and RARE of rare gate inputs."""
    low, high = shape.common or shape.domain
    density = np.exp(-(((u - shape.mean) / shape.deviation) ** 2) / 2)
    density /= shape.deviation * np.sqrt(2 * np.pi)
    density = (1 - FLOOR) * density + FLOOR / (high - low) * ((u >= low) & (u <= high))
    return density + RARE / (shape.domain[1] - shape.domain[0])


def _measured(
    parameters: FSParameters,
    f: Callable[[np.ndarray], np.ndarray],
    domain: tuple[float, float],
    mean: float,
    variance: float,
) -> dict[str, float]:
    """Mean squared errors over the domain and under a Gaussian, and the spikes there."""
    errors = fitting.measure(parameters, f, domain, input_distribution=(mean, variance))
    u = np.linspace(*domain, fitting.GRID_POINTS)
    density = np.exp(-((u - mean) ** 2) / (2 * variance))
    error = fitting.respond(u.astype(np.float32), parameters)[0] - f(u)
    errors[f"mse, N({mean:g}, {variance:g})"] = float(np.average(error**2, weights=density))
    return errors


if __name__ == "__main__":
    runner.run(main, FLAGS)
