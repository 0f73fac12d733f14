"""What operations cost in energy: their arithmetic, the memory that they read and write, and what an ANN of 8 bits takes.

    result = profile(snn, images)
    for energy in result.energies: print(energy.model.name, energy.ratio, energy.even_at)
    result.energy_by(EnergyModel(mac=1e-12, ac=1e-13, source="my chip"))

Energies of single operations in 45 nm CMOS at 0.9 V: M. Horowitz, "Computing's energy problem (and what we can do
about it)", ISSCC 2014. Additions 0.03 (8-bit integer), 0.1 (32-bit integer) and 0.9 pJ (32-bit floating point),
multiplications 0.2, 3.1 and 3.7 pJ; reading 64 bits from 32 kB of memory on the chip 20 pJ, 2.5 pJ a byte.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """Energy of one operation; thresholds, idle neurons, routing of spikes and leakage are left out.

    Attributes:
        mac: of the arithmetic of one multiply-accumulate, in joule.
        ac: of that of one accumulate, in joule.
        source: where the numbers come from.
        name: what tables call it.
        mac_bytes: bytes that a multiply-accumulate reads and writes.
        ac_bytes: bytes that an accumulate reads and writes.
        byte: energy of reading or writing one of them, in joule.
    """

    mac: float
    ac: float
    source: str
    name: str = "arithmetic"
    mac_bytes: float = 0.0
    ac_bytes: float = 0.0
    byte: float = 0.0

    @property
    def per_mac(self) -> float:
        """Energy of a multiply-accumulate and its memory, in joule."""
        return self.mac + self.mac_bytes * self.byte

    @property
    def per_ac(self) -> float:
        """Energy of an accumulate and its memory, in joule."""
        return self.ac + self.ac_bytes * self.byte


_HOROWITZ = ' M. Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014'
HOROWITZ_45NM = EnergyModel(
    mac=4.6e-12,
    ac=0.9e-12,
    source="45 nm CMOS, 32-bit floating point: multiplication 3.7 pJ, addition 0.9 pJ." + _HOROWITZ,
)
# A multiply-accumulate reads a weight and an activation, and keeps its sum in a register. A spike reads the weight,
# and reads and writes the potential, at each of its targets.
MEMORY_45NM = dataclasses.replace(
    HOROWITZ_45NM,
    name="arithmetic and memory",
    mac_bytes=4 + 4,
    ac_bytes=4 + 4 + 4,
    byte=2.5e-12,
    source="the same, and 2.5 pJ for each byte of 32 kB on the chip: weight and activation of 4 bytes for a"
    " multiply-accumulate; weight, and potential read and written, for an accumulate." + _HOROWITZ,
)
# Both networks with weights of 8 bits; activations of 8 bits, potentials of 32.
INTEGER_45NM = EnergyModel(
    mac=0.3e-12,
    ac=0.1e-12,
    name="against an ANN of 8 bits",
    mac_bytes=1 + 1,
    ac_bytes=1 + 4 + 4,
    byte=2.5e-12,
    source="45 nm CMOS, integers: multiplication of 8 bits 0.2 pJ, addition of 32 bits 0.1 pJ, 2.5 pJ a byte; weights"
    " and activations of 1 byte, potentials of 4." + _HOROWITZ,
)
OTHERS = (MEMORY_45NM, INTEGER_45NM)


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy for one image, in joule.

    Attributes:
        ann: every multiply-accumulate of the network.
        snn: one accumulate per synaptic operation, one multiply-accumulate per digital one.
        model: energies of single operations.
        even_at: spikes per neuron at which both networks take the same: spikes that reach as many targets
            on average as those that were counted; 0 where the digital operations alone take more than the ANN.
    """

    ann: float
    snn: float
    model: EnergyModel
    even_at: float

    @classmethod
    def of(
        cls, model: EnergyModel, macs: float, accumulates: float, digital: float, spikes: float,
        fixed: float = 0.0,
    ) -> Energy:  # fmt: skip
        """
        Args:
            model: energies of single operations.
            macs: multiply-accumulates of the ANN.
            accumulates: of the spiking network.
            digital: multiply-accumulates of the spiking network.
            spikes: per neuron.
            fixed: of the accumulates, those that no spikes cause.
        """
        rest = max(0.0, (macs - digital) * model.per_mac - fixed * model.per_ac)
        spiking = (accumulates - fixed) * model.per_ac
        return cls(
            ann=macs * model.per_mac,
            snn=accumulates * model.per_ac + digital * model.per_mac,
            model=model,
            even_at=spikes * rest / spiking if spiking else math.inf,
        )

    @property
    def ratio(self) -> float:
        """How many times more the ANN takes."""
        return self.ann / self.snn if self.snn else math.inf

    def row(self) -> dict[str, Any]:
        """Plain values: for JSON; None for what is not finite."""
        ratio, even_at = (x if math.isfinite(x) else None for x in (self.ratio, self.even_at))
        return {
            "name": self.model.name,
            "ann_joule": self.ann,
            "snn_joule": self.snn,
            "ratio": ratio,
            "even_at_spikes_per_neuron": even_at,
        }

    def __str__(self) -> str:
        loses = "" if self.ratio >= 1 else ": the spiking network takes more"
        return (
            f"energy, {self.model.name}: ANN {1e6 * self.ann:.3g} uJ, SNN {1e6 * self.snn:.3g} uJ, a factor of"
            f" {self.ratio:.2f}{loses}; even at {self.even_at:.2f} spikes per neuron"
        )
