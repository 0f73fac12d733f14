"""Parameter sets on disk, and which set an activation function gets.

    swish = load("swish_k16_paper")             # params/swish_k16_paper.json
    mine = load("path/to/my_set.json")
    save(mine, "path/to/copy.json")
    register("gelu", mine)                      # from now on convert() replaces gelu by it

A file holds one FSParameters as JSON: format, name, activation, K, T, h, d, domain (null for an open end),
out_of_range, source, errors. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fs_neurons.files import params_dir, write_atomically
from fs_neurons.neuron.parameters import (
    ChannelParameters,
    FSParameters,
    NeuronParameters,
    relu_parameters,
)

FORMAT = 1
MAX_FILE_BYTES = 10_000_000
RELU6_MAX = 6.0

# Keras has two names for some functions; the first is the one it reads back.
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}
# Quality -> activation name -> FSParameters, or the name of a file in params/ that is read when first
# needed. An option that isn't an activation's default is part of its name: LeakyReLU(negative_slope=0.3)
# is "leaky_relu(negative_slope=0.3)", while "leaky_relu" alone is the function with its default of 0.2.
_registry: dict[str, dict[str, FSParameters | str]] = {
    "own": {},  # of `register`
    "paper": {
        "relu": relu_parameters(),
        "relu6": relu_parameters(alpha=RELU6_MAX),
        "silu": "swish_k16_paper",
        "sigmoid": "sigmoid_k12_paper",
    },
    "accurate": {
        "relu": relu_parameters(rounding="nearest"),
        "silu": "swish_k16",
        "sigmoid": "sigmoid_k12",
        # It differs from gelu by less than 5e-4, a tenth of the set's own error.
        "gelu(approximate=True)": "gelu_k12",
        "leaky_relu": "leaky_relu_0.2_k12",
        **{f"leaky_relu(negative_slope={a})": f"leaky_relu_{a}_k12" for a in (0.1, 0.2, 0.3)},
        **{
            name: f"{name}_k12"
            for name in (
                "relu6", "gelu", "elu", "selu", "mish", "softplus", "hard_silu",
                "tanh", "softsign", "hard_sigmoid",
            )
        },
    },
    "sparse": {
        "silu": "swish_k16_sparse",
        "sigmoid": "sigmoid_k12_sparse",
        "tanh": "tanh_k12_sparse",
    },
}  # fmt: skip
# Where a quality has no set for an activation, the next one is asked.
_FALLBACKS = {
    "paper": ("own", "paper", "accurate"),
    "accurate": ("own", "accurate", "paper"),
    "sparse": ("own", "sparse", "accurate", "paper"),
}
QUALITIES = tuple(_FALLBACKS)


def canonical_name(activation: str) -> str:
    """The name under which an activation is registered: "swish" is "silu"."""
    return _ALIASES.get(activation, activation)


def register(activation: str, parameters: FSParameters | str) -> None:
    """Makes `parameters` the set that replaces `activation`, a Keras activation or function name.

    From then on it is used whatever the quality asked for.

    Args:
        activation: name, such as "gelu", or the `__name__` of a function of your own.
        parameters: a set, or the name or path of a file that `load` reads.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    _registry["own"][canonical_name(activation)] = as_parameters(parameters)


def registered() -> tuple[str, ...]:
    """Names of all activations that have a parameter set."""
    return tuple(sorted(set().union(*_registry.values())))


def is_registered(activation: str) -> bool:
    """Whether `register` was called for an activation."""
    return canonical_name(activation) in _registry["own"]


def for_activation(activation: str, quality: str = "paper") -> FSParameters | None:
    """The set registered for an activation; None when there is none.

    Args:
        activation: name, with options that aren't the default: "leaky_relu(negative_slope=0.3)".
        quality: "paper" for the published sets, "accurate" for the fitted ones, "sparse" for those
            that trade accuracy for fewer spikes. An activation without a set of that quality gets
            the next best.

    Raises:
        ValueError: no such quality.
    """
    if quality not in _FALLBACKS:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}")
    name = canonical_name(activation)
    for sets in (_registry[fallback] for fallback in _FALLBACKS[quality]):
        if name in sets:
            found = sets[name] = as_parameters(sets[name])
            return found
    return None


def as_parameters(value: FSParameters | str | os.PathLike[str]) -> FSParameters:
    """A set as it is, or read from its name or path.

    Raises:
        TypeError: neither a set, nor a name, nor a path.
        FileNotFoundError, ValueError: as `load`.
    """
    if isinstance(value, FSParameters):
        return value
    if isinstance(value, (str, os.PathLike)):
        return load(value)
    raise TypeError(
        f"expected FSParameters, the name of a set in params/ or a path, got {type(value).__name__}"
    )


def available() -> tuple[str, ...]:
    """Names of all sets in params/."""
    return tuple(sorted(path.stem for path in params_dir().glob("*.json")))


def shipped(activation: str, K: int) -> list[FSParameters]:
    """All sets of K steps in params/ for an activation, by their file names."""
    names = {activation, *(a for a, name in _ALIASES.items() if name == activation)}
    found = [
        name for name in available() if any(f"{name}_".startswith(f"{a}_k{K}_") for a in names)
    ]
    return [load(name) for name in found]


def load(name: str | os.PathLike[str]) -> FSParameters:
    """Reads a parameter set and checks it.

    Args:
        name: of a set in params/ ("swish_k16_paper"), or a path that ends in .json.

    Raises:
        FileNotFoundError: no such set; the message lists those there are.
        ValueError: the file is not a valid parameter set; the message names file and entry.
    """
    path = pathlib.Path(name)
    if path.suffix != ".json":
        path = params_dir() / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no parameter set {os.fspath(name)!r}: give one of {', '.join(available())},"
            " or the path of a .json file"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a parameter set")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    try:
        return from_dict(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save(parameters: FSParameters, path: str | os.PathLike[str], **extra: Any) -> None:
    """Writes a set as JSON, atomically; `load` gives back the same T, h, d bit for bit.

    Args:
        parameters: the set.
        path: file to write or replace.
        extra: further JSON entries that say how the set was made (command, seed, ...).
    """
    content = {**to_dict(parameters), **extra}
    with write_atomically(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def to_config(parameters: NeuronParameters) -> dict[str, Any]:
    """Parameters of a layer as plain JSON values; `from_config` gives back the same T, h, d bit for bit."""
    if isinstance(parameters, FSParameters):
        return to_dict(parameters)
    return {
        "members": [to_dict(member) for member in parameters.members],
        "index": parameters.index.tolist(),
        "axis": parameters.axis,
    }


def from_config(content: Any) -> NeuronParameters:
    """Parameters of a layer from what `to_config` gives.

    Raises:
        ValueError: no valid set, or no valid sets per channel; the message names the entry.
    """
    if not isinstance(content, Mapping) or "members" not in content:
        return from_dict(content)
    members = content["members"]
    if not isinstance(members, (list, tuple)):
        raise ValueError(f"members must be a list of parameter sets, got {members!r}")
    return ChannelParameters(
        tuple(from_dict(member) for member in members),
        content.get("index", ()),
        content.get("axis", -1),
    )


def to_dict(parameters: FSParameters) -> dict[str, Any]:
    """A set as plain JSON values; `from_dict` gives back the same T, h, d bit for bit."""
    low, high = parameters.domain
    return {
        "format": FORMAT,
        "name": parameters.name,
        "K": parameters.K,
        # str of a float32 is the shortest text that reads back as the same float32.
        **{key: [float(str(v)) for v in getattr(parameters, key)] for key in ("T", "h", "d")},
        "domain": [low if math.isfinite(low) else None, high if math.isfinite(high) else None],
        "out_of_range": parameters.out_of_range,
        "source": parameters.source,
        "errors": dict(parameters.errors),
    }


def from_dict(content: Any) -> FSParameters:
    """A set from what `to_dict` gives.

    Raises:
        ValueError: not a valid set; the message names the entry.
    """
    if not isinstance(content, Mapping):
        raise ValueError("a parameter set is a JSON object")
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version reads {FORMAT}")
    rows: dict[str, Any] = {key: _numbers(content, key) for key in ("T", "h", "d")}
    if content.get("K") != len(rows["T"]) or isinstance(content.get("K"), bool):
        raise ValueError(f"K is {content.get('K')!r}, but T has {len(rows['T'])} entries")
    domain = content.get("domain")
    if not isinstance(domain, (list, tuple)) or len(domain) != 2:
        raise ValueError(f"domain must be [low, high], got {domain!r}")
    low = -math.inf if domain[0] is None else _number(domain[0], "domain")
    high = math.inf if domain[1] is None else _number(domain[1], "domain")
    errors = content.get("errors", {})
    if not isinstance(errors, Mapping):
        raise ValueError(f"errors must be an object of numbers, got {errors!r}")
    texts: dict[str, Any] = {key: _text(content, key) for key in ("name", "source", "out_of_range")}
    return FSParameters(
        **rows,
        **texts,
        domain=(low, high),
        errors={key: _number(value, f"errors[{key!r}]") for key, value in errors.items()},
    )


def _numbers(content: Mapping[str, Any], key: str) -> list[float]:
    values = content.get(key)
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{key} must be a list of numbers, got {values!r}")
    return [_number(value, f"{key}({t})") for t, value in enumerate(values, start=1)]


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{what} must be a number, got {value!r}")


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, got {value!r}")
    return value
