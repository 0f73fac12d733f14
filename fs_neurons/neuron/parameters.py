"""Thresholds, resets and output weights of an FS-neuron, and those of FS-ReLU in closed form.

    parameters = relu_parameters(K=10, alpha=25)
    mine = FSParameters(T=[...], h=[...], d=[...], name="mine", domain=(-8, 12))
    mixed = ChannelParameters((mine, wider), index=[0, 0, 1, 0])     # a set for each of four channels

Reference: Stöckl and Maass, "Optimized spiking neurons can classify images with high accuracy through
temporal coding with two spikes", 2022.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# How FS-ReLU turns a gate input into a multiple of its step, and by how many steps it looks ahead.
ROUNDINGS = {"down": 0.0, "nearest": 0.5}


class Rows(NamedTuple):
    """T(t), h(t) and d(t), t = 1, ..., K, along the first axis; each row broadcasts with the gate inputs."""

    T: Any
    h: Any
    d: Any

    @property
    def K(self) -> int:
        """Number of time steps."""
        return int(self.T.shape[0])


@dataclasses.dataclass(frozen=True, eq=False)
class FSParameters:
    """Thresholds T(t), resets h(t) and output weights d(t) of an FS-neuron, t = 1, ..., K.

    Attributes:
        T, h, d: float32 arrays of shape (K,), in the units of the gate input (T, h) and of the
            output (d). They are copied and can't be changed afterwards.
        name: what reports and layers call the set.
        source: where it comes from: a publication, a formula or the command that fitted it.
        domain: interval of gate inputs that it was made for.
        out_of_range: what the neuron does for gate inputs outside `domain`.
        errors: measured figures, by name, such as {"mse [-2, 2]": 0.00239}.

    Raises:
        ValueError: T, h, d differ in length, are empty, not one-dimensional or not finite, or the
            domain is not an interval.
    """

    T: np.ndarray
    h: np.ndarray
    d: np.ndarray
    name: str = "unnamed"
    source: str = ""
    domain: tuple[float, float] = (-np.inf, np.inf)
    out_of_range: str = ""
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in ("T", "h", "d"):
            try:
                values = np.array(getattr(self, field), dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise ValueError(f"FS parameters {self.name!r}: {field} is not numeric") from error
            if values.ndim != 1 or len(values) == 0:
                raise ValueError(
                    f"FS parameters {self.name!r}: {field} must be a list of K >= 1 numbers, one"
                    f" per time step; its shape is {values.shape}"
                )
            if not np.isfinite(values).all():
                bad = int(np.flatnonzero(~np.isfinite(values))[0])
                raise ValueError(
                    f"FS parameters {self.name!r}: {field}({bad + 1}) is {values[bad]}; every"
                    " parameter must be finite in float32"
                )
            values.flags.writeable = False
            object.__setattr__(self, field, values)
        if not len(self.T) == len(self.h) == len(self.d):
            raise ValueError(
                f"FS parameters {self.name!r}: T, h and d must have equal length, one entry per time"
                f" step; they have {len(self.T)}, {len(self.h)} and {len(self.d)}"
            )
        if len(self.domain) != 2 or not self.domain[0] < self.domain[1]:
            raise ValueError(
                f"FS parameters {self.name!r}: domain must be (low, high), got {self.domain}"
            )
        object.__setattr__(self, "domain", (float(self.domain[0]), float(self.domain[1])))

    @property
    def K(self) -> int:
        """Number of time steps."""
        return len(self.T)

    def rows(self, rank: int) -> Rows:
        """T, h and d for gate inputs of any rank."""
        return Rows(self.T, self.h, self.d)

    def limits(self, rank: int) -> tuple[Any, Any]:
        """Both ends of the domain in float32, for gate inputs of any rank."""
        return np.float32(self.domain[0]), np.float32(self.domain[1])

    @functools.cached_property
    def alpha(self) -> float | None:
        """Upper end of the range of an FS-ReLU (h = d = alpha 2^-t); None for other sets."""
        alpha = 2.0 * float(self.h[0])
        halved = _bit_shifted(alpha, self.K)
        binary = alpha > 0 and np.array_equal(halved, self.h) and np.array_equal(halved, self.d)
        if not binary or self.rounding is None:
            return None
        return alpha

    @functools.cached_property
    def rounding(self) -> str | None:
        """How an FS-ReLU rounds: "down" (T = h), "nearest" (T half a step lower); None for other sets."""
        for rounding in ROUNDINGS:
            if np.array_equal(self.T, _thresholds(self.h, rounding)):
                return rounding
        return None

    def describe_domain(self) -> str:
        """The domain, for reports."""
        return "({:g}, {:g})".format(*self.domain)

    def __eq__(self, other: object) -> bool:
        """Equal T, h and d, bit for bit: neurons that behave the same."""
        if not isinstance(other, FSParameters):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> tuple[bytes, bytes, bytes]:
        return self.T.tobytes(), self.h.tobytes(), self.d.tobytes()

    def __repr__(self) -> str:
        return f"FSParameters({self.name!r}, K={self.K}, domain={self.domain})"


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelParameters:
    """Parameter sets that differ between channels: the neurons of channel c have members[index[c]].

    Attributes:
        members: the sets; all have the same K.
        index: int array of shape (channels,): which of them a channel has. It is copied and can't be
            changed afterwards.
        axis: of the channels in the gate inputs.

    Raises:
        TypeError: a member is not an FSParameters.
        ValueError: no members, members that differ in K, or an index that is not a list of their numbers.
    """

    members: tuple[FSParameters, ...]
    index: np.ndarray
    axis: int = -1

    def __post_init__(self) -> None:
        members = tuple(self.members)
        for member in members:
            if not isinstance(member, FSParameters):
                raise TypeError(
                    f"members of ChannelParameters must be FSParameters, got {type(member).__name__}"
                )
        steps = sorted({member.K for member in members})
        if len(steps) != 1:
            raise ValueError(
                "ChannelParameters needs members, and all with the same number of time steps; K is"
                f" {', '.join(map(str, steps)) or 'missing'}"
            )
        index = np.array(self.index)
        if (
            index.ndim != 1
            or index.size == 0
            or not np.issubdtype(index.dtype, np.integer)
            or index.min() < 0
            or index.max() >= len(members)
        ):
            raise ValueError(
                f"index of ChannelParameters must list, for each channel, one of 0..{len(members) - 1},"
                f" got {self.index!r}"
            )
        if isinstance(self.axis, bool) or not isinstance(self.axis, (int, np.integer)):
            raise ValueError(f"axis of ChannelParameters must be an integer, got {self.axis!r}")
        index = index.astype(np.int64)
        index.flags.writeable = False
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "axis", int(self.axis))

    @property
    def K(self) -> int:
        """Number of time steps."""
        return self.members[0].K

    @property
    def channels(self) -> int:
        return len(self.index)

    @functools.cached_property
    def T(self) -> np.ndarray:
        """Thresholds, (K, channels)."""
        return self._per_channel([member.T for member in self.members])

    @functools.cached_property
    def h(self) -> np.ndarray:
        """Resets, (K, channels)."""
        return self._per_channel([member.h for member in self.members])

    @functools.cached_property
    def d(self) -> np.ndarray:
        """Output weights, (K, channels)."""
        return self._per_channel([member.d for member in self.members])

    @functools.cached_property
    def domain(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends, (channels,) each, of the intervals that the sets were made for."""
        low, high = self._per_channel([member.domain for member in self.members])
        return low, high

    def describe_domain(self) -> str:
        """The widest of the domains, for reports."""
        low, high = self.domain
        return f"({low.min():g}, {high.max():g}) or less, channel by channel"

    @property
    def used(self) -> tuple[FSParameters, ...]:
        """Members that some channel has."""
        return tuple(self.members[i] for i in np.unique(self.index))

    @property
    def name(self) -> str:
        """Of its set, or of the first and the last of several."""
        names = [member.name for member in self.used]
        return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)} sets)"

    def rows(self, rank: int) -> Rows:
        """T, h and d in a shape that broadcasts with gate inputs of this rank.

        Raises:
            ValueError: gate inputs of this rank have no such axis.
        """
        return Rows(*(self.broadcast(values, rank) for values in (self.T, self.h, self.d)))

    def limits(self, rank: int) -> tuple[Any, Any]:
        """Both ends of the domains in float32, in a shape that broadcasts with gate inputs of this rank.

        Raises:
            ValueError: gate inputs of this rank have no such axis.
        """
        low, high = (self.broadcast(np.asarray([end], np.float32), rank)[0] for end in self.domain)
        return low, high

    def broadcast(self, values: np.ndarray, rank: int) -> np.ndarray:
        """(n, channels) -> (n, ...) with the channels where gate inputs of this rank have them.

        Raises:
            ValueError: gate inputs of this rank have no such axis.
        """
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"FS parameters {self.name!r} have their channels on axis {self.axis}, which gate inputs"
                f" of rank {rank} don't have"
            )
        shape = [1] * rank
        shape[self.axis] = self.channels
        return values.reshape(len(values), *shape)

    def _per_channel(self, values: Sequence[Any]) -> np.ndarray:
        """One list of numbers per member -> (numbers, channels)."""
        result: np.ndarray = np.array(values)[self.index].T.copy()
        result.flags.writeable = False
        return result

    def __eq__(self, other: object) -> bool:
        """Equal T, h and d on the same axis, bit for bit: neurons that behave the same."""
        if not isinstance(other, ChannelParameters):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return self.axis, self.K, self.T.tobytes(), self.h.tobytes(), self.d.tobytes()

    def __repr__(self) -> str:
        return f"ChannelParameters({self.name!r}, K={self.K}, channels={self.channels})"


# What a layer of FS-neurons takes: one set, or one for each channel.
NeuronParameters = FSParameters | ChannelParameters


def relu_parameters(K: int = 10, alpha: float = 25.0, rounding: str = "down") -> FSParameters:
    """FS-ReLU by bit shifts: T(t) = h(t) = d(t) = alpha 2^-t, section 1.2.2.

    The response is ReLU(x) without error on multiples of alpha 2^-K below alpha, rounded down to the
    next multiple between them, and alpha - alpha 2^-K from there on. With thresholds half a step lower,
    T(t) = alpha (2^-t - 2^-(K+1)), it is rounded to the nearest multiple instead.

    Args:
        K: number of time steps, the bits of the output.
        alpha: upper end of the range.
        rounding: "down", as in the paper, or "nearest".

    Raises:
        ValueError: K is not an integer >= 1, alpha 2^-K is not a positive normal float32, or rounding
            is neither.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if isinstance(K, bool) or not isinstance(K, (int, np.integer)) or K < 1:
        raise ValueError(f"K must be a number of time steps, an integer >= 1, got {K!r}")
    smallest, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    lowest = alpha * 2.0**-K * (1 - ROUNDINGS[rounding])
    if not (np.isfinite(alpha) and alpha <= largest and lowest >= smallest):
        raise ValueError(
            f"alpha must be positive, and alpha 2^-K a normal float32: got alpha={alpha!r}, K={K}"
        )
    halved = _bit_shifted(float(alpha), K)
    suffix = "" if rounding == "down" else f"_{rounding}"
    return FSParameters(
        T=_thresholds(halved, rounding),
        h=halved,
        d=halved,
        name=f"relu_k{K}_alpha{alpha:g}{suffix}",
        source="closed form, Stöckl and Maass, section 1.2.2",
        domain=(-np.inf, float(alpha)),
        out_of_range=f"saturates at alpha (1 - 2^-K) = {float(halved.sum(dtype=np.float64)):g}",
    )


def _bit_shifted(alpha: float, K: int) -> np.ndarray:
    return np.ldexp(np.float32(alpha), -np.arange(1, K + 1)).astype(np.float32)


def _thresholds(h: np.ndarray, rounding: str) -> np.ndarray:
    return np.asarray(h - np.float32(ROUNDINGS[rounding]) * h[-1])


def shift_relu(x: Any, K: int) -> np.ndarray:
    """FS-ReLU on integers, with nothing but compare, subtract and right shift.

    Args:
        x: integer array of gate inputs, in units of alpha 2^-K.
        K: number of time steps.

    Returns:
        Integer array of the same shape and dtype: the output in units of alpha 2^-K, equal to
        `response` bit for bit after multiplication by alpha 2^-K.

    Raises:
        TypeError: x is not of an integer type, or one too small for 2^(K-1).
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.integer) or np.iinfo(x.dtype).max < 2 ** (K - 1):
        raise TypeError(f"shift_relu needs integers of at least {K + 1} bits, got {x.dtype}")
    v = x.copy()
    T = x.dtype.type(2 ** (K - 1))
    for _ in range(K):
        v = np.where(v >= T, v - T, v)
        T = T >> x.dtype.type(1)
    return np.asarray(x - v)
