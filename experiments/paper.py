"""The numbers of the paper (Stöckl and Maass, 2022): its tables, what its figures are drawn from, its comparisons.

Accuracies are in per cent, spikes per image, mean squared errors without unit.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from fs_neurons.models.imagenet import AVERAGE_POOLED


@dataclasses.dataclass(frozen=True)
class Table1Row:
    """A row of Table 1: ImageNet2012, 50,000 images."""

    parameters: str
    ann_top1: float
    ann_top5: float
    snn_top1: float
    snn_top5: float
    layers: int
    neurons: str
    spikes: str


@dataclasses.dataclass(frozen=True)
class Table2Row:
    """A row of Table 2: CIFAR-10, 10,000 images, FS-ReLU with K = 10 and alpha = 25."""

    ann: float
    snn: float
    neurons: int
    spikes: int


EFFICIENTNET_B7 = Table1Row("66M", 85.0, 97.2, 83.57, 96.7, 218, "259M", "554.9M")
RESNET50 = Table1Row("26M", 75.22, 92.4, 75.10, 92.36, 50, "9.6M", "14.045M")
# By the names that fs_neurons.models.imagenet gives to the networks.
TABLE1 = {"efficientnet-b7": EFFICIENTNET_B7, "resnet50": RESNET50, AVERAGE_POOLED: RESNET50}

TABLE2 = {
    "resnet50": Table2Row(92.99, 92.42, 475_136, 647_245),
    "resnet20": Table2Row(91.58, 91.45, 188_416, 261_779),
    "resnet14": Table2Row(90.49, 90.39, 131_072, 190_107),
    "resnet8": Table2Row(87.22, 87.05, 73_728, 103_753),
}
K, ALPHA = 10, 25.0  # FS-ReLU in both tables

# Section 1.2.1 and Figure 2: Swish with K = 16, in the main region and elsewhere.
MAIN_REGION = (-2.0, 2.0)
SWISH_ERRORS = {"mse_in_main_region": 0.0023, "mse_outside_main_region": 0.0064}

# Figure 5: mean and variance of the gate inputs.
GATE_INPUTS = {"EfficientNet-B7": (-0.112, 1.99), "ResNet50": (-0.36970, 2.19)}
FIGURE5_K, FIGURE5_ALPHA = 6, 10.0  # of the FS-ReLU in panel B


class RateCoding(NamedTuple):
    """A rate-coded network that sections 1.2.1 to 1.2.3 compare with.

    Attributes:
        network: and where it was published.
        steps: time steps for one image.
        gain: how many times more images per step FS-neurons classify, as the paper says; "" if it doesn't.
    """

    network: str
    steps: int
    gain: str


RATE_CODING = (
    RateCoding("Inception-v3, ImageNet (Rueckauer et al., 2017)", 550, "25"),
    RateCoding("ResNet34, ImageNet (Sengupta et al., 2019)", 2500, "125"),
    RateCoding("ResNet20, CIFAR-10 (Sengupta et al., 2019)", 2000, ""),
)
# Lee et al., 2019: spikes for one CIFAR-10 image of a rate-coded conversion of ResNet11, and the paper's gain.
RATE_CODING_SPIKES = 8_000_000
RATE_CODING_SPIKES_GAIN = "40 x (ResNet14)"
