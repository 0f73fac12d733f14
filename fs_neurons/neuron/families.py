"""Families of parameter sets: one activation function at several scales of its gate input.

    for member in load_family("silu", K=16):     # several of each scale, 0.25, 0.5, ..., 32
        wide = at_scale("silu", member.set, member.scale)

A set has a fixed domain, [-8, 12] for many, and a fixed resolution. A channel whose gate inputs reach
further needs another one. A member of scale s is fitted to

    f_s(u) = f(s u) / s        on the set's domain,

so that a neuron with T, h and d multiplied by s computes s R_s(x / s), an approximation of f on a domain
s times as wide. Scales are powers of two: multiplying by them is exact.

Functions with a bounded output (the sigmoid, tanh) keep their output, f_s(u) = f(s u), and d is not multiplied.
They saturate on both sides, and so do their members outside the domain: the largest serves every range.

Members of the same scale differ in their domain, as for channels that are mostly negative, or in how many spikes
they spend on a small error.

ReLU needs no family: relu(s u) / s = relu(u), so that one set serves all scales.

A file params/families/ACTIVATION_kK.json holds format, activation, K, scales_output, and members,
a list of {"scale": s, "set": ...} with sets as in params/. Each set's `errors` are measured in units of u.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fs_neurons.files import params_dir
from fs_neurons.neuron import FSParameters
from fs_neurons.neuron.sets import MAX_FILE_BYTES, canonical_name, from_dict

FORMAT = 1
FOLDER = "families"
# Functions whose output is bounded; their members differ in the input's scale alone.
BOUNDED = frozenset({"sigmoid", "tanh"})


class Member(NamedTuple):
    """A set in units of a scale, see `at_scale`."""

    scale: float
    set: FSParameters


def load_family(activation: str, K: int) -> tuple[Member, ...]:
    """All members with K steps, by ascending scale.

    Raises:
        FileNotFoundError: there is none; the message lists those there are.
        ValueError: the file is not a valid family; the message names file and entry.
    """
    name = canonical_name(activation)
    path = params_dir() / FOLDER / f"{name}_k{K}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no family of sets for {activation!r} with K = {K}: there are"
            f" {', '.join(available_families())}"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a family of sets")
    try:
        return _members(json.loads(path.read_text(encoding="utf-8")), name, K)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def family_steps(activation: str) -> tuple[int, ...]:
    """The numbers of steps for which there is a family, ascending; empty when there is none."""
    pattern = re.compile(re.escape(canonical_name(activation)) + r"_k(\d+)")
    matches = (pattern.fullmatch(name) for name in available_families())
    return tuple(sorted(int(match[1]) for match in matches if match))


def available_families() -> tuple[str, ...]:
    """Names of all families in params/families, such as "silu_k16"."""
    return tuple(sorted(path.stem for path in (params_dir() / FOLDER).glob("*_k*.json")))


def at_scale(activation: str, member: FSParameters, scale: float) -> FSParameters:
    """The member of that scale in units of the gate input: T and h multiplied by it, and d unless the
    activation's output is bounded. Its `errors` stay in units of the scale.

    Args:
        activation: name, such as "silu".
        member: the set of a member of `load_family`.
        scale: its scale.
    """
    output = 1.0 if canonical_name(activation) in BOUNDED else scale
    low, high = member.domain
    return dataclasses.replace(
        member,
        T=member.T * scale,
        h=member.h * scale,
        d=member.d * output,
        domain=(low * scale, high * scale),
        out_of_range="",
    )


def _members(content: Any, activation: str, K: int) -> tuple[Member, ...]:
    if not isinstance(content, Mapping):
        raise ValueError("a family is a JSON object")
    expected = {
        "format": FORMAT,
        "activation": activation,
        "K": K,
        "scales_output": activation not in BOUNDED,
    }
    for key, value in expected.items():
        if content.get(key) != value:
            raise ValueError(f"{key} is {content.get(key)!r}, expected {value!r}")
    rows = content.get("members")
    if not isinstance(rows, list) or not rows:
        raise ValueError("members must be a list of {scale, set}")
    members = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"members must be a list of {{scale, set}}, got {row!r}")
        scale = row.get("scale")
        if not isinstance(scale, (int, float)) or scale <= 0 or math.frexp(scale)[0] != 0.5:
            raise ValueError(f"scale must be a power of two, got {scale!r}")
        member = from_dict(row.get("set"))
        if member.K != K:
            raise ValueError(f"the member of scale {scale:g} has {member.K} steps, not {K}")
        members.append(Member(float(scale), member))
    if members != sorted(members, key=lambda member: member.scale):
        raise ValueError("scales must be ascending")
    return tuple(members)
