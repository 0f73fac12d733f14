"""Training of small image networks, resumable after a kill at any moment."""

from fs_neurons.training.trainer import (
    RECIPES,
    CheckpointError,
    Recipe,
    accuracy,
    augmented_batches,
    log_epoch,
    train,
    write_history,
)

__all__ = [
    "RECIPES",
    "CheckpointError",
    "Recipe",
    "accuracy",
    "augmented_batches",
    "log_epoch",
    "train",
    "write_history",
]
