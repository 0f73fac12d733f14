"""How to calibrate."""

from __future__ import annotations

import dataclasses

import numpy as np

GRANULARITIES = ("channel", "layer")
# Error-compensation methods for the layers between sites; each includes the previous one.
CORRECTIONS = ("none", "mean", "affine", "weights", "joint")
# Up to so many steps, "joint" is worth its time; and with a price on spikes.
FEW_STEPS, FEW_PRICED_STEPS = 3, 8
MOST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to calibrate; see `convert`.

    Attributes:
        steps: K of every site; that of the uncalibrated set where None.
        granularity: whether neurons are fitted per "channel" or per "layer".
        spike_penalty: what one spike per neuron costs, in units of a site's relative squared error.
        target_spikes: average spikes per neuron that the penalty is to be raised for, if any.
        rounding: of ReLU sites, "nearest" or "down".
        correction: of the layers between sites: "mean" or "affine", mean and standard deviation, of each
            channel; "weights" for least squares instead; "joint" for that and then an adjustment of
            all weights and ranges together; "none" leaves all weights as they are. Where None,
            `best_correction`.

    Raises:
        ValueError: an argument makes no sense.
    """

    steps: int | None = None
    granularity: str = "channel"
    spike_penalty: float = 0.0
    target_spikes: float | None = None
    rounding: str = "nearest"
    correction: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (
            isinstance(self.steps, bool)
            or not isinstance(self.steps, (int, np.integer))
            or not 1 <= self.steps <= MOST_STEPS
        ):
            raise ValueError(
                f"steps must be a number of time steps, 1 to {MOST_STEPS}, got {self.steps!r}"
            )
        for name, choices in (("granularity", GRANULARITIES), ("correction", CORRECTIONS)):
            value = getattr(self, name)
            if value not in choices and not (name == "correction" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if not (np.isfinite(self.spike_penalty) and self.spike_penalty >= 0):
            raise ValueError(f"spike_penalty must be a number >= 0, got {self.spike_penalty!r}")
        if self.target_spikes is not None:
            if not (np.isfinite(self.target_spikes) and self.target_spikes > 0):
                raise ValueError(f"target_spikes must be a number > 0, got {self.target_spikes!r}")
            if self.spike_penalty:
                raise ValueError("give target_spikes or spike_penalty, not both")

    @property
    def best_correction(self) -> str:
        """ "joint" with few steps, where errors are large; else "weights"."""
        few = FEW_PRICED_STEPS if self.spike_penalty or self.target_spikes else FEW_STEPS
        return "joint" if self.steps is not None and self.steps <= few else "weights"
