"""Fits FS-neurons to activation functions: the sets in params/ and the data of Figures 6B, 6C and 6D.

    python -m experiments.fit_parameters --set=swish_k16             # one of the shipped sets, or "all"
    python -m experiments.fit_parameters --figure=6b                 # params/fits/figure6b.json
    python -m experiments.fit_parameters --function=gelu --K=10 --domain=-6,6 --name=my_gelu

A set is written to --output_dir/NAME.json together with the command, the seed and its measured errors.
Ctrl-C ends a fit early and writes the best found so far.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import app, flags

from experiments import paper, results, runner
from fs_neurons import fitting
from fs_neurons.files import params_dir, write_atomically
from fs_neurons.neuron import FSParameters, relu_parameters
from fs_neurons.neuron.sets import save

GATE_INPUTS = paper.GATE_INPUTS["EfficientNet-B7"]  # of its Swish neurons
WIDE = (-8.0, 12.0)
SYMMETRIC = (-10.0, 10.0)
# Weight of the main region: a quarter of the domain that counts as much as the rest together.
EMPHASIS = 4.0
LEAKY = "leaky_relu_"

# name of the set -> arguments of `fit_set`
_WIDE = {"K": 12, "domain": WIDE, "emphasis": EMPHASIS, "spike_penalty": 2e-4, "guard": True}
_SWISH = {"function": "swish", **_WIDE}
_BOUNDED = {"K": 12, "domain": SYMMETRIC, "guard": True}
SETS: dict[str, dict[str, Any]] = {
    "swish_k8": {**_SWISH, "K": 8},
    "swish_k9": {**_SWISH, "K": 9, "spike_penalty": 8e-4},
    "swish_k10": {**_SWISH, "K": 10, "spike_penalty": 8e-4},
    # These two stay within 11 and 14 beyond the domain by themselves; a guard would cost accuracy.
    "swish_k16": {**_SWISH, "K": 16, "spike_penalty": 3.2e-4, "guard": False},
    "swish_k16_sparse": {**_SWISH, "K": 16, "spike_penalty": 1.5e-3, "guard": False},
    "swish_k16_dense": {"function": "swish", "K": 16, "domain": WIDE},
    **{f"sigmoid_k{K}": {"function": "sigmoid", **_BOUNDED, "K": K} for K in (4, 6, 8, 10, 12, 16)},
    "sigmoid_k12_sparse": {"function": "sigmoid", **_BOUNDED, "spike_penalty": 2.5e-4},
    **{
        f"{name}_k12": {"function": name, **_WIDE}
        for name in ("gelu", "elu", "selu", "mish", "softplus", "hard_silu")
    },
    **{
        f"{LEAKY}{slope}_k12": {"function": f"{LEAKY}{slope}", **_WIDE} for slope in (0.1, 0.2, 0.3)
    },
    "relu6_k12": {"function": "relu6", **_WIDE, "starts": (relu_parameters(12, alpha=6.0),)},
    **{
        f"tanh_k{K}": {"function": "tanh", **_BOUNDED, "K": K, "spike_penalty": 1e-5}
        for K in (4, 6, 8, 10, 12, 16)
    },
    "tanh_k12_sparse": {"function": "tanh", **_BOUNDED, "spike_penalty": 8e-4},
    "softsign_k12": {"function": "softsign", **_BOUNDED, "spike_penalty": 1e-5},
    "hard_sigmoid_k12": {"function": "hard_sigmoid", **_BOUNDED, "spike_penalty": 1e-6},
    **{
        f"swish_k16_q{Q}": {"function": "swish", "K": 16, "domain": WIDE, "bits": Q}
        for Q in (4, 6, 8, 10)
    },
}

# figure -> (function, domain, values of K or Q, the argument they are)
FIGURES = {
    "6b": ("swish", WIDE, "K", (*range(2, 17), 18, 20, 22, 24)),
    "6c": ("swish", WIDE, "bits", (2, 3, 4, 5, 6, 7, 8, 10, 12)),
    "6d": ("sigmoid", SYMMETRIC, "bits", (2, 3, 4, 5, 6, 7, 8, 10, 12)),
}
FIGURE_K = {"6c": 16, "6d": 12}
FIGURE_EFFORT = {"exact": 600_000, "bptt": 500}

FLAGS = flags.FlagValues()
flags.DEFINE_list("set", [], "Shipped sets to fit, or 'all'.", flag_values=FLAGS)
flags.DEFINE_enum("figure", None, sorted(FIGURES), "Figure whose fits are made.", flag_values=FLAGS)
flags.DEFINE_string("function", None, f"Keras activation, or {LEAKY}SLOPE.", flag_values=FLAGS)
flags.DEFINE_integer("K", 16, "Time steps.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_list(
    "domain", [str(end) for end in WIDE], "LOW,HIGH of gate inputs.", flag_values=FLAGS
)
flags.DEFINE_float(
    "emphasis", 1.0, "Weight of [-2, 2], against 1 elsewhere.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_float(
    "spike_penalty", 0.0, "Cost of a spike, as mean squared error.", lower_bound=0,
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
    "bits", None, "Q: restrict T, h, d to 2^Q values.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_bool(
    "guard", False, "Ask the response to saturate outside the domain.", flag_values=FLAGS
)
flags.DEFINE_enum("method", "exact", sorted(fitting.EFFORT), "How to fit.", flag_values=FLAGS)
flags.DEFINE_string(
    "name", None, "Name of the set that is written; FUNCTION_kK when missing.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output_dir", None, "Folder for the results; params when missing.", flag_values=FLAGS
)


def define_search_flags(values: flags.FlagValues) -> None:
    """--effort, --seed and --time_budget, for `search_options`."""
    flags.DEFINE_integer(
        "effort", None, "Evaluations, or gradient steps for bptt.", lower_bound=1,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Seed of starts and moves.", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "time_budget", 600.0, "Seconds per fit, at most.", lower_bound=0, flag_values=values
    )


def search_options(values: flags.FlagValues) -> dict[str, Any]:
    """Arguments of `fitting.fit` that say how long and from where it searches."""
    names = ("effort", "seed", "time_budget")
    return {**{name: values[name].value for name in names}, "verbose": runner.showing()}


define_search_flags(FLAGS)


def main() -> None:
    names = list(SETS) if FLAGS.set == ["all"] else FLAGS.set
    if unknown := [name for name in names if name not in SETS]:
        raise app.UsageError(f"no shipped set {unknown[0]!r}: give {', '.join(SETS)} or all")
    if sum((bool(names), FLAGS.figure is not None, FLAGS.function is not None)) != 1:
        raise app.UsageError("give exactly one of --set, --figure and --function")
    output = pathlib.Path(FLAGS.output_dir) if FLAGS.output_dir else params_dir()
    options = search_options(FLAGS)
    if FLAGS.figure:
        fit_figure(FLAGS.figure, output / "fits" / f"figure{FLAGS.figure}.json", options)
    for name in names:
        write_set(name, SETS[name], options, output)
    if FLAGS.function:
        name = FLAGS.name or f"{FLAGS.function}_k{FLAGS.K}"
        write_set(name, _flag_values(), options, output)


def write_set(
    name: str, arguments: dict[str, Any], options: dict[str, Any], output: pathlib.Path
) -> None:
    """Fits a set and writes it to output/NAME.json."""
    started = time.monotonic()
    fitted = fit_set(name=name, **options, **arguments)
    command = results.command()
    save(
        dataclasses.replace(fitted, source=f"{fitted.source}: {command}"),
        output / f"{name}.json",
        activation=arguments["function"],
        command=command,
        seed=options["seed"],
        seconds=round(time.monotonic() - started, 1),
        **{
            key: arguments[key]
            for key in ("emphasis", "spike_penalty", "guard", "bits")
            if key in arguments
        },
    )
    measured = ", ".join(f"{key}: {value:.3g}" for key, value in fitted.errors.items())
    print(f"{output / name}.json: {measured}")


def fit_set(
    name: str,
    function: str,
    K: int,
    domain: tuple[float, float],
    *,
    emphasis: float = 1.0,
    **arguments: Any,
) -> FSParameters:
    """fitting.fit with the weight `emphasis` on [-2, 2], measured there and elsewhere."""
    f = as_function(function)
    low, high = paper.MAIN_REGION
    fitted = fitting.fit(
        f, K, domain, name=name, weight=lambda x: np.where((x >= low) & (x <= high), emphasis, 1.0),
        input_distribution=GATE_INPUTS,
        **arguments,
    )  # fmt: skip
    errors = fitting.measure(
        fitted, f, domain, inside=paper.MAIN_REGION, input_distribution=GATE_INPUTS
    )
    return dataclasses.replace(fitted, errors=errors)


def objective(arguments: Mapping[str, Any], fitted: FSParameters) -> float:
    """What `fit_set` minimises, without guard, of a set that was made or measured by it.

    Args:
        arguments: of `fit_set`.
        fitted: has its `errors`.
    """
    (low, high), domain = paper.MAIN_REGION, arguments["domain"]
    emphasised = (high - low) * arguments.get("emphasis", 1.0)
    share = emphasised / (emphasised + domain[1] - domain[0] - (high - low))
    inside, outside, spikes = (
        next(error for name, error in fitted.errors.items() if name.startswith(beginning))
        for beginning in (f"mse [{low:g}", "mse outside", "spikes")
    )
    return share * inside + (1 - share) * outside + arguments.get("spike_penalty", 0.0) * spikes


def as_function(name: str) -> str | Callable[[np.ndarray], np.ndarray]:
    """The function of that name: "leaky_relu_0.1" has a slope of 0.1 below 0."""
    if not name.startswith(LEAKY):
        return name
    try:
        slope = float(name.removeprefix(LEAKY))
    except ValueError:
        raise ValueError(f"{name!r}: give {LEAKY}SLOPE, such as {LEAKY}0.1") from None
    return lambda x: np.where(x >= 0, x, slope * x)


def fit_figure(figure: str, path: pathlib.Path, options: dict[str, Any]) -> None:
    """Fits every point of Figure 6B, 6C or 6D by both methods; written after each, in case of a kill."""
    function, domain, argument, values = FIGURES[figure]
    points: list[dict[str, Any]] = []
    for value in values:
        for method in ("exact", "bptt"):
            started = time.monotonic()
            fitted = fit_set(
                f"figure {figure}", function, domain=domain, method=method,
                **{**options, "effort": options["effort"] or FIGURE_EFFORT[method]},
                **{"K": FIGURE_K.get(figure), argument: value},
            )  # fmt: skip
            mse = fitted.errors["mse [{:g}, {:g}]".format(*domain)]
            points.append({
                "method": method, "K": fitted.K, "Q": value if argument == "bits" else None, "mse": mse,
                "seconds": round(time.monotonic() - started, 1),
                **{key: [float(str(v)) for v in getattr(fitted, key)] for key in ("T", "h", "d")},
            })  # fmt: skip
            print(f"figure {figure}, {method}, {argument} = {value}: mean squared error {mse:.3g}")
            with write_atomically(path) as file:
                json.dump(
                    {"command": results.command(), "seed": options["seed"], "function": function, "domain": domain,
                     "points": points}, file, indent=1,
                )  # fmt: skip
                file.write("\n")


def _flag_values() -> dict[str, Any]:
    try:
        domain = tuple(float(end) for end in FLAGS.domain)
    except ValueError:
        raise ValueError(f"--domain must be LOW,HIGH, got {','.join(FLAGS.domain)}") from None
    names = ("function", "K", "emphasis", "spike_penalty", "bits", "guard", "method")
    return {"domain": domain, **{name: FLAGS[name].value for name in names}}


if __name__ == "__main__":
    runner.run(main, FLAGS)
