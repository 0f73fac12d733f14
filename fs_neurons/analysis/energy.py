"""What operations cost in energy."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """Energy of one operation; memory traffic, thresholds and idle neurons are left out.

    Attributes:
        mac: of one multiply-accumulate, in joule.
        ac: of one accumulate, in joule.
        source: where the numbers come from.
    """

    mac: float
    ac: float
    source: str


HOROWITZ_45NM = EnergyModel(
    mac=4.6e-12,
    ac=0.9e-12,
    source="45 nm CMOS, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ. M. Horowitz,"
    ' "Computing\'s energy problem (and what we can do about it)", ISSCC 2014',
)


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy for one image, in joule.

    Attributes:
        ann: every multiply-accumulate of the network.
        snn: one accumulate per synaptic operation, one multiply-accumulate per digital one.
    """

    ann: float
    snn: float

    @property
    def ratio(self) -> float:
        """How many times more the ANN takes."""
        return self.ann / self.snn if self.snn else math.inf
