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

# Weight of gate inputs u: mostly a Gaussian, as they occur, and the rest spread over the domain.
WEIGHT_DEVIATION, FLOOR = 2.5, 0.25
SPIKES_UNDER = (-0.1, 4.0)  # mean, variance
MEASURED_UNDER = ((0.0, 4.0), (0.0, 9.0))


@dataclasses.dataclass(frozen=True)
class Family:
    """What is fitted at all scales.

    Attributes:
        activation, K: as in the file's name.
        domain: of u.
        spike_penalties: by scale, a power of two.
    """

    activation: str
    K: int
    domain: tuple[float, float]
    spike_penalties: dict[float, float]


# Small scales have large errors and take many spikes, large ones (nearly ReLU) the opposite.
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_K16 = (2.4e-3, 2.4e-3, 5e-4, 3e-4, 1.6e-4, 6e-5, 6e-5, 6e-5)
_K12 = (3.2e-3, 2.4e-3, 1e-3, 6e-4, 3.2e-4, 1.2e-4, 1.2e-4, 1.2e-4)
_K8 = (8e-3, 6e-3, 2.5e-3, 1.5e-3, 8e-4, 3e-4, 3e-4, 3e-4)
_WIDE, _SYMMETRIC = (-8.0, 12.0), (-8.0, 8.0)
FAMILIES = {
    f"{family.activation}_k{family.K}": family
    for family in (
        Family("silu", 16, _WIDE, dict(zip(_SCALES, _K16, strict=True))),
        Family("silu", 12, _WIDE, dict(zip(_SCALES, _K12, strict=True))),
        Family("silu", 8, _WIDE, dict(zip(_SCALES, _K8, strict=True))),
        Family("gelu", 12, _WIDE, dict(zip(_SCALES, _K12, strict=True))),
        # A guarded sigmoid serves every wider range: it saturates.
        Family("sigmoid", 12, _SYMMETRIC, {0.25: 8e-5, 0.5: 6e-5, 1.0: 2.5e-5}),
        Family("sigmoid", 8, _SYMMETRIC, {0.25: 2e-4, 0.5: 1.5e-4, 1.0: 6.25e-5}),
    )
}

FLAGS = flags.FlagValues()
flags.DEFINE_list("families", list(FAMILIES), "Which to fit.", flag_values=FLAGS)
flags.DEFINE_integer("effort", 600_000, "Evaluations per member.", lower_bound=1, flag_values=FLAGS)
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
    content: dict[str, Any] = {
        "format": FORMAT,
        "activation": family.activation,
        "K": family.K,
        "domain": list(family.domain),
        "scales_output": family.activation not in BOUNDED,
        "members": [],
    }
    before = {}
    if path.is_file() and not refit:
        before = {row["scale"]: row for row in json.loads(path.read_text())["members"]}
    for scale, penalty in family.spike_penalties.items():
        row = before.get(scale)
        arguments = {"effort": effort, "seed": seed, "spike_penalty": penalty}
        if row is None or row.get("fit") != arguments:
            fitted = fit_member(family, scale, arguments)
            row = {"scale": scale, "fit": arguments, "set": to_dict(fitted)}
            figures = ", ".join(f"{key}: {value:.3g}" for key, value in fitted.errors.items())
            print(f"{fitted.name}: {figures}; {fitted.out_of_range}", flush=True)
        content["members"].append(row)
        kept = [row for key, row in before.items() if key > scale]
        with write_atomically(path) as file:
            json.dump(
                {**content, "members": content["members"] + kept}, file, indent=1, allow_nan=False
            )
            file.write("\n")


def fit_member(family: Family, scale: float, arguments: dict[str, Any]) -> FSParameters:
    """Fits f_s, and measures it over the domain and under Gaussian gate inputs."""
    low, high = family.domain
    f = scaled_function(family.activation, scale)
    fitted = fitting.fit(
        f, family.K, family.domain, weight=functools.partial(_weight, low=low, high=high),
        input_distribution=SPIKES_UNDER, guard=True, time_budget=np.inf,
        verbose=runner.showing(), **arguments,
        name=f"{family.activation}_k{family.K}_scale{scale:g}",
    )  # fmt: skip
    return dataclasses.replace(fitted, errors=_measured(fitted, f, family.domain))


def scaled_function(activation: str, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """f_s of an activation, as fs_neurons/neuron/families.py defines it."""
    f = fitting.as_function(activation)
    output = 1.0 if activation in BOUNDED else scale
    return lambda u: f(scale * u) / output


def _weight(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Density of the mixture: (1 - FLOOR) N(0, WEIGHT_DEVIATION^2) + FLOOR uniform."""
    density = np.exp(-((u / WEIGHT_DEVIATION) ** 2) / 2)
    density /= WEIGHT_DEVIATION * np.sqrt(2 * np.pi)
    return (1 - FLOOR) * density + FLOOR / (high - low)


def _measured(
    parameters: FSParameters,
    f: Callable[[np.ndarray], np.ndarray],
    domain: tuple[float, float],
) -> dict[str, float]:
    """Mean squared errors over the domain and under each of MEASURED_UNDER, and the spikes there."""
    errors = {}
    for distribution in MEASURED_UNDER:
        errors.update(fitting.measure(parameters, f, domain, input_distribution=distribution))
        u = np.linspace(*domain, fitting.GRID_POINTS)
        density = np.exp(-((u - distribution[0]) ** 2) / (2 * distribution[1]))
        error = fitting.respond(u.astype(np.float32), parameters)[0] - f(u)
        key = "mse, N({:g}, {:g})".format(*distribution)
        errors[key] = float(np.average(error**2, weights=density))
    return errors


if __name__ == "__main__":
    runner.run(main, FLAGS)
