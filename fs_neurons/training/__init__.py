"""Training of small image networks and fine-tuning of converted ones, resumable after a kill at any moment."""

from fs_neurons.training.augmentation import augmented_batches
from fs_neurons.training.checkpoints import CheckpointError
from fs_neurons.training.finetuning import finetune
from fs_neurons.training.recipe import RECIPES, Recipe
from fs_neurons.training.trainer import accuracy, train

__all__ = [
    "RECIPES",
    "CheckpointError",
    "Recipe",
    "accuracy",
    "augmented_batches",
    "finetune",
    "train",
]
