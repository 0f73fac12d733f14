"""How to train: stochastic gradient descent with momentum, its learning rate and what is averaged.

recipe = RECIPES["fast"].changed(epochs=40)
recipe.rate_at(0.1)                         # learning rate after a tenth of the run
"""

from __future__ import annotations

import dataclasses
from typing import Any

SCHEDULES = ("steps", "one_cycle")
# Share of a one-cycle run in which the learning rate rises.
WARM_UP = 0.2
SHARES = ("average_from", "label_share", "momentum")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum; how the learning rate moves; what is averaged.

    Attributes:
        epochs: passes over the training set.
        learning_rate: its peak value.
        schedule: "steps" (divided by 10 at one half and at three quarters of the run, the paper's)
            or "one_cycle" (linear warm-up over the first fifth, then linear to zero).
        nesterov: whether momentum is Nesterov's.
        weight_decay: L2 factor on all trainable weights: the gradient gains weight_decay x weight.
            Scales and offsets of batch normalization are included: they set the size of the
            activations, and a larger activation costs an FS-ReLU more spikes.
        average_from: share of the run after which an exponential moving average of all weights is
            kept and becomes the result; 1.0 for none.
        policy: Keras dtype policy of the training graph, whose weights must be float32: "float32" or
            "mixed_bfloat16"; None leaves each layer its own.
        batch_size: images per step.
        momentum: decay of the velocity.
        average_epochs: time constant of the average.
        label_share: share of the labels in the loss where there is a teacher; the rest is the
            teacher's.
        target_spikes: average spikes per neuron of a network with FS layers, beyond which every
            further spike per neuron adds `SPIKE_COST` to the loss; None for any number.

    Raises:
        ValueError: a value is out of its range.
    """

    epochs: int
    learning_rate: float
    schedule: str
    nesterov: bool
    weight_decay: float
    average_from: float
    policy: str | None
    batch_size: int = 128
    momentum: float = 0.9
    average_epochs: float = 2.0
    label_share: float = 0.0
    target_spikes: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}"
            )
        for name in SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "target_spikes"):
            value = getattr(self, name)
            if value is not None and not value >= 0.0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not self.average_epochs > 0.0:
            raise ValueError(f"average_epochs must be above 0, got {self.average_epochs}")
        if self.policy in ("float16", "mixed_float16"):
            raise ValueError(
                f"policy {self.policy!r}: small gradients vanish in float16; use mixed_bfloat16"
            )

    def changed(
        self,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
    ) -> Recipe:
        """The same recipe with other epochs, peak learning rate or weight decay; None keeps them."""
        given: dict[str, Any] = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
        }
        return dataclasses.replace(self, **{k: v for k, v in given.items() if v is not None})

    def rate_at(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1) of the run."""
        if self.schedule == "steps":
            return self.learning_rate * (
                1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01
            )
        if progress < WARM_UP:
            return self.learning_rate * progress / WARM_UP
        return self.learning_rate * (1.0 - progress) / (1.0 - WARM_UP)


# "paper": 182 epochs, learning rate 0.1 divided by 10 at epochs 91 and 136 (TensorFlow models' ResNet).
# "fast": one cycle with bfloat16 arithmetic, for machines with a few CPU cores.
RECIPES = {
    "paper": Recipe(182, 0.1, "steps", False, 2e-4, 1.0, "float32"),
    "fast": Recipe(45, 0.15, "one_cycle", True, 5e-4, 0.6, "mixed_bfloat16"),
}
