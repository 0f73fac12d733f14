"""What a converted network does, and how it compares with the original."""

from fs_neurons.analysis.comparison import Comparison, SiteComparison, compare
from fs_neurons.analysis.evaluation import Evaluation, evaluate
from fs_neurons.analysis.profiling import EnergyModel, LayerProfile, Profile, profile
from fs_neurons.analysis.summarizing import Summary, summary

__all__ = [
    "Comparison",
    "EnergyModel",
    "Evaluation",
    "LayerProfile",
    "Profile",
    "SiteComparison",
    "Summary",
    "compare",
    "evaluate",
    "profile",
    "summary",
]
